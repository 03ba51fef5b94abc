#![doc = include_str!("../README.md")]

mod worker_db;

mod scopes;

mod kv;
mod kv_read;
mod kv_write;
mod pattern;

mod expiry;
mod expiry_fill;

mod shop;
mod templates;

mod gateway;
mod quarantine;
mod shared_cache;
mod tenant_templates;
mod worker_cache_data;

mod change;
mod connection;
mod error;
mod home;
mod migrations;
mod sqlite_checkpoints;

pub use change::Change;
pub use connection::Backend;
pub use error::DbError;
pub use expiry::{Attempt, ClaimedRecord, DeadLetter, DueCursor, DuePage, DueRecord, ExpirySession, PendingExpiry};
pub use gateway::{GatewaySessionRow, IdentifyTurn};
pub use kv::{KvCasResult, KvFindPage, KvPage, KvRecord, KvSet, KvSetResult, ResumeRecord};
pub use quarantine::Quarantined;
pub use scopes::Scopes;
pub use shared_cache::{BytecodeKey, SharedCache, SharedCacheConfig};
pub use shop::ShopListing;
pub use templates::{BadTemplateRow, FileMap, NewTemplate, TemplateRow, TenantTemplateRows};
pub use tenant_templates::{Subscribers, TenantTemplates};
pub use worker_cache_data::{CacheBounds, Lookup, WorkerCacheData};
pub use worker_db::{DbClock, DbConfig, WorkerDb};

/// Every statement of this crate by name, as text for a database: for the test that asks the databases how they run them.
#[doc(hidden)]
pub fn statements(backend: Backend) -> impl Iterator<Item = (&'static str, &'static str)> {
    [
        worker_db::STATEMENTS,
        kv_read::STATEMENTS,
        kv_write::STATEMENTS,
        expiry::STATEMENTS,
        expiry_fill::STATEMENTS,
        templates::STATEMENTS,
        shop::STATEMENTS,
        quarantine::STATEMENTS,
        gateway::STATEMENTS,
    ]
    .into_iter()
    .flatten()
    .map(move |sql| (sql.name, sql.text(backend)))
}
