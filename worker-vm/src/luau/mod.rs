//! The thin layer over Luau's C API: the only place of the workspace with `unsafe` beside the scheduler.
//!
//! mlua builds Luau and hands out its raw API (`mlua::ffi`); its safe API is not used, since each of its operations runs
//! in a protected call of its own once a memory limit is set (three to four times the cost of the whole event), its
//! errors reach scripts as userdata, and its set-up doubles a VM's size.
//!
//! Two rules keep this sound:
//! * **Reading never raises.** Everything in [`stack`] that reads from the Lua stack uses functions that cannot raise a
//!   Lua error, so native functions may run inside `catch_unwind`.
//! * **Writing may raise** (out of memory) and happens outside of `catch_unwind`, inside some protected call. A Luau
//!   error is a C++ exception: it unwinds Rust frames and runs their destructors.

pub(crate) mod alloc;
pub(crate) mod class;
pub(crate) mod compile;
pub(crate) mod json;
pub(crate) mod json_text;
pub(crate) mod keys;
pub(crate) mod native;
pub(crate) mod stack;
pub(crate) mod value;

pub(crate) use mlua::ffi;
pub(crate) use mlua::ffi::lua_State;
