//! Records that expire, in a worker of this process.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use antiraid_bin::config::Config;
use antiraid_bin::engine;
use antiraid_bin::worker::{Worker, WorkerParts};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;
use tokio::runtime::{Builder, LocalOptions};
use worker_core::{
    Capabilities, CompatDate, Limits, RatelimitRules, TemplateName, TenantId, WorkerFilter, WorkerId, WorkerLike,
};
use worker_db::{DbConfig, DbError, KvSet, NewTemplate, Scopes, WorkerDb};
use worker_expiry::{ExpiryProcess, ExpirySettings};
use worker_process::Evidence;

const A: TenantId = TenantId::guild(1 << 22);
const B: TenantId = TenantId::guild(2 << 22);
const LONG: Duration = Duration::from_secs(60);
const SOON: SignedDuration = SignedDuration::from_millis(30);

/// Runs a test on a runtime like a worker thread's.
fn on_worker<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(100), test()).await.expect("it ends in time") });
}

struct World {
    db: WorkerDb,
    url: String,
    folder: TempDir,
}

impl World {
    async fn new() -> Self {
        Self::with(DbConfig::default()).await
    }

    async fn with(config: DbConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("antiraid.db").display());
        Self { db: WorkerDb::connect(&url, config).await.unwrap(), url, folder }
    }

    async fn template(&self, tenant: TenantId, events: &[&str], code: &str) {
        let template = NewTemplate {
            name: TemplateName::new("t").unwrap(),
            files: [("init.luau".to_owned(), code.to_owned())].into(),
            events: events.iter().map(|event| (*event).to_owned()).collect(),
            allowed_caps: Capabilities::from_iter(["*"]),
            error_channel: None,
            compat: CompatDate::default(),
            paused: false,
        };
        self.db.template_create(tenant, template).await.unwrap();
    }

    fn worker(&self, settings: ExpirySettings) -> Worker {
        let (config, rules) = (Config::default(), RatelimitRules::default());
        let builtins = engine::builtins(&config).unwrap();
        let parts = WorkerParts::new(self.db.clone(), builtins, Limits::default(), rules, config.links)
            .with_expiry(settings, ExpiryProcess::new(self.folder.path().display().to_string()));
        parts.worker(WorkerId::new(1), WorkerFilter::all())
    }

    fn scopes(&self) -> Scopes {
        Scopes::new(["s"], self.db.kv_limits()).unwrap()
    }

    async fn set(&self, tenant: TenantId, key: &str, at: Timestamp) {
        set(&self.db, tenant, key, at).await.unwrap();
    }

    async fn exists(&self, tenant: TenantId, key: &str) -> bool {
        self.db.kv_exists(tenant, key, &self.scopes()).await.unwrap()
    }

    async fn gone(&self, tenant: TenantId, key: &str) {
        until(key, async || !self.exists(tenant, key).await).await;
    }
}

async fn set(db: &WorkerDb, tenant: TenantId, key: &str, at: Timestamp) -> Result<(), DbError> {
    let scopes = Scopes::new(["s"], db.kv_limits())?;
    let set = KvSet { key: key.into(), value_json: "1".into(), scopes, expires_at: Some(at), resume: false };
    db.kv_set(tenant, set).await.map(drop)
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("never came: {what}"));
}

fn lines(worker: &Worker, tenant: TenantId) -> Vec<String> {
    worker.log_lines(tenant).into_iter().map(|line| line.text.to_string()).collect()
}

fn quick() -> ExpirySettings {
    let backoff_first = Duration::from_millis(5);
    ExpirySettings { backoff_first, poll: Duration::from_millis(100), ..ExpirySettings::default() }
}

fn soon() -> Timestamp {
    Timestamp::now() + SOON
}

#[test]
fn a_subscriber_of_the_scope_is_told_and_then_the_record_goes() {
    on_worker(|| async {
        let world = World::new().await;
        let code = "local evt = ... print(evt.base_name, evt.name, evt.data.key, evt.data.scopes[1], #evt.data.id)";
        world.template(A, &["KeyExpiry[s]"], code).await;
        let worker = world.worker(quick());
        world.set(A, "key", soon()).await;
        world.gone(A, "key").await;
        assert_eq!(lines(&worker, A), ["AntiRaid\tKeyExpiry\tkey\ts\t64"]);
        until("the figures", async || worker.stats().await.unwrap().expiries_handled == 1).await;
        let stats = worker.stats().await.unwrap();
        assert_eq!((stats.expiry_lateness.count(), stats.expiries_unsubscribed, stats.expiries_dead), (1, 0, 0));
    });
}

#[test]
fn without_a_subscriber_the_record_goes_and_is_counted() {
    on_worker(|| async {
        let world = World::new().await;
        world.template(A, &["KeyExpiry[other]"], "error('not for me')").await;
        let worker = world.worker(quick());
        world.set(A, "key", soon()).await;
        world.set(B, "key", soon()).await;
        world.gone(A, "key").await;
        world.gone(B, "key").await;
        until("the figures", async || worker.stats().await.unwrap().expiries_unsubscribed == 2).await;
        assert_eq!(lines(&worker, A), [""; 0]);
    });
}

#[test]
fn expiry_deleted_though_its_handler_failed() {
    on_worker(|| async {
        let world = World::new().await;
        world.template(A, &["KeyExpiry"], "error('no luck')").await;
        let worker = world.worker(ExpirySettings { attempts_max: 3, ..quick() });
        world.set(A, "key", soon()).await;
        until("a dead letter", async || worker.stats().await.unwrap().expiries_dead == 1).await;
        let stats = worker.stats().await.unwrap();
        assert_eq!((stats.expiry_retries, stats.templates_failed, stats.expiry_lateness.count()), (2, 3, 1));
        assert!(!world.exists(A, "key").await);
        let dead = world.db.dead_list(Some(A), None, 9).await.unwrap();
        assert!(dead[0].attempts == 3 && dead[0].error.contains("no luck"), "{dead:?}");
        let log = lines(&worker, A);
        assert!(log.last().unwrap().starts_with("key_expiry: the record `key`"), "{log:?}");
        assert_eq!(log.len(), 4);

        // Its owner mends the template and has it tried again.
        let mended = NewTemplate {
            name: TemplateName::new("t").unwrap(),
            files: [("init.luau".to_owned(), "return 1".to_owned())].into(),
            events: vec!["KeyExpiry".to_owned()],
            allowed_caps: Capabilities::from_iter(["*"]),
            error_channel: None,
            compat: CompatDate::default(),
            paused: false,
        };
        world.db.template_update(A, mended).await.unwrap();
        worker.reload(A).await.unwrap();
        assert!(world.db.expiry_retry(A, &dead[0].id).await.unwrap());
        until("success", async || worker.stats().await.unwrap().expiries_handled == 1).await;
    });
}

#[test]
fn handlers_rearm_deleted() {
    on_worker(|| async {
        let world = World::new().await;
        let code = "
            local evt, ctx = ...
            local datetime = require '@antiraid/datetime'
            local seen = ctx.KV:incr('seen', 1, { 'n' })
            if seen < 3 then
                ctx.KV:set(evt.data.key, seen, evt.data.scopes, datetime.UTC:now() + datetime.timedelta_millis(40))
            end";
        world.template(A, &["KeyExpiry"], code).await;
        let _worker = world.worker(quick());
        world.set(A, "key", soon()).await;
        world.gone(A, "key").await;
        let seen = Scopes::new(["n"], world.db.kv_limits()).unwrap();
        assert_eq!(world.db.kv_get(A, "seen", &seen).await.unwrap().unwrap().value_json, "3");
    });
}

#[test]
fn double_fire_on_refill() {
    on_worker(|| async {
        let world = World::new().await;
        world.template(A, &["KeyExpiry"], "local evt = ... print(evt.data.key) task.wait(0.9)").await;
        // Polled many times and out of lease thrice while the handler runs.
        let worker = world.worker(ExpirySettings { lease: Duration::from_millis(300), ..quick() });
        world.set(A, "key", soon()).await;
        world.gone(A, "key").await;
        assert_eq!(lines(&worker, A), ["key"]);
    });
}

/// As if its lease had run out.
#[test]
fn a_clock_set_forward_while_a_handler_runs_fires_nothing_twice() {
    static AHEAD: AtomicI64 = AtomicI64::new(0);
    on_worker(|| async {
        let clock = || Timestamp::now() + SignedDuration::from_secs(AHEAD.load(Ordering::Relaxed));
        let world = World::with(DbConfig { clock: clock.into(), ..DbConfig::default() }).await;
        world.template(A, &["KeyExpiry"], "local evt = ... print(evt.data.key) task.wait(1.5)").await;
        let worker = world.worker(quick());
        world.set(A, "key", clock() + SOON).await;
        until("the handler", async || !lines(&worker, A).is_empty()).await;
        AHEAD.store(3_600, Ordering::Relaxed);
        // Seen by a poll after the one that sees the lease.
        let other =
            WorkerDb::connect(&world.url, DbConfig { clock: clock.into(), ..DbConfig::default() }).await.unwrap();
        set(&other, A, "other", clock() + SignedDuration::from_millis(500)).await.unwrap();
        world.gone(A, "key").await;
        world.gone(A, "other").await;
        assert_eq!(lines(&worker, A), ["key", "other"]);
    });
}

/// Each holds as many handlers as it may, for as long as it likes.
#[test]
fn slow_handlers_of_some_tenants_hold_nobody_else_up() {
    on_worker(|| async {
        let world = World::new().await;
        let slow: Vec<_> = (100..106).map(|n| TenantId::guild(n << 22)).collect();
        for tenant in &slow {
            world.template(*tenant, &["KeyExpiry"], "task.wait(3600)").await;
        }
        world.template(A, &["KeyExpiry"], "return 1").await;
        // Before all are written, none is due.
        let at = Timestamp::now() + SignedDuration::from_secs(2);
        for tenant in &slow {
            for n in 0..12 {
                world.set(*tenant, &n.to_string(), at).await;
            }
        }
        let worker = world.worker(ExpirySettings { handlers_max: 24, tenant_handlers_max: 8, ..quick() });
        until("the slow ones", async || worker.stats().await.unwrap().expiries_in_hand >= 12).await;
        for n in 0..30 {
            world.set(A, &n.to_string(), soon()).await;
        }
        until("all others", async || worker.stats().await.unwrap().expiries_handled == 30).await;
    });
}

#[test]
fn a_tenants_burst_holds_nobody_else_up() {
    on_worker(|| async {
        let world = World::new().await;
        for tenant in [A, B] {
            world.template(tenant, &["KeyExpiry"], "task.wait(0.05)").await;
        }
        let at = Timestamp::now() + SignedDuration::from_secs(2);
        let keys = 1_500;
        for n in 0..keys {
            world.set(A, &format!("{n}"), at).await;
        }
        world.set(B, "single", at).await;
        // Small, so that the window is full of the one tenant many times over.
        let worker = world.worker(ExpirySettings { tenant_window_max: 64, tenant_handlers_max: 32, ..quick() });
        world.gone(B, "single").await;
        let handled = worker.stats().await.unwrap().expiries_handled;
        assert!(handled < keys / 2, "{handled} came before it");
        until("all", async || worker.stats().await.unwrap().expiries_handled == keys + 1).await;
        assert_eq!(world.db.expiry_list(None, None, 1).await.unwrap(), []);
    });
}

#[test]
fn what_another_process_writes_is_seen() {
    on_worker(|| async {
        let world = World::new().await;
        world.template(A, &["KeyExpiry"], "return 1").await;
        let worker = world.worker(quick());
        let other = WorkerDb::connect(&world.url, DbConfig::default()).await.unwrap();
        set(&other, A, "key", soon()).await.unwrap();
        world.gone(A, "key").await;
        assert!(worker.stats().await.unwrap().restarts == 0);
    });
}

/// The clock of a test, ahead of the real one by so many seconds.
static AHEAD: AtomicI64 = AtomicI64::new(0);

#[test]
fn never_early_whatever_the_clock_does() {
    on_worker(|| async {
        let clock = || Timestamp::now() + SignedDuration::from_secs(AHEAD.load(Ordering::Relaxed));
        let world = World::with(DbConfig { clock: clock.into(), ..DbConfig::default() }).await;
        world.template(A, &["KeyExpiry"], "local evt = ... print(evt.data.key)").await;
        let worker = world.worker(quick());
        let hours = |n: i64| clock() + SignedDuration::from_hours(n);
        // Beyond what a timer of tokio takes.
        world.set(A, "in ten years", hours(10 * 365 * 24)).await;
        world.set(A, "in two hours", hours(2)).await;
        world.set(A, "now", clock() + SOON).await;
        world.gone(A, "now").await;
        // Back: what was due in a moment is due in an hour and a moment.
        world.set(A, "in a moment", clock() + SignedDuration::from_millis(400)).await;
        AHEAD.store(-3_600, Ordering::Relaxed);
        world.set(A, "after it", clock() + SignedDuration::from_millis(900)).await;
        world.gone(A, "after it").await;
        assert!(world.exists(A, "in a moment").await);
        // Forward.
        AHEAD.store(3 * 3_600, Ordering::Relaxed);
        world.gone(A, "in two hours").await;
        world.gone(A, "in a moment").await;
        assert!(world.exists(A, "in ten years").await);
        AHEAD.store(11 * 365 * 24 * 3_600, Ordering::Relaxed);
        world.gone(A, "in ten years").await;
        let mut log = lines(&worker, A);
        log[2..4].sort_unstable();
        assert_eq!(log, ["now", "after it", "in a moment", "in two hours", "in ten years"]);
        AHEAD.store(0, Ordering::Relaxed);
    });
}

#[test]
fn a_record_deleted_before_its_turn_does_not_fire() {
    on_worker(|| async {
        let world = World::new().await;
        world.template(A, &["KeyExpiry"], "local evt = ... print(evt.data.key) task.wait(0.3)").await;
        // One handler at a time: the second record is due and waits.
        let worker = world.worker(ExpirySettings { tenant_handlers_max: 1, ..quick() });
        let at = soon();
        world.set(A, "1", at).await;
        world.set(A, "2", at + SignedDuration::from_millis(1)).await;
        until("the first", async || !lines(&worker, A).is_empty()).await;
        let waits = async || worker.stats().await.unwrap().expiries_pending == 1;
        until("the second waits", waits).await;
        assert!(world.db.kv_delete(A, "2", &world.scopes()).await.unwrap());
        world.gone(A, "1").await;
        until("nothing in hand", async || worker.stats().await.unwrap().expiries_in_hand == 0).await;
        assert_eq!(lines(&worker, A), ["1"]);
    });
}

/// A process that ends must not use up the attempts of what it had not begun.
#[test]
fn only_what_runs_is_claimed() {
    on_worker(|| async {
        let world = World::new().await;
        world.template(A, &["KeyExpiry"], "local evt = ... print(evt.data.key) task.wait(3600)").await;
        let worker = world.worker(ExpirySettings { tenant_handlers_max: 2, ..quick() });
        let at = soon();
        for n in 0..6 {
            world.set(A, &n.to_string(), at).await;
        }
        until("two", async || lines(&worker, A).len() == 2).await;
        until("the others wait", async || worker.stats().await.unwrap().expiries_pending == 4).await;
        let listed = world.db.expiry_list(None, None, 9).await.unwrap();
        let attempts: Vec<_> = listed.iter().map(|record| (record.leased, record.attempts)).collect();
        assert_eq!(attempts.iter().filter(|one| **one == (true, 1)).count(), 2, "{attempts:?}");
        assert_eq!(attempts.iter().filter(|one| **one == (false, 0)).count(), 4, "{attempts:?}");
    });
}

#[test]
fn a_drained_worker_finishes_what_runs_and_lets_go_of_the_rest() {
    on_worker(|| async {
        let world = World::new().await;
        world.template(A, &["KeyExpiry"], "local evt = ... print(evt.data.key) task.wait(0.2)").await;
        let worker = world.worker(ExpirySettings { tenant_handlers_max: 1, ..quick() });
        let at = soon();
        for n in 0..5 {
            world.set(A, &n.to_string(), at + SignedDuration::from_millis(n)).await;
        }
        until("the first", async || !lines(&worker, A).is_empty()).await;
        until("the others wait", async || worker.stats().await.unwrap().expiries_pending == 4).await;
        worker.drain().await.unwrap();
        assert!(!world.exists(A, "0").await);
        let left = world.db.expiry_list(None, None, 9).await.unwrap();
        assert_eq!(left.len(), 4);
        assert!(left.iter().all(|record| !record.leased && record.attempts == 0), "{left:?}");
    });
}

#[test]
fn a_handler_of_key_resume_that_breaks_its_vm_is_not_sent_again() {
    on_worker(|| async {
        let world = World::new().await;
        let code =
            "local evt = ... print(evt.data.key) local t = {} while true do t[#t + 1] = string.rep('x', 1e6 + #t) end";
        world.template(A, &["KeyResume"], code).await;
        for key in ["1", "2", "3"] {
            let set = KvSet {
                key: key.into(),
                value_json: "1".into(),
                scopes: world.scopes(),
                expires_at: None,
                resume: true,
            };
            world.db.kv_set(A, set).await.unwrap();
        }
        let worker = world.worker(quick());
        until("all", async || worker.stats().await.unwrap().templates_failed >= 3).await;
        // An expiry later, nothing has come again.
        world.set(A, "later", Timestamp::now() + SignedDuration::from_millis(500)).await;
        world.gone(A, "later").await;
        let stats = worker.stats().await.unwrap();
        assert_eq!(stats.templates_run, 3, "{stats:?}");
        let printed: Vec<_> = lines(&worker, A).into_iter().filter(|line| line.len() == 1).collect();
        assert_eq!(printed, ["1", "2", "3"], "in the order in which they were made");
    });
}

#[test]
fn who_is_quarantined_finds_in_its_log_why() {
    on_worker(|| async {
        let world = World::new().await;
        let worker = world.worker(quick());
        worker.report_quarantine(&Evidence {
            tenant: A,
            template: "greedy".into(),
            event: "MESSAGE".into(),
            exit: "signal: 6 (SIGABRT)".into(),
            log_lines: vec!["about to abort".into()],
            deaths: 3,
        });
        let log = lines(&worker, A).join("\n");
        for said in ["quarantined", "3 times", "`greedy`", "`MESSAGE`", "SIGABRT", "about to abort", "operator"] {
            assert!(log.contains(said), "{said} is not in {log}");
        }
        assert!(lines(&worker, B).is_empty());
    });
}

#[test]
fn records_of_a_tenant_that_moves_are_handled_by_its_new_worker_once() {
    on_worker(|| async {
        let world = World::new().await;
        for tenant in [A, B] {
            world.template(tenant, &["KeyExpiry"], "local evt = ... task.wait(0.2) print(evt.data.key)").await;
        }
        let (old, new) = (world.worker(quick()), world.worker(quick()));
        new.own(WorkerFilter::nobody()).await.unwrap();
        // One is in hand when its tenant is given up, and one is due later.
        world.set(A, "in hand", soon()).await;
        world.set(B, "stays", soon()).await;
        world.set(A, "later", Timestamp::now() + SignedDuration::from_secs(2)).await;
        until("a record in hand", async || old.stats().await.unwrap().expiries_in_hand >= 2).await;
        old.own(WorkerFilter::all().without([A])).await.unwrap();
        assert_eq!(lines(&old, A), ["in hand"], "it was finished before");
        assert!(!world.exists(A, "in hand").await);
        new.own(WorkerFilter::all().without([B])).await.unwrap();
        world.gone(A, "later").await;
        world.gone(B, "stays").await;
        assert_eq!((lines(&new, A), lines(&new, B)), (vec!["later".to_owned()], vec![]));
        assert_eq!((lines(&old, A), lines(&old, B)), (vec!["in hand".to_owned()], vec!["stays".to_owned()]));
        // What is written here afterwards is the new one's at once as well.
        world.set(A, "again", soon()).await;
        world.gone(A, "again").await;
        assert_eq!(lines(&new, A), ["later", "again"]);
    });
}
