//! Pools act as one worker, and pools in pools use all of theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, Weak};

use worker_core::contract::{Order, TestEngine};
use worker_core::{Routing, TenantId, Value, WorkerError, WorkerErrorKind, WorkerFilter, WorkerId, WorkerLike};
use worker_pool::{Poolable, WorkerPool, WorkerPoolConfig, WorkerThread, WorkerThreadConfig};

use crate::{Engine, TENANT, WHO, answer, chain, config, echo, named, restarts, value};

type Nested = WorkerPool<WorkerPool<WorkerThread>>;

fn pool<C>(workers: usize, worker: C) -> WorkerPoolConfig<C> {
    WorkerPoolConfig { workers: NonZeroUsize::new(workers).unwrap(), worker }
}

async fn start<W: Poolable>(routing: Routing, config: &W::Config) -> Result<W, WorkerError> {
    W::start(WorkerId::new(0), WorkerFilter::all(), routing, config).await
}

fn tenants() -> impl Iterator<Item = TenantId> {
    (1..=300).map(|k| TenantId::guild(k << 22))
}

/// Which worker serves each tenant. Fails if one gets a tenant that its filter does not own.
async fn owners(pool: &impl WorkerLike) -> BTreeMap<TenantId, u32> {
    let replies: Vec<_> = tenants().map(|tenant| (tenant, pool.dispatch(tenant, named(WHO)))).collect();
    let mut owners = BTreeMap::new();
    for (tenant, reply) in replies {
        let Value::Integer(id) = value(reply).await else { panic!("not an id") };
        owners.insert(tenant, id.try_into().unwrap());
    }
    owners
}

#[tokio::test]
async fn nested_pools_use_all_their_workers_and_each_tenant_has_one_owner() {
    for routing in [Routing::default(), Routing::Rendezvous { seed: 5 }] {
        let config = pool(2, pool(3, config(&TestEngine::new())));
        let nested: Nested = start(routing, &config).await.unwrap();
        let first = owners(&nested).await;
        let used: BTreeSet<_> = first.values().copied().collect();
        // 0 is the pool itself; 1 and 5 are the pools inside.
        assert_eq!(used, BTreeSet::from([2, 3, 4, 6, 7, 8]), "{routing:?}");
        assert_eq!(owners(&nested).await, first, "{routing:?}");
        for id in used {
            let tenants = first.values().filter(|&&owner| owner == id).count();
            assert!((20..=90).contains(&tenants), "worker {id} has {tenants} of 300 tenants with {routing:?}");
        }
        answer(nested.kill()).await.unwrap();
    }
}

#[tokio::test]
async fn ids_are_unique_in_a_tree_of_pools() {
    let config = pool(2, pool(3, config(&TestEngine::new())));
    let nested: Nested = start(Routing::default(), &config).await.unwrap();
    let mut ids = vec![nested.id()];
    for inner in nested.members() {
        ids.push(inner.id());
        ids.extend(inner.members().iter().map(WorkerThread::id));
    }
    assert_eq!(ids, (0..9).map(WorkerId::new).collect::<Vec<_>>());
    assert_eq!(Nested::ids(&config), 9);
}

#[tokio::test]
async fn figures_are_the_sums_of_all_members() {
    let nested: Nested = start(Routing::default(), &pool(2, pool(3, config(&TestEngine::new())))).await.unwrap();
    for tenant in tenants() {
        nested.dispatch_nowait(tenant, echo());
    }
    // Figures overtake events; an answered event of each tenant is behind its first.
    for tenant in tenants() {
        answer(nested.dispatch(tenant, echo())).await.unwrap();
    }
    let stats = answer(nested.stats()).await.unwrap();
    assert_eq!((stats.workers, stats.events, stats.events_queued), (6, 600, 0));
}

#[tokio::test]
async fn a_pool_that_cannot_start_stops_what_it_started_and_says_which_failed() {
    let started: Arc<Mutex<Vec<Weak<()>>>> = Arc::default();
    let (seen, engine) = (Arc::clone(&started), TestEngine::new());
    let thread = WorkerThreadConfig::new(move |id, filter| {
        let alive = Arc::new(());
        seen.lock().unwrap().push(Arc::downgrade(&alive));
        let engine = Engine::new(&engine, id, filter);
        async move {
            if id == WorkerId::new(6) {
                return Err(WorkerError::new(WorkerErrorKind::Storage, "the database is away"));
            }
            tokio::task::spawn_local(async move {
                std::future::pending::<()>().await;
                drop(alive);
            });
            Ok(engine)
        }
    });
    let error = start::<Nested>(Routing::default(), &pool(2, pool(3, thread))).await.unwrap_err();
    assert_eq!(error.kind(), WorkerErrorKind::Storage);
    assert_eq!(
        chain(&error),
        "storage: member 1 (worker 5) of pool 0 did not start: \
         storage: member 0 (worker 6) of pool 5 did not start: storage: the database is away"
    );
    let started = started.lock().unwrap();
    assert_eq!(started.len(), 6, "they start at the same time, so all have begun");
    assert!(started.iter().all(|alive| alive.strong_count() == 0));
}

#[tokio::test]
async fn a_pool_works_on_without_a_member_that_gave_up() {
    let thread = config(&TestEngine::new()).with_restarts(restarts(0));
    let pool: WorkerPool<WorkerThread> = start(Routing::default(), &pool(2, thread)).await.unwrap();
    let (bad, good) = (TenantId::guild(1 << 22), TenantId::guild(2 << 22));
    answer(pool.dispatch(bad, Order::Panic.event())).await.unwrap_err();
    let gone = answer(pool.dispatch(bad, echo())).await.unwrap_err();
    assert!(gone.to_string().contains("worker 2 gave up"), "{gone}");
    answer(pool.dispatch(good, echo())).await.unwrap();
    assert_eq!(answer(pool.stats()).await.unwrap().workers, 1);
    answer(pool.drain()).await.unwrap();
    assert_eq!(answer(pool.stats()).await.unwrap_err().kind(), WorkerErrorKind::WorkerGone);
    answer(pool.kill()).await.unwrap();
}

#[tokio::test]
async fn a_pool_of_threads_is_replaced_and_loses_nothing() {
    let engine = TestEngine::new();
    let worker = WorkerThreadConfig::new(move |id, _| {
        let worker = engine.worker(id);
        async move { Ok(worker) }
    });
    let pool: WorkerPool<WorkerThread> = start(Routing::default(), &pool(2, worker)).await.unwrap();
    let count = || pool.dispatch(TENANT, Order::Count.event());
    let held = pool.dispatch(TENANT, Order::Hold.event());
    let before = [count(), count()];
    let (replaced, after) = tokio::join!(pool.replace_all(), async { [count(), count()] });
    replaced.unwrap();
    assert!(held.await.is_ok(), "what runs ends well");
    for reply in before.into_iter().chain(after) {
        reply.await.unwrap();
    }
    let counted = value(count()).await;
    assert!(matches!(counted, Value::Integer(1..=3)), "{counted:?}: it is another engine");
    assert_eq!(pool.stats().await.unwrap().restarts, 0);
}
