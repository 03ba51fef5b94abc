//! Why a message did not arrive, or was none.

use std::error::Error;

use super::FrameError;

/// Why a message did not arrive, or was none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommError {
    /// No connection could be made.
    #[error("no connection to the worker process")]
    Connect(#[source] Box<dyn Error + Send + Sync>),
    /// The connection broke.
    #[error("the connection to the worker process broke")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
    /// The other side does not answer this: another version, or a wrong token.
    #[error("the worker process refused with status {0}")]
    Refused(u16),
    /// Bytes that are no message.
    #[error("not a message of version {}", super::VERSION)]
    Frame(#[from] FrameError),
    /// A request or response that is none.
    #[error("not a call of version {}", super::VERSION)]
    Call(#[source] serde_json::Error),
    /// A request or response that is too large.
    #[error("a call of more than {max} bytes")]
    CallTooLarge {
        /// The most there may be.
        max: usize,
    },
}
