//! Blobs, `@antiraid/datamgmt`, `@lune/serde` and `@lune/regex`.

use crate::harness::{Harness, on_worker};
use crate::scripts::script;

#[test]
fn blobs_are_made_read_and_emptied() {
    on_worker(|| async { Harness::new().await.passes(script!("blob/methods")).await });
}

#[test]
fn blobs_count_in_the_memory_limit() {
    on_worker(|| async { Harness::new().await.passes(script!("blob/memory")).await });
}
