//! Events that wait to be started: bounded for each tenant and in all, fair between tenants, interactions first.

use std::collections::{HashMap, VecDeque};

use tokio::time::Instant;
use worker_core::{DispatchResult, Event, Limits, Priority, ReplyTo, TenantId};

/// An event that waits.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) event: Event,
    pub(crate) reply_to: ReplyTo<DispatchResult>,
    /// When the caller stops waiting.
    pub(crate) deadline: Instant,
}

/// Why a tenant's events are not started by the pump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// They are.
    No,
    /// Its templates are being loaded, or compiled.
    Loading,
    /// It has used up its CPU credit: a task of its own starts them, one a turn.
    OutOfCredit,
    /// It has as many dispatches running as it may.
    Full,
}

#[derive(Debug)]
struct TenantQueue {
    classes: [VecDeque<Queued>; Priority::COUNT],
    held: Held,
    /// In the ready list of the class.
    listed: [bool; Priority::COUNT],
}

impl TenantQueue {
    fn len(&self) -> usize {
        self.classes.iter().map(VecDeque::len).sum()
    }
}

/// The queues of a worker.
#[derive(Debug)]
pub(crate) struct Queues {
    tenants: HashMap<TenantId, TenantQueue>,
    /// Tenants with events of a class to start, in the order of their turns.
    ready: [VecDeque<TenantId>; Priority::COUNT],
    len: usize,
    tenant_max: usize,
    worker_max: usize,
}

/// What became of an event that was to be queued.
#[derive(Debug)]
pub(crate) enum Pushed {
    /// It waits.
    Queued,
    /// It waits, and this less important one gave way.
    Displaced(Queued),
    /// There is no room for it.
    Refused(Queued),
}

impl Queues {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            tenants: HashMap::new(),
            ready: Default::default(),
            len: 0,
            tenant_max: limits.tenant_queue_max,
            worker_max: limits.worker_queue_max,
        }
    }

    /// Events that wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether the tenant has events that wait, or is held: then a new one must wait as well, to keep the order.
    pub(crate) fn is_waiting(&self, tenant: TenantId) -> bool {
        self.tenants.contains_key(&tenant)
    }

    /// Puts an event behind those of its tenant and class.
    pub(crate) fn push(&mut self, tenant: TenantId, queued: Queued) -> Pushed {
        let class = queued.event.priority();
        let mut displaced = None;
        if self.tenants.get(&tenant).is_some_and(|queue| queue.len() >= self.tenant_max) {
            // The tenant's own bound: only its own events give way.
            match self.take_less_important(tenant, class) {
                Some(event) => displaced = Some(event),
                None => return Pushed::Refused(queued),
            }
        } else if self.len >= self.worker_max {
            // The worker's bound: who has most waiting gives way to who has less.
            let own = self.tenants.get(&tenant).map_or(0, TenantQueue::len);
            let longest = self.tenants.iter().max_by_key(|(_, queue)| queue.len());
            let longest = longest.filter(|(_, queue)| queue.len() > own + 1).map(|(id, _)| *id);
            let taken = match longest {
                Some(longest) => self.take_last(longest),
                None => self.take_less_important(tenant, class),
            };
            match taken {
                Some(event) => displaced = Some(event),
                None => return Pushed::Refused(queued),
            }
        }
        let queue = self.queue(tenant);
        queue.classes[class as usize].push_back(queued);
        self.len += 1;
        self.list(tenant);
        displaced.map_or(Pushed::Queued, Pushed::Displaced)
    }

    /// Puts an event back to where it was: before all others of its tenant and class.
    pub(crate) fn push_front(&mut self, tenant: TenantId, queued: Queued) {
        let class = queued.event.priority() as usize;
        self.queue(tenant).classes[class].push_front(queued);
        self.len += 1;
        self.list(tenant);
    }

    /// Holds the tenant's events back, or lets them go.
    pub(crate) fn hold(&mut self, tenant: TenantId, held: Held) {
        if held != Held::No {
            self.queue(tenant).held = held;
            return;
        }
        if let Some(queue) = self.tenants.get_mut(&tenant) {
            queue.held = Held::No;
            self.list(tenant);
            self.forget_if_empty(tenant);
        }
    }

    /// Why the tenant's events are held back.
    pub(crate) fn held(&self, tenant: TenantId) -> Held {
        self.tenants.get(&tenant).map_or(Held::No, |queue| queue.held)
    }

    /// The next event to start: of the most important class, of the tenant whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<(TenantId, Queued)> {
        for class in 0..Priority::COUNT {
            while let Some(tenant) = self.ready[class].pop_front() {
                let Some(queue) = self.tenants.get_mut(&tenant) else { continue };
                queue.listed[class] = false;
                if queue.held != Held::No {
                    continue;
                }
                if let Some(queued) = queue.classes[class].pop_front() {
                    self.len -= 1;
                    self.list(tenant);
                    self.forget_if_empty(tenant);
                    return Some((tenant, queued));
                }
            }
        }
        None
    }

    /// The tenant's next event, whether or not it is held.
    pub(crate) fn pop_of(&mut self, tenant: TenantId) -> Option<Queued> {
        let queue = self.tenants.get_mut(&tenant)?;
        let queued = queue.classes.iter_mut().find_map(VecDeque::pop_front)?;
        self.len -= 1;
        Some(queued)
    }

    /// Takes all events of the tenant, and forgets it.
    pub(crate) fn take_all_of(&mut self, tenant: TenantId) -> Vec<Queued> {
        let Some(queue) = self.tenants.remove(&tenant) else { return Vec::new() };
        self.len -= queue.len();
        queue.classes.into_iter().flatten().collect()
    }

    /// Takes everything.
    pub(crate) fn take_all(&mut self) -> Vec<Queued> {
        self.len = 0;
        self.ready = Default::default();
        self.tenants.drain().flat_map(|(_, queue)| queue.classes.into_iter().flatten()).collect()
    }

    fn queue(&mut self, tenant: TenantId) -> &mut TenantQueue {
        self.tenants.entry(tenant).or_insert_with(|| TenantQueue {
            classes: Default::default(),
            held: Held::No,
            listed: Default::default(),
        })
    }

    /// Lists the tenant in each class in which it has events and is not listed yet.
    fn list(&mut self, tenant: TenantId) {
        let Some(queue) = self.tenants.get_mut(&tenant) else { return };
        if queue.held != Held::No {
            return;
        }
        for class in 0..Priority::COUNT {
            if !queue.classes[class].is_empty() && !queue.listed[class] {
                queue.listed[class] = true;
                self.ready[class].push_back(tenant);
            }
        }
    }

    fn forget_if_empty(&mut self, tenant: TenantId) {
        if self.tenants.get(&tenant).is_some_and(|queue| queue.held == Held::No && queue.len() == 0) {
            self.tenants.remove(&tenant);
        }
    }

    /// The tenant's last event of a class that is less important.
    fn take_less_important(&mut self, tenant: TenantId, than: Priority) -> Option<Queued> {
        let queue = self.tenants.get_mut(&tenant)?;
        let taken = queue.classes[than as usize + 1..].iter_mut().rev().find_map(VecDeque::pop_back)?;
        self.len -= 1;
        Some(taken)
    }

    /// The tenant's last event of its least important class.
    fn take_last(&mut self, tenant: TenantId) -> Option<Queued> {
        let queue = self.tenants.get_mut(&tenant)?;
        let taken = queue.classes.iter_mut().rev().find_map(VecDeque::pop_back)?;
        self.len -= 1;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn queues(tenant_queue_max: usize, worker_queue_max: usize) -> Queues {
        Queues::new(&Limits { tenant_queue_max, worker_queue_max, ..Limits::default() })
    }

    fn queued(t: &str, data: &str) -> Queued {
        let event = Event::discord(t, Bytes::copy_from_slice(data.as_bytes()));
        Queued { event, reply_to: ReplyTo::nobody(), deadline: Instant::now() }
    }

    fn tenant(id: u64) -> TenantId {
        TenantId::guild(id)
    }

    fn order(queues: &mut Queues) -> Vec<String> {
        std::iter::from_fn(|| queues.pop())
            .map(|(tenant, queued)| {
                format!("{}{}", tenant.snowflake(), String::from_utf8_lossy(queued.event.data()))
            })
            .collect()
    }

    #[test]
    fn tenants_take_turns_and_each_keeps_its_order() {
        let mut queues = queues(100, 100);
        for data in ["a", "b", "c"] {
            queues.push(tenant(1), queued("MESSAGE_CREATE", data));
        }
        queues.push(tenant(2), queued("MESSAGE_CREATE", "a"));
        queues.push(tenant(3), queued("MESSAGE_CREATE", "a"));
        queues.push(tenant(2), queued("MESSAGE_CREATE", "b"));
        assert_eq!(order(&mut queues), ["1a", "2a", "3a", "1b", "2b", "1c"]);
        assert_eq!(queues.len(), 0);
        assert!(!queues.is_waiting(tenant(1)));
    }

    #[test]
    fn interactions_come_first_and_floods_last() {
        let mut queues = queues(100, 100);
        queues.push(tenant(1), queued("TYPING_START", "t"));
        queues.push(tenant(1), queued("MESSAGE_CREATE", "m"));
        queues.push(tenant(2), queued("INTERACTION_CREATE", "i"));
        queues.push(tenant(1), queued("INTERACTION_CREATE", "i"));
        assert_eq!(order(&mut queues), ["2i", "1i", "1m", "1t"]);
    }

    #[test]
    fn a_full_tenant_gives_up_its_own_floods_only() {
        let mut queues = queues(2, 100);
        queues.push(tenant(1), queued("TYPING_START", "a"));
        queues.push(tenant(1), queued("TYPING_START", "b"));
        assert!(matches!(queues.push(tenant(1), queued("TYPING_START", "c")), Pushed::Refused(_)));
        assert!(
            matches!(queues.push(tenant(1), queued("MESSAGE_CREATE", "m")), Pushed::Displaced(q) if &q.event.data()[..] == b"b")
        );
        assert!(matches!(queues.push(tenant(1), queued("INTERACTION_CREATE", "i")), Pushed::Displaced(_)));
        assert!(matches!(queues.push(tenant(1), queued("MESSAGE_CREATE", "n")), Pushed::Refused(_)));
        assert!(matches!(queues.push(tenant(2), queued("TYPING_START", "x")), Pushed::Queued));
        assert_eq!(order(&mut queues), ["1i", "1m", "2x"]);
    }

    #[test]
    fn at_a_full_worker_the_longest_queue_gives_way() {
        let mut queues = queues(100, 3);
        for data in ["a", "b", "c"] {
            queues.push(tenant(1), queued("MESSAGE_CREATE", data));
        }
        assert!(
            matches!(queues.push(tenant(2), queued("MESSAGE_CREATE", "x")), Pushed::Displaced(q) if &q.event.data()[..] == b"c")
        );
        assert!(matches!(queues.push(tenant(1), queued("MESSAGE_CREATE", "d")), Pushed::Refused(_)));
        assert_eq!(queues.len(), 3);
    }

    #[test]
    fn held_tenants_wait_and_others_do_not() {
        let mut queues = queues(100, 100);
        queues.hold(tenant(1), Held::Loading);
        queues.push(tenant(1), queued("MESSAGE_CREATE", "a"));
        queues.push(tenant(2), queued("MESSAGE_CREATE", "a"));
        assert_eq!(order(&mut queues), ["2a"]);
        assert!(queues.is_waiting(tenant(1)));
        queues.hold(tenant(1), Held::No);
        assert_eq!(order(&mut queues), ["1a"]);
        queues.hold(tenant(3), Held::Full);
        assert!(queues.is_waiting(tenant(3)));
        queues.hold(tenant(3), Held::No);
        assert!(!queues.is_waiting(tenant(3)));
    }
}
