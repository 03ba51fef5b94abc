//! Values between Luau and the outside: conversion, `Lazy`, `@antiraid/interop`.

use bytes::Bytes;
use worker_core::{Capabilities, CompatDate, Event, EventName, Limits, RatelimitRules, TemplateName, Value};
use worker_db::{FileMap, NewTemplate};

use crate::harness::{Harness, TENANT, message, on_worker};
use crate::scripts::script;

#[test]
fn values_are_the_same_after_both_ways() {
    on_worker(|| async { free().await.passes(script!("values/conversion")).await });
}

#[test]
fn a_lazy_value_is_converted_once_and_collected() {
    on_worker(|| async { free().await.passes(script!("values/lazy")).await });
}

#[test]
fn interop_is_what_the_reference_says() {
    on_worker(|| async { free().await.passes(script!("values/interop")).await });
}

#[test]
fn a_result_that_is_larger_than_what_holds_it_is_an_error() {
    on_worker(|| async {
        let h = free().await;
        let tree = r#"
            local tree = {1}
            for _ = 1, 30 do tree = {tree, tree, tree, tree} end
            return tree
        "#;
        assert!(h.error(tree).await.starts_with("too_large: "));
        let several = r#"
            local list = {}
            for i = 1, 200 do list[i] = string.rep("x", 100000) end
            return list, list, list
        "#;
        assert!(h.error(several).await.starts_with("too_large: "));
        let cycle = "local t = {}; t.t = t; return t";
        assert!(h.error(cycle).await.starts_with("too_large: depth"));
        assert_eq!(h.script("return 1, nil, 'x'").await.unwrap(), Value::List(vec![1.into(), Value::Null, "x".into()]));
    });
}

/// What a Lazy holds counts until it is collected.
#[test]
fn native_memory_counts_and_is_given_back() {
    on_worker(|| async {
        let h = Harness::with(Limits { vm_memory_bytes_max: 4 << 20, ..Limits::default() }, unlimited()).await;
        let source = r#"
            local evt, ctx = ...
            local check = require("@self/check")
            local interop = require("@antiraid/interop")
            local get = ctx.DataStores.TemplateStore.get
            local before = interop.memusage()
            local kept = {}
            kept[1] = get("script").content
            check.eq(interop.memusage() - before > 500000, true)
            for round = 2, 20 do
                local ok, template = pcall(get, "script")
                if not ok then
                    check.eq(string.sub(template, 1, 8), "memory: ")
                    break
                end
                kept[round] = template.content
            end
            check.eq(#kept < 9, true)
            table.clear(kept)
            -- Garbage makes room as it is collected.
            for _ = 1, 100 do
                local ok, text = pcall(get, "script")
                if not ok then
                    check.eq(string.sub(text, 1, 8), "memory: ")
                    task.wait()
                end
            end
            check.eq(#get("script").content.data["bulk.luau"], 500000)
            return "ok"
        "#;
        let bulk = "x".repeat(500_000);
        h.passes_as(TENANT, &["*"], source, &[("bulk.luau", &bulk)]).await;
    });
}

/// With hardly a byte left, every call is an error that can be caught, unless the script itself has no memory for the
/// next line; neither ends the process, and the next event works.
#[test]
fn calls_without_memory_are_errors() {
    on_worker(|| async {
        let h = Harness::with(Limits { vm_memory_bytes_max: 2 << 20, ..Limits::default() }, unlimited()).await;
        h.install_script(TENANT, &["*"], script!("values/no_memory"), &[]).await;
        let mut failed = 0;
        for pieces in 0..60 {
            let event = message(&format!(r#"{{"pieces":{pieces}}}"#));
            let results = h.run(TENANT, &event).await;
            let (_, result) = results.into_iter().find(|(name, _)| name == "script").unwrap();
            match result {
                Ok(Value::Integer(calls)) => failed += calls,
                Ok(other) => panic!("{other:?}"),
                Err(error) => assert!(error.text.starts_with("memory: "), "{pieces}: {error}"),
            }
        }
        assert!(failed > 100, "{failed} calls failed");
    });
}

async fn free() -> Harness {
    Harness::with(Limits::default(), unlimited()).await
}

fn unlimited() -> RatelimitRules {
    RatelimitRules::unlimited()
}

#[test]
fn settings_are_checked_against_their_schema() {
    on_worker(|| async {
        let h = Harness::new().await;
        let template = NewTemplate {
            name: TemplateName::new("settings").unwrap(),
            files: FileMap::from([("init.luau".to_owned(), script!("values/settings").to_owned())]),
            events: vec!["GetSettings".into()],
            allowed_caps: Capabilities::default(),
            error_channel: None,
            compat: CompatDate::NEWEST,
            paused: false,
        };
        h.db.template_create(TENANT, template).await.unwrap();
        let answer = async |data: &str| {
            let event = Event::antiraid(EventName::new("GetSettings"), Bytes::copy_from_slice(data.as_bytes()));
            h.run(TENANT, &event).await.remove(0).1
        };
        assert_eq!(answer(r#"{"nothing":true}"#).await, Ok(Value::Null));
        for case in ["none", "one", "two", "types"] {
            assert!(answer(&format!(r#"{{"case":"{case}"}}"#)).await.is_ok(), "{case}");
        }
        for case in [
            "text",
            "map",
            "number",
            "inside",
            "id",
            "name",
            "columns",
            "operations",
            "footer",
            "key",
            "kind",
            "unknown",
            "flags",
            "widget",
            "outer",
            "late",
        ] {
            let error = answer(&format!(r#"{{"case":"{case}"}}"#)).await.unwrap_err();
            assert!(error.text.starts_with("invalid_value: settings: the answer"), "{case}: {error}");
        }
    });
}
