//! The workers of this process: a pool of threads, each with an engine of its own.

use std::num::NonZeroUsize;

use worker_core::{Routing, WorkerError, WorkerErrorKind, WorkerFilter, WorkerId};
use worker_db::WorkerDb;
use worker_pool::{Poolable, QueueSizes, WorkerPool, WorkerPoolConfig, WorkerThread, WorkerThreadConfig};

use crate::config::Config;

/// Workers in threads that act as one.
pub type Workers = WorkerPool<WorkerThread>;

/// Starts as many worker threads as the settings say, over one database. Each queue has room for `waiting_max` events.
pub async fn start(config: &Config, db: &WorkerDb, waiting_max: NonZeroUsize) -> Result<Workers, WorkerError> {
    let _ = db;
    let room = |least: usize| least.max(waiting_max.get());
    let QueueSizes { control, interactive, normal, flood } = QueueSizes::default();
    let queues = QueueSizes { control, interactive: room(interactive), normal: room(normal), flood: room(flood) };
    // The engine itself is made here once worker-vm and worker-dispatch are: see `worker.rs` then.
    let worker = WorkerThreadConfig::new(async |_: WorkerId, _: WorkerFilter| {
        Err::<NoEngine, _>(WorkerError::new(WorkerErrorKind::Internal, "this build has no engine yet"))
    })
    .with_queues(queues);
    let pool = WorkerPoolConfig { workers: config.workers, worker };
    WorkerPool::start(WorkerId::new(0), WorkerFilter::all(), Routing::default(), &pool).await
}

/// Holds the place of the engine.
enum NoEngine {}

impl worker_core::WorkerLike for NoEngine {
    fn id(&self) -> WorkerId {
        match *self {}
    }

    fn submit(&self, _: worker_core::Call) {
        match *self {}
    }
}
