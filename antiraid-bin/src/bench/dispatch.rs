//! What an event costs: in one thread, through a thread, and if nobody wants it.

use std::collections::VecDeque;
use std::time::Instant;

use worker_core::{Event, Limits, TenantId, WorkerLike};
use worker_vm::floor::{EVENT_JSON, Floor};

use super::harness::{Harness, Order, event, handler, tenant, tireless, value};
use super::paired::{by_turns, each, middle_half, nanoseconds, quantile};
use super::{Bar, BenchRow, Effort, Unit};
use crate::cli::CommandError;

/// Events of a round: some 10 to 30 ms.
const ROUND_EVENTS: usize = 1_000;

/// Events that each tenant has had before it counts, so that its heap has the size that it keeps.
const WARM_EVENTS: usize = 5;

const IN_FLIGHT: usize = 64;

pub(super) const BARE: &str = "bare Luau";

/// One event after the other.
pub(super) fn in_this_thread(
    name: &'static str,
    tenants: usize,
    effort: Effort,
) -> Result<Vec<BenchRow>, CommandError> {
    let harness = Harness::new(tireless())?;
    harness.install(0..tenants, &handler())?;
    let worker = harness.worker();
    harness.warm(&worker, 0..tenants, WARM_EVENTS)?;
    let (event, mut order) = (event(), Order::new());
    let rounds = by_turns(effort.choose(100, 8), floor_rounds(tenants), || {
        harness.block_on(async {
            let begun = Instant::now();
            for _ in 0..ROUND_EVENTS {
                value(worker.dispatch(tenant(order.below(tenants)), event.clone()).await)?;
            }
            Ok(nanoseconds(begun.elapsed()) / ROUND_EVENTS as f64)
        })
    })?;
    let question = format!("An event in one thread, {}", of(tenants));
    Ok(vec![rounds.row(name, question, BARE).with_bar(Bar::Ratio(1.35))])
}

/// Many in flight: each answer is waited for, the oldest first, and followed by a new event. To be woken for each is a part
/// of that; what it costs shows beside a caller who waits for every 32nd, and finds the others there.
pub(super) fn through_a_thread(
    name: &'static str,
    tenants: usize,
    effort: Effort,
) -> Result<Vec<BenchRow>, CommandError> {
    let harness = Harness::new(tireless())?;
    harness.install(0..tenants, &handler())?;
    let worker = harness.thread()?;
    harness.warm(&worker, 0..tenants, WARM_EVENTS)?;
    let (mut floor, mut order) = (floor_rounds(tenants), Order::new());
    let mut rounds = |collected| {
        by_turns(effort.choose(100, 8), &mut floor, || {
            let begun = Instant::now();
            harness.block_on(keep_in_flight(&worker, || tenant(order.below(tenants)), collected))?;
            Ok(nanoseconds(begun.elapsed()) / ROUND_EVENTS as f64)
        })
    };
    let question = format!("An event through a thread, {IN_FLIGHT} in flight, {}", of(tenants));
    Ok(vec![
        rounds(1)?.row(name, question, BARE).with_bar(Bar::Ratio(1.5)),
        rounds(IN_FLIGHT / 2)?.row(name, "  the same, the caller woken once for 32 answers", BARE),
    ])
}

/// Sends the events of a round. When all that may be in flight are, so many answers are collected.
async fn keep_in_flight(
    worker: &impl WorkerLike,
    mut tenant: impl FnMut() -> TenantId,
    collected: usize,
) -> Result<(), CommandError> {
    let event = event();
    let mut pending = VecDeque::with_capacity(IN_FLIGHT);
    for _ in 0..ROUND_EVENTS {
        if pending.len() == IN_FLIGHT {
            // The last one first: it is waited for, the others are there by then.
            for reply in pending.drain(..collected).rev() {
                value(reply.await)?;
            }
        }
        pending.push_back(worker.dispatch(tenant(), event.clone()));
    }
    for reply in pending.into_iter().rev() {
        value(reply.await)?;
    }
    Ok(())
}

/// Nothing to do, and so often that it must cost nothing.
pub(super) fn unsubscribed(effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
    const TENANTS: usize = 1_000;
    let harness = Harness::new(Limits::default())?;
    harness.install(0..TENANTS, &handler())?;
    let worker = harness.worker();
    let event = Event::discord("PRESENCE_UPDATE", EVENT_JSON.as_bytes().into());
    harness.block_on(async {
        for number in 0..TENANTS {
            worker.dispatch(tenant(number), event.clone()).await.map_err(super::BenchError::Worker)?;
        }
        Ok::<_, CommandError>(())
    })?;
    let mut order = Order::new();
    let mut round = || each(10_000, || worker.dispatch_nowait(tenant(order.below(TENANTS)), event.clone()));
    let rounds: Vec<_> = (0..effort.choose(200, 20)).map(|_| harness.block_on(async { round() })).collect();
    let question = format!("An event that nobody subscribed to, {}", of(TENANTS));
    Ok(vec![BenchRow {
        spread: Some(middle_half(&rounds)),
        ..BenchRow::alone("unsubscribed", question, Unit::Nanoseconds, quantile(&rounds, 0.5))
            .with_bar(Bar::Measured(500.0))
    }])
}

/// Rounds of the floor over so many VMs, in the same order of tenants.
pub(super) fn floor_rounds(tenants: usize) -> impl FnMut() -> Result<f64, CommandError> {
    let (floor, mut order) = (Floor::new(tenants), Order::new());
    for _ in 0..WARM_EVENTS {
        (0..tenants).for_each(|vm| drop(floor.run(vm, EVENT_JSON.as_bytes())));
    }
    move || Ok(each(ROUND_EVENTS, || drop(floor.run(order.below(tenants), EVENT_JSON.as_bytes()))))
}

fn of(tenants: usize) -> String {
    match tenants {
        1 => "1 tenant".to_owned(),
        _ => format!("{} tenants in random order", indicatif::HumanCount(tenants as u64)),
    }
}
