//! The runtime that connections to other servers belong to.
//!
//! A connection is driven by a task of the runtime that opened it. Workers come and go, each with a runtime of its own:
//! were connections theirs, the end of one would break the requests of others. So they have a runtime in common, and with
//! it TLS, decompression and drawing are off the VMs' threads.

use std::sync::{Arc, OnceLock};

use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinError, JoinHandle};

use crate::error::ApiError;

/// Threads for name look-ups, files and drawing.
const BLOCKING_THREADS_MAX: usize = 32;

/// Starts its runtime when it is first used. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Home(Arc<Lazy>);

#[derive(Default)]
struct Lazy(OnceLock<Runtime>);

impl Home {
    fn runtime(&self) -> Result<&Runtime, ApiError> {
        if let Some(runtime) = self.0.0.get() {
            return Ok(runtime);
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("antiraid-services")
            .enable_all()
            .build()
            .map_err(|error| ApiError::internal(&error))?;
        // If another thread was quicker, this one was not used yet and ends in the background.
        if let Err(late) = self.0.0.set(runtime) {
            late.shutdown_background();
        }
        self.0.0.get().ok_or_else(|| ApiError::internal(&"a runtime that was set is there"))
    }

    /// Runs the future here, for as long as the caller waits.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, ApiError> {
        let mut task = AbortOnDrop(self.runtime()?.spawn(future));
        output((&mut task.0).await)
    }

    /// Runs the future here to its end, whether the caller waits or not.
    pub(crate) async fn run_to_end<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, ApiError> {
        output(self.runtime()?.spawn(future).await)
    }

    /// Lets the future run here by itself.
    pub(crate) fn begin(&self, future: impl Future<Output = ()> + Send + 'static) -> Result<(), ApiError> {
        self.runtime()?.spawn(future);
        Ok(())
    }

    /// Runs what blocks on a thread for that.
    pub(crate) async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        output(self.runtime()?.spawn_blocking(work).await)
    }
}

/// A panic out there costs its caller an error.
fn output<T>(result: Result<T, JoinError>) -> Result<T, ApiError> {
    result.map_err(|error| match error.try_into_panic() {
        Ok(panic) => ApiError::from_panic(&*panic),
        Err(ended) => ApiError::internal(&ended),
    })
}

impl Drop for Lazy {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // The last handle may be dropped in async code, where nothing may block.
            runtime.shutdown_background();
        }
    }
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
