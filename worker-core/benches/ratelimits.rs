//! What does a rate limit cost a call?

use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use worker_core::{Quota, RatelimitFamily, RatelimitRules, Ratelimits, StaticRef};

fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("what does a rate limit cost a call?");
    let much = Quota::per(NonZeroU32::MAX, Duration::from_secs(1));
    let little = Quota::per(NonZeroU32::MIN, Duration::from_secs(3_600));
    let rules = RatelimitRules::unlimited()
        .with_global(RatelimitFamily::Kv, [much])
        .with_bucket(RatelimitFamily::Kv, "two", [much, much])
        .with_bucket(RatelimitFamily::Kv, "full", [little]);
    let limits = Ratelimits::new(StaticRef::new(rules));
    let take = |family, bucket| limits.take(family, black_box(bucket), 1);

    group.bench_function("no limit", |b| b.iter(|| take(RatelimitFamily::Http, "get").is_ok()));
    group.bench_function("a global limit", |b| b.iter(|| take(RatelimitFamily::Kv, "get").is_ok()));
    group.bench_function("a global limit and two of the bucket", |b| {
        b.iter(|| take(RatelimitFamily::Kv, "two").is_ok())
    });
    let _ = take(RatelimitFamily::Kv, "full");
    group.bench_function("refused", |b| b.iter(|| take(RatelimitFamily::Kv, "full").is_err()));
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
