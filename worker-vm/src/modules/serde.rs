//! `@lune/serde`: text formats, compression, hashes (template API, section 14.9).

#![expect(unsafe_code, reason = "Luau's C API")]

mod compression;
mod hashing;
mod json;
mod toml;
mod yaml;

use std::ffi::c_int;
use std::fmt::Write;
use std::rc::Weak;

use worker_core::Value;

use crate::error::ApiError;
use crate::luau::json::{Json, PlainNames};
use crate::luau::json_text::{self, Layout};
use crate::luau::native::{self, Call};
use crate::luau::stack::{Push, Text, set_field};
use crate::luau::{ffi, lua_State, value};
use crate::runtime::held::{Counted, Held};
use crate::runtime::long_work::{self, Bounds, INLINE_BYTES_MAX, Place, Work};
use crate::runtime::vm::Vm;

/// Bytes of text that is encoded or decoded.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// Bytes that are compressed, decompressed or hashed.
const DATA_BYTES_MAX: usize = 8 << 20;

const PLACE: Place = Place::InlineUpTo(INLINE_BYTES_MAX);

/// JSON is parsed in less than a millisecond up to here.
const JSON_INLINE_BYTES_MAX: usize = 256 << 10;

/// Pushes the module. May raise.
pub(crate) fn push_module(l: *mut lua_State) {
    // SAFETY: LUA_MINSTACK is enough: each value is stored at once.
    unsafe {
        ffi::lua_createtable(l, 0, 6);
    }
    native::push_working(l, c"encode", encode);
    set_field(l, -2, c"encode");
    native::push_working(l, c"decode", decode);
    set_field(l, -2, c"decode");
    native::push_working(l, c"compress", compression::compress);
    set_field(l, -2, c"compress");
    native::push_working(l, c"decompress", compression::decompress);
    set_field(l, -2, c"decompress");
    native::push_working(l, c"hash", hashing::hash);
    set_field(l, -2, c"hash");
    native::push_working(l, c"hmac", hashing::hmac);
    set_field(l, -2, c"hmac");
}

#[derive(Clone, Copy)]
enum Format {
    Json,
    Yaml,
    Toml,
}

impl Format {
    fn read(call: &Call) -> Result<Self, ApiError> {
        choose(call, "format", &[("json", Self::Json), ("yaml", Self::Yaml), ("toml", Self::Toml)])
    }
}

/// Argument 1: one of these words.
fn choose<T: Copy>(call: &Call, what: &str, words: &[(&str, T)]) -> Result<T, ApiError> {
    let given = call.str(1, what)?;
    let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(given));
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        ApiError::invalid_argument(format_args!("{what} (expected one of {})", words.join(", ")))
    })
}

/// `encode(format, value, pretty?)`.
///
/// The tables are read on the VM's thread, since only it may. JSON is written at the same time.
fn encode(call: &Call) -> Result<Work<Counted<Text>>, ApiError> {
    let format = Format::read(call)?;
    if call.len() < 2 {
        return Err(ApiError::invalid_argument("value (missing)"));
    }
    let layout = if call.flag(3, "pretty")? { Layout::Pretty } else { Layout::Compact };
    let vm = call.vm();
    let write: fn(&Value, Layout, &Bounds) -> Result<String, ApiError> = match format {
        Format::Json => {
            let bytes_max = TEXT_BYTES_MAX.min(vm.memory().limit() / 2);
            let text = json_text::write(call.state(), 2, layout, bytes_max)?;
            if text.len() > INLINE_BYTES_MAX && !call.can_yield() {
                return Err(ApiError::too_large("value (to write it takes too long for this place)"));
            }
            return Counted::text(vm.weak(), text).map(Work::Done);
        }
        Format::Yaml => |value, _, bounds| yaml::write(value, bounds),
        Format::Toml => toml::write,
    };
    let value = call.value(2)?;
    let size = value::bytes(&value);
    if size > TEXT_BYTES_MAX {
        return Err(ApiError::too_large(format_args!("value (about {size} bytes, at most {TEXT_BYTES_MAX})")));
    }
    let held = Held::new(vm.weak(), size)
        .ok_or_else(|| ApiError::memory("no room for the value within the tenant's memory limit"))?;
    let work = move |bounds: &Bounds| write(&value, layout, bounds).map(String::into_bytes);
    long_work::run(call, PLACE, size, held, work, Counted::text)
}

/// What a text was decoded to, before it is in the Luau heap.
enum Decoded {
    Json(Json),
    Value(Value),
}

impl Push for Decoded {
    fn push(self, l: *mut lua_State) -> c_int {
        match self {
            Self::Json(json) => {
                json.push(l, Vm::current().array_metatable(), &mut PlainNames);
                1
            }
            Self::Value(value) => value.push(l),
        }
    }
}

/// `decode(format, text)`.
fn decode(call: &Call) -> Result<Work<Counted<Decoded>>, ApiError> {
    let format = Format::read(call)?;
    let input = long_work::input(call, 2, "text", TEXT_BYTES_MAX)?;
    let (size, text) = (input.bytes().len(), input.bytes().clone());
    let work = move |bounds: &Bounds| match format {
        Format::Json => json::read(&text, bounds).map(|(json, bytes)| (Decoded::Json(json), bytes)),
        Format::Yaml => yaml::read(utf8(&text)?, bounds).map(|(value, bytes)| (Decoded::Value(value), bytes)),
        Format::Toml => toml::read(utf8(&text)?, bounds).map(|(value, bytes)| (Decoded::Value(value), bytes)),
    };
    let place = if let Format::Json = format { Place::InlineUpTo(JSON_INLINE_BYTES_MAX) } else { PLACE };
    long_work::run(call, place, size, input, work, |vm: Weak<Vm>, (value, bytes)| {
        let held = Held::new(vm, bytes)
            .ok_or_else(|| ApiError::memory("no room for the value within the tenant's memory limit"))?;
        Ok(Counted { value, held })
    })
}

fn utf8(text: &[u8]) -> Result<&str, ApiError> {
    std::str::from_utf8(text).map_err(|_| ApiError::invalid_argument("text (not valid UTF-8)"))
}

/// Writes a text between double quotes, as JSON, YAML and TOML all read it.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') => {
                // Writing to a string does not fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn not_in(format: &str, error: impl std::fmt::Display) -> ApiError {
    ApiError::invalid_argument(format_args!("text (not {format}: {error})"))
}
