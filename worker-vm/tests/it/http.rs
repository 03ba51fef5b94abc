//! `ctx.HTTPClient`, against real servers on loopback: the resolver of these tests leads names there, and the settings
//! allow the addresses.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use worker_core::{CompatDate, Limits, Quota, RatelimitFamily, RatelimitRules, TemplateName};
use worker_db::{FileMap, NewTemplate};
use worker_vm::{HostResolver, HttpConfig, Resolving, Services, ServicesConfig};

use crate::harness::{Harness, OTHER, TENANT, on_worker};
use crate::scripts::script;

/// Names and their addresses: each look-up takes the next answer, the last one stays.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<HashMap<String, Vec<Vec<SocketAddr>>>>>, Arc<AtomicUsize>);

impl Names {
    fn set(&self, host: &str, answers: Vec<Vec<SocketAddr>>) {
        self.0.lock().unwrap().insert(host.to_owned(), answers);
    }

    fn lookups(&self) -> usize {
        self.1.load(Ordering::SeqCst)
    }
}

impl HostResolver for Names {
    fn resolve(&self, host: &str) -> Resolving {
        self.1.fetch_add(1, Ordering::SeqCst);
        let answer = match self.0.lock().unwrap().get_mut(host) {
            Some(answers) if answers.len() > 1 => Ok(answers.remove(0)),
            Some(answers) => Ok(answers[0].clone()),
            None => Err(io::Error::other("no such host")),
        };
        Box::pin(async move { answer })
    }
}

/// A server that does to its clients what their path asks for.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, seen.clone()));
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// One request a connection. Errors are clients that go away.
async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Vec<String>>>) -> io::Result<()> {
    let mut request = Vec::new();
    let body_at = loop {
        if let Some(at) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8_lossy(&request[..body_at]).into_owned();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    while request.len() < body_at + length {
        stream.read_buf(&mut request).await?;
    }
    seen.lock().unwrap().push(String::from_utf8_lossy(&request).into_owned());

    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let answer = |extra: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n{extra}\r\n", body.len());
        [head.as_bytes(), body].concat()
    };
    match path.as_str() {
        "/echo" => stream.write_all(&answer("x-a: 1\r\nx-a: 2\r\n", &request)).await?,
        "/json" => stream.write_all(&answer("", br#"{"a":[1,{"b":null}],"c":"\u00fc"}"#)).await?,
        "/deep" => stream.write_all(&answer("", "[".repeat(1 << 20).as_bytes())).await?,
        "/much" => stream.write_all(&answer("", format!("[{}0]", "0,".repeat(1 << 20)).as_bytes())).await?,
        "/notjson" => stream.write_all(&answer("", b"{nope")).await?,
        "/missing" => {
            stream.write_all(b"HTTP/1.1 404 Gone Fishing\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno").await?
        }
        "/redirect" => {
            let text = "HTTP/1.1 302 Found\r\nconnection: close\r\nlocation: http://inside.test/echo\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(text.as_bytes()).await?;
        }
        "/gzip" => stream.write_all(&answer("content-encoding: gzip\r\n", &gzip(b"inflated", 1))).await?,
        "/notgzip" => stream.write_all(&answer("content-encoding: gzip\r\n", b"this is not gzip at all")).await?,
        // 256 MiB in 256 KiB.
        "/bomb" => stream.write_all(&answer("content-encoding: gzip\r\n", &gzip(&[0; 1 << 20], 256))).await?,
        "/gone" => {}
        "/short" => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello").await?,
        "/long" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello and more").await?
        }
        "/huge" => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999\r\n\r\nhello").await?,
        "/mad" => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nhello").await?,
        "/many" => {
            let headers = (0..5_000).map(|n| format!("x-{n}: {n}\r\n")).collect::<String>();
            stream.write_all(&answer(&headers, b"x")).await?;
        }
        "/silent" => std::future::pending().await,
        "/drip" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            loop {
                stream.write_all(b"x").await?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        "/drophead" => loop {
            stream.write_all(b"H").await?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        },
        "/endless" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            loop {
                stream.write_all(&[b'x'; 64 << 10]).await?;
            }
        }
        other => panic!("nobody asked for {other}"),
    }
    Ok(())
}

fn gzip(bytes: &[u8], times: usize) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..times {
        encoder.write_all(bytes).unwrap();
    }
    encoder.finish().unwrap()
}

fn unlimited() -> RatelimitRules {
    RatelimitRules::unlimited()
}

fn services(names: &Names, hosts: &[&str], addresses_allowed: &[&str]) -> Services {
    let http = HttpConfig {
        allowed_hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
        denied_hosts: vec!["Denied.test".to_owned()],
        addresses_allowed: addresses_allowed.iter().map(|range| range.parse().unwrap()).collect(),
        resolver: Arc::new(names.clone()),
    };
    Services::new(ServicesConfig { http, ..ServicesConfig::default() }).unwrap()
}

/// A server that `api.test` and the CDN lead to, and an engine that may reach it.
async fn with_server(rules: RatelimitRules) -> (Harness, Server, Names) {
    let (names, server) = (Names::default(), Server::start().await);
    for host in ["api.test", "cdn.discordapp.com", "denied.test", "inside.test"] {
        names.set(host, vec![vec![server.address]]);
    }
    let services = services(&names, &["api.test", "API2.test", "denied.test"], &["127.0.0.0/8"]);
    (Harness::with_services(Limits::default(), rules, services).await, server, names)
}

#[test]
fn requests_are_sent_and_answers_read() {
    on_worker(|| async {
        let (h, server, _) = with_server(unlimited()).await;
        h.passes(script!("http/requests")).await;
        let redirected = server.requests().iter().any(|request| request.contains("inside.test"));
        assert!(!redirected, "a redirect was followed");
    });
}

#[test]
fn what_may_not_be_asked_for_is_refused_before_anything_is_looked_up() {
    on_worker(|| async {
        let (h, server, names) = with_server(unlimited()).await;
        h.passes(script!("http/refused")).await;
        assert_eq!((server.requests().len(), names.lookups()), (0, 0));
    });
}

#[test]
fn servers_that_misbehave_cost_their_client_an_error() {
    on_worker(|| async {
        let (h, _, _) = with_server(unlimited()).await;
        h.passes(script!("http/misbehaving")).await;
        // Nobody else noticed.
        h.passes_as(OTHER, &["*"], r#"return "ok""#, &[]).await;
    });
}

/// Every class of address that is not public, alone and beside one that is allowed.
#[test]
fn names_that_lead_inside_are_blocked() {
    on_worker(|| async {
        let server = Server::start().await;
        let names = Names::default();
        let inside = [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.2",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
            "fc00::1",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ];
        let mut hosts = Vec::new();
        for (index, address) in inside.iter().enumerate() {
            let address = SocketAddr::new(address.parse().unwrap(), server.address.port());
            for (kind, answer) in [("alone", vec![address]), ("beside", vec![server.address, address])] {
                let host = format!("{kind}{index}.test");
                names.set(&host, vec![answer]);
                hosts.push(host);
            }
        }
        names.set("none.test", vec![vec![]]);
        let all: Vec<_> = hosts.iter().map(String::as_str).chain(["none.test", "unknown.test"]).collect();
        // One address of loopback is allowed, not the others.
        let services = services(&names, &all, &["127.0.0.1/32"]);
        let h = Harness::with_services(Limits::default(), unlimited(), services).await;
        let list = format!("return {{{}}}", hosts.iter().map(|host| format!("{host:?},")).collect::<String>());
        h.passes_as(TENANT, &["*"], script!("http/inside"), &[("hosts.luau", &list)]).await;
        assert_eq!(server.requests().len(), 0);
        assert_eq!(names.lookups(), all.len());
    });
}

/// The answer that was checked is the one that is used; the next connection asks and checks again.
#[test]
fn a_name_that_changes_gains_nothing() {
    on_worker(|| async {
        let server = Server::start().await;
        let names = Names::default();
        let inside = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), server.address.port());
        names.set("rebind.test", vec![vec![server.address], vec![inside]]);
        let services = services(&names, &["rebind.test"], &["127.0.0.1/32"]);
        let h = Harness::with_services(Limits::default(), unlimited(), services).await;
        let source = r#"
            local _, ctx = ...
            local function status()
                return ctx.HTTPClient.new_request("GET", "http://rebind.test/missing"):send().status
            end
            if status() ~= 404 then return "no answer" end
            local ok, err = pcall(status)
            return if not ok and string.find(err, "^http: blocked") then "ok" else `{ok} {err}`
        "#;
        h.assert_ok(source).await;
        assert_eq!((names.lookups(), server.requests().len()), (2, 1));
    });
}

#[test]
fn private_addresses_are_refused_by_default() {
    on_worker(|| async {
        let (names, server) = (Names::default(), Server::start().await);
        names.set("cdn.discordapp.com", vec![vec![server.address]]);
        let h = Harness::with_services(Limits::default(), unlimited(), services(&names, &[], &[])).await;
        let source = r#"local _, ctx = ...; ctx.HTTPClient.new_request("GET", "https://cdn.discordapp.com/x"):send()"#;
        assert!(h.error(source).await.starts_with("http: blocked"));
        assert_eq!(server.requests().len(), 0);
    });
}

#[test]
fn a_server_that_has_no_certificate_for_its_name_is_not_talked_to() {
    on_worker(|| async {
        let (h, server, _) = with_server(unlimited()).await;
        let source = r#"local _, ctx = ...; ctx.HTTPClient.new_request("GET", "https://api.test/echo"):send()"#;
        assert!(h.error(source).await.starts_with("http: connect"));
        assert_eq!(server.requests().len(), 0);
    });
}

#[test]
fn the_capability_is_that_of_the_context_the_client_came_from() {
    on_worker(|| async {
        let (h, _, _) = with_server(unlimited()).await;
        h.passes_as(TENANT, &["http:send", "kv:*"], script!("http/limited"), &[]).await;
        // The CDN needs none.
        let source = r#"
            local _, ctx = ...
            local function status(host)
                return ctx.HTTPClient.new_request("GET", `http://{host}/missing`):send().status
            end
            require("@self/check").raises("Missing capability: http:send", status, "api.test")
            return if status("cdn.discordapp.com") == 404 then "ok" else "no answer"
        "#;
        h.passes_as(OTHER, &[], source, &[]).await;
    });
}

/// Template API, A30.
#[test]
fn a_template_of_the_first_date_keeps_its_capabilities_for_the_client() {
    on_worker(|| async {
        let (h, _, _) = with_server(unlimited()).await;
        let source = r#"
            local _, ctx = ...
            local child = ctx:withlimits({capabilities = {}}):withlimits({capabilities = {}})
            local ok, err = pcall(child.ObjectStorage.file_exists, child.ObjectStorage, "k")
            if ok or not string.find(err, "^Missing capability: objectstorage:file_exists") then return err end
            local status = child.HTTPClient.new_request("GET", "http://api.test/missing"):send().status
            return if status == 404 then "ok" else "no answer"
        "#;
        let template = NewTemplate {
            name: TemplateName::new("script").unwrap(),
            files: FileMap::from([("init.luau".to_owned(), source.to_owned())]),
            events: vec!["MESSAGE".into()],
            allowed_caps: ["*"].into_iter().collect(),
            error_channel: None,
            compat: CompatDate::OLDEST,
            paused: false,
        };
        h.db.template_create(TENANT, template).await.unwrap();
        h.cache.invalidate(TENANT);
        assert_eq!(h.message(TENANT).await.unwrap(), "ok".into());
    });
}

#[test]
fn requests_have_a_rate_limit() {
    on_worker(|| async {
        let quota = Quota::per(NonZeroU32::new(3).unwrap(), Duration::from_secs(3_600));
        let rules = RatelimitRules::default().with_global(RatelimitFamily::Http, [quota]);
        let (h, server, _) = with_server(rules).await;
        let source = r#"
            local _, ctx = ...
            local request = ctx.HTTPClient.new_request("GET", "http://api.test/missing")
            for _ = 1, 3 do request:send() end
            local ok, err = pcall(request.send, request)
            return if not ok and string.find(err, "^Global ratelimit hit for bucket 'send', wait time: ") then "ok" else tostring(err)
        "#;
        h.assert_ok(source).await;
        assert_eq!(server.requests().len(), 3);
    });
}
