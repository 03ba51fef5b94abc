//! What it costs to have workers in processes of their own, and how soon they are there again.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use worker_core::{Event, Limits, Routing, TenantId, WorkerError, WorkerFilter, WorkerId, WorkerLike};
use worker_pool::{Poolable, RestartPolicy, WorkerPool, WorkerPoolConfig, WorkerThread};
use worker_process::{Quarantine, WorkerProcessConfig, WorkerProcessHandle};

use super::harness::{Harness, Order, event, handler, tenant, tireless};
use super::paired::{middle_half, nanoseconds, quantile};
use super::{Bar, BenchRow, Effort, Unit};
use crate::cli::CommandError;
use crate::config::{Config, DatabaseUrl};
use crate::engine;

const IN_FLIGHT: usize = 64;
const TENANTS: usize = 100;

/// A file that all processes see, with the tenants' templates, and settings that name it.
struct Shared {
    harness: Harness,
    config: Config,
    _dir: tempfile::TempDir,
}

impl Shared {
    fn new(tenants: usize, source: Option<&str>) -> Result<Self, CommandError> {
        let dir = tempfile::TempDir::new()?;
        let database_url = DatabaseUrl::file(&dir.path().join("bench.db"));
        let limits: Limits = tireless();
        let harness = Harness::over(database_url.expose(), limits.clone())?;
        if let Some(source) = source {
            harness.install(0..tenants, source)?;
        }
        Ok(Self { harness, config: Config { database_url, limits, ..Config::default() }, _dir: dir })
    }

    fn processes(&self) -> Result<WorkerProcessConfig, CommandError> {
        let waiting_max = NonZeroUsize::new(16_384).unwrap_or(NonZeroUsize::MIN);
        let config = engine::processes(&self.config, NonZeroUsize::MIN, waiting_max, Quarantine::default(), None);
        let often =
            RestartPolicy { restarts_max: 10_000, backoff_max: Duration::from_millis(10), ..RestartPolicy::default() };
        Ok(config.map_err(CommandError::Workers)?.with_restarts(often))
    }

    fn process(&self) -> Result<WorkerProcessHandle, CommandError> {
        let config = self.processes()?;
        let start = WorkerProcessHandle::start(WorkerId::new(0), WorkerFilter::all(), Routing::default(), &config);
        self.harness.block_on(start).map_err(CommandError::Workers)
    }

    fn pool(&self, workers: usize, routing: Routing) -> Result<WorkerPool<WorkerProcessHandle>, CommandError> {
        let config = WorkerPoolConfig {
            workers: NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN),
            worker: self.processes()?,
        };
        let start = <WorkerPool<WorkerProcessHandle> as Poolable>::start(
            WorkerId::new(0),
            WorkerFilter::all(),
            routing,
            &config,
        );
        self.harness.block_on(start).map_err(CommandError::Workers)
    }

    /// Keeps events in flight while the pool is changed. How many failed, and how many milliseconds the change took.
    fn under_load(
        &self,
        pool: &WorkerPool<WorkerProcessHandle>,
        event: &Event,
        change: impl Future<Output = Result<(), WorkerError>>,
    ) -> Result<(u64, f64), CommandError> {
        self.harness.block_on(async {
            let (mut failed, mut took) = (0u64, 0.0);
            let begun = Instant::now();
            let mut change = std::pin::pin!(change);
            let mut order = Order::new();
            let mut waiting = VecDeque::new();
            let mut done = false;
            while !done || !waiting.is_empty() {
                while !done && waiting.len() < IN_FLIGHT {
                    waiting.push_back(pool.dispatch(spread(order.below(TENANTS)), event.clone()));
                }
                let Some(oldest) = waiting.front_mut() else { break };
                tokio::select! {
                    changed = &mut change, if !done => {
                        changed.map_err(super::BenchError::Worker)?;
                        took = nanoseconds(begun.elapsed()) / 1e6;
                        done = true;
                    }
                    answer = oldest => {
                        failed += u64::from(answer.is_err());
                        waiting.pop_front();
                    }
                }
            }
            Ok((failed, took))
        })
    }

    fn thread(&self) -> Result<WorkerThread, CommandError> {
        self.harness.thread()
    }

    /// Nanoseconds an event, with so many in flight.
    fn round(
        &self,
        worker: &impl WorkerLike,
        tenants: usize,
        in_flight: usize,
        events: usize,
        event: &Event,
    ) -> Result<f64, CommandError> {
        let mut order = Order::new();
        self.harness.block_on(async {
            let begun = Instant::now();
            let mut waiting = VecDeque::with_capacity(in_flight);
            for _ in 0..events {
                if waiting.len() >= in_flight
                    && let Some(oldest) = waiting.pop_front()
                {
                    answered(oldest).await?;
                }
                waiting.push_back(worker.dispatch(spread(order.below(tenants)), event.clone()));
            }
            for reply in waiting {
                answered(reply).await?;
            }
            Ok(nanoseconds(begun.elapsed()) / events as f64)
        })
    }
}

async fn answered(reply: worker_core::Reply<worker_core::DispatchResult>) -> Result<(), CommandError> {
    reply.await.map(drop).map_err(|error: WorkerError| super::BenchError::Worker(error).into())
}

/// The tenants of the harness.
fn spread(number: usize) -> TenantId {
    tenant(number)
}

/// The connection alone: events that nobody subscribed to are answered by the process at once.
pub(super) fn transport(effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
    let shared = Shared::new(0, None)?;
    let worker = shared.process()?;
    let event = event();
    shared.round(&worker, TENANTS, IN_FLIGHT, 20_000, &event)?;
    let mut single = Vec::new();
    shared.harness.block_on(async {
        for _ in 0..effort.choose(20_000, 2_000) {
            let begun = Instant::now();
            answered(worker.dispatch(spread(1), event.clone())).await?;
            single.push(nanoseconds(begun.elapsed()) / 1e3);
        }
        Ok::<_, CommandError>(())
    })?;
    let mut many = Vec::new();
    for _ in 0..effort.choose(30, 3) {
        many.push(shared.round(&worker, TENANTS, IN_FLIGHT, 20_000, &event)?);
    }
    let [one, p99] = [0.5, 0.99].map(|q| quantile(&single, q));
    let figure = quantile(&many, 0.5);
    let mut rows = vec![
        BenchRow::alone(
            "process-transport",
            "To a worker process and back, one in flight: p50",
            Unit::Microseconds,
            one,
        )
        .with_bar(Bar::Measured(70.0)),
        BenchRow::alone("process-transport", "  p99", Unit::Microseconds, p99),
    ];
    let mut row = BenchRow::alone(
        "process-transport",
        "  64 in flight: an event (4,000 ns are 250,000 a second)",
        Unit::Nanoseconds,
        figure,
    )
    .with_bar(Bar::Measured(4_000.0));
    row.spread = Some(middle_half(&many));
    rows.push(row);
    Ok(rows)
}

/// One worker process beside one worker thread, and two beside one.
pub(super) fn dispatch(effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
    let shared = Shared::new(TENANTS, Some(&handler()))?;
    let (thread, one, two) = (shared.thread()?, shared.process()?, shared.pool(2, Routing::default())?);
    // What two cores of this machine come to, whatever the processes do.
    let two_threads = shared.harness.threads(NonZeroUsize::new(2).unwrap_or(NonZeroUsize::MIN))?;
    let event = event();
    let events = effort.choose(10_000, 2_000);
    for _ in 0..2 {
        shared.round(&thread, TENANTS, IN_FLIGHT, 2_000, &event)?;
        shared.round(&one, TENANTS, IN_FLIGHT, 2_000, &event)?;
        shared.round(&two, TENANTS, 2 * IN_FLIGHT, 2_000, &event)?;
        shared.round(&two_threads, TENANTS, 2 * IN_FLIGHT, 2_000, &event)?;
    }
    let (mut to_thread, mut to_one) = (Vec::new(), Vec::new());
    let (mut times, mut floors, mut twos) = (Vec::new(), Vec::new(), Vec::new());
    let (mut thread_twos, mut to_one_thread) = (Vec::new(), Vec::new());
    for _ in 0..effort.choose(15, 2) {
        let floor = shared.round(&thread, TENANTS, IN_FLIGHT, events, &event)?;
        let process = shared.round(&one, TENANTS, IN_FLIGHT, events, &event)?;
        let both = shared.round(&two, TENANTS, 2 * IN_FLIGHT, events, &event)?;
        let both_threads = shared.round(&two_threads, TENANTS, 2 * IN_FLIGHT, events, &event)?;
        to_one_thread.push(both_threads / floor);
        thread_twos.push(both_threads / 1e3);
        to_thread.push(process / floor);
        to_one.push(both / process);
        floors.push(floor / 1e3);
        times.push(process / 1e3);
        twos.push(both / 1e3);
    }
    let row = |question: &str, measured: &[f64], what, floors: &[f64], ratios: &[f64], bar: Option<f64>| {
        let measured = quantile(measured, 0.5);
        let mut row = BenchRow::alone("process-dispatch", question, Unit::Microseconds, measured)
            .beside(what, quantile(floors, 0.5));
        row.bar = bar.map(Bar::Ratio);
        row.ratio = Some(quantile(ratios, 0.5));
        row.spread = Some(middle_half(ratios));
        row
    };
    Ok(vec![
        row(
            "An event through a worker process, 64 in flight",
            &times,
            "through a thread",
            &floors,
            &to_thread,
            Some(1.25),
        ),
        row("An event through two worker threads", &thread_twos, "through one", &floors, &to_one_thread, None),
        // 1.7 times the events a second are 0.59 of the time.
        row("An event through two worker processes", &twos, "through one", &times, &to_one, Some(0.59)),
    ])
}

/// A worker that is killed under load, again and again.
pub(super) fn kills(effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
    let shared = Shared::new(TENANTS, Some(&handler()))?;
    let pool = shared.pool(2, Routing::default())?;
    let event = event();
    shared.round(&pool, TENANTS, IN_FLIGHT, 2_000, &event)?;
    let members = pool.members();
    // One tenant of each.
    let of = |member: usize| {
        let size = NonZeroUsize::new(2).unwrap_or(NonZeroUsize::MIN);
        (0..TENANTS).map(spread).find(|tenant| Routing::default().owner(*tenant, size) == member).unwrap_or(spread(0))
    };
    let (victim, neighbour) = (of(0), of(1));
    let (mut recoveries, mut beside, mut quiet) = (Vec::new(), Vec::new(), Vec::new());
    let mut unreported = 0u64;
    shared.harness.block_on(async {
        for _ in 0..effort.choose(2_000, 200) {
            let begun = Instant::now();
            answered(pool.dispatch(neighbour, event.clone())).await?;
            quiet.push(nanoseconds(begun.elapsed()) / 1e3);
            // As often as they are asked later.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for _ in 0..effort.choose(200, 10) {
            let Some(pid) = members[0].pid() else { continue };
            let in_flight: Vec<_> = (0..IN_FLIGHT).map(|_| pool.dispatch(victim, event.clone())).collect();
            tokio::task::yield_now().await;
            let begun = Instant::now();
            signal(pid, Signal::KILL);
            let mut gone = members[0].watch_pid();
            // Its sender lives as long as the worker.
            let _ = gone.wait_for(|now| *now != Some(pid)).await;
            let next = pool.dispatch(victim, event.clone());
            let mut next = std::pin::pin!(next);
            loop {
                let sent = Instant::now();
                tokio::select! {
                    biased;
                    answer = &mut next => {
                        if answer.is_err() {
                            unreported += 1;
                        }
                        break;
                    }
                    answer = pool.dispatch(neighbour, event.clone()) => {
                        answer.map_err(super::BenchError::Worker)?;
                        beside.push(nanoseconds(sent.elapsed()) / 1e3);
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            }
            recoveries.push(nanoseconds(begun.elapsed()) / 1e6);
            for reply in in_flight {
                // An answer, or a report that the worker is gone: what never comes would be neither.
                if tokio::time::timeout(Duration::from_secs(10), reply).await.is_err() {
                    unreported += 1;
                }
            }
        }
        Ok::<_, CommandError>(())
    })?;
    let [p50, p99] = [0.5, 0.99].map(|q| quantile(&recoveries, q));
    let (neighbour_p99, quiet_p99) = (quantile(&beside, 0.99), quantile(&quiet, 0.99));
    Ok(vec![
        BenchRow::alone(
            "process-kills",
            "A worker is killed: its next event is answered after, p50",
            Unit::Milliseconds,
            p50,
        )
        .with_bar(Bar::Measured(400.0)),
        BenchRow::alone("process-kills", "  p99", Unit::Milliseconds, p99).with_bar(Bar::Measured(1_000.0)),
        BenchRow::alone("process-kills", "  events without an answer or a report", Unit::Events, unreported as f64)
            .with_bar(Bar::Measured(0.0)),
        BenchRow::alone("process-kills", "  a neighbour meanwhile: p99", Unit::Microseconds, neighbour_p99)
            .beside("when nobody is killed", quiet_p99)
            .with_bar(Bar::Ratio(1.5)),
    ])
}

/// Workers that are stopped, and workers that are replaced.
pub(super) fn replacements(effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
    let shared = Shared::new(TENANTS, Some(&handler()))?;
    let event = event();
    let worker = shared.process()?;
    shared.round(&worker, TENANTS, IN_FLIGHT, 2_000, &event)?;
    let mut found = Vec::new();
    shared.harness.block_on(async {
        for _ in 0..effort.choose(5, 1) {
            let Some(pid) = worker.pid() else { continue };
            let begun = Instant::now();
            signal(pid, Signal::STOP);
            let mut pids = worker.watch_pid();
            let _ = pids.wait_for(|now| now.is_some_and(|now| now != pid)).await;
            answered(worker.dispatch(spread(0), event.clone())).await?;
            found.push(nanoseconds(begun.elapsed()) / 1e6);
        }
        Ok::<_, CommandError>(())
    })?;
    drop(worker);
    let pool = shared.pool(4, Routing::default())?;
    shared.round(&pool, TENANTS, IN_FLIGHT, 2_000, &event)?;
    let (failed, took) = shared.under_load(&pool, &event, pool.replace_all())?;
    drop(pool);
    let (eight, nine) =
        (NonZeroUsize::new(8).unwrap_or(NonZeroUsize::MIN), NonZeroUsize::new(9).unwrap_or(NonZeroUsize::MIN));
    let routing = Routing::Rendezvous { seed: 1 };
    let pool = shared.pool(8, routing)?;
    shared.round(&pool, TENANTS, IN_FLIGHT, 2_000, &event)?;
    let (failed_in_resize, resize_took) = shared.under_load(&pool, &event, pool.resize(nine))?;
    let moved = (1..=100_000u64)
        .map(|id| TenantId::guild(id << 22))
        .filter(|tenant| routing.owner(*tenant, eight) != routing.owner(*tenant, nine))
        .count();
    Ok(vec![
        BenchRow::alone(
            "process-replace",
            "A stopped worker is found and replaced after",
            Unit::Milliseconds,
            quantile(&found, 1.0),
        )
        .with_bar(Bar::Measured(3_000.0)),
        BenchRow::alone(
            "process-replace",
            "Four workers are replaced under load: events failed",
            Unit::Events,
            failed as f64,
        )
        .with_bar(Bar::Measured(0.0)),
        BenchRow::alone("process-replace", "  it takes", Unit::Milliseconds, took),
        BenchRow::alone(
            "process-replace",
            "A pool grows from 8 to 9: of 100,000 tenants move",
            Unit::Tenants,
            moved as f64,
        )
        .with_bar(Bar::Measured(100_000.0 / 9.0 * 1.1)),
        BenchRow::alone("process-replace", "  under load: events failed", Unit::Events, failed_in_resize as f64)
            .with_bar(Bar::Measured(0.0)),
        BenchRow::alone("process-replace", "  it takes", Unit::Milliseconds, resize_took),
    ])
}

/// What it costs that threads say whose code they run.
pub(super) fn recorder(effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
    let shared = Shared::new(TENANTS, Some(&handler()))?;
    let event = event();
    let without = shared.thread()?;
    // This thread has found that nothing is recorded, and keeps to it.
    shared.round(&without, TENANTS, IN_FLIGHT, 2_000, &event)?;
    let log = tempfile::NamedTempFile::new()?;
    log.as_file().set_len(worker_core::FlightLog::BYTES as u64)?;
    worker_vm::record_flights(log.path())?;
    let with = shared.thread()?;
    shared.round(&with, TENANTS, IN_FLIGHT, 2_000, &event)?;
    let (mut times, mut floors, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.choose(30, 2) {
        let floor = shared.round(&without, TENANTS, IN_FLIGHT, effort.choose(5_000, 1_000), &event)?;
        let time = shared.round(&with, TENANTS, IN_FLIGHT, effort.choose(5_000, 1_000), &event)?;
        times.push(time);
        floors.push(floor);
        ratios.push(time / floor);
    }
    let mut row = BenchRow::alone(
        "process-recorder",
        "An event in a thread that says whose code it runs",
        Unit::Nanoseconds,
        quantile(&times, 0.5),
    )
    .beside("in one that does not", quantile(&floors, 0.5));
    row.ratio = Some(quantile(&ratios, 0.5));
    row.spread = Some(middle_half(&ratios));
    Ok(vec![row])
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
}
