//! A guild in few bytes.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use smallvec::SmallVec;

/// Threads that are kept of a guild; Discord lets 1,000 be active. Beyond that the oldest goes, and is asked for again when
/// somebody names it.
const THREADS_MAX: usize = 2_000;

/// What permissions and ownership are decided by, and the names beside it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guild {
    pub(crate) id: u64,
    pub(crate) owner: u64,
    pub(crate) name: Box<str>,
    pub(crate) features: Box<[Box<str>]>,
    /// By id.
    roles: Vec<Role>,
    /// By id, with the threads that were heard of.
    channels: Vec<Channel>,
    /// The bot as a member.
    pub(crate) bot: Option<Arc<Member>>,
}

/// A role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Role {
    pub(crate) id: u64,
    pub(crate) permissions: u64,
    pub(crate) position: i32,
    pub(crate) color: u32,
    pub(crate) managed: bool,
    pub(crate) hoist: bool,
    pub(crate) mentionable: bool,
    pub(crate) name: Box<str>,
}

/// A channel or a thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Channel {
    pub(crate) id: u64,
    pub(crate) kind: ChannelKind,
    /// Of a thread the channel that it is in, of a channel its category; 0 if none.
    pub(crate) parent: u64,
    pub(crate) name: Box<str>,
    pub(crate) overwrites: Box<[Overwrite]>,
}

/// The number that Discord gives a kind of channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChannelKind(pub(crate) u8);

impl ChannelKind {
    pub(crate) fn is_thread(self) -> bool {
        matches!(self.0, 10..=12)
    }

    pub(crate) fn is_voice(self) -> bool {
        matches!(self.0, 2 | 13)
    }
}

/// What a channel gives and takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overwrite {
    pub(crate) of: OverwriteOf,
    pub(crate) allow: u64,
    pub(crate) deny: u64,
}

/// Whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OverwriteOf {
    Role(u64),
    Member(u64),
}

/// A member of a guild.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) roles: SmallVec<[u64; 6]>,
    /// Until when the member may only look, in seconds of the Unix epoch; 0 if that is over or never was.
    pub(crate) timed_out_until: i64,
    /// As Discord wrote it.
    pub(crate) json: Box<str>,
}

impl Guild {
    pub(crate) fn new(id: u64, owner: u64, mut roles: Vec<Role>, mut channels: Vec<Channel>) -> Self {
        roles.sort_unstable_by_key(|role| role.id);
        channels.sort_unstable_by_key(|channel| channel.id);
        channels.dedup_by_key(|channel| channel.id);
        Self { id, owner, roles, channels, ..Self::default() }
    }

    pub(crate) fn roles(&self) -> &[Role] {
        &self.roles
    }

    pub(crate) fn role(&self, id: u64) -> Option<&Role> {
        find(&self.roles, id, |role| role.id)
    }

    pub(crate) fn set_roles(&mut self, mut roles: Vec<Role>) {
        roles.sort_unstable_by_key(|role| role.id);
        self.roles = roles;
    }

    pub(crate) fn set_role(&mut self, role: Role) {
        set(&mut self.roles, role, |role| role.id);
    }

    pub(crate) fn remove_role(&mut self, id: u64) {
        self.roles.retain(|role| role.id != id);
    }

    pub(crate) fn channel(&self, id: u64) -> Option<&Channel> {
        find(&self.channels, id, |channel| channel.id)
    }

    pub(crate) fn set_channel(&mut self, channel: Channel) {
        let is_thread = channel.kind.is_thread();
        set(&mut self.channels, channel, |channel| channel.id);
        let threads = || self.channels.iter().enumerate().filter(|(_, channel)| channel.kind.is_thread());
        if is_thread
            && threads().count() > THREADS_MAX
            && let Some((oldest, _)) = threads().next()
        {
            self.channels.remove(oldest);
        }
    }

    /// Forgets a channel with its threads.
    pub(crate) fn remove_channel(&mut self, id: u64) {
        self.channels.retain(|channel| channel.id != id && !(channel.kind.is_thread() && channel.parent == id));
    }

    pub(crate) fn has_feature(&self, feature: &str) -> bool {
        self.features.iter().any(|held| &**held == feature)
    }

    /// About how much memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        let roles: usize = self.roles.iter().map(|role| size_of::<Role>() + role.name.len()).sum();
        let channel = |channel: &Channel| {
            size_of::<Channel>() + channel.name.len() + size_of_val::<[Overwrite]>(&channel.overwrites)
        };
        let channels: usize = self.channels.iter().map(channel).sum();
        let features: usize = self.features.iter().map(|feature| size_of::<Box<str>>() + feature.len()).sum();
        size_of::<Self>() + self.name.len() + features + roles + channels
    }

    /// As an object of Discord's, as far as it is known.
    pub(crate) fn to_json(&self) -> Json {
        let roles: Vec<_> = self.roles.iter().map(Role::to_json).collect();
        json!({
            "id": self.id.to_string(),
            "name": self.name,
            "owner_id": self.owner.to_string(),
            "features": self.features,
            "roles": roles,
        })
    }
}

impl Role {
    fn to_json(&self) -> Json {
        json!({
            "id": self.id.to_string(),
            "name": self.name,
            "color": self.color,
            "hoist": self.hoist,
            "managed": self.managed,
            "mentionable": self.mentionable,
            "permissions": self.permissions.to_string(),
            "position": self.position,
        })
    }
}

impl Channel {
    /// As an object of Discord's, as far as it is known.
    pub(crate) fn to_json(&self, guild: u64) -> Json {
        let overwrite = |overwrite: &Overwrite| {
            let (id, kind) = match overwrite.of {
                OverwriteOf::Role(id) => (id, 0),
                OverwriteOf::Member(id) => (id, 1),
            };
            let (allow, deny) = (overwrite.allow.to_string(), overwrite.deny.to_string());
            json!({ "id": id.to_string(), "type": kind, "allow": allow, "deny": deny })
        };
        let overwrites: Vec<_> = self.overwrites.iter().map(overwrite).collect();
        json!({
            "id": self.id.to_string(),
            "type": self.kind.0,
            "guild_id": guild.to_string(),
            "name": self.name,
            "parent_id": (self.parent != 0).then(|| self.parent.to_string()),
            "permission_overwrites": overwrites,
        })
    }
}

impl Member {
    /// About how much memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        let spilled = if self.roles.spilled() { self.roles.capacity() * size_of::<u64>() } else { 0 };
        size_of::<Self>() + spilled + self.json.len()
    }

    /// As Discord wrote it; where that is not known, what is.
    pub(crate) fn json_text(&self, user: u64) -> String {
        if !self.json.is_empty() {
            return self.json.to_string();
        }
        let mut text = format!(r#"{{"user":{{"id":"{user}"}},"roles":["#);
        for (index, role) in self.roles.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            // Writing to a string cannot fail.
            let _ = write!(text, r#"{comma}"{role}""#);
        }
        text + "]}"
    }
}

fn find<T>(list: &[T], id: u64, key: impl Fn(&T) -> u64) -> Option<&T> {
    list.binary_search_by_key(&id, key).ok().map(|place| &list[place])
}

fn set<T>(list: &mut Vec<T>, item: T, key: impl Fn(&T) -> u64) {
    match list.binary_search_by_key(&key(&item), &key) {
        Ok(place) => list[place] = item,
        Err(place) => list.insert(place, item),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_bounded_and_channels_stay() {
        let mut guild = Guild::new(1, 2, Vec::new(), Vec::new());
        guild.set_channel(Channel { id: 5, ..Channel::default() });
        for id in 10..10 + THREADS_MAX as u64 + 3 {
            guild.set_channel(Channel { id, kind: ChannelKind(11), parent: 5, ..Channel::default() });
        }
        let known = |guild: &Guild| [5, 12, 13].map(|id| guild.channel(id).is_some());
        assert_eq!(known(&guild), [true, false, true]);
        guild.remove_channel(5);
        assert_eq!(known(&guild), [false; 3], "its threads go with it");
    }
}
