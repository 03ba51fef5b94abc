//! Pools of processes that grow and shrink under load.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;

use rustix::process::Signal;
use worker_core::contract::Order;
use worker_core::{Routing, TenantId, Value, WorkerErrorKind, WorkerFilter, WorkerId, WorkerLike};
use worker_pool::{Poolable, WorkerPool, WorkerPoolConfig};
use worker_process::WorkerProcessHandle;

use crate::{answer, config, event, signal, value};

type Pool = WorkerPool<WorkerProcessHandle>;

fn n(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

async fn start(workers: usize, routing: Routing) -> Pool {
    let config = WorkerPoolConfig { workers: n(workers), worker: config(1) };
    <Pool as Poolable>::start(WorkerId::new(0), WorkerFilter::all(), routing, &config).await.unwrap()
}

fn tenants() -> impl Iterator<Item = TenantId> {
    (1..=200).map(|k| TenantId::guild(k << 22))
}

/// The process of each tenant.
async fn homes(pool: &Pool) -> BTreeMap<TenantId, Value> {
    let asked: Vec<_> = tenants().map(|tenant| (tenant, pool.dispatch(tenant, event("PID", "{}")))).collect();
    let mut homes = BTreeMap::new();
    for (tenant, reply) in asked {
        homes.insert(tenant, value(reply).await);
    }
    homes
}

#[tokio::test]
async fn a_pool_of_processes_grows_and_shrinks_under_load() {
    let pool = start(2, Routing::Rendezvous { seed: 3 }).await;
    let mut last: HashMap<TenantId, i64> = HashMap::new();
    for size in [3, 2] {
        let before = homes(&pool).await;
        let load = async {
            let mut replies = Vec::new();
            // Until the pool has its new size, and some rounds more.
            let mut more = 5;
            while more > 0 {
                more -= usize::from(pool.members().len() == size);
                replies.extend(tenants().map(|tenant| (tenant, pool.dispatch(tenant, Order::Count.event()))));
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
            replies
        };
        let (resized, replies) = tokio::join!(pool.resize(n(size)), load);
        resized.unwrap();
        let after = homes(&pool).await;
        let mut moved = 0;
        for tenant in tenants() {
            let has_moved = before[&tenant] != after[&tenant];
            assert_eq!(
                has_moved,
                Routing::Rendezvous { seed: 3 }.owner(tenant, n(2))
                    != Routing::Rendezvous { seed: 3 }.owner(tenant, n(3)),
                "{tenant}: who is new has its share, and nobody else moves"
            );
            moved += usize::from(has_moved);
        }
        assert!((40..=95).contains(&moved), "{moved} of 200 move");
        let mut began_anew: HashMap<TenantId, usize> = HashMap::new();
        for (tenant, reply) in replies {
            let Value::Integer(count) = value(reply).await else { panic!("no count") };
            let last = last.entry(tenant).or_default();
            if count != *last + 1 {
                assert_eq!(count, 1, "{tenant}: after {last}; events start in their order, at the new owner from 1");
                *began_anew.entry(tenant).or_default() += 1;
            }
            *last = count;
        }
        for (tenant, times) in began_anew {
            assert!(times == 1 && before[&tenant] != after[&tenant], "{tenant} began anew {times} times");
        }
    }
    answer(pool.drain()).await.unwrap();
}

#[tokio::test]
async fn an_owner_that_dies_while_its_tenants_move_loses_no_event_that_waits() {
    let pool = start(2, Routing::Rendezvous { seed: 3 }).await;
    let pids: Vec<_> = pool.members().iter().map(|member| i64::from(member.pid().unwrap())).collect();
    let load = async {
        let replies: Vec<_> = tenants().map(|t| (t, pool.dispatch_with_retry(t, Order::Count.event()))).collect();
        for pid in &pids {
            signal(*pid, Signal::KILL);
        }
        let after: Vec<_> = tenants().map(|t| (t, pool.dispatch_with_retry(t, Order::Count.event()))).collect();
        (replies, after)
    };
    let (resized, (before, after)) = tokio::join!(pool.resize(n(3)), load);
    resized.unwrap();
    for (tenant, reply) in before.into_iter().chain(after) {
        // What had started is reported; everything else is served.
        if let Err(error) = answer(reply).await {
            assert_eq!(error.kind(), WorkerErrorKind::WorkerGone, "{tenant}: {error}");
        }
    }
    let homes = homes(&pool).await;
    for (tenant, home) in homes {
        let index = Routing::Rendezvous { seed: 3 }.owner(tenant, n(3));
        assert_eq!(home, Value::Integer(pool.members()[index].pid().unwrap().into()), "{tenant}");
    }
}

#[tokio::test]
async fn only_a_pool_of_few_moves_can_be_resized() {
    let pool = start(1, Routing::default()).await;
    assert_eq!(pool.resize(n(2)).await.unwrap_err().kind(), WorkerErrorKind::BadRequest);
    assert_eq!(pool.members().len(), 1);
}
