//! Which tenants a worker owns.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::{Routing, TenantId};

/// The tenants of one worker: those that every pool around it would route to it. The default owns all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerFilter {
    steps: SmallVec<[Step; 2]>,
    /// Tenants that nobody serves for now.
    without: BTreeSet<TenantId>,
    /// Whether it owns nobody at all.
    #[serde(default)]
    is_empty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Step {
    routing: Routing,
    index: usize,
    workers: NonZeroUsize,
}

impl WorkerFilter {
    /// Owns every tenant: a worker that stands alone.
    pub fn all() -> Self {
        Self::default()
    }

    /// Owns no tenant: a worker that is to be told later.
    pub fn nobody() -> Self {
        Self { is_empty: true, ..Self::default() }
    }

    /// Of the tenants of this filter, those that a pool of `workers` routes to its worker `index`.
    pub fn member(&self, routing: Routing, index: usize, workers: NonZeroUsize) -> Self {
        assert!(index < workers.get(), "worker {index} is not in a pool of {workers}");
        let mut steps = self.steps.clone();
        steps.push(Step { routing, index, workers });
        Self { steps, ..self.clone() }
    }

    /// The same without these tenants, which are kept apart (quarantined): nobody serves them for now.
    pub fn without(mut self, tenants: impl IntoIterator<Item = TenantId>) -> Self {
        self.without.extend(tenants);
        self
    }

    /// Whether the worker would own the tenant if that were not kept apart.
    pub fn keeps_apart(&self, tenant: TenantId) -> bool {
        self.without.contains(&tenant) && Self { without: BTreeSet::new(), ..self.clone() }.owns(tenant)
    }

    /// Whether the worker owns the tenant.
    pub fn owns(&self, tenant: TenantId) -> bool {
        !self.is_empty
            && !self.without.contains(&tenant)
            && self.steps.iter().all(|step| step.routing.owner(tenant, step.workers) == step.index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_tenant_has_exactly_one_owner(id in 1u64.., outer in 1usize..9, inner in 1usize..9, rendezvous: bool) {
            let routing = if rendezvous { Routing::Rendezvous { seed: 1 } } else { Routing::default() };
            let (outer, inner) = (NonZeroUsize::new(outer).unwrap(), NonZeroUsize::new(inner).unwrap());
            let owners = (0..outer.get())
                .flat_map(|o| (0..inner.get()).map(move |i| (o, i)))
                .filter(|&(o, i)| {
                    WorkerFilter::all()
                        .member(routing, o, outer)
                        .member(routing.nested(outer), i, inner)
                        .owns(TenantId::guild(id))
                })
                .count();
            prop_assert_eq!(owners, 1);
        }
    }

    #[test]
    fn a_tenant_that_is_kept_apart_is_nobodys() {
        let (kept, other) = (TenantId::guild(1), TenantId::user(1));
        let filter = WorkerFilter::all().without([kept]).member(Routing::default(), 0, NonZeroUsize::MIN);
        assert!(!filter.owns(kept) && filter.owns(other));
        assert!(filter.keeps_apart(kept) && !filter.keeps_apart(other));
    }

    #[test]
    fn nobody_is_owned_by_who_is_to_be_told_later() {
        let filter = WorkerFilter::nobody().member(Routing::default(), 0, NonZeroUsize::MIN);
        assert!(!filter.owns(TenantId::guild(1)) && !filter.owns(TenantId::user(1)));
    }

    #[test]
    #[should_panic(expected = "worker 3 is not in a pool of 3")]
    fn a_worker_outside_its_pool_is_a_bug_of_the_caller() {
        WorkerFilter::all().member(Routing::default(), 3, NonZeroUsize::new(3).unwrap());
    }
}
