//! A worker in a process of its own.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::watch;
use worker_core::{Call, Reply, ReplyTo, Routing, WorkerError, WorkerErrorKind, WorkerFilter, WorkerId, WorkerLike};
use worker_pool::{Poolable, QueueSizes, RestartPolicy, Restarts};

use crate::child::Child;
use crate::quarantine::Quarantine;
use crate::shared::Shared;
use crate::supervisor::{Order, Supervisor, paused_error};

/// The longest wait between tries of the first start.
const FIRST_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// How to make worker processes.
#[derive(Clone)]
pub struct WorkerProcessConfig {
    pub(crate) program: Program,
    pub(crate) made_of: Box<RawValue>,
    pub(crate) ids: u32,
    pub(crate) queues: QueueSizes,
    pub(crate) in_flight_max: usize,
    pub(crate) timeouts: Timeouts,
    pub(crate) restarts: RestartPolicy,
    pub(crate) quarantine: Quarantine,
    pub(crate) before_start: fn(),
    pub(crate) words: WordHandler,
}

/// What is done with the words of worker processes ([`Words`](crate::Words)).
#[derive(Clone, Default)]
pub(crate) struct WordHandler(Option<Arc<dyn Fn(WorkerId, Bytes) + Send + Sync>>);

impl WordHandler {
    pub(crate) fn hear(&self, worker: WorkerId, word: Bytes) {
        match &self.0 {
            Some(hear) => hear(worker, word),
            None => tracing::warn!(%worker, "the worker process said something that nobody listens to"),
        }
    }
}

impl fmt::Debug for WordHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "WordHandler(somebody)" } else { "WordHandler(nobody)" })
    }
}

/// What is run as a worker process.
#[derive(Clone, Debug)]
pub struct Program {
    /// The file.
    pub path: PathBuf,
    /// Its arguments: everybody on the host can read them.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
}

impl Program {
    /// The program that is running, with these arguments and an empty environment.
    pub fn this(args: impl IntoIterator<Item = impl Into<OsString>>) -> io::Result<Self> {
        Ok(Self { path: std::env::current_exe()?, args: args.into_iter().map(Into::into).collect(), env: Vec::new() })
    }
}

/// How long a process may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From its start until it takes events.
    pub start: Duration,
    /// How often its engine is asked whether it runs.
    pub heartbeat_interval: Duration,
    /// For the answer; without one it is taken to hang, and replaced.
    pub heartbeat: Duration,
    /// To finish what it has taken, when it is to end.
    pub drain: Duration,
    /// To answer an event. Longer than the engine's own time-out, or the engine's error would never arrive.
    pub answer: Duration,
    /// To answer anything else.
    pub call: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(30),
            heartbeat_interval: Duration::from_millis(250),
            heartbeat: Duration::from_secs(2),
            drain: Duration::from_secs(30),
            answer: Duration::from_secs(90),
            call: Duration::from_secs(10),
        }
    }
}

impl WorkerProcessConfig {
    /// Processes of this program. `made_of` is for the program: it finds it as JSON in
    /// [`Parent::made_of`](crate::Parent::made_of), and it may hold secrets, as it goes through a pipe.
    pub fn new(program: Program, made_of: &impl Serialize) -> serde_json::Result<Self> {
        Ok(Self {
            program,
            made_of: serde_json::value::to_raw_value(made_of)?,
            ids: 1,
            queues: QueueSizes::default(),
            in_flight_max: 4_096,
            timeouts: Timeouts::default(),
            restarts: RestartPolicy::default(),
            quarantine: Quarantine::default(),
            before_start: || {},
            words: WordHandler::default(),
        })
    }

    /// The same for a process with workers inside: so many ids, its own among them.
    pub fn with_ids(self, ids: u32) -> Self {
        Self { ids: ids.max(1), ..self }
    }

    /// The same with other queues. They also hold what comes in while the process restarts.
    pub fn with_queues(self, queues: QueueSizes) -> Self {
        Self { queues, ..self }
    }

    /// The same with at most so many events that the process has and has not answered.
    pub fn with_in_flight_max(self, in_flight_max: usize) -> Self {
        Self { in_flight_max: in_flight_max.min(crate::workerprocesscomm::IN_FLIGHT_MAX), ..self }
    }

    /// The same with other time-outs.
    pub fn with_timeouts(self, timeouts: Timeouts) -> Self {
        Self { timeouts, ..self }
    }

    /// The same with another way to deal with deaths.
    pub fn with_restarts(self, restarts: RestartPolicy) -> Self {
        Self { restarts, ..self }
    }

    /// The same with something to do before each start of a process, on the thread that starts all of them: what a child
    /// inherits from that thread can be set there.
    pub fn with_before_start(self, before_start: fn()) -> Self {
        Self { before_start, ..self }
    }

    /// The same with somebody who hears what the processes say ([`Words`](crate::Words)), each word once, on a task that
    /// must not be held up.
    pub fn with_words(self, hear: impl Fn(WorkerId, Bytes) + Send + Sync + 'static) -> Self {
        Self { words: WordHandler(Some(Arc::new(hear))), ..self }
    }

    /// The same with this quarantine, which all processes of a pool should share.
    pub fn with_quarantine(self, quarantine: Quarantine) -> Self {
        Self { quarantine, ..self }
    }
}

impl fmt::Debug for WorkerProcessConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What it is made of may hold secrets.
        let Self {
            program,
            made_of: _,
            ids,
            queues,
            in_flight_max,
            timeouts,
            restarts,
            quarantine,
            before_start: _,
            words: _,
        } = self;
        f.debug_struct("WorkerProcessConfig")
            .field("program", program)
            .field("ids", ids)
            .field("queues", queues)
            .field("in_flight_max", in_flight_max)
            .field("timeouts", timeouts)
            .field("restarts", restarts)
            .field("quarantine", quarantine)
            .finish_non_exhaustive()
    }
}

/// The handle of a worker in a process of its own. Clones reach the same worker.
///
/// It starts the process anew when that ends, however it ends. When the last handle is dropped, the process is killed; to
/// wait until it is gone, [`kill`](WorkerLike::kill) it.
#[derive(Clone)]
pub struct WorkerProcessHandle(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    orders: UnboundedSender<Order>,
    quarantine: Quarantine,
    pid: watch::Receiver<Option<u32>>,
}

const _: () = {
    const fn shared_by_threads<T: Clone + Send + Sync>() {}
    shared_by_threads::<WorkerProcessHandle>();
};

impl WorkerProcessHandle {
    /// Starts a process and waits until its engine answers. It is tried once, and again if a tenant is to blame that it did
    /// not, for as long as there is one more to be paused. The runtime that this is called in must
    /// live as long as the handle: it drives the connection and the supervision.
    pub async fn start(
        id: WorkerId,
        filter: WorkerFilter,
        routing: Routing,
        config: &WorkerProcessConfig,
    ) -> Result<Self, WorkerError> {
        let mut blamed =
            RestartPolicy { restarts_max: config.restarts.restarts_max.saturating_mul(10), ..config.restarts };
        blamed.backoff_max = blamed.backoff_max.min(FIRST_BACKOFF_MAX);
        let mut blamed = Restarts::new(blamed);
        let child = loop {
            match Child::start(id, &filter, routing, config).await {
                Ok(child) => break child,
                Err(Err(error)) => return Err(error),
                Err(Ok(death)) => {
                    let now = Instant::now();
                    // Code that runs when a worker starts must not keep it from starting for ever.
                    match death.blame(&config.quarantine, now).and_then(|_| blamed.next(now)) {
                        Some(wait) => {
                            tracing::error!(worker = %id, "the process did not start: {}", death.error(id));
                            tokio::time::sleep(wait).await;
                        }
                        None => {
                            let context = format!("the process of worker {id} did not start");
                            return Err(
                                WorkerError::new(WorkerErrorKind::Internal, context).with_source(death.error(id))
                            );
                        }
                    }
                }
            }
        };
        let shared = Arc::new(Shared::new(id, &config.queues, config.in_flight_max, config.timeouts.answer));
        let (orders, inbox) = mpsc::unbounded_channel();
        let (pid_in, pid) = watch::channel(Some(child.pid()));
        let supervisor = Supervisor::new(Arc::clone(&shared), filter, routing, config.clone(), inbox, pid_in);
        tokio::spawn(supervisor.run(child));
        Ok(Self(Arc::new(Handle { shared, orders, quarantine: config.quarantine.clone(), pid })))
    }

    /// Replaces the process in good order: what is running ends, events wait meanwhile, none is lost. Answered when the
    /// new process takes events.
    pub fn replace(&self) -> Reply<()> {
        let (reply_to, reply) = Reply::pending();
        self.order(Order::Replace(reply_to));
        reply
    }

    /// The last lines that the process logged, oldest first.
    pub fn logs(&self) -> Reply<Vec<String>> {
        let (reply_to, reply) = Reply::pending();
        self.order(Order::Logs(reply_to));
        reply
    }

    /// The number of the process; `None` while there is none.
    pub fn pid(&self) -> Option<u32> {
        *self.0.pid.borrow()
    }

    /// The number of the process, as it changes.
    pub fn watch_pid(&self) -> watch::Receiver<Option<u32>> {
        self.0.pid.clone()
    }

    /// Events that wait here, and are not with the process yet.
    pub fn events_waiting(&self) -> usize {
        self.0.shared.waiting()
    }

    /// The quarantine that its tenants may end in.
    pub fn quarantine(&self) -> &Quarantine {
        &self.0.quarantine
    }

    fn order(&self, order: Order) {
        if let Err(refused) = self.0.orders.send(order) {
            refused.0.refuse(&self.0.shared);
        }
    }
}

impl WorkerLike for WorkerProcessHandle {
    fn id(&self) -> WorkerId {
        self.0.shared.id
    }

    fn submit(&self, call: Call) {
        let Handle { shared, quarantine, .. } = &*self.0;
        match call {
            Call::Dispatch { tenant, event, reply_to } => {
                if quarantine.holds(tenant) {
                    return reply_to.send(Err(paused_error(tenant)));
                }
                shared.put(tenant, event, reply_to);
            }
            // At once, not when the supervisor gets to it: what is submitted after these calls is refused.
            Call::Drain { reply_to } => {
                shared.end("was told to drain", None);
                self.order(Order::Drain(reply_to));
            }
            Call::Kill { reply_to } => {
                shared.end("was killed", None);
                self.order(Order::Kill(reply_to));
            }
            Call::Reload { reply_to, .. } if shared.has_ended() => reply_to.send(Err(shared.gone())),
            Call::Reload { tenant, reply_to } => self.order(Order::Reload(tenant, reply_to)),
            Call::Own { reply_to, .. } if shared.has_ended() => reply_to.send(Err(shared.gone())),
            Call::Own { filter, reply_to } => self.order(Order::Own(filter, reply_to)),
            Call::Stats { reply_to } => self.order(Order::Stats(reply_to)),
            Call::Health { reply_to } => self.order(Order::Health(reply_to)),
            call => {
                call.refuse(WorkerError::new(WorkerErrorKind::Internal, "a worker process does not know this call"))
            }
        }
    }
}

impl Poolable for WorkerProcessHandle {
    type Config = WorkerProcessConfig;

    fn ids(config: &Self::Config) -> u32 {
        config.ids
    }

    async fn start(
        id: WorkerId,
        filter: WorkerFilter,
        routing: Routing,
        config: &Self::Config,
    ) -> Result<Self, WorkerError> {
        Self::start(id, filter, routing, config).await
    }

    async fn replace(&self) -> Result<(), WorkerError> {
        Self::replace(self).await
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.end("has no handle left", None);
        // If the supervisor has ended by itself, there is nobody left to kill.
        let _ = self.orders.send(Order::Kill(ReplyTo::nobody()));
    }
}

impl fmt::Debug for WorkerProcessHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerProcessHandle").field("id", &self.id()).field("pid", &self.pid()).finish_non_exhaustive()
    }
}
