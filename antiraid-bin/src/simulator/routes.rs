//! Which call of REST is which change of the world.

use serde_json::{Value, json};
use worker_core::Snowflake;

use super::discord_error::DiscordError;
use super::form::as_id;
use super::guild::User;
use super::request::{Reply, Request, not_a_snowflake};
use super::world::World;

impl World {
    /// Answers a REST call as Discord would. What is not simulated is refused with status 501, by name.
    pub fn answer(&mut self, request: &Request<'_>) -> Result<Reply, DiscordError> {
        let segments: Vec<String> = request.path.split('/').skip(1).map(decode).collect();
        let path: Vec<&str> = segments.iter().map(String::as_str).collect();
        let id = |text: &str| as_id(&json!(text)).ok_or_else(|| not_a_snowflake("id", text));
        let me = request.actor;
        let of_reaction = |text: &str| if text == "@me" { Ok(me) } else { id(text) };
        let r = request;
        match (request.method, &path[..]) {
            ("GET", ["users", "@me"]) => Ok(Reply::ok(self.own_user(me)?)),
            ("GET", ["users", "@me", "guilds"]) => Ok(Reply::ok(self.own_guilds(me))),
            ("GET", ["users", user]) => Ok(Reply::ok(self.user(id(user)?)?.json())),
            ("GET", ["applications", "@me"] | ["oauth2", "applications", "@me"]) => Ok(Reply::ok(self.application())),

            ("GET", ["channels", c]) => self.get_channel(r, id(c)?),
            ("PATCH", ["channels", c]) => self.edit_channel(r, id(c)?),
            ("DELETE", ["channels", c]) => self.delete_channel(r, id(c)?),
            ("PUT", ["channels", c, "permissions", target]) => self.put_overwrite(r, id(c)?, id(target)?),
            ("DELETE", ["channels", c, "permissions", target]) => self.delete_overwrite(r, id(c)?, id(target)?),
            ("GET", ["channels", c, "invites"]) => self.channel_invites(r, id(c)?),
            ("POST", ["channels", c, "invites"]) => self.create_invite(r, id(c)?),
            ("POST", ["channels", c, "followers"]) => self.follow_channel(r, id(c)?),
            ("POST", ["channels", c, "typing"]) => self.typing(r, id(c)?),
            ("GET", ["channels", c, "webhooks"]) => self.channel_webhooks(r, id(c)?),
            ("POST", ["channels", c, "webhooks"]) => self.create_webhook(r, id(c)?),
            ("POST", ["channels", c, "threads"]) => self.create_thread(r, id(c)?, None),
            ("POST", ["channels", c, "messages", m, "threads"]) => self.create_thread(r, id(c)?, Some(id(m)?)),
            ("PUT", ["channels", c, "thread-members", user]) => {
                self.set_thread_member(r, id(c)?, of_reaction(user)?, true)
            }
            ("DELETE", ["channels", c, "thread-members", user]) => {
                self.set_thread_member(r, id(c)?, of_reaction(user)?, false)
            }
            ("PUT", ["channels", c, "pins", m] | ["channels", c, "messages", "pins", m]) => {
                self.set_pinned(r, id(c)?, id(m)?, true)
            }
            ("DELETE", ["channels", c, "pins", m] | ["channels", c, "messages", "pins", m]) => {
                self.set_pinned(r, id(c)?, id(m)?, false)
            }
            ("GET", ["channels", c, "messages"]) => self.get_messages(r, id(c)?),
            ("POST", ["channels", c, "messages"]) => self.create_message(r, id(c)?),
            ("POST", ["channels", c, "messages", "bulk-delete"]) => self.bulk_delete(r, id(c)?),
            ("GET", ["channels", c, "messages", m]) => self.get_message(r, id(c)?, id(m)?),
            ("PATCH", ["channels", c, "messages", m]) => self.edit_message(r, id(c)?, id(m)?),
            ("DELETE", ["channels", c, "messages", m]) => self.delete_message(r, id(c)?, id(m)?),
            ("POST", ["channels", c, "messages", m, "crosspost"]) => self.crosspost(r, id(c)?, id(m)?),
            ("PUT", ["channels", c, "messages", m, "reactions", e, "@me"]) => self.react(r, id(c)?, id(m)?, e),
            ("DELETE", ["channels", c, "messages", m, "reactions", e, user]) => {
                self.unreact(r, id(c)?, id(m)?, e, of_reaction(user)?)
            }
            ("GET", ["channels", c, "messages", m, "reactions", e]) => self.get_reactions(r, id(c)?, id(m)?, e),
            ("DELETE", ["channels", c, "messages", m, "reactions", e]) => {
                self.clear_reactions(r, id(c)?, id(m)?, Some(e))
            }
            ("DELETE", ["channels", c, "messages", m, "reactions"]) => self.clear_reactions(r, id(c)?, id(m)?, None),

            ("GET", ["guilds", g]) => self.get_guild(r, id(g)?),
            ("PATCH", ["guilds", g]) => self.edit_guild(r, id(g)?),
            ("GET", ["guilds", g, "preview"]) => self.guild_preview(r, id(g)?),
            ("GET", ["guilds", g, "audit-logs"]) => self.audit_logs(r, id(g)?),
            ("GET", ["guilds", g, "channels"]) => self.get_guild_channels(r, id(g)?),
            ("POST", ["guilds", g, "channels"]) => self.create_channel(r, id(g)?),
            ("PATCH", ["guilds", g, "channels"]) => self.move_channels(r, id(g)?),
            ("GET", ["guilds", g, "threads", "active"]) => self.active_threads(r, id(g)?),
            ("GET", ["guilds", g, "invites"]) => self.guild_invites(r, id(g)?),
            ("GET", ["guilds", g, "webhooks"]) => self.guild_webhooks(r, id(g)?),
            ("GET", ["guilds", g, "members"]) => self.list_members(r, id(g)?),
            ("GET", ["guilds", g, "members", "search"]) => self.search_members(r, id(g)?),
            ("GET", ["guilds", g, "members", user]) => self.get_member(r, id(g)?, id(user)?),
            ("PATCH", ["guilds", g, "members", user]) => self.edit_member(r, id(g)?, of_reaction(user)?),
            ("DELETE", ["guilds", g, "members", user]) => self.kick(r, id(g)?, id(user)?),
            ("PUT", ["guilds", g, "members", user, "roles", role]) => {
                self.set_member_role(r, id(g)?, id(user)?, id(role)?, true)
            }
            ("DELETE", ["guilds", g, "members", user, "roles", role]) => {
                self.set_member_role(r, id(g)?, id(user)?, id(role)?, false)
            }
            ("GET", ["guilds", g, "bans"]) => self.get_bans(r, id(g)?),
            ("GET", ["guilds", g, "bans", user]) => self.get_ban(r, id(g)?, id(user)?),
            ("PUT", ["guilds", g, "bans", user]) => self.create_ban(r, id(g)?, id(user)?),
            ("DELETE", ["guilds", g, "bans", user]) => self.remove_ban(r, id(g)?, id(user)?),
            ("POST", ["guilds", g, "bulk-ban"]) => self.bulk_ban(r, id(g)?),
            ("GET", ["guilds", g, "roles"]) => self.get_roles(r, id(g)?),
            ("POST", ["guilds", g, "roles"]) => self.create_role(r, id(g)?),
            ("PATCH", ["guilds", g, "roles"]) => self.move_roles(r, id(g)?),
            ("GET", ["guilds", g, "roles", role]) => self.get_role(r, id(g)?, id(role)?),
            ("PATCH", ["guilds", g, "roles", role]) => self.edit_role(r, id(g)?, id(role)?),
            ("DELETE", ["guilds", g, "roles", role]) => self.delete_role(r, id(g)?, id(role)?),
            ("GET", ["guilds", g, "auto-moderation", "rules"]) => self.get_rules(r, id(g)?),
            ("POST", ["guilds", g, "auto-moderation", "rules"]) => self.create_rule(r, id(g)?),
            ("GET", ["guilds", g, "auto-moderation", "rules", rule]) => self.get_rule(r, id(g)?, id(rule)?),
            ("PATCH", ["guilds", g, "auto-moderation", "rules", rule]) => self.edit_rule(r, id(g)?, id(rule)?),
            ("DELETE", ["guilds", g, "auto-moderation", "rules", rule]) => self.delete_rule(r, id(g)?, id(rule)?),

            ("GET", ["invites", code]) => self.get_invite(r, code),
            ("DELETE", ["invites", code]) => self.delete_invite(r, code),

            ("GET", ["applications", app, "commands"]) => self.get_commands(id(app)?, None),
            ("POST", ["applications", app, "commands"]) => self.create_command(r, id(app)?, None),
            ("PUT", ["applications", app, "commands"]) => self.replace_commands(r, id(app)?, None),
            ("GET", ["applications", app, "commands", one]) => self.get_command(id(app)?, None, id(one)?),
            ("PATCH", ["applications", app, "commands", one]) => self.edit_command(r, id(app)?, None, id(one)?),
            ("DELETE", ["applications", app, "commands", one]) => self.delete_command(id(app)?, None, id(one)?),
            ("GET", ["applications", app, "guilds", g, "commands"]) => self.get_commands(id(app)?, Some(id(g)?)),
            ("POST", ["applications", app, "guilds", g, "commands"]) => self.create_command(r, id(app)?, Some(id(g)?)),
            ("PUT", ["applications", app, "guilds", g, "commands"]) => self.replace_commands(r, id(app)?, Some(id(g)?)),
            ("GET", ["applications", app, "guilds", g, "commands", one]) => {
                self.get_command(id(app)?, Some(id(g)?), id(one)?)
            }
            ("PATCH", ["applications", app, "guilds", g, "commands", one]) => {
                self.edit_command(r, id(app)?, Some(id(g)?), id(one)?)
            }
            ("DELETE", ["applications", app, "guilds", g, "commands", one]) => {
                self.delete_command(id(app)?, Some(id(g)?), id(one)?)
            }

            ("POST", ["interactions", one, token, "callback"]) => self.interaction_callback(r, id(one)?, token),
            ("GET", ["webhooks", one]) => self.get_webhook(r, id(one)?),
            ("PATCH", ["webhooks", one]) => self.edit_webhook(r, id(one)?),
            ("DELETE", ["webhooks", one]) => self.delete_webhook(r, id(one)?),
            ("GET", ["webhooks", one, token]) => self.get_webhook_by_token(id(one)?, token),
            ("POST", ["webhooks", one, token]) if id(one)? == self.bot => self.followup(r, id(one)?, token),
            ("POST", ["webhooks", one, token]) => self.execute_webhook(r, id(one)?, token),
            ("GET", ["webhooks", app, token, "messages", m]) if id(app)? == self.bot => {
                self.get_said(id(app)?, token, m)
            }
            ("PATCH", ["webhooks", app, token, "messages", m]) if id(app)? == self.bot => {
                self.edit_said(r, id(app)?, token, m)
            }
            ("DELETE", ["webhooks", app, token, "messages", m]) if id(app)? == self.bot => {
                self.delete_said(id(app)?, token, m)
            }
            _ => Err(DiscordError::not_simulated(request.method, request.path)),
        }
    }

    fn own_user(&self, me: Snowflake) -> Result<Value, DiscordError> {
        let mut user = self.user(me)?.json();
        for (key, value) in [
            ("verified", json!(true)),
            ("mfa_enabled", json!(true)),
            ("locale", json!("en-US")),
            ("flags", json!(0)),
            ("email", Value::Null),
        ] {
            user[key] = value;
        }
        Ok(user)
    }

    fn own_guilds(&self, me: Snowflake) -> Value {
        let guilds: Vec<_> = (self.guilds.values())
            .filter(|guild| guild.members.contains_key(&me))
            .map(|guild| {
                json!({
                    "id": guild.id, "name": guild.settings.get("name"), "icon": null, "banner": null,
                    "owner": guild.owner == me, "permissions": guild.permissions(me, self.now_ms()),
                    "features": guild.features,
                })
            })
            .collect();
        json!(guilds)
    }

    fn application(&self) -> Value {
        let bot = self.users.get(&self.bot).map(User::json);
        let owner = self.users.values().find(|user| !user.bot).map(User::json);
        json!({
            "id": self.bot, "name": "AntiRaid", "icon": null, "description": "", "summary": "", "bot_public": true,
            "bot_require_code_grant": false, "verify_key": "0".repeat(64), "team": null, "owner": owner, "bot": bot,
            "flags": Self::APPLICATION_FLAGS, "hook": true, "type": null, "rpc_origins": [], "redirect_uris": [],
            "integration_types_config": {"0": {}}, "approximate_guild_count": self.guilds.len(),
        })
    }

    /// The intents that Discord gives to those who ask are given: members, presences and contents, for few guilds.
    const APPLICATION_FLAGS: i64 = 1 << 13 | 1 << 15 | 1 << 19;
}

/// Whether a call needs no token of a bot: its own is in the address.
pub(super) fn has_own_token(path: &str) -> bool {
    let path: Vec<_> = path.split('/').skip(1).collect();
    matches!(path[..], ["interactions", _, _, "callback"] | ["webhooks", _, _, ..])
}

/// A part of an address, with `%XX` as the bytes that they are.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The same for a header such as `X-Audit-Log-Reason`.
pub(super) fn decode_header(text: &str) -> String {
    decode(text)
}
