//! Worker processes that are real, and whose engines do what each event says (`examples/test_worker.rs`).
#![expect(clippy::unwrap_used, reason = "in a test, a panic is a report")]

mod connection;
mod contract;
mod deaths;
mod endings;
mod messages;
mod quarantine;
mod resize;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Pid, Signal};
use tokio::time::timeout;
use worker_core::contract::{ANSWER_TIMEOUT, Order};
use worker_core::{
    DispatchResult, Event, Reply, Routing, TenantId, Value, WorkerError, WorkerErrorKind, WorkerFilter, WorkerId,
    WorkerLike,
};
use worker_pool::RestartPolicy;
use worker_process::{Program, WorkerProcessConfig, WorkerProcessHandle};

const TENANT: TenantId = TenantId::guild(1 << 22);
const OTHER: TenantId = TenantId::guild(2 << 22);

/// Processes with so many worker threads.
fn config(threads: usize) -> WorkerProcessConfig {
    let restarts = RestartPolicy { restarts_max: 1_000, ..RestartPolicy::default() };
    WorkerProcessConfig::new(program(), &threads).unwrap().with_restarts(restarts)
}

/// The example, which is built with the tests.
fn program() -> Program {
    let test = std::env::current_exe().unwrap();
    let path: PathBuf = test.parent().and_then(|deps| deps.parent()).unwrap().join("examples/test_worker");
    assert!(path.exists(), "{} is not built: run the tests with `cargo test` or `cargo nextest run`", path.display());
    Program { path, args: Vec::new(), env: Vec::new() }
}

async fn start(config: &WorkerProcessConfig) -> WorkerProcessHandle {
    WorkerProcessHandle::start(WorkerId::new(1), WorkerFilter::all(), Routing::default(), config).await.unwrap()
}

fn event(name: &str, data: impl Into<Bytes>) -> Event {
    Event::discord(name, data.into())
}

async fn answer<T>(reply: Reply<T>) -> Result<T, WorkerError> {
    timeout(ANSWER_TIMEOUT, reply).await.expect("because every call is answered")
}

async fn value(reply: Reply<DispatchResult>) -> Value {
    answer(reply).await.unwrap().templates.remove(0).outcome.unwrap()
}

async fn gone(reply: Reply<DispatchResult>) -> WorkerError {
    let error = answer(reply).await.unwrap_err();
    assert_eq!(error.kind(), WorkerErrorKind::WorkerGone, "{error}");
    error
}

async fn pid(worker: &WorkerProcessHandle) -> i64 {
    let Value::Integer(pid) = value(worker.dispatch(TENANT, event("PID", "{}"))).await else { panic!("no pid") };
    pid
}

fn signal(pid: i64, signal: Signal) {
    rustix::process::kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

fn exists(pid: i64) -> bool {
    // A zombie has ended.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

/// Waits until it is so. The time-out is for a test that fails.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(ANSWER_TIMEOUT, wait).await.unwrap_or_else(|_| panic!("{what}: not within {ANSWER_TIMEOUT:?}"));
}

fn echo(text: &str) -> Event {
    Order::Echo { value: text.into() }.event()
}

fn hold() -> Event {
    Order::Hold.event()
}
