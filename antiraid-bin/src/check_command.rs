//! `antiraid check`.

use std::sync::Arc;

use crate::cli::{CheckArgs, CommandError, Outcome};
use crate::config::Config;
use crate::engine;
use crate::output::Output;
use crate::template_dir::read_templates;
use crate::type_check::{Strictness, TypeChecker};

/// Runs the command.
pub fn run(args: &CheckArgs, config: &Config, output: &mut Output) -> Result<Outcome, CommandError> {
    let library = engine::builtins(config)?.library();
    let templates = match read_templates(&args.dir, &config.limits.templates, &library) {
        Ok(templates) => templates,
        // What a check finds is its result, not a failure of the command.
        Err(mistakes) => {
            output.line(mistakes)?;
            return Ok(Outcome::Bad);
        }
    };
    let strictness = if args.strict { Strictness::Strict } else { Strictness::AsWritten };
    let mut outcome = Outcome::Good;
    for template in templates {
        let files = template.files.iter().len();
        let mut checker = TypeChecker::new(Arc::new(template.files), Arc::clone(&library), strictness)?;
        let problems = checker.check()?;
        for problem in &problems {
            let path = template.folder.join(problem.path.trim_start_matches('/'));
            // One problem, one line: a program that reads this need not guess where the next begins.
            let message = problem.message.split_whitespace().collect::<Vec<_>>().join(" ");
            output.line(format_args!("{}:{}:{}: {message}", path.display(), problem.line, problem.column))?;
        }
        if problems.is_empty() {
            output.line(format_args!("{}: good, {files} files", template.name))?;
        } else {
            outcome = Outcome::Bad;
        }
    }
    Ok(outcome)
}
