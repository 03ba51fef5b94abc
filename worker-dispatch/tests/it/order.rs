//! Events of one tenant and class start in the order in which they came; interactions before messages before floods.

use worker_core::{DispatchResult, Limits, Reply, Value};

use crate::harness::{Harness, OTHER, TENANT, message, numbered, on_worker, value};

/// Answers with how many events started before this one.
const COUNTS: &str = "started = (started or 0) + 1 return started";

/// The same, and uses some milliseconds of CPU.
const COUNTS_AND_WORKS: &str = "
    started = (started or 0) + 1
    local mine, n = started, 0
    for i = 1, 200000 do n += i % 7 end
    return mine
";

async fn assert_in_order(replies: Vec<Reply<DispatchResult>>) {
    for (position, reply) in (1i64..).zip(replies) {
        assert_eq!(value(reply).await, Value::Integer(position));
    }
}

#[test]
fn events_that_come_while_templates_load_start_in_order() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install(TENANT, "counts", COUNTS).await;
        let mut replies: Vec<_> = (0..100).map(|n| h.send(TENANT, numbered("MESSAGE_CREATE", n))).collect();
        assert_eq!(h.stats().await.events_queued, 100, "nothing can start before its template is loaded");
        for n in 100..200 {
            // Some come while it is loaded and compiled, some after.
            tokio::task::yield_now().await;
            replies.push(h.send(TENANT, numbered("MESSAGE_CREATE", n)));
        }
        assert_in_order(replies).await;
    });
}

#[test]
fn events_of_a_tenant_out_of_credit_start_in_order() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install(TENANT, "works", COUNTS_AND_WORKS).await;
        h.install(OTHER, "counts", COUNTS).await;
        value(h.send(OTHER, message("{}"))).await;
        value(h.send(TENANT, message("{}"))).await;
        let mut replies = Vec::new();
        while h.stats().await.events_queued < 20 {
            replies.push(h.send(TENANT, message("{}")));
            assert!(replies.len() < 2_000, "a tenant that works so much runs out of credit");
        }
        // Others do not wait behind it, and what comes in between keeps its place.
        for _ in 0..10 {
            value(h.send(OTHER, message("{}"))).await;
            replies.push(h.send(TENANT, message("{}")));
        }
        for (position, reply) in (2i64..).zip(replies) {
            assert_eq!(value(reply).await, Value::Integer(position));
        }
    });
}

#[test]
fn interactions_start_before_messages_and_messages_before_floods() {
    on_worker(|| async {
        let h = Harness::new().await;
        let events = ["INTERACTION_CREATE", "MESSAGE", "TYPING_START"];
        let source = "order = order or {} table.insert(order, evt.name:sub(1, 1) .. evt.data.n) return order";
        h.install_for(TENANT, "order", &events, &format!("local evt = ... {source}")).await;
        let mut replies = Vec::new();
        for n in 0..3 {
            for t in ["TYPING_START", "MESSAGE_CREATE", "INTERACTION_CREATE"] {
                replies.push(h.send(TENANT, numbered(t, n)));
            }
        }
        let mut longest = Vec::new();
        for reply in replies {
            let Value::List(order) = value(reply).await else { panic!("a list") };
            if order.len() > longest.len() {
                longest = order;
            }
        }
        let expected = ["I0", "I1", "I2", "M0", "M1", "M2", "T0", "T1", "T2"].map(Value::from);
        assert_eq!(longest, expected);
    });
}

#[test]
fn a_reload_in_between_keeps_the_order() {
    on_worker(|| async {
        let h = Harness::new().await;
        let source = "local evt = ... task.spawn(print, evt.data.n) task.wait() return evt.data.n";
        h.install(TENANT, "prints", source).await;
        let mut replies = Vec::new();
        for n in 0..60 {
            replies.push(h.send(TENANT, numbered("MESSAGE_CREATE", n)));
            if n % 7 == 0 {
                drop(worker_core::WorkerLike::reload(&h.dispatcher, TENANT));
            }
            if n % 5 == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
        for (n, reply) in (0i64..).zip(replies) {
            assert_eq!(value(reply).await, Value::Integer(n));
        }
        let started = h.log_of(TENANT, worker_vm::LogKind::Print);
        assert_eq!(started, (0..60).map(|n| n.to_string()).collect::<Vec<_>>());
    });
}

#[test]
fn no_more_dispatches_run_than_a_tenant_may_have_and_the_rest_waits_in_order() {
    on_worker(|| async {
        let h = Harness::with_limits(Limits { tenant_dispatches_max: 4, ..Limits::default() }).await;
        let source = "
            running, most, started = (running or 0) + 1, most or 0, (started or 0) + 1
            most = math.max(most, running)
            local mine = started
            task.wait()
            running -= 1
            return { mine, most }
        ";
        h.install(TENANT, "waits", source).await;
        let mut replies: Vec<_> = (0..20).map(|_| h.send(TENANT, message("{}"))).collect();
        let first = value(replies.remove(0)).await;
        assert_eq!(first, Value::List(vec![1.into(), 4.into()]));
        for (position, reply) in (2i64..).zip(replies) {
            assert_eq!(value(reply).await, Value::List(vec![position.into(), 4.into()]));
        }
    });
}
