#![doc = include_str!("../README.md")]

mod builtins;

pub use builtins::{Builtins, BuiltinsError, GLOBALS};
