//! What each tenant may take of the way to Discord: requests that wait, look-ups, and refusals.
//!
//! Discord shuts an address out for a while that has 10,000 refusals in ten minutes, and then the bot is gone from every
//! guild.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use worker_core::TenantId;

/// How long a refusal counts: ten minutes, in slots of one, and the slot that is under way.
const SLOTS: usize = 11;
const SLOT: Duration = Duration::from_secs(60);

/// Look-ups of a tenant in [`LOOKUP_PERIOD`]: enough for a guild and for the 50 members that one call may ask about.
const LOOKUPS_MAX: u32 = 60;
const LOOKUP_PERIOD: Duration = Duration::from_secs(5);

/// Requests of a tenant, and of all, that wait for their turn or for their answer.
const WAITING_MAX: u32 = 64;
const WAITING_IN_ALL_MAX: u32 = 4_096;

/// Tenants that are kept; beyond, those go whose refusals are over.
const TENANTS_SWEPT_AT: usize = 4_096;

/// Counts for each tenant and for all.
pub(super) struct TenantShares {
    started: Instant,
    per_tenant: u32,
    in_all: u32,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    all: Window,
    /// Requests that are on their way count as if they were refused: nobody can send many at once at the last moment.
    under_way: u32,
    waiting: u32,
    tenants: HashMap<TenantId, Tenant>,
}

#[derive(Default)]
struct Tenant {
    refused: Window,
    under_way: u32,
    waiting: u32,
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

impl TenantShares {
    pub(super) fn new(per_tenant: u32, in_all: u32) -> Self {
        Self { started: Instant::now(), per_tenant, in_all, counts: Mutex::default() }
    }

    /// Takes a place among those who wait, if there is one.
    pub(super) fn wait(&self, tenant: TenantId) -> Option<Waiting<'_>> {
        let (minute, mut counts) = (self.minute(), self.counts.lock());
        let all = counts.waiting;
        let own = counts.tenant(tenant, minute);
        if own.waiting >= WAITING_MAX || all >= WAITING_IN_ALL_MAX {
            return None;
        }
        own.waiting += 1;
        counts.waiting += 1;
        Some(Waiting { counts: &self.counts, tenant })
    }

    /// Takes the right to send a request, if the tenant may.
    pub(super) fn begin(&self, tenant: TenantId) -> Option<UnderWay<'_>> {
        let (minute, mut counts) = (self.minute(), self.counts.lock());
        let all = counts.all.sum(minute) + counts.under_way;
        let own = counts.tenant(tenant, minute);
        if own.refused.sum(minute) + own.under_way >= self.per_tenant || all >= self.in_all {
            return None;
        }
        own.under_way += 1;
        counts.under_way += 1;
        Some(UnderWay { counts: &self.counts, tenant })
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

/// A place among those who wait.
pub(super) struct Waiting<'a> {
    counts: &'a Mutex<Counts>,
    tenant: TenantId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        counts.waiting = counts.waiting.saturating_sub(1);
        if let Some(tenant) = counts.tenants.get_mut(&self.tenant) {
            tenant.waiting = tenant.waiting.saturating_sub(1);
        }
    }
}

/// A request that is on its way.
pub(super) struct UnderWay<'a> {
    counts: &'a Mutex<Counts>,
    tenant: TenantId,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        counts.under_way = counts.under_way.saturating_sub(1);
        if let Some(tenant) = counts.tenants.get_mut(&self.tenant) {
            tenant.under_way = tenant.under_way.saturating_sub(1);
        }
    }
}

impl Counts {
    fn tenant(&mut self, tenant: TenantId, minute: u64) -> &mut Tenant {
        if self.tenants.len() >= TENANTS_SWEPT_AT {
            self.tenants.retain(|_, tenant| {
                let looks = tenant.lookups_since.is_some_and(|since| since.elapsed() < LOOKUP_PERIOD);
                looks || tenant.waiting > 0 || tenant.refused.sum(minute) > 0
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
        let shares = TenantShares::new(3, 5);
        for _ in 0..3 {
            assert!(shares.begin(ONE).is_some());
            shares.count(ONE);
        }
        assert!(shares.begin(ONE).is_none());
        assert!(shares.begin(TWO).is_some());
        shares.count(TWO);
        shares.count(TWO);
        assert!(shares.begin(TWO).is_none(), "five in all");
        assert!(shares.begin(TenantId::guild(3)).is_none());
    }

    #[test]
    fn what_is_on_its_way_counts() {
        let shares = TenantShares::new(2, 3);
        let (one, other) = (shares.begin(ONE), shares.begin(ONE));
        assert!(one.is_some() && other.is_some() && shares.begin(ONE).is_none());
        let third = shares.begin(TWO);
        assert!(third.is_some() && shares.begin(TWO).is_none(), "three in all");
        drop(one);
        assert!(shares.begin(ONE).is_some(), "it was not refused");
        shares.count(ONE);
        assert!(shares.begin(ONE).is_none());
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
    fn few_of_a_tenant_wait() {
        let shares = TenantShares::new(1, 1);
        let waiting: Vec<_> = (0..100).filter_map(|_| shares.wait(ONE)).collect();
        assert_eq!(waiting.len(), WAITING_MAX as usize);
        assert!(shares.wait(TWO).is_some());
        drop(waiting);
        assert!(shares.wait(ONE).is_some());
    }

    #[test]
    fn look_ups_are_few() {
        let shares = TenantShares::new(1, 1);
        assert_eq!((0..100).filter(|_| shares.take_lookup(ONE)).count(), LOOKUPS_MAX as usize);
        assert!(shares.take_lookup(TWO));
    }
}
