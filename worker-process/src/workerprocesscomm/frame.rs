//! Frames: a length in four bytes, little-endian, then so many bytes.

use bytes::{Buf, BytesMut};

/// The longest frame. Discord's largest events are a few MiB.
pub const FRAME_BYTES_MAX: usize = 32 << 20;

/// Why bytes are no frame, or a frame no message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A length beyond what is allowed.
    #[error("a frame of {len} bytes; at most {FRAME_BYTES_MAX} are allowed")]
    TooLong {
        /// The length that it claims.
        len: usize,
    },
    /// It ends before its fields do.
    #[error("a frame that ends within `{0}`")]
    Truncated(&'static str),
    /// Bytes after the last field.
    #[error("a frame with {0} bytes too many")]
    Trailing(usize),
    /// A number that means nothing.
    #[error("{field} {value} is unknown")]
    Unknown {
        /// What the number should tell.
        field: &'static str,
        /// The number.
        value: u8,
    },
    /// Text that is not UTF-8.
    #[error("`{0}` is not UTF-8")]
    NotText(&'static str),
    /// JSON that does not hold what it should.
    #[error("a bad answer")]
    Json(#[from] serde_json::Error),
}

/// Cuts bytes into frames. It holds one frame at most and what came after it in the same chunk.
#[derive(Debug, Default)]
pub struct FrameReader(BytesMut);

impl FrameReader {
    /// Without bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// More bytes.
    pub fn push(&mut self, chunk: &[u8]) {
        self.0.extend_from_slice(chunk);
    }

    /// What `decode` makes of the next frame, if it is there in full.
    pub fn next<T>(&mut self, decode: impl FnOnce(&[u8]) -> Result<T, FrameError>) -> Result<Option<T>, FrameError> {
        let Some(len) = self.0.first_chunk() else { return Ok(None) };
        let len = u32::from_le_bytes(*len) as usize;
        if len > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong { len });
        }
        let Some(frame) = self.0.get(4..4 + len) else { return Ok(None) };
        let message = decode(frame)?;
        self.0.advance(4 + len);
        Ok(Some(message))
    }
}

/// Writes a frame: `fill` appends its bytes.
pub(super) fn write(buffer: &mut BytesMut, fill: impl FnOnce(&mut BytesMut)) {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 4]);
    fill(buffer);
    let len = (buffer.len() - start - 4) as u32;
    buffer[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

/// Reads fields, each with its name for the error.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn bytes(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], FrameError> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(FrameError::Truncated(field))?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, FrameError> {
        Ok(self.bytes(field, 1)?[0])
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, FrameError> {
        let bytes = self.bytes(field, 2)?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, FrameError> {
        let bytes = self.bytes(field, 8)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("because eight bytes were asked for")))
    }

    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a str, FrameError> {
        let len = self.u16(field)?;
        std::str::from_utf8(self.bytes(field, len.into())?).map_err(|_| FrameError::NotText(field))
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(super) fn end(self) -> Result<(), FrameError> {
        if self.0.is_empty() { Ok(()) } else { Err(FrameError::Trailing(self.0.len())) }
    }
}
