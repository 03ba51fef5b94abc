//! What a frame of Discord's gateway costs between the socket and the queue of its worker.

use std::sync::Arc;
use std::time::Instant;

use worker_core::{Limits, Snowflake, WorkerLike};
use worker_vm::floor::EVENT_JSON;

use super::harness::{Harness, event, tenant};
use super::paired::{middle_half, quantile};
use super::{Bar, BenchError, BenchRow, Effort, Unit};
use crate::cli::CommandError;
use crate::gateway::FrameIntake;

/// Fewer than the queue has room for.
const ROUND_FRAMES: u64 = 2_000;

/// From the text that the connection gives to the return of the worker's handle; the worker's thread has its own core.
pub(super) fn frame(effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
    let harness = Harness::new(Limits::default())?;
    let worker = Arc::new(harness.thread()?);
    let mut intake = FrameIntake::detached(Snowflake::new(1), Arc::clone(&worker) as _);
    let mut sequence = 0;
    let mut rounds = Vec::new();
    for _ in 0..effort.choose(200, 20) {
        let frames: Vec<_> = (0..ROUND_FRAMES)
            .map(|_| {
                sequence += 1;
                format!(r#"{{"t":"MESSAGE_CREATE","s":{sequence},"op":0,"d":{EVENT_JSON}}}"#)
            })
            .collect();
        let spent = harness.block_on(async {
            let begun = Instant::now();
            for frame in frames {
                intake.frame(frame).await;
            }
            let spent = begun.elapsed();
            // Comes after them in the same queue: the next round finds room.
            worker.dispatch(tenant(0), event()).await.map_err(BenchError::Worker)?;
            Ok::<_, CommandError>(spent)
        })?;
        rounds.push(spent.as_nanos() as f64 / ROUND_FRAMES as f64);
    }
    let taken = harness.block_on(async { worker.stats().await.map_err(BenchError::Worker) })?.events;
    let sent = sequence + rounds.len() as u64;
    if taken != sent {
        let got = format!("{taken} of {sent} events");
        return Err(BenchError::Unexpected { expected: "every frame at its worker", got }.into());
    }
    let question = format!("A gateway frame of {} bytes, from its text to its worker's queue", EVENT_JSON.len());
    Ok(vec![BenchRow {
        spread: Some(middle_half(&rounds)),
        ..BenchRow::alone("gateway-frame", question, Unit::Nanoseconds, quantile(&rounds, 0.5))
            .with_bar(Bar::Measured(3_000.0))
    }])
}
