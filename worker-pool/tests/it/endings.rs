//! However a worker ends, its thread is gone afterwards and everybody was answered.

use std::sync::{Arc, Weak};

use tokio::sync::Notify;
use tokio::task::{spawn_local, yield_now};
use worker_core::contract::{Order, TestEngine, TestWorker};
use worker_core::{Call, WorkerErrorKind, WorkerFilter, WorkerId, WorkerLike};
use worker_pool::{WorkerThread, WorkerThreadConfig};

use crate::{TENANT, answer, config, echo, start};

/// An engine that never ends a drain.
struct Undrainable(TestWorker);

impl WorkerLike for Undrainable {
    fn id(&self) -> WorkerId {
        self.0.id()
    }

    fn submit(&self, call: Call) {
        match call {
            Call::Drain { reply_to } => std::mem::forget(reply_to),
            call => self.0.submit(call),
        }
    }
}

/// Alive as long as the thread has not ended: the factory holds it, and the thread holds the factory.
fn with_witness(engine: &TestEngine) -> (WorkerThreadConfig, Weak<()>) {
    let (witness, engine) = (Arc::new(()), engine.clone());
    let seen = Arc::downgrade(&witness);
    let config = WorkerThreadConfig::new(move |id, _| {
        let _ = &witness;
        let worker = engine.worker(id);
        async move { Ok(worker) }
    });
    (config, seen)
}

#[tokio::test]
async fn the_thread_ends_with_the_last_handle() {
    let (config, witness) = with_witness(&TestEngine::new());
    let worker = start(&config).await;
    drop(config);
    let other = worker.clone();
    drop(worker);
    answer(other.dispatch(TENANT, echo())).await.unwrap();
    let held = other.dispatch(TENANT, Order::Hold.event());
    drop(other);
    assert_eq!(witness.strong_count(), 0, "the thread was joined");
    assert_eq!(answer(held).await.unwrap_err().kind(), WorkerErrorKind::WorkerGone);
}

#[tokio::test]
async fn a_start_that_is_given_up_ends_the_thread() {
    let (alive, entered) = (Arc::new(()), Arc::new(Notify::new()));
    let (witness, starting) = (Arc::downgrade(&alive), Arc::clone(&entered));
    let config = WorkerThreadConfig::new(move |_, _| {
        let (alive, entered) = (Arc::clone(&alive), Arc::clone(&entered));
        async move {
            entered.notify_one();
            std::future::pending::<()>().await;
            drop(alive);
            Ok(TestEngine::new().worker(WorkerId::new(1)))
        }
    });
    tokio::select! {
        _ = WorkerThread::start(WorkerId::new(1), WorkerFilter::all(), &config) => panic!("the engine is never made"),
        () = starting.notified() => {}
    }
    assert_eq!(witness.strong_count(), 1, "only the factory is left");
}

#[tokio::test]
async fn kill_gets_through_to_a_thread_whose_tasks_never_rest() {
    let engine = TestEngine::new();
    let config = WorkerThreadConfig::new(move |id, _| {
        let worker = engine.worker(id);
        async move {
            for _ in 0..100 {
                spawn_local(async {
                    loop {
                        yield_now().await;
                    }
                });
            }
            Ok(worker)
        }
    });
    let worker = start(&config).await;
    let held = worker.dispatch(TENANT, Order::Hold.event());
    answer(worker.kill()).await.unwrap();
    assert_eq!(answer(held).await.unwrap_err().kind(), WorkerErrorKind::WorkerGone);
}

#[tokio::test]
async fn kill_ends_a_drain_that_does_not() {
    let worker =
        start(&WorkerThreadConfig::new(|id, _| async move { Ok(Undrainable(TestEngine::new().worker(id))) })).await;
    let drains = [worker.drain(), worker.drain()];
    // The figures can still be had.
    answer(worker.stats()).await.unwrap();
    answer(worker.kill()).await.unwrap();
    for drain in drains {
        assert_eq!(answer(drain).await.unwrap_err().kind(), WorkerErrorKind::WorkerGone);
    }
}

#[tokio::test]
async fn after_a_drain_the_thread_has_ended_though_a_handle_is_left() {
    let (config, witness) = with_witness(&TestEngine::new());
    let worker = start(&config).await;
    drop(config);
    answer(worker.drain()).await.unwrap();
    while witness.strong_count() > 0 {
        yield_now().await;
    }
    let late = answer(worker.dispatch(TENANT, echo())).await.unwrap_err();
    assert_eq!(late.to_string(), "worker gone: worker 1 was told to drain");
}

#[tokio::test]
async fn what_is_submitted_after_a_kill_is_refused_though_the_thread_is_stuck() {
    let engine = TestEngine::new();
    let worker = start(&config(&engine)).await;
    let stuck = worker.dispatch(TENANT, Order::Stick.event());
    engine.stuck().await;
    let kill = worker.kill();
    let late = answer(worker.dispatch(TENANT, echo())).await.unwrap_err();
    assert_eq!(late.to_string(), "worker gone: worker 1 was killed");
    engine.unstick();
    answer(kill).await.unwrap();
    answer(stuck).await.unwrap();
}
