//! Executors for many calls: they skip the rate limits, and have an allowance in their place (template API, section 5.5).

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use crate::error::ApiError;

/// How long an executor lives after it was made or last waited on.
const LIFE: Duration = Duration::from_secs(10);
/// What is added to a wait, so that those who wait for the same moment do not all come at once.
const JITTER_MILLIS: std::ops::RangeInclusive<u64> = 10..=500;

/// The actions with a period of their own, and that of the others and of no action.
const PERIODS: [(&str, Duration); 4] = [
    ("create_message", Duration::from_millis(1_200)),
    ("create_guild_role", Duration::from_millis(2_200)),
    ("modify_guild_role", Duration::from_millis(2_000)),
    ("delete_guild_role", Duration::from_millis(2_000)),
];
const PERIOD: Duration = Duration::from_millis(2_500);

/// The action that an executor is for; none is for any.
pub(super) type BulkAction = Option<&'static str>;

/// When a guild's executors may act again, all of those for an action together. It outlives VMs.
#[derive(Debug, Default)]
pub(crate) struct BulkAllowances(RefCell<Vec<(BulkAction, Instant)>>);

impl BulkAllowances {
    /// How long until the next operation; zero if one is allowed.
    fn wait(&self, action: BulkAction, now: Instant) -> Duration {
        let next = self.0.borrow().iter().find(|(of, _)| *of == action).map(|(_, next)| *next);
        next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now))
    }

    /// Uses the allowance up, if it is there.
    fn take(&self, action: BulkAction, now: Instant) -> bool {
        if !self.wait(action, now).is_zero() {
            return false;
        }
        let period = PERIODS.iter().find(|(name, _)| Some(*name) == action).map_or(PERIOD, |(_, period)| *period);
        let mut allowances = self.0.borrow_mut();
        allowances.retain(|(of, _)| *of != action);
        allowances.push((action, now + period));
        true
    }

    /// Whether everything is allowed again.
    pub(crate) fn is_idle(&self) -> bool {
        let now = Instant::now();
        self.0.borrow().iter().all(|(_, next)| *next <= now)
    }
}

/// What makes a plugin an executor.
#[derive(Debug)]
pub(super) struct Bulk {
    action: BulkAction,
    ends: Cell<Instant>,
}

impl Bulk {
    pub(super) fn new(action: BulkAction) -> Self {
        Self { action, ends: Cell::new(Instant::now() + LIFE) }
    }

    /// Before a call of the method.
    pub(super) fn take(&self, allowances: &BulkAllowances, method: &str, now: Instant) -> Result<(), ApiError> {
        self.check_alive(now)?;
        if self.action.is_some_and(|action| action != method) {
            return Err(ApiError::bulk_op("action (this executor is for another one)"));
        }
        if allowances.take(self.action, now) { Ok(()) } else { Err(ApiError::bulk_op("wait")) }
    }

    /// How long to wait for the next operation.
    pub(super) fn wait(&self, allowances: &BulkAllowances, now: Instant) -> Result<Duration, ApiError> {
        self.check_alive(now)?;
        let wait = allowances.wait(self.action, now);
        let wait = match wait.is_zero() {
            true => wait,
            false => wait + Duration::from_millis(rand::random_range(JITTER_MILLIS)),
        };
        self.ends.set(now + wait + LIFE);
        Ok(wait)
    }

    fn check_alive(&self, now: Instant) -> Result<(), ApiError> {
        if now < self.ends.get() { Ok(()) } else { Err(ApiError::bulk_op("expired")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_action_has_its_period() {
        let now = Instant::now();
        for (action, millis) in [
            (Some("create_message"), 1_200),
            (Some("create_guild_role"), 2_200),
            (Some("modify_guild_role"), 2_000),
            (Some("delete_guild_role"), 2_000),
            (Some("delete_message"), 2_500),
            (None, 2_500),
        ] {
            let allowances = BulkAllowances::default();
            let bulk = Bulk::new(action);
            let method = action.unwrap_or("get_guild");
            bulk.take(&allowances, method, now).unwrap();
            let refused = bulk.take(&allowances, method, now + Duration::from_millis(millis - 1)).unwrap_err();
            assert_eq!(refused.to_string(), "bulk_op: wait");
            bulk.take(&allowances, method, now + Duration::from_millis(millis)).unwrap();
        }
    }

    #[test]
    fn executors_of_a_guild_share_it_and_end() {
        let (allowances, now) = (BulkAllowances::default(), Instant::now());
        let (one, two, any) = (Bulk::new(Some("delete_message")), Bulk::new(Some("delete_message")), Bulk::new(None));
        one.take(&allowances, "delete_message", now).unwrap();
        assert_eq!(two.take(&allowances, "delete_message", now).unwrap_err().to_string(), "bulk_op: wait");
        any.take(&allowances, "delete_message", now).unwrap();
        assert!(!allowances.is_idle());
        let other = two.take(&allowances, "get_guild", now).unwrap_err().to_string();
        assert!(other.starts_with("bulk_op: action"), "{other}");
        let wait = two.wait(&allowances, now).unwrap();
        assert!((2_510..=3_000).contains(&wait.as_millis()), "{wait:?}");
        let later = now + Duration::from_secs(11);
        assert_eq!(one.take(&allowances, "delete_message", later).unwrap_err().to_string(), "bulk_op: expired");
        assert_eq!(one.wait(&allowances, later).unwrap_err().to_string(), "bulk_op: expired");
        two.take(&allowances, "delete_message", later).unwrap();
        assert!(two.wait(&allowances, later + Duration::from_secs(3)).unwrap_err().to_string().starts_with("bulk_op"));
    }
}
