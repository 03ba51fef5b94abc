//! The dispatcher over real templates, real VMs and a real database.

mod harness;

mod allocations;
mod bounds;
mod contract;
mod ending;
mod fairness;
mod loading;
mod order;
mod replies;
mod results;
mod resume;
