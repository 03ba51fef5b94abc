#![doc = include_str!("../README.md")]

mod worker_dispatcher;

mod queues;
mod resume_keys;

pub use worker_dispatcher::WorkerDispatcher;
