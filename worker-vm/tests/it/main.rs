//! The runtime, attacked and used, against a real database.

mod harness;
mod runtime;
