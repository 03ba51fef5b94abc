//! A server that plays Discord, and a worker that takes it for Discord.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response};
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;
use worker_core::{Limits, RatelimitRules, Snowflake, Value};
use worker_vm::{Discord, DiscordConfig, DiscordToken, GuildFigures, Services, ServicesConfig};

use crate::harness::{Harness, TENANT};

/// The guild of the tenant.
pub(super) const GUILD: u64 = 1 << 22;
pub(super) const BOT: u64 = 500;
pub(super) const OWNER: u64 = 600;
/// Below the bot, and above it.
pub(super) const LOW: u64 = 700;
pub(super) const HIGH: u64 = 800;

/// A request as it came.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) method: String,
    /// With the query.
    pub(super) path: String,
    pub(super) reason: Option<String>,
    pub(super) token: Option<String>,
    pub(super) body: Option<Json>,
}

/// What a request is answered with.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    /// Whether it never comes.
    pub(super) hangs: bool,
}

impl Answer {
    pub(super) fn json(body: Json) -> Self {
        Self::status(200, body)
    }

    pub(super) fn status(status: u16, body: Json) -> Self {
        Self { status, headers: Vec::new(), body: body.to_string().into_bytes(), hangs: false }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }
}

#[derive(Clone, Default)]
pub(super) struct Server(Arc<Mutex<Played>>);

#[derive(Default)]
struct Played {
    seen: Vec<Seen>,
    /// By method and path without the query: the answers in their order, the last one stays.
    answers: HashMap<String, Vec<Answer>>,
    otherwise: Option<Answer>,
    port: u16,
}

impl Server {
    pub(super) async fn start() -> Self {
        let server = Self::default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        server.0.lock().unwrap().port = listener.local_addr().unwrap().port();
        let app = Router::new().fallback(answer).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        server
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.0.lock().unwrap().port)
    }

    /// How a request is answered: `GET /channels/5`.
    pub(super) fn answers(&self, request: &str, answers: impl IntoIterator<Item = Answer>) {
        self.0.lock().unwrap().answers.insert(request.to_owned(), answers.into_iter().collect());
    }

    /// How every other request is answered.
    pub(super) fn otherwise(&self, answer: Answer) {
        self.0.lock().unwrap().otherwise = Some(answer);
    }

    /// The requests since this was last asked.
    pub(super) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.0.lock().unwrap().seen)
    }

    /// The same, as `GET /channels/5`.
    pub(super) fn take_lines(&self) -> Vec<String> {
        self.take().into_iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect()
    }
}

async fn answer(State(server): State<Server>, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 16 << 20).await.unwrap_or_default();
    let text = |headers: &HeaderMap, name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let full = head.uri.path_and_query().unwrap().as_str();
    let path = full.strip_prefix("/api/v10").unwrap_or(full).to_owned();
    let key = format!("{} {}", head.method, path.split('?').next().unwrap());
    let answer = {
        let mut played = server.0.lock().unwrap();
        played.seen.push(Seen {
            method: head.method.to_string(),
            path: path.clone(),
            reason: text(&head.headers, "x-audit-log-reason"),
            token: text(&head.headers, "authorization"),
            body: (!body.is_empty()).then(|| serde_json::from_slice(&body).unwrap()),
        });
        match played.answers.get_mut(&key) {
            Some(answers) if answers.len() > 1 => answers.remove(0),
            Some(answers) => answers[0].clone(),
            None => played.otherwise.clone().unwrap_or_else(|| Answer::json(json!({ "path": path }))),
        }
    };
    if answer.hangs {
        std::future::pending::<()>().await;
    }
    let mut response = Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    response.body(answer.body.into()).unwrap()
}

/// What the bot may do by its role: everything but administrate.
pub(super) const ALL_BUT_ADMINISTRATOR: u64 = ((1 << 53) - 1) & !8;
/// What everybody may: see, read and write.
pub(super) const EVERYONE: u64 = (1 << 10) | (1 << 11) | (1 << 16);

/// The guild as the gateway tells of it.
pub(super) fn guild(bot_permissions: u64) -> Json {
    let role = |id: u64, position: i32, permissions: u64| {
        json!({ "id": id.to_string(), "name": format!("role {id}"), "position": position,
            "permissions": permissions.to_string(), "color": 0, "hoist": false, "managed": false, "mentionable": false })
    };
    let channel = |id: u64, kind: u8, parent: Option<u64>| {
        json!({ "id": id.to_string(), "type": kind, "guild_id": GUILD.to_string(), "name": format!("channel {id}"),
            "parent_id": parent.map(|id| id.to_string()), "permission_overwrites": [] })
    };
    let member = |id: u64, roles: &[u64]| {
        json!({ "user": { "id": id.to_string(), "username": format!("u{id}") },
            "roles": roles.iter().map(ToString::to_string).collect::<Vec<_>>(), "joined_at": "2020-01-01T00:00:00Z" })
    };
    json!({
        "id": GUILD.to_string(), "name": "guild", "owner_id": OWNER.to_string(), "features": ["ROLE_ICONS"],
        "member_count": 4,
        "roles": [role(GUILD, 0, EVERYONE), role(10, 5, bot_permissions), role(11, 1, 0), role(12, 9, 0)],
        "channels": [channel(20, 0, Some(21)), channel(21, 4, None), channel(22, 2, None), channel(23, 5, None)],
        "threads": [channel(24, 11, Some(20))],
        "members": [member(BOT, &[10]), member(OWNER, &[]), member(LOW, &[11]), member(HIGH, &[12])],
    })
}

/// A worker with a bot.
pub(super) struct World {
    pub(super) h: Harness,
    pub(super) server: Server,
    pub(super) discord: Discord,
}

impl World {
    /// One that knows its guild.
    pub(super) async fn new() -> Self {
        let world = Self::unknown(|_| ()).await;
        world.knows(ALL_BUT_ADMINISTRATOR);
        world
    }

    /// One that knows who it is, and no guild.
    pub(super) async fn unknown(configure: impl FnOnce(&mut DiscordConfig)) -> Self {
        Self::with_rules(configure, RatelimitRules::unlimited()).await
    }

    pub(super) async fn with_rules(configure: impl FnOnce(&mut DiscordConfig), rules: RatelimitRules) -> Self {
        let server = Server::start().await;
        let mut config = DiscordConfig::new(DiscordToken::new("secret"), Snowflake::new(400));
        config.api_url = Some(server.url());
        config.requests_per_second = 10_000;
        configure(&mut config);
        let services = Services::new(ServicesConfig { discord: Some(config), ..ServicesConfig::default() }).unwrap();
        let discord = services.discord().unwrap().clone();
        discord.set_current_user(format!(r#"{{"id":"{BOT}","username":"bot"}}"#).as_bytes()).unwrap();
        let h = Harness::with_services(Limits::default(), rules, services).await;
        Self { h, server, discord }
    }

    /// Tells of the guild, whose role of the bot allows this.
    pub(super) fn knows(&self, bot_permissions: u64) {
        self.apply("GUILD_CREATE", &guild(bot_permissions));
    }

    pub(super) fn apply(&self, event: &str, data: &Json) {
        self.discord.guild_states().apply(event, data.to_string().as_bytes());
    }

    pub(super) fn figures(&self) -> GuildFigures {
        self.discord.guild_states().figures()
    }

    /// Runs a script with `discord` and `ctx`.
    pub(super) async fn run(&self, code: &str) -> Result<Value, String> {
        let source = format!("local _, ctx = ... local discord = ctx.Discord {code}");
        self.h.install(TENANT, "script", &source).await;
        self.h.message(TENANT).await.map_err(|error| error.text.to_string())
    }

    /// The error of one call: `get_channel("5")`.
    pub(super) async fn error(&self, call: &str) -> String {
        let code = format!("local ok, err = pcall(function() return discord:{call} end) return ok, err");
        match self.run(&code).await {
            Ok(Value::List(items)) => match &items[..] {
                [Value::Boolean(false), Value::Text(text)] => text.clone(),
                other => panic!("{call}: {other:?}"),
            },
            other => panic!("{call}: {other:?}"),
        }
    }

    /// What a call that must be let through asks of Discord.
    pub(super) async fn passes(&self, call: &str) -> Vec<String> {
        self.server.take();
        if let Err(error) = self.run(&format!("discord:{call} return 'ok'")).await {
            panic!("{call}: {error}");
        }
        self.server.take_lines()
    }

    /// A call that must be refused with an error of this beginning, and must send nothing but look-ups.
    pub(super) async fn refused(&self, call: &str, class: &str) {
        self.server.take();
        let error = self.error(call).await;
        assert!(error.starts_with(class), "{call}: {error}, expected {class}");
        for seen in self.server.take() {
            assert_eq!(seen.method, "GET", "{call}: {seen:?}");
        }
    }
}
