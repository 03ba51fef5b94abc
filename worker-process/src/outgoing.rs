//! The events on their way to the process, as the stream that the connection sends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;

use crate::shared::Shared;
use crate::workerprocesscomm::CommError;

/// Events that are sent as one piece, if so many bytes are there.
const CHUNK_BYTES: usize = 64 << 10;

/// Events of the queues, for as long as the process takes them: it is polled only when the connection has room, so what a
/// slow process does not take stays in the queues, and these have a bound.
pub(crate) struct Outgoing(pub(crate) Arc<Shared>);

impl Stream for Outgoing {
    type Item = Result<Bytes, CommError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.outgoing.register(cx.waker());
        let mut buffer = BytesMut::new();
        self.0.fill(&mut buffer, CHUNK_BYTES);
        if buffer.is_empty() { Poll::Pending } else { Poll::Ready(Some(Ok(buffer.freeze()))) }
    }
}
