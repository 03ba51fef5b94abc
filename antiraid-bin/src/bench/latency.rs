//! How long others wait beside those who make trouble.

use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use worker_core::{Limits, WorkerLike};
use worker_pool::WorkerThread;

use super::harness::{Harness, Order, event, handler, tenant, value};
use super::paired::{middle_half, quantile};
use super::{Bar, BenchError, BenchRow, Effort, Unit};
use crate::cli::CommandError;

/// Whose latency is measured: tenants 0 to here.
const OTHERS: usize = 200;

/// Between two of their events.
const INTERVAL: Duration = Duration::from_millis(1);

/// Events of a round: four fifths of a second.
const ROUND_EVENTS: usize = 800;

/// What the quiet rounds have beside the others.
const QUIET: &str = "without";

/// One tenant that never stops.
pub(super) fn beside_a_hog(effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
    let figures = Figures::measure(1, "while true do end", effort)?;
    let question = "p99 of 200 tenants, 1,000 events/s in all, beside `while true do end`";
    let [p50, p99, max] = figures.rows("hog", question);
    Ok(vec![p99.with_bar(Bar::Measured(10.0)), p50, max])
}

/// Many that wait.
pub(super) fn beside_sleepers(effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
    let figures = Figures::measure(1_000, "task.wait(30)", effort)?;
    let question = "p99 of the same 200 tenants, beside 1,000 templates in `task.wait(30)`";
    let [p50, p99, max] = figures.rows("sleepers", question);
    Ok(vec![p99.with_bar(Bar::Ratio(1.5)), p50, max])
}

/// Latencies with and without the trouble: of all rounds together, and the p99 of each.
struct Figures {
    with: Side,
    without: Side,
}

struct Side {
    all: Histogram<u64>,
    p99s: Vec<f64>,
}

impl Figures {
    /// Rounds by turns, each in a thread of its own: a hog cannot be told to stop.
    fn measure(troublemakers: usize, source: &str, effort: Effort) -> Result<Self, CommandError> {
        let harness = Harness::new(Limits::default())?;
        harness.install(0..OTHERS, &handler())?;
        harness.install(OTHERS..OTHERS + troublemakers, source)?;
        // A thread for those who wait for answers.
        let callers =
            Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(CommandError::Runtime)?;
        let mut figures = Self { with: Side::new(), without: Side::new() };
        for _ in 0..effort.choose(7, 2) {
            figures.without.add(round(&harness, &callers, 0)?);
            figures.with.add(round(&harness, &callers, troublemakers)?);
        }
        Ok(figures)
    }

    /// Rows of p50, p99 and the maximum; the question is that of p99.
    fn rows(&self, name: &'static str, question: &str) -> [BenchRow; 3] {
        let row = |question: &str, figure: fn(&Histogram<u64>) -> u64| {
            let milliseconds = |side: &Side| figure(&side.all) as f64 / 1e6;
            BenchRow::alone(name, question, Unit::Milliseconds, milliseconds(&self.with))
                .beside(QUIET, milliseconds(&self.without))
        };
        let ratios: Vec<_> =
            self.with.p99s.iter().zip(&self.without.p99s).map(|(with, without)| with / without).collect();
        let p99 = BenchRow {
            ratio: Some(quantile(&ratios, 0.5)),
            spread: Some(middle_half(&ratios)),
            ..row(question, |all| all.value_at_quantile(0.99))
        };
        [row("  p50", |all| all.value_at_quantile(0.5)), p99, row("  the slowest", Histogram::max)]
    }
}

impl Side {
    fn new() -> Self {
        Self { all: empty(), p99s: Vec::new() }
    }

    fn add(&mut self, round: Histogram<u64>) {
        self.p99s.push(round.value_at_quantile(0.99) as f64);
        self.all.add(round).expect("because both have the same bounds");
    }
}

fn empty() -> Histogram<u64> {
    // A dispatch ends after a minute, in whatever way.
    Histogram::new_with_bounds(1, 120_000_000_000, 3).expect("because these bounds and 3 digits are possible")
}

/// A round of the others' events in a new thread, beside so many troublemakers.
fn round(harness: &Harness, callers: &Runtime, troublemakers: usize) -> Result<Histogram<u64>, CommandError> {
    let worker = harness.thread()?;
    harness.warm(&worker, 0..OTHERS, 2)?;
    let trouble: Vec<_> =
        (OTHERS..OTHERS + troublemakers).map(|number| callers.spawn(again_and_again(worker.clone(), number))).collect();
    let started = (OTHERS * 2 + troublemakers) as u64;
    harness.block_on(async {
        while worker.stats().await.map_err(BenchError::Worker)?.templates_run < started {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok::<_, CommandError>(())
    })?;
    let latencies = latencies(&worker, callers);
    trouble.iter().for_each(|task| task.abort());
    harness.block_on(worker.kill()).map_err(BenchError::Worker)?;
    latencies
}

/// Keeps the tenant busy: its dispatch comes to the end of its budget after 10 s.
async fn again_and_again(worker: WorkerThread, number: usize) {
    while worker.dispatch(tenant(number), event()).await.is_ok() {}
}

/// Sends on time, whatever the answers do, and counts from when an event was due.
fn latencies(worker: &WorkerThread, callers: &Runtime) -> Result<Histogram<u64>, CommandError> {
    let (sender, mut answers) = mpsc::unbounded_channel();
    let (event, mut order) = (event(), Order::new());
    let mut due = Instant::now();
    for _ in 0..ROUND_EVENTS {
        due += INTERVAL;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let reply = worker.dispatch(tenant(order.below(OTHERS)), event.clone());
        let sender = sender.clone();
        callers.spawn(async move {
            let answer = reply.await;
            // Nobody listens any more after an answer that is an error.
            let _ = sender.send((due.elapsed(), answer));
        });
    }
    drop(sender);
    let mut latencies = empty();
    while let Some((latency, answer)) = answers.blocking_recv() {
        value(answer)?;
        latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(latencies)
}
