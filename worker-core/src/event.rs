//! What happened: a name, and the JSON that came with it, untouched.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::Snowflake;

/// Where an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BaseName {
    /// Discord's gateway.
    Discord,
    /// This system: timers, the dashboard.
    AntiRaid,
}

impl BaseName {
    /// The name that templates subscribe to.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Discord => "Discord",
            Self::AntiRaid => "AntiRaid",
        }
    }
}

impl fmt::Display for BaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of an event as templates see it, for example `MESSAGE` or `KeyExpiry`.
///
/// Names of the reference's list cost no allocation; others (events newer than this program) are kept as they came.
#[derive(Clone)]
pub struct EventName(NameRepr);

#[derive(Clone)]
enum NameRepr {
    Known(&'static str),
    Other(Arc<str>),
}

impl EventName {
    /// A record's `expires_at` has passed.
    pub const KEY_EXPIRY: Self = Self(NameRepr::Known("KeyExpiry"));
    /// A record with `resume` was loaded again.
    pub const KEY_RESUME: Self = Self(NameRepr::Known("KeyResume"));
    /// The dashboard asks for the template's settings.
    pub const GET_SETTINGS: Self = Self(NameRepr::Known("GetSettings"));
    /// The dashboard runs an operation of a setting.
    pub const EXECUTE_SETTING: Self = Self(NameRepr::Known("ExecuteSetting"));

    /// The events of Discord that are delivered, by the names that templates use (`MESSAGE` is `MESSAGE_CREATE`).
    pub const DISCORD: &'static [&'static str] = &[
        "APPLICATION_COMMAND_PERMISSIONS_UPDATE",
        "AUTO_MODERATION_RULE_CREATE",
        "AUTO_MODERATION_RULE_UPDATE",
        "AUTO_MODERATION_RULE_DELETE",
        "AUTO_MODERATION_ACTION_EXECUTION",
        "CHANNEL_CREATE",
        "CHANNEL_UPDATE",
        "CHANNEL_DELETE",
        "CHANNEL_PINS_UPDATE",
        "THREAD_CREATE",
        "THREAD_UPDATE",
        "THREAD_DELETE",
        "THREAD_LIST_SYNC",
        "THREAD_MEMBER_UPDATE",
        "THREAD_MEMBERS_UPDATE",
        "ENTITLEMENT_CREATE",
        "ENTITLEMENT_UPDATE",
        "ENTITLEMENT_DELETE",
        "GUILD_UPDATE",
        "GUILD_AUDIT_LOG_ENTRY_CREATE",
        "GUILD_BAN_ADD",
        "GUILD_BAN_REMOVE",
        "GUILD_EMOJIS_UPDATE",
        "GUILD_STICKERS_UPDATE",
        "GUILD_INTEGRATIONS_UPDATE",
        "GUILD_MEMBER_ADD",
        "GUILD_MEMBER_REMOVE",
        "GUILD_MEMBER_UPDATE",
        "GUILD_MEMBERS_CHUNK",
        "GUILD_ROLE_CREATE",
        "GUILD_ROLE_UPDATE",
        "GUILD_ROLE_DELETE",
        "GUILD_SCHEDULED_EVENT_CREATE",
        "GUILD_SCHEDULED_EVENT_UPDATE",
        "GUILD_SCHEDULED_EVENT_DELETE",
        "GUILD_SCHEDULED_EVENT_USER_ADD",
        "GUILD_SCHEDULED_EVENT_USER_REMOVE",
        "GUILD_SOUNDBOARD_SOUND_CREATE",
        "GUILD_SOUNDBOARD_SOUND_UPDATE",
        "GUILD_SOUNDBOARD_SOUND_DELETE",
        "GUILD_SOUNDBOARD_SOUNDS_UPDATE",
        "SOUNDBOARD_SOUNDS",
        "INTEGRATION_CREATE",
        "INTEGRATION_UPDATE",
        "INTEGRATION_DELETE",
        "INTERACTION_CREATE",
        "INVITE_CREATE",
        "INVITE_DELETE",
        "MESSAGE",
        "MESSAGE_UPDATE",
        "MESSAGE_DELETE",
        "MESSAGE_DELETE_BULK",
        "MESSAGE_REACTION_ADD",
        "MESSAGE_REACTION_REMOVE",
        "MESSAGE_REACTION_REMOVE_ALL",
        "MESSAGE_REACTION_REMOVE_EMOJI",
        "PRESENCE_UPDATE",
        "STAGE_INSTANCE_CREATE",
        "STAGE_INSTANCE_UPDATE",
        "STAGE_INSTANCE_DELETE",
        "SUBSCRIPTION_CREATE",
        "SUBSCRIPTION_UPDATE",
        "SUBSCRIPTION_DELETE",
        "TYPING_START",
        "USER_UPDATE",
        "VOICE_CHANNEL_EFFECT_SEND",
        "VOICE_STATE_UPDATE",
        "VOICE_SERVER_UPDATE",
        "WEBHOOKS_UPDATE",
        "MESSAGE_POLL_VOTE_ADD",
        "MESSAGE_POLL_VOTE_REMOVE",
    ];

    /// The events of this system.
    pub const ANTIRAID: &'static [&'static str] = &["KeyExpiry", "KeyResume", "GetSettings", "ExecuteSetting"];

    /// The event of this name.
    pub fn new(name: &str) -> Self {
        static KNOWN: LazyLock<HashSet<&'static str>> =
            LazyLock::new(|| EventName::DISCORD.iter().chain(EventName::ANTIRAID).copied().collect());
        match KNOWN.get(name) {
            Some(known) => Self(NameRepr::Known(known)),
            None => Self(NameRepr::Other(name.into())),
        }
    }

    /// The event that the gateway calls `t`: the same name, but for `MESSAGE_CREATE`, which templates know as `MESSAGE`.
    pub fn from_gateway(t: &str) -> Self {
        Self::new(if t == "MESSAGE_CREATE" { "MESSAGE" } else { t })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            NameRepr::Known(name) => name,
            NameRepr::Other(name) => name,
        }
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl PartialEq for EventName {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for EventName {}

impl std::hash::Hash for EventName {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl Borrow<str> for EventName {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl Serialize for EventName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for EventName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::new(&std::borrow::Cow::<'de, str>::deserialize(deserializer)?))
    }
}

/// Which events start first when a worker is behind. Lower starts first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Priority {
    /// Somebody waits for the answer: Discord gives an interaction 3 s
    /// (<https://discord.com/developers/docs/interactions/receiving-and-responding>).
    Interactive,
    /// Everything else.
    Normal,
    /// Comes in floods and is stale soon; the first to be dropped.
    Flood,
}

impl Priority {
    /// How many classes there are.
    pub const COUNT: usize = 3;
}

/// One event for one tenant. Cloning it shares the JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    base_name: BaseName,
    name: EventName,
    author: Option<Snowflake>,
    scopes: SmallVec<[Arc<str>; 1]>,
    data: Bytes,
}

impl Event {
    /// An event of Discord's gateway. `t` is the gateway's name and `data` the text of `d`, passed on as it came.
    /// Its author is found in the data when the event is turned into Lua.
    pub fn discord(t: &str, data: Bytes) -> Self {
        Self {
            base_name: BaseName::Discord,
            name: EventName::from_gateway(t),
            author: None,
            scopes: SmallVec::new(),
            data,
        }
    }

    /// An event of this system; `data` is its JSON.
    pub fn antiraid(name: EventName, data: Bytes) -> Self {
        Self { base_name: BaseName::AntiRaid, name, author: None, scopes: SmallVec::new(), data }
    }

    /// An event by the names that templates know, for those who pass one on.
    pub fn named(base_name: BaseName, name: EventName, data: Bytes) -> Self {
        Self { base_name, name, author: None, scopes: SmallVec::new(), data }
    }

    /// The same event, for the subscribers of these scopes as well (`KeyExpiry[scope]`).
    pub fn with_scopes<S: Into<Arc<str>>>(mut self, scopes: impl IntoIterator<Item = S>) -> Self {
        self.scopes = scopes.into_iter().map(Into::into).collect();
        self
    }

    /// The same event with the user behind it.
    pub fn with_author(mut self, author: Snowflake) -> Self {
        self.author = Some(author);
        self
    }

    /// Where it comes from.
    pub fn base_name(&self) -> BaseName {
        self.base_name
    }

    /// Its name.
    pub fn name(&self) -> &EventName {
        &self.name
    }

    /// The user behind it, where the maker of the event knew them. For Discord's events the data tells.
    pub fn author(&self) -> Option<Snowflake> {
        self.author
    }

    /// The scopes of a scoped event; empty otherwise.
    pub fn scopes(&self) -> &[Arc<str>] {
        &self.scopes
    }

    /// The payload: JSON text, not looked at since it came in.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The class that decides who starts first.
    pub fn priority(&self) -> Priority {
        match self.name.as_str() {
            "INTERACTION_CREATE" | "GetSettings" | "ExecuteSetting" => Priority::Interactive,
            "PRESENCE_UPDATE" | "TYPING_START" => Priority::Flood,
            _ => Priority::Normal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_events_is_the_references() {
        assert_eq!(EventName::DISCORD.len(), 71);
        assert_eq!(EventName::ANTIRAID.len(), 4);
        let distinct: HashSet<_> = EventName::DISCORD.iter().chain(EventName::ANTIRAID).collect();
        assert_eq!(distinct.len(), 75);
    }

    #[test]
    fn message_create_is_delivered_as_message() {
        assert_eq!(Event::discord("MESSAGE_CREATE", Bytes::new()).name().as_str(), "MESSAGE");
        assert_eq!(Event::discord("A_NEW_EVENT", Bytes::new()).name().as_str(), "A_NEW_EVENT");
    }

    #[test]
    fn interactions_come_before_messages_and_messages_before_floods() {
        let class = |t| Event::discord(t, Bytes::new()).priority();
        assert!(class("INTERACTION_CREATE") < class("MESSAGE_CREATE"));
        assert!(class("MESSAGE_CREATE") < class("PRESENCE_UPDATE"));
        assert_eq!(class("TYPING_START"), Priority::Flood);
    }
}
