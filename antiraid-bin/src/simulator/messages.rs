//! What can be done with messages.

use serde_json::{Value, json};
use worker_core::Snowflake;

use super::channel::{Channel, kind};
use super::discord_error::{DiscordError, FormErrors};
use super::form::{Field, Form};
use super::guild::Guild;
use super::message::{Author, Message, Reaction, flags};
use super::message_body::{AllowedMentions, MessageBody, emoji, mentions};
use super::permissions::Permissions;
use super::request::{Reply, Request};
use super::world::{AuditEntry, World};

/// How old messages may be that are deleted together.
const BULK_DELETE_AGE_MS_MAX: u64 = 14 * 24 * 3600 * 1000;
/// What a message is that answers another one.
const REPLY: i64 = 19;

impl World {
    pub(super) fn get_messages(&self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let limit = request.limit(50, 1, 100)?;
        let (before, after, around) = (request.id("before")?, request.id("after")?, request.id("around")?);
        let (guild, channel) = self.channel_with(request.actor, id, Permissions::NONE)?;
        if !channel.has_messages() {
            return Err(DiscordError::wrong_channel_type());
        }
        let permissions = guild.permissions_in(request.actor, channel, self.now_ms());
        if !permissions.contains(Permissions::READ_MESSAGE_HISTORY) {
            return Ok(Reply::ok(json!([])));
        }
        let all = channel.messages.iter().filter(|message| message.visible_to.is_none());
        // Newest first, in each case.
        let some: Vec<_> = match (around, before, after) {
            (Some(around), ..) => {
                let half = limit / 2;
                let newer = all.clone().filter(|message| message.id > around).take(half).collect::<Vec<_>>();
                let older = all.rev().filter(|message| message.id <= around).take(limit - half);
                newer.into_iter().rev().chain(older).collect()
            }
            (None, Some(before), _) => all.rev().filter(|message| message.id < before).take(limit).collect(),
            (None, None, Some(after)) => {
                let newer: Vec<_> = all.filter(|message| message.id > after).take(limit).collect();
                newer.into_iter().rev().collect()
            }
            (None, None, None) => all.rev().take(limit).collect(),
        };
        let some: Vec<_> = some.into_iter().map(|message| self.message_json(message, request.actor)).collect();
        Ok(Reply::ok(json!(some)))
    }

    pub(super) fn get_message(
        &self,
        request: &Request<'_>,
        id: Snowflake,
        message: Snowflake,
    ) -> Result<Reply, DiscordError> {
        let (_, channel) = self.channel_with(request.actor, id, Permissions::READ_MESSAGE_HISTORY)?;
        let message = visible(channel, message, request.actor)?;
        Ok(Reply::ok(self.message_json(message, request.actor)))
    }

    pub(super) fn create_message(&mut self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let actor = request.actor;
        let (guild, channel) = self.channel(actor, id)?;
        if !channel.has_messages() {
            return Err(DiscordError::not_a_text_channel());
        }
        let permissions = guild.permissions_in(actor, channel, self.now_ms());
        let needed = match channel.is_thread() {
            true => Permissions::SEND_MESSAGES_IN_THREADS,
            false => Permissions::SEND_MESSAGES,
        };
        if !permissions.contains(needed) {
            return Err(DiscordError::missing_permissions());
        }
        if channel.thread.as_ref().is_some_and(|thread| thread.archived && thread.locked)
            && !permissions.contains(Permissions::MANAGE_THREADS)
        {
            return Err(DiscordError::archived_thread());
        }
        let body = MessageBody::read(request.object()?)?;
        if body.is_empty() {
            return Err(DiscordError::empty_message());
        }
        for (is_used, needed) in [
            (matches!(&body.embeds, Field::Set(list) if !list.is_empty()), Permissions::EMBED_LINKS),
            (body.tts, Permissions::SEND_TTS_MESSAGES),
            (matches!(body.poll, Field::Set(_)), Permissions::SEND_POLLS),
        ] {
            if is_used && !permissions.contains(needed) {
                return Err(DiscordError::missing_permissions());
            }
        }
        let mut answers = body.answers;
        if let Some(answered) = answers {
            if !permissions.contains(Permissions::READ_MESSAGE_HISTORY) {
                let message = "Cannot reply without permission to read message history";
                return Err(DiscordError { status: 400, code: 160_002, message: message.into(), errors: None });
            }
            if channel.message(answered).is_none() {
                if !body.answers_anyhow {
                    let mut errors = FormErrors::default();
                    let path = ["message_reference".to_owned()];
                    errors.add(&path, "MESSAGE_REFERENCE_UNKNOWN_MESSAGE", "Unknown message");
                    return Err(DiscordError::invalid_form(errors));
                }
                answers = None;
            }
        }
        let guild = guild.id;
        let content = if let Field::Set(text) = &body.content { text.clone() } else { String::new() };
        self.moderate(guild, id, actor, &content)?;
        let author = Author::User(actor);
        let mut message = self.new_message(id, author, body, permissions.contains(Permissions::MENTION_EVERYONE));
        if answers.is_some() {
            message.kind = REPLY;
        }
        message.answers = answers;
        let created = self.put_message(message)?;
        Ok(Reply::ok(created))
    }

    /// A message with this body, that is not anywhere yet.
    pub(super) fn new_message(
        &mut self,
        channel: Snowflake,
        author: Author,
        body: MessageBody,
        may_mention_everyone: bool,
    ) -> Message {
        let id = self.new_id();
        let content = body.content.set().unwrap_or_default();
        let flags = body.flags & (flags::SUPPRESS_EMBEDS | flags::SUPPRESS_NOTIFICATIONS | flags::IS_COMPONENTS_V2);
        let application = match author {
            Author::User(user) => self.users.get(&user).is_some_and(|user| user.bot).then_some(user),
            Author::Webhook { .. } => None,
        };
        let mut message = Message {
            id,
            channel,
            author,
            kind: 0,
            content,
            embeds: body.embeds.set().unwrap_or_default(),
            components: self.with_component_ids(body.components.set().unwrap_or_default()),
            poll: body.poll.set(),
            flags,
            tts: body.tts,
            pinned: false,
            edited_ms: None,
            mentions: Vec::new(),
            mention_roles: Vec::new(),
            mention_everyone: false,
            reactions: Vec::new(),
            answers: None,
            interaction: None,
            application,
            nonce: body.nonce,
            visible_to: None,
        };
        self.set_mentions(&mut message, &body.allowed_mentions, may_mention_everyone);
        message
    }

    /// Discord numbers the components of a message.
    fn with_component_ids(&self, mut components: Vec<Value>) -> Vec<Value> {
        fn number(component: &mut Value, next: &mut u64) {
            let Some(fields) = component.as_object_mut() else { return };
            fields.entry("id").or_insert_with(|| json!(*next));
            *next += 1;
            for below in fields.values_mut() {
                if let Value::Array(list) = below
                    && list.iter().all(|one| one.get("type").is_some_and(Value::is_number))
                {
                    list.iter_mut().for_each(|one| number(one, next));
                }
            }
        }
        let mut next = 1;
        components.iter_mut().for_each(|component| number(component, &mut next));
        components
    }

    fn set_mentions(&self, message: &mut Message, allowed: &AllowedMentions, may_mention_everyone: bool) {
        let guild = self.channel_guilds.get(&message.channel).and_then(|guild| self.guilds.get(guild));
        let (users, roles, everyone) = mentions(&message.content);
        message.mentions = (users.into_iter())
            .filter(|id| self.users.contains_key(id))
            .filter(|id| allowed.all || allowed.any_user || allowed.users.contains(id))
            .collect();
        message.mention_roles = (roles.into_iter())
            .filter(|id| guild.is_some_and(|guild| guild.roles.contains_key(id)))
            .filter(|id| allowed.all || allowed.any_role || allowed.roles.contains(id))
            .collect();
        message.mention_everyone = everyone && may_mention_everyone && (allowed.all || allowed.everyone);
        let answered = message.answers.and_then(|id| guild?.channels.get(&message.channel)?.message(id));
        if let Some(Author::User(user)) = answered.map(|answered| &answered.author)
            && allowed.replied_user
            && !message.mentions.contains(user)
        {
            message.mentions.push(*user);
        }
    }

    /// Puts a message into its channel and tells so. Answers Discord's message object.
    pub(super) fn put_message(&mut self, message: Message) -> Result<Value, DiscordError> {
        let (id, author) = (message.channel, message.author.clone());
        let reader = self.bot;
        let now_ms = self.now_ms();
        let channel = self.channel_mut(id)?;
        let guild = channel.guild;
        if channel.messages.len() >= Channel::MESSAGES_MAX {
            channel.messages.pop_front();
        }
        if message.visible_to.is_none() {
            channel.last_message = Some(message.id);
        }
        let mut is_opened = false;
        if let Some(thread) = &mut channel.thread {
            thread.sent += 1;
            if thread.archived {
                (thread.archived, thread.archive_changed_ms, is_opened) = (false, now_ms, true);
            }
        }
        let visible_to = message.visible_to;
        channel.messages.push_back(message.clone());
        if is_opened {
            let json = channel.json();
            self.happen("THREAD_UPDATE", guild, json);
        }
        let json = self.message_json(&message, reader);
        let event = self.message_event(&json, guild, &author);
        match visible_to {
            None => self.happen("MESSAGE_CREATE", guild, event),
            Some(_) => self.show_to(guild, visible_to, "MESSAGE_CREATE", event),
        }
        Ok(json)
    }

    fn show_to(&mut self, guild: Snowflake, user: Option<Snowflake>, name: &'static str, mut event: Value) {
        event["guild_id"] = json!(guild);
        event["visible_to"] = json!(user);
        self.show(name, Some(guild), event);
    }

    /// The message as events have it: with the member, and the members of who is named.
    fn message_event(&self, message: &Value, guild: Snowflake, author: &Author) -> Value {
        let mut event = message.clone();
        let Some(guild) = self.guilds.get(&guild) else { return event };
        event["channel_type"] = message["channel_id"]
            .as_str()
            .and_then(|id| id.parse().ok())
            .and_then(|id| guild.channels.get(&id))
            .map_or(Value::Null, |channel| json!(channel.kind));
        if let Author::User(user) = author
            && let Some(member) = guild.members.get(user)
        {
            event["member"] = member.json_without_user();
        }
        if let Value::Array(mentions) = &mut event["mentions"] {
            for mention in mentions {
                let user = mention["id"].as_str().and_then(|id| id.parse().ok());
                if let Some(member) = user.and_then(|user: Snowflake| guild.members.get(&user)) {
                    mention["member"] = member.json_without_user();
                }
            }
        }
        event
    }

    pub(super) fn edit_message(
        &mut self,
        request: &Request<'_>,
        id: Snowflake,
        message: Snowflake,
    ) -> Result<Reply, DiscordError> {
        let (guild, channel) = self.channel_with(request.actor, id, Permissions::NONE)?;
        let found = visible(channel, message, request.actor)?;
        let permissions = guild.permissions_in(request.actor, channel, self.now_ms());
        let body = MessageBody::read(request.object()?)?;
        if found.author != Author::User(request.actor) {
            // Of others' messages, embeds alone can be hidden.
            let only_flags = request.object()?.keys().all(|key| key == "flags");
            if !only_flags || !permissions.contains(Permissions::MANAGE_MESSAGES) {
                return Err(DiscordError::not_its_author());
            }
        }
        let is_flagged = request.object()?.contains_key("flags");
        let may_mention_everyone = permissions.contains(Permissions::MENTION_EVERYONE);
        let json = self.change_message(id, message, body, is_flagged, may_mention_everyone)?;
        Ok(Reply::ok(json))
    }

    /// Changes a message to what the body has, and tells so.
    pub(super) fn change_message(
        &mut self,
        id: Snowflake,
        message: Snowflake,
        body: MessageBody,
        is_flagged: bool,
        may_mention_everyone: bool,
    ) -> Result<Value, DiscordError> {
        let mut changed = self.channel_mut(id)?.message(message).cloned().ok_or_else(DiscordError::unknown_message)?;
        match body.content {
            Field::Absent => {}
            Field::Null => changed.content.clear(),
            Field::Set(text) => changed.content = text,
        }
        match body.embeds {
            Field::Absent => {}
            Field::Null => changed.embeds.clear(),
            Field::Set(list) => changed.embeds = list,
        }
        match body.components {
            Field::Absent => {}
            Field::Null => changed.components.clear(),
            Field::Set(list) => changed.components = self.with_component_ids(list),
        }
        if is_flagged {
            let changeable = flags::SUPPRESS_EMBEDS | flags::IS_COMPONENTS_V2;
            changed.flags = changed.flags & !changeable | body.flags & changeable;
        }
        let is_empty = changed.content.trim().is_empty()
            && changed.embeds.is_empty()
            && changed.components.is_empty()
            && changed.poll.is_none();
        if is_empty && changed.flags & flags::LOADING == 0 {
            return Err(DiscordError::empty_message());
        }
        changed.flags &= !flags::LOADING;
        self.set_mentions(&mut changed, &body.allowed_mentions, may_mention_everyone);
        changed.edited_ms = Some(self.now_ms());
        let reader = self.bot;
        let channel = self.channel_mut(id)?;
        let guild = channel.guild;
        if let Some(message) = channel.message_mut(message) {
            *message = changed.clone();
        }
        let json = self.message_json(&changed, reader);
        let event = self.message_event(&json, guild, &changed.author);
        match changed.visible_to {
            None => self.happen("MESSAGE_UPDATE", guild, event),
            Some(_) => self.show_to(guild, changed.visible_to, "MESSAGE_UPDATE", event),
        }
        Ok(json)
    }

    pub(super) fn delete_message(
        &mut self,
        request: &Request<'_>,
        id: Snowflake,
        message: Snowflake,
    ) -> Result<Reply, DiscordError> {
        let actor = request.actor;
        let (guild, channel) = self.channel_with(actor, id, Permissions::NONE)?;
        let found = visible(channel, message, actor)?;
        let is_own = found.author == Author::User(actor);
        if !is_own && !guild.permissions_in(actor, channel, self.now_ms()).contains(Permissions::MANAGE_MESSAGES) {
            return Err(DiscordError::missing_permissions());
        }
        let (guild, author) = (guild.id, found.author.clone());
        self.remove_message(id, message)?;
        if let Author::User(author) = author
            && !is_own
        {
            let entry = AuditEntry::new(72, author).with_options(json!({"channel_id": id, "count": "1"}));
            self.audit(guild, actor, entry, request.reason);
        }
        Ok(Reply::none())
    }

    /// Takes a message away and tells so.
    pub(super) fn remove_message(&mut self, id: Snowflake, message: Snowflake) -> Result<Message, DiscordError> {
        let channel = self.channel_mut(id)?;
        let guild = channel.guild;
        let removed = channel.take_message(message).ok_or_else(DiscordError::unknown_message)?;
        let event = json!({"id": message, "channel_id": id});
        match removed.visible_to {
            None => self.happen("MESSAGE_DELETE", guild, event),
            Some(_) => self.show_to(guild, removed.visible_to, "MESSAGE_DELETE", event),
        }
        Ok(removed)
    }

    pub(super) fn bulk_delete(&mut self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let (guild, _) = self.channel_with(request.actor, id, Permissions::MANAGE_MESSAGES)?;
        let guild = guild.id;
        let mut form = Form::new(request.object()?);
        let ids = form.ids("messages", 0..=usize::MAX);
        if form.raw("messages").is_none() {
            form.required("messages");
        }
        form.finish()?;
        let mut ids = ids.set().unwrap_or_default();
        ids.sort_unstable();
        ids.dedup();
        if !(2..=100).contains(&ids.len()) {
            return Err(DiscordError::delete_count());
        }
        let oldest = self.now_ms().saturating_sub(BULK_DELETE_AGE_MS_MAX);
        if ids.iter().any(|id| id.created_at_millis() < oldest) {
            return Err(DiscordError::too_old_to_bulk_delete());
        }
        let channel = self.channel_mut(id)?;
        // Those that are not there are no mistake.
        let deleted: Vec<_> = ids.into_iter().filter(|id| channel.take_message(*id).is_some()).collect();
        if !deleted.is_empty() {
            self.happen("MESSAGE_DELETE_BULK", guild, json!({"ids": deleted, "channel_id": id}));
            let entry = AuditEntry::new(73, id).with_options(json!({"count": deleted.len().to_string()}));
            self.audit(guild, request.actor, entry, request.reason);
        }
        Ok(Reply::none())
    }

    pub(super) fn crosspost(
        &mut self,
        request: &Request<'_>,
        id: Snowflake,
        message: Snowflake,
    ) -> Result<Reply, DiscordError> {
        let (guild, channel) = self.channel_with(request.actor, id, Permissions::SEND_MESSAGES)?;
        if channel.kind != kind::ANNOUNCEMENT {
            return Err(DiscordError::wrong_channel_type());
        }
        let found = visible(channel, message, request.actor)?;
        let is_own = found.author == Author::User(request.actor);
        if !is_own
            && !guild.permissions_in(request.actor, channel, self.now_ms()).contains(Permissions::MANAGE_MESSAGES)
        {
            return Err(DiscordError::missing_permissions());
        }
        if found.flags & flags::CROSSPOSTED != 0 {
            return Err(DiscordError::already_crossposted());
        }
        let (guild, reader) = (guild.id, self.bot);
        let channel = self.channel_mut(id)?;
        let found = channel.message_mut(message).ok_or_else(DiscordError::unknown_message)?;
        found.flags |= flags::CROSSPOSTED;
        let found = found.clone();
        let json = self.message_json(&found, reader);
        let event = self.message_event(&json, guild, &found.author);
        self.happen("MESSAGE_UPDATE", guild, event);
        Ok(Reply::ok(json))
    }

    pub(super) fn set_pinned(
        &mut self,
        request: &Request<'_>,
        id: Snowflake,
        message: Snowflake,
        pinned: bool,
    ) -> Result<Reply, DiscordError> {
        let (guild, channel) = self.channel(request.actor, id)?;
        let permissions = guild.permissions_in(request.actor, channel, self.now_ms());
        if !permissions.contains(Permissions::PIN_MESSAGES) && !permissions.contains(Permissions::MANAGE_MESSAGES) {
            return Err(DiscordError::missing_permissions());
        }
        let author = visible(channel, message, request.actor)?.author.clone();
        let (guild, reader, now) = (guild.id, self.bot, super::guild::iso(self.now_ms()));
        let channel = self.channel_mut(id)?;
        let found = channel.message_mut(message).ok_or_else(DiscordError::unknown_message)?;
        found.pinned = pinned;
        let found = found.clone();
        let json = self.message_json(&found, reader);
        let event = self.message_event(&json, guild, &author);
        self.happen("MESSAGE_UPDATE", guild, event);
        self.happen("CHANNEL_PINS_UPDATE", guild, json!({"channel_id": id, "last_pin_timestamp": now}));
        Ok(Reply::none())
    }

    pub(super) fn typing(&mut self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let (guild, _) = self.channel_with(request.actor, id, Permissions::SEND_MESSAGES)?;
        let (guild, member) = (guild.id, self.member_json(guild, request.actor));
        let at = self.now_ms() / 1000;
        let event = json!({"channel_id": id, "user_id": request.actor, "timestamp": at, "member": member});
        self.happen("TYPING_START", guild, event);
        Ok(Reply::none())
    }

    // ---- Reactions

    pub(super) fn react(
        &mut self,
        request: &Request<'_>,
        id: Snowflake,
        message: Snowflake,
        reaction: &str,
    ) -> Result<Reply, DiscordError> {
        let actor = request.actor;
        let (guild, channel) = self.channel_with(actor, id, Permissions::READ_MESSAGE_HISTORY)?;
        let found = visible(channel, message, actor)?;
        let emoji = emoji(reaction)?;
        // Who reacts with what is there already needs no right to add.
        let is_new = found.reactions.iter().all(|reaction| reaction.emoji != emoji);
        if is_new && !guild.permissions_in(actor, channel, self.now_ms()).contains(Permissions::ADD_REACTIONS) {
            return Err(DiscordError::missing_permissions());
        }
        if is_new && found.reactions.len() >= Message::REACTIONS_MAX {
            return Err(DiscordError::too_many_reactions());
        }
        let author = found.author.clone();
        let (guild, member) = (guild.id, self.member_json(guild, actor));
        let channel = self.channel_mut(id)?;
        let found = channel.message_mut(message).ok_or_else(DiscordError::unknown_message)?;
        match found.reactions.iter_mut().find(|reaction| reaction.emoji == emoji) {
            Some(reaction) if reaction.users.contains(&actor) => return Ok(Reply::none()),
            Some(reaction) => reaction.users.push(actor),
            None => found.reactions.push(Reaction { emoji: emoji.clone(), users: vec![actor] }),
        }
        let mut event = json!({
            "user_id": actor, "channel_id": id, "message_id": message, "member": member, "emoji": emoji.json(),
            "burst": false, "type": 0,
        });
        if let Author::User(author) = author {
            event["message_author_id"] = json!(author);
        }
        self.happen("MESSAGE_REACTION_ADD", guild, event);
        Ok(Reply::none())
    }

    pub(super) fn unreact(
        &mut self,
        request: &Request<'_>,
        id: Snowflake,
        message: Snowflake,
        reaction: &str,
        user: Snowflake,
    ) -> Result<Reply, DiscordError> {
        let needed = match user == request.actor {
            true => Permissions::NONE,
            false => Permissions::MANAGE_MESSAGES,
        };
        let (guild, channel) = self.channel_with(request.actor, id, needed)?;
        visible(channel, message, request.actor)?;
        let guild = guild.id;
        let emoji = emoji(reaction)?;
        let channel = self.channel_mut(id)?;
        let found = channel.message_mut(message).ok_or_else(DiscordError::unknown_message)?;
        let reaction = found.reactions.iter_mut().find(|reaction| reaction.emoji == emoji);
        let reaction = reaction.ok_or_else(DiscordError::unknown_emoji)?;
        let before = reaction.users.len();
        reaction.users.retain(|reacted| *reacted != user);
        let is_changed = reaction.users.len() != before;
        found.reactions.retain(|reaction| !reaction.users.is_empty());
        if is_changed {
            let event = json!({
                "user_id": user, "channel_id": id, "message_id": message, "emoji": emoji.json(), "burst": false, "type": 0,
            });
            self.happen("MESSAGE_REACTION_REMOVE", guild, event);
        }
        Ok(Reply::none())
    }

    pub(super) fn get_reactions(
        &self,
        request: &Request<'_>,
        id: Snowflake,
        message: Snowflake,
        reaction: &str,
    ) -> Result<Reply, DiscordError> {
        let limit = request.limit(25, 1, 100)?;
        let after = request.id("after")?;
        let (_, channel) = self.channel_with(request.actor, id, Permissions::READ_MESSAGE_HISTORY)?;
        let found = visible(channel, message, request.actor)?;
        let emoji = emoji(reaction)?;
        let is_burst = request.text("type") == Some("1");
        let reaction = found.reactions.iter().find(|reaction| reaction.emoji == emoji && !is_burst);
        let mut users: Vec<_> = reaction.map(|reaction| reaction.users.clone()).unwrap_or_default();
        users.sort_unstable();
        let users: Vec<_> = (users.into_iter())
            .filter(|user| after.is_none_or(|after| *user > after))
            .filter_map(|user| self.users.get(&user))
            .take(limit)
            .map(super::guild::User::json)
            .collect();
        Ok(Reply::ok(json!(users)))
    }

    /// All reactions, or all with one emoji.
    pub(super) fn clear_reactions(
        &mut self,
        request: &Request<'_>,
        id: Snowflake,
        message: Snowflake,
        reaction: Option<&str>,
    ) -> Result<Reply, DiscordError> {
        let (guild, channel) = self.channel_with(request.actor, id, Permissions::MANAGE_MESSAGES)?;
        visible(channel, message, request.actor)?;
        let guild = guild.id;
        let emoji = reaction.map(emoji).transpose()?;
        let channel = self.channel_mut(id)?;
        let found = channel.message_mut(message).ok_or_else(DiscordError::unknown_message)?;
        let before = found.reactions.len();
        match &emoji {
            None => found.reactions.clear(),
            Some(emoji) => found.reactions.retain(|reaction| reaction.emoji != *emoji),
        }
        let is_changed = found.reactions.len() != before;
        match emoji {
            _ if !is_changed => {}
            None => self.happen("MESSAGE_REACTION_REMOVE_ALL", guild, json!({"channel_id": id, "message_id": message})),
            Some(emoji) => {
                let event = json!({"channel_id": id, "message_id": message, "emoji": emoji.json()});
                self.happen("MESSAGE_REACTION_REMOVE_EMOJI", guild, event);
            }
        }
        Ok(Reply::none())
    }

    // ---- Threads

    pub(super) fn create_thread(
        &mut self,
        request: &Request<'_>,
        id: Snowflake,
        message: Option<Snowflake>,
    ) -> Result<Reply, DiscordError> {
        let (guild, channel) = self.channel(request.actor, id)?;
        if channel.is_thread() || !matches!(channel.kind, kind::TEXT | kind::ANNOUNCEMENT | kind::FORUM | kind::MEDIA) {
            return Err(DiscordError::wrong_channel_type());
        }
        if let Some(message) = message {
            visible(channel, message, request.actor)?;
        }
        let mut form = Form::new(request.object()?);
        let name = form.required_text("name", 1..=100);
        let minutes = form.choice("auto_archive_duration", &[60, 1440, 4320, 10080]).set().unwrap_or(1440);
        let kind = match (channel.kind, message) {
            (kind::ANNOUNCEMENT, _) => kind::ANNOUNCEMENT_THREAD,
            (kind::FORUM | kind::MEDIA, _) | (_, Some(_)) => kind::PUBLIC_THREAD,
            _ => {
                let choices = [kind::ANNOUNCEMENT_THREAD, kind::PUBLIC_THREAD, kind::PRIVATE_THREAD];
                form.choice("type", &choices).set().unwrap_or(kind::PRIVATE_THREAD)
            }
        };
        let invitable = form.flag("invitable").set().unwrap_or(true);
        let is_forum = matches!(channel.kind, kind::FORUM | kind::MEDIA);
        let first = if is_forum { form.within("message", MessageBody::read_form).set() } else { None };
        if is_forum && form.raw("message").is_none() {
            form.required("message");
        }
        form.finish()?;
        let needed = match kind {
            _ if is_forum => Permissions::SEND_MESSAGES,
            kind::PRIVATE_THREAD => Permissions::CREATE_PRIVATE_THREADS,
            _ => Permissions::CREATE_PUBLIC_THREADS,
        };
        if !guild.permissions_in(request.actor, channel, self.now_ms()).contains(needed) {
            return Err(DiscordError::missing_permissions());
        }
        let is_open = |channel: &&Channel| channel.thread.as_ref().is_some_and(|thread| !thread.archived);
        if guild.channels.values().filter(is_open).count() >= Guild::THREADS_MAX {
            let what = "Maximum number of active threads reached";
            return Err(DiscordError { status: 400, code: 160_006, message: what.into(), errors: None });
        }
        // A thread of a message has the id of the message.
        let thread_id = match message {
            Some(message) if self.channel_guilds.contains_key(&message) => {
                let what = "A thread has already been created for this message";
                return Err(DiscordError { status: 400, code: 160_004, message: what.into(), errors: None });
            }
            Some(message) => message,
            None => Snowflake::new(0),
        };
        let guild = guild.id;
        let thread_id = if thread_id.get() == 0 { self.new_id() } else { thread_id };
        let thread = Channel {
            id: thread_id,
            guild,
            kind,
            name,
            position: 0,
            parent: Some(id),
            overwrites: Vec::new(),
            settings: super::channels::default_settings(kind),
            messages: Default::default(),
            last_message: None,
            thread: Some(super::channel::Thread {
                owner: request.actor,
                archived: false,
                locked: false,
                invitable,
                auto_archive_minutes: minutes,
                archive_changed_ms: self.now_ms(),
                members: vec![request.actor],
                sent: 0,
            }),
        };
        let mut json = thread.json();
        self.insert_channel(thread);
        let mut event = json.clone();
        event["newly_created"] = json!(true);
        self.happen("THREAD_CREATE", guild, event);
        self.audit(guild, request.actor, AuditEntry::new(110, thread_id), request.reason);
        if let Some(body) = first {
            let message = self.new_message(thread_id, Author::User(request.actor), body, false);
            json["message"] = self.put_message(message)?;
        }
        Ok(Reply::created(json))
    }

    /// Joins or leaves a thread.
    pub(super) fn set_thread_member(
        &mut self,
        request: &Request<'_>,
        id: Snowflake,
        user: Snowflake,
        joins: bool,
    ) -> Result<Reply, DiscordError> {
        let (guild, thread) = self.channel(request.actor, id)?;
        if !thread.is_thread() {
            return Err(DiscordError::wrong_channel_type());
        }
        if !joins && user != request.actor {
            self.channel_with(request.actor, id, Permissions::MANAGE_THREADS)?;
        }
        self.member(guild, user)?;
        let guild = guild.id;
        let now = super::guild::iso(self.now_ms());
        let channel = self.channel_mut(id)?;
        let Some(thread) = &mut channel.thread else { return Err(DiscordError::wrong_channel_type()) };
        let was = thread.members.contains(&user);
        if was == joins {
            return Ok(Reply::none());
        }
        if joins {
            thread.members.push(user);
        } else {
            thread.members.retain(|member| *member != user);
        }
        let count = thread.members.len().min(50);
        let event = if joins {
            json!({"id": id, "member_count": count, "added_members": [{"id": id, "user_id": user, "join_timestamp": now, "flags": 1}]})
        } else {
            json!({"id": id, "member_count": count, "removed_member_ids": [user]})
        };
        self.happen("THREAD_MEMBERS_UPDATE", guild, event);
        Ok(Reply::none())
    }

    /// What auto-moderation does about a message: it may stop it.
    fn moderate(
        &mut self,
        guild: Snowflake,
        channel: Snowflake,
        user: Snowflake,
        content: &str,
    ) -> Result<(), DiscordError> {
        let Some(of) = self.guilds.get(&guild) else { return Ok(()) };
        let is_exempt = self.users.get(&user).is_some_and(|user| user.bot)
            || of.permissions(user, self.now_ms()).contains(Permissions::MANAGE_GUILD);
        if is_exempt || content.is_empty() {
            return Ok(());
        }
        let Some(hit) = super::auto_moderation::hit(of, channel, user, content) else { return Ok(()) };
        let mut is_blocked = false;
        for action in hit.actions {
            let event = json!({
                "action": action, "rule_id": hit.rule, "rule_trigger_type": hit.trigger, "user_id": user,
                "channel_id": channel, "content": content, "matched_keyword": hit.keyword, "matched_content": hit.matched,
            });
            self.happen("AUTO_MODERATION_ACTION_EXECUTION", guild, event);
            match action["type"].as_i64() {
                Some(super::auto_moderation::BLOCK_MESSAGE) => is_blocked = true,
                Some(super::auto_moderation::TIMEOUT) => {
                    let seconds = action["metadata"]["duration_seconds"].as_i64().unwrap_or(60);
                    self.time_out(guild, user, seconds);
                }
                _ => {}
            }
        }
        if is_blocked { Err(DiscordError::blocked_by_auto_moderation()) } else { Ok(()) }
    }
}

/// A message that the user can see.
fn visible(channel: &Channel, message: Snowflake, user: Snowflake) -> Result<&Message, DiscordError> {
    let found = channel.message(message).ok_or_else(DiscordError::unknown_message)?;
    if found.visible_to.is_none_or(|only| only == user) { Ok(found) } else { Err(DiscordError::unknown_message()) }
}

impl Guild {
    /// A channel of the guild, for tests and the page.
    pub fn channel_named(&self, name: &str) -> Option<&Channel> {
        self.channels.values().find(|channel| channel.name == name)
    }
}
