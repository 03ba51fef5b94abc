//! Queues are bounded by class: what is important gets through when what is not has filled its queue.

use worker_core::contract::{Order, TestEngine};
use worker_core::{Value, WorkerErrorKind, WorkerLike};
use worker_pool::{QueueSizes, WorkerThread};

use crate::{TENANT, answer, as_event, config, start, value};

const INTERACTIVE: &str = "INTERACTION_CREATE";
const NORMAL: &str = "MESSAGE_CREATE";
const FLOOD: &str = "PRESENCE_UPDATE";

/// A worker whose thread is stuck; its queues hold one call each.
async fn stuck(engine: &TestEngine) -> WorkerThread {
    let queues = QueueSizes { control: 1, interactive: 1, normal: 1, flood: 1 };
    let worker = start(&config(engine).with_queues(queues)).await;
    worker.dispatch_nowait(TENANT, Order::Stick.event());
    engine.stuck().await;
    worker
}

#[tokio::test]
async fn an_interaction_gets_through_when_floods_have_filled_their_queue() {
    let engine = TestEngine::new();
    let worker = stuck(&engine).await;
    let count = |t| worker.dispatch(TENANT, as_event(t, &Order::Count));
    let flood = count(FLOOD);
    let refused = answer(count(FLOOD)).await.unwrap_err();
    assert_eq!(
        (refused.kind(), refused.to_string().as_str()),
        (WorkerErrorKind::Overloaded, "overloaded: the queue of worker 1 is full")
    );
    for _ in 0..3 {
        worker.dispatch_nowait(TENANT, as_event(FLOOD, &Order::Count));
    }
    let normal = count(NORMAL);
    assert_eq!(answer(count(NORMAL)).await.unwrap_err().kind(), WorkerErrorKind::Overloaded);
    let interactive = count(INTERACTIVE);
    engine.unstick();

    // Each says how many had started when it did.
    assert_eq!(value(interactive).await, Value::Integer(1));
    assert_eq!(value(normal).await, Value::Integer(2));
    assert_eq!(value(flood).await, Value::Integer(3));
    let stats = answer(worker.stats()).await.unwrap();
    assert_eq!((stats.events_refused, stats.events_dropped, stats.events_queued), (2, 3, 0));
}

#[tokio::test]
async fn control_calls_get_through_when_all_events_have_filled_their_queues() {
    let engine = TestEngine::new();
    let worker = stuck(&engine).await;
    let events = [INTERACTIVE, NORMAL, FLOOD].map(|t| worker.dispatch(TENANT, as_event(t, &Order::Reloads)));
    let (reload, stats) = (worker.reload(TENANT), worker.stats());
    assert_eq!(answer(worker.reload(TENANT)).await.unwrap_err().kind(), WorkerErrorKind::Overloaded);
    let kill = worker.kill();
    engine.unstick();
    // The kill overtakes all of them.
    answer(kill).await.unwrap();
    for event in events {
        assert_eq!(answer(event).await.unwrap_err().kind(), WorkerErrorKind::WorkerGone);
    }
    assert_eq!(answer(reload).await.unwrap_err().kind(), WorkerErrorKind::WorkerGone);
    assert_eq!(answer(stats).await.unwrap_err().kind(), WorkerErrorKind::WorkerGone);
}

#[tokio::test]
async fn a_reload_overtakes_the_events_that_wait() {
    let engine = TestEngine::new();
    let worker = stuck(&engine).await;
    let event = worker.dispatch(TENANT, as_event(INTERACTIVE, &Order::Reloads));
    let reload = worker.reload(TENANT);
    engine.unstick();
    answer(reload).await.unwrap();
    assert_eq!(value(event).await, Value::Integer(1));
}
