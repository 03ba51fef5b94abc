//! The tenant runtime: one Luau VM a tenant, its threads, and how they share the worker's thread.

pub(crate) mod context;
pub(crate) mod coroutines;
pub(crate) mod dispatches;
pub(crate) mod environment;
#[cfg(debug_assertions)]
mod faults;
pub(crate) mod flight_recorder;
pub(crate) mod held;
pub(crate) mod long_work;
pub(crate) mod metered;
pub(crate) mod require;
pub(crate) mod run;
pub(crate) mod sandbox;
pub(crate) mod scheduler;
pub(crate) mod starter;
pub(crate) mod task;
pub(crate) mod threads;
pub(crate) mod turns;
pub(crate) mod vm;
pub(crate) mod watchdog;
