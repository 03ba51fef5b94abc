//! The contract of `WorkerLike`, for a thread, a pool, and a pool of pools.

use std::num::NonZeroUsize;

use worker_core::contract::TestEngine;
use worker_core::{Routing, WorkerFilter, WorkerId};
use worker_pool::{Poolable, QueueSizes, WorkerPool, WorkerPoolConfig, WorkerThread, WorkerThreadConfig};

/// Room for all that a check submits, but not for more than one can fill.
const QUEUE_MAX: usize = 256;

fn thread(engine: TestEngine) -> WorkerThreadConfig {
    let config = WorkerThreadConfig::new(move |id, _| {
        let worker = engine.worker(id);
        async move { Ok(worker) }
    });
    config.with_queues(QueueSizes { normal: QUEUE_MAX, ..QueueSizes::default() })
}

fn pool<C>(workers: usize, worker: C) -> WorkerPoolConfig<C> {
    WorkerPoolConfig { workers: NonZeroUsize::new(workers).unwrap(), worker }
}

async fn start<W: Poolable>(config: W::Config) -> W {
    W::start(WorkerId::new(1), WorkerFilter::all(), Routing::default(), &config).await.unwrap()
}

macro_rules! contract {
    ($name:ident, $kind:ty, $config:expr) => {
        mod $name {
            use super::*;

            async fn start(engine: TestEngine) -> $kind {
                let config: fn(TestEngine) -> <$kind as Poolable>::Config = $config;
                super::start::<$kind>(config(engine)).await
            }

            worker_core::worker_like_contract!(start);
            worker_core::worker_like_contract!(start => a_panic_fails_what_was_in_flight_and_nothing_else);

            #[tokio::test]
            async fn a_stuck_worker_never_blocks_its_callers() {
                worker_core::contract::a_stuck_worker_never_blocks_its_callers(QUEUE_MAX, &start).await;
            }
        }
    };
}

contract!(a_thread, WorkerThread, thread);
contract!(a_pool, WorkerPool<WorkerThread>, |engine| pool(3, thread(engine)));
contract!(a_pool_of_pools, WorkerPool<WorkerPool<WorkerThread>>, |engine| pool(2, pool(2, thread(engine))));
