//! What does `StaticRef` gain against `Arc`, for a handle that is cloned and read for every event?

use std::hint::black_box;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use worker_core::{Limits, StaticRef};

/// Clones the handle, reads through the clone, and drops it.
fn touch<H: Clone + Deref<Target = Limits>>(handle: &H) -> usize {
    let clone = black_box(handle).clone();
    black_box(clone.threads_max)
}

/// Measures in this thread while another one does the same, or does not.
fn measure<H>(c: &mut Criterion, name: &str, handle: H)
where
    H: Clone + Send + Sync + Deref<Target = Limits>,
{
    let mut group = c.benchmark_group("what does StaticRef gain against Arc, a clone and a read?");
    group.bench_function(BenchmarkId::new(name, "1 thread"), |b| b.iter(|| touch(&handle)));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                touch(&handle);
            }
        });
        group.bench_function(BenchmarkId::new(name, "2 threads"), |b| b.iter(|| touch(&handle)));
        stop.store(true, Ordering::Relaxed);
    });
    group.finish();
}

fn benches(c: &mut Criterion) {
    measure(c, "StaticRef", StaticRef::new(Limits::default()));
    measure(c, "Arc", Arc::new(Limits::default()));
}

criterion_group!(all, benches);
criterion_main!(all);
