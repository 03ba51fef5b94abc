//! Where the two databases differ in Rust: pools, transactions, arguments. The rest of the crate sees neither.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Connection, FromRow, Postgres, Sqlite, Transaction};
use worker_core::TenantId;

use crate::home::{Home, Lent};
use crate::sqlite_checkpoints::{self, Checkpoints};
use crate::{DbConfig, DbError, migrations};

/// Which database stands behind a [`WorkerDb`](crate::WorkerDb).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// In this process: a file, or memory.
    Sqlite,
    /// A server.
    Postgres,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        })
    }
}

/// A statement, written once in PostgreSQL's dialect, for both databases.
///
/// Arguments are numbered; by convention `$1, $2` is the tenant wherever there is one. Only two things that both
/// databases have are written differently, see [`Sql::text`].
pub(crate) struct Sql {
    pub(crate) name: &'static str,
    postgres: &'static str,
    sqlite: OnceLock<String>,
}

impl Sql {
    pub(crate) const fn new(name: &'static str, postgres: &'static str) -> Self {
        Self { name, postgres, sqlite: OnceLock::new() }
    }

    pub(crate) fn text(&'static self, backend: Backend) -> &'static str {
        match backend {
            Backend::Postgres => self.postgres,
            // A JSON list has other words, and SQLite's one writer needs no row locks. (In PostgreSQL a list is compared as
            // an array: of a join with a function it does not know the size, and may read the whole table for it.)
            Backend::Sqlite => self.sqlite.get_or_init(|| {
                self.postgres
                    .replace("= ANY(ARRAY(SELECT json_array_elements_text(", "IN (SELECT value FROM json_each(")
                    .replace("= ANY(ARRAY(\n", "IN (\n")
                    .replace(" FOR UPDATE SKIP LOCKED))", ")")
                    .replace("::json)))", "))")
                    .replace("json_array_elements_text(", "json_each(")
                    .replace("::json", "")
                    .replace(" FOR UPDATE SKIP LOCKED", "")
                    .replace(" FOR UPDATE", "")
            }),
        }
    }
}

/// Declares the statements of a module, and `STATEMENTS`, the list of them that the EXPLAIN test walks.
macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $text:expr;)*) => {
        $($(#[$doc])* pub(crate) static $name: $crate::connection::Sql = $crate::connection::Sql::new(stringify!($name), $text);)*
        pub(crate) static STATEMENTS: &[&$crate::connection::Sql] = &[$(&$name),*];
    };
}
pub(crate) use statements;

/// A value of a statement.
#[derive(Clone, Copy)]
pub(crate) enum Arg<'a> {
    Int(Option<i64>),
    Bool(bool),
    Text(Option<&'a str>),
    Bytes(&'a [u8]),
}

macro_rules! arg_from {
    ($($type:ty: $value:ident => $arg:expr;)*) => { $(
        impl<'a> From<$type> for Arg<'a> {
            fn from($value: $type) -> Self {
                $arg
            }
        }
    )* };
}

arg_from! {
    i64: value => Self::Int(Some(value));
    Option<i64>: value => Self::Int(value);
    bool: value => Self::Bool(value);
    &'a str: value => Self::Text(Some(value));
    &'a String: value => Self::Text(Some(value));
    Option<&'a str>: value => Self::Text(value);
    &'a [u8; 32]: value => Self::Bytes(value);
}

/// The arguments of a statement: `args![tenant; a, b]`, or `args![a, b]` for the few that concern no tenant.
macro_rules! args {
    ($tenant:expr; $($value:expr),* $(,)?) => {
        args![
            $crate::connection::tenant_columns($tenant).0, $crate::connection::tenant_columns($tenant).1, $($value),*
        ]
    };
    ($($value:expr),* $(,)?) => {
        [$($crate::connection::Arg::from($value)),*]
    };
}
pub(crate) use args;

/// The two columns of a tenant.
pub(crate) fn tenant_columns(tenant: TenantId) -> (i64, i64) {
    let kind = match tenant {
        TenantId::Guild(_) => 0,
        TenantId::User(_) => 1,
    };
    (kind, tenant.snowflake().get().cast_signed())
}

/// The tenant of two columns; `None` for a kind that this program does not know.
pub(crate) fn tenant_of((kind, id): (i64, i64)) -> Option<TenantId> {
    match kind {
        0 => Some(TenantId::guild(id.cast_unsigned())),
        1 => Some(TenantId::user(id.cast_unsigned())),
        _ => None,
    }
}

/// What a row of either database can be read as: in practice, a tuple.
pub(crate) trait Row: Send + Unpin + for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> {}

impl<T: Send + Unpin + for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow>> Row for T {}

macro_rules! bound {
    ($query:expr, $args:expr) => {{
        let mut query = $query;
        for arg in $args {
            query = match *arg {
                Arg::Int(value) => query.bind(value),
                Arg::Bool(value) => query.bind(value),
                Arg::Text(value) => query.bind(value),
                Arg::Bytes(value) => query.bind(value),
            };
        }
        query
    }};
}

/// Connections to the database, and the runtime that they belong to.
pub(crate) struct Pools {
    kind: Kind,
    home: Home,
}

enum Kind {
    /// One connection writes, so that no write fails for another's sake; in a file, others read beside it.
    Sqlite {
        write: SqlitePool,
        read: SqlitePool,
        /// Of a file.
        checkpoints: Option<Checkpoints>,
    },
    Postgres(PgPool),
}

/// What the URL says.
enum Options {
    Sqlite { options: SqliteConnectOptions, memory: bool },
    Postgres(PgConnectOptions),
}

impl Options {
    fn parse(url: &str) -> Result<Self, DbError> {
        let bad_url = |error: sqlx::Error| DbError::BadUrl { reason: error.to_string() };
        if url.starts_with("sqlite:") {
            let options = SqliteConnectOptions::from_str(url).map_err(bad_url)?;
            let memory = url.contains(":memory:") || url.contains("mode=memory");
            Ok(Self::Sqlite { options, memory })
        } else if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            Ok(Self::Postgres(PgConnectOptions::from_str(url).map_err(bad_url)?))
        } else {
            let scheme = url.split_once(':').map_or("no scheme", |(scheme, _)| scheme);
            Err(DbError::BadUrl { reason: format!("unknown scheme `{scheme}`") })
        }
    }

    fn backend(&self) -> Backend {
        match self {
            Self::Sqlite { .. } => Backend::Sqlite,
            Self::Postgres(_) => Backend::Postgres,
        }
    }
}

impl Kind {
    /// How long a write of this process waits for another process that writes to the same file.
    const SQLITE_BUSY_TIMEOUT: Duration = Duration::from_secs(5);
    /// How often and how soon opening a file is tried again where several processes make it at once; SQLite does not wait
    /// for the lock when it switches to WAL.
    const SQLITE_START_ATTEMPTS: u32 = 40;
    const SQLITE_START_PAUSE: Duration = Duration::from_millis(50);
    /// Kibibytes, as SQLite wants them: 16 MiB, so that the parts of a tenant's indexes that a burst of writes needs stay in
    /// memory.
    const SQLITE_WRITE_CACHE: &str = "-16384";

    async fn open_sqlite(options: SqliteConnectOptions, memory: bool, config: &DbConfig) -> Result<Self, DbError> {
        let backend = Backend::Sqlite;
        let failed = |source| DbError::Connect { backend, source: Arc::new(source) };
        let options = options
            .create_if_missing(true)
            .foreign_keys(true)
            .busy_timeout(Self::SQLITE_BUSY_TIMEOUT)
            .synchronous(SqliteSynchronous::Normal);
        // Without the test: it has no peer that may have gone, and a caller that gives up during it closes the connection.
        let pool = SqlitePoolOptions::new().test_before_acquire(false).acquire_timeout(config.acquire_timeout);
        // The writer never goes away: in memory, the database would go with it.
        let one = pool.clone().max_connections(1).min_connections(1).idle_timeout(None).max_lifetime(None);
        if memory {
            let pool = one.connect_with(options.shared_cache(false)).await.map_err(failed)?;
            migrations::run_sqlite(&pool).await?;
            return Ok(Self::Sqlite { write: pool.clone(), read: pool, checkpoints: None });
        }
        // Whoever writes would otherwise wait for the disk at every thousandth page. The log is bounded even so.
        let log_pages_max = (2 * sqlite_checkpoints::LOG_PAGES).to_string();
        let options = options.journal_mode(SqliteJournalMode::Wal).pragma("wal_autocheckpoint", log_pages_max);
        let mut attempts = 0;
        let write = loop {
            let made = async {
                let options =
                    options.clone().pragma("cache_size", Self::SQLITE_WRITE_CACHE).optimize_on_close(true, None);
                // A full disk ends a transaction by itself; the rollback that follows fails then, and the connection would
                // count itself in a transaction for ever, and begin none.
                let usable = one.clone().before_acquire(|connection, _| {
                    let is_usable = !connection.is_in_transaction();
                    Box::pin(async move { Ok(is_usable) })
                });
                let pool = usable.connect_with(options).await.map_err(failed)?;
                migrations::run_sqlite(&pool).await.map(|()| pool)
            };
            match made.await {
                Ok(pool) => break pool,
                Err(error) if migrations::lost_the_race(&error) && attempts < Self::SQLITE_START_ATTEMPTS => {
                    attempts += 1;
                    tokio::time::sleep(Self::SQLITE_START_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        };
        let checkpoints = Checkpoints::start(&options).await.map_err(failed)?;
        let readers = pool.max_connections(config.max_connections).connect_with(options.read_only(true));
        let read = readers.await.map_err(failed)?;
        Ok(Self::Sqlite { write, read, checkpoints: Some(checkpoints) })
    }

    async fn open_postgres(options: PgConnectOptions, config: &DbConfig) -> Result<Self, DbError> {
        let backend = Backend::Postgres;
        let failed = |source| DbError::Connect { backend, source: Arc::new(source) };
        let pool = PgPoolOptions::new()
            .max_connections(config.max_connections)
            .acquire_timeout(config.acquire_timeout)
            .connect_with(options.application_name("antiraid"))
            .await
            .map_err(failed)?;
        let encoding: String = sqlx::query_scalar("SHOW server_encoding").fetch_one(&pool).await.map_err(failed)?;
        if encoding != "UTF8" {
            return Err(DbError::BadUrl { reason: format!("the database has the encoding {encoding}, not UTF8") });
        }
        migrations::run_postgres(&pool).await?;
        Ok(Self::Postgres(pool))
    }
}

impl Pools {
    /// Opens the database and brings its tables to this program's version.
    pub(crate) async fn open(url: &str, config: &DbConfig) -> Result<Self, DbError> {
        let options = Options::parse(url)?;
        let no_runtime =
            |error| DbError::Connect { backend: options.backend(), source: Arc::new(sqlx::Error::Io(error)) };
        let home = Home::start(config.clock.waits().clone()).map_err(no_runtime)?;
        let config = config.clone();
        let opening = home.run(async move {
            match options {
                Options::Sqlite { options, memory } => Kind::open_sqlite(options, memory, &config).await,
                Options::Postgres(options) => Kind::open_postgres(options, &config).await,
            }
        });
        Ok(Self { kind: opening.await?, home })
    }

    pub(crate) fn backend(&self) -> Backend {
        match self.kind {
            Kind::Sqlite { .. } => Backend::Sqlite,
            Kind::Postgres(_) => Backend::Postgres,
        }
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    pub(crate) async fn close(&self) {
        match &self.kind {
            Kind::Sqlite { write, read, checkpoints } => {
                if let Some(checkpoints) = checkpoints {
                    checkpoints.end().await;
                }
                read.close().await;
                write.close().await;
            }
            Kind::Postgres(pool) => pool.close().await,
        }
    }

    /// All rows of a statement that only reads.
    pub(crate) async fn fetch_all<T: Row>(&self, sql: &'static Sql, args: &[Arg<'_>]) -> Result<Vec<T>, DbError> {
        let text = sql.text(self.backend());
        let rows = async {
            match &self.kind {
                Kind::Sqlite { read, .. } => {
                    let mut connection = self.sqlite(read).await?;
                    bound!(sqlx::query_as(text), args).fetch_all(&mut **connection).await
                }
                Kind::Postgres(pool) => {
                    let mut connection = self.postgres(pool).await?;
                    bound!(sqlx::query_as(text), args).fetch_all(&mut **connection).await
                }
            }
        };
        rows.await.map_err(|source| failed(sql, source))
    }

    /// The row, if any, of a statement that only reads.
    pub(crate) async fn fetch_optional<T: Row>(
        &self,
        sql: &'static Sql,
        args: &[Arg<'_>],
    ) -> Result<Option<T>, DbError> {
        let text = sql.text(self.backend());
        let row = async {
            match &self.kind {
                Kind::Sqlite { read, .. } => {
                    let mut connection = self.sqlite(read).await?;
                    bound!(sqlx::query_as(text), args).fetch_optional(&mut **connection).await
                }
                Kind::Postgres(pool) => {
                    let mut connection = self.postgres(pool).await?;
                    bound!(sqlx::query_as(text), args).fetch_optional(&mut **connection).await
                }
            }
        };
        row.await.map_err(|source| failed(sql, source))
    }

    async fn sqlite(&self, pool: &SqlitePool) -> Result<Lent<PoolConnection<Sqlite>>, sqlx::Error> {
        // What lies ready needs nothing of any runtime.
        if let Some(connection) = pool.try_acquire() {
            return Ok(self.home.lend_now(connection));
        }
        let pool = pool.clone();
        self.home.lend(async move { pool.acquire().await }).await
    }

    async fn postgres(&self, pool: &PgPool) -> Result<Lent<PoolConnection<Postgres>>, sqlx::Error> {
        let pool = pool.clone();
        self.home.lend(async move { pool.acquire().await }).await
    }

    /// Begins a transaction that will write.
    ///
    /// SQLite takes its one write lock at once: a transaction that reads first and writes later can fail for good.
    /// PostgreSQL runs at READ COMMITTED, whatever its settings say: what follows the tenant's lock must see the
    /// latest state.
    pub(crate) async fn begin(&self) -> Result<Tx, DbError> {
        self.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await
    }

    /// The same, and the commit does not wait for PostgreSQL's disk: if the server crashes in the moment after it, it is as
    /// if the transaction had never been. (SQLite's commits are all like that, and only if the whole machine crashes.)
    pub(crate) async fn begin_forgettable(&self) -> Result<Tx, DbError> {
        self.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = off").await
    }

    async fn begin_with(&self, postgres: &'static str) -> Result<Tx, DbError> {
        static BEGIN: Sql = Sql::new("BEGIN", "BEGIN");
        let begun = match &self.kind {
            Kind::Sqlite { write, .. } => {
                let pool = write.clone();
                self.home.lend(async move { pool.begin_with("BEGIN IMMEDIATE").await.map(Begun::Sqlite) }).await
            }
            Kind::Postgres(pool) => {
                let pool = pool.clone();
                self.home.lend(async move { pool.begin_with(postgres).await.map(Begun::Postgres) }).await
            }
        };
        begun.map(Tx).map_err(|source| failed(&BEGIN, source))
    }
}

/// A transaction; dropped without [`commit`](Self::commit), it is undone.
pub(crate) struct Tx(Lent<Begun>);

enum Begun {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

impl Tx {
    fn backend(&self) -> Backend {
        match &*self.0 {
            Begun::Sqlite(_) => Backend::Sqlite,
            Begun::Postgres(_) => Backend::Postgres,
        }
    }

    pub(crate) async fn fetch_all<T: Row>(&mut self, sql: &'static Sql, args: &[Arg<'_>]) -> Result<Vec<T>, DbError> {
        let text = sql.text(self.backend());
        match &mut *self.0 {
            Begun::Sqlite(tx) => bound!(sqlx::query_as(text), args).fetch_all(&mut **tx).await,
            Begun::Postgres(tx) => bound!(sqlx::query_as(text), args).fetch_all(&mut **tx).await,
        }
        .map_err(|source| failed(sql, source))
    }

    pub(crate) async fn fetch_optional<T: Row>(
        &mut self,
        sql: &'static Sql,
        args: &[Arg<'_>],
    ) -> Result<Option<T>, DbError> {
        let text = sql.text(self.backend());
        match &mut *self.0 {
            Begun::Sqlite(tx) => bound!(sqlx::query_as(text), args).fetch_optional(&mut **tx).await,
            Begun::Postgres(tx) => bound!(sqlx::query_as(text), args).fetch_optional(&mut **tx).await,
        }
        .map_err(|source| failed(sql, source))
    }

    /// Runs a statement and says how many rows it touched.
    pub(crate) async fn execute(&mut self, sql: &'static Sql, args: &[Arg<'_>]) -> Result<u64, DbError> {
        let text = sql.text(self.backend());
        match &mut *self.0 {
            Begun::Sqlite(tx) => {
                bound!(sqlx::query(text), args).execute(&mut **tx).await.map(|done| done.rows_affected())
            }
            Begun::Postgres(tx) => {
                bound!(sqlx::query(text), args).execute(&mut **tx).await.map(|done| done.rows_affected())
            }
        }
        .map_err(|source| failed(sql, source))
    }

    /// Commits. Must run at home: see [`WorkerDb::commit`](crate::WorkerDb::commit).
    pub(crate) async fn commit(self) -> Result<(), DbError> {
        static COMMIT: Sql = Sql::new("COMMIT", "COMMIT");
        match self.0.into_inner() {
            Begun::Sqlite(tx) => tx.commit().await,
            Begun::Postgres(tx) => tx.commit().await,
        }
        .map_err(|source| failed(&COMMIT, source))
    }
}

fn failed(sql: &'static Sql, source: sqlx::Error) -> DbError {
    DbError::Statement { statement: sql.name, source: Arc::new(source) }
}
