//! `antiraid bench`: the headline measurements of this machine.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::bench::{self, BenchRow, Effort, MEASUREMENTS};
use crate::cli::{BenchArgs, CommandError, Outcome};
use crate::output::Output;

/// What is printed as JSON.
#[derive(Serialize)]
struct Document<'a> {
    quick: bool,
    rows: &'a [BenchRow],
}

/// Runs the command. Must not be called on a runtime: measurements make their own.
pub fn run(args: &BenchArgs, bars: &MultiProgress, output: &mut Output) -> Result<Outcome, CommandError> {
    let measurements = args.only.as_deref().unwrap_or(MEASUREMENTS);
    let effort = if args.quick { Effort::Quick } else { Effort::Full };
    let style = ProgressStyle::with_template("{pos}/{len} {msg}").expect("because the template is a constant");
    // Drawn when it changes and at no other time: nothing else should run while something is measured.
    let bar = bars.add(ProgressBar::new(measurements.len() as u64).with_style(style));
    let mut rows = Vec::new();
    for measurement in measurements {
        bar.set_message(measurement.name);
        bar.inc(1);
        rows.extend(measurement.run(effort)?);
    }
    bar.finish_and_clear();
    if args.json {
        output.json(&Document { quick: args.quick, rows: &rows })?;
    } else {
        for line in bench::table(&rows).lines() {
            output.line(line.trim_end())?;
        }
    }
    Ok(Outcome::Good)
}
