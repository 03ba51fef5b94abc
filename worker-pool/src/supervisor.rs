//! What runs in a worker's thread: an engine, and a new one when that panicked.

use std::any::Any;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::task::{spawn_local, yield_now};
use worker_core::{
    Call, ReplyBatch, ReplyTo, WorkerError, WorkerErrorKind, WorkerFilter, WorkerId, WorkerLike, WorkerStats,
};

use crate::intake::{Ask, Order, Outlet, Urgent, Work};
use crate::panic_watch;
use crate::restarts::Restarts;
use crate::worker_thread::{Shared, WorkerThreadConfig};

/// Makes an engine in the thread that calls it.
pub(crate) type Factory = Arc<dyn Fn(WorkerId, WorkerFilter) -> Starting + Send + Sync>;
type Starting = Pin<Box<dyn Future<Output = Result<Box<dyn WorkerLike>, WorkerError>>>>;

/// After how many polls of tasks the runtime looks at its timers, at what other threads woke, and at the intake.
/// tokio's own 61 and 31 suit polls of microseconds, but a script may take 2 ms in each: an interaction would wait for
/// 122 ms. A look costs 0.6 µs, so this adds 0.15 µs to each poll (`benches/thread_hop.rs`, with an engine of tasks).
const POLLS_BETWEEN_LOOKS: u32 = 4;

/// How much of its time the engine may spend on taking calls in before its tasks get a turn.
const INTAKE_TURN: Duration = Duration::from_micros(200);

/// Keeps a worker's thread in engines.
pub(crate) struct Supervisor {
    id: WorkerId,
    filter: WorkerFilter,
    config: WorkerThreadConfig,
    restarts: Restarts,
    restarts_total: u64,
    outlet: Outlet,
    shared: Arc<Shared>,
    /// Who waits for the first engine.
    started: Option<ReplyTo<()>>,
    drains: Vec<ReplyTo<()>>,
    kills: Vec<ReplyTo<()>>,
    /// Who waits for another engine.
    replacing: Vec<ReplyTo<()>>,
    /// What the engine is to own, once it has taken the events that came before it was said.
    owning: Vec<(WorkerFilter, ReplyTo<()>)>,
}

/// Why an engine is no more, other than that it was drained.
enum Stop {
    Killed,
    Replaced,
    Failed(WorkerError),
}

/// What the engine answered to a drain.
type Drained = Result<(), WorkerError>;

impl Supervisor {
    pub(crate) fn new(
        id: WorkerId,
        filter: WorkerFilter,
        config: WorkerThreadConfig,
        outlet: Outlet,
        shared: Arc<Shared>,
        started: ReplyTo<()>,
    ) -> Self {
        Self {
            id,
            filter,
            restarts: Restarts::new(config.restarts.clone()),
            config,
            restarts_total: 0,
            outlet,
            shared,
            started: Some(started),
            drains: Vec::new(),
            kills: Vec::new(),
            replacing: Vec::new(),
            owning: Vec::new(),
        }
    }

    /// Runs engines until the worker is drained or killed, or fails too often.
    pub(crate) fn run(mut self) {
        panic_watch::watch_this_thread(self.config.contained_panics);
        let mut delay = Duration::ZERO;
        let drained = loop {
            let error = match self.run_engine(delay) {
                Ok(drained) => break drained,
                Err(Stop::Killed) => break Err(self.shared.gone()),
                Err(Stop::Replaced) => {
                    delay = Duration::ZERO;
                    continue;
                }
                Err(Stop::Failed(error)) => error,
            };
            if let Some(started) = self.started.take() {
                started.send(Err(error));
                return;
            }
            match self.restarts.next(Instant::now()) {
                Some(wait) => {
                    let error: &dyn Error = &error;
                    tracing::error!(worker = %self.id, error, restart_in = ?wait, "the engine of the worker failed");
                    delay = wait;
                    self.restarts_total += 1;
                }
                None => {
                    let cause: &dyn Error = &error;
                    tracing::error!(worker = %self.id, error = cause, "the engine of the worker failed too often");
                    self.shared.end(format!("gave up after {}", self.restarts.limit()), Some(Arc::new(error)));
                    break Err(self.shared.gone());
                }
            }
        };
        self.finish(drained);
    }

    /// Runs one engine in a runtime of its own, so that no task of it outlives it.
    fn run_engine(&mut self, delay: Duration) -> Result<Drained, Stop> {
        let runtime = new_runtime().map_err(|error| {
            let context = format!("no runtime for worker {}", self.id);
            Stop::Failed(WorkerError::new(WorkerErrorKind::Internal, context).with_source(error))
        })?;
        let result = catch_unwind(AssertUnwindSafe(|| runtime.block_on(self.live(delay))));
        // In the background: a blocking task that is stuck must not keep the worker from ending. Destructors of
        // half-done tasks may panic; the engine is gone anyhow.
        let _ = catch_unwind(AssertUnwindSafe(|| runtime.shutdown_background()));
        let report = panic_watch::take();
        result.unwrap_or_else(|payload| Err(panicked(report.unwrap_or_else(|| describe(&*payload)))))
    }

    /// The life of one engine.
    async fn live(&mut self, delay: Duration) -> Result<Drained, Stop> {
        let factory = Arc::clone(&self.config.factory);
        let (id, filter) = (self.id, self.filter.clone());
        let starting = async move {
            tokio::time::sleep(delay).await;
            factory(id, filter).await
        };
        let engine = self.attend_until(None, starting).await?.map_err(Stop::Failed)?;
        if let Some(started) = self.started.take() {
            started.send(Ok(()));
        }
        self.replacing.drain(..).for_each(|reply_to| reply_to.send(Ok(())));
        match self.serve(&*engine).await {
            Err(Stop::Replaced) => {
                // Whether it could be drained matters to nobody: another takes its place. One more request to replace it
                // must not cut this short, so there is no engine to speak of.
                let _ = self.attend_until(None, engine.drain()).await?;
                return Err(Stop::Replaced);
            }
            served => served?,
        }
        self.attend_until(Some(&*engine), engine.drain()).await
    }

    /// Hands calls to the engine until the queues are closed and empty.
    async fn serve(&mut self, engine: &dyn WorkerLike) -> Result<(), Stop> {
        enum Next {
            Panic(String),
            Urgent(Urgent),
            Work(Work),
        }
        let mut turn = Duration::ZERO;
        let mut answers = ReplyBatch::new();
        loop {
            if !self.owning.is_empty() && self.outlet.is_past_mark() {
                for (filter, reply_to) in self.owning.drain(..) {
                    answers.collect(|| engine.submit(Call::Own { filter, reply_to }));
                }
            }
            let next = poll_fn(|cx| {
                if let Poll::Ready(report) = panic_watch::poll(cx) {
                    Poll::Ready(Next::Panic(report))
                } else if let Poll::Ready(urgent) = self.outlet.poll_urgent(cx) {
                    Poll::Ready(Next::Urgent(urgent))
                } else {
                    let work = self.outlet.poll_work(cx).map(Next::Work);
                    if work.is_pending() {
                        answers.send();
                    }
                    work
                }
            });
            match next.await {
                Next::Panic(report) => return Err(panicked(report)),
                Next::Urgent(urgent) => self.attend(Some(engine), urgent)?,
                Next::Work(Work::Finished) => return Ok(()),
                Next::Work(Work::Call(call)) => {
                    let begun = Instant::now();
                    answers.collect(|| engine.submit(call));
                    answers.send_if_due();
                    turn += begun.elapsed();
                    // Many calls that are cheap are interrupted by tokio's budget of 128 receives.
                    if turn >= INTAKE_TURN {
                        turn = Duration::ZERO;
                        answers.send();
                        yield_now().await;
                    }
                }
            }
        }
    }

    /// Waits for the future and attends to what is urgent meanwhile.
    async fn attend_until<T>(
        &mut self,
        engine: Option<&dyn WorkerLike>,
        until: impl Future<Output = T>,
    ) -> Result<T, Stop> {
        let mut until = pin!(until);
        loop {
            tokio::select! {
                biased;
                report = poll_fn(|cx| panic_watch::poll(cx)) => return Err(panicked(report)),
                urgent = poll_fn(|cx| self.outlet.poll_urgent(cx)) => self.attend(engine, urgent)?,
                done = &mut until => return Ok(done),
            }
        }
    }

    fn attend(&mut self, engine: Option<&dyn WorkerLike>, urgent: Urgent) -> Result<(), Stop> {
        match urgent {
            Urgent::Order(Order::Kill(reply_to)) => {
                self.kills.push(reply_to);
                return Err(Stop::Killed);
            }
            Urgent::Order(Order::Drain(reply_to)) => {
                self.drains.push(reply_to);
                self.outlet.close_queues();
            }
            Urgent::Order(Order::Replace(reply_to)) => {
                self.replacing.push(reply_to);
                if engine.is_some() && self.drains.is_empty() {
                    return Err(Stop::Replaced);
                }
            }
            Urgent::Order(Order::Own(filter, reply_to)) => {
                // Also for the engines to come.
                self.filter = filter.clone();
                self.owning.push((filter, reply_to));
                self.outlet.mark();
            }
            Urgent::Ask(Ask::Stats(reply_to)) => self.answer_stats(engine, reply_to),
            Urgent::Ask(Ask::Health(reply_to)) => match engine {
                // It is attended to.
                None => reply_to.send(Ok(())),
                Some(engine) => engine.submit(Call::Health { reply_to }),
            },
        }
        Ok(())
    }

    /// The figures of the engine, if there is one, and those of the thread.
    fn answer_stats(&self, engine: Option<&dyn WorkerLike>, reply_to: ReplyTo<WorkerStats>) {
        let own = WorkerStats {
            events_dropped: self.shared.dropped.load(Relaxed),
            events_refused: self.shared.refused.load(Relaxed),
            events_queued: self.outlet.events_queued() as u64,
            restarts: self.restarts_total,
            ..WorkerStats::default()
        };
        match engine.map(|engine| engine.stats()) {
            None => reply_to.send(Ok(WorkerStats { workers: 1, ..own })),
            Some(reply) => {
                // Detached: the runtime ends it with the engine.
                spawn_local(async move {
                    reply_to.send(reply.await.map(|mut stats| {
                        stats += &own;
                        stats
                    }));
                });
            }
        }
    }

    /// Refuses what is left and answers those who waited for the end.
    fn finish(self, drained: Drained) {
        let Self { outlet, shared, drains, kills, replacing, owning, .. } = self;
        let drained = drained.map_err(Arc::new);
        for reply_to in drains {
            reply_to.send(drained.clone().map_err(|error| {
                WorkerError::new(error.kind(), format!("worker {} was not drained", shared.id())).with_source(error)
            }));
        }
        for reply_to in replacing.into_iter().chain(owning.into_iter().map(|(_, reply_to)| reply_to)) {
            reply_to.send(Err(shared.gone()));
        }
        for call in outlet.close() {
            match call {
                Call::Kill { reply_to } => reply_to.send(Ok(())),
                call => call.refuse(shared.gone()),
            }
        }
        for reply_to in kills {
            reply_to.send(Ok(()));
        }
    }
}

fn new_runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread()
        .enable_all()
        .event_interval(POLLS_BETWEEN_LOOKS)
        .global_queue_interval(POLLS_BETWEEN_LOOKS)
        .build_local(LocalOptions::default())
}

fn panicked(report: String) -> Stop {
    Stop::Failed(WorkerError::new(WorkerErrorKind::Internal, report))
}

/// The message of a panic that the hook did not see, as `resume_unwind` does not call it.
fn describe(payload: &(dyn Any + Send)) -> String {
    let message = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", message.unwrap_or("(no message)"))
}
