//! The schema of settings (template API, section 16): what a template may answer to `GetSettings`.

use std::collections::BTreeMap;
use std::fmt;

use worker_core::Value;

/// Why an answer is no list of settings: where, and what is wrong there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SettingsError {
    path: String,
    problem: &'static str,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid_value: settings: {} {}", self.path, self.problem)
    }
}

type Checked = Result<(), SettingsError>;

/// A list of settings, or nothing. Unknown fields are ignored.
pub(crate) fn check(answer: &Value) -> Checked {
    match unwrapped(answer) {
        Value::Null => Ok(()),
        list => each(list, "the answer", setting),
    }
}

fn setting(value: &Value, path: &str) -> Checked {
    let fields = Fields::of(value, path)?;
    for name in ["id", "name", "description"] {
        fields.required(name, text)?;
    }
    for name in ["view_template", "icon", "validation_template", "postsend_template", "title_template", "index_by"] {
        fields.optional(name, text)?;
    }
    fields.required("columns", |list, path| each(list, path, column))?;
    fields.required("operations", texts)?;
    fields.optional("footer", |footer, path| Fields::of(footer, path)?.optional("end_text", text))
}

fn column(value: &Value, path: &str) -> Checked {
    let fields = Fields::of(value, path)?;
    for name in ["id", "name", "description"] {
        fields.required(name, text)?;
    }
    fields.optional("placeholder", text)?;
    for name in ["primary_key", "nullable"] {
        fields.required(name, boolean)?;
    }
    for name in ["hidden", "readonly"] {
        fields.optional(name, texts)?;
    }
    fields.required("column_type", column_type)
}

fn column_type(value: &Value, path: &str) -> Checked {
    let fields = Fields::of(value, path)?;
    match fields.kind()? {
        "Scalar" | "Array" => fields.required("inner", inner_type),
        "Widget" => fields.required("inner", inner_widget),
        _ => Err(wrong(&format!("{path}.type"), "is not `Scalar`, `Array` or `Widget`")),
    }
}

fn inner_type(value: &Value, path: &str) -> Checked {
    let fields = Fields::of(value, path)?;
    match fields.kind()? {
        "String" => {
            for name in ["min_length", "max_length"] {
                fields.optional(name, number)?;
            }
            fields.required("allowed_values", texts)?;
            fields.optional("suggestions", texts)?;
            fields.required("kind", text)
        }
        "Integer" | "Float" | "Boolean" => Ok(()),
        "BitFlag" => fields.required("values", |values, path| match values {
            Value::List(items) if items.is_empty() => Ok(()),
            Value::Map(values) => values.iter().try_for_each(|(name, value)| number(value, &format!("{path}.{name}"))),
            _ => Err(wrong(path, "is not a map from names to numbers")),
        }),
        "Json" => fields.required("style", text),
        _ => Err(wrong(&format!("{path}.type"), "is not a type of columns")),
    }
}

fn inner_widget(value: &Value, path: &str) -> Checked {
    let fields = Fields::of(value, path)?;
    match fields.kind()? {
        "Info" | "Warning" => fields.required("message", text),
        "Button" => fields.required("label", text).and_then(|()| fields.required("op", text)),
        _ => Err(wrong(&format!("{path}.type"), "is not `Info`, `Warning` or `Button`")),
    }
}

/// The fields of a table, and where it is.
struct Fields<'a> {
    fields: &'a BTreeMap<String, Value>,
    path: &'a str,
}

impl<'a> Fields<'a> {
    fn of(value: &'a Value, path: &'a str) -> Result<Self, SettingsError> {
        match unwrapped(value) {
            Value::Map(fields) => Ok(Self { fields, path }),
            _ => Err(wrong(path, "is not a table with fields")),
        }
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name).map(unwrapped).filter(|value| **value != Value::Null)
    }

    fn required(&self, name: &str, check: impl FnOnce(&Value, &str) -> Checked) -> Checked {
        let path = format!("{}.{name}", self.path);
        check(self.get(name).ok_or_else(|| wrong(&path, "is missing"))?, &path)
    }

    fn optional(&self, name: &str, check: impl FnOnce(&Value, &str) -> Checked) -> Checked {
        self.get(name).map_or(Ok(()), |value| check(value, &format!("{}.{name}", self.path)))
    }

    /// The field that says which of several types it is.
    fn kind(&self) -> Result<&'a str, SettingsError> {
        match self.get("type") {
            Some(Value::Text(kind)) => Ok(kind),
            _ => Err(wrong(&format!("{}.type", self.path), "is not a string")),
        }
    }
}

fn unwrapped(value: &Value) -> &Value {
    match value {
        Value::Lazy(inner) => unwrapped(inner),
        value => value,
    }
}

fn wrong(path: &str, problem: &'static str) -> SettingsError {
    SettingsError { path: path.to_owned(), problem }
}

/// Checks each of a list; `{}` is an empty one.
fn each(list: &Value, path: &str, check: impl Fn(&Value, &str) -> Checked) -> Checked {
    match list {
        Value::List(items) => {
            items.iter().enumerate().try_for_each(|(index, item)| check(item, &format!("{path}[{}]", index + 1)))
        }
        Value::Map(fields) if fields.is_empty() => Ok(()),
        _ => Err(wrong(path, "is not a list")),
    }
}

fn texts(list: &Value, path: &str) -> Checked {
    each(list, path, text)
}

fn text(value: &Value, path: &str) -> Checked {
    if matches!(value, Value::Text(_)) { Ok(()) } else { Err(wrong(path, "is not a string")) }
}

fn number(value: &Value, path: &str) -> Checked {
    let is_number = matches!(value, Value::Integer(_) | Value::UnsignedInteger(_) | Value::Float(_));
    if is_number { Ok(()) } else { Err(wrong(path, "is not a number")) }
}

fn boolean(value: &Value, path: &str) -> Checked {
    if matches!(value, Value::Boolean(_)) { Ok(()) } else { Err(wrong(path, "is not a boolean")) }
}
