//! The program as its users meet it: the real binary, its output and its exit status. And the laws of the workspace.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod antiraid;

mod bench;
mod browser;
mod check;
mod config;
mod dev;
mod discord;
mod drift;
mod expiry;
mod expiry_worker;
mod gateway;
mod gateway_processes;
mod laws;
mod luau;
mod processes;
mod recording;
mod replay;
mod run_simulated;
mod simulator;
mod simulator_servers;
mod specs;
mod store;
mod top;
mod type_check;
mod types;
mod usage;
mod worker;
