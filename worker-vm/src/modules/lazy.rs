//! `Lazy`: a value that is converted when it is first read (template API, section 15.4).

#![expect(unsafe_code, reason = "Luau's C API")]

use std::cell::Cell;
use std::ffi::{CStr, c_int};

use worker_core::Value;

use crate::error::ApiError;
use crate::luau::class::{Class, tags};
use crate::luau::native::Call;
use crate::luau::stack::{Push, PushBox};
use crate::luau::{ffi, lua_State};
use crate::runtime::vm::Vm;

/// A value outside of Luau, with one field: `data`.
pub(crate) struct Lazy {
    value: Value,
    /// A registry reference to the converted value; 0 before it is read.
    converted: Cell<c_int>,
}

impl Lazy {
    pub(crate) fn new(value: Value) -> Self {
        Self { value, converted: Cell::new(0) }
    }

    /// The value as it came.
    pub(crate) fn value(&self) -> &Value {
        &self.value
    }
}

impl Class for Lazy {
    const TAG: c_int = tags::LAZY;
    const NAME: &'static str = "Lazy";
    const C_NAME: &'static CStr = c"Lazy";
    const HAS_FIELDS: bool = true;

    fn field(&self, _: &Call, name: &str) -> Result<Option<Box<dyn PushBox>>, ApiError> {
        Ok((name == "data").then(|| Box::new(Data) as Box<dyn PushBox>))
    }
}

/// Pushes the data of the Lazy that is argument 1: the same value at every read.
struct Data;

impl Push for Data {
    fn push(self, l: *mut lua_State) -> c_int {
        let Some(lazy) = Lazy::read(l, 1) else { return 0 };
        // SAFETY: one value is pushed, made or referred to.
        unsafe {
            if lazy.converted.get() == 0 {
                (&lazy.value).push(l);
                lazy.converted.set(ffi::lua_ref(l, -1));
            } else {
                ffi::lua_rawgeti_(l, ffi::LUA_REGISTRYINDEX, lazy.converted.get());
            }
        }
        1
    }
}

impl Drop for Lazy {
    fn drop(&mut self) {
        if self.converted.get() != 0 {
            Vm::current().unref(self.converted.get());
        }
    }
}
