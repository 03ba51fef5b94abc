//! A REST call, as the world sees it, and its answer.

use serde_json::{Map, Value};
use worker_core::Snowflake;

use super::discord_error::DiscordError;
use super::form::as_id;

/// A REST call.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Who calls: the bot, or a user by way of the page.
    pub actor: Snowflake,
    /// `GET`, `POST`, …
    pub method: &'a str,
    /// Where to, after `/api/v10`.
    pub path: &'a str,
    /// What stands after the `?`, decoded.
    pub query: &'a [(String, String)],
    /// The body; null if there is none.
    pub body: &'a Value,
    /// `X-Audit-Log-Reason`, decoded.
    pub reason: Option<&'a str>,
}

impl Request<'_> {
    /// The body, which must be an object.
    pub(super) fn object(&self) -> Result<&Map<String, Value>, DiscordError> {
        static NONE: std::sync::OnceLock<Map<String, Value>> = std::sync::OnceLock::new();
        match self.body {
            Value::Object(map) => Ok(map),
            Value::Null => Ok(NONE.get_or_init(Map::new)),
            _ => Err(DiscordError::bad_json()),
        }
    }

    /// The body, which must be a list.
    pub(super) fn array(&self) -> Result<&[Value], DiscordError> {
        self.body.as_array().map(Vec::as_slice).ok_or_else(DiscordError::bad_json)
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.query.iter().find(|(name, _)| name == key).map(|(_, value)| &**value)
    }

    pub(super) fn id(&self, key: &str) -> Result<Option<Snowflake>, DiscordError> {
        let Some(text) = self.text(key) else { return Ok(None) };
        match as_id(&Value::String(text.into())) {
            Some(id) => Ok(Some(id)),
            None if text == "0" => Ok(None),
            None => Err(not_a_snowflake(key, text)),
        }
    }

    pub(super) fn limit(&self, default: usize, least: usize, most: usize) -> Result<usize, DiscordError> {
        let Some(text) = self.text("limit") else { return Ok(default) };
        let mut errors = super::discord_error::FormErrors::default();
        let path = ["limit".to_owned()];
        match text.parse::<i64>() {
            Ok(limit) if limit < least as i64 => {
                let message = format!("int value should be greater than or equal to {least}.");
                errors.add(&path, "NUMBER_TYPE_MIN", message);
            }
            Ok(limit) if limit > most as i64 => {
                let message = format!("int value should be less than or equal to {most}.");
                errors.add(&path, "NUMBER_TYPE_MAX", message);
            }
            Ok(limit) => return Ok(limit as usize),
            Err(_) => errors.add(&path, "NUMBER_TYPE_COERCE", format!("Value \"{text}\" is not int.")),
        }
        Err(DiscordError::invalid_form(errors))
    }

    pub(super) fn flag(&self, key: &str) -> bool {
        matches!(self.text(key), Some("true" | "1" | "True"))
    }
}

/// An id in an address that is none.
pub(super) fn not_a_snowflake(key: &str, text: &str) -> DiscordError {
    let mut errors = super::discord_error::FormErrors::default();
    errors.add(&[key.to_owned()], "NUMBER_TYPE_COERCE", format!("Value \"{text}\" is not snowflake."));
    DiscordError::invalid_form(errors)
}

/// An answer that is no refusal.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body; none with status 204.
    pub body: Option<Value>,
}

impl Reply {
    /// 200 with this.
    pub(super) fn ok(body: Value) -> Self {
        Self { status: 200, body: Some(body) }
    }

    /// 201 with this.
    pub(super) fn created(body: Value) -> Self {
        Self { status: 201, body: Some(body) }
    }

    /// 204.
    pub(super) fn none() -> Self {
        Self { status: 204, body: None }
    }
}
