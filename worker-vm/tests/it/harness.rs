//! A worker's VMs over a database in memory.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use worker_core::{
    Capabilities, CompatDate, Event, Limits, RatelimitRules, StaticRef, TemplateError, TemplateFiles, TemplateLimits,
    TemplateName, TenantId, Value,
};
use worker_db::{DbConfig, FileMap, Lookup, NewTemplate, SharedCache, SharedCacheConfig, WorkerCacheData, WorkerDb};
use worker_vm::{Links, LogLine, Run, Runs, Services, WorkerState, WorkerVmManager};

/// The tenant that most tests use.
pub(crate) const TENANT: TenantId = TenantId::guild(1 << 22);

/// Another one.
pub(crate) const OTHER: TenantId = TenantId::guild(2 << 22);

pub(crate) struct Harness {
    pub(crate) db: WorkerDb,
    pub(crate) cache: WorkerCacheData,
    pub(crate) vms: WorkerVmManager,
}

/// Runs a test on a runtime like a worker thread's.
pub(crate) fn on_worker<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(4)
        .global_queue_interval(1)
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    let limit = Duration::from_secs(60);
    runtime.block_on(async { tokio::time::timeout(limit, test()).await.expect("a test ends within a minute") });
}

impl Harness {
    pub(crate) async fn new() -> Self {
        Self::with(Limits::default(), RatelimitRules::default()).await
    }

    pub(crate) async fn with_limits(limits: Limits) -> Self {
        Self::with(limits, RatelimitRules::default()).await
    }

    pub(crate) async fn with(limits: Limits, rules: RatelimitRules) -> Self {
        Self::with_services(limits, rules, Services::default()).await
    }

    pub(crate) async fn with_services(limits: Limits, rules: RatelimitRules, services: Services) -> Self {
        let config = DbConfig { kv: limits.kv.clone(), templates: limits.templates.clone(), ..DbConfig::default() };
        let db = WorkerDb::connect("sqlite::memory:", config).await.unwrap();
        let shared = SharedCache::new(SharedCacheConfig::default());
        let limits = StaticRef::new(limits);
        let cache = WorkerCacheData::new(db.clone(), shared.clone(), None, limits.clone());
        let library = TemplateFiles::new(Vec::<(&str, &str)>::new(), &TemplateLimits::default()).unwrap();
        let links = Links {
            support_server: "https://support.example".into(),
            api_url: "https://api.example".into(),
            frontend_url: "https://front.example".into(),
            docs_url: "https://docs.example".into(),
        };
        let state =
            WorkerState::new(db.clone(), shared, library.into(), StaticRef::new(rules), links).with_services(services);
        let vms = WorkerVmManager::new(state, cache.clone(), limits);
        Self { db, cache, vms }
    }

    /// Installs a template of one file that gets `MESSAGE` and may do everything.
    pub(crate) async fn install(&self, tenant: TenantId, name: &str, source: &str) {
        self.install_files(tenant, name, &["*"], &[("init.luau", source)]).await;
    }

    /// Installs a template, or changes it.
    pub(crate) async fn install_files(&self, tenant: TenantId, name: &str, caps: &[&str], files: &[(&str, &str)]) {
        let template = NewTemplate {
            name: TemplateName::new(name).unwrap(),
            files: files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect::<FileMap>(),
            events: vec!["MESSAGE".into()],
            allowed_caps: caps.iter().copied().collect::<Capabilities>(),
            error_channel: None,
            compat: CompatDate::NEWEST,
            paused: false,
        };
        if self.db.template_get(tenant, &template.name).await.unwrap().is_some() {
            self.db.template_update(tenant, template).await.unwrap();
        } else {
            self.db.template_create(tenant, template).await.unwrap();
        }
        self.cache.invalidate(tenant);
    }

    /// Starts an event in all of the tenant's templates.
    pub(crate) async fn start(&self, tenant: TenantId, event: &Event) -> Runs {
        self.cache.load(tenant).await.unwrap();
        let Lookup::Subscribers(subscribers) = self.cache.lookup(tenant, event) else {
            panic!("nobody of {tenant} gets {}", event.name());
        };
        loop {
            if let Some(runs) = self.vms.try_start(tenant, &subscribers, event, true).unwrap() {
                return runs;
            }
            self.vms.prepare(tenant, &subscribers).await;
        }
    }

    /// Runs an event in all of the tenant's templates.
    pub(crate) async fn run(&self, tenant: TenantId, event: &Event) -> Vec<(String, Result<Value, TemplateError>)> {
        finish(self.start(tenant, event).await).await
    }

    /// Runs a message in the tenant's only template.
    pub(crate) async fn message(&self, tenant: TenantId) -> Result<Value, TemplateError> {
        let mut results = self.run(tenant, &message(r#"{"content":"hello","author":{"id":"7"}}"#)).await;
        assert_eq!(results.len(), 1);
        results.remove(0).1
    }

    /// Runs a script for a message.
    pub(crate) async fn script(&self, source: &str) -> Result<Value, TemplateError> {
        self.install(TENANT, "script", source).await;
        self.message(TENANT).await
    }

    /// Runs a script that must return `"ok"`.
    pub(crate) async fn assert_ok(&self, source: &str) {
        let result = self.script(source).await;
        assert_eq!(result.as_ref().map_err(ToString::to_string), Ok(&Value::from("ok")), "log: {:?}", self.log(TENANT));
    }

    /// The error of a script that must fail.
    pub(crate) async fn error(&self, source: &str) -> String {
        match self.script(source).await {
            Ok(value) => panic!("expected an error, got {value:?}"),
            Err(error) => error.text.to_string(),
        }
    }

    pub(crate) fn log(&self, tenant: TenantId) -> Vec<LogLine> {
        self.vms.log_lines(tenant)
    }

    /// The texts of the tenant's log.
    pub(crate) fn log_texts(&self, tenant: TenantId) -> Vec<String> {
        self.log(tenant).into_iter().map(|line| line.text.to_string()).collect()
    }
}

/// Waits for what was started.
pub(crate) async fn finish(runs: Runs) -> Vec<(String, Result<Value, TemplateError>)> {
    let mut results = Vec::new();
    for (name, run) in runs {
        let outcome = match run {
            Run::NotLoaded(error) => Err(error),
            Run::Done(outcome) => outcome,
            Run::Running(future) => future.await,
        };
        results.push((name.to_string(), outcome));
    }
    results
}

/// A message with this JSON.
pub(crate) fn message(data: &str) -> Event {
    Event::discord("MESSAGE_CREATE", Bytes::copy_from_slice(data.as_bytes()))
}
