//! Which of `n` workers owns a tenant.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use crate::TenantId;

/// A function from tenants to worker numbers. Pools route with it and [`WorkerFilter`](crate::WorkerFilter) filters with
/// it, so that every tenant has exactly one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Routing {
    /// Discord's own formula for shards, `(id >> 22) % n`
    /// (<https://discord.com/developers/docs/events/gateway#sharding>), after dividing by what outer pools took
    /// already: without that division a pool of 4 in a pool of 2 would see even (or odd) numbers only and leave half of
    /// its workers idle.
    Discord {
        /// The product of the sizes of the pools around this one; 1 for the outermost.
        divisor: u64,
    },
    /// The worker whose hash with the tenant is highest. When the pool grows from n to n + 1, only the new worker's
    /// share moves.
    Rendezvous {
        /// Makes the choices of nested pools independent of each other.
        seed: u64,
    },
}

impl Default for Routing {
    fn default() -> Self {
        Self::Discord { divisor: 1 }
    }
}

impl Routing {
    /// The number of the worker that owns the tenant.
    pub fn owner(self, tenant: TenantId, workers: NonZeroUsize) -> usize {
        let id = tenant.snowflake().get();
        match self {
            Self::Discord { divisor } => {
                // A pool is far below 2^32 workers, so the remainder fits.
                ((id >> 22) / divisor.max(1) % workers.get() as u64) as usize
            }
            Self::Rendezvous { seed } => (0..workers.get())
                .max_by_key(|&worker| mix(id ^ mix(seed ^ mix(worker as u64 + 1))))
                .expect("because a NonZeroUsize range is never empty"),
        }
    }

    /// The routing for pools inside a pool of `outer` workers that routes with `self`.
    pub fn nested(self, outer: NonZeroUsize) -> Self {
        match self {
            Self::Discord { divisor } => Self::Discord { divisor: divisor.max(1).saturating_mul(outer.get() as u64) },
            Self::Rendezvous { seed } => Self::Rendezvous { seed: mix(seed.wrapping_add(0x9E37_79B9_7F4A_7C15)) },
        }
    }
}

/// The finaliser of splitmix64: every input bit changes half of the output bits.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn n(n: usize) -> NonZeroUsize {
        NonZeroUsize::new(n).unwrap()
    }

    #[test]
    fn the_default_is_discords_formula() {
        let id = 197038439483310086;
        for workers in 1..20 {
            assert_eq!(Routing::default().owner(TenantId::guild(id), n(workers)) as u64, (id >> 22) % workers as u64);
        }
    }

    #[test]
    fn a_nested_pool_uses_all_its_workers() {
        for routing in [Routing::default(), Routing::Rendezvous { seed: 0 }] {
            let (outer, inner) = (n(4), n(6));
            let mut seen = std::collections::HashSet::new();
            for k in 0..4_000u64 {
                let tenant = TenantId::guild(k << 22);
                seen.insert((routing.owner(tenant, outer), routing.nested(outer).owner(tenant, inner)));
            }
            assert_eq!(seen.len(), 24, "{routing:?}");
        }
    }

    #[test]
    fn a_rendezvous_pool_that_grows_moves_its_share_only() {
        let routing = Routing::Rendezvous { seed: 7 };
        let tenants = 20_000u64;
        let mut moved = 0;
        for k in 0..tenants {
            let tenant = TenantId::guild(k.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
            let (before, after) = (routing.owner(tenant, n(8)), routing.owner(tenant, n(9)));
            if before != after {
                assert_eq!(after, 8, "a tenant moves to the new worker or not at all");
                moved += 1;
            }
        }
        let share = f64::from(moved) / tenants as f64;
        assert!((share - 1.0 / 9.0).abs() < 0.011, "{share}");
    }

    proptest! {
        #[test]
        fn the_owner_is_a_worker_of_the_pool(id in any::<u64>(), workers in 1usize..200, divisor in 0u64..1000, seed: u64) {
            for routing in [Routing::Discord { divisor }, Routing::Rendezvous { seed }] {
                prop_assert!(routing.owner(TenantId::guild(id), n(workers)) < workers);
            }
        }
    }
}
