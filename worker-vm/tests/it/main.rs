//! The runtime, attacked and used, against a real database.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod captcha;
mod data;
mod datastores;
mod datetime;
mod discord;
mod globals;
mod harness;
mod hostile;
mod hostile_folder;
mod http;
mod kv;
mod luau;
mod lune_datetime;
mod objects;
mod runtime;
mod scripts;
mod typesext;
mod values;
