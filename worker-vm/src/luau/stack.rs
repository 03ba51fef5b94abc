//! Reading from and writing to the Lua stack.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::ffi::{CStr, c_int};

use super::{ffi, lua_State};

/// The type of a Lua value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    None,
    Nil,
    Boolean,
    LightUserdata,
    Number,
    Integer64,
    Vector,
    String,
    Table,
    Function,
    Userdata,
    Thread,
    Buffer,
}

impl Kind {
    /// The word of Luau's `type`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "no value",
            Self::Nil => "nil",
            Self::Boolean => "boolean",
            Self::LightUserdata | Self::Userdata => "userdata",
            Self::Number => "number",
            Self::Integer64 => "integer",
            Self::Vector => "vector",
            Self::String => "string",
            Self::Table => "table",
            Self::Function => "function",
            Self::Thread => "thread",
            Self::Buffer => "buffer",
        }
    }
}

/// The type of the value at `idx`.
pub(crate) fn kind(l: *mut lua_State, idx: c_int) -> Kind {
    // SAFETY: any index is allowed; `l` is a live state as everywhere in this module.
    match unsafe { ffi::lua_type(l, idx) } {
        ffi::LUA_TNIL => Kind::Nil,
        ffi::LUA_TBOOLEAN => Kind::Boolean,
        ffi::LUA_TLIGHTUSERDATA => Kind::LightUserdata,
        ffi::LUA_TNUMBER => Kind::Number,
        ffi::LUA_TINTEGER => Kind::Integer64,
        ffi::LUA_TVECTOR => Kind::Vector,
        ffi::LUA_TSTRING => Kind::String,
        ffi::LUA_TTABLE => Kind::Table,
        ffi::LUA_TFUNCTION => Kind::Function,
        ffi::LUA_TUSERDATA => Kind::Userdata,
        ffi::LUA_TTHREAD => Kind::Thread,
        ffi::LUA_TBUFFER => Kind::Buffer,
        _ => Kind::None,
    }
}

/// The bytes of the string at `idx`, if it is one (a number is not turned into one: that would write to the stack).
pub(crate) fn bytes<'a>(l: *mut lua_State, idx: c_int) -> Option<&'a [u8]> {
    if kind(l, idx) != Kind::String {
        return None;
    }
    let mut len = 0;
    // SAFETY: it is a string, so nothing is converted or allocated. The bytes live as long as the value stays reachable;
    // callers use them before they give control back to Lua.
    unsafe {
        let data = ffi::lua_tolstring(l, idx, &raw mut len);
        Some(std::slice::from_raw_parts(data.cast(), len))
    }
}

/// The bytes of the buffer at `idx`, if it is one.
pub(crate) fn buffer<'a>(l: *mut lua_State, idx: c_int) -> Option<&'a [u8]> {
    let mut len = 0;
    // SAFETY: as in `bytes`; a zero-length buffer may have no data pointer to make a slice from.
    unsafe {
        let data = ffi::lua_tobuffer(l, idx, &raw mut len);
        if data.is_null() {
            return (kind(l, idx) == Kind::Buffer).then_some(&[]);
        }
        Some(std::slice::from_raw_parts(data.cast(), len))
    }
}

/// The number at `idx`, if it is one.
pub(crate) fn number(l: *mut lua_State, idx: c_int) -> Option<f64> {
    match kind(l, idx) {
        // SAFETY: it is a number.
        Kind::Number => Some(unsafe { ffi::lua_tonumberx(l, idx, std::ptr::null_mut()) }),
        // SAFETY: it is a 64-bit integer.
        Kind::Integer64 => Some(unsafe { ffi::lua_tointeger64(l, idx, std::ptr::null_mut()) } as f64),
        _ => None,
    }
}

/// The number at `idx`, also if it is a string that Luau reads as one.
pub(crate) fn number_or_text(l: *mut lua_State, idx: c_int) -> Option<f64> {
    if kind(l, idx) != Kind::String {
        return number(l, idx);
    }
    let mut is_number = 0;
    // SAFETY: any index is allowed; the string stays what it is.
    let number = unsafe { ffi::lua_tonumberx(l, idx, &raw mut is_number) };
    (is_number != 0).then_some(number)
}

/// Pushes a string. May raise.
pub(crate) fn push_bytes(l: *mut lua_State, bytes: &[u8]) {
    // SAFETY: pointer and length are of one slice.
    unsafe { ffi::lua_pushlstring_(l, bytes.as_ptr().cast(), bytes.len()) }
}

/// Pushes a buffer with these bytes. May raise.
pub(crate) fn push_buffer(l: *mut lua_State, bytes: &[u8]) {
    // SAFETY: the new buffer has room for exactly these bytes.
    unsafe {
        let data = ffi::lua_newbuffer(l, bytes.len());
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), data.cast(), bytes.len());
    }
}

/// Sets `table[name]` to the value on top and pops it; `table` is at `idx`. May raise.
pub(crate) fn set_field(l: *mut lua_State, idx: c_int, name: &CStr) {
    // SAFETY: `name` ends with NUL; the value is on top.
    unsafe { ffi::lua_rawsetfield(l, idx, name.as_ptr()) }
}

/// What can be pushed onto the Lua stack. Pushing may raise (out of memory), so it happens in protected calls only.
pub(crate) trait Push {
    /// Pushes the value, or the values, and says how many.
    fn push(self, l: *mut lua_State) -> c_int;
}

impl Push for () {
    fn push(self, _: *mut lua_State) -> c_int {
        0
    }
}

/// `nil`, as a value (and not the absence of one).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nil;

impl Push for Nil {
    fn push(self, l: *mut lua_State) -> c_int {
        // SAFETY: C functions have room for LUA_MINSTACK values; larger pushes check the stack.
        unsafe { ffi::lua_pushnil(l) };
        1
    }
}

impl Push for bool {
    fn push(self, l: *mut lua_State) -> c_int {
        // SAFETY: as for Nil.
        unsafe { ffi::lua_pushboolean(l, self.into()) };
        1
    }
}

impl Push for f64 {
    fn push(self, l: *mut lua_State) -> c_int {
        // SAFETY: as for Nil.
        unsafe { ffi::lua_pushnumber(l, self) };
        1
    }
}

impl Push for u32 {
    fn push(self, l: *mut lua_State) -> c_int {
        f64::from(self).push(l)
    }
}

impl Push for &str {
    fn push(self, l: *mut lua_State) -> c_int {
        push_bytes(l, self.as_bytes());
        1
    }
}

/// Pushes as a string of any bytes.
pub(crate) struct Text(pub(crate) Vec<u8>);

impl Push for Text {
    fn push(self, l: *mut lua_State) -> c_int {
        push_bytes(l, &self.0);
        1
    }
}

impl Push for String {
    fn push(self, l: *mut lua_State) -> c_int {
        self.as_str().push(l)
    }
}

impl Push for std::sync::Arc<str> {
    fn push(self, l: *mut lua_State) -> c_int {
        (&*self).push(l)
    }
}

impl<T: Push> Push for Option<T> {
    fn push(self, l: *mut lua_State) -> c_int {
        match self {
            Some(value) => value.push(l),
            None => Nil.push(l),
        }
    }
}

impl<A: Push, B: Push> Push for (A, B) {
    fn push(self, l: *mut lua_State) -> c_int {
        self.0.push(l) + self.1.push(l)
    }
}

/// Pushes as a table 1..n that carries the list metatable (`interop.array_metatable`).
#[derive(Clone, Debug)]
pub(crate) struct List<T>(pub(crate) Vec<T>);

impl<T: Push> Push for List<T> {
    fn push(self, l: *mut lua_State) -> c_int {
        // SAFETY: room for the table and one element is checked; a raised error unwinds through here and drops `self`.
        unsafe {
            ffi::lua_rawcheckstack(l, 3);
            ffi::lua_createtable(l, c_int::try_from(self.0.len()).unwrap_or(0), 0);
            for (index, item) in self.0.into_iter().enumerate() {
                item.push(l);
                ffi::lua_rawseti_(l, -2, index as c_int + 1);
            }
        }
        super::json::set_array_metatable(l);
        1
    }
}

/// Pushes texts by name as a table. May raise.
pub(crate) fn push_map<'a>(l: *mut lua_State, entries: impl ExactSizeIterator<Item = (&'a str, &'a str)>) {
    // SAFETY: room for the table, a key and a value is checked.
    unsafe {
        ffi::lua_rawcheckstack(l, 3);
        ffi::lua_createtable(l, 0, c_int::try_from(entries.len()).unwrap_or(0));
        for (name, text) in entries {
            push_bytes(l, name.as_bytes());
            push_bytes(l, text.as_bytes());
            ffi::lua_rawset(l, -3);
        }
    }
}

/// Pushes as a table with these fields; absent values leave their field out.
pub(crate) struct Record<const N: usize>(pub(crate) [(&'static CStr, Box<dyn PushBox>); N]);

/// [`Push`] behind a box.
pub(crate) trait PushBox {
    fn push_box(self: Box<Self>, l: *mut lua_State) -> c_int;
}

impl<T: Push> PushBox for T {
    fn push_box(self: Box<Self>, l: *mut lua_State) -> c_int {
        (*self).push(l)
    }
}

impl Push for Box<dyn PushBox> {
    fn push(self, l: *mut lua_State) -> c_int {
        self.push_box(l)
    }
}

/// A field of a [`Record`].
pub(crate) fn field(name: &'static CStr, value: impl Push + 'static) -> (&'static CStr, Box<dyn PushBox>) {
    (name, Box::new(value))
}

impl<const N: usize> Push for Record<N> {
    fn push(self, l: *mut lua_State) -> c_int {
        // SAFETY: as for List.
        unsafe {
            ffi::lua_rawcheckstack(l, 3);
            ffi::lua_createtable(l, 0, N as c_int);
        }
        for (name, value) in self.0 {
            value.push_box(l);
            set_field(l, -2, name);
        }
        1
    }
}
