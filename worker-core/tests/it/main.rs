//! What the crate promises to others, seen from outside.

mod contract;
mod send_sync;
