//! Templates that change, are bad, or cannot be read.

use std::time::Duration;

use worker_core::{Limits, Routing, TemplateName, Value, WorkerErrorKind, WorkerFilter, WorkerLike};
use worker_db::{DbConfig, WorkerDb};
use worker_vm::LogKind;

use crate::harness::{
    Harness, OTHER, TENANT, answer, at_hand, message, nth, numbered, on_worker, refusal, results, until, value,
};

#[test]
fn a_reload_while_code_runs() {
    on_worker(|| async {
        let h = Harness::new().await;
        let old = "state = (state or 0) + 1 task.wait(0.3) state += 1 return 'old ' .. state";
        h.install(TENANT, "it", old).await;
        h.cache.load(TENANT).await.unwrap();
        let mut running = h.send(TENANT, message("{}"));
        until("the old code's start", async || h.stats().await.templates_run == 1).await;
        h.install(TENANT, "it", "return 'new ' .. tostring(state)").await;
        answer(h.dispatcher.reload(TENANT)).await.unwrap();
        for _ in 0..3 {
            assert_eq!(value(h.send(TENANT, message("{}"))).await, "new nil".into(), "in a new VM");
        }
        assert!(at_hand(&mut running).await.is_none(), "the old one runs still");
        assert_eq!(value(running).await, "old 2".into(), "in its own VM");
    });
}

#[test]
fn a_change_in_the_store_is_seen() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install(TENANT, "it", "return 1").await;
        h.install(OTHER, "it", "return 1").await;
        assert_eq!(h.message(TENANT).await.unwrap(), Value::Integer(1));
        assert_eq!(h.message(OTHER).await.unwrap(), Value::Integer(1));
        let made = h.stats().await.vms_made;
        h.install(TENANT, "it", "return 2").await;
        until("the new code", async || h.message(TENANT).await.unwrap() == Value::Integer(2)).await;
        h.db.template_set_paused(TENANT, &TemplateName::new("it").unwrap(), true).await.unwrap();
        until("nobody's results", async || results(h.send(TENANT, message("{}"))).await.is_empty()).await;
        assert_eq!(h.message(OTHER).await.unwrap(), Value::Integer(1));
        assert_eq!(h.stats().await.vms_made, made + 1, "the other tenant keeps its VM");
    });
}

#[test]
fn a_template_that_is_gone_does_not_run_on_in_the_background() {
    on_worker(|| async {
        let h =
            Harness::with_limits(Limits { vm_drain_timeout: Duration::from_millis(100), ..Limits::default() }).await;
        h.install(TENANT, "ticks", "task.spawn(function() while true do task.wait() print('tick') end end)").await;
        h.message(TENANT).await.unwrap();
        until("ticks", async || h.log(TENANT).len() > 2).await;
        assert_eq!(h.stats().await.vms_live, 1);
        h.db.template_delete(TENANT, &TemplateName::new("ticks").unwrap()).await.unwrap();
        // No event comes any more that could tell the VM.
        until("the end of its VM", async || h.stats().await.vms_live == 0).await;
    });
}

#[test]
fn vm_leak_on_reload() {
    on_worker(|| async {
        let h = Harness::with_limits(Limits { vm_drain_timeout: Duration::from_millis(50), ..Limits::default() }).await;
        h.install(TENANT, "sleeps", "task.delay(30, print) return 1").await;
        for _ in 0..20 {
            answer(h.dispatcher.reload(TENANT)).await.unwrap();
            assert_eq!(h.message(TENANT).await.unwrap(), Value::Integer(1));
        }
        until("the end of the old VMs", async || h.stats().await.vms_live == 1).await;
        assert_eq!(h.stats().await.vms_made, 20);
    });
}

#[test]
fn code_that_does_not_compile_is_reported_once_and_costs_itself_alone() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install(TENANT, "bad", "local x = = 1").await;
        h.install(TENANT, "empty", "return 'e'").await;
        h.install(TENANT, "good", "return 'good'").await;
        let fails_each_time = async || {
            for _ in 0..5 {
                let results = results(h.send(TENANT, message("{}"))).await;
                let error = results[0].1.as_ref().unwrap_err();
                assert!(error.text.starts_with("/init.luau:1: "), "{error}");
                assert_eq!(results[2].1, Ok("good".into()));
            }
        };
        fails_each_time().await;
        assert_eq!(h.log(TENANT).len(), 1, "{:?}", h.log(TENANT));
        assert_eq!(h.log(TENANT)[0].template.as_ref().unwrap().as_str(), "bad");
        assert_eq!(h.log(OTHER), []);

        h.install(TENANT, "bad", "return 'well'").await;
        until("the template that was put right", async || {
            results(h.send(TENANT, message("{}"))).await[0].1 == Ok("well".into())
        })
        .await;
        h.install(TENANT, "bad", "local x = = 1").await;
        until("the template that is bad again", async || results(h.send(TENANT, message("{}"))).await[0].1.is_err())
            .await;
        fails_each_time().await;
        assert_eq!(h.log(TENANT).len(), 2, "once for each time that it was loaded");
    });
}

#[test]
fn poison_row_stops_all_workers() {
    on_worker(|| async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.sqlite");
        let url = format!("sqlite:{}", path.display());
        let db = WorkerDb::connect(&url, DbConfig::default()).await.unwrap();
        let h = Harness::over(db, WorkerFilter::all(), Limits::default(), None);
        h.install_for(TENANT, "bad", &["MESSAGE", "POISONED"], "return 'bad'").await;
        h.install(TENANT, "good", "return 'good'").await;
        h.install(OTHER, "good", "return 'good'").await;
        h.db.close().await;
        drop(h);

        // As a disk would: the list of events is no longer JSON.
        let bytes = std::fs::read(&path).unwrap();
        let row = br#""POISONED"]"#;
        let damaged: Vec<usize> = (0..bytes.len() - row.len()).filter(|&at| bytes[at..].starts_with(row)).collect();
        assert!(!damaged.is_empty(), "the row is in the file");
        let mut bytes = bytes;
        damaged.into_iter().for_each(|at| bytes[at + row.len() - 1] = b'!');
        std::fs::write(&path, bytes).unwrap();

        let db = WorkerDb::connect(&url, DbConfig::default()).await.unwrap();
        let h = Harness::over(db, WorkerFilter::all(), Limits::default(), None);
        for tenant in [TENANT, OTHER, TENANT] {
            let results = results(h.send(tenant, message("{}"))).await;
            assert_eq!(results, [("good".to_owned(), Ok("good".into()))]);
        }
        h.cache.invalidate(TENANT);
        assert_eq!(h.message(TENANT).await, Ok("good".into()));
        let lines = h.log_of(TENANT, LogKind::Error);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("`bad` cannot be loaded"), "{lines:?}");
        assert_eq!(h.log(OTHER), []);
    });
}

#[test]
fn without_the_database_what_is_loaded_runs_and_the_rest_is_refused() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install(TENANT, "it", "return 1").await;
        h.install(OTHER, "it", "return 1").await;
        assert_eq!(h.message(TENANT).await, Ok(Value::Integer(1)));
        h.db.close().await;
        for _ in 0..2 {
            h.dispatcher.dispatch_nowait(OTHER, message("{}"));
            let kind = refusal(h.send(OTHER, message("{}"))).await;
            assert_eq!(kind, WorkerErrorKind::Storage);
            assert!(kind.is_retryable());
        }
        assert_eq!(h.message(TENANT).await, Ok(Value::Integer(1)));
        let stats = h.stats().await;
        assert_eq!((stats.events_dropped, stats.events_queued), (2, 0));
        answer(h.dispatcher.drain()).await.unwrap();
    });
}

#[test]
fn events_for_tenants_of_other_workers_are_refused() {
    on_worker(|| async {
        let db = WorkerDb::connect("sqlite::memory:", DbConfig::default()).await.unwrap();
        let filter = WorkerFilter::all().member(Routing::default(), 0, 2.try_into().unwrap());
        let h = Harness::over(db, filter.clone(), Limits::default(), None);
        let (own, other): (Vec<_>, Vec<_>) = (0..20).map(nth).partition(|tenant| filter.owns(*tenant));
        assert!(!own.is_empty() && !other.is_empty());
        for tenant in other {
            h.install(tenant, "it", "return 1").await;
            assert_eq!(refusal(h.send(tenant, message("{}"))).await, WorkerErrorKind::BadRequest);
            assert_eq!(refusal(h.dispatcher.reload(tenant)).await, WorkerErrorKind::BadRequest);
        }
        assert!(h.cache.is_empty());
        for tenant in own {
            h.install(tenant, "it", "return 1").await;
            assert_eq!(h.message(tenant).await, Ok(Value::Integer(1)));
        }
    });
}

#[test]
fn events_that_nobody_subscribed_to_make_no_vm() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install(TENANT, "it", "return 1").await;
        for tenant in [TENANT, OTHER] {
            for n in 0..10 {
                // Not even JSON: nobody looks at it.
                h.dispatcher.dispatch_nowait(tenant, numbered("GUILD_BAN_ADD", n));
                let nobody = worker_core::Event::discord("PRESENCE_UPDATE", "not JSON".into());
                assert_eq!(results(h.send(tenant, nobody)).await, []);
            }
        }
        let stats = h.stats().await;
        assert_eq!((stats.events, stats.events_dispatched, stats.templates_run), (40, 0, 0));
        assert_eq!((stats.vms_made, stats.vms_live), (0, 0));
        assert_eq!((h.log(TENANT), h.log(OTHER)), (vec![], vec![]));
    });
}
