//! `@lune/regex`: patterns that take time linear in the text (template API, sections 12.4 and 14.9).
//!
//! Texts are bytes; a pattern is UTF-8 and matches UTF-8 unless it says `(?-u)`. Linear is not enough: the factor is the
//! pattern, and a search cannot be stopped. So the positions of a pattern are counted, and how long a text may be depends
//! on them.

#![expect(unsafe_code, reason = "Luau's C API")]

mod captures;
mod pattern;

use std::ffi::{CStr, c_int};
use std::rc::Weak;
use std::sync::Arc;

use regex_automata::Input;
use regex_automata::meta::Cache;
use regex_automata::util::iter::Searcher;

use self::captures::{RegexCaptures, RegexMatch};
use self::pattern::Pattern;
use crate::error::ApiError;
use crate::luau::class::{Class, ClassBuilder, Object, tags};
use crate::luau::native::{self, Call};
use crate::luau::stack::{Push, Text, set_field};
use crate::luau::{ffi, json, lua_State, stack};
use crate::modules::blob::BlobBytes;
use crate::runtime::held::{Counted, Held};
use crate::runtime::long_work::{self, Bounds, INLINE_BYTES_MAX, Place, Work};
use crate::runtime::vm::Vm;

/// Bytes of a text.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// Bytes of what replaces a match, and of a format.
const FORMAT_BYTES_MAX: usize = 64 << 10;

/// A pattern of so many bytes is compiled in place.
const COMPILE_INLINE_BYTES_MAX: usize = 64;

/// Steps of a search, positions times bytes of text, that take two or three seconds at worst.
const STEPS_MAX: usize = 1 << 28;

/// Steps that are taken in place.
const INLINE_STEPS_MAX: usize = 1 << 20;

/// The same where there is no other place.
const UNYIELDING_STEPS_MAX: usize = 1 << 22;

/// Pushes the module. May raise.
pub(crate) fn push_module(l: *mut lua_State) {
    // SAFETY: LUA_MINSTACK is enough: each value is stored at once.
    unsafe {
        ffi::lua_createtable(l, 0, 1);
    }
    native::push_working(l, c"new", new);
    set_field(l, -2, c"new");
}

/// `new(pattern)`.
fn new(call: &Call) -> Result<Work<Object<Regex>>, ApiError> {
    Pattern::check_length(call.str(1, "pattern")?)?;
    let input = long_work::input(call, 1, "pattern", TEXT_BYTES_MAX)?;
    let (size, text) = (input.bytes().len(), input.bytes().clone());
    let place = Place::InlineUpTo(COMPILE_INLINE_BYTES_MAX);
    let work = move |_: &Bounds| Pattern::compile(std::str::from_utf8(&text).expect("because it was read as a text"));
    long_work::run(call, place, size, input, work, |vm, pattern| {
        let held = Held::new(vm, pattern.bytes())
            .ok_or_else(|| ApiError::memory("no room for the pattern within the tenant's memory limit"))?;
        Ok(Object(Regex { pattern: Arc::new(pattern), _held: held }))
    })
}

/// A template's compiled pattern.
pub(crate) struct Regex {
    pattern: Arc<Pattern>,
    _held: Held,
}

impl Class for Regex {
    const TAG: c_int = tags::REGEX;
    const NAME: &'static str = "Regex";
    const C_NAME: &'static CStr = c"Regex";

    fn register(class: &mut ClassBuilder) {
        class
            .working(c"isMatch", is_match)
            .working(c"find", find)
            .working(c"captures", captures_of)
            .working(c"split", split)
            .working(c"replace", |call: &Call| replace(call, Some(1)))
            .working(c"replaceAll", |call: &Call| replace(call, None));
    }
}

/// What a method searches in: argument 2.
struct Search {
    pattern: Arc<Pattern>,
    text: BlobBytes,
    place: Place,
}

impl Search {
    fn new(call: &Call) -> Result<Self, ApiError> {
        let pattern = call.object::<Regex>(1, "self")?.pattern.clone();
        let text = long_work::input(call, 2, "text", TEXT_BYTES_MAX)?;
        let bytes_for = |steps: usize| steps / pattern.positions();
        let bytes_max = bytes_for(if call.can_yield() { STEPS_MAX } else { UNYIELDING_STEPS_MAX });
        let bytes = text.bytes().len();
        if bytes > bytes_max {
            return Err(ApiError::too_large(format_args!(
                "text ({bytes} bytes, at most {bytes_max} for such a pattern)"
            )));
        }
        let place = Place::InlineUpTo(INLINE_BYTES_MAX.min(bytes_for(INLINE_STEPS_MAX)));
        Ok(Self { pattern, text, place })
    }

    /// Does the work with the pattern, a cache for it, and the text.
    fn run<T: Send + 'static, R: 'static>(
        self,
        call: &Call,
        work: impl Fn(&Pattern, &mut Cache, &[u8], &Bounds) -> Result<T, ApiError> + Send + 'static,
        finish: impl FnOnce(Weak<Vm>, BlobBytes, T) -> Result<R, ApiError> + 'static,
    ) -> Result<Work<R>, ApiError> {
        let Self { pattern, text, place } = self;
        let (size, bytes, held) = (text.bytes().len(), text.bytes().clone(), text.clone());
        let work = move |bounds: &Bounds| work(&pattern, &mut pattern.regex().create_cache(), &bytes, bounds);
        long_work::run(call, place, size, held, work, move |vm, made| finish(vm, text, made))
    }
}

/// `isMatch(text)`.
fn is_match(call: &Call) -> Result<Work<bool>, ApiError> {
    let work = |pattern: &Pattern, cache: &mut Cache, text: &[u8], _: &Bounds| {
        Ok(pattern.regex().search_half_with(cache, &Input::new(text).earliest(true)).is_some())
    };
    Search::new(call)?.run(call, work, |_, _, found| Ok(found))
}

/// `find(text)`.
fn find(call: &Call) -> Result<Work<Option<Object<RegexMatch>>>, ApiError> {
    let work = |pattern: &Pattern, cache: &mut Cache, text: &[u8], _: &Bounds| {
        Ok(pattern.regex().search_with(cache, &Input::new(text)).map(|found| found.range()))
    };
    Search::new(call)?
        .run(call, work, |vm, text, found| found.map(|range| RegexMatch::new(vm, &text, range).map(Object)).transpose())
}

/// `captures(text)`.
fn captures_of(call: &Call) -> Result<Work<Option<Object<RegexCaptures>>>, ApiError> {
    let work = |pattern: &Pattern, cache: &mut Cache, text: &[u8], _: &Bounds| {
        let mut captures = pattern.regex().create_captures();
        pattern.regex().search_captures_with(cache, &Input::new(text), &mut captures);
        Ok(captures.is_match().then_some(captures))
    };
    Search::new(call)?.run(call, work, |vm, text, found| {
        found.map(|captures| RegexCaptures::new(vm, text, captures).map(Object)).transpose()
    })
}

/// `split(text)`: what lies between the matches.
fn split(call: &Call) -> Result<Work<Counted<Pieces>>, ApiError> {
    let work = |pattern: &Pattern, cache: &mut Cache, text: &[u8], bounds: &Bounds| {
        let mut pieces = Vec::new();
        let mut searcher = Searcher::new(Input::new(text));
        let mut last = 0;
        while let Some(found) = searcher.advance(|input| Ok(pattern.regex().search_with(cache, input))) {
            pieces.push((last, found.start()));
            last = found.end();
            bounds.check(pieces.len() * size_of::<(usize, usize)>())?;
        }
        pieces.push((last, text.len()));
        Ok(pieces)
    };
    Search::new(call)?.run(call, work, |vm, text, pieces| {
        let held = Held::new(vm, pieces.len() * size_of::<(usize, usize)>())
            .ok_or_else(|| ApiError::memory("no room for the pieces within the tenant's memory limit"))?;
        Ok(Counted { value: Pieces { text, pieces }, held })
    })
}

/// Pushes parts of a text as a list of strings.
struct Pieces {
    text: BlobBytes,
    pieces: Vec<(usize, usize)>,
}

impl Push for Pieces {
    fn push(self, l: *mut lua_State) -> c_int {
        // SAFETY: room for the table and one element is checked; a raised error unwinds through here and drops `self`.
        unsafe {
            ffi::lua_rawcheckstack(l, 3);
            ffi::lua_createtable(l, self.pieces.len() as c_int, 0);
            for (index, &(start, end)) in self.pieces.iter().enumerate() {
                stack::push_bytes(l, &self.text.bytes()[start..end]);
                ffi::lua_rawseti_(l, -2, index as c_int + 1);
            }
        }
        json::set_array_metatable(l);
        1
    }
}

/// `replace(text, by)` and `replaceAll(text, by)`.
fn replace(call: &Call, limit: Option<usize>) -> Result<Work<Counted<Text>>, ApiError> {
    call.bytes(3, "by")?;
    let counted = long_work::input(call, 3, "by", FORMAT_BYTES_MAX)?;
    let by = counted.bytes().clone();
    // What has no reference in it needs no groups, which take longer to find than a match.
    let is_plain = !by.contains(&b'$');
    let work = move |pattern: &Pattern, cache: &mut Cache, text: &[u8], bounds: &Bounds| {
        let mut output = Vec::new();
        let mut captures = pattern.regex().create_captures();
        let mut searcher = Searcher::new(Input::new(text));
        let mut last = 0;
        for _ in 0..limit.unwrap_or(usize::MAX) {
            let found = searcher.advance(|input| {
                if is_plain {
                    return Ok(pattern.regex().search_with(cache, input));
                }
                pattern.regex().search_captures_with(cache, input, &mut captures);
                Ok(captures.get_match())
            });
            let Some(found) = found else { break };
            output.extend_from_slice(&text[last..found.start()]);
            if is_plain {
                output.extend_from_slice(&by);
            } else {
                captures::format(&captures, text, &by, &mut output, bounds.output_bytes_max());
            }
            last = found.end();
            bounds.check(output.len())?;
        }
        output.extend_from_slice(&text[last..]);
        bounds.check(output.len())?;
        Ok(output)
    };
    Search::new(call)?.run(call, work, move |vm, _, output| {
        drop(counted);
        Counted::text(vm, output)
    })
}
