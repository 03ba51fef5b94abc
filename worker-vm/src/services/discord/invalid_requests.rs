//! What Discord has refused. It shuts an address out for a while that has 10,000 refusals in ten minutes, and then the
//! bot is gone from every guild.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use worker_core::TenantId;

/// How long a refusal counts: ten minutes, in slots of one, and the slot that is under way.
const SLOTS: usize = 11;
const SLOT: Duration = Duration::from_secs(60);

/// Look-ups of a tenant in [`LOOKUP_PERIOD`]: what a script names may be looked up in its name, once it is not known.
const LOOKUPS_MAX: u32 = 20;
const LOOKUP_PERIOD: Duration = Duration::from_secs(5);

/// Tenants that are kept; beyond, those go whose refusals are over.
const TENANTS_SWEPT_AT: usize = 4_096;

/// Counts refusals, of all and of each tenant.
pub(super) struct InvalidRequests {
    started: Instant,
    per_tenant: u32,
    in_all: u32,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    all: Window,
    tenants: HashMap<TenantId, Tenant>,
}

#[derive(Default)]
struct Tenant {
    refused: Window,
    lookups: u32,
    lookups_since: Option<Instant>,
}

/// Counts of the last minutes, each with the minute that it is of.
#[derive(Default)]
struct Window([(u64, u32); SLOTS]);

impl Window {
    fn add(&mut self, minute: u64) {
        let slot = &mut self.0[(minute % SLOTS as u64) as usize];
        if slot.0 != minute {
            *slot = (minute, 0);
        }
        slot.1 = slot.1.saturating_add(1);
    }

    fn sum(&self, minute: u64) -> u32 {
        let recent = |slot: &&(u64, u32)| slot.0 + SLOTS as u64 > minute;
        self.0.iter().filter(recent).map(|slot| slot.1).sum()
    }
}

impl InvalidRequests {
    pub(super) fn new(per_tenant: u32, in_all: u32) -> Self {
        Self { started: Instant::now(), per_tenant, in_all, counts: Mutex::default() }
    }

    /// Whether the tenant may send another request.
    pub(super) fn allows(&self, tenant: TenantId) -> bool {
        let (minute, counts) = (self.minute(), self.counts.lock());
        let own = counts.tenants.get(&tenant).map_or(0, |tenant| tenant.refused.sum(minute));
        own < self.per_tenant && counts.all.sum(minute) < self.in_all
    }

    /// Discord refused a request of the tenant.
    pub(super) fn count(&self, tenant: TenantId) {
        let (minute, mut counts) = (self.minute(), self.counts.lock());
        counts.all.add(minute);
        counts.tenant(tenant, minute).refused.add(minute);
    }

    /// Whether something may be looked up in the tenant's name; if so it counts.
    pub(super) fn take_lookup(&self, tenant: TenantId) -> bool {
        let (minute, now, mut counts) = (self.minute(), Instant::now(), self.counts.lock());
        let tenant = counts.tenant(tenant, minute);
        if tenant.lookups_since.is_none_or(|since| now.duration_since(since) >= LOOKUP_PERIOD) {
            (tenant.lookups, tenant.lookups_since) = (0, Some(now));
        }
        tenant.lookups += 1;
        tenant.lookups <= LOOKUPS_MAX
    }

    fn minute(&self) -> u64 {
        // From 1, so that an empty slot is of no minute that counts for long.
        self.started.elapsed().as_secs() / SLOT.as_secs() + 1
    }
}

impl Counts {
    fn tenant(&mut self, tenant: TenantId, minute: u64) -> &mut Tenant {
        if self.tenants.len() >= TENANTS_SWEPT_AT {
            self.tenants.retain(|_, tenant| {
                let looks = tenant.lookups_since.is_some_and(|since| since.elapsed() < LOOKUP_PERIOD);
                looks || tenant.refused.sum(minute) > 0
            });
        }
        self.tenants.entry(tenant).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: TenantId = TenantId::guild(1);
    const TWO: TenantId = TenantId::guild(2);

    #[test]
    fn a_tenant_stops_at_its_own_number_and_all_at_theirs() {
        let invalid = InvalidRequests::new(3, 5);
        for _ in 0..3 {
            assert!(invalid.allows(ONE));
            invalid.count(ONE);
        }
        assert!(!invalid.allows(ONE));
        assert!(invalid.allows(TWO));
        invalid.count(TWO);
        invalid.count(TWO);
        assert!(!invalid.allows(TWO), "five in all");
        assert!(!invalid.allows(TenantId::guild(3)));
    }

    #[test]
    fn a_refusal_counts_for_ten_whole_minutes() {
        let mut window = Window::default();
        window.add(1);
        window.add(1);
        window.add(5);
        assert_eq!([1, 5, 11, 12, 15, 16].map(|minute| window.sum(minute)), [3, 3, 3, 1, 1, 0]);
        window.add(12);
        assert_eq!(window.sum(12), 2, "its slot was the first minute's");
    }

    #[test]
    fn look_ups_are_few() {
        let invalid = InvalidRequests::new(1, 1);
        assert_eq!((0..50).filter(|_| invalid.take_lookup(ONE)).count(), LOOKUPS_MAX as usize);
        assert!(invalid.take_lookup(TWO));
    }
}
