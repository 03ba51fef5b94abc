//! The workers of this process: a pool of threads, each with an engine of its own.

use std::num::NonZeroUsize;

use worker_builtins::Builtins;
use worker_core::{RatelimitRules, Routing, WorkerError, WorkerFilter, WorkerId};
use worker_db::WorkerDb;
use worker_expiry::ExpiryProcess;
use worker_pool::{Poolable, QueueSizes, WorkerPool, WorkerPoolConfig, WorkerThread, WorkerThreadConfig};

use crate::config::Config;
use crate::mistake::{Mistake, Mistakes, Place};
use crate::worker::WorkerParts;

/// Workers in threads that act as one.
pub type Workers = WorkerPool<WorkerThread>;

/// The built-in template and the shared library: of the folder that the settings name, or those in this program.
pub fn builtins(config: &Config) -> Result<Builtins, Mistakes> {
    let Some(dir) = &config.builtins_dir else { return Ok(Builtins::embedded()) };
    Builtins::from_dir(dir).map_err(|error| {
        let what = format!("`builtins_dir` has no built-in template to use: {}", crate::cli::chain(&error));
        Mistake::new(Place::new("settings"), what).into()
    })
}

/// Starts as many worker threads as the settings say, over one database. Each queue has room for `waiting_max` events.
pub async fn start(
    config: &Config,
    db: &WorkerDb,
    builtins: Builtins,
    waiting_max: NonZeroUsize,
) -> Result<Workers, WorkerError> {
    let room = |least: usize| least.max(waiting_max.get());
    let QueueSizes { control, interactive, normal, flood } = QueueSizes::default();
    let queues = QueueSizes { control, interactive: room(interactive), normal: room(normal), flood: room(flood) };

    let rules = RatelimitRules::default();
    let parts = WorkerParts::new(db.clone(), builtins, config.limits.clone(), rules, config.links.clone())
        .with_expiry(config.expiry.clone(), ExpiryProcess::new(&config.expiry_process));
    let worker = WorkerThreadConfig::new(move |id: WorkerId, filter: WorkerFilter| {
        let worker = parts.worker(id, filter);
        async move { Ok(worker) }
    })
    .with_queues(queues)
    .with_contained_panics(worker_vm::contained_panics);
    let pool = WorkerPoolConfig { workers: config.workers, worker };
    WorkerPool::start(WorkerId::new(0), WorkerFilter::all(), Routing::default(), &pool).await
}
