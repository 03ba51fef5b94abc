#![doc = include_str!("../README.md")]

pub mod workerprocesscomm;

mod worker_process_comm_http2;

mod worker_process;

mod child;
mod outgoing;
mod quarantine;
mod shared;
mod supervisor;
mod worker_process_handle;

pub use quarantine::{Evidence, Quarantine, QuarantinePolicy};
pub use worker_process::{LogLines, Parent, ParentError, Words, WorkerProcess};
pub use worker_process_comm_http2::{WorkerProcessCommHttp2, serve_http2};
pub use worker_process_handle::{Program, Timeouts, WorkerProcessConfig, WorkerProcessHandle};
