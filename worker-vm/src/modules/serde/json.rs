//! JSON, straight into tables.

use worker_core::ValueError;

use super::not_in;
use crate::error::ApiError;
use crate::luau::json::{DEPTH_MAX, Json};
use crate::runtime::long_work::Bounds;

/// What the parser takes for each value.
const NODE_BYTES: usize = 16;

/// Parses a text, and says about how much memory that takes.
pub(super) fn read(text: &[u8], bounds: &Bounds) -> Result<(Json, usize), ApiError> {
    let nodes = measure(text)?;
    let bytes = nodes * NODE_BYTES + text.len();
    bounds.check(bytes)?;
    let json =
        Json::parse(text).map_err(|error| not_in("JSON", error.to_string().lines().next().unwrap_or_default()))?;
    Ok((json, bytes))
}

/// At most how many values there are. The parser has no limit for depth, nor for memory: both are known beforehand.
fn measure(text: &[u8]) -> Result<usize, ApiError> {
    let (mut nodes, mut depth) = (1, 0);
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
            b',' | b':' => nodes += 1,
            b'[' | b'{' => {
                nodes += 1;
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(ValueError::TooDeep(DEPTH_MAX).into());
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(nodes)
}
