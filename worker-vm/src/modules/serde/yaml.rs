//! YAML 1.2.
//!
//! The parser gives events and keeps nothing, so that the tree is built here, and what an alias stands for is counted each
//! time that it is used.

use std::collections::{BTreeMap, HashMap};

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use worker_core::{Value, ValueError};

use super::{not_in, quote};
use crate::error::ApiError;
use crate::luau::json::DEPTH_MAX;
use crate::luau::value;
use crate::runtime::long_work::Bounds;

/// What the first field of a map takes: room for eleven.
const MAP_BYTES: usize = 11 * (size_of::<String>() + size_of::<Value>());

/// Whole numbers up to here, and down to its negative, are exact in Luau.
const SAFE_INTEGER_MAX: u64 = (1 << 53) - 1;

/// Parses a text of one document, and says about how much memory the value takes.
pub(super) fn read(text: &str, bounds: &Bounds) -> Result<(Value, usize), ApiError> {
    let mut builder = Builder { open: Vec::new(), anchors: HashMap::new(), root: None, bytes: 0, bounds };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, _) = event.map_err(|error| not_in("YAML", error))?;
        builder.take(event)?;
    }
    Ok((builder.root.unwrap_or_default(), builder.bytes))
}

/// A list or a map whose end has not come.
enum Open {
    List(Vec<Value>),
    Map { fields: BTreeMap<String, Value>, key: Option<String> },
}

struct Builder<'a> {
    open: Vec<(Open, usize)>,
    anchors: HashMap<usize, (Value, usize)>,
    root: Option<Value>,
    bytes: usize,
    bounds: &'a Bounds,
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>) -> Result<(), ApiError> {
        self.bounds.check(self.bytes)?;
        match event {
            Event::DocumentStart(_) if self.root.is_some() => Err(not_in("YAML", "more than one document")),
            Event::Scalar(text, style, anchor, tag) => {
                if self.key_is_next() {
                    if anchor != 0 {
                        self.bytes += text.len();
                        self.anchors.insert(anchor, (Value::Text(text.clone().into_owned()), text.len()));
                    }
                    return self.key(&text);
                }
                let value = scalar(&text, style, tag.as_deref())?;
                self.bytes += value::bytes(&value);
                self.add(value, anchor)
            }
            Event::SequenceStart(anchor, _) => self.begin(Open::List(Vec::new()), anchor),
            Event::MappingStart(anchor, _) => {
                self.bytes += MAP_BYTES;
                self.begin(Open::Map { fields: BTreeMap::new(), key: None }, anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some((open, anchor)) = self.open.pop() else { return Ok(()) };
                self.bytes += size_of::<Value>();
                let value = match open {
                    Open::List(items) => Value::List(items),
                    Open::Map { fields, .. } => Value::Map(fields),
                };
                self.add(value, anchor)
            }
            Event::Alias(anchor) => {
                let Some((value, bytes)) = self.anchors.get(&anchor) else {
                    return Err(not_in("YAML", "an alias of what it is part of, or of nothing"));
                };
                self.bytes += bytes;
                // Counted before it is made.
                self.bounds.check(self.bytes)?;
                let value = value.clone();
                match value {
                    Value::Text(text) if self.key_is_next() => self.key(&text),
                    value => self.add(value, 0),
                }
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(())
            }
        }
    }

    fn begin(&mut self, open: Open, anchor: usize) -> Result<(), ApiError> {
        if self.key_is_next() {
            return Err(ApiError::invalid_value("a key that is a list or a map"));
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(ValueError::TooDeep(DEPTH_MAX).into());
        }
        self.open.push((open, anchor));
        Ok(())
    }

    fn key_is_next(&self) -> bool {
        matches!(self.open.last(), Some((Open::Map { key: None, .. }, _)))
    }

    fn key(&mut self, text: &str) -> Result<(), ApiError> {
        self.bytes += size_of::<String>() + text.len();
        if let Some((Open::Map { fields, key }, _)) = self.open.last_mut() {
            if fields.contains_key(text) {
                return Err(not_in("YAML", format_args!("the key `{}` comes twice", start_of(text))));
            }
            *key = Some(text.to_owned());
        }
        Ok(())
    }

    fn add(&mut self, value: Value, anchor: usize) -> Result<(), ApiError> {
        if anchor != 0 {
            let bytes = built_bytes(&value);
            self.bytes += bytes;
            self.bounds.check(self.bytes)?;
            self.anchors.insert(anchor, (value.clone(), bytes));
        }
        match self.open.last_mut() {
            None => self.root = Some(value),
            Some((Open::List(items), _)) => items.push(value),
            Some((Open::Map { fields, key }, _)) => match key.take() {
                Some(key) => _ = fields.insert(key, value),
                None => return Err(ApiError::invalid_value("a key that is a list or a map")),
            },
        }
        Ok(())
    }
}

/// What a value takes, maps by their real size.
fn built_bytes(value: &Value) -> usize {
    match value {
        Value::List(items) => size_of::<Value>() + items.iter().map(built_bytes).sum::<usize>(),
        Value::Map(fields) => {
            let inside = fields.iter().map(|(key, value)| size_of::<String>() + key.len() + built_bytes(value));
            MAP_BYTES + inside.sum::<usize>()
        }
        other => value::bytes(other),
    }
}

/// The beginning of a text, for a message.
fn start_of(text: &str) -> &str {
    let end = text.char_indices().nth(40).map_or(text.len(), |(index, _)| index);
    &text[..end]
}

/// A scalar by the rules of the core schema.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, ApiError> {
    let core = tag.filter(|tag| tag.is_yaml_core_schema()).map(|tag| tag.suffix.as_str());
    let plain = || if style == ScalarStyle::Plain { plain(text) } else { Value::Text(text.to_owned()) };
    let wrong = |kind| not_in("YAML", format_args!("`{}` is not {kind}", start_of(text)));
    match core {
        Some("str") => Ok(Value::Text(text.to_owned())),
        Some("int") => match number(text) {
            Some(value) => Ok(value),
            None => Err(wrong("a whole number")),
        },
        Some("float") => number(text).ok_or_else(|| wrong("a number")),
        Some("bool") => match self::plain(text) {
            value @ Value::Boolean(_) => Ok(value),
            _ => Err(wrong("a boolean")),
        },
        Some("null") => Ok(Value::Null),
        // `!` and the tags of others.
        _ => Ok(plain()),
    }
}

fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Boolean(true),
        "false" | "False" | "FALSE" => Value::Boolean(false),
        _ => number(text).unwrap_or_else(|| Value::Text(text.to_owned())),
    }
}

fn number(text: &str) -> Option<Value> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1.0, &text[1..]),
        b'+' => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    let whole = |magnitude: u64| {
        if magnitude <= SAFE_INTEGER_MAX {
            Value::Integer(if sign < 0.0 { -(magnitude as i64) } else { magnitude as i64 })
        } else {
            Value::Float(sign * magnitude as f64)
        }
    };
    let radix = |digits: &str, radix| {
        let is_number = digits.bytes().all(|digit| char::from(digit).is_digit(radix));
        is_number.then(|| u64::from_str_radix(digits, radix).ok()).flatten().map(whole)
    };
    if let Some(digits) = digits.strip_prefix("0x") {
        return radix(digits, 16);
    }
    if let Some(digits) = digits.strip_prefix("0o") {
        return radix(digits, 8);
    }
    match digits {
        ".inf" | ".Inf" | ".INF" => return Some(Value::Float(sign * f64::INFINITY)),
        ".nan" | ".NaN" | ".NAN" if digits.len() == text.len() => return Some(Value::Float(f64::NAN)),
        _ => {}
    }
    let first = *digits.as_bytes().first()?;
    if !(first.is_ascii_digit() || first == b'.' && digits.len() > 1 && digits.as_bytes()[1].is_ascii_digit()) {
        return None;
    }
    if digits.bytes().all(|digit| digit.is_ascii_digit()) {
        // Numbers of things, like `007`, are texts.
        if first == b'0' && digits.len() > 1 {
            return None;
        }
        if let Ok(magnitude) = digits.parse() {
            return Some(whole(magnitude));
        }
    }
    let is_float = digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'));
    is_float.then(|| digits.parse::<f64>().ok()).flatten().map(|number| Value::Float(sign * number))
}

/// Writes a value in block style.
pub(super) fn write(value: &Value, bounds: &Bounds) -> Result<String, ApiError> {
    let mut out = String::new();
    node(value, 0, bounds, &mut out)?;
    Ok(out)
}

/// Writes a value whose first line is begun. Ends its last line.
fn node(value: &Value, indent: usize, bounds: &Bounds, out: &mut String) -> Result<(), ApiError> {
    bounds.check(out.len())?;
    match value {
        Value::Lazy(inner) => return node(inner, indent, bounds, out),
        Value::List(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                margin(if index == 0 { 0 } else { indent }, out);
                out.push_str("- ");
                node(item, indent + 2, bounds, out)?;
            }
        }
        Value::Map(fields) if !fields.is_empty() => {
            for (index, (key, field)) in fields.iter().enumerate() {
                margin(if index == 0 { 0 } else { indent }, out);
                text(key, out);
                out.push(':');
                // A list in a map begins below its key, a map two columns to the right of it.
                let inside = match inner(field) {
                    Value::List(items) if !items.is_empty() => Some(indent),
                    Value::Map(fields) if !fields.is_empty() => Some(indent + 2),
                    _ => None,
                };
                out.push(if inside.is_some() { '\n' } else { ' ' });
                margin(inside.unwrap_or(0), out);
                node(field, inside.unwrap_or(indent), bounds, out)?;
            }
        }
        Value::Text(content) => {
            text(content, out);
            out.push('\n');
        }
        other => {
            out.push_str(&other.to_json_untyped()?);
            out.push('\n');
        }
    }
    Ok(())
}

fn inner(value: &Value) -> &Value {
    match value {
        Value::Lazy(value) => inner(value),
        other => other,
    }
}

fn margin(columns: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', columns));
}

/// A text, bare where nobody can take it for something else.
fn text(text: &str, out: &mut String) {
    const WORDS: [&str; 11] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"];
    let is_plain = text.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '@' | ' '))
        && !text.ends_with(' ')
        && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(text));
    if is_plain { out.push_str(text) } else { quote(text, out) }
}
