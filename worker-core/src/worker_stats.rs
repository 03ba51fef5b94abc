//! What a worker has done, as numbers that add up.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::{LatenessHistogram, ShardStats, TenantId};

/// Counters since the worker started, and gauges of now. Those of a pool are the sums of its workers'.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerStats {
    /// Workers that these numbers are of.
    pub workers: u64,
    /// Events taken in.
    pub events: u64,
    /// Events that at least one template subscribed to.
    pub events_dispatched: u64,
    /// Runs of a template for an event.
    pub templates_run: u64,
    /// Of those, runs that ended with an error.
    pub templates_failed: u64,
    /// Threads beside the main ones of runs that ended with an error: spawned, or gone on in the background.
    pub threads_failed: u64,
    /// Events that nobody waited for and that were dropped because a queue was full.
    pub events_dropped: u64,
    /// Events refused with `Overloaded` to a caller that waited.
    pub events_refused: u64,
    /// Events that nobody waited for and that were running, or about to, when their worker ended.
    pub events_lost: u64,
    /// Events waiting for their turn now.
    pub events_queued: u64,
    /// VMs made.
    pub vms_made: u64,
    /// VMs dropped because they were idle for long or memory was needed.
    pub vms_evicted: u64,
    /// VMs replaced because they broke.
    pub vms_broken: u64,
    /// VMs alive now.
    pub vms_live: u64,
    /// Luau memory of the live VMs, in bytes.
    pub vm_memory_bytes: u64,
    /// Times a worker was started again after a panic, or as a new process.
    pub restarts: u64,
    /// Records with an expiry that wait in memory now: due soon, or due and waiting for their turn.
    pub expiries_pending: u64,
    /// Records whose `KeyExpiry` is under way now.
    pub expiries_in_hand: u64,
    /// Records that were removed after their handlers had succeeded.
    pub expiries_handled: u64,
    /// Records that were removed when they expired though no template had subscribed.
    pub expiries_unsubscribed: u64,
    /// Attempts at `KeyExpiry` that failed and are made again.
    pub expiry_retries: u64,
    /// Records that became dead letters.
    pub expiries_dead: u64,
    /// From the expiry of a record to the first attempt.
    pub expiry_lateness: LatenessHistogram,
    /// The tenants that have used the most CPU time, at most [`TENANTS_MAX`](Self::TENANTS_MAX), the greatest first.
    pub tenants: Vec<TenantUse>,
    /// The shards of Discord's gateway whose events come to this process.
    #[serde(default)]
    pub shards: Vec<ShardStats>,
}

/// What one tenant uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantUse {
    /// Who.
    pub tenant: TenantId,
    /// CPU time of its templates since its worker started, in microseconds.
    pub cpu_micros: u64,
    /// Luau memory of its VM now, in bytes.
    pub memory_bytes: u64,
}

impl WorkerStats {
    /// How many tenants are told of.
    pub const TENANTS_MAX: usize = 20;

    /// Keeps the tenants that used the most.
    pub fn sort_tenants(&mut self) {
        self.tenants.sort_by_key(|used| (std::cmp::Reverse((used.cpu_micros, used.memory_bytes)), used.tenant));
        self.tenants.truncate(Self::TENANTS_MAX);
    }
}

impl AddAssign<&Self> for WorkerStats {
    fn add_assign(&mut self, other: &Self) {
        // Destructured so that a new field cannot be forgotten here.
        let Self {
            workers,
            events,
            events_dispatched,
            templates_run,
            templates_failed,
            threads_failed,
            events_dropped,
            events_refused,
            events_lost,
            events_queued,
            vms_made,
            vms_evicted,
            vms_broken,
            vms_live,
            vm_memory_bytes,
            restarts,
            tenants,
            expiries_pending,
            expiries_in_hand,
            expiries_handled,
            expiries_unsubscribed,
            expiry_retries,
            expiries_dead,
            expiry_lateness,
            shards,
        } = other;
        add(&mut self.workers, *workers);
        add(&mut self.events, *events);
        add(&mut self.events_dispatched, *events_dispatched);
        add(&mut self.templates_run, *templates_run);
        add(&mut self.templates_failed, *templates_failed);
        add(&mut self.threads_failed, *threads_failed);
        add(&mut self.events_dropped, *events_dropped);
        add(&mut self.events_refused, *events_refused);
        add(&mut self.events_lost, *events_lost);
        add(&mut self.events_queued, *events_queued);
        add(&mut self.vms_made, *vms_made);
        add(&mut self.vms_evicted, *vms_evicted);
        add(&mut self.vms_broken, *vms_broken);
        add(&mut self.vms_live, *vms_live);
        add(&mut self.vm_memory_bytes, *vm_memory_bytes);
        add(&mut self.restarts, *restarts);
        self.tenants.extend_from_slice(tenants);
        self.sort_tenants();
        add(&mut self.expiries_pending, *expiries_pending);
        add(&mut self.expiries_in_hand, *expiries_in_hand);
        add(&mut self.expiries_handled, *expiries_handled);
        add(&mut self.expiries_unsubscribed, *expiries_unsubscribed);
        add(&mut self.expiry_retries, *expiry_retries);
        add(&mut self.expiries_dead, *expiries_dead);
        self.expiry_lateness += expiry_lateness;
        self.shards.extend_from_slice(shards);
        self.shards.sort_by_key(|shard| shard.shard);
    }
}

/// Figures of another process may be anything.
fn add(sum: &mut u64, figure: u64) {
    *sum = sum.saturating_add(figure);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_that_cannot_be_are_added_all_the_same() {
        let mut sum = WorkerStats { events: 1, restarts: 1, ..WorkerStats::default() };
        sum += &WorkerStats { events: u64::MAX, restarts: u64::MAX, ..WorkerStats::default() };
        assert_eq!((sum.events, sum.restarts), (u64::MAX, u64::MAX));
    }
}
