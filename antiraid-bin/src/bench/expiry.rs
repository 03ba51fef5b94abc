//! Records that expire: how late their events are, how fast many at once are done with, what they cost.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use worker_core::{Capabilities, CompatDate, KvLimits, LatenessHistogram, TemplateName, TenantId, WorkerLike};
use worker_db::{DbConfig, DbError, FileMap, KvSet, NewTemplate, Scopes, WorkerDb};

use super::harness::{Harness, tenant, tireless};
use super::paired::{by_turns, nanoseconds};
use super::{Bar, BenchError, BenchRow, Effort, Unit};
use crate::cli::CommandError;
use crate::private_postgres::PrivatePostgres;
use crate::replay_report::resident_memory_bytes;

/// Where a server for the measurement may be named: its database is filled, and left so.
const POSTGRES: &str = "ANTIRAID_TEST_POSTGRES";
/// Tenants that records are spread over.
const TENANTS: usize = 100;
/// Records that come due in a second.
const PER_SECOND: usize = 500;
/// Records that are written at once while they are prepared.
const FILL_AT_ONCE: usize = 10_000;
/// Of most records.
const SCOPE: &str = "bench";
/// Of the records whose lateness counts.
const TIMED: &str = "timed";
/// Of records that come before those.
const WARMING: &str = "warming";
/// Counts each event, and goes on for as long as there is a record that holds it up.
const HOLDING: &str = "
local evt, ctx = ...
ctx.KV:incr('count', 1, { 'bench' })
while ctx.KV:exists('hold', { 'bench' }) do task.wait(0.2) end";
/// Between two looks whether a record is gone.
const LOOK_PACE: Duration = Duration::from_millis(1);

/// On a SQLite file.
pub(super) fn sqlite(effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
    let folder = tempfile::tempdir()?;
    measure("expiry-sqlite", &format!("sqlite:{}", folder.path().join("bench.db").display()), effort)
}

/// On a PostgreSQL server: the one that is named, else one of its own with the settings that it has when it was just
/// installed.
#[expect(clippy::disallowed_methods, reason = "this is the crate that reads the environment")]
pub(super) fn postgres(effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
    if let Ok(url) = std::env::var(POSTGRES) {
        return measure("expiry-postgres", &url, effort);
    }
    let server = PrivatePostgres::start(&[]).map_err(BenchError::Server)?;
    measure("expiry-postgres", &server.url(), effort)
}

fn measure(name: &'static str, url: &str, effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
    let kv = KvLimits { rows_max: 1 << 30, bytes_max: 1 << 40, ..KvLimits::default() };
    let harness = Harness::over_with(url, tireless(), DbConfig { kv, ..DbConfig::default() })?;
    let bench = Bench { db: harness.db(), name, url };
    let mut rows = vec![bench.cost_of_an_expiry(&harness, effort)?];
    harness.block_on(bench.install(TENANTS, "local evt = ... return evt.data.key"))?;
    let alone = harness.block_on(bench.memory_alone(&harness))?;
    let pending = effort.choose(1_000_000, 20_000);
    let far = Timestamp::now() + SignedDuration::from_hours(9_000);
    harness.block_on(bench.fill(SCOPE, pending, far, SignedDuration::from_micros(1)))?;
    harness.block_on(bench.db.analyze())?;
    rows.extend(harness.block_on(bench.lateness(&harness, pending, alone, effort))?);
    rows.push(harness.block_on(bench.restart())?);
    rows.extend(harness.block_on(bench.burst(&harness, effort))?);
    Ok(rows)
}

struct Bench<'a> {
    db: WorkerDb,
    name: &'static str,
    url: &'a str,
}

impl Bench<'_> {
    fn row(&self, question: impl Into<String>, unit: Unit, measured: f64, bar: f64) -> BenchRow {
        BenchRow::alone(self.name, question, unit, measured).with_bar(Bar::Measured(bar))
    }

    fn scopes(&self, scope: &str) -> Result<Scopes, DbError> {
        Scopes::new([scope], self.db.kv_limits())
    }

    fn record(&self, key: impl Into<String>, expires_at: Option<Timestamp>) -> Result<KvSet, DbError> {
        let scopes = self.scopes(SCOPE)?;
        Ok(KvSet { key: key.into(), value_json: "1".into(), scopes, expires_at, resume: false })
    }

    /// Writes so many records, of all tenants by turns, each due a `step` after the one before.
    async fn fill(&self, scope: &str, count: usize, first: Timestamp, step: SignedDuration) -> Result<(), DbError> {
        let scopes = self.scopes(scope)?;
        for n in 0..TENANTS {
            let first = first + step * n as i32;
            for from in (0..count / TENANTS).step_by(FILL_AT_ONCE) {
                let numbers = from..(count / TENANTS).min(from + FILL_AT_ONCE);
                self.db.expiry_fill(tenant(n), &scopes, numbers, first, step * TENANTS as i32).await?;
            }
        }
        Ok(())
    }

    async fn install(&self, tenants: usize, code: &str) -> Result<(), DbError> {
        let template = NewTemplate {
            name: TemplateName::new("bench").expect("because it is a good name"),
            files: FileMap::from([("init.luau".to_owned(), code.to_owned())]),
            events: [SCOPE, TIMED, WARMING].map(|scope| format!("KeyExpiry[{scope}]")).to_vec(),
            allowed_caps: Capabilities::default(),
            error_channel: None,
            compat: CompatDate::NEWEST,
            paused: false,
        };
        let tenants: Vec<_> = (0..tenants).map(tenant).collect();
        self.db.template_put_for_tenants(&tenants, template).await
    }

    fn cost_of_an_expiry(&self, harness: &Harness, effort: Effort) -> Result<BenchRow, CommandError> {
        const ROUND: usize = 50;
        let (mut plain, mut expiring) = (0, 0);
        let write = |number: &mut usize, kind: &str, expires_at: Option<Timestamp>| {
            harness.block_on(async {
                let begun = Instant::now();
                for _ in 0..ROUND {
                    *number += 1;
                    self.db.kv_set(tenant(0), self.record(format!("{kind}{number}"), expires_at)?).await?;
                }
                Ok(nanoseconds(begun.elapsed()) / ROUND as f64)
            })
        };
        let far = Timestamp::now() + SignedDuration::from_hours(9_000);
        let rounds = by_turns(
            effort.choose(100, 20),
            || write(&mut plain, "plain", None),
            || write(&mut expiring, "expiring", Some(far)),
        )?;
        Ok(rounds.row(self.name, "Writing a record with an expiry", "without").with_bar(Bar::Ratio(1.2)))
    }

    /// Bytes that a worker takes which handles a record of each tenant, with none pending.
    async fn memory_alone(&self, harness: &Harness) -> Result<u64, CommandError> {
        let before = resident_memory_bytes().ok_or(BenchError::NoMemoryFigures)?;
        let soon = Timestamp::now() + SignedDuration::from_millis(100);
        self.fill(WARMING, TENANTS, soon, SignedDuration::from_micros(1)).await?;
        let worker = harness.worker_here();
        self.until_handled(&worker, TENANTS).await?;
        let after = resident_memory_bytes().ok_or(BenchError::NoMemoryFigures)?;
        worker.kill().await.map_err(BenchError::Worker)?;
        Ok(after.saturating_sub(before))
    }

    /// With so many records pending.
    async fn lateness(
        &self,
        harness: &Harness,
        pending: usize,
        memory_alone: u64,
        effort: Effort,
    ) -> Result<Vec<BenchRow>, CommandError> {
        let seconds = effort.choose(20, 3);
        let begin = Timestamp::now() + SignedDuration::from_secs(5);
        let pace = SignedDuration::from_micros(1_000_000 / PER_SECOND as i64);
        self.fill(TIMED, seconds * PER_SECOND, begin, pace).await?;
        let first = Timestamp::now() + SignedDuration::from_millis(20);
        self.db.kv_set(tenant(0), self.record("first", Some(first))?).await?;
        until_at(first).await;

        let before = resident_memory_bytes().ok_or(BenchError::NoMemoryFigures)?;
        let started = Instant::now();
        let worker = harness.worker_here();
        self.until_gone(tenant(0), "first").await?;
        let start = started.elapsed();
        let ahead = worker.stats().await.map_err(BenchError::Worker)?.expiry_lateness;
        until_at(begin + pace * (seconds * PER_SECOND) as i32 + SignedDuration::from_secs(2)).await;
        let after = resident_memory_bytes().ok_or(BenchError::NoMemoryFigures)?;
        let stats = worker.stats().await.map_err(BenchError::Worker)?;
        worker.kill().await.map_err(BenchError::Worker)?;
        let all = stats.expiry_lateness;
        if all.count() - ahead.count() < (seconds * PER_SECOND) as u64 {
            let got = format!("{} of {}", all.count() - ahead.count(), seconds * PER_SECOND);
            return Err(BenchError::Unexpected { expected: "all records to be handled", got }.into());
        }
        let kilobytes = after.saturating_sub(before).saturating_sub(memory_alone) as f64 / 1e3;
        let question = |what: &str| format!("  {what}, {} pending", indicatif::HumanCount(pending as u64));
        Ok(vec![
            self.row(
                format!("Lateness, {PER_SECOND} a second: the median is at most"),
                Unit::Milliseconds,
                bound(&all, 0.5),
                5.0,
            ),
            self.row("  99 of 100 are late by at most", Unit::Milliseconds, bound(&all, 0.99), 25.0),
            BenchRow::alone(self.name, "  all are late by at most", Unit::Milliseconds, bound(&all, 1.0)),
            self.row(
                question("from the start to the first one done"),
                Unit::Milliseconds,
                start.as_secs_f64() * 1e3,
                2_000.0,
            ),
            self.row(question("memory above a worker with none"), Unit::Kilobytes, kilobytes, 64_000.0),
        ])
    }

    /// A process that is killed with records in flight, and started again.
    async fn restart(&self) -> Result<BenchRow, CommandError> {
        const KEYS: u64 = 20;
        let who = tenant(TENANTS);
        let template = NewTemplate {
            name: TemplateName::new("bench").expect("because it is a good name"),
            files: FileMap::from([("init.luau".to_owned(), HOLDING.to_owned())]),
            events: vec!["KeyExpiry".to_owned()],
            allowed_caps: Capabilities::from_iter(["*"]),
            error_channel: None,
            compat: CompatDate::NEWEST,
            paused: false,
        };
        self.db.template_put_for_tenants(&[who], template).await?;
        self.db.kv_set(who, self.record("hold", None)?).await?;
        let soon = Timestamp::now() + SignedDuration::from_millis(100);
        for n in 0..KEYS {
            self.db.kv_set(who, self.record(n.to_string(), Some(soon))?).await?;
        }
        let mut first = self.serve()?;
        self.until_counted(who, KEYS).await?;
        first.kill()?;
        first.wait()?;
        self.db.kv_delete(who, "hold", &self.scopes(SCOPE)?).await?;
        let begun = Instant::now();
        let mut second = self.serve()?;
        self.until_counted(who, 2 * KEYS).await?;
        let took = begun.elapsed().as_secs_f64() * 1e3;
        for n in 0..KEYS {
            self.until_gone(who, &n.to_string()).await?;
        }
        second.kill()?;
        second.wait()?;
        let question = format!("From the start after a kill to {KEYS} in flight sent again");
        Ok(self.row(question, Unit::Milliseconds, took, 1_000.0))
    }

    fn serve(&self) -> Result<Child, CommandError> {
        #[expect(clippy::disallowed_methods, reason = "this program, to be killed")]
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["expiry", "serve", "--db", self.url, "--set", "workers=1", "--set", "expiry.process=bench"]);
        command.args(["--set", "log.filter=off", "--set", "expiry.lease_s=3600"]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(child?)
    }

    async fn until_counted(&self, tenant: TenantId, wanted: u64) -> Result<(), DbError> {
        let scopes = self.scopes(SCOPE)?;
        loop {
            let record = self.db.kv_get(tenant, "count", &scopes).await?;
            if record.is_some_and(|record| record.value_json.parse::<u64>().is_ok_and(|count| count >= wanted)) {
                return Ok(());
            }
            tokio::time::sleep(LOOK_PACE).await;
        }
    }

    /// Many of one tenant at once, and one of another in their midst.
    async fn burst(&self, harness: &Harness, effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
        let count = effort.choose(100_000, 5_000);
        let scopes = self.scopes(SCOPE)?;
        let worker = harness.worker_here();
        let at = Timestamp::now() + SignedDuration::from_secs(effort.choose(10, 3));
        // Numbers that no other record of this tenant has.
        let numbers = 10_000_000..10_000_000 + count;
        let first = at - SignedDuration::from_micros(numbers.start as i64);
        for from in numbers.step_by(FILL_AT_ONCE) {
            let numbers = from..from + count.min(FILL_AT_ONCE);
            self.db.expiry_fill(tenant(1), &scopes, numbers, first, SignedDuration::from_micros(1)).await?;
        }
        let single = at + SignedDuration::from_millis(500);
        self.db.kv_set(tenant(2), self.record("single", Some(single))?).await?;
        until_at(at).await;
        let begun = Instant::now();
        self.until_gone(tenant(2), "single").await?;
        let late = Timestamp::now().duration_since(single).as_secs_f64() * 1e3;
        self.until_handled(&worker, count + 1).await?;
        let rate = count as f64 / begun.elapsed().as_secs_f64();
        worker.kill().await.map_err(BenchError::Worker)?;
        let many = indicatif::HumanCount(count as u64);
        Ok(vec![
            self.row(
                format!("{many} at once of one tenant, each ({rate:.0} a second)"),
                Unit::Microseconds,
                1e6 / rate,
                200.0,
            ),
            self.row("  another tenant's single one is done with after", Unit::Milliseconds, late, 100.0),
        ])
    }

    async fn until_handled(&self, worker: &impl WorkerLike, wanted: usize) -> Result<(), CommandError> {
        while worker.stats().await.map_err(BenchError::Worker)?.expiries_handled < wanted as u64 {
            tokio::time::sleep(LOOK_PACE).await;
        }
        Ok(())
    }

    /// Waits until the record is gone.
    async fn until_gone(&self, tenant: TenantId, key: &str) -> Result<(), DbError> {
        let scopes = self.scopes(SCOPE)?;
        while self.db.kv_exists(tenant, key, &scopes).await? {
            tokio::time::sleep(LOOK_PACE).await;
        }
        Ok(())
    }
}

async fn until_at(at: Timestamp) {
    let wait = at.duration_since(Timestamp::now());
    tokio::time::sleep(Duration::try_from(wait).unwrap_or_default()).await;
}

/// The upper bound of the bucket that so much of all stays within.
fn bound(histogram: &LatenessHistogram, part: f64) -> f64 {
    let wanted = (histogram.count() as f64 * part).ceil() as u64;
    let mut seen = 0;
    for (bound, count) in histogram.buckets() {
        seen += count;
        if seen >= wanted {
            return bound.map_or(f64::INFINITY, |bound| bound as f64);
        }
    }
    f64::NAN
}
