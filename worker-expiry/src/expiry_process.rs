//! What the workers of a process have in common.

use std::sync::Arc;

use tokio::sync::OnceCell;
use worker_core::WorkerId;
use worker_db::{DbError, ExpirySession, WorkerDb};

use crate::due_feed::DueFeed;

/// The name of a process among all that claim from one database, and its one reader of what is due, for all of its workers.
/// Clones are the same process, of one database.
///
/// Whatever a process of the same name held before is free as soon as the first worker of this one begins. So a name must be
/// the same after a restart, and no two processes may have it at a time.
#[derive(Clone, Debug)]
pub struct ExpiryProcess(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    started: OnceCell<()>,
    feed: DueFeed,
}

impl ExpiryProcess {
    /// A process of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(Arc::new(Inner { name: name.into(), started: OnceCell::new(), feed: DueFeed::default() }))
    }

    /// What is due soon, for all workers of the process.
    pub(crate) fn feed(&self) -> &DueFeed {
        &self.0.feed
    }

    /// Begins a session of the worker.
    pub(crate) async fn session(&self, db: &WorkerDb, worker: WorkerId) -> Result<ExpirySession, DbError> {
        self.0.started.get_or_try_init(|| db.expiry_process_start(&self.0.name)).await?;
        db.expiry_session(&self.0.name, u64::from(worker.get())).await
    }
}
