//! JSON, straight into tables.

use worker_core::ValueError;

use super::not_in;
use crate::error::ApiError;
use crate::luau::json::{DEPTH_MAX, Json, JsonError};
use crate::runtime::long_work::Bounds;

/// What the parser takes for each value.
const NODE_BYTES: usize = 16;

/// Parses a text, and says about how much memory that takes.
pub(super) fn read(text: &[u8], bounds: &Bounds) -> Result<(Json, usize), ApiError> {
    let bytes_of = |nodes| nodes * NODE_BYTES + text.len();
    // To count without telling where strings are takes a tenth of the time, and finds too many at worst.
    let mut bytes = bytes_of(1 + text.iter().filter(|byte| matches!(byte, b',' | b':' | b'[' | b'{')).count());
    if bytes > bounds.output_bytes_max() {
        Json::check_depth(text).map_err(refused)?;
        bytes = bytes_of(measure(text));
    }
    bounds.check(bytes)?;
    Ok((Json::parse(text).map_err(refused)?, bytes))
}

fn refused(error: JsonError) -> ApiError {
    match error {
        JsonError::TooDeep => ValueError::TooDeep(DEPTH_MAX).into(),
        error => not_in("JSON", error.to_string().lines().next().unwrap_or_default()),
    }
}

/// At most how many values there are. The parser has no limit for memory: it is known beforehand.
fn measure(text: &[u8]) -> usize {
    let mut nodes = 1;
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => loop {
                match bytes.next() {
                    Some(b'\\') => _ = bytes.next(),
                    Some(b'"') | None => break,
                    Some(_) => {}
                }
            },
            b',' | b':' | b'[' | b'{' => nodes += 1,
            _ => {}
        }
    }
    nodes
}
