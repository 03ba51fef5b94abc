//! What does the hop into a worker's thread cost?
//!
//! `direct` calls the engine in the caller's thread; `floor` is a bare channel to a thread that answers through a oneshot,
//! the least that any hop costs. In flight: 1 (latency, mostly two wakes of a sleeping thread) and 64 (throughput).
#![allow(missing_docs, reason = "criterion's macros make public items without")]

use std::collections::VecDeque;
use std::future::Future;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use worker_core::{Call, DispatchResult, Event, Routing, TenantId, WorkerFilter, WorkerId, WorkerLike};
use worker_pool::{Poolable, WorkerPool, WorkerPoolConfig, WorkerThread, WorkerThreadConfig};

/// Answers at once, so that only the way there and back is measured.
struct Echo(WorkerId);

impl WorkerLike for Echo {
    fn id(&self) -> WorkerId {
        self.0
    }

    fn submit(&self, call: Call) {
        match call {
            Call::Dispatch { reply_to, .. } => reply_to.send(Ok(DispatchResult::default())),
            Call::Drain { reply_to } | Call::Kill { reply_to } | Call::Reload { reply_to, .. } => reply_to.send(Ok(())),
            _ => {}
        }
    }
}

/// The bare hop: the same call and the same reply, and nothing around them.
fn floor() -> mpsc::Sender<Call> {
    let (sender, mut receiver) = mpsc::channel(4_096);
    std::thread::Builder::new()
        .spawn(move || {
            runtime().block_on(async {
                while let Some(Call::Dispatch { reply_to, .. }) = receiver.recv().await {
                    reply_to.send(Ok(DispatchResult::default()));
                }
            });
        })
        .expect("because a bench can have a thread");
    sender
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("because a bench can have a runtime")
}

/// The time of `events` events of which `in_flight` are under way at any moment.
async fn drive<F: Future>(events: u64, in_flight: usize, send: impl Fn(TenantId, Event) -> F) -> Duration {
    let event = Event::discord("MESSAGE_CREATE", "{}".into());
    let mut pending = VecDeque::with_capacity(in_flight);
    let begun = Instant::now();
    for nth in 0..events {
        if pending.len() == in_flight
            && let Some(oldest) = pending.pop_front()
        {
            oldest.await;
        }
        pending.push_back(send(TenantId::guild(nth << 22), event.clone()));
    }
    for reply in pending {
        reply.await;
    }
    begun.elapsed()
}

fn thread_hop(criterion: &mut Criterion) {
    let runtime = runtime();
    let thread = WorkerThreadConfig::new(|id, _| async move { Ok(Echo(id)) });
    let config = WorkerPoolConfig { workers: NonZeroUsize::MIN, worker: thread.clone() };
    let (id, all) = (WorkerId::new(0), WorkerFilter::all);

    let direct = Echo(id);
    let floor = floor();
    let worker = runtime.block_on(WorkerThread::start(id, all(), &thread)).expect("because the engine always starts");
    let pool = runtime
        .block_on(WorkerPool::<WorkerThread>::start(id, all(), Routing::default(), &config))
        .expect("because the engine always starts");

    let mut group = criterion.benchmark_group("thread_hop");
    group.throughput(Throughput::Elements(1));
    for in_flight in [1, 64] {
        let mut case = |name, run: &dyn Fn(u64) -> Duration| {
            group.bench_function(BenchmarkId::new(name, in_flight), |bencher| bencher.iter_custom(run));
        };
        case("direct", &|events| {
            runtime.block_on(drive(events, in_flight, |tenant, event| direct.dispatch(tenant, event)))
        });
        case("floor", &|events| {
            runtime.block_on(drive(events, in_flight, |tenant, event| {
                let (reply_to, reply) = worker_core::Reply::pending();
                // The queue is longer than what is in flight.
                let _ = floor.try_send(Call::Dispatch { tenant, event, reply_to });
                reply
            }))
        });
        case("thread", &|events| {
            runtime.block_on(drive(events, in_flight, |tenant, event| worker.dispatch(tenant, event)))
        });
        case("pool_of_1", &|events| {
            runtime.block_on(drive(events, in_flight, |tenant, event| pool.dispatch(tenant, event)))
        });
    }
    group.finish();
}

criterion_group!(benches, thread_hop);
criterion_main!(benches);
