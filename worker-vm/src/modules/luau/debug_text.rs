//! `format`: values as text for people who look for a mistake.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::ffi::c_int;
use std::fmt::Write;

use crate::error::ApiError;
use crate::luau::ffi;
use crate::luau::native::Call;
use crate::luau::stack::Kind;
use crate::runtime::sandbox::describe;

/// Bytes of the text; the rest is left out.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// Tables in tables that are written out.
const DEPTH_MAX: usize = 8;

/// The arguments, tables written out, with tabs between. No code of the script runs.
pub(super) fn format(call: &Call) -> Result<String, ApiError> {
    let mut text = String::new();
    if call.len() == 0 {
        text.push_str("nil");
    }
    for index in 1..=call.len() {
        if index > 1 {
            text.push('\t');
        }
        match call.kind(index) {
            Kind::Table => write_table(call, index, 1, &mut text)?,
            _ => text.push_str(&describe(call, index)),
        }
        if text.len() > TEXT_BYTES_MAX {
            break;
        }
    }
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.push('…');
    }
    Ok(text)
}

fn write_table(call: &Call, index: c_int, depth: usize, text: &mut String) -> Result<(), ApiError> {
    if depth > DEPTH_MAX {
        text.push_str("{...}");
        return Ok(());
    }
    text.push('{');
    let before = text.len();
    call.entries(index, "value", |call, key, value| {
        if text.len() > TEXT_BYTES_MAX {
            // An error ends the walk; it is not the caller's.
            return Err(ApiError::too_large("text"));
        }
        let _ = write!(text, "\n{}[", "  ".repeat(depth));
        write_plain(call, key, text);
        text.push_str("] = ");
        match call.kind(value) {
            // SAFETY: absolute indices above the arguments.
            Kind::Table if unsafe { ffi::lua_checkstack(call.state(), 8) } != 0 => {
                write_table(call, value, depth + 1, text)?;
            }
            _ => write_plain(call, value, text),
        }
        text.push(',');
        Ok(())
    })
    .or_else(|error| if text.len() > TEXT_BYTES_MAX { Ok(()) } else { Err(error) })?;
    if text.len() > before {
        let _ = write!(text, "\n{}", "  ".repeat(depth - 1));
    }
    text.push('}');
    Ok(())
}

/// Strings in quotes, tables by their kind.
fn write_plain(call: &Call, index: c_int, text: &mut String) {
    let plain = describe(call, index);
    let _ = match call.kind(index) {
        Kind::String => write!(text, "{:?}", &plain[..plain.floor_char_boundary(TEXT_BYTES_MAX)]),
        _ => write!(text, "{plain}"),
    };
}
