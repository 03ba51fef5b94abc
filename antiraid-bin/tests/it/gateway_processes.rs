//! `antiraid run` with a token and `antiraid register`, as real processes against a Discord on this host.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::antiraid::{Antiraid, Ran};
use crate::discord::{APPLICATION, BOT, Behaviour, Discord, PATIENCE, TOKEN};

/// A guild of each of eight shards.
const GUILDS: std::ops::RangeInclusive<u64> = 1..=8;

#[track_caller]
fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// A database whose guilds count each message under its text, and a user with a template.
fn with_counter() -> Antiraid {
    let manifest = |name: &str, events: &str, tenants: &[String]| {
        format!(
            "name = \"{name}\"\ndescription = \"For a test.\"\ntenants = [{}]\nevents = [{events}]\n\
             capabilities = [\"kv[seen]:*\"]\n",
            tenants.join(", ")
        )
    };
    let guilds: Vec<_> = GUILDS.map(|id| format!("\"{}\"", id << 22)).collect();
    let count = "local evt, ctx = ...\nctx.KV:incr(evt.data.content or evt.data.id, 1, { 'seen' })";
    let antiraid = Antiraid::new()
        .file("count/template.toml", manifest("count", "\"MESSAGE\"", &guilds))
        .file("count/init.luau", count)
        .file("user/template.toml", manifest("user", "\"INTERACTION_CREATE\"", &["\"user:12582919\"".into()]))
        .file("user/init.luau", count);
    antiraid.run(["template", "push", "count"]).with_status(0);
    antiraid.run(["template", "push", "user"]).with_status(0);
    antiraid
}

/// How often the tenant counted the key.
fn counted(antiraid: &Antiraid, tenant: &str, key: &str) -> Option<u64> {
    let ran = antiraid.run(["kv", "get", key, "--tenant", tenant, "--scope", "seen"]);
    if ran.status == 0 { Some(ran.stdout.trim().parse().unwrap()) } else { None }
}

fn settings(discord: &Discord) -> Vec<String> {
    vec!["--set".into(), format!("discord.api_url={}", discord.api_url())]
}

/// A running `antiraid run`, ended with the test.
struct Bot {
    child: Child,
    _stdin: ChildStdin,
    address: String,
    log: Arc<Mutex<String>>,
}

impl Bot {
    fn start(antiraid: &Antiraid, discord: &Discord, args: &[&str]) -> Self {
        let args =
            ["run", "--listen", "127.0.0.1:0"].iter().chain(args).map(|arg| (*arg).to_owned()).chain(settings(discord));
        let mut command = antiraid.command(args);
        let mut child = command.env("DISCORD_TOKEN", TOKEN).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(String::new()));
        let address = loop {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended without serving: {}", log.lock().unwrap());
            log.lock().unwrap().push_str(&line);
            if let Some(rest) = line.strip_prefix("serving http://") {
                break rest.split_whitespace().next().unwrap().to_owned();
            }
        };
        let lines = Arc::clone(&log);
        #[expect(clippy::disallowed_methods, reason = "it is no worker")]
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                lines.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        let _stdin = child.stdin.take().unwrap();
        Self { child, _stdin, address, log }
    }

    fn stats(&self) -> Value {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET /stats HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id() as i32).unwrap(), signal).unwrap();
    }

    /// Ends it, and returns its exit status.
    fn end(mut self, with: Signal) -> Option<i32> {
        self.signal(with);
        self.child.wait().unwrap().code()
    }

    /// Waits for its end.
    fn ended(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        let log =
            until("the last words", || Some(self.log.lock().unwrap().clone()).filter(|log| log.contains("antiraid: ")));
        (code, log)
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Bot {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the sessions are, as the database says.
fn saved_sequences(antiraid: &Antiraid, shards: usize) -> Vec<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let url = format!("sqlite:{}", antiraid.path("antiraid.db").display());
        let db = worker_db::WorkerDb::connect(&url, worker_db::DbConfig::default()).await.unwrap();
        let sessions = db.gateway_sessions(worker_core::Snowflake::new(BOT), shards as u32).await.unwrap();
        db.close().await;
        sessions.iter().map(|session| session.sequence).collect()
    })
}

/// Waits until the database knows of all that came.
#[track_caller]
fn until_saved(antiraid: &Antiraid, bot: &Bot, shards: usize) {
    until("the sessions in the database", || {
        let stats = bot.stats();
        let seen = stats["total"]["shards"].as_array().unwrap().iter().map(|shard| shard["sequence"].as_u64().unwrap());
        let (seen, saved): (Vec<_>, _) = (seen.collect(), saved_sequences(antiraid, shards));
        (saved == seen).then_some(())
    });
}

/// Sends each guild a message with this text.
fn say(discord: &Discord, text: &str) {
    for guild in GUILDS {
        discord.emit(guild << 22, "MESSAGE_CREATE", json!({"content": text, "id": "1", "author": {"id": "5"}}));
    }
}

#[track_caller]
fn until_counted(antiraid: &Antiraid, text: &str) {
    for guild in GUILDS {
        let tenant = (guild << 22).to_string();
        until(text, || counted(antiraid, &tenant, text));
    }
}

#[track_caller]
fn each_counted_once(antiraid: &Antiraid, texts: &[&str]) {
    for guild in GUILDS {
        for text in texts {
            assert_eq!(counted(antiraid, &(guild << 22).to_string(), text), Some(1), "{text} of guild {guild}");
        }
    }
}

#[test]
fn threads_serve_guilds_and_restarts_go_on() {
    let (antiraid, discord) = (with_counter(), Discord::start(Behaviour { shards: 2, ..Behaviour::default() }));
    serves_and_goes_on(&antiraid, &discord, "thread:2", 2);
}

#[test]
fn processes_serve_the_guilds_of_their_own_shards() {
    let (antiraid, discord) = (with_counter(), Discord::start(Behaviour { shards: 4, ..Behaviour::default() }));
    serves_and_goes_on(&antiraid, &discord, "process:2", 4);
}

fn serves_and_goes_on(antiraid: &Antiraid, discord: &Discord, topology: &str, shards: usize) {
    let bot = Bot::start(antiraid, discord, &["--topology", topology]);
    discord.until_connected(shards);
    say(discord, "first");
    until_counted(antiraid, "first");
    // A user's own installation: an event of another tenant than the shard's guilds, which another worker may own.
    for shard in 0..shards as u32 {
        let owners = json!({"1": "12582919"});
        let id = format!("by-shard-{shard}");
        discord.emit_at(
            shard,
            "INTERACTION_CREATE",
            json!({"id": id, "type": 99, "authorizing_integration_owners": owners}),
        );
        until("an interaction", || counted(antiraid, "user:12582919", &id));
    }
    let stats = bot.stats();
    let seen = stats["total"]["shards"].as_array().unwrap();
    assert_eq!(seen.len(), shards, "{stats:#}");
    assert!(seen.iter().all(|shard| shard["state"] == "active" && shard["sequence"].as_u64() > Some(1)), "{stats:#}");
    if topology.starts_with("process") {
        for worker in stats["workers"].as_array().unwrap() {
            assert_eq!(worker["stats"]["shards"].as_array().unwrap().len(), shards / 2, "{stats:#}");
            assert!(worker["stats"]["events"].as_u64() >= Some(4), "each has its own guilds' events: {stats:#}");
        }
    }
    // Everybody on the host can read this.
    let argv = std::fs::read_to_string(format!("/proc/{}/cmdline", bot.child.id())).unwrap();
    assert!(!argv.contains(TOKEN) && !bot.log().contains(TOKEN));

    assert_eq!(bot.end(Signal::TERM), Some(0));
    assert!(
        discord.close_codes().iter().all(|code| code.is_some_and(|code| code >= 1002)),
        "{:?}",
        discord.close_codes()
    );
    say(discord, "second");
    let bot = Bot::start(antiraid, discord, &["--topology", topology]);
    discord.until_connected(shards);
    say(discord, "third");
    until_counted(antiraid, "third");
    each_counted_once(antiraid, &["first", "second", "third"]);
    assert_eq!(discord.identified().len(), shards, "the second start resumed");

    // What was saved may be behind what was seen, so it is waited for; then nothing comes twice either.
    until_saved(antiraid, &bot, shards);
    bot.end(Signal::KILL);
    discord.until_connected(0);
    say(discord, "fourth");
    let _bot = Bot::start(antiraid, discord, &["--topology", topology]);
    discord.until_connected(shards);
    say(discord, "fifth");
    until_counted(antiraid, "fifth");
    each_counted_once(antiraid, &["first", "second", "third", "fourth", "fifth"]);
    assert_eq!(discord.identified().len(), shards, "so did the third");
}

#[test]
fn a_worker_process_that_dies_resumes_its_shards() {
    let (antiraid, discord) = (with_counter(), Discord::start(Behaviour { shards: 4, ..Behaviour::default() }));
    let bot = Bot::start(&antiraid, &discord, &["--topology", "process:2"]);
    discord.until_connected(4);
    say(&discord, "first");
    until_counted(&antiraid, "first");
    until_saved(&antiraid, &bot, 4);
    let pid = bot.stats()["workers"][0]["pid"].as_u64().unwrap() as i32;
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    discord.until_connected(2);
    say(&discord, "second");
    discord.until_connected(4);
    say(&discord, "third");
    until_counted(&antiraid, "second");
    until_counted(&antiraid, "third");
    assert_eq!(discord.identified().len(), 4, "{:?}", discord.identified());
    assert_eq!(discord.resumed().len(), 2);
    each_counted_once(&antiraid, &["second", "third"]);
}

#[test]
fn processes_identify_one_after_the_other() {
    // The real distance, which Discord's side measures.
    let behaviour = Behaviour { shards: 4, max_concurrency: 1, ..Behaviour::default() };
    let (antiraid, discord) = (with_counter(), Discord::start(behaviour));
    let _bot = Bot::start(&antiraid, &discord, &["--topology", "process:2"]);
    discord.until_connected(4);
    let (gap, too_soon) = discord.identify_gaps();
    assert!(too_soon == 0 && discord.identified().len() == 4, "{gap:?}: {too_soon} too soon");
}

#[test]
fn what_is_wrong_with_the_token_is_said_at_the_end() {
    let discord = Discord::start(Behaviour::default());
    let run = |token: Option<&str>| -> Ran {
        let antiraid = Antiraid::new();
        let args = ["run", "--listen", "127.0.0.1:0"].map(str::to_owned).into_iter().chain(settings(&discord));
        let mut command = antiraid.command(args);
        command.env_remove("DISCORD_TOKEN");
        if let Some(token) = token {
            command.env("DISCORD_TOKEN", token);
        }
        command.output().unwrap().into()
    };
    run(None).with_status(2).says(&["no bot's token", "DISCORD_TOKEN", "--offline"]);
    run(Some("wrong")).with_status(2).says(&["Discord refuses the token (401)"]);
    let token = run(Some("with a space")).with_status(2);
    token.says(&["DISCORD_TOKEN", "`discord.token`"]);
    assert!(!token.stderr.contains("with a space"));

    // On the command line it would be everybody's.
    let args = ["config", "--set", "discord.token=secret"];
    let refused = Antiraid::new().run(args).with_status(2);
    refused.says(&["--set discord.token", "set DISCORD_TOKEN"]);
    let shown = Antiraid::new().env("DISCORD_TOKEN", "secret-token").run(["config"]).with_status(0);
    shown.says(&["discord.token", "<redacted>"]);
    assert!(!shown.stdout.contains("secret-token"));

    for topology in ["thread:1", "process:2"] {
        let (antiraid, discord) = (with_counter(), Discord::start(Behaviour { shards: 2, ..Behaviour::default() }));
        let bot = Bot::start(&antiraid, &discord, &["--topology", topology]);
        discord.until_connected(2);
        discord.behave(|behaviour| behaviour.close_code = Some(4004));
        discord.drop_connections();
        let (code, log) = bot.ended();
        assert_eq!(code, Some(3), "{log}");
        assert!(log.contains("antiraid: Discord does not accept the token any more (4004)"), "{topology}: {log}");
    }
}

#[test]
fn a_discord_that_is_down_is_waited_for() {
    let (antiraid, discord) =
        (with_counter(), Discord::start(Behaviour { rest_status: Some(502), ..Behaviour::default() }));
    let args = ["run", "--listen", "127.0.0.1:0"].map(str::to_owned).into_iter().chain(settings(&discord));
    let mut command = antiraid.command(args);
    let mut child = command.env("DISCORD_TOKEN", TOKEN).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("(502)") && line.contains("trying again in 1 s"), "{line}");
    discord.behave(|behaviour| behaviour.rest_status = None);
    discord.until_connected(1);
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn templates_are_told_of_events_that_do_not_come() {
    let (antiraid, discord) = (with_counter(), Discord::start(Behaviour { flags: 0, ..Behaviour::default() }));
    let bot = Bot::start(&antiraid, &discord, &["--topology", "thread:1"]);
    discord.until_connected(1);
    assert_eq!(discord.intents(), Some(1 | 1 << 9), "guilds and messages, without what they say");
    let log = until("a warning", || Some(bot.log()).filter(|log| log.contains("`Message Content Intent`")));
    assert!(log.contains("do not send this bot") || log.contains("does not send this bot"), "{log}");
}

#[test]
fn commands_are_registered_after_their_differences_are_shown() {
    let discord = Discord::start(Behaviour::default());
    let antiraid = Antiraid::new().env("DISCORD_TOKEN", TOKEN);
    let register = |args: &[&str]| {
        antiraid.run(["register"].iter().chain(args).map(|arg| (*arg).to_owned()).chain(settings(&discord)))
    };

    register(&["--dry-run"]).with_status(1).says(&["+ /help", "+ /ping"]);
    register(&[]).with_status(2).says(&["+ /help", "nobody to ask", "--yes"]);
    assert_eq!(discord.commands(None), (vec![], 0));
    register(&["--yes"]).with_status(0).says(&["+ /help", "registered 10 commands everywhere"]);
    let (commands, puts) = discord.commands(None);
    let place = |name: &str| commands.iter().position(|command| command["name"] == name).unwrap();
    let (help, ping) = (place("help"), place("ping"));
    assert_eq!((commands.len(), puts), (10, 1));
    assert_eq!(commands[0]["application_id"], APPLICATION.to_string());
    // Discord's additions are no differences.
    register(&[]).with_status(0).says(&["nothing to change", "10 commands"]);
    register(&["--dry-run"]).with_status(0);

    let mut changed = commands.clone();
    changed[help]["description"] = "old".into();
    changed[ping]["name"] = "gone".into();
    discord.set_commands(changed);
    register(&["--dry-run"]).with_status(1).says(&["~ /help", "description: \"old\" -> ", "- /gone", "+ /ping"]);

    register(&["--guild", "81384788765712384", "--yes"]).with_status(0).says(&["in guild 81384788765712384"]);
    assert_eq!(discord.commands(Some(81384788765712384)).0.len(), 10);
    Antiraid::new()
        .env("DISCORD_TOKEN", "wrong")
        .run(["register"].map(str::to_owned).into_iter().chain(settings(&discord)))
        .with_status(2)
        .says(&["401"]);
}
