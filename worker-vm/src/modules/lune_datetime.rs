//! `@lune/datetime` (template API, section 14.9): moments as the lune runtime has them. Local time is UTC.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::ffi::{CStr, c_int};

use chrono::{DateTime, Datelike, Locale, NaiveDate, NaiveTime, Timelike, Utc};

use super::datetime::strftime;
use crate::error::ApiError;
use crate::luau::class::{Class, ClassBuilder, Object, tags};
use crate::luau::native::{self, Call};
use crate::luau::stack::{PushBox, Record, field, set_field};
use crate::luau::{ffi, lua_State};

/// Nanoseconds of a second.
const NANOS: i128 = 1_000_000_000;

const DEFAULT_FORMAT: &str = "%Y-%m-%d %H:%M:%S";

/// The locales of the reference. English is that of C, as everywhere without a locale.
const LOCALES: [(&str, Locale); 10] = [
    ("en", Locale::POSIX),
    ("de", Locale::de_DE),
    ("es", Locale::es_ES),
    ("fr", Locale::fr_FR),
    ("it", Locale::it_IT),
    ("ja", Locale::ja_JP),
    ("pl", Locale::pl_PL),
    ("pt-br", Locale::pt_BR),
    ("pt", Locale::pt_PT),
    ("tr", Locale::tr_TR),
];

/// Pushes the module. May raise.
pub(crate) fn push_module(l: *mut lua_State) {
    // SAFETY: LUA_MINSTACK is enough: each value is stored at once.
    unsafe {
        ffi::lua_createtable(l, 0, 5);
    }
    native::push_function(l, c"now", |call: &Call| {
        let now = call.vm().clock().now();
        // The nanoseconds of a second count forwards also before the epoch.
        let (seconds, nanos) = (now.as_nanosecond().div_euclid(NANOS), now.as_nanosecond().rem_euclid(NANOS));
        let time = DateTime::from_timestamp(seconds as i64, nanos as u32);
        time.map(|time| Object(Moment(time))).ok_or_else(|| ApiError::internal(&"the clock shows no time of chrono's"))
    });
    set_field(l, -2, c"now");
    native::push_function(l, c"fromUnixTimestamp", from_unix_timestamp);
    set_field(l, -2, c"fromUnixTimestamp");
    native::push_function(l, c"fromIsoDate", |call: &Call| {
        let text = call.str(1, "isoDate")?;
        DateTime::parse_from_rfc3339(text)
            .map(|time| Object(Moment(time.with_timezone(&Utc))))
            .map_err(|error| ApiError::invalid_argument(format_args!("isoDate ({error})")))
    });
    set_field(l, -2, c"fromIsoDate");
    for name in [c"fromUniversalTime", c"fromLocalTime"] {
        native::push_function(l, name, from_values);
        set_field(l, -2, name);
    }
}

fn from_unix_timestamp(call: &Call) -> Result<Object<Moment>, ApiError> {
    let seconds = call.number(1, "unixTimestamp")?;
    let whole = seconds.floor();
    // A fraction that rounds up to a second is one nanosecond less.
    let nanos = ((seconds - whole) * 1e9).round().min(999_999_999.0);
    let time = (whole.abs() < 1e15).then(|| DateTime::from_timestamp(whole as i64, nanos as u32)).flatten();
    time.map(|time| Object(Moment(time))).ok_or_else(|| ApiError::invalid_argument("unixTimestamp (out of range)"))
}

/// A moment from a table of year, month and so on.
fn from_values(call: &Call) -> Result<Object<Moment>, ApiError> {
    let part = |name: &'static CStr, least: u64, most: u64, absent: Option<u64>| {
        let shown = name.to_string_lossy();
        let value = call.table_field(1, name, |call, index| match absent {
            Some(absent) if call.is_nil(index) => Ok(absent),
            _ => call.count(index, &shown, most),
        })?;
        if value >= least {
            Ok(value as u32)
        } else {
            Err(ApiError::invalid_argument(format_args!("{shown} (out of range)")))
        }
    };
    let (year, month, day) =
        (part(c"year", 1400, 9999, None)?, part(c"month", 1, 12, None)?, part(c"day", 1, 31, None)?);
    let (hour, minute) = (part(c"hour", 0, 23, None)?, part(c"minute", 0, 59, None)?);
    let (second, milli) = (part(c"second", 0, 60, None)?, part(c"millisecond", 0, 999, Some(0))?);
    let date = NaiveDate::from_ymd_opt(year as i32, month, day)
        .ok_or_else(|| ApiError::invalid_argument("day (the month has fewer days)"))?;
    // A leap second is the one before it, longer than others.
    let (second, milli) = if second == 60 { (59, 1_000 + milli) } else { (second, milli) };
    let time = NaiveTime::from_hms_milli_opt(hour, minute, second, milli)
        .ok_or_else(|| ApiError::invalid_argument("second (60 is a leap second, at the end of a minute)"))?;
    Ok(Object(Moment(date.and_time(time).and_utc())))
}

/// A moment.
struct Moment(DateTime<Utc>);

impl Moment {
    fn format(&self, call: &Call) -> Result<String, ApiError> {
        let pattern = call.str_opt(2, "format")?.unwrap_or(DEFAULT_FORMAT);
        let locale = match call.str_opt(3, "locale")? {
            None => Locale::POSIX,
            Some(name) => {
                let known = LOCALES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
                known.map(|(_, locale)| *locale).ok_or_else(|| {
                    ApiError::invalid_argument(format_args!("locale (`{}` is not known)", name.escape_debug()))
                })?
            }
        };
        strftime::format((self.0.timestamp(), self.0.timestamp_subsec_nanos()), (0, "UTC"), pattern, locale)
    }

    fn values(&self) -> Record<7> {
        // The second that a leap second makes longer shows more than 999 milliseconds.
        let (leap, milli) = match self.0.timestamp_subsec_millis() {
            milli @ 1_000.. => (1, milli - 1_000),
            milli => (0, milli),
        };
        Record([
            field(c"year", f64::from(self.0.year())),
            field(c"month", self.0.month()),
            field(c"day", self.0.day()),
            field(c"hour", self.0.hour()),
            field(c"minute", self.0.minute()),
            field(c"second", self.0.second() + leap),
            field(c"millisecond", milli),
        ])
    }
}

fn moment(call: &Call, index: c_int) -> Result<DateTime<Utc>, ApiError> {
    call.object::<Moment>(index, "operand").map(|moment| moment.0)
}

impl Class for Moment {
    const TAG: c_int = tags::LUNE_DATE_TIME;
    const NAME: &'static str = "DateTime";
    const C_NAME: &'static CStr = c"DateTime";
    const HAS_FIELDS: bool = true;

    fn field(&self, _: &Call, name: &str) -> Result<Option<Box<dyn PushBox>>, ApiError> {
        Ok(match name {
            "unixTimestamp" => Some(Box::new(self.0.timestamp() as f64)),
            "unixTimestampMillis" => Some(Box::new(self.0.timestamp_millis() as f64)),
            _ => None,
        })
    }

    fn register(class: &mut ClassBuilder) {
        class
            .method(c"toIsoDate", |call: &Call| Ok(call.object::<Self>(1, "self")?.0.to_rfc3339()))
            .method(c"toUniversalTime", |call: &Call| Ok(call.object::<Self>(1, "self")?.values()))
            .method(c"toLocalTime", |call: &Call| Ok(call.object::<Self>(1, "self")?.values()))
            .method(c"formatUniversalTime", |call: &Call| call.object::<Self>(1, "self")?.format(call))
            .method(c"formatLocalTime", |call: &Call| call.object::<Self>(1, "self")?.format(call))
            .meta(c"__eq", |call: &Call| Ok(moment(call, 1)? == moment(call, 2)?))
            .meta(c"__lt", |call: &Call| Ok(moment(call, 1)? < moment(call, 2)?))
            .meta(c"__le", |call: &Call| Ok(moment(call, 1)? <= moment(call, 2)?))
            .meta(c"__tostring", |call: &Call| Ok(call.object::<Self>(1, "self")?.0.to_rfc3339()));
    }
}
