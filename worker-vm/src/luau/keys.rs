//! The names of JSON fields: the same few hundred in every event of Discord's.
//!
//! Making a Lua string means to hash it and to walk a bucket of the VM's string table, which lies scattered in memory and
//! is cold when a thousand tenants take turns. So the worker numbers the names once, and each VM keeps the strings in a
//! list by number, in the order in which events have them. Which number a name has is mostly known without hashing: the
//! names of one kind of event come in the same order as the last time.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::collections::HashMap;
use std::ffi::c_int;

use worker_core::EventName;

use super::{ffi, lua_State};

/// Names that are numbered. Discord's payloads have about 400 (counted over the example recording: 240).
const NAMES_MAX: usize = 768;

/// A longer name is not one of Discord's fields.
const NAME_BYTES_MAX: usize = 48;

/// How far ahead a name is looked for in the order of the last time, when fields were left out.
const SKIP_MAX: usize = 12;

/// The numbers of names, for all VMs of a worker.
#[derive(Debug, Default)]
pub(crate) struct KeyDictionary {
    names: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u16>,
    /// The order of names in the last event of each kind.
    orders: HashMap<EventName, Vec<u16>>,
}

impl KeyDictionary {
    /// How many names have a number.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// Begins an event: names are asked for in the order in which it has them.
    pub(crate) fn event(&mut self, name: &EventName) -> EventKeys<'_> {
        // An attacker who could make up event names would be bounded by the gateway; still, nothing grows for ever.
        if self.orders.len() > 256 {
            self.orders.clear();
        }
        let order = self.orders.remove(name).unwrap_or_default();
        EventKeys { dictionary: self, kind: name.clone(), order, at: 0 }
    }

    fn number(&mut self, name: &str) -> Option<u16> {
        if let Some(&number) = self.numbers.get(name) {
            return Some(number);
        }
        // Fields of Discord's are words; an id as a name (`resolved.users`) must not use up the numbers.
        let is_word = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        if !is_word || name.is_empty() || name.len() > NAME_BYTES_MAX || self.names.len() >= NAMES_MAX {
            return None;
        }
        let number = self.names.len() as u16;
        self.names.push(name.into());
        self.numbers.insert(name.into(), number);
        Some(number)
    }
}

/// The names of one event, in order.
#[derive(Debug)]
pub(crate) struct EventKeys<'a> {
    dictionary: &'a mut KeyDictionary,
    kind: EventName,
    order: Vec<u16>,
    at: usize,
}

impl EventKeys<'_> {
    /// Starts over: the same event for another template.
    pub(crate) fn rewind(&mut self) {
        self.at = 0;
    }

    fn number(&mut self, name: &str) -> Option<u16> {
        if let Some(&number) = self.order.get(self.at)
            && &*self.dictionary.names[usize::from(number)] == name
        {
            self.at += 1;
            return Some(number);
        }
        let number = self.dictionary.number(name)?;
        let ahead = self.order.iter().skip(self.at).take(SKIP_MAX).position(|&next| next == number);
        match ahead {
            Some(ahead) => self.at += ahead + 1,
            None if self.order.len() < NAMES_MAX => {
                self.order.insert(self.at.min(self.order.len()), number);
                self.at += 1;
            }
            None => {}
        }
        Some(number)
    }

    /// Pushes a name; `strings` is the index of the VM's list of them. May raise.
    ///
    /// # Safety
    /// There is room for two values.
    pub(crate) unsafe fn push(&mut self, l: *mut lua_State, strings: c_int, name: &str) {
        // SAFETY: as the caller promises; the list is the VM's own.
        unsafe {
            let Some(number) = self.number(name) else {
                ffi::lua_pushlstring_(l, name.as_ptr().cast(), name.len());
                return;
            };
            let index = c_int::from(number) + 1;
            if ffi::lua_rawgeti_(l, strings, index) == ffi::LUA_TNIL {
                ffi::lua_settop(l, -2);
                ffi::lua_pushlstring_(l, name.as_ptr().cast(), name.len());
                ffi::lua_pushvalue(l, -1);
                ffi::lua_rawseti_(l, strings, index);
            }
        }
    }
}

impl Drop for EventKeys<'_> {
    fn drop(&mut self) {
        let order = std::mem::take(&mut self.order);
        self.dictionary.orders.insert(self.kind.clone(), order);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(dictionary: &mut KeyDictionary, names: &[&str]) -> Vec<Option<u16>> {
        let mut keys = dictionary.event(&EventName::new("MESSAGE"));
        names.iter().map(|name| keys.number(name)).collect()
    }

    #[test]
    fn a_name_has_one_number_whatever_the_order() {
        let mut dictionary = KeyDictionary::default();
        let first = numbers(&mut dictionary, &["id", "content", "author", "id", "username"]);
        assert_eq!(first, [Some(0), Some(1), Some(2), Some(0), Some(3)]);
        assert_eq!(numbers(&mut dictionary, &["id", "author", "id", "username"]), [Some(0), Some(2), Some(0), Some(3)]);
        assert_eq!(numbers(&mut dictionary, &["username", "new", "id"]), [Some(3), Some(4), Some(0)]);
        assert_eq!(numbers(&mut dictionary, &["id", "content", "author", "id", "username"]), first);
    }

    #[test]
    fn ids_and_floods_of_names_use_up_nothing() {
        let mut dictionary = KeyDictionary::default();
        assert_eq!(numbers(&mut dictionary, &["123456789012345678", "", "Ünïcode", &"x".repeat(49)]), [None; 4]);
        let letters =
            |n: usize| (0..3).map(|place| char::from(b'a' + (n / 26usize.pow(place) % 26) as u8)).collect::<String>();
        for n in 0..5_000 {
            numbers(&mut dictionary, &[&letters(n)]);
        }
        assert_eq!(dictionary.len(), NAMES_MAX);
        assert!(dictionary.orders.values().all(|order| order.len() <= NAMES_MAX));
    }
}
