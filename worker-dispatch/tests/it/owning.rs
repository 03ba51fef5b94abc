//! Tenants that a worker gives up, and tenants that it gets.

use worker_core::{Value, WorkerErrorKind, WorkerFilter, WorkerLike};
use worker_vm::LogKind;

use crate::harness::{Harness, OTHER, TENANT, answer, at_hand, message, numbered, on_worker, refusal, until, value};

#[test]
fn what_was_taken_ends_before_a_tenant_is_given_up_and_nothing_of_it_stays() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install(TENANT, "waits", "local evt = ... task.wait(0.1) return evt.data.n").await;
        h.install(OTHER, "echo", "local evt = ... return evt.data.n").await;
        assert_eq!(value(h.send(OTHER, numbered("MESSAGE_CREATE", 1))).await, Value::Integer(1));
        let mut replies: Vec<_> = (0..5).map(|n| (n, h.send(TENANT, numbered("MESSAGE_CREATE", n)))).collect();
        let given_up = h.dispatcher.own(WorkerFilter::all().without([TENANT]));
        assert_eq!(refusal(h.send(TENANT, message("{}"))).await, WorkerErrorKind::BadRequest);
        answer(given_up).await.unwrap();
        for (n, reply) in &mut replies {
            let result = at_hand(reply).await.expect("it has ended").unwrap();
            assert_eq!(result.templates[0].outcome, Ok(Value::Integer(*n as i64)));
        }
        until("the end of its VM", async || h.stats().await.vms_live == 1).await;
        assert!(h.cache.loaded(TENANT).is_none() && h.cache.loaded(OTHER).is_some());
        assert_eq!(value(h.send(OTHER, numbered("MESSAGE_CREATE", 2))).await, Value::Integer(2));
    });
}

#[test]
fn a_tenant_that_comes_gets_its_key_resume_and_others_do_not_get_theirs_again() {
    on_worker(|| async {
        let h = Harness::new().await;
        for tenant in [TENANT, OTHER] {
            h.remember(tenant, "k", "a").await;
            h.install_for(tenant, "t", &["KeyResume"], "local evt = ... print(evt.data.key)").await;
        }
        answer(h.dispatcher.own(WorkerFilter::all().without([TENANT]))).await.unwrap();
        until("the one tenant's", async || h.log_of(OTHER, LogKind::Print) == ["k"]).await;
        assert_eq!(h.log(TENANT), []);
        answer(h.dispatcher.own(WorkerFilter::all())).await.unwrap();
        until("the other's", async || h.log_of(TENANT, LogKind::Print) == ["k"]).await;
        assert_eq!(h.log_of(OTHER, LogKind::Print), ["k"], "it was here all the time");
        // Given up and back: its VM is another, so it resumes again.
        answer(h.dispatcher.own(WorkerFilter::all().without([TENANT]))).await.unwrap();
        answer(h.dispatcher.own(WorkerFilter::all())).await.unwrap();
        until("once more", async || h.log_of(TENANT, LogKind::Print) == ["k", "k"]).await;
    });
}

#[test]
fn who_drains_gives_nothing_up_any_more() {
    on_worker(|| async {
        let h = Harness::new().await;
        answer(h.dispatcher.drain()).await.unwrap();
        assert_eq!(refusal(h.dispatcher.own(WorkerFilter::all())).await, WorkerErrorKind::WorkerGone);
    });
}
