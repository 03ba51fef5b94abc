//! Workers come and go, each with a runtime of its own. One that ends in the middle of a query breaks nothing for others.

use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{Notify, oneshot};
use worker_db::{Change, WorkerDb};

use crate::store::{GUILD, LARGE, Store, USER, config, later, name, scopes, set, template};

conformance!(
    a_call_that_ends_with_its_runtime_did_all_or_nothing,
    the_calls_of_others_go_on_while_runtimes_end,
    a_runtime_that_opened_the_database_may_end,
    the_last_handle_may_end_with_its_runtime,
);

fn runtime() -> LocalRuntime {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap()
}

/// Makes the call on a thread and a runtime of its own, which end when it was polled so many times, or is done.
fn on_a_dying_runtime<F: Future + 'static>(polls: usize, call: impl FnOnce() -> F + Send) {
    let worker = || {
        let runtime = runtime();
        let (reached, is_reached) = oneshot::channel::<()>();
        let call = call();
        let task = runtime.spawn_local(async move {
            let (mut call, mut left) = (Box::pin(call), polls);
            poll_fn(|context| {
                if left == 0 || call.as_mut().poll(context).is_ready() {
                    return Poll::Ready(());
                }
                left -= 1;
                if left == 0 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            drop(reached);
            // Holds the call until the runtime drops it.
            pending::<()>().await;
            drop(call);
        });
        assert!(runtime.block_on(is_reached).is_err());
        assert!(!task.is_finished(), "the call panicked");
    };
    std::thread::scope(|scope| scope.spawn(worker).join().unwrap());
}

async fn a_call_that_ends_with_its_runtime_did_all_or_nothing(store: &Store) {
    let db = &store.db;
    let (mut committed, mut cut) = (0, 0);
    for polls in 0..40 {
        let row = template(&polls.to_string(), "1", &[]);
        let (row_name, mut changes, answered) = (row.name.clone(), db.changes(), Arc::new(AtomicBool::new(false)));
        let (handle, is_answered) = (db.clone(), answered.clone());
        on_a_dying_runtime(polls, || async move {
            handle.template_create(GUILD, row).await.unwrap();
            is_answered.store(true, Ordering::Relaxed);
        });
        let handle = db.clone();
        on_a_dying_runtime(polls, || async move { handle.tenant_templates(GUILD).await.unwrap() });
        // Waits for the tenant's lock, so for what was left behind.
        assert_eq!(db.kv_incr(GUILD, "rounds", &scopes(&["a"]), 1.0).await.unwrap(), polls as f64 + 1.0);
        let is_there = db.template_get(GUILD, &row_name).await.unwrap().is_some();
        if is_there {
            let announced = tokio::time::timeout(Duration::from_secs(20), changes.recv()).await;
            assert_eq!(announced.unwrap().unwrap(), Change::Templates { tenant: GUILD }, "{polls} polls");
        } else {
            assert!(!answered.load(Ordering::Relaxed), "{polls} polls");
        }
        assert!(changes.try_recv().is_err(), "{polls} polls");
        committed += usize::from(is_there);
        cut += usize::from(!is_there);
    }
    assert!(cut > 0 && committed > 0, "{cut} cut off, {committed} committed");
    assert_eq!(db.tenant_templates(GUILD).await.unwrap().rows.len(), committed);
}

const THREADS: usize = 4;
const ROUNDS: usize = 25;

async fn the_calls_of_others_go_on_while_runtimes_end(store: &Store) {
    let db = &store.db;
    db.template_create(GUILD, template("t", "1", &[])).await.unwrap();
    db.kv_set(USER, set("expires", "1", &["a"])).await.unwrap();
    let (answered, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let workers: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (db, answered, failed) = (db.clone(), answered.clone(), failed.clone());
            tokio::task::spawn_blocking(move || {
                for round in 0..ROUNDS {
                    let (runtime, reached) = (runtime(), Rc::new(Notify::new()));
                    for call in 0..3 {
                        let (db, reached) = (db.clone(), reached.clone());
                        let (answered, failed) = (answered.clone(), failed.clone());
                        runtime.spawn_local(async move {
                            for n in 0.. {
                                let done = match call {
                                    0 => db.kv_incr(USER, "n", &scopes(&["a"]), 1.0).await.map(drop),
                                    1 => db.tenant_templates(GUILD).await.map(drop),
                                    _ => {
                                        let expires_at = Some(later(900 + n));
                                        db.kv_set_expiry(USER, "expires", &scopes(&["a"]), expires_at).await.map(drop)
                                    }
                                };
                                match done {
                                    Ok(()) if call == 0 => drop(answered.fetch_add(1, Ordering::Relaxed)),
                                    Ok(()) => {}
                                    Err(error) => failed.lock().unwrap().push(error),
                                }
                                if n as usize == (round + thread) % 4 {
                                    reached.notify_one();
                                }
                            }
                        });
                    }
                    runtime.block_on(reached.notified());
                }
            })
        })
        .collect();
    let mut sum = 0.0;
    while !workers.iter().all(|worker| worker.is_finished()) {
        sum += 1.0;
        assert_eq!(db.kv_incr(LARGE, "mine", &scopes(&["a"]), 1.0).await.unwrap(), sum);
        assert_eq!(db.template_list(GUILD).await.unwrap().rows.len(), 1);
    }
    for worker in workers {
        worker.await.unwrap();
    }
    assert!(failed.lock().unwrap().is_empty(), "{:?}", failed.lock().unwrap());
    assert!(sum > 0.0);
    let answered = answered.load(Ordering::Relaxed);
    // Each runtime left one increment behind at most; here that one is done or undone.
    let stored = db.kv_incr(USER, "n", &scopes(&["a"]), 0.0).await.unwrap() as usize;
    assert!((answered..=answered + THREADS * ROUNDS).contains(&stored), "{answered} answered, {stored} stored");
}

async fn a_runtime_that_opened_the_database_may_end(store: &Store) {
    let url = store.url.clone();
    let open = move || runtime().block_on(WorkerDb::connect(&url, config())).unwrap();
    let db = std::thread::scope(|scope| scope.spawn(open).join().unwrap());
    db.kv_set(GUILD, set("key", "1", &["a"])).await.unwrap();
    assert!(db.kv_exists(GUILD, "key", &scopes(&["a"])).await.unwrap());
    db.close().await;
    assert!(db.kv_exists(GUILD, "key", &scopes(&["a"])).await.is_err());
}

async fn the_last_handle_may_end_with_its_runtime(store: &Store) {
    for polls in 0..20 {
        let url = store.url.clone();
        on_a_dying_runtime(polls, || async move {
            let db = WorkerDb::connect(&url, config()).await.unwrap();
            db.template_create(GUILD, template(&polls.to_string(), "1", &[])).await.unwrap();
            db.template_delete(GUILD, &name(&polls.to_string())).await.unwrap();
        });
        // Nothing that it held is held on.
        assert_eq!(store.db.kv_incr(GUILD, "rounds", &scopes(&["a"]), 1.0).await.unwrap(), polls as f64 + 1.0);
    }
}
