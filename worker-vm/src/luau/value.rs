//! Conversion between Lua values and [`Value`]s (template API, section 15).

#![expect(unsafe_code, reason = "Luau's C API")]

use std::collections::BTreeMap;
use std::ffi::c_int;

use bytes::Bytes;
use worker_core::{Value, ValueError};

use super::class::{Class, Object};
use super::stack::{self, Kind, Push};
use super::{ffi, lua_State};
use crate::error::ApiError;
use crate::modules::blob::Blob;
use crate::modules::datetime::{DateTime, TimeDelta, TimeZone};
use crate::modules::lazy::Lazy;
use crate::modules::typesext::{I64, U64};
use crate::runtime::vm::Vm;
use crate::runtime::watchdog;

/// The largest whole number that a Luau number holds exactly, with all below it.
const SAFE_INTEGER_MAX: i64 = (1 << 53) - 1;

/// What a copy may still cost. One string or table can be in another a million times, and that one in a third: what Luau
/// holds says little of how large the copy gets.
struct Budget {
    bytes: usize,
    deadline: u64,
    tables: usize,
}

impl Budget {
    /// A value, and its place in a list or a map.
    const NODE_BYTES: usize = size_of::<Value>() + size_of::<String>();

    /// What is copied in a few microseconds.
    const SMALL_BYTES: usize = 8 << 10;

    /// How long a conversion may take: a table of nothing but holes costs time and no memory.
    const NANOS_MAX: u64 = 50_000_000;

    /// As much as the tenant's memory limit.
    fn of_tenant() -> Self {
        Self { bytes: Vm::current().memory().limit(), deadline: watchdog::now() + Self::NANOS_MAX, tables: 0 }
    }

    /// How long a conversion took that was a large one; nobody needs to know of a small one.
    fn nanos_if_large(&self) -> u64 {
        if self.tables <= 2 && self.bytes + Self::SMALL_BYTES > Vm::current().memory().limit() {
            return 0;
        }
        (watchdog::now() + Self::NANOS_MAX).saturating_sub(self.deadline)
    }

    /// Whether there is time left for another table.
    fn check_time(&mut self) -> Result<(), ApiError> {
        self.tables += 1;
        if watchdog::now() < self.deadline {
            return Ok(());
        }
        Err(ApiError::too_large("value (its conversion takes longer than 50 ms)"))
    }

    fn take(&mut self, bytes: usize) -> Result<(), ApiError> {
        let left = self.bytes.checked_sub(bytes);
        self.bytes = left.ok_or_else(|| ApiError::too_large("value (its copy is above the tenant's memory limit)"))?;
        Ok(())
    }
}

/// Reads the value at `idx`. Raises nothing.
pub(crate) fn read(l: *mut lua_State, idx: c_int) -> Result<Value, ApiError> {
    // SAFETY: an absolute index stays valid while values are pushed above it.
    let idx = unsafe { ffi::lua_absindex(l, idx) };
    read_at(l, idx, 1, &mut Budget::of_tenant())
}

/// Reads `count` values from `first` on as a result: none is Null, one is itself, several are a List. With how many
/// nanoseconds that took, if it was much.
pub(crate) fn read_results(l: *mut lua_State, first: c_int, count: c_int) -> (Result<Value, ApiError>, u64) {
    let mut budget = Budget::of_tenant();
    let result = match count {
        0 => Ok(Value::Null),
        1 => read_at(l, first, 1, &mut budget),
        _ => read_at_depth(l, first, count, 2, &mut budget).map(Value::List),
    };
    (result, budget.nanos_if_large())
}

/// Reads `count` values from `first` on.
pub(crate) fn read_all(l: *mut lua_State, first: c_int, count: c_int) -> Result<Vec<Value>, ApiError> {
    read_at_depth(l, first, count, 1, &mut Budget::of_tenant())
}

fn read_at_depth(
    l: *mut lua_State,
    first: c_int,
    count: c_int,
    depth: usize,
    budget: &mut Budget,
) -> Result<Vec<Value>, ApiError> {
    (first..first + count).map(|idx| read_at(l, idx, depth, budget)).collect()
}

fn read_at(l: *mut lua_State, idx: c_int, depth: usize, budget: &mut Budget) -> Result<Value, ApiError> {
    budget.take(Budget::NODE_BYTES)?;
    Ok(match stack::kind(l, idx) {
        Kind::None | Kind::Nil => Value::Null,
        // SAFETY: it is a boolean.
        Kind::Boolean => Value::Boolean(unsafe { ffi::lua_toboolean(l, idx) } != 0),
        Kind::Number => number(stack::number(l, idx).unwrap_or_default())?,
        // SAFETY: it is a 64-bit integer.
        Kind::Integer64 => Value::Integer(unsafe { ffi::lua_tointeger64(l, idx, std::ptr::null_mut()) }),
        // SAFETY: it is a vector of three floats.
        Kind::Vector => Value::Vector(unsafe { *ffi::lua_tovector(l, idx).cast::<[f32; 3]>() }),
        Kind::String => {
            let bytes = stack::bytes(l, idx).unwrap_or_default();
            budget.take(bytes.len())?;
            text(bytes)
        }
        Kind::Buffer => {
            let bytes = stack::buffer(l, idx).unwrap_or_default();
            budget.take(bytes.len())?;
            Value::Buffer(Bytes::copy_from_slice(bytes))
        }
        Kind::Table => table(l, idx, depth, budget)?,
        // The only light userdata that templates can hold is `interop.null`.
        Kind::LightUserdata => Value::Null,
        Kind::Userdata => object(l, idx, depth, budget)?,
        kind @ (Kind::Function | Kind::Thread) => return Err(ValueError::Unconvertible(kind.name().into()).into()),
    })
}

/// About how much memory a value holds.
pub(crate) fn bytes(value: &Value) -> usize {
    let inside = match value {
        Value::Text(text) | Value::TimeZone(text) => text.len(),
        Value::Bytes(data) | Value::Buffer(data) => data.len(),
        Value::List(items) => items.iter().map(bytes).sum(),
        Value::Map(fields) => fields.iter().map(|(name, value)| size_of::<String>() + name.len() + bytes(value)).sum(),
        Value::Lazy(inner) => bytes(inner),
        _ => 0,
    };
    size_of::<Value>() + inside
}

fn number(number: f64) -> Result<Value, ValueError> {
    if !number.is_finite() {
        return Err(ValueError::NotFinite);
    }
    // 2^63 itself is not an i64; every double below it that is whole is one.
    if number.fract() == 0.0 && (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&number) {
        Ok(Value::Integer(number as i64))
    } else {
        Ok(Value::Float(number))
    }
}

fn text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::Text(text.to_owned()),
        Err(_) => Value::Bytes(Bytes::copy_from_slice(bytes)),
    }
}

fn object(l: *mut lua_State, idx: c_int, depth: usize, budget: &mut Budget) -> Result<Value, ApiError> {
    // SAFETY: it is a userdata.
    let tag = unsafe { ffi::lua_userdatatag(l, idx) };
    let value = match tag {
        DateTime::TAG => DateTime::read(l, idx).map(|time| Value::Timestamptz(time.timestamp())),
        TimeDelta::TAG => TimeDelta::read(l, idx).map(|delta| Value::Interval(delta.duration())),
        TimeZone::TAG => TimeZone::read(l, idx).map(|zone| Value::TimeZone(zone.name().to_owned())),
        I64::TAG => I64::read(l, idx).map(|integer| Value::Integer(integer.0)),
        U64::TAG => U64::read(l, idx).map(|integer| Value::UnsignedInteger(integer.0)),
        Blob::TAG => return blob(l, idx, budget),
        Lazy::TAG => return lazy(l, idx, depth, budget).map(|value| Value::Lazy(Box::new(value))),
        _ => None,
    };
    value.ok_or_else(|| ValueError::Unconvertible("userdata".into()).into())
}

/// What a Blob holds, shared with it.
fn blob(l: *mut lua_State, idx: c_int, budget: &mut Budget) -> Result<Value, ApiError> {
    let content = Blob::read(l, idx).and_then(Blob::content);
    let bytes = content.map(|content| content.bytes().clone()).unwrap_or_default();
    budget.take(bytes.len())?;
    Ok(Value::Buffer(bytes))
}

/// What a Lazy holds: the Lua value, which a script may have changed, once it was read, else what it was made with.
fn lazy(l: *mut lua_State, idx: c_int, depth: usize, budget: &mut Budget) -> Result<Value, ApiError> {
    if let Some(converted) = Lazy::read_converted(l, idx, |l, idx| read_at(l, idx, depth, budget)) {
        return converted;
    }
    let Some(lazy) = Lazy::read(l, idx) else { return Ok(Value::Null) };
    budget.take(lazy.bytes())?;
    Ok(lazy.value())
}

fn table(l: *mut lua_State, idx: c_int, depth: usize, budget: &mut Budget) -> Result<Value, ApiError> {
    if depth > Value::DEPTH_MAX {
        return Err(ValueError::TooDeep(Value::DEPTH_MAX).into());
    }
    budget.check_time()?;
    // SAFETY: room for a key and a value above this table is checked; every push is popped again. `lua_rawiter` and
    // `lua_objlen` read raw and allocate nothing.
    unsafe {
        if ffi::lua_checkstack(l, 4) == 0 {
            return Err(ValueError::TooDeep(Value::DEPTH_MAX).into());
        }
        let len = ffi::lua_objlen_(l, idx);
        if len > 0 || is_marked_list(l, idx) {
            let mut items = Vec::with_capacity((len as usize).min(1_024));
            let mut keys = 0;
            for index in 1..=len {
                ffi::lua_rawgeti_(l, idx, index);
                let top = ffi::lua_gettop(l);
                let item = read_at(l, top, depth + 1, budget);
                keys += c_int::from(stack::kind(l, top) != Kind::Nil);
                ffi::lua_settop(l, top - 1);
                items.push(item?);
            }
            if count_keys(l, idx, keys + 1) > keys {
                return Err(ValueError::MixedTable.into());
            }
            return Ok(Value::List(items));
        }
        let mut map = BTreeMap::new();
        let mut iter = 0;
        loop {
            iter = ffi::lua_rawiter(l, idx, iter);
            if iter < 0 {
                return Ok(Value::Map(map));
            }
            let top = ffi::lua_gettop(l);
            let entry = key(l, top - 1, budget).and_then(|key| Ok((key, read_at(l, top, depth + 1, budget)?)));
            ffi::lua_settop(l, top - 2);
            let (key, value) = entry?;
            map.insert(key, value);
        }
    }
}

/// How many keys the table has, or `enough`.
///
/// # Safety
/// `idx` is a table and there is room for two values.
pub(super) unsafe fn count_keys(l: *mut lua_State, idx: c_int, enough: c_int) -> c_int {
    let (mut iter, mut count) = (0, 0);
    while count < enough {
        // SAFETY: as the caller promises; both values are popped.
        unsafe {
            iter = ffi::lua_rawiter(l, idx, iter);
            if iter < 0 {
                break;
            }
            ffi::lua_settop(l, -3);
        }
        count += 1;
    }
    count
}

/// Whether the table carries the list metatable.
///
/// # Safety
/// `idx` is a table and there is room for one value.
pub(super) unsafe fn is_marked_list(l: *mut lua_State, idx: c_int) -> bool {
    // SAFETY: as the caller promises; the metatable is popped.
    unsafe {
        if ffi::lua_getmetatable(l, idx) == 0 {
            return false;
        }
        let marked = ffi::lua_topointer(l, -1) == Vm::current().array_metatable_pointer();
        ffi::lua_settop(l, -2);
        marked
    }
}

fn key(l: *mut lua_State, idx: c_int, budget: &mut Budget) -> Result<String, ApiError> {
    match stack::kind(l, idx) {
        Kind::String => {
            let bytes = stack::bytes(l, idx).unwrap_or_default();
            budget.take(bytes.len())?;
            let key = std::str::from_utf8(bytes).map_err(|_| ValueError::BadKey("string that is not UTF-8"))?;
            if key == Value::TAG_KEY {
                return Err(ValueError::ReservedKey.into());
            }
            Ok(key.to_owned())
        }
        Kind::Number => match number(stack::number(l, idx).unwrap_or_default())? {
            Value::Integer(integer) => Ok(integer.to_string()),
            Value::Float(float) => Ok(float.to_string()),
            _ => Err(ValueError::NotFinite.into()),
        },
        other => Err(ValueError::BadKey(other.name()).into()),
    }
}

impl Push for &Value {
    fn push(self, l: *mut lua_State) -> c_int {
        // SAFETY: room for the value, and for a key and a value above it, is made at every level; counts fit since a
        // value is bounded far below 2^31 entries.
        unsafe {
            ffi::lua_rawcheckstack(l, 4);
            match self {
                Value::Null => ffi::lua_pushnil(l),
                Value::Boolean(value) => ffi::lua_pushboolean(l, (*value).into()),
                Value::Integer(value) if value.abs_diff(0) <= SAFE_INTEGER_MAX as u64 => {
                    ffi::lua_pushnumber(l, *value as f64);
                }
                Value::Integer(value) => return Object(I64(*value)).push(l),
                Value::UnsignedInteger(value) => return Object(U64(*value)).push(l),
                Value::Float(value) => ffi::lua_pushnumber(l, *value),
                Value::Text(text) => stack::push_bytes(l, text.as_bytes()),
                Value::Bytes(bytes) => stack::push_bytes(l, bytes),
                Value::Buffer(bytes) => stack::push_buffer(l, bytes),
                Value::Vector([x, y, z]) => ffi::lua_pushvector(l, *x, *y, *z),
                Value::List(items) => {
                    ffi::lua_createtable(l, items.len() as c_int, 0);
                    for (index, item) in items.iter().enumerate() {
                        if *item != Value::Null {
                            item.push(l);
                            ffi::lua_rawseti_(l, -2, index as c_int + 1);
                        }
                    }
                    super::json::set_array_metatable(l);
                }
                Value::Map(fields) => {
                    ffi::lua_createtable(l, 0, fields.len() as c_int);
                    for (name, value) in fields {
                        if *value != Value::Null {
                            stack::push_bytes(l, name.as_bytes());
                            value.push(l);
                            ffi::lua_rawset(l, -3);
                        }
                    }
                }
                Value::Lazy(value) => return Lazy::new((**value).clone()).push(l),
                Value::Timestamptz(time) => return Object(DateTime::utc(*time)).push(l),
                Value::Interval(duration) => return Object(TimeDelta::new(*duration)).push(l),
                Value::TimeZone(name) => match TimeZone::named(name) {
                    Some(zone) => return Object(zone).push(l),
                    // A zone that this program's database no longer has.
                    None => stack::push_bytes(l, name.as_bytes()),
                },
            }
        }
        1
    }
}

impl Push for Value {
    fn push(self, l: *mut lua_State) -> c_int {
        (&self).push(l)
    }
}
