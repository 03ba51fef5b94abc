//! What bounds expiry.

use std::time::Duration;

/// How records that expire are handled, by each worker.
#[derive(Clone, Debug)]
pub struct ExpirySettings {
    /// How long a record is nobody else's after it was claimed, unless that is renewed.
    pub lease: Duration,
    /// Attempts before a record becomes a dead letter.
    pub attempts_max: u32,
    /// Between the first attempt and the second.
    pub backoff_first: Duration,
    /// How often each such wait fits into the next one.
    pub backoff_factor: u32,
    /// The longest such wait.
    pub backoff_max: Duration,
    /// How far such waits are spread, so that what failed together is not tried together: 1 from half to one and a half
    /// times the wait, 0 not at all.
    pub backoff_spread: f64,
    /// Between two looks for what other processes wrote.
    pub poll: Duration,
    /// Records in memory that are due soon.
    pub window_max: usize,
    /// Of those, records of one tenant.
    pub tenant_window_max: usize,
    /// Handlers that run at once for records. The more of them run, the fewer may be of one tenant: a quarter of what is
    /// free.
    pub handlers_max: usize,
    /// Of those, handlers of one tenant at the most.
    pub tenant_handlers_max: usize,
}

impl Default for ExpirySettings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            attempts_max: 5,
            backoff_first: Duration::from_secs(2),
            backoff_factor: 4,
            backoff_max: Duration::from_secs(600),
            backoff_spread: 1.0,
            poll: Duration::from_secs(1),
            window_max: 65_536,
            tenant_window_max: 512,
            handlers_max: 1_024,
            tenant_handlers_max: 64,
        }
    }
}

impl ExpirySettings {
    /// How long to wait after so many failed attempts. `luck` from 0 to 1 says where in the spread.
    pub(crate) fn backoff(&self, attempts: u32, luck: f64) -> Duration {
        let factor = self.backoff_factor.max(1).saturating_pow(attempts.saturating_sub(1));
        let wait = self.backoff_first.saturating_mul(factor).min(self.backoff_max);
        wait.mul_f64(1.0 + self.backoff_spread.clamp(0.0, 1.0) * (luck.clamp(0.0, 1.0) - 0.5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_their_bound_and_are_spread() {
        let settings = ExpirySettings::default();
        let waits: Vec<_> = (1..=4).map(|n| settings.backoff(n, 0.5).as_secs()).collect();
        assert_eq!(waits, [2, 8, 32, 128]);
        assert_eq!(settings.backoff(u32::MAX, 0.5), settings.backoff_max);
        assert!(settings.backoff(1, 0.0) < settings.backoff(1, 1.0));
        let exact = ExpirySettings { backoff_spread: 0.0, ..settings };
        assert_eq!(exact.backoff(2, 0.0), Duration::from_secs(8));
        assert_eq!(exact.backoff(2, 1.0), Duration::from_secs(8));
    }
}
