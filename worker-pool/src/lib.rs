#![doc = include_str!("../README.md")]

mod moving;
mod poolable;
mod worker_pool;
mod worker_thread;

mod intake;
mod lasting_thread;
mod panic_watch;
mod restarts;
mod supervisor;

pub use intake::QueueSizes;
pub use lasting_thread::LastingThread;
pub use poolable::Poolable;
pub use restarts::{RestartPolicy, Restarts};
pub use worker_pool::{WorkerPool, WorkerPoolConfig};
pub use worker_thread::{WorkerThread, WorkerThreadConfig};
