//! What is due soon, read once for all workers of a process.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use worker_core::{TenantId, WorkerFilter};
use worker_db::{DbError, DueCursor, DueRecord, WorkerDb};

/// Records that are read from the index at once.
pub(crate) const PAGE: usize = 1_024;

/// What is read reaches so many polls into the future.
const HORIZON_POLLS: i32 = 3;

/// What has been overdue for less is read with what becomes due: another process may have written it a moment before.
const RECENT_POLLS: i32 = 2;

/// Pages that wait for one worker. What it has no time for, it is told again at another poll.
const WAITING_MAX: usize = 64;

/// The part of a poll's time in which what is overdue is read again: one in so many.
const SWEEP_PART: u32 = 5;

/// Between two reads, however often one is asked for: one part of a poll's time in so many.
const HASTE_PART: u32 = 10;

/// Reads the index at each poll: first what becomes due soon, all of it; then, for a part of the time, what is overdue,
/// from where it stopped the last time: that may be very much, and most of it is in some window already.
#[derive(Debug, Default)]
pub(crate) struct DueFeed {
    readers: Arc<Readers>,
    task: OnceLock<JoinHandle<()>>,
}

#[derive(Default)]
struct Readers {
    list: Mutex<Vec<Reader>>,
    /// Notified when there is a new one, or one that needs to be told all again.
    wanted: Notify,
}

/// Whose records one worker reads. It changes when a pool is resized.
#[derive(Clone, Debug)]
pub(crate) struct SharedFilter(Arc<Mutex<WorkerFilter>>);

impl SharedFilter {
    pub(crate) fn new(filter: WorkerFilter) -> Self {
        Self(Arc::new(Mutex::new(filter)))
    }

    pub(crate) fn set(&self, filter: WorkerFilter) {
        *self.lock() = filter;
    }

    pub(crate) fn owns(&self, tenant: TenantId) -> bool {
        self.lock().owns(tenant)
    }

    fn lock(&self) -> MutexGuard<'_, WorkerFilter> {
        // Nothing is half done when it panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Reader {
    filter: SharedFilter,
    pages: mpsc::Sender<Page>,
}

/// A part of the index as it was.
#[derive(Debug)]
pub(crate) struct Page {
    /// What was written later may be missing.
    pub(crate) asked: Instant,
    /// All records from here on,
    pub(crate) from: DueCursor,
    /// as far as this place, or else all that are due by `until`.
    pub(crate) to: Option<DueCursor>,
    pub(crate) until: Timestamp,
    pub(crate) records: Vec<DueRecord>,
}

impl DueFeed {
    /// Pages of the records that `filter` owns, from now on.
    pub(crate) fn join(&self, db: &WorkerDb, filter: SharedFilter, poll: Duration) -> mpsc::Receiver<Page> {
        let (pages, receiver) = mpsc::channel(WAITING_MAX);
        self.readers.lock().push(Reader { filter, pages });
        self.task.get_or_init(|| {
            let poller = Poller { db: db.clone(), readers: self.readers.clone(), poll, overdue: None };
            db.spawn(poller.run())
        });
        self.read_again();
        receiver
    }

    /// Reads before the next poll, and what is overdue from its beginning.
    pub(crate) fn read_again(&self) {
        self.readers.wanted.notify_one();
    }
}

impl Drop for DueFeed {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

/// How far what is read reaches.
pub(crate) fn horizon(now: Timestamp, poll: Duration) -> Timestamp {
    now.saturating_add(polls(poll, HORIZON_POLLS)).unwrap_or(Timestamp::MAX)
}

fn polls(poll: Duration, count: i32) -> SignedDuration {
    SignedDuration::try_from(poll).unwrap_or(SignedDuration::MAX).saturating_mul(count)
}

/// Reads a page.
pub(crate) async fn read(db: &WorkerDb, from: DueCursor, until: Timestamp) -> Result<Page, DbError> {
    let asked = Instant::now();
    let page = db.expiry_due(until, &from, PAGE).await?;
    Ok(Page { asked, from, to: page.next, until, records: page.records })
}

struct Poller {
    db: WorkerDb,
    readers: Arc<Readers>,
    poll: Duration,
    /// Where reading what is overdue goes on; none at its beginning.
    overdue: Option<DueCursor>,
}

impl Poller {
    async fn run(mut self) {
        loop {
            let begun = Instant::now();
            if let Err(error) = self.read_all().await {
                tracing::error!(error = &error as &dyn Error, "records that are due cannot be read");
            }
            tokio::select! {
                () = tokio::time::sleep_until(begun + self.poll) => {}
                () = self.readers.wanted.notified() => {
                    self.overdue = None;
                    tokio::time::sleep_until(begun + self.poll / HASTE_PART).await;
                }
            }
        }
    }

    async fn read_all(&mut self) -> Result<(), DbError> {
        let now = self.db.clock().now();
        let begun = Instant::now();
        let recent = now.saturating_sub(polls(self.poll, RECENT_POLLS)).unwrap_or(Timestamp::MIN);
        let mut ahead = Some(DueCursor::before(recent));
        while let Some(from) = ahead
            && begun.elapsed() < self.poll
        {
            ahead = self.read_page(from, horizon(now, self.poll)).await?;
        }
        let begun = Instant::now();
        loop {
            let from = self.overdue.take().unwrap_or_else(|| DueCursor::before(Timestamp::MIN));
            self.overdue = self.read_page(from, recent).await?;
            if self.overdue.is_none() || begun.elapsed() > self.poll / SWEEP_PART {
                return Ok(());
            }
        }
    }

    /// Reads a page and gives everybody what is theirs. Where to go on, if there is more.
    async fn read_page(&self, from: DueCursor, until: Timestamp) -> Result<Option<DueCursor>, DbError> {
        let page = read(&self.db, from, until).await?;
        self.readers.lock().retain(|reader| {
            let ours = page.records.iter().filter(|record| reader.filter.owns(record.tenant));
            let part = Page {
                asked: page.asked,
                from: page.from.clone(),
                to: page.to.clone(),
                until,
                records: ours.cloned().collect(),
            };
            !matches!(reader.pages.try_send(part), Err(mpsc::error::TrySendError::Closed(_)))
        });
        Ok(page.to)
    }
}

impl Readers {
    fn lock(&self) -> MutexGuard<'_, Vec<Reader>> {
        // Nothing is half done when it panics.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").field("count", &self.lock().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::num::NonZeroUsize;

    use worker_core::{Routing, TenantId};
    use worker_db::{DbConfig, Scopes};

    use super::*;

    const POLL: Duration = Duration::from_millis(100);
    const TENANTS: u64 = 8;
    /// More than a few pages in all.
    const EACH: usize = 600;

    async fn with_overdue() -> WorkerDb {
        let db = WorkerDb::connect("sqlite::memory:", DbConfig::default()).await.unwrap();
        let scopes = Scopes::new(["a"], db.kv_limits()).unwrap();
        let past = db.clock().now() - SignedDuration::from_hours(1);
        for n in 0..TENANTS {
            let tenant = TenantId::guild((n + 1) << 22);
            db.expiry_fill(tenant, &scopes, 0..EACH, past, SignedDuration::from_micros(1)).await.unwrap();
        }
        db
    }

    /// Reads pages until it has been told of so many records.
    async fn told(pages: &mut mpsc::Receiver<Page>, wanted: usize) -> HashSet<DueRecord> {
        let mut all = HashSet::new();
        while all.len() < wanted {
            all.extend(pages.recv().await.unwrap().records);
        }
        all
    }

    #[tokio::test]
    async fn each_worker_is_told_of_its_own_by_one_reader() {
        let db = with_overdue().await;
        let feed = DueFeed::default();
        let two = NonZeroUsize::new(2).unwrap();
        for _ in 0..2 {
            let filters = [0, 1].map(|index| WorkerFilter::all().member(Routing::default(), index, two));
            let mut readers = filters.clone().map(|filter| feed.join(&db, SharedFilter::new(filter), POLL));
            for (reader, filter) in readers.iter_mut().zip(&filters) {
                let all = told(reader, EACH * TENANTS as usize / 2).await;
                assert!(all.iter().all(|record| filter.owns(record.tenant)));
            }
            // Others that begin later are told all as well.
        }
    }

    #[tokio::test]
    async fn who_does_not_listen_holds_nobody_up() {
        let db = with_overdue().await;
        let feed = DueFeed::default();
        let _deaf = feed.join(&db, SharedFilter::new(WorkerFilter::all()), POLL);
        let mut reader = feed.join(&db, SharedFilter::new(WorkerFilter::all()), POLL);
        for _ in 0..WAITING_MAX * 2 {
            told(&mut reader, 1).await;
        }
        told(&mut reader, EACH * TENANTS as usize).await;
    }

    /// Although what is overdue is never at its end within the time that a poll has for it.
    #[tokio::test]
    async fn what_becomes_due_is_read_at_each_poll_beside_what_is_overdue() {
        let db = with_overdue().await;
        let scopes = Scopes::new(["b"], db.kv_limits()).unwrap();
        let feed = DueFeed::default();
        let mut reader = feed.join(&db, SharedFilter::new(WorkerFilter::all()), POLL);
        told(&mut reader, 1).await;
        let soon = db.clock().now() + SignedDuration::from_millis(200);
        db.expiry_fill(TenantId::guild(1 << 22), &scopes, 0..1, soon, SignedDuration::ZERO).await.unwrap();
        let is_there = async {
            while !reader
                .recv()
                .await
                .unwrap()
                .records
                .iter()
                .any(|record| record.due_at >= soon - SignedDuration::from_micros(1))
            {}
        };
        tokio::time::timeout(Duration::from_secs(60), is_there).await.unwrap();
    }
}
