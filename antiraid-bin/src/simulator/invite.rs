//! Invites into a guild.

use serde_json::{Value, json};
use worker_core::Snowflake;

use super::channel::kind;
use super::discord_error::DiscordError;
use super::form::Form;
use super::guild::iso;
use super::permissions::Permissions;
use super::request::{Reply, Request};
use super::world::{AuditEntry, World};

/// An invite.
#[derive(Clone, Debug, PartialEq)]
pub struct Invite {
    /// What stands at the end of its address.
    pub code: String,
    /// Into which guild.
    pub guild: Snowflake,
    /// And which channel.
    pub channel: Snowflake,
    /// Who made it.
    pub inviter: Snowflake,
    /// When, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// How long it holds, in seconds; 0 for ever.
    pub age_seconds_max: i64,
    /// How often it may be used; 0 as often as one likes.
    pub uses_max: i64,
    /// How often it was used.
    pub uses: i64,
    /// Whether who comes by it goes again with their connection.
    pub temporary: bool,
}

/// Invites that a guild may have.
const IN_GUILD_MAX: usize = 1_000;

impl Invite {
    fn expires_ms(&self) -> Option<u64> {
        (self.age_seconds_max > 0).then(|| self.created_ms + self.age_seconds_max as u64 * 1000)
    }
}

impl World {
    fn invite_json(&self, invite: &Invite) -> Value {
        let guild = self.guilds.get(&invite.guild);
        let channel = guild.and_then(|guild| guild.channels.get(&invite.channel));
        let guild = guild.map(|guild| {
            let mut json = json!({"id": guild.id, "features": guild.features});
            for key in ["name", "splash", "banner", "description", "icon", "verification_level"] {
                json[key] = guild.settings.get(key).cloned().unwrap_or(Value::Null);
            }
            json
        });
        json!({
            "type": 0, "code": invite.code, "guild": guild, "guild_id": invite.guild,
            "channel": channel.map(|channel| json!({"id": channel.id, "name": channel.name, "type": channel.kind})),
            "inviter": self.users.get(&invite.inviter).map(super::guild::User::json),
            "expires_at": invite.expires_ms().map(iso), "flags": 0,
        })
    }

    fn invite_with_metadata(&self, invite: &Invite) -> Value {
        let mut json = self.invite_json(invite);
        for (key, value) in [
            ("uses", json!(invite.uses)),
            ("max_uses", json!(invite.uses_max)),
            ("max_age", json!(invite.age_seconds_max)),
            ("temporary", json!(invite.temporary)),
            ("created_at", json!(iso(invite.created_ms))),
        ] {
            json[key] = value;
        }
        json
    }

    /// An invite that still holds.
    fn invite(&self, code: &str) -> Result<&Invite, DiscordError> {
        let invite = self.invites.get(code).ok_or_else(DiscordError::unknown_invite)?;
        let is_over = invite.expires_ms().is_some_and(|end| end <= self.now_ms())
            || (invite.uses_max > 0 && invite.uses >= invite.uses_max);
        if is_over { Err(DiscordError::unknown_invite()) } else { Ok(invite) }
    }

    pub(super) fn channel_invites(&self, request: &Request<'_>, channel: Snowflake) -> Result<Reply, DiscordError> {
        self.channel_with(request.actor, channel, Permissions::MANAGE_CHANNELS)?;
        let all = self.invites.values().filter(|invite| invite.channel == channel);
        let all = all.filter(|invite| self.invite(&invite.code).is_ok());
        let all: Vec<_> = all.map(|invite| self.invite_with_metadata(invite)).collect();
        Ok(Reply::ok(json!(all)))
    }

    pub(super) fn guild_invites(&self, request: &Request<'_>, guild: Snowflake) -> Result<Reply, DiscordError> {
        self.guild_with(request.actor, guild, Permissions::MANAGE_GUILD)?;
        let all = self.invites.values().filter(|invite| invite.guild == guild);
        let all = all.filter(|invite| self.invite(&invite.code).is_ok());
        let all: Vec<_> = all.map(|invite| self.invite_with_metadata(invite)).collect();
        Ok(Reply::ok(json!(all)))
    }

    pub(super) fn create_invite(&mut self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let (guild, channel) = self.channel_with(request.actor, id, Permissions::CREATE_INSTANT_INVITE)?;
        if channel.is_thread() || channel.kind == kind::CATEGORY {
            return Err(DiscordError::wrong_channel_type());
        }
        let guild = guild.id;
        let mut form = Form::new(request.object()?);
        let age = form.integer("max_age", 0..=604_800).set().unwrap_or(86_400);
        let uses = form.integer("max_uses", 0..=100).set().unwrap_or(0);
        let temporary = form.flag("temporary").set().unwrap_or(false);
        let unique = form.flag("unique").set().unwrap_or(false);
        form.finish()?;
        let same = self.invites.values().find(|invite| {
            !unique
                && (invite.channel, invite.inviter) == (id, request.actor)
                && (invite.age_seconds_max, invite.uses_max, invite.temporary) == (age, uses, temporary)
                && self.invite(&invite.code).is_ok()
        });
        if let Some(same) = same {
            return Ok(Reply::ok(self.invite_with_metadata(same)));
        }
        if self.invites.values().filter(|invite| invite.guild == guild).count() >= IN_GUILD_MAX {
            return Err(DiscordError::too_many_invites());
        }
        let invite = Invite {
            code: self.random_text(8),
            guild,
            channel: id,
            inviter: request.actor,
            created_ms: self.now_ms(),
            age_seconds_max: age,
            uses_max: uses,
            uses: 0,
            temporary,
        };
        let json = self.invite_with_metadata(&invite);
        let event = json!({
            "channel_id": id, "code": invite.code, "created_at": iso(invite.created_ms), "inviter": json["inviter"],
            "max_age": age, "max_uses": uses, "temporary": temporary, "uses": 0, "expires_at": json["expires_at"],
        });
        self.invites.insert(invite.code.clone(), invite);
        self.happen("INVITE_CREATE", guild, event);
        let entry = AuditEntry {
            action: 40,
            changes: vec![json!({"key": "code", "new_value": json["code"]})],
            ..AuditEntry::default()
        };
        self.audit(guild, request.actor, entry, request.reason);
        Ok(Reply::ok(json))
    }

    pub(super) fn get_invite(&self, request: &Request<'_>, code: &str) -> Result<Reply, DiscordError> {
        let invite = self.invite(code)?;
        let mut json = self.invite_json(invite);
        if request.flag("with_counts")
            && let Some(guild) = self.guilds.get(&invite.guild)
        {
            json["approximate_member_count"] = json!(guild.members.len());
            json["approximate_presence_count"] = json!(guild.members.len());
        }
        Ok(Reply::ok(json))
    }

    pub(super) fn delete_invite(&mut self, request: &Request<'_>, code: &str) -> Result<Reply, DiscordError> {
        let invite = self.invite(code)?.clone();
        let in_guild = self.guild_with(request.actor, invite.guild, Permissions::MANAGE_GUILD);
        if in_guild.is_err() {
            self.channel_with(request.actor, invite.channel, Permissions::MANAGE_CHANNELS)?;
        }
        let json = self.invite_json(&invite);
        self.invites.remove(code);
        self.happen("INVITE_DELETE", invite.guild, json!({"channel_id": invite.channel, "code": code}));
        let entry = AuditEntry {
            action: 42,
            changes: vec![json!({"key": "code", "old_value": code})],
            ..AuditEntry::default()
        };
        self.audit(invite.guild, request.actor, entry, request.reason);
        Ok(Reply::ok(json))
    }
}
