//! Base64 with the standard alphabet, padded.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::INPUT_BYTES_MAX;
use crate::error::ApiError;
use crate::luau::native::Call;
use crate::luau::stack::Text;
use crate::modules::blob::BlobBytes;
use crate::runtime::held::Counted;
use crate::runtime::long_work::{self, INLINE_BYTES_MAX, Place, Work};

const PLACE: Place = Place::InlineUpTo(INLINE_BYTES_MAX);

pub(super) fn encode(call: &Call) -> Result<Work<Counted<Text>>, ApiError> {
    let input = long_work::input(call, 1, "data", INPUT_BYTES_MAX)?;
    let (size, data) = (input.bytes().len(), input.bytes().clone());
    let work = move |_: &long_work::Bounds| Ok(STANDARD.encode(&data).into_bytes());
    long_work::run(call, PLACE, size, input, work, Counted::text)
}

pub(super) fn decode(call: &Call) -> Result<Work<BlobBytes>, ApiError> {
    let input = long_work::input(call, 1, "text", INPUT_BYTES_MAX)?;
    let (size, text) = (input.bytes().len(), input.bytes().clone());
    let work = move |_: &long_work::Bounds| {
        STANDARD.decode(&text).map_err(|error| ApiError::invalid_argument(format_args!("text (not base64: {error})")))
    };
    long_work::run(call, PLACE, size, input, work, BlobBytes::new)
}
