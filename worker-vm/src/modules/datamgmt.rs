//! `@antiraid/datamgmt`: Blobs, base64, archives, encryption (template API, section 14.4).

#![expect(unsafe_code, reason = "Luau's C API")]

use crate::error::ApiError;
use crate::luau::native::{self, Call};
use crate::luau::stack::set_field;
use crate::luau::{ffi, lua_State};
use crate::modules::blob::{BlobBytes, Taken};

/// Pushes the module. May raise.
pub(crate) fn push_module(l: *mut lua_State) {
    // SAFETY: LUA_MINSTACK is enough: each value is stored at once.
    unsafe {
        ffi::lua_createtable(l, 0, 8);
    }
    native::push_function(l, c"newblob", new_blob);
    set_field(l, -2, c"newblob");
}

fn new_blob(call: &Call) -> Result<BlobBytes, ApiError> {
    Taken::read(call, 1, "data")?.into_bytes(call.vm().weak())
}
