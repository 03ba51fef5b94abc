//! `TimeZone`: the rules by which a place tells the time.

use std::ffi::{CStr, c_int};
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::{self, Date, Time};
use jiff::tz::AmbiguousOffset;

use super::{Candidates, DateTime, integer, nanos, out_of_range, quantity};
use crate::error::ApiError;
use crate::luau::class::{Class, ClassBuilder, Object, tags};
use crate::luau::native::Call;
use crate::luau::stack::PushBox;
use crate::runtime::vm::Vm;

/// Names that people use for zones which IANA's database calls otherwise, or means something else by (its `EST` has no
/// summer time).
const ALIASES: [(&str, &str); 9] = [
    ("IST", "Asia/Kolkata"),
    ("PST", "America/Los_Angeles"),
    ("PDT", "America/Los_Angeles"),
    ("EST", "America/New_York"),
    ("EDT", "America/New_York"),
    ("CST", "America/Chicago"),
    ("CDT", "America/Chicago"),
    ("MST", "America/Denver"),
    ("MDT", "America/Denver"),
];

/// A time zone.
#[derive(Clone, Debug)]
pub(crate) struct TimeZone {
    rules: jiff::tz::TimeZone,
    name: Arc<str>,
}

impl TimeZone {
    /// The zone of this name or alias, if the database has it. Names ignore case.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let alias = ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(name));
        let rules = jiff::tz::TimeZone::get(alias.map_or(name, |(_, iana)| iana)).ok()?;
        if rules.is_unknown() {
            return None;
        }
        let name = rules.iana_name().unwrap_or(name).into();
        Some(Self { rules, name })
    }

    pub(crate) fn utc() -> Self {
        Self { rules: jiff::tz::TimeZone::UTC, name: "UTC".into() }
    }

    /// Its name in IANA's database.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn rules(&self) -> &jiff::tz::TimeZone {
        &self.rules
    }

    fn at(&self, timestamp: Timestamp) -> Object<DateTime> {
        Object(DateTime::new(timestamp, self.clone()))
    }

    /// The moments at which clocks here show this: none where they jump over it, two where they were put back.
    fn moments(&self, local: civil::DateTime) -> Result<Vec<Timestamp>, ApiError> {
        let offsets = match self.rules.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => vec![offset],
            AmbiguousOffset::Gap { .. } => vec![],
            AmbiguousOffset::Fold { before, after } => vec![before, after],
        };
        let moments = offsets.into_iter().map(|offset| offset.to_timestamp(local));
        moments.collect::<Result<_, _>>().map_err(|_| out_of_range("time"))
    }

    fn first_moment(&self, local: civil::DateTime) -> Result<Timestamp, ApiError> {
        self.moments(local)?.first().copied().ok_or_else(|| self.no_such_time())
    }

    fn no_such_time(&self) -> ApiError {
        ApiError::invalid_argument(format_args!("time (clocks in {} jump over it)", self.name))
    }
}

impl Class for TimeZone {
    const TAG: c_int = tags::TIME_ZONE;
    const NAME: &'static str = "TimeZone";
    const C_NAME: &'static CStr = c"TimeZone";
    const HAS_FIELDS: bool = true;

    fn field(&self, _: &Call, name: &str) -> Result<Option<Box<dyn PushBox>>, ApiError> {
        Ok((name == "name").then(|| Box::new(self.name.clone()) as Box<dyn PushBox>))
    }

    fn register(class: &mut ClassBuilder) {
        class
            .method(c"utcToTz", |call: &Call| {
                // In UTC no time is ambiguous, so `all` changes nothing.
                let moment = Self::utc().first_moment(date_time(call)?)?;
                Ok(this(call)?.at(moment))
            })
            .method(c"tzToUtc", |call: &Call| {
                let (zone, all) = (this(call)?, call.flag(8, "all")?);
                let mut moments = zone.moments(date_time(call)?)?;
                if moments.is_empty() {
                    return Err(zone.no_such_time());
                }
                if !all {
                    moments.truncate(1);
                }
                Ok(Candidates(moments.into_iter().map(DateTime::utc).collect()))
            })
            .method(c"timeUtcToTz", |call: &Call| {
                let today = today(&Self::utc());
                let moment = Self::utc().first_moment(today.to_datetime(time(call, 2)?))?;
                Ok(this(call)?.at(moment))
            })
            .method(c"timeTzToUtc", |call: &Call| {
                let zone = this(call)?;
                let local = today(zone).to_datetime(time(call, 2)?);
                Ok(Object(DateTime::utc(zone.first_moment(local)?)))
            })
            .method(c"now", |call: &Call| Ok(this(call)?.at(call.vm().clock().now())))
            .method(c"fromString", |call: &Call| {
                let moment = call.str(2, "s")?.parse();
                let moment = moment.map_err(|_| ApiError::invalid_argument("s (not a time by RFC 3339)"))?;
                Ok(this(call)?.at(moment))
            })
            .method(c"fromTime", |call: &Call| from_epoch::<{ nanos::SECOND }>(call))
            .method(c"fromTimeMillis", |call: &Call| from_epoch::<{ nanos::MILLI }>(call))
            .method(c"fromTimeMicros", |call: &Call| from_epoch::<{ nanos::MICRO }>(call))
            .method(c"fromTimeNanos", |call: &Call| from_epoch::<1>(call))
            .meta(c"__eq", |call: &Call| Ok(this(call)?.name == call.object::<Self>(2, "operand")?.name))
            .meta(c"__tostring", |call: &Call| Ok(this(call)?.name.clone()));
    }
}

fn this(call: &Call) -> Result<&TimeZone, ApiError> {
    call.object(1, "self")
}

/// Arguments 2 to 7: year, month, day, hour, minute, second.
fn date_time(call: &Call) -> Result<civil::DateTime, ApiError> {
    let (year, month, day) = (integer(call, 2, "year")?, integer(call, 3, "month")?, integer(call, 4, "day")?);
    let date =
        Date::new(year, month, day).map_err(|error| ApiError::invalid_argument(format_args!("date ({error})")))?;
    Ok(date.to_datetime(time(call, 5)?))
}

/// Three arguments from `first` on: hour, minute, second.
fn time(call: &Call, first: c_int) -> Result<Time, ApiError> {
    let hour = integer(call, first, "hour")?;
    let (minute, second) = (integer(call, first + 1, "minute")?, integer(call, first + 2, "second")?);
    Time::new(hour, minute, second, 0).map_err(|error| ApiError::invalid_argument(format_args!("time ({error})")))
}

fn today(zone: &TimeZone) -> Date {
    zone.rules.to_datetime(Vm::current().clock().now()).date()
}

/// Argument 2 as so many units of `NANOS` nanoseconds since the Unix epoch.
fn from_epoch<const NANOS: i128>(call: &Call) -> Result<Object<DateTime>, ApiError> {
    let zone = this(call)?;
    let moment = Timestamp::from_nanosecond(quantity(call, 2, "time", NANOS)?).map_err(|_| out_of_range("time"))?;
    Ok(zone.at(moment))
}
