//! The runtime that connections belong to.
//!
//! A connection of sqlx is at home on the runtime that happened to open it, whose reactor its socket needs, and its way
//! back into the pool is a task on the runtime that happened to drop it. Workers come and go, each with a runtime of its
//! own: were connections theirs, the end of one would break the queries of others, abandon transactions that still hold
//! locks, and lose a database in memory. So the store has a runtime of its own, on one thread: there connections are
//! opened, commits run, and whatever a caller leaves behind is cleaned up. Queries are still polled by who asks them.

use std::io;
use std::ops::{Deref, DerefMut};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::{JoinError, JoinHandle};
use worker_core::{Busy, Clock};

pub(crate) struct Home {
    runtime: Option<Runtime>,
    /// Stands still, if it is a test's, while anything is asked of the store.
    clock: Clock,
}

impl Home {
    pub(crate) fn start(clock: Clock) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("antiraid-db").enable_all().build()?;
        Ok(Self { runtime: Some(runtime), clock })
    }

    fn handle(&self) -> &Handle {
        self.runtime.as_ref().expect("because only its drop takes it out").handle()
    }

    /// Runs the future here, for as long as the caller waits.
    pub(crate) async fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let _busy = self.clock.busy();
        let mut task = AbortOnDrop(self.handle().spawn(future));
        output((&mut task.0).await)
    }

    /// Runs the future here to its end, whether the caller waits or not.
    pub(crate) async fn run_to_end<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let _busy = self.clock.busy();
        output(self.handle().spawn(future).await)
    }

    /// Begins to run the future here.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.handle().spawn(future)
    }

    /// What the future gives when run here, to be used anywhere and dropped here.
    pub(crate) async fn lend<T, E>(
        &self,
        future: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<Lent<T>, E>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let (home, busy) = (self.handle().clone(), self.clock.busy());
        // Lent there and not here: it may be ready when the caller has just gone.
        self.run(async move { Ok(Lent { held: Some(future.await?), home, _busy: busy }) }).await
    }

    /// The same for what is at hand.
    pub(crate) fn lend_now<T>(&self, held: T) -> Lent<T> {
        Lent { held: Some(held), home: self.handle().clone(), _busy: self.clock.busy() }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The last handle may be dropped in async code, where nothing may block.
            runtime.shutdown_background();
        }
    }
}

fn output<T>(result: Result<T, JoinError>) -> T {
    // Nobody aborts a task that is waited for, and the runtime lives while it is borrowed: it panicked.
    result.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// A task that ends with this.
pub(crate) struct AbortOnDrop<T>(pub(crate) JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection or a transaction in use. Dropped, it goes back to its pool by way of its [`Home`], also where the runtime
/// that drops it is ending.
pub(crate) struct Lent<T> {
    held: Option<T>,
    home: Handle,
    _busy: Option<Busy>,
}

impl<T> Lent<T> {
    /// Takes it out, which is for code that runs at home.
    pub(crate) fn into_inner(mut self) -> T {
        self.held.take().expect(HELD)
    }
}

const HELD: &str = "because only its end takes it out";

impl<T> Deref for Lent<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect(HELD)
    }
}

impl<T> DerefMut for Lent<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect(HELD)
    }
}

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        let _at_home = self.home.enter();
        drop(self.held.take());
    }
}
