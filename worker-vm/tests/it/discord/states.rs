//! What the gateway tells of guilds.

use serde_json::json;
use worker_core::Value;

use super::server::{ALL_BUT_ADMINISTRATOR, Answer, World, guild};
use crate::harness::on_worker;

#[test]
fn events_change_what_is_known() {
    on_worker(|| async {
        let world = World::new().await;
        let message = |channel: u64| format!("create_message({{channel_id = '{channel}', data = {{content = 'x'}}}})");
        // A channel is closed to everybody, then to nobody.
        let channel = |overwrites: serde_json::Value| json!({ "id": "20", "guild_id": "4194304", "type": 0, "name": "c", "permission_overwrites": overwrites });
        let deny = json!([{ "id": "4194304", "type": 0, "allow": "0", "deny": "2048" }]);
        world.apply("CHANNEL_UPDATE", &channel(deny));
        world.refused(&message(20), "missing_permission: ").await;
        world.apply("CHANNEL_UPDATE", &channel(json!([])));
        world.passes(&message(20)).await;
        // Channels and threads come and go.
        world.apply("CHANNEL_CREATE", &json!({ "id": "30", "guild_id": "4194304", "type": 0, "name": "n" }));
        world.apply("THREAD_CREATE", &json!({ "id": "31", "guild_id": "4194304", "type": 11, "parent_id": "30" }));
        assert_eq!(world.passes(&message(31)).await, ["POST /channels/31/messages"]);
        let thread = |archived: bool| {
            json!({ "id": "31", "guild_id": "4194304", "type": 11, "parent_id": "30",
            "thread_metadata": { "archived": archived } })
        };
        world.apply("THREAD_UPDATE", &thread(true));
        world.server.answers(
            "GET /channels/31",
            [Answer::json(thread(true)), Answer::status(404, json!({ "code": 10_003, "message": "" }))],
        );
        assert_eq!(world.passes(&message(31)).await, ["GET /channels/31", "POST /channels/31/messages"]);
        world.server.otherwise(Answer::status(404, json!({ "code": 10_003, "message": "Unknown Channel" })));
        world.apply("CHANNEL_DELETE", &json!({ "id": "30", "guild_id": "4194304", "type": 0 }));
        world.refused(&message(31), "wrong_guild: ").await;
        world.refused(&message(30), "wrong_guild: ").await;
        // Roles of the bot, and of others.
        let role = |id: &str, position: i32| {
            json!({ "guild_id": "4194304",
            "role": { "id": id, "position": position, "permissions": ALL_BUT_ADMINISTRATOR.to_string() } })
        };
        world.server.otherwise(Answer::json(json!({})));
        let kick = "remove_guild_member({user_id = '700', reason = 'r'})";
        world.apply("GUILD_ROLE_UPDATE", &role("11", 8));
        world.refused(kick, "hierarchy: ").await;
        world.apply("GUILD_ROLE_DELETE", &json!({ "guild_id": "4194304", "role_id": "11" }));
        world.passes(kick).await;
        // Members.
        let member = |event: &str, roles: serde_json::Value| {
            world.apply(event, &json!({ "guild_id": "4194304", "user": { "id": "700" }, "roles": roles }));
        };
        member("GUILD_MEMBER_UPDATE", json!(["12"]));
        world.refused(kick, "hierarchy: ").await;
        member("GUILD_MEMBER_UPDATE", json!([]));
        world.passes(kick).await;
        world.apply("GUILD_MEMBER_UPDATE", &json!({ "guild_id": "4194304", "user": { "id": "500" }, "roles": [] }));
        world.refused(kick, "missing_permission: ").await;
        // Owners.
        let mut new = guild(ALL_BUT_ADMINISTRATOR);
        new["owner_id"] = "500".into();
        world.apply("GUILD_UPDATE", &new);
        assert_eq!(world.passes(kick).await.len(), 1, "the bot owns the guild, and its channels are still known");
    });
}

#[test]
fn members_are_seen_in_messages_and_interactions() {
    on_worker(|| async {
        let world = World::new().await;
        let author = json!({ "id": "900", "username": "a" });
        let data = json!({ "id": "1", "guild_id": "4194304", "channel_id": "20", "author": author, "content": "hi",
            "member": { "roles": ["11"], "nick": "n" } });
        world.apply("MESSAGE_CREATE", &data);
        let code = r#"
            local m = discord:antiraid_check_permissions({user_id = "900", needed_permissions = "0"}).data.member
            return m.user.username .. m.nick .. m.roles[1]
        "#;
        assert_eq!(world.run(code).await, Ok("an11".into()));
        let interaction = json!({ "id": "1", "guild_id": "4194304", "member": { "user": { "id": "901", "username": "b" },
            "roles": [], "communication_disabled_until": "2199-01-01T00:00:00Z" } });
        world.apply("INTERACTION_CREATE", &interaction);
        let code = r#"return discord:antiraid_check_permissions({user_id = "901", needed_permissions = "0"}).data.permissions"#;
        assert_eq!(world.run(code).await, Ok((1_024 | 65_536).to_string().into()), "who is timed out can only look");
        // A webhook has no member, and what is no object changes nothing.
        world.apply(
            "MESSAGE_CREATE",
            &json!({ "guild_id": "4194304", "webhook_id": "5", "author": { "id": "902" }, "member": {} }),
        );
        world.discord.guild_states().apply("MESSAGE_CREATE", b"[1");
        world.discord.guild_states().apply("GUILD_CREATE", b"{}");
        world.discord.guild_states().apply("NO_SUCH_EVENT", b"");
        assert_eq!(world.server.take_lines(), [""; 0]);
        world.server.otherwise(Answer::status(404, json!({ "code": 10_007, "message": "Unknown Member" })));
        world.refused("antiraid_check_permissions({user_id = '902', needed_permissions = '0'})", "not_found: ").await;
    });
}

#[test]
fn figures_are_of_what_the_gateway_told() {
    on_worker(|| async {
        let world = World::new().await;
        let mut other = guild(0);
        (other["id"], other["member_count"]) = ("8388608".into(), 1_000.into());
        world.apply("GUILD_CREATE", &other);
        world.apply("GUILD_MEMBER_ADD", &json!({ "guild_id": "4194304", "user": { "id": "9" }, "roles": [] }));
        assert_eq!((world.figures().guilds, world.figures().users), (2, 1_005));
        let code =
            "local s = ctx.DataStores.StatsStore.stats() return {s.total_guilds, s.total_cached_guilds, s.total_users}";
        assert_eq!(world.run(code).await, Ok(Value::List(vec![2.into(), 2.into(), 1_005.into()])));
        world.apply("GUILD_MEMBER_REMOVE", &json!({ "guild_id": "4194304", "user": { "id": "9" } }));
        // An outage is no goodbye.
        world.apply("GUILD_DELETE", &json!({ "id": "8388608", "unavailable": true }));
        assert_eq!((world.figures().guilds, world.figures().users), (2, 1_004));
        world.apply("GUILD_DELETE", &json!({ "id": "8388608" }));
        assert_eq!((world.figures().guilds, world.figures().users), (1, 4));
    });
}

#[test]
fn what_is_kept_is_bounded() {
    on_worker(|| async {
        let world = World::unknown(|config| {
            config.guild_states.guild_bytes_max = 100_000;
            config.guild_states.member_bytes_max = 20_000;
        })
        .await;
        for n in 1..500_u64 {
            let mut one = guild(0);
            one["id"] = (n << 22).to_string().into();
            world.apply("GUILD_CREATE", &one);
        }
        // What had to go is asked for again.
        world.server.otherwise(Answer::status(403, json!({ "code": 50_001, "message": "Missing Access" })));
        let states = format!("{:?}", world.discord.guild_states());
        assert!(states.contains("guilds: 499"), "{states}");
        let known = world.discord.guild_states().bytes();
        assert!(known.0 <= 120_000 && known.1 <= 24_000, "{known:?}");
    });
}
