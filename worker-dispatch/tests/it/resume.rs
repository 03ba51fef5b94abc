//! `KeyResume`: once for each record each time that templates are loaded anew.

use worker_core::{Limits, Routing, TenantId, Value, WorkerFilter, WorkerLike};
use worker_db::{DbConfig, WorkerDb};
use worker_vm::LogKind;

use crate::harness::{Harness, OTHER, TENANT, answer, message, nth, on_worker, until, value};

const PRINTS: &str =
    "local evt, ctx = ... print(ctx.template_name .. ' ' .. evt.data.key .. ' ' .. evt.data.scopes[1])";

async fn until_lines(h: &Harness, tenant: TenantId, count: usize) -> Vec<String> {
    until(&format!("{count} lines"), async || h.log(tenant).len() >= count).await;
    h.log_of(tenant, LogKind::Print)
}

#[test]
fn each_record_is_resumed_once_in_order_for_the_subscribers_of_its_scopes() {
    on_worker(|| async {
        let h = Harness::new().await;
        for (key, scope) in [("z", "a"), ("m", "b"), ("a", "a")] {
            h.remember(TENANT, key, scope).await;
        }
        h.remember(OTHER, "other", "a").await;
        h.install_for(TENANT, "all", &["KeyResume"], PRINTS).await;
        h.install_for(TENANT, "only", &["KeyResume[a]"], PRINTS).await;
        h.install(TENANT, "unrelated", "return 'well'").await;
        // Any event loads the templates.
        assert_eq!(value(h.send(TENANT, message("{}"))).await, "well".into());
        let once = ["all z a", "only z a", "all m b", "all a a", "only a a"];
        assert_eq!(until_lines(&h, TENANT, 5).await, once);

        // A second load of the same is no new one.
        h.cache.invalidate(TENANT);
        assert_eq!(value(h.send(TENANT, message("{}"))).await, "well".into());

        // A change is, and needs no event.
        h.install(TENANT, "unrelated", "return 'changed'").await;
        let twice = until_lines(&h, TENANT, 10).await;
        assert_eq!(twice, [once, once].concat());

        // So is a reload that was asked for.
        answer(h.dispatcher.reload(TENANT)).await.unwrap();
        assert_eq!(until_lines(&h, TENANT, 15).await, [once, once, once].concat());
        assert_eq!(value(h.send(TENANT, message("{}"))).await, "changed".into());
        assert_eq!(h.log(TENANT).len(), 15);
        assert_eq!(h.log(OTHER), []);
    });
}

#[test]
fn resume_storm() {
    on_worker(|| async {
        let h = Harness::with_limits(Limits { tenant_queue_max: 2, ..Limits::default() }).await;
        for n in 0..20 {
            h.remember(TENANT, &format!("{n:02}"), "a").await;
        }
        h.install_for(TENANT, "all", &["KeyResume", "MESSAGE"], "local evt = ... print(evt.data.key)").await;
        h.dispatcher.dispatch_nowait(TENANT, message(r#"{"key":"message"}"#));
        until("all records", async || h.log(TENANT).len() == 21).await;
        let keys = h.log_of(TENANT, LogKind::Print);
        assert_eq!(keys[1..], (0..20).map(|n| format!("{n:02}")).collect::<Vec<_>>());
        let lines = h.log(TENANT);
        let took = lines[20].at.duration_since(lines[1].at);
        assert!(took.as_millis() >= 500, "20 records were sent within {took:?}");
        assert_eq!(h.stats().await.events_dropped, 0);
    });
}

#[test]
fn a_change_while_records_are_sent_begins_anew() {
    on_worker(|| async {
        let h = Harness::new().await;
        for n in 0..10 {
            h.remember(TENANT, &format!("{n}"), "a").await;
        }
        h.install_for(TENANT, "all", &["KeyResume"], "local evt = ... print('old ' .. evt.data.key)").await;
        h.dispatcher.resume_keys();
        until("the first of the old", async || h.log(TENANT).len() >= 2).await;
        h.install_for(TENANT, "all", &["KeyResume"], "local evt = ... print('new ' .. evt.data.key)").await;
        until("the last of the new", async || h.log_of(TENANT, LogKind::Print).contains(&"new 9".to_owned())).await;
        let lines = h.log_of(TENANT, LogKind::Print);
        let new: Vec<_> = lines.iter().filter(|line| line.starts_with("new")).collect();
        assert_eq!(new.len(), 10, "each once: {lines:?}");
        assert!(lines.len() < 20, "the old ones were given up: {lines:?}");
    });
}

#[test]
fn a_worker_that_starts_resumes_its_own_tenants() {
    on_worker(|| async {
        let db = WorkerDb::connect("sqlite::memory:", DbConfig::default()).await.unwrap();
        let filter = WorkerFilter::all().member(Routing::default(), 0, 2.try_into().unwrap());
        let h = Harness::over(db, filter.clone(), Limits::default(), None);
        let tenants: Vec<_> = (0..10).map(nth).collect();
        for &tenant in &tenants {
            h.install_for(tenant, "all", &["KeyResume"], PRINTS).await;
            h.remember(tenant, "key", "a").await;
        }
        h.dispatcher.resume_keys();
        let (own, other): (Vec<_>, Vec<_>) = tenants.into_iter().partition(|tenant| filter.owns(*tenant));
        for &tenant in &own {
            assert_eq!(until_lines(&h, tenant, 1).await, ["all key a"]);
        }
        answer(h.dispatcher.drain()).await.unwrap();
        assert_eq!(h.stats().await.events, own.len() as u64);
        assert!(other.into_iter().all(|tenant| h.log(tenant).is_empty()));
    });
}

#[test]
fn the_record_stays_as_it_is() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.remember(TENANT, "key", "a").await;
        let before = h.db.resume_records(TENANT).await.unwrap();
        h.install_for(TENANT, "all", &["AntiRaid"], "local evt = ... print(evt.name) return 1").await;
        h.dispatcher.resume_keys();
        assert_eq!(until_lines(&h, TENANT, 1).await, ["KeyResume"]);
        assert_eq!(h.db.resume_records(TENANT).await.unwrap().len(), before.len());
        assert_eq!(value(h.send(TENANT, crate::harness::named("ExecuteSetting", "{}"))).await, Value::Integer(1));
    });
}
