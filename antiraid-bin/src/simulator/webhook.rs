//! Webhooks: addresses by which others post into a channel.

use serde_json::{Value, json};
use worker_core::Snowflake;

use super::channel::kind;
use super::discord_error::DiscordError;
use super::form::{Field, Form};
use super::message::Author;
use super::message_body::MessageBody;
use super::permissions::Permissions;
use super::request::{Reply, Request};
use super::world::{AuditEntry, World, changes};

/// A webhook.
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    /// Its id.
    pub id: Snowflake,
    /// Whose it is.
    pub guild: Snowflake,
    /// Where it posts.
    pub channel: Snowflake,
    /// Under which name.
    pub name: String,
    /// What lets others use it; none for one that follows a channel.
    pub token: Option<String>,
    /// Who made it.
    pub creator: Snowflake,
    /// The channel that is followed.
    pub follows: Option<Snowflake>,
}

impl Webhook {
    /// Webhooks that a channel may have.
    pub const IN_CHANNEL_MAX: usize = 15;

    fn json(&self, creator: Option<Value>) -> Value {
        let mut json = json!({
            "id": self.id, "type": if self.follows.is_some() { 2 } else { 1 }, "guild_id": self.guild,
            "channel_id": self.channel, "name": self.name, "avatar": null, "application_id": null,
        });
        if let Some(token) = &self.token {
            json["token"] = json!(token);
            json["url"] = json!(format!("https://discord.com/api/webhooks/{}/{token}", self.id));
        }
        if let Some(follows) = self.follows {
            json["source_channel"] = json!({"id": follows});
        }
        if let Some(creator) = creator {
            json["user"] = creator;
        }
        json
    }
}

impl World {
    fn webhook_json(&self, webhook: &Webhook) -> Value {
        webhook.json(self.users.get(&webhook.creator).map(super::guild::User::json))
    }

    fn webhook(&self, actor: Snowflake, id: Snowflake) -> Result<&Webhook, DiscordError> {
        let webhook = self.webhooks.get(&id).ok_or_else(DiscordError::unknown_webhook)?;
        self.channel_with(actor, webhook.channel, Permissions::MANAGE_WEBHOOKS)?;
        Ok(webhook)
    }

    fn webhook_by_token(&self, id: Snowflake, token: &str) -> Result<&Webhook, DiscordError> {
        let webhook = self.webhooks.get(&id).ok_or_else(DiscordError::unknown_webhook)?;
        if webhook.token.as_deref() == Some(token) { Ok(webhook) } else { Err(DiscordError::invalid_webhook_token()) }
    }

    pub(super) fn create_webhook(&mut self, request: &Request<'_>, channel: Snowflake) -> Result<Reply, DiscordError> {
        let (guild, of) = self.channel_with(request.actor, channel, Permissions::MANAGE_WEBHOOKS)?;
        if of.is_thread() || of.kind == kind::CATEGORY {
            return Err(DiscordError::wrong_channel_type());
        }
        let guild = guild.id;
        let mut form = Form::new(request.object()?);
        let name = form.required_text("name", 1..=80);
        check_name(&mut form, &name);
        check_avatar(&mut form);
        form.finish()?;
        self.add_webhook(request, guild, channel, name, None)
    }

    fn add_webhook(
        &mut self,
        request: &Request<'_>,
        guild: Snowflake,
        channel: Snowflake,
        name: String,
        follows: Option<Snowflake>,
    ) -> Result<Reply, DiscordError> {
        if self.webhooks.values().filter(|webhook| webhook.channel == channel).count() >= Webhook::IN_CHANNEL_MAX {
            return Err(DiscordError::too_many_webhooks());
        }
        let (id, token) = (self.new_id(), self.random_text(68));
        let token = follows.is_none().then_some(token);
        let webhook = Webhook { id, guild, channel, name, token, creator: request.actor, follows };
        let json = self.webhook_json(&webhook);
        self.webhooks.insert(id, webhook);
        self.happen("WEBHOOKS_UPDATE", guild, json!({"channel_id": channel}));
        self.audit(guild, request.actor, AuditEntry::new(50, id), request.reason);
        Ok(Reply::ok(json))
    }

    pub(super) fn follow_channel(&mut self, request: &Request<'_>, source: Snowflake) -> Result<Reply, DiscordError> {
        let (_, of) = self.channel(request.actor, source)?;
        if of.kind != kind::ANNOUNCEMENT {
            return Err(DiscordError::wrong_channel_type());
        }
        let name = of.name.clone();
        let mut form = Form::new(request.object()?);
        let target = form.id("webhook_channel_id");
        if !matches!(target, Field::Set(_)) {
            form.required("webhook_channel_id");
        }
        form.finish()?;
        let Field::Set(target) = target else { return Err(DiscordError::unknown_channel()) };
        let (guild, _) = self.channel_with(request.actor, target, Permissions::MANAGE_WEBHOOKS)?;
        let guild = guild.id;
        let reply = self.add_webhook(request, guild, target, name, Some(source))?;
        let id = reply.body.map(|body| body["id"].clone());
        Ok(Reply::ok(json!({"channel_id": source, "webhook_id": id})))
    }

    pub(super) fn channel_webhooks(&self, request: &Request<'_>, channel: Snowflake) -> Result<Reply, DiscordError> {
        self.channel_with(request.actor, channel, Permissions::MANAGE_WEBHOOKS)?;
        let all = self.webhooks.values().filter(|webhook| webhook.channel == channel);
        let all: Vec<_> = all.map(|webhook| self.webhook_json(webhook)).collect();
        Ok(Reply::ok(json!(all)))
    }

    pub(super) fn guild_webhooks(&self, request: &Request<'_>, guild: Snowflake) -> Result<Reply, DiscordError> {
        self.guild_with(request.actor, guild, Permissions::MANAGE_WEBHOOKS)?;
        let all = self.webhooks.values().filter(|webhook| webhook.guild == guild);
        let all: Vec<_> = all.map(|webhook| self.webhook_json(webhook)).collect();
        Ok(Reply::ok(json!(all)))
    }

    pub(super) fn get_webhook(&self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let webhook = self.webhook(request.actor, id)?;
        Ok(Reply::ok(self.webhook_json(webhook)))
    }

    pub(super) fn get_webhook_by_token(&self, id: Snowflake, token: &str) -> Result<Reply, DiscordError> {
        Ok(Reply::ok(self.webhook_by_token(id, token)?.json(None)))
    }

    pub(super) fn edit_webhook(&mut self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let webhook = self.webhook(request.actor, id)?.clone();
        let mut form = Form::new(request.object()?);
        let mut changed = webhook.clone();
        if let Field::Set(name) = form.text("name", 1..=80) {
            check_name(&mut form, &name);
            changed.name = name;
        }
        check_avatar(&mut form);
        if let Field::Set(channel) = form.id("channel_id") {
            changed.channel = channel;
        }
        form.finish()?;
        let (guild, _) = self.channel_with(request.actor, changed.channel, Permissions::MANAGE_WEBHOOKS)?;
        if guild.id != webhook.guild {
            return Err(DiscordError::unknown_channel());
        }
        let (before, json) = (self.webhook_json(&webhook), self.webhook_json(&changed));
        self.webhooks.insert(id, changed.clone());
        for channel in [webhook.channel, changed.channel] {
            self.happen("WEBHOOKS_UPDATE", webhook.guild, json!({"channel_id": channel}));
            if webhook.channel == changed.channel {
                break;
            }
        }
        let entry = AuditEntry::new(51, id).with_changes(changes(&before, &json));
        self.audit(webhook.guild, request.actor, entry, request.reason);
        Ok(Reply::ok(json))
    }

    pub(super) fn delete_webhook(&mut self, request: &Request<'_>, id: Snowflake) -> Result<Reply, DiscordError> {
        let webhook = self.webhook(request.actor, id)?.clone();
        self.webhooks.remove(&id);
        self.happen("WEBHOOKS_UPDATE", webhook.guild, json!({"channel_id": webhook.channel}));
        self.audit(webhook.guild, request.actor, AuditEntry::new(52, id), request.reason);
        Ok(Reply::none())
    }

    pub(super) fn execute_webhook(
        &mut self,
        request: &Request<'_>,
        id: Snowflake,
        token: &str,
    ) -> Result<Reply, DiscordError> {
        let webhook = self.webhook_by_token(id, token)?.clone();
        let body = MessageBody::read(request.object()?)?;
        if body.is_empty() {
            return Err(DiscordError::empty_message());
        }
        let channel = match request.id("thread_id")? {
            None => webhook.channel,
            Some(thread) => {
                let guild = self.guilds.get(&webhook.guild);
                let found = guild.and_then(|guild| guild.channels.get(&thread));
                let is_below = found.is_some_and(|found| found.is_thread() && found.parent == Some(webhook.channel));
                if !is_below {
                    return Err(DiscordError::unknown_channel());
                }
                thread
            }
        };
        let name = body.username.clone().unwrap_or(webhook.name);
        let message = self.new_message(channel, Author::Webhook { id, name }, body, true);
        let json = self.put_message(message)?;
        Ok(if request.flag("wait") { Reply::ok(json) } else { Reply::none() })
    }
}

fn check_name(form: &mut Form<'_>, name: &str) {
    let lower = name.to_lowercase();
    for word in ["clyde", "discord"] {
        if lower.contains(word) {
            let message = format!("Username cannot contain \"{word}\"");
            form.mistake("name", "USERNAME_INVALID_CONTAINS", message);
        }
    }
}

/// A picture as data of the address itself.
pub(super) fn check_avatar(form: &mut Form<'_>) {
    if let Some(Value::String(data)) = form.raw("avatar") {
        let is_picture = ["image/png", "image/jpeg", "image/gif"].iter().any(|kind| {
            data.strip_prefix("data:")
                .and_then(|data| data.strip_prefix(kind))
                .is_some_and(|rest| rest.starts_with(";base64,"))
        });
        if !is_picture {
            form.mistake("avatar", "IMAGE_INVALID", "Invalid image data");
        }
    }
}
