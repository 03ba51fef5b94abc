//! Which tenants a dispatcher serves, and what is done when these become others.

use std::rc::Rc;
use std::time::Duration;

use worker_core::{ReplyTo, TenantId, WorkerError, WorkerErrorKind, WorkerFilter};

use crate::worker_dispatcher::{Inner, State};

/// Between two looks whether the tenants that are given up have nothing here any more.
const GONE_PACE: Duration = Duration::from_millis(2);

impl Inner {
    pub(crate) fn owns(&self, tenant: TenantId) -> bool {
        self.filter.borrow().owns(tenant)
    }

    /// Serves these tenants from now on. What was taken of others is finished, then their templates and VMs are let go:
    /// what runs in the background there has the time that it has when templates change. Who is new and has records to
    /// resume is loaded.
    pub(crate) fn own(self: &Rc<Self>, filter: WorkerFilter, reply_to: ReplyTo<()>) {
        if self.state.get() != State::Open {
            let gone = WorkerError::new(WorkerErrorKind::WorkerGone, "the worker takes no more calls");
            return reply_to.send(Err(gone));
        }
        self.filter.replace(filter);
        let this = self.clone();
        tokio::task::spawn_local(async move {
            while this.has_events_of_others() {
                tokio::time::sleep(GONE_PACE).await;
            }
            let known: Vec<_> = this.loads.borrow().keys().copied().collect();
            for tenant in known.into_iter().filter(|tenant| !this.owns(*tenant)) {
                this.loads.borrow_mut().remove(&tenant);
                this.cache.invalidate(tenant);
                this.vms.retire(tenant);
            }
            this.load_resumable();
            reply_to.send(Ok(()));
        });
    }

    fn has_events_of_others(&self) -> bool {
        self.running.borrow().keys().any(|tenant| !self.owns(*tenant))
            || self.queues.borrow().any_waits(|tenant| !self.owns(tenant))
    }
}
