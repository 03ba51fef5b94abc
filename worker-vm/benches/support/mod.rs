//! Tenants with the bench's template, over a database in memory.

use worker_core::{
    Capabilities, CompatDate, Event, Limits, RatelimitRules, StaticRef, TemplateFiles, TemplateLimits, TemplateName,
    TenantId,
};
use worker_db::{
    DbConfig, Lookup, NewTemplate, SharedCache, SharedCacheConfig, Subscribers, WorkerCacheData, WorkerDb,
};
use worker_vm::floor::{EVENT_JSON, HANDLER};
use worker_vm::{Links, Run, WorkerState, WorkerVmManager};

pub(crate) fn tenant(n: usize) -> TenantId {
    TenantId::guild((n as u64 + 1) << 22)
}

pub(crate) struct Bench {
    pub(crate) vms: WorkerVmManager,
    cache: WorkerCacheData,
}

impl Bench {
    pub(crate) async fn new(tenants: usize) -> Self {
        let source = format!("local evt, ctx = ...\nlocal data = evt.data\n{HANDLER}");
        Self::with_files(tenants, &[("init.luau", &source)]).await
    }

    pub(crate) async fn with_files(tenants: usize, files: &[(&str, &str)]) -> Self {
        let db = WorkerDb::connect("sqlite::memory:", DbConfig::default()).await.expect("an in-memory database");
        for n in 0..tenants {
            let template = NewTemplate {
                name: TemplateName::new("bench").expect("a name"),
                files: files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect(),
                events: vec!["MESSAGE".into()],
                allowed_caps: Capabilities::default(),
                error_channel: None,
                compat: CompatDate::NEWEST,
                paused: false,
            };
            db.template_create(tenant(n), template).await.expect("stored");
        }
        let shared = SharedCache::new(SharedCacheConfig::default());
        // No eviction: these benches are about what is there.
        let limits = StaticRef::new(Limits { worker_memory_bytes_max: usize::MAX / 2, ..Limits::default() });
        let cache = WorkerCacheData::new(db.clone(), shared.clone(), None, limits.clone());
        let library = TemplateFiles::new(Vec::<(&str, &str)>::new(), &TemplateLimits::default()).expect("no files");
        let links = Links {
            support_server: String::new(),
            api_url: String::new(),
            frontend_url: String::new(),
            docs_url: String::new(),
        };
        let state = WorkerState::new(db, shared, library.into(), StaticRef::new(RatelimitRules::default()), links);
        let this = Self { vms: WorkerVmManager::new(state, cache.clone(), limits), cache };
        for n in 0..tenants {
            this.cache.load(tenant(n)).await.expect("loaded");
            this.vms.prepare(tenant(n), &this.subscribers(n)).await;
        }
        this
    }

    pub(crate) fn event() -> Event {
        Event::discord("MESSAGE_CREATE", EVENT_JSON.as_bytes().into())
    }

    pub(crate) fn subscribers(&self, n: usize) -> Subscribers {
        match self.cache.lookup(tenant(n), &Self::event()) {
            Lookup::Subscribers(subscribers) => subscribers,
            _ => panic!("tenant {n} has a subscriber"),
        }
    }

    pub(crate) fn run(&self, n: usize, event: &Event) -> bool {
        let runs = self.vms.try_start(tenant(n), &self.subscribers(n), event, true);
        // Where the machine takes the processor away for longer than a slice, the run goes on later.
        runs.is_ok_and(|runs| runs.is_some_and(|runs| matches!(&runs[0].1, Run::Done(Ok(_)) | Run::Running(_))))
    }
}

pub(crate) fn runtime() -> tokio::runtime::LocalRuntime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("a runtime")
}
