//! The world of one test: a VM for the spec, one for what it tests, an empty store, and a clock that the test moves.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{Notify, mpsc};
use worker_core::{
    BaseName, Capabilities, CompatDate, Event, EventName, Limits, ManualClock, RatelimitRules, StaticRef, Template,
    TemplateError, TemplateName, TemplateOrigin, TenantId, Value,
};
use worker_db::{
    DbClock, DbConfig, DbError, KvFindPage, KvPage, KvRecord, KvSet, Lookup, Scopes, SharedCache, SharedCacheConfig,
    WorkerCacheData, WorkerDb,
};
use worker_vm::{
    Answer, Harness, HttpAnswer, HttpRecorder, HttpRequest, Links, LogKind, Recorder, Run, TestCall, VirtualClock,
    WorkerState, WorkerVmManager,
};

use crate::spec_files::{SpecSuite, Subject};
use crate::store;

/// The guild of the tests; `@antiraid-test` names it too.
const TENANT: TenantId = TenantId::guild(1_000_000_000_000_000_001);

/// Where specs run.
const SPEC_TENANT: TenantId = TenantId::guild(1);

/// When every test begins: 2026-01-01T00:00:00Z.
const START_SECOND: i64 = 1_767_225_600;

/// CPU time of a test's own code.
const SPEC_CPU_MAX: Duration = Duration::from_secs(2);

/// How long nothing may be on its way and nothing asleep before the clock is looked at again. It does not happen: whatever
/// goes on is counted.
const IDLE_PACE: Duration = Duration::from_millis(1);

/// What all tests of a run share.
#[derive(Clone)]
pub struct SpecCommon {
    seed: u64,
    shared: SharedCache,
    limits: StaticRef<Limits>,
    spec_limits: StaticRef<Limits>,
    rules: StaticRef<RatelimitRules>,
    spec_rules: StaticRef<RatelimitRules>,
    hands: ManualClock,
    links: Links,
}

impl SpecCommon {
    /// With these limits for the templates under test.
    pub fn new(seed: u64, limits: Limits, links: Links) -> Self {
        let (rules, hands) = RatelimitRules::default().on_manual_clock();
        let spec_limits = Limits { dispatch_cpu_max: SPEC_CPU_MAX.min(limits.dispatch_cpu_max), ..limits.clone() };
        Self {
            seed,
            shared: SharedCache::new(SharedCacheConfig::default()),
            limits: StaticRef::new(limits),
            spec_limits: StaticRef::new(spec_limits),
            rules: StaticRef::new(rules),
            spec_rules: StaticRef::new(RatelimitRules::unlimited()),
            hands,
            links,
        }
    }
}

/// What a spec is asked for.
#[derive(Serialize)]
pub struct Request {
    /// The spec, as its `require` names it.
    pub module: String,
    /// The number of the test, from 1; without one, the spec says which there are.
    pub run: Option<usize>,
}

/// The world of one test.
pub struct SpecWorld {
    clock: VirtualClock,
    recorder: Recorder,
    http: HttpRecorder,
    db: WorkerDb,
    cache: WorkerCacheData,
    vms: WorkerVmManager,
    subject: Option<TemplateName>,
    subscriptions: String,
    limits: StaticRef<Limits>,
    spec_cache: WorkerCacheData,
    spec_vms: WorkerVmManager,
    /// Calls of the spec that wait for what the clock brings, and see to it that the clock moves.
    movers: Cell<usize>,
    movers_changed: Notify,
    errors_expected: Cell<bool>,
    /// Keys whose expiry was announced: the record and the time that it expired at.
    expired: RefCell<HashSet<(String, Timestamp)>>,
}

impl SpecWorld {
    /// A world in which nothing has happened.
    pub async fn new(suite: &SpecSuite, common: &SpecCommon) -> Result<Rc<Self>, DbError> {
        let start = Timestamp::from_second(START_SECOND).expect("because it is a moment of this era");
        let clock = VirtualClock::new(start, common.hands.clone());
        let db_clock = clock.clone();
        let config = DbConfig {
            kv: common.limits.kv.clone(),
            templates: common.limits.templates.clone(),
            clock: DbClock::from(move || db_clock.now()),
            ..DbConfig::default()
        };
        let db = WorkerDb::connect("sqlite::memory:", config).await?;
        let (builtin, subject, events) = match &suite.subject {
            Subject::Template(template) => {
                store::push(&db, TENANT, template).await?;
                (None, Some(template.name.clone()), template.events.join(", "))
            }
            Subject::Builtin(template) => {
                (Some(template.clone()), Some(template.name.clone()), template.events.join(", "))
            }
            Subject::Nothing => (None, None, String::new()),
        };
        let (recorder, http) = (Recorder::default(), HttpRecorder::default());
        let state = |rules: &StaticRef<RatelimitRules>, harness| {
            let (db, shared) = (db.clone(), common.shared.clone());
            WorkerState::new(db, shared, suite.library.clone(), rules.clone(), common.links.clone())
                .with_harness(harness)
        };
        let cache = WorkerCacheData::new(db.clone(), common.shared.clone(), builtin, common.limits.clone());
        let harness = Harness::for_templates(clock.clone(), common.seed, recorder.clone(), http.clone());
        let vms = WorkerVmManager::new(state(&common.rules, harness), cache.clone(), common.limits.clone());

        let (host, calls) = mpsc::unbounded_channel();
        let spec = Arc::new(spec_template(suite));
        let spec_cache = WorkerCacheData::new(db.clone(), common.shared.clone(), Some(spec), common.limits.clone());
        let harness = Harness::for_specs(clock.clone(), common.seed, host);
        let spec_state = state(&common.spec_rules, harness);
        let spec_vms = WorkerVmManager::new(spec_state, spec_cache.clone(), common.spec_limits.clone());
        let world = Rc::new(Self {
            clock,
            recorder,
            http,
            db,
            cache,
            vms,
            subject,
            subscriptions: events,
            limits: common.limits.clone(),
            spec_cache,
            spec_vms,
            movers: Cell::new(0),
            movers_changed: Notify::new(),
            errors_expected: Cell::new(false),
            expired: RefCell::default(),
        });
        tokio::task::spawn_local(Self::serve(Rc::downgrade(&world), calls));
        Ok(world)
    }

    /// Runs the spec's file, and one of its tests if one is asked for. `timeout` is by the clock on the wall.
    pub async fn run(&self, request: &Request, timeout: Duration) -> Result<Value, TemplateError> {
        let request = serde_json::to_vec(request).expect("because it is text and a number");
        let event = Event::discord("MESSAGE_CREATE", request.into());
        let running = async {
            let busy = self.clock.busy();
            let mut runs = start(&self.spec_vms, &self.spec_cache, SPEC_TENANT, &event).await?;
            drop(busy);
            let (_, run) = runs.pop().ok_or_else(|| TemplateError::new("internal: the spec gets no event"))?;
            tokio::select! {
                biased;
                outcome = ended(run) => outcome,
                () = self.move_for_spec() => unreachable!("because it goes on for ever"),
            }
        };
        tokio::time::timeout(timeout, running).await.unwrap_or_else(|_| {
            let seconds = timeout.as_secs();
            Err(TemplateError::new(format!("timeout: the test did not end within {seconds} s (--timeout)")))
        })
    }

    /// What templates and the spec printed, and how templates failed, a line each.
    pub fn log(&self) -> Vec<String> {
        let line = |line: worker_vm::LogLine| match line.kind {
            LogKind::Print => line.text.to_string(),
            LogKind::Error => format!("error: {}", line.text),
        };
        let lines = [(&self.vms, TENANT), (&self.spec_vms, SPEC_TENANT)];
        lines.into_iter().flat_map(|(vms, tenant)| vms.log_lines(tenant)).map(line).collect()
    }

    /// How the templates failed in the background, unless the test asked for it.
    pub fn unexpected_errors(&self) -> Vec<String> {
        if self.errors_expected.get() { Vec::new() } else { self.logged(LogKind::Error) }
    }

    /// Ends all that runs.
    pub async fn end(&self) {
        self.spec_vms.cancel_all();
        self.vms.cancel_all();
        self.db.close().await;
    }

    fn logged(&self, kind: LogKind) -> Vec<String> {
        let lines = self.vms.log_lines(TENANT).into_iter();
        lines.filter(|line| line.kind == kind).map(|line| line.text.to_string()).collect()
    }

    async fn serve(world: Weak<Self>, mut calls: mpsc::UnboundedReceiver<TestCall>) {
        while let Some(call) = calls.recv().await {
            let Some(world) = world.upgrade() else { return };
            tokio::task::spawn_local(async move {
                let answer = world.answer(&call.name, &call.arguments).await;
                call.reply(answer);
            });
        }
    }

    /// Moves the clock whenever all only sleep, except while a call of the spec does so.
    async fn move_for_spec(&self) {
        loop {
            let changed = self.movers_changed.notified();
            if self.movers.get() > 0 {
                changed.await;
                continue;
            }
            self.clock.quiet().await;
            if self.movers.get() == 0 && !self.clock.fire_next(Duration::MAX) {
                tokio::time::sleep(IDLE_PACE).await;
            }
        }
    }

    /// Runs a future that moves the clock.
    async fn moving<F: Future>(&self, future: F) -> F::Output {
        struct Mover<'a>(&'a SpecWorld);
        impl Drop for Mover<'_> {
            fn drop(&mut self) {
                self.0.movers.set(self.0.movers.get() - 1);
                self.0.movers_changed.notify_waiters();
            }
        }
        self.movers.set(self.movers.get() + 1);
        let mover = Mover(self);
        let output = self.clock.idle_while(future).await;
        drop(mover);
        output
    }

    async fn answer(&self, name: &str, arguments: &[Value]) -> Result<Value, String> {
        let argument = |index: usize| arguments.get(index).unwrap_or(&Value::Null);
        match name {
            "dispatch" => {
                let Value::List(events) = argument(0) else { return Err("the events are not a list".into()) };
                let events = events.iter().map(event).collect::<Result<Vec<_>, _>>()?;
                let results = self.moving(self.send(&events)).await;
                Ok(Value::List(results.into_iter().map(SentResult::into_value).collect()))
            }
            "advance" => {
                let seconds = number(argument(0)).filter(|seconds| (0.0..=1e10).contains(seconds));
                let by = Duration::from_secs_f64(seconds.ok_or("seconds (expected a number from 0 to 1e10)")?);
                self.moving(self.advance(self.clock.elapsed() + by)).await
            }
            "set" => {
                let to = number(argument(0)).and_then(|second| Timestamp::from_nanosecond((second * 1e9) as i128).ok());
                let by = to.ok_or("the time (expected seconds since 1970)")?.duration_since(self.clock.now());
                let by = Duration::try_from(by).map_err(|_| "the clock only goes forward")?;
                self.moving(self.advance(self.clock.elapsed() + by)).await
            }
            "kv_get" => {
                let record = self.db.kv_get(TENANT, text(argument(0))?, &self.scopes(argument(1))?).await;
                record.map_err(|error| error.to_string())?.map_or(Ok(Value::Null), record_value)
            }
            "kv_set" => {
                let value_json = argument(1).to_json().map_err(|error| error.to_string())?;
                let seconds = number(argument(3));
                let expires_at = seconds.map(|seconds| {
                    self.clock
                        .now()
                        .checked_add(Duration::from_secs_f64(seconds.clamp(0.0, 1e10)))
                        .unwrap_or(Timestamp::MAX)
                });
                let (key, scopes) = (text(argument(0))?.to_owned(), self.scopes(argument(2))?);
                let set = KvSet { key, value_json, scopes, expires_at, resume: false };
                self.db.kv_set(TENANT, set).await.map(|_| Value::Null).map_err(|error| error.to_string())
            }
            "kv_delete" => {
                let deleted = self.db.kv_delete(TENANT, text(argument(0))?, &self.scopes(argument(1))?).await;
                deleted.map(Value::Boolean).map_err(|error| error.to_string())
            }
            "kv_all" => {
                let records = self.records().await.map_err(|error| error.to_string())?;
                records.into_iter().map(record_value).collect::<Result<_, _>>().map(Value::List)
            }
            "discord_calls" => {
                let method = match argument(0) {
                    Value::Null => None,
                    method => Some(known_method(text(method)?)?),
                };
                let calls = self.recorder.calls().into_iter();
                let calls = calls.filter(|call| method.is_none_or(|method| method == call.method));
                let value = |call: worker_vm::Recorded| {
                    Value::from([("method", call.method.into()), ("args", Value::List(call.arguments))])
                };
                Ok(Value::List(calls.map(value).collect()))
            }
            "discord_answer" => {
                let method = known_method(text(argument(0))?)?;
                let Value::List(answers) = argument(1) else { return Err("the answers are not a list".into()) };
                let answer = |answer: &Value| match answer {
                    Value::Map(fields) => match fields.get("error") {
                        Some(Value::Text(text)) => Answer::Error(text.clone()),
                        _ => Answer::Value(fields.get("value").cloned().unwrap_or_default()),
                    },
                    _ => Answer::Value(Value::Null),
                };
                self.recorder.answer(method, answers.iter().map(answer));
                Ok(Value::Null)
            }
            "http_requests" => Ok(Value::List(self.http.requests().into_iter().map(request_value).collect())),
            "http_answer" => {
                let Value::List(answers) = argument(2) else { return Err("the answers are not a list".into()) };
                let answers = answers.iter().map(http_answer).collect::<Result<Vec<_>, _>>()?;
                self.http.answer(text(argument(0))?, text(argument(1))?, answers);
                Ok(Value::Null)
            }
            "log" => {
                let kind = if argument(0) == &Value::from("error") { LogKind::Error } else { LogKind::Print };
                if kind == LogKind::Error {
                    self.errors_expected.set(true);
                }
                Ok(Value::List(self.logged(kind).into_iter().map(Value::Text).collect()))
            }
            unknown => Err(format!("@antiraid-test knows no `{unknown}`")),
        }
    }

    /// Sends events, all at once and in this order, and moves the clock until all are answered and whatever is left sleeps.
    async fn send(&self, events: &[Event]) -> Vec<SentResult> {
        let busy = self.clock.busy();
        let mut sent = Vec::new();
        for event in events {
            sent.push(start(&self.vms, &self.cache, TENANT, event).await.map(|mut runs| runs.pop()));
        }
        drop(busy);
        let deadline = self.clock.elapsed() + self.limits.dispatch_timeout;
        let (timed_out, ring) = tokio::sync::watch::channel(false);
        let results = sent.into_iter().zip(events).map(|(sent, event)| {
            let mut ring = ring.clone();
            async move {
                let run = match sent {
                    Ok(Some((_, run))) => run,
                    Ok(None) => return SentResult::NotDelivered(self.nobody(event)),
                    Err(error) => return SentResult::Outcome(Err(error)),
                };
                tokio::select! {
                    biased;
                    outcome = ended(run) => SentResult::Outcome(outcome),
                    _ = ring.wait_for(|rung| *rung) => {
                        let seconds = self.limits.dispatch_timeout.as_secs();
                        let text = format!("timeout: not finished within {seconds} s of the clock");
                        SentResult::Outcome(Err(TemplateError::new(text)))
                    }
                }
            }
        });
        let moving = async {
            loop {
                self.clock.quiet().await;
                if self.clock.fire_next(deadline) {
                    continue;
                }
                if self.clock.next_timer().is_some() {
                    self.clock.skip_to(deadline);
                    let _ = timed_out.send(true);
                }
                tokio::time::sleep(IDLE_PACE).await;
            }
        };
        let results = tokio::select! {
            biased;
            results = join_all(results) => results,
            () = moving => unreachable!("because it goes on for ever"),
        };
        self.clock.quiet().await;
        results
    }

    fn nobody(&self, event: &Event) -> String {
        let name = event.name();
        match &self.subject {
            Some(template) => format!("{template} does not get {name}; it subscribes to {}", self.subscriptions),
            None => format!("nobody gets {name}: this spec is not in the folder of a template"),
        }
    }

    /// Moves the clock, with all timers on the way and all records that expire.
    async fn advance(&self, to: Duration) -> Result<Value, String> {
        loop {
            self.clock.quiet().await;
            let due = {
                let _busy = self.clock.busy();
                self.next_due().await.map_err(|error| error.to_string())?
            };
            let due = due.map(|(at, record)| {
                let ahead = Duration::try_from(at.duration_since(self.clock.now())).unwrap_or_default();
                (self.clock.elapsed() + ahead, at, record)
            });
            let until = due.as_ref().map_or(to, |(at, ..)| to.min(*at));
            while self.clock.fire_next(until) {
                self.clock.quiet().await;
            }
            self.clock.skip_to(until);
            match due {
                Some((due, at, record)) if due <= to => {
                    self.expire(record, at).await.map_err(|error| error.to_string())?;
                }
                _ => return Ok(Value::Null),
            }
        }
    }

    /// The record that expires next.
    async fn next_due(&self) -> Result<Option<(Timestamp, KvRecord)>, DbError> {
        let records = self.records().await?.into_iter();
        let expired = self.expired.borrow();
        let due = records.filter_map(|record| Some((record.expires_at?, record)));
        Ok(due.filter(|(at, record)| !expired.contains(&(record.id.clone(), *at))).min_by_key(|(at, _)| *at))
    }

    /// Announces a record that expires, and removes it if that went well and nobody changed its time.
    async fn expire(&self, record: KvRecord, at: Timestamp) -> Result<(), DbError> {
        self.expired.borrow_mut().insert((record.id.clone(), at));
        let data = serde_json::json!({ "id": record.id, "key": record.key, "scopes": record.scopes });
        let event = Event::antiraid(EventName::new("KeyExpiry"), data.to_string().into()).with_scopes(record.scopes);
        let results = self.send(&[event]).await;
        let _busy = self.clock.busy();
        for result in results {
            if let SentResult::Outcome(Err(error)) = result {
                self.vms.log(TENANT, LogKind::Error, self.subject.clone(), None, &error.text);
                return Ok(());
            }
        }
        if self.db.kv_get_by_id(TENANT, &record.id).await?.is_some_and(|now| now.expires_at == Some(at)) {
            self.db.kv_delete_by_id(TENANT, &record.id).await?;
        }
        Ok(())
    }

    /// All records, by key and then id.
    async fn records(&self) -> Result<Vec<KvRecord>, DbError> {
        let mut records = BTreeMap::new();
        for scope in self.db.kv_list_scopes(TENANT, KvPage::default()).await? {
            let scopes = Scopes::new([scope], self.db.kv_limits())?;
            for record in self.db.kv_find(TENANT, "%", &scopes, KvFindPage::default()).await? {
                records.insert((record.key.clone(), record.id.clone()), record);
            }
        }
        Ok(records.into_values().collect())
    }

    fn scopes(&self, value: &Value) -> Result<Scopes, String> {
        let Value::List(scopes) = value else { return Err("scopes (expected a list of texts)".into()) };
        let scopes = scopes.iter().map(|scope| text(scope).map(str::to_owned)).collect::<Result<Vec<_>, _>>()?;
        Scopes::new(scopes, self.db.kv_limits()).map_err(|error| error.to_string())
    }
}

/// What came of an event.
enum SentResult {
    /// No template subscribes to it.
    NotDelivered(String),
    Outcome(Result<Value, TemplateError>),
}

impl SentResult {
    fn into_value(self) -> Value {
        let (delivered, outcome) = match self {
            Self::NotDelivered(why) => (false, Err(TemplateError::new(why))),
            Self::Outcome(outcome) => (true, outcome),
        };
        let ok = outcome.is_ok();
        let (value, error) = outcome.map_or_else(|error| (Value::Null, Some(error)), |value| (value, None));
        Value::from([
            ("delivered", Value::Boolean(delivered)),
            ("ok", Value::Boolean(ok)),
            ("value", value),
            ("traceback", error.as_ref().and_then(|error| error.traceback.as_deref()).into()),
            ("error", error.as_ref().map(|error| &*error.text).into()),
        ])
    }
}

/// Starts an event in the tenant's templates.
async fn start(
    vms: &WorkerVmManager,
    cache: &WorkerCacheData,
    tenant: TenantId,
    event: &Event,
) -> Result<worker_vm::Runs, TemplateError> {
    let failed = |error: &dyn std::error::Error| TemplateError::new(crate::cli::chain(error));
    // A template may have changed the tenant's templates.
    cache.invalidate(tenant);
    cache.load(tenant).await.map_err(|error| failed(&error))?;
    let Lookup::Subscribers(subscribers) = cache.lookup(tenant, event) else { return Ok(worker_vm::Runs::new()) };
    loop {
        if let Some(runs) = vms.try_start(tenant, &subscribers, event, true).map_err(|error| failed(&error))? {
            return Ok(runs);
        }
        vms.prepare(tenant, &subscribers).await;
    }
}

async fn ended(run: Run) -> Result<Value, TemplateError> {
    match run {
        Run::NotLoaded(error) => Err(error),
        Run::Done(outcome) => outcome,
        Run::Running(outcome) => outcome.await,
    }
}

/// What a spec runs as.
fn spec_template(suite: &SpecSuite) -> Template {
    Template {
        name: TemplateName::builtins(),
        files: suite.files.clone(),
        events: ["MESSAGE".into()].into(),
        allowed_caps: Capabilities::default(),
        error_channel: None,
        compat: CompatDate::NEWEST,
        origin: TemplateOrigin::Builtin,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
    }
}

/// The event that a table of `@antiraid-test` describes.
fn event(value: &Value) -> Result<Event, String> {
    let Value::Map(fields) = value else { return Err("an event is no table".into()) };
    let data = fields.get("data").unwrap_or(&Value::Null);
    let json = Bytes::from(data.to_json_untyped().map_err(|error| error.to_string())?);
    let name = text(fields.get("name").unwrap_or(&Value::Null))?;
    let base = match fields.get("base_name") {
        Some(Value::Text(base)) if base == BaseName::AntiRaid.as_str() => BaseName::AntiRaid,
        _ => BaseName::Discord,
    };
    if base == BaseName::Discord {
        return Ok(Event::discord(name, json));
    }
    let mut event = Event::antiraid(EventName::new(name), json);
    if let Some(Value::List(scopes)) = fields.get("scopes") {
        event = event.with_scopes(scopes.iter().map(text).collect::<Result<Vec<_>, _>>()?);
    }
    if let Value::Map(data) = data
        && let Some(Value::Text(author)) = data.get("author")
        && let Ok(author) = author.parse()
    {
        event = event.with_author(author);
    }
    Ok(event)
}

fn record_value(record: KvRecord) -> Result<Value, String> {
    let value = Value::from_json(record.value_json.as_bytes()).map_err(|error| error.to_string())?;
    Ok(Value::from([
        ("id", record.id.into()),
        ("key", record.key.into()),
        ("value", value),
        ("scopes", Value::List(record.scopes.into_iter().map(Value::Text).collect())),
        ("version", (record.version as i64).into()),
        ("expires_at", record.expires_at.map(|at| at.as_second()).into()),
    ]))
}

fn request_value(request: HttpRequest) -> Value {
    let headers = request.headers.into_iter().map(|(name, value)| (name, Value::Text(value)));
    let text = |body: Bytes| match String::from_utf8(body.to_vec()) {
        Ok(text) => Value::Text(text),
        Err(_) => Value::Bytes(body),
    };
    Value::from([
        ("method", request.method.into()),
        ("url", request.url.into()),
        ("headers", Value::Map(headers.collect())),
        ("body", request.body.map_or(Value::Null, text)),
    ])
}

/// An answer of `http.on` or `http.fail`: `{ error }`, or `{ status?, headers?, body?, json? }`.
fn http_answer(value: &Value) -> Result<HttpAnswer, String> {
    let Value::Map(fields) = value else { return Err("an answer is no table".into()) };
    if let Some(error) = fields.get("error") {
        return Ok(HttpAnswer::Error(text(error)?.to_owned()));
    }
    let status = match fields.get("status") {
        None => 200,
        Some(status) => {
            let status = number(status).filter(|status| (100.0..=999.0).contains(status));
            status.ok_or("status (expected a number from 100 to 999)")? as u16
        }
    };
    let headers = match fields.get("headers") {
        Some(Value::Map(headers)) => headers
            .iter()
            .map(|(name, value)| Ok((name.clone(), text(value)?.to_owned())))
            .collect::<Result<_, String>>()?,
        _ => Vec::new(),
    };
    let body = match (fields.get("body"), fields.get("json")) {
        (Some(Value::Text(body)), None) => Bytes::from(body.clone()),
        (Some(Value::Bytes(body) | Value::Buffer(body)), None) => body.clone(),
        (None, Some(json)) => Bytes::from(json.to_json_untyped().map_err(|error| error.to_string())?),
        (None, None) => Bytes::new(),
        _ => return Err("an answer has either a body, which is a text or a buffer, or json".into()),
    };
    Ok(HttpAnswer::Response { status, headers, body })
}

fn known_method(method: &str) -> Result<&'static str, String> {
    let known = Recorder::methods().find(|known| *known == method);
    known.ok_or_else(|| {
        format!("ctx.Discord has no method `{method}`{}", crate::mistake::did_you_mean(method, Recorder::methods()))
    })
}

fn text(value: &Value) -> Result<&str, String> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(format!("expected a text, got {other:?}")),
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        _ => None,
    }
}
