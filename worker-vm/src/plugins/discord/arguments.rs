//! What a script gave, as a request that is ready but for its checks.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};
use worker_core::Value;

use super::endpoints::{Argument, Arguments, Endpoint, Goes, Need};
use super::schema::{Field, Named, Path, id, is_empty, unwrapped, wrong};
use crate::error::ApiError;
use crate::services::{Ids, percent_encoded};

/// Bytes of a body. Pictures are the largest part of any.
const BODY_BYTES_MAX: usize = 1 << 20;

/// A call, read.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    pub(super) ids: Ids,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) body: Option<Json>,
    pub(super) reason: Option<String>,
    pub(super) named: Named,
}

impl Prepared {
    /// Reads the arguments of a method.
    pub(super) fn read(endpoint: &Endpoint, arguments: Vec<Value>) -> Result<Self, ApiError> {
        let mut prepared = Self::default();
        match &endpoint.arguments {
            Arguments::None => {}
            Arguments::Listed(list) => {
                let mut given = arguments.into_iter();
                for argument in *list {
                    prepared.take(argument, given.next())?;
                }
            }
            Arguments::Table(list) => {
                let mut given = table(list, arguments.into_iter().next())?;
                for argument in *list {
                    let alias = argument.alias.and_then(|alias| given.remove(alias));
                    prepared.take(argument, given.remove(argument.name).or(alias))?;
                }
            }
        }
        // `before` wins.
        if prepared.query.iter().any(|(name, _)| *name == "before") {
            prepared.query.retain(|(name, _)| *name != "after");
        }
        (endpoint.validator)(prepared.body.as_ref().unwrap_or(&Json::Null))?;
        Ok(prepared)
    }

    /// The body as it is sent.
    pub(super) fn body_text(&self) -> Result<Option<Vec<u8>>, ApiError> {
        let Some(body) = &self.body else { return Ok(None) };
        let text = body.to_string().into_bytes();
        if text.len() > BODY_BYTES_MAX {
            return Err(ApiError::too_large(format_args!("data (at most {BODY_BYTES_MAX} bytes)")));
        }
        Ok(Some(text))
    }

    /// A field of the body.
    pub(super) fn field(&self, name: &str) -> Option<&Json> {
        self.body.as_ref()?.get(name)
    }

    /// The ids of a list in the body.
    pub(super) fn ids_of(&self, name: &str) -> Vec<u64> {
        let items = self.field(name).and_then(Json::as_array);
        items.into_iter().flatten().filter_map(json_id).collect()
    }

    fn take(&mut self, argument: &Argument, value: Option<Value>) -> Result<(), ApiError> {
        if let Goes::Always(name, text) = argument.goes {
            self.query.push((name, text.to_owned()));
            return Ok(());
        }
        let value = value.map(unwrapped);
        let path = Path::Root(argument.name);
        let value = match (argument.need, value) {
            (Need::Must, None | Some(Value::Null)) => {
                // A list or a body may be an empty table, but it must be there.
                return Err(ApiError::invalid_argument(format_args!("{} (missing)", argument.name)));
            }
            (_, None) | (Need::May, Some(Value::Null)) => return Ok(()),
            (_, Some(value)) => value,
        };
        match argument.goes {
            Goes::Reaction => self.ids.text = reaction(value)?,
            Goes::Target => self.query.push(target(value)?),
            Goes::Choice(name, choices) => {
                let chosen = choices.iter().find(|(text, _)| value == Value::Text((*text).to_owned()));
                let names: Vec<_> = choices.iter().map(|(text, _)| *text).collect();
                let (_, number) = chosen.ok_or_else(|| wrong(&path, names.join(" or ")))?;
                self.query.push((name, number.to_string()));
            }
            goes => {
                let field =
                    Field { name: argument.name, kind: argument.kind, is_clearable: argument.need == Need::Clearable };
                let Some(json) = field.read(Some(value), &path, &mut self.named)? else { return Ok(()) };
                self.put(goes, json, &path)?;
            }
        }
        Ok(())
    }

    fn put(&mut self, goes: Goes, json: Json, path: &Path<'_>) -> Result<(), ApiError> {
        match goes {
            Goes::Id(place) => *place(&mut self.ids) = json_id(&json).ok_or_else(|| wrong(path, "an id"))?,
            Goes::Token => self.ids.text = token(json.as_str().unwrap_or_default(), path)?,
            Goes::Query(name) => self.query.push((name, query_text(&json))),
            Goes::Body => self.body = Some(json),
            Goes::Field(name) => {
                let body = self.body.get_or_insert_with(|| Json::Object(Map::new()));
                if let Some(fields) = body.as_object_mut() {
                    fields.insert(name.to_owned(), json);
                }
            }
            Goes::Reason => self.reason = json.as_str().map(str::to_owned),
            Goes::Reaction | Goes::Target | Goes::Choice(..) | Goes::Nowhere | Goes::Always(..) => {}
        }
        Ok(())
    }
}

/// The fields of the one table; none if it is missing and need not be there.
fn table(list: &[Argument], value: Option<Value>) -> Result<BTreeMap<String, Value>, ApiError> {
    match value.map(unwrapped) {
        Some(Value::Map(fields)) => Ok(fields),
        Some(value) if is_empty(&value) => Ok(BTreeMap::new()),
        None | Some(Value::Null) if list.iter().all(|argument| argument.need != Need::Must) => Ok(BTreeMap::new()),
        _ => {
            let names: Vec<_> = list.iter().map(|argument| argument.name).filter(|name| !name.is_empty()).collect();
            Err(ApiError::invalid_argument(format_args!("argument (expected a table with {})", names.join(", "))))
        }
    }
}

/// An id that was read.
pub(super) fn json_id(json: &Json) -> Option<u64> {
    json.as_str()?.parse().ok()
}

fn query_text(json: &Json) -> String {
    match json {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A code or a token: what Discord makes them of, so that none can lead to another path.
fn token(text: &str, path: &Path<'_>) -> Result<String, ApiError> {
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.bytes().all(is_safe) && text.bytes().any(|byte| byte != b'.') {
        Ok(text.to_owned())
    } else {
        Err(wrong(path, "letters, digits, `-`, `_` and `.`"))
    }
}

/// An emoji as a part of a path.
fn reaction(value: Value) -> Result<String, ApiError> {
    let Value::Map(fields) = value else {
        return Err(ApiError::invalid_argument("reaction (expected a table with type)"));
    };
    let text = |name: &str| match fields.get(name) {
        Some(Value::Text(text)) => Some(text.as_str()),
        _ => None,
    };
    match text("type") {
        Some("Unicode") => {
            let data = text("data").unwrap_or_default();
            // No emoji is of ASCII alone: `..` would lead to another path even when it is encoded.
            let is_emoji = !data.is_ascii() && data.chars().count() <= 32 && !data.chars().any(char::is_control);
            if !is_emoji {
                return Err(ApiError::invalid_argument("reaction.data (expected an emoji)"));
            }
            Ok(percent_encoded(data))
        }
        Some("Custom") => {
            let id = fields.get("id").and_then(id);
            let id = id.ok_or_else(|| ApiError::invalid_argument("reaction.id (expected the id of an emoji)"))?;
            // Discord goes by the id, but wants a name.
            let name = text("name").unwrap_or("_");
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if !(1..=32).contains(&name.len()) || !name.bytes().all(is_name) {
                return Err(ApiError::invalid_argument("reaction.name (expected letters, digits and `_`)"));
            }
            Ok(format!("{name}%3A{id}"))
        }
        _ => Err(ApiError::invalid_argument("reaction.type (expected `Unicode` or `Custom`)")),
    }
}

fn target(value: Value) -> Result<(&'static str, String), ApiError> {
    let Value::Map(fields) = value else {
        return Err(ApiError::invalid_argument("target (expected a table with type and id)"));
    };
    let name = match fields.get("type") {
        Some(Value::Text(text)) => match text.as_str() {
            "After" => "after",
            "Around" => "around",
            "Before" => "before",
            _ => return Err(ApiError::invalid_argument("target.type (expected `After`, `Around` or `Before`)")),
        },
        _ => return Err(ApiError::invalid_argument("target.type (expected `After`, `Around` or `Before`)")),
    };
    let id = fields.get("id").and_then(id).ok_or_else(|| ApiError::invalid_argument("target.id (expected an id)"))?;
    Ok((name, id.to_string()))
}
