//! TOML.

use toml::Value as Toml;
use worker_core::{Value, ValueError};

use super::{not_in, quote};
use crate::error::ApiError;
use crate::luau::json_text::Layout;
use crate::luau::value;
use crate::runtime::long_work::Bounds;

/// What the parser takes for a table, at most.
const TABLE_BYTES: usize = 1_000;

/// What it takes for any other value, at most.
const VALUE_BYTES: usize = 120;

/// Parses a text, and says about how much memory the value takes.
pub(super) fn read(text: &str, bounds: &Bounds) -> Result<(Value, usize), ApiError> {
    // The parser cannot be stopped, and a table of a few letters takes a thousand bytes: what there may be is known
    // beforehand.
    let bytes = measure(text);
    bounds.check(bytes)?;
    let table: toml::Table = toml::from_str(text).map_err(|error| not_in("TOML", error.message()))?;
    bounds.check(0)?;
    let value = value_of(Toml::Table(table));
    let bytes = value::bytes(&value);
    Ok((value, bytes))
}

/// About how much memory the parser takes. A dot makes a table in a key, and is nothing in a number.
fn measure(text: &str) -> usize {
    let (mut tables, mut values, mut dots) = (0, 0, 0);
    for byte in text.bytes() {
        match byte {
            b'.' => dots += 1,
            b',' | b'\n' => (dots, values) = (0, values + 1),
            b'=' | b']' => (dots, tables) = (0, tables + dots),
            b'[' | b'{' => tables += 1,
            _ => {}
        }
    }
    text.len() + tables * TABLE_BYTES + values * VALUE_BYTES
}

fn value_of(toml: Toml) -> Value {
    match toml {
        Toml::String(text) => Value::Text(text),
        // Beyond what is exact in Luau it is a number all the same.
        Toml::Integer(integer) if integer.unsigned_abs() < 1 << 53 => Value::Integer(integer),
        Toml::Integer(integer) => Value::Float(integer as f64),
        Toml::Float(float) => Value::Float(float),
        Toml::Boolean(boolean) => Value::Boolean(boolean),
        Toml::Datetime(time) => Value::Text(time.to_string()),
        Toml::Array(items) => Value::List(items.into_iter().map(value_of).collect()),
        Toml::Table(fields) => Value::Map(fields.into_iter().map(|(key, value)| (key, value_of(value))).collect()),
    }
}

/// Writes a map.
pub(super) fn write(value: &Value, layout: Layout, bounds: &Bounds) -> Result<String, ApiError> {
    let mut writer = Writer { out: String::new(), path: Vec::new(), layout, bounds };
    match inner(value) {
        Value::Map(fields) => writer.fields(fields)?,
        _ => return Err(ApiError::invalid_value("TOML is a map, not a single value or a list")),
    }
    Ok(writer.out)
}

fn inner(value: &Value) -> &Value {
    match value {
        Value::Lazy(value) => inner(value),
        other => other,
    }
}

type Fields = std::collections::BTreeMap<String, Value>;

struct Writer<'a> {
    out: String,
    path: Vec<&'a str>,
    layout: Layout,
    bounds: &'a Bounds,
}

impl<'a> Writer<'a> {
    /// Plain fields first: what follows a table's header belongs to it.
    fn fields(&mut self, fields: &'a Fields) -> Result<(), ApiError> {
        for (key, value) in fields {
            if !matches!(inner(value), Value::Map(_) | Value::Null) {
                self.key(key);
                self.out.push_str(" = ");
                self.value(value, 0)?;
                self.out.push('\n');
            }
        }
        for (key, value) in fields {
            if let Value::Map(fields) = inner(value) {
                self.path.push(key);
                let has_plain = fields.values().any(|value| !matches!(inner(value), Value::Map(_)));
                // Tables of nothing but tables need no header.
                if has_plain || fields.is_empty() {
                    self.header();
                }
                self.fields(fields)?;
                self.path.pop();
            }
        }
        Ok(())
    }

    fn header(&mut self) {
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        self.out.push('[');
        for index in 0..self.path.len() {
            if index > 0 {
                self.out.push('.');
            }
            self.key(self.path[index]);
        }
        self.out.push_str("]\n");
    }

    fn key(&mut self, key: &str) {
        let is_bare =
            !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        if is_bare { self.out.push_str(key) } else { quote(key, &mut self.out) }
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<(), ApiError> {
        self.bounds.check(self.out.len())?;
        match value {
            Value::Lazy(inner) => self.value(inner, depth)?,
            Value::Null => return Err(ApiError::invalid_value("TOML has no word for nil, which is in a list")),
            Value::Text(text) => quote(text, &mut self.out),
            Value::UnsignedInteger(integer) if i64::try_from(*integer).is_err() => {
                return Err(ApiError::invalid_value("TOML has no whole numbers above 2^63"));
            }
            Value::Float(float) if !float.is_finite() => return Err(ValueError::NotFinite.into()),
            Value::List(items) => {
                let is_tall = self.layout == Layout::Pretty && !items.is_empty();
                self.out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if is_tall {
                        self.new_line(depth + 1);
                    } else if index > 0 {
                        self.out.push_str(", ");
                    }
                    self.value(item, depth + 1)?;
                    if is_tall {
                        self.out.push(',');
                    }
                }
                if is_tall {
                    self.new_line(depth);
                }
                self.out.push(']');
            }
            Value::Map(fields) => {
                self.out.push('{');
                let present = fields.iter().filter(|(_, value)| !matches!(inner(value), Value::Null));
                for (index, (key, value)) in present.enumerate() {
                    self.out.push_str(if index > 0 { ", " } else { " " });
                    self.key(key);
                    self.out.push_str(" = ");
                    self.value(value, depth)?;
                }
                self.out.push_str(if self.out.ends_with('{') { "}" } else { " }" });
            }
            other => self.out.push_str(&other.to_json_untyped()?),
        }
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n(' ', 4 * depth));
    }
}
