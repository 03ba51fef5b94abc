//! `DateTime`: a moment in a time zone.

use std::ffi::{CStr, c_int};
use std::fmt;

use chrono::Locale;
use jiff::tz::{Dst, Offset};
use jiff::{SignedDuration, Timestamp, ZonedDateTime};

use super::{Exact, TimeDelta, TimeZone, nanos, operand, out_of_range, strftime};
use crate::error::ApiError;
use crate::luau::class::{Class, ClassBuilder, Object, tags};
use crate::luau::native::Call;
use crate::luau::stack::PushBox;

/// A moment, and the zone in which its fields are told.
#[derive(Clone, Debug)]
pub(crate) struct DateTime {
    time: ZonedDateTime,
    zone: TimeZone,
}

impl DateTime {
    /// The moment, in UTC.
    pub(crate) fn utc(timestamp: Timestamp) -> Self {
        Self::new(timestamp, TimeZone::utc())
    }

    /// The moment, in a zone.
    pub(super) fn new(timestamp: Timestamp, zone: TimeZone) -> Self {
        Self { time: timestamp.to_zoned_datetime(zone.rules().clone()), zone }
    }

    /// The moment.
    pub(crate) fn timestamp(&self) -> Timestamp {
        self.time.timestamp()
    }

    /// Nanoseconds since the Unix epoch.
    fn nanos(&self) -> i128 {
        self.timestamp().as_nanosecond()
    }

    /// The part below one second in nanoseconds, which counts forwards also before the epoch.
    fn subsec_nanos(&self) -> i128 {
        self.nanos().rem_euclid(nanos::SECOND)
    }

    pub(super) fn plus(&self, delta: TimeDelta) -> Result<Self, ApiError> {
        let sum = self.timestamp().checked_add(delta.duration()).map_err(|_| out_of_range("sum"))?;
        Ok(Self::new(sum, self.zone.clone()))
    }

    fn minus(&self, delta: TimeDelta) -> Result<Self, ApiError> {
        let rest = self.timestamp().checked_sub(delta.duration()).map_err(|_| out_of_range("difference"))?;
        Ok(Self::new(rest, self.zone.clone()))
    }

    /// The zone's offset without summer time.
    fn base_offset(&self) -> Offset {
        /// Between two summer times there is a standard time; a zone that changes its rules may have another summer time
        /// between.
        const TRANSITIONS_MAX: usize = 4;
        let rules = self.zone.rules();
        let now = rules.to_offset_info(self.timestamp());
        if now.dst() == Dst::No {
            return now.offset();
        }
        let standard = |offset: (Dst, Offset)| (offset.0 == Dst::No).then_some(offset.1);
        let before = rules.preceding(self.timestamp()).map(|change| (change.dst(), change.offset()));
        let after = rules.following(self.timestamp()).map(|change| (change.dst(), change.offset()));
        before
            .take(TRANSITIONS_MAX)
            .find_map(standard)
            .or_else(|| after.take(TRANSITIONS_MAX).find_map(standard))
            .unwrap_or(now.offset())
    }

    fn base_delta(&self) -> TimeDelta {
        TimeDelta::new(SignedDuration::from_secs(self.base_offset().seconds().into()))
    }

    fn dst_delta(&self) -> TimeDelta {
        let summer = self.time.offset().seconds() - self.base_offset().seconds();
        TimeDelta::new(SignedDuration::from_secs(summer.into()))
    }

    fn format(&self, format: &str) -> Result<String, ApiError> {
        let info = self.zone.rules().to_offset_info(self.timestamp());
        let moment = (self.nanos().div_euclid(nanos::SECOND) as i64, self.subsec_nanos() as u32);
        strftime::format(moment, (info.offset().seconds(), info.abbreviation()), format, Locale::POSIX)
    }
}

/// RFC 3339 with the zone's offset.
impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.timestamp().display_with_offset(self.time.offset()).fmt(f)
    }
}

/// A moment as RFC 3339 text in UTC.
pub(crate) fn rfc3339(timestamp: Timestamp) -> String {
    timestamp.to_string()
}

fn boxed(value: impl PushBox + 'static) -> Box<dyn PushBox> {
    Box::new(value)
}

impl Class for DateTime {
    const TAG: c_int = tags::DATE_TIME;
    const NAME: &'static str = "DateTime";
    const C_NAME: &'static CStr = c"DateTime";
    const HAS_FIELDS: bool = true;

    fn field(&self, _: &Call, name: &str) -> Result<Option<Box<dyn PushBox>>, ApiError> {
        let exact = |name, unit| i64::try_from(self.nanos().div_euclid(unit)).map_err(|_| out_of_range(name));
        Ok(Some(match name {
            "year" => boxed(f64::from(self.time.year())),
            "month" => boxed(f64::from(self.time.month())),
            "day" => boxed(f64::from(self.time.day())),
            "hour" => boxed(f64::from(self.time.hour())),
            "minute" => boxed(f64::from(self.time.minute())),
            "second" => boxed(f64::from(self.time.second())),
            "tz" | "timezone" => boxed(Object(self.zone.clone())),
            "base_offset" => boxed(Object(self.base_delta())),
            "dst_offset" => boxed(Object(self.dst_delta())),
            "timestamp_seconds" => boxed(self.nanos().div_euclid(nanos::SECOND) as f64),
            "timestamp_millis" => boxed(self.nanos().div_euclid(nanos::MILLI) as f64),
            "timestamp_micros" => boxed((self.subsec_nanos() / nanos::MICRO) as f64),
            "timestamp_nanos" => boxed(self.subsec_nanos() as f64),
            "unix_micros" => boxed(Exact(exact("unix_micros", nanos::MICRO)?)),
            "unix_nanos" => boxed(Exact(exact("unix_nanos", 1)?)),
            _ => return Ok(None),
        }))
    }

    fn register(class: &mut ClassBuilder) {
        class
            .method(c"with_timezone", |call: &Call| {
                let time = call.object::<Self>(1, "self")?;
                Ok(Object(Self::new(time.timestamp(), call.object::<TimeZone>(2, "tz")?.clone())))
            })
            .method(c"format", |call: &Call| call.object::<Self>(1, "self")?.format(call.str(2, "format")?))
            .method(c"duration_since", |call: &Call| {
                let (time, since) = (call.object::<Self>(1, "self")?, call.object::<Self>(2, "dt")?);
                Ok(Object(TimeDelta::new(time.timestamp().duration_since(since.timestamp()))))
            })
            .meta(c"__add", |call: &Call| Ok(Object(operand::<Self>(call, 1)?.plus(*operand(call, 2)?)?)))
            .meta(c"__sub", |call: &Call| Ok(Object(operand::<Self>(call, 1)?.minus(*operand(call, 2)?)?)))
            .meta(c"__eq", |call: &Call| Ok(moment(call, 1)? == moment(call, 2)?))
            .meta(c"__lt", |call: &Call| Ok(moment(call, 1)? < moment(call, 2)?))
            .meta(c"__le", |call: &Call| Ok(moment(call, 1)? <= moment(call, 2)?))
            .meta(c"__tostring", |call: &Call| Ok(call.object::<Self>(1, "self")?.to_string()));
    }
}

fn moment(call: &Call, index: c_int) -> Result<Timestamp, ApiError> {
    operand::<DateTime>(call, index).map(DateTime::timestamp)
}
