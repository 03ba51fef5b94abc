//! Methods that list.

use std::time::Instant;

use worker_db::KvRecord;

use super::access::{self, Action};
use super::record::Present;
use super::{Store, arguments, context};
use crate::error::ApiError;
use crate::luau::native::Call;
use crate::luau::stack::List;
use crate::runtime::held::Counted;

pub(super) fn list_scopes(
    call: &Call,
) -> Result<impl Future<Output = Result<List<String>, ApiError>> + use<>, ApiError> {
    let context = context(call)?;
    let page = arguments::page(call, 2)?;
    context.require("kv.meta:list_scopes")?;
    let store = Store::open(call, "list_scopes")?;
    Ok(async move { Ok(List(store.db.kv_list_scopes(store.tenant, page).await?)) })
}

pub(super) fn keys(call: &Call) -> Result<impl Future<Output = Result<List<String>, ApiError>> + use<>, ApiError> {
    let context = context(call)?;
    let (scopes, page) = (arguments::scopes(call, 2)?, arguments::page(call, 3)?);
    access::check_keys(&context.caps, &scopes)?;
    let store = Store::open(call, "keys")?;
    Ok(async move { Ok(List(store.db.kv_keys(store.tenant, &scopes, page).await?)) })
}

pub(super) fn find(
    call: &Call,
) -> Result<impl Future<Output = Result<Counted<List<Present>>, ApiError>> + use<>, ApiError> {
    let context = context(call)?;
    let query = arguments::query(call, 2)?;
    let (scopes, page) = (arguments::scopes(call, 3)?, arguments::find_page(call, 4)?);
    access::check(&context.caps, Action::Find, &query, &scopes)?;
    let store = Store::open(call, "find")?;
    Ok(async move {
        let records = store.db.kv_find(store.tenant, &query, &scopes, page).await?;
        let held = store.hold(&records)?;
        Ok(Counted { value: List(store.parse(records).await?), held })
    })
}

impl Store {
    /// Bytes of JSON that are parsed in place, in about a millisecond.
    const PARSE_INLINE_BYTES_MAX: usize = 64 << 10;

    /// Parses the values of records: many of them on a thread for blocking work, at the tenant's expense.
    async fn parse(&self, records: Vec<KvRecord>) -> Result<Vec<Present>, ApiError> {
        let parse = |records: Vec<KvRecord>| records.into_iter().map(Present::new).collect();
        if records.iter().map(|record| record.value_json.len()).sum::<usize>() <= Self::PARSE_INLINE_BYTES_MAX {
            return parse(records);
        }
        let parsing = tokio::task::spawn_blocking(move || {
            let start = Instant::now();
            (parse(records), start.elapsed())
        });
        let (parsed, took) = parsing.await.map_err(|error| ApiError::internal(&error))?;
        self.account.charge(took.as_nanos() as u64);
        parsed
    }
}
