//! Enough of Discord's gateway and REST API to test against: it keeps sessions, replays what was missed, counts who
//! identifies when, and fails as it is told.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// How long anything may take before a test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const TOKEN: &str = "a.bots.token";
pub(crate) const BOT: u64 = 99;
pub(crate) const APPLICATION: u64 = 98;

/// How it behaves.
#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    pub(crate) shards: u32,
    pub(crate) max_concurrency: u32,
    /// Sessions that may be begun today, of 1,000.
    pub(crate) remaining: u32,
    /// Milliseconds until they are counted anew.
    pub(crate) reset_after: u64,
    pub(crate) heartbeat_interval: Duration,
    /// Says nothing on so many connections from now on.
    pub(crate) mute_connections: u32,
    /// Does not answer heartbeats on so many connections from now on.
    pub(crate) deaf_connections: u32,
    /// Ends every attempt to identify or resume with this code.
    pub(crate) close_code: Option<u16>,
    /// Answers so many attempts to resume with an invalid session from now on.
    pub(crate) invalid_resumes: u32,
    /// Answers REST with this status.
    pub(crate) rest_status: Option<u16>,
    /// Of the application: which privileged intents it has.
    pub(crate) flags: u64,
    /// The window in which one shard of a bucket may identify.
    pub(crate) identify_window: Duration,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            shards: 1,
            max_concurrency: 16,
            remaining: 1_000,
            reset_after: 3_600_000,
            heartbeat_interval: Duration::from_secs(41),
            mute_connections: 0,
            deaf_connections: 0,
            close_code: None,
            invalid_resumes: 0,
            rest_status: None,
            flags: 1 << 13 | 1 << 15 | 1 << 19,
            identify_window: Duration::from_secs(5),
        }
    }
}

/// A Discord on a port of this host, ended with the test.
pub(crate) struct Discord {
    state: Arc<Shared>,
    address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

struct Shared {
    address: SocketAddr,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    behaviour: Behaviour,
    sessions: HashMap<String, Session>,
    /// Those of the connections that are open.
    open: HashMap<u64, UnboundedSender<Order>>,
    connections: u64,
    /// When each shard identified, with its bucket.
    identifies: Vec<(u32, u32, Instant)>,
    /// Attempts to identify that came too soon after another of their bucket.
    too_soon: u32,
    intents: Option<u64>,
    resumes: Vec<(u32, u64)>,
    close_codes: Vec<Option<u16>>,
    /// Registered commands, by path.
    commands: HashMap<String, Vec<Value>>,
    puts: u32,
}

struct Session {
    shard: u32,
    shards: u32,
    frames: Vec<Value>,
    connection: Option<u64>,
    is_valid: bool,
}

enum Order {
    Send(Value),
    /// Breaks the connection without a word.
    Drop,
    Close(u16),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }
}

impl Discord {
    pub(crate) fn start(behaviour: Behaviour) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Shared { address, inner: Mutex::new(Inner { behaviour, ..Inner::default() }) });
        let router = Router::new()
            .route("/", get(gateway))
            .route("/api/v10/users/@me", get(|state, headers| rest(state, headers, "me")))
            .route("/api/v10/gateway/bot", get(|state, headers| rest(state, headers, "gateway")))
            .route("/api/v10/applications/@me", get(|state, headers| rest(state, headers, "application")))
            .route("/api/v10/applications/{id}/commands", get(commands).put(put_commands))
            .route("/api/v10/applications/{id}/guilds/{guild}/commands", get(guild_commands).put(put_guild_commands))
            .with_state(Arc::clone(&state));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await
        });
        Self { state, address, runtime: Some(runtime) }
    }

    pub(crate) fn api_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes how it behaves from now on.
    pub(crate) fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state.lock().behaviour);
    }

    /// Something happens in a guild: an event of its shard, whether that is connected or not.
    pub(crate) fn emit(&self, guild: u64, t: &str, mut d: Value) {
        d["guild_id"] = guild.to_string().into();
        let shards = self.state.lock().behaviour.shards;
        self.emit_at(((guild >> 22) % u64::from(shards)) as u32, t, d);
    }

    /// An event of a shard.
    pub(crate) fn emit_at(&self, shard: u32, t: &str, d: Value) {
        let inner = &mut *self.state.lock();
        for session in inner.sessions.values_mut().filter(|session| session.shard == shard && session.is_valid) {
            let frame = session.next(t, d.clone());
            if let Some(connection) = session.connection.and_then(|connection| inner.open.get(&connection)) {
                let _ = connection.send(Order::Send(frame));
            }
        }
    }

    /// Sends every connection something.
    pub(crate) fn tell_all(&self, frame: Value) {
        for connection in self.state.lock().open.values() {
            let _ = connection.send(Order::Send(frame.clone()));
        }
    }

    /// Breaks every connection without a word.
    pub(crate) fn drop_connections(&self) {
        for connection in self.state.lock().open.values() {
            let _ = connection.send(Order::Drop);
        }
    }

    /// Closes every connection with this code.
    pub(crate) fn close_connections(&self, code: u16) {
        for connection in self.state.lock().open.values() {
            let _ = connection.send(Order::Close(code));
        }
    }

    /// Ends every session: an attempt to resume it is refused.
    pub(crate) fn forget_sessions(&self) {
        for session in self.state.lock().sessions.values_mut() {
            session.is_valid = false;
        }
    }

    /// Waits until so many sessions have a connection.
    #[track_caller]
    pub(crate) fn until_connected(&self, sessions: usize) {
        self.until("sessions", |inner| {
            inner.sessions.values().filter(|session| session.connection.is_some() && session.is_valid).count()
                == sessions
        });
    }

    #[track_caller]
    pub(crate) fn until_resumes(&self, resumes: usize) {
        self.until("resumes", |inner| inner.resumes.len() >= resumes);
    }

    #[track_caller]
    pub(crate) fn until_identifies(&self, identifies: usize) {
        self.until("identifies", |inner| inner.identifies.len() >= identifies);
    }

    #[track_caller]
    pub(crate) fn until_connections(&self, connections: u64) {
        self.until("connections", |inner| inner.connections >= connections);
    }

    #[track_caller]
    fn until(&self, what: &str, seen: impl Fn(&Inner) -> bool) {
        let begun = Instant::now();
        while !seen(&self.state.lock()) {
            assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Shards that identified, in order.
    pub(crate) fn identified(&self) -> Vec<u32> {
        self.state.lock().identifies.iter().map(|(shard, ..)| *shard).collect()
    }

    /// The shortest time between two shards of a bucket that identified, and how often that was too short.
    pub(crate) fn identify_gaps(&self) -> (Option<Duration>, u32) {
        let inner = self.state.lock();
        let mut last: HashMap<u32, Instant> = HashMap::new();
        let gaps =
            inner.identifies.iter().filter_map(|(_, bucket, at)| last.insert(*bucket, *at).map(|before| *at - before));
        (gaps.min(), inner.too_soon)
    }

    /// The sequence from which each attempt to resume went on.
    pub(crate) fn resumed(&self) -> Vec<(u32, u64)> {
        self.state.lock().resumes.clone()
    }

    pub(crate) fn connections(&self) -> u64 {
        self.state.lock().connections
    }

    /// What the last shard asked for.
    pub(crate) fn intents(&self) -> Option<u64> {
        self.state.lock().intents
    }

    /// The codes that connections were closed with by the other side.
    pub(crate) fn close_codes(&self) -> Vec<Option<u16>> {
        self.state.lock().close_codes.clone()
    }

    /// The commands at `applications/…` or `applications/…/guilds/…`, and how often any were put.
    pub(crate) fn commands(&self, guild: Option<u64>) -> (Vec<Value>, u32) {
        let inner = self.state.lock();
        (inner.commands.get(&place(guild)).cloned().unwrap_or_default(), inner.puts)
    }

    pub(crate) fn set_commands(&self, commands: Vec<Value>) {
        self.state.lock().commands.insert(place(None), commands);
    }
}

impl Drop for Discord {
    fn drop(&mut self) {
        // A test may end on a runtime of its own, where nothing may be waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn place(guild: Option<u64>) -> String {
    guild.map_or_else(|| "global".into(), |guild| guild.to_string())
}

impl Session {
    fn next(&mut self, t: &str, d: Value) -> Value {
        let frame = json!({"op": 0, "t": t, "s": self.frames.len() + 1, "d": d});
        self.frames.push(frame.clone());
        frame
    }
}

async fn rest(State(state): State<Arc<Shared>>, headers: HeaderMap, what: &'static str) -> Response {
    if let Some(refused) = refused(&state, &headers) {
        return refused;
    }
    let inner = state.lock();
    let Behaviour { shards, max_concurrency, remaining, reset_after, flags, .. } = inner.behaviour;
    let body = match what {
        "me" => json!({"id": BOT.to_string(), "username": "bot", "bot": true}),
        "gateway" => json!({
            "url": format!("ws://{}", state.address), "shards": shards,
            "session_start_limit": {"total": 1_000, "remaining": remaining, "reset_after": reset_after, "max_concurrency": max_concurrency},
        }),
        _ => json!({"id": APPLICATION.to_string(), "name": "bot", "flags": flags}),
    };
    Json(body).into_response()
}

/// The refusal, if it is refused.
fn refused(state: &Shared, headers: &HeaderMap) -> Option<Response> {
    if let Some(status) = state.lock().behaviour.rest_status {
        return Some((StatusCode::from_u16(status).unwrap(), "{}").into_response());
    }
    if headers.get("authorization").is_none_or(|shown| shown != &format!("Bot {TOKEN}")) {
        return Some((StatusCode::UNAUTHORIZED, r#"{"message": "401: Unauthorized", "code": 0}"#).into_response());
    }
    None
}

async fn commands(state: State<Arc<Shared>>, headers: HeaderMap) -> Response {
    commands_at(&state, &headers, None)
}

async fn guild_commands(state: State<Arc<Shared>>, headers: HeaderMap, Path((_, guild)): Path<(u64, u64)>) -> Response {
    commands_at(&state, &headers, Some(guild))
}

fn commands_at(state: &Shared, headers: &HeaderMap, guild: Option<u64>) -> Response {
    refused(state, headers)
        .unwrap_or_else(|| Json(state.lock().commands.get(&place(guild)).cloned().unwrap_or_default()).into_response())
}

async fn put_commands(state: State<Arc<Shared>>, headers: HeaderMap, Json(body): Json<Vec<Value>>) -> Response {
    put_commands_at(&state, &headers, None, body)
}

async fn put_guild_commands(
    state: State<Arc<Shared>>,
    headers: HeaderMap,
    Path((_, guild)): Path<(u64, u64)>,
    Json(body): Json<Vec<Value>>,
) -> Response {
    put_commands_at(&state, &headers, Some(guild), body)
}

/// As Discord does, with what it adds to commands.
fn put_commands_at(state: &Shared, headers: &HeaderMap, guild: Option<u64>, body: Vec<Value>) -> Response {
    if let Some(refused) = refused(state, headers) {
        return refused;
    }
    let mut commands = body;
    for (command, id) in commands.iter_mut().zip(1_000..) {
        command["id"] = id.to_string().into();
        command["application_id"] = APPLICATION.to_string().into();
        command["version"] = "1".into();
        command["nsfw"] = false.into();
        if command["default_member_permissions"].is_null() {
            command["default_member_permissions"] = Value::Null;
        }
        command["integration_types"] = json!([0]);
        command["contexts"] = Value::Null;
    }
    let mut inner = state.lock();
    inner.puts += 1;
    inner.commands.insert(place(guild), commands.clone());
    Json(commands).into_response()
}

async fn gateway(State(state): State<Arc<Shared>>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(move |socket| async move {
        let (orders, inbox) = unbounded_channel();
        let id = {
            let mut inner = state.lock();
            inner.connections += 1;
            let id = inner.connections;
            inner.open.insert(id, orders);
            id
        };
        serve(&state, id, socket, inbox).await;
        let mut inner = state.lock();
        inner.open.remove(&id);
        for session in inner.sessions.values_mut().filter(|session| session.connection == Some(id)) {
            session.connection = None;
        }
    })
}

fn text(frame: &Value) -> Message {
    Message::Text(frame.to_string().into())
}

async fn serve(state: &Shared, id: u64, mut socket: WebSocket, mut inbox: UnboundedReceiver<Order>) {
    let (is_mute, is_deaf, interval) = {
        let behaviour = &mut state.lock().behaviour;
        let is_mute = behaviour.mute_connections > 0;
        behaviour.mute_connections = behaviour.mute_connections.saturating_sub(1);
        let is_deaf = !is_mute && behaviour.deaf_connections > 0;
        if is_deaf {
            behaviour.deaf_connections -= 1;
        }
        (is_mute, is_deaf, behaviour.heartbeat_interval)
    };
    if !is_mute {
        let hello = json!({"op": 10, "t": null, "s": null, "d": {"heartbeat_interval": interval.as_millis() as u64}});
        if socket.send(text(&hello)).await.is_err() {
            return;
        }
    }
    loop {
        let message = tokio::select! {
            order = inbox.recv() => {
                let sent = match order {
                    None | Some(Order::Drop) => return,
                    Some(Order::Send(frame)) => socket.send(text(&frame)).await,
                    Some(Order::Close(code)) => close(&mut socket, code).await,
                };
                if sent.is_err() {
                    return;
                }
                continue;
            }
            message = socket.recv() => message,
        };
        let said: Value = match message {
            Some(Ok(Message::Text(said))) => serde_json::from_str(&said).unwrap(),
            Some(Ok(Message::Close(frame))) => {
                state.lock().close_codes.push(frame.map(|frame| frame.code));
                // The answer leaves when the next message is waited for.
                while let Some(Ok(_)) = socket.recv().await {}
                return;
            }
            Some(Ok(_)) => continue,
            None | Some(Err(_)) => return,
        };
        if is_mute {
            continue;
        }
        let answers = match said["op"].as_u64() {
            Some(1) if is_deaf => Vec::new(),
            Some(1) => vec![json!({"op": 11, "t": null, "s": null, "d": null})],
            Some(2 | 6) if state.lock().behaviour.close_code.is_some() => {
                let code = state.lock().behaviour.close_code.unwrap_or(4000);
                let _ = close(&mut socket, code).await;
                // As Discord does: it waits for the answer.
                let _ = tokio::time::timeout(Duration::from_secs(1), socket.recv()).await;
                return;
            }
            Some(2) => identify(state, id, &said["d"]),
            Some(6) => resume(state, id, &said["d"]),
            other => panic!("op {other:?}"),
        };
        for answer in answers {
            if socket.send(text(&answer)).await.is_err() {
                return;
            }
        }
    }
}

async fn close(socket: &mut WebSocket, code: u16) -> Result<(), axum::Error> {
    socket.send(Message::Close(Some(CloseFrame { code, reason: "as told".into() }))).await
}

fn invalid() -> Vec<Value> {
    vec![json!({"op": 9, "t": null, "s": null, "d": false})]
}

fn identify(state: &Shared, connection: u64, d: &Value) -> Vec<Value> {
    assert_eq!(d["token"], format!("Bot {TOKEN}"));
    let inner = &mut *state.lock();
    let (shard, shards) = (d["shard"][0].as_u64().unwrap() as u32, d["shard"][1].as_u64().unwrap() as u32);
    let bucket = shard % inner.behaviour.max_concurrency;
    let now = Instant::now();
    let before = inner.identifies.iter().rev().find(|(_, other, _)| *other == bucket).map(|(_, _, at)| *at);
    inner.identifies.push((shard, bucket, now));
    inner.intents = d["intents"].as_u64();
    if before.is_some_and(|before| now - before < inner.behaviour.identify_window) {
        inner.too_soon += 1;
        return invalid();
    }
    inner.behaviour.remaining = inner.behaviour.remaining.saturating_sub(1);
    let session_id = format!("session-{}", inner.identifies.len());
    let mut session = Session { shard, shards, frames: Vec::new(), connection: Some(connection), is_valid: true };
    let ready = session.next(
        "READY",
        json!({
            "v": 10, "user": {"id": BOT.to_string(), "username": "bot"}, "guilds": [], "session_id": session_id,
            "resume_gateway_url": format!("ws://{}", state.address), "shard": [shard, shards],
            "application": {"id": APPLICATION.to_string(), "flags": 0},
        }),
    );
    inner.sessions.insert(session_id, session);
    vec![ready]
}

fn resume(state: &Shared, connection: u64, d: &Value) -> Vec<Value> {
    assert_eq!(d["token"], format!("Bot {TOKEN}"));
    let inner = &mut *state.lock();
    if inner.behaviour.invalid_resumes > 0 {
        inner.behaviour.invalid_resumes -= 1;
        if let Some(session) = inner.sessions.get_mut(d["session_id"].as_str().unwrap()) {
            session.is_valid = false;
        }
        return invalid();
    }
    let seq = d["seq"].as_u64().unwrap();
    let Some(session) = inner.sessions.get_mut(d["session_id"].as_str().unwrap()).filter(|session| session.is_valid)
    else {
        return invalid();
    };
    assert!(seq <= session.frames.len() as u64, "it has seen more than was sent");
    session.connection = Some(connection);
    inner.resumes.push((session.shard, seq));
    let mut missed = session.frames[seq as usize..].to_vec();
    let shards = session.shards;
    missed.push(session.next("RESUMED", json!({"shards": shards})));
    missed
}
