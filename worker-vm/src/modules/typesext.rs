//! `@antiraid/typesext`: 64-bit integers and random text (template API, section 14.7).

#![expect(unsafe_code, reason = "Luau's C API")]

mod bits;
mod integers;

use std::ffi::CStr;

pub(crate) use self::integers::{I64, U64};
use self::integers::{Integer, to_integer};
use crate::error::ApiError;
use crate::luau::class::Object;
use crate::luau::native::{self, Call, Native};
use crate::luau::stack::set_field;
use crate::luau::{ffi, lua_State};

/// Characters of a random text.
const RANDOM_CHARS_MAX: usize = 255;

/// Pushes the module. May raise.
pub(crate) fn push_module(l: *mut lua_State) {
    table(l, 4);
    function(l, c"U64", constructor::<U64>);
    function(l, c"I64", constructor::<I64>);
    function(l, c"randstring", random_string);
    bits::push_library(l);
    // All templates of the tenant share it, like the module itself.
    // SAFETY: the library is on top.
    unsafe {
        ffi::lua_setreadonly(l, -1, 1);
    }
    set_field(l, -2, c"bitu64");
}

fn table(l: *mut lua_State, fields: std::ffi::c_int) {
    // SAFETY: LUA_MINSTACK is enough: what goes into the table is stored at once.
    unsafe {
        ffi::lua_createtable(l, 0, fields);
    }
}

fn function<F: Native>(l: *mut lua_State, name: &'static CStr, function: F) {
    native::push_function(l, name, function);
    set_field(l, -2, name);
}

fn constructor<T: Integer>(call: &Call) -> Result<Object<T>, ApiError> {
    if call.is_nil(1) { Ok(Object(T::default())) } else { to_integer(call, 1, "v").map(Object) }
}

/// Letters and digits from the thread's generator, which is cryptographic and seeded by the system.
fn random_string(call: &Call) -> Result<String, ApiError> {
    match call.count(1, "n", RANDOM_CHARS_MAX as u64)? {
        0 => Err(ApiError::invalid_argument(format_args!("n (expected 1 to {RANDOM_CHARS_MAX})"))),
        n => Ok(call.vm().surroundings.state.random_string(n as usize)),
    }
}
