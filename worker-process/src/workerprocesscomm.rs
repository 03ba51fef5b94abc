//! How a master and its worker processes talk, whatever carries it.
//!
//! Dispatches and their answers are [`Down`] and [`Up`] messages: length-prefixed frames in two streams of bytes, which
//! begin and end together. Everything else is a [`Request`] with its [`Response`]. Both sides are of the same program;
//! what one does not know of the other, it refuses ([`VERSION`]).

mod error;
mod frame;
mod in_memory;
mod message;
mod request;
mod token;

use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;

pub use error::CommError;
pub use frame::{FRAME_BYTES_MAX, FrameError, FrameReader};
pub use in_memory::InMemory;
pub use message::{Down, Up};
pub use request::{REQUEST_BYTES_MAX, Request, Response, WireError};
pub use token::Token;

/// The version of all messages. Both sides must have the same.
pub const VERSION: u32 = 2;

/// How many dispatches a worker takes before it has answered the first: a master that sends more is refused.
pub const IN_FLIGHT_MAX: usize = 1 << 16;

/// Bytes that hold frames, cut anywhere.
pub type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, CommError>> + Send>>;

/// The master's side: a connection to one worker process.
pub trait WorkerProcessComm: Send + Sync + 'static {
    /// Opens the stream of dispatches: [`Down`] messages go there, [`Up`] messages come back. If either end is dropped,
    /// all that is in flight in it is cancelled.
    fn dispatches(&self, down: Chunks) -> BoxFuture<'static, Result<Chunks, CommError>>;

    /// Asks for something rare. Time-outs are the caller's.
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Response, CommError>>;
}

/// The worker's side: what is at the other end of a [`WorkerProcessComm`].
pub trait WorkerProcessService: Send + Sync + 'static {
    /// Serves a stream of dispatches. The stream that it returns does the work when it is polled, so that a master that
    /// takes no answers gets no more events served.
    fn dispatches(&self, down: Chunks) -> Chunks;

    /// Answers a request.
    fn call(&self, request: Request) -> BoxFuture<'static, Response>;
}
