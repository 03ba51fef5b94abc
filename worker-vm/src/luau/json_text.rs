//! Luau values to JSON text, without anything in between.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::borrow::Cow;
use std::ffi::c_int;

use worker_core::ValueError;

use super::stack::{self, Kind};
use super::{ffi, lua_State, value};
use crate::error::ApiError;
use crate::runtime::watchdog;

/// How text is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    Compact,
    /// A line an item, two spaces a level.
    Pretty,
}

/// Levels of nesting, as many as are read.
const DEPTH_MAX: usize = super::json::DEPTH_MAX;

/// How long writing may take: a table of nothing but holes costs time and no memory.
const NANOS_MAX: u64 = 50_000_000;

/// Writes the value at `idx` by the rules of the template API, section 15.1, as [`worker_core::Untyped`] does: names in
/// order, no tags. Raises nothing.
pub(crate) fn write(l: *mut lua_State, idx: c_int, layout: Layout, bytes_max: usize) -> Result<Vec<u8>, ApiError> {
    let mut writer =
        Writer { out: Vec::new(), layout, bytes_max, deadline: watchdog::now() + NANOS_MAX, names: Vec::new() };
    // SAFETY: an absolute index stays valid while values are pushed above it.
    let idx = unsafe { ffi::lua_absindex(l, idx) };
    writer.value(l, idx, 0)?;
    writer.check()?;
    Ok(writer.out)
}

struct Writer {
    out: Vec<u8>,
    layout: Layout,
    bytes_max: usize,
    deadline: u64,
    /// Names of the maps that are being written, the innermost last, with the iterator's place before each. Strings are
    /// those of the tables, which nothing writes to meanwhile: no code of Luau's runs, and nothing is allocated there.
    names: Vec<(Cow<'static, str>, c_int)>,
}

impl Writer {
    fn check(&self) -> Result<(), ApiError> {
        if self.out.len() > self.bytes_max {
            return Err(self.too_large());
        }
        Ok(())
    }

    fn too_large(&self) -> ApiError {
        ApiError::too_large(format_args!("value (its text has more than {} bytes)", self.bytes_max))
    }

    fn enter(&self, depth: usize) -> Result<(), ApiError> {
        if depth >= DEPTH_MAX {
            return Err(ValueError::TooDeep(DEPTH_MAX).into());
        }
        if watchdog::now() > self.deadline {
            return Err(ApiError::too_large("value (writing it takes longer than 50 ms)"));
        }
        self.check()
    }

    fn value(&mut self, l: *mut lua_State, idx: c_int, depth: usize) -> Result<(), ApiError> {
        match stack::kind(l, idx) {
            Kind::Nil | Kind::None | Kind::LightUserdata => self.out.extend_from_slice(b"null"),
            Kind::Boolean => {
                // SAFETY: it is a boolean.
                let value = unsafe { ffi::lua_toboolean(l, idx) } != 0;
                self.out.extend_from_slice(if value { b"true" } else { b"false" });
            }
            Kind::Number => self.number(stack::number(l, idx).unwrap_or_default())?,
            Kind::String => match std::str::from_utf8(stack::bytes(l, idx).unwrap_or_default()) {
                Ok(text) => self.text(text)?,
                Err(_) => return Err(ApiError::invalid_value("a string that is not UTF-8")),
            },
            Kind::Table => self.table(l, idx, depth)?,
            // Few and far between: by way of a value.
            _ => {
                let text = value::read(l, idx)?.to_json_untyped()?;
                self.out.extend_from_slice(text.as_bytes());
            }
        }
        Ok(())
    }

    fn number(&mut self, number: f64) -> Result<(), ApiError> {
        if !number.is_finite() {
            return Err(ValueError::NotFinite.into());
        }
        let whole = number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0;
        let written = if whole {
            serde_json::to_writer(&mut self.out, &(number as i64))
        } else {
            serde_json::to_writer(&mut self.out, &number)
        };
        written.map_err(|error| ApiError::internal(&error))
    }

    fn text(&mut self, text: &str) -> Result<(), ApiError> {
        if self.out.len() + text.len() > self.bytes_max {
            return Err(self.too_large());
        }
        serde_json::to_writer(&mut self.out, text).map_err(|error| ApiError::internal(&error))
    }

    fn table(&mut self, l: *mut lua_State, idx: c_int, depth: usize) -> Result<(), ApiError> {
        self.enter(depth)?;
        // SAFETY: room for a key and a value above this table is checked; every push is popped again. `lua_rawiter` and
        // `lua_objlen` read raw and allocate nothing.
        unsafe {
            if ffi::lua_checkstack(l, 4) == 0 {
                return Err(ValueError::TooDeep(DEPTH_MAX).into());
            }
            let len = ffi::lua_objlen_(l, idx);
            if len > 0 || value::is_marked_list(l, idx) {
                self.list(l, idx, len, depth)
            } else {
                self.map(l, idx, depth)
            }
        }
    }

    /// # Safety
    /// `idx` is a table and there is room for four values.
    unsafe fn list(&mut self, l: *mut lua_State, idx: c_int, len: c_int, depth: usize) -> Result<(), ApiError> {
        let mut keys = 0;
        self.out.push(b'[');
        for index in 1..=len {
            self.item(index == 1, depth + 1);
            // SAFETY: as the caller promises; the value is popped.
            let written = unsafe {
                ffi::lua_rawgeti_(l, idx, index);
                let top = ffi::lua_gettop(l);
                keys += c_int::from(stack::kind(l, top) != Kind::Nil);
                let written = self.value(l, top, depth + 1);
                ffi::lua_settop(l, top - 1);
                written
            };
            written?;
            if index % 1_024 == 0 {
                self.enter(depth)?;
            }
        }
        self.close(b']', len == 0, depth);
        // SAFETY: as the caller promises.
        if unsafe { value::count_keys(l, idx, keys + 1) } > keys {
            return Err(ValueError::MixedTable.into());
        }
        Ok(())
    }

    /// # Safety
    /// `idx` is a table and there is room for four values.
    unsafe fn map(&mut self, l: *mut lua_State, idx: c_int, depth: usize) -> Result<(), ApiError> {
        let first = self.names.len();
        let mut iter = 0;
        loop {
            let before = iter;
            // SAFETY: as the caller promises; key and value are popped.
            let name = unsafe {
                iter = ffi::lua_rawiter(l, idx, iter);
                if iter < 0 {
                    break;
                }
                let name = name(l, ffi::lua_gettop(l) - 1);
                ffi::lua_settop(l, -3);
                name?
            };
            if self.names.len() % 1_024 == 1_023 {
                self.enter(depth)?;
            }
            self.names.push((name, before));
        }
        self.names[first..].sort_unstable();
        self.out.push(b'{');
        let count = self.names.len() - first;
        for index in 0..count {
            self.item(index == 0, depth + 1);
            let (name, before) = std::mem::take(&mut self.names[first + index]);
            self.text(&name)?;
            self.out.extend_from_slice(if self.layout == Layout::Pretty { b": " } else { b":" });
            // SAFETY: as the caller promises; the table was not written to since the iterator was there; key and value
            // are popped.
            let written = unsafe {
                ffi::lua_rawiter(l, idx, before);
                let top = ffi::lua_gettop(l);
                let written = self.value(l, top, depth + 1);
                ffi::lua_settop(l, top - 2);
                written
            };
            written?;
        }
        self.names.truncate(first);
        self.close(b'}', count == 0, depth);
        Ok(())
    }

    fn item(&mut self, is_first: bool, depth: usize) {
        if !is_first {
            self.out.push(b',');
        }
        self.new_line(depth);
    }

    fn close(&mut self, end: u8, is_empty: bool, depth: usize) {
        if !is_empty {
            self.new_line(depth);
        }
        self.out.push(end);
    }

    fn new_line(&mut self, depth: usize) {
        if self.layout == Layout::Pretty {
            self.out.push(b'\n');
            self.out.resize(self.out.len() + 2 * depth, b' ');
        }
    }
}

/// The name of a field, of the key at `idx`.
///
/// # Safety
/// The key stays in its table, and the table in the Luau heap, for as long as the name is used.
unsafe fn name(l: *mut lua_State, idx: c_int) -> Result<Cow<'static, str>, ApiError> {
    match stack::kind(l, idx) {
        Kind::String => {
            let bytes: *const [u8] = stack::bytes(l, idx).unwrap_or_default();
            // SAFETY: strings do not move, and this one stays, as the caller promises.
            std::str::from_utf8(unsafe { &*bytes })
                .map(Cow::Borrowed)
                .map_err(|_| ValueError::BadKey("string that is not UTF-8").into())
        }
        Kind::Number => {
            let number = stack::number(l, idx).unwrap_or_default();
            if number.is_finite() { Ok(Cow::Owned(number.to_string())) } else { Err(ValueError::NotFinite.into()) }
        }
        other => Err(ValueError::BadKey(other.name()).into()),
    }
}
