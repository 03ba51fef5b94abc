//! The parts of Discord's payloads that guild states are made of.

use std::fmt;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, Visitor};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::GuildStates;
use super::guild::{Channel, ChannelKind, Guild, Member, Overwrite, OverwriteOf, Role};

/// An id or a set of permissions: Discord writes both as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Id(pub(crate) u64);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;
        impl Visitor<'_> for Digits {
            type Value = Id;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, as text")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Id, E> {
                text.parse().map(Id).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Id, E> {
                Ok(Id(number))
            }
        }
        deserializer.deserialize_any(Digits)
    }
}

/// A guild, of `GUILD_CREATE`, `GUILD_UPDATE` and `GET /guilds/{id}`; the last two leave channels, threads and members out.
#[derive(Deserialize)]
pub(crate) struct GuildPayload<'a> {
    pub(crate) id: Id,
    #[serde(default)]
    name: String,
    owner_id: Option<Id>,
    #[serde(default)]
    features: Vec<String>,
    #[serde(default)]
    roles: Vec<RolePayload>,
    #[serde(default)]
    channels: Vec<ChannelPayload>,
    #[serde(default)]
    threads: Vec<ChannelPayload>,
    #[serde(default, borrow)]
    members: Vec<&'a RawValue>,
    member_count: Option<u64>,
    #[serde(default)]
    unavailable: bool,
}

/// A role.
#[derive(Deserialize)]
pub(crate) struct RolePayload {
    id: Id,
    #[serde(default)]
    permissions: Id,
    #[serde(default)]
    position: i32,
    #[serde(default)]
    color: u32,
    #[serde(default)]
    managed: bool,
    #[serde(default)]
    hoist: bool,
    #[serde(default)]
    mentionable: bool,
    #[serde(default)]
    name: String,
}

/// A channel or a thread.
#[derive(Deserialize)]
pub(crate) struct ChannelPayload {
    pub(crate) id: Id,
    pub(crate) guild_id: Option<Id>,
    #[serde(rename = "type")]
    kind: u8,
    parent_id: Option<Id>,
    name: Option<String>,
    #[serde(default)]
    permission_overwrites: Vec<OverwritePayload>,
    thread_metadata: Option<ThreadMetadata>,
}

#[derive(Deserialize)]
struct ThreadMetadata {
    #[serde(default)]
    archived: bool,
}

#[derive(Deserialize)]
struct OverwritePayload {
    id: Id,
    #[serde(rename = "type")]
    kind: Id,
    #[serde(default)]
    allow: Id,
    #[serde(default)]
    deny: Id,
}

/// A member. Those of messages come without the user.
#[derive(Deserialize)]
pub(crate) struct MemberPayload {
    pub(crate) user: Option<UserPayload>,
    #[serde(default)]
    roles: Vec<Id>,
    communication_disabled_until: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct UserPayload {
    pub(crate) id: Id,
}

#[derive(Deserialize)]
struct RoleEvent {
    guild_id: Id,
    role: RolePayload,
}

#[derive(Deserialize)]
struct RoleDeleted {
    guild_id: Id,
    role_id: Id,
}

#[derive(Deserialize)]
struct Deleted {
    id: Id,
    guild_id: Option<Id>,
    #[serde(default)]
    unavailable: bool,
}

#[derive(Deserialize)]
struct ThreadsEvent {
    guild_id: Id,
    threads: Vec<ChannelPayload>,
}

#[derive(Deserialize)]
struct MemberEvent {
    guild_id: Id,
}

#[derive(Deserialize)]
struct MemberRemoved {
    guild_id: Id,
    user: UserPayload,
}

#[derive(Deserialize)]
struct MembersEvent<'a> {
    guild_id: Id,
    #[serde(borrow)]
    members: Vec<&'a RawValue>,
}

/// What a message or an interaction says of who caused it.
#[derive(Deserialize)]
struct SeenEvent<'a> {
    guild_id: Option<Id>,
    #[serde(borrow)]
    author: Option<&'a RawValue>,
    #[serde(borrow)]
    member: Option<&'a RawValue>,
    webhook_id: Option<IgnoredAny>,
}

/// A moment of Discord's, in seconds of the Unix epoch.
pub(crate) fn timestamp_of(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_second)
}

impl GuildPayload<'_> {
    /// The guild, and how many members it has.
    pub(crate) fn into_guild(self, bot: Option<u64>) -> (Guild, Vec<(u64, Member)>) {
        let members: Vec<_> = self.members.iter().filter_map(|raw| MemberPayload::read(raw.get())).collect();
        let channels = self.channels.into_iter().chain(self.threads).map(ChannelPayload::into_channel).collect();
        let roles = self.roles.into_iter().map(RolePayload::into_role).collect();
        let mut guild = Guild::new(self.id.0, self.owner_id.unwrap_or_default().0, roles, channels);
        guild.name = self.name.into();
        guild.features = self.features.into_iter().map(Into::into).collect();
        guild.bot = members.iter().find(|(user, _)| Some(*user) == bot).map(|(_, member)| member.clone().into());
        (guild, members)
    }
}

impl RolePayload {
    pub(crate) fn into_role(self) -> Role {
        Role {
            id: self.id.0,
            permissions: self.permissions.0,
            position: self.position,
            color: self.color,
            managed: self.managed,
            hoist: self.hoist,
            mentionable: self.mentionable,
            name: self.name.into(),
        }
    }
}

impl ChannelPayload {
    pub(crate) fn into_channel(self) -> Channel {
        let overwrite = |overwrite: OverwritePayload| Overwrite {
            of: match overwrite.kind.0 {
                0 => OverwriteOf::Role(overwrite.id.0),
                _ => OverwriteOf::Member(overwrite.id.0),
            },
            allow: overwrite.allow.0,
            deny: overwrite.deny.0,
        };
        Channel {
            id: self.id.0,
            kind: ChannelKind(self.kind),
            parent: self.parent_id.unwrap_or_default().0,
            name: self.name.unwrap_or_default().into(),
            overwrites: self.permission_overwrites.into_iter().map(overwrite).collect(),
        }
    }
}

impl MemberPayload {
    /// A member with the user.
    pub(crate) fn read(json: &str) -> Option<(u64, Member)> {
        let payload: Self = serde_json::from_str(json).ok()?;
        let user = payload.user.as_ref()?.id.0;
        Some((user, payload.into_member(json)))
    }

    fn into_member(self, json: impl Into<Box<str>>) -> Member {
        let until = self.communication_disabled_until.as_deref().and_then(timestamp_of);
        Member {
            roles: self.roles.iter().map(|id| id.0).collect::<SmallVec<_>>(),
            timed_out_until: until.unwrap_or_default(),
            json: json.into(),
        }
    }
}

impl GuildStates {
    pub(super) fn try_apply(&self, event_name: &str, data: &[u8]) -> Result<(), serde_json::Error> {
        match event_name {
            "GUILD_CREATE" => self.guild_create(serde_json::from_slice(data)?),
            "GUILD_UPDATE" => self.guild_update(serde_json::from_slice(data)?),
            "GUILD_DELETE" => {
                let Deleted { id, unavailable, .. } = serde_json::from_slice(data)?;
                // Unavailable is an outage: the bot is still in it, and `GUILD_CREATE` follows.
                if !unavailable {
                    self.0.member_counts.lock().remove(&id.0);
                }
                self.change(id.0, |_| ());
                self.0.guilds.invalidate(&id.0);
            }
            "GUILD_ROLE_CREATE" | "GUILD_ROLE_UPDATE" => {
                let event: RoleEvent = serde_json::from_slice(data)?;
                self.change(event.guild_id.0, |guild| guild.set_role(event.role.into_role()));
            }
            "GUILD_ROLE_DELETE" => {
                let event: RoleDeleted = serde_json::from_slice(data)?;
                self.change(event.guild_id.0, |guild| guild.remove_role(event.role_id.0));
            }
            "CHANNEL_CREATE" | "CHANNEL_UPDATE" | "THREAD_CREATE" | "THREAD_UPDATE" => {
                let channel: ChannelPayload = serde_json::from_slice(data)?;
                if let Some(guild) = channel.guild_id {
                    // Archived threads are many, and are asked for when somebody names one.
                    let is_archived = channel.thread_metadata.as_ref().is_some_and(|thread| thread.archived);
                    self.change(guild.0, |guild| match is_archived {
                        true => guild.remove_channel(channel.id.0),
                        false => guild.set_channel(channel.into_channel()),
                    });
                }
            }
            "CHANNEL_DELETE" | "THREAD_DELETE" => {
                let deleted: Deleted = serde_json::from_slice(data)?;
                if let Some(guild) = deleted.guild_id {
                    self.change(guild.0, |guild| guild.remove_channel(deleted.id.0));
                }
            }
            "THREAD_LIST_SYNC" => {
                let event: ThreadsEvent = serde_json::from_slice(data)?;
                self.change(event.guild_id.0, |guild| {
                    for thread in event.threads {
                        guild.set_channel(thread.into_channel());
                    }
                });
            }
            "GUILD_MEMBER_ADD" | "GUILD_MEMBER_UPDATE" => {
                let event: MemberEvent = serde_json::from_slice(data)?;
                if let Some((user, member)) = std::str::from_utf8(data).ok().and_then(MemberPayload::read) {
                    self.insert_member(event.guild_id.0, user, member);
                }
                if event_name == "GUILD_MEMBER_ADD" {
                    self.count(event.guild_id.0, |count| count.saturating_add(1));
                }
            }
            "GUILD_MEMBER_REMOVE" => {
                let event: MemberRemoved = serde_json::from_slice(data)?;
                self.remove_member(event.guild_id.0, event.user.id.0);
                self.count(event.guild_id.0, |count| count.saturating_sub(1));
            }
            "GUILD_MEMBERS_CHUNK" => {
                let event: MembersEvent<'_> = serde_json::from_slice(data)?;
                for (user, member) in event.members.iter().filter_map(|raw| MemberPayload::read(raw.get())) {
                    self.insert_member(event.guild_id.0, user, member);
                }
            }
            "MESSAGE_CREATE" | "MESSAGE" | "INTERACTION_CREATE" => self.seen(serde_json::from_slice(data)?),
            _ => {}
        }
        Ok(())
    }

    fn guild_create(&self, payload: GuildPayload<'_>) {
        if payload.unavailable {
            return;
        }
        let count = payload.member_count.unwrap_or_default();
        let (guild, members) = payload.into_guild(self.bot().map(worker_core::Snowflake::get));
        let id = guild.id;
        self.0.member_counts.lock().insert(id, count);
        self.change(id, |_| ());
        self.insert(guild);
        for (user, member) in members {
            self.insert_member(id, user, member);
        }
    }

    fn guild_update(&self, payload: GuildPayload<'_>) {
        let (new, _) = payload.into_guild(None);
        self.change(new.id, |guild| {
            guild.owner = new.owner;
            guild.set_roles(new.roles().to_vec());
            guild.name = new.name;
            guild.features = new.features;
        });
    }

    fn count(&self, guild: u64, change: impl FnOnce(u64) -> u64) {
        if let Some(count) = self.0.member_counts.lock().get_mut(&guild) {
            *count = change(*count);
        }
    }

    /// A member that has caused an event.
    fn seen(&self, event: SeenEvent<'_>) {
        let (Some(guild), Some(member), None) = (event.guild_id, event.member, event.webhook_id) else { return };
        let Ok(payload) = serde_json::from_str::<MemberPayload>(member.get()) else { return };
        let user = match (&payload.user, event.author) {
            (Some(user), _) => user.id.0,
            (None, Some(author)) => match serde_json::from_str::<UserPayload>(author.get()) {
                Ok(user) => user.id.0,
                Err(_) => return,
            },
            (None, None) => return,
        };
        let has_user = payload.user.is_some();
        let mut seen = payload.into_member("");
        if let Some(known) = self.0.members.get(&(guild.0, user))
            && known.roles == seen.roles
            && known.timed_out_until == seen.timed_out_until
        {
            return;
        }
        seen.json = match event.author {
            // The two belong together: `{"user":<author>,` and what follows the member's brace.
            Some(author) if !has_user => {
                let rest = member.get().trim_start().get(1..).unwrap_or("}");
                let comma = if rest.trim_start().starts_with('}') { "" } else { "," };
                format!(r#"{{"user":{}{comma}{rest}"#, author.get()).into()
            }
            _ => member.get().into(),
        };
        self.insert_member(guild.0, user, seen);
    }
}
