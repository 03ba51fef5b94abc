#![doc = include_str!("../README.md")]

pub mod cli;
pub mod config;
pub mod log;
pub mod mistake;
pub mod output;

pub mod gateway_frame;
pub mod recording;
pub mod replay;
pub mod replay_report;

pub mod template_dir;

pub mod engine;
pub mod store;
pub mod worker;

pub mod bench_command;
pub mod config_command;
pub mod expiry_command;
pub mod kv_command;
pub mod replay_command;
pub mod template_command;

pub mod bench;
