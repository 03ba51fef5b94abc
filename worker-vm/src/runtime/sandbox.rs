//! The standard globals of a VM, made safe.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::ffi::{CStr, c_int};
use std::sync::Once;

use super::vm::Vm;
use super::{coroutines, environment, require, run, task};
use crate::error::ApiError;
use crate::luau::native::{self, Call, raise};
use crate::luau::stack::{self, Kind};
use crate::luau::{ffi, lua_State};
use crate::tenant_log::LogKind;

/// A pattern of more bytes than this is checked against the text's size.
const PATTERN_BYTES_FREE: usize = 128;

/// A text of fewer bytes is searched with any pattern.
const SEARCH_BYTES_FREE: usize = 1 << 10;

/// Bytes of text times bytes of pattern that a search may have: about 20 ms.
const SEARCH_PRODUCT_MAX: usize = 20_000_000;

/// The same where the pattern has a set, however short it is: each byte of text is compared with each of the set's, which
/// takes about 40 ms if those are classes.
const SET_PRODUCT_MAX: usize = 10_000_000;

/// Elements that `table.move` moves in one call.
const MOVE_MAX: f64 = 1_000_000.0;

/// Elements that `table.sort` sorts in one call: about 30 ms.
const SORT_MAX: usize = 200_000;

/// The same where each comparison may be a call of native code, between two of which there is no safe point.
const SORT_NATIVE_MAX: usize = 20_000;

/// Bytes of strings that `table.sort` may have to look at, each element's as often as it is compared: about 30 ms. Two
/// long strings that differ at their ends can be in a list a thousand times.
const SORT_BYTES_MAX: usize = 200_000_000;

/// Elements that `table.concat` joins in one call: about 20 ms if they are strings.
const CONCAT_MAX: f64 = 1_000_000.0;

/// How many of them may be numbers, which takes ten times as long: about 15 ms.
const CONCAT_NUMBERS_MAX: usize = 100_000;

/// Bytes of a string that are described.
const DESCRIBED_BYTES_MAX: usize = 64 << 10;

/// Functions of Luau's that may take a while. Native code calls functions as well (`table.sort` its comparator, `table.find`
/// an `__eq`, `string.format` a `__tostring`), a million times in a row, and between two calls of native functions there
/// is no safe point: so these are one themselves where nobody else has one.
const MAY_TAKE_LONG: [(&CStr, &[&CStr]); 4] = [
    (c"string", &[c"format", c"lower", c"pack", c"packsize", c"rep", c"reverse", c"sub", c"unpack", c"upper"]),
    (
        c"table",
        &[c"clear", c"clone", c"create", c"find", c"foreach", c"foreachi", c"maxn", c"pack", c"remove", c"unpack"],
    ),
    (c"utf8", &[c"char", c"codepoint", c"len", c"offset"]),
    (c"buffer", &[c"copy", c"create", c"fill", c"fromstring", c"readstring", c"tostring", c"writestring"]),
];

/// The same, of the standard globals.
const GLOBALS_MAY_TAKE_LONG: [&CStr; 4] = [c"next", c"tonumber", c"tostring", c"unpack"];

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
            wrap(l, c"concat", bounded_concat);
            wrap(l, c"move", bounded_move);
            wrap(l, c"sort", bounded_sort);
        });
        for (name, functions) in MAY_TAKE_LONG {
            library(l, name, |l| functions.iter().for_each(|function| wrap(l, function, interruptible)));
        }
        for name in GLOBALS_MAY_TAKE_LONG {
            wrap_global(l, name, interruptible);
        }
        // `pairs` hands out the `next` that it was made with.
        ffi::lua_rawgetfield(l, ffi::LUA_GLOBALSINDEX, c"pairs".as_ptr());
        ffi::lua_rawgetfield(l, ffi::LUA_GLOBALSINDEX, c"next".as_ptr());
        ffi::lua_setupvalue(l, -2, 1);
        ffi::lua_settop(l, -2);
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
        } else {
            library(l, c"os", |l| [c"date", c"time"].iter().for_each(|name| wrap(l, name, interruptible)));
        }
        // Of `debug`, the two functions that only describe.
        ffi::lua_pushcclosurek(l, ffi::luaopen_debug, std::ptr::null(), 0, None);
        ffi::lua_call(l, 0, 1);
        ffi::lua_createtable(l, 0, 2);
        for name in [c"info", c"traceback"] {
            ffi::lua_rawgetfield(l, -2, name.as_ptr());
            ffi::lua_rawsetfield(l, -2, name.as_ptr());
        }
        wrap(l, c"traceback", interruptible);
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

/// Puts a check before a standard global.
fn wrap_global(l: *mut lua_State, name: &'static CStr, check: ffi::lua_CFunction) {
    // SAFETY: as in `wrap`.
    unsafe {
        ffi::lua_rawgetfield(l, ffi::LUA_GLOBALSINDEX, name.as_ptr());
        ffi::lua_pushcclosurek(l, check, name.as_ptr(), 1, None);
        ffi::lua_rawsetfield(l, ffi::LUA_GLOBALSINDEX, name.as_ptr());
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

/// A safe point, then the wrapped function.
unsafe extern "C-unwind" fn interruptible(l: *mut lua_State) -> c_int {
    run::safe_point(l);
    original(l)
}

unsafe extern "C-unwind" fn bounded_search(l: *mut lua_State) -> c_int {
    run::safe_point(l);
    if let (Some(text), Some(pattern)) = (stack::bytes(l, 1), stack::bytes(l, 2))
        && text.len() > SEARCH_BYTES_FREE
    {
        let product = text.len().saturating_mul(pattern.len());
        if pattern.len() > PATTERN_BYTES_FREE && product > SEARCH_PRODUCT_MAX {
            raise(
                l,
                ApiError::too_large(
                    "text and pattern together (bytes of text times bytes of pattern above 20 million)",
                ),
            );
        }
        if product > SET_PRODUCT_MAX && pattern.contains(&b'[') {
            raise(
                l,
                ApiError::too_large(
                    "text and pattern together (bytes of text times bytes of a pattern with a set above 10 million)",
                ),
            );
        }
    }
    original(l)
}

unsafe extern "C-unwind" fn bounded_move(l: *mut lua_State) -> c_int {
    run::safe_point(l);
    if let (Some(from), Some(to)) = (stack::number_or_text(l, 2), stack::number_or_text(l, 3))
        && to - from >= MOVE_MAX
    {
        raise(l, ApiError::too_large("range of table.move (above 1 million)"));
    }
    original(l)
}

unsafe extern "C-unwind" fn bounded_concat(l: *mut lua_State) -> c_int {
    run::safe_point(l);
    let first = stack::number_or_text(l, 3).unwrap_or(1.0);
    let last = stack::number_or_text(l, 4).unwrap_or_else(|| table_len(l, 1) as f64);
    if last - first >= CONCAT_MAX {
        raise(l, ApiError::too_large("range of table.concat (above 1 million elements)"));
    }
    if last - first >= CONCAT_NUMBERS_MAX as f64 && stack::kind(l, 1) == Kind::Table {
        let (first, last) = (first as c_int, last as c_int);
        let numbers = (first..=last).filter(|&position| kind_of_element(l, position) == Kind::Number);
        if numbers.count() > CONCAT_NUMBERS_MAX {
            raise(l, ApiError::too_large("range of table.concat (above 100000 numbers)"));
        }
    }
    original(l)
}

unsafe extern "C-unwind" fn bounded_sort(l: *mut lua_State) -> c_int {
    run::safe_point(l);
    let len = table_len(l, 1);
    if len > SORT_MAX {
        raise(l, ApiError::too_large("table.sort (above 200000 elements)"));
    }
    // SAFETY: any index is allowed.
    let compares_natively = unsafe { ffi::lua_iscfunction(l, 2) } != 0;
    let compares_itself = matches!(stack::kind(l, 2), Kind::None | Kind::Nil);
    // Elements of different types cannot be compared, which shows at once: the first says what all are.
    let first = if compares_itself && len > 0 { kind_of_element(l, 1) } else { Kind::None };
    if len > SORT_NATIVE_MAX && (compares_natively || matches!(first, Kind::Table | Kind::Userdata)) {
        let text = "table.sort (above 20000 elements, with a comparison that is not a Luau function)";
        raise(l, ApiError::too_large(text));
    }
    if first == Kind::String && !sorts_few_bytes(l, len) {
        raise(l, ApiError::too_large("table.sort (more than 200 million bytes of strings to compare)"));
    }
    original(l)
}

/// The length of the table at `index`, without metamethods; 0 if it is none.
fn table_len(l: *mut lua_State, index: c_int) -> usize {
    // SAFETY: raw length of a table.
    if stack::kind(l, index) == Kind::Table { unsafe { ffi::lua_objlen_(l, index) as usize } } else { 0 }
}

/// The type of an element of the table that is argument 1.
fn kind_of_element(l: *mut lua_State, position: c_int) -> Kind {
    // SAFETY: a C function has room for one value more; it is popped again.
    unsafe {
        ffi::lua_rawgeti_(l, 1, position);
        let kind = stack::kind(l, -1);
        ffi::lua_settop(l, -2);
        kind
    }
}

/// Whether the strings in the table that is argument 1 are short enough to be sorted.
fn sorts_few_bytes(l: *mut lua_State, len: usize) -> bool {
    let comparisons = len.ilog2() as usize + 1;
    let mut left = SORT_BYTES_MAX / comparisons;
    for position in 1..=len as c_int {
        // SAFETY: as in `kind_of_element`.
        let bytes = unsafe {
            ffi::lua_rawgeti_(l, 1, position);
            let bytes = stack::bytes(l, -1).map_or(0, <[u8]>::len);
            ffi::lua_settop(l, -2);
            bytes
        };
        match left.checked_sub(bytes) {
            Some(rest) => left = rest,
            None => return false,
        }
    }
    true
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
    run::safe_point(l);
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

/// A value as text for people, a long string cut off, without running metamethods.
pub(crate) fn describe(call: &Call, index: c_int) -> String {
    let l = call.state();
    match call.kind(index) {
        Kind::Nil | Kind::None => "nil".into(),
        Kind::Boolean => call.flag(index, "value").unwrap_or_default().to_string(),
        Kind::Number | Kind::Integer64 => format_number(stack::number(l, index).unwrap_or_default()),
        Kind::String => {
            let bytes = stack::bytes(l, index).unwrap_or_default();
            String::from_utf8_lossy(&bytes[..bytes.len().min(DESCRIBED_BYTES_MAX)]).into_owned()
        }
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
