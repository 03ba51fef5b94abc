//! The standard globals of a VM, made safe.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::ffi::{CStr, c_int};
use std::sync::Once;

use super::vm::Vm;
use super::{coroutines, environment, require, task};
use crate::error::ApiError;
use crate::luau::native::{self, Call, raise};
use crate::luau::stack::{self, Kind};
use crate::luau::{ffi, lua_State};
use crate::tenant_log::LogKind;

/// A pattern of more bytes than this is checked against the text's size.
const PATTERN_BYTES_FREE: usize = 128;

/// Bytes of text times bytes of pattern that a search may have: about 20 ms.
const SEARCH_PRODUCT_MAX: usize = 20_000_000;

/// Elements that `table.move` moves in one call.
const MOVE_MAX: f64 = 1_000_000.0;

/// Elements that `table.sort` sorts in one call: about 30 ms.
const SORT_MAX: usize = 200_000;

/// Luau's flags that mend calls which could run for minutes without a safe point. They are of the process.
const FLAGS: [&str; 3] = ["LuauTableMoveTimeoutFix", "LuauOptimizeStringSplit", "LuauTableRobustOom"];

/// Sets Luau's flags, once.
pub(crate) fn set_process_flags() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for flag in FLAGS {
            // A Luau that no longer has a flag has the behaviour for good; a test says so when that happens.
            let _ = mlua::Lua::set_fflag(flag, true);
        }
    });
}

/// Opens the libraries, takes away what is unsafe and replaces what can be abused. May raise.
pub(crate) fn set_up(vm: &Vm, l: *mut lua_State) {
    // SAFETY: LUA_MINSTACK is enough: what is pushed is stored at once.
    unsafe {
        ffi::luaL_openlibs(l);
        for name in [c"loadstring", c"getfenv", c"setfenv", c"newproxy", c"gcinfo", c"integer", c"debug", c"class"]
            .into_iter()
            // Each template has its own; a standard one would be found first.
            .chain([c"_G"])
        {
            ffi::lua_pushnil(l);
            ffi::lua_rawsetfield(l, ffi::LUA_GLOBALSINDEX, name.as_ptr());
        }
        library(l, c"coroutine", coroutines::register);
        library(l, c"string", |l| {
            for name in [c"find", c"match", c"gmatch", c"gsub", c"split"] {
                wrap(l, name, bounded_search);
            }
        });
        library(l, c"table", |l| {
            wrap(l, c"move", bounded_move);
            wrap(l, c"sort", bounded_sort);
        });
        if let Some(harness) = vm.surroundings.state.harness() {
            library(l, c"os", |l| {
                wrap(l, c"time", harness_time);
                wrap(l, c"clock", harness_clock);
                wrap(l, c"date", harness_date);
            });
            library(l, c"math", |l| {
                ffi::lua_rawgetfield(l, -1, c"randomseed".as_ptr());
                stack::Push::push(f64::from(harness.vm_seed()), l);
                ffi::lua_call(l, 1, 0);
            });
        }
        // Of `debug`, the two functions that only describe.
        ffi::lua_pushcclosurek(l, ffi::luaopen_debug, std::ptr::null(), 0, None);
        ffi::lua_call(l, 0, 1);
        ffi::lua_createtable(l, 0, 2);
        for name in [c"info", c"traceback"] {
            ffi::lua_rawgetfield(l, -2, name.as_ptr());
            ffi::lua_rawsetfield(l, -2, name.as_ptr());
        }
        set_global(l, c"debug");
        ffi::lua_settop(l, -2);
        task::push_library(l);
        set_global(l, c"task");
        ffi::lua_pushcclosurek(l, print, c"print".as_ptr(), 0, None);
        set_global(l, c"print");
        native::push_function(l, c"collectgarbage", collectgarbage);
        set_global(l, c"collectgarbage");
        require::push_function(l);
        set_global(l, c"require");
        // The metatable that marks lists.
        ffi::lua_createtable(l, 0, 0);
        ffi::lua_setreadonly(l, -1, 1);
        let reference = ffi::lua_ref(l, -1);
        vm.set_array_metatable(reference, ffi::lua_topointer(l, -1));
        ffi::lua_settop(l, -2);
        ffi::luaL_sandbox(l, 1);
        vm.environment_metatable.set(environment::make_metatable(l));
    }
}

fn set_global(l: *mut lua_State, name: &CStr) {
    // SAFETY: the value is on top.
    unsafe { ffi::lua_rawsetfield(l, ffi::LUA_GLOBALSINDEX, name.as_ptr()) }
}

fn library(l: *mut lua_State, name: &CStr, change: impl FnOnce(*mut lua_State)) {
    // SAFETY: the library is a table of the standard globals; it is popped again.
    unsafe {
        ffi::lua_rawgetfield(l, ffi::LUA_GLOBALSINDEX, name.as_ptr());
        change(l);
        ffi::lua_settop(l, -2);
    }
}

/// Puts a check before a function of the library on top.
fn wrap(l: *mut lua_State, name: &'static CStr, check: ffi::lua_CFunction) {
    // SAFETY: the original becomes the upvalue of the check.
    unsafe {
        ffi::lua_rawgetfield(l, -1, name.as_ptr());
        ffi::lua_pushcclosurek(l, check, name.as_ptr(), 1, None);
        ffi::lua_rawsetfield(l, -2, name.as_ptr());
    }
}

/// Calls the wrapped C function in place of the wrapper: same arguments, same results.
fn original(l: *mut lua_State) -> c_int {
    // SAFETY: the upvalue is a C function of Luau's library that has no upvalues of its own.
    unsafe {
        match ffi::lua_tocfunction(l, ffi::lua_upvalueindex(1)) {
            Some(function) => function(l),
            None => 0,
        }
    }
}

unsafe extern "C-unwind" fn bounded_search(l: *mut lua_State) -> c_int {
    if let (Some(text), Some(pattern)) = (stack::bytes(l, 1), stack::bytes(l, 2))
        && pattern.len() > PATTERN_BYTES_FREE
        && text.len().saturating_mul(pattern.len()) > SEARCH_PRODUCT_MAX
    {
        raise(
            l,
            ApiError::too_large("text and pattern together (bytes of text times bytes of pattern above 20 million)"),
        );
    }
    original(l)
}

unsafe extern "C-unwind" fn bounded_move(l: *mut lua_State) -> c_int {
    if let (Some(from), Some(to)) = (stack::number(l, 2), stack::number(l, 3))
        && to - from >= MOVE_MAX
    {
        raise(l, ApiError::too_large("range of table.move (above 1 million)"));
    }
    original(l)
}

unsafe extern "C-unwind" fn bounded_sort(l: *mut lua_State) -> c_int {
    // SAFETY: raw length of a table.
    if stack::kind(l, 1) == Kind::Table && unsafe { ffi::lua_objlen_(l, 1) } as usize > SORT_MAX {
        raise(l, ApiError::too_large("table.sort (above 200000 elements)"));
    }
    original(l)
}

/// `os.time` by the virtual clock.
unsafe extern "C-unwind" fn harness_time(l: *mut lua_State) -> c_int {
    match stack::kind(l, 1) {
        Kind::None | Kind::Nil => push_now(l),
        _ => original(l),
    }
}

/// Whole seconds, as the functions that this stands in for give them.
fn push_now(l: *mut lua_State) -> c_int {
    stack::Push::push(Vm::current().clock().now().as_second() as f64, l)
}

/// `os.clock` by the virtual clock.
unsafe extern "C-unwind" fn harness_clock(l: *mut lua_State) -> c_int {
    let elapsed = Vm::current().surroundings.state.harness().map(|harness| harness.clock().elapsed());
    stack::Push::push(elapsed.unwrap_or_default().as_secs_f64(), l)
}

/// `os.date` by the virtual clock.
unsafe extern "C-unwind" fn harness_date(l: *mut lua_State) -> c_int {
    if matches!(stack::kind(l, 2), Kind::None | Kind::Nil) {
        // SAFETY: a C function has room for a few values; nil as the format stands for the default.
        unsafe { ffi::lua_settop(l, 1) };
        push_now(l);
    }
    original(l)
}

fn collectgarbage(call: &Call) -> Result<f64, ApiError> {
    match call.str_opt(1, "opt")? {
        Some("count") => Ok(call.vm().memory().used() as f64 / 1024.0),
        _ => Err(ApiError::invalid_argument("collectgarbage answers \"count\" only")),
    }
}

/// `print`: a line of the tenant's log, each argument as `tostring` says it.
unsafe extern "C-unwind" fn print(l: *mut lua_State) -> c_int {
    let vm = Vm::current();
    let mut line = String::new();
    // More than a line of the log holds is not put together.
    let enough = vm.limits().log_line_bytes_max;
    // SAFETY: the arguments are all that is on the stack; their texts are pushed above them, one at a time. It may
    // raise, as `__tostring` may; the line is dropped then.
    unsafe {
        for index in 1..=ffi::lua_gettop(l) {
            if index > 1 {
                line.push('\t');
            }
            ffi::luaL_tolstring_(l, index, std::ptr::null_mut());
            let text = stack::bytes(l, -1).unwrap_or_default();
            line.push_str(&String::from_utf8_lossy(&text[..text.len().min(enough + 1)]));
            ffi::lua_settop(l, -2);
            if line.len() > enough {
                break;
            }
        }
    }
    #[cfg(debug_assertions)]
    super::faults::strike(&line);
    let tag = super::threads::ThreadTag::of(l);
    // Code with an environment of its own is that of whoever's thread it runs in.
    let environment = require::caller(vm, l)
        .map(|(environment, _)| environment)
        .or_else(|| vm.environment_by_number(tag.environment));
    let template = environment.map(|environment| environment.template.name.clone());
    vm.tenant.log.push(LogKind::Print, template, vm.event_of(tag.dispatch), &line);
    0
}

/// A value as text for people, without running metamethods.
pub(crate) fn describe(call: &Call, index: c_int) -> String {
    let l = call.state();
    match call.kind(index) {
        Kind::Nil | Kind::None => "nil".into(),
        Kind::Boolean => call.flag(index, "value").unwrap_or_default().to_string(),
        Kind::Number | Kind::Integer64 => format_number(stack::number(l, index).unwrap_or_default()),
        Kind::String => String::from_utf8_lossy(stack::bytes(l, index).unwrap_or_default()).into_owned(),
        Kind::Vector => {
            // SAFETY: it is a vector of three floats.
            let [x, y, z] = unsafe { *ffi::lua_tovector(l, index).cast::<[f32; 3]>() };
            format!("{x}, {y}, {z}")
        }
        kind => describe_object(call, index).unwrap_or_else(|| kind.name().to_owned()),
    }
}

/// Native objects say what they are; the addresses of tables and functions are nobody's business.
fn describe_object(call: &Call, index: c_int) -> Option<String> {
    use crate::modules::{datetime, typesext};
    if let Some(time) = call.object_opt::<datetime::DateTime>(index) {
        return Some(time.to_string());
    }
    if let Some(delta) = call.object_opt::<datetime::TimeDelta>(index) {
        return Some(delta.to_string());
    }
    if let Some(zone) = call.object_opt::<datetime::TimeZone>(index) {
        return Some(zone.name().to_owned());
    }
    if let Some(integer) = call.object_opt::<typesext::U64>(index) {
        return Some(integer.0.to_string());
    }
    call.object_opt::<typesext::I64>(index).map(|integer| integer.0.to_string())
}

/// A number as Luau writes it.
pub(crate) fn format_number(number: f64) -> String {
    if number.is_nan() {
        "nan".into()
    } else if number.is_infinite() {
        if number > 0.0 { "inf".into() } else { "-inf".into() }
    } else if number != 0.0 && !(1e-6..1e21).contains(&number.abs()) {
        // The exponent has a sign and at least two digits.
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
        format!("{digits}e{sign}{exponent:0>2}")
    } else {
        number.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luau_still_has_the_flags_that_mend_endless_calls() {
        for flag in FLAGS {
            assert!(mlua::Lua::set_fflag(flag, true).is_ok(), "{flag}: is the mended behaviour the only one now?");
        }
    }
}
