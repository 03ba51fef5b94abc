//! `@antiraid/datetime` (template API, section 14.8).

use std::ffi::{CStr, c_int};
use std::fmt;

use jiff::{SignedDuration, Timestamp};

use crate::luau::class::{Class, tags};
use crate::luau::lua_State;

/// A moment in a time zone.
#[derive(Clone, Debug)]
pub(crate) struct DateTime(jiff::ZonedDateTime);

/// A length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimeDelta(SignedDuration);

/// A time zone.
#[derive(Clone, Debug)]
pub(crate) struct TimeZone(jiff::tz::TimeZone, String);

impl DateTime {
    /// The moment, in UTC.
    pub(crate) fn utc(timestamp: Timestamp) -> Self {
        Self(timestamp.to_zoned_datetime(jiff::tz::TimeZone::UTC))
    }

    /// The moment.
    pub(crate) fn timestamp(&self) -> Timestamp {
        self.0.timestamp()
    }
}

impl TimeDelta {
    /// This length.
    pub(crate) fn new(duration: SignedDuration) -> Self {
        Self(duration)
    }

    /// The length.
    pub(crate) fn duration(self) -> SignedDuration {
        self.0
    }
}

impl TimeZone {
    /// The zone of this name, if the database has it.
    pub(crate) fn named(name: &str) -> Option<Self> {
        jiff::tz::TimeZone::get(name).ok().map(|zone| Self(zone, name.to_owned()))
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.1
    }
}

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&rfc3339(self.0.timestamp()))
    }
}

impl fmt::Display for TimeDelta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A moment as RFC 3339 text in UTC.
pub(crate) fn rfc3339(timestamp: Timestamp) -> String {
    timestamp.to_string()
}

impl Class for DateTime {
    const TAG: c_int = tags::DATE_TIME;
    const NAME: &'static str = "DateTime";
    const C_NAME: &'static CStr = c"DateTime";
}

impl Class for TimeDelta {
    const TAG: c_int = tags::TIME_DELTA;
    const NAME: &'static str = "TimeDelta";
    const C_NAME: &'static CStr = c"TimeDelta";
}

impl Class for TimeZone {
    const TAG: c_int = tags::TIME_ZONE;
    const NAME: &'static str = "TimeZone";
    const C_NAME: &'static CStr = c"TimeZone";
}

/// Pushes the module. May raise.
pub(crate) fn push_module(l: *mut lua_State) {
    // SAFETY: one value.
    #[expect(unsafe_code, reason = "Luau's C API")]
    unsafe {
        crate::luau::ffi::lua_createtable(l, 0, 0);
    }
}
