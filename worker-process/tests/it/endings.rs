//! Processes that are told to end, and parents that die.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use rustix::process::Signal;
use worker_core::{Value, WorkerLike};
use worker_pool::{Poolable, WorkerPool, WorkerPoolConfig};
use worker_process::WorkerProcessHandle;

use crate::{OTHER, TENANT, answer, config, echo, event, exists, gone, hold, pid, signal, start, until, value};

#[tokio::test]
async fn a_process_that_is_terminated_finishes_and_hands_back() {
    let worker = start(&config(1)).await;
    let first = pid(&worker).await;
    let held = worker.dispatch(TENANT, hold());
    value(worker.dispatch(TENANT, echo("the held one has started"))).await;
    signal(first, Signal::TERM);
    // These come while it drains, or after: none is lost.
    let replies: Vec<_> = (0..200).map(|n| (n, worker.dispatch(TENANT, echo(&n.to_string())))).collect();
    assert_eq!(value(held).await, Value::Null, "what runs ends well");
    for (n, reply) in replies {
        assert_eq!(value(reply).await, Value::Text(n.to_string()));
    }
    assert_ne!(pid(&worker).await, first);
}

#[tokio::test]
async fn a_replacement_loses_nothing() {
    let worker = start(&config(2)).await;
    let first = pid(&worker).await;
    let held = worker.dispatch(TENANT, hold());
    let before: Vec<_> = (0..100).map(|n| (n, worker.dispatch(OTHER, echo(&n.to_string())))).collect();
    let replaced = worker.replace();
    let after: Vec<_> = (0..100).map(|n| (n, worker.dispatch(OTHER, echo(&n.to_string())))).collect();
    answer(replaced).await.unwrap();
    assert_eq!(value(held).await, Value::Null);
    for (n, reply) in before.into_iter().chain(after) {
        assert_eq!(value(reply).await, Value::Text(n.to_string()));
    }
    assert_ne!(pid(&worker).await, first);
    assert_eq!(answer(worker.stats()).await.unwrap().restarts, 0, "it was no restart after a fault");
}

#[tokio::test]
async fn dropping_the_handle_ends_the_process() {
    let worker = start(&config(1)).await;
    let pid = pid(&worker).await;
    drop(worker);
    until("the process is gone", || !exists(pid)).await;
}

#[tokio::test]
async fn the_secret_is_nowhere_to_be_read() {
    let worker = start(&config(1)).await;
    let pid = pid(&worker).await;
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(arguments.ends_with(b"test_worker\0"), "{:?}", String::from_utf8_lossy(&arguments));
    assert_eq!(std::fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");
}

#[tokio::test]
async fn logs_of_the_process_are_reported_when_it_dies() {
    let worker = start(&config(1)).await;
    value(worker.dispatch(TENANT, event("LOG", "the last words"))).await;
    let error = gone(worker.dispatch(TENANT, event("EXIT", "{}"))).await.to_string();
    assert!(error.contains("the last words"), "{error}");
    assert_eq!(answer(worker.logs()).await.unwrap(), Vec::<String>::new(), "the new process has logged nothing");
}

/// A parent that is killed: a process of this very test, which starts workers, says which, and waits.
#[tokio::test]
async fn a_parent_that_is_killed_takes_its_workers_with_it() {
    if std::env::var_os("ANTIRAID_TEST_PARENT").is_some() {
        return;
    }
    #[expect(clippy::disallowed_methods, reason = "it is no worker")]
    let mut parent = std::process::Command::new(std::env::current_exe().unwrap());
    let mut parent = parent
        .args(["endings::parent", "--exact", "--nocapture"])
        .env("ANTIRAID_TEST_PARENT", "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(parent.stdout.take().unwrap()).lines().map_while(Result::ok);
    let pids: Vec<i64> =
        lines.filter_map(|line| line.strip_prefix("worker ").and_then(|pid| pid.parse().ok())).take(2).collect();
    assert_eq!(pids.len(), 2);
    assert!(pids.iter().all(|pid| exists(*pid)));
    // The second is stopped: it cannot see that its pipe has ended.
    signal(pids[1], Signal::STOP);
    parent.kill().unwrap();
    parent.wait().unwrap();
    until("the workers are gone", || pids.iter().all(|pid| !exists(*pid))).await;
}

/// The parent of the test above; by itself it does nothing.
#[tokio::test]
async fn parent() {
    if std::env::var_os("ANTIRAID_TEST_PARENT").is_none() {
        return;
    }
    let (one, two) = (start(&config(1)).await, start(&config(1)).await);
    println!("\nworker {}\nworker {}", pid(&one).await, pid(&two).await);
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn a_pool_is_replaced_one_after_the_other_and_loses_nothing() {
    use worker_core::{Routing, TenantId, WorkerFilter, WorkerId};
    let config = WorkerPoolConfig { workers: 3.try_into().unwrap(), worker: config(1) };
    let (id, all) = (WorkerId::new(0), WorkerFilter::all());
    let pool =
        <WorkerPool<WorkerProcessHandle> as Poolable>::start(id, all, Routing::default(), &config).await.unwrap();
    let pids = || pool.members().iter().map(|member| member.pid()).collect::<Vec<_>>();
    let before = pids();
    let load = async {
        for round in 0..200u64 {
            let replies: Vec<_> = (0..6u64).map(|n| pool.dispatch(TenantId::guild(n << 22), echo("x"))).collect();
            for reply in replies {
                assert_eq!(value(reply).await, Value::Text("x".into()), "round {round}");
            }
        }
    };
    let (rolled, ()) = tokio::join!(pool.replace_all(), load);
    rolled.unwrap();
    assert!(before.iter().zip(pids()).all(|(before, after)| after.is_some() && *before != after));
}

#[tokio::test]
async fn a_drain_during_a_replacement_serves_what_waits() {
    let worker = start(&config(1)).await;
    let first = pid(&worker).await;
    value(worker.dispatch(TENANT, event("DRAIN_SLOWLY", "{}"))).await;
    let replaced = worker.replace();
    let waits = loop {
        // Once it is held, what comes waits.
        let reply = worker.dispatch(TENANT, event("PID", "{}"));
        if worker.events_waiting() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if worker.events_waiting() > 0 {
                break reply;
            }
        }
        answer(reply).await.unwrap();
    };
    let drained = worker.drain();
    let Value::Integer(served_by) = value(waits).await else { panic!("no pid") };
    assert_ne!(served_by, first);
    answer(replaced).await.unwrap();
    answer(drained).await.unwrap();
    assert!(!exists(served_by));
}

#[tokio::test]
async fn a_process_does_not_hear_the_terminals_ctrl_c() {
    let worker = start(&config(1)).await;
    let pid = rustix::process::Pid::from_raw(pid(&worker).await as i32).unwrap();
    assert_eq!(rustix::process::getpgid(Some(pid)).unwrap(), pid, "it leads a group of its own");
}

#[test]
fn nothing_that_is_printed_tells_a_secret() {
    let program = worker_process::Program { path: "/bin/true".into(), args: Vec::new(), env: Vec::new() };
    let config = worker_process::WorkerProcessConfig::new(program, &"postgres://user:hunter2@host/db").unwrap();
    let printed = format!("{config:?}");
    assert!(printed.contains("/bin/true") && !printed.contains("hunter2"), "{printed}");
}

#[test]
fn a_line_of_a_log_is_nothing_for_a_terminal_to_obey() {
    let lines = worker_process::LogLines::default();
    lines.push("a\u{1b}[2Jb\u{7}\tc");
    assert_eq!(lines.all(), ["a\u{fffd}[2Jb\u{fffd}\tc"]);
}
