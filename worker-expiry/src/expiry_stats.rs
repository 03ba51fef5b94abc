//! What expiry has done.

use std::time::Duration;

use worker_core::LatenessHistogram;

/// Figures of one worker since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpiryStats {
    /// Records in memory now: due soon, or due and waiting for their turn.
    pub pending: u64,
    /// Records that are claimed and not done with now.
    pub in_hand: u64,
    /// Records whose handlers succeeded.
    pub handled: u64,
    /// Records that were removed though no template had subscribed.
    pub unsubscribed: u64,
    /// Attempts that failed and are made again.
    pub retries: u64,
    /// Records that became dead letters.
    pub dead: u64,
    /// From the expiry to the first attempt.
    pub lateness: LatenessHistogram,
}

impl ExpiryStats {
    pub(crate) fn was_late(&mut self, late: Duration) {
        self.lateness.record(late);
    }
}
