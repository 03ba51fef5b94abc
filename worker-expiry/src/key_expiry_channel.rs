//! The feed of records that are due.

use std::cell::RefCell;
use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use worker_core::{TenantId, WorkerFilter};
use worker_db::{Change, DbClock, DueCursor, DueRecord, WorkerDb};

use crate::due_feed::{self, Page, SharedFilter};
use crate::window::Window;
use crate::{ExpiryProcess, ExpirySettings};

/// The longest sleep between two looks at the clock, which may be set.
const CLOCK_PACE: Duration = Duration::from_millis(500);

/// After a read of what had no room that found nothing to put anywhere, or failed.
const IDLE_READ_WAIT: Duration = Duration::from_millis(20);

/// How long it is remembered that a record was written.
const TOUCHED_FOR: Duration = Duration::from_secs(5);

/// The records of a worker's tenants in the order in which they are due, each when it is due.
///
/// In memory is a window of what is due soon. It is told at each poll what is in the index, and at once of what this process
/// writes. It belongs to one thread; must be made on a runtime that spawns local tasks.
pub struct KeyExpiryChannel {
    inner: Rc<Inner>,
    tasks: [JoinHandle<()>; 2],
}

struct Inner {
    db: WorkerDb,
    /// Shared with who reads for all workers of the process.
    filter: SharedFilter,
    process: ExpiryProcess,
    poll: Duration,
    clock: DbClock,
    window: RefCell<Window>,
    /// Records that are claimed and not done with, and who wants to know that they were changed. Nothing that is read of
    /// them counts, or a lease that ran out for the clock's sake would be claimed twice.
    watched: RefCell<HashMap<Arc<str>, oneshot::Sender<()>>>,
    /// When records were written: what a page says of them that was asked for before may be old.
    touched: RefCell<HashMap<Arc<str>, Instant>>,
    wake: Notify,
    refill: Notify,
}

impl KeyExpiryChannel {
    /// The feed for the tenants that `filter` owns, in a process of this database.
    pub fn new(db: WorkerDb, filter: WorkerFilter, process: &ExpiryProcess, settings: &ExpirySettings) -> Self {
        // Before anything is read.
        let changes = db.changes();
        let filter = SharedFilter::new(filter);
        let pages = process.feed().join(&db, filter.clone(), settings.poll);
        let inner = Rc::new(Inner {
            clock: db.clock().clone(),
            db,
            filter,
            process: process.clone(),
            poll: settings.poll,
            window: RefCell::new(Window::new(settings)),
            watched: RefCell::default(),
            touched: RefCell::default(),
            wake: Notify::new(),
            refill: Notify::new(),
        });
        let follow = tokio::task::spawn_local(inner.clone().follow(changes));
        let fill = tokio::task::spawn_local(inner.clone().fill(pages));
        Self { inner, tasks: [follow, fill] }
    }

    /// Waits until records are due, and takes at most `max` of them into hand, of one tenant after the other. They count
    /// against their tenant until they are [released](Self::release).
    pub async fn take(&self, max: usize) -> Vec<DueRecord> {
        loop {
            let now = self.now();
            let taken = self.inner.window.borrow_mut().take(now, max);
            if self.inner.hungry().is_some() {
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

    /// A record of the tenant is no longer in hand.
    pub fn release(&self, tenant: TenantId) {
        self.inner.window.borrow_mut().release(tenant);
        self.inner.wake.notify_one();
    }

    /// The record is due once more.
    pub fn due_again(&self, record: DueRecord) {
        if self.inner.filter.owns(record.tenant) && record.due_at <= self.inner.horizon() {
            self.inner.window.borrow_mut().put(record);
            self.inner.wake.notify_one();
        }
    }

    /// From now on the feed is of these tenants. What is in hand of others stays there.
    pub(crate) fn own(&self, filter: WorkerFilter) {
        let inner = &self.inner;
        inner.filter.set(filter);
        inner.window.borrow_mut().keep(|tenant| inner.filter.owns(tenant));
        // Who is new is not in the window yet.
        inner.process.feed().read_again();
    }

    /// Whether a record is in hand of a tenant that is not this feed's any more.
    pub(crate) fn holds_of_others(&self) -> bool {
        self.inner.window.borrow().has_in_hand(|tenant| !self.inner.filter.owns(tenant))
    }

    /// Nothing of the tenant is taken before this time.
    pub fn pause(&self, tenant: TenantId, until: Timestamp) {
        self.inner.window.borrow_mut().pause(tenant, until);
    }

    /// How many records can be taken into hand.
    pub fn room(&self) -> usize {
        self.inner.window.borrow().room()
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
        due_feed::horizon(self.clock.now(), self.poll)
    }

    fn hungry(&self) -> Option<DueCursor> {
        self.window.borrow().hungry(self.horizon())
    }

    async fn follow(self: Rc<Self>, mut changes: broadcast::Receiver<Change>) {
        loop {
            match changes.recv().await {
                Ok(Change::Expiry { tenant, id, expires_at }) if self.filter.owns(tenant) => {
                    self.was_written(tenant, id, expires_at);
                }
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => self.process.feed().read_again(),
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn was_written(&self, tenant: TenantId, id: Arc<str>, expires_at: Option<Timestamp>) {
        if let Some(sender) = self.watched.borrow_mut().remove(&id) {
            // It may be done with already.
            let _ = sender.send(());
        }
        self.touched.borrow_mut().insert(id.clone(), Instant::now());
        let mut window = self.window.borrow_mut();
        match expires_at.filter(|at| *at <= self.horizon()) {
            Some(due_at) => window.put(DueRecord { due_at, tenant, id }),
            None => window.remove(tenant, &id),
        }
        drop(window);
        self.wake.notify_one();
    }

    /// Takes what is read at each poll, and reads what had no room as soon as it has.
    async fn fill(self: Rc<Self>, mut pages: mpsc::Receiver<Page>) {
        loop {
            tokio::select! {
                page = pages.recv() => match page {
                    Some(page) => {
                        self.put(page);
                    }
                    None => return,
                },
                () = self.refill.notified() => {
                    let Some(from) = self.hungry() else { continue };
                    let read = due_feed::read(&self.db, from, self.horizon()).await;
                    let is_useful = match read {
                        Ok(page) => self.put(page),
                        Err(error) => {
                            tracing::error!(error = &error as &dyn Error, "records that are due cannot be read");
                            false
                        }
                    };
                    if !is_useful {
                        self.clock.waits().rest(IDLE_READ_WAIT).await;
                        self.wake.notify_one();
                    }
                }
            }
        }
    }

    /// Puts into the window what was read. Whether anything found room there.
    fn put(&self, page: Page) -> bool {
        let is_useful = {
            let mut touched = self.touched.borrow_mut();
            // No page that is on its way was asked for so much earlier.
            touched.retain(|_, at| *at + TOUCHED_FOR >= page.asked);
            let watched = self.watched.borrow();
            let mut window = self.window.borrow_mut();
            let before = window.len();
            window.rereads(&page.from, page.to.as_ref(), page.until);
            for record in page.records {
                let is_old = touched.get(&record.id).is_some_and(|at| *at >= page.asked);
                let is_news = !is_old && !watched.contains_key(&record.id);
                if is_news && self.filter.owns(record.tenant) {
                    window.put(record);
                }
            }
            window.len() > before
        };
        self.wake.notify_one();
        is_useful
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
