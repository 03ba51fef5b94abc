//! The sessions of the gateway: who listens to what, what they were sent, and what they would miss.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::Notify;
use worker_core::Snowflake;

use super::world::{Audience, Happening};

/// Discord's close codes (<https://docs.discord.com/developers/topics/opcodes-and-status-codes#gateway>).
pub mod close {
    /// Something went wrong: try again.
    pub const UNKNOWN_ERROR: u16 = 4000;
    /// An opcode that there is not.
    pub const UNKNOWN_OPCODE: u16 = 4001;
    /// No JSON, or not of this form.
    pub const DECODE_ERROR: u16 = 4002;
    /// Something else before identifying.
    pub const NOT_AUTHENTICATED: u16 = 4003;
    /// A token that does not hold.
    pub const AUTHENTICATION_FAILED: u16 = 4004;
    /// Identified twice.
    pub const ALREADY_AUTHENTICATED: u16 = 4005;
    /// Resumed with a number that was never sent.
    pub const INVALID_SEQUENCE: u16 = 4007;
    /// More than 120 frames a minute.
    pub const RATE_LIMITED: u16 = 4008;
    /// No heartbeat came.
    pub const SESSION_TIMED_OUT: u16 = 4009;
    /// A shard that cannot be.
    pub const INVALID_SHARD: u16 = 4010;
    /// Another version than 10.
    pub const INVALID_VERSION: u16 = 4012;
    /// Bits that are no intents.
    pub const INVALID_INTENTS: u16 = 4013;
    /// Intents that the bot was not given.
    pub const DISALLOWED_INTENTS: u16 = 4014;
}

/// Discord's intents that are looked at apart.
pub mod intents {
    /// Members: their coming and going.
    pub const GUILD_MEMBERS: u64 = 1 << 1;
    /// What messages say.
    pub const MESSAGE_CONTENT: u64 = 1 << 15;
    /// All bits that mean something.
    pub const ALL: u64 = 0x1FFFF | 1 << 20 | 1 << 21 | 1 << 24 | 1 << 25;
}

/// How the gateway behaves.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// How often clients are asked for a heartbeat.
    pub heartbeat_interval: Duration,
    /// Shards that may identify together.
    pub max_concurrency: u64,
    /// How long the next ones of the same kind wait.
    pub identify_interval: Duration,
    /// How many shards the bot is told to use.
    pub shards: u64,
    /// Frames that a session keeps to be sent again, or until they are sent.
    pub replay_frames_max: usize,
    /// Sessions that are kept; of those without a connection the oldest go first.
    pub sessions_max: usize,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(41_250),
            max_concurrency: 1,
            identify_interval: Duration::from_secs(5),
            shards: 1,
            replay_frames_max: 20_000,
            sessions_max: 256,
        }
    }
}

/// A number for each connection.
pub(super) type ConnectionId = u64;

/// What a connection should do next.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Wait until it is woken.
    Nothing,
    /// Send this text.
    Send(String),
    /// Ask the client to connect anew.
    Reconnect,
    /// Tell that the session is over.
    Invalid {
        /// Whether it may be resumed all the same.
        resumable: bool,
    },
    /// Close, with this code or without a word.
    Close(Option<u16>),
}

/// Who may listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shard {
    pub(super) number: u64,
    pub(super) of: u64,
}

impl Shard {
    fn has(self, guild: Option<Snowflake>) -> bool {
        guild.map_or(self.number == 0, |guild| (guild.get() >> 22) % self.of == self.number)
    }
}

#[derive(Debug)]
struct Session {
    id: String,
    shard: Shard,
    intents: u64,
    /// The number of the last frame.
    sequence: u64,
    frames: VecDeque<Frame>,
    connection: Option<ConnectionId>,
}

#[derive(Debug)]
struct Frame {
    sequence: u64,
    name: &'static str,
    data: Arc<str>,
}

#[derive(Debug)]
struct Connection {
    wake: Arc<Notify>,
    session: Option<String>,
    /// The number of the last frame that was handed out to be sent.
    sent: u64,
    orders: VecDeque<Next>,
}

/// All sessions.
#[derive(Debug)]
pub struct GatewaySessions {
    config: GatewayConfig,
    sessions: VecDeque<Session>,
    connections: HashMap<ConnectionId, Connection>,
    made: u64,
    identified: u64,
    last_identify: HashMap<u64, Instant>,
}

impl GatewaySessions {
    /// Without any.
    pub fn new(config: GatewayConfig) -> Self {
        Self {
            config,
            sessions: VecDeque::new(),
            connections: HashMap::new(),
            made: 0,
            identified: 0,
            last_identify: HashMap::new(),
        }
    }

    /// How the gateway behaves.
    pub fn config(&self) -> &GatewayConfig {
        &self.config
    }

    /// Sessions that were begun.
    pub fn identified(&self) -> u64 {
        self.identified
    }

    /// Clients that are connected and identified now.
    pub fn connected(&self) -> usize {
        self.sessions.iter().filter(|session| session.connection.is_some()).count()
    }

    /// Tells what happened to all sessions that listen to it.
    pub(super) fn tell(&mut self, happening: &Happening, bot: Snowflake) {
        if happening.audience != Audience::Gateway {
            return;
        }
        let intent = intent_of(happening.name);
        let mut full: Option<Arc<str>> = None;
        let mut bare: Option<Arc<str>> = None;
        let mut overrun = Vec::new();
        for session in &mut self.sessions {
            if !session.shard.has(happening.guild) || intent != 0 && session.intents & intent == 0 {
                continue;
            }
            let hides = session.intents & intents::MESSAGE_CONTENT == 0 && hides_content(happening, bot);
            let data = match hides {
                false => full.get_or_insert_with(|| happening.data.to_string().into()),
                true => bare.get_or_insert_with(|| without_content(&happening.data).to_string().into()),
            };
            if !session.push(happening.name, data.clone(), self.config.replay_frames_max, &mut self.connections) {
                overrun.push(session.id.clone());
            }
        }
        for id in overrun {
            self.end_session(&id, Some(close::UNKNOWN_ERROR));
        }
    }

    /// A new connection, and what wakes it.
    pub(super) fn connect(&mut self) -> (ConnectionId, Arc<Notify>) {
        self.made += 1;
        let wake = Arc::new(Notify::new());
        let connection = Connection { wake: wake.clone(), session: None, sent: 0, orders: VecDeque::new() };
        self.connections.insert(self.made, connection);
        (self.made, wake)
    }

    /// A connection has ended. Its session waits to be resumed, unless the client has said that it is over.
    pub(super) fn disconnect(&mut self, id: ConnectionId, is_over: bool) {
        let Some(connection) = self.connections.remove(&id) else { return };
        let Some(session) = connection.session else { return };
        if is_over {
            self.end_session(&session, None);
        } else if let Some(session) =
            self.sessions.iter_mut().find(|one| one.id == session && one.connection == Some(id))
        {
            session.connection = None;
        }
    }

    /// Whether the shard may identify now: not too soon after others.
    pub(super) fn may_identify(&mut self, shard: Shard) -> bool {
        let lane = shard.number % self.config.max_concurrency.max(1);
        let now = Instant::now();
        let is_soon = self.last_identify.get(&lane).is_some_and(|last| now - *last < self.config.identify_interval);
        if !is_soon {
            self.last_identify.insert(lane, now);
        }
        !is_soon
    }

    /// Begins a session with these first frames, the data of which the session's id is put into.
    pub(super) fn begin(
        &mut self,
        id: ConnectionId,
        shard: Shard,
        intents: u64,
        mut ready: Value,
        first: Vec<(&'static str, Value)>,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        self.identified += 1;
        // With the time, so that a client of an earlier run does not take ours for its own.
        let session_id = format!("{:016x}{:016x}", super::unix_ms(), self.identified);
        ready["session_id"] = json!(session_id);
        connection.session = Some(session_id.clone());
        connection.sent = 0;
        let mut session =
            Session { id: session_id, shard, intents, sequence: 0, frames: VecDeque::new(), connection: Some(id) };
        session.push("READY", ready.to_string().into(), usize::MAX, &mut self.connections);
        for (name, data) in first {
            session.push(name, data.to_string().into(), usize::MAX, &mut self.connections);
        }
        self.sessions.push_back(session);
        while self.sessions.len() > self.config.sessions_max {
            let at = self.sessions.iter().position(|session| session.connection.is_none()).unwrap_or(0);
            if let Some(id) = self.sessions.get(at).map(|session| session.id.clone()) {
                self.end_session(&id, Some(close::UNKNOWN_ERROR));
            }
        }
    }

    /// Goes on with a session after the frame of this number; false if that cannot be.
    pub(super) fn resume(&mut self, id: ConnectionId, session_id: &str, sequence: u64) -> Result<(), ResumeError> {
        let session = self.sessions.iter_mut().find(|session| session.id == session_id).ok_or(ResumeError::Unknown)?;
        if sequence > session.sequence {
            return Err(ResumeError::NeverSent);
        }
        let oldest = session.frames.front().map_or(session.sequence + 1, |frame| frame.sequence);
        if sequence + 1 < oldest {
            return Err(ResumeError::Unknown);
        }
        if let Some(before) = session.connection.replace(id)
            && let Some(before) = self.connections.get_mut(&before)
        {
            before.session = None;
            before.order(Next::Close(Some(close::UNKNOWN_ERROR)));
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.session = Some(session_id.into());
            connection.sent = sequence;
        }
        session.push("RESUMED", json!({"_trace": ["simulator"]}).to_string().into(), usize::MAX, &mut self.connections);
        Ok(())
    }

    /// A client has seen all frames up to this one; they need not be kept.
    pub(super) fn seen(&mut self, id: ConnectionId, sequence: u64) {
        if let Some(session) = self.sessions.iter_mut().find(|session| session.connection == Some(id)) {
            while session.frames.front().is_some_and(|frame| frame.sequence <= sequence) {
                session.frames.pop_front();
            }
        }
    }

    /// What the connection should do next.
    pub(super) fn next(&mut self, id: ConnectionId) -> Next {
        let Some(connection) = self.connections.get_mut(&id) else { return Next::Close(None) };
        if let Some(order) = connection.orders.pop_front() {
            return order;
        }
        let Some(session_id) = &connection.session else { return Next::Nothing };
        let Some(session) = self.sessions.iter().find(|session| session.id == *session_id) else {
            return Next::Close(Some(close::UNKNOWN_ERROR));
        };
        let Some(first) = session.frames.front() else { return Next::Nothing };
        let at = (connection.sent + 1).saturating_sub(first.sequence);
        let Some(frame) = usize::try_from(at).ok().and_then(|at| session.frames.get(at)) else { return Next::Nothing };
        connection.sent = frame.sequence;
        Next::Send(format!(r#"{{"t":"{}","s":{},"op":0,"d":{}}}"#, frame.name, frame.sequence, frame.data))
    }

    /// Sends one connection something that is no event of its session's shard in general.
    pub(super) fn tell_one(&mut self, id: ConnectionId, name: &'static str, data: &Value) {
        let session = self.sessions.iter_mut().find(|session| session.connection == Some(id));
        if let Some(session) = session {
            session.push(name, data.to_string().into(), usize::MAX, &mut self.connections);
        }
    }

    /// The intents and the shard of the connection's session.
    pub(super) fn is_begun(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_some_and(|connection| connection.session.is_some())
    }

    pub(super) fn drop_connections(&mut self, code: Option<u16>) {
        for connection in self.connections.values_mut() {
            connection.order(Next::Close(code));
        }
    }

    pub(super) fn ask_to_reconnect(&mut self) {
        for connection in self.connections.values_mut() {
            connection.order(Next::Reconnect);
        }
    }

    pub(super) fn invalidate(&mut self, resumable: bool) {
        for connection in self.connections.values_mut().filter(|connection| connection.session.is_some()) {
            if !resumable {
                connection.session = None;
            }
            connection.order(Next::Invalid { resumable });
        }
        if !resumable {
            self.sessions.clear();
        }
    }

    fn end_session(&mut self, id: &str, code: Option<u16>) {
        let Some(at) = self.sessions.iter().position(|session| session.id == id) else { return };
        let Some(session) = self.sessions.remove(at) else { return };
        if let Some(connection) = session.connection.and_then(|id| self.connections.get_mut(&id)) {
            connection.session = None;
            connection.order(Next::Close(code));
        }
    }
}

/// Why a session cannot be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResumeError {
    /// It is not known, or what was missed is not kept any more.
    Unknown,
    /// The number was never sent.
    NeverSent,
}

impl Session {
    /// Adds a frame; false if it has too many that were not seen.
    fn push(
        &mut self,
        name: &'static str,
        data: Arc<str>,
        frames_max: usize,
        connections: &mut HashMap<ConnectionId, Connection>,
    ) -> bool {
        self.sequence += 1;
        self.frames.push_back(Frame { sequence: self.sequence, name, data });
        let connection = self.connection.and_then(|id| connections.get_mut(&id));
        let sent = connection.as_ref().map_or(0, |connection| connection.sent);
        if let Some(connection) = connection {
            connection.wake.notify_one();
        }
        while self.frames.len() > frames_max {
            // What was not even sent cannot be forgotten without loss: then the session is over.
            if self.frames.front().is_none_or(|frame| frame.sequence > sent) {
                return false;
            }
            self.frames.pop_front();
        }
        true
    }
}

impl Connection {
    fn order(&mut self, order: Next) {
        self.orders.push_back(order);
        self.wake.notify_one();
    }
}

/// The intents, any of which lets an event through; 0 for those that all get.
fn intent_of(name: &str) -> u64 {
    const GUILDS: u64 = 1;
    match name {
        "GUILD_MEMBER_ADD" | "GUILD_MEMBER_UPDATE" | "GUILD_MEMBER_REMOVE" => intents::GUILD_MEMBERS,
        "GUILD_AUDIT_LOG_ENTRY_CREATE" | "GUILD_BAN_ADD" | "GUILD_BAN_REMOVE" => 1 << 2,
        "WEBHOOKS_UPDATE" => 1 << 5,
        "INVITE_CREATE" | "INVITE_DELETE" => 1 << 6,
        "VOICE_STATE_UPDATE" => 1 << 7,
        "PRESENCE_UPDATE" => 1 << 8,
        "MESSAGE_CREATE" | "MESSAGE_UPDATE" | "MESSAGE_DELETE" | "MESSAGE_DELETE_BULK" => 1 << 9,
        "MESSAGE_REACTION_ADD"
        | "MESSAGE_REACTION_REMOVE"
        | "MESSAGE_REACTION_REMOVE_ALL"
        | "MESSAGE_REACTION_REMOVE_EMOJI" => 1 << 10,
        "TYPING_START" => 1 << 11,
        "AUTO_MODERATION_RULE_CREATE" | "AUTO_MODERATION_RULE_UPDATE" | "AUTO_MODERATION_RULE_DELETE" => 1 << 20,
        "AUTO_MODERATION_ACTION_EXECUTION" => 1 << 21,
        "INTERACTION_CREATE" => 0,
        "THREAD_MEMBERS_UPDATE" => GUILDS | intents::GUILD_MEMBERS,
        _ => GUILDS,
    }
}

/// Whether what a message says is kept from those without the intent: not what the bot wrote, nor what names it.
fn hides_content(happening: &Happening, bot: Snowflake) -> bool {
    let bot = bot.to_string();
    match happening.name {
        "MESSAGE_CREATE" | "MESSAGE_UPDATE" => {
            let mentions = happening.data["mentions"].as_array();
            happening.data["author"]["id"] != *bot
                && mentions.is_none_or(|mentions| mentions.iter().all(|mention| mention["id"] != *bot))
        }
        "AUTO_MODERATION_ACTION_EXECUTION" => true,
        _ => false,
    }
}

fn without_content(data: &Value) -> Value {
    let mut data = data.clone();
    for (key, empty) in [
        ("content", json!("")),
        ("matched_content", json!("")),
        ("embeds", json!([])),
        ("attachments", json!([])),
        ("components", json!([])),
    ] {
        if data.get(key).is_some() {
            data[key] = empty;
        }
    }
    if let Some(map) = data.as_object_mut() {
        map.remove("poll");
    }
    data
}
