//! Events that cannot be started where they come in: who starts them, and when.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;
use worker_core::{DispatchResult, ReplyBatch, TenantId, WorkerError, WorkerErrorKind};
use worker_db::{Lookup, Subscribers};

use crate::queues::{Held, Pushed, Queued};
use crate::worker_dispatcher::{Inner, count};

/// How long the pump starts events before it lets the runtime do other things.
const PUMP_TIME: Duration = Duration::from_micros(200);

/// Between two looks for callers who have waited long enough: by so much their answer may be late.
const LATE_PACE: Duration = Duration::from_millis(50);

impl Inner {
    /// Puts an event behind the others of its tenant and class.
    pub(crate) fn enqueue(self: &Rc<Self>, tenant: TenantId, queued: Queued) {
        let pushed = self.queues.borrow_mut().push(tenant, queued);
        match pushed {
            Pushed::Queued => {}
            Pushed::Displaced(other) => self.refuse(other),
            Pushed::Refused(queued) => {
                self.refuse(queued);
                return;
            }
        }
        self.watch_deadlines();
        // Who holds the tenant's events sees to them.
        if self.queues.borrow().held(tenant) == Held::No {
            self.pump();
        }
    }

    /// Puts an event back before the others of its tenant and class, until what it waits for has come.
    fn put_back(self: &Rc<Self>, tenant: TenantId, queued: Queued) {
        self.queues.borrow_mut().push_front(tenant, queued);
        self.watch_deadlines();
    }

    /// No room: a caller that waits is told, an event for its own sake is dropped and counted.
    fn refuse(&self, queued: Queued) {
        if queued.reply_to.is_wanted() {
            count(&self.counters.refused);
            let context = "too many events wait to be started";
            queued.reply_to.send(Err(WorkerError::new(WorkerErrorKind::Overloaded, context)));
        } else {
            count(&self.counters.dropped);
        }
    }

    /// The reason why the tenant was held is no more.
    pub(crate) fn release(self: &Rc<Self>, tenant: TenantId, held: Held) {
        if self.queues.borrow().held(tenant) == held {
            let next = if self.is_full(tenant) { Held::Full } else { Held::No };
            self.queues.borrow_mut().hold(tenant, next);
        }
        self.pump();
        self.notify_if_quiet();
    }

    /// Sees that somebody starts the events that wait.
    pub(crate) fn pump(self: &Rc<Self>) {
        if self.queues.borrow().len() > 0 && !self.pumping.replace(true) {
            let this = self.clone();
            tokio::task::spawn_local(async move { this.run_pump().await });
        }
    }

    async fn run_pump(self: &Rc<Self>) {
        let mut since = Instant::now();
        let mut answers = ReplyBatch::new();
        loop {
            let next = self.queues.borrow_mut().pop();
            let Some((tenant, queued)) = next else { break };
            answers.collect(|| self.start_next(tenant, queued));
            answers.send_if_due();
            if since.elapsed() >= PUMP_TIME {
                answers.send();
                tokio::task::yield_now().await;
                since = Instant::now();
            }
        }
        self.pumping.set(false);
        self.notify_if_quiet();
    }

    /// Starts an event whose turn it is, or sees to what it needs first.
    fn start_next(self: &Rc<Self>, tenant: TenantId, queued: Queued) {
        if queued.is_late(self.vms.clock().moment()) {
            late(queued);
            return;
        }
        match self.cache.lookup(tenant, &queued.event) {
            Lookup::Nobody => queued.reply_to.send(Ok(DispatchResult::default())),
            Lookup::NotLoaded => {
                self.put_back(tenant, queued);
                self.ensure_loaded(tenant);
            }
            Lookup::Subscribers(subscribers) if self.vms.in_credit(tenant) => {
                self.start(tenant, &subscribers, queued);
            }
            Lookup::Subscribers(_) => {
                self.put_back(tenant, queued);
                self.queues.borrow_mut().hold(tenant, Held::OutOfCredit);
                // One that was there before, and had to stop for something else, goes on.
                if self.by_turns.borrow_mut().insert(tenant) {
                    let this = self.clone();
                    tokio::task::spawn_local(async move { this.start_by_turns(tenant).await });
                }
            }
        }
    }

    /// Starts the events of a tenant that has used up its credit: each turn as many as a slice has time for.
    async fn start_by_turns(self: &Rc<Self>, tenant: TenantId) {
        loop {
            let busy = self.vms.clock().busy();
            let turn = self.vms.turn(tenant).await;
            drop(busy);
            let end = Instant::now() + self.limits.cpu_slice;
            let mut answers = ReplyBatch::new();
            while answers.collect(|| self.start_next_in_turn(tenant)) {
                answers.send_if_due();
                if Instant::now() >= end {
                    break;
                }
            }
            drop(answers);
            drop(turn);
            if self.queues.borrow().len_of(tenant) == 0 || self.vms.in_credit(tenant) || self.is_full(tenant) {
                break;
            }
        }
        self.by_turns.borrow_mut().remove(&tenant);
        self.release(tenant, Held::OutOfCredit);
    }

    /// Starts the tenant's next event, if there is one and nothing else holds it. Whether to go on.
    fn start_next_in_turn(self: &Rc<Self>, tenant: TenantId) -> bool {
        if self.queues.borrow().held(tenant) != Held::OutOfCredit || self.is_full(tenant) {
            return false;
        }
        let next = self.queues.borrow_mut().pop_of(tenant);
        let Some(queued) = next else { return false };
        if queued.is_late(self.vms.clock().moment()) {
            late(queued);
            return true;
        }
        match self.cache.lookup(tenant, &queued.event) {
            Lookup::Nobody => queued.reply_to.send(Ok(DispatchResult::default())),
            Lookup::NotLoaded => {
                self.put_back(tenant, queued);
                self.ensure_loaded(tenant);
            }
            Lookup::Subscribers(subscribers) => self.start(tenant, &subscribers, queued),
        }
        true
    }

    /// Compiles what an event needs, off this thread if it is much, while the tenant's events wait.
    pub(crate) fn compile_first(self: &Rc<Self>, tenant: TenantId, subscribers: Subscribers, queued: Queued) {
        self.put_back(tenant, queued);
        self.queues.borrow_mut().hold(tenant, Held::Compiling);
        let this = self.clone();
        tokio::task::spawn_local(async move {
            this.vms.prepare(tenant, &subscribers).await;
            this.release(tenant, Held::Compiling);
        });
    }

    /// Sees that callers whose event never starts are told in time.
    fn watch_deadlines(self: &Rc<Self>) {
        if self.watching.replace(true) {
            return;
        }
        let weak = Rc::downgrade(self);
        let clock = self.vms.clock().clone();
        let mut next = self.queues.borrow().earliest_deadline();
        tokio::task::spawn_local(async move {
            while let Some(deadline) = next {
                clock.rest_until(deadline.max(clock.moment() + LATE_PACE)).await;
                let Some(this) = weak.upgrade() else { return };
                let waited = this.queues.borrow_mut().take_late(clock.moment());
                waited.into_iter().for_each(late);
                this.notify_if_quiet();
                next = this.queues.borrow().earliest_deadline();
            }
            if let Some(this) = weak.upgrade() {
                this.watching.set(false);
            }
        });
    }
}

/// Nobody waits any more for an event that never started.
fn late(queued: Queued) {
    let context = "the event waited for its turn for longer than its caller waits";
    queued.reply_to.send(Err(WorkerError::new(WorkerErrorKind::TimedOut, context)));
}
