//! The bounded queues between the handle of a worker thread and the thread.

use std::task::{Context, Poll, ready};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender, UnboundedReceiver, UnboundedSender};
use worker_core::{Call, Priority, ReplyTo, WorkerStats};

/// How many calls may wait for the thread, by class; each at least 1.
///
/// The thread hands a call on as soon as it gets to it, and the engine has queues of its own: these only have to hold
/// what comes in while the thread is busy for a moment.
#[derive(Clone, Debug)]
pub struct QueueSizes {
    /// Reloads, and requests for figures.
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
    stats: Sender<ReplyTo<WorkerStats>>,
    queues: [Sender<Call>; QUEUES],
}

/// The end of the thread.
pub(crate) struct Outlet {
    orders: UnboundedReceiver<Order>,
    stats: Receiver<ReplyTo<WorkerStats>>,
    queues: [Receiver<Call>; QUEUES],
}

/// One queue for reloads, then one for each priority: the order in which they are served.
const QUEUES: usize = 1 + Priority::COUNT;

/// What ends a worker. Orders have a channel without a bound, so that no flood keeps them out.
pub(crate) enum Order {
    Drain(ReplyTo<()>),
    Kill(ReplyTo<()>),
    /// Not an end, but the beginning of another engine.
    Replace(ReplyTo<()>),
}

/// What the thread attends to in every state, also while it has no engine.
pub(crate) enum Urgent {
    Order(Order),
    Stats(ReplyTo<WorkerStats>),
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
    let (stats_in, stats_out) = mpsc::channel(sizes.control.max(1));
    let sizes = [sizes.control, sizes.interactive, sizes.normal, sizes.flood];
    let pairs = sizes.map(|size| mpsc::channel(size.max(1)));
    let senders = pairs.each_ref().map(|(sender, _)| sender.clone());
    let receivers = pairs.map(|(_, receiver)| receiver);
    (
        Intake { orders: orders_in, stats: stats_in, queues: senders },
        Outlet { orders: orders_out, stats: stats_out, queues: receivers },
    )
}

impl Intake {
    /// Puts the call into its queue, or gives it back.
    pub(crate) fn put(&self, call: Call) -> Put {
        match call {
            Call::Drain { reply_to } => self.order(Order::Drain(reply_to)),
            Call::Kill { reply_to } => self.order(Order::Kill(reply_to)),
            Call::Stats { reply_to } => put(self.stats.try_send(reply_to), |reply_to| Call::Stats { reply_to }),
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
        match ready!(self.stats.poll_recv(cx)) {
            Some(reply_to) => Poll::Ready(Urgent::Stats(reply_to)),
            None => Poll::Pending,
        }
    }

    /// The next call, the most important class first.
    pub(crate) fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<Work> {
        let mut finished = true;
        for queue in &mut self.queues {
            match queue.poll_recv(cx) {
                Poll::Ready(Some(call)) => return Poll::Ready(Work::Call(call)),
                Poll::Ready(None) => {}
                Poll::Pending => finished = false,
            }
        }
        if finished { Poll::Ready(Work::Finished) } else { Poll::Pending }
    }

    /// Takes no more calls; what waits can still be read.
    pub(crate) fn close_queues(&mut self) {
        self.queues.iter_mut().for_each(Receiver::close);
    }

    /// Takes nothing more, and gives out all that waits.
    pub(crate) fn close(mut self) -> impl Iterator<Item = Call> {
        self.orders.close();
        self.stats.close();
        self.close_queues();
        let Self { mut orders, mut stats, mut queues } = self;
        let orders = std::iter::from_fn(move || orders.blocking_recv()).map(Call::from);
        let stats = std::iter::from_fn(move || stats.blocking_recv()).map(|reply_to| Call::Stats { reply_to });
        let calls = std::iter::from_fn(move || queues.iter_mut().find_map(Receiver::blocking_recv));
        orders.chain(stats).chain(calls)
    }
}

impl From<Order> for Call {
    fn from(order: Order) -> Self {
        match order {
            Order::Drain(reply_to) => Self::Drain { reply_to },
            Order::Kill(reply_to) => Self::Kill { reply_to },
            // There is no such call; to be drained is what is left of it, and refused alike.
            Order::Replace(reply_to) => Self::Drain { reply_to },
        }
    }
}

impl Order {
    fn into_reply_to(self) -> ReplyTo<()> {
        let (Self::Drain(reply_to) | Self::Kill(reply_to) | Self::Replace(reply_to)) = self;
        reply_to
    }
}
