//! The feed of records that are due.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast, oneshot};
use tokio::task::JoinHandle;
use worker_core::{TenantId, WorkerFilter};
use worker_db::{Change, DbClock, DueRecord, WorkerDb};

use crate::ExpirySettings;
use crate::window::Window;

/// Records that are read from the index at once.
const PAGE: usize = 1_024;

/// The window reaches so many polls into the future.
const HORIZON_POLLS: i32 = 3;

/// The longest sleep between two looks at the clock, which may be set.
const CLOCK_PACE: Duration = Duration::from_millis(500);

/// Before the database is asked again after it did not answer.
const RETRY_WAIT: Duration = Duration::from_millis(500);

/// The records of a worker's tenants in the order in which they are due, each when it is due.
///
/// In memory is a window of what is due soon. It is filled from the index, told at once of what this process writes, and
/// of what others write at the next poll. It belongs to one thread; must be made on a runtime that spawns local tasks.
pub struct KeyExpiryChannel {
    inner: Rc<Inner>,
    tasks: [JoinHandle<()>; 2],
}

struct Inner {
    db: WorkerDb,
    filter: WorkerFilter,
    poll: Duration,
    clock: DbClock,
    window: RefCell<Window>,
    /// Records in hand, and who wants to know that they were changed.
    watched: RefCell<HashMap<Arc<str>, oneshot::Sender<()>>>,
    /// Records that were written since the page was asked for that is on its way: what it says of them may be old.
    touched: RefCell<HashSet<Arc<str>>>,
    wake: Notify,
    refill: Notify,
    must_poll: Cell<bool>,
}

impl KeyExpiryChannel {
    /// The feed for the tenants that `filter` owns.
    pub fn new(db: WorkerDb, filter: WorkerFilter, settings: &ExpirySettings) -> Self {
        let changes = db.changes();
        let inner = Rc::new(Inner {
            clock: db.clock().clone(),
            db,
            filter,
            poll: settings.poll,
            window: RefCell::new(Window::new(settings)),
            watched: RefCell::default(),
            touched: RefCell::default(),
            wake: Notify::new(),
            refill: Notify::new(),
            must_poll: Cell::new(false),
        });
        let follow = tokio::task::spawn_local(inner.clone().follow(changes));
        let fill = tokio::task::spawn_local(inner.clone().fill());
        Self { inner, tasks: [follow, fill] }
    }

    /// Waits until records are due, and takes at most `max` of them into hand, of one tenant after the other. They count
    /// against their tenant until they are released.
    pub async fn take(&self, max: usize) -> Vec<DueRecord> {
        loop {
            let now = self.now();
            let taken = self.inner.window.borrow_mut().take(now, max);
            if self.inner.window.borrow().hungry().is_some() {
                self.inner.refill.notify_one();
            }
            if !taken.is_empty() {
                return taken;
            }
            let next_at = self.inner.window.borrow().next_at();
            tokio::select! {
                () = self.inner.wake.notified() => {}
                () = self.inner.clock.waits().rest_until_time(next_at, CLOCK_PACE) => {}
            }
        }
    }

    /// What is received when the record in hand is written or deleted by this process.
    pub fn changed(&self, id: &Arc<str>) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.inner.watched.borrow_mut().insert(id.clone(), sender);
        receiver
    }

    /// Nobody wants to know any more whether the record is changed.
    pub fn unwatch(&self, id: &Arc<str>) {
        self.inner.watched.borrow_mut().remove(id);
    }

    /// The record is no longer in hand; it may be due again.
    pub fn release(&self, tenant: TenantId, id: &Arc<str>, due_again: Option<Timestamp>) {
        {
            let mut window = self.inner.window.borrow_mut();
            window.release(tenant);
            if let Some(due_at) = due_again.filter(|at| *at <= self.inner.horizon()) {
                window.put(DueRecord { due_at, tenant, id: id.clone() });
            }
        }
        self.inner.wake.notify_one();
    }

    /// The time that expiries are compared with.
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// Records in memory, and records in hand.
    pub fn len(&self) -> (usize, usize) {
        let window = self.inner.window.borrow();
        (window.len(), window.in_hand())
    }
}

impl Inner {
    fn horizon(&self) -> Timestamp {
        let ahead = SignedDuration::try_from(self.poll).unwrap_or(SignedDuration::MAX).saturating_mul(HORIZON_POLLS);
        self.clock.now().saturating_add(ahead).unwrap_or(Timestamp::MAX)
    }

    async fn follow(self: Rc<Self>, mut changes: broadcast::Receiver<Change>) {
        loop {
            match changes.recv().await {
                Ok(Change::Expiry { tenant, id, expires_at }) if self.filter.owns(tenant) => {
                    self.was_written(tenant, id, expires_at);
                }
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => {
                    self.must_poll.set(true);
                    self.refill.notify_one();
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn was_written(&self, tenant: TenantId, id: Arc<str>, expires_at: Option<Timestamp>) {
        if let Some(sender) = self.watched.borrow_mut().remove(&id) {
            // It may be done with already.
            let _ = sender.send(());
        }
        self.touched.borrow_mut().insert(id.clone());
        let mut window = self.window.borrow_mut();
        match expires_at.filter(|at| *at <= self.horizon()) {
            Some(due_at) => window.put(DueRecord { due_at, tenant, id }),
            None => window.remove(tenant, &id),
        }
        drop(window);
        self.wake.notify_one();
    }

    /// Reads what is due soon at each poll, and what had no room as soon as it has.
    async fn fill(self: Rc<Self>) {
        loop {
            self.must_poll.set(false);
            let clock = self.clock.waits();
            let began = clock.moment();
            self.read(None).await;
            // A long list is not read all the time.
            let next = clock.moment() + self.poll.max(clock.since(began) * 4);
            while !self.must_poll.get() {
                tokio::select! {
                    () = self.refill.notified() => {}
                    () = clock.rest_until(next) => break,
                }
                let hungry = self.window.borrow().hungry();
                if let Some((due_at, tenant)) = hungry {
                    self.read(Some(DueRecord { due_at, tenant, id: "".into() })).await;
                }
            }
        }
    }

    /// Reads from the index: one page after the record, or from the beginning all that is due soon.
    async fn read(&self, after: Option<DueRecord>) {
        let one_page = after.is_some();
        let mut after = after;
        loop {
            let until = self.horizon();
            self.touched.borrow_mut().clear();
            let page = match self.db.expiry_due(until, after.as_ref(), PAGE).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::error!(error = &error as &dyn Error, "records that are due cannot be read");
                    self.clock.waits().rest(RETRY_WAIT).await;
                    continue;
                }
            };
            let is_last = page.len() < PAGE;
            let next = page.last().cloned();
            {
                let touched = self.touched.borrow();
                let mut window = self.window.borrow_mut();
                let from = after.as_ref().map_or(Timestamp::MIN, |after| after.due_at);
                let to = next.as_ref().filter(|_| !is_last).map_or(until, |last| last.due_at);
                window.rereads(from, to);
                let ours = page.into_iter().filter(|due| self.filter.owns(due.tenant) && !touched.contains(&due.id));
                ours.for_each(|due| window.put(due));
            }
            self.wake.notify_one();
            if one_page || is_last || self.window.borrow().is_full() {
                return;
            }
            after = next;
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for KeyExpiryChannel {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl fmt::Debug for KeyExpiryChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyExpiryChannel").field("filter", &self.inner.filter).finish_non_exhaustive()
    }
}
