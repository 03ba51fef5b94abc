//! The program as its users meet it: the real binary, its output and its exit status. And the laws of the workspace.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod antiraid;

mod bench;
mod browser;
mod check;
mod config;
mod dev;
mod drift;
mod expiry;
mod expiry_worker;
mod laws;
mod luau;
mod postgres;
mod processes;
mod recording;
mod replay;
mod simulator;
mod simulator_servers;
mod specs;
mod store;
mod type_check;
mod types;
mod usage;
mod worker;
