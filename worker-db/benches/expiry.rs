//! What does a record cost that is due? On an embedded database in memory and in a file, beside many that are not due.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use jiff::{SignedDuration, Timestamp};
use worker_core::TenantId;
use worker_db::{Attempt, ClaimedRecord, DbConfig, DueCursor, ExpirySession, Scopes, WorkerDb};

const GUILD: TenantId = TenantId::guild(81384788765712384);
const OTHER: TenantId = TenantId::guild(81384788765712385);
/// Records that are not due.
const PENDING: usize = 20_000;
/// Records that are claimed at once.
const BATCH: usize = 64;
/// Records that are read at once.
const PAGE: usize = 1_024;

/// What is measured of records that were just written and are due.
#[derive(Clone, Copy)]
enum Step {
    Claim,
    PutOff,
    Complete,
}

struct Bench {
    db: WorkerDb,
    session: ExpirySession,
    scopes: Scopes,
    written: usize,
}

impl Bench {
    async fn over(url: &str) -> Self {
        let db = WorkerDb::connect(url, DbConfig::default()).await.expect("it opens");
        let scopes = Scopes::new(["reminders"], db.kv_limits()).expect("scopes");
        let far = Timestamp::now() + SignedDuration::from_hours(100);
        let step = SignedDuration::from_micros(1);
        db.expiry_fill(OTHER, &scopes, 0..PENDING, far, step).await.expect("it is written");
        let session = db.expiry_session("bench", 0).await.expect("a session");
        Self { db, session, scopes, written: 0 }
    }

    /// Takes a batch through all steps, and measures one.
    async fn batch(&mut self, measured: Step) -> Duration {
        let numbers = self.written..self.written + BATCH;
        self.written = numbers.end;
        let past = Timestamp::now() - SignedDuration::from_hours(1);
        let step = SignedDuration::from_micros(1);
        self.db.expiry_fill(GUILD, &self.scopes, numbers, past, step).await.expect("it is written");
        let claimed = {
            let (claimed, took) = self.claim().await;
            match measured {
                Step::Claim => {
                    self.complete(&claimed).await;
                    return took;
                }
                Step::Complete => return self.complete(&claimed).await,
                Step::PutOff => claimed,
            }
        };
        let now = Timestamp::now();
        let put_off: Vec<_> = claimed.into_iter().map(|record| (record, now, Attempt::Counts)).collect();
        let begun = Instant::now();
        self.db.expiry_put_off(&put_off).await.expect("they are put off");
        let took = begun.elapsed();
        let (claimed, _) = self.claim().await;
        self.complete(&claimed).await;
        took
    }

    async fn claim(&self) -> (Vec<ClaimedRecord>, Duration) {
        let from = DueCursor::before(Timestamp::MIN);
        let due = self.db.expiry_due(Timestamp::now(), &from, BATCH).await.expect("it is read").records;
        let lease_until = Timestamp::now() + SignedDuration::from_secs(15);
        let begun = Instant::now();
        let claimed = self.db.expiry_claim(self.session, &due, lease_until).await.expect("they are claimed");
        let took = begun.elapsed();
        assert_eq!(claimed.len(), BATCH);
        (claimed, took)
    }

    async fn complete(&self, claimed: &[ClaimedRecord]) -> Duration {
        let begun = Instant::now();
        assert_eq!(self.db.expiry_complete(claimed).await.expect("they are removed"), BATCH);
        begun.elapsed()
    }
}

fn expiry(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let file = format!("sqlite:{}", folder.path().join("bench.db").display());
    for (store, url) in [("memory", "sqlite::memory:"), ("file", &file)] {
        let mut bench = runtime.block_on(Bench::over(url));
        let mut group = criterion.benchmark_group("what_do_64_due_records_cost");
        group.throughput(Throughput::Elements(BATCH as u64));
        for (name, step) in [("claim", Step::Claim), ("put_off", Step::PutOff), ("complete", Step::Complete)] {
            group.bench_function(BenchmarkId::new(name, store), |bencher| {
                bencher.iter_custom(|times| {
                    runtime.block_on(async {
                        let mut all = Duration::ZERO;
                        for _ in 0..times {
                            all += bench.batch(step).await;
                        }
                        all
                    })
                });
            });
        }
        group.finish();
        let mut group = criterion.benchmark_group("what_does_a_look_at_what_is_due_cost");
        let (now, never) = (Timestamp::now(), Timestamp::MAX);
        for (name, until) in [("nothing", now), ("1024", never)] {
            let from = DueCursor::before(Timestamp::MIN);
            group.bench_function(BenchmarkId::new(name, store), |bencher| {
                bencher.iter(|| runtime.block_on(bench.db.expiry_due(until, &from, PAGE)).expect("it is read"));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, expiry);
criterion_main!(benches);
