//! Events that wait to be started: bounded for each tenant and in all, fair between tenants, interactions first.

use std::collections::{BTreeSet, HashMap, VecDeque};

use worker_core::{DispatchResult, Event, Limits, Moment, Priority, ReplyTo, TenantId};

/// An event that waits.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) event: Event,
    pub(crate) reply_to: ReplyTo<DispatchResult>,
    /// When the caller stops waiting.
    pub(crate) deadline: Moment,
}

impl Queued {
    /// Whether there is a caller, and they have waited for as long as they may.
    pub(crate) fn is_late(&self, now: Moment) -> bool {
        self.reply_to.is_wanted() && now >= self.deadline
    }
}

/// Why a tenant's events are not started by the pump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// They are.
    No,
    /// Its templates are being loaded.
    Loading,
    /// Code that an event needs is being compiled.
    Compiling,
    /// It has used up its CPU credit: a task of its own starts them, a slice at each of its turns.
    OutOfCredit,
    /// It has as many dispatches running as it may.
    Full,
}

#[derive(Debug)]
struct TenantQueue {
    classes: [VecDeque<Queued>; Priority::COUNT],
    held: Held,
    /// In the ready list of the class. A tenant that is in one is kept, or it could be listed twice.
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
    /// The tenants with events, by how many they have.
    by_len: BTreeSet<(usize, TenantId)>,
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
            by_len: BTreeSet::new(),
            tenant_max: limits.tenant_queue_max,
            worker_max: limits.worker_queue_max,
        }
    }

    /// Events of the tenant that wait.
    pub(crate) fn len_of(&self, tenant: TenantId) -> usize {
        self.tenants.get(&tenant).map_or(0, TenantQueue::len)
    }

    /// Events that wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether the tenant has events that wait, or is held: then a new one must wait as well, to keep the order.
    pub(crate) fn is_waiting(&self, tenant: TenantId) -> bool {
        self.tenants.get(&tenant).is_some_and(|queue| queue.held != Held::No || queue.len() > 0)
    }

    /// Whether events of such a tenant wait.
    pub(crate) fn any_waits(&self, is_such: impl Fn(TenantId) -> bool) -> bool {
        self.by_len.iter().any(|(_, tenant)| is_such(*tenant))
    }

    /// Whether an event of the tenant finds room without displacing another.
    pub(crate) fn has_room(&self, tenant: TenantId) -> bool {
        self.len < self.worker_max && self.tenants.get(&tenant).is_none_or(|queue| queue.len() < self.tenant_max)
    }

    /// Puts an event behind those of its tenant and class.
    pub(crate) fn push(&mut self, tenant: TenantId, queued: Queued) -> Pushed {
        let class = queued.event.priority();
        let own = self.tenants.get(&tenant).map_or(0, TenantQueue::len);
        let mut displaced = None;
        if own >= self.tenant_max {
            // The tenant's own bound: only its own events give way.
            displaced = self.take_less_important(tenant, class);
            if displaced.is_none() {
                return Pushed::Refused(queued);
            }
        } else if self.len >= self.worker_max {
            // The worker's bound: who has most waiting gives way to who has less.
            let longest = self.by_len.last().filter(|(len, _)| *len > own + 1).map(|(_, tenant)| *tenant);
            displaced = match longest {
                Some(longest) => self.take_last(longest, class),
                None => self.take_less_important(tenant, class),
            };
            if displaced.is_none() {
                return Pushed::Refused(queued);
            }
        }
        self.change(tenant, |queue| queue.classes[class as usize].push_back(queued));
        displaced.map_or(Pushed::Queued, Pushed::Displaced)
    }

    /// Puts an event back to where it was: before all others of its tenant and class.
    pub(crate) fn push_front(&mut self, tenant: TenantId, queued: Queued) {
        let class = queued.event.priority() as usize;
        self.change(tenant, |queue| queue.classes[class].push_front(queued));
    }

    /// Holds the tenant's events back, or lets them go.
    pub(crate) fn hold(&mut self, tenant: TenantId, held: Held) {
        if held != Held::No || self.tenants.contains_key(&tenant) {
            self.change(tenant, |queue| queue.held = held);
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
                let queued = self.change(tenant, |queue| {
                    queue.listed[class] = false;
                    if queue.held == Held::No { queue.classes[class].pop_front() } else { None }
                });
                if let Some(queued) = queued {
                    return Some((tenant, queued));
                }
            }
        }
        None
    }

    /// The tenant's next event, whether or not it is held.
    pub(crate) fn pop_of(&mut self, tenant: TenantId) -> Option<Queued> {
        self.change(tenant, |queue| queue.classes.iter_mut().find_map(VecDeque::pop_front))
    }

    /// Takes all events of the tenant, and holds it no longer.
    pub(crate) fn take_all_of(&mut self, tenant: TenantId) -> Vec<Queued> {
        self.change(tenant, |queue| {
            queue.held = Held::No;
            queue.classes.iter_mut().flat_map(std::mem::take).collect()
        })
    }

    /// Takes everything.
    pub(crate) fn take_all(&mut self) -> Vec<Queued> {
        self.len = 0;
        self.ready = Default::default();
        self.by_len.clear();
        self.tenants.drain().flat_map(|(_, queue)| queue.classes.into_iter().flatten()).collect()
    }

    /// Takes the events whose callers have waited long enough, or have gone.
    pub(crate) fn take_late(&mut self, now: Moment) -> Vec<Queued> {
        let is_out = |queued: &Queued| queued.is_late(now) || queued.reply_to.is_abandoned();
        let tenants: Vec<_> = self.by_len.iter().map(|(_, tenant)| *tenant).collect();
        let mut late = Vec::new();
        for tenant in tenants {
            self.change(tenant, |queue| {
                for class in &mut queue.classes {
                    let (out, stay) = std::mem::take(class).into_iter().partition::<Vec<_>, _>(is_out);
                    late.extend(out);
                    *class = stay.into();
                }
            });
        }
        late
    }

    /// When the first of the callers has waited long enough.
    pub(crate) fn earliest_deadline(&self) -> Option<Moment> {
        let all = self.tenants.values().flat_map(|queue| queue.classes.iter().flatten());
        all.filter(|queued| queued.reply_to.is_wanted()).map(|queued| queued.deadline).min()
    }

    /// Changes a tenant's queue, and then counts and lists what it is now.
    fn change<R>(&mut self, tenant: TenantId, change: impl FnOnce(&mut TenantQueue) -> R) -> R {
        let queue = self.tenants.entry(tenant).or_insert_with(|| TenantQueue {
            classes: Default::default(),
            held: Held::No,
            listed: Default::default(),
        });
        let before = queue.len();
        let result = change(queue);
        let after = queue.len();
        if before != after {
            self.len = self.len - before + after;
            self.by_len.remove(&(before, tenant));
            if after > 0 {
                self.by_len.insert((after, tenant));
            }
        }
        if queue.held == Held::No {
            for class in 0..Priority::COUNT {
                if !queue.classes[class].is_empty() && !queue.listed[class] {
                    queue.listed[class] = true;
                    self.ready[class].push_back(tenant);
                }
            }
            if after == 0 && queue.listed == [false; Priority::COUNT] {
                self.tenants.remove(&tenant);
            }
        }
        result
    }

    /// The tenant's last event of a class that is less important.
    fn take_less_important(&mut self, tenant: TenantId, than: Priority) -> Option<Queued> {
        self.change(tenant, |queue| queue.classes[than as usize + 1..].iter_mut().rev().find_map(VecDeque::pop_back))
    }

    /// The tenant's last event of its least important class, for one of another tenant. Floods displace floods only.
    fn take_last(&mut self, tenant: TenantId, for_class: Priority) -> Option<Queued> {
        let from = if for_class == Priority::Flood { Priority::Flood as usize } else { 0 };
        self.change(tenant, |queue| queue.classes[from..].iter_mut().rev().find_map(VecDeque::pop_back))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use worker_core::Clock;

    use super::*;

    fn queues(tenant_queue_max: usize, worker_queue_max: usize) -> Queues {
        Queues::new(&Limits { tenant_queue_max, worker_queue_max, ..Limits::default() })
    }

    fn queued(t: &str, data: &str) -> Queued {
        let event = Event::discord(t, Bytes::copy_from_slice(data.as_bytes()));
        Queued { event, reply_to: ReplyTo::nobody(), deadline: Clock::Real.moment() }
    }

    fn tenant(id: u64) -> TenantId {
        TenantId::guild(id)
    }

    fn order(queues: &mut Queues) -> Vec<String> {
        std::iter::from_fn(|| queues.pop())
            .map(|(tenant, queued)| format!("{}{}", tenant.snowflake(), String::from_utf8_lossy(queued.event.data())))
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

    #[test]
    fn floods_of_one_tenant_displace_floods_of_another_and_nothing_else() {
        let mut queues = queues(100, 3);
        for data in ["a", "b"] {
            queues.push(tenant(1), queued("INTERACTION_CREATE", data));
        }
        queues.push(tenant(1), queued("TYPING_START", "c"));
        assert!(
            matches!(queues.push(tenant(2), queued("TYPING_START", "x")), Pushed::Displaced(q) if &q.event.data()[..] == b"c")
        );
        assert!(matches!(queues.push(tenant(3), queued("TYPING_START", "y")), Pushed::Refused(_)));
        assert!(
            matches!(queues.push(tenant(3), queued("MESSAGE_CREATE", "m")), Pushed::Displaced(q) if &q.event.data()[..] == b"b")
        );
        assert_eq!(order(&mut queues), ["1a", "3m", "2x"]);
    }

    #[test]
    fn a_tenant_that_was_emptied_while_it_was_listed_has_one_turn_a_round() {
        let mut queues = queues(100, 100);
        for _ in 0..3 {
            queues.push(tenant(1), queued("MESSAGE_CREATE", "a"));
            assert_eq!(queues.take_all_of(tenant(1)).len(), 1);
        }
        for data in ["a", "b", "c"] {
            queues.push(tenant(1), queued("MESSAGE_CREATE", data));
            queues.push(tenant(2), queued("MESSAGE_CREATE", data));
        }
        assert_eq!(order(&mut queues), ["1a", "2a", "1b", "2b", "1c", "2c"]);
        assert!(queues.tenants.is_empty() && queues.by_len.is_empty());
    }

    #[test]
    fn late_events_are_taken_out_and_the_rest_keeps_its_order() {
        let mut queues = queues(100, 100);
        let now = Clock::Real.moment();
        let mut replies = Vec::new();
        for (data, seconds) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
            let (reply_to, reply) = worker_core::Reply::pending();
            replies.push(reply);
            let deadline = now + std::time::Duration::from_secs(seconds);
            queues.push(tenant(1), Queued { reply_to, deadline, ..queued("MESSAGE_CREATE", data) });
        }
        queues.push(tenant(1), queued("MESSAGE_CREATE", "nobody waits"));
        assert_eq!(queues.earliest_deadline(), Some(now));
        assert_eq!(queues.take_late(now).len(), 2);
        drop(replies.pop());
        assert_eq!(queues.take_late(now).len(), 1, "the caller of `d` has gone");
        assert_eq!(queues.len(), 2);
        assert_eq!(order(&mut queues), ["1b", "1nobody waits"]);
    }
}
