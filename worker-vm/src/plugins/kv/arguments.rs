//! The arguments that the methods have in common.

use std::ffi::c_int;

use jiff::Timestamp;
use worker_core::KvLimits;
use worker_db::{KvFindPage, KvPage, Scopes};

use crate::error::ApiError;
use crate::luau::native::Call;
use crate::luau::stack::Kind;

fn limits(call: &Call) -> &KvLimits {
    call.vm().surroundings.state.db().kv_limits()
}

/// A key.
pub(super) fn key(call: &Call, index: c_int) -> Result<String, ApiError> {
    name(call, index, "key", limits(call).key_bytes_max)
}

/// What a script calls a record by.
pub(super) struct Id {
    pub(super) text: String,
    /// Whether a record can have it: there is no use in asking for any other.
    pub(super) is_possible: bool,
}

/// The id of a record.
pub(super) fn id(call: &Call, index: c_int) -> Result<Id, ApiError> {
    let text = call.str(index, "id")?;
    let bytes_max = limits(call).key_bytes_max;
    let is_possible = (1..=bytes_max).contains(&text.len()) && !text.contains('\0');
    // Enough of it to say what was asked for.
    Ok(Id { text: text[..text.floor_char_boundary(bytes_max)].to_owned(), is_possible })
}

/// The pattern of `find`; the database refuses what is too long.
pub(super) fn query(call: &Call, index: c_int) -> Result<String, ApiError> {
    let query = call.str(index, "query")?;
    // Twice: each character of a key may be written literally.
    let bytes_max = 2 * limits(call).key_bytes_max;
    if query.len() > bytes_max {
        return Err(ApiError::too_large(format_args!("query of {} bytes: at most {bytes_max}", query.len())));
    }
    Ok(query.to_owned())
}

/// Text that names something. Databases cannot hold NUL in it.
fn name(call: &Call, index: c_int, name: &str, bytes_max: usize) -> Result<String, ApiError> {
    let text = call.str(index, name)?;
    if !(1..=bytes_max).contains(&text.len()) {
        return Err(ApiError::too_large(format_args!("{name} of {} bytes: 1 to {bytes_max}", text.len())));
    }
    if text.contains('\0') {
        return Err(ApiError::invalid_argument(format_args!("{name} (has a NUL character)")));
    }
    Ok(text.to_owned())
}

/// A set of scopes, never empty.
pub(super) fn scopes(call: &Call, index: c_int) -> Result<Scopes, ApiError> {
    if call.is_nil(index) {
        return Err(ApiError::unscoped());
    }
    Ok(Scopes::new(call.strings(index, "scopes")?, limits(call))?)
}

/// A value in its storage form.
pub(super) fn value_json(call: &Call, index: c_int) -> Result<String, ApiError> {
    let json = call.value(index)?.to_json()?;
    let bytes_max = limits(call).value_bytes_max;
    if json.len() > bytes_max {
        return Err(ApiError::too_large(format_args!("value of {} bytes of JSON: at most {bytes_max}", json.len())));
    }
    Ok(json)
}

/// When a record expires, or nil. The database asks whether it is in the future.
pub(super) fn expires_at(call: &Call, index: c_int) -> Result<Option<Timestamp>, ApiError> {
    call.time_opt(index, "expires_at")
}

/// The version that `cas` expects: none is 0.
pub(super) fn expected_version(call: &Call, index: c_int) -> Result<u64, ApiError> {
    /// Numbers are exact up to here.
    const VERSION_MAX: u64 = (1 << 53) - 1;
    if call.is_nil(index) { Ok(0) } else { call.count(index, "expected_version", VERSION_MAX) }
}

/// What `incr` adds: 1 unless it says otherwise.
pub(super) fn increment(call: &Call, index: c_int) -> Result<f64, ApiError> {
    let by = call.number_opt(index, "by")?.unwrap_or(1.0);
    if by.is_finite() { Ok(by) } else { Err(ApiError::invalid_argument("by (not a finite number)")) }
}

/// `{limit?, after?}` of a list of texts.
pub(super) fn page(call: &Call, index: c_int) -> Result<KvPage, ApiError> {
    if call.is_nil(index) {
        return Ok(KvPage::default());
    }
    let after = call.table_field(index, c"after", |call, index| match call.kind(index) {
        Kind::None | Kind::Nil => Ok(None),
        // The empty text comes before all others.
        Kind::String if call.str(index, "after")?.is_empty() => Ok(Some(String::new())),
        _ => name(call, index, "after", limits(call).key_bytes_max.max(limits(call).scope_bytes_max)).map(Some),
    })?;
    Ok(KvPage { limit: limit(call, index)?, after })
}

/// `{limit?, after?}` of `find`, where `after` is a record or its key and id.
pub(super) fn find_page(call: &Call, index: c_int) -> Result<KvFindPage, ApiError> {
    if call.is_nil(index) {
        return Ok(KvFindPage::default());
    }
    let after = call.table_field(index, c"after", |call, index| {
        if call.is_nil(index) {
            return Ok(None);
        }
        let id = |call: &Call, index| name(call, index, "id", limits(call).key_bytes_max);
        Ok(Some((call.table_field(index, c"key", key)?, call.table_field(index, c"id", id)?)))
    })?;
    Ok(KvFindPage { limit: limit(call, index)?, after })
}

/// The database knows how large a page may be.
fn limit(call: &Call, options: c_int) -> Result<Option<usize>, ApiError> {
    call.table_field(options, c"limit", |call, index| {
        if call.is_nil(index) { Ok(None) } else { Ok(Some(call.count(index, "limit", u32::MAX.into())? as usize)) }
    })
}
