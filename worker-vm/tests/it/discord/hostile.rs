//! A Discord that is slow, huge, broken or gone, and templates that would have the bot shut out.

use std::time::Duration;

use serde_json::json;
use worker_core::Value;

use super::server::{ALL_BUT_ADMINISTRATOR, Answer, World};
use crate::harness::on_worker;

#[test]
fn what_discord_refuses_is_said_in_its_words() {
    on_worker(|| async {
        let world = World::new().await;
        world.server.answers(
            "GET /guilds/4194304/preview",
            [
                Answer::status(403, json!({ "code": 50_001, "message": "Missing Access" })),
                Answer::status(500, json!({ "message": "" })),
                Answer { body: b"<html>".to_vec(), ..Answer::status(502, json!({})) },
            ],
        );
        for expected in
            ["discord: 403 50001 Missing Access", "discord: 500 0 (no message)", "discord: 502 0 (no message)"]
        {
            assert_eq!(world.error("get_guild_preview()").await, expected);
        }
    });
}

#[test]
fn answers_are_bounded_and_must_be_json() {
    on_worker(|| async {
        let world = World::new().await;
        let big = Answer { body: format!("[{}0]", "0,".repeat(3 << 20)).into_bytes(), ..Answer::json(json!(null)) };
        world.server.answers("GET /guilds/4194304/channels", [big]);
        assert_eq!(world.error("get_guild_channels()").await, "too_large: answer (at most 4194304 bytes)");
        let deep = Answer {
            body: format!("{}{}", "[".repeat(200), "]".repeat(200)).into_bytes(),
            ..Answer::json(json!(null))
        };
        world.server.answers("GET /guilds/4194304/channels", [deep]);
        assert_eq!(world.error("get_guild_channels()").await, "unavailable: discord");
        let text = Answer { body: b"hello".to_vec(), ..Answer::json(json!(null)) };
        world.server.answers("GET /guilds/4194304/channels", [text]);
        assert_eq!(world.error("get_guild_channels()").await, "unavailable: discord");
        // A refusal is bounded too.
        let refusal = Answer { body: vec![b'x'; 8 << 20], ..Answer::status(400, json!(null)) };
        world.server.answers("GET /guilds/4194304/channels", [refusal]);
        assert_eq!(world.error("get_guild_channels()").await, "discord: 400 0 (no message)");
    });
}

#[test]
fn answers_count_in_the_tenants_memory() {
    on_worker(|| async {
        let world = World::new().await;
        let big = Answer { body: format!("\"{}\"", "x".repeat(3 << 20)).into_bytes(), ..Answer::json(json!(null)) };
        world.server.answers("GET /guilds/4194304/channels", [big]);
        let code = r#"
            local kept = {}
            local ok, err
            for _ = 1, 20 do
                ok, err = pcall(function() table.insert(kept, discord:get_guild_channels()) end)
                if not ok then break end
            end
            return #kept < 8 and string.sub(err, 1, 8)
        "#;
        assert_eq!(world.run(code).await, Ok("memory: ".into()));
    });
}

#[test]
fn a_discord_that_does_not_answer_is_unavailable() {
    on_worker(|| async {
        let world = World::unknown(|config| config.request_timeout = Duration::from_millis(200)).await;
        world.knows(ALL_BUT_ADMINISTRATOR);
        world.server.answers("GET /guilds/4194304", [Answer { hangs: true, ..Answer::json(json!({})) }]);
        assert_eq!(world.error("get_guild()").await, "unavailable: discord");
        // Others are not held up by it.
        assert_eq!(world.passes("get_guild_roles()").await.len(), 1);
        let gone = World::unknown(|config| config.api_url = Some("http://127.0.0.1:1".to_owned())).await;
        gone.knows(ALL_BUT_ADMINISTRATOR);
        assert_eq!(gone.error("get_guild()").await, "unavailable: discord");
        assert_eq!(gone.discord.stats().unanswered, 1);
    });
}

#[test]
fn a_refused_rate_is_waited_for_and_counted() {
    on_worker(|| async {
        let world = World::new().await;
        let wait = |seconds: f64| {
            Answer::status(
                429,
                json!({ "message": "You are being rate limited.", "retry_after": seconds, "global": false }),
            )
        };
        world.server.answers("GET /guilds/4194304/preview", [wait(0.05), Answer::json(json!({ "id": "1" }))]);
        assert_eq!(world.passes("get_guild_preview()").await.len(), 2);
        // More than there is time for.
        world.server.answers("GET /guilds/4194304/preview", [wait(3_600.0)]);
        assert_eq!(world.error("get_guild_preview()").await, "discord: 429 0 You are being rate limited.");
        // From here on it is known, and nothing is sent.
        world.server.take();
        let error = world.error("get_guild_preview()").await;
        assert!(error.starts_with("unavailable: discord (its rate limit asks to wait "), "{error}");
        assert_eq!(world.server.take(), []);
        let stats = world.discord.stats();
        assert_eq!((stats.rate_limited, stats.invalid_requests), (2, 2));
        // A time of another kind is no time.
        world.server.answers("GET /guilds/4194304/roles", [wait(-1.0), Answer::json(json!([]))]);
        assert_eq!(world.passes("get_guild_roles()").await.len(), 2);
    });
}

#[test]
fn a_global_limit_stops_everything_but_interactions() {
    on_worker(|| async {
        let world = World::unknown(|config| config.request_timeout = Duration::from_secs(5)).await;
        world.knows(ALL_BUT_ADMINISTRATOR);
        let limit = json!({ "message": "You are being rate limited.", "retry_after": 600.0, "global": true });
        world
            .server
            .answers("GET /guilds/4194304/preview", [Answer::status(429, limit).with("x-ratelimit-global", true)]);
        assert_eq!(world.error("get_guild_preview()").await, "discord: 429 0 You are being rate limited.");
        world.server.take();
        assert!(world.error("get_guild_roles()").await.starts_with("unavailable: discord (its rate limit"));
        assert_eq!(world.server.take(), []);
        assert_eq!(
            world
                .passes(
                    "create_interaction_response({interaction_id = '1', interaction_token = 't', data = {type = 1}})"
                )
                .await
                .len(),
            1
        );
    });
}

#[test]
fn limits_that_discord_announces_are_kept() {
    on_worker(|| async {
        let world = World::unknown(|config| config.request_timeout = Duration::from_secs(1)).await;
        world.knows(ALL_BUT_ADMINISTRATOR);
        let limited = Answer::json(json!([]))
            .with("x-ratelimit-limit", 2)
            .with("x-ratelimit-remaining", 1)
            .with("x-ratelimit-reset-after", 600.0);
        world.server.answers("GET /guilds/4194304/roles", [limited]);
        for _ in 0..2 {
            assert_eq!(world.passes("get_guild_roles()").await.len(), 1);
        }
        world.server.take();
        assert!(world.error("get_guild_roles()").await.starts_with("unavailable: discord (its rate limit"));
        assert_eq!(world.server.take(), [], "the third is not sent, so it is not refused");
    });
}

#[test]
fn a_tenant_cannot_have_the_bot_shut_out() {
    on_worker(|| async {
        let world = World::unknown(|config| config.invalid_requests_per_tenant = 20).await;
        world.knows(ALL_BUT_ADMINISTRATOR);
        let refusal = json!({ "code": 50_001, "message": "Missing Access" });
        world.server.answers("GET /guilds/4194304/preview", [Answer::status(403, refusal)]);
        // Whoever stops waiting is counted all the same.
        let code = r#"
            for _ = 1, 10 do
                local thread = task.spawn(function() discord:get_guild_preview() end)
                task.cancel(thread)
            end
            local refused = {}
            for _ = 1, 100 do
                local ok, err = pcall(discord.get_guild_preview, discord)
                refused[err] = (refused[err] or 0) + 1
            end
            return refused["discord: 403 50001 Missing Access"] <= 20
                and refused["unavailable: discord (too many requests were refused in the last ten minutes)"] >= 80
        "#;
        assert_eq!(world.run(code).await, Ok(Value::Boolean(true)));
        assert_eq!(world.server.take().len(), 20);
        assert_eq!(world.discord.stats().invalid_requests, 20);
        // It has no other way to go on.
        let error = world.error("get_guild_roles()").await;
        assert!(error.starts_with("unavailable: discord (too many requests were refused"), "{error}");
    });
}

#[test]
fn all_tenants_together_stop_before_discord_shuts_the_address_out() {
    on_worker(|| async {
        let world =
            World::unknown(|config| (config.invalid_requests, config.invalid_requests_per_tenant) = (5, 100)).await;
        world.knows(ALL_BUT_ADMINISTRATOR);
        world
            .server
            .answers("GET /guilds/4194304/preview", [Answer::status(403, json!({ "code": 1, "message": "no" }))]);
        let code = "for _ = 1, 10 do pcall(discord.get_guild_preview, discord) end return 'ok'";
        assert_eq!(world.run(code).await, Ok("ok".into()));
        assert_eq!(world.server.take().len(), 5);
        assert_eq!(world.discord.stats().refused, 5);
    });
}

#[test]
fn look_ups_of_what_does_not_exist_are_few() {
    on_worker(|| async {
        let world = World::new().await;
        world.server.answers(
            "GET /channels/31",
            [Answer::status(404, json!({ "code": 10_003, "message": "Unknown Channel" }))],
        );
        for _ in 0..3 {
            world.refused("get_channel('31')", "wrong_guild: ").await;
        }
        let code = r#"
            local kinds = {}
            for id = 1000, 1200 do
                local _, err = pcall(discord.get_channel, discord, tostring(id))
                local kind = string.match(err, "^%a+_?%a*: ")
                kinds[kind] = (kinds[kind] or 0) + 1
            end
            return (kinds["wrong_guild: "] or 0) > 0 and (kinds["unavailable: "] or 0) > 0
        "#;
        world.server.otherwise(Answer::status(404, json!({ "code": 10_003, "message": "Unknown Channel" })));
        assert_eq!(world.run(code).await, Ok(Value::Boolean(true)), "two hundred names are not two hundred requests");
    });
}

#[test]
fn a_token_that_was_revoked_is_reported_and_one_bad_answer_is_not_it() {
    on_worker(|| async {
        let world = World::new().await;
        let revoked = world.discord.token_revoked();
        let unauthorized = || Answer::status(401, json!({ "code": 0, "message": "401: Unauthorized" }));
        // Of a webhook's token.
        world.server.answers("GET /webhooks/400/tok/messages/@original", [unauthorized()]);
        assert_eq!(world.error("get_original_interaction_response('tok')").await, "discord: 401 0 401: Unauthorized");
        // Of a request that Discord does not allow, while it knows the bot.
        world.server.answers("GET /guilds/4194304/preview", [unauthorized()]);
        assert_eq!(world.error("get_guild_preview()").await, "discord: 401 0 401: Unauthorized");
        assert!(!*revoked.borrow());
        world.server.answers("GET /users/@me", [unauthorized()]);
        assert_eq!(world.error("get_guild_preview()").await, "discord: 401 0 401: Unauthorized");
        assert!(*revoked.borrow());
        world.server.take();
        assert_eq!(world.error("get_guild()").await, "unavailable: discord");
        assert_eq!(world.server.take(), []);
    });
}

#[test]
fn without_a_bot_there_is_no_discord() {
    on_worker(|| async {
        let h = crate::harness::Harness::new().await;
        assert_eq!(h.error("local _, ctx = ... return ctx.Discord").await, "unavailable: Discord");
    });
}
