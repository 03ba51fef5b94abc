//! What does a value cost against plain `serde_json::Value`, to write and to read?

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jiff::{SignedDuration, Timestamp};
use worker_core::Value;

/// What a template keeps of a member, 20 times.
fn record() -> Value {
    let member = |n: i64| {
        Value::from([
            ("id", Value::Text(format!("{}", 81_384_788_765_712_384 + n))),
            ("joins", Value::Integer(n)),
            ("score", Value::Float(n as f64 / 7.0)),
            ("roles", Value::List((0..4).map(Value::Integer).collect())),
            ("seen", Value::Timestamptz(Timestamp::UNIX_EPOCH)),
            ("muted", Value::Interval(SignedDuration::from_mins(n))),
        ])
    };
    Value::List((0..20).map(member).collect())
}

fn benches(c: &mut Criterion) {
    let value = record();
    let json = value.to_json().expect("because the record is finite and shallow");
    let plain: serde_json::Value = serde_json::from_str(&json).expect("because it was just written");

    let mut group = c.benchmark_group("what does a Value cost against serde_json's?");
    group.throughput(Throughput::Bytes(json.len() as u64));
    group.bench_function("write: Value", |b| b.iter(|| black_box(&value).to_json()));
    group.bench_function("write: serde_json", |b| b.iter(|| serde_json::to_string(black_box(&plain))));
    group.bench_function("read: Value", |b| b.iter(|| Value::from_json(black_box(json.as_bytes()))));
    group.bench_function("read: serde_json", |b| {
        b.iter(|| serde_json::from_slice::<serde_json::Value>(black_box(json.as_bytes())))
    });
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
