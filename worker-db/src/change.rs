//! What others must hear of.

use std::sync::Arc;

use jiff::Timestamp;
use worker_core::TenantId;

/// A write that was committed by this process and that somebody keeps a copy of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The tenant's templates, or what the shop gives for them. Sent also if it is not known whether the commit succeeded.
    Templates {
        /// Whose.
        tenant: TenantId,
    },
    /// When a record expires.
    Expiry {
        /// Whose record.
        tenant: TenantId,
        /// Which record.
        id: Arc<str>,
        /// When it expires now, as stored (microseconds, rounded up). `None`: never, or the record is gone.
        expires_at: Option<Timestamp>,
    },
}
