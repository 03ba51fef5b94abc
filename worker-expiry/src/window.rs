//! What is due soon, in memory that is bounded: as a whole and for each tenant.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use worker_core::TenantId;
use worker_db::DueRecord;

use crate::ExpirySettings;

/// Records that are due soon, by tenant, and whose turn it is. Records that have no room are left in the database, where
/// each tenant's part begins again when it has become small.
#[derive(Debug)]
pub(crate) struct Window {
    parts: HashMap<TenantId, Part>,
    /// Tenants that may be given a record, and when their first one is due; but for those in `turns`.
    firsts: BTreeSet<(Timestamp, TenantId)>,
    /// Tenants with a record that is due: each is given one, then the next tenant.
    turns: VecDeque<TenantId>,
    /// Tenants that left records in the database.
    behind: HashSet<TenantId>,
    len: usize,
    in_hand: usize,
    window_max: usize,
    tenant_window_max: usize,
    tenant_in_hand_max: usize,
}

#[derive(Debug, Default)]
struct Part {
    due: BTreeSet<(Timestamp, Arc<str>)>,
    due_at: HashMap<Arc<str>, Timestamp>,
    in_hand: usize,
    /// Where this tenant is in `firsts`.
    listed: Option<Timestamp>,
    in_turns: bool,
    /// When the first record that had no room is due: from there on they are in the database only.
    left_from: Option<Timestamp>,
}

impl Window {
    pub(crate) fn new(settings: &ExpirySettings) -> Self {
        Self {
            parts: HashMap::new(),
            firsts: BTreeSet::new(),
            turns: VecDeque::new(),
            behind: HashSet::new(),
            len: 0,
            in_hand: 0,
            window_max: settings.window_max.max(1),
            tenant_window_max: settings.tenant_window_max.max(1),
            tenant_in_hand_max: settings.tenant_in_hand_max.max(1),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn in_hand(&self) -> usize {
        self.in_hand
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len >= self.window_max
    }

    /// Notes when a record is due. One that has no room is left to the database.
    pub(crate) fn put(&mut self, record: DueRecord) {
        let DueRecord { due_at, tenant, id } = record;
        let part = self.parts.entry(tenant).or_default();
        if let Some(before) = part.due_at.get(&id).copied() {
            if before == due_at {
                return;
            }
            part.due_at.remove(&id);
            part.due.remove(&(before, id.clone()));
            self.len -= 1;
        }
        let is_left = part.left_from.is_some_and(|from| due_at > from);
        if is_left || self.len >= self.window_max {
            Self::leave(part, due_at);
            self.behind.insert(tenant);
        } else {
            part.due_at.insert(id.clone(), due_at);
            part.due.insert((due_at, id));
            self.len += 1;
            if part.due.len() > self.tenant_window_max
                && let Some((last, id)) = part.due.pop_last()
            {
                part.due_at.remove(&id);
                self.len -= 1;
                Self::leave(part, last);
                self.behind.insert(tenant);
            }
        }
        self.relist(tenant);
    }

    /// Forgets a record.
    pub(crate) fn remove(&mut self, tenant: TenantId, id: &str) {
        if let Some(part) = self.parts.get_mut(&tenant)
            && let Some((id, due_at)) = part.due_at.remove_entry(id)
        {
            part.due.remove(&(due_at, id));
            self.len -= 1;
            self.relist(tenant);
        }
    }

    /// Forgets the records of all other tenants. What is in hand stays there.
    pub(crate) fn keep(&mut self, is_kept: impl Fn(TenantId) -> bool) {
        let others: Vec<_> = self.parts.keys().copied().filter(|tenant| !is_kept(*tenant)).collect();
        for tenant in others {
            if let Some(part) = self.parts.get_mut(&tenant) {
                self.len -= part.due.len();
                part.due.clear();
                part.due_at.clear();
                part.left_from = None;
            }
            self.behind.remove(&tenant);
            self.relist(tenant);
        }
    }

    /// Whether a record of such a tenant is in hand.
    pub(crate) fn has_in_hand(&self, is_such: impl Fn(TenantId) -> bool) -> bool {
        self.parts.iter().any(|(tenant, part)| part.in_hand > 0 && is_such(*tenant))
    }

    /// Takes records that are due into hand, of one tenant after the other.
    pub(crate) fn take(&mut self, now: Timestamp, max: usize) -> Vec<DueRecord> {
        while let Some(&(at, tenant)) = self.firsts.first()
            && at <= now
        {
            self.firsts.pop_first();
            if let Some(part) = self.parts.get_mut(&tenant) {
                part.listed = None;
                part.in_turns = true;
                self.turns.push_back(tenant);
            }
        }
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some(tenant) = self.turns.pop_front()
        {
            let Some(part) = self.parts.get_mut(&tenant) else { continue };
            part.in_turns = false;
            let is_due = part.due.first().is_some_and(|(at, _)| *at <= now);
            if is_due
                && part.in_hand < self.tenant_in_hand_max
                && let Some((due_at, id)) = part.due.pop_first()
            {
                part.due_at.remove(&id);
                part.in_hand += 1;
                self.len -= 1;
                self.in_hand += 1;
                taken.push(DueRecord { due_at, tenant, id });
                if part.in_hand < self.tenant_in_hand_max && part.due.first().is_some_and(|(at, _)| *at <= now) {
                    part.in_turns = true;
                    self.turns.push_back(tenant);
                }
            }
            self.relist(tenant);
        }
        taken
    }

    /// A record of the tenant is no longer in hand.
    pub(crate) fn release(&mut self, tenant: TenantId) {
        if let Some(part) = self.parts.get_mut(&tenant) {
            part.in_hand = part.in_hand.saturating_sub(1);
            self.in_hand = self.in_hand.saturating_sub(1);
            self.relist(tenant);
        }
    }

    /// When a record can be taken next.
    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        if self.turns.is_empty() { self.firsts.first().map(|(at, _)| *at) } else { Some(Timestamp::MIN) }
    }

    /// From when on records are to be read anew, if there is a tenant that has few and left some.
    pub(crate) fn hungry(&self) -> Option<(Timestamp, TenantId)> {
        let few = self.tenant_window_max / 4;
        let hungry = self.behind.iter().filter_map(|tenant| {
            let part = self.parts.get(tenant)?;
            let from = part.left_from?;
            (part.due.len() <= few).then_some((from, *tenant))
        });
        if self.is_full() { None } else { hungry.min() }
    }

    /// All records from the one time to the other are about to be put: what was left there is not left any more.
    pub(crate) fn rereads(&mut self, from: Timestamp, until: Timestamp) {
        let parts = &mut self.parts;
        self.behind.retain(|tenant| {
            let Some(part) = parts.get_mut(tenant) else { return false };
            if part.left_from.is_some_and(|left| from <= left && left <= until) {
                part.left_from = None;
            }
            part.left_from.is_some()
        });
    }

    fn leave(part: &mut Part, due_at: Timestamp) {
        part.left_from = Some(part.left_from.map_or(due_at, |from| from.min(due_at)));
    }

    fn relist(&mut self, tenant: TenantId) {
        let Some(part) = self.parts.get_mut(&tenant) else { return };
        let may_take = !part.in_turns && part.in_hand < self.tenant_in_hand_max;
        let first = part.due.first().map(|(at, _)| *at).filter(|_| may_take);
        if part.listed != first {
            if let Some(at) = part.listed {
                self.firsts.remove(&(at, tenant));
            }
            if let Some(at) = first {
                self.firsts.insert((at, tenant));
            }
            part.listed = first;
        }
        if part.due.is_empty() && part.in_hand == 0 && !part.in_turns && part.left_from.is_none() {
            self.parts.remove(&tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TenantId = TenantId::guild(1);
    const B: TenantId = TenantId::guild(2);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn record(second: i64, tenant: TenantId, id: &str) -> DueRecord {
        DueRecord { due_at: at(second), tenant, id: id.into() }
    }

    fn window(settings: ExpirySettings) -> Window {
        Window::new(&settings)
    }

    fn ids(records: Vec<DueRecord>) -> Vec<String> {
        records.into_iter().map(|record| record.id.to_string()).collect()
    }

    #[test]
    fn nothing_is_given_early_and_tenants_take_turns() {
        let mut window = window(ExpirySettings::default());
        for n in 0..3 {
            window.put(record(n, A, &format!("a{n}")));
        }
        window.put(record(2, B, "b"));
        assert_eq!(ids(window.take(at(-1), 9)), [""; 0]);
        assert_eq!(ids(window.take(at(1), 9)), ["a0", "a1"]);
        assert_eq!(window.next_at(), Some(at(2)));
        window.put(record(1, A, "a9"));
        assert_eq!(ids(window.take(at(2), 9)), ["a9", "b", "a2"]);
        assert_eq!((window.len(), window.in_hand(), window.next_at()), (0, 5, None));
    }

    #[test]
    fn a_tenant_has_only_so_many_in_hand() {
        let mut window = window(ExpirySettings { tenant_in_hand_max: 2, ..ExpirySettings::default() });
        for n in 0..4 {
            window.put(record(0, A, &n.to_string()));
        }
        assert_eq!(ids(window.take(at(0), 9)), ["0", "1"]);
        assert_eq!(window.next_at(), None);
        window.release(A);
        assert_eq!(ids(window.take(at(0), 9)), ["2"]);
    }

    #[test]
    fn what_has_no_room_is_read_again_when_there_is_room() {
        let mut window = window(ExpirySettings { tenant_window_max: 4, ..ExpirySettings::default() });
        for n in 0..10 {
            window.put(record(n, A, &n.to_string()));
        }
        window.put(record(1, B, "b"));
        assert_eq!((window.len(), window.hungry()), (5, None));
        assert_eq!(window.take(at(2), 9).len(), 4);
        assert_eq!(window.hungry(), Some((at(4), A)));
        window.rereads(at(4), at(9));
        for n in 4..10 {
            window.put(record(n, A, &n.to_string()));
        }
        assert_eq!(window.len(), 4, "one was there, three are new");
        assert_eq!(ids(window.take(at(99), 9)), ["3", "4", "5", "6"]);
    }

    #[test]
    fn the_whole_is_bounded() {
        let mut window = window(ExpirySettings { window_max: 10, ..ExpirySettings::default() });
        for n in 0..1_000 {
            window.put(record(n, TenantId::guild(n as u64 + 1), &n.to_string()));
        }
        assert_eq!(window.len(), 10);
    }

    #[test]
    fn moved_and_removed_records() {
        let mut window = window(ExpirySettings::default());
        window.put(record(1, A, "a"));
        window.put(record(5, A, "a"));
        assert_eq!(ids(window.take(at(4), 9)), [""; 0]);
        window.remove(A, "a");
        assert_eq!((window.len(), window.next_at()), (0, None));
        assert!(window.parts.is_empty());
    }

    mod model {
        use proptest::prelude::*;

        use super::*;

        proptest! {
            /// Any interleaving of writes, deletions and reads again gives each record that is due exactly once.
            #[test]
            fn each_due_record_is_given_once(steps in prop::collection::vec((0u8..6, 0u8..12, 0i64..20), 0..200)) {
                let settings = ExpirySettings { tenant_window_max: 3, window_max: 7, tenant_in_hand_max: 2, ..Default::default() };
                let mut window = window(settings);
                // What the database holds, and what is in hand.
                let mut stored: HashMap<u8, i64> = HashMap::new();
                let mut held: Vec<u8> = Vec::new();
                let tenant = |id: u8| TenantId::guild(u64::from(id % 3) + 1);
                let reread = |window: &mut Window, stored: &HashMap<u8, i64>| {
                    window.rereads(Timestamp::MIN, Timestamp::MAX);
                    for (id, due) in stored {
                        window.put(record(*due, tenant(*id), &id.to_string()));
                    }
                };
                let mut now = 0;
                for (step, id, due) in steps {
                    match step {
                        0 | 1 if !held.contains(&id) => {
                            stored.insert(id, due);
                            window.put(record(due, tenant(id), &id.to_string()));
                        }
                        2 => {
                            stored.remove(&id);
                            window.remove(tenant(id), &id.to_string());
                        }
                        3 => reread(&mut window, &stored),
                        4 => {
                            now = due;
                            for taken in window.take(at(now), 2) {
                                let id: u8 = taken.id.parse().unwrap();
                                prop_assert!(taken.due_at <= at(now));
                                prop_assert_eq!(stored.remove(&id).map(at), Some(taken.due_at), "given as it is stored");
                                held.push(id);
                            }
                        }
                        _ => {
                            if let Some(id) = held.pop() {
                                window.release(tenant(id));
                            }
                        }
                    }
                    prop_assert!(window.len() <= 7 && window.in_hand() == held.len());
                }
                for id in held.drain(..) {
                    window.release(tenant(id));
                }
                // Whatever is left comes out in the end.
                for _ in 0..40 {
                    reread(&mut window, &stored);
                    for taken in window.take(at(now.max(20)), 100) {
                        let id: u8 = taken.id.parse().unwrap();
                        prop_assert!(stored.remove(&id).is_some());
                        window.release(taken.tenant);
                    }
                }
                prop_assert!(stored.is_empty(), "never given: {stored:?}");
            }
        }
    }
}
