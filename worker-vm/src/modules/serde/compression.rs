//! Compression: what comes out is measured while it comes; what a text says of its size is not believed.

use std::io::{self, Read, Write};

use brotli::enc::BrotliEncoderParams;
use brotli_decompressor::BrotliDecoderParameter;
use flate2::Compression;
use flate2::read::{GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};

use super::{DATA_BYTES_MAX, PLACE, choose};
use crate::error::ApiError;
use crate::luau::native::Call;
use crate::luau::stack::Text;
use crate::runtime::held::Counted;
use crate::runtime::long_work::{self, Bounds, Place, Work};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Brotli,
    Gzip,
    Zlib,
    Lz4,
}

/// Bytes between two looks at the clock.
const CHUNK_BYTES: usize = 32 << 10;

/// The best levels of brotli take a millisecond for this much.
const BROTLI_INLINE_BYTES_MAX: usize = 1 << 10;

/// Blocks that brotli looks at as a whole, as a power of two: between two of them it can be stopped.
const BROTLI_BLOCK_LOG: i32 = 18;

/// What LZ4 can make of one byte at most.
const LZ4_RATIO_MAX: usize = 255;

impl Format {
    fn read(call: &Call) -> Result<Self, ApiError> {
        let words = [("brotli", Self::Brotli), ("gzip", Self::Gzip), ("zlib", Self::Zlib), ("lz4", Self::Lz4)];
        choose(call, "format", &words)
    }

    fn level_max(self) -> u32 {
        match self {
            Self::Brotli => 11,
            Self::Gzip | Self::Zlib => 9,
            // Has none.
            Self::Lz4 => 0,
        }
    }
}

/// `compress(format, data, level?)`.
pub(super) fn compress(call: &Call) -> Result<Work<Counted<Text>>, ApiError> {
    let format = Format::read(call)?;
    let input = long_work::input(call, 2, "data", DATA_BYTES_MAX)?;
    let level_max = format.level_max();
    let level = match call.number_opt(3, "level")? {
        Some(level) if !level.is_nan() => level.clamp(0.0, f64::from(level_max)) as u32,
        _ => level_max,
    };
    let place = if format == Format::Brotli { Place::InlineUpTo(BROTLI_INLINE_BYTES_MAX) } else { PLACE };
    let (size, data) = (input.bytes().len(), input.bytes().clone());
    let work = move |bounds: &Bounds| {
        let packed = match format {
            Format::Brotli => brotli(&data, level, bounds),
            Format::Gzip => {
                let encoder = GzEncoder::new(bounds.output(), Compression::new(level));
                feed(encoder, &data, bounds).and_then(GzEncoder::finish).map(long_work::Output::into_bytes)
            }
            Format::Zlib => {
                let encoder = ZlibEncoder::new(bounds.output(), Compression::new(level));
                feed(encoder, &data, bounds).and_then(ZlibEncoder::finish).map(long_work::Output::into_bytes)
            }
            Format::Lz4 => Ok(lz4_flex::block::compress_prepend_size(&data)),
        };
        let packed = packed.map_err(|error| bounds.or_error(|| ApiError::internal(&error)))?;
        bounds.check(packed.len())?;
        Ok(packed)
    };
    long_work::run(call, place, size, input, work, Counted::text)
}

/// Gives an encoder its input in pieces, with a look at the bounds before each.
fn feed<W: Write>(mut encoder: W, data: &[u8], bounds: &Bounds) -> io::Result<W> {
    for chunk in data.chunks(CHUNK_BYTES) {
        bounds.check(0).map_err(|error| io::Error::other(error.to_string()))?;
        encoder.write_all(chunk)?;
    }
    Ok(encoder)
}

fn brotli(data: &[u8], level: u32, bounds: &Bounds) -> io::Result<Vec<u8>> {
    let params = BrotliEncoderParams {
        quality: level as i32,
        lgblock: BROTLI_BLOCK_LOG,
        size_hint: data.len(),
        ..BrotliEncoderParams::default()
    };
    let mut output = bounds.output();
    let encoder = brotli::CompressorWriter::with_params(&mut output, CHUNK_BYTES, &params);
    // The end is written when it is dropped; an error there is one of the bounds, which are asked again afterwards.
    drop(feed(encoder, data, bounds)?);
    bounds.check(0).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(output.into_bytes())
}

/// `decompress(format, data)`.
pub(super) fn decompress(call: &Call) -> Result<Work<Counted<Text>>, ApiError> {
    let format = Format::read(call)?;
    let input = long_work::input(call, 2, "data", DATA_BYTES_MAX)?;
    let (size, data) = (input.bytes().len(), input.bytes().clone());
    let work = move |bounds: &Bounds| {
        let data = &data[..];
        match format {
            Format::Brotli => {
                let mut decoder = brotli::Decompressor::new(data, CHUNK_BYTES);
                // Or a stream may ask for a window of a gigabyte.
                decoder.set_parameter(BrotliDecoderParameter::BROTLI_DECODER_PARAM_LARGE_WINDOW, 0);
                drain(decoder, bounds)
            }
            Format::Gzip => drain(GzDecoder::new(data), bounds),
            Format::Zlib => drain(ZlibDecoder::new(data), bounds),
            Format::Lz4 => lz4(data, bounds),
        }
    };
    long_work::run(call, PLACE, size, input, work, Counted::text)
}

fn drain(mut decoder: impl Read, bounds: &Bounds) -> Result<Vec<u8>, ApiError> {
    let mut output = Vec::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = decoder.read(&mut chunk).map_err(damaged)?;
        if count == 0 {
            return Ok(output);
        }
        bounds.check(output.len() + count)?;
        output.extend_from_slice(&chunk[..count]);
    }
}

/// A block after its size as a `u32`, little endian.
fn lz4(data: &[u8], bounds: &Bounds) -> Result<Vec<u8>, ApiError> {
    let Some((size, block)) = data.split_first_chunk::<4>() else {
        return Err(damaged("no size"));
    };
    let size = u32::from_le_bytes(*size) as usize;
    if size > block.len().saturating_mul(LZ4_RATIO_MAX) {
        return Err(damaged("it cannot be as large as it says"));
    }
    bounds.check(size)?;
    let mut output = vec![0; size];
    let count = lz4_flex::block::decompress_into(block, &mut output).map_err(damaged)?;
    output.truncate(count);
    Ok(output)
}

fn damaged(error: impl std::fmt::Display) -> ApiError {
    ApiError::invalid_argument(format_args!("data (cannot be decompressed: {error})"))
}
