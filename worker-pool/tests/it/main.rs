//! Threads and pools, with engines that do what each event says.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is a report")]

mod contract;
mod endings;
mod panics;
mod pools;
mod queues;

use std::cell::{Cell, RefCell};
use std::panic::catch_unwind;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::spawn_local;
use worker_core::contract::{ANSWER_TIMEOUT, Order, TestEngine, TestWorker};
use worker_core::{
    Call, DispatchResult, Event, Reply, TemplateName, TemplateResult, TenantId, Value, WorkerError, WorkerErrorKind,
    WorkerFilter, WorkerId, WorkerLike,
};
use worker_pool::{RestartPolicy, WorkerThread, WorkerThreadConfig};

const TENANT: TenantId = TenantId::guild(1 << 22);

/// A test worker with more faults: those that take a runtime.
struct Engine {
    inner: Rc<TestWorker>,
    filter: RefCell<WorkerFilter>,
}

/// Gateway names of the events that [`Engine`] answers itself.
const PANIC_IN_TASK: &str = "PANIC_IN_TASK";
const PANIC_CAUGHT: &str = "PANIC_CAUGHT";
const WHO: &str = "WHO";

thread_local! {
    static PANICS_CAUGHT: Cell<u64> = const { Cell::new(0) };
}

impl Engine {
    fn new(engine: &TestEngine, id: WorkerId, filter: WorkerFilter) -> Self {
        Self { inner: Rc::new(engine.worker(id)), filter: RefCell::new(filter) }
    }
}

impl WorkerLike for Engine {
    fn id(&self) -> WorkerId {
        self.inner.id()
    }

    fn submit(&self, call: Call) {
        match call {
            Call::Dispatch { tenant, event, reply_to } => match event.name().as_str() {
                PANIC_IN_TASK => {
                    let inner = Rc::clone(&self.inner);
                    spawn_local(async move {
                        tokio::task::yield_now().await;
                        let _in_flight = (reply_to, inner);
                        panic!("a task of the engine panics");
                    });
                }
                PANIC_CAUGHT => {
                    spawn_local(async move {
                        let _ = catch_unwind(|| panic!("the engine catches this"));
                        PANICS_CAUGHT.set(PANICS_CAUGHT.get() + 1);
                        reply_to.send(Ok(result(Value::Null)));
                    });
                }
                WHO if !self.filter.borrow().owns(tenant) => {
                    reply_to.send(Err(WorkerError::new(WorkerErrorKind::BadRequest, "the tenant is another's")));
                }
                WHO => reply_to.send(Ok(result(Value::Integer(self.id().get().into())))),
                _ => self.inner.submit(Call::Dispatch { tenant, event, reply_to }),
            },
            Call::Own { filter, reply_to } => {
                self.filter.replace(filter.clone());
                self.inner.submit(Call::Own { filter, reply_to });
            }
            call => self.inner.submit(call),
        }
    }
}

fn config(engine: &TestEngine) -> WorkerThreadConfig {
    let engine = engine.clone();
    WorkerThreadConfig::new(move |id, filter| {
        let engine = engine.clone();
        async move { Ok(Engine::new(&engine, id, filter)) }
    })
}

/// Restarts as many as said, without a wait.
fn restarts(restarts_max: usize) -> RestartPolicy {
    RestartPolicy {
        restarts_max,
        window: Duration::from_secs(3_600),
        backoff_min: Duration::ZERO,
        backoff_max: Duration::ZERO,
    }
}

async fn start(config: &WorkerThreadConfig) -> WorkerThread {
    WorkerThread::start(WorkerId::new(1), WorkerFilter::all(), config).await.unwrap()
}

/// The event of the order under another name, and so of another priority.
fn as_event(t: &str, order: &Order) -> Event {
    Event::discord(t, order.event().data().clone())
}

fn named(t: &str) -> Event {
    Event::discord(t, "{}".into())
}

fn echo() -> Event {
    Order::Echo { value: Value::Null }.event()
}

fn result(value: Value) -> DispatchResult {
    let template = TemplateName::new("test").unwrap();
    DispatchResult { templates: vec![TemplateResult { template, outcome: Ok(value) }] }
}

/// The answer; a failed test if there is none.
async fn answer<T>(reply: Reply<T>) -> Result<T, WorkerError> {
    tokio::time::timeout(ANSWER_TIMEOUT, reply).await.expect("an answer in time")
}

async fn value(reply: Reply<DispatchResult>) -> Value {
    answer(reply).await.unwrap().templates.remove(0).outcome.unwrap()
}

/// An error and what caused it, in words.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let links = std::iter::successors(Some(error), |error| error.source());
    links.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
