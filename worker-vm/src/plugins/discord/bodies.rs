//! The bodies that Discord takes: their fields, by its documentation of version 10.

use super::schema::Kind::{
    Channel, Flag, Granted, Id, Image, List, Number, Object, Overwrite, Permissions, Role, Scalar, Text, Time, Whole,
};
use super::schema::{Field, Kind, MANY, clearable, f};

/// The largest whole number that JSON carries without loss.
const MAX: i64 = (1 << 53) - 1;
/// What no limit of Discord's is known for.
const LONG: usize = 10_000;
const PICTURES: &[&str] = &["png", "jpeg", "gif"];
const PICTURES_WEBP: &[&str] = &["png", "jpeg", "gif", "webp"];

const ID: Kind = Id;
const ROLE: Kind = Role;
const CHANNEL: Kind = Channel;
const WORD: Kind = Text(0, 100);

const EMOJI: Kind = Object(&[f("id", Id), f("name", Text(0, 100)), f("animated", Flag)]);

// Messages.

const MEDIA: Kind = Object(&[f("url", Text(1, 2_048))]);

const EMBED: Kind = Object(&[
    f("title", Text(0, 256)),
    f("type", Text(0, 32)),
    f("description", Text(0, 4_096)),
    f("url", Text(0, 2_048)),
    f("timestamp", Time),
    f("color", Whole(0, 0xFF_FFFF)),
    f("footer", Object(&[f("text", Text(0, 2_048)), f("icon_url", Text(0, 2_048))])),
    f("image", MEDIA),
    f("thumbnail", MEDIA),
    f("video", MEDIA),
    f("author", Object(&[f("name", Text(0, 256)), f("url", Text(0, 2_048)), f("icon_url", Text(0, 2_048))])),
    f("fields", List(&Object(&[f("name", Text(0, 256)), f("value", Text(0, 1_024)), f("inline", Flag)]), 25)),
]);

/// A component, which holds others.
static COMPONENT: Kind = Object(&[
    f("type", Whole(1, 255)),
    f("id", Whole(0, MAX)),
    f("custom_id", Text(1, 100)),
    f("style", Whole(1, 255)),
    f("label", Text(0, 100)),
    f("description", Text(0, 256)),
    f("emoji", EMOJI),
    f("url", Text(0, 2_048)),
    f("sku_id", Id),
    f("disabled", Flag),
    f(
        "options",
        List(
            &Object(&[
                f("label", WORD),
                f("value", WORD),
                f("description", WORD),
                f("emoji", EMOJI),
                f("default", Flag),
            ]),
            25,
        ),
    ),
    f("channel_types", List(&Whole(0, 255), MANY)),
    f("placeholder", Text(0, 150)),
    f("default_values", List(&Kind::SelectDefault, 25)),
    f("min_values", Whole(0, 25)),
    f("max_values", Whole(0, 25)),
    f("min_length", Whole(0, 4_000)),
    f("max_length", Whole(1, 4_000)),
    f("required", Flag),
    f("value", Text(0, 4_000)),
    f("content", Text(0, 4_000)),
    f("media", MEDIA),
    f("items", List(&Object(&[f("media", MEDIA), f("description", Text(0, 1_024)), f("spoiler", Flag)]), 10)),
    f("file", MEDIA),
    f("spoiler", Flag),
    f("divider", Flag),
    f("spacing", Whole(1, 2)),
    clearable("accent_color", Whole(0, 0xFF_FFFF)),
    f("accessory", Kind::Inner(&COMPONENT)),
    f("component", Kind::Inner(&COMPONENT)),
    f("components", List(&A_COMPONENT, 40)),
]);

static A_COMPONENT: Kind = Kind::Inner(&COMPONENT);
const COMPONENTS: Kind = List(&A_COMPONENT, 5);
const EMBEDS: Kind = List(&EMBED, 10);

const MENTIONS: Kind = Object(&[
    f("parse", List(&Text(1, 32), 3)),
    f("roles", List(&ROLE, 100)),
    f("users", List(&ID, 100)),
    f("replied_user", Flag),
]);

const POLL: Kind = Object(&[
    f("question", Object(&[f("text", Text(1, 300))])),
    f("answers", List(&Object(&[f("poll_media", Object(&[f("text", Text(0, 55)), f("emoji", EMOJI)]))]), 10)),
    f("duration", Whole(1, 768)),
    f("allow_multiselect", Flag),
    f("layout_type", Whole(1, 255)),
]);

/// Attachments that a message has already; nothing can be uploaded.
const KEPT: Kind = List(&Object(&[f("id", Id), f("filename", Text(0, 256)), f("description", Text(0, 1_024))]), 10);

const CONTENT: Field = clearable("content", Text(0, 2_000));

/// `POST /channels/{channel}/messages`.
pub(super) const MESSAGE: &[Field] = &[
    CONTENT,
    f("nonce", Text(0, 25)),
    f("tts", Flag),
    f("embeds", EMBEDS),
    f("allowed_mentions", MENTIONS),
    f(
        "message_reference",
        Object(&[
            f("type", Whole(0, 255)),
            f("message_id", Id),
            f("channel_id", Channel),
            f("fail_if_not_exists", Flag),
        ]),
    ),
    f("components", COMPONENTS),
    f("sticker_ids", List(&ID, 3)),
    f("attachments", KEPT),
    f("flags", Whole(0, MAX)),
    f("enforce_nonce", Flag),
    f("poll", POLL),
];

/// `PATCH` of a message.
pub(super) const MESSAGE_EDIT: &[Field] = &[
    CONTENT,
    clearable("embeds", EMBEDS),
    clearable("flags", Whole(0, MAX)),
    clearable("allowed_mentions", MENTIONS),
    clearable("components", COMPONENTS),
    clearable("attachments", KEPT),
    f("poll", POLL),
];

/// `POST /webhooks/{webhook}/{token}`.
pub(super) const WEBHOOK_MESSAGE: &[Field] = &[
    CONTENT,
    f("username", Text(1, 80)),
    f("avatar_url", Text(0, 2_048)),
    f("tts", Flag),
    f("embeds", EMBEDS),
    f("allowed_mentions", MENTIONS),
    f("components", COMPONENTS),
    f("attachments", KEPT),
    f("flags", Whole(0, MAX)),
    f("thread_name", Text(1, 100)),
    f("applied_tags", List(&ID, 20)),
    f("poll", POLL),
];

/// The answer to an interaction, or what follows it.
pub(super) const FOLLOWUP: &[Field] = &[
    CONTENT,
    f("tts", Flag),
    f("embeds", EMBEDS),
    f("allowed_mentions", MENTIONS),
    f("components", COMPONENTS),
    f("attachments", KEPT),
    f("flags", Whole(0, MAX)),
    f("poll", POLL),
];

const CHOICE: Kind =
    Object(&[f("name", Text(1, 100)), clearable("name_localizations", Kind::Texts), f("value", Scalar)]);

/// `POST /interactions/{interaction}/{token}/callback`.
pub(super) const INTERACTION_RESPONSE: &[Field] = &[
    f("type", Whole(1, 255)),
    f(
        "data",
        Object(&[
            CONTENT,
            f("tts", Flag),
            clearable("embeds", EMBEDS),
            clearable("allowed_mentions", MENTIONS),
            clearable("components", COMPONENTS),
            clearable("attachments", KEPT),
            f("flags", Whole(0, MAX)),
            f("poll", POLL),
            f("choices", List(&CHOICE, 25)),
            f("custom_id", Text(1, 100)),
            f("title", Text(1, 45)),
        ]),
    ),
];

// Commands.

static OPTION: Kind = Object(&[
    f("type", Whole(1, 255)),
    f("name", Text(1, 32)),
    clearable("name_localizations", Kind::Texts),
    f("description", Text(1, 100)),
    clearable("description_localizations", Kind::Texts),
    f("required", Flag),
    f("choices", List(&CHOICE, 25)),
    f("options", List(&AN_OPTION, 25)),
    f("channel_types", List(&Whole(0, 255), MANY)),
    f("min_value", Number),
    f("max_value", Number),
    f("min_length", Whole(0, 6_000)),
    f("max_length", Whole(1, 6_000)),
    f("autocomplete", Flag),
]);

static AN_OPTION: Kind = Kind::Inner(&OPTION);
const OPTIONS: Kind = List(&AN_OPTION, 25);

/// `POST /applications/{application}/guilds/{guild}/commands`.
pub(super) const COMMAND: &[Field] = &[
    f("name", Text(1, 32)),
    clearable("name_localizations", Kind::Texts),
    f("description", Text(0, 100)),
    clearable("description_localizations", Kind::Texts),
    f("options", OPTIONS),
    clearable("default_member_permissions", Permissions),
    clearable("default_permission", Flag),
    f("type", Whole(1, 255)),
    f("nsfw", Flag),
];

/// `PUT` of all of them.
pub(super) const COMMANDS: Kind = List(&Object(COMMAND), 110);

// Channels.

const FORUM_TAG: Kind = Object(&[
    f("id", Id),
    f("name", Text(0, 20)),
    f("moderated", Flag),
    clearable("emoji_id", Id),
    clearable("emoji_name", Text(0, 100)),
]);
const DEFAULT_REACTION: Kind = Object(&[clearable("emoji_id", Id), clearable("emoji_name", Text(0, 100))]);
const OVERWRITES: Kind = List(&Overwrite, MANY);
const SLOW_MODE: Kind = Whole(0, 21_600);
const TOPIC: Kind = Text(0, 1_024);

/// `PATCH /channels/{channel}`, of a channel or a thread.
pub(super) const CHANNEL_EDIT: &[Field] = &[
    f("name", Text(1, 100)),
    f("type", Whole(0, 255)),
    clearable("position", Whole(0, i32::MAX as i64)),
    clearable("topic", TOPIC),
    clearable("nsfw", Flag),
    clearable("rate_limit_per_user", SLOW_MODE),
    clearable("bitrate", Whole(8_000, MAX)),
    clearable("user_limit", Whole(0, 10_000)),
    clearable("permission_overwrites", OVERWRITES),
    clearable("parent_id", Channel),
    clearable("rtc_region", Text(0, 100)),
    clearable("video_quality_mode", Whole(1, 2)),
    clearable("default_auto_archive_duration", Whole(0, 10_080)),
    f("flags", Whole(0, MAX)),
    f("available_tags", List(&FORUM_TAG, 20)),
    clearable("default_reaction_emoji", DEFAULT_REACTION),
    f("default_thread_rate_limit_per_user", SLOW_MODE),
    clearable("default_sort_order", Whole(0, 255)),
    f("default_forum_layout", Whole(0, 255)),
    f("archived", Flag),
    f("auto_archive_duration", Whole(0, 10_080)),
    f("locked", Flag),
    f("invitable", Flag),
    f("applied_tags", List(&ID, 20)),
];

/// `POST /guilds/{guild}/channels`.
pub(super) const CHANNEL_CREATE: &[Field] = &[
    f("name", Text(1, 100)),
    f("type", Whole(0, 255)),
    clearable("topic", TOPIC),
    clearable("bitrate", Whole(8_000, MAX)),
    clearable("user_limit", Whole(0, 10_000)),
    clearable("rate_limit_per_user", SLOW_MODE),
    clearable("position", Whole(0, i32::MAX as i64)),
    f("permission_overwrites", OVERWRITES),
    clearable("parent_id", Channel),
    clearable("nsfw", Flag),
    clearable("rtc_region", Text(0, 100)),
    clearable("video_quality_mode", Whole(1, 2)),
    clearable("default_auto_archive_duration", Whole(0, 10_080)),
    clearable("default_reaction_emoji", DEFAULT_REACTION),
    f("available_tags", List(&FORUM_TAG, 20)),
    clearable("default_sort_order", Whole(0, 255)),
    f("default_forum_layout", Whole(0, 255)),
    f("default_thread_rate_limit_per_user", SLOW_MODE),
];

/// `PATCH /guilds/{guild}/channels`.
pub(super) const CHANNEL_POSITIONS: Kind = List(
    &Object(&[
        f("id", Channel),
        clearable("position", Whole(0, i32::MAX as i64)),
        clearable("lock_permissions", Flag),
        clearable("parent_id", Channel),
    ]),
    MANY,
);

/// `POST /channels/{channel}/invites`.
pub(super) const INVITE: &[Field] = &[
    f("max_age", Whole(0, 604_800)),
    f("max_uses", Whole(0, 100)),
    f("temporary", Flag),
    f("unique", Flag),
    f("target_type", Whole(1, 255)),
    f("target_user_id", Id),
    f("target_application_id", Id),
    f("role_ids", List(&ROLE, MANY)),
];

/// `POST /channels/{channel}/followers`.
pub(super) const FOLLOWER: &[Field] = &[f("webhook_channel_id", Channel)];

// The guild, its roles and members.

/// `PATCH /guilds/{guild}`; what only owners may change is not among it.
pub(super) const GUILD: &[Field] = &[
    f("name", Text(2, 100)),
    clearable("verification_level", Whole(0, 255)),
    clearable("default_message_notifications", Whole(0, 255)),
    clearable("explicit_content_filter", Whole(0, 255)),
    clearable("afk_channel_id", Channel),
    f("afk_timeout", Whole(0, 3_600)),
    clearable("icon", Image(PICTURES_WEBP)),
    clearable("splash", Image(PICTURES_WEBP)),
    clearable("discovery_splash", Image(PICTURES_WEBP)),
    clearable("banner", Image(PICTURES_WEBP)),
    clearable("system_channel_id", Channel),
    f("system_channel_flags", Whole(0, MAX)),
    clearable("rules_channel_id", Channel),
    clearable("public_updates_channel_id", Channel),
    clearable("preferred_locale", Text(0, 16)),
    f("features", List(&Text(1, 100), MANY)),
    clearable("description", Text(0, 300)),
    f("premium_progress_bar_enabled", Flag),
    clearable("safety_alerts_channel_id", Channel),
];

const COLORS: Kind = Object(&[
    f("primary_color", Whole(0, 0xFF_FFFF)),
    clearable("secondary_color", Whole(0, 0xFF_FFFF)),
    clearable("tertiary_color", Whole(0, 0xFF_FFFF)),
]);

/// `POST` and `PATCH` of a role.
pub(super) const ROLE_BODY: &[Field] = &[
    clearable("name", Text(0, 100)),
    clearable("permissions", Granted),
    clearable("color", Whole(0, 0xFF_FFFF)),
    clearable("colors", COLORS),
    clearable("hoist", Flag),
    clearable("icon", Image(PICTURES_WEBP)),
    clearable("unicode_emoji", Text(0, 100)),
    clearable("mentionable", Flag),
];

/// `PATCH /guilds/{guild}/roles`.
pub(super) const ROLE_POSITIONS: Kind = List(&Object(&[f("id", Role), f("position", Whole(0, i32::MAX as i64))]), MANY);

/// `PATCH /guilds/{guild}/members/{user}`.
pub(super) const MEMBER: &[Field] = &[
    clearable("nick", Text(0, 32)),
    f("roles", List(&ROLE, MANY)),
    f("mute", Flag),
    f("deaf", Flag),
    clearable("channel_id", Channel),
    clearable("communication_disabled_until", Time),
    f("flags", Whole(0, MAX)),
];

const AUTOMOD_METADATA: Kind = Object(&[
    f("keyword_filter", List(&Text(0, 60), MANY)),
    f("regex_patterns", List(&Text(0, 260), 10)),
    f("presets", List(&Whole(0, 255), 10)),
    f("allow_list", List(&Text(0, 60), MANY)),
    f("mention_total_limit", Whole(0, 50)),
    f("mention_raid_protection_enabled", Flag),
]);

/// `POST` and `PATCH` of a rule of auto moderation.
pub(super) const AUTOMOD_RULE: &[Field] = &[
    f("name", Text(0, LONG)),
    f("event_type", Whole(1, 255)),
    f("trigger_type", Whole(1, 255)),
    f("trigger_metadata", AUTOMOD_METADATA),
    f(
        "actions",
        List(
            &Object(&[
                f("type", Whole(1, 255)),
                f(
                    "metadata",
                    Object(&[
                        f("channel_id", Channel),
                        f("duration_seconds", Whole(0, 2_419_200)),
                        f("custom_message", Text(0, 150)),
                    ]),
                ),
            ]),
            10,
        ),
    ),
    f("enabled", Flag),
    f("exempt_roles", List(&ROLE, 20)),
    f("exempt_channels", List(&CHANNEL, 50)),
];

// Webhooks.

/// `POST /channels/{channel}/webhooks`.
pub(super) const WEBHOOK: &[Field] = &[f("name", Text(1, 80)), clearable("avatar", Image(PICTURES))];

/// `PATCH /webhooks/{webhook}`.
pub(super) const WEBHOOK_EDIT: &[Field] =
    &[f("name", Text(1, 80)), clearable("avatar", Image(PICTURES)), f("channel_id", Channel)];
