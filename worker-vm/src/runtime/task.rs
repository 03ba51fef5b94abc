//! The `task` library: threads that the scheduler resumes (template API, section 13).

#![expect(unsafe_code, reason = "Luau's C API")]

use std::ffi::{CStr, c_int};
use std::time::Duration;

use super::coroutines::{break_too, new_thread, resume_from};
use super::threads::Role;
use super::vm::Vm;
use crate::error::ApiError;
use crate::luau::native::{self, Call, raise};
use crate::luau::stack::{self, Kind, Nil};
use crate::luau::{ffi, lua_State};

/// The shortest wait.
const WAIT_MIN: Duration = Duration::from_millis(50);

/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Pushes the library as a table. May raise.
pub(crate) fn push_library(l: *mut lua_State) {
    // SAFETY: LUA_MINSTACK is enough; names are static.
    unsafe { ffi::lua_createtable(l, 0, 8) };
    let functions: [(&CStr, ffi::lua_CFunction, Option<ffi::lua_Continuation>); 4] = [
        (c"spawn", spawn, Some(spawn_continued)),
        (c"defer", defer, None),
        (c"delay", delay, None),
        (c"cancel", cancel, None),
    ];
    for (name, function, continuation) in functions {
        // SAFETY: as above.
        unsafe { ffi::lua_pushcclosurek(l, function, name.as_ptr(), 0, continuation) };
        stack::set_field(l, -2, name);
    }
    native::push_yielding(l, c"wait", |call: &Call| {
        let wait = duration(if call.is_nil(1) { 0.0 } else { call.number(1, "t")? });
        let clock = call.vm().clock().clone();
        let start = clock.moment();
        Ok(async move {
            clock.sleep(wait).await;
            Ok(clock.since(start).as_secs_f64())
        })
    });
    stack::set_field(l, -2, c"wait");
    for name in [c"synchronize", c"desynchronize"] {
        native::push_function(l, name, |_: &Call| Ok(()));
        stack::set_field(l, -2, name);
    }
}

/// Any number as a wait: NaN and what is below the shortest count as the shortest, what is beyond the longest as that.
fn duration(seconds: f64) -> Duration {
    if seconds >= WAIT_MAX.as_secs_f64() {
        WAIT_MAX
    } else if seconds > WAIT_MIN.as_secs_f64() {
        Duration::from_secs_f64(seconds)
    } else {
        WAIT_MIN
    }
}

/// The thread that the argument at `index` is or becomes, at `index`. May raise.
fn thread_of(l: *mut lua_State, index: c_int) -> *mut lua_State {
    match stack::kind(l, index) {
        Kind::Function => {
            let co = new_thread(l, index);
            // SAFETY: the new thread is on top.
            unsafe { ffi::lua_replace(l, index) };
            co
        }
        Kind::Thread => {
            // SAFETY: it is a thread.
            let co = unsafe { ffi::lua_tothread(l, index) };
            // SAFETY: both are live threads.
            let suspended = unsafe { ffi::lua_costatus(l, co) } == ffi::LUA_COSUS;
            if !suspended || Vm::current().is_scheduled(co) {
                raise(l, ApiError::invalid_argument("thread (it is not suspended, or waits in a call or on a timer)"));
            }
            co
        }
        kind => {
            let error =
                ApiError::invalid_argument(format_args!("expected a function or a thread, got {}", kind.name()));
            raise(l, error)
        }
    }
}

unsafe extern "C-unwind" fn spawn(l: *mut lua_State) -> c_int {
    let co = thread_of(l, 1);
    // SAFETY: the arguments follow the thread.
    let args = unsafe { ffi::lua_gettop(l) } - 1;
    match resume_from(l, co, args) {
        Ok(ffi::LUA_BREAK) => break_too(l),
        Ok(status) => spawned(l, co, status),
        Err(text) => raise(l, ApiError::invalid_argument(text)),
    }
}

unsafe extern "C-unwind" fn spawn_continued(l: *mut lua_State, _: c_int) -> c_int {
    // SAFETY: the thread is still the first value.
    unsafe {
        let co = ffi::lua_tothread(l, 1);
        match ffi::lua_status(co) {
            ffi::LUA_BREAK => break_too(l),
            status => spawned(l, co, status),
        }
    }
}

fn spawned(l: *mut lua_State, co: *mut lua_State, status: c_int) -> c_int {
    let vm = Vm::current();
    if vm.find_thread(co).is_some() {
        vm.came_back(co, status);
    } else if !matches!(status, ffi::LUA_OK | ffi::LUA_YIELD) {
        vm.log_thread_error(co, status);
    }
    // SAFETY: results of a spawned thread go to nobody; the thread is the only value left.
    unsafe {
        if matches!(status, ffi::LUA_OK | ffi::LUA_YIELD) {
            ffi::lua_settop(co, 0);
        }
        ffi::lua_settop(l, 1);
    }
    1
}

unsafe extern "C-unwind" fn defer(l: *mut lua_State) -> c_int {
    let co = thread_of(l, 1);
    let args = arguments(l, co, 2);
    if let Err(error) = Vm::current().schedule(co, args, Role::Plain) {
        raise(l, error);
    }
    move_arguments(l, co, args)
}

unsafe extern "C-unwind" fn delay(l: *mut lua_State) -> c_int {
    let Some(seconds) = stack::number_or_text(l, 1) else {
        raise(l, ApiError::invalid_argument("t (expected a number)"));
    };
    let co = thread_of(l, 2);
    let args = arguments(l, co, 3);
    if let Err(error) = Vm::current().schedule_after(co, args, duration(seconds)) {
        raise(l, error);
    }
    move_arguments(l, co, args)
}

/// How many values there are from `first` on, with room for them on the thread. May raise.
fn arguments(l: *mut lua_State, co: *mut lua_State, first: c_int) -> c_int {
    // SAFETY: both are live threads.
    unsafe {
        let args = ffi::lua_gettop(l) - first + 1;
        if ffi::lua_checkstack(co, args + 1) == 0 {
            raise(l, ApiError::memory("no room for the arguments on the thread's stack"));
        }
        args
    }
}

/// Moves the values on top to the thread, which has room for them; the thread itself is the result. Only once it is
/// scheduled: one that could not be must find nothing on its stack that it did not ask for.
fn move_arguments(l: *mut lua_State, co: *mut lua_State, args: c_int) -> c_int {
    // SAFETY: `arguments` made room; nothing ran since.
    unsafe { ffi::lua_xmove(l, co, args) };
    1
}

unsafe extern "C-unwind" fn cancel(l: *mut lua_State) -> c_int {
    // SAFETY: any index is allowed.
    let co = unsafe { ffi::lua_tothread(l, 1) };
    if co.is_null() {
        raise(l, ApiError::invalid_argument("expected a thread"));
    }
    // SAFETY: both are live threads.
    if matches!(unsafe { ffi::lua_costatus(l, co) }, ffi::LUA_CORUN | ffi::LUA_CONOR) {
        raise(l, ApiError::invalid_argument("thread (a running thread cannot be cancelled)"));
    }
    Vm::current().cancel_thread(co);
    stack::Push::push(Nil, l)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_is_a_wait() {
        for least in [f64::NAN, f64::NEG_INFINITY, -1.0, 0.0, 0.05, 0.01] {
            assert_eq!(duration(least), WAIT_MIN, "{least}");
        }
        for most in [1e300, f64::INFINITY, 365.0 * 86400.0, f64::MAX] {
            assert_eq!(duration(most), WAIT_MAX, "{most}");
        }
        assert_eq!(duration(2.5), Duration::from_millis(2500));
    }
}
