//! What waits in a pool while tenants move from one of its members to another.

use std::num::NonZeroUsize;

use parking_lot::Mutex;
use worker_core::{Call, Routing, TenantId};

/// Calls that may wait in a pool while tenants move; one more is refused.
const WAITING_MAX: usize = 16_384;

/// The tenants that move, and their calls.
pub(crate) struct Moving {
    before: NonZeroUsize,
    after: NonZeroUsize,
    queues: Mutex<Queues>,
}

#[derive(Default)]
struct Queues {
    waiting: Vec<Call>,
    /// Calls for all members.
    later: Vec<Call>,
}

impl Moving {
    /// The tenants that have another owner among `after` members than among `before`.
    pub(crate) fn new(before: usize, after: usize) -> Self {
        let [before, after] =
            [before, after].map(|size| NonZeroUsize::new(size).expect("because a pool has at least one member"));
        Self { before, after, queues: Mutex::default() }
    }

    pub(crate) fn moves(&self, routing: Routing, tenant: TenantId) -> bool {
        routing.owner(tenant, self.before) != routing.owner(tenant, self.after)
    }

    /// Lets the call wait, or gives it back if there is no room.
    pub(crate) fn put(&self, call: Call) -> Option<Call> {
        let mut queues = self.queues.lock();
        if queues.waiting.len() >= WAITING_MAX {
            return Some(call);
        }
        queues.waiting.push(call);
        None
    }

    /// Lets a call wait that is for all members, also for those to come.
    pub(crate) fn put_later(&self, call: Call) {
        self.queues.lock().later.push(call);
    }

    pub(crate) fn waiting(&self) -> usize {
        self.queues.lock().waiting.len()
    }

    /// What waited, in its order, and what is for all members.
    pub(crate) fn into_calls(self) -> (Vec<Call>, Vec<Call>) {
        let Queues { waiting, later } = self.queues.into_inner();
        (waiting, later)
    }
}
