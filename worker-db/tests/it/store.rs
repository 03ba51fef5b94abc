//! The stores that the conformance tests run on.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use tempfile::TempDir;
use worker_core::{Capabilities, CompatDate, KvLimits, TemplateName, TenantId};
use worker_db::{Backend, DbConfig, FileMap, KvSet, NewTemplate, Scopes, WorkerDb};

use crate::postgres::Database;

/// Runs each test on every store: `conformance!(a_test, another)`.
macro_rules! conformance {
    ($($test:ident),* $(,)?) => {
        mod sqlite_memory {
            $(#[tokio::test] async fn $test() { super::$test(&$crate::store::Store::sqlite_memory().await).await })*
        }
        on_disk!($($test),*);
    };
}

/// Runs each test on the stores that other connections can reach.
macro_rules! on_disk {
    ($($test:ident),* $(,)?) => {
        mod sqlite_file {
            $(#[tokio::test] async fn $test() { super::$test(&$crate::store::Store::sqlite_file().await).await })*
        }
        mod postgres {
            $(#[tokio::test] async fn $test() { super::$test(&$crate::store::Store::postgres().await).await })*
        }
    };
}

pub const GUILD: TenantId = TenantId::guild(81384788765712384);
/// The same number as [`GUILD`]'s: only the kind tells them apart.
pub const USER: TenantId = TenantId::user(81384788765712384);
/// Its id is negative in the database.
pub const LARGE: TenantId = TenantId::guild(u64::MAX - 1);

pub struct Store {
    pub db: WorkerDb,
    pub url: String,
    _owner: Owner,
}

#[expect(dead_code, reason = "held so that the database lives as long")]
enum Owner {
    Memory,
    File(TempDir),
    Server(Database),
}

impl Store {
    pub async fn sqlite_memory() -> Self {
        Self::open("sqlite::memory:".into(), Owner::Memory, config()).await
    }

    pub async fn sqlite_file() -> Self {
        Self::sqlite_file_with(config()).await
    }

    pub async fn sqlite_file_with(config: DbConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("antiraid.db").display());
        Self::open(url, Owner::File(folder), config).await
    }

    pub async fn postgres() -> Self {
        Self::postgres_with(config()).await
    }

    pub async fn postgres_with(config: DbConfig) -> Self {
        let database = Database::create().await;
        Self::open(database.url.clone(), Owner::Server(database), config).await
    }

    async fn open(url: String, owner: Owner, config: DbConfig) -> Self {
        Self { db: WorkerDb::connect(&url, config).await.unwrap(), url, _owner: owner }
    }

    /// A second handle, as another process has it. Not for memory.
    pub async fn again(&self, config: DbConfig) -> WorkerDb {
        WorkerDb::connect(&self.url, config).await.unwrap()
    }

    /// Does to the database what this crate would not.
    pub async fn raw(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        match self.db.backend() {
            Backend::Sqlite => {
                SqliteConnection::connect(&self.url).await.unwrap().execute(sql).await.unwrap();
            }
            Backend::Postgres => {
                PgConnection::connect(&self.url).await.unwrap().execute(sql).await.unwrap();
            }
        }
    }

    /// A number that the database counts.
    pub async fn count(&self, sql: &str) -> i64 {
        let sql = AssertSqlSafe(sql.to_owned());
        match self.db.backend() {
            Backend::Sqlite => {
                sqlx::query_scalar(sql).fetch_one(&mut SqliteConnection::connect(&self.url).await.unwrap()).await
            }
            Backend::Postgres => {
                sqlx::query_scalar(sql).fetch_one(&mut PgConnection::connect(&self.url).await.unwrap()).await
            }
        }
        .unwrap()
    }
}

/// Small limits, so that they can be reached, and a clock that ticks at each look: no two times are equal.
pub fn config() -> DbConfig {
    DbConfig {
        kv: KvLimits {
            key_bytes_max: 16,
            value_bytes_max: 64,
            scopes_max: 3,
            scope_bytes_max: 8,
            rows_max: 20,
            bytes_max: 2_000,
            list_max: 12,
            list_page_max: 5,
            find_max: 12,
            find_bytes_max: 200,
            find_page_max: 5,
            find_page_bytes_max: 100,
        },
        clock: ticking.into(),
        ..DbConfig::default()
    }
}

/// The time of the tests: 2026-11-01, a second later at each look.
pub fn ticking() -> Timestamp {
    static SECONDS: AtomicI64 = AtomicI64::new(1_793_491_200);
    Timestamp::from_second(SECONDS.fetch_add(1, Ordering::Relaxed)).unwrap()
}

/// A time that [`ticking`] does not reach.
pub fn later(hours: i64) -> Timestamp {
    Timestamp::from_second(1_793_491_200 + hours * 3_600).unwrap()
}

pub fn scopes(list: &[&str]) -> Scopes {
    Scopes::new(list.iter().copied(), &config().kv).unwrap()
}

pub fn set(key: &str, json: &str, list: &[&str]) -> KvSet {
    KvSet { key: key.into(), value_json: json.into(), scopes: scopes(list), expires_at: None, resume: false }
}

pub fn name(text: &str) -> TemplateName {
    TemplateName::new(text).unwrap()
}

pub fn files(init: &str) -> FileMap {
    FileMap::from([("init.luau".to_owned(), init.to_owned())])
}

pub fn template(text: &str, init: &str, events: &[&str]) -> NewTemplate {
    NewTemplate {
        name: name(text),
        files: files(init),
        events: events.iter().map(|event| event.to_string()).collect(),
        allowed_caps: Capabilities::from_iter(["kv:*"]),
        error_channel: None,
        compat: CompatDate::NEWEST,
        paused: false,
    }
}
