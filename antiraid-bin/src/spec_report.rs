//! What came of the tests of a run: collected, and told.

use std::io;
use std::time::Duration;

use serde::Serialize;
use worker_core::TemplateError;

use crate::output::Output;
use crate::spec_files::SpecSuite;

/// Lines of a log that are shown below a test that failed; the last ones.
const LOG_LINES_MAX: usize = 20;

/// Code that is not the author's: its lines say nothing about a failure.
const NOT_THE_AUTHORS: [&str; 2] = ["/@antiraid-test.luau:", "/init.luau:"];

/// A whole run.
#[derive(Debug, Default, Serialize)]
pub struct SpecReport {
    /// What random numbers were made from.
    pub seed: u64,
    /// Tests that went well.
    pub passed: usize,
    /// Tests that did not, and specs that could not be loaded.
    pub failed: usize,
    /// Tests that say of themselves that they are not run.
    pub skipped: usize,
    /// Each of them, in the order in which they ran.
    pub tests: Vec<TestReport>,
}

/// One test.
#[derive(Debug, Serialize)]
pub struct TestReport {
    /// The spec.
    pub file: String,
    /// Its name, with the names of its groups.
    pub name: String,
    /// How it ended.
    pub status: TestStatus,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TestStatus {
    /// All that it expected was so.
    Passed,
    /// Something was not.
    Failed,
    /// It was not run.
    Skipped,
}

/// Why a test failed.
#[derive(Debug, Serialize)]
pub struct Failure {
    /// `file:line` of the spec.
    pub at: String,
    /// What went wrong, perhaps in several lines.
    pub message: String,
    /// The stack of the spec, innermost call first.
    pub traceback: Vec<String>,
    /// What was printed, and which templates failed, until then.
    pub log: Vec<String>,
}

impl Failure {
    /// A spec's error; `fallback` is where the test stands.
    pub fn new(error: &TemplateError, suite: &SpecSuite, fallback: String, log: Vec<String>) -> Self {
        let lines = error.traceback.as_deref().unwrap_or_default().lines().map(str::trim);
        let is_authors = |line: &&str| !NOT_THE_AUTHORS.iter().any(|path| line.starts_with(path));
        let traceback: Vec<_> =
            lines.filter(|line| line.starts_with('/')).filter(is_authors).map(|line| suite.on_disk(line)).collect();
        let at = traceback.first().map(|line| place_of(line)).or_else(|| {
            let at = error.at.as_ref()?.to_string();
            is_authors(&&*at).then(|| suite.on_disk(&at))
        });
        let at = at.unwrap_or(fallback);
        let mut message = error.text.to_string();
        // Luau puts the place before the text; it is told apart from it here.
        if let Some(place) = error.at.as_ref().map(ToString::to_string)
            && let Some(rest) = message.strip_prefix(&format!("{place}: "))
        {
            message = rest.to_owned();
        }
        Self { at, message, traceback, log }
    }
}

/// `file:line` at the beginning of a line of a traceback.
fn place_of(line: &str) -> String {
    let Some(end) = line.find(".luau:").map(|at| at + ".luau:".len()) else { return line.to_owned() };
    let digits = line[end..].bytes().take_while(u8::is_ascii_digit).count();
    line[..end + digits].to_owned()
}

impl SpecReport {
    /// Counts a test and keeps it.
    pub fn add(&mut self, test: TestReport) {
        match test.status {
            TestStatus::Passed => self.passed += 1,
            TestStatus::Failed => self.failed += 1,
            TestStatus::Skipped => self.skipped += 1,
        }
        self.tests.push(test);
    }

    /// Writes the summary.
    pub fn write_summary(&self, took: Duration, output: &mut Output) -> io::Result<()> {
        let skipped = if self.skipped > 0 { format!(", {} skipped", self.skipped) } else { String::new() };
        let (passed, failed, seconds) = (self.passed, self.failed, took.as_secs_f64());
        output.line("")?;
        output.line(format_args!("{passed} passed, {failed} failed{skipped} in {seconds:.2} s, --seed {}", self.seed))
    }
}

impl TestReport {
    /// Writes the test as a line, and what went wrong below it.
    pub fn write(&self, output: &mut Output) -> io::Result<()> {
        let status = match self.status {
            TestStatus::Passed => "ok    ",
            TestStatus::Failed => "FAILED",
            TestStatus::Skipped => "skip  ",
        };
        output.line(format_args!("  {status}  {}", self.name))?;
        let Some(failure) = &self.failure else { return Ok(()) };
        output.line(format_args!("          {}", failure.at))?;
        for line in failure.message.lines() {
            output.line(format_args!("          {line}"))?;
        }
        if failure.traceback.len() > 1 {
            output.line("          called from")?;
            for line in &failure.traceback[1..] {
                output.line(format_args!("            {line}"))?;
            }
        }
        if !failure.log.is_empty() {
            output.line("          printed")?;
            let first = failure.log.len().saturating_sub(LOG_LINES_MAX);
            if first > 0 {
                output.line(format_args!("            … {first} lines before"))?;
            }
            for line in failure.log[first..].iter().flat_map(|line| line.lines()) {
                output.line(format_args!("            {line}"))?;
            }
        }
        Ok(())
    }
}
