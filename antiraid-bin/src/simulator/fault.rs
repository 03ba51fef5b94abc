//! What goes wrong on demand.

use std::time::Duration;

use serde::Deserialize;

/// Something that goes wrong. In JSON an object with `fault` and what belongs to it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// All connections to the gateway end: with this close code, or without a word.
    Drop {
        /// The close code.
        #[serde(default)]
        code: Option<u16>,
    },
    /// The gateway asks all clients to connect anew (opcode 7).
    Reconnect,
    /// All sessions end (opcode 9).
    InvalidateSessions {
        /// Whether clients are told that they may resume.
        #[serde(default)]
        resumable: bool,
    },
    /// The next REST calls are answered with this status.
    RestStatus {
        /// 500, 502, 503, …
        status: u16,
        /// How many.
        count: u32,
    },
    /// The next REST calls are answered with 429.
    RateLimit {
        /// How many.
        count: u32,
        /// How long the client is told to wait.
        retry_after_ms: u64,
        /// Whether all calls are said to be limited.
        #[serde(default)]
        global: bool,
    },
    /// REST answers late, from now on; 0 ends it.
    RestDelay {
        /// By so much.
        millis: u64,
    },
    /// No gateway connection is taken, from now on.
    RefuseGateway {
        /// Whether.
        refused: bool,
    },
    /// Who asks for one of these intents is closed with 4014.
    DisallowIntents {
        /// Discord's bits.
        intents: u64,
    },
    /// The bot's token holds no more.
    RevokeToken,
}

/// The faults that are in force.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub(super) rest_status: Option<(u16, u32)>,
    pub(super) rate_limit: Option<(u32, u64, bool)>,
    pub(super) rest_delay: Duration,
    pub(super) refuses_gateway: bool,
    pub(super) disallowed_intents: u64,
}

/// What a REST call is answered with instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RestFault {
    Status(u16),
    RateLimit { retry_after_ms: u64, global: bool },
}

impl Faults {
    /// The fault of the next REST call.
    pub(super) fn next_rest(&mut self) -> Option<RestFault> {
        if let Some((status, count)) = self.rest_status.as_mut().filter(|(_, count)| *count > 0) {
            *count -= 1;
            return Some(RestFault::Status(*status));
        }
        let (count, retry_after_ms, global) = self.rate_limit.as_mut().filter(|(count, ..)| *count > 0)?;
        *count -= 1;
        Some(RestFault::RateLimit { retry_after_ms: *retry_after_ms, global: *global })
    }
}

impl super::Simulator {
    /// Lets it go wrong.
    pub fn fail(&self, fault: &Fault) {
        match *fault {
            Fault::Drop { code } => self.sessions().drop_connections(code),
            Fault::Reconnect => self.sessions().ask_to_reconnect(),
            Fault::InvalidateSessions { resumable } => self.sessions().invalidate(resumable),
            Fault::RestStatus { status, count } => self.faults().rest_status = Some((status, count)),
            Fault::RateLimit { count, retry_after_ms, global } => {
                self.faults().rate_limit = Some((count, retry_after_ms, global));
            }
            Fault::RestDelay { millis } => self.faults().rest_delay = Duration::from_millis(millis),
            Fault::RefuseGateway { refused } => self.faults().refuses_gateway = refused,
            Fault::DisallowIntents { intents } => self.faults().disallowed_intents = intents,
            Fault::RevokeToken => {
                self.with_world(super::world::World::revoke_token);
                self.sessions().drop_connections(Some(super::gateway_sessions::close::AUTHENTICATION_FAILED));
            }
        }
    }
}
