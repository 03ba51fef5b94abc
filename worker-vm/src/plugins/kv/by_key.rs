//! Methods on the record of a key and scopes.

use worker_db::KvSet;

use super::access::{self, Action};
use super::record::{CasResult, MaybeRecord, SetResult, ValueAndFound, value_and_found};
use super::{Store, arguments, context};
use crate::error::ApiError;
use crate::luau::native::Call;
use crate::luau::stack::Nil;
use crate::plugins::to_the_end;
use crate::runtime::held::Counted;

pub(super) fn exists(call: &Call) -> Result<impl Future<Output = Result<bool, ApiError>> + use<>, ApiError> {
    let context = context(call)?;
    let (key, scopes) = (arguments::key(call, 2)?, arguments::scopes(call, 3)?);
    access::check(&context.caps, Action::Exists, &key, &scopes)?;
    let store = Store::open(call, "exists")?;
    Ok(async move { Ok(store.db.kv_exists(store.tenant, &key, &scopes).await?) })
}

pub(super) fn get(
    call: &Call,
) -> Result<impl Future<Output = Result<Counted<ValueAndFound>, ApiError>> + use<>, ApiError> {
    let context = context(call)?;
    let (key, scopes) = (arguments::key(call, 2)?, arguments::scopes(call, 3)?);
    access::check(&context.caps, Action::Get, &key, &scopes)?;
    let store = Store::open(call, "get")?;
    Ok(async move {
        let record = store.db.kv_get(store.tenant, &key, &scopes).await?;
        let held = store.hold(&record)?;
        Ok(Counted { value: value_and_found(record)?, held })
    })
}

pub(super) fn getrecord(
    call: &Call,
) -> Result<impl Future<Output = Result<Counted<MaybeRecord>, ApiError>> + use<>, ApiError> {
    let context = context(call)?;
    let (key, scopes) = (arguments::key(call, 2)?, arguments::scopes(call, 3)?);
    access::check(&context.caps, Action::Get, &key, &scopes)?;
    let store = Store::open(call, "get")?;
    Ok(async move {
        let record = store.db.kv_get(store.tenant, &key, &scopes).await?;
        let held = store.hold(&record)?;
        Ok(Counted { value: MaybeRecord::new(record, || MaybeRecord::NoKey(key))?, held })
    })
}

pub(super) fn set(call: &Call) -> Result<impl Future<Output = Result<SetResult, ApiError>> + use<>, ApiError> {
    let context = context(call)?;
    let set = KvSet {
        key: arguments::key(call, 2)?,
        value_json: arguments::value_json(call, 3)?,
        scopes: arguments::scopes(call, 4)?,
        expires_at: arguments::expires_at(call, 5)?,
        resume: call.flag(6, "resume")?,
    };
    access::check(&context.caps, Action::Set, &set.key, &set.scopes)?;
    let store = Store::open(call, "set")?;
    let carried = store.carry(&set.value_json)?;
    Ok(to_the_end(call, async move {
        let result = store.db.kv_set(store.tenant, set).await?;
        drop(carried);
        Ok(SetResult(result))
    }))
}

pub(super) fn cas(call: &Call) -> Result<impl Future<Output = Result<CasResult, ApiError>> + use<>, ApiError> {
    let context = context(call)?;
    let expected_version = arguments::expected_version(call, 3)?;
    let set = KvSet {
        key: arguments::key(call, 2)?,
        value_json: arguments::value_json(call, 4)?,
        scopes: arguments::scopes(call, 5)?,
        expires_at: arguments::expires_at(call, 6)?,
        resume: call.flag(7, "resume")?,
    };
    access::check(&context.caps, Action::Set, &set.key, &set.scopes)?;
    let store = Store::open(call, "set")?;
    let carried = store.carry(&set.value_json)?;
    Ok(to_the_end(call, async move {
        let result = store.db.kv_cas(store.tenant, set, expected_version).await?;
        drop(carried);
        Ok(CasResult(result))
    }))
}

pub(super) fn incr(call: &Call) -> Result<impl Future<Output = Result<f64, ApiError>> + use<>, ApiError> {
    let context = context(call)?;
    let (key, by, scopes) = (arguments::key(call, 2)?, arguments::increment(call, 3)?, arguments::scopes(call, 4)?);
    access::check(&context.caps, Action::Get, &key, &scopes)?;
    access::check(&context.caps, Action::Set, &key, &scopes)?;
    let store = Store::open(call, "set")?;
    Ok(to_the_end(call, async move { Ok(store.db.kv_incr(store.tenant, &key, &scopes, by).await?) }))
}

pub(super) fn setexpiry(call: &Call) -> Result<impl Future<Output = Result<Nil, ApiError>> + use<>, ApiError> {
    let context = context(call)?;
    let (key, scopes) = (arguments::key(call, 2)?, arguments::scopes(call, 3)?);
    let expires_at = arguments::expires_at(call, 4)?;
    access::check(&context.caps, Action::SetExpiry, &key, &scopes)?;
    let store = Store::open(call, "setexpiry")?;
    Ok(to_the_end(call, async move {
        store.db.kv_set_expiry(store.tenant, &key, &scopes, expires_at).await?;
        Ok(Nil)
    }))
}

pub(super) fn delete(call: &Call) -> Result<impl Future<Output = Result<Nil, ApiError>> + use<>, ApiError> {
    let context = context(call)?;
    let (key, scopes) = (arguments::key(call, 2)?, arguments::scopes(call, 3)?);
    access::check(&context.caps, Action::Delete, &key, &scopes)?;
    let store = Store::open(call, "delete")?;
    Ok(to_the_end(call, async move {
        store.db.kv_delete(store.tenant, &key, &scopes).await?;
        Ok(Nil)
    }))
}
