//! What keeps a worker in processes: it starts them, watches them, and tells those who wait what became of them.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use worker_core::{ReplyTo, Routing, TenantId, WorkerError, WorkerErrorKind, WorkerFilter, WorkerStats};
use worker_pool::{RestartPolicy, Restarts};

use crate::child::{Child, Death, Why};
use crate::outgoing::Outgoing;
use crate::quarantine::Quarantine;
use crate::shared::{Shared, Unstarted};
use crate::worker_process::chain;
use crate::worker_process_handle::{WordHandler, WorkerProcessConfig};
use crate::workerprocesscomm::{CommError, FrameReader, Request, Response, Up, WorkerProcessComm};

/// How often callers who went away are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(50);
/// How long a process may take to end after it is not needed any more, or after its connection broke.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);
/// Requests that wait for a process to be there.
const DEFERRED_MAX: usize = 1_024;
/// Requests under way at once.
const CALLS_MAX: usize = 1_024;
/// In how many pieces a heartbeat is waited for.
const PATIENCE_PARTS: u32 = 8;
/// Restarts that a tenant is to blame for do not count against the others' budget, but there is an end to all things: so
/// many times the budget.
const BLAMED_RESTARTS_FACTOR: usize = 10;

/// What a supervisor is told.
pub(crate) enum Order {
    Drain(ReplyTo<()>),
    Kill(ReplyTo<()>),
    Replace(ReplyTo<()>),
    Reload(TenantId, ReplyTo<()>),
    Own(WorkerFilter, ReplyTo<()>),
    /// Once more the order of this number, unless another has come.
    OwnAgain(u64, WorkerFilter, ReplyTo<()>),
    Health(ReplyTo<()>),
    Stats(ReplyTo<WorkerStats>),
    Logs(ReplyTo<Vec<String>>),
}

impl Order {
    pub(crate) fn refuse(self, shared: &Shared) {
        match self {
            // It has ended; that is all that was asked.
            Self::Kill(reply_to) => reply_to.send(Ok(())),
            order => order.answer_with(shared.gone()),
        }
    }

    fn answer_with(self, error: WorkerError) {
        match self {
            Self::Drain(reply_to)
            | Self::Kill(reply_to)
            | Self::Replace(reply_to)
            | Self::Reload(_, reply_to)
            | Self::Own(_, reply_to)
            | Self::OwnAgain(_, _, reply_to)
            | Self::Health(reply_to) => reply_to.send(Err(error)),
            Self::Stats(reply_to) => reply_to.send(Err(error)),
            Self::Logs(reply_to) => reply_to.send(Err(error)),
        }
    }
}

pub(crate) struct Supervisor {
    shared: Arc<Shared>,
    filter: Arc<Mutex<WorkerFilter>>,
    routing: Routing,
    config: WorkerProcessConfig,
    orders: UnboundedReceiver<Order>,
    pid: watch::Sender<Option<u32>>,
    restarts: Restarts,
    blamed_restarts: Restarts,
    /// Requests that came while there was no process.
    deferred: Vec<Order>,
    drains: Vec<ReplyTo<()>>,
    kills: Vec<ReplyTo<()>>,
    /// Who waits for the process that is being replaced.
    replacing: Vec<ReplyTo<()>>,
    gave_up: bool,
    /// How often it was told what to own.
    own_orders: Arc<AtomicU64>,
    /// Requests under way. What comes back from one is to be tried again.
    calls: JoinSet<Option<Order>>,
}

/// However a supervisor ends, also by a panic or with its runtime: nobody waits for ever.
struct LastWord(Arc<Shared>);

impl Drop for LastWord {
    fn drop(&mut self) {
        let shared = &self.0;
        shared.end("has lost its supervisor", None);
        shared.fail_in_flight(u64::MAX, Unstarted::Lost, &|| shared.gone());
        shared.refuse_waiting();
    }
}

/// Why a process is not served any more.
enum End {
    Killed,
    Drained,
    Replace,
    Died(Why),
}

impl Supervisor {
    pub(crate) fn new(
        shared: Arc<Shared>,
        filter: WorkerFilter,
        routing: Routing,
        config: WorkerProcessConfig,
        orders: UnboundedReceiver<Order>,
        pid: watch::Sender<Option<u32>>,
    ) -> Self {
        let policy = config.restarts.clone();
        let blamed = RestartPolicy {
            restarts_max: policy.restarts_max.saturating_mul(BLAMED_RESTARTS_FACTOR),
            ..policy.clone()
        };
        Self {
            shared,
            filter: Arc::new(Mutex::new(filter)),
            routing,
            orders,
            pid,
            restarts: Restarts::new(policy),
            blamed_restarts: Restarts::new(blamed),
            config,
            deferred: Vec::new(),
            drains: Vec::new(),
            kills: Vec::new(),
            replacing: Vec::new(),
            gave_up: false,
            own_orders: Arc::default(),
            calls: JoinSet::new(),
        }
    }

    /// Keeps the worker in processes until it is drained or killed, or fails too often.
    pub(crate) async fn run(mut self, first: Child) {
        let _last_word = LastWord(Arc::clone(&self.shared));
        let mut child = Some(first);
        let drained = loop {
            let Some(mut current) = child.take() else {
                // There is none: drained or killed while nothing ran.
                break self.kills.is_empty() && !self.gave_up;
            };
            let _ = self.pid.send(Some(current.pid()));
            let end = self.attend(&mut current).await;
            let _ = self.pid.send(None);
            self.shared.close();
            match end {
                End::Killed => {
                    self.shared.fail_in_flight(u64::MAX, Unstarted::Lost, &|| self.shared.gone());
                    current.bury(Why::Disconnected).await;
                    break false;
                }
                End::Drained => {
                    current.dismiss(EXIT_TIMEOUT).await;
                    break true;
                }
                End::Replace => {
                    // A drain took too long for what is still in flight.
                    let id = self.shared.id;
                    self.shared.fail_in_flight(u64::MAX, Unstarted::Lost, &|| {
                        let context = format!("worker {id} was replaced before the event was finished");
                        WorkerError::new(WorkerErrorKind::WorkerGone, context)
                    });
                    current.dismiss(EXIT_TIMEOUT).await;
                    child = self.start_again(None).await;
                }
                End::Died(why) => {
                    let death = current.bury(why).await;
                    child = self.start_again(Some(death)).await;
                }
            }
        };
        self.finish(drained).await;
    }

    /// Sees to what a death left, waits as long as it must, and starts a process. `None` if there will be none.
    async fn start_again(&mut self, mut death: Option<Death>) -> Option<Child> {
        loop {
            if let Some(death) = death.take() {
                let wait = self.mourn(&death)?;
                self.attend_absent(sleep(wait)).await?;
            }
            if self.shared.has_ended() && self.shared.waiting() == 0 {
                return None;
            }
            let (config, filter) = (self.config.clone(), self.filter.lock().clone());
            let (id, routing) = (self.shared.id, self.routing);
            let start = async move { Child::start(id, &filter, routing, &config).await };
            match self.attend_absent(start).await? {
                Ok(child) => {
                    self.replacing.drain(..).for_each(|reply_to| reply_to.send(Ok(())));
                    return Some(child);
                }
                Err(Ok(not_ready)) => death = Some(not_ready),
                Err(Err(error)) => {
                    // The system has no process to give; it may have one later.
                    death = Some(Death {
                        why: Why::NotReady,
                        status: None,
                        log_lines: vec![chain(&error)],
                        running: Vec::new(),
                        taken_up_to: 0,
                    });
                }
            }
        }
    }

    /// Tells all who should know of the death. Returns how long to wait before the next start; `None` if there were too
    /// many.
    fn mourn(&mut self, death: &Death) -> Option<Duration> {
        let (shared, now) = (&self.shared, Instant::now());
        let id = shared.id;
        let unstarted = if death.was_in_order() { Unstarted::HandedBack } else { Unstarted::Lost };
        shared.fail_in_flight(death.taken_up_to, unstarted, &|| death.error(id));
        let paused = death.blame(&self.config.quarantine, now);
        for tenant in paused.iter().flatten() {
            shared.refuse_waiting_of(*tenant, &|| paused_error(*tenant));
        }
        let restarts = if paused.is_some() { &mut self.blamed_restarts } else { &mut self.restarts };
        let wait = restarts.next(now).map(|wait| wait.mul_f64(rand::rng().random_range(0.75..1.25)));
        let running: Vec<_> = death.running.iter().map(|running| running.tenant.to_string()).collect();
        tracing::error!(
            worker = %id, exit = death.exit(), running = running.join(" "), restart_in = ?wait,
            last_log_lines = death.log_lines.join(" | "), "the process of the worker ended"
        );
        if wait.is_some() {
            shared.restarts.fetch_add(1, Relaxed);
        } else {
            let reason = format!("gave up after {}", restarts.limit());
            tracing::error!(worker = %id, "the worker {reason}");
            shared.end(reason, Some(Arc::new(death.error(id))));
            self.gave_up = true;
        }
        wait
    }

    /// Serves the process until its end.
    async fn attend(&mut self, child: &mut Child) -> End {
        let comm = child.comm.clone();
        self.shared.begin();
        let words = self.config.words.clone();
        let mut pump = Abort(tokio::spawn(pump(Arc::clone(&self.shared), comm.clone(), words)));
        let mut heart = Abort(tokio::spawn(heartbeats(
            comm.clone(),
            self.config.timeouts.heartbeat_interval,
            self.config.timeouts.heartbeat,
        )));
        for order in std::mem::take(&mut self.deferred) {
            self.carry_out(order, &comm);
        }
        // What was to end before the process was there.
        let drain_timeout = self.config.timeouts.drain;
        let mut draining: Pin<Box<dyn Future<Output = ()> + Send>> = if self.shared.has_ended() {
            Box::pin(drain(Arc::clone(&self.shared), comm.clone(), drain_timeout))
        } else {
            Box::pin(std::future::pending())
        };
        let mut replacing = false;
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = child.ended() => {
                    // What it said last is still on its way.
                    let _ = timeout(EXIT_TIMEOUT, &mut pump.0).await;
                    return End::Died(Why::Ended);
                }
                order = self.orders.recv() => match order {
                    None => return End::Killed,
                    Some(Order::Kill(reply_to)) => {
                        self.kills.push(reply_to);
                        return End::Killed;
                    }
                    Some(Order::Drain(reply_to)) => {
                        self.drains.push(reply_to);
                        // A process that is being replaced takes nothing more: the next one serves what waits, and is
                        // drained then.
                        if !replacing {
                            draining = Box::pin(drain(Arc::clone(&self.shared), comm.clone(), drain_timeout));
                        }
                    }
                    Some(Order::Replace(reply_to)) => {
                        self.replacing.push(reply_to);
                        if self.drains.is_empty() && !replacing {
                            replacing = true;
                            draining = Box::pin(hold_and_drain(Arc::clone(&self.shared), comm.clone(), drain_timeout));
                        }
                    }
                    Some(order) => self.carry_out(order, &comm),
                },
                () = &mut draining => return if replacing { End::Replace } else { End::Drained },
                _ = &mut pump.0 => {
                    // It may be about to end, and waits until all that it said was read.
                    child.release();
                    return match timeout(EXIT_TIMEOUT, child.ended()).await {
                        Ok(()) => End::Died(Why::Ended),
                        Err(_) => End::Died(Why::Disconnected),
                    };
                }
                beat = &mut heart.0 => return End::Died(match beat {
                    Ok(Beat::GaveUp) => Why::GaveUp,
                    Ok(Beat::Nonsense) => Why::Disconnected,
                    _ if child.is_stopped() => Why::Stopped,
                    _ => Why::Hung,
                }),
                _ = sweep.tick() => {
                    let now = Instant::now();
                    self.shared.sweep(now);
                    // Who hands events back is about to end.
                    if self.shared.handed_back_at().is_some_and(|at| now - at > drain_timeout + EXIT_TIMEOUT) {
                        return End::Died(Why::Disconnected);
                    }
                    while let Some(ended) = self.calls.try_join_next() {
                        self.deferred.extend(ended.ok().flatten());
                    }
                    for order in std::mem::take(&mut self.deferred) {
                        self.carry_out(order, &comm);
                    }
                }
            }
        }
    }

    /// Waits for the future while there is no process. `None` if the worker was killed meanwhile.
    async fn attend_absent<T>(&mut self, until: impl Future<Output = T>) -> Option<T> {
        let mut until = pin!(until);
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            tokio::select! {
                biased;
                order = self.orders.recv() => match order {
                    None => return None,
                    Some(Order::Kill(reply_to)) => {
                        self.kills.push(reply_to);
                        return None;
                    }
                    Some(Order::Drain(reply_to)) => self.drains.push(reply_to),
                    Some(Order::Replace(reply_to)) => self.replacing.push(reply_to),
                    Some(Order::Stats(reply_to)) => reply_to.send(Ok(self.own_stats())),
                    // It is attended to.
                    Some(Order::Health(reply_to)) => reply_to.send(Ok(())),
                    Some(order) if self.deferred.len() < DEFERRED_MAX => self.deferred.push(order),
                    Some(order) => order.refuse(&self.shared),
                },
                done = &mut until => return Some(done),
                _ = sweep.tick() => self.shared.sweep(Instant::now()),
            }
        }
    }

    /// Asks the process, in a task of its own.
    fn carry_out(&mut self, order: Order, comm: &(impl WorkerProcessComm + Clone)) {
        if self.calls.len() >= CALLS_MAX {
            let context = format!("worker {} is asked too much at once", self.shared.id);
            return order.answer_with(WorkerError::new(WorkerErrorKind::Overloaded, context));
        }
        let patience = self.config.timeouts.call;
        match order {
            Order::Reload(tenant, reply_to) => {
                let call = comm.call(Request::Reload { tenant });
                self.calls.spawn(async move {
                    reply_to.send(ask(call, patience).await.and_then(is_done));
                    None
                });
            }
            Order::Health(reply_to) => {
                let call = comm.call(Request::Health);
                self.calls.spawn(async move {
                    reply_to.send(ask(call, patience).await.and_then(is_done));
                    None
                });
            }
            Order::Own(filter, reply_to) => {
                let number = self.own_orders.fetch_add(1, Relaxed) + 1;
                self.carry_out(Order::OwnAgain(number, filter, reply_to), comm);
            }
            Order::OwnAgain(number, _, reply_to) if number != self.own_orders.load(Relaxed) => {
                let context = format!("worker {} was told to own other tenants meanwhile", self.shared.id);
                reply_to.send(Err(WorkerError::new(WorkerErrorKind::Internal, context)));
            }
            Order::OwnAgain(number, filter, reply_to) => {
                let (shared, comm) = (Arc::clone(&self.shared), comm.clone());
                let (current, quarantine) = (Arc::clone(&self.filter), self.config.quarantine.clone());
                let (patience, orders) = (self.config.timeouts.drain, Arc::clone(&self.own_orders));
                self.calls.spawn(async move {
                    let answer = own(&shared, &comm, &filter, &quarantine, patience).await;
                    match answer {
                        Ok(()) if number == orders.load(Relaxed) => *current.lock() = filter,
                        Ok(()) => {}
                        // It is still to be so, also for the processes to come. If this one has died, the next one starts
                        // with what it had, serves what waits, and is told then.
                        Err(error)
                            if matches!(error.kind(), WorkerErrorKind::WorkerGone | WorkerErrorKind::TimedOut)
                                && !shared.has_ended() =>
                        {
                            return Some(Order::OwnAgain(number, filter, reply_to));
                        }
                        Err(_) => {}
                    }
                    reply_to.send(answer);
                    None
                });
            }
            Order::Stats(reply_to) => {
                let (call, own) = (comm.call(Request::Stats), self.own_stats());
                self.calls.spawn(async move {
                    reply_to.send(ask(call, patience).await.and_then(|response| match response {
                        Response::Stats(mut stats) => {
                            *stats += &WorkerStats { workers: 0, ..own };
                            Ok(*stats)
                        }
                        _ => Err(odd_answer()),
                    }));
                    None
                });
            }
            Order::Logs(reply_to) => {
                let call = comm.call(Request::Logs);
                self.calls.spawn(async move {
                    reply_to.send(ask(call, patience).await.and_then(|response| match response {
                        Response::Lines(lines) => Ok(lines),
                        _ => Err(odd_answer()),
                    }));
                    None
                });
            }
            Order::Drain(_) | Order::Kill(_) | Order::Replace(_) => {
                unreachable!("because these are seen to by the loop that takes orders")
            }
        }
    }

    fn own_stats(&self) -> WorkerStats {
        let shared = &self.shared;
        WorkerStats {
            workers: 1,
            events_dropped: shared.dropped.load(Relaxed),
            events_refused: shared.refused.load(Relaxed),
            events_lost: shared.lost.load(Relaxed),
            events_queued: shared.waiting() as u64,
            restarts: shared.restarts.load(Relaxed),
            ..WorkerStats::default()
        }
    }

    /// Refuses what is left and answers those who waited for the end.
    async fn finish(mut self, drained: bool) {
        let shared = &self.shared;
        shared.end("has ended", None);
        shared.fail_in_flight(u64::MAX, Unstarted::Lost, &|| shared.gone());
        shared.refuse_waiting();
        for reply_to in self.drains.into_iter().chain(self.replacing) {
            reply_to.send(if drained { Ok(()) } else { Err(shared.gone()) });
        }
        self.orders.close();
        while let Some(order) = self.orders.recv().await {
            order.refuse(shared);
        }
        self.deferred.into_iter().for_each(|order| order.refuse(shared));
        self.kills.into_iter().for_each(|reply_to| reply_to.send(Ok(())));
        self.calls.shutdown().await;
    }
}

/// A task that ends with who waits for it.
struct Abort<T>(JoinHandle<T>);

impl<T> Drop for Abort<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Keeps events and answers flowing. Returns when they do not any more.
async fn pump(shared: Arc<Shared>, comm: impl WorkerProcessComm, words: WordHandler) {
    let ended = async {
        let mut up = comm.dispatches(Box::pin(Outgoing(Arc::clone(&shared)))).await?;
        let mut frames = FrameReader::new();
        let mut messages = Vec::new();
        shared.open();
        while let Some(chunk) = up.next().await {
            frames.push(&chunk?);
            let nonsense = loop {
                match frames.next(Up::decode) {
                    Ok(Some(Up::Word(word))) => words.hear(shared.id, word),
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            // What came before it counts.
            shared.answered(&mut messages);
            if let Some(error) = nonsense {
                return Err(error.into());
            }
        }
        Ok::<_, CommError>(())
    };
    if let Err(error) = ended.await {
        tracing::warn!(worker = %shared.id, "the stream of dispatches ended: {}", chain(&error));
    }
    shared.close();
}

/// What is wrong with a process, by what it answers when it is asked.
enum Beat {
    /// Nothing came in time.
    Missing,
    /// What came makes no sense.
    Nonsense,
    /// The engine has ended, and nobody told it to.
    GaveUp,
}

/// Asks the engine again and again whether it runs. Returns when something is wrong.
async fn heartbeats(comm: impl WorkerProcessComm, interval: Duration, patience: Duration) -> Beat {
    loop {
        sleep(interval).await;
        let mut call = comm.call(Request::Health);
        let mut parts = 0;
        let answer = loop {
            match timeout(patience / PATIENCE_PARTS, &mut call).await {
                Ok(answer) => break answer,
                Err(_) if parts + 1 >= PATIENCE_PARTS => return Beat::Missing,
                // In parts: if this process was stopped for a while, one of them is over, and the answer is looked at.
                Err(_) => parts += 1,
            }
        };
        match answer {
            Ok(Response::Refused(error)) if WorkerError::from(error.clone()).kind() == WorkerErrorKind::WorkerGone => {
                return Beat::GaveUp;
            }
            // Another refusal is an answer.
            Ok(Response::Done | Response::Refused(_)) => {}
            // A connection that is broken is seen by who pumps.
            Err(CommError::Broken(_) | CommError::Connect(_)) => {}
            Ok(_) | Err(_) => return Beat::Nonsense,
        }
    }
}

/// Lets the process finish what it has of tenants that it is to own no more, and own these.
async fn own(
    shared: &Shared,
    comm: &impl WorkerProcessComm,
    filter: &WorkerFilter,
    quarantine: &Quarantine,
    patience: Duration,
) -> Result<(), WorkerError> {
    let is_other = |tenant| !filter.owns(tenant);
    let owned = async {
        while shared.waiting_of(is_other) > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        let paused = quarantine.all().into_iter().map(|evidence| evidence.tenant);
        let own = Request::Own { after: shared.last_id(), filter: filter.clone().without(paused) };
        ask(comm.call(own), patience).await.and_then(is_done)?;
        // The answers come by another stream.
        while shared.in_flight_of(is_other) > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    };
    timeout(patience, owned).await.unwrap_or_else(|_| {
        let context = format!("worker {} has not given up its tenants for {patience:?}", shared.id);
        Err(WorkerError::new(WorkerErrorKind::TimedOut, context))
    })
}

fn is_done(response: Response) -> Result<(), WorkerError> {
    match response {
        Response::Done => Ok(()),
        _ => Err(odd_answer()),
    }
}

/// The answer to events of who is quarantined.
pub(crate) fn paused_error(tenant: TenantId) -> WorkerError {
    let context = format!("{tenant} is quarantined: its code was running when its worker died, too often");
    WorkerError::new(WorkerErrorKind::TenantLimited, context)
}

/// Lets the process finish all that waits and is in flight.
async fn drain(shared: Arc<Shared>, comm: impl WorkerProcessComm, patience: Duration) {
    let drained = async {
        while shared.waiting() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        finish_in_flight(&shared, &comm).await;
    };
    // What is left is answered by who waits for this.
    let _ = timeout(patience, drained).await;
}

/// The same, but what waits is for the next process.
async fn hold_and_drain(shared: Arc<Shared>, comm: impl WorkerProcessComm, patience: Duration) {
    shared.hold();
    let _ = timeout(patience, finish_in_flight(&shared, &comm)).await;
}

async fn finish_in_flight(shared: &Shared, comm: &impl WorkerProcessComm) {
    // An error means that the process is gone, which is seen elsewhere.
    let _ = comm.call(Request::Drain { after: shared.last_id() }).await;
    // The answers come by another stream.
    while shared.in_flight() > 0 {
        sleep(Duration::from_millis(1)).await;
    }
}

async fn ask(
    call: impl Future<Output = Result<Response, CommError>>,
    patience: Duration,
) -> Result<Response, WorkerError> {
    match timeout(patience, call).await {
        Err(_) => {
            let context = format!("the worker process has not answered for {patience:?}");
            Err(WorkerError::new(WorkerErrorKind::TimedOut, context))
        }
        Ok(Err(error)) => {
            Err(WorkerError::new(WorkerErrorKind::WorkerGone, "the worker process cannot be asked").with_source(error))
        }
        Ok(Ok(Response::Refused(error))) => Err(error.into()),
        Ok(Ok(response)) => Ok(response),
    }
}

fn odd_answer() -> WorkerError {
    WorkerError::new(WorkerErrorKind::Internal, "the worker process answered something else than it was asked")
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use futures_util::future::BoxFuture;
    use futures_util::stream::{self, Stream};
    use worker_core::{DispatchResult, Event, Reply, WorkerId};
    use worker_pool::QueueSizes;

    use super::*;
    use crate::workerprocesscomm::{Chunks, InMemory, WireError, WorkerProcessService};

    /// A process that says this, whatever it is asked.
    struct Says {
        up: Bytes,
        response: Response,
    }

    impl WorkerProcessService for Says {
        fn dispatches(&self, _: Chunks) -> Chunks {
            let said: Pin<Box<dyn Stream<Item = Result<Bytes, CommError>> + Send>> =
                Box::pin(stream::iter([Ok(self.up.clone())]).chain(stream::pending()));
            said
        }

        fn call(&self, _: Request) -> BoxFuture<'static, Response> {
            let response = self.response.clone();
            Box::pin(async move { response })
        }
    }

    fn in_flight() -> (Arc<Shared>, Reply<DispatchResult>) {
        let shared = Shared::new(WorkerId::new(1), &QueueSizes::default(), 10, Duration::from_secs(60));
        let (reply_to, reply) = Reply::pending();
        shared.put(TenantId::guild(1), Event::discord("MESSAGE_CREATE", "{}".into()), reply_to);
        shared.open();
        shared.fill(&mut BytesMut::new(), 1);
        assert_eq!(shared.in_flight(), 1);
        (Arc::new(shared), reply)
    }

    #[tokio::test]
    async fn what_came_before_nonsense_counts_and_what_answers_nothing_does_not() {
        let (shared, reply) = in_flight();
        let mut up = BytesMut::new();
        for id in [77, u64::MAX, 1, 1] {
            Up::Answer { id, answer: Ok(DispatchResult::default()) }.put(&mut up);
            Up::HandedBack { id }.put(&mut up);
            Up::Done { id }.put(&mut up);
        }
        up.extend_from_slice(b"\x01\0\0\0\x63");
        let comm = InMemory::new(Says { up: up.freeze(), response: Response::Done });
        pump(Arc::clone(&shared), comm, WordHandler::default()).await;
        reply.await.unwrap();
        assert_eq!((shared.in_flight(), shared.waiting(), shared.handed_back_at()), (0, 0, None));
    }

    #[tokio::test]
    async fn an_event_that_is_handed_back_twice_waits_once() {
        let (shared, _reply) = in_flight();
        shared.answered(&mut vec![Up::HandedBack { id: 1 }, Up::HandedBack { id: 1 }, Up::Done { id: 1 }]);
        assert_eq!((shared.in_flight(), shared.waiting()), (0, 1));
        assert!(shared.handed_back_at().is_some(), "it is to end now");
        shared.begin();
        assert!(shared.handed_back_at().is_none());
    }

    #[tokio::test]
    async fn who_answers_nonsense_or_has_given_up_is_found_by_a_heartbeat() {
        let beat = async |response| {
            let comm = InMemory::new(Says { up: Bytes::new(), response });
            timeout(Duration::from_secs(5), heartbeats(comm, Duration::ZERO, Duration::from_secs(60))).await
        };
        let refused = |kind| Response::Refused(WireError::from(&WorkerError::new(kind, "x")));
        assert!(matches!(beat(Response::Lines(Vec::new())).await, Ok(Beat::Nonsense)));
        assert!(matches!(beat(refused(WorkerErrorKind::WorkerGone)).await, Ok(Beat::GaveUp)));
    }
}
