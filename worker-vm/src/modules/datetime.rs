//! `@antiraid/datetime` (template API, section 14.8): the module, and what its functions read.

#![expect(unsafe_code, reason = "Luau's C API")]

mod date_time;
pub(crate) mod strftime;
mod time_delta;
mod time_zone;

use std::ffi::{CStr, c_int};

use jiff::SignedDuration;

pub(crate) use self::date_time::{DateTime, rfc3339};
pub(crate) use self::time_delta::TimeDelta;
pub(crate) use self::time_zone::TimeZone;
use super::typesext::{I64, U64};
use crate::error::ApiError;
use crate::luau::class::{Class, Object};
use crate::luau::native::{self, Call, Native};
use crate::luau::stack::{Kind, Push, set_field};
use crate::luau::{ffi, lua_State};

/// Nanoseconds of the units that templates name.
mod nanos {
    pub(super) const MICRO: i128 = 1_000;
    pub(super) const MILLI: i128 = 1_000_000;
    pub(super) const SECOND: i128 = 1_000_000_000;
    pub(super) const MINUTE: i128 = 60 * SECOND;
    pub(super) const HOUR: i128 = 60 * MINUTE;
    pub(super) const DAY: i128 = 24 * HOUR;
    pub(super) const WEEK: i128 = 7 * DAY;
}

/// Pushes the module. May raise.
pub(crate) fn push_module(l: *mut lua_State) {
    // SAFETY: LUA_MINSTACK is enough: each value is stored at once.
    unsafe {
        ffi::lua_createtable(l, 0, 10);
    }
    function(l, c"new", |call: &Call| {
        let name = call.str(1, "tz")?;
        TimeZone::named(name).map(Object).ok_or_else(|| {
            ApiError::invalid_argument(format_args!("tz (`{}` is not a time zone)", name.escape_debug()))
        })
    });
    Object(TimeZone::utc()).push(l);
    set_field(l, -2, c"UTC");
    function(l, c"timedelta_weeks", |call: &Call| duration::<{ nanos::WEEK }>(call));
    function(l, c"timedelta_days", |call: &Call| duration::<{ nanos::DAY }>(call));
    function(l, c"timedelta_hours", |call: &Call| duration::<{ nanos::HOUR }>(call));
    function(l, c"timedelta_minutes", |call: &Call| duration::<{ nanos::MINUTE }>(call));
    function(l, c"timedelta_seconds", |call: &Call| duration::<{ nanos::SECOND }>(call));
    function(l, c"timedelta_millis", |call: &Call| duration::<{ nanos::MILLI }>(call));
    function(l, c"timedelta_micros", |call: &Call| duration::<{ nanos::MICRO }>(call));
    function(l, c"timedelta_nanos", |call: &Call| duration::<1>(call));
}

fn function<F: Native>(l: *mut lua_State, name: &'static CStr, function: F) {
    native::push_function(l, name, function);
    set_field(l, -2, name);
}

/// A TimeDelta of as many units of `NANOS` nanoseconds as argument 1 says.
fn duration<const NANOS: i128>(call: &Call) -> Result<Object<TimeDelta>, ApiError> {
    let total = quantity(call, 1, "n", NANOS)?;
    let duration = SignedDuration::try_from_nanos_i128(total);
    duration.map(|duration| Object(TimeDelta::new(duration))).ok_or_else(|| out_of_range("n"))
}

/// A number, decimal string, U64 or I64 at `index` as nanoseconds. A fraction of a unit counts, to the nanosecond.
fn quantity(call: &Call, index: c_int, name: &str, unit: i128) -> Result<i128, ApiError> {
    let whole = match call.kind(index) {
        Kind::Number | Kind::Integer64 => {
            return scaled(call.number(index, name)?, unit).ok_or_else(|| out_of_range(name));
        }
        Kind::String => {
            let text = call.str(index, name)?;
            match text.parse::<i128>() {
                Ok(whole) => Some(whole),
                Err(_) => {
                    let number = text.parse().ok().filter(|number: &f64| number.is_finite());
                    return number
                        .and_then(|number| scaled(number, unit))
                        .ok_or_else(|| ApiError::invalid_argument(format_args!("{name} (not a number within range)")));
                }
            }
        }
        Kind::Userdata => call
            .object_opt::<U64>(index)
            .map(|whole| i128::from(whole.0))
            .or_else(|| call.object_opt::<I64>(index).map(|whole| i128::from(whole.0))),
        _ => None,
    };
    let whole = whole.ok_or_else(|| {
        let kind = call.kind(index).name();
        ApiError::invalid_argument(format_args!("{name} (expected a number, a string, a U64 or an I64, got {kind})"))
    })?;
    whole.checked_mul(unit).ok_or_else(|| out_of_range(name))
}

/// A number of units in nanoseconds. Whole units are exact; `None` for NaN and for what no duration holds.
fn scaled(number: f64, unit: i128) -> Option<i128> {
    // Beyond this no unit fits into 64 bits of seconds.
    const MAX: f64 = 1e28;
    if number.is_nan() || number.abs() > MAX {
        return None;
    }
    let whole = number.trunc();
    let fraction = ((number - whole) * unit as f64).round() as i128;
    (whole as i128).checked_mul(unit)?.checked_add(fraction)
}

/// A whole number at `index` within a type's range.
fn integer<T: TryFrom<i64>>(call: &Call, index: c_int, name: &str) -> Result<T, ApiError> {
    let number = call.number(index, name)?;
    let whole = (number.fract() == 0.0 && number.abs() < 1e15).then_some(number as i64);
    whole.and_then(|whole| T::try_from(whole).ok()).ok_or_else(|| out_of_range(name))
}

fn out_of_range(name: &str) -> ApiError {
    ApiError::invalid_argument(format_args!("{name} (out of range)"))
}

/// The other operand of an operator, which must be a `T`.
fn operand<T: Class>(call: &Call, index: c_int) -> Result<&T, ApiError> {
    call.object::<T>(index, "operand")
}

/// Nanoseconds or the like as a number, or as an I64 where numbers are no longer exact.
struct Exact(i64);

impl Push for Exact {
    fn push(self, l: *mut lua_State) -> c_int {
        const SAFE_MAX: u64 = (1 << 53) - 1;
        if self.0.unsigned_abs() <= SAFE_MAX { (self.0 as f64).push(l) } else { Object(I64(self.0)).push(l) }
    }
}

/// Several DateTimes as several values.
struct Candidates(Vec<DateTime>);

impl Push for Candidates {
    fn push(self, l: *mut lua_State) -> c_int {
        self.0.into_iter().map(|time| Object(time).push(l)).sum()
    }
}
