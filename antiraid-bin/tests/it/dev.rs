//! `antiraid dev` from outside: the page's own requests, and templates that are loaded again when they are saved.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::antiraid::Antiraid;

/// How long anything may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(60);

const MANIFEST: &str = r#"
name = "echo"
description = "Says it again."
events = ["MESSAGE", "GUILD_MEMBER_ADD"]
capabilities = ["*"]
tenants = "all"
"#;

fn code(prefix: &str) -> String {
    format!(
        "local evt = ...\nif evt.name == 'GUILD_MEMBER_ADD' then return 'joined' end\nprint('heard ' .. evt.data.content)\nreturn '{prefix}' .. evt.data.content\n"
    )
}

/// The program, ended with the test.
pub(crate) struct Dev {
    child: Child,
    address: String,
    token: String,
}

impl Dev {
    pub(crate) fn start(antiraid: &Antiraid, args: &[&str]) -> Self {
        let mut child = antiraid.command([&["dev", "--listen", "127.0.0.1:0"], args].concat()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let (address, token) = loop {
            line.clear();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended without serving");
            if let Some(rest) = line.strip_prefix("open http://") {
                let (address, token) = rest.trim().split_once("/#").unwrap();
                break (address.to_owned(), token.to_owned());
            }
        };
        // Its log must not fill the pipe.
        #[expect(clippy::disallowed_methods, reason = "it is no worker")]
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Self { child, address, token }
    }

    /// What a person opens.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/#{}", self.address, self.token)
    }

    fn request(&self, call: &str, body: &Value) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        write!(
            stream,
            "{call} HTTP/1.0\r\nHost: {}\r\nX-Desk-Token: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            self.token,
            body.len()
        )
        .unwrap();
        stream
    }

    fn http(&self, call: &str, body: &Value) -> (u16, Value) {
        let mut answer = String::new();
        self.request(call, body).read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::String(body.into())))
    }

    fn state(&self) -> Value {
        let (status, state) = self.http("GET /desk/state", &Value::Null);
        assert_eq!(status, 200, "{state}");
        state
    }

    /// What happens from now on.
    fn events(&self) -> Events {
        let mut reader = BufReader::new(self.request("GET /desk/events", &Value::Null));
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            assert!(reader.read_line(&mut line).unwrap() > 0);
        }
        Events(reader)
    }

    fn loaded(&self) {
        let begun = Instant::now();
        loop {
            let state = self.state();
            // What happens before the bot is at the gateway is not told to templates.
            if !state["templates"]["templates"][0].is_null() && state["connected"] == 1 {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "no template is loaded: {}", state["templates"]);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Events(BufReader<TcpStream>);

impl Events {
    /// The next notice of the kind for which `f` gives something.
    fn find<T>(&mut self, kind: &str, f: impl Fn(&Value) -> Option<T>) -> T {
        let begun = Instant::now();
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream ended");
            // Figures come all the time.
            assert!(begun.elapsed() < PATIENCE, "no such {kind} within {PATIENCE:?}");
            let Some(data) = line.strip_prefix("data: ") else { continue };
            let notice: Value = serde_json::from_str(data).unwrap();
            if notice["kind"] == kind
                && let Some(found) = f(&notice["data"])
            {
                return found;
            }
        }
    }

    fn result(&mut self, wanted: &str) {
        let text = json!(wanted).to_string();
        self.find("result", |data| (data["value"].as_str() == Some(text.as_str())).then_some(()));
    }
}

/// The guild, the channel `general`, and a member.
fn places(state: &Value) -> (String, String, String) {
    let guild = &state["guilds"][0];
    let general = guild["channels"].as_array().unwrap().iter().find(|channel| channel["name"] == "general").unwrap();
    let ada = guild["members"].as_array().unwrap().iter().find(|member| member["user"]["username"] == "ada").unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&guild["id"]), text(&general["id"]), text(&ada["user"]["id"]))
}

#[test]
fn a_message_reaches_the_template_and_a_saved_template_answers_anew() {
    let antiraid = Antiraid::new().file("echo/template.toml", MANIFEST).file("echo/init.luau", code("first: "));
    let dev = Dev::start(&antiraid, &["echo", "--workers", "1"]);
    dev.loaded();
    let (_, general, ada) = places(&dev.state());
    let mut events = dev.events();
    let say = |text: &str| {
        let (status, answer) =
            dev.http(&format!("POST /desk/as/{ada}/channels/{general}/messages"), &json!({"content": text}));
        assert_eq!(status, 200, "{answer}");
    };
    say("hello");
    events.result("first: hello");
    events.find("log", |data| (data["text"] == "heard hello").then_some(()));

    std::fs::write(antiraid.path("echo/init.luau"), code("second: ")).unwrap();
    events.find("templates", |data| (data["mistakes"] == json!([])).then_some(()));
    say("again");
    events.result("second: again");

    // With a mistake in it, the old one goes on.
    std::fs::write(antiraid.path("echo/init.luau"), "local = 1").unwrap();
    let mistake = events.find("templates", |data| data["mistakes"][0].as_str().map(str::to_owned));
    assert!(mistake.contains("init.luau:1"), "{mistake}");
    say("still");
    events.result("second: still");
    std::fs::write(antiraid.path("echo/init.luau"), code("third: ")).unwrap();
    events.find("templates", |data| (data["mistakes"] == json!([])).then_some(()));
    say("well");
    events.result("third: well");
    events.find("stats", |data| data["tenants"][0]["cpu_micros"].as_u64().filter(|micros| *micros > 0));
}

#[test]
fn a_raid_comes_with_all_its_members_and_can_be_stopped() {
    let antiraid = Antiraid::new().file("echo/template.toml", MANIFEST).file("echo/init.luau", code(""));
    let dev = Dev::start(&antiraid, &["echo", "--workers", "1"]);
    dev.loaded();
    let (guild, ..) = places(&dev.state());
    let mut events = dev.events();
    let before = dev.state()["guilds"][0]["member_count"].as_u64().unwrap();
    let raid = |joins: u64, rate: f64| {
        dev.http("POST /desk/raid", &json!({"guild": guild, "joins": joins, "per_second": rate}))
    };
    assert_eq!(raid(0, 1.0).0, 400);
    assert_eq!(raid(10, 1e9).0, 400);
    assert_eq!(raid(50, 1000.0).0, 202);
    for _ in 0..50 {
        events.result("joined");
    }
    assert_eq!(dev.state()["guilds"][0]["member_count"], before + 50);
    assert_eq!(raid(10_000, 0.1).0, 202);
    events.find("raid", |data| (data["state"] == "begins").then_some(()));
    assert_eq!(dev.http("DELETE /desk/raid", &Value::Null).0, 204);
}

#[test]
fn it_serves_this_host_alone_and_names_what_is_missing() {
    let antiraid = Antiraid::new();
    antiraid.run(["dev", "--listen", "0.0.0.0:0"]).with_status(2).says(&["of this host only"]);
    antiraid.run(["dev", "nowhere"]).with_status(2).says(&["nowhere: is no folder"]);
    let help = antiraid.run(["dev", "--help"]).with_status(0);
    help.says(&["simulated Discord", "antiraid dev examples/templates", "--listen", "--guilds"]);
}

#[test]
fn an_empty_folder_waits_for_its_first_template_and_an_end_is_an_end() {
    let antiraid = Antiraid::new().file("templates/README", "nothing yet");
    let mut dev = Dev::start(&antiraid, &["templates", "--guilds", "2", "--workers", "1"]);
    assert_eq!(dev.state()["guilds"].as_array().unwrap().len(), 2);
    std::fs::create_dir(antiraid.path("templates/echo")).unwrap();
    std::fs::write(antiraid.path("templates/echo/init.luau"), code("")).unwrap();
    std::fs::write(antiraid.path("templates/echo/template.toml"), MANIFEST).unwrap();
    dev.loaded();
    kill_process(Pid::from_raw(dev.child.id() as i32).unwrap(), Signal::TERM).unwrap();
    assert!(dev.child.wait().unwrap().success());
}
