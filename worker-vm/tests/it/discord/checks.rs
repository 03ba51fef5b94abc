//! Each check, broken once: the error, and that nothing was sent.

use serde_json::json;
use worker_core::{RatelimitRules, TenantId, Value};

use super::server::{ALL_BUT_ADMINISTRATOR, Answer, EVERYONE, World};
use crate::harness::{OTHER, TENANT, on_worker};

/// Calls with something in their arguments that Discord or the reference does not allow, and the field that is named.
const ARGUMENTS: &[(&str, &str)] = &[
    ("get_channel()", "channel_id (missing)"),
    ("get_channel('x')", "channel_id"),
    ("get_channel('0')", "channel_id"),
    ("get_channel(1.5)", "channel_id"),
    ("get_channel('../guilds/1')", "channel_id"),
    ("get_guild_member(-1)", "user_id"),
    ("create_message()", "argument"),
    ("create_message({channel_id = '20'})", "data (missing)"),
    ("create_message({channel_id = '20', data = 'x'})", "data"),
    ("create_message({channel_id = '20', data = {}})", "content"),
    ("create_message({channel_id = '20', data = {content = ''}})", "content"),
    ("create_message({channel_id = '20', data = {content = string.rep('é', 2001)}})", "content"),
    ("create_message({channel_id = '20', data = {embeds = table.create(11, {title = 't'})}})", "embeds"),
    ("create_message({channel_id = '20', data = {embeds = {{title = string.rep('x', 257)}}}})", "embeds[1].title"),
    (
        "create_message({channel_id = '20', data = {embeds = {{description = string.rep('x', 4097)}}}})",
        "embeds[1].description",
    ),
    (
        "create_message({channel_id = '20', data = {embeds = {{footer = {text = string.rep('x', 2049)}}}}})",
        "embeds[1].footer.text",
    ),
    (
        "create_message({channel_id = '20', data = {embeds = {{author = {name = string.rep('x', 257)}}}}})",
        "embeds[1].author.name",
    ),
    (
        "create_message({channel_id = '20', data = {embeds = {{fields = table.create(26, {name = 'a', value = 'b'})}}}})",
        "embeds[1].fields",
    ),
    (
        "create_message({channel_id = '20', data = {embeds = {{fields = {{name = string.rep('x', 257)}}}}}})",
        "embeds[1].fields[1].name",
    ),
    (
        "create_message({channel_id = '20', data = {embeds = {{fields = {{value = string.rep('x', 1025)}}}}}})",
        "embeds[1].fields[1].value",
    ),
    (
        "create_message({channel_id = '20', data = {embeds = table.create(2, {description = string.rep('x', 3001)})}})",
        "embeds",
    ),
    ("create_message({channel_id = '20', data = {components = table.create(6, {type = 1})}})", "components"),
    ("create_message({channel_id = '20', data = {content = 'x', attachments = {{id = '1'}}}})", "attachments"),
    ("create_message({channel_id = '20', data = {content = 'x', tts = 1}})", "tts"),
    ("edit_message({channel_id = '20', message_id = '5', data = {content = string.rep('x', 2001)}})", "content"),
    (
        "execute_webhook({webhook_id = '61', webhook_token = 't', data = {content = 'x', username = string.rep('x', 81)}})",
        "username",
    ),
    (
        "create_interaction_response({interaction_id = '1', interaction_token = 't', data = {type = 4, data = {}}})",
        "content",
    ),
    ("create_interaction_response({interaction_id = '1', interaction_token = 't', data = {}})", "type"),
    (
        "create_guild_command({data = {name = 'n', options = {{type = 2, options = {{type = 1, options = {{type = 3, options = {{type = 3}}}}}}}}}})",
        "options",
    ),
    ("create_guild_command({data = {name = string.rep('x', 33)}})", "name"),
    ("create_guild_command({data = {}})", "name"),
    ("create_guild_commands({data = table.create(111, {name = 'n'})})", "data"),
    ("get_audit_logs({limit = 0})", "limit"),
    ("get_audit_logs({limit = 101})", "limit"),
    ("get_channel_messages({channel_id = '20', limit = 101})", "limit"),
    ("get_channel_messages({channel_id = '20', target = {type = 'Near', id = '5'}})", "target.type"),
    ("get_channel_messages({channel_id = '20', target = {type = 'After'}})", "target.id"),
    ("list_guild_members({limit = 1001})", "limit"),
    ("get_guild_bans({limit = 1001})", "limit"),
    ("edit_channel({channel_id = '20', reason = 'r', data = {topic = string.rep('x', 1025)}})", "topic"),
    ("edit_channel({channel_id = '20', reason = 'r', data = {rate_limit_per_user = 21601}})", "rate_limit_per_user"),
    (
        "edit_channel({channel_id = '20', reason = 'r', data = {available_tags = table.create(21, {name = 't'})}})",
        "available_tags",
    ),
    ("edit_channel({channel_id = '20', data = {}})", "reason (missing)"),
    ("edit_channel({channel_id = '20', reason = '', data = {}})", "reason"),
    ("edit_channel({channel_id = '20', reason = string.rep('é', 513), data = {}})", "reason"),
    ("edit_channel_permissions({channel_id = '20', target_id = '11', allow = '1', reason = 'r'})", "type (missing)"),
    ("edit_channel_permissions({channel_id = '20', target_id = '11', allow = 'x', type = 0, reason = 'r'})", "allow"),
    ("delete_message('20', '5', '')", "reason"),
    ("bulk_delete_messages('20', {'5'})", "message_ids"),
    ("bulk_delete_messages('20', table.create(101, '5'))", "message_ids"),
    ("create_guild_ban({user_id = '7', reason = 'r', delete_message_seconds = 604801})", "delete_message_seconds"),
    ("bulk_ban({user_ids = {}, reason = 'r'})", "user_ids"),
    ("bulk_ban({user_ids = table.create(201, '7'), reason = 'r'})", "user_ids"),
    ("antiraid_get_fused_member(table.create(51, '700'))", "ids"),
    ("antiraid_check_permissions({user_id = '700', needed_permissions = 'all'})", "needed_permissions"),
    ("modify_guild_member({user_id = '700', reason = 'r', data = {nick = string.rep('é', 33)}})", "nick"),
    (
        "modify_guild_member({user_id = '700', reason = 'r', data = {communication_disabled_until = '2199-01-01T00:00:00Z'}})",
        "communication_disabled_until",
    ),
    ("modify_guild_member({user_id = '500', reason = 'r', data = {nick = 'me'}})", "user_id"),
    (
        "create_webhook({channel_id = '20', reason = 'r', data = {name = 'n', avatar = 'data:image/webp;base64,AAAA'}})",
        "avatar",
    ),
    (
        "create_webhook({channel_id = '20', reason = 'r', data = {name = 'n', avatar = 'https://example.com/a.png'}})",
        "avatar",
    ),
    ("modify_guild({data = {banner = 'data:image/png;base64,AAAA'}, reason = 'r'})", "banner"),
    ("modify_guild({data = {icon = 'data:image/gif;base64,AAAA'}, reason = 'r'})", "icon"),
    (
        "create_reaction({channel_id = '20', message_id = '5', reaction = {type = 'Unicode', data = '../../..'}})",
        "reaction.data",
    ),
    (
        "create_reaction({channel_id = '20', message_id = '5', reaction = {type = 'Unicode', data = '..'}})",
        "reaction.data",
    ),
    (
        "create_reaction({channel_id = '20', message_id = '5', reaction = {type = 'Custom', id = '9', name = '../x'}})",
        "reaction.name",
    ),
    ("create_reaction({channel_id = '20', message_id = '5', reaction = {type = 'Other'}})", "reaction.type"),
    ("create_reaction({channel_id = '20', message_id = '5', reaction = '👍'})", "reaction"),
    (
        "get_reactions({channel_id = '20', message_id = '5', reaction = {type = 'Unicode', data = '👍'}, type = 'Super'})",
        "type",
    ),
    ("get_invite({code = '../guilds/1'})", "code"),
    ("get_invite({code = '..'})", "code"),
    ("get_original_interaction_response('a/../../../guilds/1')", "interaction_token"),
    ("get_original_interaction_response('%2e%2e')", "interaction_token"),
    ("get_original_interaction_response('..')", "interaction_token"),
    ("execute_webhook({webhook_id = '61', webhook_token = '?x=', data = {content = 'x'}})", "webhook_token"),
    ("antiraid_bulk_op('no_such_method')", "action"),
];

#[test]
fn what_is_wrong_in_an_argument_is_named_and_nothing_is_sent() {
    on_worker(|| async {
        let world = World::new().await;
        for (call, field) in ARGUMENTS {
            world.refused(call, &format!("invalid_argument: {field}")).await;
        }
        world.server.take();
        // Bytes that are no text, functions, cycles: the errors of every plugin.
        for (call, class) in [
            ("create_message({channel_id = '20', data = {content = print}})", "invalid_value: "),
            ("create_message({channel_id = '20', data = {content = 0/0}})", "invalid_value: "),
            ("create_message({channel_id = '20', data = {content = '\\xff'}})", "invalid_argument: content"),
        ] {
            world.refused(call, class).await;
        }
    });
}

/// Calls with an id of another guild, wherever one can stand.
const FOREIGN: &[&str] = &[
    "get_channel('99')",
    "get_channel_messages({channel_id = '99'})",
    "create_message({channel_id = '99', data = {content = 'x'}})",
    "create_message({channel_id = '20', data = {content = 'x', message_reference = {type = 1, message_id = '5', channel_id = '99'}}})",
    "create_message({channel_id = '20', data = {content = 'x', allowed_mentions = {roles = {'98'}}}})",
    "create_message({channel_id = '20', data = {components = {{type = 1, components = {{type = 8, custom_id = 'c',
        default_values = {{id = '99', type = 'channel'}}}}}}}})",
    "create_message({channel_id = '20', data = {components = {{type = 17, components = {{type = 9, accessory =
        {type = 6, default_values = {{id = '98', type = 'role'}}}}}}}}})",
    "edit_message({channel_id = '99', message_id = '5', data = {content = 'x'}})",
    "delete_message('99', '5')",
    "get_reactions({channel_id = '99', message_id = '5', reaction = {type = 'Unicode', data = '👍'}})",
    "edit_channel({channel_id = '99', reason = 'r', data = {}})",
    "edit_channel({channel_id = '20', reason = 'r', data = {parent_id = '99'}})",
    "edit_channel({channel_id = '20', reason = 'r', data = {permission_overwrites = {{id = '98', type = 0}}}})",
    "create_guild_channel({reason = 'r', data = {name = 'n', parent_id = '99'}})",
    "modify_guild_channel_positions({{id = '99', position = 1}})",
    "modify_guild_channel_positions({{id = '20', parent_id = '99'}})",
    "delete_channel({channel_id = '99', reason = 'r'})",
    "edit_channel_permissions({channel_id = '20', target_id = '98', type = 0, reason = 'r'})",
    "delete_channel_permission({channel_id = '99', overwrite_id = '11', reason = 'r'})",
    "follow_announcement_channel({channel_id = '99', data = {webhook_channel_id = '20'}, reason = 'r'})",
    "follow_announcement_channel({channel_id = '23', data = {webhook_channel_id = '99'}, reason = 'r'})",
    "modify_guild({data = {system_channel_id = '99'}, reason = 'r'})",
    "modify_guild({data = {rules_channel_id = '99'}, reason = 'r'})",
    "create_auto_moderation_rule({reason = 'r', data = {actions = {{type = 2, metadata = {channel_id = '99'}}}}})",
    "create_auto_moderation_rule({reason = 'r', data = {exempt_roles = {'98'}}})",
    "create_auto_moderation_rule({reason = 'r', data = {exempt_channels = {'99'}}})",
    "modify_guild_member({user_id = '700', reason = 'r', data = {channel_id = '99'}})",
    "modify_guild_member({user_id = '700', reason = 'r', data = {roles = {'98'}}})",
    "add_guild_member_role({user_id = '700', role_id = '98', reason = 'r'})",
    "get_guild_role('98')",
    "modify_guild_role({role_id = '98', reason = 'r', data = {}})",
    "modify_guild_role_positions({data = {{id = '98', position = 1}}, reason = 'r'})",
    "create_channel_invite({channel_id = '20', data = {role_ids = {'98'}}, reason = 'r'})",
    "delete_invite({code = 'theirs', reason = 'r'})",
    "create_webhook({channel_id = '99', reason = 'r', data = {name = 'n'}})",
    "get_webhook('62')",
    "modify_webhook({webhook_id = '62', reason = 'r', data = {name = 'n'}})",
    "modify_webhook({webhook_id = '61', reason = 'r', data = {channel_id = '99'}})",
    "delete_webhook({webhook_id = '62', reason = 'r'})",
    "execute_webhook({webhook_id = '62', webhook_token = 'tok', data = {content = 'x'}})",
    "execute_webhook({webhook_id = '61', webhook_token = 'tok', thread_id = '99', data = {content = 'x'}})",
    "create_interaction_response({interaction_id = '1', interaction_token = 't', data = {type = 4, data = {components =
        {{type = 1, components = {{type = 8, default_values = {{id = '99', type = 'channel'}}}}}}}}})",
    "create_followup_message({interaction_token = 't', data = {content = 'x', allowed_mentions = {roles = {'98'}}}})",
    "antiraid_check_channel_permissions({user_id = '700', channel_id = '99', needed_permissions = '0'})",
];

#[test]
fn nothing_of_another_guild_can_be_named() {
    on_worker(|| async {
        let world = World::new().await;
        let theirs = |id: &str| json!({ "id": id, "guild_id": OTHER.snowflake().to_string(), "type": 0 });
        world.server.answers("GET /channels/99", [Answer::json(theirs("99"))]);
        for path in ["GET /webhooks/62", "GET /webhooks/62/tok"] {
            world.server.answers(path, [Answer::json(theirs("62"))]);
        }
        for path in ["GET /webhooks/61", "GET /webhooks/61/tok"] {
            world
                .server
                .answers(path, [Answer::json(json!({ "id": "61", "guild_id": TENANT.snowflake().to_string() }))]);
        }
        let invite =
            json!({ "code": "theirs", "guild": { "id": OTHER.snowflake().to_string() }, "channel": { "id": "99" } });
        world.server.answers("GET /invites/theirs", [Answer::json(invite)]);
        let roles = super::server::guild(ALL_BUT_ADMINISTRATOR)["roles"].clone();
        world.server.answers("GET /guilds/4194304/roles", [Answer::json(roles)]);
        for call in FOREIGN {
            world.refused(&call.replace('\n', " "), "wrong_guild: ").await;
        }
    });
}

/// Bits of permissions.
const fn bit(place: u32) -> u64 {
    1 << place
}

/// Calls, and the permission that the bot lacks for each, by its bit and its name.
const PERMISSIONS: &[(&str, u32, &str)] = &[
    ("get_audit_logs()", 7, "VIEW_AUDIT_LOG"),
    ("list_auto_moderation_rules()", 5, "MANAGE_GUILD"),
    ("get_auto_moderation_rule({rule_id = '9'})", 5, "MANAGE_GUILD"),
    ("create_auto_moderation_rule({reason = 'r', data = {}})", 5, "MANAGE_GUILD"),
    ("edit_auto_moderation_rule({rule_id = '9', reason = 'r', data = {}})", 5, "MANAGE_GUILD"),
    ("delete_auto_moderation_rule({rule_id = '9', reason = 'r'})", 5, "MANAGE_GUILD"),
    ("edit_channel({channel_id = '20', reason = 'r', data = {}})", 4, "MANAGE_CHANNELS"),
    ("edit_channel({channel_id = '24', reason = 'r', data = {}})", 34, "MANAGE_THREADS"),
    ("delete_channel({channel_id = '20', reason = 'r'})", 4, "MANAGE_CHANNELS"),
    ("delete_channel({channel_id = '24', reason = 'r'})", 34, "MANAGE_THREADS"),
    ("edit_channel_permissions({channel_id = '20', target_id = '11', type = 0, reason = 'r'})", 28, "MANAGE_ROLES"),
    ("delete_channel_permission({channel_id = '20', overwrite_id = '11', reason = 'r'})", 28, "MANAGE_ROLES"),
    ("get_channel_invites('20')", 4, "MANAGE_CHANNELS"),
    ("create_channel_invite({channel_id = '20', data = {}, reason = 'r'})", 0, "CREATE_INSTANT_INVITE"),
    (
        "follow_announcement_channel({channel_id = '23', data = {webhook_channel_id = '20'}, reason = 'r'})",
        29,
        "MANAGE_WEBHOOKS",
    ),
    ("modify_guild({data = {}, reason = 'r'})", 5, "MANAGE_GUILD"),
    ("create_guild_channel({reason = 'r', data = {name = 'n'}})", 4, "MANAGE_CHANNELS"),
    ("modify_guild_channel_positions({{id = '20'}})", 4, "MANAGE_CHANNELS"),
    ("modify_guild_member({user_id = '700', reason = 'r', data = {nick = 'n'}})", 27, "MANAGE_NICKNAMES"),
    ("modify_guild_member({user_id = '700', reason = 'r', data = {roles = {}}})", 28, "MANAGE_ROLES"),
    ("modify_guild_member({user_id = '700', reason = 'r', data = {mute = true}})", 22, "MUTE_MEMBERS"),
    ("modify_guild_member({user_id = '700', reason = 'r', data = {deaf = true}})", 23, "DEAFEN_MEMBERS"),
    ("modify_guild_member({user_id = '700', reason = 'r', data = {channel_id = {}}})", 24, "MOVE_MEMBERS"),
    (
        "modify_guild_member({user_id = '700', reason = 'r', data = {communication_disabled_until = {}}})",
        40,
        "MODERATE_MEMBERS",
    ),
    ("add_guild_member_role({user_id = '700', role_id = '11', reason = 'r'})", 28, "MANAGE_ROLES"),
    ("remove_guild_member_role({user_id = '700', role_id = '11', reason = 'r'})", 28, "MANAGE_ROLES"),
    ("remove_guild_member({user_id = '700', reason = 'r'})", 1, "KICK_MEMBERS"),
    ("get_guild_bans()", 2, "BAN_MEMBERS"),
    ("get_guild_ban('7')", 2, "BAN_MEMBERS"),
    ("create_guild_ban({user_id = '700', reason = 'r'})", 2, "BAN_MEMBERS"),
    ("remove_guild_ban({user_id = '7', reason = 'r'})", 2, "BAN_MEMBERS"),
    ("bulk_ban({user_ids = {'700'}, reason = 'r'})", 2, "BAN_MEMBERS"),
    ("bulk_ban({user_ids = {'700'}, reason = 'r'})", 5, "MANAGE_GUILD"),
    ("create_guild_role({reason = 'r', data = {}})", 28, "MANAGE_ROLES"),
    ("modify_guild_role_positions({data = {}, reason = 'r'})", 28, "MANAGE_ROLES"),
    ("modify_guild_role({role_id = '11', reason = 'r', data = {}})", 28, "MANAGE_ROLES"),
    ("delete_guild_role({role_id = '11', reason = 'r'})", 28, "MANAGE_ROLES"),
    // What is given away.
    ("create_guild_role({reason = 'r', data = {permissions = '4'}})", 2, "BAN_MEMBERS"),
    ("modify_guild_role({role_id = '11', reason = 'r', data = {permissions = '4'}})", 2, "BAN_MEMBERS"),
    ("create_guild_role({reason = 'r', data = {permissions = '8'}})", 3, "ADMINISTRATOR"),
    (
        "edit_channel_permissions({channel_id = '20', target_id = '11', deny = '8192', type = 0, reason = 'r'})",
        13,
        "MANAGE_MESSAGES",
    ),
    (
        "edit_channel({channel_id = '20', reason = 'r', data = {permission_overwrites = {{id = '11', type = 0, allow = '8192'}}}})",
        13,
        "MANAGE_MESSAGES",
    ),
    (
        "create_guild_channel({reason = 'r', data = {name = 'n', permission_overwrites = {{id = '7', type = 1, deny = '4'}}}})",
        2,
        "BAN_MEMBERS",
    ),
    ("delete_invite({code = 'ours', reason = 'r'})", 5, "MANAGE_GUILD"),
    ("get_channel_messages({channel_id = '20'})", 10, "VIEW_CHANNEL"),
    ("get_channel_messages({channel_id = '22'})", 20, "CONNECT"),
    ("get_channel_message({channel_id = '20', message_id = '5'})", 10, "VIEW_CHANNEL"),
    ("create_message({channel_id = '20', data = {content = 'x'}})", 11, "SEND_MESSAGES"),
    ("create_message({channel_id = '24', data = {content = 'x'}})", 38, "SEND_MESSAGES_IN_THREADS"),
    (
        "create_message({channel_id = '20', data = {content = 'x', message_reference = {type = 1, message_id = '5', channel_id = '22'}}})",
        16,
        "READ_MESSAGE_HISTORY",
    ),
    ("crosspost_message('23', '5')", 13, "MANAGE_MESSAGES"),
    ("crosspost_message('23', '5')", 11, "SEND_MESSAGES"),
    ("edit_message({channel_id = '20', message_id = '5', data = {}})", 13, "MANAGE_MESSAGES"),
    ("delete_message('20', '5')", 13, "MANAGE_MESSAGES"),
    ("bulk_delete_messages('20', {'5', '6'})", 13, "MANAGE_MESSAGES"),
    (
        "create_reaction({channel_id = '20', message_id = '5', reaction = {type = 'Unicode', data = '👍'}})",
        6,
        "ADD_REACTIONS",
    ),
    (
        "delete_own_reaction({channel_id = '20', message_id = '5', reaction = {type = 'Unicode', data = '👍'}})",
        16,
        "READ_MESSAGE_HISTORY",
    ),
    (
        "delete_user_reaction({channel_id = '20', message_id = '5', user_id = '7', reaction = {type = 'Unicode', data = '👍'}})",
        13,
        "MANAGE_MESSAGES",
    ),
    ("delete_all_reactions('20', '5')", 13, "MANAGE_MESSAGES"),
    (
        "delete_all_reactions_for_emoji({channel_id = '20', message_id = '5', reaction = {type = 'Unicode', data = '👍'}})",
        13,
        "MANAGE_MESSAGES",
    ),
    ("create_webhook({channel_id = '20', reason = 'r', data = {name = 'n'}})", 29, "MANAGE_WEBHOOKS"),
    ("get_channel_webhooks('20')", 29, "MANAGE_WEBHOOKS"),
    ("get_guild_webhooks()", 29, "MANAGE_WEBHOOKS"),
    ("modify_webhook({webhook_id = '61', reason = 'r', data = {}})", 29, "MANAGE_WEBHOOKS"),
    ("delete_webhook({webhook_id = '61', reason = 'r'})", 29, "MANAGE_WEBHOOKS"),
];

#[test]
fn each_permission_that_the_bot_lacks_is_named() {
    on_worker(|| async {
        let world = World::new().await;
        let invite = json!({ "code": "ours", "guild": { "id": "4194304" }, "channel": { "id": "20" } });
        world.server.answers("GET /invites/ours", [Answer::json(invite)]);
        let message = json!({ "id": "5", "author": { "id": "7" } });
        world.server.answers("GET /channels/20/messages/5", [Answer::json(message)]);
        for (call, place, name) in PERMISSIONS {
            // What everybody has is taken from everybody.
            let mut guild = super::server::guild(ALL_BUT_ADMINISTRATOR & !bit(*place));
            guild["roles"][0]["permissions"] = (EVERYONE & !bit(*place)).to_string().into();
            if name.contains("MANAGE_GUILD") && call.starts_with("delete_invite") {
                guild["roles"][1]["permissions"] = (ALL_BUT_ADMINISTRATOR & !bit(5) & !bit(4)).to_string().into();
            }
            world.apply("GUILD_CREATE", &guild);
            world.server.take();
            let error = world.error(call).await;
            assert!(error.starts_with("missing_permission: ") && error.contains(name), "{call}: {error}");
            assert!(world.server.take().iter().all(|seen| seen.method == "GET"), "{call}");
        }
    });
}

#[test]
fn who_does_not_need_a_permission_is_let_through() {
    on_worker(|| async {
        let world = World::new().await;
        // Its own message, which the bot may change.
        world.knows(ALL_BUT_ADMINISTRATOR & !bit(13));
        world.server.answers("GET /channels/20/messages/5", [Answer::json(json!({ "author": { "id": "500" } }))]);
        let edit = "edit_message({channel_id = '20', message_id = '5', data = {content = 'x'}})";
        assert_eq!(world.passes(edit).await, ["GET /channels/20/messages/5", "PATCH /channels/20/messages/5"]);
        // A webhook of the bot's application writes as its user, and is not it.
        let hook = json!({ "author": { "id": "500" }, "webhook_id": "61" });
        world.server.answers("GET /channels/20/messages/5", [Answer::json(hook)]);
        world.refused(edit, "missing_permission: ").await;
        // Of three ways to the flags of a member one is enough.
        for lacks in [bit(28) | bit(40), bit(5) | bit(40), bit(5) | bit(28)] {
            world.knows(ALL_BUT_ADMINISTRATOR & !lacks);
            let flags = "modify_guild_member({user_id = '700', reason = 'r', data = {flags = 4}})";
            assert_eq!(world.passes(flags).await, ["PATCH /guilds/4194304/members/700"]);
        }
        world.knows(ALL_BUT_ADMINISTRATOR & !(bit(5) | bit(28) | bit(2)));
        world
            .refused("modify_guild_member({user_id = '700', reason = 'r', data = {flags = 4}})", "missing_permission: ")
            .await;
        // A channel's right is enough for its invite.
        world.knows(ALL_BUT_ADMINISTRATOR & !bit(5));
        let invite = json!({ "code": "ours", "guild": { "id": "4194304" }, "channel": { "id": "20" } });
        world.server.answers("GET /invites/ours", [Answer::json(invite)]);
        assert_eq!(
            world.passes("delete_invite({code = 'ours', reason = 'r'})").await,
            ["GET /invites/ours", "DELETE /invites/ours"]
        );
        // Who administrates gives away what there is.
        world.knows(8);
        assert_eq!(
            world.passes("create_guild_role({reason = 'r', data = {permissions = '8'}})").await,
            ["POST /guilds/4194304/roles"]
        );
    });
}

#[test]
fn nobody_above_the_bot_is_touched() {
    on_worker(|| async {
        let world = World::new().await;
        world.server.answers(
            "GET /guilds/4194304/members/900",
            [Answer::status(404, json!({ "code": 10_007, "message": "Unknown Member" }))],
        );
        for call in [
            "remove_guild_member({user_id = '800', reason = 'r'})",
            "remove_guild_member({user_id = '600', reason = 'r'})",
            "remove_guild_member({user_id = '500', reason = 'r'})",
            "create_guild_ban({user_id = '800', reason = 'r'})",
            "create_guild_ban({user_id = '600', reason = 'r'})",
            "modify_guild_member({user_id = '800', reason = 'r', data = {nick = 'n'}})",
            "modify_guild_member({user_id = '700', reason = 'r', data = {roles = {'11', '12'}}})",
            "modify_guild_member({user_id = '700', reason = 'r', data = {roles = {'10'}}})",
            "add_guild_member_role({user_id = '700', role_id = '12', reason = 'r'})",
            "add_guild_member_role({user_id = '700', role_id = '10', reason = 'r'})",
            "remove_guild_member_role({user_id = '800', role_id = '12', reason = 'r'})",
            "modify_guild_role({role_id = '12', reason = 'r', data = {}})",
            "modify_guild_role({role_id = '10', reason = 'r', data = {}})",
            "delete_guild_role({role_id = '12', reason = 'r'})",
            "modify_guild_role_positions({data = {{id = '12', position = 1}}, reason = 'r'})",
            "modify_guild_role_positions({data = {{id = '11', position = 5}}, reason = 'r'})",
            "modify_guild_role_positions({data = {{id = '11', position = 6}}, reason = 'r'})",
            "antiraid_check_permissions_and_hierarchy({user_id = '700', target_id = '800', needed_permissions = '0'})",
            "antiraid_check_permissions_and_hierarchy({user_id = '700', target_id = '700', needed_permissions = '0'})",
            "antiraid_check_permissions_and_hierarchy({user_id = '800', target_id = '600', needed_permissions = '0'})",
        ] {
            world.refused(call, "hierarchy: ").await;
        }
        for (call, class) in [
            ("remove_guild_member({user_id = '900', reason = 'r'})", "not_found: member"),
            ("antiraid_get_fused_member({'700', '900'})", "not_found: member"),
            ("antiraid_check_permissions({user_id = '900', needed_permissions = '0'})", "not_found: member"),
            (
                "antiraid_check_permissions({user_id = '700', needed_permissions = '4'})",
                "missing_permission: the user 700",
            ),
        ] {
            world.refused(call, class).await;
        }
        // Who is no member is below everybody.
        let ban = "create_guild_ban({user_id = '900', reason = 'r'})";
        assert_eq!(world.passes(ban).await, ["GET /guilds/4194304/members/900", "PUT /guilds/4194304/bans/900"]);
        assert_eq!(
            world.passes("modify_guild_role_positions({data = {{id = '11', position = 4}}, reason = 'r'})").await.len(),
            1
        );
    });
}

#[test]
fn every_method_asks_its_capability_and_its_bucket() {
    on_worker(|| async {
        let (rules, _clock) = RatelimitRules::default().on_manual_clock();
        let world = World::with_rules(|_| (), rules).await;
        world.knows(ALL_BUT_ADMINISTRATOR);
        let code = r#"
            local child = ctx:withlimits({capabilities = {"discord:get_guild"}}).Discord
            local function raises(text, f, ...)
                local ok, err = pcall(f, ...)
                assert(not ok and string.sub(err, 1, #text) == text, err)
            end
            raises("Missing capability: discord:get_channel", child.get_channel, child, "20")
            raises("Missing capability: discord:antiraid_check_permissions", child.antiraid_check_permissions, child,
                {user_id = "700", needed_permissions = "0"})
            raises("Missing capability: discord:antiraid_bulk_op", child.antiraid_bulk_op, child)
            raises("Missing capability: discord:antiraid_bulk_op_wait", child.antiraid_bulk_op_wait, child)
            raises("Missing capability: discord:antiraid_check_reason", child.antiraid_check_reason, child, "r")
            raises("bulk_op: not a bulk executor", discord.antiraid_bulk_op_wait, discord)
            discord:get_guild_commands()
            raises("Per bucket ratelimit hit for 'get_guild_commands'", discord.get_guild_commands, discord)
            for _ = 1, 2 do discord:antiraid_get_fused_member(table.create(50, "700")) end
            raises("Per bucket ratelimit hit for 'antiraid_get_fused_member'", discord.antiraid_get_fused_member, discord, {"700"})
            for _ = 1, 19 do child:get_guild() end
            raises("Global ratelimit hit for bucket 'get_guild'", child.get_guild, child)
            local function respond()
                discord:create_interaction_response({interaction_id = "1", interaction_token = "t", data = {type = 1}})
            end
            for _ = 1, 50 do respond() end
            raises("Per bucket ratelimit hit for 'create_interaction_response'", respond)
            -- An executor has an allowance in their place.
            local bulk = discord:antiraid_bulk_op("get_guild")
            bulk:get_guild()
            raises("bulk_op: wait", bulk.get_guild, bulk)
            raises("bulk_op: action", bulk.get_channel, bulk, "20")
            raises("bulk_op: wait", function() discord:antiraid_bulk_op("get_guild"):get_guild() end)
            raises("wrong_guild: ", function() discord:antiraid_bulk_op():get_guild_role("98") end)
            return "ok"
        "#;
        let roles = super::server::guild(ALL_BUT_ADMINISTRATOR)["roles"].clone();
        world.server.answers("GET /guilds/4194304/roles", [Answer::json(roles)]);
        assert_eq!(world.run(code).await, Ok("ok".into()));
    });
}

#[test]
fn a_user_has_interactions_and_no_guild() {
    on_worker(|| async {
        let world = World::new().await;
        let user = TenantId::user(7);
        let source = r#"
            local _, ctx = ...
            ctx.Discord:create_followup_message({interaction_token = "t", data = {content = "x"}})
            local ok, err = pcall(function() ctx.Discord:get_guild() end)
            return err
        "#;
        world.h.install(user, "script", source).await;
        let answer = world.h.message(user).await.unwrap();
        assert_eq!(answer, Value::from("wrong_guild: the tenant is a user, and no guild"));
        assert_eq!(world.server.take_lines(), ["POST /webhooks/400/t"]);
    });
}
