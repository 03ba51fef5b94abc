//! `TimeDelta`: a length of time.

use std::ffi::{CStr, c_int};
use std::fmt;

use jiff::SignedDuration;

use super::{DateTime, nanos, operand, out_of_range};
use crate::error::ApiError;
use crate::luau::class::{Class, ClassBuilder, Object, tags};
use crate::luau::native::Call;
use crate::luau::stack::PushBox;

/// A length of time, to the nanosecond, forwards or backwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimeDelta(SignedDuration);

impl TimeDelta {
    /// This length.
    pub(crate) fn new(duration: SignedDuration) -> Self {
        Self(duration)
    }

    /// The length.
    pub(crate) fn duration(self) -> SignedDuration {
        self.0
    }

    /// Whole units of this many nanoseconds, towards zero.
    fn whole(self, unit: i128) -> f64 {
        (self.0.as_nanos() / unit) as f64
    }

    /// As the offset of a time zone: `+05:30`.
    fn offset_string(self) -> String {
        let minutes = self.0.as_secs().unsigned_abs() / 60;
        let sign = if self.0.is_negative() { '-' } else { '+' };
        format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

impl fmt::Display for TimeDelta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Class for TimeDelta {
    const TAG: c_int = tags::TIME_DELTA;
    const NAME: &'static str = "TimeDelta";
    const C_NAME: &'static CStr = c"TimeDelta";
    const HAS_FIELDS: bool = true;

    fn field(&self, _: &Call, name: &str) -> Result<Option<Box<dyn PushBox>>, ApiError> {
        Ok(Some(Box::new(match name {
            "nanos" => self.whole(1),
            "micros" => self.whole(nanos::MICRO),
            "millis" => self.whole(nanos::MILLI),
            "seconds" => self.whole(nanos::SECOND),
            "minutes" => self.whole(nanos::MINUTE),
            "hours" => self.whole(nanos::HOUR),
            "days" => self.whole(nanos::DAY),
            "weeks" => self.whole(nanos::WEEK),
            "as_secs" => self.0.as_secs_f64(),
            _ => return Ok(None),
        })))
    }

    fn register(class: &mut ClassBuilder) {
        class
            .method(c"offset_string", |call: &Call| Ok(call.object::<Self>(1, "self")?.offset_string()))
            .meta(c"__add", |call: &Call| {
                // `delta + time` is `time + delta`.
                if let Some(time) = call.object_opt::<DateTime>(2) {
                    return Ok(Sum::Time(Object(time.plus(*operand::<Self>(call, 1)?)?)));
                }
                let (a, b) = (operand::<Self>(call, 1)?, operand::<Self>(call, 2)?);
                a.0.checked_add(b.0).map(|sum| Sum::Delta(Object(Self(sum)))).ok_or_else(|| out_of_range("sum"))
            })
            .meta(c"__sub", |call: &Call| {
                let (a, b) = (operand::<Self>(call, 1)?, operand::<Self>(call, 2)?);
                a.0.checked_sub(b.0).map(|rest| Object(Self(rest))).ok_or_else(|| out_of_range("difference"))
            })
            .meta(c"__eq", |call: &Call| Ok(operand::<Self>(call, 1)? == operand::<Self>(call, 2)?))
            .meta(c"__lt", |call: &Call| Ok(operand::<Self>(call, 1)? < operand::<Self>(call, 2)?))
            .meta(c"__le", |call: &Call| Ok(operand::<Self>(call, 1)? <= operand::<Self>(call, 2)?))
            .meta(c"__tostring", |call: &Call| Ok(call.object::<Self>(1, "self")?.to_string()));
    }
}

enum Sum {
    Time(Object<DateTime>),
    Delta(Object<TimeDelta>),
}

impl crate::luau::stack::Push for Sum {
    fn push(self, l: *mut crate::luau::lua_State) -> c_int {
        match self {
            Self::Time(time) => time.push(l),
            Self::Delta(delta) => delta.push(l),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_written_with_sign_hours_and_minutes() {
        let offset = |secs| TimeDelta(SignedDuration::from_secs(secs)).offset_string();
        assert_eq!(offset(19_800), "+05:30");
        assert_eq!(offset(-12_600), "-03:30");
        assert_eq!(offset(0), "+00:00");
        assert_eq!(offset(-1), "-00:00");
        assert_eq!(offset(i64::MIN), "-2562047788015215:30");
    }
}
