//! What measurements have in common: an engine over a database in memory, tenants with a template, events for them.

use std::future::Future;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use worker_builtins::Builtins;
use worker_core::{
    Capabilities, CompatDate, DispatchResult, Event, Limits, RatelimitRules, Routing, TemplateName, TenantId, Value,
    WorkerError, WorkerFilter, WorkerId, WorkerLike,
};
use worker_db::{DbConfig, FileMap, NewTemplate, WorkerDb};
use worker_pool::{Poolable, WorkerPool, WorkerPoolConfig, WorkerThread, WorkerThreadConfig};
use worker_vm::floor::{EVENT_JSON, HANDLER};

use super::BenchError;
use crate::cli::CommandError;
use crate::config::Config;
use crate::worker::{Worker, WorkerParts};

/// The parts of workers, with a runtime like that of a worker's thread.
pub(super) struct Harness {
    parts: WorkerParts,
    db: WorkerDb,
    runtime: LocalRuntime,
}

impl Harness {
    /// Over a database in memory.
    pub(super) fn new(limits: Limits) -> Result<Self, CommandError> {
        Self::over("sqlite::memory:", limits)
    }

    pub(super) fn over(database_url: &str, limits: Limits) -> Result<Self, CommandError> {
        Self::over_with(database_url, limits, DbConfig::default())
    }

    pub(super) fn over_with(database_url: &str, limits: Limits, db: DbConfig) -> Result<Self, CommandError> {
        // As worker-pool makes it for a worker's thread.
        let runtime = Builder::new_current_thread()
            .enable_all()
            .event_interval(4)
            .global_queue_interval(4)
            .build_local(LocalOptions::default())
            .map_err(CommandError::Runtime)?;
        let db = runtime.block_on(WorkerDb::connect(database_url, db))?;
        let rules = RatelimitRules::default();
        let parts = WorkerParts::new(db.clone(), Builtins::embedded(), limits, rules, Config::default().links);
        Ok(Self { parts, db, runtime })
    }

    pub(super) fn db(&self) -> WorkerDb {
        self.db.clone()
    }

    pub(super) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Gives these tenants a template that runs for messages.
    pub(super) fn install(&self, tenants: Range<usize>, source: &str) -> Result<(), CommandError> {
        self.install_with(tenants, source, &Capabilities::default())
    }

    /// The same with capabilities.
    pub(super) fn install_with(
        &self,
        tenants: Range<usize>,
        source: &str,
        caps: &Capabilities,
    ) -> Result<(), CommandError> {
        let tenants: Vec<_> = tenants.map(tenant).collect();
        for tenants in tenants.chunks(WorkerDb::PUT_TENANTS_MAX) {
            let template = NewTemplate {
                name: TemplateName::new("bench").expect("because it is a good name"),
                files: FileMap::from([("init.luau".to_owned(), source.to_owned())]),
                events: vec!["MESSAGE".to_owned()],
                allowed_caps: caps.clone(),
                error_channel: None,
                compat: CompatDate::NEWEST,
                paused: false,
            };
            self.block_on(self.db.template_put_for_tenants(tenants, template))?;
        }
        Ok(())
    }

    /// A worker in this thread.
    pub(super) fn worker(&self) -> Worker {
        self.block_on(async { self.worker_here() })
    }

    /// The same, from code that runs here.
    pub(super) fn worker_here(&self) -> Worker {
        self.parts.worker(WorkerId::new(0), WorkerFilter::all())
    }

    /// A worker in a thread of its own.
    pub(super) fn thread(&self) -> Result<WorkerThread, CommandError> {
        let started = self.block_on(WorkerThread::start(WorkerId::new(0), WorkerFilter::all(), &self.thread_config()));
        started.map_err(CommandError::Workers)
    }

    /// Workers in threads of their own, as one.
    pub(super) fn threads(&self, workers: NonZeroUsize) -> Result<WorkerPool<WorkerThread>, CommandError> {
        let config = WorkerPoolConfig { workers, worker: self.thread_config() };
        let (filter, routing) = (WorkerFilter::all(), Routing::default());
        let started = self.block_on(WorkerPool::start(WorkerId::new(0), filter, routing, &config));
        started.map_err(CommandError::Workers)
    }

    fn thread_config(&self) -> WorkerThreadConfig {
        let parts = self.parts.clone();
        WorkerThreadConfig::new(move |id, filter| {
            let worker = parts.worker(id, filter);
            async move { Ok(worker) }
        })
        .with_contained_panics(worker_vm::contained_panics)
    }

    /// Sends every tenant so many messages, one after the other.
    pub(super) fn warm(
        &self,
        worker: &impl WorkerLike,
        tenants: Range<usize>,
        times: usize,
    ) -> Result<(), CommandError> {
        let event = event();
        self.block_on(async {
            for _ in 0..times {
                for number in tenants.clone() {
                    value(worker.dispatch(tenant(number), event.clone()).await)?;
                }
            }
            Ok(())
        })
    }
}

/// The default limits, but a tenant may use the processor as long as it likes: a measurement is more than any tenant's
/// share.
pub(super) fn tireless() -> Limits {
    let day = Duration::from_secs(24 * 60 * 60);
    Limits { tenant_cpu_max: day, tenant_cpu_window: day, ..Limits::default() }
}

/// The floor's handler as a template.
pub(super) fn handler() -> String {
    format!("local evt = ...\nlocal data = evt.data\n{HANDLER}")
}

/// The floor's event.
pub(super) fn event() -> Event {
    Event::discord("MESSAGE_CREATE", EVENT_JSON.as_bytes().into())
}

/// Routing looks at the bits above the 22nd.
pub(super) fn tenant(number: usize) -> TenantId {
    TenantId::guild((number as u64 + 1) << 22)
}

/// What the one template returned.
pub(super) fn value(answer: Result<DispatchResult, WorkerError>) -> Result<Value, BenchError> {
    let mut templates = answer?.templates;
    match templates.pop() {
        Some(result) if templates.is_empty() => Ok(result.outcome?),
        _ => Err(BenchError::Unexpected { expected: "one result", got: format!("{} and more", templates.len()) }),
    }
}

/// A cheap generator: the order of tenants must not be one that a cache can learn. The same in every run.
pub(super) struct Order(u64);

impl Order {
    pub(super) fn new() -> Self {
        Self(88_172_645_463_325_252)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n.max(1)
    }
}
