//! `@antiraid/typesext`.

use crate::harness::{Harness, on_worker};
use crate::scripts::script;

#[test]
fn integers_have_64_bits_and_wrap() {
    on_worker(|| async { Harness::new().await.passes(script!("typesext/integers")).await });
}

#[test]
fn bits_are_moved_and_random_text_is_random() {
    on_worker(|| async { Harness::new().await.passes(script!("typesext/bits")).await });
}
