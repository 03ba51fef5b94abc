//! AES-256-GCM under a key that Argon2id derives.
//!
//! Parameters and layout are for ever: data that was encrypted must stay readable.

use std::ffi::c_int;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use argon2::{Algorithm, Argon2, Params, Version};
use bytes::Bytes;
use zeroize::Zeroizing;

use super::INPUT_BYTES_MAX;
use crate::error::ApiError;
use crate::luau::native::Call;
use crate::modules::blob::BlobBytes;
use crate::runtime::held::Held;
use crate::runtime::long_work::{self, Bounds, Place, Work};

const SALT_BYTES: usize = 8;
const NONCE_BYTES: usize = 12;
const HEAD_BYTES: usize = SALT_BYTES + NONCE_BYTES;
const TAG_BYTES: usize = 16;
const KEY_BYTES: usize = 32;

/// Memory of a key derivation, in KiB.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 1;
const LANES: u32 = 4;

/// Bytes of a passphrase.
const PASSPHRASE_BYTES_MAX: usize = 64 << 10;

/// `aes256encrypt(data, key)`.
pub(super) fn encrypt(call: &Call) -> Result<Work<BlobBytes>, ApiError> {
    let input = long_work::input(call, 1, "data", INPUT_BYTES_MAX)?;
    let (passphrase, held) = passphrase(call, 2)?;
    let data = input.bytes().clone();
    start(call, (input, held), move |_| {
        let mut out = Vec::with_capacity(HEAD_BYTES + data.len() + TAG_BYTES);
        out.resize(HEAD_BYTES, 0);
        rand::fill(&mut out[..]);
        out.extend_from_slice(&data);
        let (head, body) = out.split_at_mut(HEAD_BYTES);
        let (salt, nonce) = head.split_at(SALT_BYTES);
        let tag = cipher(&passphrase, salt)?
            .encrypt_inout_detached(&nonce_of(nonce), b"", body.into())
            .map_err(|error| ApiError::internal(&error))?;
        out.extend_from_slice(&tag);
        Ok(out)
    })
}

/// `aes256decrypt(data, key)`.
pub(super) fn decrypt(call: &Call) -> Result<Work<BlobBytes>, ApiError> {
    let input = long_work::input(call, 1, "data", INPUT_BYTES_MAX + HEAD_BYTES + TAG_BYTES)?;
    let (passphrase, held) = passphrase(call, 2)?;
    let data = input.bytes().clone();
    if data.len() < HEAD_BYTES + TAG_BYTES {
        return Err(damaged());
    }
    let work = move |_: &Bounds| {
        let (head, ciphertext) = data.split_at(HEAD_BYTES);
        let (salt, nonce) = head.split_at(SALT_BYTES);
        open(&passphrase, salt, nonce, ciphertext)
    };
    start(call, (input, held), work)
}

/// `aes256decryptcustom(salt, nonce, ciphertext, key)`.
pub(super) fn decrypt_custom(call: &Call) -> Result<Work<BlobBytes>, ApiError> {
    let exactly = |index, name: &str, len| {
        let part = long_work::input(call, index, name, INPUT_BYTES_MAX)?;
        if part.bytes().len() == len {
            return Ok(part.bytes().clone());
        }
        let found = part.bytes().len();
        Err(ApiError::invalid_argument(format_args!("{name} (expected {len} bytes, got {found})")))
    };
    let salt: Bytes = exactly(1, "salt", SALT_BYTES)?;
    let nonce = exactly(2, "nonce", NONCE_BYTES)?;
    let input = long_work::input(call, 3, "ciphertext", INPUT_BYTES_MAX + TAG_BYTES)?;
    let (passphrase, held) = passphrase(call, 4)?;
    let ciphertext = input.bytes().clone();
    if ciphertext.len() < TAG_BYTES {
        return Err(ApiError::invalid_argument(format_args!("ciphertext (expected at least {TAG_BYTES} bytes)")));
    }
    start(call, (input, held), move |_| open(&passphrase, &salt, &nonce, &ciphertext))
}

fn start(
    call: &Call,
    held: (BlobBytes, Held),
    work: impl Fn(&Bounds) -> Result<Vec<u8>, ApiError> + Send + 'static,
) -> Result<Work<BlobBytes>, ApiError> {
    long_work::run(call, Place::KeyDerivation, held.0.bytes().len(), held, work, BlobBytes::new)
}

/// The passphrase, counted: ten thousand threads may each wait with a long one.
fn passphrase(call: &Call, index: c_int) -> Result<(Zeroizing<Vec<u8>>, Held), ApiError> {
    let bytes = call.bytes(index, "key")?;
    if bytes.len() > PASSPHRASE_BYTES_MAX {
        let found = bytes.len();
        return Err(ApiError::too_large(format_args!("key ({found} bytes, at most {PASSPHRASE_BYTES_MAX})")));
    }
    let held = Held::new(call.vm().weak(), bytes.len())
        .ok_or_else(|| ApiError::memory("no room for the key within the tenant's memory limit"))?;
    Ok((Zeroizing::new(bytes.to_vec()), held))
}

fn damaged() -> ApiError {
    ApiError::invalid_argument("decrypt (wrong key, or damaged data)")
}

fn open(passphrase: &[u8], salt: &[u8], nonce: &[u8], ciphertext: &[u8]) -> Result<Vec<u8>, ApiError> {
    let (body, tag) = ciphertext.split_at(ciphertext.len() - TAG_BYTES);
    let tag = Tag::try_from(tag).expect("because it was split off at its length");
    let mut plain = body.to_vec();
    cipher(passphrase, salt)?
        .decrypt_inout_detached(&nonce_of(nonce), b"", plain.as_mut_slice().into(), &tag)
        .map_err(|_| damaged())?;
    Ok(plain)
}

fn nonce_of(bytes: &[u8]) -> Nonce<aes_gcm::aead::consts::U12> {
    Nonce::try_from(bytes).expect("because its length was checked")
}

fn cipher(passphrase: &[u8], salt: &[u8]) -> Result<Aes256Gcm, ApiError> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(KEY_BYTES)).expect("because they are within Argon2's");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, salt, &mut *key)
        .map_err(|error| ApiError::internal(&error))?;
    Ok(Aes256Gcm::new(&(*key).into()))
}
