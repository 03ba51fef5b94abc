//! What every worker, pool and process looks like from outside.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{Event, TemplateName, TenantId, Value, WorkerError, WorkerErrorKind, WorkerFilter, WorkerId, WorkerStats};

/// Anything that runs the templates of tenants: a worker in this thread, a handle to a thread or a process, a pool.
///
/// An implementor takes [`Call`]s and answers each one that wants an answer exactly once, through its [`ReplyTo`];
/// callers use the methods below. The contract, as tests that every implementor runs: the `contract` module (feature
/// `test-util`).
pub trait WorkerLike {
    /// The name of the worker in logs.
    fn id(&self) -> WorkerId;

    /// Takes a call in and returns at once. What cannot be taken is answered with a typed error.
    fn submit(&self, call: Call);

    /// Runs the subscribers of the event and waits for what they return.
    fn dispatch(&self, tenant: TenantId, event: Event) -> Reply<DispatchResult> {
        let (reply_to, reply) = Reply::pending();
        self.submit(Call::Dispatch { tenant, event, reply_to });
        reply
    }

    /// Like [`dispatch`](Self::dispatch), but if the worker ends when the event has surely not started yet, it is tried
    /// once more, in the worker that takes over, before an error is answered.
    fn dispatch_with_retry(&self, tenant: TenantId, event: Event) -> Reply<DispatchResult> {
        let (reply_to, reply) = Reply::pending();
        self.submit(Call::Dispatch { tenant, event, reply_to: reply_to.with_retry() });
        reply
    }

    /// Runs the subscribers of the event for its own sake. If a queue is full, the least important event is dropped and
    /// counted.
    fn dispatch_nowait(&self, tenant: TenantId, event: Event) {
        self.submit(Call::Dispatch { tenant, event, reply_to: ReplyTo::nobody() });
    }

    /// Loads the tenant's templates again. Every event that is submitted after the reply sees the new ones; runs under
    /// way end in the old VM.
    fn reload(&self, tenant: TenantId) -> Reply<()> {
        let (reply_to, reply) = Reply::pending();
        self.submit(Call::Reload { tenant, reply_to });
        reply
    }

    /// Figures of the worker, or of all workers of a pool added up.
    fn stats(&self) -> Reply<WorkerStats> {
        let (reply_to, reply) = Reply::pending();
        self.submit(Call::Stats { reply_to });
        reply
    }

    /// Whether the engine runs, or those of all workers of a pool: it is answered when they get to it, and costs nothing
    /// beside that.
    fn health(&self) -> Reply<()> {
        let (reply_to, reply) = Reply::pending();
        self.submit(Call::Health { reply_to });
        reply
    }

    /// From now on the worker owns these tenants, also after it was started again. Answered when all that it had taken
    /// before, of tenants that it gives up, has ended, and nothing of theirs is left here: another may begin then.
    fn own(&self, filter: WorkerFilter) -> Reply<()> {
        let (reply_to, reply) = Reply::pending();
        self.submit(Call::Own { filter, reply_to });
        reply
    }

    /// Ends in good order: takes no more events, finishes what it has taken, then answers. Time-outs are the caller's.
    fn drain(&self) -> Reply<()> {
        let (reply_to, reply) = Reply::pending();
        self.submit(Call::Drain { reply_to });
        reply
    }

    /// Ends now: what is queued or running is answered with [`WorkerErrorKind::WorkerGone`].
    fn kill(&self) -> Reply<()> {
        let (reply_to, reply) = Reply::pending();
        self.submit(Call::Kill { reply_to });
        reply
    }
}

/// One request to a worker.
#[derive(Debug)]
#[non_exhaustive]
pub enum Call {
    /// See [`WorkerLike::dispatch`] and [`WorkerLike::dispatch_nowait`].
    Dispatch {
        /// Whose templates.
        tenant: TenantId,
        /// What happened.
        event: Event,
        /// Who waits, if anybody.
        reply_to: ReplyTo<DispatchResult>,
    },
    /// See [`WorkerLike::reload`].
    Reload {
        /// Whose templates.
        tenant: TenantId,
        /// Who waits.
        reply_to: ReplyTo<()>,
    },
    /// See [`WorkerLike::stats`].
    Stats {
        /// Who waits.
        reply_to: ReplyTo<WorkerStats>,
    },
    /// See [`WorkerLike::health`].
    Health {
        /// Who waits.
        reply_to: ReplyTo<()>,
    },
    /// See [`WorkerLike::own`].
    Own {
        /// The tenants.
        filter: WorkerFilter,
        /// Who waits.
        reply_to: ReplyTo<()>,
    },
    /// See [`WorkerLike::drain`].
    Drain {
        /// Who waits.
        reply_to: ReplyTo<()>,
    },
    /// See [`WorkerLike::kill`].
    Kill {
        /// Who waits.
        reply_to: ReplyTo<()>,
    },
}

impl Call {
    /// Answers the call with an error, whatever it asked for.
    pub fn refuse(self, error: WorkerError) {
        match self {
            Self::Dispatch { reply_to, .. } => reply_to.send(Err(error)),
            Self::Stats { reply_to } => reply_to.send(Err(error)),
            Self::Reload { reply_to, .. }
            | Self::Health { reply_to }
            | Self::Own { reply_to, .. }
            | Self::Drain { reply_to }
            | Self::Kill { reply_to } => reply_to.send(Err(error)),
        }
    }
}

/// The answer to a call, when it comes. Dropping it tells the worker that nobody waits any more.
#[derive(Debug)]
#[must_use = "a reply that is dropped cancels the call where it has not started; use `dispatch_nowait` for events that nobody waits for"]
pub struct Reply<T>(oneshot::Receiver<Result<T, WorkerError>>);

impl<T> Reply<T> {
    /// A reply and the end through which it is given.
    pub fn pending() -> (ReplyTo<T>, Self) {
        Self::pair(Wish::Answer)
    }

    /// A reply for a call whose answer nobody wants, but whose end somebody must know of: it tells that the worker is done
    /// with the call, and not what came of it.
    pub fn end_only() -> (ReplyTo<T>, Self) {
        Self::pair(Wish::End)
    }

    fn pair(wish: Wish) -> (ReplyTo<T>, Self) {
        let (sender, receiver) = oneshot::channel();
        (ReplyTo { sender: Some(sender), wish }, Self(receiver))
    }
}

impl<T> Future for Reply<T> {
    type Output = Result<T, WorkerError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|received| {
            received.unwrap_or_else(|_| {
                Err(WorkerError::new(WorkerErrorKind::WorkerGone, "the worker ended before it answered"))
            })
        })
    }
}

/// The worker's end of a [`Reply`]. If it is dropped, the caller gets [`WorkerErrorKind::WorkerGone`].
pub struct ReplyTo<T> {
    sender: Option<oneshot::Sender<Result<T, WorkerError>>>,
    wish: Wish,
}

/// What the caller wants to know.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// When the worker is done with the call, if at all.
    End,
    Answer,
    /// The answer of a second try, if the first did not start.
    AnswerOrRetry,
}

impl<T> ReplyTo<T> {
    /// For calls that nobody waits for: answers go nowhere.
    pub const fn nobody() -> Self {
        Self { sender: None, wish: Wish::End }
    }

    /// The same for a caller who asks for one more try of what has not started when its worker ends.
    pub fn with_retry(self) -> Self {
        Self { wish: if self.is_wanted() { Wish::AnswerOrRetry } else { self.wish }, ..self }
    }

    /// Whether the caller asked for one more try.
    pub fn wants_retry(&self) -> bool {
        self.wish == Wish::AnswerOrRetry
    }

    /// Whether an answer was ever wanted. Results that nobody wanted need not be made.
    pub fn is_wanted(&self) -> bool {
        self.wish != Wish::End
    }

    /// Whether a caller who wanted the answer has gone away.
    pub fn is_abandoned(&self) -> bool {
        self.is_wanted() && self.sender.as_ref().is_some_and(oneshot::Sender::is_closed)
    }

    /// Answers; within [`ReplyBatch::collect`] a little later.
    pub fn send(self, answer: Result<T, WorkerError>)
    where
        T: 'static,
    {
        let Some(sender) = self.sender else { return };
        COLLECTED.with_borrow_mut(|collected| {
            // The caller may have gone; then nobody minds.
            let send = move || drop(sender.send(answer));
            match collected {
                Some(batch) => batch.push(Box::new(send)),
                None => send(),
            }
        });
    }
}

/// An answer on its way: what sends it.
type Answer = Box<dyn FnOnce()>;

thread_local! {
    /// Answers given on this thread that wait to be sent, while a batch collects them.
    static COLLECTED: RefCell<Option<Vec<Answer>>> = const { RefCell::new(None) };
}

/// Sends answers together, so that a caller on another thread is woken once for many: to wake a thread costs a system
/// call, which is as much as a tenth of an event. For whoever has many calls to see to, one after the other.
#[derive(Default)]
pub struct ReplyBatch {
    answers: Vec<Answer>,
    since: Option<Instant>,
}

impl ReplyBatch {
    /// How long an answer waits for others at most, if [`send_if_due`](Self::send_if_due) is called that often.
    pub const WAIT_MAX: Duration = Duration::from_micros(100);

    /// Without answers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps the answers that are given on this thread while `f` runs.
    pub fn collect<R>(&mut self, f: impl FnOnce() -> R) -> R {
        struct Restore<'a> {
            batch: &'a mut ReplyBatch,
            before: Option<Vec<Answer>>,
        }
        impl Drop for Restore<'_> {
            fn drop(&mut self) {
                let before = self.before.take();
                self.batch.answers = COLLECTED.replace(before).unwrap_or_default();
            }
        }
        let before = COLLECTED.replace(Some(std::mem::take(&mut self.answers)));
        let restore = Restore { batch: self, before };
        let result = f();
        drop(restore);
        if self.since.is_none() && !self.answers.is_empty() {
            self.since = Some(Instant::now());
        }
        result
    }

    /// Sends what was kept, if the first of it has waited for long.
    pub fn send_if_due(&mut self) {
        if self.since.is_some_and(|since| since.elapsed() >= Self::WAIT_MAX) {
            self.send();
        }
    }

    /// Sends what was kept: to be called when nothing more is at hand.
    pub fn send(&mut self) {
        self.since = None;
        self.answers.drain(..).for_each(|send| send());
    }
}

impl Drop for ReplyBatch {
    fn drop(&mut self) {
        self.send();
    }
}

impl fmt::Debug for ReplyBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReplyBatch({} answers)", self.answers.len())
    }
}

impl<T> fmt::Debug for ReplyTo<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_wanted() { "ReplyTo(somebody)" } else { "ReplyTo(nobody)" })
    }
}

/// What the subscribers of an event returned: one entry each, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DispatchResult {
    /// One entry for each template that subscribed.
    pub templates: Vec<TemplateResult>,
}

/// What one template returned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TemplateResult {
    /// The template.
    pub template: TemplateName,
    /// Its value (Null for events whose results nobody wanted), or how it failed.
    pub outcome: Result<Value, TemplateError>,
}

/// How a template failed, in the words that its author reads (template API, section 17).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateError {
    /// The error text; its beginning names the class.
    pub text: Arc<str>,
    /// The innermost line of the template that was running, where that is known.
    pub at: Option<SourceLine>,
    /// The stack at the error, a line a call, where there was one.
    pub traceback: Option<Arc<str>>,
}

impl TemplateError {
    /// An error that has no place in the source.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self { text: text.into(), at: None, traceback: None }
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            // A script's own error has its position in the text already.
            Some(at) if !self.text.starts_with(&at.to_string()) => write!(f, "{} (at {at})", self.text),
            _ => f.write_str(&self.text),
        }
    }
}

impl std::error::Error for TemplateError {}

/// A line of a template.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SourceLine {
    /// The file, as a path from the template's root, for example `/init.luau`.
    pub path: Arc<str>,
    /// The line, from 1.
    pub line: u32,
}

impl fmt::Display for SourceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path, self.line)
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::Waker;

    use super::*;

    fn is_ready<T>(reply: &mut Reply<T>) -> bool {
        pin!(reply).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_batch_keeps_answers_until_it_is_sent() {
        let (to_first, mut first) = Reply::pending();
        let (to_second, mut second) = Reply::pending();
        let mut batch = ReplyBatch::new();
        batch.collect(|| to_first.send(Ok(1)));
        assert!(!is_ready(&mut first));
        to_second.send(Ok("not collected"));
        assert!(is_ready(&mut second));
        batch.send();
        assert!(is_ready(&mut first));
    }

    #[test]
    fn a_batch_that_is_dropped_or_panicked_in_is_sent() {
        let (to_first, mut first) = Reply::pending();
        let (to_second, mut second) = Reply::pending();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut batch = ReplyBatch::new();
            batch.collect(|| {
                to_first.send(Ok(1));
                panic!("in the middle");
            });
        }));
        assert!(panicked.is_err() && is_ready(&mut first));
        to_second.send(Ok(2));
        assert!(is_ready(&mut second), "nothing is collected any more");
    }

    #[test]
    fn who_only_waits_for_the_end_wants_no_answer_and_is_told_of_the_end() {
        let (reply_to, mut reply) = Reply::<()>::end_only();
        assert!(!reply_to.is_wanted() && !reply_to.with_retry().is_wanted());
        assert!(is_ready(&mut reply), "also by being dropped");
        let (reply_to, reply) = Reply::<()>::pending();
        assert!(!reply_to.wants_retry());
        let reply_to = reply_to.with_retry();
        assert!(reply_to.wants_retry() && reply_to.is_wanted() && !reply_to.is_abandoned());
        drop(reply);
        assert!(reply_to.is_abandoned());
    }

    #[test]
    fn a_batch_within_a_batch_collects_its_own() {
        let (to_outer, mut outer) = Reply::pending();
        let (to_inner, mut inner) = Reply::pending();
        let mut batch = ReplyBatch::new();
        batch.collect(|| {
            ReplyBatch::new().collect(|| to_inner.send(Ok(1)));
            assert!(is_ready(&mut inner), "sent when the inner batch went");
            to_outer.send(Ok(2));
        });
        assert!(!is_ready(&mut outer));
    }
}
