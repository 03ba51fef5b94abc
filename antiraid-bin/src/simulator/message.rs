//! Messages and what hangs on them.

use serde_json::{Value, json};
use worker_core::Snowflake;

use super::guild::{User, iso};

/// Discord's flags of messages.
pub mod flags {
    /// Sent on to the channels that follow.
    pub const CROSSPOSTED: i64 = 1 << 0;
    /// Embeds are hidden.
    pub const SUPPRESS_EMBEDS: i64 = 1 << 2;
    /// Only one user sees it.
    pub const EPHEMERAL: i64 = 1 << 6;
    /// A promise of a message.
    pub const LOADING: i64 = 1 << 7;
    /// Nobody is notified.
    pub const SUPPRESS_NOTIFICATIONS: i64 = 1 << 12;
    /// Made of components alone.
    pub const IS_COMPONENTS_V2: i64 = 1 << 15;
}

/// Who wrote a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Author {
    /// A user.
    User(Snowflake),
    /// A webhook, under a name of its own.
    Webhook {
        /// Which.
        id: Snowflake,
        /// The name that is shown.
        name: String,
    },
}

/// A reaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Reaction {
    /// Discord's partial emoji: a name, and an id if it is no Unicode one.
    pub emoji: Emoji,
    /// Who reacted, first ones first.
    pub users: Vec<Snowflake>,
}

/// An emoji as reactions name it.
#[derive(Clone, Debug, PartialEq)]
pub struct Emoji {
    /// The id of one that a guild made.
    pub id: Option<Snowflake>,
    /// The character, or the name.
    pub name: String,
}

impl Emoji {
    /// Discord's partial emoji object.
    pub fn json(&self) -> Value {
        json!({"id": self.id, "name": self.name})
    }
}

/// A message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Its id.
    pub id: Snowflake,
    /// Where it is.
    pub channel: Snowflake,
    /// Who wrote it.
    pub author: Author,
    /// What it is, as Discord counts: 0, or 19 for a reply, 20 for the answer to a command.
    pub kind: i64,
    /// Its text.
    pub content: String,
    /// Its embeds, as Discord writes them.
    pub embeds: Vec<Value>,
    /// Its buttons and menus, as Discord writes them.
    pub components: Vec<Value>,
    /// A poll, as Discord writes it.
    pub poll: Option<Value>,
    /// See [`flags`].
    pub flags: i64,
    /// Whether it is read aloud.
    pub tts: bool,
    /// Whether it is pinned.
    pub pinned: bool,
    /// When it was last changed.
    pub edited_ms: Option<u64>,
    /// Users that are notified.
    pub mentions: Vec<Snowflake>,
    /// Roles that are notified.
    pub mention_roles: Vec<Snowflake>,
    /// Whether everybody is notified.
    pub mention_everyone: bool,
    /// Reactions, first ones first.
    pub reactions: Vec<Reaction>,
    /// The message it answers.
    pub answers: Option<Snowflake>,
    /// What it is an answer to, as Discord writes it.
    pub interaction: Option<Value>,
    /// Which application sent it.
    pub application: Option<Snowflake>,
    /// What its sender called it.
    pub nonce: Option<Value>,
    /// The only user who sees it.
    pub visible_to: Option<Snowflake>,
}

impl Message {
    /// Different reactions that a message can have.
    pub const REACTIONS_MAX: usize = 20;

    /// Discord's message object. `user` tells about users; `reader` is who asks, for their own reactions.
    pub fn json<'a>(&self, user: impl Fn(Snowflake) -> Option<&'a User>, reader: Snowflake) -> Value {
        let author = match &self.author {
            Author::User(id) => user(*id).map_or(Value::Null, User::json),
            Author::Webhook { id, name } => json!({
                "id": id, "username": name, "avatar": null, "discriminator": "0000", "bot": true, "public_flags": 0,
                "global_name": null,
            }),
        };
        let mentions: Vec<_> = self.mentions.iter().filter_map(|id| user(*id)).map(User::json).collect();
        let embeds = if self.flags & flags::SUPPRESS_EMBEDS == 0 { &self.embeds[..] } else { &[] };
        let mut message = json!({
            "id": self.id, "channel_id": self.channel, "type": self.kind, "author": author, "content": self.content,
            "embeds": embeds, "components": self.components, "attachments": [], "flags": self.flags, "tts": self.tts,
            "pinned": self.pinned, "timestamp": iso(self.id.created_at_millis()),
            "edited_timestamp": self.edited_ms.map(iso), "mentions": mentions, "mention_roles": self.mention_roles,
            "mention_everyone": self.mention_everyone,
        });
        if !self.reactions.is_empty() {
            let reactions: Vec<_> = self.reactions.iter().map(|reaction| reaction_json(reaction, reader)).collect();
            message["reactions"] = json!(reactions);
        }
        let optional = [
            ("poll", self.poll.clone()),
            ("interaction_metadata", self.interaction.clone()),
            ("application_id", self.application.map(|id| json!(id))),
            ("nonce", self.nonce.clone()),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                message[key] = value;
            }
        }
        if let Author::Webhook { id, .. } = &self.author {
            message["webhook_id"] = json!(id);
        }
        message
    }
}

fn reaction_json(reaction: &Reaction, reader: Snowflake) -> Value {
    let count = reaction.users.len();
    json!({
        "emoji": reaction.emoji.json(), "count": count, "count_details": {"normal": count, "burst": 0},
        "me": reaction.users.contains(&reader), "me_burst": false, "burst_colors": [],
    })
}
