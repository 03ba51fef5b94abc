//! A panic costs what was in flight in that engine, and no more.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::task::spawn_local;
use worker_core::contract::{Order, TestEngine};
use worker_core::{Value, WorkerError, WorkerErrorKind, WorkerFilter, WorkerId, WorkerLike};
use worker_pool::{RestartPolicy, WorkerThread, WorkerThreadConfig};

use crate::{
    Engine, PANIC_CAUGHT, PANIC_IN_TASK, PANICS_CAUGHT, TENANT, answer, as_event, chain, config, echo, named, restarts,
    start, value,
};

/// An engine whose factory fails or panics in the calls that `fault` picks, counted from 0.
fn faulty(fault: impl Fn(usize) -> Result<(), WorkerError> + Send + Sync + 'static) -> WorkerThreadConfig {
    let (calls, engine) = (AtomicUsize::new(0), TestEngine::new());
    let config = WorkerThreadConfig::new(move |id, filter| {
        let fault = fault(calls.fetch_add(1, SeqCst));
        let engine = Engine::new(&engine, id, filter);
        async move { fault.map(|()| engine) }
    });
    config.with_restarts(restarts(10))
}

fn storage() -> WorkerError {
    WorkerError::new(WorkerErrorKind::Storage, "the database is away")
}

#[tokio::test]
async fn a_panic_in_submit_leaves_the_queue_to_the_next_engine() {
    let engine = TestEngine::new();
    let worker = start(&config(&engine).with_restarts(restarts(1))).await;
    let held = worker.dispatch(TENANT, Order::Hold.event());
    // Stuck, so that all that follows is in the queue when the panic comes.
    let stuck = worker.dispatch(TENANT, Order::Stick.event());
    engine.stuck().await;
    let panicked = worker.dispatch(TENANT, Order::Panic.event());
    let queued: Vec<_> = (0..10).map(|_| worker.dispatch(TENANT, Order::Count.event())).collect();
    engine.unstick();

    assert!(answer(stuck).await.is_ok());
    assert_eq!(answer(held).await.unwrap_err().kind(), WorkerErrorKind::WorkerGone);
    assert_eq!(answer(panicked).await.unwrap_err().kind(), WorkerErrorKind::WorkerGone);
    for (nth, reply) in (1..).zip(queued) {
        assert_eq!(value(reply).await, Value::Integer(nth));
    }
    assert_eq!(answer(worker.stats()).await.unwrap().restarts, 1);
}

#[tokio::test]
async fn a_panic_in_a_task_restarts_the_engine_too() {
    let worker = start(&config(&TestEngine::new()).with_restarts(restarts(1))).await;
    let held = worker.dispatch(TENANT, Order::Hold.event());
    let panicked = worker.dispatch(TENANT, named(PANIC_IN_TASK));
    assert_eq!(answer(panicked).await.unwrap_err().kind(), WorkerErrorKind::WorkerGone);
    let next = worker.dispatch(TENANT, Order::Count.event());
    assert_eq!(answer(held).await.unwrap_err().kind(), WorkerErrorKind::WorkerGone);
    assert_eq!(value(next).await, Value::Integer(1), "a new engine counts from the beginning");
    assert_eq!(answer(worker.stats()).await.unwrap().restarts, 1);
}

#[tokio::test]
async fn panics_that_the_engine_catches_restart_nothing() {
    let config = config(&TestEngine::new()).with_restarts(restarts(1)).with_contained_panics(|| PANICS_CAUGHT.get());
    let worker = start(&config).await;
    for nth in 1..=3 {
        answer(worker.dispatch(TENANT, named(PANIC_CAUGHT))).await.unwrap();
        assert_eq!(value(worker.dispatch(TENANT, Order::Count.event())).await, Value::Integer(nth), "the same engine");
    }
    answer(worker.dispatch(TENANT, named(PANIC_IN_TASK))).await.unwrap_err();
    // The new engine's panics are told apart as well.
    answer(worker.dispatch(TENANT, named(PANIC_CAUGHT))).await.unwrap();
    assert_eq!(value(worker.dispatch(TENANT, Order::Count.event())).await, Value::Integer(1));
    answer(worker.dispatch(TENANT, named(PANIC_IN_TASK))).await.unwrap_err();
    let gone = answer(worker.dispatch(TENANT, echo())).await.unwrap_err();
    assert!(chain(&gone).ends_with("a task of the engine panics"), "{}", chain(&gone));
}

#[tokio::test]
async fn tasks_of_an_engine_do_not_outlive_it() {
    let tasks: Arc<Mutex<Vec<Weak<()>>>> = Arc::default();
    let (engine, kept) = (TestEngine::new(), Arc::clone(&tasks));
    let config = WorkerThreadConfig::new(move |id, filter| {
        let alive = Arc::new(());
        kept.lock().unwrap().push(Arc::downgrade(&alive));
        let engine = Engine::new(&engine, id, filter);
        async move {
            spawn_local(async move {
                std::future::pending::<()>().await;
                drop(alive);
            });
            Ok(engine)
        }
    });
    let worker = start(&config).await;
    let alive = || tasks.lock().unwrap().iter().map(|task| task.strong_count() > 0).collect::<Vec<_>>();
    assert_eq!(alive(), [true]);
    answer(worker.dispatch(TENANT, named(PANIC_IN_TASK))).await.unwrap_err();
    answer(worker.dispatch(TENANT, echo())).await.unwrap();
    assert_eq!(alive(), [false, true]);
    answer(worker.kill()).await.unwrap();
    assert_eq!(alive(), [false, false]);
}

#[tokio::test]
async fn a_factory_that_fails_or_panics_at_the_start_says_so() {
    let begin = |config| async move { WorkerThread::start(WorkerId::new(1), WorkerFilter::all(), &config).await };
    let error = begin(faulty(|_| Err(storage()))).await.unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (WorkerErrorKind::Storage, "storage: the database is away"));
    let error = begin(faulty(|_| panic!("no engine today"))).await.unwrap_err();
    assert_eq!(error.kind(), WorkerErrorKind::Internal);
    assert!(error.to_string().contains("panics.rs") && error.to_string().ends_with("no engine today"), "{error}");
}

#[tokio::test]
async fn a_factory_that_fails_after_a_panic_is_tried_again() {
    let worker = start(&faulty(|call| match call {
        1 => Err(storage()),
        2 => panic!("not yet"),
        _ => Ok(()),
    }))
    .await;
    let panicked = worker.dispatch(TENANT, Order::Panic.event());
    let queued = worker.dispatch(TENANT, echo());
    assert_eq!(answer(panicked).await.unwrap_err().kind(), WorkerErrorKind::WorkerGone);
    assert_eq!(value(queued).await, Value::Null);
    assert_eq!(answer(worker.stats()).await.unwrap().restarts, 3);
}

#[tokio::test]
async fn a_worker_that_panics_too_often_gives_up_and_says_why() {
    let worker = start(&config(&TestEngine::new()).with_restarts(restarts(2))).await;
    for _ in 0..3 {
        answer(worker.dispatch(TENANT, echo())).await.unwrap();
        answer(worker.dispatch(TENANT, named(PANIC_IN_TASK))).await.unwrap_err();
    }
    for error in [
        answer(worker.dispatch(TENANT, echo())).await.unwrap_err(),
        answer(worker.reload(TENANT)).await.unwrap_err(),
        answer(worker.stats()).await.unwrap_err(),
        answer(worker.drain()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), WorkerErrorKind::WorkerGone);
        let text = chain(&error);
        assert!(text.contains("worker 1 gave up after 2 restarts in 3600s"), "{text}");
        assert!(text.contains("main.rs") && text.ends_with("a task of the engine panics"), "{text}");
    }
    answer(worker.kill()).await.unwrap();
}

#[tokio::test]
async fn while_it_waits_to_restart_a_worker_queues_events_and_tells_its_figures() {
    let backoff = Duration::from_secs(3_600);
    let restarts = RestartPolicy { backoff_min: backoff, backoff_max: backoff, ..RestartPolicy::default() };
    let worker = start(&config(&TestEngine::new()).with_restarts(restarts)).await;
    answer(worker.dispatch(TENANT, Order::Panic.event())).await.unwrap_err();
    let queued = worker.dispatch(TENANT, as_event("INTERACTION_CREATE", &Order::Count));
    let stats = answer(worker.stats()).await.unwrap();
    assert_eq!((stats.workers, stats.restarts, stats.events_queued), (1, 1, 1));
    let drained = worker.drain();
    answer(worker.kill()).await.unwrap();
    assert_eq!(answer(drained).await.unwrap_err().kind(), WorkerErrorKind::WorkerGone);
    assert_eq!(answer(queued).await.unwrap_err().kind(), WorkerErrorKind::WorkerGone);
}
