//! `@antiraid/typesext`: 64-bit integers (template API, section 14.7).

use std::ffi::{CStr, c_int};

use crate::luau::class::{Class, tags};
use crate::luau::lua_State;

/// An unsigned 64-bit integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct U64(pub(crate) u64);

/// A signed 64-bit integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct I64(pub(crate) i64);

impl Class for U64 {
    const TAG: c_int = tags::U64;
    const NAME: &'static str = "U64";
    const C_NAME: &'static CStr = c"U64";
}

impl Class for I64 {
    const TAG: c_int = tags::I64;
    const NAME: &'static str = "I64";
    const C_NAME: &'static CStr = c"I64";
}

/// Pushes the module. May raise.
pub(crate) fn push_module(l: *mut lua_State) {
    // SAFETY: one value.
    #[expect(unsafe_code, reason = "Luau's C API")]
    unsafe {
        crate::luau::ffi::lua_createtable(l, 0, 0);
    }
}
