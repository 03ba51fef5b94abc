#![doc = include_str!("../README.md")]

mod worker_dispatcher;

mod queues;
mod waiting;

mod loading;
mod resume_keys;

mod owning;

mod ending;

pub use worker_dispatcher::WorkerDispatcher;
