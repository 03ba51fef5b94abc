//! What the handle of a worker process, its supervisor and the connection all see: the events that wait and those in
//! flight.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use worker_core::{DispatchResult, Event, Priority, ReplyTo, TenantId, WorkerError, WorkerErrorKind, WorkerId};
use worker_pool::QueueSizes;

use crate::workerprocesscomm::{Down, Up};

pub(crate) struct Shared {
    pub(crate) id: WorkerId,
    sizes: [usize; Priority::COUNT],
    in_flight_max: usize,
    answer_timeout: Duration,
    state: Mutex<State>,
    /// Of the stream to the process.
    pub(crate) outgoing: AtomicWaker,
    pub(crate) dropped: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) restarts: AtomicU64,
}

#[derive(Default)]
struct State {
    queues: [VecDeque<Waiting>; Priority::COUNT],
    in_flight: HashMap<u64, InFlight>,
    cancels: Vec<u64>,
    /// Of the last dispatch that was sent.
    last_id: u64,
    /// Whether events go out.
    is_open: bool,
    /// Whether they wait for the next process.
    is_held: bool,
    /// When the process first gave an event back, as it is about to end.
    handed_back_at: Option<Instant>,
    ending: Option<Ending>,
}

/// Why a worker takes no more calls.
#[derive(Clone)]
struct Ending {
    reason: String,
    cause: Option<Arc<WorkerError>>,
}

pub(crate) struct Waiting {
    pub(crate) tenant: TenantId,
    pub(crate) event: Event,
    pub(crate) reply_to: ReplyTo<DispatchResult>,
    /// It was sent before, and the process ended without starting it.
    retried: bool,
}

struct InFlight {
    waiting: Waiting,
    deadline: Instant,
}

/// What is done with events that were sent and had surely not started when their process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unstarted {
    /// The process ended in good order, and meant to hand them back: all are served by the next one.
    HandedBack,
    /// It died: once more for those who asked, or whom nobody waits for.
    Lost,
}

impl Shared {
    pub(crate) fn new(id: WorkerId, sizes: &QueueSizes, in_flight_max: usize, answer_timeout: Duration) -> Self {
        let QueueSizes { control: _, interactive, normal, flood } = *sizes;
        Self {
            id,
            sizes: [interactive, normal, flood].map(|size| size.max(1)),
            in_flight_max: in_flight_max.max(1),
            answer_timeout,
            state: Mutex::default(),
            outgoing: AtomicWaker::new(),
            dropped: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
        }
    }

    /// Puts an event into its queue, or refuses it.
    pub(crate) fn put(&self, tenant: TenantId, event: Event, reply_to: ReplyTo<DispatchResult>) {
        if !Down::fits(&event) {
            let context = format!("the event {} is too large for a worker process", event.name());
            return reply_to.send(Err(WorkerError::new(WorkerErrorKind::BadRequest, context)));
        }
        let class = event.priority() as usize;
        let mut state = self.state.lock();
        if state.ending.is_some() {
            drop(state);
            return reply_to.send(Err(self.gone()));
        }
        if state.queues[class].len() >= self.sizes[class] {
            drop(state);
            let counter = if reply_to.is_wanted() { &self.refused } else { &self.dropped };
            counter.fetch_add(1, Relaxed);
            let context = format!("the queue of worker {} is full", self.id);
            return reply_to.send(Err(WorkerError::new(WorkerErrorKind::Overloaded, context)));
        }
        state.queues[class].push_back(Waiting { tenant, event, reply_to, retried: false });
        let is_open = state.is_open;
        drop(state);
        if is_open {
            self.outgoing.wake();
        }
    }

    /// A new process is there: it may get events once its stream is open.
    pub(crate) fn begin(&self) {
        let state = &mut *self.state.lock();
        (state.is_held, state.handed_back_at) = (false, None);
    }

    /// From now on events wait for the next process, also if this one's stream opens only now.
    pub(crate) fn hold(&self) {
        let state = &mut *self.state.lock();
        (state.is_held, state.is_open) = (true, false);
    }

    pub(crate) fn open(&self) {
        {
            let state = &mut *self.state.lock();
            state.is_open = !state.is_held;
        }
        self.outgoing.wake();
    }

    pub(crate) fn close(&self) {
        self.state.lock().is_open = false;
    }

    /// Appends what may be sent to the buffer, until it has `bytes_max`.
    pub(crate) fn fill(&self, buffer: &mut bytes::BytesMut, bytes_max: usize) {
        let state = &mut *self.state.lock();
        if !state.is_open {
            return;
        }
        for id in state.cancels.drain(..) {
            Down::put_cancel(buffer, id);
        }
        let mut deadline = None;
        while buffer.len() < bytes_max && state.in_flight.len() < self.in_flight_max {
            let Some(waiting) = state.queues.iter_mut().find_map(VecDeque::pop_front) else { return };
            if waiting.reply_to.is_abandoned() {
                continue;
            }
            state.last_id += 1;
            let Waiting { tenant, event, reply_to, .. } = &waiting;
            if buffer.is_empty() {
                // The others are most likely as large: one piece of memory for all of them.
                let others: usize = state.queues.iter().map(VecDeque::len).sum();
                buffer.reserve(Down::dispatch_bytes(event).saturating_mul(others + 1).min(2 * bytes_max));
            }
            Down::put_dispatch(buffer, state.last_id, reply_to.is_wanted(), *tenant, event);
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.answer_timeout);
            state.in_flight.insert(state.last_id, InFlight { waiting, deadline });
        }
    }

    /// Takes answers. Those who waited are told after the lock is released.
    pub(crate) fn answered(&self, messages: &mut Vec<Up>) {
        let mut answers = Vec::with_capacity(messages.len());
        let mut handed_back = Vec::new();
        let was_full = {
            let state = &mut *self.state.lock();
            let was_full = state.in_flight.len() >= self.in_flight_max;
            for message in messages.drain(..) {
                let (Up::Answer { id, .. } | Up::Done { id } | Up::HandedBack { id }) = &message else { continue };
                // One that was cancelled may be answered all the same.
                let Some(in_flight) = state.in_flight.remove(id) else { continue };
                match message {
                    Up::Answer { answer, .. } => answers.push((in_flight.waiting.reply_to, answer)),
                    Up::Done { .. } => answers.push((in_flight.waiting.reply_to, Ok(DispatchResult::default()))),
                    Up::HandedBack { id } => handed_back.push((id, in_flight.waiting)),
                    Up::Word(_) => unreachable!("because a word has no id"),
                }
            }
            if !handed_back.is_empty() {
                // Nothing more for a process that is ending.
                state.is_open = false;
                state.handed_back_at.get_or_insert_with(Instant::now);
                put_back(state, handed_back);
            }
            was_full
        };
        for (reply_to, answer) in answers {
            reply_to.send(answer);
        }
        if was_full {
            self.outgoing.wake();
        }
    }

    /// Sees to callers who went away, and to those who have waited for too long.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut late = Vec::new();
        {
            let state = &mut *self.state.lock();
            let over = state
                .in_flight
                .extract_if(|_, in_flight| in_flight.waiting.reply_to.is_abandoned() || in_flight.deadline <= now);
            for (id, in_flight) in over {
                state.cancels.push(id);
                late.push(in_flight.waiting.reply_to);
            }
            // Some hold their place while the process is gone.
            for queue in &mut state.queues {
                queue.retain(|waiting| !waiting.reply_to.is_abandoned());
            }
        }
        if late.is_empty() {
            return;
        }
        self.outgoing.wake();
        for reply_to in late {
            let context = format!("worker {} has not answered for {:?}", self.id, self.answer_timeout);
            reply_to.send(Err(WorkerError::new(WorkerErrorKind::TimedOut, context)));
        }
    }

    /// The process is gone, and had given its engine the dispatches up to `taken_up_to`: what had surely not started and
    /// may be tried again goes back into the queues, all else is answered with the error.
    pub(crate) fn fail_in_flight(&self, taken_up_to: u64, unstarted: Unstarted, error: &dyn Fn() -> WorkerError) {
        let mut failed = Vec::new();
        {
            let state = &mut *self.state.lock();
            state.is_open = false;
            state.cancels.clear();
            let mut again = Vec::new();
            for (id, InFlight { mut waiting, .. }) in state.in_flight.drain() {
                let may = match unstarted {
                    Unstarted::HandedBack => true,
                    Unstarted::Lost => {
                        !waiting.retried && (waiting.reply_to.wants_retry() || !waiting.reply_to.is_wanted())
                    }
                };
                if id > taken_up_to && may {
                    waiting.retried = unstarted == Unstarted::Lost;
                    again.push((id, waiting));
                } else {
                    failed.push(waiting.reply_to);
                }
            }
            put_back(state, again);
        }
        for reply_to in failed {
            if !reply_to.is_wanted() {
                self.lost.fetch_add(1, Relaxed);
            }
            reply_to.send(Err(error()));
        }
    }

    /// Refuses all that waits.
    pub(crate) fn refuse_waiting(&self) {
        let waiting: Vec<_> = self.state.lock().queues.iter_mut().flat_map(std::mem::take).collect();
        for waiting in waiting {
            if !waiting.reply_to.is_wanted() {
                self.lost.fetch_add(1, Relaxed);
            }
            waiting.reply_to.send(Err(self.gone()));
        }
    }

    /// Refuses all that waits of a tenant.
    pub(crate) fn refuse_waiting_of(&self, tenant: TenantId, error: &dyn Fn() -> WorkerError) {
        let mut refused = Vec::new();
        for queue in &mut self.state.lock().queues {
            let (of, others): (VecDeque<_>, _) = std::mem::take(queue).into_iter().partition(|w| w.tenant == tenant);
            *queue = others;
            refused.extend(of);
        }
        for waiting in refused {
            if !waiting.reply_to.is_wanted() {
                self.lost.fetch_add(1, Relaxed);
            }
            waiting.reply_to.send(Err(error()));
        }
    }

    /// From now on, calls are refused for this reason. The first reason stays.
    pub(crate) fn end(&self, reason: impl Into<String>, cause: Option<Arc<WorkerError>>) {
        self.state.lock().ending.get_or_insert_with(|| Ending { reason: reason.into(), cause });
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state.lock().ending.is_some()
    }

    /// The answer to a call that comes too late.
    pub(crate) fn gone(&self) -> WorkerError {
        let ending = self.state.lock().ending.clone();
        let (reason, cause) = ending.map_or(("has ended".into(), None), |Ending { reason, cause }| (reason, cause));
        let gone = WorkerError::new(WorkerErrorKind::WorkerGone, format!("worker {} {reason}", self.id));
        match cause {
            Some(cause) => gone.with_source(cause),
            None => gone,
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().queues.iter().map(VecDeque::len).sum()
    }

    /// Events of such tenants that wait.
    pub(crate) fn waiting_of(&self, is_such: impl Fn(TenantId) -> bool) -> usize {
        self.state.lock().queues.iter().flatten().filter(|waiting| is_such(waiting.tenant)).count()
    }

    /// Events of such tenants that the process has.
    pub(crate) fn in_flight_of(&self, is_such: impl Fn(TenantId) -> bool) -> usize {
        self.state.lock().in_flight.values().filter(|in_flight| is_such(in_flight.waiting.tenant)).count()
    }

    pub(crate) fn handed_back_at(&self) -> Option<Instant> {
        self.state.lock().handed_back_at
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.state.lock().in_flight.len()
    }

    pub(crate) fn last_id(&self) -> u64 {
        self.state.lock().last_id
    }
}

/// Puts events that were sent back to the front, in their order.
fn put_back(state: &mut State, mut events: Vec<(u64, Waiting)>) {
    events.sort_by_key(|(id, _)| *id);
    for (_, waiting) in events.into_iter().rev() {
        state.queues[waiting.event.priority() as usize].push_front(waiting);
    }
}
