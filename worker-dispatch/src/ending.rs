//! How a dispatcher ends: in good order, or now.

use std::rc::Rc;
use std::time::Duration;

use worker_core::{ReplyTo, WorkerError, WorkerErrorKind};

use crate::worker_dispatcher::{Inner, State};

/// Between two looks whether idle VMs are gone.
const GONE_PACE: Duration = Duration::from_millis(2);

impl Inner {
    /// Takes nothing more and ends when all that was taken has: first the dispatches, then, for as long as a VM that was
    /// replaced would have, what runs in the background.
    pub(crate) fn drain(self: &Rc<Self>, reply_to: ReplyTo<()>) {
        if self.state.get() == State::Open {
            self.state.set(State::Draining);
        }
        let this = self.clone();
        tokio::task::spawn_local(async move {
            this.until_quiet().await;
            let known: Vec<_> = this.loads.borrow().keys().copied().collect();
            known.into_iter().for_each(|tenant| this.vms.retire(tenant));
            // Endless loops of `task.wait` would never be idle.
            if tokio::time::timeout(this.limits.vm_drain_timeout, this.until_vms_are_gone()).await.is_err() {
                tracing::info!(worker = %this.id, "background threads were cut off at the end of the drain");
            }
            this.end();
            reply_to.send(Ok(()));
        });
    }

    /// Ends now, and answers when everybody else is answered.
    pub(crate) fn kill(self: &Rc<Self>, reply_to: ReplyTo<()>) {
        self.end();
        let this = self.clone();
        tokio::task::spawn_local(async move {
            this.until_quiet().await;
            reply_to.send(Ok(()));
        });
    }

    /// Answers what waits, and cancels what runs; its callers get their answer as soon as their task runs.
    pub(crate) fn end(&self) {
        self.state.set(State::Ended);
        let waiting = self.queues.borrow_mut().take_all();
        for queued in waiting {
            let context = "the worker was ended before the event was started";
            queued.reply_to.send(Err(WorkerError::new(WorkerErrorKind::WorkerGone, context)));
        }
        self.vms.cancel_all();
        self.notify_if_quiet();
    }

    /// Wakes who waits for it if nothing waits and nothing runs.
    pub(crate) fn notify_if_quiet(&self) {
        if self.is_quiet() {
            self.quiet.notify_waiters();
        }
    }

    /// After all VMs were retired: each goes when nothing runs in it any more.
    async fn until_vms_are_gone(&self) {
        while self.vms.stats().live > 0 {
            self.vms.until_idle().await;
            tokio::time::sleep(GONE_PACE).await;
        }
    }

    fn is_quiet(&self) -> bool {
        self.queues.borrow().len() == 0 && self.running.borrow().is_empty()
    }

    async fn until_quiet(&self) {
        while !self.is_quiet() {
            self.quiet.notified().await;
        }
    }
}
