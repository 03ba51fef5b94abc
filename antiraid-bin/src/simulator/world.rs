//! The world: everything that Discord would know, and nothing that depends on chance or the clock on the wall.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem;

use serde_json::{Value, json};
use worker_core::Snowflake;

use super::channel::{Channel, kind};
use super::discord_error::DiscordError;
use super::guild::{Guild, Member, Role, User};
use super::interaction::Interaction;
use super::invite::Invite;
use super::message::Message;
use super::permissions::Permissions;
use super::webhook::Webhook;

/// The token of the bot where none is given: nothing that is worth keeping to oneself.
pub const BOT_TOKEN: &str = "c2ltdWxhdG9y.simulated.not-a-secret";

/// Milliseconds from the Unix epoch to Discord's own.
const DISCORD_EPOCH_MILLIS: u64 = 1_420_070_400_000;

/// What the world begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorldConfig {
    /// What tokens and names are made from.
    pub seed: u64,
    /// How many guilds there are; each has a few channels, roles and members.
    pub guilds: usize,
    /// What the bot is known by.
    pub token: String,
    /// The first moment, in milliseconds since the Unix epoch.
    pub start_ms: u64,
}

impl Default for WorldConfig {
    fn default() -> Self {
        // 2026-01-01T00:00:00Z
        Self { seed: 1, guilds: 1, token: BOT_TOKEN.into(), start_ms: 1_767_225_600_000 }
    }
}

/// Something that happened, which Discord would tell those who listen.
#[derive(Clone, Debug, PartialEq)]
pub struct Happening {
    /// The event's name in the gateway.
    pub name: &'static str,
    /// The guild, where there is one.
    pub guild: Option<Snowflake>,
    /// What the gateway would send as `d`.
    pub data: Value,
    /// Who hears of it.
    pub audience: Audience,
}

/// Who hears of a happening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Whoever listens, by their intents.
    Gateway,
    /// Only who looks at the world from outside: what Discord would show one user alone.
    Watchers,
}

/// A Discord of its own. It changes by [`answer`](Self::answer) and by what users do; what Discord would tell about that is
/// in [`take_happenings`](Self::take_happenings).
#[derive(Debug)]
pub struct World {
    now_ms: u64,
    increment: u64,
    random: u64,
    pub(super) bot: Snowflake,
    pub(super) token: String,
    pub(super) users: BTreeMap<Snowflake, User>,
    pub(super) guilds: BTreeMap<Snowflake, Guild>,
    pub(super) channel_guilds: HashMap<Snowflake, Snowflake>,
    pub(super) webhooks: BTreeMap<Snowflake, Webhook>,
    pub(super) invites: BTreeMap<String, Invite>,
    pub(super) commands: Vec<super::command::Command>,
    pub(super) interactions: VecDeque<Interaction>,
    happenings: Vec<Happening>,
}

impl World {
    /// Interactions that are remembered; older ones are unknown.
    pub(super) const INTERACTIONS_MAX: usize = 10_000;

    /// A world with its guilds.
    pub fn new(config: &WorldConfig) -> Self {
        let mut world = Self {
            now_ms: config.start_ms,
            increment: 0,
            random: config.seed,
            bot: Snowflake::new(1),
            token: config.token.clone(),
            users: BTreeMap::new(),
            guilds: BTreeMap::new(),
            channel_guilds: HashMap::new(),
            webhooks: BTreeMap::new(),
            invites: BTreeMap::new(),
            commands: Vec::new(),
            interactions: VecDeque::new(),
            happenings: Vec::new(),
        };
        world.bot = world.add_user("antiraid", Some("AntiRaid"), Nature::Bot);
        for number in 1..=config.guilds {
            world.add_guild(&format!("Guild {number}"));
        }
        world.happenings.clear();
        world
    }

    /// The bot that REST calls are made by; also the id of its application.
    pub fn bot(&self) -> Snowflake {
        self.bot
    }

    /// The token that the bot is known by.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Gives the bot another token, which nobody is told: the old one is refused from now on.
    pub fn revoke_token(&mut self) {
        self.token = format!("revoked.{:016x}", self.random());
    }

    /// What time it is in this world, in milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Lets time go on to this moment. It never goes back.
    pub fn set_now(&mut self, unix_ms: u64) {
        self.now_ms = self.now_ms.max(unix_ms);
    }

    /// What happened since the last time that this was asked, in order.
    pub fn take_happenings(&mut self) -> Vec<Happening> {
        mem::take(&mut self.happenings)
    }

    /// The guilds.
    pub fn guilds(&self) -> impl Iterator<Item = &Guild> {
        self.guilds.values()
    }

    /// A guild, if it exists.
    pub fn find_guild(&self, id: Snowflake) -> Option<&Guild> {
        self.guilds.get(&id)
    }

    /// A user, if they exist.
    pub fn find_user(&self, id: Snowflake) -> Option<&User> {
        self.users.get(&id)
    }

    /// A new id.
    pub(super) fn new_id(&mut self) -> Snowflake {
        // Increments over the 12 bits that Discord has for them go on in those of worker and process, so ids that are
        // made in one millisecond stay in order.
        self.increment += 1;
        Snowflake::new(((self.now_ms - DISCORD_EPOCH_MILLIS) << 22) | (self.increment & 0x3F_FFFF))
    }

    /// A number by chance, of the seed (splitmix64).
    pub(super) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Text by chance, of letters that need no escape in an address.
    pub(super) fn random_text(&mut self, chars: usize) -> String {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        (0..chars).map(|_| char::from(LETTERS[(self.random() % LETTERS.len() as u64) as usize])).collect()
    }

    /// Notes that something happened in a guild. Its id is added.
    pub(super) fn happen(&mut self, name: &'static str, guild: Snowflake, mut data: Value) {
        if name != "GUILD_UPDATE" && name != "GUILD_CREATE" && name != "GUILD_DELETE" {
            data["guild_id"] = json!(guild);
        }
        self.happenings.push(Happening { name, guild: Some(guild), data, audience: Audience::Gateway });
    }

    /// Notes what one user alone would see.
    pub(super) fn show(&mut self, name: &'static str, guild: Option<Snowflake>, data: Value) {
        self.happenings.push(Happening { name, guild, data, audience: Audience::Watchers });
    }

    // ---- Who and what is there

    /// Makes a user.
    pub fn add_user(&mut self, username: &str, global_name: Option<&str>, nature: Nature) -> Snowflake {
        let id = self.new_id();
        let bot = nature == Nature::Bot;
        let user = User { id, username: username.into(), global_name: global_name.map(Into::into), bot };
        self.users.insert(id, user);
        id
    }

    /// Makes a guild: an owner, a moderator, members, the bot with a role of its own below the owner's, a few channels.
    pub fn add_guild(&mut self, name: &str) -> Snowflake {
        let owner = self.add_user("olivia", Some("Olivia"), Nature::Human);
        let moderator = self.add_user("max", Some("Max"), Nature::Human);
        let people: Vec<_> = [("ada", "Ada"), ("bo", "Bo"), ("chris", "Chris"), ("dana", "Dana")]
            .map(|(username, name)| self.add_user(username, Some(name), Nature::Human))
            .into();
        let id = self.new_id();
        let settings = json!({
            "name": name, "icon": null, "icon_hash": null, "splash": null, "discovery_splash": null, "banner": null,
            "description": null, "region": "deprecated", "verification_level": 1, "default_message_notifications": 1,
            "explicit_content_filter": 0, "afk_channel_id": null, "afk_timeout": 300, "system_channel_id": null,
            "system_channel_flags": 0, "rules_channel_id": null, "public_updates_channel_id": null,
            "safety_alerts_channel_id": null, "preferred_locale": "en-US", "premium_progress_bar_enabled": false,
        });
        let Value::Object(settings) = settings else { unreachable!("because it is written as an object above") };
        self.guilds.insert(
            id,
            Guild {
                id,
                owner,
                settings,
                features: vec!["COMMUNITY".into(), "NEWS".into()],
                roles: BTreeMap::new(),
                members: BTreeMap::new(),
                channels: BTreeMap::new(),
                bans: BTreeMap::new(),
                rules: BTreeMap::new(),
                audit_log: VecDeque::new(),
            },
        );
        self.put_role(id, id, "@everyone", Permissions::DEFAULT_EVERYONE, 0);
        let muted = self.new_id();
        self.put_role(id, muted, "Muted", Permissions::NONE, 1);
        let trusted = self.new_id();
        self.put_role(id, trusted, "Trusted", Permissions::NONE, 2);
        let bots = self.new_id();
        self.put_role(id, bots, "AntiRaid", Permissions::ADMINISTRATOR, 4);
        let moderators = self.new_id();
        let moderation = Permissions::KICK_MEMBERS
            | Permissions::BAN_MEMBERS
            | Permissions::MANAGE_MESSAGES
            | Permissions::MODERATE_MEMBERS
            | Permissions::MANAGE_THREADS
            | Permissions::VIEW_AUDIT_LOG;
        self.put_role(id, moderators, "Moderator", moderation, 3);
        let bot = self.bot;
        if let Some(guild) = self.guilds.get_mut(&id) {
            if let Some(role) = guild.roles.get_mut(&bots) {
                role.managed_by_bot = Some(bot);
            }
            if let Some(role) = guild.roles.get_mut(&moderators) {
                (role.color, role.hoist) = (0x2E_86_AB, true);
            }
        }
        let text = self.put_channel(id, kind::CATEGORY, "Text", None);
        let general = self.put_channel(id, kind::TEXT, "general", Some(text));
        self.put_channel(id, kind::TEXT, "off-topic", Some(text));
        self.put_channel(id, kind::ANNOUNCEMENT, "announcements", Some(text));
        self.put_channel(id, kind::TEXT, "mod-log", Some(text));
        let voice = self.put_channel(id, kind::CATEGORY, "Voice", None);
        self.put_channel(id, kind::VOICE, "Lounge", Some(voice));
        if let Some(guild) = self.guilds.get_mut(&id) {
            guild.settings.insert("system_channel_id".into(), json!(general));
        }
        for user in [owner, moderator, bot].into_iter().chain(people) {
            let roles = match user {
                _ if user == moderator => vec![moderators],
                _ if user == bot => vec![bots],
                _ => Vec::new(),
            };
            self.put_member(id, user, roles);
        }
        id
    }

    fn put_role(&mut self, guild: Snowflake, id: Snowflake, name: &str, permissions: Permissions, position: i64) {
        let role = Role {
            id,
            name: name.into(),
            permissions,
            position,
            color: 0,
            hoist: false,
            mentionable: false,
            managed_by_bot: None,
            unicode_emoji: None,
        };
        if let Some(guild) = self.guilds.get_mut(&guild) {
            guild.roles.insert(id, role);
        }
    }

    fn put_channel(&mut self, guild: Snowflake, kind: i64, name: &str, parent: Option<Snowflake>) -> Snowflake {
        let id = self.new_id();
        let position = self.guilds.get(&guild).map_or(0, |guild| guild.channels.len());
        let channel = Channel {
            id,
            guild,
            kind,
            name: name.into(),
            position: position.try_into().unwrap_or(0),
            parent,
            overwrites: Vec::new(),
            settings: super::channels::default_settings(kind),
            messages: VecDeque::new(),
            last_message: None,
            thread: None,
        };
        self.insert_channel(channel);
        id
    }

    pub(super) fn insert_channel(&mut self, channel: Channel) {
        self.channel_guilds.insert(channel.id, channel.guild);
        if let Some(guild) = self.guilds.get_mut(&channel.guild) {
            guild.channels.insert(channel.id, channel);
        }
    }

    pub(super) fn put_member(&mut self, guild: Snowflake, user: Snowflake, roles: Vec<Snowflake>) {
        let member = Member {
            user,
            nick: None,
            roles,
            joined_at_ms: self.now_ms,
            timed_out_until: None,
            deaf: false,
            mute: false,
            flags: 0,
            voice: None,
        };
        if let Some(guild) = self.guilds.get_mut(&guild) {
            guild.members.insert(user, member);
        }
    }

    // ---- Look-ups that refuse as Discord does

    pub(super) fn user(&self, id: Snowflake) -> Result<&User, DiscordError> {
        self.users.get(&id).ok_or_else(DiscordError::unknown_user)
    }

    /// The guild, for a member of it.
    pub(super) fn guild(&self, actor: Snowflake, id: Snowflake) -> Result<&Guild, DiscordError> {
        let guild = self.guilds.get(&id).ok_or_else(DiscordError::unknown_guild)?;
        if guild.members.contains_key(&actor) { Ok(guild) } else { Err(DiscordError::missing_access()) }
    }

    /// The guild, to be changed after the look-up above has allowed it.
    pub(super) fn guild_mut(&mut self, id: Snowflake) -> Result<&mut Guild, DiscordError> {
        self.guilds.get_mut(&id).ok_or_else(DiscordError::unknown_guild)
    }

    /// The guild, for a member of it who may do this in all of it.
    pub(super) fn guild_with(
        &self,
        actor: Snowflake,
        id: Snowflake,
        needed: Permissions,
    ) -> Result<&Guild, DiscordError> {
        let guild = self.guild(actor, id)?;
        if guild.permissions(actor, self.now_ms).contains(needed) {
            Ok(guild)
        } else {
            Err(DiscordError::missing_permissions())
        }
    }

    /// The channel and its guild, for somebody who sees it.
    pub(super) fn channel(&self, actor: Snowflake, id: Snowflake) -> Result<(&Guild, &Channel), DiscordError> {
        let guild = self.channel_guilds.get(&id).ok_or_else(DiscordError::unknown_channel)?;
        let guild = self.guilds.get(guild).ok_or_else(DiscordError::unknown_channel)?;
        let channel = guild.channels.get(&id).ok_or_else(DiscordError::unknown_channel)?;
        let permissions = guild.permissions_in(actor, channel, self.now_ms);
        let is_hidden = channel.kind == kind::PRIVATE_THREAD
            && !permissions.contains(Permissions::MANAGE_THREADS)
            && channel.thread.as_ref().is_some_and(|thread| !thread.members.contains(&actor));
        if permissions.contains(Permissions::VIEW_CHANNEL) && !is_hidden {
            Ok((guild, channel))
        } else {
            Err(DiscordError::missing_access())
        }
    }

    /// The same for somebody who may do this in it.
    pub(super) fn channel_with(
        &self,
        actor: Snowflake,
        id: Snowflake,
        needed: Permissions,
    ) -> Result<(&Guild, &Channel), DiscordError> {
        let (guild, channel) = self.channel(actor, id)?;
        if channel.has_voice() && !guild.permissions_in(actor, channel, self.now_ms).contains(Permissions::CONNECT) {
            return Err(DiscordError::missing_access());
        }
        if guild.permissions_in(actor, channel, self.now_ms).contains(needed) {
            Ok((guild, channel))
        } else {
            Err(DiscordError::missing_permissions())
        }
    }

    /// The channel, to be changed after a look-up above has allowed it.
    pub(super) fn channel_mut(&mut self, id: Snowflake) -> Result<&mut Channel, DiscordError> {
        let guild = self.channel_guilds.get(&id).ok_or_else(DiscordError::unknown_channel)?;
        let guild = self.guilds.get_mut(guild).ok_or_else(DiscordError::unknown_channel)?;
        guild.channels.get_mut(&id).ok_or_else(DiscordError::unknown_channel)
    }

    pub(super) fn member(&self, guild: &Guild, user: Snowflake) -> Result<Member, DiscordError> {
        self.user(user)?;
        guild.members.get(&user).cloned().ok_or_else(DiscordError::unknown_member)
    }

    /// Discord's member object, with the user.
    pub(super) fn member_json(&self, guild: &Guild, user: Snowflake) -> Value {
        match (guild.members.get(&user), self.users.get(&user)) {
            (Some(member), Some(user)) => member.json(user),
            _ => Value::Null,
        }
    }

    /// Discord's message object, with the message that it answers.
    pub(crate) fn message_json(&self, message: &Message, reader: Snowflake) -> Value {
        let user = |id| self.users.get(&id);
        let mut json = message.json(user, reader);
        if let Some(answered) = message.answers {
            let guild = self.channel_guilds.get(&message.channel);
            json["message_reference"] =
                json!({"type": 0, "message_id": answered, "channel_id": message.channel, "guild_id": guild});
            let channel = guild.and_then(|guild| self.guilds.get(guild)?.channels.get(&message.channel));
            let answered = channel.and_then(|channel| channel.message(answered));
            json["referenced_message"] = answered.map_or(Value::Null, |answered| answered.json(user, reader));
        }
        json
    }

    // ---- The audit log

    /// Writes into the audit log, and tells so.
    pub(super) fn audit(&mut self, guild: Snowflake, actor: Snowflake, entry: AuditEntry, reason: Option<&str>) {
        let id = self.new_id();
        let AuditEntry { action, target, changes, options } = entry;
        let mut json = json!({
            "id": id, "user_id": actor, "target_id": target.map(|id| id.to_string()), "action_type": action,
        });
        if !changes.is_empty() {
            json["changes"] = json!(changes);
        }
        if let Some(options) = options {
            json["options"] = options;
        }
        if let Some(reason) = reason {
            json["reason"] = json!(reason);
        }
        if let Some(guild) = self.guilds.get_mut(&guild) {
            if guild.audit_log.len() >= Guild::AUDIT_LOG_MAX {
                guild.audit_log.pop_front();
            }
            guild.audit_log.push_back(json.clone());
        }
        self.happen("GUILD_AUDIT_LOG_ENTRY_CREATE", guild, json);
    }
}

/// What kind of user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// A person.
    Human,
    /// A program.
    Bot,
}

/// A line of the audit log.
#[derive(Clone, Debug, Default)]
pub(super) struct AuditEntry {
    /// Discord's number for what was done.
    pub(super) action: i64,
    /// To whom or what.
    pub(super) target: Option<Snowflake>,
    /// What changed: `{key, old_value, new_value}`.
    pub(super) changes: Vec<Value>,
    /// What else Discord tells about some actions.
    pub(super) options: Option<Value>,
}

impl AuditEntry {
    pub(super) fn new(action: i64, target: Snowflake) -> Self {
        Self { action, target: Some(target), ..Self::default() }
    }

    pub(super) fn with_changes(self, changes: Vec<Value>) -> Self {
        Self { changes, ..self }
    }

    pub(super) fn with_options(self, options: Value) -> Self {
        Self { options: Some(options), ..self }
    }
}

/// The changes between two objects, as the audit log writes them.
pub(super) fn changes(before: &Value, after: &Value) -> Vec<Value> {
    let (Some(before), Some(after)) = (before.as_object(), after.as_object()) else { return Vec::new() };
    let mut changes = Vec::new();
    for (key, new) in after {
        let old = before.get(key).unwrap_or(&Value::Null);
        if old == new {
            continue;
        }
        let mut change = json!({"key": key});
        if !old.is_null() {
            change["old_value"] = old.clone();
        }
        if !new.is_null() {
            change["new_value"] = new.clone();
        }
        changes.push(change);
    }
    changes
}
