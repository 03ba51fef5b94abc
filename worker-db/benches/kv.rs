//! What does a record cost? On an embedded database in memory and in a file; a file's figures depend on the disk.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use jiff::{Timestamp, ToSpan};
use worker_core::TenantId;
use worker_db::{DbConfig, KvFindPage, KvSet, Scopes, WorkerDb};

const GUILD: TenantId = TenantId::guild(81384788765712384);

fn kv(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let file = format!("sqlite:{}", folder.path().join("bench.db").display());
    let mut group = criterion.benchmark_group("what_does_a_record_cost");
    for (store, url) in [("memory", "sqlite::memory:"), ("file", &file)] {
        let db = runtime.block_on(WorkerDb::connect(url, DbConfig::default())).expect("it opens");
        let scopes = Scopes::new(["counters", "81384788765712384"], db.kv_limits()).expect("scopes");
        let set = |key: usize, expires_at| KvSet {
            key: format!("key {key}"),
            value_json: format!("{{\"n\":{key},\"text\":\"{}\"}}", "x".repeat(180)),
            scopes: scopes.clone(),
            expires_at,
            resume: false,
        };
        runtime.block_on(async {
            for key in 0..1_000 {
                db.kv_set(GUILD, set(key, None)).await.expect("it is written");
            }
        });
        let mut key = 0;
        let mut next = || {
            key = (key + 7) % 1_000;
            key
        };
        group.bench_function(BenchmarkId::new("get", store), |bencher| {
            bencher
                .iter(|| runtime.block_on(db.kv_get(GUILD, &format!("key {}", next()), &scopes)).expect("it is read"));
        });
        for (name, expires_at) in [("set", None), ("set_with_expiry", Some(Timestamp::now() + 100.hours()))] {
            group.bench_function(BenchmarkId::new(name, store), |bencher| {
                bencher.iter(|| runtime.block_on(db.kv_set(GUILD, set(next(), expires_at))).expect("it is written"));
            });
        }
        group.bench_function(BenchmarkId::new("incr", store), |bencher| {
            bencher.iter(|| runtime.block_on(db.kv_incr(GUILD, "n", &scopes, 1.0)).expect("it is written"));
        });
        group.bench_function(BenchmarkId::new("find_100_of_1000", store), |bencher| {
            let page = || KvFindPage { limit: Some(100), after: None };
            bencher.iter(|| runtime.block_on(db.kv_find(GUILD, "KEY 5%", &scopes, page())).expect("it is read"));
        });
    }
    group.finish();
}

criterion_group!(benches, kv);
criterion_main!(benches);
