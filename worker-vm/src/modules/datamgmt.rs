//! `@antiraid/datamgmt`: Blobs, base64, archives, encryption (template API, section 14.4).

#![expect(unsafe_code, reason = "Luau's C API")]

mod base64;
mod encryption;
mod tar_archive;

use crate::error::ApiError;
use crate::luau::native::{self, Call};
use crate::luau::stack::set_field;
use crate::luau::{ffi, lua_State};
use crate::modules::blob::{BlobBytes, Taken};

/// Bytes of what a function of the module is given.
const INPUT_BYTES_MAX: usize = 8 << 20;

/// Pushes the module. May raise.
pub(crate) fn push_module(l: *mut lua_State) {
    // SAFETY: LUA_MINSTACK is enough: each value is stored at once.
    unsafe {
        ffi::lua_createtable(l, 0, 7);
    }
    native::push_function(l, c"newblob", new_blob);
    set_field(l, -2, c"newblob");
    native::push_working(l, c"base64encode", base64::encode);
    set_field(l, -2, c"base64encode");
    native::push_working(l, c"base64decode", base64::decode);
    set_field(l, -2, c"base64decode");
    native::push_working(l, c"TarArchive", tar_archive::open);
    set_field(l, -2, c"TarArchive");
    native::push_working(l, c"aes256encrypt", encryption::encrypt);
    set_field(l, -2, c"aes256encrypt");
    native::push_working(l, c"aes256decrypt", encryption::decrypt);
    set_field(l, -2, c"aes256decrypt");
    native::push_working(l, c"aes256decryptcustom", encryption::decrypt_custom);
    set_field(l, -2, c"aes256decryptcustom");
}

fn new_blob(call: &Call) -> Result<BlobBytes, ApiError> {
    Taken::read(call, 1, "data")?.into_bytes(call.vm().weak())
}
