//! The worker process of the tests: it hosts test workers (`worker_core::contract`), and some events make it fail in ways
//! that only a process can contain. `WorkerProcessHandle` starts it; by hand it only says that it needs a parent.

use std::cell::Cell;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use worker_core::contract::{TestEngine, TestWorker};
use worker_core::{
    Call, DispatchResult, FlightLog, Running, TemplateName, TemplateResult, TenantId, Value, WorkerError, WorkerId,
    WorkerLike,
};
use worker_pool::{Poolable, RestartPolicy, WorkerPool, WorkerPoolConfig, WorkerThread, WorkerThreadConfig};
use worker_process::{LogLines, Parent};

/// How long an engine takes to drain that was told to be slow.
const SLOW_DRAIN: Duration = Duration::from_millis(500);

/// A test worker with faults.
struct Engine {
    inner: Rc<TestWorker>,
    flight_log: std::fs::File,
    drains_slowly: Cell<bool>,
    /// Who is kept apart, and why, as it was told at its start.
    paused: String,
}

impl Engine {
    fn mark(&self, slot: &[u8]) {
        // The tests have one thread with code in it.
        let written = self.flight_log.write_all_at(slot, FlightLog::HEADER_BYTES as u64);
        written.expect("because the flight log is there");
    }
}

impl WorkerLike for Engine {
    fn id(&self) -> WorkerId {
        self.inner.id()
    }

    fn submit(&self, call: Call) {
        let (tenant, event, reply_to) = match call {
            Call::Dispatch { tenant, event, reply_to } => (tenant, event, reply_to),
            Call::Drain { .. } if self.drains_slowly.get() => {
                let inner = Rc::clone(&self.inner);
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(SLOW_DRAIN).await;
                    inner.submit(call);
                });
                return;
            }
            call => return self.inner.submit(call),
        };
        let running = Running { tenant, event: event.name().to_string(), template: "test".into() };
        self.mark(&FlightLog::slot_bytes(&running));
        let value = match event.name().as_str() {
            "ABORT" => {
                eprintln!("about to abort");
                std::process::abort()
            }
            "STACK_OVERFLOW" => Value::Integer(overflow(1)),
            "EXIT" => std::process::exit(7),
            "STICK" => loop {
                std::thread::park();
            },
            "DRAIN_SLOWLY" => {
                self.drains_slowly.set(true);
                Value::Null
            }
            "PAUSED" => Value::Text(self.paused.clone()),
            "PID" => Value::Integer(std::process::id().into()),
            "BYTES" => Value::Buffer(event.data().clone()),
            "LOG" => {
                eprintln!("{}", String::from_utf8_lossy(event.data()));
                Value::Null
            }
            _ => {
                self.inner.submit(Call::Dispatch { tenant, event, reply_to });
                return self.mark(&[0; FlightLog::SLOT_BYTES]);
            }
        };
        self.mark(&[0; FlightLog::SLOT_BYTES]);
        let template = TemplateName::new("test").expect("because `test` is a name");
        reply_to.send(Ok(DispatchResult { templates: vec![TemplateResult { template, outcome: Ok(value) }] }));
    }
}

#[expect(unconditional_recursion, reason = "it is what the test needs")]
fn overflow(depth: i64) -> i64 {
    let frame = std::hint::black_box([depth; 64]);
    overflow(depth + 1) + frame[3]
}

/// Numbers of threads that no worker has.
const ABORTS_AT_START: usize = 101;
const HANGS_AT_START: usize = 102;
const TENANT: TenantId = TenantId::guild(1 << 22);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(3)
        }
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let parent = Parent::listen().await?;
    // What the worker is made of: how many threads it has, or how it does not get ready.
    let threads: usize = serde_json::from_str(parent.made_of())?;
    let (id, filter, routing) = (parent.id(), parent.filter().clone(), parent.routing());
    let flight_log = parent.flight_log().to_owned();
    let paused = serde_json::to_string(parent.paused())?;
    let thread = WorkerThreadConfig::new(move |id, _| {
        let paused = paused.clone();
        let flight_log = std::fs::OpenOptions::new().write(true).open(&flight_log);
        async move {
            let flight_log = flight_log
                .map_err(|error| WorkerError::new(worker_core::WorkerErrorKind::Internal, error.to_string()))?;
            Ok(Engine {
                inner: Rc::new(TestEngine::new().worker(id)),
                flight_log,
                drains_slowly: Cell::new(false),
                paused,
            })
        }
    });
    let thread = thread.with_restarts(RestartPolicy {
        restarts_max: 5,
        backoff_max: Duration::from_millis(10),
        ..RestartPolicy::default()
    });
    match threads {
        0 => std::process::exit(9),
        // As if code of this tenant ran at once.
        ABORTS_AT_START | HANGS_AT_START if filter.owns(TENANT) => {
            let running = Running { tenant: TENANT, event: "KeyResume".into(), template: "test".into() };
            let file = std::fs::OpenOptions::new().write(true).open(parent.flight_log())?;
            file.write_all_at(&FlightLog::slot_bytes(&running), FlightLog::HEADER_BYTES as u64)?;
            if threads == ABORTS_AT_START {
                std::process::abort();
            }
            std::future::pending::<()>().await;
        }
        ABORTS_AT_START | HANGS_AT_START => {
            parent.serve(WorkerThread::start(id, filter, &thread).await?, LogLines::default()).await?;
        }
        1 => parent.serve(WorkerThread::start(id, filter, &thread).await?, LogLines::default()).await?,
        _ => {
            let pool = WorkerPoolConfig { workers: threads.try_into()?, worker: thread };
            let pool = <WorkerPool<WorkerThread> as Poolable>::start(id, filter, routing, &pool).await?;
            parent.serve(pool, LogLines::default()).await?;
        }
    }
    Ok(())
}
