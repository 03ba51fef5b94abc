//! Discord's rate limits, kept before it has to refuse anything.
//!
//! serenity's own limiter is not used: it sends to Discord whatever proxy is set, tries a refused request again without
//! end, lets everybody go on while a global limit is waited for, and remembers each channel for ever.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use parking_lot::Mutex;
use serenity::http::{LightMethod, RatelimitingBucket};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::{Instant, sleep_until};

/// Buckets that are remembered, and for how long after their last use.
const BUCKETS_MAX: u64 = 50_000;
const BUCKET_IDLE: Duration = Duration::from_secs(600);

/// The longest wait that an answer can ask for: an announced time is not believed beyond it.
const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// When what may be sent.
pub(super) struct Buckets {
    buckets: Cache<(LightMethod, RatelimitingBucket), Arc<AsyncMutex<Bucket>>>,
    all: Mutex<All>,
    /// The time of one request where all are sent evenly.
    interval: Duration,
}

struct All {
    /// When the next request may be sent, where all together may not be more than so many a second.
    next: Instant,
    /// Until when Discord wants nothing at all.
    closed_until: Instant,
}

/// What Discord has said of a kind of request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    /// What is left until the reset; none if Discord says nothing of a limit.
    remaining: Option<u64>,
    limit: u64,
    reset: Option<Instant>,
    known: bool,
}

/// What the headers of an answer say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LimitHeaders {
    pub(super) limit: Option<u64>,
    pub(super) remaining: Option<u64>,
    pub(super) reset_after: Option<f64>,
}

/// The right to send one request. The first of its kind goes alone: its answer says how many may follow.
pub(super) struct Permit {
    bucket: Arc<AsyncMutex<Bucket>>,
    alone: Option<OwnedMutexGuard<Bucket>>,
}

impl Buckets {
    pub(super) fn new(requests_per_second: u32) -> Self {
        let now = Instant::now();
        Self {
            buckets: Cache::builder().max_capacity(BUCKETS_MAX).time_to_idle(BUCKET_IDLE).build(),
            all: Mutex::new(All { next: now, closed_until: now }),
            interval: Duration::from_secs(1) / requests_per_second.max(1),
        }
    }

    /// Waits for the turn of a request. `Err` is how long that would take, where it is not before the deadline.
    pub(super) async fn enter(
        &self,
        method: LightMethod,
        bucket: RatelimitingBucket,
        deadline: Instant,
    ) -> Result<Permit, Duration> {
        let bucket = self.buckets.get_with((method, bucket), Arc::default);
        let mut state = bucket.clone().lock_owned().await;
        if !state.known {
            return Ok(Permit { bucket, alone: Some(state) });
        }
        let now = Instant::now();
        let turn = state.turn(now);
        if turn > now {
            if turn > deadline {
                return Err(turn - now);
            }
            // Those behind wait for the lock meanwhile, in their order.
            sleep_until(turn).await;
            state.refill();
        }
        state.remaining = state.remaining.map(|remaining| remaining.saturating_sub(1));
        Ok(Permit { bucket, alone: None })
    }

    /// Waits for the turn of a request among all. `Err` is how long that would take, where it is too long.
    pub(super) async fn enter_all(&self, deadline: Instant) -> Result<(), Duration> {
        loop {
            let now = Instant::now();
            let turn = self.all.lock().turn(now, deadline, self.interval);
            match turn {
                Turn::At(turn) if turn <= now => return Ok(()),
                Turn::At(turn) => {
                    sleep_until(turn).await;
                    return Ok(());
                }
                Turn::AskAgain(opens) if opens > deadline => return Err(opens - now),
                // When that is over they start one after the other, as ever.
                Turn::AskAgain(opens) => sleep_until(opens).await,
                Turn::TooLate(turn) => return Err(turn - now),
            }
        }
    }

    /// Discord wants nothing from anybody for so long.
    pub(super) fn close(&self, wait: Duration) {
        let mut all = self.all.lock();
        all.closed_until = all.closed_until.max(Instant::now() + wait.min(WAIT_MAX));
    }
}

/// When a request has its turn among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    At(Instant),
    /// Nothing is sent before; then everybody asks anew.
    AskAgain(Instant),
    TooLate(Instant),
}

impl All {
    fn turn(&mut self, now: Instant, deadline: Instant, interval: Duration) -> Turn {
        if self.closed_until > now {
            return Turn::AskAgain(self.closed_until);
        }
        // What was not used is kept for a second.
        let turn = self.next.max(now.checked_sub(Duration::from_secs(1)).unwrap_or(now));
        if turn > deadline {
            return Turn::TooLate(turn);
        }
        self.next = turn + interval;
        Turn::At(turn)
    }
}

impl Permit {
    /// Keeps what the answer said.
    pub(super) async fn answered(self, headers: LimitHeaders) {
        self.state().await.answered(headers, Instant::now());
    }

    /// Discord refused it: nothing of its kind is sent for so long.
    pub(super) async fn refused(self, wait: Duration) {
        self.state().await.refused(Instant::now() + wait.min(WAIT_MAX));
    }

    async fn state(self) -> OwnedMutexGuard<Bucket> {
        match self.alone {
            Some(state) => state,
            None => self.bucket.lock_owned().await,
        }
    }
}

impl Bucket {
    /// When the next request may be sent.
    fn turn(&mut self, now: Instant) -> Instant {
        match self.reset {
            Some(reset) if reset > now => match self.remaining {
                Some(0) => reset,
                _ => now,
            },
            _ => {
                self.refill();
                now
            }
        }
    }

    fn refill(&mut self) {
        self.remaining = self.remaining.map(|_| self.limit);
        self.reset = None;
    }

    fn answered(&mut self, headers: LimitHeaders, now: Instant) {
        self.known = true;
        let Some(limit) = headers.limit else { return };
        let left = headers.remaining.unwrap_or_default();
        // Answers overtake each other: within a period the smallest number is right.
        let same_period = self.reset.is_some_and(|reset| reset > now);
        self.remaining = Some(if same_period { self.remaining.map_or(left, |known| known.min(left)) } else { left });
        self.limit = limit.max(1);
        self.reset = headers.reset_after.and_then(wait).map(|wait| now + wait).or(self.reset);
    }

    fn refused(&mut self, until: Instant) {
        *self = Self { remaining: Some(0), limit: self.limit.max(1), reset: Some(until), known: true };
    }
}

/// A time in seconds, as Discord writes it.
pub(super) fn wait(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok().map(|wait| wait.min(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use serenity::http::Route;

    use super::*;

    fn says(limit: u64, remaining: u64, reset_after: f64) -> LimitHeaders {
        LimitHeaders { limit: Some(limit), remaining: Some(remaining), reset_after: Some(reset_after) }
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_discord_has_said_is_kept() {
        let (mut bucket, start) = (Bucket::default(), Instant::now());
        bucket.answered(says(3, 2, 10.0), start);
        for _ in 0..2 {
            assert_eq!(bucket.turn(start), start);
            bucket.remaining = bucket.remaining.map(|remaining| remaining - 1);
        }
        assert_eq!(bucket.turn(start + secs(1)), start + secs(10), "the fourth waits for the reset");
        // A late answer to an earlier request gives nothing back.
        bucket.answered(says(3, 2, 9.0), start + secs(1));
        assert_eq!(bucket.turn(start + secs(1)), start + secs(10));
        assert_eq!(bucket.turn(start + secs(10)), start + secs(10));
        assert_eq!(bucket.remaining, Some(3));
    }

    #[test]
    fn a_refusal_closes_a_bucket_and_no_limit_none() {
        let (mut bucket, start) = (Bucket::default(), Instant::now());
        bucket.answered(LimitHeaders::default(), start);
        assert_eq!(bucket.turn(start), start);
        bucket.refused(start + secs(600));
        assert_eq!(bucket.turn(start), start + secs(600));
        assert_eq!(bucket.turn(start + secs(600)), start + secs(600));
    }

    #[tokio::test]
    async fn the_first_of_a_kind_goes_alone_and_nobody_waits_beyond_the_time() {
        let (buckets, deadline) = (Arc::new(Buckets::new(1_000)), Instant::now() + secs(60));
        let bucket = Route::GuildRoles { guild_id: 1.into() }.ratelimiting_bucket();
        let first = buckets.enter(LightMethod::Get, bucket, deadline).await.ok().unwrap();
        let second = tokio::spawn({
            let buckets = buckets.clone();
            async move { buckets.enter(LightMethod::Get, bucket, deadline).await.map(|_| ()) }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        // Another method has a bucket of its own.
        assert!(buckets.enter(LightMethod::Post, bucket, deadline).await.is_ok());
        first.refused(secs(600)).await;
        assert!(second.await.unwrap().unwrap_err() > secs(590));
    }

    #[test]
    fn all_together_are_sent_evenly_and_stop_when_discord_says_so() {
        let (now, interval) = (Instant::now() + secs(100), secs(1) / 10);
        let mut all = All { next: now - secs(50), closed_until: now - secs(50) };
        let deadline = now + secs(1);
        let turns: Vec<_> = (0..25).map(|_| all.turn(now, deadline, interval)).collect();
        let at_once = turns.iter().filter(|turn| matches!(turn, Turn::At(at) if *at <= now)).count();
        assert_eq!(at_once, 11, "a second's worth and the one whose turn it is");
        assert_eq!(turns[12], Turn::At(now + 2 * interval));
        assert!(matches!(turns[24], Turn::TooLate(_)));
        all.closed_until = now + secs(7);
        assert_eq!(all.turn(now, deadline, interval), Turn::AskAgain(now + secs(7)));
    }

    #[test]
    fn a_time_of_another_kind_is_no_panic() {
        assert_eq!([-1.0, f64::NAN, f64::INFINITY].map(wait), [None; 3]);
        assert_eq!(wait(1e12), Some(WAIT_MAX));
    }
}
