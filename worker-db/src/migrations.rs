//! The tables, embedded. A migration that was released is never edited: a new one changes what it made.

use std::sync::Arc;

use sqlx::SqlSafeStr;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::PgPool;
use sqlx::sqlite::SqlitePool;

use crate::{Backend, DbError};

/// Number, description, SQLite's text, PostgreSQL's text.
const MIGRATIONS: &[(i64, &str, &str, &str)] = &[
    (
        1,
        "start",
        include_str!("../migrations/sqlite/0001_start.sql"),
        include_str!("../migrations/postgres/0001_start.sql"),
    ),
    (
        2,
        "expiry",
        include_str!("../migrations/sqlite/0002_expiry.sql"),
        include_str!("../migrations/postgres/0002_expiry.sql"),
    ),
    (
        3,
        "quarantine",
        include_str!("../migrations/sqlite/0003_quarantine.sql"),
        include_str!("../migrations/postgres/0003_quarantine.sql"),
    ),
    (
        4,
        "gateway",
        include_str!("../migrations/sqlite/0004_gateway.sql"),
        include_str!("../migrations/postgres/0004_gateway.sql"),
    ),
];

fn migrator(backend: Backend) -> Migrator {
    let migrations = MIGRATIONS.iter().map(|&(number, description, sqlite, postgres)| {
        let text = match backend {
            Backend::Sqlite => sqlite,
            Backend::Postgres => postgres,
        };
        Migration::new(number, description.into(), MigrationType::Simple, text.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// Several processes may start at once: PostgreSQL makes them take turns by itself (an advisory lock).
pub(crate) async fn run_postgres(pool: &PgPool) -> Result<(), DbError> {
    migrator(Backend::Postgres).run(pool).await.map_err(|source| failed(Backend::Postgres, source))
}

/// SQLite has no such lock: whoever comes second may fail, see [`lost_the_race`].
pub(crate) async fn run_sqlite(pool: &SqlitePool) -> Result<(), DbError> {
    migrator(Backend::Sqlite).run(pool).await.map_err(|source| failed(Backend::Sqlite, source))
}

/// Whether opening a SQLite file may have failed because another process was making it at that moment: the file is locked,
/// or a table is there already.
pub(crate) fn lost_the_race(error: &DbError) -> bool {
    match error {
        // The lower byte of SQLite's codes is the kind of failure: 5 is SQLITE_BUSY.
        DbError::Connect { source, .. } => source
            .as_database_error()
            .and_then(|error| error.code()?.parse().ok())
            .is_some_and(|code: u32| code & 0xff == 5),
        DbError::Migrate { source, .. } => {
            matches!(**source, MigrateError::Execute(_) | MigrateError::ExecuteMigration(..))
        }
        _ => false,
    }
}

fn failed(backend: Backend, source: MigrateError) -> DbError {
    DbError::Migrate { backend, source: Arc::new(source) }
}
