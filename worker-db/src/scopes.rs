//! The set of scopes that a record has or a call names.

use worker_core::{ContentHash, KvLimits};

use crate::DbError;

/// A set of scopes: never empty, sorted, each once, within the limits of a call (template API, section 4.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scopes {
    sorted: Vec<String>,
    /// The form in which the set is stored and, hashed, told apart from others.
    json: String,
    hash: ContentHash,
}

impl Scopes {
    /// Checks the scopes and makes a set of them: order and repeats mean nothing.
    pub fn new<S: Into<String>>(scopes: impl IntoIterator<Item = S>, limits: &KvLimits) -> Result<Self, DbError> {
        let mut sorted: Vec<String> = scopes.into_iter().map(Into::into).collect();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.is_empty() {
            return Err(DbError::Unscoped);
        }
        if sorted.len() > limits.scopes_max {
            return Err(DbError::too_large("scopes of a call", limits.scopes_max as u64));
        }
        for scope in &sorted {
            check_name("scopes", scope, limits.scope_bytes_max)?;
        }
        let json = serde_json::Value::from(sorted.clone()).to_string();
        let hash = ContentHash::of(json.as_bytes());
        Ok(Self { sorted, json, hash })
    }

    /// The scopes in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.sorted.iter().map(String::as_str)
    }

    pub(crate) fn first(&self) -> &str {
        &self.sorted[0]
    }

    pub(crate) fn count(&self) -> i64 {
        self.sorted.len() as i64
    }

    pub(crate) fn json(&self) -> &str {
        &self.json
    }

    pub(crate) fn hash(&self) -> &[u8; 32] {
        self.hash.as_bytes()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.sorted.iter().map(String::len).sum()
    }
}

/// A key or a scope: not empty, not too long, and without NUL, which PostgreSQL's text cannot hold.
pub(crate) fn check_name(field: &'static str, text: &str, bytes_max: usize) -> Result<(), DbError> {
    if text.contains('\0') {
        return Err(DbError::invalid(field, "has a NUL character"));
    }
    // Nothing is as far from the sizes that are allowed as too much: the API has one class for both.
    if !(1..=bytes_max).contains(&text.len()) {
        return Err(DbError::too_large(format!("{field} of {} bytes (at least 1)", text.len()), bytes_max as u64));
    }
    Ok(())
}
