//! Drain ends in good order, kill ends now; both leave nobody without an answer.

use std::time::{Duration, Instant};

use worker_core::{Limits, Value, WorkerErrorKind, WorkerLike};

use crate::harness::{Harness, OTHER, TENANT, answer, at_hand, message, nth, numbered, on_worker, refusal, until};

#[test]
fn drain_ends_what_runs_and_what_waits_and_takes_nothing_more() {
    on_worker(|| async {
        let h = Harness::with_limits(Limits { tenant_dispatches_max: 2, ..Limits::default() }).await;
        h.install(TENANT, "waits", "local evt = ... task.wait(0.1) return evt.data.n").await;
        h.install(OTHER, "echo", "local evt = ... return evt.data.n").await;
        let mut replies = Vec::new();
        for n in 0..6 {
            replies.push((n, h.send(TENANT, numbered("MESSAGE_CREATE", n))));
            replies.push((n, h.send(OTHER, numbered("MESSAGE_CREATE", n))));
        }
        let drained = h.dispatcher.drain();
        let again = h.dispatcher.drain();
        assert_eq!(refusal(h.send(TENANT, message("{}"))).await, WorkerErrorKind::WorkerGone);
        assert_eq!(refusal(h.dispatcher.reload(TENANT)).await, WorkerErrorKind::WorkerGone);
        answer(drained).await.unwrap();
        answer(again).await.unwrap();
        for (n, mut reply) in replies {
            let result = at_hand(&mut reply).await.expect("answered before the drain").unwrap();
            assert_eq!(result.templates[0].outcome, Ok(Value::Integer(n as i64)));
        }
        assert_eq!(refusal(h.send(TENANT, message("{}"))).await, WorkerErrorKind::WorkerGone);
        answer(h.dispatcher.drain()).await.unwrap();
        answer(h.dispatcher.kill()).await.unwrap();
    });
}

#[test]
fn drain_waits_for_background_threads_but_not_for_endless_ones() {
    on_worker(|| async {
        let h = Harness::with_limits(Limits { vm_drain_timeout: Duration::from_secs(2), ..Limits::default() }).await;
        h.install(TENANT, "ends", "task.delay(0.3, print, 'ended')").await;
        h.install(OTHER, "endless", "task.spawn(function() while true do task.wait() end end)").await;
        h.message(TENANT).await.unwrap();
        h.message(OTHER).await.unwrap();
        answer(h.dispatcher.drain()).await.unwrap();
        assert_eq!(h.log(TENANT).len(), 1, "what ends by itself has ended");
        until("the end of all VMs", async || h.stats().await.vms_live == 0).await;
    });
}

#[test]
fn drain_ends_as_soon_as_background_threads_have() {
    on_worker(|| async {
        let h = Harness::new().await;
        for n in 0..5 {
            h.install(nth(n), "ends", &format!("task.delay({}, print, 'ended')", 0.1 * (n + 1) as f64)).await;
            h.message(nth(n)).await.unwrap();
        }
        let began = Instant::now();
        answer(h.dispatcher.drain()).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(30), "the drain took {:?}", began.elapsed());
        for n in 0..5 {
            assert_eq!(h.log(nth(n)).len(), 1, "tenant {n}");
        }
    });
}

#[test]
fn kill_answers_everybody() {
    on_worker(|| async {
        let h = Harness::with_limits(Limits { tenant_dispatches_max: 2, ..Limits::default() }).await;
        h.install(TENANT, "sleeps", "task.wait(1e9)").await;
        h.install(OTHER, "hog", "while true do end").await;
        h.install(nth(1), "unloaded", "return 1").await;
        let mut replies = Vec::new();
        for _ in 0..5 {
            replies.push(h.send(TENANT, message("{}")));
            replies.push(h.send(OTHER, message("{}")));
        }
        until("what runs", async || h.stats().await.templates_run == 4).await;
        replies.push(h.send(nth(1), message("{}")));
        let mut drained = h.dispatcher.drain();
        assert!(at_hand(&mut drained).await.is_none());
        answer(h.dispatcher.kill()).await.unwrap();
        for mut reply in replies {
            let error = at_hand(&mut reply).await.expect("answered before the kill").unwrap_err();
            assert_eq!(error.kind(), WorkerErrorKind::WorkerGone);
            assert!(!error.to_string().contains("before it answered"), "told, not dropped: {error}");
        }
        answer(drained).await.unwrap();
        assert_eq!(refusal(h.send(TENANT, message("{}"))).await, WorkerErrorKind::WorkerGone);
        let stats = h.stats().await;
        assert_eq!((stats.events_queued, stats.vms_live), (0, 0));
    });
}

#[test]
fn a_dispatcher_that_is_dropped_leaves_nothing_behind() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install(TENANT, "sleeps", "task.wait(1e9)").await;
        h.install(OTHER, "unloaded", "return 1").await;
        let running = h.send(TENANT, message("{}"));
        until("what runs", async || h.stats().await.templates_run == 1).await;
        let queued = h.send(OTHER, message("{}"));
        let clone = h.dispatcher.clone();
        drop(h);
        assert_eq!(answer(clone.stats()).await.unwrap().vms_live, 1, "a handle is left");
        drop(clone);
        assert_eq!(refusal(running).await, WorkerErrorKind::WorkerGone);
        assert_eq!(refusal(queued).await, WorkerErrorKind::WorkerGone);
    });
}
