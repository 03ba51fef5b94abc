//! The store: all that outlives a process.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use worker_core::{Clock, KvLimits, TemplateLimits, TenantId, VirtualClock};

use crate::connection::{Pools, Tx, args, statements};
use crate::{Backend, Change, DbError};

/// How a [`WorkerDb`] is opened, and what a tenant may keep in it.
#[derive(Clone, Debug)]
pub struct DbConfig {
    /// Connections to PostgreSQL; for a SQLite file, connections that read (one more writes).
    pub max_connections: u32,
    /// How long a call waits for a connection.
    pub acquire_timeout: Duration,
    /// Limits of records.
    pub kv: KvLimits,
    /// Limits of templates.
    pub templates: TemplateLimits,
    /// The time that is written into rows, and that an expiry must be after.
    pub clock: DbClock,
}

impl Default for DbConfig {
    fn default() -> Self {
        Self {
            max_connections: 8,
            acquire_timeout: Duration::from_secs(5),
            kv: KvLimits::default(),
            templates: TemplateLimits::default(),
            clock: DbClock::from(Timestamp::now),
        }
    }
}

/// Where a [`WorkerDb`] has the time from.
#[derive(Clone)]
pub struct DbClock {
    now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    waits: Clock,
}

impl<F: Fn() -> Timestamp + Send + Sync + 'static> From<F> for DbClock {
    fn from(now: F) -> Self {
        Self { now: Arc::new(now), waits: Clock::Real }
    }
}

impl DbClock {
    /// A clock that a test moves. It stands still while anything is asked of the store.
    pub fn virtual_clock(clock: VirtualClock) -> Self {
        let waits = Clock::Virtual(clock.clone());
        Self { now: Arc::new(move || clock.now()), waits }
    }

    /// By which clock to wait for a time of this one.
    pub fn waits(&self) -> &Clock {
        &self.waits
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        (self.now)()
    }
}

impl fmt::Debug for DbClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DbClock").field(&self.now()).finish()
    }
}

/// The handle to the database. Clones share its connections.
///
/// A call may be polled on any runtime, and both may end at any moment: it then did all of it or nothing. Connections
/// belong to the handle, which has a thread for them, and not to who uses them.
#[derive(Clone)]
pub struct WorkerDb(Arc<Inner>);

struct Inner {
    pools: Pools,
    config: DbConfig,
    changes: broadcast::Sender<Change>,
}

const _: () = {
    const fn send_and_sync<T: Send + Sync>() {}
    send_and_sync::<WorkerDb>();
};

statements! {
    /// Waits until no other transaction writes for the tenant, and reads what the tenant uses.
    USAGE_LOCK = "SELECT kv_rows, kv_bytes FROM tenant_usage WHERE tenant_kind = $1 AND tenant_id = $2 FOR UPDATE";
    /// The same for a tenant that never wrote, at most one of several at once.
    USAGE_START = "INSERT INTO tenant_usage (tenant_kind, tenant_id) VALUES ($1, $2)
        ON CONFLICT (tenant_kind, tenant_id) DO UPDATE SET kv_rows = tenant_usage.kv_rows RETURNING kv_rows, kv_bytes";
    USAGE_ADD = "UPDATE tenant_usage SET kv_rows = kv_rows + $3, kv_bytes = kv_bytes + $4
        WHERE tenant_kind = $1 AND tenant_id = $2";
}

/// What a tenant's records use.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) rows: i64,
    pub(crate) bytes: i64,
}

impl WorkerDb {
    /// Changes that a receiver may be behind before it loses some (and is told so).
    const CHANGES_MAX: usize = 4_096;

    /// Opens `sqlite::memory:`, `sqlite:PATH` (made if missing) or `postgres://…`, and brings its tables up to date.
    pub async fn connect(url: &str, config: DbConfig) -> Result<Self, DbError> {
        let pools = Pools::open(url, &config).await?;
        let (changes, _) = broadcast::channel(Self::CHANGES_MAX);
        Ok(Self(Arc::new(Inner { pools, config, changes })))
    }

    /// Closes all connections, of all clones, after the calls under way.
    pub async fn close(&self) {
        self.0.pools.close().await;
    }

    /// Which database this is.
    pub fn backend(&self) -> Backend {
        self.0.pools.backend()
    }

    /// The limits of records, for [`Scopes::new`](crate::Scopes::new).
    pub fn kv_limits(&self) -> &KvLimits {
        &self.0.config.kv
    }

    /// The limits of templates.
    pub fn template_limits(&self) -> &TemplateLimits {
        &self.0.config.templates
    }

    /// Every change from now on that this process makes, each sent after its commit. A receiver that falls behind gets
    /// `Lagged`: it must then take everything for changed.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.0.changes.subscribe()
    }

    /// Commits, then announces. Once begun, both happen, even if the caller and its runtime end: a change that was
    /// committed and not announced would leave others with old copies for good.
    pub(crate) async fn commit(&self, tx: Tx, changes: Vec<Change>) -> Result<(), DbError> {
        let db = self.clone();
        let done = self.0.pools.home().run_to_end(async move {
            let done = tx.commit().await;
            for change in changes {
                // A commit that failed may be one whose answer was lost: who looks again for nothing finds nothing changed.
                if done.is_ok() || matches!(change, Change::Templates { .. }) {
                    // An error means that nobody listens.
                    let _ = db.0.changes.send(change);
                }
            }
            done
        });
        done.await
    }

    /// Runs a task on the store's own thread: one that asks it for all of a process, whichever workers come and go. A task
    /// that holds the store must be aborted, or the store lives for ever.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.0.pools.home().spawn(task)
    }

    /// Where the time that expiries are compared with comes from.
    pub fn clock(&self) -> &DbClock {
        &self.0.config.clock
    }

    pub(crate) fn pools(&self) -> &Pools {
        &self.0.pools
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.config.clock.now()
    }

    /// Begins a transaction in which no other one writes for the tenant: all checks made in it hold until its commit.
    pub(crate) async fn begin_for(&self, tenant: TenantId) -> Result<(Tx, Usage), DbError> {
        let mut tx = self.0.pools.begin().await?;
        let usage = lock(&mut tx, tenant).await?;
        Ok((tx, usage))
    }

    /// Counts what a write adds, unless that is beyond the tenant's quota. What does not grow always passes.
    pub(crate) async fn use_up(
        &self,
        tx: &mut Tx,
        tenant: TenantId,
        usage: Usage,
        rows: i64,
        bytes: i64,
    ) -> Result<(), DbError> {
        let beyond = |used: i64, max: u64| u64::try_from(used).is_ok_and(|used| used > max);
        if rows > 0 && beyond(usage.rows + rows, self.kv_limits().rows_max) {
            return Err(DbError::QuotaExceeded("kv rows"));
        }
        if bytes > 0 && beyond(usage.bytes + bytes, self.kv_limits().bytes_max) {
            return Err(DbError::QuotaExceeded("kv bytes"));
        }
        if rows != 0 || bytes != 0 {
            tx.execute(&USAGE_ADD, &args![tenant; rows, bytes]).await?;
        }
        Ok(())
    }
}

/// Waits until no other transaction writes for the tenant.
pub(crate) async fn lock(tx: &mut Tx, tenant: TenantId) -> Result<Usage, DbError> {
    let usage = match tx.fetch_optional(&USAGE_LOCK, &args![tenant;]).await? {
        Some(usage) => Some(usage),
        None => tx.fetch_optional(&USAGE_START, &args![tenant;]).await?,
    };
    let (rows, bytes) = usage.unwrap_or_default();
    Ok(Usage { rows, bytes })
}

impl fmt::Debug for WorkerDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the URL: it may have a password in it.
        f.debug_tuple("WorkerDb").field(&self.backend()).finish()
    }
}
