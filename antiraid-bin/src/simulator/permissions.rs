//! Discord's permissions, and how they are worked out
//! (<https://docs.discord.com/developers/topics/permissions#permission-hierarchy>).

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign, Not};

use serde::{Serialize, Serializer};
use worker_core::Snowflake;

/// A set of permissions. In JSON a decimal string, as Discord writes it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Permissions(u64);

macro_rules! permissions {
    ($($name:ident = $bit:literal),* $(,)?) => {
        impl Permissions {
            $(
                #[doc = concat!("Bit ", $bit, ".")]
                pub const $name: Self = Self(1 << $bit);
            )*
            /// Every permission that Discord knows, by name.
            pub const NAMES: &[(&str, Self)] = &[$((stringify!($name), Self::$name)),*];
            /// All of them.
            pub const ALL: Self = Self($((1 << $bit))|*);
        }
    };
}

permissions! {
    CREATE_INSTANT_INVITE = 0,
    KICK_MEMBERS = 1,
    BAN_MEMBERS = 2,
    ADMINISTRATOR = 3,
    MANAGE_CHANNELS = 4,
    MANAGE_GUILD = 5,
    ADD_REACTIONS = 6,
    VIEW_AUDIT_LOG = 7,
    PRIORITY_SPEAKER = 8,
    STREAM = 9,
    VIEW_CHANNEL = 10,
    SEND_MESSAGES = 11,
    SEND_TTS_MESSAGES = 12,
    MANAGE_MESSAGES = 13,
    EMBED_LINKS = 14,
    ATTACH_FILES = 15,
    READ_MESSAGE_HISTORY = 16,
    MENTION_EVERYONE = 17,
    USE_EXTERNAL_EMOJIS = 18,
    VIEW_GUILD_INSIGHTS = 19,
    CONNECT = 20,
    SPEAK = 21,
    MUTE_MEMBERS = 22,
    DEAFEN_MEMBERS = 23,
    MOVE_MEMBERS = 24,
    USE_VAD = 25,
    CHANGE_NICKNAME = 26,
    MANAGE_NICKNAMES = 27,
    MANAGE_ROLES = 28,
    MANAGE_WEBHOOKS = 29,
    MANAGE_GUILD_EXPRESSIONS = 30,
    USE_APPLICATION_COMMANDS = 31,
    REQUEST_TO_SPEAK = 32,
    MANAGE_EVENTS = 33,
    MANAGE_THREADS = 34,
    CREATE_PUBLIC_THREADS = 35,
    CREATE_PRIVATE_THREADS = 36,
    USE_EXTERNAL_STICKERS = 37,
    SEND_MESSAGES_IN_THREADS = 38,
    USE_EMBEDDED_ACTIVITIES = 39,
    MODERATE_MEMBERS = 40,
    VIEW_CREATOR_MONETIZATION_ANALYTICS = 41,
    USE_SOUNDBOARD = 42,
    CREATE_GUILD_EXPRESSIONS = 43,
    CREATE_EVENTS = 44,
    USE_EXTERNAL_SOUNDS = 45,
    SEND_VOICE_MESSAGES = 46,
    SEND_POLLS = 49,
    USE_EXTERNAL_APPS = 50,
    PIN_MESSAGES = 51,
    BYPASS_SLOWMODE = 52,
}

impl Permissions {
    /// None.
    pub const NONE: Self = Self(0);
    /// What everybody has in a new guild.
    pub const DEFAULT_EVERYONE: Self = Self(
        Self::CREATE_INSTANT_INVITE.0
            | Self::ADD_REACTIONS.0
            | Self::STREAM.0
            | Self::VIEW_CHANNEL.0
            | Self::SEND_MESSAGES.0
            | Self::EMBED_LINKS.0
            | Self::ATTACH_FILES.0
            | Self::READ_MESSAGE_HISTORY.0
            | Self::USE_EXTERNAL_EMOJIS.0
            | Self::CONNECT.0
            | Self::SPEAK.0
            | Self::USE_VAD.0
            | Self::CHANGE_NICKNAME.0
            | Self::USE_APPLICATION_COMMANDS.0
            | Self::CREATE_PUBLIC_THREADS.0
            | Self::SEND_MESSAGES_IN_THREADS.0
            | Self::SEND_POLLS.0,
    );
    /// What a member keeps while timed out.
    const TIMED_OUT: Self = Self(Self::VIEW_CHANNEL.0 | Self::READ_MESSAGE_HISTORY.0);
    /// What is worth nothing in a channel where one may not write.
    const NEEDS_SEND: Self =
        Self(Self::MENTION_EVERYONE.0 | Self::SEND_TTS_MESSAGES.0 | Self::ATTACH_FILES.0 | Self::EMBED_LINKS.0);

    /// From Discord's bits; unknown ones are kept.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Discord's bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether all of `other` are in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The names of those in the set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().filter(move |(_, one)| self.contains(*one)).map(|(name, _)| *name)
    }
}

impl BitOr for Permissions {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Permissions {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for Permissions {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Not for Permissions {
    type Output = Self;

    fn not(self) -> Self {
        Self(!self.0)
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

impl Serialize for Permissions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Whom an overwrite of a channel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverwriteFor {
    /// A role, or everybody by the id of the guild.
    Role,
    /// One member.
    Member,
}

/// What a channel gives and takes, against the roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overwrite {
    /// The role or the member.
    pub id: Snowflake,
    /// Which of the two.
    pub kind: OverwriteFor,
    /// What is given.
    pub allow: Permissions,
    /// What is taken.
    pub deny: Permissions,
}

/// Who asks, as far as permissions depend on it.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    /// The guild, whose id is also that of the role of everybody.
    pub guild: Snowflake,
    /// The member.
    pub member: Snowflake,
    /// Whether the guild is theirs.
    pub owns: Ownership,
    /// Their roles, without that of everybody.
    pub roles: &'a [Snowflake],
    /// Whether they are timed out now.
    pub timeout: Timeout,
}

/// Whether a guild is a member's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// They own it.
    Owner,
    /// They do not.
    Member,
}

/// Whether a member is timed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// They may only look.
    Running,
    /// They are not.
    None,
}

impl Holder<'_> {
    /// What the roles give in the whole guild. `of_role` tells what one role has.
    pub fn in_guild(&self, of_role: impl Fn(Snowflake) -> Permissions) -> Permissions {
        if self.owns == Ownership::Owner {
            return Permissions::ALL;
        }
        let mut all = of_role(self.guild);
        for role in self.roles {
            all |= of_role(*role);
        }
        if all.contains(Permissions::ADMINISTRATOR) {
            return Permissions::ALL;
        }
        match self.timeout {
            Timeout::Running => all & Permissions::TIMED_OUT,
            Timeout::None => all,
        }
    }

    /// What is left or added in a channel with these overwrites; a thread has those of its parent.
    pub fn in_channel(&self, base: Permissions, overwrites: &[Overwrite]) -> Permissions {
        if base.contains(Permissions::ADMINISTRATOR) {
            return Permissions::ALL;
        }
        let mut all = base;
        let mut apply = |of: &mut dyn Iterator<Item = &Overwrite>| {
            let (mut allow, mut deny) = (Permissions::NONE, Permissions::NONE);
            for overwrite in of {
                allow |= overwrite.allow;
                deny |= overwrite.deny;
            }
            all = all & !deny | allow;
        };
        let is_role = |overwrite: &&Overwrite| overwrite.kind == OverwriteFor::Role;
        apply(&mut overwrites.iter().filter(is_role).filter(|overwrite| overwrite.id == self.guild));
        apply(&mut overwrites.iter().filter(is_role).filter(|overwrite| self.roles.contains(&overwrite.id)));
        apply(&mut overwrites.iter().filter(|overwrite| !is_role(overwrite) && overwrite.id == self.member));
        if self.timeout == Timeout::Running {
            all = all & Permissions::TIMED_OUT;
        }
        // What follows from others (Discord's "implicit permissions").
        if !all.contains(Permissions::VIEW_CHANNEL) {
            return Permissions::NONE;
        }
        if !all.contains(Permissions::SEND_MESSAGES) {
            all = all & !Permissions::NEEDS_SEND;
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUILD: Snowflake = Snowflake::new(10);
    const MEMBER: Snowflake = Snowflake::new(20);
    const FIRST: Snowflake = Snowflake::new(31);
    const SECOND: Snowflake = Snowflake::new(32);

    fn holder(roles: &[Snowflake]) -> Holder<'_> {
        Holder { guild: GUILD, member: MEMBER, owns: Ownership::Member, roles, timeout: Timeout::None }
    }

    fn of_role(role: Snowflake) -> Permissions {
        match role {
            GUILD => Permissions::VIEW_CHANNEL | Permissions::SEND_MESSAGES,
            FIRST => Permissions::MANAGE_MESSAGES,
            SECOND => Permissions::ADMINISTRATOR,
            _ => Permissions::NONE,
        }
    }

    fn overwrite(id: Snowflake, kind: OverwriteFor, allow: Permissions, deny: Permissions) -> Overwrite {
        Overwrite { id, kind, allow, deny }
    }

    #[test]
    fn in_a_guild_roles_add_up_and_owners_and_administrators_have_all() {
        let everyone = Permissions::VIEW_CHANNEL | Permissions::SEND_MESSAGES;
        assert_eq!(holder(&[]).in_guild(of_role), everyone);
        assert_eq!(holder(&[FIRST]).in_guild(of_role), everyone | Permissions::MANAGE_MESSAGES);
        assert_eq!(holder(&[SECOND]).in_guild(of_role), Permissions::ALL);
        let owner = Holder { owns: Ownership::Owner, ..holder(&[]) };
        assert_eq!(owner.in_guild(of_role), Permissions::ALL);
    }

    #[test]
    fn overwrites_are_laid_over_each_other_in_discords_order() {
        use OverwriteFor::{Member, Role};
        let (view, send, react) = (Permissions::VIEW_CHANNEL, Permissions::SEND_MESSAGES, Permissions::ADD_REACTIONS);
        let none = Permissions::NONE;
        let base = view | send;
        for (what, overwrites, wanted) in [
            ("none", vec![], base),
            ("everybody", vec![overwrite(GUILD, Role, none, send)], view),
            (
                "a role over everybody",
                vec![overwrite(FIRST, Role, send, none), overwrite(GUILD, Role, none, send)],
                base,
            ),
            (
                "of two roles, what one allows holds though the other denies it",
                vec![overwrite(FIRST, Role, none, send), overwrite(SECOND, Role, send, none)],
                base,
            ),
            (
                "the member over the roles",
                vec![overwrite(FIRST, Role, react, none), overwrite(MEMBER, Member, none, react | send)],
                view,
            ),
            ("another member's", vec![overwrite(Snowflake::new(21), Member, none, view)], base),
            ("a role that one has not", vec![overwrite(Snowflake::new(33), Role, none, view)], base),
            ("who does not see, does nothing", vec![overwrite(GUILD, Role, react, view)], none),
        ] {
            assert_eq!(holder(&[FIRST, SECOND]).in_channel(base, &overwrites), wanted, "{what}");
        }
    }

    #[test]
    fn who_may_not_write_may_not_mention_or_attach_either() {
        let base = Permissions::VIEW_CHANNEL | Permissions::MENTION_EVERYONE | Permissions::ATTACH_FILES;
        assert_eq!(holder(&[]).in_channel(base, &[]), Permissions::VIEW_CHANNEL);
        let base = base | Permissions::SEND_MESSAGES;
        assert_eq!(holder(&[]).in_channel(base, &[]), base);
    }

    #[test]
    fn a_timeout_leaves_looking_and_spares_administrators() {
        let looking = Permissions::VIEW_CHANNEL;
        let quiet = Holder { timeout: Timeout::Running, ..holder(&[FIRST]) };
        assert_eq!(quiet.in_guild(of_role), looking);
        assert_eq!(quiet.in_channel(quiet.in_guild(of_role), &[]), looking);
        // Not even an overwrite gives more.
        let given = overwrite(MEMBER, OverwriteFor::Member, Permissions::SEND_MESSAGES, Permissions::NONE);
        assert_eq!(quiet.in_channel(looking, &[given]), looking);
        let admin = Holder { timeout: Timeout::Running, ..holder(&[SECOND]) };
        assert_eq!(admin.in_guild(of_role), Permissions::ALL);
    }

    #[test]
    fn an_administrator_is_above_all_overwrites() {
        let denied = overwrite(GUILD, OverwriteFor::Role, Permissions::NONE, Permissions::ALL);
        assert_eq!(holder(&[SECOND]).in_channel(Permissions::ALL, &[denied]), Permissions::ALL);
    }
}
