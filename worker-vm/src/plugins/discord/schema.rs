//! What an argument or a body holds, and how it is read: from what a script gave to what Discord is sent.
//!
//! Bodies are lists of what is allowed, at every level: what is not listed is dropped, so no id of a channel or a role gets
//! past the checks by way of a field that nobody thought of.

use jiff::Timestamp;
use serde_json::{Map, Number, Value as Json};
use worker_core::{Snowflake, Value};

use crate::error::ApiError;

/// A kind of value.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// The id of something that needs no check.
    Id,
    /// The id of a channel or thread, which must be of the guild.
    Channel,
    /// The id of a role, which must be of the guild.
    Role,
    /// A text of so many characters.
    Text(usize, usize),
    /// A whole number within bounds.
    Whole(i64, i64),
    /// Any number.
    Number,
    Flag,
    /// A moment; an RFC 3339 text or a DateTime.
    Time,
    /// A set of permissions that is given to somebody, so that the bot must hold it itself.
    Granted,
    /// A set of permissions that is only compared with.
    Permissions,
    /// A picture: `data:image/<type>;base64,…`, of one of these types.
    Image(&'static [&'static str]),
    /// A list of at most so many.
    List(&'static Kind, usize),
    /// A table of which these fields are taken.
    Object(&'static [Field]),
    /// What a channel gives and takes: `id` is a role or a member, by `type`.
    Overwrite,
    /// What a select begins with: `id` is a channel, a role or a user, by `type`.
    SelectDefault,
    /// Whatever is text or a number: the value of a choice.
    Scalar,
    /// Texts by name: those of other languages.
    Texts,
    /// Another kind, of which this one may be a part.
    Inner(&'static Kind),
}

/// A field of a table.
#[derive(Clone, Copy)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Whether `{}` and `interop.null` clear it.
    pub(super) is_clearable: bool,
}

/// A field.
pub(super) const fn f(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, is_clearable: false }
}

/// A field that can be cleared.
pub(super) const fn clearable(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, is_clearable: true }
}

/// Elements of lists that no limit of Discord's is known for.
pub(super) const MANY: usize = 1_000;

/// What is named in arguments, and must be checked before anything is sent.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) channels: Vec<u64>,
    pub(super) roles: Vec<u64>,
    /// Permissions that are given away, together.
    pub(super) granted: u64,
}

/// The place of a value: a field, within others.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    Root(&'a str),
    Field(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Root(name) => f.write_str(name),
            // The body is spoken of by its fields.
            Self::Field(Self::Root("data"), name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(parent, index) => write!(f, "{parent}[{}]", index + 1),
        }
    }
}

pub(super) fn wrong(path: &Path<'_>, wanted: impl std::fmt::Display) -> ApiError {
    ApiError::invalid_argument(format_args!("{path} (expected {wanted})"))
}

/// What a Lazy holds counts as if it had been given itself.
pub(super) fn unwrapped(value: Value) -> Value {
    match value {
        Value::Lazy(inner) => unwrapped(*inner),
        value => value,
    }
}

pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Map(map) => map.is_empty(),
        Value::List(list) => list.is_empty(),
        _ => false,
    }
}

/// An id: a text, a U64, or a whole number.
pub(super) fn id(value: &Value) -> Option<u64> {
    let id = match value {
        Value::Text(text) => text.parse::<Snowflake>().ok()?.get(),
        Value::UnsignedInteger(id) => *id,
        Value::Integer(id) => u64::try_from(*id).ok()?,
        // Above 2^63 a number is no Integer, but may be an id.
        Value::Float(id) if id.fract() == 0.0 && (1.0..18_446_744_073_709_551_616.0).contains(id) => *id as u64,
        _ => return None,
    };
    (id != 0).then_some(id)
}

/// A set of permissions, which are decimal texts.
pub(super) fn permissions(value: &Value) -> Option<u64> {
    match value {
        Value::Text(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        Value::UnsignedInteger(set) => Some(*set),
        Value::Integer(set) => u64::try_from(*set).ok(),
        _ => None,
    }
}

pub(super) fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(number) => Some(*number),
        Value::UnsignedInteger(number) => i64::try_from(*number).ok(),
        _ => None,
    }
}

impl Kind {
    /// Reads a value that is there.
    pub(super) fn read(&self, value: Value, path: &Path<'_>, named: &mut Named) -> Result<Json, ApiError> {
        let value = unwrapped(value);
        match self {
            Self::Id | Self::Channel | Self::Role => {
                let id = id(&value).ok_or_else(|| wrong(path, "the id of a Discord object"))?;
                match self {
                    Self::Channel => named.channels.push(id),
                    Self::Role => named.roles.push(id),
                    _ => {}
                }
                Ok(id.to_string().into())
            }
            Self::Text(min, max) => {
                let text = match value {
                    Value::Text(text) => text,
                    Value::Integer(number) => number.to_string(),
                    Value::UnsignedInteger(number) => number.to_string(),
                    Value::Float(number) => number.to_string(),
                    _ => return Err(wrong(path, "a text")),
                };
                if !(*min..=*max).contains(&text.chars().count()) {
                    return Err(wrong(path, format_args!("{min} to {max} characters")));
                }
                Ok(text.into())
            }
            Self::Whole(min, max) => match whole(&value) {
                Some(number) if (*min..=*max).contains(&number) => Ok(number.into()),
                _ => Err(wrong(path, format_args!("a whole number from {min} to {max}"))),
            },
            Self::Number => match value {
                Value::Integer(number) => Ok(number.into()),
                Value::UnsignedInteger(number) => Ok(number.into()),
                Value::Float(number) => {
                    Number::from_f64(number).map(Json::Number).ok_or_else(|| wrong(path, "a number"))
                }
                _ => Err(wrong(path, "a number")),
            },
            Self::Flag => match value {
                Value::Boolean(flag) => Ok(flag.into()),
                _ => Err(wrong(path, "a boolean")),
            },
            Self::Time => match value {
                Value::Timestamptz(time) => Ok(time.to_string().into()),
                Value::Text(text) if text.parse::<Timestamp>().is_ok() => Ok(text.into()),
                _ => Err(wrong(path, "a DateTime, or a moment as RFC 3339 text")),
            },
            Self::Granted | Self::Permissions => {
                let set = permissions(&value).ok_or_else(|| wrong(path, "permissions as a decimal text"))?;
                if matches!(self, Self::Granted) {
                    named.granted |= set;
                }
                Ok(set.to_string().into())
            }
            Self::Image(types) => match value {
                Value::Text(text) if is_image(&text, types) => Ok(text.into()),
                _ => Err(wrong(path, format_args!("`data:image/…;base64,…`, of {}", types.join(", ")))),
            },
            Self::List(kind, max) => {
                let items = match value {
                    Value::List(items) => items,
                    Value::Map(fields) if fields.is_empty() => Vec::new(),
                    _ => return Err(wrong(path, "a list")),
                };
                if items.len() > *max {
                    return Err(wrong(path, format_args!("at most {max}")));
                }
                let read = |(index, item)| kind.read(item, &Path::Item(path, index), named);
                items.into_iter().enumerate().map(read).collect::<Result<Vec<_>, _>>().map(Json::Array)
            }
            Self::Object(fields) => object(fields, value, path, named).map(Json::Object),
            Self::Overwrite => overwrite(value, path, named),
            Self::SelectDefault => select_default(value, path, named),
            Self::Texts => texts(value, path),
            Self::Inner(kind) => kind.read(value, path, named),
            Self::Scalar => match value {
                Value::Text(text) => Ok(text.into()),
                Value::Integer(number) => Ok(number.into()),
                Value::UnsignedInteger(number) => Ok(number.into()),
                Value::Float(number) => {
                    Number::from_f64(number).map(Json::Number).ok_or_else(|| wrong(path, "a number"))
                }
                _ => Err(wrong(path, "a text or a number")),
            },
        }
    }

    fn is_list(&self) -> bool {
        matches!(self, Self::List(..))
    }
}

impl Field {
    /// Reads the field's value, which may be missing. None leaves the field out.
    pub(super) fn read(
        &self,
        value: Option<Value>,
        path: &Path<'_>,
        named: &mut Named,
    ) -> Result<Option<Json>, ApiError> {
        match value.map(unwrapped) {
            None => Ok(None),
            // It is there, and says nothing: `interop.null`.
            Some(Value::Null) => Ok(self.is_clearable.then_some(Json::Null)),
            Some(value) if self.is_clearable && is_empty(&value) && !self.kind.is_list() => Ok(Some(Json::Null)),
            Some(value) => self.kind.read(value, path, named).map(Some),
        }
    }
}

/// The fields of a table that are listed; the others are dropped.
pub(super) fn object(
    fields: &[Field],
    value: Value,
    path: &Path<'_>,
    named: &mut Named,
) -> Result<Map<String, Json>, ApiError> {
    let mut given = match value {
        Value::Map(given) => given,
        Value::List(items) if items.is_empty() => return Ok(Map::new()),
        _ => return Err(wrong(path, "a table")),
    };
    let mut object = Map::new();
    for field in fields {
        let path = Path::Field(path, field.name);
        if let Some(json) = field.read(given.remove(field.name), &path, named)? {
            object.insert(field.name.to_owned(), json);
        }
    }
    Ok(object)
}

fn overwrite(value: Value, path: &Path<'_>, named: &mut Named) -> Result<Json, ApiError> {
    const FIELDS: &[Field] = &[
        f("id", Kind::Id),
        f("type", Kind::Whole(0, 1)),
        clearable("allow", Kind::Granted),
        clearable("deny", Kind::Granted),
    ];
    let overwrite = object(FIELDS, value, path, named)?;
    let id = overwrite.get("id").and_then(Json::as_str).and_then(|id| id.parse().ok());
    let id = id.ok_or_else(|| wrong(&Path::Field(path, "id"), "the id of a role or a member"))?;
    match overwrite.get("type").and_then(Json::as_i64) {
        Some(0) => named.roles.push(id),
        Some(_) => {}
        None => return Err(wrong(&Path::Field(path, "type"), "0 for a role, 1 for a member")),
    }
    Ok(Json::Object(overwrite))
}

fn select_default(value: Value, path: &Path<'_>, named: &mut Named) -> Result<Json, ApiError> {
    const FIELDS: &[Field] = &[f("id", Kind::Id), f("type", Kind::Text(1, 16))];
    let default = object(FIELDS, value, path, named)?;
    let id = default.get("id").and_then(Json::as_str).and_then(|id| id.parse().ok());
    let id = id.ok_or_else(|| wrong(&Path::Field(path, "id"), "the id of a Discord object"))?;
    match default.get("type").and_then(Json::as_str) {
        Some("channel") => named.channels.push(id),
        Some("role") => named.roles.push(id),
        Some("user") => {}
        _ => return Err(wrong(&Path::Field(path, "type"), "`user`, `role` or `channel`")),
    }
    Ok(Json::Object(default))
}

fn texts(value: Value, path: &Path<'_>) -> Result<Json, ApiError> {
    const LANGUAGES_MAX: usize = 64;
    let entries = match value {
        Value::Map(entries) if entries.len() <= LANGUAGES_MAX => entries,
        _ => return Err(wrong(path, "texts by language")),
    };
    let text = |(language, text)| match text {
        Value::Text(text) => Ok((language, Json::from(text))),
        _ => Err(wrong(path, "texts by language")),
    };
    entries.into_iter().map(text).collect::<Result<Map<_, _>, _>>().map(Json::Object)
}

fn is_image(text: &str, types: &[&str]) -> bool {
    let Some((kind, data)) = text.strip_prefix("data:image/").and_then(|rest| rest.split_once(";base64,")) else {
        return false;
    };
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    types.contains(&kind) && !data.is_empty() && data.bytes().all(is_base64)
}
