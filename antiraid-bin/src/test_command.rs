//! `antiraid test`.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::runtime::{Builder, LocalOptions};
use worker_core::{TemplateError, Value};

use crate::cli::{CommandError, Outcome, TestArgs};
use crate::config::Config;
use crate::engine;
use crate::output::{Output, complain};
use crate::parking::Parking;
use crate::spec_files::{SpecSuite, read_suites};
use crate::spec_report::{Failure, SpecReport, TestReport, TestStatus};
use crate::spec_world::{Request, SpecCommon, SpecWorld};
use crate::template_dir::SPEC_SUFFIX;

/// Runs the command, on a runtime like a worker thread's.
pub fn run(args: &TestArgs, config: &Config, output: &mut Output) -> Result<Outcome, CommandError> {
    let parking = Parking::default();
    let hook = parking.clone();
    let runtime = Builder::new_current_thread()
        .enable_all()
        .on_thread_park(move || hook.parks())
        .build_local(LocalOptions::default())
        .map_err(CommandError::Runtime)?;
    let outcome = runtime.block_on(run_suites(args, config, output, parking));
    output.flush()?;
    // What tests have left behind need not be waited for.
    runtime.shutdown_background();
    outcome
}

async fn run_suites(
    args: &TestArgs,
    config: &Config,
    output: &mut Output,
    parking: Parking,
) -> Result<Outcome, CommandError> {
    let start = Instant::now();
    let suites = read_suites(&args.dir, &config.limits.templates, &engine::builtins(config)?)?;
    let seed = args.seed.unwrap_or_else(some_seed);
    let mut run = SpecRun {
        args,
        common: SpecCommon::new(seed, config.limits.clone(), config.links.clone(), parking),
        report: SpecReport { seed, ..SpecReport::default() },
        output,
    };
    for suite in &suites {
        for spec in &suite.specs {
            run.spec(suite, spec).await?;
        }
    }
    let SpecRun { report, output, .. } = run;
    if args.json {
        output.json(&report)?;
    } else {
        report.write_summary(start.elapsed(), output)?;
    }
    if report.tests.is_empty() {
        match &args.filter {
            Some(filter) => complain(format_args!("antiraid: no test has `{filter}` in its name")),
            None => complain("antiraid: the specs have no tests; add one with test(name, function)"),
        }
        return Ok(Outcome::Bad);
    }
    Ok(if report.failed == 0 { Outcome::Good } else { Outcome::Bad })
}

/// Another one each time.
fn some_seed() -> u64 {
    // Short, so that it is easily typed again.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| u64::from(since.subsec_nanos()) / 1_000)
}

/// A run that is under way.
struct SpecRun<'a> {
    args: &'a TestArgs,
    common: SpecCommon,
    report: SpecReport,
    output: &'a mut Output,
}

/// A test as its spec lists it.
struct Listed {
    name: String,
    line: i64,
    is_skipped: bool,
}

impl SpecRun<'_> {
    async fn spec(&mut self, suite: &SpecSuite, spec: &str) -> Result<(), CommandError> {
        let file = suite.on_disk(spec);
        let module = format!("./{}", spec.trim_end_matches(".luau"));
        debug_assert!(spec.ends_with(SPEC_SUFFIX));
        let timeout = Duration::from_secs(self.args.timeout);

        let world = SpecWorld::new(suite, &self.common).await?;
        let listed = world.run(&Request { module: module.clone(), run: None }, timeout).await;
        let log = world.log();
        world.end().await;
        let tests = match listed.and_then(|tests| read_listed(&tests)) {
            Ok(tests) => tests,
            Err(error) => {
                let failure = Failure::new(&error, suite, file.clone(), log);
                self.heading(&file)?;
                return self.add(file, "(the spec itself)".into(), TestStatus::Failed, Some(failure));
            }
        };
        let wanted = |test: &Listed| self.args.filter.as_ref().is_none_or(|filter| test.name.contains(&**filter));
        let wanted: Vec<_> = (1..).zip(tests).filter(|(_, test)| wanted(test)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        self.heading(&file)?;
        for (number, Listed { name, line, is_skipped }) in wanted {
            if is_skipped {
                self.add(file.clone(), name, TestStatus::Skipped, None)?;
                continue;
            }
            let world = SpecWorld::new(suite, &self.common).await?;
            let outcome = world.run(&Request { module: module.clone(), run: Some(number) }, timeout).await;
            let background = world.unexpected_errors();
            let outcome = outcome.and_then(|_| match background.is_empty() {
                true => Ok(()),
                false => {
                    Err(TemplateError::new(format!("a template failed in the background: {}", background.join("\n"))))
                }
            });
            let failure = outcome.err().map(|error| Failure::new(&error, suite, format!("{file}:{line}"), world.log()));
            world.end().await;
            let status = if failure.is_some() { TestStatus::Failed } else { TestStatus::Passed };
            self.add(file.clone(), name, status, failure)?;
        }
        Ok(())
    }

    fn heading(&mut self, file: &str) -> Result<(), CommandError> {
        if !self.args.json {
            self.output.line(file)?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        file: String,
        name: String,
        status: TestStatus,
        failure: Option<Failure>,
    ) -> Result<(), CommandError> {
        let test = TestReport { file, name, status, failure };
        if !self.args.json {
            test.write(self.output)?;
        }
        self.report.add(test);
        Ok(())
    }
}

/// The answer of a spec that was asked for its tests.
fn read_listed(value: &Value) -> Result<Vec<Listed>, TemplateError> {
    let wrong = || TemplateError::new("internal: the spec lists its tests in a form that is not known");
    let Value::List(tests) = value else { return Err(wrong()) };
    let listed = |test: &Value| {
        let Value::Map(fields) = test else { return None };
        match (fields.get("name")?, fields.get("line")?, fields.get("skip")?) {
            (Value::Text(name), Value::Integer(line), Value::Boolean(is_skipped)) => {
                Some(Listed { name: name.clone(), line: *line, is_skipped: *is_skipped })
            }
            _ => None,
        }
    };
    tests.iter().map(|test| listed(test).ok_or_else(wrong)).collect()
}
