//! The only error that crosses a thread or a process.

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What the caller should do about a [`WorkerError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WorkerErrorKind {
    /// A queue is full, the worker's or the tenant's. Nothing was started: try again later.
    Overloaded,
    /// The worker ended before it answered, or is ending. Whether templates ran is unknown: try again if that is safe.
    WorkerGone,
    /// No answer within the time that the caller gives. Templates may still be running.
    TimedOut,
    /// The tenant is over a limit of its own, or is quarantined: trying again soon will not help.
    TenantLimited,
    /// The event cannot be handled as it is: bad data, or a tenant that this worker does not own.
    BadRequest,
    /// The database did not answer or refused: try again later.
    Storage,
    /// A fault of the worker itself.
    Internal,
}

impl WorkerErrorKind {
    /// Whether the same call may succeed a little later.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Overloaded | Self::WorkerGone | Self::Storage)
    }
}

impl fmt::Display for WorkerErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overloaded => "overloaded",
            Self::WorkerGone => "worker gone",
            Self::TimedOut => "timed out",
            Self::TenantLimited => "tenant limited",
            Self::BadRequest => "bad request",
            Self::Storage => "storage",
            Self::Internal => "internal",
        })
    }
}

/// Why a worker did not do what it was asked. Failures of templates are not here: they are results.
#[derive(Debug)]
pub struct WorkerError {
    kind: WorkerErrorKind,
    context: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl WorkerError {
    /// An error with what happened, in words.
    pub fn new(kind: WorkerErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// The same error with what caused it.
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What happened, in words: without the kind, and without what caused it.
    pub fn context(&self) -> &str {
        &self.context
    }

    /// What the caller should do.
    pub fn kind(&self) -> WorkerErrorKind {
        self.kind
    }
}

impl fmt::Display for WorkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.context)
    }
}

impl Error for WorkerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}
