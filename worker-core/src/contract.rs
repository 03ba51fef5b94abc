//! The contract of [`WorkerLike`], as checks that every implementor runs in its own tests.
//!
//! An implementor hosts [`TestWorker`]s, whose behaviour each event tells by itself, and hands a function that starts one
//! of its kind around a [`TestEngine`] to [`worker_like_contract!`](crate::worker_like_contract):
//!
//! ```
//! # mod doc {
//! use worker_core::contract::{TestEngine, TestWorker};
//!
//! // A thread or a pool would be started here; the test worker itself is the smallest implementor.
//! async fn start(engine: TestEngine) -> TestWorker {
//!     engine.worker(worker_core::WorkerId::new(1))
//! }
//!
//! worker_core::worker_like_contract!(start);
//! # }
//! ```
//!
//! What only some implementors promise is not in the macro: [`a_panic_fails_what_was_in_flight_and_nothing_else`] is for
//! those that restart a worker that panicked, [`a_stuck_worker_never_blocks_its_callers`] for those that have a queue of
//! their own. A call that is not answered within [`ANSWER_TIMEOUT`] of real time fails the check, so the checks are not for
//! runtimes whose time is paused.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::{
    Call, DispatchResult, Event, EventName, Reply, ReplyTo, TemplateError, TemplateName, TemplateResult, TenantId,
    Value, WorkerError, WorkerErrorKind, WorkerFilter, WorkerId, WorkerLike, WorkerStats,
};

/// How long a check waits for an answer before it fails. Long, so that a busy machine is no fault of the implementor.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs every check that all implementors must pass as a `#[tokio::test]` each. The argument is an
/// `async fn(TestEngine) -> impl WorkerLike`; it is called once a check.
#[macro_export]
macro_rules! worker_like_contract {
    ($start:path) => {
        $crate::worker_like_contract! { $start =>
            every_dispatch_is_answered_with_its_own_result
            events_of_a_tenant_start_in_order
            dropped_replies_do_no_harm
            failures_come_back_typed
            a_waiting_dispatch_delays_nobody
            kill_answers_what_is_pending
            dropping_the_worker_answers_what_is_pending
            drain_finishes_what_was_taken
            overload_is_typed_and_passes
            after_a_reload_events_see_the_new_templates
            stats_count
            health_is_answered_until_the_end
            what_is_given_up_has_ended_then
        }
    };
    ($start:path => $($check:ident)*) => { $(
        #[tokio::test]
        async fn $check() {
            $crate::contract::$check(&$start).await;
        }
    )* };
}

/// What an event tells a [`TestWorker`] to do; the event's data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Order {
    /// Answers with this value.
    Echo {
        /// The value.
        value: Value,
    },
    /// Answers with how many `Count`s of the tenant came so far, this one among them.
    Count,
    /// Answers with how often the tenant was reloaded.
    Reloads,
    /// Answers with the failure of a template.
    Fail {
        /// The error's text.
        text: String,
    },
    /// Answers when a `Release` for the same tenant comes, with Null, or when the worker ends. At most
    /// [`TestWorker::HELD_MAX`] wait; one more is refused as `Overloaded`.
    Hold,
    /// Answers all `Hold`s of the tenant, then itself with how many there were.
    Release,
    /// Panics.
    Panic,
    /// Holds the worker's thread until [`TestEngine::unstick`].
    Stick,
}

impl Order {
    /// The event that carries the order.
    pub fn event(&self) -> Event {
        let data = serde_json::to_vec(self).expect("because the orders of tests hold values that JSON can carry");
        Event::antiraid(EventName::new("Test"), data.into())
    }

    fn echo(value: impl Into<Value>) -> Event {
        Self::Echo { value: value.into() }.event()
    }
}

/// Makes [`TestWorker`]s, in whichever thread asks, and shares with them what the test looks at. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct TestEngine(Arc<Gate>);

#[derive(Debug, Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
    stuck: Notify,
}

impl TestEngine {
    /// An engine without workers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A worker. It cannot leave the thread in which it is made.
    pub fn worker(&self, id: WorkerId) -> TestWorker {
        TestWorker { id, engine: self.clone(), state: RefCell::default(), not_send: PhantomData }
    }

    /// Waits until a worker has begun an [`Order::Stick`].
    pub async fn stuck(&self) {
        self.0.stuck.notified().await;
    }

    /// Frees the workers that are stuck, for ever.
    pub fn unstick(&self) {
        *self.0.open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.opened.notify_all();
    }

    fn stick(&self) {
        self.0.stuck.notify_one();
        let open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.0.opened.wait_while(open, |open| !*open));
    }
}

/// A worker without Luau: it does what the data of each event says ([`Order`]). Like a real one it is not `Send`, answers
/// some events later than others, and can break. Data that is no order is refused as `BadRequest`.
pub struct TestWorker {
    id: WorkerId,
    engine: TestEngine,
    state: RefCell<State>,
    not_send: PhantomData<Rc<()>>,
}

#[derive(Default)]
struct State {
    ended: bool,
    filter: WorkerFilter,
    held: Vec<(TenantId, ReplyTo<DispatchResult>)>,
    counts: HashMap<TenantId, i64>,
    reloads: HashMap<TenantId, i64>,
    stats: WorkerStats,
}

impl TestWorker {
    /// How many [`Order::Hold`]s may wait.
    pub const HELD_MAX: usize = 32;

    fn dispatch_now(&self, tenant: TenantId, event: &Event, reply_to: ReplyTo<DispatchResult>) {
        let order = match serde_json::from_slice(event.data()) {
            Ok(order) => order,
            Err(error) => {
                return reply_to
                    .send(Err(WorkerError::new(WorkerErrorKind::BadRequest, "no order").with_source(error)));
            }
        };
        let state = &mut *self.state.borrow_mut();
        if !state.filter.owns(tenant) {
            return reply_to.send(Err(WorkerError::new(WorkerErrorKind::BadRequest, "the tenant is another's")));
        }
        state.stats.events += 1;
        state.stats.events_dispatched += 1;
        state.stats.templates_run += 1;
        let outcome = match order {
            Order::Echo { value } => Ok(value),
            Order::Count => Ok(bump(&mut state.counts, tenant).into()),
            Order::Reloads => Ok(state.reloads.get(&tenant).copied().unwrap_or(0).into()),
            Order::Fail { text } => {
                state.stats.templates_failed += 1;
                Err(TemplateError::new(text))
            }
            Order::Hold if state.held.len() >= Self::HELD_MAX => {
                state.stats.events_refused += 1;
                return reply_to.send(Err(WorkerError::new(WorkerErrorKind::Overloaded, "too many are held")));
            }
            Order::Hold => {
                state.held.push((tenant, reply_to));
                return;
            }
            Order::Release => {
                let of_tenant = state.held.extract_if(.., |(holder, _)| *holder == tenant);
                let released = of_tenant.map(|(_, reply_to)| reply_to.send(Ok(result(Ok(Value::Null))))).count();
                Ok(Value::Integer(released as i64))
            }
            Order::Panic => panic!("the test told the worker to panic"),
            Order::Stick => {
                self.engine.stick();
                Ok(Value::Null)
            }
        };
        reply_to.send(Ok(result(outcome)));
    }
}

impl WorkerLike for TestWorker {
    fn id(&self) -> WorkerId {
        self.id
    }

    fn submit(&self, call: Call) {
        if self.state.borrow().ended {
            // To end twice is no mistake.
            return match call {
                Call::Drain { reply_to } | Call::Kill { reply_to } => reply_to.send(Ok(())),
                call => call.refuse(WorkerError::new(WorkerErrorKind::WorkerGone, "the test worker has ended")),
            };
        }
        match call {
            Call::Dispatch { tenant, event, reply_to } => self.dispatch_now(tenant, &event, reply_to),
            Call::Reload { tenant, reply_to } => {
                bump(&mut self.state.borrow_mut().reloads, tenant);
                reply_to.send(Ok(()));
            }
            Call::Stats { reply_to } => {
                reply_to.send(Ok(WorkerStats { workers: 1, ..self.state.borrow().stats.clone() }));
            }
            Call::Health { reply_to } => reply_to.send(Ok(())),
            Call::Own { filter, reply_to } => {
                let state = &mut *self.state.borrow_mut();
                let given_up = state.held.extract_if(.., |(holder, _)| !filter.owns(*holder));
                given_up.for_each(|(_, held)| held.send(Ok(result(Ok(Value::Null)))));
                state.counts.retain(|tenant, _| filter.owns(*tenant));
                state.filter = filter;
                reply_to.send(Ok(()));
            }
            Call::Drain { reply_to } => {
                // What is held is work that ends well while the worker drains.
                let state = &mut *self.state.borrow_mut();
                state.ended = true;
                state.held.drain(..).for_each(|(_, held)| held.send(Ok(result(Ok(Value::Null)))));
                reply_to.send(Ok(()));
            }
            Call::Kill { reply_to } => {
                let state = &mut *self.state.borrow_mut();
                state.ended = true;
                for (_, held) in state.held.drain(..) {
                    held.send(Err(WorkerError::new(WorkerErrorKind::WorkerGone, "the test worker was killed")));
                }
                reply_to.send(Ok(()));
            }
        }
    }
}

fn bump(counts: &mut HashMap<TenantId, i64>, tenant: TenantId) -> i64 {
    let count = counts.entry(tenant).or_default();
    *count += 1;
    *count
}

fn result(outcome: Result<Value, TemplateError>) -> DispatchResult {
    let template = TemplateName::new("test").expect("because `test` is a name");
    DispatchResult { templates: vec![TemplateResult { template, outcome }] }
}

/// Two tenants that differ in the bits that Discord's routing looks at, so that a pool of any size may part them.
const A: TenantId = TenantId::guild(1 << 22);
const B: TenantId = TenantId::guild(2 << 22);

/// The answer, or a failed check.
async fn answer<T>(what: &str, reply: Reply<T>) -> Result<T, WorkerError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, reply).await {
        Ok(answer) => answer,
        Err(_) => panic!("{what}: no answer in {ANSWER_TIMEOUT:?}"),
    }
}

async fn answer_ok<T>(what: &str, reply: Reply<T>) -> T {
    answer(what, reply).await.unwrap_or_else(|error| panic!("{what}: {error}"))
}

async fn answer_err<T>(what: &str, reply: Reply<T>) -> WorkerErrorKind {
    match answer(what, reply).await {
        Ok(_) => panic!("{what}: succeeded, and should not"),
        Err(error) => error.kind(),
    }
}

/// The value that the one template returned.
async fn value(what: &str, reply: Reply<DispatchResult>) -> Value {
    let mut result = answer_ok(what, reply).await;
    assert_eq!(result.templates.len(), 1, "{what}: one entry for the one template");
    let outcome = result.templates.remove(0).outcome;
    outcome.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// The answer if it is there already.
async fn answer_at_hand<T>(reply: Reply<T>) -> Option<Result<T, WorkerError>> {
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

/// Each of many dispatches, of many tenants at once, is answered, and with the result of its own event.
pub async fn every_dispatch_is_answered_with_its_own_result<W: WorkerLike>(start: &impl AsyncFn(TestEngine) -> W) {
    let worker = start(TestEngine::new()).await;
    let calls = (1..=20u64)
        .flat_map(|tenant| (0..10u64).map(move |event| (TenantId::guild(tenant << 22), tenant * 100 + event)));
    let replies: Vec<_> =
        calls.map(|(tenant, tag)| (tag, worker.dispatch(tenant, Order::echo(tag.to_string())))).collect();
    // Answers wait for whoever asks late, in any order.
    for (tag, reply) in replies.into_iter().rev() {
        assert_eq!(value("echo", reply).await, Value::Text(tag.to_string()));
    }
    let user = worker.dispatch(TenantId::user(7), Order::echo("a user"));
    assert_eq!(value("echo of a user's", user).await, Value::Text("a user".into()));
}

/// Events of one tenant, all of one priority, start in the order in which they were submitted.
pub async fn events_of_a_tenant_start_in_order<W: WorkerLike>(start: &impl AsyncFn(TestEngine) -> W) {
    let worker = start(TestEngine::new()).await;
    let replies: Vec<_> = (0..100).map(|_| worker.dispatch(A, Order::Count.event())).collect();
    for (nth, reply) in (1..).zip(replies) {
        assert_eq!(value("count", reply).await, Value::Integer(nth));
    }
}

/// Callers who go away, before or after their event has started, leave the worker well.
pub async fn dropped_replies_do_no_harm<W: WorkerLike>(start: &impl AsyncFn(TestEngine) -> W) {
    let worker = start(TestEngine::new()).await;
    for _ in 0..10 {
        drop(worker.dispatch(A, Order::Hold.event()));
        drop(worker.dispatch(A, Order::echo("nobody waits")));
        worker.dispatch_nowait(B, Order::Hold.event());
    }
    drop(worker.reload(A));
    drop(worker.stats());
    value("release", worker.dispatch(A, Order::Release.event())).await;
    assert_eq!(value("release of nowait", worker.dispatch(B, Order::Release.event())).await, Value::Integer(10));
    assert_eq!(value("echo", worker.dispatch(A, Order::echo("well"))).await, Value::Text("well".into()));
}

/// A template's failure is a result; what the worker refuses is an error with its kind.
pub async fn failures_come_back_typed<W: WorkerLike>(start: &impl AsyncFn(TestEngine) -> W) {
    let worker = start(TestEngine::new()).await;
    let failed = worker.dispatch(A, Order::Fail { text: "init.luau:3: no".into() }.event());
    let failed = answer_ok("a template that fails", failed).await;
    assert_eq!(failed, result(Err(TemplateError::new("init.luau:3: no"))));
    let unknown = worker.dispatch(A, Event::antiraid(EventName::new("Test"), "not JSON".into()));
    assert_eq!(answer_err("an unknown event", unknown).await, WorkerErrorKind::BadRequest);
    assert_eq!(value("echo", worker.dispatch(A, Order::echo("well"))).await, Value::Text("well".into()));
}

/// While one dispatch waits, others of the same tenant and of other tenants are answered.
pub async fn a_waiting_dispatch_delays_nobody<W: WorkerLike>(start: &impl AsyncFn(TestEngine) -> W) {
    let worker = start(TestEngine::new()).await;
    let held = worker.dispatch(A, Order::Hold.event());
    for tenant in [A, B] {
        assert_eq!(
            value("echo", worker.dispatch(tenant, Order::echo("meanwhile"))).await,
            Value::Text("meanwhile".into())
        );
    }
    assert_eq!(value("release", worker.dispatch(A, Order::Release.event())).await, Value::Integer(1));
    assert_eq!(value("the one that waited", held).await, Value::Null);
}

/// Kill answers all that is pending with `WorkerGone`, before or when it answers itself, and so is all that comes later.
pub async fn kill_answers_what_is_pending<W: WorkerLike>(start: &impl AsyncFn(TestEngine) -> W) {
    let worker = start(TestEngine::new()).await;
    let held: Vec<_> = (0..8).flat_map(|_| [A, B]).map(|tenant| worker.dispatch(tenant, Order::Hold.event())).collect();
    answer_ok("kill", worker.kill()).await;
    for reply in held {
        assert_eq!(answer_err("held at the kill", reply).await, WorkerErrorKind::WorkerGone);
    }
    is_gone(&worker).await;
}

/// Whoever drops the worker leaves nobody without an answer.
pub async fn dropping_the_worker_answers_what_is_pending<W: WorkerLike>(start: &impl AsyncFn(TestEngine) -> W) {
    let worker = start(TestEngine::new()).await;
    let held = worker.dispatch(A, Order::Hold.event());
    value("echo", worker.dispatch(A, Order::echo("the held one has started"))).await;
    drop(worker);
    assert_eq!(answer_err("held when the worker was dropped", held).await, WorkerErrorKind::WorkerGone);
}

/// Drain answers after all that was taken before it is answered, well; what comes later is refused with `WorkerGone`.
pub async fn drain_finishes_what_was_taken<W: WorkerLike>(start: &impl AsyncFn(TestEngine) -> W) {
    let worker = start(TestEngine::new()).await;
    let held: Vec<_> = [A, B].map(|tenant| worker.dispatch(tenant, Order::Hold.event())).into();
    let queued: Vec<_> = (0..50).flat_map(|_| [A, B]).map(|tenant| worker.dispatch(tenant, Order::echo("q"))).collect();
    let drained = worker.drain();
    let late = worker.dispatch(A, Order::echo("late"));
    answer_ok("drain", drained).await;
    for reply in held.into_iter().chain(queued) {
        match answer_at_hand(reply).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => panic!("taken before the drain, but not finished: {error}"),
            None => panic!("the drain was answered before what was taken earlier"),
        }
    }
    assert_eq!(answer_err("submitted after the drain", late).await, WorkerErrorKind::WorkerGone);
    is_gone(&worker).await;
}

async fn is_gone(worker: &impl WorkerLike) {
    let gone = WorkerErrorKind::WorkerGone;
    assert!(gone.is_retryable());
    assert_eq!(answer_err("dispatch to one that ended", worker.dispatch(A, Order::echo("x"))).await, gone);
    assert_eq!(answer_err("reload of one that ended", worker.reload(A)).await, gone);
    worker.dispatch_nowait(A, Order::echo("x"));
    // Ending again may succeed or be refused, but is answered.
    for again in [worker.kill(), worker.drain()] {
        if let Err(error) = answer("ending again", again).await {
            assert_eq!(error.kind(), gone);
        }
    }
}

/// What a full worker cannot take is refused at once as `Overloaded`, which is retryable, and works when there is room.
pub async fn overload_is_typed_and_passes<W: WorkerLike>(start: &impl AsyncFn(TestEngine) -> W) {
    let worker = start(TestEngine::new()).await;
    let held: Vec<_> = (0..TestWorker::HELD_MAX).map(|_| worker.dispatch(A, Order::Hold.event())).collect();
    for _ in 0..10 {
        let kind = answer_err("one too many", worker.dispatch(A, Order::Hold.event())).await;
        assert_eq!(kind, WorkerErrorKind::Overloaded);
        assert!(kind.is_retryable());
    }
    let released = value("release", worker.dispatch(A, Order::Release.event())).await;
    assert_eq!(released, Value::Integer(TestWorker::HELD_MAX as i64));
    for reply in held {
        assert_eq!(value("one that was taken", reply).await, Value::Null);
    }
    let retried = worker.dispatch(A, Order::Hold.event());
    value("release", worker.dispatch(A, Order::Release.event())).await;
    assert_eq!(value("tried again", retried).await, Value::Null);
}

/// Reload is answered, and reaches the worker that owns the tenant and that one alone.
pub async fn after_a_reload_events_see_the_new_templates<W: WorkerLike>(start: &impl AsyncFn(TestEngine) -> W) {
    let worker = start(TestEngine::new()).await;
    for reloads in 1..=3 {
        answer_ok("reload", worker.reload(A)).await;
        let seen = value("reloads", worker.dispatch(A, Order::Reloads.event())).await;
        assert_eq!(seen, Value::Integer(reloads));
    }
    assert_eq!(value("reloads of another", worker.dispatch(B, Order::Reloads.event())).await, Value::Integer(0));
}

/// Statistics count each event once, waited for or not.
pub async fn stats_count<W: WorkerLike>(start: &impl AsyncFn(TestEngine) -> W) {
    let worker = start(TestEngine::new()).await;
    let before = answer_ok("stats", worker.stats()).await;
    assert!(before.workers >= 1);
    assert_eq!((before.events, before.restarts), (0, 0));
    for tenant in (1..=10u64).map(|id| TenantId::guild(id << 22)) {
        worker.dispatch_nowait(tenant, Order::echo("nobody waits"));
        value("echo", worker.dispatch(tenant, Order::echo("somebody waits"))).await;
        answer_ok("fail", worker.dispatch(tenant, Order::Fail { text: "no".into() }.event())).await;
    }
    let after = answer_ok("stats", worker.stats()).await;
    assert_eq!(after.workers, before.workers);
    assert_eq!((after.events, after.events_dispatched, after.templates_run), (30, 30, 30));
    assert_eq!((after.templates_failed, after.events_dropped, after.events_refused), (10, 0, 0));
}

/// Who is asked whether it runs says so, and not any more when it was drained.
pub async fn health_is_answered_until_the_end<W: WorkerLike>(start: &impl AsyncFn(TestEngine) -> W) {
    let worker = start(TestEngine::new()).await;
    answer_ok("health", worker.health()).await;
    answer_ok("drain", worker.drain()).await;
    assert_eq!(answer_err("health of what has ended", worker.health()).await, WorkerErrorKind::WorkerGone);
}

/// When a worker has given a tenant up, all that it had of it has ended; it takes nothing more of it, until it owns it
/// again. Other tenants feel nothing.
pub async fn what_is_given_up_has_ended_then<W: WorkerLike>(start: &impl AsyncFn(TestEngine) -> W) {
    let worker = start(TestEngine::new()).await;
    let held = worker.dispatch(A, Order::Hold.event());
    let counted: Vec<_> = (1..=20).map(|_| worker.dispatch(A, Order::Count.event())).collect();
    let other = worker.dispatch(B, Order::Count.event());
    answer_ok("own", worker.own(WorkerFilter::all().without([A]))).await;
    let held = answer_at_hand(held).await.expect("because what runs has ended");
    held.unwrap_or_else(|error| panic!("what is given up ends well: {error}"));
    for (number, reply) in (1..).zip(counted) {
        let answer = answer_at_hand(reply).await.expect("because what was taken has ended");
        let mut answer = answer.unwrap_or_else(|error| panic!("what is given up ends well: {error}"));
        assert_eq!(answer.templates.remove(0).outcome, Ok(Value::Integer(number)));
    }
    let refused = answer_err("an event of another's tenant", worker.dispatch(A, Order::echo("x"))).await;
    assert_eq!(refused, WorkerErrorKind::BadRequest);
    assert_eq!(value("count", other).await, Value::Integer(1));
    assert_eq!(value("count of B", worker.dispatch(B, Order::Count.event())).await, Value::Integer(2));
    answer_ok("own again", worker.own(WorkerFilter::all())).await;
    let again = value("an event of the tenant that is back", worker.dispatch(A, Order::Count.event())).await;
    assert_eq!(again, Value::Integer(1), "nothing of it was left here");
}

/// For implementors that restart a worker: a panic answers what was running in that worker with a retryable error, and
/// the next events work. The restart is counted.
pub async fn a_panic_fails_what_was_in_flight_and_nothing_else<W: WorkerLike>(start: &impl AsyncFn(TestEngine) -> W) {
    let worker = start(TestEngine::new()).await;
    let held = worker.dispatch(A, Order::Hold.event());
    let panicked = worker.dispatch(A, Order::Panic.event());
    assert_eq!(answer_err("the event that panicked", panicked).await, WorkerErrorKind::WorkerGone);
    assert_eq!(answer_err("running beside it", held).await, WorkerErrorKind::WorkerGone);
    let retry = async {
        loop {
            match answer("after the panic", worker.dispatch(A, Order::echo("again"))).await {
                Ok(again) => return again,
                Err(error) => assert!(error.kind().is_retryable(), "after the panic: {error}"),
            }
            // As a caller does: the worker may wait a little before it starts again.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let again = tokio::time::timeout(ANSWER_TIMEOUT, retry).await.expect("because a worker that panicked is restarted");
    assert_eq!(again, result(Ok("again".into())));
    assert_eq!(answer_ok("stats", worker.stats()).await.restarts, 1);
}

/// For implementors with queues: while the worker's thread is stuck, `submit` returns at once; at most `queue_max` events
/// wait, the next one that somebody waits for is refused as `Overloaded`, and the next one that nobody waits for is
/// dropped and counted.
pub async fn a_stuck_worker_never_blocks_its_callers<W: WorkerLike>(
    queue_max: usize,
    start: &impl AsyncFn(TestEngine) -> W,
) {
    /// Frees the thread though the check fails, or nothing could join it.
    struct Unstick(TestEngine);
    impl Drop for Unstick {
        fn drop(&mut self) {
            self.0.unstick();
        }
    }

    let engine = TestEngine::new();
    let worker = start(engine.clone()).await;
    let stuck = worker.dispatch(A, Order::Stick.event());
    let began = tokio::time::timeout(ANSWER_TIMEOUT, engine.stuck()).await;
    let unstick = Unstick(engine);
    began.expect("because the worker takes the event and gets stuck in it");

    let replies: Vec<_> = (0..=queue_max).map(|_| worker.dispatch(A, Order::Count.event())).collect();
    worker.dispatch_nowait(A, Order::Count.event());
    drop(unstick);

    assert_eq!(value("the one that was stuck", stuck).await, Value::Null);
    let mut taken = 0;
    let mut refused = 0;
    for reply in replies {
        match answer("queued behind it", reply).await {
            Ok(counted) => {
                taken += 1;
                assert_eq!(counted, result(Ok(Value::Integer(taken))), "in order, and none twice");
            }
            Err(error) => {
                refused += 1;
                assert_eq!(error.kind(), WorkerErrorKind::Overloaded);
            }
        }
    }
    assert!(refused >= 1, "all of {taken} were taken, though {queue_max} is the most");
    let stats = answer_ok("stats", worker.stats()).await;
    assert_eq!((stats.events_refused, stats.events_dropped), (refused, 1));
}
