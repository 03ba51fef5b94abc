//! When a runtime has nothing to run.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Tells tasks of a runtime of one thread when all the others wait for something from outside. Clones are handles to the
/// same; the runtime's hook for parking must call [`parks`](Self::parks).
#[derive(Clone, Debug, Default)]
pub struct Parking(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    wanted: AtomicBool,
    parked: Notify,
}

impl Parking {
    /// The thread is about to park. Whom this wakes is run before it does.
    pub fn parks(&self) {
        if self.0.wanted.swap(false, Ordering::AcqRel) {
            self.0.parked.notify_waiters();
        }
    }

    /// Waits until no task can run.
    pub async fn parked(&self) {
        let mut parked = pin!(self.0.parked.notified());
        parked.as_mut().enable();
        self.0.wanted.store(true, Ordering::Release);
        parked.await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use tokio::runtime::{Builder, LocalOptions};

    use super::*;

    #[test]
    fn whoever_waits_is_woken_after_all_that_can_run() {
        let parking = Parking::default();
        let hook = parking.clone();
        let mut builder = Builder::new_current_thread();
        builder.on_thread_park(move || hook.parks());
        let runtime = builder.build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let steps = Rc::new(Cell::new(0));
            let (passed_on, mut next) = tokio::sync::mpsc::unbounded_channel();
            for _ in 0..100 {
                let (steps, passed_on) = (steps.clone(), passed_on.clone());
                tokio::task::spawn_local(async move {
                    tokio::task::yield_now().await;
                    steps.set(steps.get() + 1);
                    let _ = passed_on.send(());
                });
            }
            let counted = steps.clone();
            tokio::task::spawn_local(async move {
                while next.recv().await.is_some() {
                    counted.set(counted.get() + 1);
                }
            });
            let other = tokio::task::spawn_local({
                let (parking, steps) = (parking.clone(), steps.clone());
                async move {
                    parking.parked().await;
                    steps.get()
                }
            });
            parking.parked().await;
            assert_eq!(steps.get(), 200);
            assert_eq!(other.await.unwrap(), 200);
        });
    }
}
