//! The embedded files are whole, and a folder can take their place.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod folder;
mod tree;
