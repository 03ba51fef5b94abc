//! What a shard of Discord's gateway has done.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Figures of one shard: counters since its process started, and the state of now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShardStats {
    /// Its number, from 0.
    pub shard: u32,
    /// How many there are.
    pub shards: u32,
    /// What it is doing.
    pub state: ShardState,
    /// From the last heartbeat to its answer, in milliseconds; absent before the first.
    pub latency_ms: Option<f64>,
    /// The number of the last event of its session.
    pub sequence: u64,
    /// Frames of events that came.
    pub frames: u64,
    /// Of those, events handed to the workers.
    pub events: u64,
    /// Events that the gateway sent once more and that were passed over.
    pub repeated: u64,
    /// Frames that are none, or whose tenant cannot be told.
    pub bad_frames: u64,
    /// Times it connected again after its first connection.
    pub reconnects: u64,
    /// Of all connections, those that went on with a session.
    pub resumes: u64,
    /// Of all connections, those that began a session.
    pub identifies: u64,
    /// Times Discord ended its session.
    pub invalid_sessions: u64,
    /// Events that waited, with the socket unread, because the queue of a worker was full.
    pub waits: u64,
    /// Events that a worker did not take, by name.
    pub refused: BTreeMap<String, u64>,
    /// What went wrong last.
    pub trouble: Option<String>,
}

/// What a shard is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardState {
    /// Not connected, and about to be.
    #[default]
    Connecting,
    /// Waits for its turn to identify, or for Discord's answer.
    Identifying,
    /// Gets the events that it missed.
    Resuming,
    /// Gets events.
    Active,
    /// Ended, and will not connect again.
    Ended,
}

impl ShardState {
    /// The state in a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Identifying => "identifying",
            Self::Resuming => "resuming",
            Self::Active => "active",
            Self::Ended => "ended",
        }
    }
}

impl fmt::Display for ShardState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
