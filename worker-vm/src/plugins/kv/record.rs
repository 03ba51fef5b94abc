//! What the methods give back.

use std::ffi::c_int;

use worker_core::Value;
use worker_db::{KvCasResult, KvRecord, KvSetResult};

use crate::error::ApiError;
use crate::luau::class::Object;
use crate::luau::lua_State;
use crate::luau::stack::{List, Push, Record, field};
use crate::modules::datetime::DateTime;

/// A KvRecord: an ordinary table.
pub(super) struct Present {
    record: KvRecord,
    value: Value,
}

impl Present {
    pub(super) fn new(mut record: KvRecord) -> Result<Self, ApiError> {
        let json = std::mem::take(&mut record.value_json);
        Ok(Self { value: Value::from_json(json.as_bytes())?, record })
    }
}

impl Push for Present {
    fn push(self, l: *mut lua_State) -> c_int {
        let Self { record, value } = self;
        let time = |time| Object(DateTime::utc(time));
        Record([
            field(c"exists", true),
            field(c"id", record.id),
            field(c"key", record.key),
            field(c"value", value),
            field(c"scopes", List(record.scopes)),
            field(c"created_at", time(record.created_at)),
            field(c"last_updated_at", time(record.last_updated_at)),
            field(c"expires_at", record.expires_at.map(time)),
            field(c"resume", record.resume),
            field(c"version", record.version as f64),
        ])
        .push(l)
    }
}

/// A record that was asked for, or what is said where there is none.
pub(super) enum MaybeRecord {
    Present(Box<Present>),
    NoKey(String),
    NoId(String),
}

impl MaybeRecord {
    pub(super) fn new(record: Option<KvRecord>, absent: impl FnOnce() -> Self) -> Result<Self, ApiError> {
        record.map_or_else(|| Ok(absent()), |record| Ok(Self::Present(Box::new(Present::new(record)?))))
    }
}

impl Push for MaybeRecord {
    fn push(self, l: *mut lua_State) -> c_int {
        match self {
            Self::Present(record) => record.push(l),
            Self::NoKey(key) => Record([field(c"exists", false), field(c"key", key)]).push(l),
            Self::NoId(id) => Record([field(c"exists", false), field(c"id", id)]).push(l),
        }
    }
}

/// A value, and whether there was a record.
pub(super) type ValueAndFound = (Value, bool);

pub(super) fn value_and_found(record: Option<KvRecord>) -> Result<ValueAndFound, ApiError> {
    match record {
        Some(record) => Ok((Value::from_json(record.value_json.as_bytes())?, true)),
        None => Ok((Value::Null, false)),
    }
}

/// What `set` gives.
pub(super) struct SetResult(pub(super) KvSetResult);

impl Push for SetResult {
    fn push(self, l: *mut lua_State) -> c_int {
        let KvSetResult { existed, id, version } = self.0;
        Record([field(c"exists", existed), field(c"id", id), field(c"version", version as f64)]).push(l)
    }
}

/// What `cas` gives.
pub(super) struct CasResult(pub(super) KvCasResult);

impl Push for CasResult {
    fn push(self, l: *mut lua_State) -> c_int {
        let KvCasResult { ok, exists, id, version } = self.0;
        let version = field(c"version", version as f64);
        Record([field(c"ok", ok), field(c"exists", exists), field(c"id", id), version]).push(l)
    }
}
