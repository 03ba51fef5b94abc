//! `ctx.DataStores`.

use std::num::NonZeroU32;
use std::time::Duration;

use worker_core::{CompatDate, Limits, Quota, RatelimitFamily, RatelimitRules, ShopVersion, TemplateName, Value};
use worker_db::{FileMap, NewTemplate};

use crate::harness::{Harness, OTHER, TENANT, on_worker};
use crate::scripts::script;

#[test]
fn stores_are_tables_of_functions_by_name() {
    on_worker(|| async { free().await.passes(script!("datastores/shape")).await });
}

#[test]
fn templates_are_listed_created_changed_and_deleted() {
    on_worker(|| async { free().await.passes(script!("datastores/templates")).await });
}

#[test]
fn a_template_grants_only_what_it_holds() {
    on_worker(|| async {
        let h = free().await;
        h.db.template_create(TENANT, new_template("strong", &["discord:*"], &[])).await.unwrap();
        h.passes_as(TENANT, &["datastore:TemplateStore", "kv:*"], script!("datastores/grants"), &[]).await;
    });
}

#[test]
fn a_method_may_be_granted_alone() {
    on_worker(|| async {
        let h = free().await;
        let source = r#"
            local evt, ctx = ...
            local check = require("@self/check")
            local store = ctx.DataStores.TemplateStore
            check.eq(#store.list(), 1)
            check.raises("Missing capability: datastore:TemplateStore:get", store.get, "script")
            check.raises("Missing capability: datastore:TemplateStore:delete", store.delete, "script")
            return "ok"
        "#;
        h.passes_as(TENANT, &["datastore:TemplateStore:list"], source, &[]).await;
    });
}

#[test]
fn a_change_is_in_force_for_the_next_event() {
    on_worker(|| async {
        let h = free().await;
        let source = r#"
            local evt, ctx = ...
            local store = ctx.DataStores.TemplateStore
            local step = ctx.KV:incr("step", 1, {"s"})
            local made = {
                name = "made", events = {"MESSAGE"}, language = "luau", allowed_caps = {},
                content = {["init.luau"] = "return " .. step},
            }
            if step == 1 then store.create(made)
            elseif step == 2 then store.update(made)
            elseif step == 3 then made.paused = true; store.update(made)
            elseif step == 4 then made.paused = false; store.update(made)
            elseif step == 5 then store.delete("made") end
            return "step " .. step
        "#;
        h.install(TENANT, "script", source).await;
        let made = async || {
            let event = crate::harness::message("{}");
            let results = h.run(TENANT, &event).await;
            results.into_iter().find(|(name, _)| name == "made").map(|(_, value)| value.unwrap())
        };
        // The templates of an event are found before it changes them.
        assert_eq!(made().await, None);
        assert_eq!(made().await, Some(Value::Integer(1)));
        assert_eq!(made().await, Some(Value::Integer(2)));
        assert_eq!(made().await, None, "it was paused");
        assert_eq!(made().await, Some(Value::Integer(4)));
        assert_eq!(made().await, None, "it was deleted");
    });
}

#[test]
fn tenants_see_their_own_templates_only() {
    on_worker(|| async {
        let h = free().await;
        h.db.template_create(OTHER, new_template("theirs", &[], &[])).await.unwrap();
        let source = r#"
            local evt, ctx = ...
            local check = require("@self/check")
            local store = ctx.DataStores.TemplateStore
            check.eq(#store.list(), 1)
            check.eq(store.get("theirs"), nil)
            local theirs = {name = "theirs", events = {}, content = {}, language = "luau", allowed_caps = {}}
            check.raises("not_found: ", store.update, theirs)
            check.raises("not_found: ", store.delete, "theirs")
            store.create(theirs)
            return "ok"
        "#;
        h.passes_as(TENANT, &["*"], source, &[]).await;
        let name = TemplateName::new("theirs").unwrap();
        assert!(h.db.template_get(OTHER, &name).await.unwrap().unwrap().content.is_some());
    });
}

#[test]
fn shop_templates_and_the_built_in_one_have_their_code_elsewhere() {
    on_worker(|| async {
        let h = free().await;
        for version in ["9", "10"] {
            let files = FileMap::from([("init.luau".to_owned(), format!("return {version}"))]);
            h.db.shop_publish("tool", &ShopVersion::new(version), None, None, files).await.unwrap();
        }
        let source = r#"
            local evt, ctx = ...
            local check = require("@self/check")
            local store = ctx.DataStores.TemplateStore
            local function template(name, content)
                return {name = name, events = {"MESSAGE_UPDATE"}, content = content, language = "luau", allowed_caps = {}}
            end
            store.create(template("$shop/tool#9", {["init.luau"] = "ignored"}))
            store.create(template("$shop/tool#latest", {}))
            check.eq(store.get("$shop/tool#9").content.data, {["init.luau"] = "return 9"})
            check.eq(store.get("$shop/tool#latest").content.data, {["init.luau"] = "return 10"})
            check.raises("not_found: ", store.create, template("$shop/tool#8", {}))
            check.raises("not_found: ", store.create, template("$shop/other#latest", {}))
            store.create(template("$builtins", nil))
            check.eq(store.get("$builtins").content.data, {})
            check.eq(store.get("$builtins").events, {"MESSAGE_UPDATE"})
            check.eq(#store.list(), 4)
            return "ok"
        "#;
        h.passes_as(TENANT, &["*"], source, &[]).await;
    });
}

/// A template is created by the newest rules; a change of it keeps the rules that it has.
#[test]
fn compatibility_dates_stay_with_the_code() {
    on_worker(|| async {
        let h = free().await;
        let mut old = new_template("old", &[], &[("init.luau", "return 1")]);
        old.compat = CompatDate::OLDEST;
        h.db.template_create(TENANT, old).await.unwrap();
        let source = r#"
            local evt, ctx = ...
            local store = ctx.DataStores.TemplateStore
            store.update(store.get("old"))
            store.create({name = "new", events = {}, content = {}, language = "luau", allowed_caps = {}})
            return "ok"
        "#;
        h.passes_as(TENANT, &["*"], source, &[]).await;
        let compat =
            async |name| h.db.template_get(TENANT, &TemplateName::new(name).unwrap()).await.unwrap().unwrap().compat;
        assert_eq!(compat("old").await, CompatDate::OLDEST);
        assert_eq!(compat("new").await, CompatDate::NEWEST);
    });
}

#[test]
fn the_number_of_templates_has_a_quota() {
    on_worker(|| async {
        let mut limits = Limits::default();
        limits.templates.templates_max = 2;
        let h = Harness::with(limits, unlimited()).await;
        let source = r#"
            local evt, ctx = ...
            local check = require("@self/check")
            local store = ctx.DataStores.TemplateStore
            local function template(name)
                return {name = name, events = {}, content = {}, language = "luau", allowed_caps = {}}
            end
            store.create(template("a"))
            check.raises("quota_exceeded: templates", store.create, template("b"))
            store.update(template("a"))
            store.delete("a")
            store.create(template("b"))
            return "ok"
        "#;
        h.passes_as(TENANT, &["*"], source, &[]).await;
    });
}

#[test]
fn each_method_has_its_bucket_and_all_have_one_limit() {
    on_worker(|| async {
        let quota = |n| [Quota::per(NonZeroU32::new(n).unwrap(), Duration::from_secs(3600))];
        let rules = RatelimitRules::unlimited().with_global(RatelimitFamily::DataStores, quota(3)).with_bucket(
            RatelimitFamily::DataStores,
            "LinksStore:links",
            quota(1),
        );
        let h = Harness::with(Limits::default(), rules).await;
        let source = r#"
            local evt, ctx = ...
            local check = require("@self/check")
            local stores = ctx.DataStores
            stores.LinksStore.links()
            check.raises("Per bucket ratelimit hit for 'LinksStore:links', wait time: ", stores.LinksStore.links)
            -- What a DataStore says of itself is free.
            for _ = 1, 10 do
                stores.LinksStore.methods()
                stores.LinksStore.need_caps("links")
            end
            stores.CopyDataStore.copySync(1)
            stores.TemplateStore.list()
            for name, call in {
                ["CopyDataStore:copy"] = stores.CopyDataStore.copy,
                ["CopyDataStore:copySync"] = stores.CopyDataStore.copySync,
                ["LinksStore:event_list"] = stores.LinksStore.event_list,
                ["StatsStore:stats"] = stores.StatsStore.stats,
                ["TemplateStore:list"] = stores.TemplateStore.list,
                ["TemplateStore:get"] = stores.TemplateStore.get,
                ["TemplateStore:delete"] = stores.TemplateStore.delete,
            } do
                check.raises(`Global ratelimit hit for bucket '{name}', wait time: `, call, "x")
            end
            local made = {name = "x", events = {}, content = {}, language = "luau", allowed_caps = {}}
            for _, method in {"create", "update"} do
                check.raises(`Global ratelimit hit for bucket 'TemplateStore:{method}'`, stores.TemplateStore[method], made)
            end
            return "ok"
        "#;
        h.passes_as(TENANT, &["*"], source, &[]).await;
    });
}

#[test]
fn a_database_that_does_not_answer_is_unavailable() {
    on_worker(|| async {
        let h = free().await;
        let source = r#"
            local evt, ctx = ...
            local check = require("@self/check")
            local store = ctx.DataStores.TemplateStore
            local made = {name = "made", events = {}, content = {}, language = "luau", allowed_caps = {}}
            for method, argument in {list = {}, get = "made", create = made, update = made, delete = "made"} do
                check.eq(check.error(store[method], argument), "unavailable: database")
            end
            ctx.DataStores.StatsStore.stats()
            return "ok"
        "#;
        h.install_script(TENANT, &["*"], source, &[]).await;
        h.cache.load(TENANT).await.unwrap();
        h.db.close().await;
        h.passes_again(TENANT).await;
    });
}

#[test]
fn a_kept_store_works_after_its_dispatch() {
    on_worker(|| async {
        let h = free().await;
        let source = r#"
            local evt, ctx = ...
            local check = require("@self/check")
            local kept = require("@self/kept")
            if not kept.list then
                kept.list = ctx.DataStores.TemplateStore.list
                kept.limited = ctx:withlimits({capabilities = {}}).DataStores.TemplateStore
                return "ok"
            end
            check.eq(#kept.list(), 1)
            check.raises("Missing capability: ", kept.limited.list)
            return "ok"
        "#;
        h.passes_as(TENANT, &["*"], source, &[("kept.luau", "return {}")]).await;
        h.passes_again(TENANT).await;
    });
}

fn new_template(name: &str, caps: &[&str], files: &[(&str, &str)]) -> NewTemplate {
    NewTemplate {
        name: TemplateName::new(name).unwrap(),
        files: files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect(),
        events: Vec::new(),
        allowed_caps: caps.iter().copied().collect(),
        error_channel: None,
        compat: CompatDate::NEWEST,
        paused: false,
    }
}

async fn free() -> Harness {
    Harness::with(Limits::default(), unlimited()).await
}

fn unlimited() -> RatelimitRules {
    RatelimitRules::unlimited()
}
