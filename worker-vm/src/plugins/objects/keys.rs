//! Keys of objects, and under which names they are stored.

use std::fmt;

use object_store::path::Path;
use ring::digest;
use worker_core::{ObjectLimits, TenantId};

/// Characters of a name that a key becomes: file systems allow 255 bytes, and stores append something to it for a while.
const NAME_CHARS_MAX: usize = 240;

/// An opaque name of an object of one tenant: any bytes but NUL, no `.` or `..` between slashes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ObjectKey(Box<[u8]>);

impl ObjectKey {
    /// Takes the key, or says what is wrong with it.
    pub fn new(bytes: &[u8], limits: &ObjectLimits) -> Result<Self, &'static str> {
        if bytes.is_empty() || bytes.len() > limits.key_bytes_max {
            return Err("the length of a key is from 1 to 2048 bytes");
        }
        if bytes.contains(&0) {
            return Err("a key has no NUL");
        }
        if bytes.split(|&byte| byte == b'/').any(|part| part == b"." || part == b"..") {
            return Err("a key has no part `.` or `..` between slashes");
        }
        Ok(Self(bytes.into()))
    }

    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Where the object is, within the tenant's folder and nowhere else.
    pub(super) fn place(&self, tenant: TenantId) -> Place {
        let folder = folder(tenant);
        let name = encode(&self.0);
        if name.len() <= NAME_CHARS_MAX {
            return Place { object: format!("{folder}/{SHORT}/{name}").into(), name: None };
        }
        let hash = hash(&self.0);
        let name = format!("{folder}/{NAMES}/{hash}").into();
        Place { object: format!("{folder}/{LONG}/{hash}").into(), name: Some(name) }
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// Where an object is.
pub(super) struct Place {
    pub(super) object: Path,
    /// Where its key is written, if its name does not tell it.
    pub(super) name: Option<Path>,
}

/// Objects whose name is their key.
const SHORT: &str = "k";
/// Objects whose key is too long for a name; theirs is its hash.
const LONG: &str = "h";
/// The keys of those.
const NAMES: &str = "n";

/// What templates see as the name of their bucket; a folder of the store that all tenants share.
pub(super) fn folder(tenant: TenantId) -> String {
    format!("antiraid.{}.{}", tenant.kind(), tenant.snowflake())
}

/// What a path of the store is, of those in a tenant's folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Short(Vec<u8>),
    /// The hash.
    Long(String),
    /// Not an object of the tenant.
    Other,
}

/// Reads a path that the store listed in a tenant's folder.
pub(super) fn read_path(path: &Path) -> Stored {
    let mut parts = path.as_ref().split('/').skip(1);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(SHORT), Some(name), None) => decode(name).map_or(Stored::Other, Stored::Short),
        (Some(LONG), Some(hash), None) => Stored::Long(hash.to_owned()),
        _ => Stored::Other,
    }
}

/// Where the key of an object is written that is stored under its hash.
pub(super) fn name_path(tenant: TenantId, hash: &str) -> Path {
    format!("{}/{NAMES}/{hash}", folder(tenant)).into()
}

/// Letters, digits, `-`, `_` and `.` within stay, all else becomes `=` and two digits: safe in every file system and in S3.
fn encode(key: &[u8]) -> String {
    let mut name = String::with_capacity(key.len());
    for (at, &byte) in key.iter().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(byte.into()),
            b'.' if at > 0 => name.push('.'),
            _ => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                name.push('=');
                name.push(DIGITS[usize::from(byte >> 4)].into());
                name.push(DIGITS[usize::from(byte & 15)].into());
            }
        }
    }
    name
}

/// The key that was encoded so, if one was.
fn decode(name: &str) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(name.len());
    let mut bytes = name.bytes();
    while let Some(byte) = bytes.next() {
        key.push(match byte {
            b'=' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    (encode(&key) == name).then_some(key)
}

pub(super) fn hash(key: &[u8]) -> String {
    digest::digest(&digest::SHA256, key).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: TenantId = TenantId::guild(77);

    fn key(bytes: &[u8]) -> Result<ObjectKey, &'static str> {
        ObjectKey::new(bytes, &ObjectLimits::default())
    }

    #[test]
    fn keys_that_are_refused() {
        for wrong in [
            &b""[..],
            b".",
            b"..",
            b"../x",
            b"x/..",
            b"a/../b",
            b"a/./b",
            b"./a",
            b"a/.",
            b"/..",
            b"/../antiraid.guild.1/k/x",
            b"a\0b",
            b"\0",
        ] {
            assert!(key(wrong).is_err(), "{}", wrong.escape_ascii());
        }
        assert!(key(&[b'a'; 2048]).is_ok());
        assert!(key(&[b'a'; 2049]).is_err());
    }

    #[test]
    fn no_key_leaves_the_folder_or_meets_another() {
        let keys: Vec<Vec<u8>> = [
            &b"a"[..],
            b"/a",
            b"a/",
            b"//a",
            b"a//b",
            b"a/b",
            b"...",
            b".a",
            b"a..",
            b"%2e%2e/x",
            b"%2e",
            b"..%2fx",
            b"..\\..\\x",
            b"\\",
            b"C:\\x",
            b"=2E",
            b"=",
            b"~",
            b"#1",
            b"a#1",
            b"a\nb",
            b"\xff\xfe",
            "ü/ｅ．．／".as_bytes(),
            b"A",
            b"con",
            b" ",
            b"a b",
            b"\x01",
            b"k/a",
            b"h/x",
            b"*?<>|\"",
            b"\xe2\x80\xae",
            "․․/x".as_bytes(),
        ]
        .iter()
        .map(|key| key.to_vec())
        .chain([vec![b'a'; 240], vec![b'a'; 241], vec![b'/'; 80], vec![b'/'; 81], vec![0xFF; 2048], vec![b'a'; 2048]])
        .collect();
        let mut places = std::collections::HashSet::new();
        for bytes in &keys {
            let place = key(bytes).unwrap().place(TENANT);
            let path = place.object.as_ref();
            let parts: Vec<_> = path.split('/').collect();
            assert_eq!((parts.len(), parts[0]), (3, "antiraid.guild.77"), "{path}");
            assert!(parts.iter().all(|part| part.len() <= 240 && !part.starts_with('.')), "{path}");
            assert!(Path::parse(path).is_ok_and(|parsed| parsed == place.object), "{path} is changed by nobody");
            assert!(places.insert(path.to_owned()), "{path} is another's");
            match read_path(&place.object) {
                Stored::Short(read) => assert_eq!(read, *bytes),
                Stored::Long(hash) => assert_eq!(name_path(TENANT, &hash), place.name.unwrap()),
                Stored::Other => panic!("{path}"),
            }
        }
    }

    #[test]
    fn what_is_no_object_is_not_listed() {
        for path in [
            "antiraid.guild.77/x",
            "antiraid.guild.77/k/a b",
            "antiraid.guild.77/k/=2e",
            "antiraid.guild.77/k/=4",
            "antiraid.guild.77/n/abc",
            "antiraid.guild.77/k/a/b",
        ] {
            assert_eq!(read_path(&Path::from(path)), Stored::Other, "{path}");
        }
    }
}
