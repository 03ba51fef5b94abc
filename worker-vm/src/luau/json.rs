//! JSON text to Luau tables: the largest part of an event's cost.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::ffi::c_int;

use sonic_rs::{JsonNumberTrait, JsonValueTrait, ValueRef};

use super::{ffi, lua_State};
use crate::error::ApiError;
use crate::runtime::vm::Vm;

/// Parsed JSON: its sizes are known, so that tables are made at their size.
#[derive(Debug)]
pub(crate) struct Json(sonic_rs::Value);

/// Why a text is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JsonError {
    /// Tables in tables.
    #[error("more than {DEPTH_MAX} levels")]
    TooDeep,
    /// It is not JSON.
    #[error(transparent)]
    Syntax(sonic_rs::Error),
}

/// Levels of nesting that an event may have; Discord's deepest payloads have about ten.
pub(crate) const DEPTH_MAX: usize = 100;

impl Json {
    /// Parses text that came from outside.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, JsonError> {
        Self::check_depth(text)?;
        sonic_rs::from_slice(text).map(Self).map_err(JsonError::Syntax)
    }

    /// The parser has no limit of its own for depth, and would use up the stack.
    pub(crate) fn check_depth(text: &[u8]) -> Result<(), JsonError> {
        // The two brackets differ in one bit. Counting them takes a tenth of a microsecond; telling where strings are, ten
        // times as long.
        let brackets = text.iter().filter(|&&byte| byte | 0x20 == b'{').count();
        if brackets > DEPTH_MAX && depth(text) > DEPTH_MAX {
            return Err(JsonError::TooDeep);
        }
        Ok(())
    }

    /// Pushes the value as tables: arrays carry the list metatable, null is an absent field. `names` pushes the names of
    /// fields. May raise.
    pub(crate) fn push(&self, l: *mut lua_State, array_metatable: c_int, names: &mut impl Names) {
        // SAFETY: room is checked here and at each level.
        unsafe {
            ffi::lua_rawcheckstack(l, 5);
            push(l, &self.0, array_metatable, names, 0);
        }
    }
}

/// The deepest level of JSON, as far as it is JSON.
pub(crate) fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut bytes) = (0_usize, 0, json.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => loop {
                match bytes.next() {
                    Some(b'\\') => drop(bytes.next()),
                    Some(b'"') | None => break,
                    Some(_) => {}
                }
            },
            _ => {}
        }
    }
    deepest
}

/// Who pushes the names of fields.
pub(crate) trait Names {
    /// Pushes a name. May raise.
    ///
    /// # Safety
    /// There is room for two values.
    unsafe fn push(&mut self, l: *mut lua_State, name: &str);
}

/// Pushes each name as a string of its own.
pub(crate) struct PlainNames;

impl Names for PlainNames {
    unsafe fn push(&mut self, l: *mut lua_State, name: &str) {
        // SAFETY: as the caller promises.
        unsafe { ffi::lua_pushlstring_(l, name.as_ptr().cast(), name.len()) }
    }
}

/// # Safety
/// There is room for five values on the stack.
unsafe fn push(
    l: *mut lua_State,
    value: &sonic_rs::Value,
    array_metatable: c_int,
    names: &mut impl Names,
    depth: usize,
) {
    // SAFETY: each branch pushes exactly one value; tables check for room for their children, which need a key and a
    // value above the table; lengths fit since JSON texts are far below 2 GiB.
    unsafe {
        match value.as_ref() {
            ValueRef::Null => ffi::lua_pushnil(l),
            ValueRef::Bool(value) => ffi::lua_pushboolean(l, value.into()),
            ValueRef::Number(number) => ffi::lua_pushnumber(l, number.as_f64().unwrap_or(f64::NAN)),
            ValueRef::String(text) => ffi::lua_pushlstring_(l, text.as_ptr().cast(), text.len()),
            ValueRef::Array(items) => {
                let items = items.as_slice();
                check_depth(l, depth);
                ffi::lua_createtable(l, items.len() as c_int, 0);
                ffi::lua_rawcheckstack(l, 5);
                for (index, item) in items.iter().enumerate() {
                    if !item.is_null() {
                        push(l, item, array_metatable, names, depth + 1);
                        ffi::lua_rawseti_(l, -2, index as c_int + 1);
                    }
                }
                ffi::lua_rawgeti_(l, ffi::LUA_REGISTRYINDEX, array_metatable);
                ffi::lua_setmetatable(l, -2);
            }
            ValueRef::Object(fields) => {
                check_depth(l, depth);
                ffi::lua_createtable(l, 0, fields.len() as c_int);
                ffi::lua_rawcheckstack(l, 5);
                for (name, field) in fields {
                    if !field.is_null() {
                        names.push(l, name);
                        push(l, field, array_metatable, names, depth + 1);
                        ffi::lua_rawset(l, -3);
                    }
                }
            }
        }
    }
}

/// Raises for a table too deep in others.
fn check_depth(l: *mut lua_State, depth: usize) {
    if depth >= DEPTH_MAX {
        super::native::raise(l, ApiError::too_large("depth"));
    }
}

/// Gives the table on top the metatable that marks it as a list. May raise.
pub(crate) fn set_array_metatable(l: *mut lua_State) {
    // SAFETY: one slot; the reference is the VM's own.
    unsafe {
        ffi::lua_rawgeti_(l, ffi::LUA_REGISTRYINDEX, Vm::current().array_metatable());
        ffi::lua_setmetatable(l, -2);
    }
}

#[cfg(test)]
mod tests {
    use super::depth;

    #[test]
    fn levels_of_json() {
        for (json, levels) in [
            ("", 0),
            ("1", 0),
            ("[]", 1),
            ("[[],{}]", 2),
            (r#"{"a":[{"b":1}]}"#, 3),
            (r#"["[[[", "\"[[", "\\"]"#, 1),
            (r#"["\\",["\\\"["]]"#, 2),
            ("]]]][", 1),
            (r#"["unfinished [["#, 1),
            ("[\"\\", 1),
        ] {
            assert_eq!(depth(json.as_bytes()), levels, "{json}");
        }
    }
}
