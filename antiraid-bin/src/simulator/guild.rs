//! Guilds, and who and what is in them.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use worker_core::Snowflake;

use super::channel::Channel;
use super::permissions::{Holder, Overwrite, Ownership, Permissions, Timeout};

/// Somebody with an account.
#[derive(Clone, Debug, PartialEq)]
pub struct User {
    /// Their id.
    pub id: Snowflake,
    /// Their name, in small letters.
    pub username: String,
    /// What they want to be called.
    pub global_name: Option<String>,
    /// Whether it is a program.
    pub bot: bool,
}

impl User {
    /// Discord's user object.
    pub fn json(&self) -> Value {
        json!({
            "id": self.id, "username": self.username, "global_name": self.global_name, "discriminator": "0",
            "avatar": null, "bot": self.bot, "public_flags": 0, "avatar_decoration_data": null, "clan": null,
            "primary_guild": null, "collectibles": null, "display_name_styles": null,
        })
    }
}

/// A role.
#[derive(Clone, Debug, PartialEq)]
pub struct Role {
    /// Its id; of the role of everybody that of the guild.
    pub id: Snowflake,
    /// Its name.
    pub name: String,
    /// What its members may do.
    pub permissions: Permissions,
    /// Its place; higher ones rule over lower ones.
    pub position: i64,
    /// Its colour.
    pub color: i64,
    /// Whether its members are listed apart.
    pub hoist: bool,
    /// Whether everybody may mention it.
    pub mentionable: bool,
    /// Whether it is a bot's own.
    pub managed_by_bot: Option<Snowflake>,
    /// An emoji beside its name.
    pub unicode_emoji: Option<String>,
}

impl Role {
    /// Discord's role object.
    pub fn json(&self) -> Value {
        let mut role = json!({
            "id": self.id, "name": self.name, "permissions": self.permissions, "position": self.position,
            "color": self.color, "colors": {"primary_color": self.color, "secondary_color": null, "tertiary_color": null},
            "hoist": self.hoist, "mentionable": self.mentionable, "managed": self.managed_by_bot.is_some(),
            "icon": null, "unicode_emoji": self.unicode_emoji, "flags": 0, "description": null,
        });
        if let Some(bot) = self.managed_by_bot {
            role["tags"] = json!({"bot_id": bot});
        }
        role
    }
}

/// A user in a guild.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Who.
    pub user: Snowflake,
    /// What they are called here.
    pub nick: Option<String>,
    /// Their roles, without that of everybody.
    pub roles: Vec<Snowflake>,
    /// Since when they are here, in milliseconds since the Unix epoch.
    pub joined_at_ms: u64,
    /// Until when they may only look.
    pub timed_out_until: Option<Timestamp>,
    /// Whether they cannot hear others in voice channels.
    pub deaf: bool,
    /// Whether others cannot hear them.
    pub mute: bool,
    /// Discord's flags.
    pub flags: i64,
    /// The voice channel they are in.
    pub voice: Option<Snowflake>,
}

impl Member {
    /// Whether they are timed out.
    pub fn timeout(&self, now_ms: u64) -> Timeout {
        let until = self.timed_out_until.map_or(0, |until| until.as_millisecond());
        if until > i64::try_from(now_ms).unwrap_or(i64::MAX) { Timeout::Running } else { Timeout::None }
    }

    /// Discord's member object, without the user.
    pub fn json_without_user(&self) -> Value {
        json!({
            "nick": self.nick, "roles": self.roles, "joined_at": iso(self.joined_at_ms), "premium_since": null,
            "deaf": self.deaf, "mute": self.mute, "flags": self.flags, "pending": false, "avatar": null, "banner": null,
            "communication_disabled_until": self.timed_out_until.map(iso_of),
        })
    }

    /// Discord's member object.
    pub fn json(&self, user: &User) -> Value {
        let mut member = self.json_without_user();
        member["user"] = user.json();
        member
    }
}

/// A user who may not come back.
#[derive(Clone, Debug, PartialEq)]
pub struct Ban {
    /// Why.
    pub reason: Option<String>,
}

/// A guild.
#[derive(Clone, Debug)]
pub struct Guild {
    /// Its id.
    pub id: Snowflake,
    /// Its owner.
    pub owner: Snowflake,
    /// What can be changed about it, as Discord names it.
    pub settings: Map<String, Value>,
    /// What it has that others do not.
    pub features: Vec<String>,
    /// Its roles.
    pub roles: BTreeMap<Snowflake, Role>,
    /// Its members.
    pub members: BTreeMap<Snowflake, Member>,
    /// Its channels and threads.
    pub channels: BTreeMap<Snowflake, Channel>,
    /// Who may not come back.
    pub bans: BTreeMap<Snowflake, Ban>,
    /// Its rules of auto-moderation, as Discord writes them.
    pub rules: BTreeMap<Snowflake, Map<String, Value>>,
    /// What was done, newest last, and to whom.
    pub audit_log: VecDeque<Value>,
}

impl Guild {
    /// Entries of the audit log that are kept.
    pub const AUDIT_LOG_MAX: usize = 1_000;
    /// Roles that there can be.
    pub const ROLES_MAX: usize = 250;
    /// Threads that can be open.
    pub const THREADS_MAX: usize = 1_000;
    /// Channels that there can be, without threads.
    pub const CHANNELS_MAX: usize = 500;

    /// The member as permissions see them; none if they are not here.
    pub fn holder(&self, user: Snowflake, now_ms: u64) -> Option<Holder<'_>> {
        let member = self.members.get(&user)?;
        Some(Holder {
            guild: self.id,
            member: user,
            owns: if user == self.owner { Ownership::Owner } else { Ownership::Member },
            roles: &member.roles,
            timeout: member.timeout(now_ms),
        })
    }

    fn role_permissions(&self, role: Snowflake) -> Permissions {
        self.roles.get(&role).map_or(Permissions::NONE, |role| role.permissions)
    }

    /// What the user may do in the whole guild; nothing, if they are not here.
    pub fn permissions(&self, user: Snowflake, now_ms: u64) -> Permissions {
        let holder = self.holder(user, now_ms);
        holder.map_or(Permissions::NONE, |holder| holder.in_guild(|role| self.role_permissions(role)))
    }

    /// What the user may do in a channel; in a thread, with the overwrites of its parent.
    pub fn permissions_in(&self, user: Snowflake, channel: &Channel, now_ms: u64) -> Permissions {
        let Some(holder) = self.holder(user, now_ms) else { return Permissions::NONE };
        holder.in_channel(self.permissions(user, now_ms), self.overwrites_of(channel))
    }

    /// The overwrites that hold in a channel.
    pub fn overwrites_of<'a>(&'a self, channel: &'a Channel) -> &'a [Overwrite] {
        match channel.parent.filter(|_| channel.is_thread()).and_then(|parent| self.channels.get(&parent)) {
            Some(parent) => &parent.overwrites,
            None => &channel.overwrites,
        }
    }

    /// How high a role is: of two at the same position the older is the higher.
    fn height(&self, role: Snowflake) -> (i64, std::cmp::Reverse<Snowflake>) {
        (self.roles.get(&role).map_or(0, |role| role.position), std::cmp::Reverse(role))
    }

    /// The height of the member's highest role.
    fn height_of(&self, user: Snowflake) -> (i64, std::cmp::Reverse<Snowflake>) {
        let roles = self.members.get(&user).map_or(&[][..], |member| &member.roles);
        roles.iter().map(|role| self.height(*role)).max().unwrap_or((0, std::cmp::Reverse(self.id)))
    }

    /// Whether the member rules over the other one.
    pub fn is_above(&self, user: Snowflake, other: Snowflake) -> bool {
        other != self.owner && (user == self.owner || self.height_of(user) > self.height_of(other))
    }

    /// Whether the member rules over the role.
    pub fn is_above_role(&self, user: Snowflake, role: Snowflake) -> bool {
        user == self.owner || self.height_of(user) > self.height(role)
    }

    /// Whether the member rules over this position.
    pub fn is_above_position(&self, user: Snowflake, position: i64) -> bool {
        user == self.owner || self.height_of(user).0 > position
    }

    /// Discord's guild object, as REST answers it.
    pub fn json(&self) -> Value {
        let mut guild = self.settings.clone();
        let roles: Vec<_> = self.roles.values().map(Role::json).collect();
        for (key, value) in [
            ("id", json!(self.id)),
            ("owner_id", json!(self.owner)),
            ("features", json!(self.features)),
            ("roles", json!(roles)),
            ("emojis", json!([])),
            ("stickers", json!([])),
            ("application_id", Value::Null),
            ("max_members", json!(500_000)),
            ("max_presences", Value::Null),
            ("max_video_channel_users", json!(25)),
            ("max_stage_video_channel_users", json!(50)),
            ("nsfw_level", json!(0)),
            ("premium_tier", json!(0)),
            ("premium_subscription_count", json!(0)),
            ("vanity_url_code", Value::Null),
            ("mfa_level", json!(0)),
            ("widget_enabled", json!(false)),
            ("widget_channel_id", Value::Null),
        ] {
            guild.insert(key.into(), value);
        }
        Value::Object(guild)
    }
}

/// A time as Discord writes it.
pub fn iso(unix_ms: u64) -> String {
    Timestamp::from_millisecond(unix_ms.try_into().unwrap_or(0)).map(iso_of).unwrap_or_default()
}

/// A time as Discord writes it.
pub fn iso_of(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}
