//! A worker: the layers of this workspace, put together for one thread.

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use worker_builtins::Builtins;
use worker_core::{
    Call, EventName, Limits, RatelimitRules, StaticRef, TenantId, WorkerFilter, WorkerId, WorkerLike, WorkerStats,
};
use worker_db::{SharedCache, SharedCacheConfig, WorkerCacheData, WorkerDb};
use worker_dispatch::WorkerDispatcher;
use worker_expiry::{ExpiryProcess, ExpirySettings, ExpiryStats, KeyExpiryChannel, WorkerKeyExpiry};
use worker_process::Evidence;
use worker_vm::{Links, LogLine, Services, WorkerState, WorkerVmManager};

use crate::gateway::Intents;
use crate::unheard_events::UnheardEvents;

/// How long the end of a worker waits for the database to take what became of expired records.
const EXPIRY_END_MAX: Duration = Duration::from_secs(5);

/// The engine of one worker thread, and [`WorkerLike`] by its dispatcher. It stays on the thread that made it.
pub struct Worker {
    dispatcher: WorkerDispatcher,
    expiry: WorkerKeyExpiry,
    vms: WorkerVmManager,
    cache: WorkerCacheData,
    db: WorkerDb,
    filter: RefCell<WorkerFilter>,
    unheard: Option<UnheardEvents>,
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
    expiry: ExpirySettings,
    process: ExpiryProcess,
    intents: Option<Intents>,
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
        let (expiry, process) = (ExpirySettings::default(), ExpiryProcess::new("antiraid"));
        Self { db, shared, state, builtins, limits: StaticRef::new(limits), expiry, process, intents: None }
    }

    /// The same with these services in place of the default ones, which reach Discord's CDN and keep objects in memory.
    pub fn with_services(mut self, services: Services) -> Self {
        self.state = self.state.with_services(services);
        self
    }

    /// The same with these settings for records that expire, which are handled in the name of this process.
    pub fn with_expiry(self, expiry: ExpirySettings, process: ExpiryProcess) -> Self {
        Self { expiry, process, ..self }
    }

    /// The same at a gateway with these intents: a template that is changed to subscribe to what does not come is told so.
    pub fn with_intents(self, intents: Option<Intents>) -> Self {
        Self { intents, ..self }
    }

    /// A worker for the tenants that `filter` owns, which begins to send them their `KeyResume` and `KeyExpiry` events. Must be called on
    /// a runtime that spawns local tasks.
    pub fn worker(&self, id: WorkerId, filter: WorkerFilter) -> Worker {
        let Self { db, shared, state, builtins, limits, expiry, process, intents } = self.clone();
        let cache = WorkerCacheData::new(db.clone(), shared, Some(builtins.template()), limits.clone());
        let vms = WorkerVmManager::new(state, cache.clone(), limits.clone());
        let dispatcher = WorkerDispatcher::new(id, vms.clone(), cache.clone(), db.clone(), filter.clone(), limits);
        dispatcher.resume_keys();
        let channel = KeyExpiryChannel::new(db.clone(), filter.clone(), &process, &expiry);
        let expiry = WorkerKeyExpiry::new(dispatcher.clone(), db.clone(), channel, process, expiry);
        let unheard = intents
            .map(|intents| UnheardEvents::watch(intents, &db, cache.clone(), filter.clone(), dispatcher.clone()));
        Worker { dispatcher, expiry, vms, cache, db, filter: RefCell::new(filter), unheard }
    }
}

impl Worker {
    /// Says in the tenant's log why it is quarantined.
    pub fn report_quarantine(&self, evidence: &Evidence) {
        let Evidence { tenant, template, event, exit, log_lines, deaths } = evidence;
        let known = |name: &str| if name.is_empty() { "(not known)".to_owned() } else { format!("`{name}`") };
        let text = format!(
            "quarantined: its worker died {deaths} times while its code was running, the last time in template {} on event \
             {} ({exit}); nothing of it runs until an operator releases it; the last lines of the worker's log: {}",
            known(template),
            known(event),
            log_lines.join(" | "),
        );
        self.dispatcher.report(*tenant, &EventName::new(event), &text);
    }

    /// The lines of the tenant's log, oldest first.
    pub fn log_lines(&self, tenant: TenantId) -> Vec<LogLine> {
        self.dispatcher.log_lines(tenant)
    }
}

impl WorkerLike for Worker {
    fn id(&self) -> WorkerId {
        self.dispatcher.id()
    }

    fn submit(&self, call: Call) {
        match call {
            Call::Stats { reply_to } => {
                let (dispatchers, expiry) = (self.dispatcher.stats(), self.expiry.stats());
                tokio::task::spawn_local(async move {
                    reply_to.send(dispatchers.await.map(|stats| with_expiry(stats, expiry)));
                });
            }
            Call::Drain { reply_to } => {
                self.expiry.stop();
                let (drained, finished) = (self.dispatcher.drain(), self.expiry.finished());
                tokio::task::spawn_local(async move {
                    let drained = drained.await;
                    if tokio::time::timeout(EXPIRY_END_MAX, finished).await.is_err() {
                        tracing::warn!("expired records were let go that the database did not hear of");
                    }
                    reply_to.send(drained);
                });
            }
            Call::Own { filter, reply_to } => {
                self.filter.replace(filter.clone());
                let handed_over = self.expiry.own(filter.clone());
                let dispatcher = self.dispatcher.clone();
                tokio::task::spawn_local(async move {
                    // Before the dispatcher refuses the tenants whose records are in hand.
                    handed_over.await;
                    dispatcher.submit(Call::Own { filter, reply_to });
                });
            }
            Call::Kill { reply_to } => {
                self.expiry.end();
                self.dispatcher.submit(Call::Kill { reply_to });
            }
            Call::Reload { tenant, reply_to } => {
                self.dispatcher.submit(Call::Reload { tenant, reply_to });
                if let Some(unheard) = &self.unheard {
                    unheard.look_at(tenant);
                }
            }
            other => self.dispatcher.submit(other),
        }
    }
}

fn with_expiry(stats: WorkerStats, expiry: ExpiryStats) -> WorkerStats {
    let ExpiryStats { pending, in_hand, handled, unsubscribed, retries, dead, lateness } = expiry;
    WorkerStats {
        expiries_pending: pending,
        expiries_in_hand: in_hand,
        expiries_handled: handled,
        expiries_unsubscribed: unsubscribed,
        expiry_retries: retries,
        expiries_dead: dead,
        expiry_lateness: lateness,
        ..stats
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("id", &self.id())
            .field("filter", &self.filter.borrow())
            .field("db", &self.db)
            .field("expiry", &self.expiry)
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
