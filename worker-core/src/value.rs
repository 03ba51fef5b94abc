//! Values that leave a VM: results, records, arguments of data stores.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

/// A value as templates know it, outside of any VM (`KhronosValue` in the template API, section 15).
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// Nothing; `nil` in Luau.
    #[default]
    Null,
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number within 64 bits.
    Integer(i64),
    /// A whole number that a template made with `U64`.
    UnsignedInteger(u64),
    /// Any other number; always finite.
    Float(f64),
    /// A string that is UTF-8.
    Text(String),
    /// A string that is not UTF-8.
    Bytes(Bytes),
    /// A Luau buffer.
    Buffer(Bytes),
    /// A Luau vector.
    Vector([f32; 3]),
    /// Values in order.
    List(Vec<Value>),
    /// Values by name.
    Map(BTreeMap<String, Value>),
    /// A value that Luau sees only when it asks for it.
    Lazy(Box<Value>),
    /// A moment.
    Timestamptz(Timestamp),
    /// A length of time.
    Interval(SignedDuration),
    /// The IANA name of a time zone.
    TimeZone(String),
}

/// Why something is not a [`Value`]. The texts are part of the template API.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// NaN or an infinity.
    #[error("invalid_value: not a finite number")]
    NotFinite,
    /// A list that has other keys beside 1..#t.
    #[error("invalid_value: mixed table")]
    MixedTable,
    /// A key that is neither a string nor a number.
    #[error("invalid_value: a key of type {0}")]
    BadKey(&'static str),
    /// The key that marks stored types, in a template's own map.
    #[error("invalid_value: reserved key")]
    ReservedKey,
    /// A function, a thread, a foreign userdata.
    #[error("invalid_value: a {0} cannot be converted")]
    Unconvertible(String),
    /// A tag of the storage form that this program does not know.
    #[error("invalid_value: unknown tag `{0}`")]
    UnknownTag(String),
    /// A known tag with a value that does not fit it.
    #[error("invalid_value: bad {tag}: {reason}")]
    BadTagged {
        /// The tag.
        tag: &'static str,
        /// What is wrong with its value.
        reason: String,
    },
    /// Text that is not JSON.
    #[error("invalid_value: not JSON: {0}")]
    NotJson(String),
    /// Nested too deeply, or in itself.
    #[error("too_large: depth (at most {0} levels)")]
    TooDeep(usize),
}

impl Value {
    /// The depth that templates may rely on (template API, section 12.1).
    pub const DEPTH_MAX: usize = 32;

    /// The key that marks an object of the storage form as something JSON has no word for.
    pub const TAG_KEY: &'static str = "___khronosValType___";
}

macro_rules! from {
    ($($variant:ident <- $type:ty),* $(,)?) => { $(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$variant(value.into())
            }
        }
    )* };
}

from! {
    Boolean <- bool, Integer <- i64, Integer <- i32, Integer <- u32, UnsignedInteger <- u64,
    Text <- String, Text <- &str, List <- Vec<Value>, Map <- BTreeMap<String, Value>,
    Timestamptz <- Timestamp, Interval <- SignedDuration,
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl<const N: usize> From<[(&str, Self); N]> for Value {
    fn from(fields: [(&str, Self); N]) -> Self {
        Self::Map(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}
