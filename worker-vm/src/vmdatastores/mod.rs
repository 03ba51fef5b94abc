//! `ctx.DataStores` (template API, section 6).

use std::ffi::{CStr, c_int};
use std::rc::Rc;

use crate::luau::class::{Class, tags};
use crate::runtime::context::ContextCore;

/// The data stores of a context, by name.
pub(crate) struct DataStores {
    context: Rc<ContextCore>,
}

impl DataStores {
    pub(crate) fn new(context: Rc<ContextCore>) -> Self {
        Self { context }
    }
}

impl Class for DataStores {
    const TAG: c_int = tags::DATA_STORES;
    const NAME: &'static str = "DataStores";
    const C_NAME: &'static CStr = c"DataStores";
}
