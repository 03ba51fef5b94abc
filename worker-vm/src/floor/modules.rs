//! What a crate's work costs when a Rust program with a bare Luau VM does it: the floor of the registered modules.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::ffi::{c_int, c_void};

use serde::ser::{Error, SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use super::{Floor, FloorVm};
use crate::luau::json::{Json, PlainNames};
use crate::luau::stack::{self, Kind};
use crate::luau::{ffi, lua_State};

/// A bare VM that takes a crate's results.
pub struct ModulesFloor(FloorVm);

impl ModulesFloor {
    /// Makes the VM.
    #[expect(clippy::new_without_default, reason = "like the other floors")]
    pub fn new() -> Self {
        Self(FloorVm::new(&Floor::bytecode()))
    }

    /// Makes a Luau string of a result, which is garbage then.
    pub fn string(&self, bytes: &[u8]) {
        self.protected(&mut |l| stack::push_bytes(l, bytes));
    }

    /// Parses JSON into tables, and writes it from them as a Luau string, of which it says how long it is.
    pub fn json_round_trip(&self, text: &[u8]) -> usize {
        let mut len = 0;
        self.protected(&mut |l| {
            let json = Json::parse(text).expect("because the bench's JSON is good");
            json.push(l, self.0.array_metatable, &mut PlainNames);
            let value = LuaValue { l, idx: 1 };
            let written = serde_json::to_vec(&value).expect("because JSON is made of what JSON has");
            stack::push_bytes(l, &written);
            len = written.len();
        });
        len
    }

    fn protected(&self, mut f: &mut dyn FnMut(*mut lua_State)) {
        unsafe extern "C-unwind" fn job(l: *mut lua_State) -> c_int {
            // SAFETY: the argument is the closure.
            unsafe {
                let f = &mut *ffi::lua_tolightuserdata(l, 1).cast::<&mut dyn FnMut(*mut lua_State)>();
                ffi::lua_settop(l, 0);
                f(l);
            }
            0
        }
        // SAFETY: `f` lives through the call; garbage is collected between two of them, as the runtime does.
        unsafe {
            assert_eq!(ffi::lua_cpcall(self.0.l, job, (&raw mut f).cast::<c_void>()), ffi::LUA_OK);
            if self.0.memory.wants_collection() {
                ffi::lua_gc(self.0.l, ffi::LUA_GCCOLLECT, 0);
                self.0.memory.collected();
            }
        }
    }
}

/// A value on the stack, for serde.
struct LuaValue {
    l: *mut lua_State,
    idx: c_int,
}

impl Serialize for LuaValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { l, idx } = *self;
        match stack::kind(l, idx) {
            Kind::Nil => serializer.serialize_none(),
            // SAFETY: it is a boolean.
            Kind::Boolean => serializer.serialize_bool(unsafe { ffi::lua_toboolean(l, idx) } != 0),
            Kind::Number => {
                let number = stack::number(l, idx).unwrap_or_default();
                if number.fract() == 0.0 {
                    serializer.serialize_i64(number as i64)
                } else {
                    serializer.serialize_f64(number)
                }
            }
            Kind::String => {
                let bytes = stack::bytes(l, idx).unwrap_or_default();
                serializer.serialize_str(std::str::from_utf8(bytes).map_err(S::Error::custom)?)
            }
            // SAFETY: room is checked; every push is popped again.
            Kind::Table => unsafe {
                ffi::lua_checkstack(l, 4);
                let len = ffi::lua_objlen_(l, idx);
                let top = ffi::lua_gettop(l);
                if len > 0 || ffi::lua_getmetatable(l, idx) != 0 {
                    ffi::lua_settop(l, top);
                    let mut seq = serializer.serialize_seq(Some(len as usize))?;
                    for index in 1..=len {
                        ffi::lua_rawgeti_(l, idx, index);
                        seq.serialize_element(&Self { l, idx: top + 1 })?;
                        ffi::lua_settop(l, top);
                    }
                    return seq.end();
                }
                let mut map = serializer.serialize_map(None)?;
                let mut iter = 0;
                loop {
                    iter = ffi::lua_rawiter(l, idx, iter);
                    if iter < 0 {
                        return map.end();
                    }
                    map.serialize_entry(&Self { l, idx: top + 1 }, &Self { l, idx: top + 2 })?;
                    ffi::lua_settop(l, top);
                }
            },
            other => Err(S::Error::custom(other.name())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_comes_back() {
        let floor = ModulesFloor::new();
        assert_eq!(floor.json_round_trip(br#"{ "a": [1, 2.5, "x", true, {}] }"#), r#"{"a":[1,2.5,"x",true,{}]}"#.len());
        floor.string(b"x");
    }
}
