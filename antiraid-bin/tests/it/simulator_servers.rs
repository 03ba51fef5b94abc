//! The simulated Discord over real sockets: REST and the gateway as clients meet them.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use antiraid_bin::dev::desk::Desk;
use antiraid_bin::simulator::fault::Fault;
use antiraid_bin::simulator::gateway_sessions::GatewayConfig;
use antiraid_bin::simulator::rest_limits::RestRules;
use antiraid_bin::simulator::world::{BOT_TOKEN, Nature, WorldConfig};
use antiraid_bin::simulator::{Simulator, SimulatorConfig};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use worker_core::Snowflake;

/// How long anything may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Every intent.
const ALL: u64 = 0x1FFFF | 1 << 20 | 1 << 21;

pub(crate) fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("within patience") })
}

/// Quick to identify again, and without limits, unless a test says otherwise.
pub(crate) fn config() -> SimulatorConfig {
    let gateway = GatewayConfig { identify_interval: Duration::ZERO, ..GatewayConfig::default() };
    SimulatorConfig { gateway, rest: RestRules::Off, ..SimulatorConfig::default() }
}

/// A simulated Discord that is served.
pub(crate) struct Server {
    pub(crate) simulator: Simulator,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) async fn start(config: SimulatorConfig) -> Self {
        let simulator = Simulator::new(config);
        let (_, templates) = tokio::sync::watch::channel(json!({}));
        let router = Desk::new(simulator.clone(), "secret".into(), templates).router();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { simulator, address }
    }

    pub(crate) fn guild(&self) -> Snowflake {
        self.simulator.with_world(|world| world.guilds().next().unwrap().id)
    }

    fn general(&self) -> Snowflake {
        self.simulator.with_world(|world| world.guilds().next().unwrap().channel_named("general").unwrap().id)
    }

    pub(crate) fn ada(&self) -> Snowflake {
        self.simulator.with_world(|world| {
            let guild = world.guilds().next().unwrap();
            *guild.members.keys().find(|id| world.find_user(**id).unwrap().username == "ada").unwrap()
        })
    }

    /// Somebody says something.
    pub(crate) fn say(&self, actor: Snowflake, content: &str) {
        let (path, body) = (format!("/channels/{}/messages", self.general()), json!({"content": content}));
        let request = antiraid_bin::simulator::request::Request {
            actor,
            method: "POST",
            path: &path,
            query: &[],
            body: &body,
            reason: None,
        };
        self.simulator.with_world(|world| world.answer(&request).unwrap());
    }

    async fn http(&self, call: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut request = format!("{call} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        if headers.iter().all(|(name, _)| *name != "Host") {
            request += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += &format!("\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_lowercase(),
            body: serde_json::from_str(body).unwrap_or(Value::String(body.into())),
        }
    }

    async fn rest(&self, call: &str, body: &str) -> Answer {
        self.http(call, &[("Authorization", &format!("Bot {BOT_TOKEN}"))], body).await
    }

    async fn gateway(&self, query: &str) -> Gateway {
        let url = format!("ws://{}/?v=10&encoding=json{query}", self.address);
        let (socket, _) = connect_async(url).await.unwrap();
        let mut gateway = Gateway { socket, sequence: 0 };
        if !query.contains("compress") && !query.contains("v=") {
            assert_eq!(gateway.next().await["op"], 10);
        }
        gateway
    }

    async fn identified(&self, intents: u64) -> (Gateway, Value) {
        let mut gateway = self.gateway("").await;
        gateway.identify(intents, [0, 1]).await;
        let ready = gateway.until("READY").await;
        gateway.until("GUILD_CREATE").await;
        (gateway, ready)
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

struct Gateway {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    sequence: u64,
}

impl Gateway {
    async fn send(&mut self, op: u64, d: Value) {
        self.socket.send(Message::text(json!({"op": op, "d": d}).to_string())).await.unwrap();
    }

    async fn identify(&mut self, intents: u64, shard: [u64; 2]) {
        let d = json!({"token": BOT_TOKEN, "intents": intents, "shard": shard, "properties": {}});
        self.send(2, d).await;
    }

    async fn next(&mut self) -> Value {
        match self.socket.next().await.expect("open").unwrap() {
            Message::Text(text) => {
                let frame: Value = serde_json::from_str(&text).unwrap();
                if let Some(sequence) = frame["s"].as_u64() {
                    assert_eq!(sequence, self.sequence + 1, "without a gap: {frame}");
                    self.sequence = sequence;
                }
                frame
            }
            other => panic!("{other:?}"),
        }
    }

    async fn until(&mut self, name: &str) -> Value {
        loop {
            let frame = self.next().await;
            if frame["t"] == name {
                return frame["d"].clone();
            }
        }
    }

    /// The code that the server closes with.
    async fn close_code(&mut self) -> u16 {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(_)) => {}
                other => panic!("closed without a code: {other:?}"),
            }
        }
    }
}

#[test]
fn rest_is_for_the_bot() {
    run(async {
        let server = Server::start(config()).await;
        let refused = server.http("GET /api/v10/users/@me", &[], "").await;
        assert_eq!((refused.status, &refused.body["message"]), (401, &json!("401: Unauthorized")));
        for token in ["Bot nope", BOT_TOKEN, "Bearer x"] {
            assert_eq!(
                server.http("GET /api/v10/users/@me", &[("Authorization", token)], "").await.status,
                401,
                "{token}"
            );
        }
        for path in ["/api/v10/users/@me", "/api/users/@me", "/api/v9/users/@me"] {
            let me = server.rest(&format!("GET {path}"), "").await;
            assert_eq!((me.status, &me.body["bot"]), (200, &json!(true)), "{path}");
        }
        let application = server.rest("GET /api/v10/oauth2/applications/@me", "").await;
        assert_eq!(application.body["id"], server.rest("GET /api/v10/users/@me", "").await.body["id"]);
        // Who answers an interaction shows the interaction's own token.
        let answer = server.http("POST /api/v10/interactions/5/token/callback", &[], "{}").await;
        assert_eq!((answer.status, &answer.body["code"]), (404, &json!(10062)));
        let bad = server.rest(&format!("POST /api/v10/channels/{}/messages", server.general()), "{nope").await;
        assert_eq!((bad.status, &bad.body["code"]), (400, &json!(50109)));
    });
}

#[test]
fn a_reason_comes_by_its_header() {
    run(async {
        let server = Server::start(config()).await;
        let (guild, ada) = (server.guild(), server.ada());
        let token = format!("Bot {BOT_TOKEN}");
        let path = format!("PATCH /api/v10/guilds/{guild}/members/{ada}");
        let headers = [("Authorization", &*token), ("X-Audit-Log-Reason", "caf%C3%A9")];
        assert_eq!(server.http(&path, &headers, r#"{"nick":"x"}"#).await.status, 200);
        let log = server.rest(&format!("GET /api/v10/guilds/{guild}/audit-logs"), "").await;
        assert_eq!(log.body["audit_log_entries"][0]["reason"], "café");
        let long = "x".repeat(513);
        let headers = [("Authorization", &*token), ("X-Audit-Log-Reason", &*long)];
        assert_eq!(server.http(&path, &headers, r#"{"nick":"y"}"#).await.body["code"], 50035);
    });
}

#[test]
fn pages_of_other_sites_and_other_names_of_this_host_are_kept_out() {
    run(async {
        let server = Server::start(config()).await;
        let token = ("x-desk-token", "secret");
        assert_eq!(server.http("GET /desk/state", &[token], "").await.status, 200);
        for headers in [
            &[("Host", "evil.example"), token][..],
            &[("Origin", "http://evil.example"), token],
            &[("Sec-Fetch-Site", "cross-site"), token],
            &[],
            &[("x-desk-token", "secrex")],
            &[("x-desk-token", "secrets")],
        ] {
            assert_eq!(server.http("GET /desk/state", headers, "").await.status, 403, "{headers:?}");
        }
        let bot = format!("Bot {BOT_TOKEN}");
        let headers = [("Authorization", &*bot), ("Origin", "http://evil.example")];
        assert_eq!(server.http("GET /api/v10/users/@me", &headers, "").await.status, 403);
        // A page may open websockets across sites, and would tell its origin.
        let mut request = format!("ws://{}/?v=10", server.address).into_client_request().unwrap();
        request.headers_mut().insert("Origin", format!("http://{}", server.address).parse().unwrap());
        assert!(connect_async(request).await.is_err());
        let page = server.http("GET /", &[], "").await;
        assert!(page.header("content-security-policy").unwrap().contains("script-src 'self'"), "{page:?}");
    });
}

#[test]
fn rest_tells_its_limits_and_keeps_them() {
    run(async {
        let server = Server::start(SimulatorConfig { rest: RestRules::Discord, ..config() }).await;
        let call = format!("POST /api/v10/channels/{}/messages", server.general());
        let mut left = Vec::new();
        for _ in 0..5 {
            let answer = server.rest(&call, r#"{"content":"x"}"#).await;
            assert_eq!((answer.status, answer.header("x-ratelimit-limit")), (200, Some("5")));
            left.push(answer.header("x-ratelimit-remaining").unwrap().to_owned());
        }
        assert_eq!(left, ["4", "3", "2", "1", "0"]);
        let answer = server.rest(&call, r#"{"content":"x"}"#).await;
        assert_eq!((answer.status, &answer.body["global"]), (429, &json!(false)));
        let wait = answer.body["retry_after"].as_f64().unwrap();
        assert!(wait > 0.0 && wait <= 5.0, "{wait}");
        assert_eq!(
            (answer.header("x-ratelimit-scope"), answer.header("x-ratelimit-remaining")),
            (Some("user"), Some("0"))
        );
        assert!(answer.header("retry-after").is_some() && answer.header("x-ratelimit-bucket").is_some());
        assert_eq!(server.rest(&format!("GET /api/v10/channels/{}", server.general()), "").await.status, 200);
    });
}

#[test]
fn rest_fails_on_demand() {
    run(async {
        let server = Server::start(config()).await;
        let me = "GET /api/v10/users/@me";
        server.simulator.fail(&Fault::RestStatus { status: 503, count: 2 });
        let statuses =
            [server.rest(me, "").await.status, server.rest(me, "").await.status, server.rest(me, "").await.status];
        assert_eq!(statuses, [503, 503, 200]);
        server.simulator.fail(&Fault::RateLimit { count: 1, retry_after_ms: 1_500, global: true });
        let limited = server.rest(me, "").await;
        assert_eq!(
            (limited.status, &limited.body["retry_after"], &limited.body["global"]),
            (429, &json!(1.5), &json!(true))
        );
        assert_eq!(limited.header("x-ratelimit-global"), Some("true"));
        server.simulator.fail(&Fault::RevokeToken);
        assert_eq!(server.rest(me, "").await.status, 401);
    });
}

#[test]
fn a_session_begins_with_the_guilds_and_goes_on_with_what_happens() {
    run(async {
        let server = Server::start(config()).await;
        let answer = server.rest("GET /api/v10/gateway/bot", "").await;
        assert_eq!(
            (&answer.body["url"], &answer.body["shards"]),
            (&json!(format!("ws://{}", server.address)), &json!(1))
        );
        let mut gateway = server.gateway("").await;
        gateway.identify(ALL, [0, 1]).await;
        let ready = gateway.until("READY").await;
        assert_eq!(ready["guilds"], json!([{"id": server.guild(), "unavailable": true}]));
        let guild = gateway.until("GUILD_CREATE").await;
        assert_eq!((&guild["id"], guild["members"].as_array().unwrap().len()), (&json!(server.guild()), 7));
        assert!(guild["channels"].as_array().unwrap().len() >= 6 && guild["roles"].as_array().unwrap().len() == 5);
        server.say(server.ada(), "hello");
        assert_eq!(gateway.until("MESSAGE_CREATE").await["content"], "hello");
        gateway.send(1, json!(gateway.sequence)).await;
        assert_eq!(gateway.next().await["op"], 11);
        gateway.send(8, json!({"guild_id": server.guild(), "query": "a", "limit": 0, "nonce": "n"})).await;
        let chunk = gateway.until("GUILD_MEMBERS_CHUNK").await;
        assert_eq!((chunk["members"].as_array().unwrap().len(), &chunk["nonce"]), (2, &json!("n")), "ada and antiraid");
    });
}

#[test]
fn each_listener_gets_what_its_intents_let_through() {
    run(async {
        let server = Server::start(config()).await;
        let guilds = 1;
        let messages = 1 << 9;
        let (mut without, _) = server.identified(guilds | messages).await;
        let (mut with, _) = server.identified(ALL).await;
        let bot = server.simulator.with_world(|world| world.bot());
        server.simulator.with_world(|world| {
            let user = world.add_user("eve", None, Nature::Human);
            let guild = world.guilds().next().unwrap().id;
            world.join(guild, user).unwrap();
        });
        server.say(server.ada(), "secret");
        server.say(server.ada(), &format!("hello <@{bot}>"));
        server.say(bot, "my own");
        let mut seen = Vec::new();
        while seen.len() < 3 {
            let frame = without.next().await;
            assert_ne!(frame["t"], "GUILD_MEMBER_ADD", "which needs an intent");
            seen.push(frame["d"]["content"].as_str().unwrap_or("?").to_owned());
        }
        assert_eq!(seen, [String::new(), format!("hello <@{bot}>"), "my own".into()]);
        with.until("GUILD_MEMBER_ADD").await;
        assert_eq!(with.until("MESSAGE_CREATE").await["content"], "secret");
    });
}

#[test]
fn shards_share_the_guilds() {
    run(async {
        let world = WorldConfig { guilds: 8, ..WorldConfig::default() };
        let gateway = GatewayConfig { max_concurrency: 2, ..config().gateway };
        let server = Server::start(SimulatorConfig { world, gateway, ..config() }).await;
        let mut all = Vec::new();
        for shard in 0..2 {
            let mut gateway = server.gateway("").await;
            gateway.identify(ALL, [shard, 2]).await;
            for guild in gateway.until("READY").await["guilds"].as_array().unwrap() {
                let id: u64 = guild["id"].as_str().unwrap().parse().unwrap();
                assert_eq!((id >> 22) % 2, shard);
                all.push(id);
            }
        }
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 8);
    });
}

#[test]
fn mistakes_of_clients_have_their_close_codes() {
    run(async {
        let server = Server::start(config()).await;
        let identify = |token: &str, intents: Value, shard: Value| {
            (2, json!({"token": token, "intents": intents, "shard": shard}))
        };
        for (what, (op, d), code) in [
            ("a wrong token", identify("nope", json!(1), json!([0, 1])), 4004),
            ("an intent that is none", identify(BOT_TOKEN, json!(1_u64 << 40), json!([0, 1])), 4013),
            ("a shard that cannot be", identify(BOT_TOKEN, json!(1), json!([2, 2])), 4010),
            ("no intents", identify(BOT_TOKEN, json!(null), json!([0, 1])), 4002),
            ("asking before identifying", (8, json!({})), 4003),
            ("an opcode that is none", (99, json!({})), 4001),
            ("resuming with a wrong token", (6, json!({"token": "nope", "session_id": "x", "seq": 1})), 4004),
        ] {
            let mut gateway = server.gateway("").await;
            gateway.send(op, d).await;
            assert_eq!(gateway.close_code().await, code, "{what}");
        }
        let mut gateway = server.gateway("").await;
        gateway.socket.send(Message::text("{nope")).await.unwrap();
        assert_eq!(gateway.close_code().await, 4002);
        let (mut gateway, _) = server.identified(ALL).await;
        gateway.identify(ALL, [0, 1]).await;
        assert_eq!(gateway.close_code().await, 4005);
        let url = format!("ws://{}/?v=5", server.address);
        let mut gateway = Gateway { socket: connect_async(url).await.unwrap().0, sequence: 0 };
        assert_eq!(gateway.close_code().await, 4012);
        server.simulator.fail(&Fault::DisallowIntents { intents: 1 << 15 });
        let mut gateway = server.gateway("").await;
        gateway.identify(ALL, [0, 1]).await;
        assert_eq!(gateway.close_code().await, 4014);
        let mut gateway = server.gateway("").await;
        for _ in 0..121 {
            // The server may close before the last ones.
            let _ = gateway.socket.send(Message::text(r#"{"op":1,"d":null}"#)).await;
        }
        assert_eq!(gateway.close_code().await, 4008);
    });
}

#[test]
fn shards_of_one_lane_identify_one_after_the_other() {
    run(async {
        let gateway = GatewayConfig { identify_interval: Duration::from_secs(3600), ..GatewayConfig::default() };
        let server = Server::start(SimulatorConfig { gateway, ..config() }).await;
        server.identified(ALL).await;
        let mut second = server.gateway("").await;
        second.identify(ALL, [1, 2]).await;
        assert_eq!(second.next().await, json!({"op": 9, "t": null, "s": null, "d": false}));
    });
}

#[test]
fn a_session_that_is_resumed_has_missed_nothing() {
    run(async {
        let server = Server::start(config()).await;
        let (mut gateway, ready) = server.identified(ALL).await;
        server.say(server.ada(), "seen");
        gateway.until("MESSAGE_CREATE").await;
        let resume = json!({"token": BOT_TOKEN, "session_id": ready["session_id"], "seq": gateway.sequence});
        server.simulator.fail(&Fault::Drop { code: Some(4000) });
        assert_eq!(gateway.close_code().await, 4000);
        for number in 0..100 {
            server.say(server.ada(), &number.to_string());
        }
        let sequence = gateway.sequence;
        let mut gateway = server.gateway("").await;
        gateway.sequence = sequence;
        gateway.send(6, resume.clone()).await;
        for number in 0..100 {
            assert_eq!(gateway.until("MESSAGE_CREATE").await["content"], number.to_string());
        }
        assert_eq!(gateway.next().await["t"], "RESUMED");
        server.say(server.ada(), "afterwards");
        assert_eq!(gateway.until("MESSAGE_CREATE").await["content"], "afterwards");
        // Who says that it is over, cannot go on with it.
        gateway.socket.close(None).await.unwrap();
        let mut later = server.gateway("").await;
        let mut too_far = resume.clone();
        too_far["seq"] = json!(1_000_000);
        later.send(6, too_far).await;
        assert_eq!(later.close_code().await, 4007);
    });
}

#[test]
fn a_session_that_is_over_begins_anew() {
    run(async {
        let server = Server::start(config()).await;
        let (mut gateway, ready) = server.identified(ALL).await;
        server.simulator.fail(&Fault::Reconnect);
        assert_eq!(gateway.next().await["op"], 7);
        server.simulator.fail(&Fault::InvalidateSessions { resumable: false });
        assert_eq!(gateway.next().await, json!({"op": 9, "t": null, "s": null, "d": false}));
        let mut later = server.gateway("").await;
        later.send(6, json!({"token": BOT_TOKEN, "session_id": ready["session_id"], "seq": 1})).await;
        assert_eq!(later.next().await["op"], 9);
        later.sequence = 0;
        later.identify(ALL, [0, 1]).await;
        later.until("READY").await;
    });
}

#[test]
fn a_session_that_nobody_reads_ends_instead_of_growing() {
    run(async {
        let gateway = GatewayConfig { replay_frames_max: 50, ..config().gateway };
        let server = Server::start(SimulatorConfig { gateway, ..config() }).await;
        let (gateway, ready) = server.identified(ALL).await;
        let resume = json!({"token": BOT_TOKEN, "session_id": ready["session_id"], "seq": gateway.sequence});
        drop(gateway);
        for number in 0..60 {
            server.say(server.ada(), &number.to_string());
        }
        let mut later = server.gateway("").await;
        later.send(6, resume).await;
        assert_eq!(later.next().await["op"], 9);
    });
}

#[test]
fn who_asks_for_it_gets_one_compressed_stream() {
    run(async {
        let server = Server::start(config()).await;
        let mut gateway = server.gateway("&compress=zlib-stream").await;
        let mut zlib = flate2::Decompress::new(true);
        let mut text = String::new();
        gateway.identify(ALL, [0, 1]).await;
        while !text.contains("GUILD_CREATE") {
            let Message::Binary(bytes) = gateway.socket.next().await.unwrap().unwrap() else { panic!("not binary") };
            assert_eq!(bytes[bytes.len() - 4..], [0, 0, 0xFF, 0xFF], "each frame ends with the suffix");
            let mut out = Vec::with_capacity(1 << 20);
            zlib.decompress_vec(&bytes, &mut out, flate2::FlushDecompress::Sync).unwrap();
            let frame: Value = serde_json::from_slice(&out).unwrap();
            text += &frame.to_string();
        }
        assert!(text.contains(r#""op":10"#) && text.contains("READY"));
    });
}
