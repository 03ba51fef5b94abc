//! What can be done with guilds, their members and roles.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use worker_core::Snowflake;

use super::channel::kind;
use super::discord_error::DiscordError;
use super::form::{Field, Form};
use super::guild::{Ban, Guild, Role, User};
use super::permissions::Permissions;
use super::request::{Reply, Request};
use super::world::{AuditEntry, World, changes};

/// How long a time-out may be.
const TIMEOUT_DAYS_MAX: i64 = 28;
/// Seconds of messages that go with a ban.
const DELETE_MESSAGE_SECONDS_MAX: i64 = 604_800;

impl World {
    // ---- The guild itself

    pub(super) fn get_guild(&self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let guild = self.guild(request.actor, id)?;
        let mut json = guild.json();
        if request.flag("with_counts") {
            json["approximate_member_count"] = json!(guild.members.len());
            json["approximate_presence_count"] = json!(guild.members.len());
        }
        Ok(Reply::ok(json))
    }

    pub(super) fn guild_preview(&self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let guild = self.guild(request.actor, id)?;
        let mut json = json!({
            "id": id, "emojis": [], "stickers": [], "features": guild.features,
            "approximate_member_count": guild.members.len(), "approximate_presence_count": guild.members.len(),
        });
        for key in ["name", "icon", "splash", "discovery_splash", "description"] {
            json[key] = guild.settings.get(key).cloned().unwrap_or(Value::Null);
        }
        Ok(Reply::ok(json))
    }

    pub(super) fn edit_guild(&mut self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let guild = self.guild_with(request.actor, id, Permissions::MANAGE_GUILD)?;
        let mut form = Form::new(request.object()?);
        let mut settings = serde_json::Map::new();
        let name = form.text("name", 2..=100);
        if matches!(name, Field::Null) {
            form.required("name");
        } else {
            name.put_into(&mut settings, "name");
        }
        form.text("description", 0..=300).put_into(&mut settings, "description");
        form.choice("verification_level", &[0, 1, 2, 3, 4]).put_into(&mut settings, "verification_level");
        form.choice("default_message_notifications", &[0, 1]).put_into(&mut settings, "default_message_notifications");
        form.choice("explicit_content_filter", &[0, 1, 2]).put_into(&mut settings, "explicit_content_filter");
        form.choice("afk_timeout", &[60, 300, 900, 1800, 3600]).put_into(&mut settings, "afk_timeout");
        form.integer("system_channel_flags", 0..=63).put_into(&mut settings, "system_channel_flags");
        form.text("preferred_locale", 2..=10).put_into(&mut settings, "preferred_locale");
        form.flag("premium_progress_bar_enabled").put_into(&mut settings, "premium_progress_bar_enabled");
        for key in [
            "afk_channel_id",
            "system_channel_id",
            "rules_channel_id",
            "public_updates_channel_id",
            "safety_alerts_channel_id",
        ] {
            let field = form.id(key);
            if let Field::Set(channel) = field {
                let wanted = if key == "afk_channel_id" { kind::VOICE } else { kind::TEXT };
                if guild.channels.get(&channel).is_none_or(|channel| channel.kind != wanted) {
                    form.mistake(key, "CHANNEL_INVALID", "Invalid channel");
                }
            }
            let field = match field {
                Field::Set(id) => Field::Set(json!(id)),
                Field::Null => Field::Null,
                Field::Absent => Field::Absent,
            };
            field.put_into(&mut settings, key);
        }
        let owner = form.id("owner_id").set();
        form.finish()?;
        if owner.is_some_and(|owner| owner != guild.owner) {
            return Err(DiscordError::missing_permissions());
        }
        let before = guild.json();
        let guild = self.guild_mut(id)?;
        guild.settings.extend(settings);
        let json = guild.json();
        self.happen("GUILD_UPDATE", id, json.clone());
        let entry = AuditEntry::new(1, id).with_changes(changes(&before, &json));
        self.audit(id, request.actor, entry, request.reason);
        Ok(Reply::ok(json))
    }

    pub(super) fn audit_logs(&self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let limit = request.limit(50, 1, 100)?;
        let (user, before, after) = (request.id("user_id")?, request.id("before")?, request.id("after")?);
        let action = request.text("action_type").and_then(|text| text.parse::<i64>().ok()).filter(|action| *action > 0);
        let guild = self.guild_with(request.actor, id, Permissions::VIEW_AUDIT_LOG)?;
        let id_of = |entry: &Value| entry["id"].as_str().and_then(|id| id.parse::<Snowflake>().ok());
        let entries: Vec<_> = (guild.audit_log.iter().rev())
            .filter(|entry| user.is_none_or(|user| entry["user_id"] == json!(user)))
            .filter(|entry| action.is_none_or(|action| entry["action_type"] == json!(action)))
            .filter(|entry| before.is_none_or(|before| id_of(entry).is_some_and(|id| id < before)))
            .filter(|entry| after.is_none_or(|after| id_of(entry).is_some_and(|id| id > after)))
            .take(limit)
            .cloned()
            .collect();
        let mut users: Vec<Snowflake> = (entries.iter())
            .flat_map(|entry| [&entry["user_id"], &entry["target_id"]])
            .filter_map(|id| id.as_str()?.parse().ok())
            .collect();
        users.sort_unstable();
        users.dedup();
        let users: Vec<_> = users.iter().filter_map(|id| self.users.get(id)).map(User::json).collect();
        Ok(Reply::ok(json!({
            "audit_log_entries": entries, "users": users, "webhooks": [], "integrations": [], "threads": [],
            "application_commands": [], "auto_moderation_rules": [], "guild_scheduled_events": [],
        })))
    }

    // ---- Members

    pub(super) fn get_member(
        &self,
        request: &Request<'_>,
        id: Snowflake,
        user: Snowflake,
    ) -> Result<Reply, DiscordError> {
        let guild = self.guild(request.actor, id)?;
        self.member(guild, user)?;
        Ok(Reply::ok(self.member_json(guild, user)))
    }

    pub(super) fn list_members(&self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let (limit, after) = (request.limit(1, 1, 1000)?, request.id("after")?);
        let guild = self.guild(request.actor, id)?;
        let members: Vec<_> = (guild.members.keys())
            .filter(|user| after.is_none_or(|after| **user > after))
            .take(limit)
            .map(|user| self.member_json(guild, *user))
            .collect();
        Ok(Reply::ok(json!(members)))
    }

    pub(super) fn search_members(&self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let limit = request.limit(1, 1, 1000)?;
        let guild = self.guild(request.actor, id)?;
        let Some(query) = request.text("query").filter(|query| !query.is_empty()) else {
            let mut form = Form::new(request.object()?);
            form.required("query");
            return form.finish().map(|()| Reply::none());
        };
        let query = query.to_lowercase();
        let begins = |text: Option<&str>| text.is_some_and(|text| text.to_lowercase().starts_with(&query));
        let found: Vec<_> = (guild.members.values())
            .filter(|member| {
                let user = self.users.get(&member.user);
                begins(member.nick.as_deref())
                    || begins(user.map(|user| &*user.username))
                    || begins(user.and_then(|user| user.global_name.as_deref()))
            })
            .take(limit)
            .map(|member| self.member_json(guild, member.user))
            .collect();
        Ok(Reply::ok(json!(found)))
    }

    pub(super) fn edit_member(
        &mut self,
        request: &Request<'_>,
        id: Snowflake,
        user: Snowflake,
    ) -> Result<Reply, DiscordError> {
        let actor = request.actor;
        let guild = self.guild(actor, id)?;
        let before = self.member(guild, user)?;
        let own = guild.permissions(actor, self.now_ms());
        let mut form = Form::new(request.object()?);
        let nick = form.text("nick", 0..=32);
        let roles = form.ids("roles", 0..=250);
        let (mute, deaf) = (form.flag("mute").set(), form.flag("deaf").set());
        let channel = form.id("channel_id");
        let flags = form.integer("flags", 0..=i64::from(i32::MAX)).set();
        let until = form.text("communication_disabled_until", 0..=64);
        let until = match until {
            Field::Set(text) if !text.is_empty() => match text.parse::<Timestamp>() {
                Ok(until) => {
                    let now = Timestamp::from_millisecond(self.now_ms().try_into().unwrap_or(0)).unwrap_or_default();
                    if until.duration_since(now) > SignedDuration::from_hours(24 * TIMEOUT_DAYS_MAX) {
                        let message = "Cannot timeout for more than 28 days.";
                        form.mistake("communication_disabled_until", "GUILD_MEMBER_TIMEOUT_MAX", message);
                    }
                    Field::Set(until)
                }
                Err(_) => {
                    let message = format!("Could not parse {text}. Should be ISO8601.");
                    form.mistake("communication_disabled_until", "DATE_TIME_TYPE_PARSE", message);
                    Field::Absent
                }
            },
            Field::Set(_) | Field::Null => Field::Null,
            Field::Absent => Field::Absent,
        };
        form.finish()?;

        let is_self = actor == user;
        let need =
            |needed: Permissions| if own.contains(needed) { Ok(()) } else { Err(DiscordError::missing_permissions()) };
        let mut is_above_needed = false;
        if !matches!(nick, Field::Absent) {
            need(if is_self { Permissions::CHANGE_NICKNAME } else { Permissions::MANAGE_NICKNAMES })?;
            is_above_needed = true;
        }
        if !matches!(until, Field::Absent) {
            need(Permissions::MODERATE_MEMBERS)?;
            is_above_needed = true;
            let is_admin = guild.permissions(user, 0).contains(Permissions::ADMINISTRATOR);
            if is_admin && matches!(until, Field::Set(_)) {
                return Err(DiscordError::missing_permissions());
            }
        }
        if mute.is_some() {
            need(Permissions::MUTE_MEMBERS)?;
        }
        if deaf.is_some() {
            need(Permissions::DEAFEN_MEMBERS)?;
        }
        if !matches!(channel, Field::Absent) {
            need(Permissions::MOVE_MEMBERS)?;
        }
        if (mute.is_some() || deaf.is_some() || !matches!(channel, Field::Absent)) && before.voice.is_none() {
            return Err(DiscordError::not_in_voice());
        }
        if let Field::Set(channel) = channel
            && guild.channels.get(&channel).is_none_or(|channel| !channel.has_voice())
        {
            return Err(DiscordError::wrong_channel_type());
        }
        if flags.is_some() {
            let any = Permissions::MODERATE_MEMBERS | Permissions::KICK_MEMBERS | Permissions::BAN_MEMBERS;
            if ![Permissions::MANAGE_GUILD, Permissions::MANAGE_ROLES, any].iter().any(|one| own.contains(*one)) {
                return Err(DiscordError::missing_permissions());
            }
        }
        let roles = match roles {
            Field::Absent => None,
            Field::Null => Some(Vec::new()),
            Field::Set(mut roles) => {
                roles.sort_unstable();
                roles.dedup();
                Some(roles)
            }
        };
        if let Some(roles) = &roles {
            need(Permissions::MANAGE_ROLES)?;
            if roles.iter().any(|role| !guild.roles.contains_key(role)) {
                return Err(DiscordError::invalid_role());
            }
            let is_changed = |role: &&Snowflake| roles.contains(role) != before.roles.contains(role);
            for role in roles.iter().chain(&before.roles).filter(is_changed) {
                let is_managed = guild.roles.get(role).is_some_and(|role| role.managed_by_bot.is_some());
                if is_managed || !guild.is_above_role(actor, *role) {
                    return Err(DiscordError::missing_permissions());
                }
            }
        }
        if is_above_needed && !is_self && !guild.is_above(actor, user) {
            return Err(DiscordError::missing_permissions());
        }

        let old = self.member_json(guild, user);
        let member = self.guild_mut(id)?.members.get_mut(&user).ok_or_else(DiscordError::unknown_member)?;
        match nick {
            Field::Absent => {}
            Field::Set(nick) if !nick.is_empty() => member.nick = Some(nick),
            Field::Set(_) | Field::Null => member.nick = None,
        }
        until.apply_to(&mut member.timed_out_until);
        if let Some(roles) = roles {
            member.roles = roles;
        }
        let (was_muted, was_deaf, was_in) = (member.mute, member.deaf, member.voice);
        member.mute = mute.unwrap_or(member.mute);
        member.deaf = deaf.unwrap_or(member.deaf);
        member.flags = flags.unwrap_or(member.flags);
        channel.apply_to(&mut member.voice);
        let is_voice_changed = (was_muted, was_deaf, was_in) != (member.mute, member.deaf, member.voice);
        let json = self.tell_member(id, user)?;
        if is_voice_changed {
            self.tell_voice(id, user);
        }
        let all = changes(&old, &json);
        let (role_changes, other): (Vec<_>, Vec<_>) = all.into_iter().partition(|change| change["key"] == "roles");
        if !role_changes.is_empty() {
            let entry = AuditEntry::new(25, user).with_changes(role_changes);
            self.audit(id, actor, entry, request.reason);
        }
        if !other.is_empty() {
            self.audit(id, actor, AuditEntry::new(24, user).with_changes(other), request.reason);
        }
        Ok(Reply::ok(json))
    }

    /// Tells what a member is now.
    fn tell_member(&mut self, id: Snowflake, user: Snowflake) -> Result<Value, DiscordError> {
        let guild = self.guild_mut(id)?;
        let Some(member) = guild.members.get(&user).cloned() else { return Err(DiscordError::unknown_member()) };
        let json = member.json(self.user(user)?);
        self.happen("GUILD_MEMBER_UPDATE", id, json.clone());
        Ok(json)
    }

    fn tell_voice(&mut self, id: Snowflake, user: Snowflake) {
        let Some(guild) = self.guilds.get(&id) else { return };
        let member = self.member_json(guild, user);
        let Some(of) = guild.members.get(&user) else { return };
        let event = json!({
            "channel_id": of.voice, "user_id": user, "member": member, "session_id": format!("voice-{user}"),
            "deaf": of.deaf, "mute": of.mute, "self_deaf": false, "self_mute": false, "self_video": false,
            "suppress": false, "request_to_speak_timestamp": null,
        });
        self.happen("VOICE_STATE_UPDATE", id, event);
    }

    /// Times a member out, as auto-moderation does.
    pub(super) fn time_out(&mut self, id: Snowflake, user: Snowflake, seconds: i64) {
        let now = i64::try_from(self.now_ms()).unwrap_or(0);
        let until = Timestamp::from_millisecond(now.saturating_add(seconds.saturating_mul(1000))).ok();
        let member = self.guilds.get_mut(&id).and_then(|guild| guild.members.get_mut(&user));
        if let Some(member) = member {
            member.timed_out_until = until;
            // The member was there a moment ago.
            let _ = self.tell_member(id, user);
        }
    }

    pub(super) fn set_member_role(
        &mut self,
        request: &Request<'_>,
        id: Snowflake,
        user: Snowflake,
        role: Snowflake,
        has: bool,
    ) -> Result<Reply, DiscordError> {
        let guild = self.guild_with(request.actor, id, Permissions::MANAGE_ROLES)?;
        let member = self.member(guild, user)?;
        let known = guild.roles.get(&role).filter(|_| role != id).ok_or_else(DiscordError::unknown_role)?;
        if known.managed_by_bot.is_some() || !guild.is_above_role(request.actor, role) {
            return Err(DiscordError::missing_permissions());
        }
        let name = known.name.clone();
        if member.roles.contains(&role) == has {
            return Ok(Reply::none());
        }
        if let Some(member) = self.guild_mut(id)?.members.get_mut(&user) {
            if has {
                member.roles.push(role);
                member.roles.sort_unstable();
            } else {
                member.roles.retain(|one| *one != role);
            }
        }
        self.tell_member(id, user)?;
        let key = if has { "$add" } else { "$remove" };
        let change = json!({"key": key, "new_value": [{"id": role, "name": name}]});
        self.audit(id, request.actor, AuditEntry::new(25, user).with_changes(vec![change]), request.reason);
        Ok(Reply::none())
    }

    pub(super) fn kick(
        &mut self,
        request: &Request<'_>,
        id: Snowflake,
        user: Snowflake,
    ) -> Result<Reply, DiscordError> {
        let guild = self.guild_with(request.actor, id, Permissions::KICK_MEMBERS)?;
        self.member(guild, user)?;
        if !guild.is_above(request.actor, user) {
            return Err(DiscordError::missing_permissions());
        }
        self.leave(id, user);
        self.audit(id, request.actor, AuditEntry::new(20, user), request.reason);
        Ok(Reply::none())
    }

    /// A user comes into a guild. Banned ones do not.
    pub fn join(&mut self, id: Snowflake, user: Snowflake) -> Result<(), DiscordError> {
        self.user(user)?;
        let guild = self.guild_mut(id)?;
        if guild.bans.contains_key(&user) {
            let message = "The user is banned from this guild.";
            return Err(DiscordError { status: 403, code: 40007, message: message.into(), errors: None });
        }
        if guild.members.contains_key(&user) {
            return Ok(());
        }
        self.put_member(id, user, Vec::new());
        let event = self.guilds.get(&id).map_or(Value::Null, |guild| self.member_json(guild, user));
        self.happen("GUILD_MEMBER_ADD", id, event);
        Ok(())
    }

    /// A member goes, by themselves or because they must.
    pub fn leave(&mut self, id: Snowflake, user: Snowflake) {
        let Some(guild) = self.guilds.get_mut(&id) else { return };
        if guild.members.remove(&user).is_none() {
            return;
        }
        for channel in guild.channels.values_mut() {
            if let Some(thread) = &mut channel.thread {
                thread.members.retain(|member| *member != user);
            }
        }
        let user = self.users.get(&user).map_or(Value::Null, User::json);
        self.happen("GUILD_MEMBER_REMOVE", id, json!({"user": user}));
    }

    /// A member goes into a voice channel, or out of it.
    pub fn set_voice(
        &mut self,
        id: Snowflake,
        user: Snowflake,
        channel: Option<Snowflake>,
    ) -> Result<(), DiscordError> {
        let guild = self.guild_mut(id)?;
        if let Some(channel) = channel
            && guild.channels.get(&channel).is_none_or(|channel| !channel.has_voice())
        {
            return Err(DiscordError::wrong_channel_type());
        }
        guild.members.get_mut(&user).ok_or_else(DiscordError::unknown_member)?.voice = channel;
        self.tell_voice(id, user);
        Ok(())
    }

    // ---- Bans

    pub(super) fn get_bans(&self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let (limit, before, after) = (request.limit(1000, 1, 1000)?, request.id("before")?, request.id("after")?);
        let guild = self.guild_with(request.actor, id, Permissions::BAN_MEMBERS)?;
        let entry = |(user, ban): (&Snowflake, &Ban)| json!({"user": self.users.get(user).map(User::json), "reason": ban.reason});
        let bans: Vec<_> = match (before, after) {
            (Some(before), _) => {
                let mut bans: Vec<_> = guild.bans.range(..before).rev().take(limit).map(entry).collect();
                bans.reverse();
                bans
            }
            (None, Some(after)) => {
                let after = Snowflake::new(after.get().saturating_add(1));
                guild.bans.range(after..).take(limit).map(entry).collect()
            }
            (None, None) => guild.bans.iter().take(limit).map(entry).collect(),
        };
        Ok(Reply::ok(json!(bans)))
    }

    pub(super) fn get_ban(&self, request: &Request<'_>, id: Snowflake, user: Snowflake) -> Result<Reply, DiscordError> {
        let guild = self.guild_with(request.actor, id, Permissions::BAN_MEMBERS)?;
        let ban = guild.bans.get(&user).ok_or_else(DiscordError::unknown_ban)?;
        Ok(Reply::ok(json!({"user": self.users.get(&user).map(User::json), "reason": ban.reason})))
    }

    pub(super) fn create_ban(
        &mut self,
        request: &Request<'_>,
        id: Snowflake,
        user: Snowflake,
    ) -> Result<Reply, DiscordError> {
        let guild = self.guild_with(request.actor, id, Permissions::BAN_MEMBERS)?;
        let mut form = Form::new(request.object()?);
        let seconds = form.integer("delete_message_seconds", 0..=DELETE_MESSAGE_SECONDS_MAX).set();
        let days = form.integer("delete_message_days", 0..=7).set();
        form.finish()?;
        self.user(user)?;
        if guild.members.contains_key(&user) && !guild.is_above(request.actor, user) || user == guild.owner {
            return Err(DiscordError::missing_permissions());
        }
        let seconds = seconds.or(days.map(|days| days * 86_400)).unwrap_or(0);
        self.ban(request, id, user, seconds)?;
        Ok(Reply::none())
    }

    fn ban(
        &mut self,
        request: &Request<'_>,
        id: Snowflake,
        user: Snowflake,
        delete_seconds: i64,
    ) -> Result<(), DiscordError> {
        let json = self.user(user)?.json();
        let guild = self.guild_mut(id)?;
        if guild.bans.contains_key(&user) {
            return Ok(());
        }
        guild.bans.insert(user, Ban { reason: request.reason.map(Into::into) });
        self.happen("GUILD_BAN_ADD", id, json!({"user": json}));
        self.leave(id, user);
        if delete_seconds > 0 {
            let oldest = self.now_ms().saturating_sub(delete_seconds as u64 * 1000);
            self.delete_messages_of(id, user, oldest);
        }
        self.audit(id, request.actor, AuditEntry::new(22, user), request.reason);
        Ok(())
    }

    fn delete_messages_of(&mut self, id: Snowflake, user: Snowflake, oldest_ms: u64) {
        let Some(guild) = self.guilds.get_mut(&id) else { return };
        let mut deleted = Vec::new();
        for channel in guild.channels.values_mut() {
            let mut ids = Vec::new();
            channel.messages.retain(|message| {
                let goes =
                    message.author == super::message::Author::User(user) && message.id.created_at_millis() >= oldest_ms;
                if goes {
                    ids.push(message.id);
                }
                !goes
            });
            if !ids.is_empty() {
                deleted.push((channel.id, ids));
            }
        }
        for (channel, ids) in deleted {
            match &ids[..] {
                [one] => self.happen("MESSAGE_DELETE", id, json!({"id": one, "channel_id": channel})),
                _ => self.happen("MESSAGE_DELETE_BULK", id, json!({"ids": ids, "channel_id": channel})),
            }
        }
    }

    pub(super) fn bulk_ban(&mut self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let needed = Permissions::BAN_MEMBERS | Permissions::MANAGE_GUILD;
        let guild = self.guild_with(request.actor, id, needed)?;
        let mut form = Form::new(request.object()?);
        let users = form.ids("user_ids", 1..=200);
        if form.raw("user_ids").is_none() {
            form.required("user_ids");
        }
        let seconds = form.integer("delete_message_seconds", 0..=DELETE_MESSAGE_SECONDS_MAX).set().unwrap_or(0);
        form.finish()?;
        let (mut banned, mut failed) = (Vec::new(), Vec::new());
        for user in users.set().unwrap_or_default() {
            let is_member = guild.members.contains_key(&user);
            let may = self.users.contains_key(&user)
                && user != request.actor
                && user != guild.owner
                && (!is_member || guild.is_above(request.actor, user))
                && !guild.bans.contains_key(&user);
            let to = if may { &mut banned } else { &mut failed };
            if !to.contains(&user) {
                to.push(user);
            }
        }
        if banned.is_empty() {
            return Err(DiscordError::no_users_banned());
        }
        for user in &banned {
            self.ban(request, id, *user, seconds)?;
        }
        Ok(Reply::ok(json!({"banned_users": banned, "failed_users": failed})))
    }

    pub(super) fn remove_ban(
        &mut self,
        request: &Request<'_>,
        id: Snowflake,
        user: Snowflake,
    ) -> Result<Reply, DiscordError> {
        self.guild_with(request.actor, id, Permissions::BAN_MEMBERS)?;
        self.guild_mut(id)?.bans.remove(&user).ok_or_else(DiscordError::unknown_ban)?;
        let json = self.user(user)?.json();
        self.happen("GUILD_BAN_REMOVE", id, json!({"user": json}));
        self.audit(id, request.actor, AuditEntry::new(23, user), request.reason);
        Ok(Reply::none())
    }

    // ---- Roles

    pub(super) fn get_roles(&self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let roles: Vec<_> = self.guild(request.actor, id)?.roles.values().map(Role::json).collect();
        Ok(Reply::ok(json!(roles)))
    }

    pub(super) fn get_role(
        &self,
        request: &Request<'_>,
        id: Snowflake,
        role: Snowflake,
    ) -> Result<Reply, DiscordError> {
        let role = self.guild(request.actor, id)?.roles.get(&role).ok_or_else(DiscordError::unknown_role)?;
        Ok(Reply::ok(role.json()))
    }

    pub(super) fn create_role(&mut self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let guild = self.guild_with(request.actor, id, Permissions::MANAGE_ROLES)?;
        let everyone = guild.roles.get(&id).map_or(Permissions::NONE, |role| role.permissions);
        let mut role = Role {
            id: Snowflake::new(1),
            name: "new role".into(),
            permissions: everyone,
            position: 1,
            color: 0,
            hoist: false,
            mentionable: false,
            managed_by_bot: None,
            unicode_emoji: None,
        };
        read_role(request, guild, &mut role)?;
        if guild.roles.len() >= Guild::ROLES_MAX {
            return Err(DiscordError::too_many_roles());
        }
        let given = role.permissions & !everyone;
        if !guild.permissions(request.actor, self.now_ms()).contains(given & Permissions::ALL) {
            return Err(DiscordError::missing_permissions());
        }
        role.id = self.new_id();
        let json = role.json();
        let role_id = role.id;
        self.guild_mut(id)?.roles.insert(role_id, role);
        self.happen("GUILD_ROLE_CREATE", id, json!({"role": json}));
        let entry = AuditEntry::new(30, role_id).with_changes(changes(&json!({}), &json));
        self.audit(id, request.actor, entry, request.reason);
        Ok(Reply::ok(json))
    }

    pub(super) fn edit_role(
        &mut self,
        request: &Request<'_>,
        id: Snowflake,
        role_id: Snowflake,
    ) -> Result<Reply, DiscordError> {
        let guild = self.guild_with(request.actor, id, Permissions::MANAGE_ROLES)?;
        let before = guild.roles.get(&role_id).ok_or_else(DiscordError::unknown_role)?.clone();
        if !guild.is_above_role(request.actor, role_id) {
            return Err(DiscordError::missing_permissions());
        }
        let mut role = before.clone();
        read_role(request, guild, &mut role)?;
        let changed = Permissions::from_bits(role.permissions.bits() ^ before.permissions.bits());
        if !guild.permissions(request.actor, self.now_ms()).contains(changed & Permissions::ALL) {
            return Err(DiscordError::missing_permissions());
        }
        let (before, json) = (before.json(), role.json());
        self.guild_mut(id)?.roles.insert(role_id, role);
        self.happen("GUILD_ROLE_UPDATE", id, json!({"role": json}));
        let entry = AuditEntry::new(31, role_id).with_changes(changes(&before, &json));
        self.audit(id, request.actor, entry, request.reason);
        Ok(Reply::ok(json))
    }

    pub(super) fn delete_role(
        &mut self,
        request: &Request<'_>,
        id: Snowflake,
        role_id: Snowflake,
    ) -> Result<Reply, DiscordError> {
        let guild = self.guild_with(request.actor, id, Permissions::MANAGE_ROLES)?;
        let role = guild.roles.get(&role_id).ok_or_else(DiscordError::unknown_role)?;
        if role_id == id || role.managed_by_bot.is_some() {
            return Err(DiscordError::invalid_role());
        }
        if !guild.is_above_role(request.actor, role_id) {
            return Err(DiscordError::missing_permissions());
        }
        let before = role.json();
        let guild = self.guild_mut(id)?;
        guild.roles.remove(&role_id);
        let mut changed = Vec::new();
        for member in guild.members.values_mut() {
            if member.roles.contains(&role_id) {
                member.roles.retain(|role| *role != role_id);
                changed.push(member.user);
            }
        }
        for channel in guild.channels.values_mut() {
            channel.overwrites.retain(|overwrite| overwrite.id != role_id);
        }
        self.happen("GUILD_ROLE_DELETE", id, json!({"role_id": role_id}));
        for user in changed {
            self.tell_member(id, user)?;
        }
        let entry = AuditEntry::new(32, role_id).with_changes(changes(&before, &json!({})));
        self.audit(id, request.actor, entry, request.reason);
        Ok(Reply::none())
    }

    pub(super) fn move_roles(&mut self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let guild = self.guild_with(request.actor, id, Permissions::MANAGE_ROLES)?;
        let mut moves = Vec::new();
        for entry in request.array()? {
            let Some(fields) = entry.as_object() else { return Err(DiscordError::bad_json()) };
            let mut form = Form::new(fields);
            let role = form.id("id").set();
            if role.is_none() {
                form.required("id");
            }
            let position = form.integer("position", 0..=i64::from(i32::MAX)).set();
            form.finish()?;
            let role = role.ok_or_else(DiscordError::unknown_role)?;
            if !guild.roles.contains_key(&role) {
                return Err(DiscordError::unknown_role());
            }
            let Some(position) = position else { continue };
            let is_allowed = role != id
                && guild.is_above_role(request.actor, role)
                && guild.is_above_position(request.actor, position);
            if !is_allowed {
                return Err(DiscordError::missing_permissions());
            }
            moves.push((role, position));
        }
        for (role_id, position) in moves {
            let Some(role) = self.guild_mut(id)?.roles.get_mut(&role_id) else { continue };
            if role.position != position {
                role.position = position;
                let json = role.json();
                self.happen("GUILD_ROLE_UPDATE", id, json!({"role": json}));
            }
        }
        self.get_roles(request, id)
    }
}

fn read_role(request: &Request<'_>, guild: &Guild, role: &mut Role) -> Result<(), DiscordError> {
    let mut form = Form::new(request.object()?);
    if let Field::Set(name) = form.text("name", 0..=100)
        && !name.is_empty()
    {
        role.name = name;
    }
    role.permissions = form.permissions("permissions").set().unwrap_or(role.permissions);
    role.color = form.integer("color", 0..=0xFF_FFFF).set().unwrap_or(role.color);
    role.hoist = form.flag("hoist").set().unwrap_or(role.hoist);
    role.mentionable = form.flag("mentionable").set().unwrap_or(role.mentionable);
    if form.raw("icon").is_some_and(|icon| !icon.is_null())
        || form.raw("unicode_emoji").is_some_and(|icon| !icon.is_null())
    {
        if guild.features.iter().any(|feature| feature == "ROLE_ICONS") {
            form.text("unicode_emoji", 0..=16).apply_to(&mut role.unicode_emoji);
        } else {
            form.finish()?;
            let message = "This server needs more boosts to perform this action";
            return Err(DiscordError { status: 403, code: 50101, message: message.into(), errors: None });
        }
    }
    form.finish()
}
