//! Errors of templates, where people see them.

use std::time::Duration;

use serde_json::json;
use worker_core::{CompatDate, Snowflake, TemplateError, TemplateName};
use worker_db::{FileMap, NewTemplate};

use super::server::{ALL_BUT_ADMINISTRATOR, Answer, Seen, World};
use crate::harness::{TENANT, on_worker};

const LATE: &str = "task.delay(0, function() error('@everyone late') end) return 'ok'";

async fn install(world: &World, source: &str, channel: Option<u64>) {
    let template = NewTemplate {
        name: TemplateName::new("reporter").unwrap(),
        files: FileMap::from([("init.luau".to_owned(), source.to_owned())]),
        events: vec!["MESSAGE".into()],
        allowed_caps: ["*"].into_iter().collect(),
        error_channel: channel.map(Snowflake::new),
        compat: CompatDate::NEWEST,
        paused: false,
    };
    world.h.db.template_create(TENANT, template).await.unwrap();
    world.h.cache.invalidate(TENANT);
}

/// Waits for the first message to a channel.
async fn message(world: &World, channel: u64) -> Seen {
    let path = format!("/channels/{channel}/messages");
    loop {
        if let Some(seen) = world.server.take().into_iter().find(|seen| seen.path == path) {
            return seen;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn channel_in_store(world: &World) -> Option<Snowflake> {
    let name = TemplateName::new("reporter").unwrap();
    world.h.db.template_get(TENANT, &name).await.unwrap().unwrap().error_channel
}

#[test]
fn an_error_goes_to_the_templates_channel_with_its_line() {
    on_worker(|| async {
        let world = World::new().await;
        install(&world, LATE, Some(20)).await;
        assert_eq!(world.h.message(TENANT).await, Ok("ok".into()));
        let body = message(&world, 20).await.body.unwrap();
        assert_eq!(body["allowed_mentions"], json!({ "parse": [] }));
        let embed = &body["embeds"][0];
        assert_eq!(embed["title"], "reporter failed");
        assert!(embed["description"].as_str().unwrap().contains("@everyone late"), "{embed}");
        assert_eq!(embed["fields"][0]["value"], "`/init.luau:1`");
        assert_eq!(body.as_object().unwrap().len(), 2, "nothing else: {body}");
        // The log has it as before.
        assert!(world.h.log_texts(TENANT)[0].contains("late"));
    });
}

#[test]
fn errors_that_a_dispatch_ends_with_are_reported_too_and_not_too_many() {
    on_worker(|| async {
        let world = World::new().await;
        install(&world, "return 'ok'", Some(20)).await;
        world.h.message(TENANT).await.unwrap();
        let (name, error) = (TemplateName::new("reporter").unwrap(), TemplateError::new("it broke"));
        for _ in 0..100 {
            world.h.vms.log_error(TENANT, &name, None, &error);
        }
        message(&world, 20).await;
        while world.discord.stats().errors_reported < 5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let stats = world.discord.stats();
        assert_eq!((stats.errors_reported, stats.errors_dropped), (5, 95));
    });
}

#[test]
fn a_channel_that_is_gone_is_forgotten_and_the_operator_hears_of_it() {
    on_worker(|| async {
        for (status, code) in [(404, 10_003), (403, 50_001)] {
            let world = World::unknown(|config| config.operator_channel = Some(Snowflake::new(77))).await;
            world.knows(ALL_BUT_ADMINISTRATOR);
            let gone = Answer::status(status, json!({ "code": code, "message": "gone" }));
            world.server.answers("POST /channels/20/messages", [gone]);
            install(&world, LATE, Some(20)).await;
            let mut changes = world.h.db.changes();
            world.h.message(TENANT).await.unwrap();
            let body = message(&world, 77).await.body.unwrap();
            let fields = body["embeds"][0]["fields"].as_array().unwrap();
            assert!(fields.iter().any(|field| field["value"] == format!("`{TENANT}`")), "{body}");
            assert_eq!(channel_in_store(&world).await, None);
            assert!(changes.try_recv().is_ok(), "every worker's cache hears of it");
        }
    });
}

#[test]
fn a_channel_of_another_guild_gets_nothing() {
    on_worker(|| async {
        let world = World::unknown(|config| config.operator_channel = Some(Snowflake::new(77))).await;
        world.knows(ALL_BUT_ADMINISTRATOR);
        world
            .server
            .answers("GET /channels/99", [Answer::json(json!({ "id": "99", "guild_id": "8388608", "type": 0 }))]);
        install(&world, LATE, Some(99)).await;
        world.h.message(TENANT).await.unwrap();
        let mut seen = Vec::new();
        loop {
            seen.extend(world.server.take_lines());
            if seen.iter().any(|line| line == "POST /channels/77/messages") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(seen, ["GET /channels/99", "POST /channels/77/messages"]);
        assert_eq!(channel_in_store(&world).await, None);
    });
}

#[test]
fn an_error_channel_must_be_one() {
    on_worker(|| async {
        let world = World::new().await;
        world
            .server
            .answers("GET /channels/99", [Answer::json(json!({ "id": "99", "guild_id": "8388608", "type": 0 }))]);
        let code = |channel: &str, verb: &str| {
            format!(
                "local ok, err = pcall(ctx.DataStores.TemplateStore.{verb}, {{name = 'new', language = 'luau', content = {{['init.luau'] = ''}},
                    events = {{}}, allowed_caps = {{}}, error_channel = '{channel}'}}) return ok or err"
            )
        };
        for channel in ["99", "24"] {
            let Ok(error) = world.run(&code(channel, "create")).await else { panic!() };
            let worker_core::Value::Text(error) = error else { panic!("{error:?}") };
            assert!(error.starts_with("invalid_argument: error_channel"), "{error}");
        }
        assert_eq!(world.run(&code("20", "create")).await, Ok(true.into()));
        assert_eq!(world.run(&code("22", "update")).await, Ok(true.into()));
        // Without one of the two rights.
        for lacks in [1_u64 << 10, 1 << 11] {
            let mut guild = super::server::guild(ALL_BUT_ADMINISTRATOR & !lacks);
            guild["roles"][0]["permissions"] = "0".into();
            world.apply("GUILD_CREATE", &guild);
            let Ok(worker_core::Value::Text(error)) = world.run(&code("20", "update")).await else { panic!() };
            assert!(error.starts_with("invalid_argument: error_channel"), "{error}");
        }
        // What it has already is not asked about again.
        assert_eq!(world.run(&code("22", "update")).await, Ok(true.into()));
    });
}
