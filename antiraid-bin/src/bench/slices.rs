//! What it costs code that computes that it is interrupted after each slice.

use worker_core::{Limits, Value, WorkerLike};
use worker_vm::floor::Floor;

use super::harness::{Harness, event, tenant, value};
use super::paired::{by_turns, each, nanoseconds};
use super::{Bar, BenchError, BenchRow, Effort};
use crate::cli::CommandError;

const FIB: &str = "
local function fib(n)
    if n < 2 then return n end
    return fib(n - 1) + fib(n - 2)
end
return fib(30)";

const COUNTING_LOOP: &str = "
local sum = 0
for i = 1, 5e7 do sum += i end
return sum";

pub(super) fn fib(effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
    against_no_interrupt("slices-fib", "fib(30), which takes about 30 slices", FIB, 832_040.0, effort)
}

pub(super) fn counting_loop(effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
    let sum = 5e7 * (5e7 + 1.0) / 2.0;
    against_no_interrupt("slices-loop", "A loop of 5e7 additions", COUNTING_LOOP, sum, effort)
}

/// The source as a template, against a bare VM that nothing interrupts.
fn against_no_interrupt(
    name: &'static str,
    question: &'static str,
    source: &'static str,
    expected: f64,
    effort: Effort,
) -> Result<Vec<BenchRow>, CommandError> {
    let harness = Harness::new(Limits::default())?;
    harness.install(0..1, source)?;
    let worker = harness.worker();
    harness.warm(&worker, 0..1, 1)?;
    let floor = Floor::of_source(source).expect("because the source is a constant that compiles");
    let event = event();
    let rounds = by_turns(
        effort.choose(15, 2),
        || {
            let mut result = Value::Null;
            let time = each(1, || result = floor.run_plain(0));
            check(&result, expected)?;
            Ok(time)
        },
        || {
            let begun = std::time::Instant::now();
            let result = value(harness.block_on(async { worker.dispatch(tenant(0), event.clone()).await }))?;
            let time = nanoseconds(begun.elapsed());
            check(&result, expected)?;
            Ok(time)
        },
    )?;
    Ok(vec![rounds.row(name, question, "no interrupt").with_bar(Bar::Ratio(1.15))])
}

fn check(result: &Value, expected: f64) -> Result<(), BenchError> {
    let is_it = match result {
        Value::Float(value) => *value == expected,
        Value::Integer(value) => *value as f64 == expected,
        Value::UnsignedInteger(value) => *value as f64 == expected,
        _ => false,
    };
    is_it.then_some(()).ok_or_else(|| BenchError::Unexpected { expected: "another number", got: format!("{result:?}") })
}
