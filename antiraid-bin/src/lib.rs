#![doc = include_str!("../README.md")]

pub mod cli;
pub mod config;
pub mod log;
pub mod mistake;
pub mod objects_url;
pub mod output;
pub mod parking;

pub mod gateway;
pub mod gateway_frame;
pub mod recording;
pub mod replay;
pub mod replay_report;

pub mod dev;
pub mod simulator;

pub mod spec_files;
pub mod spec_report;
pub mod spec_world;
pub mod template_dir;
pub mod type_check;

pub mod engine;
pub mod store;
mod unheard_events;
pub mod worker;

pub mod bench_command;
pub mod check_command;
pub mod config_command;
pub mod dev_command;
pub mod expiry_command;
pub mod kv_command;
pub mod reference_command;
pub mod register_command;
pub mod replay_command;
pub mod run_command;
pub mod template_command;
pub mod tenant_command;
pub mod test_command;
pub mod top_command;
pub mod types_command;
pub mod worker_command;

pub mod bench;
pub mod private_postgres;
