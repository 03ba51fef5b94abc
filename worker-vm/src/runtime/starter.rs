//! The first step of a run: the event and its context become Lua values, in one protected call.
//!
//! This is the hot path. What it needs of the VM is made once and kept in the upvalues of one C function, side by side in
//! memory: prototypes to copy, names that would otherwise be hashed and looked up, the list of field names.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::ffi::{CStr, c_int};
use std::rc::Rc;

use worker_core::{BaseName, Event};

use super::context::{self, ContextCore};
use super::environment::Environment;
use super::vm::{LuaFailure, Vm};
use crate::luau::class::tags;
use crate::luau::json::{Json, Names};
use crate::luau::keys::{EventKeys, KeyDictionary};
use crate::luau::stack::{self, Kind, Push, set_field};
use crate::luau::{ffi, lua_State};

/// A run to be started.
pub(crate) struct Job<'a, 'k> {
    environment: &'a Environment,
    event: &'a Event,
    data: &'a Json,
    keys: &'a mut EventKeys<'k>,
    array_metatable: c_int,
    thread: *mut lua_State,
    anchor: c_int,
}

/// The upvalues of [`start_job`].
mod upvalue {
    use std::ffi::c_int;

    use crate::luau::ffi::lua_upvalueindex;

    pub(super) const CONTEXT_METATABLE: c_int = lua_upvalueindex(1);
    pub(super) const EVENT_PROTOTYPE: c_int = lua_upvalueindex(2);
    pub(super) const NAMES: c_int = lua_upvalueindex(3);
    pub(super) const BASE_NAME: c_int = lua_upvalueindex(4);
    pub(super) const NAME: c_int = lua_upvalueindex(5);
    pub(super) const DATA: c_int = lua_upvalueindex(6);
    pub(super) const AUTHOR: c_int = lua_upvalueindex(7);
    pub(super) const EVENT: c_int = lua_upvalueindex(8);
    pub(super) const DISCORD: c_int = lua_upvalueindex(9);
    pub(super) const ANTIRAID: c_int = lua_upvalueindex(10);
    pub(super) const COUNT: c_int = 10;
}

/// Makes the function that starts runs: a registry reference to it. May raise.
pub(crate) fn make(l: *mut lua_State, context_metatable: c_int, dictionary: &KeyDictionary) -> c_int {
    // SAFETY: LUA_MINSTACK is enough for the upvalues, which are pushed in their order.
    unsafe {
        ffi::lua_rawgeti_(l, ffi::LUA_REGISTRYINDEX, context_metatable);
        ffi::lua_createtable(l, 0, 4);
        for name in [c"base_name", c"name", c"data", c"author"] {
            false.push(l);
            set_field(l, -2, name);
        }
        // Room for what the worker's events had so far.
        ffi::lua_createtable(l, dictionary.len() as c_int, 0);
        for text in ["base_name", "name", "data", "author"] {
            text.push(l);
        }
        stack::push_bytes(l, context::EVENT.to_bytes());
        BaseName::Discord.as_str().push(l);
        BaseName::AntiRaid.as_str().push(l);
        ffi::lua_pushcclosurek(l, start_job, c"start".as_ptr(), upvalue::COUNT, None);
        ffi::lua_ref(l, -1)
    }
}

/// Makes the thread of a run, with the entry and its two arguments on its stack: the thread and a reference to it.
pub(crate) fn start(
    vm: &Vm,
    environment: &Environment,
    event: &Event,
    data: &Json,
    keys: &mut EventKeys<'_>,
) -> Result<(*mut lua_State, c_int), LuaFailure> {
    let array_metatable = vm.array_metatable();
    let mut job = Job { environment, event, data, keys, array_metatable, thread: std::ptr::null_mut(), anchor: 0 };
    vm.call_protected(vm.starter(), (&raw mut job).cast())?;
    Ok((job.thread, job.anchor))
}

unsafe extern "C-unwind" fn start_job(l: *mut lua_State) -> c_int {
    // SAFETY: the argument is the job that `start` made and waits for; what is pushed fits into LUA_MINSTACK, tables of
    // the data make room for themselves; a new thread has room for three values.
    unsafe {
        let job = &mut *ffi::lua_tolightuserdata(l, 1).cast::<Job<'_, '_>>();
        let thread = ffi::lua_newthread(l);
        job.anchor = ffi::lua_ref(l, -1);
        job.thread = thread;
        ffi::lua_rawgeti_(l, ffi::LUA_REGISTRYINDEX, job.environment.entry());
        push_event(l, job);
        push_context(l, job.environment.context.clone());
        ffi::lua_xmove(l, thread, 3);
    }
    0
}

struct KeptNames<'a, 'k>(&'a mut EventKeys<'k>);

impl Names for KeptNames<'_, '_> {
    unsafe fn push(&mut self, l: *mut lua_State, name: &str) {
        // SAFETY: as the caller promises; pushed inside of `start_job` only, whose upvalue the list is.
        unsafe { self.0.push(l, upvalue::NAMES, name) }
    }
}

/// Pushes the event value: a read-only table with the data as ordinary tables. May raise.
///
/// # Safety
/// Called by [`start_job`].
unsafe fn push_event(l: *mut lua_State, job: &mut Job<'_, '_>) {
    // SAFETY: the prototype has all four names, so that setting them grows nothing.
    unsafe {
        ffi::lua_clonetable(l, upvalue::EVENT_PROTOTYPE);
        let table = ffi::lua_gettop(l);
        ffi::lua_pushvalue(l, upvalue::BASE_NAME);
        ffi::lua_pushvalue(
            l,
            match job.event.base_name() {
                BaseName::Discord => upvalue::DISCORD,
                BaseName::AntiRaid => upvalue::ANTIRAID,
            },
        );
        ffi::lua_rawset(l, table);
        ffi::lua_pushvalue(l, upvalue::NAME);
        job.event.name().as_str().push(l);
        ffi::lua_rawset(l, table);
        ffi::lua_pushvalue(l, upvalue::DATA);
        job.data.push(l, job.array_metatable, &mut KeptNames(job.keys));
        let data = table + 2;
        ffi::lua_pushvalue(l, upvalue::AUTHOR);
        match job.event.author() {
            Some(author) => {
                author.to_string().push(l);
            }
            None => {
                if !push_author(l, data, job.event) {
                    ffi::lua_pushnil(l);
                }
            }
        }
        ffi::lua_rawset(l, table);
        ffi::lua_rawset(l, table);
        ffi::lua_setreadonly(l, table, 1);
    }
}

/// Finds the user behind the event in its data, at `data`, and pushes their id.
fn push_author(l: *mut lua_State, data: c_int, event: &Event) -> bool {
    const PATHS: [&[&CStr]; 6] = [
        &[c"author", c"id"],
        &[c"member", c"user", c"id"],
        &[c"user", c"id"],
        &[c"user_id"],
        &[c"inviter", c"id"],
        &[c"creator_id"],
    ];
    if event.base_name() == BaseName::AntiRaid {
        return push_path(l, data, &[c"author"]);
    }
    let thread = event.name().as_str().starts_with("THREAD_");
    PATHS.iter().any(|path| push_path(l, data, path)) || (thread && push_path(l, data, &[c"owner_id"]))
}

/// Follows string keys from the table at `from` and pushes the string at the end, if there is one.
fn push_path(l: *mut lua_State, from: c_int, path: &[&CStr]) -> bool {
    // SAFETY: raw reads; the top is brought back to where it was, with the string above it if it was found.
    unsafe {
        let top = ffi::lua_gettop(l);
        ffi::lua_pushvalue(l, from);
        for name in path {
            if stack::kind(l, -1) != Kind::Table {
                ffi::lua_settop(l, top);
                return false;
            }
            ffi::lua_rawgetfield(l, -1, name.as_ptr());
            ffi::lua_remove(l, -2);
        }
        if stack::kind(l, -1) != Kind::String {
            ffi::lua_settop(l, top);
            return false;
        }
        true
    }
}

/// Pushes the context for the event on top of the stack. May raise.
///
/// # Safety
/// Called by [`start_job`].
unsafe fn push_context(l: *mut lua_State, core: Rc<ContextCore>) {
    // SAFETY: as `context::push`, with the prototype and the name at hand.
    unsafe {
        let block = ffi::lua_newuserdatatagged(l, size_of::<Rc<ContextCore>>(), tags::CONTEXT);
        block.cast::<Rc<ContextCore>>().write(core);
        ffi::lua_clonetable(l, upvalue::CONTEXT_METATABLE);
        ffi::lua_pushvalue(l, upvalue::EVENT);
        ffi::lua_pushvalue(l, -4);
        ffi::lua_rawset(l, -3);
        ffi::lua_setmetatable(l, -2);
    }
}
