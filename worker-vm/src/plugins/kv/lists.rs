//! Methods that list.

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
        let records = records.into_iter().map(Present::new).collect::<Result<_, _>>()?;
        Ok(Counted { value: List(records), held })
    })
}
