//! What can be done with channels.

use serde_json::{Map, Value, json};
use worker_core::Snowflake;

use super::channel::{Channel, kind};
use super::discord_error::DiscordError;
use super::form::{Field, Form};
use super::guild::Guild;
use super::permissions::{Overwrite, OverwriteFor, Permissions};
use super::request::{Reply, Request};
use super::world::{AuditEntry, World, changes};

/// What a new channel of this kind has, beside what all have.
pub(super) fn default_settings(kind: i64) -> Map<String, Value> {
    let settings = match kind {
        kind::CATEGORY => json!({}),
        kind::VOICE | kind::STAGE => json!({
            "nsfw": false, "bitrate": 64_000, "user_limit": 0, "rtc_region": null, "rate_limit_per_user": 0,
        }),
        kind::FORUM | kind::MEDIA => json!({
            "topic": null, "nsfw": false, "rate_limit_per_user": 0, "available_tags": [], "default_reaction_emoji": null,
            "default_sort_order": null, "default_forum_layout": 0, "flags": 0,
        }),
        kind::ANNOUNCEMENT_THREAD | kind::PUBLIC_THREAD | kind::PRIVATE_THREAD => {
            json!({"rate_limit_per_user": 0, "flags": 0})
        }
        _ => json!({"topic": null, "nsfw": false, "rate_limit_per_user": 0, "flags": 0}),
    };
    match settings {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// What a form says about a channel.
struct ChannelForm {
    name: Option<String>,
    parent: Field<Snowflake>,
    position: Option<i64>,
    overwrites: Option<Vec<Overwrite>>,
    settings: Map<String, Value>,
    archived: Option<bool>,
    locked: Option<bool>,
    invitable: Option<bool>,
    auto_archive_minutes: Option<i64>,
}

fn read_channel(form: &mut Form<'_>, guild: &Guild, kind: i64) -> ChannelForm {
    let mut settings = Map::new();
    let name = form.text("name", 1..=100);
    if matches!(name, Field::Null) {
        form.required("name");
    }
    let has_text = kind != kind::CATEGORY;
    if has_text {
        let most = if matches!(kind, kind::FORUM | kind::MEDIA) { 4096 } else { 1024 };
        form.text("topic", 0..=most).put_into(&mut settings, "topic");
        form.flag("nsfw").put_into(&mut settings, "nsfw");
        form.integer("rate_limit_per_user", 0..=21_600).put_into(&mut settings, "rate_limit_per_user");
        form.integer("default_thread_rate_limit_per_user", 0..=21_600)
            .put_into(&mut settings, "default_thread_rate_limit_per_user");
        form.choice("default_auto_archive_duration", &[60, 1440, 4320, 10080])
            .put_into(&mut settings, "default_auto_archive_duration");
        form.integer("flags", 0..=i64::from(i32::MAX)).put_into(&mut settings, "flags");
    }
    if matches!(kind, kind::VOICE | kind::STAGE) {
        form.integer("bitrate", 8_000..=96_000).put_into(&mut settings, "bitrate");
        form.integer("user_limit", 0..=if kind == kind::STAGE { 10_000 } else { 99 })
            .put_into(&mut settings, "user_limit");
        form.text("rtc_region", 0..=100).put_into(&mut settings, "rtc_region");
        form.choice("video_quality_mode", &[1, 2]).put_into(&mut settings, "video_quality_mode");
    }
    if matches!(kind, kind::FORUM | kind::MEDIA) {
        if let Field::Set(list) = form.list("available_tags", 0..=20) {
            form.each("available_tags", list, |form| {
                form.required_text("name", 1..=20);
            });
            Field::Set(json!(list)).put_into(&mut settings, "available_tags");
        }
        form.choice("default_sort_order", &[0, 1]).put_into(&mut settings, "default_sort_order");
        form.choice("default_forum_layout", &[0, 1, 2]).put_into(&mut settings, "default_forum_layout");
    }
    if matches!(kind, kind::PUBLIC_THREAD) && form.raw("applied_tags").is_some() {
        let field = match form.ids("applied_tags", 0..=5) {
            Field::Set(ids) => Field::Set(json!(ids)),
            _ => Field::Absent,
        };
        field.put_into(&mut settings, "applied_tags");
    }
    let overwrites = match form.list("permission_overwrites", 0..=100) {
        Field::Set(list) => {
            let mut overwrites = Vec::with_capacity(list.len());
            form.each("permission_overwrites", list, |form| overwrites.extend(read_overwrite(form, guild, None)));
            Some(overwrites)
        }
        Field::Null => Some(Vec::new()),
        Field::Absent => None,
    };
    let parent = form.id("parent_id");
    if let Field::Set(parent) = parent {
        match guild.channels.get(&parent).map(|parent| parent.kind) {
            Some(kind::CATEGORY) if kind != kind::CATEGORY => {}
            Some(_) => form.mistake("parent_id", "CHANNEL_PARENT_INVALID_TYPE", "Not a category"),
            None => form.mistake("parent_id", "CHANNEL_PARENT_INVALID", "Category does not exist"),
        }
    }
    ChannelForm {
        name: name.set(),
        parent,
        position: form.integer("position", 0..=i64::from(i32::MAX)).set(),
        overwrites,
        archived: form.flag("archived").set(),
        locked: form.flag("locked").set(),
        invitable: form.flag("invitable").set(),
        auto_archive_minutes: form.choice("auto_archive_duration", &[60, 1440, 4320, 10080]).set(),
        settings,
    }
}

/// One overwrite; its id may stand in the address instead.
fn read_overwrite(form: &mut Form<'_>, guild: &Guild, id: Option<Snowflake>) -> Option<Overwrite> {
    let id = id.or_else(|| {
        let id = form.id("id");
        if form.raw("id").is_none_or(Value::is_null) {
            form.required("id");
        }
        id.set()
    });
    let kind = match form.raw("type") {
        // Where a list of them has none, Discord guesses by the id.
        None | Some(Value::Null) => id.map(|id| i64::from(!guild.roles.contains_key(&id))),
        Some(_) => form.choice("type", &[0, 1]).set(),
    };
    let allow = form.permissions("allow").set().unwrap_or(Permissions::NONE);
    let deny = form.permissions("deny").set().unwrap_or(Permissions::NONE);
    let kind = if kind? == 0 { OverwriteFor::Role } else { OverwriteFor::Member };
    Some(Overwrite { id: id?, kind, allow, deny })
}

/// What is a text channel's name: small letters, no spaces.
fn text_name(kind: i64, name: String) -> String {
    match kind {
        kind::TEXT | kind::ANNOUNCEMENT | kind::FORUM | kind::MEDIA => {
            name.to_lowercase().split_whitespace().collect::<Vec<_>>().join("-")
        }
        _ => name,
    }
}

impl World {
    pub(super) fn get_channel(&self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let (_, channel) = self.channel(request.actor, id)?;
        Ok(Reply::ok(channel.json()))
    }

    pub(super) fn get_guild_channels(&self, request: &Request<'_>, guild: Snowflake) -> Result<Reply, DiscordError> {
        let guild = self.guild(request.actor, guild)?;
        let all = guild.channels.values().filter(|channel| !channel.is_thread());
        let all: Vec<_> = all.map(Channel::json).collect();
        Ok(Reply::ok(json!(all)))
    }

    pub(super) fn active_threads(&self, request: &Request<'_>, guild: Snowflake) -> Result<Reply, DiscordError> {
        let guild = self.guild(request.actor, guild)?;
        let is_open = |channel: &&Channel| channel.thread.as_ref().is_some_and(|thread| !thread.archived);
        let threads: Vec<_> = (guild.channels.values().filter(is_open))
            .filter(|thread| self.channel(request.actor, thread.id).is_ok())
            .collect();
        let members: Vec<_> = (threads.iter())
            .filter(|thread| thread.thread.as_ref().is_some_and(|thread| thread.members.contains(&request.actor)))
            .map(|thread| json!({"id": thread.id, "user_id": request.actor, "flags": 0, "join_timestamp": super::guild::iso(thread.id.created_at_millis())}))
            .collect();
        let threads: Vec<_> = threads.into_iter().map(Channel::json).collect();
        Ok(Reply::ok(json!({"threads": threads, "members": members})))
    }

    pub(super) fn create_channel(&mut self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let guild = self.guild_with(request.actor, id, Permissions::MANAGE_CHANNELS)?;
        let mut form = Form::new(request.object()?);
        if form.raw("name").is_none() {
            form.required("name");
        }
        let kinds =
            [kind::TEXT, kind::VOICE, kind::CATEGORY, kind::ANNOUNCEMENT, kind::STAGE, kind::FORUM, kind::MEDIA];
        let kind = form.choice("type", &kinds).set().unwrap_or(kind::TEXT);
        let read = read_channel(&mut form, guild, kind);
        form.finish()?;
        if guild.channels.values().filter(|channel| !channel.is_thread()).count() >= Guild::CHANNELS_MAX {
            return Err(DiscordError::too_many_channels());
        }
        self.check_given(guild, request.actor, read.overwrites.iter().flatten(), None)?;
        let last = guild.channels.values().map(|channel| channel.position).max().unwrap_or(-1);
        let parent = read.parent.set();
        let inherited = parent.and_then(|parent| guild.channels.get(&parent)).map(|parent| parent.overwrites.clone());
        let mut settings = default_settings(kind);
        settings.extend(read.settings);
        let channel_id = self.new_id();
        let channel = Channel {
            id: channel_id,
            guild: id,
            kind,
            name: text_name(kind, read.name.unwrap_or_default()),
            position: read.position.unwrap_or(last + 1),
            parent,
            overwrites: read.overwrites.or(inherited).unwrap_or_default(),
            settings,
            messages: Default::default(),
            last_message: None,
            thread: None,
        };
        let json = channel.json();
        self.insert_channel(channel);
        self.happen("CHANNEL_CREATE", id, json.clone());
        let entry = AuditEntry::new(10, channel_id).with_changes(changes(&json!({}), &json));
        self.audit(id, request.actor, entry, request.reason);
        Ok(Reply::created(json))
    }

    /// Whoever gives permissions away must have them.
    fn check_given<'a>(
        &self,
        guild: &Guild,
        actor: Snowflake,
        overwrites: impl Iterator<Item = &'a Overwrite>,
        channel: Option<&Channel>,
    ) -> Result<(), DiscordError> {
        let own = match channel {
            None => guild.permissions(actor, self.now_ms()),
            Some(channel) => guild.permissions_in(actor, channel, self.now_ms()),
        };
        let mut changed = false;
        for overwrite in overwrites {
            let before =
                channel.and_then(|channel| channel.overwrites.iter().find(|before| before.id == overwrite.id)).copied();
            changed |= before != Some(*overwrite);
            let kept = before.map_or(Permissions::NONE, |before| before.allow | before.deny);
            let given = (overwrite.allow | overwrite.deny) & !kept;
            if !own.contains(given & Permissions::ALL) {
                return Err(DiscordError::missing_permissions());
            }
        }
        if changed && channel.is_some() && !own.contains(Permissions::MANAGE_ROLES) {
            return Err(DiscordError::missing_permissions());
        }
        Ok(())
    }

    pub(super) fn edit_channel(&mut self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let (guild, channel) = self.channel(request.actor, id)?;
        let permissions = guild.permissions_in(request.actor, channel, self.now_ms());
        let mut form = Form::new(request.object()?);
        let kind = match channel.kind {
            kind::TEXT | kind::ANNOUNCEMENT => {
                form.choice("type", &[kind::TEXT, kind::ANNOUNCEMENT]).set().unwrap_or(channel.kind)
            }
            other => other,
        };
        let read = read_channel(&mut form, guild, kind);
        form.finish()?;
        let is_own_thread = channel.thread.as_ref().is_some_and(|thread| thread.owner == request.actor);
        let is_moderated = read.locked.is_some() || request.object()?.contains_key("rate_limit_per_user");
        let needed = match channel.is_thread() {
            true if is_own_thread && !is_moderated => Permissions::NONE,
            true => Permissions::MANAGE_THREADS,
            false => Permissions::MANAGE_CHANNELS,
        };
        if !permissions.contains(needed) {
            return Err(DiscordError::missing_permissions());
        }
        if channel.thread.as_ref().is_some_and(|thread| thread.archived) && read.archived != Some(false) {
            return Err(DiscordError::archived_thread());
        }
        if let Some(overwrites) = &read.overwrites {
            self.check_given(guild, request.actor, overwrites.iter(), Some(channel))?;
        }
        let (guild, before, now) = (guild.id, channel.json(), self.now_ms());
        let channel = self.channel_mut(id)?;
        channel.kind = kind;
        if let Some(name) = read.name {
            channel.name = text_name(kind, name);
        }
        if !channel.is_thread() {
            read.parent.apply_to(&mut channel.parent);
            channel.position = read.position.unwrap_or(channel.position);
            if let Some(overwrites) = read.overwrites {
                channel.overwrites = overwrites;
            }
        }
        channel.settings.extend(read.settings);
        if let Some(thread) = &mut channel.thread {
            if let Some(archived) = read.archived
                && archived != thread.archived
            {
                (thread.archived, thread.archive_changed_ms) = (archived, now);
            }
            thread.locked = read.locked.unwrap_or(thread.locked);
            thread.invitable = read.invitable.unwrap_or(thread.invitable);
            thread.auto_archive_minutes = read.auto_archive_minutes.unwrap_or(thread.auto_archive_minutes);
        }
        let (json, is_thread) = (channel.json(), channel.is_thread());
        self.happen(if is_thread { "THREAD_UPDATE" } else { "CHANNEL_UPDATE" }, guild, json.clone());
        let entry = AuditEntry::new(if is_thread { 111 } else { 11 }, id).with_changes(changes(&before, &json));
        self.audit(guild, request.actor, entry, request.reason);
        Ok(Reply::ok(json))
    }

    pub(super) fn delete_channel(&mut self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let (_, channel) = self.channel(request.actor, id)?;
        let needed = match channel.is_thread() {
            true => Permissions::MANAGE_THREADS,
            false => Permissions::MANAGE_CHANNELS,
        };
        let (guild, channel) = self.channel_with(request.actor, id, needed)?;
        for key in ["rules_channel_id", "public_updates_channel_id"] {
            if guild.settings.get(key) == Some(&json!(id)) {
                let message = "Cannot delete a channel required for Community guilds";
                return Err(DiscordError { status: 400, code: 50074, message: message.into(), errors: None });
            }
        }
        let (guild_id, json, is_thread) = (guild.id, channel.json(), channel.is_thread());
        let below: Vec<_> =
            guild.channels.values().filter(|channel| channel.parent == Some(id)).map(|c| c.id).collect();
        let guild = self.guild_mut(guild_id)?;
        guild.channels.remove(&id);
        let mut gone = vec![id];
        let mut orphaned = Vec::new();
        for below in below {
            match guild.channels.get_mut(&below) {
                // Threads go with their channel; what was in a category stays.
                Some(channel) if channel.is_thread() => {
                    guild.channels.remove(&below);
                    gone.push(below);
                }
                Some(channel) => {
                    channel.parent = None;
                    orphaned.push(channel.json());
                }
                None => {}
            }
        }
        for setting in guild.settings.values_mut() {
            if *setting == json!(id) {
                *setting = Value::Null;
            }
        }
        for gone in gone {
            self.channel_guilds.remove(&gone);
            self.webhooks.retain(|_, webhook| webhook.channel != gone);
            self.invites.retain(|_, invite| invite.channel != gone);
        }
        if is_thread {
            let event = json!({"id": id, "parent_id": json["parent_id"], "type": json["type"]});
            self.happen("THREAD_DELETE", guild_id, event);
        } else {
            self.happen("CHANNEL_DELETE", guild_id, json.clone());
        }
        for channel in orphaned {
            self.happen("CHANNEL_UPDATE", guild_id, channel);
        }
        let entry = AuditEntry::new(if is_thread { 112 } else { 12 }, id).with_changes(changes(&json, &json!({})));
        self.audit(guild_id, request.actor, entry, request.reason);
        Ok(Reply::ok(json))
    }

    pub(super) fn put_overwrite(
        &mut self,
        request: &Request<'_>,
        id: Snowflake,
        target: Snowflake,
    ) -> Result<Reply, DiscordError> {
        let (guild, channel) = self.channel_with(request.actor, id, Permissions::MANAGE_ROLES)?;
        if channel.is_thread() {
            return Err(DiscordError::wrong_channel_type());
        }
        let mut form = Form::new(request.object()?);
        if form.raw("type").is_none_or(Value::is_null) {
            form.required("type");
        }
        let overwrite = read_overwrite(&mut form, guild, Some(target));
        form.finish()?;
        let overwrite = overwrite.ok_or_else(DiscordError::unknown_overwrite)?;
        let is_there = match overwrite.kind {
            OverwriteFor::Role => guild.roles.contains_key(&target),
            OverwriteFor::Member => self.users.contains_key(&target),
        };
        if !is_there {
            return Err(DiscordError::unknown_overwrite());
        }
        self.check_given(guild, request.actor, std::iter::once(&overwrite), Some(channel))?;
        let guild = guild.id;
        let channel = self.channel_mut(id)?;
        let is_new = channel.overwrites.iter().all(|before| before.id != target);
        channel.overwrites.retain(|before| before.id != target);
        channel.overwrites.push(overwrite);
        let json = channel.json();
        self.happen("CHANNEL_UPDATE", guild, json);
        let options = json!({"id": target, "type": if overwrite.kind == OverwriteFor::Role { "0" } else { "1" }});
        let entry = AuditEntry::new(if is_new { 13 } else { 14 }, id).with_options(options);
        self.audit(guild, request.actor, entry, request.reason);
        Ok(Reply::none())
    }

    pub(super) fn delete_overwrite(
        &mut self,
        request: &Request<'_>,
        id: Snowflake,
        target: Snowflake,
    ) -> Result<Reply, DiscordError> {
        let (guild, channel) = self.channel_with(request.actor, id, Permissions::MANAGE_ROLES)?;
        if channel.overwrites.iter().all(|overwrite| overwrite.id != target) {
            return Err(DiscordError::unknown_overwrite());
        }
        let guild = guild.id;
        let channel = self.channel_mut(id)?;
        channel.overwrites.retain(|overwrite| overwrite.id != target);
        let json = channel.json();
        self.happen("CHANNEL_UPDATE", guild, json);
        let entry = AuditEntry::new(15, id).with_options(json!({"id": target}));
        self.audit(guild, request.actor, entry, request.reason);
        Ok(Reply::none())
    }

    pub(super) fn move_channels(&mut self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let guild = self.guild_with(request.actor, id, Permissions::MANAGE_CHANNELS)?;
        let mut moves = Vec::new();
        for entry in request.array()? {
            let Some(fields) = entry.as_object() else { return Err(DiscordError::bad_json()) };
            let mut form = Form::new(fields);
            let channel = form.id("id").set();
            if channel.is_none() {
                form.required("id");
            }
            let position = form.integer("position", 0..=i64::from(i32::MAX)).set();
            let parent = form.id("parent_id");
            let locks = form.flag("lock_permissions").set().unwrap_or(false);
            form.finish()?;
            let channel = channel.ok_or_else(DiscordError::unknown_channel)?;
            if !guild.channels.contains_key(&channel) {
                return Err(DiscordError::unknown_channel());
            }
            if let Field::Set(parent) = parent
                && guild.channels.get(&parent).is_none_or(|parent| parent.kind != kind::CATEGORY)
            {
                return Err(DiscordError::unknown_channel());
            }
            moves.push((channel, position, parent, locks));
        }
        for (channel_id, position, parent, locks) in moves {
            let guild = self.guild_mut(id)?;
            let overwrites = match parent {
                Field::Set(parent) if locks => guild.channels.get(&parent).map(|parent| parent.overwrites.clone()),
                _ => None,
            };
            let Some(channel) = guild.channels.get_mut(&channel_id) else { continue };
            let before = channel.json();
            channel.position = position.unwrap_or(channel.position);
            parent.apply_to(&mut channel.parent);
            if let Some(overwrites) = overwrites {
                channel.overwrites = overwrites;
            }
            let json = channel.json();
            if json != before {
                self.happen("CHANNEL_UPDATE", id, json);
            }
        }
        Ok(Reply::none())
    }
}
