//! Sends the events of a recording through workers: in order, a bounded number at a time, and counts what comes of it.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use worker_core::{
    DispatchResult, Reply, TemplateError, TemplateName, TenantId, Value, WorkerError, WorkerErrorKind, WorkerLike,
};

use crate::output::Output;
use crate::recording::{Batch, Recorded, RecordingError};
use crate::replay_report::Tally;

/// How long what is running is waited for after an interruption.
const INTERRUPT_GRACE: Duration = if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(5) };
/// The pause before events that found a full queue are sent again.
const OVERLOAD_PAUSE: Duration = Duration::from_millis(5);

/// A replay that is going on.
pub struct Replay<'a, W> {
    worker: &'a W,
    in_flight_max: usize,
    in_flight: FuturesUnordered<InFlight>,
    /// Read and not sent.
    pending: VecDeque<Numbered>,
    /// Sent and refused by a full queue.
    refused: Vec<Numbered>,
    read: u64,
    tally: Tally,
    results: Option<&'a mut Output>,
}

/// How a replay ended.
#[derive(Debug)]
pub enum Ending {
    /// At the end of the recording.
    Complete,
    /// Earlier, because somebody asked or nobody reads the results any more.
    Interrupted,
    /// At a line that is no frame.
    BadInput(RecordingError),
}

/// Events are numbered as they are read, so that refused ones can be put back in order.
struct Numbered {
    number: u64,
    recorded: Recorded,
}

impl<'a, W: WorkerLike> Replay<'a, W> {
    /// A replay through `worker` with at most `in_flight_max` events waiting for their answers. Each result is written to
    /// `results` as a line of JSON.
    ///
    /// Events of a tenant start in the order of the recording as long as `in_flight_max` is not above the length of a
    /// tenant's queue: then no queue is ever full because of the replay.
    pub fn new(worker: &'a W, in_flight_max: usize, results: Option<&'a mut Output>) -> Self {
        Self {
            worker,
            in_flight_max: in_flight_max.max(1),
            in_flight: FuturesUnordered::new(),
            pending: VecDeque::new(),
            refused: Vec::new(),
            read: 0,
            tally: Tally::new(),
            results,
        }
    }

    /// Runs to the end, or until an `interrupt` is ready; a second one ends the waiting for what is running. `before` sees
    /// every batch before its events are sent.
    pub async fn run<E: From<io::Error>, I: Future>(
        mut self,
        mut batches: mpsc::Receiver<Result<Batch, RecordingError>>,
        interrupt: impl Fn() -> I,
        mut before: impl AsyncFnMut(&Batch) -> Result<(), E>,
    ) -> Result<(Tally, Ending), E> {
        let mut interrupted = std::pin::pin!(interrupt());
        let mut ending = None;
        loop {
            self.send();
            if self.results.as_ref().is_some_and(|results| results.is_closed()) {
                ending = Some(Ending::Interrupted);
            }
            if matches!(ending, Some(Ending::Interrupted)) {
                break;
            }
            let idle = self.in_flight.is_empty();
            if idle && !self.refused.is_empty() {
                self.take_back_refused().await;
                continue;
            }
            let want_more = ending.is_none() && self.pending.is_empty();
            if idle && !want_more {
                break;
            }
            tokio::select! {
                biased;
                _ = &mut interrupted => ending = Some(Ending::Interrupted),
                Some(answered) = self.in_flight.next(), if !idle => self.answered(answered)?,
                batch = batches.recv(), if want_more => match batch {
                    Some(Ok(batch)) => {
                        self.while_answers_come(before(&batch)).await?;
                        self.read(batch);
                    }
                    Some(Err(error)) => ending = Some(Ending::BadInput(error)),
                    None => ending = Some(Ending::Complete),
                },
            }
        }
        if matches!(ending, Some(Ending::Interrupted)) {
            self.wind_up(interrupt()).await?;
        }
        Ok((self.tally, ending.unwrap_or(Ending::Complete)))
    }

    /// Waits for the work, and takes answers when they come: seen late, they would seem to have taken long.
    async fn while_answers_come<E: From<io::Error>>(
        &mut self,
        work: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                Some(answered) = self.in_flight.next(), if !self.in_flight.is_empty() => self.answered(answered)?,
            }
        }
    }

    fn read(&mut self, batch: Batch) {
        self.tally.skipped.add(batch.skipped);
        for recorded in batch.events {
            self.pending.push_back(Numbered { number: self.read, recorded });
            self.read += 1;
        }
    }

    /// Sends as much as may be in flight. After a refusal nothing until all before it is answered.
    fn send(&mut self) {
        while self.refused.is_empty()
            && self.in_flight.len() < self.in_flight_max
            && let Some(event) = self.pending.pop_front()
        {
            let Recorded { tenant, event: payload, .. } = &event.recorded;
            let reply = self.worker.dispatch(*tenant, payload.clone());
            self.in_flight.push(InFlight { event: Some(event), sent: Instant::now(), reply });
        }
    }

    async fn take_back_refused(&mut self) {
        self.refused.sort_by_key(|event| event.number);
        for event in self.refused.drain(..).rev() {
            self.pending.push_front(event);
        }
        tokio::time::sleep(OVERLOAD_PAUSE).await;
    }

    fn answered(&mut self, Answered { event, took, answer }: Answered) -> io::Result<()> {
        match answer {
            Err(error) if error.kind() == WorkerErrorKind::Overloaded => {
                self.tally.retries += 1;
                self.refused.push(event);
                return Ok(());
            }
            Err(error) => self.tally.lost(&error),
            Ok(DispatchResult { templates }) => {
                self.tally.dispatched += u64::from(!templates.is_empty());
                for result in templates {
                    match &result.outcome {
                        Ok(value) => self.tally.returned(&result.template, value),
                        Err(error) => self.tally.failed(&result.template, error),
                    }
                    if let Some(results) = &mut self.results {
                        print_result(results, &event.recorded, &result.template, &result.outcome)?;
                    }
                }
            }
        }
        self.tally.delivered += 1;
        self.tally.took(took);
        Ok(())
    }

    /// Waits a little for what is running; the rest was never sent, or is given up.
    async fn wind_up(&mut self, interrupt: impl Future) -> io::Result<()> {
        let mut give_up = std::pin::pin!(tokio::time::sleep(INTERRUPT_GRACE));
        let mut interrupt = std::pin::pin!(interrupt);
        while !self.in_flight.is_empty() {
            tokio::select! {
                biased;
                () = &mut give_up => break,
                _ = &mut interrupt => break,
                Some(answered) = self.in_flight.next() => self.answered(answered)?,
            }
        }
        self.tally.unfinished = (self.in_flight.len() + self.refused.len()) as u64;
        Ok(())
    }
}

/// An event whose answer is waited for.
struct InFlight {
    event: Option<Numbered>,
    sent: Instant,
    reply: Reply<DispatchResult>,
}

struct Answered {
    event: Numbered,
    took: Duration,
    answer: Result<DispatchResult, WorkerError>,
}

impl Future for InFlight {
    type Output = Answered;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered> {
        Pin::new(&mut self.reply).poll(cx).map(|answer| Answered {
            took: self.sent.elapsed(),
            event: self.event.take().expect("because a future is not polled again after it was ready"),
            answer,
        })
    }
}

/// A result as `--results` prints it.
#[derive(Serialize)]
struct ResultLine<'a> {
    line: u64,
    tenant: TenantId,
    event: &'a str,
    template: &'a TemplateName,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
}

fn print_result(
    results: &mut Output,
    recorded: &Recorded,
    template: &TemplateName,
    outcome: &Result<Value, TemplateError>,
) -> io::Result<()> {
    results.json(&printed(recorded, template, outcome)?)
}

/// Appends a result as `--results` prints it.
pub(crate) fn result_line(
    lines: &mut Vec<u8>,
    recorded: &Recorded,
    template: &TemplateName,
    outcome: &Result<Value, TemplateError>,
) -> io::Result<()> {
    serde_json::to_writer(&mut *lines, &printed(recorded, template, outcome)?)?;
    lines.push(b'\n');
    Ok(())
}

fn printed<'a>(
    recorded: &'a Recorded,
    template: &'a TemplateName,
    outcome: &Result<Value, TemplateError>,
) -> io::Result<ResultLine<'a>> {
    let Recorded { line, tenant, event } = recorded;
    let mut printed = ResultLine {
        line: *line,
        tenant: *tenant,
        event: event.name().as_str(),
        template,
        value: None,
        error: None,
        at: None,
    };
    match outcome {
        // A value that has no JSON form is the template's mistake, and shown as one.
        Ok(value) => match value.to_json_untyped() {
            Ok(json) => printed.value = Some(RawValue::from_string(json)?),
            Err(error) => printed.error = Some(error.to_string()),
        },
        Err(error) => {
            printed.error = Some(error.text.to_string());
            printed.at = error.at.as_ref().map(ToString::to_string);
        }
    }
    Ok(printed)
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use bytes::Bytes;
    use worker_core::{Call, Event, ReplyTo, TemplateResult, WorkerId};

    use super::*;

    /// A worker with room for so many events, which answers the oldest of them each time that it is full, or whenever it
    /// is told to.
    #[derive(Default)]
    struct Fake {
        room: usize,
        waiting: RefCell<VecDeque<ReplyTo<DispatchResult>>>,
        /// Refuse every so manieth event.
        refuse_each: Cell<u64>,
        taken: RefCell<Vec<String>>,
        seen: Cell<u64>,
        waiting_max: Cell<usize>,
        templates: Vec<TemplateResult>,
        deaf: bool,
    }

    impl WorkerLike for Fake {
        fn id(&self) -> WorkerId {
            WorkerId::new(1)
        }

        fn submit(&self, call: Call) {
            let Call::Dispatch { event, reply_to, .. } = call else { unreachable!() };
            self.seen.set(self.seen.get() + 1);
            if self.refuse_each.get() > 0 && self.seen.get().is_multiple_of(self.refuse_each.get()) {
                return reply_to.send(Err(WorkerError::new(WorkerErrorKind::Overloaded, "full")));
            }
            self.taken.borrow_mut().push(event.name().to_string());
            let mut waiting = self.waiting.borrow_mut();
            waiting.push_back(reply_to);
            self.waiting_max.set(self.waiting_max.get().max(waiting.len()));
            while waiting.len() >= self.room.max(1) && !self.deaf {
                self.answer(waiting.pop_front().unwrap());
            }
        }
    }

    impl Fake {
        fn answer(&self, reply_to: ReplyTo<DispatchResult>) {
            reply_to.send(Ok(DispatchResult { templates: self.templates.clone() }));
        }
    }

    fn batch(events: std::ops::Range<u64>) -> Batch {
        let events = events
            .map(|line| Recorded {
                line,
                tenant: TenantId::guild(1 + line % 3),
                event: Event::discord(&format!("E{line}"), Bytes::new()),
            })
            .collect();
        Batch { events, ..Batch::default() }
    }

    async fn replay(worker: &Fake, in_flight: usize, events: u64) -> (Tally, Ending) {
        let (sender, receiver) = mpsc::channel(100);
        for start in (0..events).step_by(10) {
            sender.try_send(Ok(batch(start..events.min(start + 10)))).unwrap();
        }
        drop(sender);
        Replay::new(worker, in_flight, None)
            .run(receiver, std::future::pending::<()>, async |_: &Batch| Ok::<_, io::Error>(()))
            .await
            .unwrap()
    }

    fn in_order(events: u64) -> Vec<String> {
        (0..events).map(|line| format!("E{line}")).collect()
    }

    #[tokio::test]
    async fn every_event_is_sent_once_and_in_order() {
        let worker = Fake::default();
        let (tally, ending) = replay(&worker, 8, 95).await;
        assert!(matches!(ending, Ending::Complete));
        assert_eq!(tally.delivered, 95);
        assert_eq!(*worker.taken.borrow(), in_order(95));
    }

    #[tokio::test]
    async fn no_more_than_allowed_is_in_flight() {
        // Answers come only when the seventh event does.
        let worker = Fake { room: 7, ..Fake::default() };
        let replay = replay(&worker, 7, 6);
        let late = async {
            tokio::task::yield_now().await;
            while let Some(reply_to) = worker.waiting.borrow_mut().pop_front() {
                worker.answer(reply_to);
            }
        };
        let ((tally, _), ()) = tokio::join!(replay, late);
        assert_eq!((tally.delivered, worker.waiting_max.get()), (6, 6));
    }

    #[tokio::test]
    async fn what_a_full_queue_refused_is_sent_again_in_order() {
        let worker = Fake { refuse_each: Cell::new(5), ..Fake::default() };
        let (tally, _) = replay(&worker, 1, 40).await;
        assert_eq!(tally.delivered, 40);
        assert!(tally.retries >= 8, "{}", tally.retries);
        assert_eq!(*worker.taken.borrow(), in_order(40));

        let worker = Fake { refuse_each: Cell::new(3), ..Fake::default() };
        let (tally, _) = replay(&worker, 10, 100).await;
        assert_eq!(tally.delivered, 100);
        let mut taken = worker.taken.take();
        taken.sort();
        let mut all = in_order(100);
        all.sort();
        assert_eq!(taken, all, "nothing is lost and nothing runs twice");
    }

    #[tokio::test]
    async fn an_interruption_gives_up_what_does_not_answer() {
        let worker = Fake { deaf: true, ..Fake::default() };
        let (sender, receiver) = mpsc::channel(1);
        sender.try_send(Ok(batch(0..10))).unwrap();
        let interrupts = Cell::new(0);
        let interrupt = async || {
            interrupts.set(interrupts.get() + 1);
            if interrupts.get() > 1 {
                return std::future::pending().await;
            }
            while worker.seen.get() < 4 {
                tokio::task::yield_now().await;
            }
        };
        let (tally, ending) = Replay::new(&worker, 4, None)
            .run(receiver, interrupt, async |_: &Batch| Ok::<_, io::Error>(()))
            .await
            .unwrap();
        assert!(matches!(ending, Ending::Interrupted));
        assert_eq!((tally.delivered, tally.unfinished), (0, 4));
    }

    #[tokio::test]
    async fn results_and_failures_are_counted() {
        let result = |outcome| TemplateResult { template: TemplateName::new("t").unwrap(), outcome };
        let templates = vec![result(Ok(Value::Null)), result(Err(TemplateError::new("boom")))];
        let (tally, _) = replay(&Fake { templates, ..Fake::default() }, 3, 10).await;
        assert_eq!((tally.dispatched, tally.results(), tally.failures()), (10, 10, 10));
    }
}
