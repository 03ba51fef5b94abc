//! Reads the body of a request as Discord does: every field is checked, and all mistakes are told together.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};
use worker_core::Snowflake;

use super::discord_error::{DiscordError, FormErrors};
use super::permissions::Permissions;

/// A field that may be left out, or be null to clear what was there.
#[derive(Clone, Debug, PartialEq)]
pub enum Field<T> {
    /// Not in the form.
    Absent,
    /// There, and null.
    Null,
    /// There.
    Set(T),
}

impl<T> Field<T> {
    /// The value, if there is one.
    pub fn set(self) -> Option<T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Absent | Self::Null => None,
        }
    }

    /// Changes what it is for: to the value, to nothing, or not at all.
    pub fn apply_to(self, to: &mut Option<T>) {
        match self {
            Self::Absent => {}
            Self::Null => *to = None,
            Self::Set(value) => *to = Some(value),
        }
    }
}

impl<T: Into<Value>> Field<T> {
    /// Puts what it says among settings, where null is a value too.
    pub fn put_into(self, settings: &mut Map<String, Value>, key: &str) {
        match self {
            Self::Absent => {}
            Self::Null => {
                settings.insert(key.into(), Value::Null);
            }
            Self::Set(value) => {
                settings.insert(key.into(), value.into());
            }
        }
    }
}

/// A form that is being read.
#[derive(Debug)]
pub struct Form<'a> {
    fields: &'a Map<String, Value>,
    path: Vec<String>,
    errors: FormErrors,
}

impl<'a> Form<'a> {
    /// The whole body of a request.
    pub fn new(fields: &'a Map<String, Value>) -> Self {
        Self { fields, path: Vec::new(), errors: FormErrors::default() }
    }

    /// Ends the reading: all was good, or this is what was not.
    pub fn finish(self) -> Result<(), DiscordError> {
        if self.errors.is_empty() { Ok(()) } else { Err(DiscordError::invalid_form(self.errors)) }
    }

    /// The field as it is.
    pub fn raw(&self, key: &str) -> Option<&'a Value> {
        self.fields.get(key)
    }

    /// Notes a mistake of a field.
    pub fn mistake(&mut self, key: &str, code: &str, message: impl Into<String>) {
        self.path.push(key.into());
        self.errors.add(&self.path, code, message);
        self.path.pop();
    }

    /// Notes a mistake of the form as a whole.
    pub fn mistake_here(&mut self, code: &str, message: impl Into<String>) {
        self.errors.add(&self.path, code, message);
    }

    fn read<T>(&mut self, key: &str, kind: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Field<T> {
        match self.fields.get(key) {
            None => Field::Absent,
            Some(Value::Null) => Field::Null,
            Some(value) => match read(value) {
                Some(value) => Field::Set(value),
                None => {
                    let (code, message) = type_mistake(kind, value);
                    self.mistake(key, code, message);
                    Field::Absent
                }
            },
        }
    }

    /// A text with a number of characters in this range.
    pub fn text(&mut self, key: &str, chars: RangeInclusive<usize>) -> Field<String> {
        let read = self.read(key, "string", |value| match value {
            Value::String(text) => Some(text.clone()),
            // Discord takes numbers for texts.
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        });
        if let Field::Set(text) = &read {
            let count = text.chars().count();
            let (least, most) = (*chars.start(), *chars.end());
            if count == 0 && least > 0 {
                self.mistake(key, "BASE_TYPE_REQUIRED", "This field is required");
                return Field::Absent;
            }
            if !chars.contains(&count) {
                let (code, message) = match least {
                    0 => ("BASE_TYPE_MAX_LENGTH", format!("Must be {most} or fewer in length.")),
                    _ => ("BASE_TYPE_BAD_LENGTH", format!("Must be between {least} and {most} in length.")),
                };
                self.mistake(key, code, message);
                return Field::Absent;
            }
        }
        read
    }

    /// A text that must be there.
    pub fn required_text(&mut self, key: &str, chars: RangeInclusive<usize>) -> String {
        if matches!(self.fields.get(key), None | Some(Value::Null)) {
            self.required(key);
            return String::new();
        }
        self.text(key, chars).set().unwrap_or_default()
    }

    /// Notes that the field is missing.
    pub fn required(&mut self, key: &str) {
        self.mistake(key, "BASE_TYPE_REQUIRED", "This field is required");
    }

    /// A whole number in this range.
    pub fn integer(&mut self, key: &str, range: RangeInclusive<i64>) -> Field<i64> {
        let read = self.read(key, "int", |value| match value {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        });
        if let Field::Set(number) = &read {
            let number = *number;
            if number < *range.start() {
                let message = format!("int value should be greater than or equal to {}.", range.start());
                self.mistake(key, "NUMBER_TYPE_MIN", message);
                return Field::Absent;
            }
            if number > *range.end() {
                let message = format!("int value should be less than or equal to {}.", range.end());
                self.mistake(key, "NUMBER_TYPE_MAX", message);
                return Field::Absent;
            }
        }
        read
    }

    /// A whole number out of a few.
    pub fn choice(&mut self, key: &str, choices: &[i64]) -> Field<i64> {
        let read = self.integer(key, i64::MIN..=i64::MAX);
        if let Field::Set(number) = &read
            && !choices.contains(number)
        {
            let choices = choices.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
            self.mistake(key, "BASE_TYPE_CHOICES", format!("Value must be one of ({choices})."));
            return Field::Absent;
        }
        read
    }

    /// Yes or no.
    pub fn flag(&mut self, key: &str) -> Field<bool> {
        self.read(key, "boolean", Value::as_bool)
    }

    /// An id.
    pub fn id(&mut self, key: &str) -> Field<Snowflake> {
        self.read(key, "snowflake", as_id)
    }

    /// A set of permissions.
    pub fn permissions(&mut self, key: &str) -> Field<Permissions> {
        self.read(key, "permissions", |value| match value {
            Value::String(text) => text.parse().ok().map(Permissions::from_bits),
            Value::Number(number) => number.as_u64().map(Permissions::from_bits),
            _ => None,
        })
    }

    /// A list of ids.
    pub fn ids(&mut self, key: &str, count: RangeInclusive<usize>) -> Field<Vec<Snowflake>> {
        let Field::Set(list) = self.list(key, count) else {
            return if self.fields.get(key).is_some_and(Value::is_null) { Field::Null } else { Field::Absent };
        };
        let mut ids = Vec::with_capacity(list.len());
        for (index, value) in list.iter().enumerate() {
            match as_id(value) {
                Some(id) => ids.push(id),
                None => {
                    let (code, message) = type_mistake("snowflake", value);
                    self.path.push(key.into());
                    self.mistake(&index.to_string(), code, message);
                    self.path.pop();
                }
            }
        }
        Field::Set(ids)
    }

    /// A list with so many entries.
    pub fn list(&mut self, key: &str, count: RangeInclusive<usize>) -> Field<&'a Vec<Value>> {
        let read = self.read(key, "list", Value::as_array);
        if let Field::Set(list) = &read
            && !count.contains(&list.len())
        {
            let (least, most) = (count.start(), count.end());
            let (code, message) = match least {
                0 => ("BASE_TYPE_MAX_LENGTH", format!("Must be {most} or fewer in length.")),
                _ => ("BASE_TYPE_BAD_LENGTH", format!("Must be between {least} and {most} in length.")),
            };
            self.mistake(key, code, message);
            return Field::Absent;
        }
        read
    }

    /// Reads a form within this one, if it is there.
    pub fn within<R>(&mut self, key: &str, f: impl FnOnce(&mut Form<'a>) -> R) -> Field<R> {
        match self.read(key, "dict", Value::as_object) {
            Field::Absent => Field::Absent,
            Field::Null => Field::Null,
            Field::Set(fields) => Field::Set(self.below(&[key.into()], fields, f)),
        }
    }

    /// Reads each form of a list within this one.
    pub fn each(&mut self, key: &str, list: &'a [Value], mut f: impl FnMut(&mut Form<'a>)) {
        for (index, value) in list.iter().enumerate() {
            let path = [key.to_owned(), index.to_string()];
            match value.as_object() {
                Some(fields) => self.below(&path, fields, &mut f),
                None => {
                    let (code, message) = type_mistake("dict", value);
                    self.path.push(key.into());
                    self.mistake(&path[1], code, message);
                    self.path.pop();
                }
            }
        }
    }

    fn below<R>(&mut self, path: &[String], fields: &'a Map<String, Value>, f: impl FnOnce(&mut Form<'a>) -> R) -> R {
        let mut inner = Form { fields, path: [&self.path, path].concat(), errors: std::mem::take(&mut self.errors) };
        let result = f(&mut inner);
        self.errors = inner.errors;
        result
    }
}

/// An id, as text or as a number.
pub fn as_id(value: &Value) -> Option<Snowflake> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.as_u64().filter(|id| *id != 0).map(Snowflake::new),
        _ => None,
    }
}

fn type_mistake(kind: &str, value: &Value) -> (&'static str, String) {
    match kind {
        "string" => ("STRING_TYPE_CONVERT", "Could not interpret \"{}\" as string.".replace("{}", &value.to_string())),
        "int" => ("NUMBER_TYPE_COERCE", format!("Value \"{}\" is not int.", plain(value))),
        "boolean" => ("BOOLEAN_TYPE_CHOICES", "Must be either true or false.".into()),
        "snowflake" => ("NUMBER_TYPE_COERCE", format!("Value \"{}\" is not snowflake.", plain(value))),
        "permissions" => ("NUMBER_TYPE_COERCE", format!("Value \"{}\" is not int.", plain(value))),
        "list" => ("LIST_TYPE_CONVERT", "Only iterables may be used in a ListType".into()),
        _ => ("DICT_TYPE_CONVERT", "Only dictionaries may be used in a DictType".into()),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
