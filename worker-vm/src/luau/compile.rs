//! Source text to bytecode.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::ffi::{CString, c_int};
use std::sync::Arc;

use worker_core::SourceLine;

use super::{ffi, lua_State};

/// Why a file does not compile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {message}")]
pub struct CompileError {
    /// Where.
    pub at: SourceLine,
    /// What is wrong, in the compiler's words.
    pub message: String,
}

/// The optimisation level, of 0 to 2, that templates get.
pub(crate) const OPTIMIZATION_LEVEL: u8 = 2;

/// Compiles a file at optimisation level 2, with line numbers. `path` begins with `/`.
///
/// Takes about 0.1 to 0.8 µs a byte, so large files are compiled off the worker's thread.
pub fn compile(path: &str, source: &str) -> Result<Arc<[u8]>, CompileError> {
    compile_with(path, source, OPTIMIZATION_LEVEL)
}

/// [`compile`] with an optimisation level of 0 to 2.
pub(crate) fn compile_with(path: &str, source: &str, optimization_level: u8) -> Result<Arc<[u8]>, CompileError> {
    let mut options = ffi::lua_CompileOptions::default();
    options.optimizationLevel = c_int::from(optimization_level);
    options.debugLevel = 1;
    // SAFETY: the source is bytes of any content; the options hold no pointers.
    let bytecode = unsafe { ffi::luau_compile(source.as_bytes(), options) };
    // A failure is a zero byte, then `:<line>: <message>`.
    if bytecode.first() != Some(&0) {
        return Ok(bytecode.into());
    }
    let text = String::from_utf8_lossy(&bytecode[1..]);
    let (line, message) = text.trim_start_matches(':').split_once(':').unwrap_or(("1", &text));
    let at = SourceLine { path: path.into(), line: line.trim().parse().unwrap_or(1) };
    Err(CompileError { at, message: message.trim().to_owned() })
}

/// Compiles a source of this program's own, without line numbers: messages and tracebacks then pass over it.
pub(crate) fn compile_nameless(source: &str) -> Vec<u8> {
    let mut options = ffi::lua_CompileOptions::default();
    options.optimizationLevel = 2;
    options.debugLevel = 0;
    // SAFETY: as above.
    unsafe { ffi::luau_compile(source.as_bytes(), options) }
}

/// Loads bytecode that [`compile`] made and pushes the function; its globals are the table on top. May raise.
pub(crate) fn load(l: *mut lua_State, path: &str, bytecode: &[u8]) {
    // `=`: the name is used as it stands in messages and tracebacks.
    let name = CString::new(format!("={path}")).unwrap_or_else(|_| c"=?".to_owned());
    // SAFETY: Luau does not verify bytecode, so only this program's own is ever loaded. The loader resolves names in the
    // globals of the thread that loads, which are the standard ones and never change, and once and for all: so a
    // template's own globals must not be found there. The function gets the table on top as its globals.
    let status = unsafe {
        ffi::lua_rawcheckstack(l, 2);
        let globals = ffi::lua_gettop(l);
        let status = ffi::luau_load(l, name.as_ptr(), bytecode.as_ptr().cast(), bytecode.len(), globals);
        ffi::lua_remove(l, globals);
        status
    };
    drop(name);
    if status != 0 {
        // SAFETY: the message is on top.
        unsafe { ffi::lua_error(l) }
    }
}
