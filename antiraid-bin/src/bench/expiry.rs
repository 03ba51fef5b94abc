//! Records that expire: how late their events are, how fast many at once are done with, what they cost.

use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use worker_core::{Capabilities, CompatDate, KvLimits, LatenessHistogram, TemplateName, TenantId, WorkerLike};
use worker_db::{DbConfig, DbError, FileMap, KvSet, NewTemplate, Scopes, WorkerDb};

use super::harness::{Harness, tenant, tireless};
use super::paired::{by_turns, nanoseconds};
use super::{Bar, BenchError, BenchRow, Effort, Unit};
use crate::cli::CommandError;
use crate::replay_report::resident_memory_bytes;

/// Where a server for the measurement is named: its database is filled, and left so.
const POSTGRES: &str = "ANTIRAID_TEST_POSTGRES";
/// Tenants that records are spread over.
const TENANTS: usize = 100;
/// Records that come due in a second.
const PER_SECOND: usize = 500;
/// Writes in flight while records are prepared.
const WRITES: usize = 8;
/// Between two looks whether a record is gone.
const LOOK_PACE: Duration = Duration::from_millis(1);

/// On a SQLite file.
pub(super) fn sqlite(effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
    let folder = tempfile::tempdir()?;
    measure("expiry-sqlite", &format!("sqlite:{}", folder.path().join("bench.db").display()), effort)
}

/// On a PostgreSQL server, if one is named.
#[expect(clippy::disallowed_methods, reason = "this is the crate that reads the environment")]
pub(super) fn postgres(effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
    match std::env::var(POSTGRES) {
        Ok(url) => measure("expiry-postgres", &url, effort),
        Err(_) => Ok(Vec::new()),
    }
}

fn measure(name: &'static str, url: &str, effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
    let kv = KvLimits { rows_max: 1 << 30, bytes_max: 1 << 40, ..KvLimits::default() };
    let harness = Harness::over_with(url, tireless(), DbConfig { kv, ..DbConfig::default() })?;
    let bench = Bench { db: harness.db(), name };
    let mut rows = vec![bench.cost_of_an_expiry(&harness, effort)?];
    harness.block_on(bench.install())?;
    let pending = effort.choose(1_000_000, 20_000);
    harness.block_on(
        bench.write(pending, |n| (tenant(n % TENANTS), Timestamp::now() + SignedDuration::from_hours(9_000))),
    )?;
    rows.extend(harness.block_on(bench.lateness(&harness, pending, effort))?);
    rows.extend(harness.block_on(bench.burst(&harness, effort))?);
    Ok(rows)
}

struct Bench {
    db: WorkerDb,
    name: &'static str,
}

impl Bench {
    fn row(&self, question: impl Into<String>, unit: Unit, measured: f64, bar: f64) -> BenchRow {
        BenchRow::alone(self.name, question, unit, measured).with_bar(Bar::Measured(bar))
    }

    fn record(&self, key: String, expires_at: Option<Timestamp>) -> Result<KvSet, DbError> {
        let scopes = Scopes::new(["bench"], self.db.kv_limits())?;
        Ok(KvSet { key, value_json: "1".into(), scopes, expires_at, resume: false })
    }

    /// Writes so many records, several at a time.
    async fn write(&self, count: usize, which: impl Fn(usize) -> (TenantId, Timestamp)) -> Result<(), DbError> {
        let writes = stream::iter(0..count).map(|n| {
            let (tenant, expires_at) = which(n);
            let set = self.record(format!("{}-{n}", expires_at.as_microsecond()), Some(expires_at));
            async move { self.db.kv_set(tenant, set?).await.map(drop) }
        });
        writes.buffer_unordered(WRITES).try_collect().await
    }

    async fn install(&self) -> Result<(), DbError> {
        let template = NewTemplate {
            name: TemplateName::new("bench").expect("because it is a good name"),
            files: FileMap::from([("init.luau".to_owned(), "local evt = ... return evt.data.key".to_owned())]),
            events: vec!["KeyExpiry[bench]".to_owned()],
            allowed_caps: Capabilities::default(),
            error_channel: None,
            compat: CompatDate::NEWEST,
            paused: false,
        };
        let tenants: Vec<_> = (0..TENANTS).map(tenant).collect();
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

    /// With so many records pending.
    async fn lateness(&self, harness: &Harness, pending: usize, effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
        let seconds = effort.choose(20, 3);
        // Long enough to write them before.
        let begin = Timestamp::now() + SignedDuration::from_secs(effort.choose(15, 4));
        let pace = SignedDuration::from_micros(1_000_000 / PER_SECOND as i64);
        self.write(seconds * PER_SECOND, |n| (tenant(n % TENANTS), begin + pace * n as i32)).await?;
        let first = Timestamp::now() + SignedDuration::from_millis(20);
        self.write(1, |_| (tenant(0), first)).await?;
        until_at(first).await;

        let before = resident_memory_bytes().ok_or(BenchError::NoMemoryFigures)?;
        let started = Instant::now();
        let worker = harness.worker_here();
        self.until_gone(tenant(0), first, 0).await?;
        let start = started.elapsed();
        let after_start = resident_memory_bytes().ok_or(BenchError::NoMemoryFigures)?;
        let ahead = worker.stats().await.map_err(BenchError::Worker)?.expiry_lateness;
        until_at(begin + pace * (seconds * PER_SECOND) as i32 + SignedDuration::from_secs(2)).await;
        let stats = worker.stats().await.map_err(BenchError::Worker)?;
        worker.kill().await.map_err(BenchError::Worker)?;
        let all = stats.expiry_lateness;
        if all.count() - ahead.count() < (seconds * PER_SECOND) as u64 {
            let got = format!("{} of {}", all.count() - ahead.count(), seconds * PER_SECOND);
            return Err(BenchError::Unexpected { expected: "all records to be handled", got }.into());
        }
        let kilobytes = after_start.saturating_sub(before) as f64 / 1e3;
        let question = |what: &str| format!("  {what}, {} pending", indicatif::HumanCount(pending as u64));
        Ok(vec![
            self.row(
                format!("Lateness, {PER_SECOND} a second: the median is at most"),
                Unit::Milliseconds,
                bound(&all, 0.5),
                5.0,
            ),
            self.row("  99 of 100 are late by at most", Unit::Milliseconds, bound(&all, 0.99), 25.0),
            self.row(
                question("from the start to the first one done"),
                Unit::Milliseconds,
                start.as_secs_f64() * 1e3,
                2_000.0,
            ),
            self.row(question("memory of the worker"), Unit::Kilobytes, kilobytes, 64_000.0),
        ])
    }

    /// Many of one tenant at once, and one of another in their midst.
    async fn burst(&self, harness: &Harness, effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
        let count = effort.choose(100_000, 5_000);
        let worker = harness.worker_here();
        let at = Timestamp::now() + SignedDuration::from_secs(effort.choose(70, 5));
        self.write(count, |n| (tenant(1), at + SignedDuration::from_micros(n as i64))).await?;
        let single = at + SignedDuration::from_millis(300);
        self.write(1, |_| (tenant(2), single)).await?;
        until_at(at).await;
        let begun = Instant::now();
        self.until_gone(tenant(2), single, 0).await?;
        let late = Timestamp::now().duration_since(single).as_secs_f64() * 1e3;
        let handled = |stats: worker_core::WorkerStats| stats.expiries_handled as usize;
        while handled(worker.stats().await.map_err(BenchError::Worker)?) < count + 1 {
            tokio::time::sleep(LOOK_PACE).await;
        }
        let each = begun.elapsed().as_secs_f64() * 1e6 / count as f64;
        worker.kill().await.map_err(BenchError::Worker)?;
        let question = format!("{} at once of one tenant: each", indicatif::HumanCount(count as u64));
        Ok(vec![
            self.row(question, Unit::Microseconds, each, 200.0),
            self.row("  another tenant's single one, done with after", Unit::Milliseconds, late, 100.0),
        ])
    }

    /// Waits until the `n`th record of this expiry is gone.
    async fn until_gone(&self, tenant: TenantId, expires_at: Timestamp, n: usize) -> Result<(), DbError> {
        let record = self.record(format!("{}-{n}", expires_at.as_microsecond()), None)?;
        while self.db.kv_exists(tenant, &record.key, &record.scopes).await? {
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
