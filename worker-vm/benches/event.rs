//! What does an event cost in the tenant's VM, against the bare Luau C API?

#[path = "support/mod.rs"]
mod support;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::{Bench, runtime, tenant};
use worker_vm::floor::{EVENT_JSON, Floor};

const SIZES: [usize; 3] = [1, 100, 1_000];

/// A cheap generator: the order of tenants must not be one that a cache can learn.
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 16) as usize
}

fn event(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("What does an event cost in a VM?");
    group.throughput(Throughput::Elements(1));
    for tenants in SIZES {
        let floor = Floor::new(tenants);
        let mut order = 88_172_645_463_325_252;
        group.bench_function(BenchmarkId::new("floor", tenants), |b| {
            b.iter(|| floor.run(next(&mut order) % tenants, EVENT_JSON.as_bytes()));
        });
        drop(floor);
        let runtime = runtime();
        runtime.block_on(async {
            let bench = Bench::new(tenants).await;
            let event = Bench::event();
            group.bench_function(BenchmarkId::new("runtime", tenants), |b| {
                b.iter(|| assert!(bench.run(next(&mut order) % tenants, &event)));
            });
        });
    }
    group.finish();
}

fn cold(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("What does the first event of a cold tenant cost?");
    let bytecode = Floor::bytecode();
    group.bench_function("floor", |b| b.iter(|| Floor::cold(&bytecode, EVENT_JSON.as_bytes())));
    runtime().block_on(async {
        let bench = Bench::new(1).await;
        let event = Bench::event();
        group.bench_function("runtime", |b| {
            b.iter(|| {
                bench.vms.retire(tenant(0));
                assert!(bench.run(0, &event));
            });
        });
    });
    group.finish();
}

criterion_group!(benches, event, cold);
criterion_main!(benches);
