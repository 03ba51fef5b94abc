//! What a context offers.

pub(crate) mod kv;
