//! Hostile templates against the real limits, with a neighbour on the same thread that must be served.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use worker_core::{Limits, Quota, RatelimitFamily, RatelimitRules, Value};

use crate::harness::{Harness, OTHER, TENANT, finish, message, on_worker};

/// Scripts, and what their result or error must begin with: each ends by a limit.
const HOSTILE: &[(&str, &str, &[&str])] = &[
    (
        "defer storm",
        "local function f() task.defer(f) end for i = 1, 100 do task.defer(f) end while true do task.wait() end",
        &["Script execution time limit exceeded"],
    ),
    (
        "timers that re-arm",
        "local function f() task.delay(0, f) for i = 1, 1e6 do end end f() while true do task.wait() end",
        &["Script execution time limit exceeded"],
    ),
    (
        "spawn in spawn",
        "local function f() task.spawn(f) end f() while true do end",
        &["Script execution time limit exceeded"],
    ),
    (
        "recursion",
        "local function f() return 1 + f() end return f()",
        &["stack overflow", "/init.luau:1: stack overflow"],
    ),
    (
        "recursion in pcall",
        "local function f() pcall(f) return 1 + f() end while true do pcall(f) end",
        &["Script execution time limit exceeded"],
    ),
    (
        "coroutines in coroutines",
        "local function f() return coroutine.wrap(f)() end return f()",
        &["C stack overflow", "/init.luau:1: C stack overflow", "not enough memory", "memory: "],
    ),
    ("strings doubling", "local s = 'x' while true do s = s .. s end", &["memory: ", "not enough memory"]),
    (
        "table of tables",
        "local t = {} while true do t[#t + 1] = {{}} end",
        &["memory: ", "Script execution time limit exceeded"],
    ),
    (
        "closures",
        "local t = {} while true do t[#t + 1] = function() return t end end",
        &["memory: ", "Script execution time limit exceeded"],
    ),
    (
        "a million coroutines",
        "local t = {} while true do t[#t + 1] = coroutine.create(print) end",
        &["quota_exceeded: threads"],
    ),
    (
        "string keys",
        "local t, i = {}, 0 while true do i += 1 t['key' .. i] = true end",
        &["memory: ", "Script execution time limit exceeded"],
    ),
    (
        "gsub that grows",
        "return #string.gsub(string.rep('a', 1e6), 'a', string.rep('b', 1000))",
        &["memory: ", "not enough memory"],
    ),
    (
        "format that grows",
        "local f = string.rep('%99.99f', 1e5) return #string.format(f, table.unpack(table.create(1e4, 1)))",
        &["memory: ", "/init.luau:1: "],
    ),
    (
        "concat that grows",
        "return #table.concat(table.create(1e6, string.rep('x', 1000)))",
        &["memory: ", "not enough memory"],
    ),
    (
        "table.create",
        "return table.create(1e9)",
        &["/init.luau:1: ", "memory: ", "not enough memory", "table overflow"],
    ),
    ("buffer", "return buffer.create(2 ^ 30)", &["memory: ", "not enough memory"]),
    (
        "memory caught for ever",
        "while true do pcall(string.rep, 'x', 1e9) pcall(function() local t = {} while true do t[#t + 1] = {} end end) end",
        &["Script execution time limit exceeded", "memory: "],
    ),
    (
        "pattern",
        "return string.find(string.rep('a', 1e5), string.rep('a-', 20) .. 'b')",
        &["Script execution time limit exceeded"],
    ),
    (
        "frontier",
        "return string.match(string.rep('(', 1e5), '%b()%b()%b()')",
        &["nil", "Script execution time limit exceeded"],
    ),
    (
        "comparator that grows",
        "local t = table.create(1e5, 1) table.sort(t, function(a, b) for i = 1, 1e4 do end return a < b end)",
        &["Script execution time limit exceeded"],
    ),
    ("iterator that never ends", "for k in function() return 1 end do end", &["Script execution time limit exceeded"]),
    (
        "__iter that never ends",
        "for k in setmetatable({}, {__iter = function() return function() return 1 end end}) do end",
        &["Script execution time limit exceeded"],
    ),
    (
        "__eq chain",
        "local m = {} m.__eq = function(a, b) return a == b end local a, b = setmetatable({}, m), setmetatable({}, m) return a == b",
        &["stack overflow", "/init.luau:1: ", "C stack overflow"],
    ),
    (
        "__concat loop",
        "local t = setmetatable({}, {__concat = function() while true do end end}) return t .. 'x'",
        &["Script execution time limit exceeded"],
    ),
    (
        "error object that spins",
        "error(setmetatable({}, {__tostring = function() while true do end end}))",
        &["error object is a table"],
    ),
    ("deep result", "local t = {} local r = t for i = 1, 1e5 do t.x = {} t = t.x end return r", &["too_large: depth"]),
    ("cyclic result", "local t = {} t.t = t return t", &["too_large: depth"]),
    ("wide result", "local t = {'x'} for i = 1, 24 do t = {t, t} end return t", &["too_large: "]),
    ("NaN result", "return 0 / 0", &["invalid_value: "]),
    ("function result", "return print", &["invalid_value: "]),
    (
        "yield in a metamethod",
        "return setmetatable({}, {__index = function() task.wait() end}).x",
        &["attempt to yield across metamethod/C-call boundary"],
    ),
    (
        "yield in a comparator",
        "table.sort({3, 2, 1}, function() coroutine.yield() end)",
        &["attempt to yield across metamethod/C-call boundary", "/init.luau:1: "],
    ),
];

#[test]
fn each_hostile_script_ends_by_a_limit_and_hurts_no_neighbour() {
    on_worker(|| async {
        let limits = Limits { dispatch_cpu_max: Duration::from_millis(150), ..Limits::default() };
        let h = Harness::with_limits(limits).await;
        h.install(OTHER, "neighbour", "return 'served'").await;
        for (name, source, expected) in HOSTILE {
            h.install(TENANT, "hostile", source).await;
            let start = Instant::now();
            let run = tokio::task::spawn_local(finish(h.start(TENANT, &message("{}")).await));
            let mut served = 0;
            while !run.is_finished() || served == 0 {
                assert_eq!(h.message(OTHER).await, Ok(Value::from("served")), "beside {name}");
                served += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let outcome = match run.await.unwrap().remove(0).1 {
                Ok(Value::Null) => "nil".to_owned(),
                Ok(value) => format!("{value:?}"),
                Err(error) => error.text.to_string(),
            };
            assert!(expected.iter().any(|text| outcome.starts_with(text)), "{name}: {outcome}");
            assert!(start.elapsed() < Duration::from_secs(10), "{name} took {:?}", start.elapsed());
        }
        h.install(TENANT, "hostile", "return 'ok'").await;
        assert_eq!(h.message(TENANT).await, Ok(Value::from("ok")));
    });
}

#[test]
fn what_templates_share_cannot_be_tampered_with() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.assert_ok(
            r#"
            local evt, ctx = ...
            local function refused(f, ...) local ok, err = pcall(f, ...) assert(not ok, "not refused") return err end
            local interop = require("@antiraid/interop")
            refused(function() interop.null = 1 end)
            refused(rawset, interop, "null", 1)
            refused(setmetatable, interop.array_metatable, {})
            refused(function() interop.array_metatable.__index = print end)
            for _, object in {ctx, ctx.KV, ctx.DataStores, require("@antiraid/datetime").UTC} do
                assert(getmetatable(object) == false)
                refused(function() object.x = 1 end)
                refused(setmetatable, object, {})
                refused(rawset, object, "x", 1)
            end
            refused(rawset, string, "rep", print)
            refused(rawset, coroutine, "resume", print)
            refused(rawset, task, "spawn", print)
            refused(function() getmetatable("").__index.rep = print end)
            refused(rawset, evt, "name", "X")
            assert(require("@ANTIRAID/Interop") == interop)
            for _, path in {"/etc/passwd", "../x", "./../x", "@self/../../x", "@antiraid/../x", "", "x", "@", "\0", string.rep("a/", 5000)} do
                local err = refused(require, path)
                assert(string.sub(err, 1, 9) == "require: ", err)
            end
            refused(require, {})
            refused(require)
            return "ok"
            "#,
        )
        .await;
    });
}

#[test]
fn a_context_stays_usable_after_its_event_and_is_collected_with_it() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install(
            TENANT,
            "t",
            r#"
            local evt, ctx = ...
            first = first or ctx
            evt.data.own = ctx
            assert(first:event().data.n == 0)
            assert(first:has_cap("anything"))
            return evt.data.n
            "#,
        )
        .await;
        // Each event holds its context and each context its event: were they not collected, the limit of 20 MiB would
        // be passed many times over.
        let padding = "x".repeat(100_000);
        for n in 0..1_000 {
            let results = h.run(TENANT, &message(&format!(r#"{{"n":{n},"padding":"{n}{padding}"}}"#))).await;
            assert_eq!(results[0].1, Ok(Value::from(n)), "event {n}");
        }
        assert_eq!(h.vms.stats().broken, 0);
    });
}

#[test]
fn events_kept_for_ever_cost_their_tenant_its_vm_and_nothing_more() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install(TENANT, "t", "local evt = ... kept = kept or {} table.insert(kept, evt) return #kept").await;
        let padding = "x".repeat(100_000);
        let mut errors = 0;
        for n in 0..500 {
            // Equal strings are one string to Luau.
            let event = message(&format!(r#"{{"padding":"{n}{padding}"}}"#));
            match h.run(TENANT, &event).await.remove(0).1 {
                Ok(_) => {}
                Err(error) => {
                    assert!(error.text.starts_with("memory: "), "{error}");
                    errors += 1;
                }
            }
        }
        // 100 KB an event into 20 MiB: about 200 events a VM.
        assert!((1..=4).contains(&errors), "{errors}");
    });
}

#[test]
fn native_memory_comes_back_when_a_tenant_goes() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install(TENANT, "t", "kept = {} for i = 1, 150 do kept[i] = string.rep('x', 1e5 + i) end return 1").await;
        h.message(TENANT).await.unwrap();
        assert!(h.vms.stats().memory_bytes > 10 << 20);
        h.vms.retire(TENANT);
        let stats = h.vms.stats();
        assert_eq!((stats.memory_bytes, stats.live), (0, 0));
    });
}

#[test]
fn limits_are_not_reset_by_a_reload_or_a_broken_vm() {
    on_worker(|| async {
        let three_an_hour = Quota::per(NonZeroU32::new(3).unwrap(), Duration::from_secs(3_600));
        let rules = RatelimitRules::unlimited().with_global(RatelimitFamily::Kv, [three_an_hour]);
        let h = Harness::with(Limits::default(), rules).await;
        let take = "local evt, ctx = ... ctx.KV:exists('k', {'s'}) return 'taken'";
        h.install(TENANT, "t", take).await;
        assert_eq!(h.message(TENANT).await, Ok(Value::from("taken")));
        h.vms.retire(TENANT);
        assert_eq!(h.message(TENANT).await, Ok(Value::from("taken")), "a new VM");
        h.install(TENANT, "t", "local t = {} while true do t[#t + 1] = {} end").await;
        h.message(TENANT).await.unwrap_err();
        h.install(TENANT, "t", take).await;
        assert_eq!(h.message(TENANT).await, Ok(Value::from("taken")), "after a memory error and a changed template");
        let error = h.message(TENANT).await.unwrap_err();
        assert!(error.text.starts_with("Global ratelimit hit for bucket 'exists', wait time: "), "{error}");
        // Another tenant has its own.
        h.install(OTHER, "t", take).await;
        assert_eq!(h.message(OTHER).await, Ok(Value::from("taken")));
    });
}

#[test]
fn a_killed_dispatch_takes_what_it_waited_for_out_of_others_chains() {
    on_worker(|| async {
        let limits = Limits { dispatch_cpu_max: Duration::from_millis(300), ..Limits::default() };
        let h = Harness::with_limits(limits).await;
        h.install(
            TENANT,
            "t",
            r#"
            local evt = ...
            if evt.data.n == 1 then
                C = coroutine.running()
                task.spawn(function()
                    task.wait(0.06)
                    return setmetatable({}, {__index = function() while true do end end}).x
                end)
                coroutine.yield()
                coroutine.wrap(function() while true do local t = {{}} end end)()
            elseif evt.data.n == 2 then
                coroutine.resume(C)
                return "went on"
            end
            return "ok"
            "#,
        )
        .await;
        let first = tokio::task::spawn_local(finish(h.start(TENANT, &message(r#"{"n":1}"#)).await));
        let second = tokio::task::spawn_local(finish(h.start(TENANT, &message(r#"{"n":2}"#)).await));
        assert!(first.await.unwrap().remove(0).1.is_err());
        // Whatever became of the second, the VM is sound, and collecting finds nothing that was freed.
        let _ = second.await.unwrap();
        for _ in 0..50 {
            let results = h.run(TENANT, &message(r#"{"n":3}"#)).await;
            assert_eq!(results[0].1, Ok(Value::from("ok")));
        }
    });
}

#[test]
fn killing_at_the_memory_limit_does_not_end_the_process() {
    on_worker(|| async {
        let limits = Limits { dispatch_cpu_max: Duration::from_millis(100), ..Limits::default() };
        let h = Harness::with_limits(limits).await;
        for depth in [9, 30, 100, 400] {
            let source = format!(
                r#"
                local keep = {{}}
                for size = 4096, 1, -7 do
                    while true do
                        local ok, t = pcall(table.create, size, 0)
                        if not ok then break end
                        keep[#keep + 1] = t
                    end
                end
                local function f(n) if n > 0 then return 1 + f(n - 1) end while true do end end
                local co = coroutine.create(f)
                pcall(coroutine.resume, co, {depth})
                f({depth})
                "#
            );
            h.install(TENANT, "t", &source).await;
            h.message(TENANT).await.unwrap_err();
        }
        h.install(TENANT, "t", "return 'ok'").await;
        assert_eq!(h.message(TENANT).await, Ok(Value::from("ok")));
    });
}

#[test]
fn collecting_all_the_time_is_no_way_around_the_budget() {
    on_worker(|| async {
        let limits = Limits { dispatch_cpu_max: Duration::from_millis(300), ..Limits::default() };
        let h = Harness::with_limits(limits).await;
        h.install(OTHER, "neighbour", "return 'served'").await;
        let source = r#"
            local keep = {}
            repeat keep[#keep + 1] = {{}} until collectgarbage("count") > 20 * 1024 - 1500
            while true do pcall(buffer.create, 300000) end
        "#;
        h.install(TENANT, "t", source).await;
        let start = Instant::now();
        let run = tokio::task::spawn_local(finish(h.start(TENANT, &message("{}")).await));
        assert_eq!(h.message(OTHER).await, Ok(Value::from("served")));
        run.await.unwrap().remove(0).1.unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    });
}

#[test]
fn values_of_nothing_but_holes_and_endless_names_are_refused() {
    on_worker(|| async {
        let h = Harness::new().await;
        let start = Instant::now();
        let error = h.error("local hole = table.create(400000) return table.create(100000, hole)").await;
        assert!(error.starts_with("too_large: ") || error.starts_with("invalid_value: "), "{error}");
        h.assert_ok(
            r#"
            local evt, ctx = ...
            for i = 1, 100 do
                local ok, err = pcall(require, string.rep("./", 1e5 + i) .. "m")
                assert(not ok and string.sub(err, 1, 9) == "require: ", err)
            end
            local many = table.create(25000, "x")
            assert(not pcall(function() ctx:withlimits({capabilities = many}) end))
            assert(not pcall(function() ctx:has_any_cap(many) end))
            local contexts, ok = {}, true
            local caps = {}
            for i = 1, 250 do caps[i] = string.rep("c", 200) .. i end
            while ok do
                ok = pcall(function() contexts[#contexts + 1] = ctx:withlimits({capabilities = caps}) end)
            end
            assert(#contexts < 1000, #contexts)
            return "ok"
            "#,
        )
        .await;
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    });
}
