//! A worker: the layers of this workspace, put together for one thread.

use std::fmt;

use worker_builtins::Builtins;
use worker_core::{Call, Limits, RatelimitRules, StaticRef, WorkerFilter, WorkerId, WorkerLike};
use worker_db::{SharedCache, SharedCacheConfig, WorkerCacheData, WorkerDb};
use worker_dispatch::WorkerDispatcher;
use worker_vm::{Links, Services, WorkerState, WorkerVmManager};

/// The engine of one worker thread, and [`WorkerLike`] by its dispatcher. It stays on the thread that made it.
pub struct Worker {
    dispatcher: WorkerDispatcher,
    vms: WorkerVmManager,
    cache: WorkerCacheData,
    db: WorkerDb,
    filter: WorkerFilter,
}

/// What the workers of a process have in common: made once, then [`worker`](Self::worker) in each thread. Clones are
/// cheap.
#[derive(Clone)]
pub struct WorkerParts {
    db: WorkerDb,
    shared: SharedCache,
    state: WorkerState,
    builtins: Builtins,
    limits: StaticRef<Limits>,
}

const _: () = {
    const fn shared_by_threads<T: Clone + Send + Sync>() {}
    shared_by_threads::<WorkerParts>();
};

impl WorkerParts {
    /// Workers over this database. The limits are those of each worker; they and the rules stay in memory for as long as
    /// the process lives.
    pub fn new(db: WorkerDb, builtins: Builtins, limits: Limits, ratelimits: RatelimitRules, links: Links) -> Self {
        let shared = SharedCache::new(SharedCacheConfig::default());
        let ratelimits = StaticRef::new(ratelimits);
        let state = WorkerState::new(db.clone(), shared.clone(), builtins.library(), ratelimits, links);
        Self { db, shared, state, builtins, limits: StaticRef::new(limits) }
    }

    /// The same with these services in place of the default ones, which reach Discord's CDN and keep objects in memory.
    pub fn with_services(mut self, services: Services) -> Self {
        self.state = self.state.with_services(services);
        self
    }

    /// A worker for the tenants that `filter` owns, which begins to send them their `KeyResume` events. Must be called on
    /// a runtime that spawns local tasks.
    pub fn worker(&self, id: WorkerId, filter: WorkerFilter) -> Worker {
        let Self { db, shared, state, builtins, limits } = self.clone();
        let cache = WorkerCacheData::new(db.clone(), shared, Some(builtins.template()), limits.clone());
        let vms = WorkerVmManager::new(state, cache.clone(), limits.clone());
        let dispatcher = WorkerDispatcher::new(id, vms.clone(), cache.clone(), db.clone(), filter.clone(), limits);
        dispatcher.resume_keys();
        Worker { dispatcher, vms, cache, db, filter }
    }
}

impl WorkerLike for Worker {
    fn id(&self) -> WorkerId {
        self.dispatcher.id()
    }

    fn submit(&self, call: Call) {
        self.dispatcher.submit(call);
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("id", &self.id())
            .field("filter", &self.filter)
            .field("db", &self.db)
            .field("tenants_loaded", &self.cache.len())
            .field("vms", &self.vms.stats())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for WorkerParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerParts").field("db", &self.db).field("limits", &self.limits).finish_non_exhaustive()
    }
}
