//! Which events Discord is asked for: an intent is a group of events
//! (<https://discord.com/developers/docs/events/gateway#gateway-intents>).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use worker_core::BaseName;

/// A set of intents, as Discord's bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intents(u64);

/// All intents of guilds by Discord's names; what concerns direct messages is never delivered.
const NAMES: [(&str, Intents); 17] = [
    ("GUILDS", Intents::GUILDS),
    ("GUILD_MEMBERS", Intents::GUILD_MEMBERS),
    ("GUILD_MODERATION", Intents::bit(2)),
    ("GUILD_EXPRESSIONS", Intents::bit(3)),
    ("GUILD_INTEGRATIONS", Intents::bit(4)),
    ("GUILD_WEBHOOKS", Intents::bit(5)),
    ("GUILD_INVITES", Intents::bit(6)),
    ("GUILD_VOICE_STATES", Intents::bit(7)),
    ("GUILD_PRESENCES", Intents::GUILD_PRESENCES),
    ("GUILD_MESSAGES", Intents::bit(9)),
    ("GUILD_MESSAGE_REACTIONS", Intents::bit(10)),
    ("GUILD_MESSAGE_TYPING", Intents::bit(11)),
    ("MESSAGE_CONTENT", Intents::MESSAGE_CONTENT),
    ("GUILD_SCHEDULED_EVENTS", Intents::bit(16)),
    ("AUTO_MODERATION_CONFIGURATION", Intents::bit(20)),
    ("AUTO_MODERATION_EXECUTION", Intents::bit(21)),
    ("GUILD_MESSAGE_POLLS", Intents::bit(24)),
];

/// Privileged intents: what Discord's developer portal calls the switch, and the flags of an application that has it
/// (<https://discord.com/developers/docs/resources/application#application-object-application-flags>), the second for bots
/// in fewer than a hundred guilds.
const PRIVILEGED: [(Intents, &str, u64); 3] = [
    (Intents::GUILD_PRESENCES, "Presence Intent", 1 << 12 | 1 << 13),
    (Intents::GUILD_MEMBERS, "Server Members Intent", 1 << 14 | 1 << 15),
    (Intents::MESSAGE_CONTENT, "Message Content Intent", 1 << 18 | 1 << 19),
];

impl Intents {
    /// None.
    pub const NONE: Self = Self(0);
    /// Guilds, their channels and roles: always on, as permissions are computed from them.
    pub const GUILDS: Self = Self::bit(0);
    /// Members who come, go and change; privileged.
    pub const GUILD_MEMBERS: Self = Self::bit(1);
    /// Who is online; privileged.
    pub const GUILD_PRESENCES: Self = Self::bit(8);
    /// What messages say; privileged.
    pub const MESSAGE_CONTENT: Self = Self::bit(15);

    const fn bit(bit: u32) -> Self {
        Self(1 << bit)
    }

    /// Discord's bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// What is in either.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is here and not there.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is none.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// What the event of this name, as templates write it, needs. Some events always come; a name that is none of
    /// Discord's needs nothing.
    pub fn of_event(name: &str) -> Self {
        let named = |name: &str| Self::named(name).unwrap_or(Self::NONE);
        let messages = || named("GUILD_MESSAGES");
        match name {
            "MESSAGE" | "MESSAGE_UPDATE" => messages().and(Self::MESSAGE_CONTENT),
            "MESSAGE_DELETE" | "MESSAGE_DELETE_BULK" => messages(),
            "GUILD_UPDATE" | "GUILD_DELETE" => Self::GUILDS,
            "THREAD_MEMBERS_UPDATE" => Self::GUILDS.and(Self::GUILD_MEMBERS),
            "PRESENCE_UPDATE" => Self::GUILD_PRESENCES,
            "TYPING_START" => named("GUILD_MESSAGE_TYPING"),
            "WEBHOOKS_UPDATE" => named("GUILD_WEBHOOKS"),
            "VOICE_CHANNEL_EFFECT_SEND" | "VOICE_STATE_UPDATE" => named("GUILD_VOICE_STATES"),
            "GUILD_AUDIT_LOG_ENTRY_CREATE" | "GUILD_BAN_ADD" | "GUILD_BAN_REMOVE" => named("GUILD_MODERATION"),
            "GUILD_EMOJIS_UPDATE" | "GUILD_STICKERS_UPDATE" => named("GUILD_EXPRESSIONS"),
            "GUILD_INTEGRATIONS_UPDATE" => named("GUILD_INTEGRATIONS"),
            "GUILD_MEMBER_ADD" | "GUILD_MEMBER_REMOVE" | "GUILD_MEMBER_UPDATE" => Self::GUILD_MEMBERS,
            "AUTO_MODERATION_ACTION_EXECUTION" => named("AUTO_MODERATION_EXECUTION"),
            _ => {
                let groups = [
                    ("GUILD_ROLE_", "GUILDS"),
                    ("CHANNEL_", "GUILDS"),
                    ("THREAD_", "GUILDS"),
                    ("STAGE_INSTANCE_", "GUILDS"),
                    ("GUILD_SOUNDBOARD_", "GUILD_EXPRESSIONS"),
                    ("GUILD_SCHEDULED_EVENT_", "GUILD_SCHEDULED_EVENTS"),
                    ("INTEGRATION_", "GUILD_INTEGRATIONS"),
                    ("INVITE_", "GUILD_INVITES"),
                    ("MESSAGE_REACTION_", "GUILD_MESSAGE_REACTIONS"),
                    ("MESSAGE_POLL_VOTE_", "GUILD_MESSAGE_POLLS"),
                    ("AUTO_MODERATION_RULE_", "AUTO_MODERATION_CONFIGURATION"),
                ];
                groups.iter().find(|(prefix, _)| name.starts_with(prefix)).map_or(Self::NONE, |(_, group)| named(group))
            }
        }
    }

    /// What these subscriptions need ([`worker_db::WorkerDb::subscriptions`]). Who subscribes to every event of Discord gets
    /// what others asked for by name, and of the rest what is not privileged: a template cannot ask for a flood of
    /// presences by accident.
    pub fn of_subscriptions<'a>(subscriptions: impl IntoIterator<Item = &'a str>) -> Self {
        subscriptions.into_iter().fold(Self::GUILDS, |all, subscription| {
            let name = subscription.split_once('[').map_or(subscription, |(name, _)| name);
            all.and(if name == BaseName::Discord.as_str() { Self::unprivileged() } else { Self::of_event(name) })
        })
    }

    fn unprivileged() -> Self {
        NAMES.iter().fold(Self::NONE, |all, (_, intent)| all.and(*intent)).without(Self::PRIVILEGED)
    }

    /// Those that must be turned on in the developer portal.
    pub const PRIVILEGED: Self = Self::GUILD_MEMBERS.and(Self::GUILD_PRESENCES).and(Self::MESSAGE_CONTENT);

    /// The privileged ones of these.
    #[must_use]
    pub const fn privileged(self) -> Self {
        Self(self.0 & Self::PRIVILEGED.0)
    }

    /// The privileged ones that an application with these flags may ask for.
    pub fn allowed_by(flags: u64) -> Self {
        let allowed = PRIVILEGED.iter().filter(|(_, _, bits)| flags & bits != 0);
        allowed.fold(Self::NONE, |all, (intent, ..)| all.and(*intent))
    }

    /// What the developer portal calls the privileged ones of these.
    pub fn switches(self) -> String {
        let on = PRIVILEGED.iter().filter(|(intent, ..)| !self.without(self.without(*intent)).is_none());
        on.map(|(_, switch, _)| format!("`{switch}`")).collect::<Vec<_>>().join(", ")
    }

    fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, intent)| *intent)
    }
}

impl fmt::Display for Intents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = NAMES.iter().filter(|(_, intent)| self.0 & intent.0 != 0).map(|(name, _)| *name);
        f.write_str(&on.collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Intents {
    type Err = String;

    /// Names with commas between them.
    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).try_fold(Self::NONE, |all, name| {
            let unknown = || {
                let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
                format!("expected `auto`, or names of intents with commas between them: {}", names.join(", "))
            };
            Self::named(name).map(|intent| all.and(intent)).ok_or_else(unknown)
        })
    }
}

#[cfg(test)]
mod tests {
    use worker_core::EventName;

    use super::*;

    /// Events that come whatever the intents.
    const ALWAYS: [&str; 12] = [
        "APPLICATION_COMMAND_PERMISSIONS_UPDATE",
        "ENTITLEMENT_CREATE",
        "ENTITLEMENT_UPDATE",
        "ENTITLEMENT_DELETE",
        "SUBSCRIPTION_CREATE",
        "SUBSCRIPTION_UPDATE",
        "SUBSCRIPTION_DELETE",
        "INTERACTION_CREATE",
        "GUILD_MEMBERS_CHUNK",
        "SOUNDBOARD_SOUNDS",
        "USER_UPDATE",
        "VOICE_SERVER_UPDATE",
    ];

    #[test]
    fn every_event_of_the_reference_has_its_intents() {
        for name in EventName::DISCORD {
            assert_eq!(Intents::of_event(name).is_none(), ALWAYS.contains(name), "{name}");
        }
        for name in EventName::ANTIRAID {
            assert!(Intents::of_event(name).is_none(), "{name}");
        }
    }

    #[test]
    fn intents_are_what_is_subscribed_to_and_guilds() {
        let of = |list: &[&str]| Intents::of_subscriptions(list.iter().copied()).to_string();
        assert_eq!(of(&[]), "GUILDS");
        assert_eq!(of(&["KeyExpiry[x]", "GetSettings", "nonsense", ""]), "GUILDS");
        assert_eq!(of(&["MESSAGE"]), "GUILDS,GUILD_MESSAGES,MESSAGE_CONTENT");
        assert_eq!(of(&["GUILD_MEMBER_ADD", "TYPING_START[x]"]), "GUILDS,GUILD_MEMBERS,GUILD_MESSAGE_TYPING");
        assert_eq!(of(&["GUILD_ROLE_CREATE", "MESSAGE_REACTION_ADD"]), "GUILDS,GUILD_MESSAGE_REACTIONS");
        let all = Intents::of_subscriptions(["Discord"]);
        assert!(all.privileged().is_none());
        let every = EventName::DISCORD.iter().fold(Intents::NONE, |all, name| all.and(Intents::of_event(name)));
        assert_eq!(all, every.without(Intents::PRIVILEGED));
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        let all: Intents = "GUILDS, GUILD_MEMBERS,MESSAGE_CONTENT".parse().unwrap();
        assert_eq!(all.to_string(), "GUILDS,GUILD_MEMBERS,MESSAGE_CONTENT");
        assert_eq!(all.bits(), 1 | 1 << 1 | 1 << 15);
        assert!("GUILDS,MEMBERS".parse::<Intents>().unwrap_err().contains("GUILD_MEMBERS"));
    }

    #[test]
    fn an_application_says_which_privileged_intents_it_has() {
        assert_eq!(Intents::allowed_by(0), Intents::NONE);
        assert_eq!(Intents::allowed_by(1 << 15), Intents::GUILD_MEMBERS);
        assert_eq!(Intents::allowed_by(1 << 12 | 1 << 14 | 1 << 18), Intents::PRIVILEGED);
        let two = Intents::GUILD_MEMBERS.and(Intents::MESSAGE_CONTENT).and(Intents::GUILDS);
        assert_eq!(two.switches(), "`Server Members Intent`, `Message Content Intent`");
    }
}
