//! `@antiraid/interop`.

#![expect(unsafe_code, reason = "Luau's C API")]

use crate::luau::native::{self, Call};
use crate::luau::stack::set_field;
use crate::luau::{ffi, lua_State};
use crate::runtime::vm::Vm;

/// Pushes the module. May raise.
pub(crate) fn push_module(l: *mut lua_State) {
    // SAFETY: LUA_MINSTACK is enough: each value is stored at once.
    unsafe {
        ffi::lua_createtable(l, 0, 4);
        ffi::lua_pushlightuserdatatagged(l, std::ptr::null_mut(), 0);
        set_field(l, -2, c"null");
        ffi::lua_rawgeti_(l, ffi::LUA_REGISTRYINDEX, Vm::current().array_metatable());
        set_field(l, -2, c"array_metatable");
    }
    native::push_function(l, c"memusage", |call: &Call| Ok(call.vm().memory().used() as f64));
    set_field(l, -2, c"memusage");
    native::push_function(l, c"memory_limit", |call: &Call| Ok(call.vm().memory().limit() as f64));
    set_field(l, -2, c"memory_limit");
}
