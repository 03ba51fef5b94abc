//! The web page of `antiraid dev` and what it asks for: over HTTP on this host, for whoever knows the token of this run.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::extract::{Path, Query, Request, State, WebSocketUpgrade, ws};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post};
use axum::{Json, Router};
use futures_util::Stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use worker_core::Snowflake;

use crate::simulator::fault::Fault;
use crate::simulator::gateway_server::{self, GatewayQuery};
use crate::simulator::interaction::Ask;
use crate::simulator::loopback;
use crate::simulator::request::{Reply, Request as RestRequest};
use crate::simulator::world::Nature;
use crate::simulator::{Simulator, discord_error::DiscordError, rest_server};

/// Messages of each channel that the page begins with.
const MESSAGES_SHOWN: usize = 50;
/// Joins of a raid.
const RAID_JOINS_MAX: u32 = 10_000;
/// Joins a second.
const RAID_RATE_MAX: f64 = 2_000.0;
/// The header with the token.
const TOKEN_HEADER: &str = "x-desk-token";

/// The page, its looks and its doings.
const PAGE: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("../../web/index.html")),
    ("/desk.css", "text/css; charset=utf-8", include_str!("../../web/desk.css")),
    ("/desk.js", "text/javascript; charset=utf-8", include_str!("../../web/desk.js")),
    ("/icon.svg", "image/svg+xml", include_str!("../../web/icon.svg")),
];

/// The server of `antiraid dev`. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Desk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    simulator: Simulator,
    token: String,
    templates: watch::Receiver<Value>,
    raids: AtomicU64,
}

impl Desk {
    /// A desk with this simulator on it. `token` is what the page must know; `templates` is what it shows of templates.
    pub fn new(simulator: Simulator, token: String, templates: watch::Receiver<Value>) -> Self {
        Self(Arc::new(Inner { simulator, token, templates, raids: AtomicU64::new(0) }))
    }

    /// All that is served: the page, what it asks for, and Discord's REST interface and gateway.
    pub fn router(&self) -> Router {
        let desk = Router::new()
            .route("/desk/state", get(state))
            .route("/desk/events", get(events))
            .route("/desk/as/{user}/{*path}", any(act))
            .route("/desk/ask", post(ask))
            .route("/desk/members", post(add_member))
            .route("/desk/members/{guild}/{user}", delete(remove_member))
            .route("/desk/raid", post(raid))
            .route("/desk/raid", delete(stop_raids))
            .route("/desk/fault", post(fault))
            .route_layer(middleware::from_fn_with_state(self.clone(), only_with_token))
            .route("/", get(front))
            .route("/{file}", get(file))
            .with_state(self.clone());
        desk.merge(rest_server::router(self.0.simulator.clone())).layer(middleware::from_fn(loopback::only_from_here))
    }
}

async fn only_with_token(State(desk): State<Desk>, request: Request, next: Next) -> Response {
    let given = request.headers().get(TOKEN_HEADER).map(HeaderValue::as_bytes).unwrap_or_default();
    // All bytes are compared, so that the time tells nothing.
    let wanted = desk.0.token.as_bytes();
    let differs =
        given.iter().zip(wanted).fold(given.len() ^ wanted.len(), |differs, (a, b)| differs | usize::from(a ^ b));
    if differs == 0 {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, "open the address that `antiraid dev` has printed, with what stands after its #\n")
        .into_response()
}

/// The page; or the gateway, for who asks for a websocket.
async fn front(
    State(desk): State<Desk>,
    Query(query): Query<GatewayQuery>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection>,
) -> Response {
    match upgrade {
        // A browser always tells its origin, and a bot is no browser: no page gets at the gateway.
        Ok(_) if headers.contains_key(header::ORIGIN) => StatusCode::FORBIDDEN.into_response(),
        Ok(upgrade) => {
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("127.0.0.1").to_owned();
            gateway_server::accept(desk.0.simulator.clone(), query, &host, upgrade)
        }
        Err(_) => page("/"),
    }
}

async fn file(Path(file): Path<String>) -> Response {
    page(&format!("/{file}"))
}

fn page(path: &str) -> Response {
    let Some((_, kind, text)) = PAGE.iter().find(|(name, ..)| *name == path) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                  base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_TYPE, *kind),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, *text).into_response()
}

/// All that there is, for a page that has just been opened.
async fn state(State(desk): State<Desk>) -> Json<Value> {
    let templates = desk.0.templates.borrow().clone();
    let mut state = desk.0.simulator.with_world(|world| {
        let bot = world.bot();
        let guilds: Vec<_> = (world.guilds())
            .map(|guild| {
                let mut json = world.guild_create(guild.id);
                let commands: Vec<_> = world.commands_in(guild.id).map(|command| command.definition.clone()).collect();
                let messages: HashMap<_, Vec<_>> = (guild.channels.values())
                    .map(|channel| {
                        let skipped = channel.messages.len().saturating_sub(MESSAGES_SHOWN);
                        let shown = channel.messages.iter().skip(skipped);
                        let shown = shown.map(|message| {
                            let mut json = world.message_json(message, bot);
                            json["visible_to"] = json!(message.visible_to);
                            json
                        });
                        (channel.id.to_string(), shown.collect())
                    })
                    .collect();
                json["commands"] = json!(commands);
                json["messages"] = json!(messages);
                json["bans"] = json!(guild.bans.keys().collect::<Vec<_>>());
                json
            })
            .collect();
        json!({"bot": bot, "guilds": guilds, "now": world.now_ms()})
    });
    state["templates"] = templates;
    state["connected"] = json!(desk.0.simulator.connected());
    Json(state)
}

/// What happens, as server-sent events.
async fn events(State(desk): State<Desk>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let notices = desk.0.simulator.watch();
    let stream = futures_util::stream::unfold(notices, |mut notices| async move {
        match notices.recv().await {
            Ok(text) => Some((Ok(Event::default().data(text)), notices)),
            // The page asks for the state anew.
            Err(RecvError::Lagged(_)) => Some((Ok(Event::default().data(r#"{"kind":"behind","data":null}"#)), notices)),
            Err(RecvError::Closed) => None,
        }
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}

/// A REST call as a user would make it, with the user's own permissions.
async fn act(
    State(desk): State<Desk>,
    Path((user, path)): Path<(Snowflake, String)>,
    method: Method,
    Query(query): Query<Vec<(String, String)>>,
    body: axum::body::Bytes,
) -> Response {
    let body: Value = match body.is_empty() {
        true => Value::Null,
        false => match serde_json::from_slice(&body) {
            Ok(body) => body,
            Err(_) => return refuse(&DiscordError::bad_json()),
        },
    };
    let path = format!("/{path}");
    let request =
        RestRequest { actor: user, method: method.as_str(), path: &path, query: &query, body: &body, reason: None };
    answer(desk.0.simulator.with_world(|world| world.answer(&request)))
}

#[derive(Deserialize)]
struct AskBody {
    user: Snowflake,
    channel: Snowflake,
    #[serde(flatten)]
    ask: Value,
}

async fn ask(State(desk): State<Desk>, Json(body): Json<AskBody>) -> Response {
    let ask: Ask = match serde_json::from_value(body.ask) {
        Ok(ask) => ask,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    match desk.0.simulator.with_world(|world| world.ask(body.user, body.channel, ask)) {
        Ok(id) => Json(json!({"interaction_id": id})).into_response(),
        Err(error) => refuse(&error),
    }
}

#[derive(Deserialize)]
struct MemberBody {
    guild: Snowflake,
    /// Somebody who has been there before.
    #[serde(default)]
    user: Option<Snowflake>,
    #[serde(default)]
    name: Option<String>,
}

async fn add_member(State(desk): State<Desk>, Json(body): Json<MemberBody>) -> Response {
    let joined = desk.0.simulator.with_world(|world| {
        let user = body.user.unwrap_or_else(|| {
            let name = body.name.as_deref().map(str::trim).filter(|name| !name.is_empty()).unwrap_or("newcomer");
            let short: String = name.chars().take(32).collect();
            world.add_user(&short.to_lowercase(), Some(&short), Nature::Human)
        });
        world.join(body.guild, user).map(|()| user)
    });
    match joined {
        Ok(user) => Json(json!({"user": user})).into_response(),
        Err(error) => refuse(&error),
    }
}

async fn remove_member(State(desk): State<Desk>, Path((guild, user)): Path<(Snowflake, Snowflake)>) -> StatusCode {
    desk.0.simulator.with_world(|world| world.leave(guild, user));
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
struct RaidBody {
    guild: Snowflake,
    joins: u32,
    per_second: f64,
    /// What each of them says, and where.
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    channel: Option<Snowflake>,
}

/// Begins a raid, which goes on by itself.
async fn raid(State(desk): State<Desk>, Json(body): Json<RaidBody>) -> Response {
    let is_good = (1..=RAID_JOINS_MAX).contains(&body.joins) && (0.1..=RAID_RATE_MAX).contains(&body.per_second);
    if !is_good {
        let what = format!("a raid has 1 to {RAID_JOINS_MAX} joins, 0.1 to {RAID_RATE_MAX} a second\n");
        return (StatusCode::BAD_REQUEST, what).into_response();
    }
    let number = desk.0.raids.fetch_add(1, Relaxed) + 1;
    tokio::spawn(async move {
        let simulator = &desk.0.simulator;
        simulator.notice("raid", || json!({"joins": body.joins, "state": "begins"}));
        let begun = tokio::time::Instant::now();
        let mut joined = 0;
        for index in 0..body.joins {
            // Each has its own moment: a late one does not put off the others.
            let due = begun + Duration::from_secs_f64(f64::from(index) / body.per_second);
            tokio::time::sleep_until(due).await;
            if desk.0.raids.load(Relaxed) != number {
                break;
            }
            joined += 1;
            simulator.with_world(|world| {
                let name = format!("raider_{number}_{index:04}");
                let user = world.add_user(&name, None, Nature::Human);
                // Nobody new is banned.
                let _ = world.join(body.guild, user);
                if let (Some(message), Some(channel)) = (&body.message, body.channel) {
                    let text = json!({"content": message});
                    let path = format!("/channels/{channel}/messages");
                    let request =
                        RestRequest { actor: user, method: "POST", path: &path, query: &[], body: &text, reason: None };
                    // A raider who was banned at once says nothing.
                    let _ = world.answer(&request);
                }
            });
        }
        simulator.notice("raid", || json!({"joins": joined, "state": "ended"}));
    });
    StatusCode::ACCEPTED.into_response()
}

async fn stop_raids(State(desk): State<Desk>) -> StatusCode {
    desk.0.raids.fetch_add(1, Relaxed);
    StatusCode::NO_CONTENT
}

async fn fault(State(desk): State<Desk>, Json(fault): Json<Fault>) -> StatusCode {
    desk.0.simulator.fail(&fault);
    StatusCode::NO_CONTENT
}

fn answer(result: Result<Reply, DiscordError>) -> Response {
    match result {
        Ok(Reply { status, body }) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
            body.map_or_else(|| status.into_response(), |body| (status, Json(body)).into_response())
        }
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &DiscordError) -> Response {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_REQUEST);
    (status, Json(error.body())).into_response()
}
