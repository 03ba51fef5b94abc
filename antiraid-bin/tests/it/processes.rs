//! Workers in processes, from outside: the same results as in threads, a server that is watched, and all that can go wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::antiraid::{Antiraid, workspace};

/// How long anything may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(60);

fn frame(t: &str, guild: u64, content: &str) -> String {
    let d = json!({"id": "1", "guild_id": (guild << 22).to_string(), "content": content});
    json!({"op": 0, "t": t, "s": 1, "d": d}).to_string() + "\n"
}

fn message(guild: u64, content: &str) -> String {
    frame("MESSAGE_CREATE", guild, content)
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

fn exists(pid: u32) -> bool {
    // A zombie has ended.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

#[track_caller]
fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A server, ended with the test.
struct Server {
    child: Child,
    stdin: Option<ChildStdin>,
    address: SocketAddr,
}

impl Server {
    /// A server of the database `antiraid.db` there, whose tenants 1 to 8 answer messages with their text.
    fn start(antiraid: &Antiraid, args: &[&str]) -> Self {
        let mut child =
            antiraid.command([&["run", "--offline", "--listen", "127.0.0.1:0"], args].concat()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended without serving");
            if let Some(rest) = line.strip_prefix("serving http://") {
                break rest.split_whitespace().next().unwrap().parse().unwrap();
            }
        };
        // Its log must not fill the pipe.
        #[expect(clippy::disallowed_methods, reason = "it is no worker")]
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Self { stdin: child.stdin.take(), child, address }
    }

    fn http(&self, request: &str, body: &str) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "{request} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Ok((status, body.into()))
    }

    /// The one result of an event, or how it was refused.
    fn post(&self, frame: &str) -> Value {
        let (_, body) = self.http("POST /events", frame).unwrap();
        serde_json::from_str(body.trim()).unwrap_or_else(|error| panic!("{error}: {body:?} for {frame}"))
    }

    fn stats(&self) -> Value {
        serde_json::from_str(&self.http("GET /stats", "").unwrap().1).unwrap()
    }

    fn pids(&self) -> Vec<Option<u32>> {
        let stats = self.stats();
        let workers = stats["workers"].as_array().unwrap();
        workers.iter().map(|worker| worker["pid"].as_u64().map(|pid| pid as u32)).collect()
    }

    /// The process of this worker, once it is there, and not this one.
    fn pid(&self, worker: usize, not: Option<u32>) -> u32 {
        until("a process", || self.pids()[worker].filter(|pid| Some(*pid) != not))
    }

    fn end(mut self) -> (i32, String) {
        signal(self.child.id(), Signal::TERM);
        let mut output = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        (self.child.wait().unwrap().code().unwrap_or(-1), output)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tenants 1 to 8 have a template that echoes, or never ends.
fn with_echo() -> Antiraid {
    let code = r#"
local evt = ...
if evt.data.content == "hog" then
	-- Nearly all of its time goes by inside of single calls.
	local numbers = table.create(20000, 0)
	while true do
		for index = 1, #numbers do
			numbers[index] = index * 7919 % 20011
		end
		table.sort(numbers)
	end
end
return evt.data.content
"#;
    let tenants: Vec<String> = (1..=8u64).map(|id| format!("\"{}\"", id << 22)).collect();
    let manifest = format!(
        "name = \"echo\"\ndescription = \"For a test.\"\ntenants = [{}]\nevents = [\"MESSAGE\"]\ncapabilities = []\n",
        tenants.join(", ")
    );
    let antiraid = Antiraid::new().file("t/template.toml", manifest).file("t/init.luau", code);
    antiraid.run(["template", "push", "t"]).with_status(0);
    antiraid
}

#[test]
fn a_replay_comes_to_the_same_in_every_topology() {
    let root = workspace();
    let (templates, raid) = (root.join("examples/templates"), root.join("examples/raid/raid.jsonl"));
    let summary = |topology: &str| {
        let antiraid = Antiraid::new();
        let args = ["replay", "--json", "--topology", topology, "--templates"];
        let args: Vec<_> = args.iter().map(|arg| (*arg).into()).chain([templates.clone(), raid.clone()]).collect();
        antiraid.run(args).with_status(0).json()
    };
    let thread = summary("thread:2");
    for topology in ["process:2", "process:1*thread:2"] {
        let process = summary(topology);
        for same in ["events", "results", "failed"] {
            assert_eq!(process[same], thread[same], "{topology}: {same}");
        }
    }
}

#[test]
fn a_worker_needs_a_parent() {
    Antiraid::new().run(["worker"]).with_status(3).says(&["started by another antiraid"]);
}

#[test]
fn a_server_answers_over_stdin_and_http_and_ends_in_good_order() {
    for topology in ["thread:2", "process:2"] {
        let antiraid = with_echo();
        let mut server = Server::start(&antiraid, &["--topology", topology]);
        assert_eq!(server.post(&message(1, "over http"))["value"], "over http");
        assert_eq!(server.http("POST /events", "no frame\n").unwrap().0, 400);
        server.stdin.as_mut().unwrap().write_all(message(2, "over stdin").as_bytes()).unwrap();
        drop(server.stdin.take());
        until("the event of stdin", || (server.stats()["total"]["events"].as_u64() >= Some(2)).then_some(()));
        let stats = server.stats();
        assert_eq!(stats["workers"].as_array().unwrap().len(), 2);
        assert!(!stats["total"]["tenants"].as_array().unwrap().is_empty(), "{stats}");
        let (status, output) = server.end();
        assert_eq!(status, 0);
        assert!(output.contains("\"value\":\"over stdin\""), "{output}");
    }
}

#[test]
fn a_server_is_for_this_host_only() {
    let refused = Antiraid::new().run(["run", "--offline", "--listen", "0.0.0.0:0"]).with_status(2);
    refused.says(&["this host only"]);
    Antiraid::new()
        .run(["run", "--offline", "--db", "sqlite::memory:", "--topology", "process", "--listen", "127.0.0.1:0"])
        .with_status(2)
        .says(&["cannot share a database in memory"]);
    Antiraid::new().run(["top", "--address", "127.0.0.1:1"]).with_status(3).says(&["nothing to watch"]);
}

#[test]
fn who_brings_its_worker_down_is_paused_alone_listed_and_released() {
    let antiraid = with_echo();
    let server = Server::start(&antiraid, &["--topology", "process:1"]);
    let mut before = None;
    // The signal may come between two slices, when nobody's code runs and nobody is to blame; three that do not are enough.
    for deaths in 1.. {
        let pid = server.pid(0, before);
        before = Some(pid);
        std::thread::scope(|scope| {
            let hog = scope.spawn(|| server.post(&message(1, "hog")));
            // It has begun when it has used the processor.
            until("the hog", || {
                let stats = server.stats();
                let tenants = stats["total"]["tenants"].as_array()?;
                tenants
                    .iter()
                    .find(|used| used["tenant"] == "guild:4194304" && used["cpu_micros"].as_u64() > Some(20_000))?;
                Some(())
            });
            // As a native crash in its code would.
            signal(pid, Signal::ABORT);
            assert_eq!(hog.join().unwrap()["retryable"], true);
        });
        assert_eq!(server.post(&message(2, "well"))["value"], "well");
        if deaths >= 3 && server.post(&message(1, "am I there?"))["value"].is_null() {
            break;
        }
        assert!(deaths < 12, "the worker died {deaths} times");
    }
    let refused = server.post(&message(1, "am I there?"));
    assert_eq!(refused["refused"], "tenant limited", "{refused}");

    let listed = until("the quarantine in the database", || {
        let listed = antiraid.run(["tenant", "list", "--json"]).with_status(0).stdout;
        serde_json::from_str::<Value>(&listed).ok()
    });
    let evidence = &listed["evidence"];
    assert_eq!(
        (&listed["tenant"], &evidence["template"], &evidence["event"]),
        (&json!("guild:4194304"), &json!("echo"), &json!("MESSAGE"))
    );
    assert!(evidence["exit"].as_str().unwrap().contains("signal: 6"), "{evidence}");
    antiraid.run(["tenant", "list"]).with_status(0).says(&["guild:4194304", "echo", "SIGABRT"]);

    antiraid.run(["tenant", "release", "4194304"]).with_status(0).says(&["may run again"]);
    antiraid.run(["tenant", "release", "4194304"]).with_status(1);
    until("the release", || (server.post(&message(1, "back"))["value"] == "back").then_some(()));
    assert_eq!(server.end().0, 0);
}

/// Under load, one worker is killed, stopped, aborted, overflown; then the master is killed. Every event is answered or
/// reported, neighbours go on, and no process is left.
#[test]
fn chaos() {
    let antiraid = with_echo();
    let server = Server::start(&antiraid, &["--topology", "process:2"]);
    let (stop, answered, reported, neighbours) =
        (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let mut pids: Vec<u32> = server.pids().into_iter().flatten().collect();
    std::thread::scope(|scope| {
        for tenant in 1..=4u64 {
            let (server, stop, answered, reported, neighbours) = (&server, &stop, &answered, &reported, &neighbours);
            scope.spawn(move || {
                while !stop.load(Relaxed) {
                    let answer = server.post(&message(tenant, "x"));
                    if answer["value"] == "x" {
                        answered.fetch_add(1, Relaxed);
                        // Odd tenants are the second worker's, which nothing happens to.
                        neighbours.fetch_add(tenant % 2, Relaxed);
                    } else {
                        assert_eq!(answer["retryable"], true, "tenant {tenant}: {answer}");
                        assert_eq!(tenant % 2, 0, "a neighbour is not touched: {answer}");
                        reported.fetch_add(1, Relaxed);
                    }
                }
            });
        }
        type Fault<'a> = (&'a str, Box<dyn Fn(u32) + 'a>);
        let faults: [Fault<'_>; 4] = [
            ("kill -9", Box::new(|pid| signal(pid, Signal::KILL))),
            ("SIGSTOP", Box::new(|pid| signal(pid, Signal::STOP))),
            ("abort", Box::new(|_| drop(server.post(&frame("ANTIRAID_TEST_ABORT", 2, ""))))),
            ("stack overflow", Box::new(|_| drop(server.post(&frame("ANTIRAID_TEST_OVERFLOW", 2, ""))))),
        ];
        for (name, fault) in faults {
            let pid = server.pid(0, None);
            let (begun, before) = (Instant::now(), neighbours.load(Relaxed));
            fault(pid);
            pids.push(server.pid(0, Some(pid)));
            until("an answer after the fault", || (server.post(&message(2, "x"))["value"] == "x").then_some(()));
            println!("{name}: the next event was answered after {:?}", begun.elapsed());
            assert!(neighbours.load(Relaxed) > before, "{name}: neighbours go on");
        }
        stop.store(true, Relaxed);
    });
    println!("{} answered, {} reported", answered.load(Relaxed), reported.load(Relaxed));
    let total = server.stats()["total"].clone();
    assert_eq!(total["restarts"], 4, "{total}");
    let master = server.child.id();
    signal(master, Signal::KILL);
    until("no orphan", || pids.iter().all(|pid| !exists(*pid)).then_some(()));
}
