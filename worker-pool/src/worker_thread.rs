//! A worker in a thread of its own.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use worker_core::{Call, Reply, ReplyTo, Routing, WorkerError, WorkerErrorKind, WorkerFilter, WorkerId, WorkerLike};

use crate::Poolable;
use crate::intake::{self, Intake, Put, QueueSizes};
use crate::restarts::RestartPolicy;
use crate::supervisor::{Factory, Supervisor};

/// How to make a worker thread, and the engine in it.
#[derive(Clone)]
pub struct WorkerThreadConfig {
    pub(crate) factory: Factory,
    queues: QueueSizes,
    pub(crate) restarts: RestartPolicy,
    pub(crate) contained_panics: fn() -> u64,
    stack_bytes: usize,
}

impl WorkerThreadConfig {
    /// Threads whose engine `factory` makes: in the thread, so that neither the future nor the engine need be `Send`.
    ///
    /// It is called when a thread starts, and again after the engine panicked. The engine may spawn local tasks
    /// (`tokio::task::spawn_local`); they end with it. If one of them panics, the engine is made anew as well, unless the
    /// program replaced its panic hook after the first worker had started.
    pub fn new<F, Fut, W>(factory: F) -> Self
    where
        F: Fn(WorkerId, WorkerFilter) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<W, WorkerError>> + 'static,
        W: WorkerLike + 'static,
    {
        let factory: Factory = Arc::new(move |id, filter| {
            let engine = factory(id, filter);
            Box::pin(async move { Ok(Box::new(engine.await?) as Box<dyn WorkerLike>) })
        });
        Self {
            factory,
            queues: QueueSizes::default(),
            restarts: RestartPolicy::default(),
            contained_panics: || 0,
            // As much as a main thread has by default. Luau allows 200 C calls in each other, which take far less.
            stack_bytes: 8 << 20,
        }
    }

    /// The same with other queues.
    pub fn with_queues(self, queues: QueueSizes) -> Self {
        Self { queues, ..self }
    }

    /// The same with another way to deal with panics.
    pub fn with_restarts(self, restarts: RestartPolicy) -> Self {
        Self { restarts, ..self }
    }

    /// The same, for an engine that catches panics. Such a panic restarts nothing, if `contained` counts it: it tells how
    /// many panics (those of `panic!`, not of `resume_unwind`) were caught on the calling thread so far.
    pub fn with_contained_panics(self, contained: fn() -> u64) -> Self {
        Self { contained_panics: contained, ..self }
    }

    /// The same with so large a stack. Memory is used only as far as the stack grows.
    pub fn with_stack_bytes(self, stack_bytes: usize) -> Self {
        Self { stack_bytes, ..self }
    }
}

impl fmt::Debug for WorkerThreadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { factory: _, queues, restarts, contained_panics: _, stack_bytes } = self;
        f.debug_struct("WorkerThreadConfig")
            .field("queues", queues)
            .field("restarts", restarts)
            .field("stack_bytes", stack_bytes)
            .finish_non_exhaustive()
    }
}

/// The handle of a worker in a thread of its own. Clones reach the same worker.
///
/// When the last handle is dropped, the worker is killed and its thread joined. That waits for the script that is
/// running to end its slice, and for as long as something blocks the thread.
#[derive(Clone)]
pub struct WorkerThread(Arc<Handle>);

struct Handle {
    id: WorkerId,
    intake: Intake,
    shared: Arc<Shared>,
    /// Taken by `drop` only.
    thread: Option<JoinHandle<()>>,
}

const _: () = {
    const fn shared_by_threads<T: Clone + Send + Sync>() {}
    shared_by_threads::<WorkerThread>();
};

/// What the handles and the thread both see.
pub(crate) struct Shared {
    id: WorkerId,
    ending: OnceLock<Ending>,
    pub(crate) dropped: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// Why a worker takes no more calls.
struct Ending {
    reason: String,
    cause: Option<Arc<WorkerError>>,
}

impl WorkerThread {
    /// Starts a thread and waits until its engine is made. Fails as the factory does, or if that panics; it is tried
    /// once.
    pub async fn start(id: WorkerId, filter: WorkerFilter, config: &WorkerThreadConfig) -> Result<Self, WorkerError> {
        let (intake, outlet) = intake::queues(&config.queues);
        let (started, start) = Reply::pending();
        let shared = Arc::new(Shared::new(id));
        let supervisor = Supervisor::new(id, filter, config.clone(), outlet, Arc::clone(&shared), started);
        let thread = thread::Builder::new()
            .name(format!("worker-{id}"))
            .stack_size(config.stack_bytes)
            .spawn(move || supervisor.run())
            .map_err(|error| {
                WorkerError::new(WorkerErrorKind::Internal, format!("no thread for worker {id}")).with_source(error)
            })?;
        let worker = Self(Arc::new(Handle { id, intake, shared, thread: Some(thread) }));
        start.await?;
        Ok(worker)
    }
}

impl WorkerLike for WorkerThread {
    fn id(&self) -> WorkerId {
        self.0.id
    }

    fn submit(&self, call: Call) {
        let Handle { intake, shared, .. } = &*self.0;
        // At once, not when the thread gets to it: what is submitted after these calls is refused.
        match call {
            Call::Drain { .. } => shared.end("was told to drain", None),
            Call::Kill { .. } => shared.end("was killed", None),
            Call::Stats { .. } | Call::Health { .. } => {}
            call if shared.has_ended() => return call.refuse(shared.gone()),
            _ => {}
        }
        match intake.put(call) {
            Put::Taken => {}
            Put::Full(call) => shared.refuse_overload(call),
            // It has ended; that is all that was asked.
            Put::Closed(Call::Kill { reply_to }) => reply_to.send(Ok(())),
            Put::Closed(call) => call.refuse(shared.gone()),
        }
    }
}

impl Poolable for WorkerThread {
    type Config = WorkerThreadConfig;

    fn ids(_: &Self::Config) -> u32 {
        1
    }

    async fn start(id: WorkerId, filter: WorkerFilter, _: Routing, config: &Self::Config) -> Result<Self, WorkerError> {
        Self::start(id, filter, config).await
    }

    async fn replace(&self) -> Result<(), WorkerError> {
        let (reply_to, reply) = Reply::pending();
        if let Err(reply_to) = self.0.intake.replace(reply_to) {
            reply_to.send(Err(self.0.shared.gone()));
        }
        reply.await
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // If the thread has ended by itself, there is nobody left to kill.
        let _ = self.intake.put(Call::Kill { reply_to: ReplyTo::nobody() });
        if let Some(thread) = self.thread.take()
            // An engine that holds the last handle of its own thread cannot wait for itself.
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!(worker = %self.id, "the thread of the worker panicked outside its engine");
        }
    }
}

impl fmt::Debug for WorkerThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WorkerThread").field(&self.0.id).finish()
    }
}

impl Shared {
    fn new(id: WorkerId) -> Self {
        Self { id, ending: OnceLock::new(), dropped: AtomicU64::new(0), refused: AtomicU64::new(0) }
    }

    pub(crate) fn id(&self) -> WorkerId {
        self.id
    }

    /// From now on, events are refused for this reason. The first reason stays.
    pub(crate) fn end(&self, reason: impl Into<String>, cause: Option<Arc<WorkerError>>) {
        self.ending.get_or_init(|| Ending { reason: reason.into(), cause });
    }

    fn has_ended(&self) -> bool {
        self.ending.get().is_some()
    }

    /// The answer to a call that comes too late.
    pub(crate) fn gone(&self) -> WorkerError {
        let (reason, cause) = match self.ending.get() {
            Some(Ending { reason, cause }) => (reason.as_str(), cause.clone()),
            None => ("has ended", None),
        };
        let gone = WorkerError::new(WorkerErrorKind::WorkerGone, format!("worker {} {reason}", self.id));
        match cause {
            Some(cause) => gone.with_source(cause),
            None => gone,
        }
    }

    fn refuse_overload(&self, call: Call) {
        match &call {
            Call::Dispatch { reply_to, .. } if !reply_to.is_wanted() => self.dropped.fetch_add(1, Relaxed),
            Call::Dispatch { .. } => self.refused.fetch_add(1, Relaxed),
            _ => 0,
        };
        call.refuse(WorkerError::new(WorkerErrorKind::Overloaded, format!("the queue of worker {} is full", self.id)));
    }
}
