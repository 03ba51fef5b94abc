//! Identities: what a tenant, a Discord object and a worker are called.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A Discord id: 64 bits of which the upper 42 are milliseconds since 2015-01-01
/// (<https://discord.com/developers/docs/reference#snowflakes>). Written as a decimal string everywhere outside Rust.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Snowflake(u64);

impl Snowflake {
    /// Milliseconds from the Unix epoch to Discord's own.
    const DISCORD_EPOCH_MILLIS: u64 = 1_420_070_400_000;

    /// Wraps a raw id.
    pub const fn new(id: u64) -> Self {
        Self(id)
    }

    /// The raw id.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// When Discord made the object, in milliseconds since the Unix epoch.
    pub const fn created_at_millis(self) -> u64 {
        (self.0 >> 22) + Self::DISCORD_EPOCH_MILLIS
    }
}

impl fmt::Display for Snowflake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Snowflake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Snowflake {
    type Err = IdParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<u64>() {
            Ok(0) => Err(IdParseError { text: text.into(), source: None }),
            Ok(id) => Ok(Self(id)),
            Err(source) => Err(IdParseError { text: text.into(), source: Some(source) }),
        }
    }
}

impl Serialize for Snowflake {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Snowflake {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Snowflake;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a Discord id: a decimal string or an integer")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Snowflake, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: serde::de::Error>(self, id: u64) -> Result<Snowflake, E> {
                Ok(Snowflake(id))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Who owns templates, records and limits: a guild, or a user who installed the bot for themselves.
///
/// Written `guild:<id>` or `user:<id>`; a bare id is read as a guild.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TenantId {
    /// A guild (a Discord server).
    Guild(Snowflake),
    /// A user, for what they installed outside any guild.
    User(Snowflake),
}

impl TenantId {
    /// The guild with this raw id.
    pub const fn guild(id: u64) -> Self {
        Self::Guild(Snowflake::new(id))
    }

    /// The user with this raw id.
    pub const fn user(id: u64) -> Self {
        Self::User(Snowflake::new(id))
    }

    /// The Discord id, whichever kind it is of.
    pub const fn snowflake(self) -> Snowflake {
        match self {
            Self::Guild(id) | Self::User(id) => id,
        }
    }

    /// `guild` or `user`.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Guild(_) => "guild",
            Self::User(_) => "user",
        }
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind(), self.snowflake())
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TenantId {
    type Err = IdParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let whole = |mut error: IdParseError| {
            error.text = text.into();
            error
        };
        match text.split_once(':') {
            None => text.parse().map(Self::Guild),
            Some(("guild", id)) => id.parse().map(Self::Guild).map_err(whole),
            Some(("user", id)) => id.parse().map(Self::User).map_err(whole),
            Some(_) => Err(IdParseError { text: text.into(), source: None }),
        }
    }
}

impl Serialize for TenantId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TenantId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The number of a worker, unique in its process and its name in logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId(u32);

impl WorkerId {
    /// Names the worker with this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that should have been a Discord id or a tenant.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not an id: expected a positive decimal number, `guild:<number>` or `user:<number>`")]
pub struct IdParseError {
    text: Box<str>,
    source: Option<ParseIntError>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_ids_round_trip_through_text() {
        for id in [TenantId::guild(81384788765712384), TenantId::user(1), TenantId::guild(u64::MAX)] {
            assert_eq!(id.to_string().parse::<TenantId>().unwrap(), id);
        }
        assert_eq!("42".parse::<TenantId>().unwrap(), TenantId::guild(42));
    }

    #[test]
    fn what_is_no_id_is_refused_with_the_text() {
        for text in ["", "0", "guild:", "guild:0", "role:5", "-1", "18446744073709551616", "user:1:2"] {
            let error = text.parse::<TenantId>().unwrap_err();
            assert!(error.to_string().contains(&format!("`{text}`")), "{error}");
        }
    }

    #[test]
    fn a_snowflake_knows_when_it_was_made() {
        // The example of Discord's reference page: 175928847299117063 is 2016-04-30 11:18:25.796 UTC.
        assert_eq!(Snowflake::new(175928847299117063).created_at_millis(), 1462015105796);
    }
}
