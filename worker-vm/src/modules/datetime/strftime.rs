//! Times as text by a pattern: chrono's `strftime`, which templates were written for.

use std::fmt::{self, Write};

use chrono::format::{DelayedFormat, StrftimeItems};
use chrono::{DateTime, FixedOffset, Locale, Offset};

use crate::error::ApiError;

/// Bytes of a format: each of them may stand for a hundred.
const FORMAT_BYTES_MAX: usize = 1 << 10;

/// An offset and what people call it.
#[derive(Clone, Debug)]
struct Named<'a> {
    offset: FixedOffset,
    name: &'a str,
}

impl Offset for Named<'_> {
    fn fix(&self) -> FixedOffset {
        self.offset
    }
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The moment at that offset, which is called `zone`, by the pattern and in the words of the locale.
pub(crate) fn format(
    (seconds, nanos): (i64, u32),
    (offset_seconds, zone): (i32, &str),
    pattern: &str,
    locale: Locale,
) -> Result<String, ApiError> {
    if pattern.len() > FORMAT_BYTES_MAX {
        return Err(ApiError::too_large(format_args!("format (at most {FORMAT_BYTES_MAX} bytes)")));
    }
    let offset = FixedOffset::east_opt(offset_seconds).ok_or_else(|| super::out_of_range("offset"))?;
    let time = DateTime::from_timestamp(seconds, nanos).ok_or_else(|| super::out_of_range("time"))?;
    let local = time.with_timezone(&offset).naive_local();
    let items = StrftimeItems::new_with_locale(pattern, locale);
    let offset = Named { offset, name: zone };
    let shown =
        DelayedFormat::new_with_offset_and_locale(Some(local.date()), Some(local.time()), &offset, items, locale);
    let mut text = String::new();
    write!(text, "{shown}").map_err(|_| {
        ApiError::invalid_argument(format_args!("format (`{}` is not a strftime format)", pattern.escape_debug()))
    })?;
    Ok(text)
}
