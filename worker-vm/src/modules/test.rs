//! `@antiraid-test`: what specs are written with. Luau over one native function, and in the VMs of specs alone.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::sync::{Arc, OnceLock};

use crate::error::ApiError;
use crate::luau::compile::{self, CompileError};
use crate::luau::native::{self, Call, raise};
use crate::luau::{ffi, lua_State};
use crate::modules::interop;
use crate::runtime::run;
use crate::runtime::vm::Vm;

/// Its name.
pub(crate) const NAME: &str = "@antiraid-test";

/// Why nobody else can require it.
pub(crate) const ELSEWHERE: &str = "unavailable: @antiraid-test (only specs have it, under `antiraid test`)";

/// What its own functions have as their file, in messages and tracebacks.
const PATH: &str = "/@antiraid-test.luau";

/// Its functions, in Luau.
const SOURCE: &str = include_str!("test.luau");

/// Whether code of this VM may have it.
pub(crate) fn check_access(vm: &Vm) -> Result<(), ApiError> {
    let is_for_specs = vm.surroundings.state.harness().is_some_and(|harness| harness.host().is_some());
    if is_for_specs { Ok(()) } else { Err(ApiError::verbatim(ELSEWHERE)) }
}

/// Pushes the module. May raise.
pub(crate) fn push_module(l: *mut lua_State) {
    static BYTECODE: OnceLock<Result<Arc<[u8]>, CompileError>> = OnceLock::new();
    let bytecode = match BYTECODE.get_or_init(|| compile::compile(PATH, SOURCE)) {
        Ok(bytecode) => bytecode,
        Err(error) => raise(l, ApiError::internal(error)),
    };
    // SAFETY: LUA_MINSTACK is enough: the chunk and its two arguments, which its one result replaces.
    unsafe {
        ffi::lua_pushvalue(l, ffi::LUA_GLOBALSINDEX);
        compile::load(l, PATH, bytecode);
        native::push_yielding(l, c"call", |call: &Call| {
            let name = call.str(1, "name")?;
            let arguments = call.values()?.split_off(1);
            match call.vm().surroundings.state.harness() {
                Some(harness) => harness.call(name, arguments),
                None => Err(ApiError::verbatim(ELSEWHERE)),
            }
        });
        interop::push_module(l);
        // It only defines functions; its caller could not go on with half of them.
        run::unpreempted(|| ffi::lua_call(l, 2, 1));
    }
}
