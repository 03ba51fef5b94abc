//! `ctx.KV`.

use std::num::NonZeroU32;
use std::time::Duration;

use worker_core::{Limits, Quota, RatelimitFamily, RatelimitRules, Value};

use crate::harness::{Harness, OTHER, TENANT, on_worker};
use crate::scripts::script;

#[test]
fn every_method_does_what_the_reference_says() {
    on_worker(|| async { Harness::new().await.passes(script!("kv/methods")).await });
}

#[test]
fn the_record_that_is_meant_is_found() {
    on_worker(|| async { Harness::new().await.passes(script!("kv/which")).await });
}

#[test]
fn lists_come_in_order_and_in_pages() {
    on_worker(|| async { Harness::new().await.passes(script!("kv/lists")).await });
}

#[test]
fn arguments_that_cannot_be_are_refused_by_name() {
    on_worker(|| async { Harness::with(Limits::default(), unlimited()).await.passes(script!("kv/arguments")).await });
}

#[test]
fn every_method_needs_its_capability() {
    on_worker(|| async { Harness::with(Limits::default(), unlimited()).await.passes(script!("kv/refused")).await });
}

#[test]
fn many_threads_write_at_once() {
    on_worker(|| async { Harness::new().await.passes(script!("kv/concurrent")).await });
}

#[test]
fn tenants_are_apart_on_every_method() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install(TENANT, "script", r#"local _, ctx = ...; return ctx.KV:set("k", "mine", {"shared"}).id"#).await;
        let Value::Text(id) = h.message(TENANT).await.unwrap() else { panic!("an id is a text") };
        let id_module = format!("return {id:?}");
        h.passes_as(OTHER, &["*"], script!("kv/strangers"), &[("id.luau", &id_module)]).await;
        // Nothing that the other tenant tried has changed the record.
        let record = h.db.kv_get_by_id(TENANT, &id).await.unwrap().unwrap();
        assert_eq!((record.value_json.as_str(), record.version, record.expires_at), ("\"mine\"", 1, None));
    });
}

#[test]
fn a_kept_object_works_after_its_dispatch() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install_script(TENANT, &["*"], script!("kv/kept"), &[("kept.luau", "return {}")]).await;
        assert_eq!(h.message(TENANT).await.unwrap(), "first".into());
        h.passes_again(TENANT).await;
    });
}

/// No method needs more than its row of the table says.
#[test]
fn a_template_has_what_its_row_grants_and_no_more() {
    on_worker(|| async {
        let h = Harness::new().await;
        let source = r#"
            local evt, ctx = ...
            local check = require("@self/check")
            local s = {"s"}
            ctx.KV:set("k", 1, s)
            check.eq(ctx.KV:get("k", s), 1)
            check.raises("Missing capability: kv[s]:delete:k", ctx.KV.delete, ctx.KV, "k", s)
            check.raises("Missing capability: kv[t]:get:k", ctx.KV.get, ctx.KV, "k", {"t"})
            return "ok"
        "#;
        h.passes_as(TENANT, &["kv[s]:get", "kv[s]:set:k"], source, &[]).await;
    });
}

#[test]
fn calls_beyond_the_rate_are_refused_and_say_how_long_to_wait() {
    on_worker(|| async {
        let hour = Duration::from_secs(3600);
        let rules = RatelimitRules::unlimited().with_global(RatelimitFamily::Kv, [Quota::per(n(4), hour)]).with_bucket(
            RatelimitFamily::Kv,
            "get",
            [Quota::per(n(2), hour)],
        );
        let h = Harness::with(Limits::default(), rules).await;
        let source = r#"
            local evt, ctx = ...
            local check = require("@self/check")
            local kv, s = ctx.KV, {"s"}
            -- What is refused for another reason takes no token.
            for _ = 1, 10 do
                check.raises("invalid_argument: ", kv.get, kv, {}, s)
                check.raises("Missing capability: ", kv.get, ctx:withlimits({capabilities = {}}).KV, "k", s)
            end
            -- `get` and `getrecord` share a bucket; a bucket's refusal takes nothing from the family.
            kv:get("k", s)
            kv:getrecord("k", s)
            for _ = 1, 10 do
                check.raises("Per bucket ratelimit hit for 'get', wait time: ", kv.get, kv, "k", s)
                check.raises("Per bucket ratelimit hit for 'get', wait time: ", kv.getrecord, kv, "k", s)
            end
            kv:set("k", 1, s)
            kv:cas("k", 1, 2, s)
            for _, refused in {
                {"set", kv.incr, kv, "n", 1, s}, {"set", kv.set, kv, "n", 1, s}, {"set", kv.cas, kv, "n", 0, 1, s},
                {"keys", kv.keys, kv, s}, {"list_scopes", kv.list_scopes, kv}, {"find", kv.find, kv, "%", s},
                {"exists", kv.exists, kv, "k", s}, {"delete", kv.delete, kv, "k", s},
                {"setexpiry", kv.setexpiry, kv, "k", s}, {"getbyid", kv.getbyid, kv, "x"},
                {"getbyid", kv.getrecordbyid, kv, "x"}, {"setbyid", kv.setbyid, kv, "x", 1},
                {"setexpirybyid", kv.setexpirybyid, kv, "x"}, {"deletebyid", kv.deletebyid, kv, "x"},
            } do
                local text = check.error(table.unpack(refused, 2))
                local seconds = string.match(text, `^Global ratelimit hit for bucket '{refused[1]}', wait time: ([%d.]+)s$`)
                assert(seconds and tonumber(seconds) > 3500 / 4, text)
            end
            return "ok"
        "#;
        h.passes_as(TENANT, &["*"], source, &[]).await;
        // The limits are the tenant's: a new VM does not reset them, and another tenant has its own.
        let refused = r#"
            local evt, ctx = ...
            require("@self/check").raises("Global ratelimit hit for bucket 'set'", ctx.KV.set, ctx.KV, "k", 1, {"s"})
            return "ok"
        "#;
        h.passes_as(TENANT, &["*"], refused, &[]).await;
        h.passes_as(OTHER, &["*"], r#"local _, ctx = ...; ctx.KV:set("k", 1, {"s"}); return "ok""#, &[]).await;
    });
}

#[test]
fn quotas_refuse_what_grows_and_nothing_else() {
    on_worker(|| async {
        let mut limits = Limits::default();
        limits.kv.rows_max = 3;
        limits.kv.bytes_max = 2_000;
        let h = Harness::with_limits(limits).await;
        let source = r#"
            local evt, ctx = ...
            local check = require("@self/check")
            local kv, s = ctx.KV, {"s"}
            kv:set("a", 1, s)
            kv:set("b", 1, s)
            local c = kv:set("c", 1, s).id
            check.raises("quota_exceeded: kv rows", kv.set, kv, "d", 1, s)
            check.raises("quota_exceeded: kv rows", kv.cas, kv, "d", 0, 1, s)
            check.raises("quota_exceeded: kv rows", kv.incr, kv, "d", 1, s)
            kv:set("a", 2, s)
            kv:incr("a", 1, s)
            kv:setexpiry("a", s)
            check.raises("quota_exceeded: kv bytes", kv.set, kv, "a", string.rep("x", 2000), s)
            check.raises("quota_exceeded: kv bytes", kv.setbyid, kv, c, string.rep("x", 2000))
            check.eq(kv:get("a", s), 3)
            kv:delete("b", s)
            kv:set("d", string.rep("x", 1900), s)
            check.raises("quota_exceeded: kv bytes", kv.set, kv, "a", string.rep("x", 100), s)
            kv:set("d", "small", s)
            kv:set("a", string.rep("x", 100), s)
            kv:deletebyid(c)
            return "ok"
        "#;
        h.passes_as(TENANT, &["*"], source, &[]).await;
        h.passes_as(OTHER, &["*"], r#"local _, ctx = ...; ctx.KV:set("k", 1, {"s"}); return "ok""#, &[]).await;
    });
}

#[test]
fn lists_beyond_their_cap_are_errors_and_pages_are_not() {
    on_worker(|| async {
        let mut limits = Limits::default();
        limits.kv.list_max = 3;
        limits.kv.find_max = 3;
        let h = Harness::with_limits(limits).await;
        let source = r#"
            local evt, ctx = ...
            local check = require("@self/check")
            local kv, s = ctx.KV, {"s"}
            for i = 1, 3 do kv:set("k" .. i, i, {"s", "s" .. i}) end
            check.eq(#kv:keys(s), 3)
            check.eq(#kv:find("%", s), 3)
            check.raises("too_large: ", kv.list_scopes, kv)
            kv:set("k4", 4, s)
            check.raises("too_large: ", kv.keys, kv, s)
            check.raises("too_large: ", kv.find, kv, "%", s)
            check.eq(#kv:keys(s, {limit = 10}), 4)
            check.eq(#kv:find("%", s, {limit = 10}), 4)
            check.eq(#kv:list_scopes({limit = 10}), 4)
            return "ok"
        "#;
        h.passes_as(TENANT, &["*"], source, &[]).await;
    });
}

#[test]
fn a_database_that_does_not_answer_is_unavailable() {
    on_worker(|| async {
        let h = Harness::new().await;
        let source = r#"
            local evt, ctx = ...
            local check = require("@self/check")
            local kv, s = ctx.KV, {"s"}
            for _, call in {
                {kv.list_scopes}, {kv.keys, s}, {kv.find, "%", s}, {kv.exists, "k", s}, {kv.get, "k", s},
                {kv.getrecord, "k", s}, {kv.set, "k", 1, s}, {kv.cas, "k", 0, 1, s}, {kv.incr, "k", 1, s},
                {kv.setexpiry, "k", s}, {kv.delete, "k", s}, {kv.getbyid, "x"}, {kv.getrecordbyid, "x"},
                {kv.setbyid, "x", 1}, {kv.setexpirybyid, "x"}, {kv.deletebyid, "x"},
            } do
                -- No word of statements, tables or addresses.
                check.eq(check.error(call[1], kv, table.unpack(call, 2)), "unavailable: database")
            end
            return "ok"
        "#;
        h.install_script(TENANT, &["*"], source, &[]).await;
        h.cache.load(TENANT).await.unwrap();
        h.db.close().await;
        h.passes_again(TENANT).await;
    });
}

#[test]
fn results_that_do_not_fit_are_refused_before_they_pile_up() {
    on_worker(|| async {
        let h = Harness::with_limits(Limits { vm_memory_bytes_max: 4 << 20, ..Limits::default() }).await;
        let source = r#"
            local evt, ctx = ...
            local check = require("@self/check")
            local kv, s = ctx.KV, {"s"}
            for i = 1, 30 do kv:set("k" .. i, string.rep("x", 200000), s) end
            check.raises("memory: ", kv.find, kv, "%", s)
            -- All at once: what is refused is refused with an error, and the VM lives on.
            local refused, done = 0, 0
            for i = 1, 30 do
                task.spawn(function()
                    local ok, text = pcall(kv.get, kv, "k" .. i, s)
                    if not ok then
                        assert(string.sub(text, 1, 8) == "memory: " or text == "not enough memory", text)
                        refused += 1
                    end
                    done += 1
                end)
            end
            while done < 30 do task.wait() end
            check.eq(#kv:get("k1", s), 200000)
            check.eq(#kv:find("%", s, {limit = 2}), 2)
            return "ok"
        "#;
        h.passes_as(TENANT, &["*"], source, &[]).await;
    });
}

#[test]
fn the_owner_of_a_shop_template_is_its_origin() {
    on_worker(|| async {
        let h = Harness::new().await;
        let owner = worker_core::Snowflake::new(77);
        let files = [("init.luau".to_owned(), "local _, ctx = ...; return ctx.KV.origin_guild_id".to_owned())];
        let version = worker_core::ShopVersion::new("1");
        h.db.shop_publish("tool", &version, Some(owner), None, files.into()).await.unwrap();
        h.install_files(TENANT, "$shop/tool#latest", &["*"], &[]).await;
        assert_eq!(h.message(TENANT).await.unwrap(), "77".into());
    });
}

fn unlimited() -> RatelimitRules {
    RatelimitRules::unlimited()
}

fn n(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}
