//! Errors of this layer: those that scripts see, and those that callers of the layer see.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use worker_core::{RatelimitHit, ValueError};
use worker_db::DbError;

use crate::require_path::RequireError;

/// An error that is raised in a script, as a string whose beginning names its class (template API, section 17).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError(String);

macro_rules! classes {
    ($($(#[$doc:meta])* $function:ident => $prefix:literal),* $(,)?) => { $(
        $(#[$doc])*
        pub(crate) fn $function(detail: impl fmt::Display) -> Self {
            Self(format!(concat!($prefix, "{}"), detail))
        }
    )* };
}

#[allow(dead_code, reason = "the classes of the reference, whether or not a plugin of today raises them")]
impl ApiError {
    classes! {
        /// A capability that is not held.
        missing_capability => "Missing capability: ",
        /// Wrong type, range, length or state; the field follows.
        invalid_argument => "invalid_argument: ",
        /// Cannot be converted.
        invalid_value => "invalid_value: ",
        /// A size, count or depth limit.
        too_large => "too_large: ",
        /// A quota.
        quota_exceeded => "quota_exceeded: ",
        /// No such record, template, object.
        not_found => "not_found: ",
        /// Exists already.
        conflict => "conflict: ",
        /// Several records match.
        ambiguous => "ambiguous: ",
        /// The bot, or the user who is asked about, lacks a permission of Discord's.
        missing_permission => "missing_permission: ",
        /// The order of roles forbids it.
        hierarchy => "hierarchy: ",
        /// Not of the tenant's guild.
        wrong_guild => "wrong_guild: ",
        /// What an executor for many calls does not do.
        bulk_op => "bulk_op: ",
        /// Discord's answer.
        discord => "discord: ",
        /// A service that did not answer, or is not offered.
        unavailable => "unavailable: ",
        /// Native memory refused.
        memory => "memory: ",
        /// A request that was refused or failed.
        http => "http: ",
        /// A module that cannot be required.
        require => "require: ",
    }

    /// Whether something was named that is not of the tenant's guild.
    pub(crate) fn is_wrong_guild(&self) -> bool {
        self.0.starts_with("wrong_guild: ")
    }

    /// A call without scopes.
    pub(crate) fn unscoped() -> Self {
        Self("Unscoped operations are not allowed".into())
    }

    /// A text that names its class already, or is a script's own.
    pub(crate) fn verbatim(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// A fault of this program. The details go to the log under an id; scripts see the id only.
    pub(crate) fn internal(details: &dyn fmt::Display) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        tracing::error!(id, "internal error seen by a template: {details}");
        Self(format!("internal: a fault of the worker, number {id} in its log"))
    }

    /// A panic in native code, which ends here.
    pub(crate) fn from_panic(panic: &(dyn Any + Send)) -> Self {
        CONTAINED_PANICS.with(|contained| contained.set(contained.get() + 1));
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("a panic");
        Self::internal(&text)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<ValueError> for ApiError {
    fn from(error: ValueError) -> Self {
        Self(error.to_string())
    }
}

impl From<RequireError> for ApiError {
    fn from(error: RequireError) -> Self {
        Self(error.to_string())
    }
}

impl From<RatelimitHit> for ApiError {
    fn from(hit: RatelimitHit) -> Self {
        Self(hit.to_string())
    }
}

/// What the caller did wrong is said in the words of the reference. What the database did wrong goes to the log: neither
/// statements nor the rows of anybody are the template's business.
impl From<DbError> for ApiError {
    fn from(error: DbError) -> Self {
        if error.is_callers_fault() {
            return Self(error.to_string());
        }
        if matches!(error, DbError::DamagedRow { .. }) {
            return Self::internal(&error);
        }
        tracing::error!(error = &error as &dyn std::error::Error, "the database failed a template's call");
        Self::unavailable("database")
    }
}

thread_local! {
    static CONTAINED_PANICS: Cell<u64> = const { Cell::new(0) };
}

/// Panics of native functions on the calling thread that cost one call an `internal: ` error and nobody else anything:
/// who watches for panics by a hook can tell them from those that end the worker.
pub fn contained_panics() -> u64 {
    CONTAINED_PANICS.with(Cell::get)
}

/// Why a VM could not be made or a template not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmError {
    /// The memory limit is too low for a VM.
    #[error("no memory for a VM within {limit_bytes} bytes")]
    NoMemory {
        /// The limit of the tenant.
        limit_bytes: usize,
    },
    /// The database failed.
    #[error("loading the tenant's templates")]
    Db(#[from] DbError),
}
