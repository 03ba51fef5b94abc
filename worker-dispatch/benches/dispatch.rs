//! What does an event cost through the dispatcher, in one thread, against the bare Luau C API? And how long do others
//! wait beside a hog?

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::mpsc;
use worker_core::{
    CompatDate, Event, Limits, RatelimitRules, StaticRef, TemplateFiles, TemplateLimits, TemplateName, TenantId,
    WorkerFilter, WorkerId, WorkerLike,
};
use worker_db::{DbConfig, FileMap, NewTemplate, SharedCache, SharedCacheConfig, WorkerCacheData, WorkerDb};
use worker_dispatch::WorkerDispatcher;
use worker_vm::floor::{EVENT_JSON, Floor, HANDLER};
use worker_vm::{Links, WorkerState, WorkerVmManager};

const SIZES: [u64; 3] = [1, 100, 1_000];

/// As worker-pool makes it for a worker's thread.
fn runtime() -> LocalRuntime {
    Builder::new_current_thread()
        .enable_all()
        .event_interval(4)
        .global_queue_interval(4)
        .build_local(LocalOptions::default())
        .expect("a runtime")
}

fn tenant(number: u64) -> TenantId {
    TenantId::guild((number + 1) << 22)
}

async fn install(db: &WorkerDb, tenant: TenantId, source: &str) {
    let template = NewTemplate {
        name: TemplateName::new("bench").expect("a name"),
        files: FileMap::from([("init.luau".into(), source.into())]),
        events: vec!["MESSAGE".into()],
        allowed_caps: Default::default(),
        error_channel: None,
        compat: CompatDate::NEWEST,
        paused: false,
    };
    db.template_create(tenant, template).await.expect("a new template");
}

/// A dispatcher; a bench is one long event to a tenant's share of CPU time, so that has no bound here.
fn dispatcher(db: &WorkerDb) -> WorkerDispatcher {
    let day = Duration::from_secs(24 * 60 * 60);
    let limits = Limits { dispatch_cpu_max: day, tenant_cpu_max: day, tenant_cpu_window: day, ..Limits::default() };
    let limits = StaticRef::new(limits);
    let shared = SharedCache::new(SharedCacheConfig::default());
    let cache = WorkerCacheData::new(db.clone(), shared.clone(), None, limits.clone());
    let library = TemplateFiles::new(Vec::<(&str, &str)>::new(), &TemplateLimits::default()).expect("no files");
    let links = Links {
        support_server: String::new(),
        api_url: String::new(),
        frontend_url: String::new(),
        docs_url: String::new(),
    };
    let rules = StaticRef::new(RatelimitRules::default());
    let state = WorkerState::new(db.clone(), shared, library.into(), rules, links);
    let vms = WorkerVmManager::new(state, cache.clone(), limits.clone());
    WorkerDispatcher::new(WorkerId::new(1), vms, cache, db.clone(), WorkerFilter::all(), limits)
}

/// So many tenants with the floor's handler, each warm.
async fn warm(tenants: u64) -> (WorkerDb, WorkerDispatcher) {
    let db = WorkerDb::connect("sqlite::memory:", DbConfig::default()).await.expect("memory opens");
    let dispatcher = dispatcher(&db);
    for number in 0..tenants {
        install(&db, tenant(number), &format!("local evt = ...\nlocal data = evt.data\n{HANDLER}")).await;
        dispatch(&dispatcher, tenant(number), &event()).await;
    }
    (db, dispatcher)
}

fn event() -> Event {
    Event::discord("MESSAGE_CREATE", EVENT_JSON.as_bytes().into())
}

async fn dispatch(dispatcher: &WorkerDispatcher, tenant: TenantId, event: &Event) {
    let result = dispatcher.dispatch(tenant, event.clone()).await.expect("it is handled");
    assert!(result.templates[0].outcome.is_ok(), "{result:?}");
}

/// A cheap generator: the order of tenants must not be one that a cache can learn.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 16
}

fn what_does_an_event_cost(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("what_does_an_event_cost_through_the_dispatcher");
    group.throughput(Throughput::Elements(1));
    for tenants in SIZES {
        let mut order = 88_172_645_463_325_252;
        let floor = Floor::new(tenants as usize);
        group.bench_function(BenchmarkId::new("floor", tenants), |bencher| {
            bencher.iter(|| floor.run((next(&mut order) % tenants) as usize, EVENT_JSON.as_bytes()));
        });
        drop(floor);

        let runtime = runtime();
        let (_db, dispatcher) = runtime.block_on(warm(tenants));
        group.bench_function(BenchmarkId::new("dispatcher", tenants), |bencher| {
            bencher.iter_custom(|events| {
                runtime.block_on(async {
                    let event = event();
                    let began = Instant::now();
                    for _ in 0..events {
                        dispatch(&dispatcher, tenant(next(&mut order) % tenants), &event).await;
                    }
                    began.elapsed()
                })
            });
        });
        let nobodys = Event::discord("PRESENCE_UPDATE", EVENT_JSON.as_bytes().into());
        group.bench_function(BenchmarkId::new("nobody_subscribed", tenants), |bencher| {
            bencher.iter(|| dispatcher.dispatch_nowait(tenant(next(&mut order) % tenants), nobodys.clone()));
        });
    }
    group.finish();
}

/// What runs beside those whose latency is measured.
#[derive(Clone, Copy)]
enum Beside {
    Nothing,
    Hogs(u64),
    Sleepers(u64),
}

/// Latencies of 200 tenants' events, 1,000 a second, from when each was sent by another thread.
fn latencies(beside: Beside, time: Duration) -> Vec<Duration> {
    const OTHERS: u64 = 200;
    runtime().block_on(async {
        let (db, dispatcher) = warm(OTHERS).await;
        let (source, count) = match beside {
            Beside::Nothing => ("", 0),
            Beside::Hogs(count) => ("while true do end", count),
            Beside::Sleepers(count) => ("task.wait(30)", count),
        };
        let mut beside = Vec::new();
        for number in OTHERS..OTHERS + count {
            install(&db, tenant(number), source).await;
            beside.push(dispatcher.dispatch(tenant(number), event()));
        }
        // Until they run.
        while dispatcher.stats().await.expect("it lives").templates_run < OTHERS + count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }

        let (sender, mut events) = mpsc::unbounded_channel();
        let sending = tokio::task::spawn_blocking(move || {
            let mut order = 88_172_645_463_325_252;
            let mut at = Instant::now();
            let end = at + time;
            while at < end {
                at += Duration::from_millis(1);
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
                let _ = sender.send((Instant::now(), tenant(next(&mut order) % OTHERS)));
            }
        });
        let latencies = Rc::new(Cell::new(Vec::new()));
        let event = event();
        while let Some((sent, tenant)) = events.recv().await {
            let reply = dispatcher.dispatch(tenant, event.clone());
            let latencies = latencies.clone();
            tokio::task::spawn_local(async move {
                reply.await.expect("it is handled");
                let mut all = latencies.take();
                all.push(sent.elapsed());
                latencies.set(all);
            });
        }
        sending.await.expect("it sends");
        dispatcher.kill().await.expect("it ends");
        let mut latencies = latencies.take();
        latencies.sort_unstable();
        latencies
    })
}

/// Printed, not compared by criterion: a percentile is no mean.
fn how_long_do_others_wait(_: &mut Criterion) {
    let is_smoke = std::env::args().any(|argument| argument == "--test");
    let time = if is_smoke { Duration::from_millis(50) } else { Duration::from_secs(5) };
    println!("how long do 200 tenants wait, 1,000 events/s in all, in one thread?");
    for (name, beside) in [
        ("beside nothing", Beside::Nothing),
        ("beside 1 hog", Beside::Hogs(1)),
        ("beside 5 hogs", Beside::Hogs(5)),
        ("beside 1,000 sleepers", Beside::Sleepers(1_000)),
    ] {
        let all = latencies(beside, time);
        let percentile = |percent: usize| all[(all.len() - 1) * percent / 100];
        println!(
            "  {name:22} p50 {:>10.3?}  p90 {:>10.3?}  p99 {:>10.3?}  max {:>10.3?}  ({} events)",
            percentile(50),
            percentile(90),
            percentile(99),
            percentile(100),
            all.len()
        );
    }
}

criterion_group!(benches, what_does_an_event_cost, how_long_do_others_wait);
criterion_main!(benches);
