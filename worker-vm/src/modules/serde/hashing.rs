//! Hashes and keyed hashes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::digest::block_api::BlockSizeUser;
use hmac::digest::{Digest, KeyInit};
use hmac::{Mac, SimpleHmac};

use super::{DATA_BYTES_MAX, PLACE, choose};
use crate::error::ApiError;
use crate::luau::native::Call;
use crate::luau::stack::Text;
use crate::runtime::held::Counted;
use crate::runtime::long_work::{self, Bounds, Work};

type Hash = fn(&[u8]) -> String;
type Keyed = fn(&[u8], &[u8]) -> String;

/// The algorithms by name.
const ALGORITHMS: [(&str, (Hash, Keyed)); 11] = [
    ("md5", (hex_of::<md5::Md5>, base64_of::<md5::Md5>)),
    ("sha1", (hex_of::<sha1::Sha1>, base64_of::<sha1::Sha1>)),
    ("sha224", (hex_of::<sha2::Sha224>, base64_of::<sha2::Sha224>)),
    ("sha256", (hex_of::<sha2::Sha256>, base64_of::<sha2::Sha256>)),
    ("sha384", (hex_of::<sha2::Sha384>, base64_of::<sha2::Sha384>)),
    ("sha512", (hex_of::<sha2::Sha512>, base64_of::<sha2::Sha512>)),
    ("sha3-224", (hex_of::<sha3::Sha3_224>, base64_of::<sha3::Sha3_224>)),
    ("sha3-256", (hex_of::<sha3::Sha3_256>, base64_of::<sha3::Sha3_256>)),
    ("sha3-384", (hex_of::<sha3::Sha3_384>, base64_of::<sha3::Sha3_384>)),
    ("sha3-512", (hex_of::<sha3::Sha3_512>, base64_of::<sha3::Sha3_512>)),
    ("blake3", (hex_of::<blake3::Hasher>, base64_of::<blake3::Hasher>)),
];

fn hex_of<D: Digest>(message: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digest = D::digest(message);
    digest.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

fn base64_of<D: Digest + BlockSizeUser>(message: &[u8], secret: &[u8]) -> String {
    let mut mac = SimpleHmac::<D>::new_from_slice(secret).expect("because HMAC takes keys of any length");
    mac.update(message);
    STANDARD.encode(mac.finalize().into_bytes())
}

/// `hash(algorithm, message)`.
pub(super) fn hash(call: &Call) -> Result<Work<Counted<Text>>, ApiError> {
    let (hash, _) = choose(call, "algorithm", &ALGORITHMS)?;
    let input = long_work::input(call, 2, "message", DATA_BYTES_MAX)?;
    let (size, message) = (input.bytes().len(), input.bytes().clone());
    let work = move |_: &Bounds| Ok(hash(&message).into_bytes());
    long_work::run(call, PLACE, size, input, work, Counted::text)
}

/// `hmac(algorithm, message, secret)`.
pub(super) fn hmac(call: &Call) -> Result<Work<Counted<Text>>, ApiError> {
    let (_, keyed) = choose(call, "algorithm", &ALGORITHMS)?;
    let input = long_work::input(call, 2, "message", DATA_BYTES_MAX)?;
    let secret_input = long_work::input(call, 3, "secret", DATA_BYTES_MAX)?;
    let (message, secret): (Bytes, Bytes) = (input.bytes().clone(), secret_input.bytes().clone());
    let size = message.len() + secret.len();
    let work = move |_: &Bounds| Ok(keyed(&message, &secret).into_bytes());
    long_work::run(call, PLACE, size, (input, secret_input), work, Counted::text)
}
