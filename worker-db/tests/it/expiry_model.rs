//! Any interleaving of writes, claims, ends of handlers, crashes and restarts, against a model that fits on a page.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use worker_core::TenantId;
use worker_db::{Attempt, ClaimedRecord, DbConfig, DueCursor, ExpirySession, KvSet, Scopes, WorkerDb};

use crate::store::Store;

/// Seconds since an epoch of the test; only moved by its steps.
static NOW: AtomicI64 = AtomicI64::new(0);
const LEASE: i64 = 10;
const WORKERS: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    /// Writes the record: its key, and in how many seconds it expires.
    Set(u8, Option<i64>),
    SetExpiry(u8, Option<i64>),
    Delete(u8),
    /// The worker claims all that is due.
    Claim(usize),
    /// The handler of the worker's claim of this index (modulo how many it has) succeeds.
    Succeed(usize, usize),
    /// The same fails, and is tried again in so many seconds.
    Fail(usize, usize, i64),
    Bury(usize, usize),
    Renew(usize),
    /// The worker forgets all it knows, and begins anew under its name.
    Restart(usize),
    /// The worker stands still, as others see it: it keeps its claims, and time goes on beyond their lease.
    Stall,
    Wait(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (key, worker, soon) = (0u8..4, 0..WORKERS, prop::option::weighted(0.8, 1i64..8));
    let step = prop_oneof![
        3 => (key.clone(), soon.clone()).prop_map(|(key, soon)| Step::Set(key, soon)),
        2 => (key.clone(), soon).prop_map(|(key, soon)| Step::SetExpiry(key, soon)),
        1 => key.prop_map(Step::Delete),
        4 => worker.clone().prop_map(Step::Claim),
        3 => (worker.clone(), 0usize..8).prop_map(|(worker, n)| Step::Succeed(worker, n)),
        2 => (worker.clone(), 0usize..8, 0i64..6).prop_map(|(worker, n, wait)| Step::Fail(worker, n, wait)),
        1 => (worker.clone(), 0usize..8).prop_map(|(worker, n)| Step::Bury(worker, n)),
        1 => worker.clone().prop_map(Step::Renew),
        1 => worker.prop_map(Step::Restart),
        1 => Just(Step::Stall),
        4 => (1i64..6).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..70)
}

/// What there should be of a key.
#[derive(Clone, Debug)]
struct Armed {
    due: Option<i64>,
    expires: Option<i64>,
    /// Who has it, and by which of all claims.
    held: Option<(usize, u64)>,
}

#[derive(Default)]
struct Model {
    armed: HashMap<u8, Armed>,
    claims: u64,
}

/// A worker: its session, and what it has claimed with the number of the claim.
struct Worker {
    name: String,
    session: ExpirySession,
    held: Vec<(ClaimedRecord, u64)>,
}

struct World<'a> {
    db: &'a WorkerDb,
    tenant: TenantId,
    model: Model,
    workers: Vec<Worker>,
}

fn clock() -> Timestamp {
    at(NOW.load(Ordering::Relaxed))
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn key(number: u8) -> String {
    format!("key{number}")
}

impl World<'_> {
    fn scopes(&self) -> Scopes {
        Scopes::new(["a", "b"], self.db.kv_limits()).unwrap()
    }

    async fn step(&mut self, step: &Step) {
        let now = NOW.load(Ordering::Relaxed);
        let (db, tenant) = (self.db, self.tenant);
        match *step {
            Step::Set(number, soon) => {
                let expires = soon.map(|soon| now + soon);
                let set = KvSet {
                    key: key(number),
                    value_json: "1".into(),
                    scopes: self.scopes(),
                    expires_at: expires.map(at),
                    resume: false,
                };
                let existed = db.kv_set(tenant, set).await.unwrap().existed;
                let before = self.model.armed.insert(number, Armed { due: expires, expires, held: None });
                assert_eq!(existed, before.is_some());
            }
            Step::SetExpiry(number, soon) => {
                let expires = soon.map(|soon| now + soon);
                let found = db.kv_set_expiry(tenant, &key(number), &self.scopes(), expires.map(at)).await.unwrap();
                assert_eq!(found, self.model.armed.contains_key(&number));
                if found {
                    self.model.armed.insert(number, Armed { due: expires, expires, held: None });
                }
            }
            Step::Delete(number) => {
                let found = db.kv_delete(tenant, &key(number), &self.scopes()).await.unwrap();
                assert_eq!(found, self.model.armed.remove(&number).is_some());
            }
            Step::Claim(worker) => self.claim(worker).await,
            Step::Succeed(worker, n) => {
                let Some((record, is_current)) = self.end(worker, n) else { return };
                let deleted = db.expiry_complete(std::slice::from_ref(&record)).await.unwrap();
                assert_eq!(deleted, usize::from(is_current.is_some()), "{record:?}");
                if let Some(number) = is_current {
                    self.model.armed.remove(&number);
                }
            }
            Step::Fail(worker, n, wait) => {
                let Some((record, is_current)) = self.end(worker, n) else { return };
                db.expiry_put_off(&[(record, at(now + wait), Attempt::Counts)]).await.unwrap();
                if let Some(armed) = is_current.and_then(|number| self.model.armed.get_mut(&number)) {
                    (armed.due, armed.held) = (Some(now + wait), None);
                }
            }
            Step::Bury(worker, n) => {
                let Some((record, is_current)) = self.end(worker, n) else { return };
                let buried = db.expiry_bury(&[(record.clone(), "failed".into())]).await.unwrap();
                assert_eq!(buried.contains(&record.id), is_current.is_some());
                if let Some(number) = is_current {
                    self.model.armed.remove(&number);
                    let dead = db.dead_list(Some(tenant), None, 100).await.unwrap();
                    assert!(dead.iter().any(|letter| *letter.id == *record.id && letter.key == key(number)));
                }
            }
            Step::Renew(worker) => {
                let Worker { session, held, .. } = &self.workers[worker];
                let records: Vec<_> = held.iter().map(|(record, _)| record.clone()).collect();
                db.expiry_renew(*session, &records, at(now + LEASE)).await.unwrap();
                for armed in self.model.armed.values_mut() {
                    if armed.held.is_some_and(|(by, claim)| by == worker && held.iter().any(|(_, n)| *n == claim)) {
                        armed.due = Some(now + LEASE);
                    }
                }
            }
            Step::Restart(worker) => self.restart(worker).await,
            Step::Stall => {
                NOW.fetch_add(LEASE + 1, Ordering::Relaxed);
            }
            Step::Wait(seconds) => {
                NOW.fetch_add(seconds, Ordering::Relaxed);
            }
        }
    }

    async fn restart(&mut self, worker: usize) {
        let now = NOW.load(Ordering::Relaxed);
        let Worker { name, session, held } = &mut self.workers[worker];
        held.clear();
        *session = self.db.expiry_session(name, 0).await.unwrap();
        for armed in self.model.armed.values_mut() {
            if armed.held.is_some_and(|(by, _)| by == worker) {
                (armed.due, armed.held) = (Some(now), None);
            }
        }
    }

    async fn claim(&mut self, worker: usize) {
        let now = NOW.load(Ordering::Relaxed);
        let from = DueCursor::before(Timestamp::MIN);
        let due = self.db.expiry_due(at(now), &from, 10_000).await.unwrap().records;
        let due: Vec<_> = due.into_iter().filter(|due| due.tenant == self.tenant).collect();
        let session = self.workers[worker].session;
        let lease = clock() + SignedDuration::from_secs(LEASE);
        let claimed = self.db.expiry_claim(session, &due, lease).await.unwrap();
        let mut got: Vec<_> = claimed.iter().map(|record| record.key.clone()).collect();
        got.sort_unstable();
        let is_due = |armed: &Armed| armed.due.is_some_and(|due| due <= now);
        let mut expected: Vec<_> =
            self.model.armed.iter().filter(|(_, armed)| is_due(armed)).map(|(number, _)| key(*number)).collect();
        expected.sort_unstable();
        assert_eq!(got, expected, "all that is due and nothing else, each once");
        for record in claimed {
            self.model.claims += 1;
            let number = record.key[3..].parse().unwrap();
            let armed = self.model.armed.get_mut(&number).unwrap();
            assert_eq!(Some(record.expires_at), armed.expires.map(at));
            assert!(record.expires_at <= at(now), "early");
            (armed.due, armed.held) = (Some(now + LEASE), Some((worker, self.model.claims)));
            self.workers[worker].held.push((record, self.model.claims));
        }
    }

    /// Takes a claim from the worker, and the key if the claim is still the one that counts.
    fn end(&mut self, worker: usize, n: usize) -> Option<(ClaimedRecord, Option<u8>)> {
        let held = &mut self.workers[worker].held;
        if held.is_empty() {
            return None;
        }
        let (record, claim) = held.swap_remove(n % held.len());
        let number = record.key[3..].parse().unwrap();
        let armed = self.model.armed.get(&number);
        let is_current = armed.and_then(|armed| armed.held).is_some_and(|(_, current)| current == claim);
        Some((record, is_current.then_some(number)))
    }

    /// Everybody comes back, and all that is armed is handled.
    async fn finish(mut self) {
        for worker in 0..WORKERS {
            self.restart(worker).await;
        }
        NOW.fetch_add(100, Ordering::Relaxed);
        self.claim(0).await;
        let records: Vec<_> = self.workers[0].held.iter().map(|(record, _)| record.clone()).collect();
        assert_eq!(self.db.expiry_complete(&records).await.unwrap(), records.len());
        self.model.armed.retain(|_, armed| armed.expires.is_none());
        for number in 0..4 {
            let exists = self.db.kv_exists(self.tenant, &key(number), &self.scopes()).await.unwrap();
            assert_eq!(exists, self.model.armed.contains_key(&number), "{number}");
        }
    }
}

fn check(db: &WorkerDb, cases: u32) {
    // There is one clock, where all tests run in one process.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock();
    static TENANT: AtomicU64 = AtomicU64::new(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&steps(), |steps| {
        runtime.block_on(async {
            let tenant = TenantId::guild(TENANT.fetch_add(1, Ordering::Relaxed));
            let mut world = World { db, tenant, model: Model::default(), workers: Vec::new() };
            for number in 0..WORKERS {
                let name = format!("{tenant} {number}");
                let session = db.expiry_session(&name, 0).await.unwrap();
                world.workers.push(Worker { name, session, held: Vec::new() });
            }
            for step in &steps {
                world.step(step).await;
            }
            world.finish().await;
        });
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

async fn on(store: Store, cases: u32) {
    let url = Arc::new(store.url.clone());
    let config = DbConfig { clock: clock.into(), ..DbConfig::default() };
    let db = WorkerDb::connect(&url, config).await.unwrap();
    // A case blocks on a runtime of its own.
    tokio::task::spawn_blocking(move || check(&db, cases)).await.unwrap();
    drop(store);
}

#[tokio::test]
async fn any_interleaving_is_as_the_model_says_on_sqlite() {
    on(Store::sqlite_file().await, 100).await;
}

#[tokio::test]
async fn any_interleaving_is_as_the_model_says_on_postgres() {
    on(Store::postgres().await, 40).await;
}
