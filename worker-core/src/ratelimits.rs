//! How often a tenant may do what (template API, section 10).
//!
//! The algorithm is GCRA, from the `governor` crate: the whole state of a limit is one number, the moment at which it is
//! full again. Limits are shared by all tenants ([`RatelimitRules`]); a tenant holds its numbers ([`Ratelimits`]).

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::RateLimiter;
use governor::clock::Clock as _;
use governor::clock::FakeRelativeClock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use smallvec::SmallVec;

use crate::StaticRef;

/// One limit of a rate: `burst` tokens at once, and one token more each `replenish_per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    burst: NonZeroU32,
    replenish_per: Duration,
}

impl Quota {
    /// A full burst is back within a century, so that sums of nanoseconds stay within 64 bits.
    const REFILL_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

    /// "N per T": N at once, and N per T for ever after, one token back every T/N.
    pub fn per(n: NonZeroU32, period: Duration) -> Self {
        Self::burst_then(n, n, period)
    }

    /// `burst` at once, then `n` per `period`.
    pub fn burst_then(burst: NonZeroU32, n: NonZeroU32, period: Duration) -> Self {
        let replenish_per = (period / n.get()).clamp(Duration::from_nanos(1), Self::REFILL_MAX / burst.get());
        Self { burst, replenish_per }
    }

    /// How many tokens there are at most, and so how many can be taken in one call.
    pub const fn burst(self) -> NonZeroU32 {
        self.burst
    }

    /// How long a token takes to come back.
    pub const fn replenish_per(self) -> Duration {
        self.replenish_per
    }
}

/// The plugins that have limits. Each has one global limit, and limits of its buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RatelimitFamily {
    /// `ctx.Discord`; a bucket a method.
    Discord,
    /// `ctx.KV`.
    Kv,
    /// `ctx.DataStores`.
    DataStores,
    /// `ctx.ObjectStorage`.
    ObjectStorage,
    /// `ctx.HTTPClient`.
    Http,
    /// `ctx.ImageCaptcha`.
    ImageCaptcha,
}

impl RatelimitFamily {
    const COUNT: usize = Self::ImageCaptcha as usize + 1;
}

/// Every limit, for all tenants. The default is the template API's.
#[derive(Debug)]
pub struct RatelimitRules {
    clock: Clock,
    limits: Vec<Limit>,
    families: [Family; RatelimitFamily::COUNT],
}

/// Places in [`RatelimitRules::limits`]. 16 bits keep a tenant's state small.
type Slots = Range<u16>;

#[derive(Debug, Default)]
struct Family {
    global: Slots,
    buckets: HashMap<Box<str>, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    own: Slots,
    counts_globally: bool,
}

impl RatelimitRules {
    /// No limits at all: what custom rules start from.
    pub fn unlimited() -> Self {
        Self { clock: Clock::Monotonic(Instant::now()), limits: Vec::new(), families: Default::default() }
    }

    /// The same rules with these limits on all buckets of the family together, in place of the earlier ones.
    pub fn with_global(mut self, family: RatelimitFamily, quotas: impl IntoIterator<Item = Quota>) -> Self {
        self.families[family as usize].global = self.slots(quotas);
        self
    }

    /// The same rules with these limits on a bucket, in place of the earlier ones. The bucket also counts towards the
    /// family's global limit.
    pub fn with_bucket(self, family: RatelimitFamily, bucket: &str, quotas: impl IntoIterator<Item = Quota>) -> Self {
        self.insert(family, bucket, quotas, true)
    }

    /// The same rules with these limits on a bucket, in place of the earlier ones. The bucket does not count towards the
    /// family's global limit.
    pub fn with_bucket_apart(
        self,
        family: RatelimitFamily,
        bucket: &str,
        quotas: impl IntoIterator<Item = Quota>,
    ) -> Self {
        self.insert(family, bucket, quotas, false)
    }

    /// The same rules on a clock that stands still until it is told to move.
    pub fn on_manual_clock(mut self) -> (Self, ManualClock) {
        let clock = FakeRelativeClock::default();
        self.clock = Clock::Manual(clock.clone());
        for limit in &mut self.limits {
            *limit = Limit::new(limit.quota, &self.clock);
        }
        (self, ManualClock(clock))
    }

    fn insert(
        mut self,
        family: RatelimitFamily,
        bucket: &str,
        quotas: impl IntoIterator<Item = Quota>,
        counts_globally: bool,
    ) -> Self {
        let own = self.slots(quotas);
        self.families[family as usize].buckets.insert(bucket.into(), Bucket { own, counts_globally });
        self
    }

    fn slots(&mut self, quotas: impl IntoIterator<Item = Quota>) -> Slots {
        let slot =
            |limits: &Vec<Limit>| u16::try_from(limits.len()).expect("because rules have far below 65,536 limits");
        let start = slot(&self.limits);
        self.limits.extend(quotas.into_iter().map(|quota| Limit::new(quota, &self.clock)));
        start..slot(&self.limits)
    }

    /// The bucket's own limits, and the global ones that it counts towards.
    fn limits_of(&self, family: RatelimitFamily, bucket: &str) -> (Slots, Slots) {
        let family = &self.families[family as usize];
        match family.buckets.get(bucket) {
            None => (0..0, family.global.clone()),
            Some(Bucket { own, counts_globally: true }) => (own.clone(), family.global.clone()),
            Some(Bucket { own, counts_globally: false }) => (own.clone(), 0..0),
        }
    }
}

impl Default for RatelimitRules {
    fn default() -> Self {
        use RatelimitFamily::{DataStores, Discord, Http, ImageCaptcha, Kv, ObjectStorage};

        const fn n(n: u32) -> NonZeroU32 {
            NonZeroU32::new(n).expect("because no limit of the tables is 0")
        }
        let per = |count, secs| [Quota::per(n(count), Duration::from_secs(secs))];

        let mut rules = Self::unlimited()
            .with_global(Discord, per(20, 5))
            .with_global(Kv, [Quota::burst_then(n(500), n(100), Duration::from_secs(1))])
            .with_global(DataStores, per(75, 1))
            .with_global(ObjectStorage, per(75, 1))
            .with_global(Http, per(3, 5))
            .with_global(ImageCaptcha, per(5, 10))
            .with_bucket(Discord, "bulk_ban", per(3, 60))
            .with_bucket(Discord, "create_message", per(30, 10))
            .with_bucket_apart(Discord, "create_interaction_response", per(50, 5))
            .with_bucket_apart(Discord, "antiraid_bulk_op", per(3, 1))
            .with_bucket_apart(Discord, "antiraid_bulk_op_wait", [])
            .with_bucket_apart(Discord, "antiraid_check_reason", per(100, 1))
            .with_bucket_apart(Discord, "antiraid_get_fused_member", per(100, 5));
        for bucket in ["create_guild_ban", "remove_guild_member"] {
            rules = rules.with_bucket(Discord, bucket, [per(5, 30), per(10, 75)].concat());
        }
        for bucket in ["get_guild_commands", "create_guild_command"] {
            rules = rules.with_bucket(Discord, bucket, per(1, 300));
        }
        for bucket in [
            "get_original_interaction_response",
            "edit_original_interaction_response",
            "delete_original_interaction_response",
            "create_followup_message",
            "get_followup_message",
            "edit_followup_message",
            "delete_followup_message",
        ] {
            rules = rules.with_bucket_apart(Discord, bucket, per(10, 3));
        }
        for bucket in [
            "antiraid_check_permissions",
            "antiraid_check_permissions_and_hierarchy",
            "antiraid_check_channel_permissions",
        ] {
            rules = rules.with_bucket_apart(Discord, bucket, per(50, 5));
        }
        rules
    }
}

/// What one tenant has taken. It outlives the tenant's VMs, or a reload would reset the limits.
///
/// A tenant that has taken nothing costs no allocation; each limit that it has met costs 16 bytes. Buckets that the rules
/// do not know share the family's global limit and have no state of their own.
#[derive(Debug)]
pub struct Ratelimits {
    rules: StaticRef<RatelimitRules>,
    // A list, as nobody meets more than a dozen limits.
    taken: Mutex<Vec<Taken>>,
}

/// A limit and its state; see [`FullAt`].
#[derive(Clone, Copy, Debug)]
struct Taken {
    slot: u16,
    full_at: u64,
}

impl Ratelimits {
    /// A tenant that has taken nothing yet.
    pub const fn new(rules: StaticRef<RatelimitRules>) -> Self {
        Self { rules, taken: Mutex::new(Vec::new()) }
    }

    /// Takes tokens from every limit of the bucket and its family, or from none of them. 0 tokens are always there.
    pub fn take(&self, family: RatelimitFamily, bucket: &str, tokens: u32) -> Result<(), RatelimitHit> {
        let Some(tokens) = NonZeroU32::new(tokens) else { return Ok(()) };
        let (own, global) = self.rules.limits_of(family, bucket);
        let limits = || own.clone().chain(global.clone()).map(|slot| (slot, &self.rules.limits[usize::from(slot)]));
        if let Some(max) = limits().map(|(_, limit)| limit.quota.burst).filter(|max| *max < tokens).min() {
            return Err(RatelimitHit::Never { bucket: bucket.into(), tokens: tokens.get(), max: max.get() });
        }

        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        // Every limit is asked about a copy, and only if all agree are the copies written back: what is refused anywhere
        // takes nothing anywhere.
        let mut after: SmallVec<[Taken; 4]> = SmallVec::new();
        let (mut wait_own, mut wait_global) = (None, None);
        for (slot, limit) in limits() {
            let full_at = taken.iter().find(|taken| taken.slot == slot).map_or(0, |taken| taken.full_at);
            match limit.take(full_at, tokens) {
                Ok(full_at) => after.push(Taken { slot, full_at }),
                Err(wait) if own.contains(&slot) => wait_own = wait_own.max(Some(wait)),
                Err(wait) => wait_global = wait_global.max(Some(wait)),
            }
        }
        match (wait_own, wait_global) {
            (Some(wait), _) => Err(RatelimitHit::Bucket { bucket: bucket.into(), wait: whole_millis(wait) }),
            (None, Some(wait)) => Err(RatelimitHit::Global { bucket: bucket.into(), wait: whole_millis(wait) }),
            (None, None) => {
                for after in after {
                    match taken.iter_mut().find(|taken| taken.slot == after.slot) {
                        Some(taken) => *taken = after,
                        None => taken.push(after),
                    }
                }
                Ok(())
            }
        }
    }

    /// Whether everything taken is back: whoever drops this state and makes a new one later changes nothing.
    pub fn is_idle(&self) -> bool {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.iter().all(|taken| self.rules.limits[usize::from(taken.slot)].is_full(taken.full_at))
    }
}

/// Why tokens were refused. The texts are part of the template API.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RatelimitHit {
    /// The family's limit.
    #[error("Global ratelimit hit for bucket '{bucket}', wait time: {}s", secs(wait))]
    Global {
        /// The bucket that was asked for.
        bucket: Box<str>,
        /// When the same call may succeed, rounded up to milliseconds.
        wait: Duration,
    },
    /// The bucket's own limit.
    #[error("Per bucket ratelimit hit for '{bucket}', wait time: {}s", secs(wait))]
    Bucket {
        /// The bucket.
        bucket: Box<str>,
        /// When the same call may succeed, rounded up to milliseconds.
        wait: Duration,
    },
    /// More than there are when all are there: waiting does not help.
    #[error("too_large: {tokens} at once for bucket '{bucket}', at most {max}")]
    Never {
        /// The bucket.
        bucket: Box<str>,
        /// What was asked for.
        tokens: u32,
        /// What can be had at once.
        max: u32,
    },
}

impl RatelimitHit {
    /// How long until the same call may succeed; `None` if it never will.
    pub fn wait(&self) -> Option<Duration> {
        match self {
            Self::Global { wait, .. } | Self::Bucket { wait, .. } => Some(*wait),
            Self::Never { .. } => None,
        }
    }
}

/// Up, not down: a template that waits as long as it was told must not be refused again.
fn whole_millis(wait: Duration) -> Duration {
    Duration::from_millis(u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1))
}

/// Of milliseconds, since `as_secs_f64` would show 1.667 as 1.6669999999999998.
fn secs(wait: &Duration) -> f64 {
    wait.as_millis() as f64 / 1_000.0
}

/// A quota with governor's arithmetic for it.
#[derive(Debug)]
struct Limit {
    quota: Quota,
    limiter: RateLimiter<FullAt, FullAtStore, Clock, NoOpMiddleware<Nanos>>,
}

impl Limit {
    fn new(quota: Quota, clock: &Clock) -> Self {
        let gcra = governor::Quota::with_period(quota.replenish_per)
            .expect("because `Quota` has at least a nanosecond a token")
            .allow_burst(quota.burst);
        Self { quota, limiter: RateLimiter::new(gcra, FullAtStore, clock.clone()) }
    }

    /// The moment at which the limit is full again after the tokens are taken, or how long to wait for them.
    /// `tokens` is at most the burst: governor's product of tokens and time could overflow beyond.
    fn take(&self, full_at: u64, tokens: NonZeroU32) -> Result<u64, Duration> {
        let full_at = FullAt(Cell::new(full_at));
        match self.limiter.check_key_n(&full_at, tokens) {
            Ok(Ok(())) => Ok(full_at.0.get()),
            Ok(Err(until)) => Err(until.wait_time_from(self.limiter.clock().now())),
            Err(_) => unreachable!("because the caller compares the tokens with the burst"),
        }
    }

    fn is_full(&self, full_at: u64) -> bool {
        self.take(full_at, self.quota.burst).is_ok()
    }
}

/// The state of a limit, in nanoseconds since the limit was made; 0 is "always was full". To governor it is a key, so that
/// one limiter serves all tenants, whose states it does not own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FullAt(Cell<u64>);

impl Hash for FullAt {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.get().hash(state);
    }
}

/// The store of governor that finds the state in the key.
#[derive(Debug)]
struct FullAtStore;

impl StateStore for FullAtStore {
    type Key = FullAt;

    fn measure_and_replace<T, F, E>(&self, key: &FullAt, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (outcome, full_at) = f(Some(Nanos::new(key.0.get())))?;
        key.0.set(full_at.as_u64());
        Ok(outcome)
    }
}

/// Nanoseconds since the rules were made.
#[derive(Clone, Debug)]
enum Clock {
    Monotonic(Instant),
    Manual(FakeRelativeClock),
}

impl governor::clock::Clock for Clock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        match self {
            // 64 bits of nanoseconds are 584 years.
            Self::Monotonic(start) => Nanos::new(start.elapsed().as_nanos() as u64),
            Self::Manual(clock) => clock.now(),
        }
    }
}

/// The hands of the clock of [`RatelimitRules::on_manual_clock`].
#[derive(Clone, Debug)]
pub struct ManualClock(FakeRelativeClock);

impl ManualClock {
    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.0.advance(by);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::RatelimitFamily::{DataStores, Discord, Http, ImageCaptcha, Kv, ObjectStorage};
    use super::*;

    fn n(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    fn per(count: u32, secs: u64) -> Quota {
        Quota::per(n(count), Duration::from_secs(secs))
    }

    fn tenant(rules: RatelimitRules) -> (Ratelimits, ManualClock) {
        let (rules, clock) = rules.on_manual_clock();
        (Ratelimits::new(StaticRef::new(rules)), clock)
    }

    /// How many of `asked` calls succeed.
    fn accepted(limits: &Ratelimits, family: RatelimitFamily, bucket: &str, asked: u32) -> u32 {
        (0..asked).map(|_| u32::from(limits.take(family, bucket, 1).is_ok())).sum()
    }

    #[test]
    fn the_defaults_are_the_tables() {
        let rules = RatelimitRules::default();
        let quotas = |slots: Slots| slots.map(|slot| rules.limits[usize::from(slot)].quota).collect::<Vec<_>>();

        for (family, wanted) in [
            (Discord, per(20, 5)),
            (Kv, Quota::burst_then(n(500), n(100), Duration::from_secs(1))),
            (DataStores, per(75, 1)),
            (ObjectStorage, per(75, 1)),
            (Http, per(3, 5)),
            (ImageCaptcha, per(5, 10)),
        ] {
            let (own, global) = rules.limits_of(family, "any other");
            assert_eq!((quotas(own), quotas(global)), (vec![], vec![wanted]), "{family:?}");
        }

        let rows: &[(&[&str], &[Quota], bool)] = &[
            (&["create_guild_ban", "remove_guild_member"], &[per(5, 30), per(10, 75)], true),
            (&["bulk_ban"], &[per(3, 60)], true),
            (&["create_message"], &[per(30, 10)], true),
            (&["get_guild_commands", "create_guild_command"], &[per(1, 300)], true),
            (&["create_interaction_response"], &[per(50, 5)], false),
            (
                &[
                    "get_original_interaction_response",
                    "edit_original_interaction_response",
                    "delete_original_interaction_response",
                    "create_followup_message",
                    "get_followup_message",
                    "edit_followup_message",
                    "delete_followup_message",
                ],
                &[per(10, 3)],
                false,
            ),
            (&["antiraid_bulk_op"], &[per(3, 1)], false),
            (&["antiraid_bulk_op_wait"], &[], false),
            (&["antiraid_check_reason"], &[per(100, 1)], false),
            (
                &[
                    "antiraid_check_permissions",
                    "antiraid_check_permissions_and_hierarchy",
                    "antiraid_check_channel_permissions",
                ],
                &[per(50, 5)],
                false,
            ),
            (&["antiraid_get_fused_member"], &[per(100, 5)], false),
        ];
        for (buckets, wanted, globally) in rows {
            for bucket in *buckets {
                let (own, global) = rules.limits_of(Discord, bucket);
                assert_eq!(quotas(own), *wanted, "{bucket}");
                assert_eq!(!global.is_empty(), *globally, "{bucket}");
            }
        }
        let named: usize = rows.iter().map(|(buckets, ..)| buckets.len()).sum();
        assert_eq!(rules.families.iter().map(|family| family.buckets.len()).sum::<usize>(), named);
    }

    #[test]
    fn a_ban_has_two_limits() {
        let (limits, clock) = tenant(RatelimitRules::default());
        // 5 come back in 30 s by the first limit, but 4 by the second, until its burst of 10 is used up.
        let rounds = std::array::from_fn(|_| {
            let round = accepted(&limits, Discord, "create_guild_ban", 10);
            clock.advance(Duration::from_secs(30));
            round
        });
        assert_eq!(rounds, [5, 5, 5, 5, 5, 5, 4, 4]);
    }

    #[test]
    fn a_burst_and_then_a_rate() {
        let (limits, clock) = tenant(RatelimitRules::default());
        assert_eq!(accepted(&limits, Kv, "get", 600), 500);
        for _ in 0..10 {
            clock.advance(Duration::from_secs(1));
            assert_eq!(accepted(&limits, Kv, "get", 600), 100);
        }
    }

    proptest! {
        #[test]
        fn n_are_accepted_and_then_n_per_period(count in 1u32..200, period_millis in 1u64..600_000) {
            let period = Duration::from_millis(period_millis);
            let rules = RatelimitRules::unlimited().with_global(Http, [Quota::per(n(count), period)]);
            let (limits, clock) = tenant(rules);
            prop_assert_eq!(accepted(&limits, Http, "get", count + 1), count);
            for _ in 0..3 {
                // Not one per period, which is what older systems gave.
                clock.advance(period);
                prop_assert_eq!(accepted(&limits, Http, "get", count + 1), count);
            }
        }

        #[test]
        fn a_history_without_its_refused_calls_is_the_same_history(
            calls in prop::collection::vec((0..4usize, 1..4u32, 0..400u64), 1..200),
        ) {
            let rules = || {
                RatelimitRules::unlimited()
                    .with_global(Discord, [per(6, 3)])
                    .with_bucket(Discord, "two", [per(3, 1), per(4, 4)])
                    .with_bucket(Discord, "one", [per(3, 2)])
                    .with_bucket_apart(Discord, "apart", [per(3, 1)])
            };
            let buckets = ["two", "one", "apart", "unknown"];
            let (all, all_clock) = tenant(rules());
            let (only_accepted, only_accepted_clock) = tenant(rules());
            for (bucket, tokens, millis) in calls {
                all_clock.advance(Duration::from_millis(millis));
                only_accepted_clock.advance(Duration::from_millis(millis));
                if all.take(Discord, buckets[bucket], tokens).is_ok() {
                    prop_assert_eq!(only_accepted.take(Discord, buckets[bucket], tokens), Ok(()));
                }
            }
            let state = |limits: &Ratelimits| {
                limits.taken.lock().unwrap().iter().map(|taken| (taken.slot, taken.full_at)).collect::<Vec<_>>()
            };
            prop_assert_eq!(state(&all), state(&only_accepted));
        }

        #[test]
        fn who_waits_as_told_is_accepted_and_who_is_earlier_is_not(count in 1u32..50, period_secs in 1u64..100) {
            let rules = RatelimitRules::unlimited().with_global(Http, [per(count, period_secs)]);
            let (limits, clock) = tenant(rules);
            accepted(&limits, Http, "get", count);
            let wait = limits.take(Http, "get", 1).unwrap_err().wait().unwrap();
            clock.advance(wait - Duration::from_millis(1));
            prop_assert!(limits.take(Http, "get", 1).is_err());
            clock.advance(Duration::from_millis(1));
            prop_assert_eq!(limits.take(Http, "get", 1), Ok(()));
        }
    }

    #[test]
    fn a_call_that_its_bucket_refuses_takes_no_global_token() {
        let (limits, _clock) = tenant(RatelimitRules::unlimited().with_global(Discord, [per(3, 60)]).with_bucket(
            Discord,
            "small",
            [per(1, 60)],
        ));
        assert_eq!(accepted(&limits, Discord, "small", 10), 1);
        assert_eq!(accepted(&limits, Discord, "other", 10), 2);
    }

    #[test]
    fn a_call_that_the_global_limit_refuses_takes_no_token_of_its_bucket() {
        let (limits, clock) = tenant(RatelimitRules::unlimited().with_global(Discord, [per(1, 1)]).with_bucket(
            Discord,
            "small",
            [per(2, 3_600)],
        ));
        assert_eq!(accepted(&limits, Discord, "small", 10), 1);
        clock.advance(Duration::from_secs(1));
        assert_eq!(accepted(&limits, Discord, "small", 10), 1);
        clock.advance(Duration::from_secs(1));
        let refused = limits.take(Discord, "small", 1).unwrap_err();
        assert!(matches!(refused, RatelimitHit::Bucket { .. }), "{refused}");
    }

    #[test]
    fn a_call_that_one_limit_of_a_bucket_refuses_takes_no_token_of_the_other() {
        let (limits, clock) =
            tenant(RatelimitRules::unlimited().with_bucket(Discord, "ban", [per(2, 3_600), per(1, 1)]));
        assert_eq!(accepted(&limits, Discord, "ban", 10), 1);
        clock.advance(Duration::from_secs(1));
        assert_eq!(accepted(&limits, Discord, "ban", 10), 1);
    }

    #[test]
    fn more_tokens_than_there_can_be_are_refused_for_ever() {
        let (limits, clock) = tenant(RatelimitRules::default());
        for tokens in [101, u32::MAX] {
            let refused = limits.take(Discord, "antiraid_get_fused_member", tokens).unwrap_err();
            let wanted = format!("too_large: {tokens} at once for bucket 'antiraid_get_fused_member', at most 100");
            assert_eq!((refused.to_string(), refused.wait()), (wanted, None));
            clock.advance(Duration::from_secs(3_600));
        }
        assert_eq!(limits.take(Discord, "antiraid_get_fused_member", 100), Ok(()));
        assert_eq!(limits.take(Discord, "antiraid_get_fused_member", 0), Ok(()));
        assert!(limits.take(Discord, "antiraid_get_fused_member", 1).is_err());
    }

    #[test]
    fn the_texts_are_the_references() {
        let (limits, _clock) = tenant(RatelimitRules::default());
        assert_eq!(accepted(&limits, Http, "get", 4), 3);
        let refused = limits.take(Http, "get", 1).unwrap_err();
        assert_eq!(refused.to_string(), "Global ratelimit hit for bucket 'get', wait time: 1.667s");
        assert_eq!(accepted(&limits, Discord, "bulk_ban", 4), 3);
        let refused = limits.take(Discord, "bulk_ban", 1).unwrap_err();
        assert_eq!(refused.to_string(), "Per bucket ratelimit hit for 'bulk_ban', wait time: 20s");
    }

    #[test]
    fn an_idle_tenant_is_known_and_small() {
        let (limits, clock) = tenant(RatelimitRules::default());
        assert!(limits.is_idle());
        for bucket in 0..20 {
            limits.take(Discord, &format!("made up {bucket}"), 1).unwrap();
        }
        assert_eq!(limits.taken.lock().unwrap().len(), 1, "unknown buckets have no state of their own");
        clock.advance(Duration::from_millis(4_999));
        assert!(!limits.is_idle());
        clock.advance(Duration::from_millis(1));
        assert!(limits.is_idle());
        assert_eq!(accepted(&limits, Discord, "any", 30), 20, "asking whether it is idle took nothing");
        assert!(size_of::<Ratelimits>() <= 48);
    }

    #[test]
    fn extreme_quotas_do_not_overflow() {
        let century = Duration::from_secs(100 * 365 * 24 * 3_600);
        for quota in [
            Quota::per(n(1), Duration::MAX),
            Quota::per(n(u32::MAX), Duration::ZERO),
            Quota::burst_then(n(u32::MAX), n(1), Duration::MAX),
        ] {
            let (limits, clock) = tenant(RatelimitRules::unlimited().with_global(Http, [quota]));
            for _ in 0..3 {
                assert_eq!(limits.take(Http, "get", quota.burst().get()), Ok(()));
                clock.advance(century);
            }
        }
    }

    #[test]
    fn threads_share_the_tokens() {
        let (limits, _clock) = tenant(RatelimitRules::unlimited().with_global(Kv, [per(1_000, 3_600)]));
        let total: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| accepted(&limits, Kv, "get", 500))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(total, 1_000);
    }

    #[test]
    fn the_real_clock_moves() {
        let rules = RatelimitRules::unlimited().with_global(Http, [Quota::per(n(1), Duration::from_nanos(1))]);
        let limits = Ratelimits::new(StaticRef::new(rules));
        assert_eq!(accepted(&limits, Http, "get", 1), 1);
        while !limits.is_idle() {}
        assert_eq!(accepted(&limits, Http, "get", 1), 1);
    }
}
