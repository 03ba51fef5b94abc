//! Where all that waits for a time has it from: the machine's clock, or one that a test moves.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::ops::Add;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::ManualClock;
use jiff::Timestamp;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// The clock of the VMs, the dispatcher and the expiry of a process. Budgets of CPU time are measured by the machine's,
/// whatever this one says.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's.
    #[default]
    Real,
    /// One that stands still until it is told to move.
    Virtual(VirtualClock),
}

/// A moment that only differences are made of.
///
/// Two moments are compared only if they are of the same clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// Of the machine's clock.
    Real(Instant),
    /// How far a virtual clock had moved.
    Virtual(Duration),
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        match self {
            Self::Real(at) => Self::Real(at + by),
            Self::Virtual(at) => Self::Virtual(at.saturating_add(by)),
        }
    }
}

impl Clock {
    /// The time of day.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::Real => Timestamp::now(),
            Self::Virtual(clock) => clock.now(),
        }
    }

    /// A moment to measure from.
    pub fn moment(&self) -> Moment {
        match self {
            Self::Real => Moment::Real(Instant::now()),
            Self::Virtual(clock) => Moment::Virtual(clock.elapsed()),
        }
    }

    /// The time since the moment.
    pub fn since(&self, moment: Moment) -> Duration {
        match (self, moment) {
            (_, Moment::Real(start)) => start.elapsed(),
            (Self::Virtual(clock), Moment::Virtual(start)) => clock.elapsed().saturating_sub(start),
            (Self::Real, Moment::Virtual(_)) => Duration::ZERO,
        }
    }

    /// Waits. On a virtual clock the caller holds a [`Busy`], which does not count meanwhile.
    pub async fn sleep(&self, wait: Duration) {
        match self {
            Self::Real => tokio::time::sleep(wait).await,
            Self::Virtual(clock) => clock.sleep(wait).await,
        }
    }

    /// Waits. The caller holds no [`Busy`].
    pub async fn rest(&self, wait: Duration) {
        let _busy = self.busy();
        self.sleep(wait).await;
    }

    /// Waits until the moment. The caller holds no [`Busy`].
    pub async fn rest_until(&self, moment: Moment) {
        match (self, moment) {
            (_, Moment::Real(at)) => tokio::time::sleep_until(at).await,
            (Self::Virtual(clock), Moment::Virtual(at)) => self.rest(at.saturating_sub(clock.elapsed())).await,
            // A moment of another clock is none to wait for.
            (Self::Real, Moment::Virtual(_)) => {}
        }
    }

    /// Waits until it is that time of day, or for ever if there is none. The machine's clock may be set, so it is looked
    /// at again after `pace` at the latest. The caller holds no [`Busy`].
    pub async fn rest_until_time(&self, time: Option<Timestamp>, pace: Duration) {
        let wait = time.map(|time| Duration::try_from(time.duration_since(self.now())).unwrap_or_default());
        match (self, wait) {
            (Self::Real, wait) => tokio::time::sleep(wait.map_or(pace, |wait| wait.min(pace))).await,
            (Self::Virtual(_), Some(wait)) => self.rest(wait).await,
            (Self::Virtual(_), None) => std::future::pending().await,
        }
    }

    /// What the future gives, if it gives it until the moment. The caller holds no [`Busy`].
    pub async fn before<F: Future>(&self, moment: Moment, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = self.rest_until(moment) => None,
        }
    }

    /// Says that something goes on which is not a sleep, until the guard is dropped: a virtual clock stands still for it.
    pub fn busy(&self) -> Option<Busy> {
        match self {
            Self::Real => None,
            Self::Virtual(clock) => Some(clock.busy()),
        }
    }
}

/// A clock that stands still until it is told to move, and knows whether anything goes on that it should stand still for.
///
/// Clones are hands of the same clock.
#[derive(Clone)]
pub struct VirtualClock(Arc<Inner>);

struct Inner {
    start: Timestamp,
    ratelimits: ManualClock,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    elapsed: Duration,
    /// What goes on and does not sleep.
    busy: i64,
    /// Counts timers: of two for the same moment, the older one comes first.
    next_timer: u64,
    timers: BTreeMap<(Duration, u64), oneshot::Sender<()>>,
}

impl VirtualClock {
    /// A clock that shows `start`, and moves that of the rate limits along.
    pub fn new(start: Timestamp, ratelimits: ManualClock) -> Self {
        let state = State { elapsed: Duration::ZERO, busy: 0, next_timer: 0, timers: BTreeMap::new() };
        Self(Arc::new(Inner { start, ratelimits, state: Mutex::new(state), changed: Notify::new() }))
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        self.0.start.checked_add(self.elapsed()).unwrap_or(Timestamp::MAX)
    }

    /// How far it has moved.
    pub fn elapsed(&self) -> Duration {
        self.state().elapsed
    }

    /// When the next timer goes off, counted from the clock's start.
    pub fn next_timer(&self) -> Option<Duration> {
        self.state().timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Moves to the next timer and lets it go off, if there is one until then (counted from the clock's start). Then it is
    /// [quiet](Self::quiet) again only when what that timer started sleeps or has ended.
    pub fn fire_next(&self, until: Duration) -> bool {
        let mut state = self.state();
        let Some(entry) = state.timers.first_entry().filter(|entry| entry.key().0 <= until) else { return false };
        let ((at, _), timer) = entry.remove_entry();
        self.move_to(&mut state, at);
        // The sleeper counts again before it has seen that it is awake.
        state.busy += 1;
        if timer.send(()).is_err() {
            state.busy -= 1;
        }
        true
    }

    /// Moves to the moment (counted from the clock's start) without letting any timer go off; never back.
    pub fn skip_to(&self, to: Duration) {
        let mut state = self.state();
        self.move_to(&mut state, to);
    }

    /// Whether nothing goes on: all that is left sleeps.
    pub fn is_quiet(&self) -> bool {
        self.state().busy <= 0
    }

    /// Waits until nothing goes on: all that is left sleeps.
    pub async fn quiet(&self) {
        loop {
            let changed = self.0.changed.notified();
            if self.is_quiet() {
                return;
            }
            changed.await;
        }
    }

    /// Says that something goes on which is not a sleep, until the guard is dropped.
    pub fn busy(&self) -> Busy {
        self.state().busy += 1;
        Busy(self.clone())
    }

    /// Runs a future for which the clock need not stand still: it waits for what the clock brings. Its caller counts as busy.
    pub async fn idle_while<F: Future>(&self, future: F) -> F::Output {
        struct Idle<'a>(&'a VirtualClock);
        impl Drop for Idle<'_> {
            fn drop(&mut self) {
                self.0.state().busy += 1;
            }
        }
        self.count_less();
        let idle = Idle(self);
        let output = future.await;
        drop(idle);
        output
    }

    async fn sleep(&self, wait: Duration) {
        let (timer, gone_off) = oneshot::channel();
        let key = {
            let mut state = self.state();
            let key = (state.elapsed.saturating_add(wait), state.next_timer);
            state.next_timer += 1;
            state.timers.insert(key, timer);
            key
        };
        self.count_less();
        let sleeping = Sleeping { clock: self, key };
        // The timer is dropped with the clock only, which is held here.
        let _ = gone_off.await;
        drop(sleeping);
    }

    fn move_to(&self, state: &mut State, to: Duration) {
        if let Some(by) = to.checked_sub(state.elapsed) {
            state.elapsed = to;
            self.0.ratelimits.advance(by);
        }
    }

    fn count_less(&self) {
        self.state().busy -= 1;
        self.0.changed.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for VirtualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("VirtualClock")
            .field("elapsed", &state.elapsed)
            .field("busy", &state.busy)
            .field("timers", &state.timers.len())
            .finish_non_exhaustive()
    }
}

/// Something goes on; see [`VirtualClock::busy`].
#[derive(Debug)]
pub struct Busy(VirtualClock);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.count_less();
    }
}

/// A sleeper. One that is dropped in its sleep counts again, until its caller's [`Busy`] goes.
struct Sleeping<'a> {
    clock: &'a VirtualClock,
    key: (Duration, u64),
}

impl Drop for Sleeping<'_> {
    fn drop(&mut self) {
        let mut state = self.clock.state();
        if state.timers.remove(&self.key).is_some() {
            state.busy += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RatelimitRules;

    fn clock() -> VirtualClock {
        VirtualClock::new(Timestamp::UNIX_EPOCH, RatelimitRules::unlimited().on_manual_clock().1)
    }

    #[tokio::test(flavor = "local")]
    async fn timers_go_off_in_their_order_one_at_a_time() {
        let clock = clock();
        let order = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        for (name, wait) in [("late", 3), ("first", 1), ("second", 1)] {
            let (busy, order) = (clock.busy(), order.clone());
            let clock = clock.clone();
            tokio::task::spawn_local(async move {
                clock.sleep(Duration::from_secs(wait)).await;
                order.borrow_mut().push((name, clock.elapsed().as_secs()));
                drop(busy);
            });
        }
        clock.quiet().await;
        for expected in [&[("first", 1)][..], &[("first", 1), ("second", 1)]] {
            assert!(clock.fire_next(Duration::from_secs(2)));
            clock.quiet().await;
            assert_eq!(*order.borrow(), expected);
        }
        assert!(!clock.fire_next(Duration::from_secs(2)), "the next one is later");
        clock.skip_to(Duration::from_secs(2));
        assert!(clock.fire_next(Duration::MAX));
        clock.quiet().await;
        assert_eq!(order.borrow().last(), Some(&("late", 3)));
        assert_eq!(clock.now(), Timestamp::from_second(3).unwrap());
    }

    #[tokio::test(flavor = "local")]
    async fn a_sleeper_that_is_dropped_leaves_no_count_behind() {
        let clock = clock();
        let sleeper = {
            let (busy, clock) = (clock.busy(), clock.clone());
            tokio::task::spawn_local(async move {
                clock.sleep(Duration::from_secs(1)).await;
                drop(busy);
            })
        };
        clock.quiet().await;
        sleeper.abort();
        assert!(sleeper.await.unwrap_err().is_cancelled());
        assert!(!clock.fire_next(Duration::MAX));
        assert_eq!(clock.state().busy, 0);
    }

    #[tokio::test(flavor = "local")]
    async fn whoever_rests_does_not_count_and_wakes_on_time() {
        let virtual_clock = clock();
        let clock = Clock::Virtual(virtual_clock.clone());
        let order = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let later = clock.moment() + Duration::from_secs(2);
        let time = Timestamp::from_second(3).unwrap();
        let rests = {
            let (one, two, three) = (clock.clone(), clock.clone(), clock.clone());
            let note = |name: &'static str| {
                let (order, clock) = (order.clone(), virtual_clock.clone());
                move || order.borrow_mut().push((name, clock.elapsed().as_secs()))
            };
            let (rest, until, time_of_day) = (note("rest"), note("until"), note("time of day"));
            [
                tokio::task::spawn_local(async move {
                    one.rest(Duration::from_secs(1)).await;
                    rest();
                }),
                tokio::task::spawn_local(async move {
                    two.rest_until(later).await;
                    until();
                }),
                tokio::task::spawn_local(async move {
                    three.rest_until_time(Some(time), Duration::from_millis(1)).await;
                    time_of_day();
                }),
            ]
        };
        tokio::task::yield_now().await;
        assert!(virtual_clock.is_quiet());
        while virtual_clock.fire_next(Duration::MAX) {
            virtual_clock.quiet().await;
            tokio::task::yield_now().await;
        }
        for rest in rests {
            rest.await.unwrap();
        }
        assert_eq!(*order.borrow(), [("rest", 1), ("until", 2), ("time of day", 3)]);
        assert_eq!(virtual_clock.state().busy, 0);
    }

    #[tokio::test(flavor = "local")]
    async fn what_comes_before_its_moment_is_had() {
        let virtual_clock = clock();
        let clock = Clock::Virtual(virtual_clock.clone());
        let moment = clock.moment() + Duration::from_secs(1);
        assert_eq!(clock.before(moment, std::future::ready(5)).await, Some(5));
        assert_eq!(virtual_clock.next_timer(), None, "nothing is left behind");
        let late = {
            let clock = clock.clone();
            tokio::task::spawn_local(async move { clock.before(moment, std::future::pending::<()>()).await })
        };
        tokio::task::yield_now().await;
        assert!(virtual_clock.fire_next(Duration::MAX));
        assert_eq!(late.await.unwrap(), None);
        assert_eq!(virtual_clock.state().busy, 0);
        assert_eq!(Clock::Real.before(Clock::Real.moment(), std::future::pending::<()>()).await, None);
        assert_eq!(Clock::Real.before(Clock::Real.moment(), std::future::ready(5)).await, Some(5));
    }
}
