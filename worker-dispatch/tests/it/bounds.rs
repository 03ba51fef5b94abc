//! Queues are bounded: too much is refused to a caller who waits, and dropped and counted for nobody. Callers wait for no
//! longer than they said.

use std::time::{Duration, Instant};

use worker_core::{Limits, Priority, Value, WorkerErrorKind, WorkerLike};

use crate::harness::{Harness, OTHER, TENANT, answer, at_hand, message, nth, numbered, on_worker, one, refusal, value};

const ECHO: &str = "local evt = ... return evt.data.n";

fn small() -> Limits {
    Limits { tenant_queue_max: 8, worker_queue_max: 20, ..Limits::default() }
}

#[test]
fn unbounded_queues() {
    on_worker(|| async {
        let h = Harness::with_limits(small()).await;
        h.install(TENANT, "echo", ECHO).await;
        let mut replies: Vec<_> = (0..12).map(|n| h.send(TENANT, numbered("MESSAGE_CREATE", n))).collect();
        for mut reply in replies.split_off(8) {
            let refused = at_hand(&mut reply).await.expect("refused at once").unwrap_err();
            assert_eq!(refused.kind(), WorkerErrorKind::Overloaded);
            assert!(refused.kind().is_retryable());
        }
        assert_eq!(h.stats().await.events_queued, 8);
        for (n, reply) in (0i64..).zip(replies) {
            assert_eq!(value(reply).await, Value::Integer(n));
        }
        assert_eq!(value(h.send(TENANT, numbered("MESSAGE_CREATE", 99))).await, Value::Integer(99), "tried again");
        let stats = h.stats().await;
        assert_eq!((stats.events_refused, stats.events_dropped, stats.events_queued), (4, 0, 0));
        assert_eq!((stats.events, stats.events_dispatched, stats.templates_run), (13, 9, 9));
    });
}

#[test]
fn what_nobody_waits_for_is_dropped_and_counted_least_important_first() {
    on_worker(|| async {
        let h = Harness::with_limits(small()).await;
        let events = ["MESSAGE", "TYPING_START", "INTERACTION_CREATE"];
        h.install_for(TENANT, "prints", &events, "local evt = ... print(evt.name)").await;
        for n in 0..12 {
            h.dispatcher.dispatch_nowait(TENANT, numbered("TYPING_START", n));
        }
        assert_eq!(h.stats().await.events_dropped, 4);
        for n in 0..6 {
            h.dispatcher.dispatch_nowait(TENANT, numbered("MESSAGE_CREATE", n));
        }
        let interaction = h.send(TENANT, numbered("INTERACTION_CREATE", 0));
        assert_eq!(h.stats().await.events_dropped, 11, "floods gave way to messages and the interaction");
        value(interaction).await;
        // The one flood that is left is the last to start.
        crate::harness::until("the flood's line", async || h.log(TENANT).len() == 8).await;
        let lines = h.log_of(TENANT, worker_vm::LogKind::Print);
        assert_eq!((&*lines[0], &*lines[1], &*lines[7]), ("INTERACTION_CREATE", "MESSAGE", "TYPING_START"));
        let stats = h.stats().await;
        assert_eq!((stats.events_dropped, stats.events_refused, stats.events_queued), (11, 0, 0));
    });
}

#[test]
fn at_the_workers_bound_who_has_most_waiting_gives_way() {
    on_worker(|| async {
        let h = Harness::with_limits(small()).await;
        for tenant in [TENANT, OTHER, nth(1), nth(2)] {
            h.install(tenant, "echo", ECHO).await;
        }
        let mut many = Vec::new();
        for tenant in [TENANT, OTHER, nth(1)] {
            many.extend((0..8).map(|n| h.send(tenant, numbered("MESSAGE_CREATE", n))));
        }
        let small = h.send(nth(2), numbered("MESSAGE_CREATE", 5));
        assert_eq!(h.stats().await.events_queued, 20);
        assert_eq!(value(small).await, Value::Integer(5));
        let (mut answered, mut refused) = (0, 0);
        for reply in many {
            match answer(reply).await {
                Ok(_) => answered += 1,
                Err(error) => {
                    assert_eq!(error.kind(), WorkerErrorKind::Overloaded);
                    refused += 1;
                }
            }
        }
        assert_eq!((answered, refused), (19, 5));
        assert_eq!(h.stats().await.events_refused, 5);
    });
}

#[test]
fn an_event_that_never_gets_its_turn_is_answered_in_time() {
    on_worker(|| async {
        let limits = Limits {
            tenant_cpu_max: Duration::from_millis(20),
            tenant_cpu_window: Duration::from_secs(3_600),
            dispatch_timeout: Duration::from_millis(400),
            ..Limits::default()
        };
        let h = Harness::with_limits(limits).await;
        h.install(TENANT, "hog", "local evt = ... if evt.data.n then return evt.data.n end while true do end").await;
        h.install(OTHER, "echo", ECHO).await;
        let error = one(h.send(TENANT, message("{}"))).await.unwrap_err();
        assert!(error.text.starts_with("timeout: "), "{error}");
        let began = Instant::now();
        let replies: Vec<_> = (0..20).map(|n| h.send(TENANT, numbered("MESSAGE_CREATE", n))).collect();
        for reply in replies {
            assert_eq!(refusal(reply).await, WorkerErrorKind::TimedOut);
        }
        assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
        assert_eq!(h.stats().await.events_queued, 0);
        assert_eq!(value(h.send(OTHER, numbered("MESSAGE_CREATE", 3))).await, Value::Integer(3));
    });
}

#[test]
fn callers_who_go_away_before_their_event_starts_cancel_it() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install(TENANT, "prints", "local evt = ... print(evt.data.n) return evt.data.n").await;
        for n in 0..10 {
            drop(h.send(TENANT, numbered("MESSAGE_CREATE", n)));
        }
        let kept = h.send(TENANT, numbered("MESSAGE_CREATE", 10));
        assert_eq!(value(kept).await, Value::Integer(10));
        assert_eq!(h.log_of(TENANT, worker_vm::LogKind::Print), ["10"]);
        assert_eq!(h.stats().await.events_queued, 0);
    });
}

#[test]
fn the_classes_are_what_the_tests_take_them_for() {
    let class = |t| numbered(t, 0).priority();
    assert_eq!(class("INTERACTION_CREATE"), Priority::Interactive);
    assert_eq!(class("MESSAGE_CREATE"), Priority::Normal);
    assert_eq!(class("TYPING_START"), Priority::Flood);
}
