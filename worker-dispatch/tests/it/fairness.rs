//! No tenant delays another: neither by waiting nor by working.

use std::time::{Duration, Instant};

use worker_core::{Limits, Value};

use crate::harness::{Harness, OTHER, TENANT, at_hand, message, nth, on_worker, one, value};

const ECHO: &str = "local evt = ... return evt.data.n";

async fn echoes(h: &Harness, tenants: u64) {
    for tenant in (0..tenants).map(nth) {
        h.install(tenant, "echo", ECHO).await;
    }
}

#[test]
fn head_of_line_blocking_by_one_slow_template() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install(TENANT, "sleeps", "local evt = ... if evt.data.sleep then task.wait(30) end return evt.data.n").await;
        echoes(&h, 1_000).await;
        let mut slow = h.send(TENANT, message(r#"{"sleep":true}"#));
        assert_eq!(value(h.send(TENANT, message(r#"{"n":7}"#))).await, Value::Integer(7), "of the same tenant");
        let replies: Vec<_> = (0..1_000).map(|n| h.send(nth(n), message(&format!(r#"{{"n":{n}}}"#)))).collect();
        for (n, reply) in (0i64..).zip(replies) {
            assert_eq!(value(reply).await, Value::Integer(n));
        }
        assert!(at_hand(&mut slow).await.is_none(), "it sleeps still");
    });
}

#[test]
fn a_thousand_sleepers_delay_nobody() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install(TENANT, "echo", ECHO).await;
        let mut asleep = Vec::new();
        for n in 0..1_000 {
            let tenant = nth(n);
            h.install(tenant, "sleeps", "task.wait(30)").await;
            asleep.push(h.send(tenant, message("{}")));
        }
        for n in 0..100 {
            assert_eq!(value(h.send(TENANT, message(&format!(r#"{{"n":{n}}}"#)))).await, Value::Integer(n));
        }
        for reply in &mut asleep {
            assert!(at_hand(reply).await.is_none(), "it sleeps still");
        }
    });
}

#[test]
fn per_tenant_hog_of_the_thread() {
    on_worker(|| async {
        let h = Harness::with_limits(Limits { dispatch_cpu_max: Duration::from_secs(4), ..Limits::default() }).await;
        h.install(TENANT, "hog", "while true do end").await;
        echoes(&h, 50).await;
        let mut hog = h.send(TENANT, message("{}"));
        for n in 0..50i64 {
            let reply = h.send(nth(n as u64), message(&format!(r#"{{"n":{n}}}"#)));
            assert_eq!(value(reply).await, Value::Integer(n));
        }
        assert!(at_hand(&mut hog).await.is_none(), "the others were answered while it ran");
        let error = one(hog).await.unwrap_err();
        assert_eq!(&*error.text, "Script execution time limit exceeded");
    });
}

#[test]
fn several_hogs_with_pcall_around_the_limit_and_many_events_each() {
    on_worker(|| async {
        let h = Harness::with_limits(Limits { dispatch_cpu_max: Duration::from_secs(2), ..Limits::default() }).await;
        let hogs: Vec<_> = (1_000..1_003).map(nth).collect();
        for (tenant, source) in hogs.iter().zip([
            "while true do pcall(function() while true do end end) end",
            "coroutine.wrap(function() while true do end end)()",
            "task.spawn(function() while true do end end) task.wait(30)",
        ]) {
            h.install(*tenant, "hog", source).await;
        }
        echoes(&h, 30).await;
        let mut hogging = Vec::new();
        for _ in 0..3 {
            hogging.extend(hogs.iter().map(|tenant| h.send(*tenant, message("{}"))));
        }
        let began = Instant::now();
        for n in 0..30i64 {
            let reply = h.send(nth(n as u64), message(&format!(r#"{{"n":{n}}}"#)));
            assert_eq!(value(reply).await, Value::Integer(n));
        }
        assert!(began.elapsed() < Duration::from_secs(15), "the others took {:?}", began.elapsed());
        let mut running = 0;
        for reply in &mut hogging {
            running += usize::from(at_hand(reply).await.is_none());
        }
        assert!(running > 0, "the others were answered while hogs ran");
    });
}

#[test]
fn a_flood_of_one_tenant_does_not_delay_another() {
    on_worker(|| async {
        let h = Harness::new().await;
        let source = "local n = 0 for i = 1, 200000 do n += i % 7 end return n";
        h.install(TENANT, "works", source).await;
        h.install(OTHER, "echo", ECHO).await;
        value(h.send(TENANT, message("{}"))).await;
        let mut flood: Vec<_> = (0..500).map(|_| h.send(TENANT, message("{}"))).collect();
        for n in 0..20 {
            assert_eq!(value(h.send(OTHER, message(&format!(r#"{{"n":{n}}}"#)))).await, Value::Integer(n));
        }
        let mut last = flood.pop().unwrap();
        assert!(at_hand(&mut last).await.is_none(), "the flood is still being worked off");
    });
}
