//! `ctx.KV` (template API, section 4).

use std::ffi::{CStr, c_int};
use std::rc::Rc;

use crate::luau::class::{Class, tags};
use crate::runtime::context::ContextCore;

/// The records of the tenant, as far as a context's capabilities go.
pub(crate) struct Kv {
    context: Rc<ContextCore>,
}

impl Kv {
    pub(crate) fn new(context: Rc<ContextCore>) -> Self {
        Self { context }
    }
}

impl Class for Kv {
    const TAG: c_int = tags::KV;
    const NAME: &'static str = "KV";
    const C_NAME: &'static CStr = c"KV";
}
