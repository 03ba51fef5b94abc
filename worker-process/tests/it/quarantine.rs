//! Tenants that kill their workers.

use std::sync::{Arc, Mutex};

use worker_core::{Value, WorkerErrorKind, WorkerLike};
use worker_pool::RestartPolicy;
use worker_process::{Evidence, Quarantine, QuarantinePolicy};

use crate::{OTHER, TENANT, answer, config, echo, event, gone, start, value};

#[tokio::test]
async fn who_kills_its_worker_three_times_is_paused_alone_with_the_evidence() {
    let told: Arc<Mutex<Vec<Evidence>>> = Arc::default();
    let hear = Arc::clone(&told);
    let quarantine =
        Quarantine::new(QuarantinePolicy::default(), move |evidence| hear.lock().unwrap().push(evidence.clone()));
    // No budget at all for deaths that nobody is to blame for: those of a tenant do not spend it.
    let restarts = RestartPolicy { restarts_max: 1, ..RestartPolicy::default() };
    let worker = start(&config(1).with_restarts(restarts).with_quarantine(quarantine.clone())).await;
    for _ in 0..3 {
        gone(worker.dispatch(TENANT, event("ABORT", "{}"))).await;
        assert_eq!(value(worker.dispatch(OTHER, echo("well"))).await, Value::Text("well".into()));
    }
    let refused = answer(worker.dispatch(TENANT, echo("am I there?"))).await.unwrap_err();
    assert_eq!(refused.kind(), WorkerErrorKind::TenantLimited);
    assert!(refused.to_string().contains("quarantined"), "{refused}");
    assert_eq!(value(worker.dispatch(OTHER, echo("well"))).await, Value::Text("well".into()));

    let evidence = told.lock().unwrap().clone();
    assert_eq!(evidence.len(), 1);
    let Evidence { tenant, template, event, exit, log_lines, deaths } = &evidence[0];
    assert_eq!((*tenant, template.as_str(), event.as_str(), *deaths), (TENANT, "test", "ABORT", 3));
    assert!(exit.contains("signal: 6"), "{exit}");
    assert!(log_lines.iter().any(|line| line.contains("about to abort")), "{log_lines:?}");

    assert!(quarantine.release(TENANT));
    assert_eq!(value(worker.dispatch(TENANT, echo("back"))).await, Value::Text("back".into()));
}
