//! What comes back, and what goes to the log.

use std::time::Duration;

use worker_core::{Limits, Value, WorkerLike};
use worker_vm::LogKind;

use crate::harness::{Harness, OTHER, TENANT, answer, message, named, numbered, on_worker, results, until, value};

#[test]
fn each_template_answers_in_the_order_of_their_names() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install(TENANT, "c", "task.wait() return 'c'").await;
        h.install(TENANT, "a", "local evt = ... return { name = evt.name, list = { 1, 2 } }").await;
        h.install(TENANT, "d", "return").await;
        h.install(TENANT, "b", "local x = nil\nreturn x.y").await;
        h.install(TENANT, "e", "return 1, 'two'").await;
        h.install_for(TENANT, "not me", &["GUILD_BAN_ADD"], "return 'wrong'").await;
        let results = results(h.send(TENANT, message("{}"))).await;
        let names: Vec<_> = results.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["a", "b", "c", "d", "e"]);
        let list = Value::List(vec![1.into(), 2.into()]);
        assert_eq!(results[0].1, Ok(Value::from([("name", "MESSAGE".into()), ("list", list)])));
        let error = results[1].1.as_ref().unwrap_err();
        assert!(error.text.contains("attempt to index nil with 'y'"), "{error}");
        let at = error.at.as_ref().unwrap();
        assert_eq!((&*at.path, at.line), ("/init.luau", 2));
        assert_eq!(results[2].1, Ok("c".into()));
        assert_eq!(results[3].1, Ok(Value::Null));
        assert_eq!(results[4].1, Ok(Value::List(vec![1.into(), "two".into()])));
        let stats = h.stats().await;
        assert_eq!((stats.events_dispatched, stats.templates_run, stats.templates_failed), (1, 5, 1));
    });
}

#[test]
fn a_timeout_is_one_templates_result_and_the_others_are_there() {
    on_worker(|| async {
        let h =
            Harness::with_limits(Limits { dispatch_timeout: Duration::from_millis(500), ..Limits::default() }).await;
        h.install(TENANT, "a", "return 'a'").await;
        h.install(TENANT, "b", "task.wait(0.7) print('went on') error('failed late', 0)").await;
        h.install(TENANT, "c", "task.wait(0.05) return 'c'").await;
        // So that loading takes nothing of the time.
        h.cache.load(TENANT).await.unwrap();
        let results = results(h.send(TENANT, message("{}"))).await;
        assert_eq!(results[0].1, Ok("a".into()));
        let error = results[1].1.as_ref().unwrap_err();
        assert!(error.text.starts_with("timeout: "), "{error}");
        assert_eq!(results[2].1, Ok("c".into()));
        until("the late error in the log", async || {
            h.log_of(TENANT, LogKind::Error).iter().any(|line| line.contains("failed late"))
        })
        .await;
        let lines = h.log(TENANT);
        let texts: Vec<_> = lines.iter().map(|line| line.text.split('\n').next().unwrap_or_default()).collect();
        assert!(texts[0].starts_with("timeout: "), "{texts:?}");
        assert_eq!(texts[1], "went on");
        assert!(texts[2].starts_with("failed late"), "{texts:?}");
        assert!(lines.iter().all(|line| line.template.as_ref().is_some_and(|name| name.as_str() == "b")));
        assert_eq!(h.stats().await.templates_failed, 1);
    });
}

#[test]
fn to_be_slow_is_no_failure_where_nobody_waits() {
    on_worker(|| async {
        let limits =
            Limits { dispatch_timeout: Duration::from_millis(50), tenant_dispatches_max: 1, ..Limits::default() };
        let h = Harness::with_limits(limits).await;
        h.install_for(TENANT, "slow", &["GUILD_BAN_ADD"], "task.wait(0.4) print('done')").await;
        h.install(TENANT, "quick", "return 'quick'").await;
        h.cache.load(TENANT).await.unwrap();
        h.dispatcher.dispatch_nowait(TENANT, numbered("GUILD_BAN_ADD", 0));
        // It gives its place back when its time is over.
        until("the quick one's answer", async || {
            answer(h.send(TENANT, message("{}"))).await.is_ok_and(|result| result.templates[0].outcome.is_ok())
        })
        .await;
        until("the end of the slow one", async || h.log_of(TENANT, LogKind::Print) == ["done"]).await;
        assert_eq!(h.log_of(TENANT, LogKind::Error), [""; 0]);
        assert_eq!(h.stats().await.templates_failed, 0);
    });
}

#[test]
fn errors_go_to_the_tenants_own_log() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install(TENANT, "fails", "local evt = ... task.wait() error('mine ' .. evt.data.n, 0)").await;
        h.install(OTHER, "fails", "error('theirs', 0)").await;
        for n in 0..3 {
            h.dispatcher.dispatch_nowait(TENANT, numbered("MESSAGE_CREATE", n));
            h.dispatcher.dispatch_nowait(OTHER, numbered("MESSAGE_CREATE", n));
        }
        until("all errors", async || h.log(TENANT).len() + h.log(OTHER).len() == 6).await;
        for line in h.log(TENANT) {
            assert!(line.text.starts_with("mine "), "{line:?}");
            assert_eq!(line.kind, LogKind::Error);
            assert_eq!(line.template.unwrap().as_str(), "fails");
            assert_eq!(line.event.unwrap().as_str(), "MESSAGE");
        }
        assert!(h.log_of(OTHER, LogKind::Error).iter().all(|text| text.starts_with("theirs")));
        assert_eq!(h.log(OTHER).len(), 3);
    });
}

#[test]
fn scoped_events_reach_the_subscribers_of_their_scopes() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install_for(TENANT, "all", &["ExecuteSetting"], "return 'all'").await;
        h.install_for(TENANT, "base", &["AntiRaid"], "return 'base'").await;
        h.install_for(TENANT, "one", &["ExecuteSetting[one]", "AntiRaid[one]"], "return 'one'").await;
        h.install_for(TENANT, "two", &["ExecuteSetting[two]"], "return 'two'").await;
        let names = async |scopes: &[&'static str]| {
            let event = named("ExecuteSetting", "{}").with_scopes(scopes.iter().copied());
            results(h.send(TENANT, event)).await.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(names(&["one"]).await, ["all", "base", "one"]);
        assert_eq!(names(&["two", "one"]).await, ["all", "base", "one", "two"]);
        assert_eq!(names(&[]).await, ["all", "base"]);
        assert_eq!(results(h.send(TENANT, message("{}"))).await.len(), 0);
    });
}

#[test]
fn broken_vm_stays() {
    on_worker(|| async {
        let h = Harness::with_limits(Limits { vm_memory_bytes_max: 4 << 20, ..Limits::default() }).await;
        let source = "
            local evt = ...
            if evt.data.n == 0 then local all = {} while true do table.insert(all, buffer.create(65536)) end end
            return evt.data.n
        ";
        h.install(TENANT, "eats", source).await;
        assert_eq!(value(h.send(TENANT, numbered("MESSAGE_CREATE", 1))).await, Value::Integer(1));
        let error = crate::harness::one(h.send(TENANT, numbered("MESSAGE_CREATE", 0))).await.unwrap_err();
        assert!(error.text.starts_with("memory: "), "{error}");
        assert_eq!(value(h.send(TENANT, numbered("MESSAGE_CREATE", 2))).await, Value::Integer(2));
        assert_eq!(h.stats().await.vms_broken, 1);
    });
}

#[test]
fn data_that_is_not_json_fails_its_event_alone() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install(TENANT, "echo", "local evt = ... return evt.data.n").await;
        let error = crate::harness::one(h.send(TENANT, message("{"))).await.unwrap_err();
        assert!(error.text.starts_with("invalid_argument: "), "{error}");
        assert_eq!(value(h.send(TENANT, numbered("MESSAGE_CREATE", 1))).await, Value::Integer(1));
    });
}
