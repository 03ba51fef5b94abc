//! A worker whose tenants' logs are told line by line, as they are written.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use worker_core::{Call, TenantId, WorkerId, WorkerLike};

use crate::simulator::Simulator;
use crate::worker::Worker;

/// How often logs are looked at.
const INTERVAL: Duration = Duration::from_millis(100);

/// A worker like the one within.
pub struct LogTail(Rc<Worker>);

impl LogTail {
    /// Tells the lines of the simulated guilds' logs. Must be called on a runtime that spawns local tasks, which ends them
    /// with the worker.
    pub fn new(worker: Worker, simulator: Simulator) -> Self {
        let worker = Rc::new(worker);
        let tailed = Rc::downgrade(&worker);
        tokio::task::spawn_local(async move {
            let mut told: HashMap<TenantId, Timestamp> = HashMap::new();
            while let Some(worker) = tailed.upgrade() {
                let tenants = simulator
                    .with_world(|world| world.guilds().map(|guild| TenantId::Guild(guild.id)).collect::<Vec<_>>());
                for tenant in tenants {
                    tell_new_lines(&simulator, &worker, tenant, told.entry(tenant).or_default());
                }
                drop(worker);
                tokio::time::sleep(INTERVAL).await;
            }
        });
        Self(worker)
    }
}

fn tell_new_lines(simulator: &Simulator, worker: &Worker, tenant: TenantId, told: &mut Timestamp) {
    let lines = worker.log_lines(tenant);
    let Some(last) = lines.last().map(|line| line.at).filter(|last| last > told) else { return };
    for line in lines.iter().filter(|line| line.at > *told) {
        simulator.notice("log", || {
            json!({
                "tenant": tenant.snowflake(), "at": line.at.as_millisecond(), "kind": line.kind,
                "template": line.template, "event": line.event.as_ref().map(|event| event.as_str()), "text": &*line.text,
            })
        });
    }
    *told = last;
}

impl WorkerLike for LogTail {
    fn id(&self) -> WorkerId {
        self.0.id()
    }

    fn submit(&self, call: Call) {
        self.0.submit(call);
    }
}
