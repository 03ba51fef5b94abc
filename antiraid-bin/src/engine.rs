//! The workers of this process: a pool of threads, each with an engine of its own.

use std::num::NonZeroUsize;

use worker_builtins::Builtins;
use worker_core::{RatelimitRules, Routing, WorkerError, WorkerFilter, WorkerId};
use worker_db::WorkerDb;
use worker_pool::{Poolable, QueueSizes, WorkerPool, WorkerPoolConfig, WorkerThread, WorkerThreadConfig};
use worker_vm::{HttpConfig, ObjectsConfig, Services, ServicesConfig};

use crate::config::{Config, ObjectsUrl};
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

/// What workers reach outside of the process, as the settings say.
pub fn services(config: &Config, objects: &ObjectsUrl) -> Result<Services, Mistakes> {
    let http = HttpConfig {
        allowed_hosts: config.http_allowed_hosts.clone(),
        denied_hosts: config.http_denied_hosts.clone(),
        addresses_allowed: config.http_addresses_allowed.clone(),
        ..HttpConfig::default()
    };
    let objects = ObjectsConfig { place: objects.place()? };
    Services::new(ServicesConfig { http, objects }).map_err(|error| {
        let what = format!("`objects.url` cannot be used: {}", crate::cli::chain(&error));
        Mistake::new(Place::new("settings"), what).into()
    })
}

/// Starts as many worker threads as the settings say, over one database. Each queue has room for `waiting_max` events.
pub async fn start(
    config: &Config,
    db: &WorkerDb,
    builtins: Builtins,
    services: Services,
    waiting_max: NonZeroUsize,
) -> Result<Workers, WorkerError> {
    let room = |least: usize| least.max(waiting_max.get());
    let QueueSizes { control, interactive, normal, flood } = QueueSizes::default();
    let queues = QueueSizes { control, interactive: room(interactive), normal: room(normal), flood: room(flood) };

    let rules = RatelimitRules::default();
    let parts = WorkerParts::new(db.clone(), builtins, config.limits.clone(), rules, config.links.clone())
        .with_services(services);
    let worker = WorkerThreadConfig::new(move |id: WorkerId, filter: WorkerFilter| {
        let worker = parts.worker(id, filter);
        async move { Ok(worker) }
    })
    .with_queues(queues)
    .with_contained_panics(worker_vm::contained_panics);
    let pool = WorkerPoolConfig { workers: config.workers, worker };
    WorkerPool::start(WorkerId::new(0), WorkerFilter::all(), Routing::default(), &pool).await
}
