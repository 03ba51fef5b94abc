//! What a pool can be made of.

use std::future::Future;

use worker_core::{Routing, WorkerError, WorkerFilter, WorkerId, WorkerLike};

/// A worker that a [`WorkerPool`](crate::WorkerPool) can start: a thread, a process, or a pool again.
pub trait Poolable: WorkerLike + Send + Sync + Sized + 'static {
    /// What all members of a pool have in common.
    type Config: Clone + Send + Sync + 'static;

    /// How many [`WorkerId`]s a worker of this configuration takes, its own and those inside it. A pool numbers its
    /// members by it, so that ids are unique and the same in every run.
    fn ids(config: &Self::Config) -> u32;

    /// Starts a worker and waits until it takes calls.
    ///
    /// Its ids are `id` and the [`ids`](Self::ids)` - 1` that follow; it owns the tenants of `filter`; if it has
    /// workers inside, it divides its tenants among them with `routing`.
    fn start(
        id: WorkerId,
        filter: WorkerFilter,
        routing: Routing,
        config: &Self::Config,
    ) -> impl Future<Output = Result<Self, WorkerError>> + Send;

    /// Puts a new engine, or a new process, in the place of the old one, in good order: what is running ends, and what comes
    /// meanwhile waits.
    fn replace(&self) -> impl Future<Output = Result<(), WorkerError>> + Send;
}
