//! What a member may do, by Discord's documented rules.

use std::cmp::Reverse;

use serenity::model::permissions::Permissions;

use super::guild::{Channel, Guild, Member, OverwriteOf};

/// What one member of a guild may do at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PermissionCalculator<'a> {
    guild: &'a Guild,
    user: u64,
    member: &'a Member,
    /// Seconds of the Unix epoch.
    now: i64,
}

/// How high a role stands, or the member whose highest it is. Of two roles at one position the older one is higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// Of a role, or of nobody's: everybody has the role `@everyone`.
    Role(i32, Reverse<u64>),
    /// Above all roles.
    Owner,
}

/// What is left to who is timed out.
const LOOK: Permissions = Permissions::VIEW_CHANNEL.union(Permissions::READ_MESSAGE_HISTORY);

/// What nobody can do who cannot send.
const WHEN_SENDING: Permissions = Permissions::MENTION_EVERYONE
    .union(Permissions::SEND_TTS_MESSAGES)
    .union(Permissions::ATTACH_FILES)
    .union(Permissions::EMBED_LINKS);

/// What nobody can do in a voice channel who cannot join it.
const WHEN_CONNECTED: Permissions = Permissions::MANAGE_CHANNELS
    .union(Permissions::SPEAK)
    .union(Permissions::STREAM)
    .union(Permissions::USE_VAD)
    .union(Permissions::PRIORITY_SPEAKER)
    .union(Permissions::MUTE_MEMBERS)
    .union(Permissions::DEAFEN_MEMBERS)
    .union(Permissions::MOVE_MEMBERS)
    .union(Permissions::REQUEST_TO_SPEAK)
    .union(Permissions::USE_EMBEDDED_ACTIVITIES)
    .union(Permissions::USE_SOUNDBOARD)
    .union(Permissions::USE_EXTERNAL_SOUNDS);

/// Every permission there is, those that were made later too.
const ALL: Permissions = Permissions::from_bits_retain(u64::MAX);

impl<'a> PermissionCalculator<'a> {
    pub(crate) fn new(guild: &'a Guild, user: u64, member: &'a Member, now: i64) -> Self {
        Self { guild, user, member, now }
    }

    /// Server-wide.
    pub(crate) fn in_guild(&self) -> Permissions {
        let held = self.of_roles();
        if self.is_timed_out(held) { held & LOOK } else { held }
    }

    /// In a channel of the guild. In a thread it is what the thread's channel says.
    pub(crate) fn in_channel(&self, channel: &Channel) -> Permissions {
        let held = self.of_roles();
        if held == ALL {
            return held;
        }
        let is_thread = channel.kind.is_thread();
        // Without the channel that it is in, nothing is known of what a thread allows.
        let Some(place) = (if is_thread { self.guild.channel(channel.parent) } else { Some(channel) }) else {
            return Permissions::empty();
        };
        let mut held = self.with_overwrites(held, place);
        if !held.contains(Permissions::VIEW_CHANNEL) {
            return Permissions::empty();
        }
        let sends = if is_thread { Permissions::SEND_MESSAGES_IN_THREADS } else { Permissions::SEND_MESSAGES };
        if !held.contains(sends) {
            held -= WHEN_SENDING;
        }
        if place.kind.is_voice() && !held.contains(Permissions::CONNECT) {
            held -= WHEN_CONNECTED;
        }
        if self.is_timed_out(held) { held & LOOK } else { held }
    }

    /// How high the member stands.
    pub(crate) fn rank(&self) -> Rank {
        if self.is_owner() {
            return Rank::Owner;
        }
        let everyone = Rank::Role(0, Reverse(self.guild.id));
        self.member.roles.iter().filter_map(|&role| Rank::of_role(self.guild, role)).fold(everyone, Rank::max)
    }

    fn is_owner(&self) -> bool {
        self.user == self.guild.owner
    }

    /// Owners and administrators cannot be timed out.
    fn is_timed_out(&self, held: Permissions) -> bool {
        self.member.timed_out_until > self.now && held != ALL
    }

    fn of_roles(&self) -> Permissions {
        if self.is_owner() {
            return ALL;
        }
        // `@everyone` has the guild's id.
        let of = |role: u64| self.guild.role(role).map_or(0, |role| role.permissions);
        let held = self.member.roles.iter().fold(of(self.guild.id), |held, &role| held | of(role));
        let held = Permissions::from_bits_retain(held);
        if held.contains(Permissions::ADMINISTRATOR) { ALL } else { held }
    }

    /// First what the channel says of everyone, then of the member's roles together, then of the member.
    fn with_overwrites(&self, held: Permissions, channel: &Channel) -> Permissions {
        let (mut everyone, mut roles, mut own) = ((0, 0), (0, 0), (0, 0));
        for overwrite in &channel.overwrites {
            let place = match overwrite.of {
                OverwriteOf::Role(role) if role == self.guild.id => &mut everyone,
                OverwriteOf::Role(role) if self.member.roles.contains(&role) => &mut roles,
                OverwriteOf::Member(user) if user == self.user => &mut own,
                _ => continue,
            };
            place.0 |= overwrite.allow;
            place.1 |= overwrite.deny;
        }
        let applied = [everyone, roles, own].into_iter().fold(held.bits(), |held, (allow, deny)| held & !deny | allow);
        Permissions::from_bits_retain(applied)
    }
}

impl Rank {
    /// Of a role of the guild.
    pub(crate) fn of_role(guild: &Guild, role: u64) -> Option<Self> {
        guild.role(role).map(|role| Self::Role(role.position, Reverse(role.id)))
    }

    /// Of whatever is put at a position, as the highest there.
    pub(crate) fn beside_all_at(position: i32) -> Self {
        Self::Role(position, Reverse(0))
    }
}
