//! A dispatcher with all that is beneath it, on a runtime like a worker thread's.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use worker_core::{
    Capabilities, CompatDate, DispatchResult, Event, EventName, Limits, RatelimitRules, Reply, StaticRef, Template,
    TemplateError, TemplateFiles, TemplateLimits, TemplateName, TenantId, Value, WorkerError, WorkerErrorKind,
    WorkerFilter, WorkerId, WorkerLike, WorkerStats,
};
use worker_db::{
    DbConfig, FileMap, KvSet, NewTemplate, Scopes, SharedCache, SharedCacheConfig, WorkerCacheData, WorkerDb,
};
use worker_dispatch::WorkerDispatcher;
use worker_vm::{Links, LogKind, LogLine, WorkerState, WorkerVmManager};

/// The tenant that most tests use.
pub(crate) const TENANT: TenantId = TenantId::guild(1 << 22);

/// Another one.
pub(crate) const OTHER: TenantId = TenantId::guild(2 << 22);

/// How long anything may take that should be quick. Long, so that a busy machine is no fault of ours.
pub(crate) const LONG: Duration = Duration::from_secs(40);

/// The `number`th of many tenants, not one of the two above.
pub(crate) fn nth(number: u64) -> TenantId {
    TenantId::guild((number + 100) << 22)
}

/// Runs a test on a runtime like a worker thread's.
pub(crate) fn on_worker<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(4)
        .global_queue_interval(4)
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    let limit = Duration::from_secs(100);
    runtime.block_on(async { tokio::time::timeout(limit, test()).await.expect("a test ends within its limit") });
}

pub(crate) struct Harness {
    pub(crate) db: WorkerDb,
    pub(crate) cache: WorkerCacheData,
    pub(crate) dispatcher: WorkerDispatcher,
}

impl Harness {
    pub(crate) async fn new() -> Self {
        Self::with_limits(Limits::default()).await
    }

    pub(crate) async fn with_limits(limits: Limits) -> Self {
        let db = WorkerDb::connect("sqlite::memory:", DbConfig::default()).await.unwrap();
        Self::over(db, WorkerFilter::all(), limits, None)
    }

    pub(crate) fn over(db: WorkerDb, filter: WorkerFilter, limits: Limits, builtins: Option<Arc<Template>>) -> Self {
        let shared = SharedCache::new(SharedCacheConfig::default());
        let limits = StaticRef::new(limits);
        let cache = WorkerCacheData::new(db.clone(), shared.clone(), builtins, limits.clone());
        let library = TemplateFiles::new(Vec::<(&str, &str)>::new(), &TemplateLimits::default()).unwrap();
        let links = Links {
            support_server: "https://support.example".into(),
            api_url: "https://api.example".into(),
            frontend_url: "https://front.example".into(),
            docs_url: "https://docs.example".into(),
        };
        let rules = StaticRef::new(RatelimitRules::default());
        let state = WorkerState::new(db.clone(), shared, library.into(), rules, links);
        let vms = WorkerVmManager::new(state, cache.clone(), limits.clone());
        let dispatcher = WorkerDispatcher::new(WorkerId::new(1), vms, cache.clone(), db.clone(), filter, limits);
        Self { db, cache, dispatcher }
    }

    /// Stores a template of one file that gets `MESSAGE`, or changes it.
    pub(crate) async fn install(&self, tenant: TenantId, name: &str, source: &str) {
        self.install_for(tenant, name, &["MESSAGE"], source).await;
    }

    /// Stores a template of one file, or changes it.
    pub(crate) async fn install_for(&self, tenant: TenantId, name: &str, events: &[&str], source: &str) {
        let template = template(name, events, source);
        if self.db.template_get(tenant, &template.name).await.unwrap().is_some() {
            self.db.template_update(tenant, template).await.unwrap();
        } else {
            self.db.template_create(tenant, template).await.unwrap();
        }
    }

    /// Stores a record with `resume`.
    pub(crate) async fn remember(&self, tenant: TenantId, key: &str, scope: &str) {
        let scopes = Scopes::new([scope], self.db.kv_limits()).unwrap();
        let set = KvSet { key: key.into(), value_json: "1".into(), scopes, expires_at: None, resume: true };
        self.db.kv_set(tenant, set).await.unwrap();
    }

    pub(crate) fn send(&self, tenant: TenantId, event: Event) -> Reply<DispatchResult> {
        self.dispatcher.dispatch(tenant, event)
    }

    /// The outcome of a message in the tenant's only template.
    pub(crate) async fn message(&self, tenant: TenantId) -> Result<Value, TemplateError> {
        one(self.send(tenant, message("{}"))).await
    }

    pub(crate) async fn stats(&self) -> WorkerStats {
        answer(self.dispatcher.stats()).await.unwrap()
    }

    pub(crate) fn log(&self, tenant: TenantId) -> Vec<LogLine> {
        self.dispatcher.log_lines(tenant)
    }

    /// The texts of the tenant's log of this kind.
    pub(crate) fn log_of(&self, tenant: TenantId, kind: LogKind) -> Vec<String> {
        let lines = self.log(tenant).into_iter().filter(|line| line.kind == kind);
        lines.map(|line| line.text.to_string()).collect()
    }
}

pub(crate) fn template(name: &str, events: &[&str], source: &str) -> NewTemplate {
    NewTemplate {
        name: TemplateName::new(name).unwrap(),
        files: FileMap::from([("init.luau".to_owned(), source.to_owned())]),
        events: events.iter().map(|event| (*event).to_owned()).collect(),
        allowed_caps: ["*"].into_iter().collect::<Capabilities>(),
        error_channel: None,
        compat: CompatDate::NEWEST,
        paused: false,
    }
}

/// A message with this JSON.
pub(crate) fn message(data: &str) -> Event {
    Event::discord("MESSAGE_CREATE", Bytes::copy_from_slice(data.as_bytes()))
}

/// An event of Discord's with a number in its data.
pub(crate) fn numbered(t: &str, n: usize) -> Event {
    Event::discord(t, format!(r#"{{"n":{n}}}"#).into())
}

/// An event of the name, with this JSON.
pub(crate) fn named(name: &str, data: &str) -> Event {
    Event::antiraid(EventName::new(name), Bytes::copy_from_slice(data.as_bytes()))
}

/// The answer; none within a long time fails the test.
pub(crate) async fn answer<T>(reply: Reply<T>) -> Result<T, WorkerError> {
    tokio::time::timeout(LONG, reply).await.expect("every call is answered")
}

/// The results, by template.
pub(crate) async fn results(reply: Reply<DispatchResult>) -> Vec<(String, Result<Value, TemplateError>)> {
    let result = answer(reply).await.expect("the event is handled");
    result.templates.into_iter().map(|result| (result.template.to_string(), result.outcome)).collect()
}

/// The outcome of the only template.
pub(crate) async fn one(reply: Reply<DispatchResult>) -> Result<Value, TemplateError> {
    let mut results = results(reply).await;
    assert_eq!(results.len(), 1, "one template gets it: {results:?}");
    results.remove(0).1
}

/// The value of the only template.
pub(crate) async fn value(reply: Reply<DispatchResult>) -> Value {
    one(reply).await.unwrap_or_else(|error| panic!("the template failed: {error}"))
}

/// The kind of an error that must come.
pub(crate) async fn refusal<T>(reply: Reply<T>) -> WorkerErrorKind {
    match answer(reply).await {
        Ok(_) => panic!("answered well, and should have been refused"),
        Err(error) => error.kind(),
    }
}

/// The answer if it is there already.
pub(crate) async fn at_hand<T>(reply: &mut Reply<T>) -> Option<Result<T, WorkerError>> {
    // Unconstrained, or tokio may hide an answer that is there from a task that has done much.
    let mut reply = pin!(tokio::task::unconstrained(reply));
    std::future::poll_fn(|cx| {
        Poll::Ready(match reply.as_mut().poll(cx) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        })
    })
    .await
}

/// Looks again and again until it is so.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("never came: {what}"));
}
