//! The one error of this crate.

use std::sync::Arc;

use sqlx::migrate::MigrateError;
use worker_core::TemplateFilesError;

use crate::Backend;

/// Why the store did not do what it was asked.
///
/// Where [`is_callers_fault`](Self::is_callers_fault), the text is the template API's (section 17) and may be shown to the
/// template as it is. No variant holds the URL of the database, which may have a password in it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DbError {
    /// No scopes were given.
    #[error("Unscoped operations are not allowed")]
    Unscoped,
    /// An argument of the wrong form, range or state.
    #[error("invalid_argument: {field}: {reason}")]
    InvalidArgument {
        /// Which argument.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// An argument or an answer that is larger than it may be.
    #[error("too_large: {what}: at most {max}")]
    TooLarge {
        /// What is too large, with its size where that helps.
        what: String,
        /// The limit.
        max: u64,
    },
    /// The tenant has as much as it may have: `kv rows`, `kv bytes` or `templates`.
    #[error("quota_exceeded: {0}")]
    QuotaExceeded(&'static str),
    /// There is no such record, template or shop template.
    #[error("not_found: {0}")]
    NotFound(String),
    /// It exists already.
    #[error("conflict: {0} exists already")]
    Conflict(String),
    /// Several records have the key and the scopes, and none has exactly the scopes.
    #[error("ambiguous: several records `{key}` have these scopes")]
    Ambiguous {
        /// The key.
        key: String,
    },

    /// The text is not the URL of a database that is supported.
    #[error("the database URL is not understood: {reason} (expected sqlite::memory:, sqlite:PATH or postgres://...)")]
    BadUrl {
        /// What is wrong, without the URL.
        reason: String,
    },
    /// The database could not be reached or opened.
    #[error("cannot open the {backend} database")]
    Connect {
        /// Which database.
        backend: Backend,
        /// Why.
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// The tables could not be brought to this program's version.
    #[error("cannot migrate the {backend} database")]
    Migrate {
        /// Which database.
        backend: Backend,
        /// Why.
        #[source]
        source: Arc<MigrateError>,
    },
    /// A statement failed.
    #[error("the database failed at {statement}")]
    Statement {
        /// The name of the statement in this crate.
        statement: &'static str,
        /// Why.
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// A stored row is not what this program writes.
    #[error("the row `{row}` is damaged: {reason}")]
    DamagedRow {
        /// The name or the id of the row.
        row: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl DbError {
    pub(crate) fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Self::InvalidArgument { field, reason: reason.into() }
    }

    pub(crate) fn too_large(what: impl Into<String>, max: impl TryInto<u64>) -> Self {
        Self::TooLarge { what: what.into(), max: max.try_into().unwrap_or(u64::MAX) }
    }

    /// Whether the caller asked for something that cannot be, rather than the database failing. Trying again does not
    /// help; the text is for the template.
    pub fn is_callers_fault(&self) -> bool {
        match self {
            Self::Unscoped
            | Self::InvalidArgument { .. }
            | Self::TooLarge { .. }
            | Self::QuotaExceeded(_)
            | Self::NotFound(_)
            | Self::Conflict(_)
            | Self::Ambiguous { .. } => true,
            Self::BadUrl { .. }
            | Self::Connect { .. }
            | Self::Migrate { .. }
            | Self::Statement { .. }
            | Self::DamagedRow { .. } => false,
        }
    }
}

impl From<TemplateFilesError> for DbError {
    fn from(error: TemplateFilesError) -> Self {
        match error {
            TemplateFilesError::TooMany { max, .. } => Self::too_large("files of the content", max),
            TemplateFilesError::PathTooLong { path, max } => Self::too_large(format!("path `{path}`"), max as u64),
            TemplateFilesError::FileTooLarge { path, max, .. } => Self::too_large(format!("file `{path}`"), max as u64),
            TemplateFilesError::TooLarge { max, .. } => Self::too_large("content", max as u64),
            malformed => Self::invalid("content", malformed.to_string()),
        }
    }
}
