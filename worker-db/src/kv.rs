//! Records: what they are, and what is asked of them. Reading is in `kv_read.rs`, writing in `kv_write.rs`.

use jiff::Timestamp;

use crate::{DbError, Scopes};

/// A stored record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvRecord {
    /// 64 random letters and digits, made with the record.
    pub id: String,
    /// Its key.
    pub key: String,
    /// Its value, as [`Value::to_json`](worker_core::Value::to_json) wrote it.
    pub value_json: String,
    /// Its scopes, sorted, each once.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its value was last written.
    pub last_updated_at: Timestamp,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// Whether `KeyResume` is sent for it.
    pub resume: bool,
    /// 1 at first, one more at each write of the value.
    pub version: u64,
}

/// A record that is resumed: what its event says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumeRecord {
    /// Its id.
    pub id: String,
    /// Its key.
    pub key: String,
    /// Its scopes, sorted, each once.
    pub scopes: Vec<String>,
}

/// What [`kv_set`](crate::WorkerDb::kv_set) and [`kv_cas`](crate::WorkerDb::kv_cas) write.
#[derive(Clone, Debug)]
pub struct KvSet {
    /// The key.
    pub key: String,
    /// The value, as [`Value::to_json`](worker_core::Value::to_json) writes it.
    pub value_json: String,
    /// The record's scopes: exactly these.
    pub scopes: Scopes,
    /// When it expires; `None` is never. Kept in microseconds, rounded up so that nothing fires early.
    pub expires_at: Option<Timestamp>,
    /// Whether `KeyResume` is sent for it.
    pub resume: bool,
}

/// What a write did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvSetResult {
    /// Whether the record was there before.
    pub existed: bool,
    /// Its id.
    pub id: String,
    /// Its version now.
    pub version: u64,
}

/// What a write that depends on the version did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvCasResult {
    /// Whether it was written.
    pub ok: bool,
    /// Whether the record was there before.
    pub exists: bool,
    /// Its id, if there is a record now.
    pub id: Option<String>,
    /// Its version now; 0 if there is none.
    pub version: u64,
}

/// Which part of a sorted list is wanted. The default is all of it, up to the limit of a list.
#[derive(Clone, Debug, Default)]
pub struct KvPage {
    /// Entries at most.
    pub limit: Option<usize>,
    /// The last entry that was seen.
    pub after: Option<String>,
}

/// Which part of a search is wanted. The default is all of it, up to the limits of a search.
#[derive(Clone, Debug, Default)]
pub struct KvFindPage {
    /// Records at most.
    pub limit: Option<usize>,
    /// Key and id of the last record that was seen.
    pub after: Option<(String, String)>,
}

/// The columns of a record, in the order of [`RecordRow`]. The table is called `r`.
macro_rules! record_columns {
    () => {
        "r.id, r.key, r.value, r.scopes, r.created_at, r.last_updated_at, r.expires_at, r.resume, r.version"
    };
}
pub(crate) use record_columns;

pub(crate) type RecordRow = (String, String, String, String, i64, i64, Option<i64>, bool, i64);

impl KvRecord {
    pub(crate) fn from_row(row: RecordRow) -> Result<Self, DbError> {
        let (id, key, value_json, scopes, created_at, last_updated_at, expires_at, resume, version) = row;
        Ok(Self {
            scopes: scopes_from_json(&id, &scopes)?,
            created_at: from_micros(&id, created_at)?,
            last_updated_at: from_micros(&id, last_updated_at)?,
            expires_at: expires_at.map(|micros| from_micros(&id, micros)).transpose()?,
            id,
            key,
            value_json,
            resume,
            version: version.cast_unsigned(),
        })
    }
}

/// The scopes of the record `id` as they are stored.
pub(crate) fn scopes_from_json(id: &str, json: &str) -> Result<Vec<String>, DbError> {
    serde_json::from_str(json).map_err(|error| damaged(id, format!("scopes: {error}")))
}

/// A time of the row `row` as it is stored.
pub(crate) fn from_micros(row: &str, micros: i64) -> Result<Timestamp, DbError> {
    Timestamp::from_microsecond(micros).map_err(|error| damaged(row, error.to_string()))
}

fn damaged(row: &str, reason: String) -> DbError {
    DbError::DamagedRow { row: row.into(), reason }
}
