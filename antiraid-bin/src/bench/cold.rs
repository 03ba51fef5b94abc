//! What the first event of a tenant costs.

use std::time::Instant;

use worker_core::{Event, Limits, WorkerLike};
use worker_vm::floor::{EVENT_JSON, Floor, MluaFloor};

use super::dispatch::BARE;
use super::harness::{Harness, event, handler, tenant, value};
use super::paired::{Rounds, by_turns, each, nanoseconds};
use super::{Bar, BenchError, BenchRow, Effort};
use crate::cli::CommandError;

/// Tenants of a round.
const ROUND_TENANTS: usize = 10;

/// The tenant's rows are loaded and its code is compiled; its VM is made, the template loaded, the event answered. All
/// three keep their VMs, so that all have to find new memory.
pub(super) fn first_event(effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
    let mut mlua = MluaFloor::new(0);
    let plain = beside(effort, || {
        let vm = mlua.add();
        drop(mlua.run(vm, EVENT_JSON.as_bytes()));
    })?;
    drop(mlua);
    let mut floor = Floor::new(0);
    let bare = beside(effort, || {
        let vm = floor.add();
        drop(floor.run(vm, EVENT_JSON.as_bytes()));
    })?;
    let question = "The first event of a cold tenant, VM and all";
    Ok(vec![
        plain.row("cold", question, "plain mlua").with_bar(Bar::Ratio(1.3)),
        bare.row("cold", "  the same, against less", BARE),
    ])
}

fn beside(effort: Effort, mut floor: impl FnMut()) -> Result<Rounds, CommandError> {
    let rounds = effort.choose(60, 12);
    let tenants = 1 + rounds * ROUND_TENANTS;
    let harness = Harness::new(Limits::default())?;
    harness.install(0..tenants, &handler())?;
    let worker = harness.worker();
    let nobodys = Event::discord("PRESENCE_UPDATE", "{}".into());
    harness.block_on(async {
        for number in 0..tenants {
            worker.dispatch(tenant(number), nobodys.clone()).await.map_err(BenchError::Worker)?;
        }
        Ok::<_, CommandError>(())
    })?;
    // So that the code is compiled.
    harness.warm(&worker, 0..1, 1)?;
    let (event, mut next) = (event(), 1..tenants);
    by_turns(
        rounds,
        || Ok(each(ROUND_TENANTS, &mut floor)),
        || {
            harness.block_on(async {
                let begun = Instant::now();
                for number in next.by_ref().take(ROUND_TENANTS) {
                    value(worker.dispatch(tenant(number), event.clone()).await)?;
                }
                Ok(nanoseconds(begun.elapsed()) / ROUND_TENANTS as f64)
            })
        },
    )
}
