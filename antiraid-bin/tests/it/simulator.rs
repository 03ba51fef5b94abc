//! The simulated Discord as a world: what it takes, what it refuses and in which words, and what it tells of.

use std::collections::BTreeSet;

use antiraid_bin::simulator::interaction::{ANSWER_MS_MAX, Ask, TOKEN_MS_MAX};
use antiraid_bin::simulator::request::Request;
use antiraid_bin::simulator::world::{Audience, Happening, Nature, World, WorldConfig};
use serde_json::{Value, json};
use worker_core::Snowflake;

/// A world with one guild and who is in it.
struct Scene {
    world: World,
    guild: Snowflake,
    bot: Snowflake,
    owner: Snowflake,
    moderator: Snowflake,
    ada: Snowflake,
    general: Snowflake,
}

impl Scene {
    fn new() -> Self {
        let world = World::new(&WorldConfig::default());
        let guild = world.guilds().next().unwrap();
        let named = |name: &str| {
            guild.members.keys().copied().find(|id| world.find_user(*id).unwrap().username == name).unwrap()
        };
        let (id, owner) = (guild.id, guild.owner);
        let general = guild.channel_named("general").unwrap().id;
        let (moderator, ada, bot) = (named("max"), named("ada"), world.bot());
        Self { guild: id, bot, owner, moderator, ada, general, world }
    }

    fn at(&self, path: &str) -> String {
        path.replace("{g}", &self.guild.to_string())
            .replace("{c}", &self.general.to_string())
            .replace("{ada}", &self.ada.to_string())
            .replace("{max}", &self.moderator.to_string())
            .replace("{owner}", &self.owner.to_string())
            .replace("{bot}", &self.bot.to_string())
    }

    /// A call and its status and body.
    fn call_as(&mut self, actor: Snowflake, call: &str, body: Value) -> (u16, Value) {
        let (method, rest) = call.split_once(' ').unwrap();
        let rest = self.at(rest);
        let (path, query) = rest.split_once('?').unwrap_or((&rest, ""));
        let query: Vec<(String, String)> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        let request = Request { actor, method, path, query: &query, body: &body, reason: Some("because") };
        match self.world.answer(&request) {
            Ok(reply) => (reply.status, reply.body.unwrap_or_default()),
            Err(error) => (error.status, error.body()),
        }
    }

    fn call(&mut self, call: &str, body: Value) -> (u16, Value) {
        self.call_as(self.bot, call, body)
    }

    #[track_caller]
    fn good(&mut self, call: &str, body: Value) -> Value {
        let (status, answer) = self.call(call, body);
        assert!(status < 300, "{call}: {status} {answer}");
        answer
    }

    #[track_caller]
    fn refused(&mut self, actor: Snowflake, call: &str, body: Value, status: u16, code: u64) -> Value {
        let answer = self.call_as(actor, call, body);
        assert_eq!((answer.0, answer.1["code"].as_u64()), (status, Some(code)), "{call}: {}", answer.1);
        answer.1
    }

    fn events(&mut self) -> Vec<Happening> {
        self.world.take_happenings()
    }

    fn event_names(&mut self) -> Vec<&'static str> {
        self.events().into_iter().map(|happening| happening.name).collect()
    }

    fn message(&mut self, actor: Snowflake, content: &str) -> String {
        let (status, message) = self.call_as(actor, "POST /channels/{c}/messages", json!({"content": content}));
        assert_eq!(status, 200, "{message}");
        message["id"].as_str().unwrap().into()
    }

    fn permissions_of_bot(&mut self, permissions: u64) {
        let role = self.world.guilds().next().unwrap().members[&self.bot].roles[0];
        let body = json!({"permissions": permissions.to_string()});
        let (status, answer) = self.call_as(self.owner, &format!("PATCH /guilds/{{g}}/roles/{role}"), body);
        assert_eq!(status, 200, "{answer}");
        self.events();
    }
}

const VIEW: u64 = 1 << 10;
const SEND: u64 = 1 << 11;
const HISTORY: u64 = 1 << 16;

#[test]
fn every_method_of_the_reference_that_calls_discord_is_answered() {
    let mut scene = Scene::new();
    // By the method's name in `ctx.Discord`: the call it is.
    let calls = [
        ("get_audit_logs", "GET /guilds/{g}/audit-logs"),
        ("list_auto_moderation_rules", "GET /guilds/{g}/auto-moderation/rules"),
        ("get_auto_moderation_rule", "GET /guilds/{g}/auto-moderation/rules/5"),
        ("create_auto_moderation_rule", "POST /guilds/{g}/auto-moderation/rules"),
        ("edit_auto_moderation_rule", "PATCH /guilds/{g}/auto-moderation/rules/5"),
        ("delete_auto_moderation_rule", "DELETE /guilds/{g}/auto-moderation/rules/5"),
        ("get_channel", "GET /channels/{c}"),
        ("edit_channel", "PATCH /channels/{c}"),
        ("delete_channel", "DELETE /channels/5"),
        ("edit_channel_permissions", "PUT /channels/{c}/permissions/5"),
        ("delete_channel_permission", "DELETE /channels/{c}/permissions/5"),
        ("get_channel_invites", "GET /channels/{c}/invites"),
        ("create_channel_invite", "POST /channels/{c}/invites"),
        ("follow_announcement_channel", "POST /channels/{c}/followers"),
        ("get_guild", "GET /guilds/{g}"),
        ("get_guild_preview", "GET /guilds/{g}/preview"),
        ("modify_guild", "PATCH /guilds/{g}"),
        ("get_guild_channels", "GET /guilds/{g}/channels"),
        ("create_guild_channel", "POST /guilds/{g}/channels"),
        ("modify_guild_channel_positions", "PATCH /guilds/{g}/channels"),
        ("list_active_guild_threads", "GET /guilds/{g}/threads/active"),
        ("get_guild_member", "GET /guilds/{g}/members/{ada}"),
        ("list_guild_members", "GET /guilds/{g}/members"),
        ("search_guild_members", "GET /guilds/{g}/members/search?query=a"),
        ("modify_guild_member", "PATCH /guilds/{g}/members/{ada}"),
        ("add_guild_member_role", "PUT /guilds/{g}/members/{ada}/roles/5"),
        ("remove_guild_member_role", "DELETE /guilds/{g}/members/{ada}/roles/5"),
        ("remove_guild_member", "DELETE /guilds/{g}/members/5"),
        ("get_guild_bans", "GET /guilds/{g}/bans"),
        ("get_guild_ban", "GET /guilds/{g}/bans/5"),
        ("create_guild_ban", "PUT /guilds/{g}/bans/5"),
        ("remove_guild_ban", "DELETE /guilds/{g}/bans/5"),
        ("bulk_ban", "POST /guilds/{g}/bulk-ban"),
        ("get_guild_roles", "GET /guilds/{g}/roles"),
        ("get_guild_role", "GET /guilds/{g}/roles/{g}"),
        ("create_guild_role", "POST /guilds/{g}/roles"),
        ("modify_guild_role_positions", "PATCH /guilds/{g}/roles"),
        ("modify_guild_role", "PATCH /guilds/{g}/roles/5"),
        ("delete_guild_role", "DELETE /guilds/{g}/roles/5"),
        ("get_invite", "GET /invites/abc"),
        ("delete_invite", "DELETE /invites/abc"),
        ("get_channel_messages", "GET /channels/{c}/messages"),
        ("get_channel_message", "GET /channels/{c}/messages/5"),
        ("create_message", "POST /channels/{c}/messages"),
        ("crosspost_message", "POST /channels/{c}/messages/5/crosspost"),
        ("edit_message", "PATCH /channels/{c}/messages/5"),
        ("delete_message", "DELETE /channels/{c}/messages/5"),
        ("bulk_delete_messages", "POST /channels/{c}/messages/bulk-delete"),
        ("create_reaction", "PUT /channels/{c}/messages/5/reactions/%F0%9F%91%8D/@me"),
        ("delete_own_reaction", "DELETE /channels/{c}/messages/5/reactions/%F0%9F%91%8D/@me"),
        ("delete_user_reaction", "DELETE /channels/{c}/messages/5/reactions/%F0%9F%91%8D/{ada}"),
        ("get_reactions", "GET /channels/{c}/messages/5/reactions/%F0%9F%91%8D"),
        ("delete_all_reactions", "DELETE /channels/{c}/messages/5/reactions"),
        ("delete_all_reactions_for_emoji", "DELETE /channels/{c}/messages/5/reactions/%F0%9F%91%8D"),
        ("create_interaction_response", "POST /interactions/5/token/callback"),
        ("get_original_interaction_response", "GET /webhooks/{bot}/token/messages/@original"),
        ("delete_original_interaction_response", "DELETE /webhooks/{bot}/token/messages/@original"),
        ("edit_original_interaction_response", "PATCH /webhooks/{bot}/token/messages/@original"),
        ("create_followup_message", "POST /webhooks/{bot}/token"),
        ("get_followup_message", "GET /webhooks/{bot}/token/messages/5"),
        ("delete_followup_message", "DELETE /webhooks/{bot}/token/messages/5"),
        ("edit_followup_message", "PATCH /webhooks/{bot}/token/messages/5"),
        ("get_guild_command", "GET /applications/{bot}/guilds/{g}/commands/5"),
        ("get_guild_commands", "GET /applications/{bot}/guilds/{g}/commands"),
        ("create_guild_command", "POST /applications/{bot}/guilds/{g}/commands"),
        ("create_guild_commands", "PUT /applications/{bot}/guilds/{g}/commands"),
        ("create_webhook", "POST /channels/{c}/webhooks"),
        ("get_channel_webhooks", "GET /channels/{c}/webhooks"),
        ("get_guild_webhooks", "GET /guilds/{g}/webhooks"),
        ("get_webhook", "GET /webhooks/5"),
        ("modify_webhook", "PATCH /webhooks/5"),
        ("delete_webhook", "DELETE /webhooks/5"),
        ("execute_webhook", "POST /webhooks/5/token"),
    ];
    let named: BTreeSet<_> = calls.iter().map(|(name, _)| *name).collect();
    let wanted: BTreeSet<_> = worker_vm::Recorder::methods().filter(|name| !name.starts_with("antiraid_")).collect();
    assert_eq!(named, wanted);
    for (name, call) in calls {
        let (status, answer) = scene.call(call, Value::Null);
        assert_ne!(status, 501, "{name}: {answer}");
        // Whatever is refused here is refused for what is named, not for want of a route.
        assert_ne!(answer["message"], "404: Not Found", "{name}");
    }
}

#[test]
fn what_is_not_simulated_says_so_by_name() {
    let mut scene = Scene::new();
    let (status, answer) = scene.call("GET /guilds/1/widget.json", Value::Null);
    assert_eq!(
        (status, &answer),
        (501, &json!({"code": 0, "message": "The simulator does not answer GET /guilds/1/widget.json"}))
    );
}

#[test]
fn unknown_things_have_their_own_codes() {
    let mut scene = Scene::new();
    let message = scene.message(scene.ada, "hello");
    for (call, status, code) in [
        ("GET /channels/5", 404, 10003),
        ("POST /channels/5/messages", 404, 10003),
        ("GET /guilds/5", 404, 10004),
        ("GET /invites/nope", 404, 10006),
        ("GET /guilds/{g}/members/5", 404, 10013),
        ("GET /channels/{c}/messages/5", 404, 10008),
        ("DELETE /channels/{c}/permissions/5", 404, 10009),
        ("GET /guilds/{g}/roles/5", 404, 10011),
        ("PUT /guilds/{g}/members/{ada}/roles/5", 404, 10011),
        ("GET /users/5", 404, 10013),
        ("PUT /guilds/{g}/bans/5", 404, 10013),
        ("PUT /channels/{c}/messages/{m}/reactions/thumb/@me", 400, 10014),
        ("GET /webhooks/5", 404, 10015),
        ("GET /guilds/{g}/bans/{ada}", 404, 10026),
        ("POST /interactions/5/token/callback", 404, 10062),
        ("GET /applications/{bot}/guilds/{g}/commands/5", 404, 10063),
        ("GET /guilds/{g}/auto-moderation/rules/5", 404, 10066),
        ("GET /channels/five", 400, 50035),
    ] {
        scene.refused(scene.bot, &call.replace("{m}", &message), Value::Null, status, code);
    }
    // A user who exists and is not here is another matter.
    let other = scene.world.add_user("elsewhere", None, Nature::Human);
    scene.refused(scene.bot, &format!("GET /guilds/{{g}}/members/{other}"), Value::Null, 404, 10007);
    // Nobody looks into a guild that they are not in.
    scene.refused(other, "GET /guilds/{g}", Value::Null, 403, 50001);
    scene.refused(other, "GET /channels/{c}", Value::Null, 403, 50001);
}

#[test]
fn a_message_is_refused_field_by_field() {
    let mut scene = Scene::new();
    let long = |chars: usize| "ä".repeat(chars);
    let button = |more: Value| {
        let mut button = json!({"type": 2, "style": 1, "label": "x", "custom_id": "x"});
        button.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"components": [{"type": 1, "components": [button]}]})
    };
    for (body, path, code) in [
        (json!({"content": long(2001)}), "/content", "BASE_TYPE_MAX_LENGTH"),
        (json!({"content": {}}), "/content", "STRING_TYPE_CONVERT"),
        (json!({"embeds": vec![json!({"title": "x"}); 11]}), "/embeds", "BASE_TYPE_MAX_LENGTH"),
        (json!({"embeds": [{"title": long(257)}]}), "/embeds/0/title", "BASE_TYPE_MAX_LENGTH"),
        (json!({"embeds": [{"description": long(4097)}]}), "/embeds/0/description", "BASE_TYPE_MAX_LENGTH"),
        (json!({"embeds": [{"fields": [{"name": "x"}]}]}), "/embeds/0/fields/0/value", "BASE_TYPE_REQUIRED"),
        (
            json!({"embeds": [{"title": "x"}, {"footer": {"text": long(2049)}}]}),
            "/embeds/1/footer/text",
            "BASE_TYPE_BAD_LENGTH",
        ),
        (json!({"embeds": [{"color": 0x100_0000}]}), "/embeds/0/color", "NUMBER_TYPE_MAX"),
        (json!({"embeds": [{"url": "gopher://x"}]}), "/embeds/0/url", "URL_TYPE_INVALID_SCHEME"),
        (json!({"embeds": [{"timestamp": "yesterday"}]}), "/embeds/0/timestamp", "DATE_TIME_TYPE_PARSE"),
        (
            json!({"embeds": [{"description": long(4096)}, {"description": long(1905)}]}),
            "/embeds",
            "MAX_EMBED_SIZE_EXCEEDED",
        ),
        (json!({"components": [{"type": 2}]}), "/components/0/type", "UNION_TYPE_CHOICES"),
        (json!({"components": [{"type": 1, "components": []}]}), "/components/0/components", "BASE_TYPE_BAD_LENGTH"),
        (button(json!({"custom_id": long(101)})), "/components/0/components/0/custom_id", "BASE_TYPE_BAD_LENGTH"),
        (button(json!({"style": 9})), "/components/0/components/0/style", "BASE_TYPE_CHOICES"),
        (button(json!({"label": ""})), "/components/0/components/0/label", "BUTTON_COMPONENT_LABEL_REQUIRED"),
        (button(json!({"style": 5})), "/components/0/components/0/url", "BASE_TYPE_REQUIRED"),
        (
            json!({"components": [{"type": 1, "components": [
                {"type": 2, "style": 1, "label": "a", "custom_id": "same"},
                {"type": 2, "style": 1, "label": "b", "custom_id": "same"},
            ]}]}),
            "/components/0/components/1/custom_id",
            "COMPONENT_CUSTOM_ID_DUPLICATED",
        ),
        (
            json!({"components": [{"type": 1, "components": [{"type": 3, "custom_id": "m", "options": []}]}]}),
            "/components/0/components/0/options",
            "BASE_TYPE_BAD_LENGTH",
        ),
        (
            json!({"content": "x", "message_reference": {"message_id": "5"}}),
            "/message_reference",
            "MESSAGE_REFERENCE_UNKNOWN_MESSAGE",
        ),
        (
            json!({"content": "x", "allowed_mentions": {"parse": ["all"]}}),
            "/allowed_mentions/parse.0",
            "BASE_TYPE_CHOICES",
        ),
        (json!({"poll": {"answers": []}}), "/poll/question", "BASE_TYPE_REQUIRED"),
    ] {
        let answer = scene.refused(scene.bot, "POST /channels/{c}/messages", body.clone(), 400, 50035);
        assert_eq!(answer["message"], "Invalid Form Body");
        let found = answer["errors"].pointer(&format!("{path}/_errors/0/code"));
        assert_eq!(found, Some(&json!(code)), "{path} in {answer}");
    }
    for body in [json!({}), json!({"content": "  "}), json!({"content": "", "embeds": []})] {
        scene.refused(scene.bot, "POST /channels/{c}/messages", body, 400, 50006);
    }
    assert_eq!(scene.event_names(), Vec::<&str>::new(), "what is refused has not happened");
    // At the limits all is well, and characters count, not bytes.
    scene.good("POST /channels/{c}/messages", json!({"content": long(2000)}));
    scene.good(
        "POST /channels/{c}/messages",
        json!({"embeds": [{"description": long(4096)}, {"description": long(1904)}]}),
    );
}

#[test]
fn several_mistakes_are_told_together() {
    let mut scene = Scene::new();
    let body = json!({"content": "x".repeat(2001), "embeds": [{"title": "x".repeat(300), "color": -1}]});
    let answer = scene.refused(scene.bot, "POST /channels/{c}/messages", body, 400, 50035);
    for path in ["/content", "/embeds/0/title", "/embeds/0/color"] {
        assert!(answer["errors"].pointer(&format!("{path}/_errors")).is_some(), "{path} in {answer}");
    }
}

#[test]
fn the_bot_may_do_what_its_permissions_say() {
    // The permission that makes the difference, beside seeing the channel; the call; and how it is refused without.
    for (needed, call, body) in [
        (SEND, "POST /channels/{c}/messages", json!({"content": "x"})),
        (1 << 13, "DELETE /channels/{c}/messages/{m}", json!(null)),
        (1 << 13, "DELETE /channels/{c}/messages/{m}/reactions", json!(null)),
        (HISTORY, "GET /channels/{c}/messages/{m}", json!(null)),
        (1 << 4, "PATCH /channels/{c}", json!({"topic": "x"})),
        (1 << 4, "DELETE /channels/{c}", json!(null)),
        (1 << 4, "POST /guilds/{g}/channels", json!({"name": "x"})),
        (1, "POST /channels/{c}/invites", json!({})),
        (1 << 29, "POST /channels/{c}/webhooks", json!({"name": "x"})),
        (1 << 29, "GET /guilds/{g}/webhooks", json!(null)),
        (1 << 7, "GET /guilds/{g}/audit-logs", json!(null)),
        (1 << 5, "GET /guilds/{g}/auto-moderation/rules", json!(null)),
        (1 << 5, "PATCH /guilds/{g}", json!({"name": "Other"})),
        (1 << 1, "DELETE /guilds/{g}/members/{ada}", json!(null)),
        (1 << 2, "PUT /guilds/{g}/bans/{ada}", json!({})),
        (1 << 2, "GET /guilds/{g}/bans", json!(null)),
        (1 << 2 | 1 << 5, "POST /guilds/{g}/bulk-ban", json!({"user_ids": ["{ada}"]})),
        (1 << 27, "PATCH /guilds/{g}/members/{ada}", json!({"nick": "x"})),
        (1 << 40, "PATCH /guilds/{g}/members/{ada}", json!({"communication_disabled_until": null})),
        (1 << 28, "PATCH /guilds/{g}/members/{ada}", json!({"roles": []})),
        (1 << 28, "POST /guilds/{g}/roles", json!({"name": "x", "permissions": "0"})),
    ] {
        for (bits, is_allowed) in [(VIEW | HISTORY | needed, true), (VIEW | (!needed & HISTORY), false)] {
            let mut scene = Scene::new();
            let message = scene.message(scene.ada, "hello");
            // What everybody may must not hide what the bot may not.
            let body_of_everyone = json!({"permissions": VIEW.to_string()});
            assert_eq!(scene.call_as(scene.owner, "PATCH /guilds/{g}/roles/{g}", body_of_everyone).0, 200);
            scene.permissions_of_bot(bits);
            let body: Value = serde_json::from_str(&scene.at(&body.to_string())).unwrap();
            let (status, answer) = scene.call(&call.replace("{m}", &message), body);
            match is_allowed {
                true => assert!(status < 300, "{call} with {bits:#x}: {status} {answer}"),
                false => assert_eq!((status, &answer["code"]), (403, &json!(50013)), "{call} with {bits:#x}: {answer}"),
            }
        }
    }
}

#[test]
fn rank_is_kept_among_roles_and_members() {
    let mut scene = Scene::new();
    let roles = |scene: &Scene| {
        let guild = scene.world.guilds().next().unwrap();
        let named = |name: &str| guild.roles.values().find(|role| role.name == name).unwrap().id;
        (named("Muted"), named("Moderator"), named("AntiRaid"))
    };
    let (muted, moderator, bots) = roles(&scene);
    // The owner is above all, whatever their roles; nobody touches the bot's own role.
    for call in ["DELETE /guilds/{g}/members/{owner}", "PUT /guilds/{g}/bans/{owner}"] {
        scene.refused(scene.bot, call, json!({}), 403, 50013);
    }
    scene.refused(scene.bot, &format!("PUT /guilds/{{g}}/members/{{ada}}/roles/{bots}"), json!(null), 403, 50013);
    scene.refused(scene.bot, &format!("DELETE /guilds/{{g}}/roles/{bots}"), json!(null), 400, 50028);
    scene.good(&format!("PUT /guilds/{{g}}/members/{{ada}}/roles/{muted}"), json!(null));
    // A moderator may kick, but neither the bot above them nor another moderator beside them.
    let other = scene.world.add_user("other", None, Nature::Human);
    scene.world.join(scene.guild, other).unwrap();
    scene.good(&format!("PUT /guilds/{{g}}/members/{other}/roles/{moderator}"), json!(null));
    for call in ["DELETE /guilds/{g}/members/{bot}".to_owned(), format!("DELETE /guilds/{{g}}/members/{other}")] {
        scene.refused(scene.moderator, &call, json!(null), 403, 50013);
    }
    assert_eq!(scene.call_as(scene.moderator, "DELETE /guilds/{g}/members/{ada}", json!(null)).0, 204);
    // Nobody gives away what they have not, nor lifts a role to their own height.
    scene.permissions_of_bot(1 << 28);
    scene.refused(scene.bot, "POST /guilds/{g}/roles", json!({"permissions": "8"}), 403, 50013);
    scene.refused(scene.bot, &format!("PATCH /guilds/{{g}}/roles/{muted}"), json!({"permissions": "8"}), 403, 50013);
    scene.refused(scene.bot, "PATCH /guilds/{g}/roles", json!([{"id": muted, "position": 4}]), 403, 50013);
    scene.good("PATCH /guilds/{g}/roles", json!([{"id": muted, "position": 2}]));
}

#[test]
fn what_happens_is_told_as_discord_tells_it() {
    let mut scene = Scene::new();
    let message = scene.message(scene.ada, "hello");
    scene.events();
    for (call, body, wanted) in [
        ("POST /channels/{c}/messages", json!({"content": "x"}), &["MESSAGE_CREATE"][..]),
        ("PUT /channels/{c}/messages/{m}/reactions/%F0%9F%91%8D/@me", json!(null), &["MESSAGE_REACTION_ADD"]),
        ("PUT /channels/{c}/messages/{m}/reactions/%F0%9F%91%8D/@me", json!(null), &[]),
        ("DELETE /channels/{c}/messages/{m}/reactions/%F0%9F%91%8D/@me", json!(null), &["MESSAGE_REACTION_REMOVE"]),
        ("DELETE /channels/{c}/messages/{m}", json!(null), &["MESSAGE_DELETE", "GUILD_AUDIT_LOG_ENTRY_CREATE"]),
        ("PATCH /channels/{c}", json!({"topic": "t"}), &["CHANNEL_UPDATE", "GUILD_AUDIT_LOG_ENTRY_CREATE"]),
        ("POST /guilds/{g}/channels", json!({"name": "x"}), &["CHANNEL_CREATE", "GUILD_AUDIT_LOG_ENTRY_CREATE"]),
        ("POST /guilds/{g}/roles", json!({"name": "x"}), &["GUILD_ROLE_CREATE", "GUILD_AUDIT_LOG_ENTRY_CREATE"]),
        (
            "PATCH /guilds/{g}/members/{ada}",
            json!({"nick": "Countess"}),
            &["GUILD_MEMBER_UPDATE", "GUILD_AUDIT_LOG_ENTRY_CREATE"],
        ),
        ("PATCH /guilds/{g}", json!({"name": "Other"}), &["GUILD_UPDATE", "GUILD_AUDIT_LOG_ENTRY_CREATE"]),
        ("POST /channels/{c}/invites", json!({}), &["INVITE_CREATE", "GUILD_AUDIT_LOG_ENTRY_CREATE"]),
        ("POST /channels/{c}/webhooks", json!({"name": "w"}), &["WEBHOOKS_UPDATE", "GUILD_AUDIT_LOG_ENTRY_CREATE"]),
        (
            "PUT /guilds/{g}/bans/{ada}",
            json!({}),
            &["GUILD_BAN_ADD", "GUILD_MEMBER_REMOVE", "GUILD_AUDIT_LOG_ENTRY_CREATE"],
        ),
        ("DELETE /guilds/{g}/bans/{ada}", json!(null), &["GUILD_BAN_REMOVE", "GUILD_AUDIT_LOG_ENTRY_CREATE"]),
    ] {
        let call = call.replace("{m}", &message);
        scene.good(&call, body);
        let happenings = scene.events();
        assert_eq!(happenings.iter().map(|one| one.name).collect::<Vec<_>>(), wanted, "{call}");
        for happening in happenings {
            let field = if happening.name == "GUILD_UPDATE" { "id" } else { "guild_id" };
            assert_eq!(happening.data[field], json!(scene.guild), "{}", happening.name);
            assert_eq!(happening.audience, Audience::Gateway);
            if happening.name == "GUILD_AUDIT_LOG_ENTRY_CREATE" {
                assert_eq!(
                    (&happening.data["user_id"], &happening.data["reason"]),
                    (&json!(scene.bot), &json!("because"))
                );
            }
        }
    }
}

#[test]
fn a_message_event_has_what_the_gateway_adds() {
    let mut scene = Scene::new();
    scene.message(scene.ada, &scene.at("hello <@{max}>"));
    let event = scene.events().remove(0);
    assert_eq!(event.data["author"]["id"], json!(scene.ada));
    assert!(event.data["member"]["joined_at"].is_string(), "the author's member: {}", event.data["member"]);
    assert_eq!(event.data["mentions"][0]["id"], json!(scene.moderator));
    assert!(event.data["mentions"][0]["member"]["roles"].is_array());
    assert_eq!((&event.data["type"], &event.data["channel_type"]), (&json!(0), &json!(0)));
}

#[test]
fn a_ban_takes_messages_along_and_keeps_the_user_out() {
    let mut scene = Scene::new();
    for text in ["one", "two"] {
        scene.message(scene.ada, text);
    }
    scene.message(scene.moderator, "stays");
    scene.events();
    scene.good("PUT /guilds/{g}/bans/{ada}", json!({"delete_message_seconds": 60}));
    assert!(scene.event_names().contains(&"MESSAGE_DELETE_BULK"));
    let left = scene.good("GET /channels/{c}/messages", json!(null));
    assert_eq!(left.as_array().unwrap().iter().map(|one| &one["content"]).collect::<Vec<_>>(), ["stays"]);
    assert_eq!(scene.world.join(scene.guild, scene.ada).unwrap_err().code, 40007);
    scene.good("DELETE /guilds/{g}/bans/{ada}", json!(null));
    scene.world.join(scene.guild, scene.ada).unwrap();
}

#[test]
fn bulk_ban_tells_whom_it_left_out() {
    let mut scene = Scene::new();
    let body = json!({"user_ids": [scene.ada, scene.owner, scene.bot, "5"]});
    let answer = scene.good("POST /guilds/{g}/bulk-ban", body);
    assert_eq!(answer, json!({"banned_users": [scene.ada], "failed_users": [scene.owner, scene.bot, "5"]}));
    scene.refused(scene.bot, "POST /guilds/{g}/bulk-ban", json!({"user_ids": [scene.owner]}), 400, 500_000);
    scene.refused(scene.bot, "POST /guilds/{g}/bulk-ban", json!({"user_ids": []}), 400, 50035);
}

#[test]
fn a_timeout_silences_until_it_is_over() {
    let mut scene = Scene::new();
    let until = |seconds: u64, scene: &Scene| {
        let at = jiff::Timestamp::from_millisecond((scene.world.now_ms() + seconds * 1000) as i64).unwrap();
        json!({"communication_disabled_until": at.to_string()})
    };
    let body = until(29 * 86_400, &scene);
    scene.refused(scene.bot, "PATCH /guilds/{g}/members/{ada}", body, 400, 50035);
    let body = until(60, &scene);
    scene.good("PATCH /guilds/{g}/members/{ada}", body);
    scene.refused(scene.ada, "POST /channels/{c}/messages", json!({"content": "x"}), 403, 50013);
    scene.world.set_now(scene.world.now_ms() + 61_000);
    scene.message(scene.ada, "free again");
}

#[test]
fn messages_and_the_audit_log_do_not_grow_without_end() {
    let mut scene = Scene::new();
    for number in 0..1_050 {
        scene.message(scene.ada, &number.to_string());
        scene.good("PATCH /channels/{c}", json!({"topic": number.to_string()}));
    }
    let guild = scene.world.guilds().next().unwrap();
    let channel = &guild.channels[&scene.general];
    assert_eq!((channel.messages.len(), guild.audit_log.len()), (1_000, 1_000));
    assert_eq!(channel.messages.back().unwrap().content, "1049");
}

#[test]
fn history_is_read_in_discords_order() {
    let mut scene = Scene::new();
    let ids: Vec<_> = (0..6).map(|number| scene.message(scene.ada, &number.to_string())).collect();
    let contents = |answer: Value| -> Vec<String> {
        answer.as_array().unwrap().iter().map(|one| one["content"].as_str().unwrap().into()).collect()
    };
    for (query, wanted) in [
        ("limit=2".to_owned(), vec!["5", "4"]),
        (format!("limit=2&before={}", ids[3]), vec!["2", "1"]),
        (format!("limit=2&after={}", ids[1]), vec!["3", "2"]),
        (format!("limit=3&around={}", ids[2]), vec!["3", "2", "1"]),
    ] {
        let answer = scene.good(&format!("GET /channels/{{c}}/messages?{query}"), json!(null));
        assert_eq!(contents(answer), wanted, "{query}");
    }
    scene.refused(scene.bot, "GET /channels/{c}/messages?limit=101", json!(null), 400, 50035);
}

#[test]
fn bulk_delete_takes_two_to_a_hundred_that_are_young() {
    let mut scene = Scene::new();
    let ids: Vec<_> = (0..3).map(|number| scene.message(scene.ada, &number.to_string())).collect();
    scene.events();
    let call = "POST /channels/{c}/messages/bulk-delete";
    scene.refused(scene.bot, call, json!({"messages": [ids[0]]}), 400, 50016);
    scene.refused(scene.bot, call, json!({"messages": [ids[0], ids[0]]}), 400, 50016);
    scene.refused(scene.bot, call, json!({"messages": [ids[0], "1000"]}), 400, 50034);
    scene.good(call, json!({"messages": ids}));
    let events = scene.events();
    assert_eq!((events[0].name, &events[0].data["ids"]), ("MESSAGE_DELETE_BULK", &json!(ids)));
}

#[test]
fn a_command_is_checked_before_it_is_registered() {
    let mut scene = Scene::new();
    let call = "POST /applications/{bot}/guilds/{g}/commands";
    for (body, path) in [
        (json!({"name": "x"}), "/description"),
        (json!({"name": "Upper", "description": "x"}), "/name"),
        (json!({"name": "two words", "description": "x"}), "/name"),
        (json!({"name": "x".repeat(33), "description": "x"}), "/name"),
        (
            json!({"name": "x", "description": "x", "options": vec![json!({"type": 3, "name": "o", "description": "o"}); 26]}),
            "/options",
        ),
        (
            json!({"name": "x", "description": "x", "options": [
                {"type": 3, "name": "a", "description": "a"},
                {"type": 3, "name": "b", "description": "b", "required": true},
            ]}),
            "/options/1",
        ),
        (
            json!({"name": "x", "description": "x", "options": [
                {"type": 1, "name": "a", "description": "a", "options": [
                    {"type": 1, "name": "b", "description": "b"},
                ]},
            ]}),
            "/options/0/options/0/type",
        ),
    ] {
        let answer = scene.refused(scene.bot, call, body, 400, 50035);
        assert!(answer["errors"].pointer(&format!("{path}/_errors")).is_some(), "{path} in {answer}");
    }
    scene.refused(scene.bot, "POST /applications/5/commands", json!({"name": "x", "description": "x"}), 403, 20012);
    // The same name replaces; another set replaces all.
    let first = scene.call(call, json!({"name": "x", "description": "one"}));
    let second = scene.call(call, json!({"name": "x", "description": "two"}));
    assert_eq!((first.0, second.0), (201, 200));
    assert_eq!(first.1["id"], second.1["id"]);
    let all = scene.good("PUT /applications/{bot}/guilds/{g}/commands", json!([{"name": "y", "description": "y"}]));
    assert_eq!((all.as_array().unwrap().len(), &all[0]["name"]), (1, &json!("y")));
}

/// A registered command, and a user who gave it: the id and the token of the interaction.
fn asked(scene: &mut Scene, definition: Value, options: Vec<Value>) -> (Snowflake, String) {
    let command = scene.good("POST /applications/{bot}/guilds/{g}/commands", definition);
    let command = command["id"].as_str().unwrap().parse().unwrap();
    scene.events();
    let id = scene.world.ask(scene.ada, scene.general, Ask::Command { command, options, target: None }).unwrap();
    let event = scene.events().remove(0);
    assert_eq!((event.name, &event.data["id"]), ("INTERACTION_CREATE", &json!(id)));
    (id, event.data["token"].as_str().unwrap().into())
}

const PING: fn() -> Value = || json!({"name": "ping", "description": "ping"});

#[test]
fn an_interaction_is_answered_once_and_in_time() {
    let mut scene = Scene::new();
    let (id, token) = asked(&mut scene, PING(), vec![]);
    let callback = format!("POST /interactions/{id}/{token}/callback");
    let answer = json!({"type": 4, "data": {"content": "pong"}});
    scene.refused(scene.bot, &format!("POST /interactions/{id}/wrong/callback"), answer.clone(), 404, 10062);
    scene.refused(scene.bot, &callback, json!({"type": 7, "data": {"content": "x"}}), 400, 50035);
    scene.refused(scene.bot, &callback, json!({"type": 4}), 400, 50035);
    scene.refused(scene.bot, &callback, json!({"type": 4, "data": {"content": ""}}), 400, 50006);
    scene.good(&callback, answer.clone());
    scene.refused(scene.bot, &callback, answer.clone(), 400, 40060);
    let events = scene.events();
    assert_eq!(events[0].name, "MESSAGE_CREATE");
    assert_eq!(events[0].data["interaction_metadata"]["id"], json!(id));
    assert_eq!(events[0].data["type"], 20);

    let (id, token) = asked(&mut scene, PING(), vec![]);
    scene.world.set_now(scene.world.now_ms() + ANSWER_MS_MAX + 1);
    scene.refused(scene.bot, &format!("POST /interactions/{id}/{token}/callback"), answer, 404, 10062);
}

#[test]
fn more_can_be_said_for_a_quarter_of_an_hour() {
    let mut scene = Scene::new();
    let (id, token) = asked(&mut scene, PING(), vec![]);
    let original = format!("/webhooks/{{bot}}/{token}/messages/@original");
    // Not before it was answered.
    scene.refused(scene.bot, &format!("GET {original}"), json!(null), 404, 10015);
    scene.good(&format!("POST /interactions/{id}/{token}/callback"), json!({"type": 5}));
    let promise = scene.good(&format!("GET {original}"), json!(null));
    assert_eq!(promise["flags"], 1 << 7);
    let kept = scene.good(&format!("PATCH {original}"), json!({"content": "done"}));
    assert_eq!((&kept["id"], &kept["content"], &kept["flags"]), (&promise["id"], &json!("done"), &json!(0)));
    let more = scene.good(&format!("POST /webhooks/{{bot}}/{token}"), json!({"content": "more"}));
    let more = format!("/webhooks/{{bot}}/{token}/messages/{}", more["id"].as_str().unwrap());
    scene.good(&format!("PATCH {more}"), json!({"content": "even more"}));
    assert_eq!(scene.good(&format!("GET {more}"), json!(null))["content"], "even more");
    scene.good(&format!("DELETE {more}"), json!(null));
    scene.refused(scene.bot, &format!("GET {more}"), json!(null), 404, 10008);
    scene.good(&format!("DELETE {original}"), json!(null));
    scene.world.set_now(scene.world.now_ms() + TOKEN_MS_MAX + 1);
    scene.refused(scene.bot, &format!("POST /webhooks/{{bot}}/{token}"), json!({"content": "late"}), 401, 50027);
}

#[test]
fn an_ephemeral_answer_is_for_one_user() {
    let mut scene = Scene::new();
    let (id, token) = asked(&mut scene, PING(), vec![]);
    let answer = json!({"type": 4, "data": {"content": "psst", "flags": 64}});
    scene.good(&format!("POST /interactions/{id}/{token}/callback"), answer);
    let shown = scene.events();
    assert_eq!((shown[0].name, shown[0].audience), ("MESSAGE_CREATE", Audience::Watchers));
    assert_eq!(shown[0].data["visible_to"], json!(scene.ada));
    assert_eq!(scene.good("GET /channels/{c}/messages", json!(null)), json!([]));
    let id = shown[0].data["id"].as_str().unwrap();
    scene.refused(scene.moderator, &format!("GET /channels/{{c}}/messages/{id}"), json!(null), 404, 10008);
}

#[test]
fn buttons_menus_and_modals_come_back_as_interactions() {
    let mut scene = Scene::new();
    let message = scene.good(
        "POST /channels/{c}/messages",
        json!({"content": "choose", "components": [
            {"type": 1, "components": [{"type": 2, "style": 1, "label": "Go", "custom_id": "go"}]},
            {"type": 1, "components": [{"type": 5, "custom_id": "who"}]},
        ]}),
    );
    let message: Snowflake = message["id"].as_str().unwrap().parse().unwrap();
    scene.events();
    let press = |custom_id: &str, values: &[String]| Ask::Component {
        message,
        custom_id: custom_id.into(),
        values: values.to_vec(),
    };
    assert_eq!(scene.world.ask(scene.ada, scene.general, press("gone", &[])).unwrap_err().code, 10062);

    let id = scene.world.ask(scene.ada, scene.general, press("go", &[])).unwrap();
    let event = scene.events().remove(0).data;
    assert_eq!((&event["type"], &event["data"]["custom_id"]), (&json!(3), &json!("go")));
    assert_eq!(event["message"]["id"], json!(message));
    let callback = format!("POST /interactions/{id}/{}/callback", event["token"].as_str().unwrap());
    let modal = json!({"type": 9, "data": {"title": "Why?", "custom_id": "why", "components": [
        {"type": 1, "components": [{"type": 4, "custom_id": "text", "label": "Text", "style": 1}]},
    ]}});
    scene.good(&callback, modal);
    let texts = vec![("text".to_owned(), "because".to_owned())];
    scene.world.ask(scene.ada, scene.general, Ask::Modal { interaction: id, texts }).unwrap();
    let events = scene.events();
    let event = &events.last().unwrap().data;
    assert_eq!((&event["type"], &event["data"]["custom_id"]), (&json!(5), &json!("why")));
    assert_eq!(event["data"]["components"][0]["components"][0]["value"], "because");

    let id = scene.world.ask(scene.ada, scene.general, press("who", &[scene.moderator.to_string()])).unwrap();
    let event = scene.events().remove(0).data;
    assert_eq!(event["data"]["resolved"]["users"][scene.moderator.to_string()]["username"], "max");
    let callback = format!("POST /interactions/{id}/{}/callback", event["token"].as_str().unwrap());
    scene.good(&callback, json!({"type": 7, "data": {"content": "chosen", "components": []}}));
    let events = scene.events();
    assert_eq!((events[0].name, &events[0].data["content"]), ("MESSAGE_UPDATE", &json!("chosen")));
}

#[test]
fn options_are_resolved_and_checked() {
    let mut scene = Scene::new();
    let definition = json!({"name": "warn", "description": "x", "options": [
        {"type": 6, "name": "who", "description": "who", "required": true},
        {"type": 4, "name": "times", "description": "times"},
    ]});
    let who = json!({"type": 6, "name": "who", "value": scene.moderator});
    asked(&mut scene, definition, vec![who.clone()]);
    let command = scene.world.commands_in(scene.guild).next().unwrap().id;
    for options in [
        vec![],
        vec![who.clone(), json!({"type": 4, "name": "times", "value": "many"})],
        vec![who.clone(), json!({"type": 3, "name": "other", "value": "x"})],
    ] {
        let ask = Ask::Command { command, options, target: None };
        assert_eq!(scene.world.ask(scene.ada, scene.general, ask).unwrap_err().code, 50035);
    }
    scene.world.ask(scene.ada, scene.general, Ask::Command { command, options: vec![who], target: None }).unwrap();
    let event = scene.events().remove(0).data;
    let resolved = &event["data"]["resolved"];
    assert!(resolved["members"][scene.moderator.to_string()]["permissions"].is_string(), "{resolved}");
    assert!(event["member"]["permissions"].is_string() && event["app_permissions"].is_string());
}

#[test]
fn autocompletion_offers_choices() {
    let mut scene = Scene::new();
    let definition = json!({"name": "say", "description": "x", "options": [
        {"type": 3, "name": "what", "description": "what", "autocomplete": true},
    ]});
    asked(&mut scene, definition, vec![]);
    let command = scene.world.commands_in(scene.guild).next().unwrap().id;
    let options = vec![json!({"type": 3, "name": "what", "value": "he", "focused": true})];
    let id = scene.world.ask(scene.ada, scene.general, Ask::Autocomplete { command, options }).unwrap();
    let event = scene.events().remove(0).data;
    assert_eq!((&event["type"], &event["data"]["options"][0]["focused"]), (&json!(4), &json!(true)));
    let callback = format!("POST /interactions/{id}/{}/callback", event["token"].as_str().unwrap());
    scene.refused(scene.bot, &callback, json!({"type": 4, "data": {"content": "x"}}), 400, 50035);
    scene.good(&callback, json!({"type": 8, "data": {"choices": [{"name": "hello", "value": "hello"}]}}));
    let shown = scene.events().remove(0);
    assert_eq!((shown.name, shown.audience), ("INTERACTION_ANSWER", Audience::Watchers));
    assert_eq!(shown.data["data"]["choices"][0]["name"], "hello");
}

#[test]
fn webhooks_post_by_their_token_under_another_name() {
    let mut scene = Scene::new();
    let hook = scene.good("POST /channels/{c}/webhooks", json!({"name": "News"}));
    let (id, token) = (hook["id"].as_str().unwrap().to_owned(), hook["token"].as_str().unwrap().to_owned());
    scene.refused(scene.bot, "POST /channels/{c}/webhooks", json!({"name": "Discord"}), 400, 50035);
    scene.refused(scene.bot, &format!("POST /webhooks/{id}/wrong"), json!({"content": "x"}), 401, 50027);
    assert_eq!(scene.call(&format!("POST /webhooks/{id}/{token}"), json!({"content": "x"})).0, 204);
    let message =
        scene.good(&format!("POST /webhooks/{id}/{token}?wait=true"), json!({"content": "x", "username": "Post"}));
    assert_eq!((&message["author"]["username"], &message["webhook_id"]), (&json!("Post"), &json!(id)));
    // Only in the guild's own channels, and never more than fifteen.
    scene.refused(scene.bot, &format!("PATCH /webhooks/{id}"), json!({"channel_id": "5"}), 404, 10003);
    for _ in 1..15 {
        scene.good("POST /channels/{c}/webhooks", json!({"name": "x"}));
    }
    scene.refused(scene.bot, "POST /channels/{c}/webhooks", json!({"name": "x"}), 400, 30007);
}

#[test]
fn auto_moderation_stops_what_its_rules_say() {
    let mut scene = Scene::new();
    let rule = json!({
        "name": "words", "event_type": 1, "trigger_type": 1, "enabled": true,
        "trigger_metadata": {"keyword_filter": ["badword", "scam*"]},
        "actions": [{"type": 1}, {"type": 3, "metadata": {"duration_seconds": 60}}],
    });
    let made = scene.good("POST /guilds/{g}/auto-moderation/rules", rule);
    scene.refused(scene.bot, "POST /guilds/{g}/auto-moderation/rules", json!({"name": "x"}), 400, 50035);
    scene.message(scene.ada, "badwords are not that word");
    scene.message(scene.owner, "badword of who may");
    scene.events();
    scene.refused(scene.ada, "POST /channels/{c}/messages", json!({"content": "a BADWORD!"}), 400, 200_000);
    let names = scene.event_names();
    assert_eq!(names, ["AUTO_MODERATION_ACTION_EXECUTION", "AUTO_MODERATION_ACTION_EXECUTION", "GUILD_MEMBER_UPDATE"]);
    scene.refused(scene.ada, "POST /channels/{c}/messages", json!({"content": "hello"}), 403, 50013);
    let path = format!("/guilds/{{g}}/auto-moderation/rules/{}", made["id"].as_str().unwrap());
    scene.good(&format!("PATCH {path}"), json!({"enabled": false}));
    scene.good(&format!("DELETE {path}"), json!(null));
    scene.refused(scene.bot, &format!("GET {path}"), json!(null), 404, 10066);
}

#[test]
fn threads_have_rights_of_their_own() {
    let mut scene = Scene::new();
    let thread = scene.good("POST /channels/{c}/threads", json!({"name": "talk", "type": 11}));
    let thread = thread["id"].as_str().unwrap().to_owned();
    let everyone = json!({"permissions": (VIEW | SEND).to_string()});
    scene.call_as(scene.owner, "PATCH /guilds/{g}/roles/{g}", everyone);
    let send = format!("POST /channels/{thread}/messages");
    scene.refused(scene.ada, &send, json!({"content": "x"}), 403, 50013);
    let everyone = json!({"permissions": (VIEW | 1 << 38).to_string()});
    scene.call_as(scene.owner, "PATCH /guilds/{g}/roles/{g}", everyone);
    assert_eq!(scene.call_as(scene.ada, &send, json!({"content": "x"})).0, 200);
    scene.refused(scene.ada, &format!("DELETE /channels/{thread}"), json!(null), 403, 50013);
    scene.good(&format!("PATCH /channels/{thread}"), json!({"locked": true, "archived": true}));
    scene.refused(scene.ada, &send, json!({"content": "x"}), 400, 50083);
    scene.good(&format!("DELETE /channels/{thread}"), json!(null));
}

#[test]
fn the_same_seed_makes_the_same_world() {
    let ids = |seed| {
        let world = World::new(&WorldConfig { seed, guilds: 2, ..WorldConfig::default() });
        let guilds: Vec<_> =
            world.guilds().map(|guild| (guild.id, guild.channels.keys().copied().collect::<Vec<_>>())).collect();
        let mut scene = Scene { world, ..Scene::new() };
        (guilds, scene.good("POST /channels/{c}/invites", json!({}))["code"].clone())
    };
    assert_eq!(ids(1), ids(1));
    assert_ne!(ids(1).1, ids(2).1);
}
