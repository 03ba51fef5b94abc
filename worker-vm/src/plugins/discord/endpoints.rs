//! Every method of `ctx.Discord` (template API, sections 5.2 and 5.3), as data: what it takes, what it asks of Discord,
//! and what must be true before it does. The engine that runs them is `call.rs`.

use std::ffi::CStr;

use serenity::http::{LightMethod, Route};
use serenity::model::permissions::Permissions;

use super::bodies::{
    AUTOMOD_RULE, CHANNEL_CREATE, CHANNEL_EDIT, CHANNEL_POSITIONS, COMMAND, COMMANDS, FOLLOWER, FOLLOWUP, GUILD,
    INTERACTION_RESPONSE, INVITE, MEMBER, MESSAGE, MESSAGE_EDIT, ROLE_BODY, ROLE_POSITIONS, WEBHOOK, WEBHOOK_EDIT,
    WEBHOOK_MESSAGE,
};
use super::methods::Returns::{self, Lazy, LazyList, Nil};
use super::schema::Kind;
use super::validators::{self, Validator};
use crate::services::Ids;

/// A method.
pub(super) struct Endpoint {
    /// Its name, its bucket, and what follows `discord:` in its capability.
    pub(super) name: &'static CStr,
    pub(super) returns: Returns,
    pub(super) arguments: Arguments,
    pub(super) action: Action,
    /// In this order.
    pub(super) checks: &'static [Check],
    pub(super) validator: Validator,
    /// What the answer tells of the guild.
    pub(super) learns: Learns,
}

/// What it does.
pub(super) enum Action {
    /// A request.
    Rest(LightMethod, fn(&Ids) -> Route<'_>),
    /// One whose token is its authority.
    ByToken(LightMethod, fn(&Ids) -> Route<'_>),
    /// More than one request, or none.
    Helper(Helper),
}

/// What is not one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Helper {
    BulkOpWait,
    CheckPermissions,
    CheckPermissionsAndHierarchy,
    CheckChannelPermissions,
    FusedMember,
    BulkBan,
}

/// How the arguments are given.
pub(super) enum Arguments {
    None,
    /// One after the other.
    Listed(&'static [Argument]),
    /// In one table, which may be missing if nothing in it must be there.
    Table(&'static [Argument]),
}

/// An argument.
pub(super) struct Argument {
    pub(super) name: &'static str,
    /// Another name of it.
    pub(super) alias: Option<&'static str>,
    pub(super) kind: Kind,
    pub(super) goes: Goes,
    pub(super) need: Need,
}

/// Whether it must be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Must,
    May,
    /// It may be left out, and cleared by `{}` and `interop.null`.
    Clearable,
}

/// Where an argument goes.
#[derive(Clone, Copy)]
pub(super) enum Goes {
    /// Into the path.
    Id(fn(&mut Ids) -> &mut u64),
    /// Into the path, as a code or a token.
    Token,
    /// Into the path, as an emoji.
    Reaction,
    /// Into the query.
    Query(&'static str),
    /// Into the query, as one of these numbers.
    Choice(&'static str, &'static [(&'static str, u32)]),
    /// `{type, id}`: into the query, as `after`, `around` or `before`.
    Target,
    /// It is the body.
    Body,
    /// A field of the body.
    Field(&'static str),
    /// The audit log.
    Reason,
    /// Nowhere: it was taken by older versions.
    Nowhere,
    /// It is no argument: this is always in the query.
    Always(&'static str, &'static str),
}

/// What must be true.
#[derive(Clone, Copy)]
pub(super) enum Check {
    /// The bot holds these server-wide.
    Server(Permissions),
    /// The bot holds these in the channel.
    There(Permissions),
    /// The bot holds the first in the channel, or the second if it is a thread.
    ThereOrThread(Permissions, Permissions),
    /// The bot may read messages there.
    ReadsMessages,
    /// The bot holds this in the channel that the body names.
    InTarget(&'static str, Permissions),
    /// The bot wrote the message, or holds this in the channel.
    OwnMessageOr(Permissions),
    /// Permissions that are given away are the bot's own.
    Subset,
    /// The member is below the bot.
    MemberBelow,
    /// The same, if the user is a member.
    MemberBelowIfAny,
    /// The role is below the bot.
    RoleBelow,
    /// Each role, and each place that one gets, is below the bot.
    PositionsBelow,
    /// What each field of a change of a member needs.
    MemberFields,
    /// The user is not the bot.
    NotBot,
    /// The webhook is of the guild.
    Webhook,
    /// The same; with its token nothing else is needed to ask.
    WebhookByToken,
    /// The target of an overwrite is a role of the guild, if it is said to be a role.
    OverwriteTarget,
    /// A field of the body needs a feature of the guild.
    Feature(&'static str, &'static str),
    /// An icon that moves needs a feature of the guild.
    MovingIcon,
    /// The invite is of the guild, and the bot holds MANAGE_GUILD, or MANAGE_CHANNELS in its channel.
    InviteOfGuild,
    /// A reference to a message stays within the guild; an answer within the channel.
    Reference,
}

/// What an answer tells of the guild: what it has changed is known before the gateway says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Learns {
    Nothing,
    Channel,
    Role,
    Member,
}

const fn must(name: &'static str, kind: Kind, goes: Goes) -> Argument {
    Argument { name, alias: None, kind, goes, need: Need::Must }
}

const fn may(name: &'static str, kind: Kind, goes: Goes) -> Argument {
    Argument { name, alias: None, kind, goes, need: Need::May }
}

const fn body(fields: &'static [super::schema::Field]) -> Argument {
    must("data", Kind::Object(fields), Goes::Body)
}

const fn body_list(kind: Kind) -> Argument {
    must("data", kind, Goes::Body)
}

const CHANNEL: Argument = must("channel_id", Kind::Channel, Goes::Id(|ids| &mut ids.channel));
const MESSAGE_ID: Argument = must("message_id", Kind::Id, Goes::Id(|ids| &mut ids.message));
const USER: Argument = must("user_id", Kind::Id, Goes::Id(|ids| &mut ids.user));
const ROLE: Argument = must("role_id", Kind::Role, Goes::Id(|ids| &mut ids.role));
const RULE: Argument = must("rule_id", Kind::Id, Goes::Id(|ids| &mut ids.rule));
const WEBHOOK_ID: Argument = must("webhook_id", Kind::Id, Goes::Id(|ids| &mut ids.webhook));
const INTERACTION_TOKEN: Argument = must("interaction_token", Kind::Text(1, 512), Goes::Token);
const REACTION: Argument = must("reaction", Kind::Scalar, Goes::Reaction);
const REASON: Argument = must("reason", Kind::Text(1, 512), Goes::Reason);
const REASON_MAY: Argument = may("reason", Kind::Text(1, 512), Goes::Reason);
const LIMIT_100: Argument = may("limit", Kind::Whole(1, 100), Goes::Query("limit"));
const LIMIT_1000: Argument = may("limit", Kind::Whole(1, 1_000), Goes::Query("limit"));
const BEFORE: Argument = may("before", Kind::Id, Goes::Query("before"));
const AFTER: Argument = may("after", Kind::Id, Goes::Query("after"));
const DELETE_SECONDS: Argument =
    may("delete_message_seconds", Kind::Whole(0, 604_800), Goes::Field("delete_message_seconds"));
const NEEDED: Argument = must("needed_permissions", Kind::Permissions, Goes::Field("needed_permissions"));

const fn row(
    name: &'static CStr,
    returns: Returns,
    arguments: Arguments,
    action: Action,
    checks: &'static [Check],
) -> Endpoint {
    Endpoint { name, returns, arguments, action, checks, validator: validators::anything, learns: Learns::Nothing }
}

impl Endpoint {
    const fn valid(mut self, validator: Validator) -> Self {
        self.validator = validator;
        self
    }

    const fn learns(mut self, learns: Learns) -> Self {
        self.learns = learns;
        self
    }
}

use Action::{ByToken, Helper as Help, Rest};
use Arguments::{Listed, None as NoArguments, Table};
use Check::{
    Feature, InTarget, InviteOfGuild, MemberBelow, MemberBelowIfAny, MemberFields, MovingIcon, NotBot, OverwriteTarget,
    OwnMessageOr, PositionsBelow, ReadsMessages, Reference, RoleBelow, Server, Subset, There, ThereOrThread, Webhook,
    WebhookByToken,
};
use LightMethod::{Delete, Get, Patch, Post, Put};

const MANAGE_CHANNELS_OR_THREADS: Check = ThereOrThread(Permissions::MANAGE_CHANNELS, Permissions::MANAGE_THREADS);
const SENDS: Check = ThereOrThread(Permissions::SEND_MESSAGES, Permissions::SEND_MESSAGES_IN_THREADS);
const REACTS: Check = There(Permissions::READ_MESSAGE_HISTORY.union(Permissions::ADD_REACTIONS));
const MANAGES_MESSAGES: Check = There(Permissions::MANAGE_MESSAGES);
const MANAGES_GUILD: Check = Server(Permissions::MANAGE_GUILD);
const MANAGES_ROLES: Check = Server(Permissions::MANAGE_ROLES);
const BANS: Check = Server(Permissions::BAN_MEMBERS);

/// The methods that yield.
pub(super) static ENDPOINTS: [Endpoint; TABLE.len()] = TABLE;

/// The same, for what is made of it when this is compiled.
pub(super) const TABLE: [Endpoint; 78] = [
    row(c"antiraid_bulk_op_wait", Nil, NoArguments, Help(Helper::BulkOpWait), &[]),
    row(c"antiraid_check_permissions", Lazy, Table(&[USER, NEEDED]), Help(Helper::CheckPermissions), &[]),
    row(
        c"antiraid_check_permissions_and_hierarchy",
        Lazy,
        Table(&[USER, must("target_id", Kind::Id, Goes::Id(|ids| &mut ids.target)), NEEDED]),
        Help(Helper::CheckPermissionsAndHierarchy),
        &[],
    ),
    row(
        c"antiraid_check_channel_permissions",
        Lazy,
        Table(&[USER, CHANNEL, NEEDED]),
        Help(Helper::CheckChannelPermissions),
        &[],
    ),
    row(
        c"antiraid_get_fused_member",
        Lazy,
        Listed(&[must("ids", Kind::List(&Kind::Id, 50), Goes::Field("ids"))]),
        Help(Helper::FusedMember),
        &[],
    ),
    row(
        c"get_audit_logs",
        Lazy,
        Table(&[
            may("action_type", Kind::Whole(0, 65_535), Goes::Query("action_type")),
            may("user_id", Kind::Id, Goes::Query("user_id")),
            BEFORE,
            LIMIT_100,
        ]),
        Rest(Get, |ids| Route::GuildAuditLogs { guild_id: ids.guild.into() }),
        &[Server(Permissions::VIEW_AUDIT_LOG)],
    ),
    row(
        c"list_auto_moderation_rules",
        LazyList,
        NoArguments,
        Rest(Get, |ids| Route::GuildAutomodRules { guild_id: ids.guild.into() }),
        &[MANAGES_GUILD],
    ),
    row(c"get_auto_moderation_rule", Lazy, Table(&[RULE]), Rest(Get, rule), &[MANAGES_GUILD]),
    row(
        c"create_auto_moderation_rule",
        Lazy,
        Table(&[REASON, body(AUTOMOD_RULE)]),
        Rest(Post, |ids| Route::GuildAutomodRules { guild_id: ids.guild.into() }),
        &[MANAGES_GUILD],
    ),
    row(
        c"edit_auto_moderation_rule",
        Lazy,
        Table(&[RULE, REASON, body(AUTOMOD_RULE)]),
        Rest(Patch, rule),
        &[MANAGES_GUILD],
    ),
    row(c"delete_auto_moderation_rule", Nil, Table(&[RULE, REASON]), Rest(Delete, rule), &[MANAGES_GUILD]),
    row(c"get_channel", Lazy, Listed(&[CHANNEL]), Rest(Get, channel), &[]).learns(Learns::Channel),
    row(
        c"edit_channel",
        Lazy,
        Table(&[CHANNEL, REASON, body(CHANNEL_EDIT)]),
        Rest(Patch, channel),
        &[MANAGE_CHANNELS_OR_THREADS, Subset],
    )
    .learns(Learns::Channel),
    row(c"delete_channel", Lazy, Table(&[CHANNEL, REASON]), Rest(Delete, channel), &[MANAGE_CHANNELS_OR_THREADS]),
    row(
        c"edit_channel_permissions",
        Nil,
        Table(&[
            CHANNEL,
            must("target_id", Kind::Id, Goes::Id(|ids| &mut ids.target)),
            Argument { need: Need::Clearable, ..must("allow", Kind::Granted, Goes::Field("allow")) },
            Argument { need: Need::Clearable, ..must("deny", Kind::Granted, Goes::Field("deny")) },
            Argument { alias: Some("kind"), ..must("type", Kind::Whole(0, 1), Goes::Field("type")) },
            REASON,
        ]),
        Rest(Put, overwrite),
        &[OverwriteTarget, There(Permissions::MANAGE_ROLES), Subset],
    ),
    row(
        c"delete_channel_permission",
        Nil,
        Table(&[CHANNEL, must("overwrite_id", Kind::Id, Goes::Id(|ids| &mut ids.target)), REASON]),
        Rest(Delete, overwrite),
        &[MANAGES_ROLES],
    ),
    row(
        c"get_channel_invites",
        LazyList,
        Listed(&[CHANNEL]),
        Rest(Get, invites),
        &[There(Permissions::MANAGE_CHANNELS)],
    ),
    row(
        c"create_channel_invite",
        Lazy,
        Table(&[CHANNEL, body(INVITE), REASON]),
        Rest(Post, invites),
        &[There(Permissions::CREATE_INSTANT_INVITE)],
    ),
    row(
        c"follow_announcement_channel",
        Lazy,
        Table(&[CHANNEL, body(FOLLOWER), REASON]),
        Rest(Post, |ids| Route::ChannelFollowNews { channel_id: ids.channel.into() }),
        &[InTarget("webhook_channel_id", Permissions::MANAGE_WEBHOOKS)],
    ),
    row(c"get_guild", Lazy, NoArguments, Rest(Get, guild), &[]),
    row(
        c"get_guild_preview",
        Lazy,
        NoArguments,
        Rest(Get, |ids| Route::GuildPreview { guild_id: ids.guild.into() }),
        &[],
    ),
    row(
        c"modify_guild",
        Lazy,
        Table(&[body(GUILD), REASON]),
        Rest(Patch, guild),
        &[
            MANAGES_GUILD,
            Feature("banner", "BANNER"),
            Feature("splash", "INVITE_SPLASH"),
            Feature("discovery_splash", "DISCOVERABLE"),
            Feature("rules_channel_id", "COMMUNITY"),
            Feature("public_updates_channel_id", "COMMUNITY"),
            Feature("safety_alerts_channel_id", "COMMUNITY"),
            MovingIcon,
        ],
    ),
    row(c"get_guild_channels", LazyList, NoArguments, Rest(Get, channels), &[]),
    row(
        c"create_guild_channel",
        Lazy,
        Table(&[REASON, body(CHANNEL_CREATE)]),
        Rest(Post, channels),
        &[Server(Permissions::MANAGE_CHANNELS), Subset],
    )
    .valid(validators::channel)
    .learns(Learns::Channel),
    row(
        c"modify_guild_channel_positions",
        Nil,
        Listed(&[body_list(CHANNEL_POSITIONS)]),
        Rest(Patch, channels),
        &[Server(Permissions::MANAGE_CHANNELS)],
    ),
    row(
        c"list_active_guild_threads",
        Lazy,
        NoArguments,
        Rest(Get, |ids| Route::GuildThreadsActive { guild_id: ids.guild.into() }),
        &[],
    ),
    row(c"get_guild_member", Lazy, Listed(&[USER]), Rest(Get, member), &[]).learns(Learns::Member),
    row(
        c"list_guild_members",
        LazyList,
        Table(&[LIMIT_1000, AFTER]),
        Rest(Get, |ids| Route::GuildMembers { guild_id: ids.guild.into() }),
        &[],
    ),
    row(
        c"search_guild_members",
        LazyList,
        Table(&[must("query", Kind::Text(1, 1_000), Goes::Query("query")), LIMIT_1000]),
        Rest(Get, |ids| Route::GuildMembersSearch { guild_id: ids.guild.into() }),
        &[],
    ),
    row(
        c"modify_guild_member",
        Lazy,
        Table(&[USER, REASON, body(MEMBER)]),
        Rest(Patch, member),
        &[NotBot, MemberFields, MemberBelow],
    )
    .learns(Learns::Member),
    row(
        c"add_guild_member_role",
        Nil,
        Table(&[USER, ROLE, REASON]),
        Rest(Put, member_role),
        &[MANAGES_ROLES, RoleBelow],
    ),
    row(
        c"remove_guild_member_role",
        Nil,
        Table(&[USER, ROLE, REASON]),
        Rest(Delete, member_role),
        &[MANAGES_ROLES, RoleBelow],
    ),
    row(
        c"remove_guild_member",
        Nil,
        Table(&[USER, REASON]),
        Rest(Delete, member),
        &[Server(Permissions::KICK_MEMBERS), MemberBelow],
    ),
    row(
        c"get_guild_bans",
        LazyList,
        Table(&[LIMIT_1000, BEFORE, AFTER]),
        Rest(Get, |ids| Route::GuildBans { guild_id: ids.guild.into() }),
        &[BANS],
    ),
    row(c"get_guild_ban", Lazy, Listed(&[USER]), Rest(Get, ban), &[BANS]),
    row(c"create_guild_ban", Nil, Table(&[USER, REASON, DELETE_SECONDS]), Rest(Put, ban), &[BANS, MemberBelowIfAny]),
    row(c"remove_guild_ban", Nil, Table(&[USER, REASON]), Rest(Delete, ban), &[BANS]),
    row(
        c"bulk_ban",
        Lazy,
        Table(&[must("user_ids", Kind::List(&Kind::Id, 200), Goes::Field("user_ids")), REASON, DELETE_SECONDS]),
        Help(Helper::BulkBan),
        &[Server(Permissions::BAN_MEMBERS.union(Permissions::MANAGE_GUILD))],
    ),
    row(c"get_guild_roles", LazyList, NoArguments, Rest(Get, roles), &[]),
    row(c"get_guild_role", Lazy, Listed(&[ROLE]), Rest(Get, role), &[]),
    row(
        c"create_guild_role",
        Lazy,
        Table(&[REASON, body(ROLE_BODY)]),
        Rest(Post, roles),
        &[MANAGES_ROLES, Subset, Feature("icon", "ROLE_ICONS"), Feature("unicode_emoji", "ROLE_ICONS")],
    )
    .learns(Learns::Role),
    row(
        c"modify_guild_role_positions",
        LazyList,
        Table(&[body_list(ROLE_POSITIONS), REASON]),
        Rest(Patch, roles),
        &[MANAGES_ROLES, PositionsBelow],
    ),
    row(
        c"modify_guild_role",
        Lazy,
        Table(&[ROLE, REASON, body(ROLE_BODY)]),
        Rest(Patch, role),
        &[MANAGES_ROLES, RoleBelow, Subset, Feature("icon", "ROLE_ICONS"), Feature("unicode_emoji", "ROLE_ICONS")],
    )
    .learns(Learns::Role),
    row(c"delete_guild_role", Nil, Table(&[ROLE, REASON]), Rest(Delete, role), &[MANAGES_ROLES, RoleBelow]),
    row(
        c"get_invite",
        Lazy,
        Table(&[
            must("code", Kind::Text(1, 100), Goes::Token),
            may("with_counts", Kind::Flag, Goes::Query("with_counts")),
            may("with_expiration", Kind::Flag, Goes::Query("with_expiration")),
            may("guild_scheduled_event_id", Kind::Id, Goes::Query("guild_scheduled_event_id")),
        ]),
        Rest(Get, invite),
        &[],
    ),
    row(
        c"delete_invite",
        Lazy,
        Table(&[must("code", Kind::Text(1, 100), Goes::Token), REASON]),
        Rest(Delete, invite),
        &[InviteOfGuild],
    ),
    row(
        c"get_channel_messages",
        LazyList,
        Table(&[CHANNEL, may("target", Kind::Scalar, Goes::Target), LIMIT_100]),
        Rest(Get, messages),
        &[ReadsMessages],
    ),
    row(c"get_channel_message", Lazy, Table(&[CHANNEL, MESSAGE_ID]), Rest(Get, message), &[ReadsMessages]),
    row(c"create_message", Lazy, Table(&[CHANNEL, body(MESSAGE)]), Rest(Post, messages), &[SENDS, Reference])
        .valid(validators::message),
    row(
        c"crosspost_message",
        Lazy,
        Listed(&[CHANNEL, MESSAGE_ID]),
        Rest(Post, |ids| Route::ChannelMessageCrosspost {
            channel_id: ids.channel.into(),
            message_id: ids.message.into(),
        }),
        &[There(Permissions::SEND_MESSAGES.union(Permissions::MANAGE_MESSAGES))],
    ),
    row(
        c"edit_message",
        Lazy,
        Table(&[CHANNEL, MESSAGE_ID, body(MESSAGE_EDIT)]),
        Rest(Patch, message),
        &[OwnMessageOr(Permissions::MANAGE_MESSAGES)],
    )
    .valid(validators::message_edit),
    row(c"delete_message", Nil, Listed(&[CHANNEL, MESSAGE_ID, REASON_MAY]), Rest(Delete, message), &[MANAGES_MESSAGES]),
    row(
        c"bulk_delete_messages",
        Nil,
        Listed(&[CHANNEL, must("message_ids", Kind::List(&Kind::Id, 100), Goes::Field("messages")), REASON_MAY]),
        Rest(Post, |ids| Route::ChannelMessagesBulkDelete { channel_id: ids.channel.into() }),
        &[MANAGES_MESSAGES],
    )
    .valid(validators::bulk_delete),
    row(c"create_reaction", Nil, Table(&[CHANNEL, MESSAGE_ID, REACTION]), Rest(Put, own_reaction), &[REACTS]),
    row(c"delete_own_reaction", Nil, Table(&[CHANNEL, MESSAGE_ID, REACTION]), Rest(Delete, own_reaction), &[REACTS]),
    row(
        c"delete_user_reaction",
        Nil,
        Table(&[CHANNEL, MESSAGE_ID, REACTION, USER]),
        Rest(Delete, |ids| Route::ChannelMessageReaction {
            channel_id: ids.channel.into(),
            message_id: ids.message.into(),
            user_id: ids.user.into(),
            reaction: &ids.text,
        }),
        &[MANAGES_MESSAGES],
    ),
    row(
        c"get_reactions",
        LazyList,
        Table(&[
            CHANNEL,
            MESSAGE_ID,
            REACTION,
            may("type", Kind::Scalar, Goes::Choice("type", &[("Normal", 0), ("Burst", 1)])),
            AFTER,
            LIMIT_100,
        ]),
        Rest(Get, reaction),
        &[],
    ),
    row(
        c"delete_all_reactions",
        Nil,
        Listed(&[CHANNEL, MESSAGE_ID]),
        Rest(Delete, |ids| Route::ChannelMessageReactions {
            channel_id: ids.channel.into(),
            message_id: ids.message.into(),
        }),
        &[MANAGES_MESSAGES],
    ),
    row(
        c"delete_all_reactions_for_emoji",
        Nil,
        Table(&[CHANNEL, MESSAGE_ID, REACTION]),
        Rest(Delete, reaction),
        &[MANAGES_MESSAGES],
    ),
    row(
        c"create_interaction_response",
        Nil,
        Table(&[
            must("interaction_id", Kind::Id, Goes::Id(|ids| &mut ids.interaction)),
            INTERACTION_TOKEN,
            body(INTERACTION_RESPONSE),
        ]),
        ByToken(Post, |ids| Route::InteractionResponse { interaction_id: ids.interaction.into(), token: &ids.text }),
        &[],
    )
    .valid(validators::interaction_response),
    row(c"get_original_interaction_response", Lazy, Listed(&[INTERACTION_TOKEN]), ByToken(Get, original), &[]),
    row(c"delete_original_interaction_response", Nil, Listed(&[INTERACTION_TOKEN]), ByToken(Delete, original), &[]),
    row(
        c"edit_original_interaction_response",
        Lazy,
        Table(&[INTERACTION_TOKEN, body(MESSAGE_EDIT)]),
        ByToken(Patch, original),
        &[],
    )
    .valid(validators::message_edit),
    row(
        c"create_followup_message",
        Lazy,
        Table(&[INTERACTION_TOKEN, body(FOLLOWUP)]),
        ByToken(Post, |ids| Route::WebhookFollowupMessages {
            application_id: ids.application.into(),
            token: &ids.text,
        }),
        &[],
    )
    .valid(validators::message),
    row(c"get_followup_message", Lazy, Table(&[INTERACTION_TOKEN, MESSAGE_ID]), ByToken(Get, followup), &[]),
    row(c"delete_followup_message", Nil, Table(&[INTERACTION_TOKEN, MESSAGE_ID]), ByToken(Delete, followup), &[]),
    row(
        c"edit_followup_message",
        Lazy,
        Table(&[INTERACTION_TOKEN, MESSAGE_ID, body(MESSAGE_EDIT)]),
        ByToken(Patch, followup),
        &[],
    )
    .valid(validators::message_edit),
    row(
        c"get_guild_command",
        Lazy,
        Listed(&[must("id", Kind::Id, Goes::Id(|ids| &mut ids.command))]),
        Rest(Get, |ids| Route::GuildCommand {
            application_id: ids.application.into(),
            guild_id: ids.guild.into(),
            command_id: ids.command.into(),
        }),
        &[],
    ),
    row(c"get_guild_commands", LazyList, NoArguments, Rest(Get, commands), &[]),
    row(c"create_guild_command", Lazy, Table(&[body(COMMAND)]), Rest(Post, commands), &[]).valid(validators::command),
    row(c"create_guild_commands", LazyList, Table(&[body_list(COMMANDS)]), Rest(Put, commands), &[])
        .valid(validators::commands),
    row(
        c"create_webhook",
        Lazy,
        Table(&[CHANNEL, REASON, body(WEBHOOK)]),
        Rest(Post, channel_webhooks),
        &[There(Permissions::MANAGE_WEBHOOKS)],
    )
    .valid(validators::webhook),
    row(
        c"get_channel_webhooks",
        LazyList,
        Listed(&[CHANNEL]),
        Rest(Get, channel_webhooks),
        &[There(Permissions::MANAGE_WEBHOOKS)],
    ),
    row(
        c"get_guild_webhooks",
        LazyList,
        NoArguments,
        Rest(Get, |ids| Route::GuildWebhooks { guild_id: ids.guild.into() }),
        &[Server(Permissions::MANAGE_WEBHOOKS)],
    ),
    row(
        c"get_webhook",
        Lazy,
        Listed(&[must("id", Kind::Id, Goes::Id(|ids| &mut ids.webhook))]),
        Rest(Get, webhook),
        &[Webhook],
    ),
    row(
        c"modify_webhook",
        Lazy,
        Table(&[WEBHOOK_ID, REASON, body(WEBHOOK_EDIT)]),
        Rest(Patch, webhook),
        &[Server(Permissions::MANAGE_WEBHOOKS), Webhook],
    ),
    row(
        c"delete_webhook",
        Nil,
        Table(&[WEBHOOK_ID, REASON]),
        Rest(Delete, webhook),
        &[Server(Permissions::MANAGE_WEBHOOKS), Webhook],
    ),
    row(
        c"execute_webhook",
        Lazy,
        Table(&[
            WEBHOOK_ID,
            must("webhook_token", Kind::Text(1, 512), Goes::Token),
            may("thread_id", Kind::Channel, Goes::Query("thread_id")),
            may("reason", Kind::Text(0, 10_000), Goes::Nowhere),
            // With it Discord answers with the message.
            may("", Kind::Flag, Goes::Always("wait", "true")),
            body(WEBHOOK_MESSAGE),
        ]),
        ByToken(Post, |ids| Route::WebhookWithToken { webhook_id: ids.webhook.into(), token: &ids.text }),
        &[WebhookByToken],
    )
    .valid(validators::message),
];

fn rule(ids: &Ids) -> Route<'_> {
    Route::GuildAutomodRule { guild_id: ids.guild.into(), rule_id: ids.rule.into() }
}

fn channel(ids: &Ids) -> Route<'_> {
    Route::Channel { channel_id: ids.channel.into() }
}

fn overwrite(ids: &Ids) -> Route<'_> {
    Route::ChannelPermission { channel_id: ids.channel.into(), target_id: ids.target.into() }
}

fn invites(ids: &Ids) -> Route<'_> {
    Route::ChannelInvites { channel_id: ids.channel.into() }
}

fn guild(ids: &Ids) -> Route<'_> {
    Route::Guild { guild_id: ids.guild.into() }
}

fn channels(ids: &Ids) -> Route<'_> {
    Route::GuildChannels { guild_id: ids.guild.into() }
}

fn member(ids: &Ids) -> Route<'_> {
    Route::GuildMember { guild_id: ids.guild.into(), user_id: ids.user.into() }
}

fn member_role(ids: &Ids) -> Route<'_> {
    Route::GuildMemberRole { guild_id: ids.guild.into(), user_id: ids.user.into(), role_id: ids.role.into() }
}

fn ban(ids: &Ids) -> Route<'_> {
    Route::GuildBan { guild_id: ids.guild.into(), user_id: ids.user.into() }
}

fn roles(ids: &Ids) -> Route<'_> {
    Route::GuildRoles { guild_id: ids.guild.into() }
}

fn role(ids: &Ids) -> Route<'_> {
    Route::GuildRole { guild_id: ids.guild.into(), role_id: ids.role.into() }
}

fn invite(ids: &Ids) -> Route<'_> {
    Route::Invite { code: &ids.text }
}

fn messages(ids: &Ids) -> Route<'_> {
    Route::ChannelMessages { channel_id: ids.channel.into() }
}

/// One message of a channel.
pub(super) fn message(ids: &Ids) -> Route<'_> {
    Route::ChannelMessage { channel_id: ids.channel.into(), message_id: ids.message.into() }
}

fn own_reaction(ids: &Ids) -> Route<'_> {
    Route::ChannelMessageReactionMe {
        channel_id: ids.channel.into(),
        message_id: ids.message.into(),
        reaction: &ids.text,
    }
}

fn reaction(ids: &Ids) -> Route<'_> {
    Route::ChannelMessageReactionEmoji {
        channel_id: ids.channel.into(),
        message_id: ids.message.into(),
        reaction: &ids.text,
    }
}

fn original(ids: &Ids) -> Route<'_> {
    Route::WebhookOriginalInteractionResponse { application_id: ids.application.into(), token: &ids.text }
}

fn followup(ids: &Ids) -> Route<'_> {
    Route::WebhookFollowupMessage {
        application_id: ids.application.into(),
        token: &ids.text,
        message_id: ids.message.into(),
    }
}

fn commands(ids: &Ids) -> Route<'_> {
    Route::GuildCommands { application_id: ids.application.into(), guild_id: ids.guild.into() }
}

fn channel_webhooks(ids: &Ids) -> Route<'_> {
    Route::ChannelWebhooks { channel_id: ids.channel.into() }
}

fn webhook(ids: &Ids) -> Route<'_> {
    Route::Webhook { webhook_id: ids.webhook.into() }
}
