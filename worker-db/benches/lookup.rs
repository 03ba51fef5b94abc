//! Who is an event for? The cost of one look-up, as the number of tenants that a worker holds grows: each look-up is of
//! another tenant, so that large numbers pay for cold memory as a real worker does.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use worker_core::{Capabilities, CompatDate, Event, EventName, TemplateName, TenantId};
use worker_db::{CacheBounds, DbConfig, FileMap, NewTemplate, SharedCache, WorkerCacheData, WorkerDb};

/// Half of the tenants have three templates, half have none of their own.
async fn cache(tenants: u64) -> WorkerCacheData {
    let db = WorkerDb::connect("sqlite::memory:", DbConfig::default()).await.expect("memory opens");
    let bounds = CacheBounds { tenants_max: usize::MAX, files_bytes_max: usize::MAX };
    let cache = WorkerCacheData::with_bounds(db.clone(), SharedCache::new(Default::default()), None, bounds);
    for id in 0..tenants {
        let tenant = TenantId::guild(id << 22 | 1);
        for (name, events) in [
            ("spam", &["MESSAGE", "MESSAGE_UPDATE", "KeyExpiry[spam]"][..]),
            ("joins", &["GUILD_MEMBER_ADD", "GUILD_MEMBER_REMOVE", "KeyExpiry[joins]"]),
            ("log", &["MESSAGE_DELETE", "GUILD_BAN_ADD", "GUILD_BAN_REMOVE", "CHANNEL_CREATE", "CHANNEL_DELETE"]),
        ] {
            if id % 2 == 0 {
                let template = NewTemplate {
                    name: TemplateName::new(name).expect("a name"),
                    files: FileMap::from([("init.luau".into(), "return 1".into())]),
                    events: events.iter().map(|event| event.to_string()).collect(),
                    allowed_caps: Capabilities::default(),
                    error_channel: None,
                    compat: CompatDate::NEWEST,
                    paused: false,
                };
                db.template_create(tenant, template).await.expect("a new template");
            }
        }
        cache.load(tenant).await.expect("it loads");
    }
    cache
}

fn lookup(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let events = [
        ("nobody", Event::discord("PRESENCE_UPDATE", Bytes::new())),
        ("one", Event::discord("MESSAGE_CREATE", Bytes::new())),
        ("scoped", Event::antiraid(EventName::KEY_EXPIRY, Bytes::new()).with_scopes(["spam", "1234567890"])),
    ];
    let mut group = criterion.benchmark_group("who_is_an_event_for");
    for tenants in [1, 100, 10_000] {
        let cache = runtime.block_on(cache(tenants));
        for (name, event) in &events {
            group.bench_function(BenchmarkId::new(*name, tenants), |bencher| {
                let mut id = 0;
                bencher.iter(|| {
                    id = (id + 7_919) % tenants;
                    cache.lookup(black_box(TenantId::guild(id << 22 | 1)), black_box(event))
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, lookup);
criterion_main!(benches);
