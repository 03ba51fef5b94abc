//! How often, and how soon, an engine that panicked is started again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How often, and how soon, an engine that panicked is started again.
#[derive(Clone, Debug)]
pub struct RestartPolicy {
    /// Restarts in [`window`](Self::window); after one more panic the worker gives up.
    pub restarts_max: usize,
    /// The window of [`restarts_max`](Self::restarts_max).
    pub window: Duration,
    /// The wait before the first restart of a window. It doubles with each further one.
    pub backoff_min: Duration,
    /// The longest wait.
    pub backoff_max: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            restarts_max: 10,
            window: Duration::from_secs(60),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_secs(5),
        }
    }
}

/// The restarts of one worker.
#[derive(Debug)]
pub struct Restarts {
    policy: RestartPolicy,
    /// Those of the window, oldest first.
    recent: VecDeque<Instant>,
}

impl Restarts {
    /// None so far.
    pub fn new(policy: RestartPolicy) -> Self {
        Self { policy, recent: VecDeque::new() }
    }

    /// How long to wait before the restart that is due now; `None` if there were too many.
    pub fn next(&mut self, now: Instant) -> Option<Duration> {
        let RestartPolicy { restarts_max, window, backoff_min, backoff_max } = self.policy;
        while self.recent.front().is_some_and(|&restart| now.duration_since(restart) >= window) {
            self.recent.pop_front();
        }
        if self.recent.len() >= restarts_max {
            return None;
        }
        let doublings = self.recent.len().try_into().unwrap_or(u32::MAX);
        self.recent.push_back(now);
        Some(backoff_min.saturating_mul(2u32.saturating_pow(doublings)).min(backoff_max))
    }

    /// How the policy was broken, for the message of a worker that gives up.
    pub fn limit(&self) -> String {
        format!("{} restarts in {:?}", self.policy.restarts_max, self.policy.window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn policy() -> RestartPolicy {
        RestartPolicy { restarts_max: 4, window: seconds(60), backoff_min: seconds(1), backoff_max: seconds(5) }
    }

    #[test]
    fn the_wait_doubles_up_to_its_limit_and_then_the_worker_gives_up() {
        let (mut restarts, now) = (Restarts::new(policy()), Instant::now());
        let waits: Vec<_> = (0..6).map(|_| restarts.next(now)).collect();
        assert_eq!(waits, [Some(seconds(1)), Some(seconds(2)), Some(seconds(4)), Some(seconds(5)), None, None]);
    }

    #[test]
    fn restarts_before_the_window_are_forgotten() {
        let (mut restarts, now) = (Restarts::new(policy()), Instant::now());
        for second in 0..4 {
            assert!(restarts.next(now + seconds(second)).is_some());
        }
        assert_eq!(restarts.next(now + seconds(59)), None);
        assert_eq!(restarts.next(now + seconds(60)), Some(seconds(5)), "three of the window are left");
        assert_eq!(restarts.next(now + seconds(200)), Some(seconds(1)));
    }

    #[test]
    fn a_policy_of_no_restarts_gives_up_at_once() {
        let mut restarts = Restarts::new(RestartPolicy { restarts_max: 0, ..policy() });
        assert_eq!(restarts.next(Instant::now()), None);
    }
}
