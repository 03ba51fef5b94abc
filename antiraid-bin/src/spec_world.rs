//! The world of one test: a VM for the spec, one for what it tests, an empty store, and a clock that the test moves.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{Mutex, Notify, mpsc};
use worker_core::{
    BaseName, Capabilities, CompatDate, DispatchResult, Event, EventName, Limits, ManualClock, RatelimitRules,
    StaticRef, Template, TemplateError, TemplateName, TemplateOrigin, TenantId, Value, VirtualClock, WorkerError,
    WorkerFilter, WorkerId, WorkerLike,
};
use worker_db::{
    DbClock, DbConfig, DbError, KvFindPage, KvPage, KvRecord, KvSet, Lookup, Scopes, SharedCache, SharedCacheConfig,
    WorkerCacheData, WorkerDb,
};
use worker_dispatch::WorkerDispatcher;
use worker_expiry::{ExpiryProcess, ExpirySettings, KeyExpiryChannel, WorkerKeyExpiry};
use worker_vm::{
    Answer, AnswerFunction, Harness, HttpAnswer, HttpRecorder, Links, LogKind, Question, Recorder, Run, TestCall,
    WorkerState, WorkerVmManager,
};

use crate::parking::Parking;

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

/// Between two looks for what other processes wrote to the store of a test, and how long a lease lasts: there are none, and
/// each would be a step of the clock.
const NEVER: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);

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
    parking: Parking,
}

impl SpecCommon {
    /// With these limits for the templates under test, on the runtime that tells `parking` when it has nothing to run.
    pub fn new(seed: u64, limits: Limits, links: Links, parking: Parking) -> Self {
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
            parking,
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
    vms: WorkerVmManager,
    dispatcher: WorkerDispatcher,
    expiry: WorkerKeyExpiry,
    parking: Parking,
    subject: Option<TemplateName>,
    subscriptions: String,
    spec_cache: WorkerCacheData,
    spec_vms: WorkerVmManager,
    /// Calls of the spec that wait for what the clock brings, and see to it that the clock moves.
    movers: Cell<usize>,
    movers_changed: Notify,
    errors_expected: Cell<bool>,
    line_bytes_max: usize,
    /// Errors of templates that the spec was told, as the log has them.
    told: RefCell<Vec<String>>,
    /// What functions of the spec are asked; the spec takes one after the other.
    questions: Mutex<mpsc::UnboundedReceiver<Question>>,
    asking: mpsc::UnboundedSender<Question>,
    /// The question that the spec has taken and not answered.
    question: Cell<Option<Question>>,
    /// Notified when the test is over.
    ended: Notify,
}

impl SpecWorld {
    /// A world in which nothing has happened.
    pub async fn new(suite: &SpecSuite, common: &SpecCommon) -> Result<Rc<Self>, DbError> {
        let start = Timestamp::from_second(START_SECOND).expect("because it is a moment of this era");
        let clock = VirtualClock::new(start, common.hands.clone());
        let config = DbConfig {
            kv: common.limits.kv.clone(),
            templates: common.limits.templates.clone(),
            clock: DbClock::virtual_clock(clock.clone()),
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
        let limits = common.limits.clone();
        let vms = WorkerVmManager::new(state(&common.rules, harness), cache.clone(), limits.clone());
        let (id, filter) = (WorkerId::new(1), WorkerFilter::all().without([SPEC_TENANT]));
        let dispatcher = WorkerDispatcher::new(id, vms.clone(), cache, db.clone(), filter.clone(), limits);
        dispatcher.resume_keys();
        let settings = ExpirySettings { poll: NEVER, lease: NEVER, backoff_spread: 0.0, ..ExpirySettings::default() };
        let process = ExpiryProcess::new("antiraid test");
        let channel = KeyExpiryChannel::new(db.clone(), filter, &process, &settings);
        let expiry = WorkerKeyExpiry::new(dispatcher.clone(), db.clone(), channel, process, settings);

        let (host, calls) = mpsc::unbounded_channel();
        let spec = Arc::new(spec_template(suite));
        let spec_cache = WorkerCacheData::new(db.clone(), common.shared.clone(), Some(spec), common.limits.clone());
        let harness = Harness::for_specs(clock.clone(), common.seed, host);
        let spec_state = state(&common.spec_rules, harness);
        let spec_vms = WorkerVmManager::new(spec_state, spec_cache.clone(), common.spec_limits.clone());
        let (asking, questions) = mpsc::unbounded_channel();
        let world = Rc::new(Self {
            clock,
            recorder,
            http,
            db,
            vms,
            dispatcher,
            expiry,
            parking: common.parking.clone(),
            subject,
            subscriptions: events,
            spec_cache,
            spec_vms,
            movers: Cell::new(0),
            movers_changed: Notify::new(),
            errors_expected: Cell::new(false),
            line_bytes_max: common.limits.log_line_bytes_max,
            told: RefCell::default(),
            questions: Mutex::new(questions),
            asking,
            question: Cell::new(None),
            ended: Notify::new(),
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
            let mut runs = self.start_spec(&event).await?;
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
        self.expiry.end();
        self.ended.notify_waiters();
        self.spec_vms.cancel_all();
        // What it answers is nobody's.
        let _ = self.dispatcher.kill().await;
        self.db.close().await;
    }

    fn logged(&self, kind: LogKind) -> Vec<String> {
        let lines = self.dispatcher.log_lines(TENANT).into_iter().filter(|line| line.kind == kind);
        let mut told = self.told.borrow().clone();
        let mut is_news = |text: &String| {
            let known = told.iter().position(|told| told == text);
            known.map(|index| told.swap_remove(index)).is_none()
        };
        lines.map(|line| line.text.to_string()).filter(|text| is_news(text)).collect()
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
            self.quiet().await;
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
                let resume = argument(4) == &Value::Boolean(true);
                let set = KvSet { key, value_json, scopes, expires_at, resume };
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
                let answer =
                    |answer: &Value| self.given(answer, Answer::Function, Answer::Error, |v| Ok(Answer::Value(v)));
                self.recorder.answer(method, self.answers(argument(1), answer)?);
                Ok(Value::Null)
            }
            "http_requests" => {
                Ok(Value::List(self.http.requests().into_iter().map(worker_vm::HttpRequest::into_value).collect()))
            }
            "http_answer" => {
                let answer = |answer: &Value| {
                    self.given(answer, HttpAnswer::Function, HttpAnswer::Error, |value| HttpAnswer::from_value(&value))
                };
                self.http.answer(text(argument(0))?, text(argument(1))?, self.answers(argument(2), answer)?);
                Ok(Value::Null)
            }
            "reload" => {
                let reloaded = self.dispatcher.reload(TENANT).await;
                self.moving(self.advance(self.clock.elapsed())).await?;
                reloaded.map(|()| Value::Null).map_err(|error| crate::cli::chain(&error))
            }
            "question" => self.clock.idle_while(self.next_question()).await,
            "reply" => {
                let Some(question) = self.question.take() else { return Err("there is no question".into()) };
                question.reply(match argument(0) {
                    Value::Boolean(true) => Ok(argument(1).clone()),
                    _ => Err(text(argument(1))?.to_owned()),
                });
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
        // What was written before they came is known by now, as a template that the spec or another template changed.
        self.quiet().await;
        let sent: Vec<_> = events.iter().map(|event| self.dispatcher.dispatch(TENANT, event.clone())).collect();
        let moving = async {
            loop {
                self.quiet().await;
                if !self.clock.fire_next(Duration::MAX) {
                    tokio::time::sleep(IDLE_PACE).await;
                }
            }
        };
        let results = tokio::select! {
            biased;
            results = join_all(sent) => results,
            () = moving => unreachable!("because it goes on for ever"),
        };
        self.quiet().await;
        results.into_iter().zip(events).map(|(result, event)| self.sent_result(event, result)).collect()
    }

    /// What came of an event in the template under test.
    fn sent_result(&self, event: &Event, result: Result<DispatchResult, WorkerError>) -> SentResult {
        match result {
            Ok(DispatchResult { mut templates }) => {
                // A template may have made others.
                let is_subject = |name: &TemplateName| self.subject.as_ref().is_none_or(|subject| subject == name);
                match templates.iter().position(|result| is_subject(&result.template)) {
                    Some(index) => {
                        let outcome = templates.swap_remove(index).outcome;
                        if let Err(error) = &outcome {
                            let traceback = error.traceback.as_deref();
                            let mut logged = traceback.map_or(error.to_string(), |trace| format!("{error}\n{trace}"));
                            // As the log cuts its lines off.
                            logged.truncate(logged.floor_char_boundary(self.line_bytes_max));
                            self.told.borrow_mut().push(logged);
                        }
                        SentResult::Outcome(outcome)
                    }
                    None => SentResult::NotDelivered(self.nobody(event)),
                }
            }
            Err(error) => SentResult::Outcome(Err(TemplateError::new(crate::cli::chain(&error)))),
        }
    }

    /// Waits until all that is left sleeps: nothing is on its way on another thread, and this one has nothing to run.
    async fn quiet(&self) {
        loop {
            self.clock.quiet().await;
            self.parking.parked().await;
            if self.clock.is_quiet() {
                return;
            }
        }
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
            self.quiet().await;
            if !self.clock.fire_next(to) {
                self.clock.skip_to(to);
                return Ok(Value::Null);
            }
        }
    }

    /// The next thing that a function of the spec is asked: `{ function, arguments }`.
    async fn next_question(&self) -> Result<Value, String> {
        let asked = async { self.questions.lock().await.recv().await };
        let question = tokio::select! {
            () = self.ended.notified() => None,
            question = asked => question,
        };
        let question = question.ok_or("nothing is asked any more")?;
        let asked = Value::from([
            ("number", i64::from(question.function).into()),
            ("arguments", Value::List(question.arguments.clone())),
            ("count", (question.arguments.len() as i64).into()),
        ]);
        self.question.set(Some(question));
        Ok(asked)
    }

    /// Answers as the spec gives them.
    fn answers<T>(&self, list: &Value, answer: impl Fn(&Value) -> Result<T, String>) -> Result<Vec<T>, String> {
        let Value::List(answers) = list else { return Err("the answers are not a list".into()) };
        answers.iter().map(answer).collect()
    }

    /// One of `{ function }`, `{ error }` and `{ value }`.
    fn given<T>(
        &self,
        answer: &Value,
        function: impl FnOnce(AnswerFunction) -> T,
        error: impl FnOnce(String) -> T,
        value: impl FnOnce(Value) -> Result<T, String>,
    ) -> Result<T, String> {
        let Value::Map(fields) = answer else { return value(Value::Null) };
        match (fields.get("function"), fields.get("error")) {
            (Some(Value::Integer(number)), _) => {
                let number = u32::try_from(*number).map_err(|_| "the number of a function")?;
                Ok(function(AnswerFunction::new(number, self.asking.clone())))
            }
            (_, Some(Value::Text(text))) => Ok(error(text.clone())),
            _ => value(fields.get("value").cloned().unwrap_or_default()),
        }
    }

    /// Starts the spec.
    async fn start_spec(&self, event: &Event) -> Result<worker_vm::Runs, TemplateError> {
        let failed = |error: &dyn std::error::Error| TemplateError::new(crate::cli::chain(error));
        self.spec_cache.load(SPEC_TENANT).await.map_err(|error| failed(&error))?;
        let Lookup::Subscribers(subscribers) = self.spec_cache.lookup(SPEC_TENANT, event) else {
            return Ok(worker_vm::Runs::new());
        };
        loop {
            let started = self.spec_vms.try_start(SPEC_TENANT, &subscribers, event, true);
            if let Some(runs) = started.map_err(|error| failed(&error))? {
                return Ok(runs);
            }
            self.spec_vms.prepare(SPEC_TENANT, &subscribers).await;
        }
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
