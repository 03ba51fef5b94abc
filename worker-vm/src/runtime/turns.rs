//! Whose turn it is: fairness between the tenants of one worker thread.
//!
//! A tenant that uses little CPU runs at once: its events start in place. Each has a small credit of CPU time that comes
//! back at a tenth of real time; who has used it up, and every script that did not end within its slice, waits for a
//! turn. Turns go round between the tenants that wait, one slice each, and only when nothing else is ready to run.
//!
//! A slice ends at a safe point, and some native calls have none for tens of milliseconds. Who held the thread for much
//! longer than a slice rests before its next: so a script that does nothing but such calls is a rare hitch to the others.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use worker_core::Limits;

/// CPU time that a tenant may use in place, in nanoseconds.
const CREDIT_MAX: i64 = 20_000_000;

/// The share of real time at which credit comes back: one part in so many.
const CREDIT_REFILL: i64 = 10;

/// Who holds the thread for so long, in nanoseconds, rests. What cannot be interrupted should take less.
pub(super) const HELD_NANOS_MAX: u64 = 6_000_000;

/// How long a tenant waits for its next turn after it held the thread: long enough that fewer than one in a hundred of a
/// neighbour's events, one a millisecond, meet somebody who does nothing but hold it.
const REST: Duration = Duration::from_millis(200);

/// The CPU account of one tenant. It outlives the tenant's VMs.
#[derive(Debug)]
pub(crate) struct CpuAccount {
    /// Nanoseconds that may be used in place; negative: in debt.
    credit: Cell<i64>,
    /// Nanoseconds left of the tenant's share; negative: over it.
    share: Cell<i64>,
    share_max: i64,
    /// The share comes back at this much of real time.
    share_rate: f64,
    updated: Cell<Instant>,
    /// Until when it waits because it held the thread.
    resting: Cell<Option<Instant>>,
    waiting: RefCell<VecDeque<oneshot::Sender<Turn>>>,
    queued: Cell<bool>,
    /// All CPU time ever used.
    total: Cell<Duration>,
}

impl CpuAccount {
    pub(crate) fn new(limits: &Limits) -> Self {
        let share_max = i64::try_from(limits.tenant_cpu_max.as_nanos()).unwrap_or(i64::MAX);
        Self {
            credit: Cell::new(CREDIT_MAX),
            share: Cell::new(share_max),
            share_max,
            share_rate: limits.tenant_cpu_max.as_secs_f64() / limits.tenant_cpu_window.as_secs_f64().max(0.001),
            updated: Cell::new(Instant::now()),
            resting: Cell::new(None),
            waiting: RefCell::default(),
            queued: Cell::new(false),
            total: Cell::new(Duration::ZERO),
        }
    }

    /// Whether the tenant may run in place.
    pub(crate) fn in_credit(&self) -> bool {
        if self.credit.get() > 0 && self.share.get() > 0 {
            return true;
        }
        self.refill();
        self.credit.get() > 0 && self.share.get() > 0
    }

    /// Whether the tenant has time left of its share.
    pub(crate) fn within_share(&self) -> bool {
        if self.share.get() <= 0 {
            self.refill();
        }
        self.share.get() > 0
    }

    /// Takes CPU time from the account.
    pub(crate) fn charge(&self, nanos: u64) {
        let nanos_signed = i64::try_from(nanos).unwrap_or(i64::MAX);
        self.credit.set((self.credit.get().saturating_sub(nanos_signed)).max(-CREDIT_MAX));
        self.share.set(self.share.get().saturating_sub(nanos_signed));
        self.total.set(self.total.get() + Duration::from_nanos(nanos));
        if self.credit.get() < CREDIT_MAX / 2 {
            self.refill();
        }
    }

    /// Takes time that was used beside a slice, if there was any.
    pub(crate) fn charge_extra(&self, nanos: u64) {
        if nanos > 0 {
            self.charge(nanos);
        }
        // It is time by the wall, in which the machine may have done something else.
        if nanos > 3 * HELD_NANOS_MAX {
            self.rest();
        }
    }

    /// The tenant held the thread for much longer than its slice: it pauses, so that it cannot do nothing else.
    pub(crate) fn rest(&self) {
        // As long as the credit takes to come back, so that nothing is started in place meanwhile.
        self.credit.set(-CREDIT_MAX);
        self.resting.set(Some(Instant::now() + REST));
    }

    /// All CPU time ever used.
    pub(crate) fn total(&self) -> Duration {
        self.total.get()
    }

    /// Whether the account is as if it were new, so that it can be forgotten.
    pub(crate) fn is_full(&self) -> bool {
        self.refill();
        self.credit.get() == CREDIT_MAX && self.share.get() == self.share_max && self.waiting.borrow().is_empty()
    }

    fn refill(&self) {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.updated.replace(now));
        let passed = i64::try_from(passed.as_nanos()).unwrap_or(i64::MAX);
        self.credit.set(self.credit.get().saturating_add(passed / CREDIT_REFILL).min(CREDIT_MAX));
        let share = (passed as f64 * self.share_rate) as i64;
        self.share.set(self.share.get().saturating_add(share).min(self.share_max));
    }

    /// Waits until the tenant is within its share, and rested.
    pub(crate) async fn until_within_share(&self) {
        while let Some(until) = self.resting.get() {
            tokio::time::sleep_until(until).await;
            if self.resting.get() == Some(until) {
                self.resting.set(None);
            }
        }
        while let Some(wait) = self.share_wait() {
            tokio::time::sleep(wait).await;
        }
    }

    /// How long until the tenant is within its share again.
    fn share_wait(&self) -> Option<Duration> {
        self.refill();
        let missing = -self.share.get();
        (missing >= 0).then(|| Duration::from_nanos(((missing + 1) as f64 / self.share_rate) as u64))
    }
}

/// The turns of one worker thread. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turns(Rc<State>);

#[derive(Debug, Default)]
struct State {
    /// Tenants that wait, each once.
    queue: RefCell<VecDeque<Rc<CpuAccount>>>,
    taken: Cell<bool>,
}

impl Turns {
    /// Waits until it is the tenant's turn. The turn lasts until the guard is dropped: run one slice with it.
    pub(crate) async fn wait(&self, account: &Rc<CpuAccount>) -> Turn {
        // First everything that is ready: the runtime polls a task that yielded only when no other is runnable, and looks
        // at timers and sockets before that.
        tokio::task::yield_now().await;
        account.until_within_share().await;
        if !self.0.taken.replace(true) {
            return Turn(Some(self.clone()));
        }
        let (sender, receiver) = oneshot::channel();
        account.waiting.borrow_mut().push_back(sender);
        if !account.queued.replace(true) {
            self.0.queue.borrow_mut().push_back(account.clone());
        }
        let turn = receiver.await.expect("because the queue keeps the sender until it passes the turn on");
        // The turn comes straight from the one before: what has become ready meanwhile goes first.
        tokio::task::yield_now().await;
        turn
    }

    fn pass_on(&self) {
        while let Some(account) = self.0.queue.borrow_mut().pop_front() {
            let next = account.waiting.borrow_mut().pop_front();
            if account.waiting.borrow().is_empty() {
                account.queued.set(false);
            } else {
                self.0.queue.borrow_mut().push_back(account);
            }
            if let Some(sender) = next {
                match sender.send(Turn(Some(self.clone()))) {
                    // The turn is on its way; if the waiter is dropped before it takes it, the turn's own drop passes on.
                    Ok(()) => return,
                    // The waiter was dropped: the turn stays here.
                    Err(mut turn) => turn.0 = None,
                }
            }
        }
        self.0.taken.set(false);
    }
}

/// The right to run one slice.
#[derive(Debug)]
pub struct Turn(Option<Turns>);

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            turns.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_held_the_thread_rests_before_the_next_turn() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (turns, account) = (Turns::default(), Rc::new(CpuAccount::new(&Limits::default())));
            assert!(account.in_credit());
            drop(turns.wait(&account).await);
            assert!(account.resting.get().is_none());
            let begun = Instant::now();
            account.rest();
            assert!(!account.in_credit(), "nothing is started in place meanwhile");
            drop(turns.wait(&account).await);
            assert!(begun.elapsed() >= REST);
            assert!(account.resting.get().is_none());
        });
    }
}
