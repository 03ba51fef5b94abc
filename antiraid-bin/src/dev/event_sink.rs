//! The events of a simulated Discord, straight into workers.

use bytes::Bytes;
use worker_core::WorkerLike;

use crate::gateway_frame::{GatewaySession, Sifted};
use crate::simulator::Simulator;

/// Hands every event of the simulator's gateway to the workers, as a client of the gateway would.
pub async fn pour(simulator: &Simulator, workers: &impl WorkerLike) {
    let mut frames = simulator.listen();
    let mut session = GatewaySession::default();
    loop {
        let frame = Bytes::from(frames.next().await);
        match session.sift(&frame) {
            Ok(Sifted::Deliver { tenant, event }) => workers.dispatch_nowait(tenant, event),
            Ok(Sifted::Skip(_)) => {}
            Err(error) => tracing::error!("the simulator sent what is no frame: {error}"),
        }
    }
}
