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
    for inner in &*nested.members() {
        ids.push(inner.id());
        ids.extend(inner.members().iter().map(|member| member.id()));
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

#[tokio::test]
async fn a_pool_grows_and_shrinks_and_only_a_share_of_tenants_moves() {
    let routing = Routing::Rendezvous { seed: 1 };
    let pool: WorkerPool<WorkerThread> = start(routing, &pool(8, config(&TestEngine::new()))).await.unwrap();
    let eight = owners(&pool).await;
    pool.resize(NonZeroUsize::new(9).unwrap()).await.unwrap();
    let nine = owners(&pool).await;
    let moved: Vec<_> = tenants().filter(|tenant| eight[tenant] != nine[tenant]).collect();
    assert!(moved.iter().all(|tenant| nine[tenant] == 9), "to the new one only");
    assert!((15..=55).contains(&moved.len()), "{} of 300", moved.len());
    pool.resize(NonZeroUsize::new(8).unwrap()).await.unwrap();
    assert_eq!(owners(&pool).await, eight);
    assert_eq!(answer(pool.stats()).await.unwrap().workers, 8);
    pool.resize(NonZeroUsize::new(1).unwrap()).await.unwrap();
    assert!(owners(&pool).await.values().all(|owner| *owner == 1));
    answer(pool.drain()).await.unwrap();
    let ended = pool.resize(NonZeroUsize::new(2).unwrap()).await.unwrap_err();
    assert_eq!(ended.kind(), WorkerErrorKind::WorkerGone);
}

#[tokio::test]
async fn events_of_tenants_that_move_wait_for_the_old_owner_in_order() {
    let (routing, engine) = (Routing::Rendezvous { seed: 1 }, TestEngine::new());
    let pool: WorkerPool<WorkerThread> = start(routing, &pool(1, config(&engine))).await.unwrap();
    let size = |size| NonZeroUsize::new(size).unwrap();
    let moves = tenants().find(|tenant| routing.owner(*tenant, size(2)) == 1).unwrap();
    let stays = tenants().find(|tenant| routing.owner(*tenant, size(2)) == 0).unwrap();
    let count = |tenant| pool.dispatch(tenant, Order::Count.event());
    // The old owner is busy: what it has taken comes first, whatever takes its time.
    let stick = pool.dispatch(stays, Order::Stick.event());
    engine.stuck().await;
    let before: Vec<_> = (0..10).map(|_| count(moves)).collect();
    let resized = {
        let resizing = pool.resize(size(2));
        let mut resizing = std::pin::pin!(resizing);
        let waited = tokio::time::timeout(std::time::Duration::from_millis(50), &mut resizing).await;
        assert!(waited.is_err(), "the old owner has not answered");
        let after: Vec<_> = (0..10).map(|_| count(moves)).collect();
        assert_eq!(pool.members().len(), 1);
        engine.unstick();
        resizing.await.unwrap();
        after
    };
    answer(stick).await.unwrap();
    for replies in [before, resized] {
        for (number, reply) in (1..).zip(replies) {
            assert_eq!(value(reply).await, Value::Integer(number), "in order; from 1 at the new owner");
        }
    }
    assert_eq!(value(pool.dispatch(moves, named(WHO))).await, Value::Integer(2));
    assert_eq!(value(pool.dispatch(stays, named(WHO))).await, Value::Integer(1));
}

#[tokio::test]
async fn a_pool_that_is_killed_while_it_is_resized_leaves_nobody_waiting() {
    let (routing, engine) = (Routing::Rendezvous { seed: 1 }, TestEngine::new());
    let pool: WorkerPool<WorkerThread> = start(routing, &pool(1, config(&engine))).await.unwrap();
    let stick = pool.dispatch(TENANT, Order::Stick.event());
    engine.stuck().await;
    let mut replies = Vec::new();
    let resizing = pool.resize(NonZeroUsize::new(3).unwrap());
    let mut resizing = std::pin::pin!(resizing);
    let waited = tokio::time::timeout(std::time::Duration::from_millis(50), &mut resizing).await;
    assert!(waited.is_err(), "the old owner has not answered");
    replies.extend(tenants().map(|tenant| pool.dispatch(tenant, echo())));
    let killed = pool.kill();
    assert_eq!(answer(pool.dispatch(TENANT, echo())).await.unwrap_err().kind(), WorkerErrorKind::WorkerGone);
    engine.unstick();
    let _ = resizing.await;
    answer(killed).await.unwrap();
    let _ = answer(stick).await;
    for reply in replies {
        assert_eq!(answer(reply).await.unwrap_err().kind(), WorkerErrorKind::WorkerGone);
    }
}

#[tokio::test]
async fn a_pool_whose_new_members_do_not_start_stays_as_it_was() {
    let engine = TestEngine::new();
    let thread = WorkerThreadConfig::new(move |id, filter| {
        let engine = Engine::new(&engine, id, filter);
        async move {
            if id == WorkerId::new(4) {
                return Err(WorkerError::new(WorkerErrorKind::Storage, "the database is away"));
            }
            Ok(engine)
        }
    });
    let pool: WorkerPool<WorkerThread> = start(Routing::Rendezvous { seed: 1 }, &pool(2, thread)).await.unwrap();
    let before = owners(&pool).await;
    let error = pool.resize(NonZeroUsize::new(4).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), WorkerErrorKind::Storage);
    assert_eq!(owners(&pool).await, before);
}
