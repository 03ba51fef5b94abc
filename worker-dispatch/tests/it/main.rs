//! The dispatcher over real templates, real VMs and a real database.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod harness;

mod allocations;
mod bounds;
mod contract;
mod ending;
mod fairness;
mod loading;
mod order;
mod owning;
mod replies;
mod results;
mod resume;
