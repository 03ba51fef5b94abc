//! Every method, called as it should be: what Discord is asked for.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};
use worker_core::Value;
use worker_vm::{DiscordToken, Recorder};

use super::server::{Answer, Seen, World};
use crate::harness::on_worker;

/// A call, and the request that it is: method, path, reason, body.
type Case = (&'static str, &'static str, &'static str, Option<&'static str>, Option<&'static str>);

const G: &str = "/guilds/4194304";

/// `{G}` is the guild's path.
const CASES: &[Case] = &[
    ("get_audit_logs({action_type = 22, user_id = '7', before = '9', limit = 5})", "GET",
        "{G}/audit-logs?action_type=22&user_id=7&before=9&limit=5", None, None),
    ("get_audit_logs()", "GET", "{G}/audit-logs", None, None),
    ("list_auto_moderation_rules()", "GET", "{G}/auto-moderation/rules", None, None),
    ("get_auto_moderation_rule({rule_id = '9'})", "GET", "{G}/auto-moderation/rules/9", None, None),
    ("create_auto_moderation_rule({reason = 'r', data = {name = 'n', event_type = 1, trigger_type = 1, actions = {{type = 2,
        metadata = {channel_id = '20', nothing = 1}}}, exempt_roles = {}, exempt_channels = {'20'}, unknown = true}})",
        "POST", "{G}/auto-moderation/rules", Some("r"),
        Some(r#"{"name":"n","event_type":1,"trigger_type":1,"actions":[{"type":2,"metadata":{"channel_id":"20"}}],"exempt_roles":[],"exempt_channels":["20"]}"#)),
    ("edit_auto_moderation_rule({rule_id = '9', reason = 'r', data = {enabled = false}})", "PATCH",
        "{G}/auto-moderation/rules/9", Some("r"), Some(r#"{"enabled":false}"#)),
    ("delete_auto_moderation_rule({rule_id = '9', reason = 'r'})", "DELETE", "{G}/auto-moderation/rules/9", Some("r"), None),
    ("get_channel('20')", "GET", "/channels/20", None, None),
    ("get_channel(20)", "GET", "/channels/20", None, None),
    ("get_channel(require('@antiraid/typesext').U64(20))", "GET", "/channels/20", None, None),
    ("edit_channel({channel_id = '20', reason = 'é /\\n', data = {name = 'x', topic = {}, parent_id = require('@antiraid/interop').null,
        rate_limit_per_user = 21600, permission_overwrites = {{id = '11', type = 0, allow = '1024', deny = '0'}}}})", "PATCH",
        "/channels/20", Some("%C3%A9%20%2F%0A"),
        Some(r#"{"name":"x","topic":null,"parent_id":null,"rate_limit_per_user":21600,"permission_overwrites":[{"id":"11","type":0,"allow":"1024","deny":"0"}]}"#)),
    ("edit_channel({channel_id = '24', reason = 'r', data = {archived = true}})", "PATCH", "/channels/24", Some("r"),
        Some(r#"{"archived":true}"#)),
    ("edit_channel_permissions({channel_id = '20', target_id = '11', allow = '1024', deny = {}, type = 0, reason = 'r'})", "PUT",
        "/channels/20/permissions/11", Some("r"), Some(r#"{"allow":"1024","deny":null,"type":0}"#)),
    ("edit_channel_permissions({channel_id = '20', target_id = '77', kind = 1, reason = 'r'})", "PUT",
        "/channels/20/permissions/77", Some("r"), Some(r#"{"type":1}"#)),
    ("delete_channel_permission({channel_id = '20', overwrite_id = '11', reason = 'r'})", "DELETE",
        "/channels/20/permissions/11", Some("r"), None),
    ("get_channel_invites('20')", "GET", "/channels/20/invites", None, None),
    ("create_channel_invite({channel_id = '20', data = {max_age = 60}, reason = 'r'})", "POST", "/channels/20/invites",
        Some("r"), Some(r#"{"max_age":60}"#)),
    ("follow_announcement_channel({channel_id = '23', data = {webhook_channel_id = '20'}, reason = 'r'})", "POST",
        "/channels/23/followers", Some("r"), Some(r#"{"webhook_channel_id":"20"}"#)),
    ("get_guild()", "GET", "{G}", None, None),
    ("get_guild_preview()", "GET", "{G}/preview", None, None),
    ("modify_guild({data = {name = 'new', system_channel_id = '20', afk_channel_id = {}, owner_id = '7'}, reason = 'r'})", "PATCH", "{G}",
        Some("r"), Some(r#"{"name":"new","system_channel_id":"20","afk_channel_id":null}"#)),
    ("get_guild_channels()", "GET", "{G}/channels", None, None),
    ("create_guild_channel({reason = 'r', data = {name = 'c', type = 0, parent_id = '21'}})", "POST", "{G}/channels", Some("r"),
        Some(r#"{"name":"c","type":0,"parent_id":"21"}"#)),
    ("modify_guild_channel_positions({{id = '20', position = 1, lock_permissions = true, parent_id = '21'}})", "PATCH", "{G}/channels",
        None, Some(r#"[{"id":"20","position":1,"lock_permissions":true,"parent_id":"21"}]"#)),
    ("list_active_guild_threads()", "GET", "{G}/threads/active", None, None),
    ("get_guild_member('7')", "GET", "{G}/members/7", None, None),
    ("list_guild_members({limit = 1000, after = '7'})", "GET", "{G}/members?limit=1000&after=7", None, None),
    ("search_guild_members({query = 'a&limit=9 /', limit = 2})", "GET", "{G}/members/search?query=a%26limit%3D9%20%2F&limit=2", None, None),
    ("modify_guild_member({user_id = '700', reason = 'r', data = {nick = {}, roles = {}, mute = false, channel_id = '22',
        communication_disabled_until = require('@antiraid/interop').null, flags = 4}})", "PATCH", "{G}/members/700", Some("r"),
        Some(r#"{"nick":null,"roles":[],"mute":false,"channel_id":"22","communication_disabled_until":null,"flags":4}"#)),
    ("add_guild_member_role({user_id = '7', role_id = '11', reason = 'r'})", "PUT", "{G}/members/7/roles/11", Some("r"), None),
    ("remove_guild_member_role({user_id = '7', role_id = '11', reason = 'r'})", "DELETE", "{G}/members/7/roles/11", Some("r"), None),
    ("remove_guild_member({user_id = '700', reason = 'r'})", "DELETE", "{G}/members/700", Some("r"), None),
    ("get_guild_bans({limit = 3, after = '5'})", "GET", "{G}/bans?limit=3&after=5", None, None),
    ("get_guild_bans({before = '6', after = '5'})", "GET", "{G}/bans?before=6", None, None),
    ("get_guild_ban('7')", "GET", "{G}/bans/7", None, None),
    ("create_guild_ban({user_id = '700', reason = 'r', delete_message_seconds = 604800})", "PUT", "{G}/bans/700", Some("r"),
        Some(r#"{"delete_message_seconds":604800}"#)),
    ("remove_guild_ban({user_id = '7', reason = 'r'})", "DELETE", "{G}/bans/7", Some("r"), None),
    ("bulk_ban({user_ids = {'700', '701', '700'}, reason = 'r', delete_message_seconds = 1})", "POST", "{G}/bulk-ban", Some("r"),
        Some(r#"{"user_ids":["700","701"],"delete_message_seconds":1}"#)),
    ("get_guild_roles()", "GET", "{G}/roles", None, None),
    ("get_guild_role('11')", "GET", "{G}/roles/11", None, None),
    ("create_guild_role({reason = 'r', data = {name = 'n', permissions = '1024', color = 255, hoist = true}})", "POST", "{G}/roles", Some("r"),
        Some(r#"{"name":"n","permissions":"1024","color":255,"hoist":true}"#)),
    ("modify_guild_role_positions({data = {{id = '11', position = 2}}, reason = 'r'})", "PATCH", "{G}/roles", Some("r"),
        Some(r#"[{"id":"11","position":2}]"#)),
    ("modify_guild_role({role_id = '11', reason = 'r', data = {icon = 'data:image/png;base64,AAAA'}})", "PATCH", "{G}/roles/11", Some("r"),
        Some(r#"{"icon":"data:image/png;base64,AAAA"}"#)),
    ("delete_guild_role({role_id = '11', reason = 'r'})", "DELETE", "{G}/roles/11", Some("r"), None),
    ("get_invite({code = 'aB-3', with_counts = true, with_expiration = false, guild_scheduled_event_id = '8'})", "GET",
        "/invites/aB-3?with_counts=true&with_expiration=false&guild_scheduled_event_id=8", None, None),
    ("delete_invite({code = 'ours', reason = 'r'})", "DELETE", "/invites/ours", Some("r"), None),
    ("get_channel_messages({channel_id = '20', target = {type = 'After', id = '5'}, limit = 100})", "GET",
        "/channels/20/messages?after=5&limit=100", None, None),
    ("get_channel_messages({channel_id = '22'})", "GET", "/channels/22/messages", None, None),
    ("get_channel_message({channel_id = '20', message_id = '5'})", "GET", "/channels/20/messages/5", None, None),
    ("create_message({channel_id = '20', data = {content = 'hi', embeds = {{title = 't', fields = {}, made_up = 1}}, allowed_mentions =
        {parse = {}, roles = {'11'}}, message_reference = {message_id = '5', channel_id = '20', guild_id = '1'}}})", "POST",
        "/channels/20/messages", None,
        Some(r#"{"content":"hi","embeds":[{"title":"t","fields":[]}],"allowed_mentions":{"parse":[],"roles":["11"]},"message_reference":{"message_id":"5","channel_id":"20"}}"#)),
    ("create_message({channel_id = '24', data = {components = {{type = 1, components = {{type = 2, style = 1, custom_id = 'b', label = 'B'}}}}}})",
        "POST", "/channels/24/messages", None,
        Some(r#"{"components":[{"type":1,"components":[{"type":2,"custom_id":"b","style":1,"label":"B"}]}]}"#)),
    ("crosspost_message('23', '5')", "POST", "/channels/23/messages/5/crosspost", None, None),
    ("edit_message({channel_id = '20', message_id = '5', data = {content = {}, attachments = {{id = '77'}}}})", "PATCH",
        "/channels/20/messages/5", None, Some(r#"{"content":null,"attachments":[{"id":"77"}]}"#)),
    ("delete_message('20', '5', 'why')", "DELETE", "/channels/20/messages/5", Some("why"), None),
    ("delete_message('20', '5')", "DELETE", "/channels/20/messages/5", None, None),
    ("bulk_delete_messages('20', {'5', '6'}, 'why')", "POST", "/channels/20/messages/bulk-delete", Some("why"),
        Some(r#"{"messages":["5","6"]}"#)),
    ("create_reaction({channel_id = '20', message_id = '5', reaction = {type = 'Unicode', data = '👍'}})", "PUT",
        "/channels/20/messages/5/reactions/%F0%9F%91%8D/@me", None, None),
    ("delete_own_reaction({channel_id = '20', message_id = '5', reaction = {type = 'Custom', animated = false, id = '9', name = 'x'}})", "DELETE",
        "/channels/20/messages/5/reactions/x%3A9/@me", None, None),
    ("delete_user_reaction({channel_id = '20', message_id = '5', user_id = '7', reaction = {type = 'Custom', animated = true, id = '9'}})", "DELETE",
        "/channels/20/messages/5/reactions/_%3A9/7", None, None),
    ("get_reactions({channel_id = '20', message_id = '5', reaction = {type = 'Unicode', data = '1️⃣'}, type = 'Burst', after = '6', limit = 7})", "GET",
        "/channels/20/messages/5/reactions/1%EF%B8%8F%E2%83%A3?type=1&after=6&limit=7", None, None),
    ("delete_all_reactions('20', '5')", "DELETE", "/channels/20/messages/5/reactions", None, None),
    ("delete_all_reactions_for_emoji({channel_id = '20', message_id = '5', reaction = {type = 'Unicode', data = '👍'}})", "DELETE",
        "/channels/20/messages/5/reactions/%F0%9F%91%8D", None, None),
    ("create_interaction_response({interaction_id = '31', interaction_token = 'aW-_.9', data = {type = 4, data = {content = 'c', flags = 64}}})", "POST",
        "/interactions/31/aW-_.9/callback", None, Some(r#"{"type":4,"data":{"content":"c","flags":64}}"#)),
    ("get_original_interaction_response('tok')", "GET", "/webhooks/400/tok/messages/@original", None, None),
    ("delete_original_interaction_response('tok')", "DELETE", "/webhooks/400/tok/messages/@original", None, None),
    ("edit_original_interaction_response({interaction_token = 'tok', data = {content = 'e'}})", "PATCH",
        "/webhooks/400/tok/messages/@original", None, Some(r#"{"content":"e"}"#)),
    ("create_followup_message({interaction_token = 'tok', data = {content = 'f'}})", "POST", "/webhooks/400/tok", None,
        Some(r#"{"content":"f"}"#)),
    ("get_followup_message({interaction_token = 'tok', message_id = '5'})", "GET", "/webhooks/400/tok/messages/5", None, None),
    ("delete_followup_message({interaction_token = 'tok', message_id = '5'})", "DELETE", "/webhooks/400/tok/messages/5", None, None),
    ("edit_followup_message({interaction_token = 'tok', message_id = '5', data = {embeds = {}}})", "PATCH",
        "/webhooks/400/tok/messages/5", None, Some(r#"{"embeds":[]}"#)),
    ("get_guild_command('8')", "GET", "/applications/400{G}/commands/8", None, None),
    ("get_guild_commands()", "GET", "/applications/400{G}/commands", None, None),
    ("create_guild_command({data = {name = 'n', description = 'd', default_member_permissions = '8', options =
        {{type = 3, name = 'o', description = 'd', choices = {{name = 'a', value = 'b'}}}}}})", "POST", "/applications/400{G}/commands", None,
        Some(r#"{"name":"n","description":"d","default_member_permissions":"8","options":[{"type":3,"name":"o","description":"d","choices":[{"name":"a","value":"b"}]}]}"#)),
    ("create_guild_commands({data = {}})", "PUT", "/applications/400{G}/commands", None, Some("[]")),
    ("create_webhook({channel_id = '20', reason = 'r', data = {name = 'hook', avatar = 'data:image/gif;base64,AAAA'}})", "POST",
        "/channels/20/webhooks", Some("r"), Some(r#"{"name":"hook","avatar":"data:image/gif;base64,AAAA"}"#)),
    ("get_channel_webhooks('20')", "GET", "/channels/20/webhooks", None, None),
    ("get_guild_webhooks()", "GET", "{G}/webhooks", None, None),
    ("get_webhook('61')", "GET", "/webhooks/61", None, None),
    ("modify_webhook({webhook_id = '61', reason = 'r', data = {channel_id = '22', avatar = {}}})", "PATCH", "/webhooks/61", Some("r"),
        Some(r#"{"avatar":null,"channel_id":"22"}"#)),
    ("execute_webhook({webhook_id = '61', webhook_token = 'hooktok', thread_id = '24', reason = 'ignored', data = {content = 'w', username = 'u'}})",
        "POST", "/webhooks/61/hooktok?thread_id=24&wait=true", None, Some(r#"{"content":"w","username":"u"}"#)),
    ("delete_webhook({webhook_id = '61', reason = 'r'})", "DELETE", "/webhooks/61", Some("r"), None),
    // Last, for what it deletes.
    ("delete_channel({channel_id = '24', reason = 'r'})", "DELETE", "/channels/24", Some("r"), None),
];

/// What is no single request, or none.
const HELPERS: [&str; 5] = [
    "antiraid_bulk_op_wait",
    "antiraid_check_permissions",
    "antiraid_check_permissions_and_hierarchy",
    "antiraid_check_channel_permissions",
    "antiraid_get_fused_member",
];

async fn world() -> World {
    let world = World::new().await;
    let hook = json!({ "id": "61", "guild_id": "4194304", "channel_id": "20" });
    world.server.answers("GET /webhooks/61", [Answer::json(hook.clone())]);
    world.server.answers("GET /webhooks/61/hooktok", [Answer::json(hook)]);
    let invite = json!({ "code": "ours", "guild": { "id": "4194304" }, "channel": { "id": "20", "type": 0 } });
    world.server.answers("GET /invites/ours", [Answer::json(invite)]);
    world
}

#[test]
fn each_method_is_the_request_that_it_should_be() {
    on_worker(|| async {
        let world = world().await;
        let mut called = BTreeSet::from(HELPERS);
        for (written, method, path, reason, body) in CASES {
            let call = written.replace('\n', " ");
            world.server.take();
            if let Err(error) = world.run(&format!("discord:{call} return 'ok'")).await {
                panic!("{call}: {error}");
            }
            // What was looked up before is not it.
            let seen = world.server.take().pop().unwrap_or_else(|| panic!("{call}: no request"));
            let expected = Seen {
                method: (*method).to_owned(),
                path: path.replace("{G}", G),
                reason: reason.map(str::to_owned),
                token: Some("Bot secret".to_owned()),
                body: body.map(|body| serde_json::from_str(body).unwrap()),
            };
            assert_eq!(seen, expected, "{call}");
            called.insert(written.split('(').next().unwrap());
        }
        let all: BTreeSet<_> = Recorder::methods().collect();
        assert_eq!(called, all, "every method is in the list");
        assert_eq!(world.discord.stats().invalid_requests, 0);
    });
}

#[test]
fn a_guild_that_is_known_costs_no_request_but_the_call() {
    on_worker(|| async {
        let world = World::new().await;
        for call in [
            "create_message({channel_id = '20', data = {content = 'x'}})",
            "remove_guild_member({user_id = '700', reason = 'r'})",
            "edit_channel({channel_id = '20', reason = 'r', data = {permission_overwrites = {{id = '11', type = 0}}}})",
        ] {
            assert_eq!(world.passes(call).await.len(), 1, "{call}");
        }
        let check = "antiraid_check_permissions_and_hierarchy({user_id = '800', target_id = '700', needed_permissions = '1024'})";
        assert_eq!(world.passes(check).await, [""; 0]);
    });
}

#[test]
fn what_is_not_known_is_asked_of_discord_once() {
    on_worker(|| async {
        let world = World::unknown(|_| ()).await;
        let guild = super::server::guild(super::server::ALL_BUT_ADMINISTRATOR);
        let without = |name: &str| {
            let mut guild = guild.clone();
            guild.as_object_mut().unwrap().remove(name);
            guild
        };
        world.server.answers("GET /guilds/4194304", [Answer::json(without("channels"))]);
        world.server.answers("GET /guilds/4194304/channels", [Answer::json(guild["channels"].clone())]);
        world.server.answers(
            "GET /guilds/4194304/threads/active",
            [Answer::json(json!({ "threads": guild["threads"], "members": [] }))],
        );
        world.server.answers("GET /guilds/4194304/members/500", [Answer::json(guild["members"][0].clone())]);
        world.server.answers("GET /guilds/4194304/members/700", [Answer::json(guild["members"][2].clone())]);
        let kick = "remove_guild_member({user_id = '700', reason = 'r'})";
        assert_eq!(
            world.passes(kick).await,
            [
                "GET /guilds/4194304",
                "GET /guilds/4194304/channels",
                "GET /guilds/4194304/threads/active",
                "GET /guilds/4194304/members/500",
                "GET /guilds/4194304/members/700",
                "DELETE /guilds/4194304/members/700",
            ]
        );
        assert_eq!(world.passes(kick).await, ["DELETE /guilds/4194304/members/700"]);
        // An archived thread is in no list.
        let thread = json!({ "id": "25", "type": 11, "guild_id": "4194304", "parent_id": "20", "name": "old" });
        world.server.answers("GET /channels/25", [Answer::json(thread)]);
        let message = "create_message({channel_id = '25', data = {content = 'x'}})";
        assert_eq!(world.passes(message).await, ["GET /channels/25", "POST /channels/25/messages"]);
        assert_eq!(world.passes(message).await, ["POST /channels/25/messages"]);
    });
}

#[test]
fn answers_are_lazy_and_absent_things_are_nil() {
    on_worker(|| async {
        let world = World::new().await;
        let body = json!({ "id": "20", "big": 9_007_199_254_740_991_u64, "none": null, "list": [] });
        world.server.answers("GET /channels/20", [Answer::json(body)]);
        let unknown = json!({ "code": 10_007, "message": "Unknown Member" });
        world.server.answers("GET /guilds/4194304/members/9", [Answer::status(404, unknown)]);
        world.server.answers("GET /guilds/4194304/members/8", [Answer::status(404, json!({ "message": "a proxy's" }))]);
        world.server.answers("GET /guilds/4194304/roles", [Answer::json(json!([]))]);
        let code = r#"
            local interop = require("@antiraid/interop")
            local lazy = discord:get_channel("20")
            assert(typeof(lazy) == "Lazy")
            assert(lazy.data == lazy.data and lazy.data.id == "20" and lazy.data.big == 9007199254740991 and lazy.data.none == nil)
            assert(getmetatable(lazy.data.list) == interop.array_metatable)
            local copy = ctx.DataStores.CopyDataStore.copySync(discord:get_channel("20"))
            assert(copy.data.id == "20" and copy.data.big == 9007199254740991)
            local absent = discord:get_guild_member("9")
            assert(typeof(absent) == "Lazy" and absent.data == nil)
            local ok, err = pcall(discord.get_guild_member, discord, "8")
            assert(not ok and err == "discord: 404 0 a proxy's", err)
            local roles = discord:get_guild_roles().data
            assert(#roles == 0 and getmetatable(roles) == interop.array_metatable)
            assert(discord:delete_all_reactions("20", "5") == nil)
            return "ok"
        "#;
        assert_eq!(world.run(code).await, Ok("ok".into()));
    });
}

#[test]
fn helpers_tell_what_is_known() {
    on_worker(|| async {
        let world = World::new().await;
        let code = r#"
            local one = discord:antiraid_check_permissions({user_id = "700", needed_permissions = "1024"}).data
            assert(one.permissions == "68608" and one.member.user.id == "700" and one.partial_guild.owner_id == "600", one.permissions)
            assert(one.partial_guild.id == "4194304" and #one.partial_guild.roles == 4 and one.partial_guild.roles[1].position)
            local owner = discord:antiraid_check_permissions({user_id = "600", needed_permissions = "0"}).data
            assert(owner.permissions == "9007199254740991")
            local there = discord:antiraid_check_channel_permissions({user_id = "700", channel_id = "24", needed_permissions = "1024"}).data
            assert(there.channel.id == "24" and there.channel.parent_id == "20")
            local fused = discord:antiraid_get_fused_member({"800", "700"}).data
            assert(fused.members[1].member.user.id == "800" and fused.members[2].member.user.username == "u700")
            assert(fused.members[2].resolved_perms == "68608" and fused.guild.owner_id == "600" and #fused.guild.roles == 4)
            assert(discord:antiraid_check_reason("fine") == nil)
            local none, problem = discord:antiraid_check_reason("")
            assert(none == nil and string.find(problem, "^invalid_argument: reason"))
            assert(select(2, discord:antiraid_check_reason(string.rep("é", 512))) == nil)
            assert(select(2, discord:antiraid_check_reason(string.rep("é", 513))))
            return "ok"
        "#;
        assert_eq!(world.run(code).await, Ok("ok".into()));
        assert_eq!(world.server.take_lines(), [""; 0]);
    });
}

#[test]
fn a_bulk_ban_names_whom_it_did_not_ban() {
    on_worker(|| async {
        let world = World::new().await;
        let answer = json!({ "banned_users": ["700"], "failed_users": ["701"] });
        world.server.answers("POST /guilds/4194304/bulk-ban", [Answer::json(answer)]);
        let code = r#"
            local done = discord:bulk_ban({user_ids = {"500", "600", "700", "701", "800"}, reason = "raid"}).data
            return {table.concat(done.banned_users, ","), table.concat(done.failed_users, ",")}
        "#;
        let lists = Value::List(vec!["700".into(), "500,600,800,701".into()]);
        assert_eq!(world.run(code).await, Ok(lists));
        assert_eq!(world.server.take()[0].body, Some(json!({ "user_ids": ["700", "701"] })));
        let nobody = json!({ "code": 500_000, "message": "Failed to ban users" });
        world.server.answers("POST /guilds/4194304/bulk-ban", [Answer::status(400, nobody)]);
        let code = r#"
            local done = discord:bulk_ban({user_ids = {"800", "702"}, reason = "raid"}).data
            return #done.banned_users == 0 and table.concat(done.failed_users, ",")
        "#;
        assert_eq!(world.run(code).await, Ok("800,702".into()));
        let code = r#"return #discord:bulk_ban({user_ids = {"600"}, reason = "raid"}).data.failed_users"#;
        world.server.take();
        assert_eq!(world.run(code).await, Ok(1.into()));
        assert_eq!(world.server.take(), [], "nobody is left to ask for");
    });
}

#[test]
fn who_the_bot_is_comes_from_the_gateway() {
    on_worker(|| async {
        let world = World::new().await;
        assert_eq!(world.run("return ctx.current_user.username").await, Ok("bot".into()));
        assert_eq!(format!("{:?}", DiscordToken::new("secret")), "<redacted>");
    });
}

#[test]
fn what_a_call_changes_is_known_before_the_gateway_says_so() {
    on_worker(|| async {
        let world = World::new().await;
        let role: Json = json!({ "id": "99", "name": "new", "position": 1, "permissions": "0" });
        world.server.answers("POST /guilds/4194304/roles", [Answer::json(role)]);
        let code = r#"
            local role = discord:create_guild_role({reason = "r", data = {name = "new"}}).data
            discord:add_guild_member_role({user_id = "700", role_id = role.id, reason = "r"})
            return "ok"
        "#;
        assert_eq!(world.run(code).await, Ok("ok".into()));
        assert_eq!(
            world.server.take_lines(),
            ["POST /guilds/4194304/roles", "PUT /guilds/4194304/members/700/roles/99"]
        );
    });
}
