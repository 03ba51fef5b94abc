//! The bounded queues between the handle of a worker thread and the thread.

use std::task::{Context, Poll, ready};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender, UnboundedReceiver, UnboundedSender};
use worker_core::{Call, Priority, ReplyTo, WorkerFilter, WorkerStats};

/// How many calls may wait for the thread, by class; each at least 1.
///
/// The thread hands a call on as soon as it gets to it, and the engine has queues of its own: these only have to hold
/// what comes in while the thread is busy for a moment.
#[derive(Clone, Debug)]
pub struct QueueSizes {
    /// Reloads; and, apart from these, requests for figures and signs of life.
    pub control: usize,
    /// Events of [`Priority::Interactive`].
    pub interactive: usize,
    /// Events of [`Priority::Normal`].
    pub normal: usize,
    /// Events of [`Priority::Flood`].
    pub flood: usize,
}

impl Default for QueueSizes {
    fn default() -> Self {
        Self { control: 1_024, interactive: 1_024, normal: 4_096, flood: 1_024 }
    }
}

/// The end of the handle.
pub(crate) struct Intake {
    orders: UnboundedSender<Order>,
    asks: Sender<Ask>,
    queues: [Sender<Call>; QUEUES],
}

/// The end of the thread.
pub(crate) struct Outlet {
    orders: UnboundedReceiver<Order>,
    asks: Receiver<Ask>,
    queues: [Receiver<Call>; QUEUES],
    /// How many calls are still to be taken from each queue that were in it when the last mark was set.
    before_mark: [usize; QUEUES],
}

/// One queue for reloads, then one for each priority: the order in which they are served.
const QUEUES: usize = 1 + Priority::COUNT;

/// What changes or ends a worker. Orders have a channel without a bound, so that no flood keeps them out.
pub(crate) enum Order {
    Drain(ReplyTo<()>),
    Kill(ReplyTo<()>),
    /// Not an end, but the beginning of another engine.
    Replace(ReplyTo<()>),
    Own(WorkerFilter, ReplyTo<()>),
}

/// What can be answered at any time.
pub(crate) enum Ask {
    Stats(ReplyTo<WorkerStats>),
    Health(ReplyTo<()>),
}

/// What the thread attends to in every state, also while it has no engine.
pub(crate) enum Urgent {
    Order(Order),
    Ask(Ask),
}

/// What the thread finds in its queues.
pub(crate) enum Work {
    Call(Call),
    /// The queues are closed, and everything in them was taken.
    Finished,
}

/// What became of a call.
#[must_use]
pub(crate) enum Put {
    Taken,
    Full(Call),
    Closed(Call),
}

pub(crate) fn queues(sizes: &QueueSizes) -> (Intake, Outlet) {
    let (orders_in, orders_out) = mpsc::unbounded_channel();
    let (asks_in, asks_out) = mpsc::channel(sizes.control.max(1));
    let sizes = [sizes.control, sizes.interactive, sizes.normal, sizes.flood];
    let pairs = sizes.map(|size| mpsc::channel(size.max(1)));
    let senders = pairs.each_ref().map(|(sender, _)| sender.clone());
    let receivers = pairs.map(|(_, receiver)| receiver);
    (
        Intake { orders: orders_in, asks: asks_in, queues: senders },
        Outlet { orders: orders_out, asks: asks_out, queues: receivers, before_mark: [0; QUEUES] },
    )
}

impl Intake {
    /// Puts the call into its queue, or gives it back.
    pub(crate) fn put(&self, call: Call) -> Put {
        match call {
            Call::Drain { reply_to } => self.order(Order::Drain(reply_to)),
            Call::Kill { reply_to } => self.order(Order::Kill(reply_to)),
            Call::Own { filter, reply_to } => self.order(Order::Own(filter, reply_to)),
            Call::Stats { reply_to } => put(self.asks.try_send(Ask::Stats(reply_to)), Call::from),
            Call::Health { reply_to } => put(self.asks.try_send(Ask::Health(reply_to)), Call::from),
            call => put(self.queues[queue_of(&call)].try_send(call), |call| call),
        }
    }

    /// Asks for another engine, or gives the request back.
    pub(crate) fn replace(&self, reply_to: ReplyTo<()>) -> Result<(), ReplyTo<()>> {
        self.orders.send(Order::Replace(reply_to)).map_err(|refused| refused.0.into_reply_to())
    }

    fn order(&self, order: Order) -> Put {
        match self.orders.send(order) {
            Ok(()) => Put::Taken,
            Err(refused) => Put::Closed(refused.0.into()),
        }
    }
}

fn put<T>(sent: Result<(), TrySendError<T>>, call: impl FnOnce(T) -> Call) -> Put {
    match sent {
        Ok(()) => Put::Taken,
        Err(TrySendError::Full(refused)) => Put::Full(call(refused)),
        Err(TrySendError::Closed(refused)) => Put::Closed(call(refused)),
    }
}

fn queue_of(call: &Call) -> usize {
    match call {
        Call::Dispatch { event, .. } => 1 + event.priority() as usize,
        _ => 0,
    }
}

impl Outlet {
    /// Events that wait.
    pub(crate) fn events_queued(&self) -> usize {
        self.queues[1..].iter().map(Receiver::len).sum()
    }

    /// The next order, or request for figures.
    pub(crate) fn poll_urgent(&mut self, cx: &mut Context<'_>) -> Poll<Urgent> {
        if let Poll::Ready(order) = self.orders.poll_recv(cx) {
            // Without a handle there is nobody left to work for.
            return Poll::Ready(Urgent::Order(order.unwrap_or(Order::Kill(ReplyTo::nobody()))));
        }
        match ready!(self.asks.poll_recv(cx)) {
            Some(ask) => Poll::Ready(Urgent::Ask(ask)),
            None => Poll::Pending,
        }
    }

    /// The next call, the most important class first.
    pub(crate) fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<Work> {
        let mut finished = true;
        for (queue, before_mark) in self.queues.iter_mut().zip(&mut self.before_mark) {
            match queue.poll_recv(cx) {
                Poll::Ready(Some(call)) => {
                    *before_mark = before_mark.saturating_sub(1);
                    return Poll::Ready(Work::Call(call));
                }
                Poll::Ready(None) => {}
                Poll::Pending => finished = false,
            }
        }
        if finished { Poll::Ready(Work::Finished) } else { Poll::Pending }
    }

    /// Marks what is in the queues now.
    pub(crate) fn mark(&mut self) {
        self.before_mark = self.queues.each_ref().map(Receiver::len);
    }

    /// Whether all that was in the queues at the last mark has been taken.
    pub(crate) fn is_past_mark(&self) -> bool {
        self.before_mark == [0; QUEUES]
    }

    /// Takes no more calls; what waits can still be read.
    pub(crate) fn close_queues(&mut self) {
        self.queues.iter_mut().for_each(Receiver::close);
    }

    /// Takes nothing more, and gives out all that waits.
    pub(crate) fn close(mut self) -> impl Iterator<Item = Call> {
        self.orders.close();
        self.asks.close();
        self.close_queues();
        let Self { mut orders, mut asks, mut queues, before_mark: _ } = self;
        let orders = std::iter::from_fn(move || orders.blocking_recv()).map(Call::from);
        let asks = std::iter::from_fn(move || asks.blocking_recv()).map(Call::from);
        let calls = std::iter::from_fn(move || queues.iter_mut().find_map(Receiver::blocking_recv));
        orders.chain(asks).chain(calls)
    }
}

impl From<Ask> for Call {
    fn from(ask: Ask) -> Self {
        match ask {
            Ask::Stats(reply_to) => Self::Stats { reply_to },
            Ask::Health(reply_to) => Self::Health { reply_to },
        }
    }
}

impl From<Order> for Call {
    fn from(order: Order) -> Self {
        match order {
            Order::Drain(reply_to) => Self::Drain { reply_to },
            Order::Kill(reply_to) => Self::Kill { reply_to },
            // There is no such call; to be drained is what is left of it, and refused alike.
            Order::Replace(reply_to) => Self::Drain { reply_to },
            Order::Own(filter, reply_to) => Self::Own { filter, reply_to },
        }
    }
}

impl Order {
    fn into_reply_to(self) -> ReplyTo<()> {
        let (Self::Drain(reply_to) | Self::Kill(reply_to) | Self::Replace(reply_to) | Self::Own(_, reply_to)) = self;
        reply_to
    }
}
