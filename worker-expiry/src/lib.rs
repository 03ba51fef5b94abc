#![doc = include_str!("../README.md")]

mod worker_key_expiry;

mod due_feed;
mod key_expiry_channel;
mod window;

mod expiry_process;
mod expiry_settings;
mod expiry_stats;

pub use expiry_process::ExpiryProcess;
pub use expiry_settings::ExpirySettings;
pub use expiry_stats::ExpiryStats;
pub use key_expiry_channel::KeyExpiryChannel;
pub use worker_key_expiry::WorkerKeyExpiry;
