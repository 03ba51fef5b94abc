//! Workers as the program puts them together: store, cache, dispatcher and VMs of one thread, in a pool.

use std::num::NonZeroUsize;
use std::time::Duration;

use antiraid_bin::config::Config;
use antiraid_bin::engine::{self, Workers};
use antiraid_bin::worker::WorkerParts;
use worker_core::{
    Capabilities, CompatDate, DispatchResult, Event, Limits, RatelimitRules, TemplateName, TenantId, Value,
    WorkerErrorKind, WorkerFilter, WorkerId, WorkerLike,
};
use worker_db::{DbConfig, KvSet, NewTemplate, Scopes, WorkerDb};
use worker_vm::Services;

const TENANT: TenantId = TenantId::guild(81_384_788_765_712_384);

async fn db() -> WorkerDb {
    WorkerDb::connect("sqlite::memory:", DbConfig::default()).await.unwrap()
}

async fn start(db: &WorkerDb, workers: usize) -> Workers {
    let config = Config { workers: NonZeroUsize::new(workers).unwrap(), ..Config::default() };
    let (builtins, waiting_max) = (engine::builtins(&config).unwrap(), NonZeroUsize::new(64).unwrap());
    engine::start(&config, db, builtins, Services::default(), waiting_max, None).await.unwrap()
}

fn template(events: &[&str], code: &str) -> NewTemplate {
    NewTemplate {
        name: TemplateName::new("t").unwrap(),
        files: [("init.luau".to_owned(), code.to_owned())].into(),
        events: events.iter().map(|event| (*event).to_owned()).collect(),
        allowed_caps: Capabilities::from_iter(["*"]),
        error_channel: None,
        compat: CompatDate::default(),
        paused: false,
    }
}

fn message() -> Event {
    Event::discord("MESSAGE_CREATE", r#"{"content":"hi"}"#.into())
}

fn only(result: DispatchResult) -> Value {
    let [template] = &result.templates[..] else { panic!("{result:?}") };
    template.outcome.clone().unwrap()
}

fn text(text: &str) -> Value {
    Value::from_json(format!("{text:?}").as_bytes()).unwrap()
}

#[tokio::test]
async fn a_template_that_was_replaced_is_seen_after_a_reload() {
    let db = db().await;
    db.template_create(TENANT, template(&["MESSAGE"], "return 'old'")).await.unwrap();
    let workers = start(&db, 2).await;
    assert_eq!(only(workers.dispatch(TENANT, message()).await.unwrap()), text("old"));
    db.template_update(TENANT, template(&["MESSAGE"], "return 'new'")).await.unwrap();
    workers.reload(TENANT).await.unwrap();
    assert_eq!(only(workers.dispatch(TENANT, message()).await.unwrap()), text("new"));
}

#[tokio::test]
async fn a_change_that_this_process_makes_is_seen_without_a_reload() {
    let db = db().await;
    let workers = start(&db, 1).await;
    assert_eq!(workers.dispatch(TENANT, message()).await.unwrap(), DispatchResult::default());
    db.template_create(TENANT, template(&["MESSAGE"], "return 'here'")).await.unwrap();
    // The news takes its way to the worker's thread; until then it answers from what it knows.
    let seen = async {
        loop {
            let result = workers.dispatch(TENANT, message()).await.unwrap();
            if !result.templates.is_empty() {
                return only(result);
            }
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), seen).await.unwrap(), text("here"));
}

#[tokio::test]
async fn records_to_resume_are_resumed_when_a_worker_starts() {
    let db = db().await;
    let code = "local evt, ctx = ...\nctx.KV:set('resumed', evt.data.key, { 't' })";
    db.template_create(TENANT, template(&["KeyResume[t]"], code)).await.unwrap();
    let scopes = || Scopes::new(["t".to_owned()], db.kv_limits()).unwrap();
    let record =
        KvSet { key: "alarm".into(), value_json: "1".into(), scopes: scopes(), expires_at: None, resume: true };
    db.kv_set(TENANT, record).await.unwrap();
    let workers = start(&db, 1).await;
    let resumed = async {
        loop {
            match db.kv_get(TENANT, "resumed", &scopes()).await.unwrap() {
                Some(record) => return record.value_json,
                None => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), resumed).await.unwrap(), "\"alarm\"");
    assert_eq!(workers.stats().await.unwrap().templates_run, 1);
}

#[tokio::test]
async fn a_drained_pool_finishes_and_then_refuses() {
    let db = db().await;
    db.template_create(TENANT, template(&["MESSAGE"], "task.wait(0.05) return 'done'")).await.unwrap();
    let workers = start(&db, 1).await;
    let reply = workers.dispatch(TENANT, message());
    workers.drain().await.unwrap();
    assert_eq!(only(reply.await.unwrap()), text("done"));
    let refused = workers.dispatch(TENANT, message()).await.unwrap_err();
    assert_eq!(refused.kind(), WorkerErrorKind::WorkerGone);
}

/// A worker that ends takes the connection with it on which a query of its own is under way. The next one must find the
/// same database, also where that is in memory.
#[tokio::test]
async fn a_worker_that_ends_during_a_query_loses_nobodys_database() {
    let db = db().await;
    db.template_create(TENANT, template(&["MESSAGE"], "return true")).await.unwrap();
    for _ in 0..50 {
        // Each worker asks for records to resume as soon as it is there.
        let workers = start(&db, 2).await;
        workers.kill().await.unwrap();
        assert_eq!(db.template_list(TENANT).await.unwrap().rows.len(), 1);
    }
}

#[tokio::test]
async fn the_figures_of_all_workers_add_up() {
    let db = db().await;
    let tenants: Vec<_> = (1..=10_u64).map(|id| TenantId::guild(id << 22)).collect();
    for &tenant in &tenants {
        db.template_create(tenant, template(&["MESSAGE"], "return true")).await.unwrap();
    }
    let workers = start(&db, 3).await;
    for &tenant in tenants.iter().chain(&tenants) {
        assert_eq!(only(workers.dispatch(tenant, message()).await.unwrap()), Value::Boolean(true));
    }
    let stats = workers.stats().await.unwrap();
    assert_eq!((stats.workers, stats.events, stats.templates_run), (3, 20, 20));
    assert_eq!((stats.vms_made, stats.vms_live, stats.templates_failed), (10, 10, 0));
    assert!(stats.vm_memory_bytes > 0);
}

#[test]
fn a_template_is_told_of_events_that_do_not_come() {
    let runtime = tokio::runtime::LocalRuntime::new().unwrap();
    runtime.block_on(async {
        let db = db().await;
        let (config, other) = (Config::default(), TenantId::guild(1 << 22));
        let parts = WorkerParts::new(
            db.clone(),
            engine::builtins(&config).unwrap(),
            Limits::default(),
            RatelimitRules::default(),
            config.links,
        )
        .with_intents(Some("GUILDS,GUILD_MESSAGES".parse().unwrap()));
        let filter = WorkerFilter::all().without([other]);
        let worker = parts.worker(WorkerId::new(1), filter);
        let lines = async |count| -> Vec<String> {
            let told = async {
                while worker.log_lines(TENANT).len() < count {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), told).await.unwrap();
            worker.log_lines(TENANT).into_iter().map(|line| line.text.to_string()).collect()
        };
        db.template_create(other, template(&["GUILD_MEMBER_ADD"], "")).await.unwrap();
        let wants = ["MESSAGE_DELETE", "MESSAGE", "GUILD_MEMBER_ADD", "KeyExpiry[x]", "Discord"];
        db.template_create(TENANT, template(&wants, "")).await.unwrap();
        let told = lines(2).await;
        let is_told = |told: &[String], event: &str, intent: &str| {
            let subscribes = format!("`t` subscribes to {event},");
            told.iter().any(|line| line.contains(&subscribes) && line.contains(intent))
        };
        assert!(
            is_told(&told, "MESSAGE", "MESSAGE_CONTENT") && is_told(&told, "GUILD_MEMBER_ADD", "GUILD_MEMBERS"),
            "{told:?}"
        );
        // Once; and again only for what is new.
        db.template_update(TENANT, template(&["MESSAGE", "PRESENCE_UPDATE", "GUILD_MEMBER_ADD"], "")).await.unwrap();
        let told = lines(3).await;
        assert!(told.len() == 3 && is_told(&told[2..], "PRESENCE_UPDATE", "GUILD_PRESENCES"), "{told:?}");
        assert!(worker.log_lines(other).is_empty(), "another worker tells its own tenants");
    });
}
