//! Where the objects of templates are, as a setting.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use worker_vm::{ObjectsPlace, S3Config, S3Credentials};

use crate::mistake::{Mistake, Mistakes, Place};

/// The variables with the credentials, as other programs for S3 know them. No setting holds these.
const ACCESS_KEY_ID: &str = "AWS_ACCESS_KEY_ID";
const SECRET_ACCESS_KEY: &str = "AWS_SECRET_ACCESS_KEY";

/// A store of objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectsUrl {
    /// `memory:`, gone with the program.
    Memory,
    /// `file:<folder>`.
    Folder(PathBuf),
    /// `s3://<bucket>?endpoint=<url>&region=<region>`.
    S3 {
        /// The bucket.
        bucket: String,
        /// Where the service is, if it is not Amazon's.
        endpoint: Option<String>,
        /// The region.
        region: String,
    },
}

impl ObjectsUrl {
    /// The store, with the credentials of the environment if it needs some.
    pub fn place(&self) -> Result<ObjectsPlace, Mistakes> {
        let variable = |name: &str| {
            std::env::var_os(name).and_then(|value| value.into_string().ok()).ok_or_else(|| {
                let what = format!("`objects.url` is a bucket, which needs {ACCESS_KEY_ID} and {SECRET_ACCESS_KEY}");
                Mistakes::from(Mistake::new(Place::new(name), what))
            })
        };
        Ok(match self {
            Self::Memory => ObjectsPlace::Memory,
            Self::Folder(path) => ObjectsPlace::Folder(path.clone()),
            Self::S3 { bucket, endpoint, region } => ObjectsPlace::S3(S3Config {
                bucket: bucket.clone(),
                endpoint: endpoint.clone(),
                region: region.clone(),
                credentials: S3Credentials {
                    access_key_id: variable(ACCESS_KEY_ID)?,
                    secret_access_key: variable(SECRET_ACCESS_KEY)?,
                },
            }),
        })
    }
}

impl FromStr for ObjectsUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            Err("expected `file:<folder>`, `memory:` or `s3://<bucket>?endpoint=<url>&region=<region>`, without credentials".to_owned())
        };
        if text == "memory:" {
            return Ok(Self::Memory);
        }
        if let Some(folder) = text.strip_prefix("file:") {
            return if folder.is_empty() { wrong() } else { Ok(Self::Folder(folder.into())) };
        }
        let Some(rest) = text.strip_prefix("s3://") else { return wrong() };
        let (bucket, query) = rest.split_once('?').unwrap_or((rest, ""));
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if bucket.is_empty() || !bucket.chars().all(is_name) {
            return wrong();
        }
        let (mut endpoint, mut region) = (None, "us-east-1".to_owned());
        for part in query.split('&').filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some(("endpoint", url)) if url.starts_with("https://") || url.starts_with("http://") => {
                    if url.contains('@') {
                        return wrong();
                    }
                    endpoint = Some(url.to_owned());
                }
                Some(("region", name)) if !name.is_empty() => name.clone_into(&mut region),
                _ => return wrong(),
            }
        }
        Ok(Self::S3 { bucket: bucket.to_owned(), endpoint, region })
    }
}

impl fmt::Display for ObjectsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory:"),
            Self::Folder(path) => write!(f, "file:{}", path.display()),
            Self::S3 { bucket, endpoint: Some(endpoint), region } => {
                write!(f, "s3://{bucket}?endpoint={endpoint}&region={region}")
            }
            Self::S3 { bucket, endpoint: None, region } => write!(f, "s3://{bucket}?region={region}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in [
            "memory:",
            "file:a/b c",
            "file:/a",
            "s3://b?region=us-east-1",
            "s3://b.c-d?endpoint=http://localhost:9000&region=eu",
        ] {
            assert_eq!(text.parse::<ObjectsUrl>().unwrap().to_string(), text);
        }
        for wrong in [
            "",
            "file:",
            "memory",
            "memory:x",
            "s3://",
            "s3://?region=a",
            "s3://a/b",
            "s3://me:secret@b",
            "s3://b?endpoint=x",
            "s3://b?region=",
            "s3://b?key=x",
            "s3://b?endpoint=http://me:secret@host",
            "/a",
            "http://x",
        ] {
            assert!(wrong.parse::<ObjectsUrl>().is_err(), "{wrong}");
        }
    }
}
