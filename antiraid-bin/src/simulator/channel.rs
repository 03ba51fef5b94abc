//! Channels and threads.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};
use worker_core::Snowflake;

use super::guild::iso;
use super::message::Message;
use super::permissions::{Overwrite, OverwriteFor};

/// Discord's kinds of channels.
pub mod kind {
    /// Text.
    pub const TEXT: i64 = 0;
    /// Voice.
    pub const VOICE: i64 = 2;
    /// A heading over channels.
    pub const CATEGORY: i64 = 4;
    /// Text that other guilds can follow.
    pub const ANNOUNCEMENT: i64 = 5;
    /// A thread of such a channel.
    pub const ANNOUNCEMENT_THREAD: i64 = 10;
    /// A thread for all who see the channel.
    pub const PUBLIC_THREAD: i64 = 11;
    /// A thread for those who were added.
    pub const PRIVATE_THREAD: i64 = 12;
    /// Voice with an audience.
    pub const STAGE: i64 = 13;
    /// Threads alone.
    pub const FORUM: i64 = 15;
    /// Threads with pictures.
    pub const MEDIA: i64 = 16;
}

/// A channel or a thread.
#[derive(Clone, Debug)]
pub struct Channel {
    /// Its id.
    pub id: Snowflake,
    /// Which guild's.
    pub guild: Snowflake,
    /// What it is, as Discord counts.
    pub kind: i64,
    /// Its name.
    pub name: String,
    /// Its place.
    pub position: i64,
    /// The category, or the channel of a thread.
    pub parent: Option<Snowflake>,
    /// What it gives and takes.
    pub overwrites: Vec<Overwrite>,
    /// What else can be changed about it, as Discord names it.
    pub settings: Map<String, Value>,
    /// What is said in it, oldest first.
    pub messages: VecDeque<Message>,
    /// The newest message that ever was.
    pub last_message: Option<Snowflake>,
    /// What only a thread has.
    pub thread: Option<Thread>,
}

/// What only a thread has.
#[derive(Clone, Debug)]
pub struct Thread {
    /// Who began it.
    pub owner: Snowflake,
    /// Whether it is closed.
    pub archived: bool,
    /// Whether only moderators open it again.
    pub locked: bool,
    /// Whether only moderators add others, in a private one.
    pub invitable: bool,
    /// Minutes until it closes by itself.
    pub auto_archive_minutes: i64,
    /// When that last changed, in milliseconds since the Unix epoch.
    pub archive_changed_ms: u64,
    /// Who has joined it.
    pub members: Vec<Snowflake>,
    /// Messages that were sent in it.
    pub sent: u64,
}

impl Channel {
    /// Messages that are kept; the oldest go.
    pub const MESSAGES_MAX: usize = 1_000;

    /// Whether it is a thread.
    pub fn is_thread(&self) -> bool {
        self.thread.is_some()
    }

    /// Whether messages can be in it.
    pub fn has_messages(&self) -> bool {
        !matches!(self.kind, kind::CATEGORY | kind::FORUM | kind::MEDIA)
    }

    /// Whether people speak in it.
    pub fn has_voice(&self) -> bool {
        matches!(self.kind, kind::VOICE | kind::STAGE)
    }

    /// A message that is kept.
    pub fn message(&self, id: Snowflake) -> Option<&Message> {
        let at = self.messages.binary_search_by_key(&id, |message| message.id).ok()?;
        self.messages.get(at)
    }

    /// The same, to change it.
    pub fn message_mut(&mut self, id: Snowflake) -> Option<&mut Message> {
        let at = self.messages.binary_search_by_key(&id, |message| message.id).ok()?;
        self.messages.get_mut(at)
    }

    /// Takes a message out.
    pub fn take_message(&mut self, id: Snowflake) -> Option<Message> {
        let at = self.messages.binary_search_by_key(&id, |message| message.id).ok()?;
        self.messages.remove(at)
    }

    /// Discord's channel object.
    pub fn json(&self) -> Value {
        let mut channel = self.settings.clone();
        for (key, value) in [
            ("id", json!(self.id)),
            ("guild_id", json!(self.guild)),
            ("type", json!(self.kind)),
            ("name", json!(self.name)),
            ("parent_id", json!(self.parent)),
        ] {
            channel.insert(key.into(), value);
        }
        if self.has_messages() || matches!(self.kind, kind::FORUM | kind::MEDIA) {
            channel.insert("last_message_id".into(), json!(self.last_message));
        }
        let Some(thread) = &self.thread else {
            channel.insert("position".into(), json!(self.position));
            let overwrites: Vec<_> = self.overwrites.iter().map(overwrite_json).collect();
            channel.insert("permission_overwrites".into(), json!(overwrites));
            return Value::Object(channel);
        };
        let mut metadata = json!({
            "archived": thread.archived, "auto_archive_duration": thread.auto_archive_minutes,
            "archive_timestamp": iso(thread.archive_changed_ms), "locked": thread.locked,
            "create_timestamp": iso(self.id.created_at_millis()),
        });
        if self.kind == kind::PRIVATE_THREAD {
            metadata["invitable"] = json!(thread.invitable);
        }
        for (key, value) in [
            ("owner_id", json!(thread.owner)),
            ("thread_metadata", metadata),
            ("message_count", json!(self.messages.len())),
            ("total_message_sent", json!(thread.sent)),
            ("member_count", json!(thread.members.len().min(50))),
        ] {
            channel.insert(key.into(), value);
        }
        Value::Object(channel)
    }
}

/// Discord's overwrite object.
fn overwrite_json(overwrite: &Overwrite) -> Value {
    let kind = match overwrite.kind {
        OverwriteFor::Role => 0,
        OverwriteFor::Member => 1,
    };
    json!({"id": overwrite.id, "type": kind, "allow": overwrite.allow, "deny": overwrite.deny})
}
