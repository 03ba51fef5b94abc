//! Records that expire, in the real program: killed at each step of its work, stopped, without its database.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command};
use std::time::{Duration, Instant};

use antiraid_bin::private_postgres::PrivatePostgres;
use jiff::{SignedDuration, Timestamp};
use tokio::runtime::{Builder, Runtime};
use worker_core::{Capabilities, CompatDate, TemplateName, TenantId};
use worker_db::{DbConfig, KvFindPage, KvSet, NewTemplate, Scopes, WorkerDb};

use crate::antiraid::Antiraid;

const TENANT: TenantId = TenantId::guild(81_384_788_765_712_384);
/// How long anything may take that should be quick. Long, so that a busy machine is no fault of ours.
const LONG: Duration = Duration::from_secs(60);
/// Counts each event of a key, and is held up for as long as there is a record `hold`.
const COUNTS: &str = "
local evt, ctx = ...
ctx.KV:incr('count', 1, { 'seen' })
while ctx.KV:exists('hold', { 'seen' }) do task.wait(0.05) end";
/// A lease that no test waits for: what a dead process held must be freed otherwise.
const HOUR: &str = "expiry.lease_s=3600";

fn server() -> PrivatePostgres {
    PrivatePostgres::start(&["fsync=off", "max_connections=64"]).unwrap()
}

/// A database, the program's folder, and this test's own view of both.
struct World {
    antiraid: Antiraid,
    url: String,
    runtime: Runtime,
    db: WorkerDb,
    _server: Option<PrivatePostgres>,
}

impl World {
    fn sqlite(handler: &str) -> Self {
        let antiraid = Antiraid::new();
        let url = format!("sqlite:{}", antiraid.path("antiraid.db").display());
        Self::over(antiraid, url, None, handler)
    }

    fn postgres(handler: &str) -> Self {
        let server = server();
        Self::over(Antiraid::new(), server.url(), Some(server), handler)
    }

    fn over(antiraid: Antiraid, url: String, server: Option<PrivatePostgres>, handler: &str) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let db = runtime.block_on(WorkerDb::connect(&url, DbConfig::default())).unwrap();
        let world = Self { antiraid, url, runtime, db, _server: server };
        let template = NewTemplate {
            name: TemplateName::new("t").unwrap(),
            files: [("init.luau".to_owned(), handler.to_owned())].into(),
            events: vec!["KeyExpiry[a]".to_owned()],
            allowed_caps: Capabilities::from_iter(["*"]),
            error_channel: None,
            compat: CompatDate::default(),
            paused: false,
        };
        world.runtime.block_on(world.db.template_create(TENANT, template)).unwrap();
        world
    }

    fn scopes(&self, scope: &str) -> Scopes {
        Scopes::new([scope], self.db.kv_limits()).unwrap()
    }

    fn set(&self, key: &str, scope: &str, expires_in: Option<Duration>) {
        let expires_at = expires_in.map(|time| Timestamp::now() + SignedDuration::try_from(time).unwrap());
        let scopes = self.scopes(scope);
        let set = KvSet { key: key.into(), value_json: "0".into(), scopes, expires_at, resume: false };
        self.runtime.block_on(self.db.kv_set(TENANT, set)).unwrap();
    }

    fn exists(&self, key: &str, scope: &str) -> bool {
        self.runtime.block_on(self.db.kv_exists(TENANT, key, &self.scopes(scope))).unwrap()
    }

    fn delete(&self, key: &str, scope: &str) {
        assert!(self.runtime.block_on(self.db.kv_delete(TENANT, key, &self.scopes(scope))).unwrap());
    }

    fn count(&self) -> u64 {
        let record = self.runtime.block_on(self.db.kv_get(TENANT, "count", &self.scopes("seen"))).unwrap();
        record.map_or(0, |record| record.value_json.parse().unwrap())
    }

    fn serve(&self, process: &str, settings: &[&str], halt_at: Option<&str>) -> Serving {
        let process = format!("expiry.process={process}");
        let mut args = vec!["expiry", "serve", "--db", &self.url, "--set", "workers=1", "--set", &process];
        args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
        args.extend(halt_at.iter().flat_map(|step| ["--halt-at", step]));
        let mut child = self.antiraid.command(args).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Serving { child, stderr }
    }
}

/// The program while it runs.
struct Serving {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Serving {
    /// Waits until the program says this.
    fn until(&mut self, what: &str) {
        let mut said = String::new();
        while !said.ends_with(&format!("{what}\n")) {
            assert!(self.stderr.read_line(&mut said).unwrap() > 0, "ended without saying `{what}`: {said}");
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: &str) {
        #[expect(clippy::disallowed_methods, reason = "a signal that the standard library does not send")]
        let mut kill = Command::new("sh");
        assert!(kill.args(["-c", &format!("kill -{signal} {}", self.child.id())]).status().unwrap().success());
    }

    /// Ends it in good order.
    fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LONG, "never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for as long as they become fewer.
fn until_none(what: &str, mut count: impl FnMut() -> usize) {
    let (mut least, mut since) = (usize::MAX, Instant::now());
    loop {
        match count() {
            0 => return,
            now if now < least => (least, since) = (now, Instant::now()),
            now => assert!(since.elapsed() < LONG, "{now} {what}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Kills the program at the step, starts it again, and says how often the handler began.
fn killed_at(world: &World, step: &str) -> u64 {
    let before = world.count();
    world.set(step, "a", Some(Duration::from_millis(100)));
    let mut serving = world.serve("one", &[HOUR], Some(step));
    serving.until(&format!("halted at {step}"));
    assert_eq!(world.exists(step, "a"), step != "removed");
    serving.kill();
    let serving = world.serve("one", &[HOUR], None);
    until("the key that was in flight", || !world.exists(step, "a"));
    serving.end();
    world.count() - before
}

fn killed_while_the_handler_runs(world: &World) -> u64 {
    let before = world.count();
    world.set("hold", "seen", None);
    world.set("running", "a", Some(Duration::from_millis(100)));
    let serving = world.serve("one", &[HOUR], None);
    until("the handler", || world.count() == before + 1);
    serving.kill();
    world.delete("hold", "seen");
    assert!(world.exists("running", "a"));
    let serving = world.serve("one", &[HOUR], None);
    until("the key whose handler ran", || !world.exists("running", "a"));
    serving.end();
    world.count() - before
}

fn every_step(world: &World) {
    assert_eq!(killed_at(world, "due"), 1);
    assert_eq!(killed_at(world, "claimed"), 1);
    assert_eq!(killed_while_the_handler_runs(world), 2);
    assert_eq!(killed_at(world, "handled"), 2, "at least once");
    assert_eq!(killed_at(world, "removed"), 1);
}

#[test]
fn killed_at_each_step_on_sqlite() {
    every_step(&World::sqlite(COUNTS));
}

#[test]
fn killed_at_each_step_on_postgres() {
    every_step(&World::postgres(COUNTS));
}

/// The key is armed anew after its handler and before its removal.
fn armed_anew(world: &World) {
    world.set("key", "a", Some(Duration::from_millis(100)));
    let mut serving = world.serve("one", &[HOUR], Some("handled"));
    serving.until("halted at handled");
    let far = Timestamp::now() + SignedDuration::from_hours(24 * 365 * 3);
    assert!(world.runtime.block_on(world.db.kv_set_expiry(TENANT, "key", &world.scopes("a"), Some(far))).unwrap());
    serving.kill();
    let mut serving = world.serve("one", &[HOUR], None);
    serving.until("ready");
    // A second key shows that the program has been at work since.
    world.set("other", "a", Some(Duration::from_millis(50)));
    until("the other key", || !world.exists("other", "a"));
    serving.end();
    assert!(world.exists("key", "a"));
    assert_eq!(world.count(), 2);
}

#[test]
fn a_key_armed_anew_survives_a_kill_on_sqlite() {
    armed_anew(&World::sqlite(COUNTS));
}

#[test]
fn a_key_armed_anew_survives_a_kill_on_postgres() {
    armed_anew(&World::postgres(COUNTS));
}

/// One worker holds the key and stands still; another takes it over when the lease ends; the first wakes up late.
fn stalled(world: &World) {
    let second = "expiry.lease_s=1";
    world.set("hold", "seen", None);
    world.set("key", "a", Some(Duration::from_millis(100)));
    let first = world.serve("first", &[second], None);
    until("the handler of the first", || world.count() == 1);
    first.signal("STOP");
    world.delete("hold", "seen");
    let other = world.serve("other", &[second], None);
    until("the other to have handled it", || !world.exists("key", "a"));
    assert_eq!(world.count(), 2);
    world.set("key", "a", Some(Duration::from_secs(3_600)));
    first.signal("CONT");
    first.end();
    other.end();
    assert!(world.exists("key", "a"), "the first removed what was not its own");
}

#[test]
fn a_stalled_worker_loses_its_lease_on_sqlite() {
    stalled(&World::sqlite(COUNTS));
}

#[test]
fn a_stalled_worker_loses_its_lease_on_postgres() {
    stalled(&World::postgres(COUNTS));
}

#[test]
fn a_database_that_goes_and_comes_back() {
    let server = server();
    let world = World::over(Antiraid::new(), server.url(), None, COUNTS);
    let mut serving = world.serve("one", &["log.filter=off"], None);
    serving.until("ready");
    world.set("before", "a", Some(Duration::from_millis(50)));
    until("a key before", || !world.exists("before", "a"));
    // Handled, and not removed when the database goes.
    world.set("hold", "seen", None);
    world.set("during", "a", Some(Duration::from_millis(50)));
    until("the handler", || world.count() == 2);
    world.set("while away", "a", Some(Duration::from_millis(300)));
    server.crash().unwrap();
    std::thread::sleep(Duration::from_millis(400));
    server.resume().unwrap();
    let delete = || world.runtime.block_on(world.db.kv_delete(TENANT, "hold", &world.scopes("seen")));
    until("the database", || delete().is_ok());
    until("both keys", || {
        let found = world.runtime.block_on(world.db.kv_find(TENANT, "%", &world.scopes("a"), KvFindPage::default()));
        found.is_ok_and(|found| found.is_empty())
    });
    assert!(world.count() >= 3);
    drop(serving);
    drop(world);
}

/// Kills the program again and again at random while keys come due. Keys that arm themselves anew must stay.
fn random_kills(world: &World, kills: u32) {
    /// Keys for each kill.
    const KEYS: u32 = 8;
    for n in 0..kills * KEYS {
        let name = if n % 4 == 0 { format!("again{n}") } else { format!("once{n}") };
        let at = 300 + 250 * u64::from(n / KEYS) + u64::from(n % KEYS) * 20;
        world.set(&name, "a", Some(Duration::from_millis(at)));
    }
    // What was tried often is not to wait for long.
    let settings = [HOUR, "expiry.attempts_max=100", "expiry.backoff_s_max=1"];
    for n in 0..kills {
        let mut serving = world.serve("one", &settings, None);
        serving.until("ready");
        std::thread::sleep(Duration::from_millis(20 + u64::from(n * 7_919 % 331)));
        serving.kill();
    }
    let serving = world.serve("one", &settings, None);
    let left = |pattern: &str| {
        let (scopes, page) = (world.scopes("a"), KvFindPage::default());
        world.runtime.block_on(world.db.kv_find(TENANT, pattern, &scopes, page)).unwrap()
    };
    let far = Timestamp::now() + SignedDuration::from_hours(1);
    until_none("keys that were not handled", || {
        // On a slow machine the program may be killed more often than a key is tried before its handler has ended once, or
        // so many keys are left for the end that they are beyond the tenant's rate limit. Neither is a loss.
        for letter in world.runtime.block_on(world.db.dead_list(None, None, 100)).unwrap() {
            let is_expected = letter.error.starts_with("cut off") || letter.error.contains("ratelimit hit");
            assert!(is_expected, "{letter:?}");
            assert!(world.runtime.block_on(world.db.expiry_retry(letter.tenant, &letter.id)).unwrap());
        }
        left("once%").len() + left("again%").iter().filter(|record| record.expires_at <= Some(far)).count()
    });
    serving.end();
    assert_eq!(left("again%").len() as u32, kills * KEYS / 4, "a key that was armed anew is gone");
    let (scopes, page) = (world.scopes("seen"), KvFindPage::default());
    let seen = world.runtime.block_on(world.db.kv_find(TENANT, "%", &scopes, page)).unwrap();
    assert_eq!(seen.len() as u32, kills * KEYS, "each was handled");
    assert!(world.runtime.block_on(world.db.dead_list(None, None, 1)).unwrap().is_empty());
}

/// Marks each key as seen; some arm themselves anew.
const MARKS: &str = "
local evt, ctx = ...
local datetime = require '@antiraid/datetime'
ctx.KV:set(evt.data.key, true, { 'seen' })
task.wait(0.05)
if evt.data.key:sub(1, 5) == 'again' then
    ctx.KV:setexpirybyid(evt.data.id, datetime.UTC:now() + datetime.timedelta_days(2))
end";

/// How often: 20 times, or as `ANTIRAID_TEST_KILLS` says.
fn kills() -> u32 {
    #[expect(clippy::disallowed_methods, reason = "how the tests are told of a longer run")]
    let kills = std::env::var("ANTIRAID_TEST_KILLS");
    kills.ok().and_then(|kills| kills.parse().ok()).unwrap_or(20)
}

#[test]
fn random_kills_lose_nothing_on_sqlite() {
    random_kills(&World::sqlite(MARKS), kills());
}

#[test]
fn random_kills_lose_nothing_on_postgres() {
    random_kills(&World::postgres(MARKS), kills());
}

#[test]
fn operators_see_what_expires_and_what_failed() {
    let world = World::sqlite("error('no luck')");
    let tenant = TENANT.to_string();
    let json = |args: &[&str]| -> Vec<serde_json::Value> {
        let ran = world.antiraid.run([&["expiry"], args, &["--json"]].concat()).with_status(0);
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    world.set("far", "a", Some(Duration::from_secs(3_600)));
    let listed = json(&["list"]);
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0]["key"], &listed[0]["scopes"][0], &listed[0]["attempts"]),
        (&"far".into(), &"a".into(), &0.into())
    );
    assert_eq!(json(&["list", "--tenant", "1"]).len(), 0);
    world.antiraid.run(["expiry", "list"]).with_status(0).says(&["far", "waits", &tenant]);

    world.set("failing", "a", Some(Duration::from_millis(50)));
    world.set("dropped", "a", Some(Duration::from_millis(50)));
    let serving = world.serve("one", &["expiry.attempts_max=1"], None);
    until("dead letters", || json(&["dead", "--tenant", &tenant]).len() == 2);
    serving.end();
    world.antiraid.run(["expiry", "dead"]).with_status(0).says(&["failing", "dropped", "no luck", "1"]);
    let dead = json(&["dead"]);
    let id = |key: &str| dead.iter().find(|letter| letter["key"] == key).unwrap()["id"].as_str().unwrap().to_owned();

    world.antiraid.run(["expiry", "drop", "--tenant", &tenant, &id("dropped")]).with_status(0).says(&["dropped"]);
    world
        .antiraid
        .run(["expiry", "drop", "--tenant", &tenant, &id("dropped")])
        .with_status(1)
        .says(&["no such record"]);
    world.antiraid.run(["expiry", "retry", "--tenant", "1", &id("failing")]).with_status(1);
    world.antiraid.run(["expiry", "retry", "--tenant", &tenant, "--all"]).with_status(0).says(&["is tried again"]);
    assert_eq!(json(&["dead"]).len(), 0);
    assert!(world.exists("failing", "a"));
    world.antiraid.run(["expiry", "retry", "--tenant", &tenant]).with_status(2).says(&["--all"]);
}
