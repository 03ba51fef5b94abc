//! Workers whose results are told to who watches, though nobody else wants them.

use std::time::Instant;

use serde_json::{Value, json};
use tokio::runtime::Handle;
use worker_core::{Call, DispatchResult, Event, Reply, ReplyTo, TenantId, WorkerError, WorkerId, WorkerLike};

use crate::cli::chain;
use crate::simulator::{Simulator, unix_ms};

/// Values longer than this are cut when they are shown.
const SHOWN_BYTES_MAX: usize = 2_000;

/// Workers like those within, and each result is a notice of the simulator's.
#[derive(Debug)]
pub struct WatchedWorkers<W> {
    inner: W,
    simulator: Simulator,
    runtime: Handle,
}

impl<W: WorkerLike> WatchedWorkers<W> {
    /// Tells what these workers do. Must be made on the runtime that is to wait for their answers.
    pub fn new(inner: W, simulator: Simulator) -> Self {
        Self { inner, simulator, runtime: Handle::current() }
    }

    /// The workers within.
    pub fn inner(&self) -> &W {
        &self.inner
    }
}

impl<W: WorkerLike> WorkerLike for WatchedWorkers<W> {
    fn id(&self) -> WorkerId {
        self.inner.id()
    }

    fn submit(&self, call: Call) {
        let Call::Dispatch { tenant, event, reply_to } = call else { return self.inner.submit(call) };
        let (watched, reply) = Reply::pending();
        let watched = if reply_to.wants_retry() { watched.with_retry() } else { watched };
        let (begun, name) = (Instant::now(), event.clone());
        self.inner.submit(Call::Dispatch { tenant, event, reply_to: watched });
        let simulator = self.simulator.clone();
        self.runtime.spawn(async move {
            let result = reply.await;
            tell(&simulator, tenant, &name, begun, &result);
            answer(reply_to, result);
        });
    }
}

fn answer(reply_to: ReplyTo<DispatchResult>, result: Result<DispatchResult, WorkerError>) {
    // Who only waits for the end is not told what came of it.
    let result = if reply_to.is_wanted() { result } else { result.map(|_| DispatchResult::default()) };
    reply_to.send(result);
}

fn tell(
    simulator: &Simulator,
    tenant: TenantId,
    event: &Event,
    begun: Instant,
    result: &Result<DispatchResult, WorkerError>,
) {
    let about = |more: Value| {
        let mut about = json!({
            "tenant": tenant.snowflake(), "event": event.name().as_str(), "at": unix_ms(),
            "micros": u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
        });
        if let (Value::Object(about), Value::Object(more)) = (&mut about, more) {
            about.extend(more);
        }
        about
    };
    match result {
        Ok(result) => {
            for result in &result.templates {
                simulator.notice("result", || {
                    let outcome = match &result.outcome {
                        Ok(value) => match value.to_json_untyped() {
                            Ok(json) => json!({"value": cut(json)}),
                            Err(error) => json!({"error": error.to_string()}),
                        },
                        Err(error) => json!({
                            "error": cut(error.to_string()), "traceback": error.traceback.as_deref().map(|text| cut(text.into())),
                        }),
                    };
                    let mut about = about(outcome);
                    about["template"] = json!(result.template.as_str());
                    about
                });
            }
        }
        Err(error) => simulator.notice("refused", || about(json!({"error": chain(error)}))),
    }
}

fn cut(mut text: String) -> String {
    if text.len() > SHOWN_BYTES_MAX {
        let end = (0..=SHOWN_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
