//! The JSON in which values are stored and sent (template API, section 15.3).
//!
//! Null, booleans, numbers, text, lists and maps are themselves. The rest is an object of exactly two keys:
//! `___khronosValType___`, the tag, and `value`.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error as _, SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Value, ValueError};

/// A value as JSON that reads back as the same value: for records, and between workers. `Value` itself serialises so.
///
/// Three values come back in another shape, by the rules of the table: an [`UnsignedInteger`](Value::UnsignedInteger)
/// that fits in an `i64` as [`Integer`](Value::Integer), and [`Lazy`](Value::Lazy) as what it holds. Serialising fails,
/// with the text of the [`ValueError`], on what could not be read back: numbers that are not finite, the reserved key,
/// and more than [`Value::DEPTH_MAX`] levels.
#[derive(Clone, Copy, Debug)]
pub struct Tagged<'a>(pub &'a Value);

/// A value as plain JSON for answers that leave the system: moments as RFC 3339, bytes as base64, intervals in seconds,
/// time zones by name, vectors as lists. It does not read back as the same value. Fails where [`Tagged`] does.
#[derive(Clone, Copy, Debug)]
pub struct Untyped<'a>(pub &'a Value);

impl Value {
    /// The storage form, which [`from_json`](Self::from_json) reads.
    pub fn to_json(&self) -> Result<String, ValueError> {
        to_json(self, Form::Tagged)
    }

    /// The form for answers that leave the system; see [`Untyped`].
    pub fn to_json_untyped(&self) -> Result<String, ValueError> {
        to_json(self, Form::Untyped)
    }

    /// Reads the storage form.
    ///
    /// A whole number is an [`Integer`](Self::Integer) if it fits in an `i64`, else an
    /// [`UnsignedInteger`](Self::UnsignedInteger) if it fits in a `u64`, else a [`Float`](Self::Float). Of a key that comes
    /// twice the last one counts.
    pub fn from_json(json: &[u8]) -> Result<Self, ValueError> {
        let fault = Cell::new(None);
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        read(&mut deserializer, &fault)
            .and_then(|value| deserializer.end().map(|()| value))
            .map_err(|error| fault.take().unwrap_or_else(|| ValueError::NotJson(error.to_string())))
    }

    /// How many lists and maps are inside each other at the deepest place: 0 for a number, 1 for a list of numbers.
    pub fn depth(&self) -> usize {
        match self {
            Self::List(items) => 1 + items.iter().map(Self::depth).max().unwrap_or(0),
            Self::Map(fields) => 1 + fields.values().map(Self::depth).max().unwrap_or(0),
            Self::Lazy(inner) => inner.depth(),
            _ => 0,
        }
    }
}

impl Serialize for Tagged<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Node::root(self.0, Form::Tagged, &Cell::new(None)).serialize(serializer)
    }
}

impl Serialize for Untyped<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Node::root(self.0, Form::Untyped, &Cell::new(None)).serialize(serializer)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Tagged(self).serialize(serializer)
    }
}

/// For self-describing formats, such as JSON, only: the storage form does not say beforehand what comes.
impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer, &Cell::new(None))
    }
}

/// Where the typed error is kept while serde carries its text.
type Fault = Cell<Option<ValueError>>;

#[derive(Clone, Copy)]
enum Form {
    Tagged,
    Untyped,
}

fn to_json(value: &Value, form: Form) -> Result<String, ValueError> {
    let fault = Cell::new(None);
    serde_json::to_string(&Node::root(value, form, &fault))
        .map_err(|error| fault.take().unwrap_or_else(|| ValueError::NotJson(error.to_string())))
}

/// A value on its way out, with how deep it is.
struct Node<'a> {
    value: &'a Value,
    form: Form,
    depth: usize,
    fault: &'a Fault,
}

impl<'a> Node<'a> {
    fn root(value: &'a Value, form: Form, fault: &'a Fault) -> Self {
        Self { value, form, depth: 0, fault }
    }

    /// A value inside this one, which is a list or a map.
    fn child(&self, value: &'a Value) -> Self {
        Node { value, depth: self.depth + 1, ..*self }
    }

    fn refuse<S: Serializer>(&self, error: ValueError) -> Result<S::Ok, S::Error> {
        let text = S::Error::custom(&error);
        self.fault.set(Some(error));
        Err(text)
    }

    /// `tagged` under its tag, or `untyped` bare, as the form says.
    fn typed<S: Serializer>(
        &self,
        serializer: S,
        tag: Tag,
        tagged: impl Serialize,
        untyped: impl Serialize,
    ) -> Result<S::Ok, S::Error> {
        match self.form {
            Form::Untyped => untyped.serialize(serializer),
            Form::Tagged => {
                let mut object = serializer.serialize_map(Some(2))?;
                object.serialize_entry(Value::TAG_KEY, tag.as_str())?;
                object.serialize_entry(VALUE_KEY, &tagged)?;
                object.end()
            }
        }
    }
}

impl Serialize for Node<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if matches!(self.value, Value::List(_) | Value::Map(_)) && self.depth >= Value::DEPTH_MAX {
            return self.refuse::<S>(ValueError::TooDeep(Value::DEPTH_MAX));
        }
        match self.value {
            Value::Null => serializer.serialize_unit(),
            Value::Boolean(value) => serializer.serialize_bool(*value),
            Value::Integer(value) => serializer.serialize_i64(*value),
            Value::UnsignedInteger(value) => serializer.serialize_u64(*value),
            Value::Float(value) if value.is_finite() => serializer.serialize_f64(*value),
            Value::Float(_) => self.refuse::<S>(ValueError::NotFinite),
            Value::Text(text) => serializer.serialize_str(text),
            Value::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(&self.child(item))?;
                }
                list.end()
            }
            Value::Map(fields) if fields.contains_key(Value::TAG_KEY) => self.refuse::<S>(ValueError::ReservedKey),
            Value::Map(fields) => {
                let mut object = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    object.serialize_entry(name, &self.child(value))?;
                }
                object.end()
            }
            Value::Lazy(inner) => Node { value: inner, ..*self }.serialize(serializer),
            Value::Bytes(bytes) => self.typed(serializer, Tag::Bytes, Base64(bytes), Base64(bytes)),
            Value::Buffer(bytes) => self.typed(serializer, Tag::Buffer, Base64(bytes), Base64(bytes)),
            Value::Vector(parts) if parts.iter().all(|part| part.is_finite()) => {
                // As f64: the shortest text of an f32, read as an f64 and rounded again, may be its neighbour.
                let parts = parts.map(f64::from);
                self.typed(serializer, Tag::Vector, parts, parts)
            }
            Value::Vector(_) => self.refuse::<S>(ValueError::NotFinite),
            Value::Timestamptz(moment) => {
                // jiff writes RFC 3339 in UTC.
                let text = moment.to_string();
                self.typed(serializer, Tag::Timestamptz, &text, &text)
            }
            Value::Interval(interval) => self.typed(serializer, Tag::Interval, Nanos(*interval), Secs(*interval)),
            Value::TimeZone(name) => self.typed(serializer, Tag::TimeZone, name, name),
        }
    }
}

const VALUE_KEY: &str = "value";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    Buffer,
    Vector,
    Timestamptz,
    Interval,
    TimeZone,
    Bytes,
}

impl Tag {
    const ALL: [Self; 6] = [Self::Buffer, Self::Vector, Self::Timestamptz, Self::Interval, Self::TimeZone, Self::Bytes];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Buffer => "buffer",
            Self::Vector => "vector",
            Self::Timestamptz => "timestamptz",
            Self::Interval => "interval",
            Self::TimeZone => "timezone",
            Self::Bytes => "bytes",
        }
    }

    /// The value of an object that has the tag key. `tag` is what stood under that key, `rest` are the other keys.
    fn read_object(tag: &Value, mut rest: BTreeMap<String, Value>) -> Result<Value, ValueError> {
        let Value::Text(name) = tag else {
            return Err(ValueError::UnknownTag(format!("a {}, not text", kind(tag))));
        };
        let Some(tag) = Self::ALL.into_iter().find(|tag| tag.as_str() == name) else {
            return Err(ValueError::UnknownTag(name.clone()));
        };
        match rest.remove(VALUE_KEY) {
            Some(value) if rest.is_empty() => tag.read(value),
            _ => Err(format!("expected the keys `{}` and `{VALUE_KEY}` and no other", Value::TAG_KEY)),
        }
        .map_err(|reason| ValueError::BadTagged { tag: tag.as_str(), reason })
    }

    fn read(self, value: Value) -> Result<Value, String> {
        let wanted = match (self, value) {
            (Self::Buffer, Value::Text(text)) => return base64_bytes(&text).map(Value::Buffer),
            (Self::Buffer, Value::List(numbers)) => {
                let byte = |number: &Value| match number {
                    Value::Integer(number) => u8::try_from(*number).ok(),
                    _ => None,
                };
                match numbers.iter().map(byte).collect::<Option<Vec<u8>>>() {
                    Some(bytes) => return Ok(Value::Buffer(bytes.into())),
                    None => "whole numbers from 0 to 255",
                }
            }
            (Self::Buffer, _) => "base64 or a list of bytes",
            (Self::Bytes, Value::Text(text)) => return base64_bytes(&text).map(Value::Bytes),
            (Self::Bytes, _) => "base64",
            (Self::Vector, Value::List(parts)) => {
                let part = |part: &Value| match part {
                    // To f32 is how Luau itself rounds the parts of a vector.
                    Value::Integer(part) => Some(*part as f32),
                    Value::Float(part) => Some(*part as f32).filter(|part| part.is_finite()),
                    _ => None,
                };
                let parts: Option<Vec<f32>> = parts.iter().map(part).collect();
                match parts.and_then(|parts| parts.try_into().ok()) {
                    Some(parts) => return Ok(Value::Vector(parts)),
                    None => "3 numbers",
                }
            }
            (Self::Vector, _) => "a list of 3 numbers",
            (Self::Timestamptz, Value::Text(text)) => {
                return text.parse::<Timestamp>().map(Value::Timestamptz).map_err(|error| error.to_string());
            }
            (Self::Timestamptz, _) => "an RFC 3339 text",
            (Self::Interval, value) => match interval(&value) {
                Some(interval) => return Ok(Value::Interval(interval)),
                None => "whole nanoseconds, as an integer, a decimal text or [seconds, nanoseconds]",
            },
            (Self::TimeZone, Value::Text(name)) => return Ok(Value::TimeZone(name)),
            (Self::TimeZone, _) => "the name of a time zone",
        };
        Err(format!("expected {wanted}"))
    }
}

fn base64_bytes(text: &str) -> Result<Bytes, String> {
    STANDARD.decode(text).map(Bytes::from).map_err(|error| error.to_string())
}

/// The interval written in one of the forms that are accepted, if it is one and fits.
fn interval(value: &Value) -> Option<SignedDuration> {
    match value {
        Value::Integer(nanos) => Some(SignedDuration::from_nanos(*nanos)),
        Value::UnsignedInteger(nanos) => SignedDuration::try_from_nanos_i128(i128::from(*nanos)),
        Value::Text(nanos) => SignedDuration::try_from_nanos_i128(nanos.parse().ok()?),
        Value::List(parts) => match parts[..] {
            [Value::Integer(secs), Value::Integer(nanos)] => {
                SignedDuration::from_secs(secs).checked_add(SignedDuration::from_nanos(nanos))
            }
            _ => None,
        },
        _ => None,
    }
}

/// What a value is called in messages.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Boolean(_) => "boolean",
        Value::Integer(_) | Value::UnsignedInteger(_) | Value::Float(_) => "number",
        Value::List(_) => "list",
        _ => "map",
    }
}

struct Base64<'a>(&'a Bytes);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0, &STANDARD))
    }
}

/// Whole nanoseconds; beyond i64 (292 years) as text, since JSON readers make floats of larger integers.
struct Nanos(SignedDuration);

impl Serialize for Nanos {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let nanos = self.0.as_nanos();
        match i64::try_from(nanos) {
            Ok(nanos) => serializer.serialize_i64(nanos),
            Err(_) => serializer.collect_str(&nanos),
        }
    }
}

struct Secs(SignedDuration);

impl Serialize for Secs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.subsec_nanos() {
            0 => serializer.serialize_i64(self.0.as_secs()),
            _ => serializer.serialize_f64(self.0.as_secs_f64()),
        }
    }
}

fn read<'de, D: Deserializer<'de>>(deserializer: D, fault: &Fault) -> Result<Value, D::Error> {
    let reader = Reader { level: 0, fault };
    let value = reader.deserialize(deserializer)?;
    if value.depth() > Value::DEPTH_MAX {
        return reader.refuse(ValueError::TooDeep(Value::DEPTH_MAX));
    }
    Ok(value)
}

/// Reads a value that is inside `level` lists and objects of the JSON.
#[derive(Clone, Copy)]
struct Reader<'a> {
    level: usize,
    fault: &'a Fault,
}

impl Reader<'_> {
    /// A tagged interval in the deepest list: the object and the `[seconds, nanoseconds]` are levels of JSON, though not of
    /// the value. This bounds the recursion; `read` then looks at the value itself.
    const LEVEL_MAX: usize = Value::DEPTH_MAX + 2;

    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.level >= Self::LEVEL_MAX {
            return self.refuse(ValueError::TooDeep(Value::DEPTH_MAX));
        }
        Ok(Self { level: self.level + 1, ..self })
    }

    fn refuse<T, E: serde::de::Error>(self, error: ValueError) -> Result<T, E> {
        let text = E::custom(&error);
        self.fault.set(Some(error));
        Err(text)
    }
}

const _: () = assert!(Reader::LEVEL_MAX < 128, "because serde_json's own limit must not be met first");

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value in its JSON storage form")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::UnsignedInteger(value), Value::Integer))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        if value.is_finite() { Ok(Value::Float(value)) } else { self.refuse(ValueError::NotFinite) }
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        // The tag may come after the value (PostgreSQL's jsonb puts shorter keys first), so all is read before it is
        // looked at.
        let mut tag = None;
        let mut fields = BTreeMap::new();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let value = map.next_value_seed(inner)?;
            if name == Value::TAG_KEY {
                tag = Some(value);
            } else {
                fields.insert(name.into_owned(), value);
            }
        }
        match tag {
            None => Ok(Value::Map(fields)),
            Some(tag) => Tag::read_object(&tag, fields).or_else(|error| self.refuse(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read_back(value: &Value) -> Value {
        Value::from_json(value.to_json().unwrap().as_bytes()).unwrap()
    }

    /// What the table says a value is after it was stored.
    fn stored(value: Value) -> Value {
        match value {
            Value::UnsignedInteger(n) => i64::try_from(n).map_or(Value::UnsignedInteger(n), Value::Integer),
            Value::Lazy(inner) => stored(*inner),
            Value::List(items) => Value::List(items.into_iter().map(stored).collect()),
            Value::Map(fields) => Value::Map(fields.into_iter().map(|(name, value)| (name, stored(value))).collect()),
            value => value,
        }
    }

    /// Any value of at most 5 levels.
    fn any_value() -> impl Strategy<Value = Value> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
        let finite = || any::<f32>().prop_filter("finite", |part| part.is_finite());
        let moment = (Timestamp::MIN.as_second()..Timestamp::MAX.as_second(), 0..1_000_000_000i32);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Boolean),
            any::<i64>().prop_map(Value::Integer),
            any::<u64>().prop_map(Value::UnsignedInteger),
            any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Value::Float),
            any::<String>().prop_map(Value::Text),
            bytes().prop_map(Value::Bytes),
            bytes().prop_map(Value::Buffer),
            [finite(), finite(), finite()].prop_map(Value::Vector),
            moment.prop_map(|(secs, nanos)| Value::Timestamptz(Timestamp::new(secs, nanos).unwrap())),
            (any::<i64>(), 0..1_000_000_000i32)
                .prop_map(|(secs, nanos)| Value::Interval(SignedDuration::new(secs, nanos * secs.signum() as i32))),
            "[A-Z][a-z]+/[A-Z][a-z_]+".prop_map(Value::TimeZone),
        ];
        leaf.prop_recursive(5, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::List),
                prop::collection::btree_map(any::<String>(), inner.clone(), 0..8).prop_map(Value::Map),
                inner.prop_map(|inner| Value::Lazy(Box::new(inner))),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_round_trip(value in any_value()) {
            let json = value.to_json().unwrap();
            let wanted = stored(value);
            prop_assert_eq!(&Value::from_json(json.as_bytes()).unwrap(), &wanted);
            // The same through serde, as part of something larger, and through a map that orders keys anew.
            prop_assert_eq!(&serde_json::from_str::<(Value,)>(&format!("[{json}]")).unwrap().0, &wanted);
            let reordered = serde_json::to_value(&wanted).unwrap();
            prop_assert_eq!(&serde_json::from_value::<Value>(reordered).unwrap(), &wanted);
        }

        #[test]
        fn the_untyped_form_is_json_without_tags(value in any_value()) {
            let json = value.to_json_untyped().unwrap();
            prop_assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
            prop_assert!(!json.contains(Value::TAG_KEY));
        }

        #[test]
        fn foreign_text_is_read_or_refused(text in r#"([\[\]{}:,"0-9.eE+-]|null|"value"|"___khronosValType___"|"vector"|"interval"){0,24}"#) {
            if let Ok(value) = Value::from_json(text.as_bytes()) {
                prop_assert_eq!(read_back(&value), value);
            }
        }
    }

    #[test]
    fn the_written_form_is_the_tables() {
        let tagged = |tag: &str, value| json!({ "___khronosValType___": tag, "value": value });
        let moment: Timestamp = "2025-10-01T12:00:00.5+02:00".parse().unwrap();
        for (value, wanted) in [
            (Value::Null, json!(null)),
            (Value::Boolean(true), json!(true)),
            (Value::Integer(i64::MIN), json!(i64::MIN)),
            (Value::UnsignedInteger(u64::MAX), json!(u64::MAX)),
            (Value::Float(1.0), json!(1.0)),
            (Value::Text("héh".into()), json!("héh")),
            (Value::List(vec![]), json!([])),
            (Value::from([("value", Value::Integer(1))]), json!({ "value": 1 })),
            (Value::Lazy(Box::new(Value::Integer(1))), json!(1)),
            (Value::Buffer(Bytes::from_static(b"\0\xff")), tagged("buffer", json!("AP8="))),
            (Value::Bytes(Bytes::from_static(b"\xff")), tagged("bytes", json!("/w=="))),
            (Value::Vector([1.0, 0.5, -2.0]), tagged("vector", json!([1.0, 0.5, -2.0]))),
            (Value::Timestamptz(moment), tagged("timestamptz", json!("2025-10-01T10:00:00.5Z"))),
            (Value::Interval(SignedDuration::from_millis(-1)), tagged("interval", json!(-1_000_000))),
            (Value::Interval(SignedDuration::MAX), tagged("interval", json!("9223372036854775807999999999"))),
            (Value::TimeZone("Asia/Kolkata".into()), tagged("timezone", json!("Asia/Kolkata"))),
        ] {
            assert_eq!(value.to_json().unwrap(), wanted.to_string());
        }
    }

    #[test]
    fn the_untyped_form_is_for_foreigners() {
        let moment: Timestamp = "2025-10-01T10:00:00Z".parse().unwrap();
        let list = Value::List(vec![
            Value::Timestamptz(moment),
            Value::Buffer(Bytes::from_static(b"\0\xff")),
            Value::Bytes(Bytes::from_static(b"\xff")),
            Value::Interval(SignedDuration::from_secs(90)),
            Value::Interval(SignedDuration::from_millis(1_500)),
            Value::TimeZone("UTC".into()),
            Value::Vector([1.0, 2.0, 3.0]),
        ]);
        let wanted = json!(["2025-10-01T10:00:00Z", "AP8=", "/w==", 90, 1.5, "UTC", [1.0, 2.0, 3.0]]);
        assert_eq!(list.to_json_untyped().unwrap(), wanted.to_string());
    }

    #[test]
    fn integers_beyond_2_to_the_53_keep_their_last_digit() {
        for (text, wanted) in [
            ("9007199254740993", Value::Integer(9_007_199_254_740_993)),
            ("-9223372036854775808", Value::Integer(i64::MIN)),
            ("9223372036854775807", Value::Integer(i64::MAX)),
            ("9223372036854775808", Value::UnsignedInteger(i64::MAX as u64 + 1)),
            ("18446744073709551615", Value::UnsignedInteger(u64::MAX)),
        ] {
            assert_eq!(Value::from_json(text.as_bytes()).unwrap(), wanted);
            assert_eq!(wanted.to_json().unwrap(), text);
        }
    }

    fn read(tag: &str, value: serde_json::Value) -> Result<Value, ValueError> {
        Value::from_json(json!({ "___khronosValType___": tag, "value": value }).to_string().as_bytes())
    }

    #[test]
    fn older_encodings_are_accepted() {
        assert_eq!(read("buffer", json!([0, 255])), Ok(Value::Buffer(Bytes::from_static(b"\0\xff"))));
        for (value, wanted) in [
            (json!(1_500_000_000), SignedDuration::from_millis(1_500)),
            (json!("1500000000"), SignedDuration::from_millis(1_500)),
            (json!([1, 500_000_000]), SignedDuration::from_millis(1_500)),
            (json!([-1, -500_000_000]), SignedDuration::from_millis(-1_500)),
            (json!([i64::MAX, 999_999_999]), SignedDuration::MAX),
            (json!(u64::MAX), SignedDuration::from_nanos_i128(u64::MAX.into())),
        ] {
            assert_eq!(read("interval", value), Ok(Value::Interval(wanted)));
        }
        let moment = Value::Timestamptz("2025-10-01T10:00:00Z".parse().unwrap());
        for text in ["2025-10-01T10:00:00Z", "2025-10-01T15:30:00.000+05:30", "2025-10-01T05:00:00-05:00"] {
            assert_eq!(read("timestamptz", json!(text)).as_ref(), Ok(&moment));
        }
        assert_eq!(read("vector", json!([1, 2.5, -3])), Ok(Value::Vector([1.0, 2.5, -3.0])));
        // PostgreSQL's jsonb puts shorter keys first.
        let value_first = br#"{"value": "UTC", "___khronosValType___": "timezone"}"#;
        assert_eq!(Value::from_json(value_first), Ok(Value::TimeZone("UTC".into())));
    }

    #[test]
    fn what_does_not_fit_its_tag_is_named() {
        for (tag, value) in [
            ("buffer", json!("not base64")),
            ("buffer", json!([256])),
            ("buffer", json!([1.5])),
            ("buffer", json!(null)),
            ("bytes", json!([1])),
            ("bytes", json!("AA")),
            ("vector", json!([1, 2])),
            ("vector", json!([1, 2, 3, 4])),
            ("vector", json!([1, 2, 1e300])),
            ("vector", json!("1,2,3")),
            ("timestamptz", json!("yesterday")),
            ("timestamptz", json!("2025-10-01T10:00:00")),
            ("timestamptz", json!(0)),
            ("interval", json!(1.5)),
            ("interval", json!(1e30)),
            ("interval", json!("9223372036854775808000000000")),
            ("interval", json!([1])),
            ("interval", json!([i64::MAX, 1_000_000_000])),
            ("timezone", json!(5)),
        ] {
            match read(tag, value.clone()) {
                Err(ValueError::BadTagged { tag: named, .. }) => assert_eq!(named, tag),
                other => panic!("{tag} {value}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_tag_comes_with_its_value_and_nothing_else() {
        let read = |json: &str| Value::from_json(json.as_bytes());
        for bad in [
            r#"{"___khronosValType___":"buffer"}"#,
            r#"{"___khronosValType___":"buffer","value":"","more":1}"#,
            r#"{"___khronosValType___":"buffer","other":""}"#,
        ] {
            assert!(matches!(read(bad), Err(ValueError::BadTagged { tag: "buffer", .. })), "{bad}");
        }
        let unknown = r#"[{"___khronosValType___":"decimal","value":"1"}]"#;
        assert_eq!(read(unknown), Err(ValueError::UnknownTag("decimal".into())));
        assert!(matches!(read(r#"{"___khronosValType___":5,"value":1}"#), Err(ValueError::UnknownTag(_))));
        // Through serde the text remains.
        let error = serde_json::from_str::<Value>(unknown).unwrap_err();
        assert!(error.to_string().starts_with("invalid_value: unknown tag `decimal`"), "{error}");
    }

    #[test]
    fn what_could_not_be_read_back_is_not_written() {
        let reserved = Value::from([(Value::TAG_KEY, Value::Null)]);
        for (value, wanted) in [
            (Value::Float(f64::NAN), ValueError::NotFinite),
            (Value::Float(f64::NEG_INFINITY), ValueError::NotFinite),
            (Value::Vector([0.0, f32::INFINITY, 0.0]), ValueError::NotFinite),
            (reserved, ValueError::ReservedKey),
        ] {
            let nested = Value::List(vec![Value::from([("a", value)])]);
            assert_eq!(nested.to_json(), Err(wanted.clone()));
            assert_eq!(nested.to_json_untyped(), Err(wanted.clone()));
            assert_eq!(serde_json::to_string(&nested).unwrap_err().to_string(), wanted.to_string());
        }
    }

    /// `levels` lists around a value.
    fn nested(levels: usize, inner: Value) -> Value {
        (0..levels).fold(inner, |inner, _| Value::List(vec![inner]))
    }

    #[test]
    fn the_depth_accepts_n_and_refuses_n_plus_1() {
        let too_deep = ValueError::TooDeep(Value::DEPTH_MAX);
        // Tagged values are one level of the value, though two or three of the JSON.
        for inner in [Value::Null, Value::Vector([0.0; 3]), Value::Interval(SignedDuration::ZERO)] {
            let deepest = nested(Value::DEPTH_MAX, inner.clone());
            assert_eq!(read_back(&deepest), deepest);
            assert_eq!(nested(Value::DEPTH_MAX + 1, inner).to_json(), Err(too_deep.clone()));
        }
        for levels in [33, 34, 35, 127, 128, 100_000] {
            for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
                let json = format!("{}1{}", open.repeat(levels), close.repeat(levels));
                assert_eq!(Value::from_json(json.as_bytes()), Err(too_deep.clone()), "{levels} levels of {open}");
            }
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in [&b""[..], b"[1", b"1 2", b"\xff", b"NaN", b"1e400", b"{1:2}"] {
            assert!(matches!(Value::from_json(text), Err(ValueError::NotJson(_))), "{text:?}");
        }
    }
}
