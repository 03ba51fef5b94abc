//! A thread that never ends.

use std::io;
use std::sync::mpsc::{self, Sender};
use std::thread;

use tokio::sync::oneshot;

/// A thread that lives as long as the process and does what it is given, one thing after the other.
///
/// For what is bound to the thread that does it: the kernel ends a child process with the *thread* that made it
/// (`PR_SET_PDEATHSIG`), so children must come from a thread that does not end.
#[derive(Clone, Debug)]
pub struct LastingThread(Sender<Job>);

type Job = Box<dyn FnOnce() + Send>;

impl LastingThread {
    /// Starts the thread.
    pub fn start(name: &str) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::Builder::new().name(name.into()).spawn(move || {
            for job in queue {
                job();
            }
            // Nobody has work for it any more; what it made may still be there.
            loop {
                thread::park();
            }
        })?;
        Ok(Self(jobs))
    }

    /// What `job` returned, when it was its turn. `None` if it panicked.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, result) = oneshot::channel();
        let job: Job = Box::new(move || {
            // A panic must not end the thread. The caller sees that no result comes.
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            if let Ok(outcome) = outcome {
                // The caller may have gone.
                drop(done.send(outcome));
            }
        });
        // The thread never drops its queue while there is a sender.
        self.0.send(job).ok()?;
        result.await.ok()
    }
}
