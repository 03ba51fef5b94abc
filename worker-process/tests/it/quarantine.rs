//! Tenants that kill their workers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use worker_core::{Value, WorkerErrorKind, WorkerLike};
use worker_pool::RestartPolicy;
use worker_process::{Evidence, Quarantine, QuarantinePolicy, Timeouts};

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

#[tokio::test]
async fn events_of_who_is_paused_do_not_wait_for_the_next_process() {
    let policy = QuarantinePolicy { deaths_max: 1, ..QuarantinePolicy::default() };
    let backoff = Duration::from_millis(300);
    let restarts = RestartPolicy { backoff_min: backoff, backoff_max: backoff, ..RestartPolicy::default() };
    let worker = start(&config(1).with_restarts(restarts).with_quarantine(Quarantine::new(policy, |_| {}))).await;
    let mut pids = worker.watch_pid();
    let fatal = worker.dispatch(TENANT, event("ABORT", "{}"));
    pids.wait_for(Option::is_none).await.unwrap();
    let (waits, other) = (worker.dispatch(TENANT, echo("waits")), worker.dispatch(OTHER, echo("well")));
    gone(fatal).await;
    assert_eq!(answer(waits).await.unwrap_err().kind(), WorkerErrorKind::TenantLimited);
    assert_eq!(value(other).await, Value::Text("well".into()));
}

#[tokio::test]
async fn who_keeps_its_worker_from_starting_is_paused_and_the_worker_starts() {
    // The test worker's ways not to start as long as it owns the tenant.
    let (aborts_at_start, hangs_at_start) = (101, 102);
    for threads in [aborts_at_start, hangs_at_start] {
        let quarantine = Quarantine::default();
        let timeouts = Timeouts { start: Duration::from_secs(2), ..Timeouts::default() };
        let restarts = RestartPolicy { restarts_max: 1, ..RestartPolicy::default() };
        let config = config(threads).with_timeouts(timeouts).with_restarts(restarts);
        let worker = start(&config.with_quarantine(quarantine.clone())).await;
        assert_eq!(value(worker.dispatch(OTHER, echo("well"))).await, Value::Text("well".into()));
        assert_eq!(quarantine.all().len(), 1);
        let Value::Text(told) = value(worker.dispatch(OTHER, event("PAUSED", "{}"))).await else { panic!("no text") };
        let told: Vec<Evidence> = serde_json::from_str(&told).unwrap();
        assert_eq!(told, quarantine.all(), "for the tenant's own log");
        assert_eq!((quarantine.all()[0].tenant, quarantine.all()[0].event.as_str()), (TENANT, "KeyResume"));
    }
}
