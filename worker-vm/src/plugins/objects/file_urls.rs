//! Signed URLs of objects, for stores that have none of their own.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::hmac;
use worker_core::{ObjectLimits, TenantId};

use super::keys::ObjectKey;

/// Bytes of a key.
const KEY_BYTES: usize = 32;

/// Signs URLs, and knows its own.
pub(super) struct FileUrls(hmac::Key);

impl FileUrls {
    /// With a key that nobody else has: the URLs are good for as long as the process lives.
    pub(super) fn random() -> Self {
        Self::with(&rand::random())
    }

    fn with(key: &[u8; KEY_BYTES]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// With the key in the file, which is made if it is not there: all processes that share a folder share it.
    pub(super) fn with_file(path: &Path) -> io::Result<Self> {
        let mut key = [0; KEY_BYTES];
        if !path.exists() {
            // Written under another name first: whoever finds it finds all of it.
            let new = path.with_extension(format!("new-{:016x}", rand::random::<u64>()));
            let mut options = fs::OpenOptions::new();
            options.write(true).create_new(true);
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            options.open(&new)?.write_all(&rand::random::<[u8; KEY_BYTES]>())?;
            let linked = fs::hard_link(&new, path);
            fs::remove_file(&new)?;
            match linked {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        fs::File::open(path)?.read_exact(&mut key)?;
        Ok(Self::with(&key))
    }

    /// A URL under the HTTP API's.
    pub(super) fn sign(&self, api_url: &str, tenant: TenantId, key: &ObjectKey, expires_at: Timestamp) -> String {
        let expires = expires_at.as_second();
        let signature = hmac::sign(&self.0, &signed(tenant, key.as_bytes(), expires));
        let (api_url, encoded) = (api_url.trim_end_matches('/'), BASE64_URL_SAFE_NO_PAD.encode(key.as_bytes()));
        let signature = BASE64_URL_SAFE_NO_PAD.encode(signature);
        format!("{api_url}/objects/{tenant}/{encoded}?expires={expires}&signature={signature}")
    }

    /// Which object the URL is for, if it was signed here and is still good.
    pub(super) fn verify(&self, url: &str, now: Timestamp, limits: &ObjectLimits) -> Option<(TenantId, ObjectKey)> {
        let (path, query) = url.split_once('?')?;
        let (path, encoded) = path.rsplit_once('/')?;
        let tenant: TenantId = path.rsplit_once('/')?.1.parse().ok()?;
        let (expires, signature) = query.strip_prefix("expires=")?.split_once("&signature=")?;
        let expires: i64 = expires.parse().ok()?;
        let key = BASE64_URL_SAFE_NO_PAD.decode(encoded).ok()?;
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?;
        // In constant time.
        hmac::verify(&self.0, &signed(tenant, &key, expires), &signature).ok()?;
        let key = ObjectKey::new(&key, limits).ok()?;
        (now.as_second() < expires).then_some((tenant, key))
    }
}

/// What a signature is for. The key, which may be anything, is the last.
fn signed(tenant: TenantId, key: &[u8], expires: i64) -> Vec<u8> {
    [format!("get\n{tenant}\n{expires}\n").as_bytes(), key].concat()
}
