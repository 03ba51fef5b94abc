//! `@antiraid/datetime`.

use crate::harness::{Harness, on_worker};
use crate::scripts::script;

#[test]
fn zones_tell_the_time_of_their_place() {
    on_worker(|| async { Harness::new().await.passes(script!("datetime/zones")).await });
}

#[test]
fn moments_and_lengths_add_up() {
    on_worker(|| async { Harness::new().await.passes(script!("datetime/moments")).await });
}
