//! Methods on the record of an id.
//!
//! An id alone does not say what the record is, so it is read first, and the action on its key and scopes must be allowed.
//! Key and scopes of an id never change, so the check still holds for the write that follows.

use std::rc::Rc;

use worker_db::KvRecord;

use super::access::{self, Action};
use super::arguments::Id;
use super::record::{MaybeRecord, ValueAndFound, value_and_found};
use super::{Store, arguments, context};
use crate::error::ApiError;
use crate::luau::native::Call;
use crate::luau::stack::Nil;
use crate::plugins::to_the_end;
use crate::runtime::context::ContextCore;
use crate::runtime::held::Counted;

/// A call whose arguments were read: what to do with which record, for whom.
struct Request {
    store: Store,
    context: Rc<ContextCore>,
    action: Action,
    id: Id,
}

impl Request {
    /// Argument 2 is the id.
    fn new(call: &Call, action: Action, bucket: &str) -> Result<Self, ApiError> {
        let context = context(call)?.clone();
        let id = arguments::id(call, 2)?;
        context.require("kv.meta:id_ops")?;
        Ok(Self { store: Store::open(call, bucket)?, context, action, id })
    }

    /// The record, if there is one that the context may do this with.
    async fn record(&self) -> Result<Option<KvRecord>, ApiError> {
        if !self.id.is_possible {
            return Ok(None);
        }
        let record = self.store.db.kv_get_by_id(self.store.tenant, &self.id.text).await?;
        if let Some(record) = &record {
            access::check_record(&self.context.caps, self.action, record)?;
        }
        Ok(record)
    }
}

pub(super) fn getbyid(
    call: &Call,
) -> Result<impl Future<Output = Result<Counted<ValueAndFound>, ApiError>> + use<>, ApiError> {
    let request = Request::new(call, Action::Get, "getbyid")?;
    Ok(async move {
        let record = request.record().await?;
        let held = request.store.hold(&record)?;
        Ok(Counted { value: value_and_found(record)?, held })
    })
}

pub(super) fn getrecordbyid(
    call: &Call,
) -> Result<impl Future<Output = Result<Counted<MaybeRecord>, ApiError>> + use<>, ApiError> {
    let request = Request::new(call, Action::Get, "getbyid")?;
    Ok(async move {
        let record = request.record().await?;
        let held = request.store.hold(&record)?;
        Ok(Counted { value: MaybeRecord::new(record, || MaybeRecord::NoId(request.id.text))?, held })
    })
}

pub(super) fn setbyid(call: &Call) -> Result<impl Future<Output = Result<Nil, ApiError>> + use<>, ApiError> {
    let json = arguments::value_json(call, 3)?;
    let (expires_at, resume) = (arguments::expires_at(call, 4)?, call.flag(5, "resume")?);
    let request = Request::new(call, Action::Set, "setbyid")?;
    let carried = request.store.carry(&json)?;
    Ok(to_the_end(call, async move {
        // One that was there and is gone is for the write to report.
        if request.record().await?.is_none() {
            return Err(ApiError::not_found("record with this id"));
        }
        let Store { db, tenant, .. } = &request.store;
        db.kv_set_by_id(*tenant, &request.id.text, &json, expires_at, resume).await?;
        drop(carried);
        Ok(Nil)
    }))
}

pub(super) fn setexpirybyid(call: &Call) -> Result<impl Future<Output = Result<Nil, ApiError>> + use<>, ApiError> {
    let expires_at = arguments::expires_at(call, 3)?;
    let request = Request::new(call, Action::SetExpiry, "setexpirybyid")?;
    Ok(to_the_end(call, async move {
        if request.record().await?.is_some() {
            request.store.db.kv_set_expiry_by_id(request.store.tenant, &request.id.text, expires_at).await?;
        }
        Ok(Nil)
    }))
}

pub(super) fn deletebyid(call: &Call) -> Result<impl Future<Output = Result<Nil, ApiError>> + use<>, ApiError> {
    let request = Request::new(call, Action::Delete, "deletebyid")?;
    Ok(to_the_end(call, async move {
        if request.record().await?.is_some() {
            request.store.db.kv_delete_by_id(request.store.tenant, &request.id.text).await?;
        }
        Ok(Nil)
    }))
}
