//! What a search found.

use std::ffi::{CStr, c_int};
use std::ops::Range;
use std::rc::Weak;

use regex_automata::PatternID;
use regex_automata::util::captures::Captures;
use regex_automata::util::interpolate;

use super::FORMAT_BYTES_MAX;
use crate::error::ApiError;
use crate::luau::class::{Class, ClassBuilder, Object, tags};
use crate::luau::native::Call;
use crate::luau::stack::{PushBox, Text};
use crate::modules::blob::BlobBytes;
use crate::runtime::held::{Counted, Held};
use crate::runtime::vm::Vm;

/// One match: where, and what.
pub(crate) struct RegexMatch {
    start: usize,
    text: BlobBytes,
}

impl RegexMatch {
    /// The match at this place of the text.
    pub(super) fn new(vm: Weak<Vm>, text: &BlobBytes, range: Range<usize>) -> Result<Self, ApiError> {
        Ok(Self { start: range.start, text: text.slice(range.start, range.end).on_its_own(vm)? })
    }
}

impl Class for RegexMatch {
    const TAG: c_int = tags::REGEX_MATCH;
    const NAME: &'static str = "RegexMatch";
    const C_NAME: &'static CStr = c"RegexMatch";
    const HAS_FIELDS: bool = true;

    fn field(&self, _: &Call, name: &str) -> Result<Option<Box<dyn PushBox>>, ApiError> {
        let len = self.text.bytes().len();
        Ok(Some(match name {
            "start" => Box::new((self.start + 1) as f64),
            "finish" => Box::new((self.start + len) as f64),
            "len" => Box::new(len as f64),
            "text" => Box::new(Text(self.text.bytes().to_vec())),
            _ => return Ok(None),
        }))
    }

    fn register(class: &mut ClassBuilder) {
        class.meta(c"__len", |call: &Call| Ok(call.object::<Self>(1, "self")?.text.bytes().len() as f64));
    }
}

/// The groups of one match.
pub(crate) struct RegexCaptures {
    text: BlobBytes,
    captures: Captures,
    /// For the places of the groups.
    _held: Held,
}

impl RegexCaptures {
    /// The groups of a match in this text.
    pub(super) fn new(vm: Weak<Vm>, text: BlobBytes, captures: Captures) -> Result<Self, ApiError> {
        let bytes = captures.group_len() * 2 * size_of::<usize>();
        let held = Held::new(vm, bytes)
            .ok_or_else(|| ApiError::memory("no room for the captures within the tenant's memory limit"))?;
        Ok(Self { text, captures, _held: held })
    }

    fn group(&self, call: &Call, index: usize) -> Result<Option<Object<RegexMatch>>, ApiError> {
        let Some(span) = self.captures.get_group(index) else { return Ok(None) };
        RegexMatch::new(call.vm().weak(), &self.text, span.range()).map(|found| Some(Object(found)))
    }
}

impl Class for RegexCaptures {
    const TAG: c_int = tags::REGEX_CAPTURES;
    const NAME: &'static str = "RegexCaptures";
    const C_NAME: &'static CStr = c"RegexCaptures";

    fn register(class: &mut ClassBuilder) {
        class
            // The whole match is no group.
            .meta(c"__len", |call: &Call| Ok((call.object::<Self>(1, "self")?.captures.group_len() - 1) as f64))
            .method(c"get", |call: &Call| {
                let this = call.object::<Self>(1, "self")?;
                this.group(call, call.count(2, "index", u64::from(u32::MAX))? as usize)
            })
            .method(c"group", |call: &Call| {
                let this = call.object::<Self>(1, "self")?;
                let name = call.str(2, "name")?;
                match this.captures.group_info().to_index(PatternID::ZERO, name) {
                    Some(index) => this.group(call, index),
                    None => Ok(None),
                }
            })
            .method(c"format", |call: &Call| {
                let this = call.object::<Self>(1, "self")?;
                let by = call.bytes(2, "format")?;
                if by.len() > FORMAT_BYTES_MAX {
                    let found = by.len();
                    return Err(ApiError::too_large(format_args!(
                        "format ({found} bytes, at most {FORMAT_BYTES_MAX})"
                    )));
                }
                let bytes_max = call.vm().memory().limit() / 2;
                let mut output = Vec::new();
                format(&this.captures, this.text.bytes(), by, &mut output, bytes_max);
                if output.len() > bytes_max {
                    return Err(ApiError::too_large(format_args!("output (more than {bytes_max} bytes)")));
                }
                Counted::text(call.vm().weak(), output)
            });
    }
}

/// Writes `by`, its `$name`, `${name}` and `$1` replaced by groups. Stops soon after so many bytes of output: a short
/// format can name a long text very often.
pub(super) fn format(captures: &Captures, text: &[u8], by: &[u8], output: &mut Vec<u8>, bytes_max: usize) {
    interpolate::bytes(
        by,
        |index, output| {
            if let Some(span) = captures.get_group(index)
                && output.len() <= bytes_max
            {
                output.extend_from_slice(&text[span]);
            }
        },
        |name| captures.group_info().to_index(PatternID::ZERO, name),
        output,
    );
}
