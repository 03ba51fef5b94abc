//! A connection without a wire, for tests.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{Chunks, CommError, Request, Response, WorkerProcessComm, WorkerProcessService};

/// A connection to a service in this process. Messages are encoded as on a wire.
#[derive(Clone)]
pub struct InMemory(Arc<dyn WorkerProcessService>);

impl InMemory {
    /// A connection to the service.
    pub fn new(service: impl WorkerProcessService) -> Self {
        Self(Arc::new(service))
    }
}

impl WorkerProcessComm for InMemory {
    fn dispatches(&self, down: Chunks) -> BoxFuture<'static, Result<Chunks, CommError>> {
        let up = self.0.dispatches(down);
        Box::pin(async { Ok(up) })
    }

    fn call(&self, request: Request) -> BoxFuture<'static, Result<Response, CommError>> {
        let service = Arc::clone(&self.0);
        Box::pin(async move {
            let wire = serde_json::to_vec(&request).map_err(CommError::Call)?;
            let request = serde_json::from_slice(&wire).map_err(CommError::Call)?;
            let wire = serde_json::to_vec(&service.call(request).await).map_err(CommError::Call)?;
            serde_json::from_slice(&wire).map_err(CommError::Call)
        })
    }
}

impl fmt::Debug for InMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InMemory")
    }
}
