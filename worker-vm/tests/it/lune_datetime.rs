//! `@lune/datetime`.

use crate::harness::{Harness, on_worker};
use crate::scripts::script;

#[test]
fn moments_are_told_and_read() {
    on_worker(|| async { Harness::new().await.passes(script!("lune/datetime")).await });
}
