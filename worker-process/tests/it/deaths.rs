//! Processes that die, hang or are stopped, and what that costs.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use worker_core::contract::Order;
use worker_core::{Value, WorkerErrorKind, WorkerLike};
use worker_pool::{QueueSizes, RestartPolicy};
use worker_process::{Quarantine, QuarantinePolicy, Timeouts};

use crate::{OTHER, TENANT, answer, config, echo, event, exists, gone, hold, pid, signal, start, until, value};

#[tokio::test]
async fn a_kill_fails_what_was_in_flight_and_the_next_events_are_served() {
    let worker = start(&config(1)).await;
    let first = pid(&worker).await;
    let held = worker.dispatch(TENANT, hold());
    let held_by_nobody = event("Test", "{\"do\":\"hold\"}");
    worker.dispatch_nowait(TENANT, held_by_nobody);
    value(worker.dispatch(TENANT, echo("both are there"))).await;
    signal(first, Signal::KILL);
    let error = gone(held).await;
    assert!(error.kind().is_retryable());
    assert!(error.to_string().contains("signal: 9"), "{error}");
    assert_ne!(pid(&worker).await, first);
    let stats = answer(worker.stats()).await.unwrap();
    assert_eq!((stats.restarts, stats.events_lost), (1, 1), "what nobody waited for is reported all the same");
    assert!(!exists(first));
}

#[tokio::test]
async fn what_waits_while_the_process_restarts_is_served_then() {
    let worker = start(&config(1)).await;
    let first = pid(&worker).await;
    let mut pids = worker.watch_pid();
    signal(first, Signal::KILL);
    pids.wait_for(Option::is_none).await.unwrap();
    let replies: Vec<_> = (0..100).map(|n| (n, worker.dispatch(TENANT, echo(&n.to_string())))).collect();
    for (n, reply) in replies {
        assert_eq!(value(reply).await, Value::Text(n.to_string()));
    }
}

#[tokio::test]
async fn the_queue_of_a_process_that_is_gone_has_a_bound() {
    let restarts = RestartPolicy {
        backoff_min: Duration::from_secs(60),
        backoff_max: Duration::from_secs(60),
        ..RestartPolicy::default()
    };
    let queues = QueueSizes { normal: 10, ..QueueSizes::default() };
    let worker = start(&config(1).with_restarts(restarts).with_queues(queues)).await;
    let mut pids = worker.watch_pid();
    signal(pid(&worker).await, Signal::KILL);
    pids.wait_for(Option::is_none).await.unwrap();
    let waiting: Vec<_> = (0..10).map(|_| worker.dispatch(TENANT, echo("waits"))).collect();
    let refused = answer(worker.dispatch(TENANT, echo("no room"))).await.unwrap_err();
    assert_eq!(refused.kind(), WorkerErrorKind::Overloaded);
    worker.dispatch_nowait(TENANT, echo("dropped"));
    let stats = answer(worker.stats()).await.unwrap();
    assert_eq!((stats.events_queued, stats.events_refused, stats.events_dropped), (10, 1, 1));
    answer(worker.kill()).await.unwrap();
    for reply in waiting {
        gone(reply).await;
    }
}

#[tokio::test]
async fn native_crashes_are_contained_and_reported() {
    let worker = start(&config(1)).await;
    for (crash, exit) in [("ABORT", "signal: 6"), ("STACK_OVERFLOW", "signal: 6"), ("EXIT", "exit status: 7")] {
        let error = gone(worker.dispatch(TENANT, event(crash, "{}"))).await.to_string();
        assert!(error.contains(exit), "{crash}: {error}");
        let words = match crash {
            "ABORT" => "about to abort",
            "STACK_OVERFLOW" => "has overflowed its stack",
            _ => "",
        };
        assert!(error.contains(words), "{crash}: {error}");
        assert_eq!(value(worker.dispatch(OTHER, echo("well"))).await, Value::Text("well".into()));
    }
    assert_eq!(answer(worker.stats()).await.unwrap().restarts, 3);
}

#[tokio::test]
async fn a_stuck_engine_is_found_and_its_process_replaced() {
    let timeouts = Timeouts { heartbeat: Duration::from_millis(500), ..Timeouts::default() };
    let worker = start(&config(1).with_timeouts(timeouts)).await;
    let first = pid(&worker).await;
    let error = gone(worker.dispatch(TENANT, event("STICK", "{}"))).await.to_string();
    assert!(error.contains("hung"), "{error}");
    assert_ne!(pid(&worker).await, first);
    assert!(!exists(first));
}

#[tokio::test]
async fn a_stopped_process_is_found_and_replaced_and_nobody_is_to_blame() {
    let quarantine = Quarantine::new(QuarantinePolicy { deaths_max: 1, ..QuarantinePolicy::default() }, |_| {});
    let worker = start(&config(1).with_quarantine(quarantine.clone())).await;
    let first = pid(&worker).await;
    let held = worker.dispatch(TENANT, hold());
    value(worker.dispatch(TENANT, echo("the held one has started"))).await;
    let began = Instant::now();
    signal(first, Signal::STOP);
    let error = gone(held).await.to_string();
    assert!(error.contains("stopped"), "{error}");
    value(worker.dispatch(TENANT, echo("again"))).await;
    eprintln!("stopped, found and replaced within {:?}", began.elapsed());
    assert!(!exists(first));
    assert!(quarantine.all().is_empty());
}

#[tokio::test]
async fn an_event_that_had_not_started_is_tried_again_for_who_asked() {
    let worker = start(&config(1)).await;
    let first = pid(&worker).await;
    // A process that is stopped takes nothing in.
    signal(first, Signal::STOP);
    let plain = worker.dispatch(TENANT, echo("plain"));
    let with_retry = worker.dispatch_with_retry(TENANT, echo("with retry"));
    worker.dispatch_nowait(TENANT, echo("nobody waits"));
    // Until all are on their way.
    until("all are sent", || worker.events_waiting() == 0).await;
    signal(first, Signal::KILL);
    gone(plain).await;
    assert_eq!(value(with_retry).await, Value::Text("with retry".into()));
    assert_eq!(answer(worker.stats()).await.unwrap().events_lost, 0);
}

#[tokio::test]
async fn an_event_that_had_started_is_not_tried_again() {
    let worker = start(&config(1)).await;
    gone(worker.dispatch_with_retry(TENANT, event("ABORT", "{}"))).await;
    assert_eq!(answer(worker.stats()).await.unwrap().restarts, 1);
}

#[tokio::test]
async fn a_worker_that_dies_too_often_gives_up_and_says_why() {
    let restarts = RestartPolicy { restarts_max: 2, ..RestartPolicy::default() };
    let worker = start(&config(1).with_restarts(restarts)).await;
    for _ in 0..3 {
        signal(pid(&worker).await, Signal::KILL);
        let mut pids = worker.watch_pid();
        pids.wait_for(Option::is_none).await.unwrap();
    }
    let error = gone(worker.dispatch(TENANT, echo("too late"))).await;
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(error.to_string().contains("gave up after 2 restarts in 60s"), "{error}");
    assert!(cause.contains("signal: 9"), "{cause}");
    assert!(answer(worker.drain()).await.is_err(), "it did not end well");
    answer(worker.kill()).await.unwrap();
}

#[tokio::test]
async fn a_program_that_is_no_worker_is_an_error_at_once() {
    use worker_core::{Routing, WorkerFilter, WorkerId};
    use worker_process::{Program, WorkerProcessConfig, WorkerProcessHandle};
    let program = |path: &str| Program { path: path.into(), args: Vec::new(), env: Vec::new() };
    for path in ["/bin/true", "/bin/cat", "/nonexistent"] {
        let config = WorkerProcessConfig::new(program(path), &1).unwrap();
        let started =
            WorkerProcessHandle::start(WorkerId::new(1), WorkerFilter::all(), Routing::default(), &config).await;
        assert!(started.is_err(), "{path}");
    }
    let never_ready = config(0);
    let error = WorkerProcessHandle::start(WorkerId::new(1), WorkerFilter::all(), Routing::default(), &never_ready);
    let error = error.await.unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("exit status: 9"), "{error:?}");
}

#[tokio::test]
async fn many_kills_leave_no_process_behind() {
    let worker = start(&config(1)).await;
    let mut pids = Vec::new();
    for _ in 0..20 {
        let pid = pid(&worker).await;
        pids.push(pid);
        let mut watch = worker.watch_pid();
        signal(pid, Signal::KILL);
        watch.wait_for(Option::is_none).await.unwrap();
    }
    answer(worker.kill()).await.unwrap();
    let last = worker.pid();
    assert_eq!(last, None);
    until("all are gone", || pids.iter().all(|pid| !exists(*pid))).await;
}

#[tokio::test]
async fn an_engine_that_gives_up_ends_its_process_and_another_takes_over() {
    let worker = start(&config(1)).await;
    let first = pid(&worker).await;
    // More than the engine's thread puts up with.
    for _ in 0..6 {
        answer(worker.dispatch(TENANT, Order::Panic.event())).await.unwrap_err();
    }
    until("another process", || worker.pid().is_some_and(|pid| i64::from(pid) != first)).await;
    assert_eq!(value(worker.dispatch(TENANT, echo("well"))).await, Value::Text("well".into()));
    // One that was drained has ended as well, and that is as it should be.
    answer(worker.drain()).await.unwrap();
}

#[tokio::test]
async fn a_master_that_was_away_for_a_while_takes_nobody_for_hung() {
    let timeouts = Timeouts {
        heartbeat_interval: Duration::from_millis(1),
        heartbeat: Duration::from_millis(400),
        ..Timeouts::default()
    };
    let quarantine = Quarantine::new(QuarantinePolicy { deaths_max: 1, ..QuarantinePolicy::default() }, |_| {});
    let worker = start(&config(1).with_timeouts(timeouts).with_quarantine(quarantine)).await;
    let first = pid(&worker).await;
    for _ in 0..3 {
        // As when it is stopped, or the host sleeps: nothing of this runtime runs.
        std::thread::sleep(Duration::from_millis(600));
        for _ in 0..20 {
            assert_eq!(pid(&worker).await, first);
        }
    }
    assert_eq!(answer(worker.stats()).await.unwrap().restarts, 0);
}

#[tokio::test]
async fn a_supervisor_that_panics_leaves_nobody_waiting() {
    let policy = QuarantinePolicy { deaths_max: 1, ..QuarantinePolicy::default() };
    let quarantine = Quarantine::new(policy, |_| panic!("who is told panics"));
    let worker = start(&config(1).with_quarantine(quarantine)).await;
    gone(worker.dispatch(TENANT, event("ABORT", "{}"))).await;
    let error = gone(worker.dispatch(OTHER, echo("is anybody there?"))).await;
    assert!(error.to_string().contains("supervisor"), "{error}");
    assert!(answer(worker.stats()).await.is_err());
    answer(worker.kill()).await.unwrap();
}

#[tokio::test]
async fn all_of_the_flight_log_is_there_before_the_process_writes_into_it() {
    use std::os::unix::fs::MetadataExt;
    let _worker = start(&config(1)).await;
    let files = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let mut logs =
        files.filter(|fd| std::fs::read_link(fd).is_ok_and(|to| to.to_string_lossy().contains("flight-log")));
    let log = std::fs::metadata(logs.next().expect("a file in memory")).unwrap();
    // A store into a hole would end the process if there were no memory for it.
    assert!(log.blocks() * 512 >= log.len() && log.len() >= worker_core::FlightLog::BYTES as u64, "{log:?}");
}
