//! Interactions: a user asks the bot for something and waits, and the bot answers in time, once.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use worker_core::Snowflake;

use super::channel::Channel;
use super::command::{CHAT_INPUT, check_choice, option};
use super::discord_error::DiscordError;
use super::form::{Field, Form, as_id};
use super::guild::{Guild, User};
use super::message::{Author, flags};
use super::message_body::{MessageBody, check_modal};
use super::permissions::Permissions;
use super::request::{Reply, Request};
use super::world::World;

/// How long the bot has for its first answer.
pub const ANSWER_MS_MAX: u64 = 3_000;
/// How long it may say more.
pub const TOKEN_MS_MAX: u64 = 15 * 60 * 1_000;
/// What the answer to a command is, as a message.
const COMMAND_ANSWER: i64 = 20;
/// Choices that autocompletion may offer.
const CHOICES_MAX: usize = 25;

/// What a user asks for. In JSON an object with `ask` and what belongs to it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// A command, with its options as Discord sends them.
    Command {
        /// Which.
        command: Snowflake,
        /// `{name, type, value}`, or with `options` of their own.
        #[serde(default)]
        options: Vec<Value>,
        /// The user or the message of a command that is no slash command.
        #[serde(default)]
        target: Option<Snowflake>,
    },
    /// What could be typed into the option that has `focused`.
    Autocomplete {
        /// Which.
        command: Snowflake,
        /// As typed so far.
        options: Vec<Value>,
    },
    /// A button or a menu of a message.
    Component {
        /// The message.
        message: Snowflake,
        /// The name that its sender gave the component.
        custom_id: String,
        /// What was chosen in a menu.
        #[serde(default)]
        values: Vec<String>,
    },
    /// A modal that was filled in.
    Modal {
        /// The interaction that the modal was the answer to.
        interaction: Snowflake,
        /// The texts, by the names of their inputs.
        texts: Vec<(String, String)>,
    },
}

/// An interaction.
#[derive(Clone, Debug)]
pub struct Interaction {
    /// Its id.
    pub id: Snowflake,
    /// What lets the bot answer.
    pub token: String,
    /// What it is, as Discord counts.
    pub kind: i64,
    /// In which guild.
    pub guild: Snowflake,
    /// And channel.
    pub channel: Snowflake,
    /// Who asks.
    pub user: Snowflake,
    /// The bot's first answer, by its type.
    pub answer: Option<i64>,
    /// The message that it became, or that it is about.
    pub original: Option<Snowflake>,
    /// The message whose component was used.
    pub source: Option<Snowflake>,
    /// The name of the command.
    pub name: Option<String>,
    /// The modal that it was answered with.
    pub modal: Option<Value>,
}

/// Discord's kinds of interactions.
mod kind {
    pub(super) const COMMAND: i64 = 2;
    pub(super) const COMPONENT: i64 = 3;
    pub(super) const AUTOCOMPLETE: i64 = 4;
    pub(super) const MODAL: i64 = 5;
}

/// Discord's kinds of answers.
mod answer {
    pub(super) const PONG: i64 = 1;
    pub(super) const MESSAGE: i64 = 4;
    pub(super) const DEFERRED_MESSAGE: i64 = 5;
    pub(super) const DEFERRED_UPDATE: i64 = 6;
    pub(super) const UPDATE: i64 = 7;
    pub(super) const CHOICES: i64 = 8;
    pub(super) const MODAL: i64 = 9;
}

impl World {
    /// A user asks for something in a channel. Answers the interaction's id; what the bot says to it comes as happenings.
    pub fn ask(&mut self, user: Snowflake, channel: Snowflake, ask: Ask) -> Result<Snowflake, DiscordError> {
        let (guild, of) = self.channel(user, channel)?;
        let permissions = guild.permissions_in(user, of, self.now_ms());
        let (kind, data, source, name) = match &ask {
            Ask::Command { command, options, target } => {
                if !permissions.contains(Permissions::USE_APPLICATION_COMMANDS) {
                    return Err(DiscordError::missing_permissions());
                }
                let command = self.commands_in(guild.id).find(|one| one.id == *command);
                let command = command.ok_or_else(DiscordError::unknown_command)?;
                let needed = command.definition.get("default_member_permissions").and_then(Value::as_str);
                let needed = needed.and_then(|bits| bits.parse().ok()).map(Permissions::from_bits);
                if needed.is_some_and(|needed| !permissions.contains(needed)) {
                    return Err(DiscordError::missing_permissions());
                }
                let mut data = json!({"id": command.id, "name": command.name, "type": command.kind});
                if command.guild.is_some() {
                    data["guild_id"] = json!(guild.id);
                }
                if command.kind == CHAT_INPUT {
                    check_options(options, command.definition.get("options"))?;
                    if !options.is_empty() {
                        data["options"] = json!(options);
                    }
                }
                let mut resolved = Resolved::default();
                self.resolve(guild, options, &mut resolved);
                if let Some(target) = target {
                    data["target_id"] = json!(target);
                    if self.users.contains_key(target) {
                        self.resolve_user(guild, *target, &mut resolved);
                    } else if let Some(message) = of.message(*target) {
                        resolved.0.insert(
                            "messages".into(),
                            json!({target.to_string(): self.message_json(message, self.bot)}),
                        );
                    }
                }
                if !resolved.0.is_empty() {
                    data["resolved"] = Value::Object(resolved.0);
                }
                (kind::COMMAND, data, None, Some(command.name.clone()))
            }
            Ask::Autocomplete { command, options } => {
                let command = self.commands_in(guild.id).find(|one| one.id == *command);
                let command = command.ok_or_else(DiscordError::unknown_command)?;
                let data = json!({"id": command.id, "name": command.name, "type": command.kind, "options": options});
                (kind::AUTOCOMPLETE, data, None, Some(command.name.clone()))
            }
            Ask::Component { message, custom_id, values } => {
                let found = of.message(*message).filter(|found| found.visible_to.is_none_or(|only| only == user));
                let found = found.ok_or_else(DiscordError::unknown_message)?;
                let component = find_component(&found.components, custom_id);
                let component = component.ok_or_else(DiscordError::unknown_interaction)?;
                let kind = component["type"].as_i64().unwrap_or(2);
                let mut data = json!({"custom_id": custom_id, "component_type": kind, "id": component["id"]});
                if kind != 2 {
                    data["values"] = json!(values);
                    let mut resolved = Resolved::default();
                    for id in values.iter().filter_map(|value| as_id(&json!(value))) {
                        self.resolve_any(guild, id, &mut resolved);
                    }
                    if !resolved.0.is_empty() {
                        data["resolved"] = Value::Object(resolved.0);
                    }
                }
                (kind::COMPONENT, data, Some(*message), None)
            }
            Ask::Modal { interaction, texts } => {
                let found = self.interactions.iter().find(|one| one.id == *interaction && one.user == user);
                let found = found.ok_or_else(DiscordError::unknown_interaction)?;
                let modal = found.modal.as_ref().ok_or_else(DiscordError::unknown_interaction)?;
                let mut filled = modal["components"].clone();
                fill(&mut filled, texts);
                let data = json!({"custom_id": modal["custom_id"], "components": filled});
                (kind::MODAL, data, found.source, None)
            }
        };
        let app_permissions = guild.permissions_in(self.bot, of, self.now_ms());
        let mut member = self.member_json(guild, user);
        member["permissions"] = json!(permissions);
        let mut channel_json = of.json();
        channel_json["permissions"] = json!(permissions);
        let guild_id = guild.id;
        let locale = guild.settings.get("preferred_locale").cloned();
        let guild_json = json!({"id": guild_id, "features": guild.features, "locale": locale});
        let message = source.and_then(|id| of.message(id)).map(|message| self.message_json(message, self.bot));
        let (id, token) = (self.new_id(), self.random_text(96));
        let mut event = json!({
            "id": id, "application_id": self.bot, "type": kind, "data": data, "guild": guild_json,
            "channel": channel_json, "channel_id": channel, "member": member, "token": token, "version": 1,
            "app_permissions": app_permissions, "locale": "en-US", "guild_locale": locale, "entitlements": [],
            "entitlement_sku_ids": [], "authorizing_integration_owners": {"0": guild_id}, "context": 0,
            "attachment_size_limit": 10_485_760,
        });
        if let Some(message) = message {
            event["message"] = message;
        }
        if self.interactions.len() >= Self::INTERACTIONS_MAX {
            self.interactions.pop_front();
        }
        self.interactions.push_back(Interaction {
            id,
            token,
            kind,
            guild: guild_id,
            channel,
            user,
            answer: None,
            original: None,
            source,
            name,
            modal: None,
        });
        self.happen("INTERACTION_CREATE", guild_id, event);
        Ok(id)
    }

    fn resolve(&self, guild: &Guild, options: &[Value], to: &mut Resolved) {
        for given in options {
            if let Some(below) = given["options"].as_array() {
                self.resolve(guild, below, to);
            }
            let kind = given["type"].as_i64().unwrap_or(0);
            if let Some(id) = as_id(&given["value"]).filter(|_| (option::USER..=option::MENTIONABLE).contains(&kind)) {
                self.resolve_any(guild, id, to);
            }
        }
    }

    fn resolve_any(&self, guild: &Guild, id: Snowflake, to: &mut Resolved) {
        if self.users.contains_key(&id) {
            self.resolve_user(guild, id, to);
        } else if let Some(role) = guild.roles.get(&id) {
            to.put("roles", id, role.json());
        } else if let Some(channel) = guild.channels.get(&id) {
            let mut json = json!({"id": id, "name": channel.name, "type": channel.kind, "parent_id": channel.parent});
            json["permissions"] = json!(guild.permissions_in(self.bot, channel, self.now_ms()));
            to.put("channels", id, json);
        }
    }

    fn resolve_user(&self, guild: &Guild, id: Snowflake, to: &mut Resolved) {
        let Some(user) = self.users.get(&id) else { return };
        to.put("users", id, user.json());
        if let Some(member) = guild.members.get(&id) {
            let mut json = member.json_without_user();
            json["permissions"] = json!(guild.permissions(id, self.now_ms()));
            to.put("members", id, json);
        }
    }

    // ---- What the bot says

    pub(super) fn interaction_callback(
        &mut self,
        request: &Request<'_>,
        id: Snowflake,
        token: &str,
    ) -> Result<Reply, DiscordError> {
        let at = self.interactions.iter().position(|one| one.id == id && one.token == token);
        let at = at.ok_or_else(DiscordError::unknown_interaction)?;
        let interaction = self.interactions[at].clone();
        if interaction.answer.is_some() {
            return Err(DiscordError::already_acknowledged());
        }
        if self.now_ms().saturating_sub(id.created_at_millis()) > ANSWER_MS_MAX {
            return Err(DiscordError::unknown_interaction());
        }
        let mut form = Form::new(request.object()?);
        let possible: &[i64] = match interaction.kind {
            kind::AUTOCOMPLETE => &[answer::CHOICES],
            kind::COMPONENT => &[
                answer::PONG,
                answer::MESSAGE,
                answer::DEFERRED_MESSAGE,
                answer::DEFERRED_UPDATE,
                answer::UPDATE,
                answer::MODAL,
            ],
            kind::MODAL if interaction.source.is_some() => {
                &[answer::PONG, answer::MESSAGE, answer::DEFERRED_MESSAGE, answer::DEFERRED_UPDATE, answer::UPDATE]
            }
            kind::MODAL => &[answer::PONG, answer::MESSAGE, answer::DEFERRED_MESSAGE],
            _ => &[answer::PONG, answer::MESSAGE, answer::DEFERRED_MESSAGE, answer::MODAL],
        };
        if form.raw("type").is_none() {
            form.required("type");
        }
        let kind = form.choice("type", possible).set();
        let mut body = None;
        let has_message = matches!(kind, Some(answer::MESSAGE | answer::UPDATE));
        if has_message && !matches!(form.raw("data"), Some(Value::Object(_))) {
            form.required("data");
        }
        form.within("data", |form| match kind {
            Some(answer::MESSAGE | answer::UPDATE) => body = Some(MessageBody::read_form(form)),
            Some(answer::CHOICES) => match form.list("choices", 0..=CHOICES_MAX) {
                Field::Set(list) => form.each("choices", list, check_choice),
                _ => form.required("choices"),
            },
            Some(answer::MODAL) => check_modal(form),
            _ => {}
        });
        let data = form.raw("data").cloned().unwrap_or_default();
        form.finish()?;
        let Some(kind) = kind else { return Err(DiscordError::unknown_interaction()) };
        let is_ephemeral = data["flags"].as_i64().unwrap_or(0) & flags::EPHEMERAL != 0;
        let mut created = Value::Null;
        match (kind, body) {
            (answer::MESSAGE, Some(body)) => {
                if body.is_empty() {
                    return Err(DiscordError::empty_message());
                }
                created = self.answer_message(at, body, is_ephemeral, 0)?;
            }
            (answer::DEFERRED_MESSAGE, _) => {
                let body = MessageBody::read(&Map::new())?;
                created = self.answer_message(at, body, is_ephemeral, flags::LOADING)?;
            }
            (answer::UPDATE, Some(body)) => {
                let source = interaction.source.ok_or_else(DiscordError::unknown_message)?;
                let is_flagged = data.get("flags").is_some();
                created = self.change_message(interaction.channel, source, body, is_flagged, true)?;
                self.interactions[at].original = Some(source);
            }
            (answer::DEFERRED_UPDATE, _) => self.interactions[at].original = interaction.source,
            (answer::MODAL, _) => self.interactions[at].modal = Some(data.clone()),
            _ => {}
        }
        self.interactions[at].answer = Some(kind);
        let shown = json!({"interaction_id": id, "user_id": interaction.user, "type": kind, "data": data});
        self.show("INTERACTION_ANSWER", Some(interaction.guild), shown);
        if !request.flag("with_response") {
            return Ok(Reply::none());
        }
        let mut callback = json!({"id": id, "type": interaction.kind});
        if !created.is_null() {
            callback["response_message_id"] = created["id"].clone();
            callback["response_message_ephemeral"] = json!(is_ephemeral);
        }
        let resource = if created.is_null() { Value::Null } else { json!({"type": kind, "message": created}) };
        Ok(Reply::ok(json!({"interaction": callback, "resource": resource})))
    }

    /// Makes the message that the interaction is answered with.
    fn answer_message(
        &mut self,
        at: usize,
        body: MessageBody,
        is_ephemeral: bool,
        more_flags: i64,
    ) -> Result<Value, DiscordError> {
        let interaction = self.interactions[at].clone();
        let mut message = self.new_message(interaction.channel, Author::User(self.bot), body, true);
        message.flags |= more_flags;
        if is_ephemeral {
            message.flags |= flags::EPHEMERAL;
            message.visible_to = Some(interaction.user);
        }
        message.kind = match interaction.kind {
            kind::COMMAND => COMMAND_ANSWER,
            _ => 0,
        };
        message.interaction = Some(json!({
            "id": interaction.id, "type": interaction.kind, "name": interaction.name,
            "user": self.users.get(&interaction.user).map(User::json), "authorizing_integration_owners": {"0": interaction.guild},
        }));
        self.interactions[at].original = Some(message.id);
        self.put_message(message)
    }

    /// The interaction of a token with which more may be said.
    fn interaction_by_token(&self, application: Snowflake, token: &str) -> Result<usize, DiscordError> {
        if application != self.bot {
            return Err(DiscordError::unknown_webhook());
        }
        let at = self.interactions.iter().position(|one| one.token == token);
        let at = at.ok_or_else(DiscordError::unknown_webhook)?;
        let interaction = &self.interactions[at];
        if self.now_ms().saturating_sub(interaction.id.created_at_millis()) > TOKEN_MS_MAX {
            return Err(DiscordError::invalid_webhook_token());
        }
        if interaction.answer.is_none() {
            return Err(DiscordError::unknown_webhook());
        }
        Ok(at)
    }

    pub(super) fn followup(
        &mut self,
        request: &Request<'_>,
        application: Snowflake,
        token: &str,
    ) -> Result<Reply, DiscordError> {
        let at = self.interaction_by_token(application, token)?;
        let body = MessageBody::read(request.object()?)?;
        if body.is_empty() {
            return Err(DiscordError::empty_message());
        }
        let interaction = self.interactions[at].clone();
        // The first one takes the place of a promise.
        let channel = self.channel_mut(interaction.channel)?;
        let promise = interaction
            .original
            .and_then(|id| channel.message(id))
            .filter(|message| message.flags & flags::LOADING != 0);
        if let Some(promise) = promise.map(|promise| promise.id) {
            let json = self.change_message(interaction.channel, promise, body, false, true)?;
            return Ok(Reply::ok(json));
        }
        let is_ephemeral = request.object()?.get("flags").and_then(Value::as_i64).unwrap_or(0) & flags::EPHEMERAL != 0;
        let mut message = self.new_message(interaction.channel, Author::User(self.bot), body, true);
        if is_ephemeral {
            message.flags |= flags::EPHEMERAL;
            message.visible_to = Some(interaction.user);
        }
        message.answers = interaction.original.filter(|_| !is_ephemeral);
        let json = self.put_message(message)?;
        Ok(Reply::ok(json))
    }

    /// The channel and the id of a message that was said by way of an interaction; `@original` is the first.
    fn said(&self, at: usize, message: &str) -> Result<(Snowflake, Snowflake), DiscordError> {
        let interaction = &self.interactions[at];
        let id = match message {
            "@original" => interaction.original.ok_or_else(DiscordError::unknown_message)?,
            id => as_id(&json!(id)).ok_or_else(|| super::request::not_a_snowflake("message_id", id))?,
        };
        let guild = self.guilds.get(&interaction.guild).ok_or_else(DiscordError::unknown_channel)?;
        let channel = guild.channels.get(&interaction.channel).ok_or_else(DiscordError::unknown_channel)?;
        let found = channel.message(id).ok_or_else(DiscordError::unknown_message)?;
        if found.author == Author::User(self.bot) { Ok((channel.id, id)) } else { Err(DiscordError::unknown_message()) }
    }

    pub(super) fn get_said(&self, application: Snowflake, token: &str, message: &str) -> Result<Reply, DiscordError> {
        let at = self.interaction_by_token(application, token)?;
        let (channel, id) = self.said(at, message)?;
        let guild = self.guilds.get(&self.interactions[at].guild).ok_or_else(DiscordError::unknown_guild)?;
        let found = guild.channels.get(&channel).and_then(|channel: &Channel| channel.message(id));
        let found = found.ok_or_else(DiscordError::unknown_message)?;
        Ok(Reply::ok(self.message_json(found, self.bot)))
    }

    pub(super) fn edit_said(
        &mut self,
        request: &Request<'_>,
        application: Snowflake,
        token: &str,
        message: &str,
    ) -> Result<Reply, DiscordError> {
        let at = self.interaction_by_token(application, token)?;
        let (channel, id) = self.said(at, message)?;
        let body = MessageBody::read(request.object()?)?;
        let is_flagged = request.object()?.contains_key("flags");
        Ok(Reply::ok(self.change_message(channel, id, body, is_flagged, true)?))
    }

    pub(super) fn delete_said(
        &mut self,
        application: Snowflake,
        token: &str,
        message: &str,
    ) -> Result<Reply, DiscordError> {
        let at = self.interaction_by_token(application, token)?;
        let (channel, id) = self.said(at, message)?;
        self.remove_message(channel, id)?;
        Ok(Reply::none())
    }
}

/// What ids stand for, by kind.
#[derive(Default)]
struct Resolved(Map<String, Value>);

impl Resolved {
    fn put(&mut self, kind: &str, id: Snowflake, json: Value) {
        let of_kind = self.0.entry(kind).or_insert_with(|| json!({}));
        of_kind[id.to_string()] = json;
    }
}

/// The component of this name, at any depth.
fn find_component<'a>(components: &'a [Value], custom_id: &str) -> Option<&'a Value> {
    components.iter().find_map(|component| {
        if component["custom_id"] == custom_id {
            return Some(component);
        }
        let below = component["components"].as_array().and_then(|below| find_component(below, custom_id));
        below.or_else(|| component.get("accessory").filter(|accessory| accessory["custom_id"] == custom_id))
    })
}

/// Puts texts into the inputs of a modal.
fn fill(components: &mut Value, texts: &[(String, String)]) {
    let Some(list) = components.as_array_mut() else { return };
    for component in list {
        if let Some((_, text)) = texts.iter().find(|(name, _)| component["custom_id"] == **name) {
            let kind = component["type"].clone();
            *component = json!({"type": kind, "custom_id": component["custom_id"], "value": text});
            continue;
        }
        for key in ["components", "component"] {
            match component.get_mut(key) {
                Some(below @ Value::Array(_)) => fill(below, texts),
                Some(below @ Value::Object(_)) => {
                    let mut one = json!([below.take()]);
                    fill(&mut one, texts);
                    *below = one[0].take();
                }
                _ => {}
            }
        }
    }
}

/// What Discord's client would not let a user send: options that are missing, or of the wrong kind.
fn check_options(given: &[Value], defined: Option<&Value>) -> Result<(), DiscordError> {
    let defined = defined.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut errors = super::discord_error::FormErrors::default();
    for one in defined {
        let found = given.iter().find(|given| given["name"] == one["name"]);
        let name = one["name"].as_str().unwrap_or_default().to_owned();
        let kind = one["type"].as_i64().unwrap_or(0);
        match found {
            None if one["required"] == true => {
                errors.add(&[name], "BASE_TYPE_REQUIRED", "This field is required");
            }
            Some(found) if kind <= option::SUB_COMMAND_GROUP => {
                let below = found["options"].as_array().map_or(&[][..], Vec::as_slice);
                check_options(below, one.get("options"))?;
            }
            Some(found) => {
                let value = &found["value"];
                let is_good = match kind {
                    option::STRING => value.is_string(),
                    option::INTEGER => value.is_i64(),
                    option::BOOLEAN => value.is_boolean(),
                    option::NUMBER => value.is_number(),
                    option::USER | option::CHANNEL | option::ROLE | option::MENTIONABLE => as_id(value).is_some(),
                    _ => true,
                };
                if !is_good {
                    errors.add(&[name], "BASE_TYPE_INVALID", "The value is of another type than the option");
                }
            }
            None => {}
        }
    }
    for unknown in given.iter().filter(|given| defined.iter().all(|one| one["name"] != given["name"])) {
        let name = unknown["name"].as_str().unwrap_or_default().to_owned();
        errors.add(&[name], "BASE_TYPE_INVALID", "The command has no option of this name");
    }
    if errors.is_empty() { Ok(()) } else { Err(DiscordError::invalid_form(errors)) }
}
