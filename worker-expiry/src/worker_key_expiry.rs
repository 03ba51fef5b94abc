//! What is done with a record that is due.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use worker_core::{DispatchResult, Event, EventName, WorkerError, WorkerErrorKind, WorkerFilter, WorkerLike};
use worker_db::{Attempt, ClaimedRecord, DbError, DueRecord, ExpirySession, WorkerDb};
use worker_dispatch::WorkerDispatcher;

use crate::{ExpiryProcess, ExpirySettings, ExpiryStats, KeyExpiryChannel};

/// Records that are claimed, or done with, in one transaction.
const BATCH_MAX: usize = 256;

/// Records that are claimed and not done with: more than there may be handlers, as those whose handlers have ended wait for
/// the database.
const UNSETTLED_MAX: usize = 4_096;

/// Before the database is asked again after it did not answer; doubled each time.
const RETRY_WAIT: Duration = Duration::from_millis(100);

/// The longest such wait.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(2);

/// Before a record is tried again that the dispatcher had no room for.
const NO_ROOM_WAIT: SignedDuration = SignedDuration::from_secs(1);

/// Between two looks whether all that was in hand is done with.
const FINISH_PACE: Duration = Duration::from_millis(2);

/// Sends `KeyExpiry` for each record of a worker's tenants when it is due, and removes the record after its handlers have
/// succeeded. It lives on the worker's thread, and ends when it is dropped: what it had in hand is then free when its
/// leases end, or at once when a worker of the same name begins.
pub struct WorkerKeyExpiry {
    inner: Rc<Inner>,
    task: JoinHandle<()>,
}

struct Inner {
    dispatcher: WorkerDispatcher,
    db: WorkerDb,
    channel: KeyExpiryChannel,
    settings: ExpirySettings,
    /// Records that are claimed and not done with.
    in_hand: RefCell<HashMap<Arc<str>, ClaimedRecord>>,
    outcomes: RefCell<Vec<(ClaimedRecord, Outcome)>>,
    /// Notified when there are outcomes.
    news: Notify,
    /// Notified when there is room for another record.
    room: Notify,
    stopping: Cell<bool>,
    stats: RefCell<ExpiryStats>,
}

/// What became of an attempt.
#[derive(Debug)]
enum Outcome {
    Handled,
    /// Nobody had subscribed.
    Unsubscribed,
    Failed(String),
    /// It was not even begun.
    NotBegun(SignedDuration),
    /// The record was changed meanwhile: what was claimed is no more.
    Changed,
}

#[derive(Serialize)]
struct KeyExpiry<'a> {
    id: &'a str,
    key: &'a str,
    scopes: &'a [String],
}

impl WorkerKeyExpiry {
    /// Begins to handle what is due. Must be called on a runtime that spawns local tasks.
    pub fn new(
        dispatcher: WorkerDispatcher,
        db: WorkerDb,
        channel: KeyExpiryChannel,
        process: ExpiryProcess,
        settings: ExpirySettings,
    ) -> Self {
        let inner = Rc::new(Inner {
            dispatcher,
            db,
            channel,
            settings,
            in_hand: RefCell::default(),
            outcomes: RefCell::default(),
            news: Notify::new(),
            room: Notify::new(),
            stopping: Cell::new(false),
            stats: RefCell::default(),
        });
        let task = tokio::task::spawn_local(inner.clone().run(process));
        Self { inner, task }
    }

    /// Figures of now.
    pub fn stats(&self) -> ExpiryStats {
        let (pending, in_hand) = (self.inner.channel.len().0, self.inner.in_hand.borrow().len());
        ExpiryStats { pending: pending as u64, in_hand: in_hand as u64, ..self.inner.stats.borrow().clone() }
    }

    /// Claims nothing more. What is in hand goes on, and can be waited for with [`finished`](Self::finished).
    pub fn stop(&self) {
        self.inner.stopping.set(true);
        self.inner.room.notify_one();
    }

    /// Claims records of these tenants from now on. The future ends when nothing of others is in hand any more, and the
    /// database knows what became of it.
    pub fn own(&self, filter: WorkerFilter) -> impl Future<Output = ()> + use<> {
        let inner = self.inner.clone();
        inner.channel.own(filter);
        async move {
            while inner.channel.holds_of_others() {
                tokio::time::sleep(FINISH_PACE).await;
            }
        }
    }

    /// Does nothing more.
    pub fn end(&self) {
        self.inner.stopping.set(true);
        self.task.abort();
    }

    /// After [`stop`](Self::stop): waits until nothing is in hand and the database knows what became of it.
    pub fn finished(&self) -> impl Future<Output = ()> + use<> {
        let inner = self.inner.clone();
        async move {
            while inner.channel.len().1 > 0 || !inner.in_hand.borrow().is_empty() {
                tokio::time::sleep(FINISH_PACE).await;
            }
        }
    }
}

impl Drop for WorkerKeyExpiry {
    fn drop(&mut self) {
        self.end();
    }
}

impl Inner {
    async fn run(self: Rc<Self>, process: ExpiryProcess) {
        let session =
            self.until_answered("no session can be begun", || process.session(&self.db, self.dispatcher.id())).await;
        tokio::join!(self.claim_all(session), self.settle_all(), self.renew_all(session));
    }

    async fn claim_all(self: &Rc<Self>, session: ExpirySession) {
        let mut wait = RETRY_WAIT;
        while !self.stopping.get() {
            let unsettled = self.in_hand.borrow().len();
            let room = self.channel.room().min(UNSETTLED_MAX.saturating_sub(unsettled));
            if room == 0 {
                self.room.notified().await;
                continue;
            }
            let due = self.channel.take(room.min(BATCH_MAX)).await;
            if self.stopping.get() {
                self.put_back(due);
                return;
            }
            at_step("due");
            let lease_until = later(self.channel.now(), self.settings.lease);
            match self.db.expiry_claim(session, &due, lease_until).await {
                Ok(claimed) => {
                    at_step("claimed");
                    wait = RETRY_WAIT;
                    self.begin(&due, claimed);
                }
                Err(error) => {
                    // If they were claimed after all, they come up again when their lease ends.
                    tracing::error!(error = &error as &dyn Error, "records that are due cannot be claimed");
                    self.put_back(due);
                    self.db.clock().waits().rest(wait).await;
                    wait = (wait * 2).min(RETRY_WAIT_MAX);
                }
            }
        }
    }

    fn put_back(&self, due: Vec<DueRecord>) {
        for record in due {
            self.channel.release(record.tenant);
            self.channel.due_again(record);
        }
    }

    fn begin(self: &Rc<Self>, due: &[DueRecord], claimed: Vec<ClaimedRecord>) {
        {
            let ids: HashSet<_> = claimed.iter().map(|record| &record.id).collect();
            let lost = due.iter().filter(|due| !ids.contains(&due.id));
            // Changed, deleted, or another's.
            lost.for_each(|due| self.channel.release(due.tenant));
        }
        self.in_hand.borrow_mut().extend(claimed.iter().map(|record| (record.id.clone(), record.clone())));
        for record in claimed {
            let this = self.clone();
            // Before any other task runs: a change from now on is seen.
            let changed = self.channel.changed(&record.id);
            tokio::task::spawn_local(async move {
                let outcome = tokio::select! {
                    biased;
                    Ok(()) = changed => Outcome::Changed,
                    outcome = this.attempt(&record) => outcome,
                };
                if let Outcome::NotBegun(wait) = outcome {
                    this.channel
                        .pause(record.tenant, this.channel.now().saturating_add(wait).unwrap_or(Timestamp::MAX));
                }
                this.channel.release(record.tenant);
                this.room.notify_one();
                this.outcomes.borrow_mut().push((record, outcome));
                this.news.notify_one();
            });
        }
    }

    /// Sends the event and waits for what comes of it. Dropped before it was started, the event is not started at all.
    async fn attempt(&self, record: &ClaimedRecord) -> Outcome {
        if record.attempts > self.settings.attempts_max {
            return Outcome::Failed("cut off: each time the process ended before the handlers did".into());
        }
        if self.stopping.get() {
            return Outcome::NotBegun(SignedDuration::ZERO);
        }
        let Some(event) = event(record) else { return Outcome::Failed("internal: the event has no JSON form".into()) };
        if record.attempts == 1 {
            let late = self.channel.now().duration_since(record.expires_at);
            self.stats.borrow_mut().was_late(Duration::try_from(late).unwrap_or_default());
        }
        outcome(self.dispatcher.dispatch(record.tenant, event).await)
    }

    /// Tells the database what became of attempts, many at a time.
    async fn settle_all(&self) {
        loop {
            let batch: Vec<_> = {
                let mut outcomes = self.outcomes.borrow_mut();
                let count = outcomes.len().min(BATCH_MAX);
                outcomes.drain(..count).collect()
            };
            if batch.is_empty() {
                self.news.notified().await;
            } else {
                self.settle(batch).await;
            }
        }
    }

    async fn settle(&self, batch: Vec<(ClaimedRecord, Outcome)>) {
        let (mut done, mut put_off, mut dead) = (Vec::new(), Vec::new(), Vec::new());
        let now = self.channel.now();
        for (record, outcome) in batch {
            let mut stats = self.stats.borrow_mut();
            match outcome {
                Outcome::Handled | Outcome::Unsubscribed => {
                    let is_handled = matches!(outcome, Outcome::Handled);
                    *(if is_handled { &mut stats.handled } else { &mut stats.unsubscribed }) += 1;
                    done.push(record);
                }
                Outcome::Changed => {
                    drop(stats);
                    self.release(&record, None);
                }
                Outcome::NotBegun(wait) => {
                    put_off.push((record, now.saturating_add(wait).unwrap_or(Timestamp::MAX), Attempt::GivenBack));
                }
                Outcome::Failed(error) if record.attempts >= self.settings.attempts_max => dead.push((record, error)),
                Outcome::Failed(_) => {
                    stats.retries += 1;
                    let wait = self.settings.backoff(record.attempts, rand::random());
                    put_off.push((record, later(now, wait), Attempt::Counts));
                }
            }
        }
        if !done.is_empty() {
            at_step("handled");
            self.until_answered("handled records cannot be removed", || self.db.expiry_complete(&done)).await;
            at_step("removed");
            done.iter().for_each(|record| self.release(record, None));
        }
        if !put_off.is_empty() {
            self.until_answered("failed records cannot be put off", || self.db.expiry_put_off(&put_off)).await;
            put_off.iter().for_each(|(record, at, _)| self.release(record, Some(*at)));
        }
        if !dead.is_empty() {
            let bury = || self.db.expiry_bury(&dead);
            let buried = self.until_answered("records cannot be made dead letters", bury).await;
            for (record, error) in &dead {
                if buried.contains(&record.id) {
                    self.stats.borrow_mut().dead += 1;
                    let text = format!(
                        "key_expiry: the record `{}` with the scopes {:?} was given up after {} attempts and is kept as a \
                         dead letter: {error}",
                        record.key, record.scopes, record.attempts
                    );
                    self.dispatcher.report(record.tenant, &EventName::KEY_EXPIRY, &text);
                }
                self.release(record, None);
            }
        }
    }

    /// The database knows what became of the record.
    fn release(&self, record: &ClaimedRecord, due_again: Option<Timestamp>) {
        let mut in_hand = self.in_hand.borrow_mut();
        // A record that was armed anew may be in hand once more already.
        if in_hand.get(&record.id).is_some_and(|held| held.fence == record.fence) {
            in_hand.remove(&record.id);
            self.channel.unwatch(&record.id);
        }
        drop(in_hand);
        if let Some(due_at) = due_again {
            self.channel.due_again(DueRecord { due_at, tenant: record.tenant, id: record.id.clone() });
        }
        self.room.notify_one();
    }

    /// Keeps the leases of what is in hand.
    async fn renew_all(&self, session: ExpirySession) {
        let pace = self.settings.lease / 3;
        loop {
            self.db.clock().waits().rest(pace).await;
            let records: Vec<_> = self.in_hand.borrow().values().cloned().collect();
            if records.is_empty() {
                continue;
            }
            let lease_until = later(self.channel.now(), self.settings.lease);
            if let Err(error) = self.db.expiry_renew(session, &records, lease_until).await {
                tracing::error!(error = &error as &dyn Error, "leases cannot be renewed");
            }
        }
    }

    async fn until_answered<T, F: Future<Output = Result<T, DbError>>>(
        &self,
        what: &'static str,
        ask: impl Fn() -> F,
    ) -> T {
        let mut wait = RETRY_WAIT;
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) => tracing::error!(error = &error as &dyn Error, "{what}"),
            }
            self.db.clock().waits().rest(wait).await;
            wait = (wait * 2).min(RETRY_WAIT_MAX);
        }
    }
}

/// Tells where the work is, for tests that end the process there.
fn at_step(step: &str) {
    tracing::trace!(target: "step", step);
}

fn outcome(answer: Result<DispatchResult, WorkerError>) -> Outcome {
    match answer {
        Ok(result) if result.templates.is_empty() => Outcome::Unsubscribed,
        Ok(result) => {
            let failed = result.templates.iter().find_map(|one| Some((&one.template, one.outcome.as_ref().err()?)));
            failed.map_or(Outcome::Handled, |(template, error)| Outcome::Failed(format!("{template}: {error}")))
        }
        Err(error) if error.kind() == WorkerErrorKind::Overloaded => Outcome::NotBegun(NO_ROOM_WAIT),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

fn event(record: &ClaimedRecord) -> Option<Event> {
    let data = KeyExpiry { id: &record.id, key: &record.key, scopes: &record.scopes };
    // Three strings always have a JSON form.
    let data = serde_json::to_vec(&data).ok()?;
    let event = Event::antiraid(EventName::KEY_EXPIRY, Bytes::from(data));
    Some(event.with_scopes(record.scopes.iter().map(String::as_str)))
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    at.saturating_add(by).unwrap_or(Timestamp::MAX)
}

impl fmt::Debug for WorkerKeyExpiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerKeyExpiry").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
