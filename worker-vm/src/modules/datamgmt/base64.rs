//! Base64 with the standard alphabet, padded.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::INPUT_BYTES_MAX;
use crate::error::ApiError;
use crate::luau::native::Call;
use crate::luau::stack::Text;
use crate::modules::blob::{BlobBytes, Taken};
use crate::runtime::held::Counted;
use crate::runtime::long_work::{self, Place, Work};

/// So many bytes take about a millisecond, which is less than to copy them for another thread is worth.
const INLINE_BYTES_MAX: usize = 3 << 19;

pub(super) fn encode(call: &Call) -> Result<Work<Counted<Text>>, ApiError> {
    let taken = Taken::read(call, 1, "data")?;
    if taken.as_slice().len() <= INLINE_BYTES_MAX {
        return Counted::text(call.vm().weak(), STANDARD.encode(taken.as_slice()).into_bytes()).map(Work::Done);
    }
    let input = long_work::input(call, 1, "data", INPUT_BYTES_MAX)?;
    let (size, data) = (input.bytes().len(), input.bytes().clone());
    let work = move |_: &long_work::Bounds| Ok(STANDARD.encode(&data).into_bytes());
    long_work::run(call, Place::Elsewhere, size, input, work, Counted::text)
}

pub(super) fn decode(call: &Call) -> Result<Work<BlobBytes>, ApiError> {
    let taken = Taken::read(call, 1, "text")?;
    if taken.as_slice().len() <= INLINE_BYTES_MAX {
        return BlobBytes::new(call.vm().weak(), bytes_of(taken.as_slice())?).map(Work::Done);
    }
    let input = long_work::input(call, 1, "text", INPUT_BYTES_MAX)?;
    let (size, text) = (input.bytes().len(), input.bytes().clone());
    long_work::run(call, Place::Elsewhere, size, input, move |_| bytes_of(&text), BlobBytes::new)
}

fn bytes_of(text: &[u8]) -> Result<Vec<u8>, ApiError> {
    STANDARD.decode(text).map_err(|error| ApiError::invalid_argument(format_args!("text (not base64: {error})")))
}
