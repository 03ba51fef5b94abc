//! Calls beside the stream of dispatches, as JSON.

use std::error::Error;

use serde::{Deserialize, Serialize};
use worker_core::{TenantId, WorkerError, WorkerErrorKind, WorkerFilter, WorkerStats};

/// The longest request or response.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;

/// What a master asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
#[non_exhaustive]
pub enum Request {
    /// Whether the engine runs: it is asked, not only the process. Answered with [`Response::Done`].
    Health,
    /// Figures.
    Stats,
    /// The last lines that the process logged.
    Logs,
    /// Load the tenant's templates again.
    Reload {
        /// Whose.
        tenant: TenantId,
    },
    /// Own these tenants from now on, once all dispatches up to this one have been taken; answered when what the worker
    /// had of others has ended.
    Own {
        /// The number of the last dispatch.
        after: u64,
        /// The tenants.
        filter: WorkerFilter,
    },
    /// End in good order, once all dispatches up to this one have been taken; answered when they are finished.
    Drain {
        /// The number of the last dispatch.
        after: u64,
    },
    /// End now.
    Kill,
}

/// What the worker answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
#[non_exhaustive]
pub enum Response {
    /// It is done.
    Done,
    /// Figures.
    Stats(Box<WorkerStats>),
    /// Lines of a log, oldest first.
    Lines(Vec<String>),
    /// It was not done.
    Refused(WireError),
}

/// A [`WorkerError`] on its way: what caused it has become text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireError {
    kind: WorkerErrorKind,
    text: String,
}

impl From<&WorkerError> for WireError {
    fn from(error: &WorkerError) -> Self {
        let mut text = error.context().to_owned();
        let mut cause = error.source();
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        Self { kind: error.kind(), text }
    }
}

impl From<WireError> for WorkerError {
    fn from(error: WireError) -> Self {
        Self::new(error.kind, error.text)
    }
}
