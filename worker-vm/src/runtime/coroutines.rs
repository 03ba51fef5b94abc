//! `coroutine.*`: Luau's semantics, with two differences that scripts do not notice.
//!
//! A script in a coroutine of its own can be preempted: the coroutine breaks, and so does everyone who waits for it, up
//! to the scheduler, which later goes on from the inside out. And a coroutine that waits in an API call belongs to the
//! scheduler: no script can resume it.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::ffi::{CStr, c_int};

use super::run;
use super::vm::Vm;
use crate::error::ApiError;
use crate::luau::native::raise;
use crate::luau::stack::{self, Kind};
use crate::luau::{ffi, lua_State};

/// Replaces functions of the table `coroutine` on top of the stack. May raise.
pub(crate) fn register(l: *mut lua_State) {
    let functions: [(&CStr, ffi::lua_CFunction, Option<ffi::lua_Continuation>); 4] = [
        (c"create", create, None),
        (c"wrap", wrap, None),
        (c"resume", resume, Some(resume_continued)),
        (c"close", close, None),
    ];
    for (name, function, continuation) in functions {
        // SAFETY: static names; the table is on top.
        unsafe { ffi::lua_pushcclosurek(l, function, name.as_ptr(), 0, continuation) };
        stack::set_field(l, -2, name);
    }
}

/// Makes a thread for the function at `function`, on top of the stack. May raise.
pub(crate) fn new_thread(l: *mut lua_State, function: c_int) -> *mut lua_State {
    let vm = Vm::current();
    if vm.coroutines() >= vm.limits().threads_max {
        // Those that are garbage do not count.
        vm.collect();
        if vm.coroutines() >= vm.limits().threads_max {
            raise(l, ApiError::quota_exceeded("threads"));
        }
    }
    // SAFETY: native functions have room for a thread; a new thread has room for its function.
    unsafe {
        let co = ffi::lua_newthread(l);
        ffi::lua_xpush(l, co, function);
        co
    }
}

/// Checks that a script may resume the coroutine.
fn check_resumable(l: *mut lua_State, co: *mut lua_State) -> Result<(), &'static str> {
    if Vm::current().is_scheduled(co) {
        return Err("cannot resume a coroutine that waits in a call or on a timer");
    }
    // SAFETY: both are live threads.
    match unsafe { ffi::lua_costatus(l, co) } {
        ffi::LUA_COSUS => Ok(()),
        ffi::LUA_CORUN => Err("cannot resume running coroutine"),
        ffi::LUA_CONOR => Err("cannot resume normal coroutine"),
        _ => Err("cannot resume dead coroutine"),
    }
}

/// Resumes `co` with the `args` topmost values of `l`: its status, or why it cannot be resumed. May raise.
pub(crate) fn resume_from(l: *mut lua_State, co: *mut lua_State, args: c_int) -> Result<c_int, &'static str> {
    check_resumable(l, co)?;
    // SAFETY: room on `co` is checked; the arguments are on top of `l`.
    unsafe {
        if ffi::lua_checkstack(co, args + 1) == 0 {
            return Err("too many arguments to resume");
        }
        ffi::lua_xmove(l, co, args);
    }
    Vm::current().unpark(co);
    Ok(run::nested_resume(l, co, args))
}

/// Suspends `l` because `co`, which it waits for, was preempted.
pub(crate) fn break_too(l: *mut lua_State) -> c_int {
    run::chain_push(l);
    // SAFETY: the hook preempts only where everybody up to the scheduler may yield.
    unsafe { ffi::lua_break(l) }
}

fn thread_argument(l: *mut lua_State) -> *mut lua_State {
    // SAFETY: any index is allowed.
    let co = unsafe { ffi::lua_tothread(l, 1) };
    if co.is_null() {
        raise(l, ApiError::invalid_argument("expected a thread"));
    }
    co
}

unsafe extern "C-unwind" fn create(l: *mut lua_State) -> c_int {
    if stack::kind(l, 1) != Kind::Function {
        raise(l, ApiError::invalid_argument("expected a function"));
    }
    new_thread(l, 1);
    1
}

unsafe extern "C-unwind" fn wrap(l: *mut lua_State) -> c_int {
    // SAFETY: `create` leaves the thread on top, which becomes the upvalue.
    unsafe {
        create(l);
        ffi::lua_pushcclosurek(l, call_wrapped, std::ptr::null(), 1, Some(call_wrapped_continued));
    }
    1
}

unsafe extern "C-unwind" fn resume(l: *mut lua_State) -> c_int {
    let co = thread_argument(l);
    // SAFETY: arguments follow the thread.
    let args = unsafe { ffi::lua_gettop(l) } - 1;
    match resume_from(l, co, args) {
        Ok(ffi::LUA_BREAK) => break_too(l),
        Ok(status) => resumed(l, co, status),
        Err(text) => {
            // SAFETY: native functions have room for two values.
            unsafe { ffi::lua_pushboolean(l, 0) };
            stack::push_bytes(l, text.as_bytes());
            2
        }
    }
}

unsafe extern "C-unwind" fn resume_continued(l: *mut lua_State, _: c_int) -> c_int {
    let co = thread_argument(l);
    // SAFETY: `co` is a live thread.
    match unsafe { ffi::lua_status(co) } {
        ffi::LUA_BREAK => break_too(l),
        status => resumed(l, co, status),
    }
}

fn resumed(l: *mut lua_State, co: *mut lua_State, status: c_int) -> c_int {
    Vm::current().came_back(co, status);
    let ok = matches!(status, ffi::LUA_OK | ffi::LUA_YIELD);
    // SAFETY: room is checked before values are moved.
    unsafe {
        let count = if ok { ffi::lua_gettop(co) } else { 1 };
        if ffi::lua_checkstack(l, count + 1) == 0 {
            raise(l, ApiError::too_large("too many results to resume"));
        }
        ffi::lua_pushboolean(l, ok.into());
        ffi::lua_xmove(co, l, count);
        count + 1
    }
}

unsafe extern "C-unwind" fn call_wrapped(l: *mut lua_State) -> c_int {
    // SAFETY: the upvalue is the thread.
    let (co, args) = unsafe { (ffi::lua_tothread(l, ffi::lua_upvalueindex(1)), ffi::lua_gettop(l)) };
    match resume_from(l, co, args) {
        Ok(ffi::LUA_BREAK) => break_too(l),
        Ok(status) => wrapped_returned(l, co, status),
        Err(text) => {
            stack::push_bytes(l, text.as_bytes());
            raise_with_position(l)
        }
    }
}

unsafe extern "C-unwind" fn call_wrapped_continued(l: *mut lua_State, _: c_int) -> c_int {
    // SAFETY: the upvalue is the thread.
    unsafe {
        let co = ffi::lua_tothread(l, ffi::lua_upvalueindex(1));
        match ffi::lua_status(co) {
            ffi::LUA_BREAK => break_too(l),
            status => wrapped_returned(l, co, status),
        }
    }
}

fn wrapped_returned(l: *mut lua_State, co: *mut lua_State, status: c_int) -> c_int {
    Vm::current().came_back(co, status);
    // SAFETY: as in `resumed`.
    unsafe {
        if !matches!(status, ffi::LUA_OK | ffi::LUA_YIELD) {
            ffi::lua_xmove(co, l, 1);
            // As the API promises, nothing is put before its errors; and a script's own error has its position.
            ffi::lua_error(l)
        }
        let count = ffi::lua_gettop(co);
        if ffi::lua_checkstack(l, count + 1) == 0 {
            raise(l, ApiError::too_large("too many results to resume"));
        }
        ffi::lua_xmove(co, l, count);
        count
    }
}

/// Raises the string on top with the caller's position before it, as Luau's own functions do.
fn raise_with_position(l: *mut lua_State) -> ! {
    // SAFETY: the message is on top.
    unsafe {
        ffi::luaL_where(l, 1);
        ffi::lua_insert(l, -2);
        ffi::lua_concat(l, 2);
        ffi::lua_error(l)
    }
}

unsafe extern "C-unwind" fn close(l: *mut lua_State) -> c_int {
    let co = thread_argument(l);
    // SAFETY: both are live threads; one that runs or waits for another is refused.
    unsafe {
        let status = ffi::lua_costatus(l, co);
        if matches!(status, ffi::LUA_CORUN | ffi::LUA_CONOR) {
            let text: &[u8] = match status {
                ffi::LUA_CORUN => b"cannot close running coroutine",
                _ => b"cannot close normal coroutine",
            };
            stack::push_bytes(l, text);
            raise_with_position(l);
        }
        let failed = !matches!(ffi::lua_status(co), ffi::LUA_OK | ffi::LUA_YIELD);
        ffi::lua_pushboolean(l, (!failed).into());
        if failed && ffi::lua_gettop(co) > 0 {
            ffi::lua_xmove(co, l, 1);
        } else if failed {
            ffi::lua_pushnil(l);
        }
        Vm::current().cancel_thread(co);
        if failed { 2 } else { 1 }
    }
}
