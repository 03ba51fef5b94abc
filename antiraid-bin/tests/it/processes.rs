//! Workers in processes, from outside: the same results as in threads, a server that is watched, and all that can go wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use antiraid_bin::private_postgres::PrivatePostgres;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process};
use serde_json::{Value, json};

use crate::antiraid::{Antiraid, workspace};

/// How long anything may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(60);

fn frame(t: &str, guild: u64, content: &str) -> String {
    let d = json!({"id": "1", "guild_id": (guild << 22).to_string(), "content": content});
    json!({"op": 0, "t": t, "s": 1, "d": d}).to_string() + "\n"
}

pub(crate) fn message(guild: u64, content: &str) -> String {
    frame("MESSAGE_CREATE", guild, content)
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

fn exists(pid: u32) -> bool {
    // A zombie has ended.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

#[track_caller]
pub(crate) fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
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
pub(crate) struct Server {
    child: Child,
    stdin: Option<ChildStdin>,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// A server of the database `antiraid.db` there, whose tenants 1 to 8 answer messages with their text.
    pub(crate) fn start(antiraid: &Antiraid, args: &[&str]) -> Self {
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
    pub(crate) fn post(&self, frame: &str) -> Value {
        self.try_post(frame).unwrap()
    }

    /// The same, from a server that may be gone.
    fn try_post(&self, frame: &str) -> std::io::Result<Value> {
        let (status, body) = self.http("POST /events", frame)?;
        if status == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_str(body.trim())
            .map_err(|error| std::io::Error::other(format!("{error}: {body:?} for {frame}")))
    }

    pub(crate) fn stats(&self) -> Value {
        serde_json::from_str(&self.http("GET /stats", "").unwrap().1).unwrap()
    }

    pub(crate) fn pids(&self) -> Vec<Option<u32>> {
        let stats = self.stats();
        let workers = stats["workers"].as_array().unwrap();
        workers.iter().map(|worker| worker["pid"].as_u64().map(|pid| pid as u32)).collect()
    }

    /// The process of this worker, once it is there, and not this one.
    pub(crate) fn pid(&self, worker: usize, not: Option<u32>) -> u32 {
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

/// Tenants 1 to 8 have a template that echoes, writes, brings its worker down, or never ends.
pub(crate) fn with_echo() -> Antiraid {
    with_echo_in(Antiraid::new())
}

fn with_echo_in(antiraid: Antiraid) -> Antiraid {
    let code = r#"
local evt, ctx = ...
if evt.data.content == "keep" then
	ctx.KV:set("kept", string.rep("x", 30000), { "s" })
	return "kept"
elseif evt.data.content == "slow" then
	task.wait(0.5)
elseif evt.data.content == "abort" then
	print("ANTIRAID_TEST_ABORT")
elseif evt.data.content == "overflow" then
	print("ANTIRAID_TEST_OVERFLOW")
elseif evt.data.content == "hog" then
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
        "name = \"echo\"\ndescription = \"For a test.\"\ntenants = [{}]\nevents = [\"MESSAGE\"]\ncapabilities = [\"kv[s]:*\"]\n",
        tenants.join(", ")
    );
    let antiraid = antiraid.file("t/template.toml", manifest).file("t/init.luau", code);
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
fn what_stdin_said_is_answered_though_the_server_is_told_to_end() {
    for topology in ["thread:1", "process:1"] {
        let antiraid = with_echo();
        let mut server = Server::start(&antiraid, &["--topology", topology]);
        server.stdin.as_mut().unwrap().write_all(message(2, "slow").as_bytes()).unwrap();
        until("the event of stdin", || (server.stats()["total"]["events"].as_u64() >= Some(1)).then_some(()));
        let (status, output) = server.end();
        assert_eq!(status, 0);
        assert!(output.contains("\"value\":\"slow\""), "{output}");
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

/// How long answers took, in microseconds.
fn p99(mut times: Vec<u128>) -> u128 {
    times.sort_unstable();
    times.get(times.len() * 99 / 100).copied().unwrap_or(0)
}

/// What is posted all the time, by tenants 1 to 4, while `act` goes on.
struct Load<'a> {
    server: &'a Server,
    answered: AtomicU64,
    reported: AtomicU64,
    /// Odd tenants are the second worker's, which nothing happens to: how long their answers took.
    neighbours: Mutex<Vec<u128>>,
}

impl<'a> Load<'a> {
    fn during<R>(server: &'a Server, act: impl FnOnce(&Self) -> R) -> R {
        let load = Self { server, answered: 0.into(), reported: 0.into(), neighbours: Mutex::default() };
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for tenant in 1..=4 {
                let (load, stop) = (&load, &stop);
                scope.spawn(move || {
                    // Until it is told to stop, or the server is gone.
                    while !stop.load(Relaxed)
                        && let Ok(answer) = load.post(tenant)
                    {
                        if answer["value"] == "x" {
                            load.answered.fetch_add(1, Relaxed);
                        } else {
                            assert_eq!(answer["retryable"], true, "tenant {tenant}: {answer}");
                            assert_eq!(tenant % 2, 0, "a neighbour is not touched: {answer}");
                            load.reported.fetch_add(1, Relaxed);
                        }
                    }
                });
            }
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(&load)));
            stop.store(true, Relaxed);
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn post(&self, tenant: u64) -> std::io::Result<Value> {
        let begun = Instant::now();
        let answer = self.server.try_post(&message(tenant, "x"))?;
        if tenant % 2 == 1 {
            self.neighbours.lock().unwrap().push(begun.elapsed().as_micros());
        }
        Ok(answer)
    }

    /// The neighbours' p99 since this was last asked. They must have had answers.
    fn neighbours_p99(&self) -> u128 {
        until("answers of neighbours", || (self.neighbours.lock().unwrap().len() > 20).then_some(()));
        p99(std::mem::take(&mut *self.neighbours.lock().unwrap()))
    }
}

/// Under load, one worker is killed, stopped, aborted and overflown by a template, and the disk is full; then the master
/// is killed. Every event is answered or reported, neighbours go on, and no process is left.
#[test]
fn chaos() {
    let antiraid = with_echo();
    let server = Server::start(&antiraid, &["--topology", "process:2"]);
    let mut pids: Vec<u32> = server.pids().into_iter().flatten().collect();
    Load::during(&server, |load| {
        type Fault<'a> = (&'a str, Box<dyn Fn(u32) + 'a>);
        let faults: [Fault<'_>; 4] = [
            ("kill -9", Box::new(|pid| signal(pid, Signal::KILL))),
            ("SIGSTOP", Box::new(|pid| signal(pid, Signal::STOP))),
            ("abort in a template", Box::new(|_| drop(server.post(&message(6, "abort"))))),
            ("stack overflow in a template", Box::new(|_| drop(server.post(&message(8, "overflow"))))),
        ];
        println!("nothing happens: neighbours' p99 {} µs", load.neighbours_p99());
        for (name, fault) in faults {
            let pid = server.pid(0, None);
            let begun = Instant::now();
            load.neighbours_p99();
            fault(pid);
            pids.push(server.pid(0, Some(pid)));
            until("an answer after the fault", || (server.post(&message(2, "x"))["value"] == "x").then_some(()));
            let took = begun.elapsed();
            println!(
                "{name}: the next event was answered after {took:?}; neighbours' p99 {} µs",
                load.neighbours_p99()
            );
        }
        assert_eq!(server.stats()["total"]["restarts"], 4);
        // Those that have the fault in their own code, and nobody else, are the suspects.
        assert_eq!(server.stats()["quarantined"], json!([]), "once is not too often");

        // A full disk, as far as it is this program's: no file may grow beyond this size.
        let processes: Vec<u32> = server.pids().into_iter().flatten().chain([server.child.id()]).collect();
        limit_files(&processes, Some(96 << 10));
        let refused = until("a write that fails", || {
            let answer = server.post(&message(2, "keep"));
            answer["value"].is_null().then_some(answer)
        });
        assert!(refused["error"].as_str().is_some_and(|error| error.contains("unavailable: database")), "{refused}");
        assert_eq!(server.post(&message(2, "x"))["value"], "x", "what needs no disk goes on");
        println!("a full disk: {}; neighbours' p99 {} µs", refused["error"], load.neighbours_p99());
        limit_files(&processes, None);
        let begun = Instant::now();
        until("a write", || (server.post(&message(2, "keep"))["value"] == "kept").then_some(()));
        println!("room again: the next write worked after {:?}", begun.elapsed());
        assert_eq!(processes[..2], server.pids().into_iter().flatten().collect::<Vec<_>>(), "nobody died of it");
        println!("{} answered, {} reported", load.answered.load(Relaxed), load.reported.load(Relaxed));

        // While events are under way.
        let begun = Instant::now();
        signal(server.child.id(), Signal::KILL);
        pids.extend(processes);
        pids.retain(|pid| *pid != server.child.id());
        until("no orphan", || pids.iter().all(|pid| !exists(*pid)).then_some(()));
        println!("the master is killed: its workers were gone after {:?}", begun.elapsed());
    });
}

/// No file of these processes may grow beyond so many bytes.
fn limit_files(pids: &[u32], bytes: Option<u64>) {
    for pid in pids {
        let pid = Pid::from_raw(*pid as i32).unwrap();
        // What is inherited from here is not raised.
        let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Fsize);
        let limit = Rlimit { current: bytes.or(current), maximum };
        rustix::process::prlimit(Some(pid), Resource::Fsize, limit).unwrap();
    }
}

#[test]
fn a_database_that_does_not_answer_holds_up_only_those_who_need_it() {
    let postgres = PrivatePostgres::start(&["fsync=off", "max_connections=64"]).unwrap();
    let antiraid = with_echo_in(Antiraid::new().env_of("ANTIRAID_DATABASE_URL", &postgres.url()));
    let server = Server::start(&antiraid, &["--topology", "process:2"]);
    for tenant in 1..=4 {
        assert_eq!(server.post(&message(tenant, "keep"))["value"], "kept");
    }
    let pids = server.pids();
    Load::during(&server, |load| {
        println!("nothing happens: neighbours' p99 {} µs", load.neighbours_p99());
        postgres.freeze().unwrap();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let kept = scope.spawn(|| server.post(&message(2, "keep")));
            // Longer than a heartbeat may take.
            until("three seconds", || (begun.elapsed() > Duration::from_secs(3)).then_some(()));
            println!("a frozen database: neighbours' p99 {} µs", load.neighbours_p99());
            assert_eq!(server.post(&message(2, "x"))["value"], "x", "its tenant's other events go on as well");
            assert!(!kept.is_finished(), "it waits for the database");
            postgres.thaw().unwrap();
            let thawed = Instant::now();
            let kept = kept.join().unwrap();
            assert!(kept["value"] == "kept" || kept["error"].is_string(), "{kept}");
            println!("it answers again: so did the event, after {:?}", thawed.elapsed());
        });
        assert_eq!(server.post(&message(2, "keep"))["value"], "kept");
        assert_eq!(load.reported.load(Relaxed), 0);
    });
    assert_eq!(server.pids(), pids, "a worker that waits for the database does not hang");
    assert_eq!(server.end().0, 0);
}

#[test]
fn a_master_that_was_stopped_for_a_while_kills_nobody() {
    let antiraid = with_echo();
    let server = Server::start(&antiraid, &["--topology", "process:2"]);
    let pids = server.pids();
    let master = server.child.id();
    for _ in 0..2 {
        signal(master, Signal::STOP);
        let begun = Instant::now();
        // Longer than a heartbeat may take.
        until("three seconds", || (begun.elapsed() > Duration::from_secs(3)).then_some(()));
        signal(master, Signal::CONT);
        assert_eq!(server.post(&message(1, "well"))["value"], "well");
        assert_eq!(server.post(&message(2, "well"))["value"], "well");
    }
    assert_eq!((server.pids(), &server.stats()["total"]["restarts"]), (pids, &json!(0)));
}
