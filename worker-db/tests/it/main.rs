//! The store on every database it speaks, and the caches above it.
#![allow(missing_docs, unreachable_pub, reason = "a test binary has no reader from outside")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

#[macro_use]
mod store;
mod postgres;

mod allocations;
mod cache;
mod cancellation;
mod concurrency;
mod expiry;
mod expiry_model;
mod gateway;
mod isolation;
mod kv;
mod plans;
mod poison;
mod quota;
mod runtimes;
mod shared_cache;
mod start;
mod templates;
mod virtual_clock;
