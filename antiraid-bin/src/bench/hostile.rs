//! What the scripts of `worker-vm`'s hostile folder do to others, each against the default limits but for the CPU time of an
//! event: a script that uses all it gets has shown what it can do long before 10 s.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use worker_core::{Limits, Value, WorkerLike};
use worker_vm::hostile::{HostileScript, SCRIPTS};

use super::harness::{Harness, Order, event, handler, tenant};
use super::{Bar, BenchError, BenchRow, Effort, Unit};
use crate::cli::CommandError;
use crate::replay_report::resident_memory_bytes;

/// Whose latency is measured.
const OTHERS: usize = 50;

/// Between two of their events.
const INTERVAL: Duration = Duration::from_millis(1);

/// An attack is made again whenever it ends, at least for so long: else a neighbour's p99 would be that of three events.
const ATTACKED_MIN: Duration = Duration::from_millis(1_500);

/// A quick look sees so much of each script.
const QUICK: Duration = Duration::from_millis(500);

/// CPU time of an attack.
const DISPATCH_CPU_MAX: Duration = Duration::from_secs(1);

/// One neighbour in so many uses the modules whose work is native.
const USES_MODULES: usize = 5;

/// What that one does for each event.
const MODULES_HANDLER: &str = r#"
local datamgmt, regex, serde = require("@antiraid/datamgmt"), require("@lune/regex"), require("@lune/serde")
local evt = ...
local words = regex.new("[a-z]+")
local blob = datamgmt.newblob(evt.data.content)
local text = serde.encode("json", { id = evt.data.id, text = words:replaceAll(evt.data.content, "<$0>"), bytes = #blob })
return { hash = serde.hash("sha256", text), id = serde.decode("json", text).id }
"#;

/// A row for each script whose name begins so: how it ended, and the neighbours' p99 and slowest event meanwhile; the
/// slowest is the longest time in which the thread could not be taken. The last row is what the process holds afterwards.
pub(super) fn scripts(name: &'static str, prefix: &str, effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
    let harness = Harness::new(Limits { dispatch_cpu_max: DISPATCH_CPU_MAX, ..Limits::default() })?;
    harness.install(0..OTHERS - OTHERS / USES_MODULES, &handler())?;
    harness.install(OTHERS - OTHERS / USES_MODULES..OTHERS, MODULES_HANDLER)?;
    let mut rows = Vec::new();
    let mut before = None;
    for (number, script) in SCRIPTS.iter().filter(|script| script.name.starts_with(prefix)).enumerate() {
        harness.install_with(OTHERS + number..OTHERS + number + 1, &script.entry(), &["*"].into_iter().collect())?;
        let Attack { ended, took, latencies } = one(&harness, OTHERS + number, script, effort)?;
        let [p99, slowest] = [latencies.value_at_quantile(0.99), latencies.max()].map(|nanos| nanos as f64 / 1e6);
        rows.push(BenchRow::alone(name, format!("{}: {ended}", script.name), Unit::Milliseconds, took));
        rows.push(BenchRow::alone(name, "  neighbours' p99", Unit::Milliseconds, p99).with_bar(Bar::Measured(10.0)));
        rows.push(BenchRow::alone(name, "  the slowest", Unit::Milliseconds, slowest).with_bar(Bar::Measured(100.0)));
        // After the first: the worker's own structures are there by then.
        before = before.or_else(resident_memory_bytes);
    }
    let kilobytes = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64 / 1e3).ok_or(BenchError::NoMemoryFigures);
    let (before, after) = (kilobytes(before)?, kilobytes(resident_memory_bytes())?);
    let row = BenchRow::alone(name, "memory of the process after all of them", Unit::Kilobytes, after);
    rows.push(
        BenchRow { ratio: Some(after / before), ..row.beside("after the first", before) }.with_bar(Bar::Ratio(1.1)),
    );
    Ok(rows)
}

/// What came of a script.
struct Attack {
    ended: String,
    /// Milliseconds.
    took: f64,
    latencies: Histogram<u64>,
}

/// Runs one script in a worker of its own.
fn one(harness: &Harness, number: usize, script: &HostileScript, effort: Effort) -> Result<Attack, CommandError> {
    let worker = harness.thread()?;
    harness.warm(&worker, 0..OTHERS, 2)?;
    let (mut latencies, mut order) = (empty(), Order::new());
    let start = Instant::now();
    let (ended, took) = harness.block_on(async {
        let mut attack = tokio::task::spawn_local(worker.dispatch(tenant(number), event()));
        let (mut first, mut took) = (None, Duration::ZERO);
        while (first.is_none() || start.elapsed() < ATTACKED_MIN) && (effort == Effort::Full || start.elapsed() < QUICK)
        {
            if attack.is_finished() {
                let again = tokio::task::spawn_local(worker.dispatch(tenant(number), event()));
                let ended = std::mem::replace(&mut attack, again).await;
                if first.is_none() {
                    (first, took) = (Some(ended), start.elapsed());
                }
            }
            let due = Instant::now();
            super::harness::value(worker.dispatch(tenant(order.below(OTHERS)), event()).await)?;
            latencies.saturating_record(u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX));
            tokio::time::sleep(INTERVAL).await;
        }
        attack.abort();
        let Some(answer) = first else { return Ok::<_, CommandError>(("cut short".to_owned(), start.elapsed())) };
        let answer = answer.ok().and_then(Result::ok);
        let outcome = answer.and_then(|mut answer| answer.templates.pop()).map(|result| result.outcome);
        let text = match outcome {
            Some(Ok(Value::Text(text))) => text,
            Some(Ok(value)) => format!("{value:?}"),
            Some(Err(error)) => error.text.to_string(),
            None => "no result".to_owned(),
        };
        let shown: String = text.chars().take(60).collect();
        Ok((if script.ends_with(&text) { shown } else { format!("NOT AS IT SHOULD: {shown}") }, took))
    })?;
    let took = took.as_secs_f64() * 1e3;
    harness.block_on(worker.kill()).map_err(BenchError::Worker)?;
    Ok(Attack { ended, took, latencies })
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000_000, 3).expect("because these bounds and 3 digits are possible")
}
