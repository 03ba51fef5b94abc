//! `CopyDataStore`: gives back its arguments after conversion both ways, to try conversions out.

use worker_core::Value;

use super::{Store, admit};
use crate::error::ApiError;
use crate::luau::native::{Call, Values, push_closure, push_yielding_closure};
use crate::luau::value;
use crate::runtime::held::{Counted, Held};

pub(super) const STORE: Store = Store {
    name: c"CopyDataStore",
    needs_caps: false,
    methods: &[
        (c"copy", |l, name| push_yielding_closure(l, name, 1, copy)),
        (c"copySync", |l, name| push_closure(l, name, 1, copy_sync)),
    ],
};

fn copy(call: &Call) -> Result<impl Future<Output = Result<Counted<Values>, ApiError>> + use<>, ApiError> {
    let values = call.values()?;
    admit(call, "copy")?;
    let copies = counted(call, values)?;
    Ok(async move { Ok(copies) })
}

fn copy_sync(call: &Call) -> Result<Counted<Values>, ApiError> {
    let values = call.values()?;
    admit(call, "copySync")?;
    counted(call, values)
}

fn counted(call: &Call, values: Vec<Value>) -> Result<Counted<Values>, ApiError> {
    let held = Held::new(call.vm().weak(), values.iter().map(value::bytes).sum())
        .ok_or_else(|| ApiError::memory("no room for the copies within the tenant's memory limit"))?;
    Ok(Counted { value: Values(values.into_iter().map(|value| Box::new(value) as _).collect()), held })
}
