//! The contract of `WorkerLike`, for a process, a process with threads, pools of either, and a connection in memory.

use worker_core::contract::TestEngine;
use worker_core::{Routing, WorkerFilter, WorkerId};
use worker_pool::{Poolable, WorkerPool, WorkerPoolConfig};
use worker_process::WorkerProcessHandle;

use crate::config;

fn pool<C>(workers: usize, worker: C) -> WorkerPoolConfig<C> {
    WorkerPoolConfig { workers: workers.try_into().unwrap(), worker }
}

macro_rules! contract {
    ($name:ident, $kind:ty, $config:expr) => {
        mod $name {
            use super::*;

            /// The engine is in the process.
            async fn start(_: TestEngine) -> $kind {
                let (id, all, config) = (WorkerId::new(1), WorkerFilter::all(), $config);
                <$kind as Poolable>::start(id, all, Routing::default(), &config).await.unwrap()
            }

            worker_core::worker_like_contract!(start);
        }
    };
}

contract!(a_process, WorkerProcessHandle, config(1));
contract!(a_process_with_threads, WorkerProcessHandle, config(3).with_ids(4));
contract!(a_pool_of_processes, WorkerPool<WorkerProcessHandle>, pool(2, config(1)));

/// What an engine's panic costs in the process, it costs outside.
#[tokio::test]
async fn a_panic_fails_what_was_in_flight_and_nothing_else() {
    async fn start(_: TestEngine) -> WorkerProcessHandle {
        crate::start(&config(1)).await
    }
    worker_core::contract::a_panic_fails_what_was_in_flight_and_nothing_else(&start).await;
}
