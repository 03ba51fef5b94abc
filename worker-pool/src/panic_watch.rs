//! How a worker's thread learns that something in its engine panicked.
//!
//! tokio catches the panic of a task and gives it to the task's `JoinHandle`, which engines drop, as they have one for
//! each event; its remedy, `Builder::unhandled_panic`, is unstable. The panic hook sees every panic, so this module puts
//! one in front of the hook that is there. A later hook must call the one before it, or panics of tasks go unseen (those
//! in `submit` and in the factory unwind into the thread's loop and are seen in any case).
//!
//! The hook runs before anybody can catch, so an engine that catches panics says how many it caught. Panic and catch are
//! in the same poll of a task, and the thread's loop looks between polls: what is not caught by then has escaped.

use std::cell::RefCell;
use std::panic::{self, PanicHookInfo};
use std::sync::Once;
use std::task::{Context, Poll, Waker};

thread_local! {
    /// `None` on threads that are not a worker's.
    static WATCH: RefCell<Option<Watch>> = const { RefCell::new(None) };
}

struct Watch {
    waker: Waker,
    /// How many panics the engine has caught on this thread.
    contained: fn() -> u64,
    /// How many there were, less those that ended earlier engines.
    seen: u64,
    /// Where and why, for the last that may have escaped.
    report: Option<String>,
}

/// Starts to watch the calling thread. `contained` tells how many panics were caught on it.
pub(crate) fn watch_this_thread(contained: fn() -> u64) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let _ = WATCH.try_with(|watch| note(watch, info));
            previous(info);
        }));
    });
    WATCH.set(Some(Watch { waker: Waker::noop().clone(), contained, seen: contained(), report: None }));
}

/// Ready with where and why, once a panic has escaped on this thread.
pub(crate) fn poll(cx: &Context<'_>) -> Poll<String> {
    WATCH.with_borrow_mut(|watch| {
        let Some(watch) = watch else { return Poll::Pending };
        watch.waker.clone_from(cx.waker());
        watch.escaped().map_or(Poll::Pending, Poll::Ready)
    })
}

/// Where and why a panic escaped, if one did. All panics until now are done with.
pub(crate) fn take() -> Option<String> {
    WATCH.with_borrow_mut(|watch| {
        let watch = watch.as_mut()?;
        let escaped = watch.escaped();
        watch.seen = (watch.contained)();
        escaped
    })
}

impl Watch {
    fn escaped(&mut self) -> Option<String> {
        let report = self.report.take()?;
        (self.seen > (self.contained)()).then_some(report)
    }
}

/// Called while a panic begins, where another would abort the process: what is borrowed is passed over.
fn note(watch: &RefCell<Option<Watch>>, info: &PanicHookInfo<'_>) {
    if let Ok(mut watch) = watch.try_borrow_mut()
        && let Some(watch) = watch.as_mut()
    {
        if watch.seen <= (watch.contained)() {
            // All before this one were caught.
            watch.report = None;
        }
        watch.seen += 1;
        watch.report.get_or_insert_with(|| describe(info));
        watch.waker.wake_by_ref();
    }
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let message = info.payload_as_str().unwrap_or("(no message)");
    match info.location() {
        Some(location) => format!("panicked at {location}: {message}"),
        None => format!("panicked: {message}"),
    }
}
