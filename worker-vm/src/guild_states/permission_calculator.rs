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

#[cfg(test)]
mod tests {
    use super::super::guild::{ChannelKind, Overwrite, Role};
    use super::*;

    const GUILD: u64 = 1;
    const OWNER: u64 = 2;
    const USER: u64 = 3;
    const NOW: i64 = 1_000;

    const VIEW: u64 = Permissions::VIEW_CHANNEL.bits();
    const SEND: u64 = Permissions::SEND_MESSAGES.bits();
    const READ: u64 = Permissions::READ_MESSAGE_HISTORY.bits();
    const MANAGE: u64 = Permissions::MANAGE_MESSAGES.bits();
    const EMBED: u64 = Permissions::EMBED_LINKS.bits();
    const THREADS: u64 = Permissions::SEND_MESSAGES_IN_THREADS.bits();
    const CONNECT: u64 = Permissions::CONNECT.bits();
    const SPEAK: u64 = Permissions::SPEAK.bits();
    const CHANNELS: u64 = Permissions::MANAGE_CHANNELS.bits();
    const ADMIN: u64 = Permissions::ADMINISTRATOR.bits();

    fn role(id: u64, position: i32, permissions: u64) -> Role {
        Role { id, position, permissions, ..Role::default() }
    }

    fn of_role(id: u64, allow: u64, deny: u64) -> Overwrite {
        Overwrite { of: OverwriteOf::Role(id), allow, deny }
    }

    fn of_member(id: u64, allow: u64, deny: u64) -> Overwrite {
        Overwrite { of: OverwriteOf::Member(id), allow, deny }
    }

    fn channel(kind: u8, overwrites: &[Overwrite]) -> Channel {
        Channel { id: 50, kind: ChannelKind(kind), overwrites: overwrites.into(), ..Channel::default() }
    }

    fn member(roles: &[u64]) -> Member {
        Member { roles: roles.into(), ..Member::default() }
    }

    /// What the member may do in a channel with these overwrites.
    fn held(everyone: u64, roles: &[(u64, u64)], kind: u8, overwrites: &[Overwrite]) -> u64 {
        let mut all = vec![role(GUILD, 0, everyone)];
        all.extend(roles.iter().map(|&(id, permissions)| role(id, 1, permissions)));
        let member = member(&roles.iter().map(|(id, _)| *id).collect::<Vec<_>>());
        let guild = Guild::new(GUILD, OWNER, all, Vec::new());
        PermissionCalculator::new(&guild, USER, &member, NOW).in_channel(&channel(kind, overwrites)).bits()
    }

    #[test]
    fn overwrites_apply_in_discords_order() {
        let text = |everyone, roles: &[(u64, u64)], overwrites: &[Overwrite]| held(everyone, roles, 0, overwrites);
        for (what, got, expected) in [
            ("the roles together", text(VIEW, &[(10, SEND), (11, READ)], &[]), VIEW | SEND | READ),
            ("everyone is denied", text(VIEW | SEND, &[], &[of_role(GUILD, 0, SEND)]), VIEW),
            ("everyone is allowed", text(VIEW, &[], &[of_role(GUILD, READ, 0)]), VIEW | READ),
            (
                "a role is allowed what everyone is denied",
                text(VIEW | SEND, &[(10, 0)], &[of_role(GUILD, 0, SEND), of_role(10, SEND, 0)]),
                VIEW | SEND,
            ),
            (
                "of two roles the one that allows wins, whatever their order",
                text(VIEW | SEND, &[(10, 0), (11, 0)], &[of_role(10, SEND, 0), of_role(11, 0, SEND)]),
                VIEW | SEND,
            ),
            (
                "the member's own comes last",
                text(VIEW | SEND, &[(10, 0)], &[of_member(USER, 0, SEND), of_role(10, SEND, 0)]),
                VIEW,
            ),
            (
                "a member who is allowed what the role is denied",
                text(VIEW | SEND, &[(10, 0)], &[of_role(10, 0, SEND), of_member(USER, SEND, 0)]),
                VIEW | SEND,
            ),
            (
                "what is allowed and denied at once is allowed",
                text(VIEW, &[], &[of_role(GUILD, READ, READ)]),
                VIEW | READ,
            ),
            ("of roles that the member lacks nothing", text(VIEW, &[], &[of_role(10, SEND, VIEW)]), VIEW),
            ("of other members nothing", text(VIEW, &[], &[of_member(USER + 1, SEND, VIEW)]), VIEW),
            ("a member with the number of a role is none", text(VIEW, &[(10, 0)], &[of_member(10, SEND, VIEW)]), VIEW),
        ] {
            assert_eq!(got, expected, "{what}");
        }
    }

    #[test]
    fn some_permissions_take_others_along() {
        let voice = VIEW | CONNECT | SPEAK | CHANNELS;
        for (what, got, expected) in [
            ("who cannot see", held(SEND | MANAGE, &[], 0, &[]), 0),
            ("who is denied to see", held(VIEW | SEND | MANAGE, &[], 0, &[of_role(GUILD, 0, VIEW)]), 0),
            ("who cannot send", held(VIEW | EMBED | READ, &[], 0, &[]), VIEW | READ),
            ("who can send", held(VIEW | SEND | EMBED, &[], 0, &[]), VIEW | SEND | EMBED),
            ("who cannot connect", held(voice, &[], 2, &[of_role(GUILD, 0, CONNECT)]), VIEW),
            ("who can", held(voice, &[], 2, &[]), voice),
            ("a stage is a voice channel", held(voice, &[], 13, &[of_role(GUILD, 0, CONNECT)]), VIEW),
            ("elsewhere it says nothing", held(VIEW | CHANNELS, &[], 0, &[]), VIEW | CHANNELS),
        ] {
            assert_eq!(got, expected, "{what}");
        }
    }

    #[test]
    fn owners_and_administrators_may_do_everything() {
        let guild = Guild::new(GUILD, OWNER, vec![role(GUILD, 0, 0), role(10, 1, ADMIN)], Vec::new());
        let hidden = channel(0, &[of_role(GUILD, 0, VIEW), of_role(10, 0, VIEW), of_member(USER, 0, VIEW)]);
        let (admin, late) = (member(&[10]), Member { timed_out_until: NOW + 1, ..member(&[10]) });
        for (user, member) in [(OWNER, &member(&[])), (USER, &admin), (USER, &late)] {
            let who = PermissionCalculator::new(&guild, user, member, NOW);
            assert_eq!((who.in_guild(), who.in_channel(&hidden)), (ALL, ALL));
        }
        let nobody = member(&[]);
        assert_eq!(PermissionCalculator::new(&guild, USER, &nobody, NOW).in_guild(), Permissions::empty());
    }

    #[test]
    fn who_is_timed_out_can_only_look() {
        let guild = Guild::new(GUILD, OWNER, vec![role(GUILD, 0, VIEW | SEND | READ | MANAGE)], Vec::new());
        let until = |until| Member { timed_out_until: until, ..Member::default() };
        for (end, expected) in
            [(NOW + 1, VIEW | READ), (NOW, VIEW | SEND | READ | MANAGE), (0, VIEW | SEND | READ | MANAGE)]
        {
            let member = until(end);
            let who = PermissionCalculator::new(&guild, USER, &member, NOW);
            assert_eq!((who.in_guild().bits(), who.in_channel(&channel(0, &[])).bits()), (expected, expected), "{end}");
        }
        // What the channel gives does not count either.
        let member = until(NOW + 1);
        let who = PermissionCalculator::new(&guild, USER, &member, NOW);
        assert_eq!(who.in_channel(&channel(0, &[of_member(USER, MANAGE | SEND, 0)])).bits(), VIEW | READ);
    }

    #[test]
    fn threads_are_judged_by_their_channel() {
        let parent = Channel { id: 50, overwrites: [of_role(GUILD, 0, SEND)].into(), ..Channel::default() };
        let everyone = VIEW | SEND | THREADS | EMBED;
        let guild = Guild::new(GUILD, OWNER, vec![role(GUILD, 0, everyone)], vec![parent]);
        let member = Member::default();
        let thread = |parent| Channel { id: 60, kind: ChannelKind(11), parent, ..Channel::default() };
        let who = PermissionCalculator::new(&guild, USER, &member, NOW);
        assert_eq!(who.in_channel(&thread(50)).bits(), VIEW | THREADS | EMBED, "to send there is a right of its own");
        assert_eq!(who.in_channel(&thread(51)), Permissions::empty(), "of a channel that is not known");
    }

    #[test]
    fn of_two_roles_at_one_place_the_older_is_higher() {
        let roles = vec![role(GUILD, 0, 0), role(10, 3, 0), role(11, 3, 0), role(12, 4, 0)];
        let guild = Guild::new(GUILD, OWNER, roles, Vec::new());
        let rank = |user, roles: &[u64]| PermissionCalculator::new(&guild, user, &member(roles), NOW).rank();
        let order = [rank(USER, &[]), rank(USER, &[11]), rank(USER, &[11, 10]), rank(USER, &[12]), rank(OWNER, &[])];
        assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
        assert_eq!(rank(USER, &[99]), rank(USER, &[]), "a role that is gone is none");
        assert_eq!(Rank::of_role(&guild, 10), Some(rank(USER, &[10])));
        assert!(Rank::beside_all_at(3) > rank(USER, &[10]) && Rank::beside_all_at(3) < rank(USER, &[12]));
    }
}
