//! The standard globals, the `task` library, and modules that are compiled off the thread.

use std::time::{Duration, Instant};

use worker_core::{Limits, Value};

use crate::harness::{Harness, OTHER, TENANT, message, on_worker};
use crate::scripts::script;

#[test]
fn the_globals_are_those_of_the_reference() {
    on_worker(|| async { Harness::new().await.passes(script!("globals/available")).await });
}

#[test]
fn threads_get_their_arguments() {
    on_worker(|| async { Harness::new().await.passes(script!("task/arguments")).await });
}

#[test]
fn threads_run_and_end_as_the_reference_says() {
    on_worker(|| async { Harness::new().await.passes(script!("task/semantics")).await });
}

/// Text that is compiled elsewhere.
fn large(code: &str) -> String {
    format!("local filler = [[{}]]\n{code}", "x".repeat(40 << 10))
}

#[test]
fn large_modules_are_compiled_elsewhere_and_run_once() {
    on_worker(|| async {
        let h = Harness::new().await;
        let entry = large(
            "local evt, ctx = ...
            local seen = {}
            for i = 1, 5 do
                task.spawn(function() seen[i] = require('./module') end)
            end
            assert(next(seen) == nil or loadedBefore, 'the first one waits for the compiler')
            while #seen < 5 do task.wait() end
            for i = 1, 5 do assert(seen[i] == seen[1]) end
            loadedBefore = true
            return { bodies = bodies, n = seen[1].next(), args = select('#', ...) }",
        );
        let module = large("bodies = (bodies or 0) + 1 local n = 0 return { next = function() n += 1 return n end }");
        h.install_files(TENANT, "t", &[], &[("init.luau", &entry), ("module.luau", &module)]).await;
        for n in 1..=3 {
            let expected = Value::from([("bodies", 1.into()), ("n", n.into()), ("args", 2.into())]);
            assert_eq!(h.message(TENANT).await, Ok(expected));
        }
    });
}

#[test]
fn mistakes_in_large_files_are_told_with_their_line() {
    on_worker(|| async {
        let h = Harness::new().await;
        let said = async |files: &[(&str, &str)]| {
            h.install_files(TENANT, "t", &[], files).await;
            let error = h.message(TENANT).await.unwrap_err();
            // It stays so, and is as true the second time.
            assert_eq!(h.message(TENANT).await.unwrap_err().text, error.text);
            error.text.to_string()
        };
        let wrong = large("\nlocal = 1");
        let text = said(&[("init.luau", &wrong)]).await;
        assert!(text.starts_with("/init.luau:3: "), "{text}");
        let text = said(&[("init.luau", "return require('./module')"), ("module.luau", &wrong)]).await;
        assert!(text.starts_with("/module.luau:3: "), "{text}");
        let raises = large("error('boom')");
        let text = said(&[("init.luau", "return require('./module')"), ("module.luau", &raises)]).await;
        assert_eq!(text, "/module.luau:2: boom");
        // The tenant is not the worse for it.
        h.install_files(TENANT, "t", &[], &[("init.luau", "return 1")]).await;
        assert_eq!(h.message(TENANT).await, Ok(1.into()));
    });
}

#[test]
fn a_large_module_cannot_be_waited_for_in_a_metamethod() {
    on_worker(|| async {
        let h = Harness::new().await;
        let entry = "local t = setmetatable({}, { __index = function() return require('./module') end })
            local ok, problem = pcall(function() return t.x end)
            task.wait(0.1)
            return { problem = problem, later = require('./module') }";
        let module = large("return 'there'");
        h.install_files(TENANT, "t", &[], &[("init.luau", entry), ("module.luau", &module)]).await;
        let Ok(Value::Map(said)) = h.message(TENANT).await else { panic!("it ends well") };
        assert!(matches!(&said["problem"], Value::Text(text) if text.starts_with("require: ")), "{said:?}");
        assert_eq!(said["later"], "there".into());
    });
}

/// "30 s in any 60 s", smaller.
#[test]
fn a_tenant_beyond_its_share_of_cpu_is_put_off_and_not_ended() {
    let reference = Limits::default();
    assert_eq!(reference.tenant_cpu_max, Duration::from_secs(30));
    assert_eq!(reference.tenant_cpu_window, Duration::from_secs(60));
    on_worker(|| async {
        let (max, window) = (Duration::from_millis(100), Duration::from_millis(200));
        let limits = Limits { tenant_cpu_max: max, tenant_cpu_window: window, ..Limits::default() };
        let h = Harness::with_limits(limits).await;
        // In the main thread, in one that it spawned, and in a coroutine.
        let source = "local function work(n) local x = 0 for i = 1, n do x += i % 7 end return x end
            local evt, ctx = ...
            if evt.data.content == 'neighbour' then return 'neighbour' end
            local done = 0
            task.spawn(function() work(4e6) done += 1 end)
            coroutine.wrap(function() work(4e6) done += 1 end)()
            local rounds = 0
            repeat work(1e6) rounds += 1 until rounds == 40
            while done < 2 do task.wait() end
            return rounds";
        h.install(TENANT, "hog", source).await;
        h.install(OTHER, "neighbour", source).await;
        let used = |h: &Harness| {
            let tenants = h.vms.greatest_users(2);
            tenants
                .into_iter()
                .find(|one| one.tenant == TENANT)
                .map_or(Duration::ZERO, |one| Duration::from_micros(one.cpu_micros))
        };
        let began = Instant::now();
        let running = h.start(TENANT, &message(r#"{"content":"hog"}"#)).await;
        for _ in 0..20 {
            let results = h.run(OTHER, &message(r#"{"content":"neighbour"}"#)).await;
            assert_eq!(results[0].1, Ok("neighbour".into()));
        }
        let results = crate::harness::finish(running).await;
        assert_eq!(results[0].1, Ok(40.into()), "it is not ended");
        let (cpu, passed) = (used(&h), began.elapsed());
        assert!(cpu > max * 2, "too little work to be put off: {cpu:?}");
        // What it had, and what came back meanwhile; and the slice in which that was used up.
        let allowed = max + passed / 2 + Duration::from_millis(20);
        assert!(cpu <= allowed, "{cpu:?} of CPU time in {passed:?}");
    });
}
