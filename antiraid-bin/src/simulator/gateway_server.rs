//! Discord's gateway over websockets.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use flate2::{Compress, Compression, FlushCompress};
use serde::Deserialize;
use serde_json::{Value, json};
use worker_core::Snowflake;

use super::Simulator;
use super::form::as_id;
use super::gateway_sessions::{ConnectionId, Next, ResumeError, Shard, close, intents};
use super::guild::{Guild, iso};
use super::world::World;

/// Frames that a client may send in a minute.
const FRAMES_IN_MINUTE_MAX: usize = 120;
/// The largest frame that a client may send.
const FRAME_BYTES_MAX: usize = 4_096;
/// Members in one answer to a request for members.
const CHUNK_MEMBERS_MAX: usize = 1_000;

/// What stands in the address of a connection.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct GatewayQuery {
    v: Option<String>,
    encoding: Option<String>,
    compress: Option<String>,
}

/// Takes a connection to the gateway.
///
/// `host` is how clients reach this server.
pub fn accept(simulator: Simulator, query: GatewayQuery, host: &str, upgrade: WebSocketUpgrade) -> Response {
    if simulator.faults().refuses_gateway {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let is_zlib = match query.compress.as_deref() {
        None => false,
        Some("zlib-stream") => true,
        Some(other) => {
            let what = format!("the simulator does not compress by {other}; zlib-stream and none are possible\n");
            return (StatusCode::BAD_REQUEST, what).into_response();
        }
    };
    if query.encoding.as_deref().unwrap_or("json") != "json" {
        return (StatusCode::BAD_REQUEST, "the simulator speaks JSON only\n").into_response();
    }
    let url = format!("ws://{host}");
    let is_known = query.v.as_deref().is_none_or(|version| version == "10");
    upgrade.on_upgrade(move |socket| async move {
        let (id, wake) = simulator.sessions().connect();
        let mut connection = Connection {
            simulator: simulator.clone(),
            id,
            url,
            socket,
            zlib: is_zlib.then(|| Compress::new(Compression::fast(), true)),
            received: VecDeque::new(),
            last_heartbeat: Instant::now(),
        };
        let is_over = connection.run(&wake, is_known).await;
        simulator.sessions().disconnect(id, is_over);
        simulator.tell_connected();
    })
}

struct Connection {
    simulator: Simulator,
    id: ConnectionId,
    url: String,
    socket: WebSocket,
    zlib: Option<Compress>,
    received: VecDeque<Instant>,
    last_heartbeat: Instant,
}

/// How a connection ends: with a code or without a word.
struct End(Option<u16>);

#[derive(Deserialize)]
struct Received {
    op: u64,
    #[serde(default)]
    d: Value,
}

impl Connection {
    /// Serves the client. Tells whether it has said that its session is over.
    async fn run(&mut self, wake: &tokio::sync::Notify, is_known_version: bool) -> bool {
        if !is_known_version {
            self.close(Some(close::INVALID_VERSION)).await;
            return true;
        }
        let interval = self.simulator.sessions().config().heartbeat_interval;
        let hello = json!({"op": 10, "t": null, "s": null, "d": {"heartbeat_interval": interval.as_millis() as u64, "_trace": ["simulator"]}});
        if self.send(hello.to_string()).await.is_err() {
            return false;
        }
        // A client may be late by so much.
        let patience = interval + interval / 2;
        loop {
            let next = self.simulator.sessions().next(self.id);
            let is_idle = next == Next::Nothing;
            let sent = match next {
                Next::Nothing => Ok(()),
                Next::Send(text) => self.send(text).await,
                Next::Reconnect => self.send(json!({"op": 7, "t": null, "s": null, "d": null}).to_string()).await,
                Next::Invalid { resumable } => {
                    self.send(json!({"op": 9, "t": null, "s": null, "d": resumable}).to_string()).await
                }
                Next::Close(code) => {
                    self.close(code).await;
                    return false;
                }
            };
            if sent.is_err() {
                return false;
            }
            let silent = self.last_heartbeat + patience;
            // A client is also heard while there is much to send it.
            let message = tokio::select! {
                biased;
                message = self.socket.recv() => message,
                () = std::future::ready(()), if !is_idle => continue,
                () = wake.notified() => continue,
                () = tokio::time::sleep_until(silent.into()) => {
                    self.close(Some(close::SESSION_TIMED_OUT)).await;
                    return false;
                }
            };
            let Some(Ok(message)) = message else { return false };
            match self.receive(message) {
                ControlFlow::Continue(None) => {}
                ControlFlow::Continue(Some(answer)) => {
                    if self.send(answer).await.is_err() {
                        return false;
                    }
                }
                ControlFlow::Break(Ok(End(code))) => {
                    self.close(code).await;
                    return false;
                }
                ControlFlow::Break(Err(is_over)) => return is_over,
            }
        }
    }

    /// Looks at what the client sent. Goes on, with an answer or without; or ends the connection; or the client has, and
    /// perhaps its session.
    fn receive(&mut self, message: Message) -> ControlFlow<Result<End, bool>, Option<String>> {
        let end = |code| ControlFlow::Break(Ok(End(Some(code))));
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(bytes) => match String::from_utf8(bytes.to_vec()) {
                Ok(text) => text.into(),
                Err(_) => return end(close::DECODE_ERROR),
            },
            Message::Ping(_) | Message::Pong(_) => return ControlFlow::Continue(None),
            Message::Close(frame) => {
                // 1000 and 1001 end the session; whoever wants to resume closes with another code.
                let is_over = frame.is_some_and(|frame| matches!(frame.code, 1000 | 1001));
                return ControlFlow::Break(Err(is_over));
            }
        };
        let now = Instant::now();
        while self.received.front().is_some_and(|at| now - *at > Duration::from_secs(60)) {
            self.received.pop_front();
        }
        self.received.push_back(now);
        if self.received.len() > FRAMES_IN_MINUTE_MAX {
            return end(close::RATE_LIMITED);
        }
        if text.len() > FRAME_BYTES_MAX {
            return end(close::DECODE_ERROR);
        }
        let Ok(Received { op, d }) = serde_json::from_str(&text) else { return end(close::DECODE_ERROR) };
        let is_begun = self.simulator.sessions().is_begun(self.id);
        match op {
            1 => {
                self.last_heartbeat = now;
                if let Some(sequence) = d.as_u64() {
                    self.simulator.sessions().seen(self.id, sequence);
                }
                ControlFlow::Continue(Some(json!({"op": 11, "t": null, "s": null, "d": null}).to_string()))
            }
            2 if is_begun => end(close::ALREADY_AUTHENTICATED),
            2 => self.identify(&d),
            6 if is_begun => end(close::ALREADY_AUTHENTICATED),
            6 => self.resume(&d),
            3 | 4 | 8 | 31 if !is_begun => end(close::NOT_AUTHENTICATED),
            // What the bot shows of itself, and its voice, nobody here sees or hears.
            3 | 4 | 31 => ControlFlow::Continue(None),
            8 => {
                self.request_members(&d);
                ControlFlow::Continue(None)
            }
            _ => end(close::UNKNOWN_OPCODE),
        }
    }

    fn identify(&mut self, d: &Value) -> ControlFlow<Result<End, bool>, Option<String>> {
        let end = |code| ControlFlow::Break(Ok(End(Some(code))));
        let Some(asked) = d["intents"].as_u64() else { return end(close::DECODE_ERROR) };
        let shard = match &d["shard"] {
            Value::Null => Shard { number: 0, of: 1 },
            shard => match (shard[0].as_u64(), shard[1].as_u64()) {
                (Some(number), Some(of)) if number < of => Shard { number, of },
                _ => return end(close::INVALID_SHARD),
            },
        };
        if !self.is_token(&d["token"]) {
            return end(close::AUTHENTICATION_FAILED);
        }
        if asked & !intents::ALL != 0 {
            return end(close::INVALID_INTENTS);
        }
        if asked & self.simulator.faults().disallowed_intents != 0 {
            return end(close::DISALLOWED_INTENTS);
        }
        if !self.simulator.sessions().may_identify(shard) {
            let invalid = json!({"op": 9, "t": null, "s": null, "d": false});
            return ControlFlow::Continue(Some(invalid.to_string()));
        }
        let simulator = self.simulator.clone();
        // Within the world, so that nothing happens between what is told of it and what is told afterwards.
        simulator.with_world(|world| {
            let of_shard = |guild: &&Guild| (guild.id.get() >> 22) % shard.of == shard.number;
            let bot = world.bot();
            let guilds: Vec<_> = (world.guilds().filter(|guild| guild.members.contains_key(&bot)).filter(of_shard))
                .map(|guild| guild.id)
                .collect();
            let unavailable: Vec<_> = guilds.iter().map(|id| json!({"id": id, "unavailable": true})).collect();
            let ready = json!({
                "v": 10, "user": world.find_user(bot).map(super::guild::User::json), "guilds": unavailable,
                "resume_gateway_url": self.url, "shard": [shard.number, shard.of], "application": {"id": bot, "flags": 0},
                "private_channels": [], "relationships": [], "presences": [], "user_settings": {}, "session_type": "normal",
                "geo_ordered_rtc_regions": [], "guild_join_requests": [], "_trace": ["simulator"],
            });
            let guilds = guilds.iter().map(|id| ("GUILD_CREATE", world.guild_create(*id))).collect();
            simulator.sessions().begin(self.id, shard, asked, ready, guilds);
        });
        simulator.tell_connected();
        ControlFlow::Continue(None)
    }

    fn resume(&mut self, d: &Value) -> ControlFlow<Result<End, bool>, Option<String>> {
        if !self.is_token(&d["token"]) {
            return ControlFlow::Break(Ok(End(Some(close::AUTHENTICATION_FAILED))));
        }
        let (Some(session), Some(sequence)) = (d["session_id"].as_str(), d["seq"].as_u64()) else {
            return ControlFlow::Break(Ok(End(Some(close::DECODE_ERROR))));
        };
        let resumed = self.simulator.sessions().resume(self.id, session, sequence);
        match resumed {
            Ok(()) => {
                self.simulator.tell_connected();
                ControlFlow::Continue(None)
            }
            Err(ResumeError::NeverSent) => ControlFlow::Break(Ok(End(Some(close::INVALID_SEQUENCE)))),
            Err(ResumeError::Unknown) => {
                ControlFlow::Continue(Some(json!({"op": 9, "t": null, "s": null, "d": false}).to_string()))
            }
        }
    }

    fn is_token(&self, given: &Value) -> bool {
        let given = given.as_str().unwrap_or_default();
        self.simulator.with_world(|world| given.strip_prefix("Bot ").unwrap_or(given) == world.token())
    }

    fn request_members(&mut self, d: &Value) {
        let Some(guild) = as_id(&d["guild_id"]) else { return };
        let limit = d["limit"].as_u64().map_or(0, |limit| limit.min(100) as usize);
        let chunks = self.simulator.with_world(|world| {
            let wanted: Option<Vec<Snowflake>> = match &d["user_ids"] {
                Value::Array(ids) => Some(ids.iter().filter_map(as_id).collect()),
                one => as_id(one).map(|one| vec![one]),
            };
            let query = d["query"].as_str().unwrap_or_default().to_lowercase();
            world.member_chunk(guild, wanted.as_deref(), &query, limit)
        });
        let count = chunks.len();
        for (index, (members, not_found)) in chunks.into_iter().enumerate() {
            let mut data = json!({
                "guild_id": guild, "members": members, "chunk_index": index, "chunk_count": count, "not_found": not_found,
            });
            if d["nonce"].is_string() {
                data["nonce"] = d["nonce"].clone();
            }
            self.simulator.sessions().tell_one(self.id, "GUILD_MEMBERS_CHUNK", &data);
        }
    }

    async fn send(&mut self, text: String) -> Result<(), axum::Error> {
        let message = match &mut self.zlib {
            None => Message::Text(text.into()),
            Some(zlib) => {
                let mut bytes = Vec::with_capacity(text.len() / 2 + 64);
                let mut rest = text.as_bytes();
                loop {
                    let before = zlib.total_in();
                    bytes.reserve(1_024);
                    if zlib.compress_vec(rest, &mut bytes, FlushCompress::Sync).is_err() {
                        return Err(axum::Error::new(std::io::Error::other("zlib failed")));
                    }
                    rest = &rest[(zlib.total_in() - before) as usize..];
                    if rest.is_empty() && bytes.len() < bytes.capacity() {
                        break;
                    }
                }
                Message::Binary(bytes.into())
            }
        };
        self.socket.send(message).await
    }

    async fn close(&mut self, code: Option<u16>) {
        if let Some(code) = code {
            let frame = CloseFrame { code, reason: close_reason(code).into() };
            // The client may be gone.
            let _ = self.socket.send(Message::Close(Some(frame))).await;
        }
    }
}

impl Simulator {
    /// Clients that listen to the gateway now.
    pub fn connected(&self) -> usize {
        self.sessions().connected()
    }

    fn tell_connected(&self) {
        let connected = self.connected();
        self.notice("bot", || json!({"connected": connected}));
    }
}

fn close_reason(code: u16) -> &'static str {
    match code {
        close::UNKNOWN_OPCODE => "Unknown opcode.",
        close::DECODE_ERROR => "Error while decoding payload.",
        close::NOT_AUTHENTICATED => "Not authenticated.",
        close::AUTHENTICATION_FAILED => "Authentication failed.",
        close::ALREADY_AUTHENTICATED => "Already authenticated.",
        close::INVALID_SEQUENCE => "Invalid `seq`.",
        close::RATE_LIMITED => "Rate limited.",
        close::SESSION_TIMED_OUT => "Session timed out.",
        close::INVALID_SHARD => "Invalid shard.",
        close::INVALID_VERSION => "Invalid API version.",
        close::INVALID_INTENTS => "Invalid intent(s).",
        close::DISALLOWED_INTENTS => "Disallowed intent(s).",
        _ => "Unknown error.",
    }
}

/// Members in an answer, and ids that are none.
type Chunk = (Vec<Value>, Vec<Snowflake>);

impl World {
    /// What the gateway tells of a guild when it becomes known.
    pub(crate) fn guild_create(&self, id: Snowflake) -> Value {
        let Some(guild) = self.find_guild(id) else { return Value::Null };
        let mut json = guild.json();
        let members: Vec<_> =
            guild.members.keys().take(CHUNK_MEMBERS_MAX).map(|user| self.member_json(guild, *user)).collect();
        let joined = guild.members.get(&self.bot()).map_or(self.now_ms(), |member| member.joined_at_ms);
        let (threads, channels): (Vec<_>, Vec<_>) = guild.channels.values().partition(|channel| channel.is_thread());
        let list = |channels: Vec<&super::channel::Channel>| {
            channels.into_iter().map(super::channel::Channel::json).collect::<Vec<_>>()
        };
        let voice: Vec<_> = (guild.members.values())
            .filter_map(|member| {
                let channel = member.voice?;
                Some(json!({
                    "channel_id": channel, "user_id": member.user, "session_id": format!("voice-{}", member.user),
                    "deaf": member.deaf, "mute": member.mute, "self_deaf": false, "self_mute": false,
                    "self_video": false, "suppress": false, "request_to_speak_timestamp": null,
                }))
            })
            .collect();
        for (key, value) in [
            ("joined_at", json!(iso(joined))),
            ("large", json!(guild.members.len() > 250)),
            ("unavailable", json!(false)),
            ("member_count", json!(guild.members.len())),
            ("voice_states", json!(voice)),
            ("members", json!(members)),
            ("channels", json!(list(channels))),
            ("threads", json!(list(threads))),
            ("presences", json!([])),
            ("stage_instances", json!([])),
            ("guild_scheduled_events", json!([])),
            ("soundboard_sounds", json!([])),
        ] {
            json[key] = value;
        }
        json
    }

    /// The members that are asked for, in parts.
    fn member_chunk(&self, id: Snowflake, wanted: Option<&[Snowflake]>, query: &str, limit: usize) -> Vec<Chunk> {
        let Some(guild) = self.find_guild(id) else { return Vec::new() };
        let mut not_found = Vec::new();
        let found: Vec<Snowflake> = match wanted {
            Some(wanted) => {
                let (found, missing) = wanted.iter().partition(|user| guild.members.contains_key(user));
                not_found = missing;
                found
            }
            None => (guild.members.keys().copied())
                .filter(|user| {
                    self.find_user(*user).is_some_and(|user| user.username.to_lowercase().starts_with(query))
                })
                .take(if limit == 0 { usize::MAX } else { limit })
                .collect(),
        };
        let mut chunks: Vec<Chunk> = (found.chunks(CHUNK_MEMBERS_MAX))
            .map(|users| (users.iter().map(|user| self.member_json(guild, *user)).collect(), Vec::new()))
            .collect();
        if chunks.is_empty() {
            chunks.push(Chunk::default());
        }
        if let Some(first) = chunks.first_mut() {
            first.1 = not_found;
        }
        chunks
    }
}
