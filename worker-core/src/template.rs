//! A template: the code that a tenant installed, and when it runs.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Capabilities, Snowflake, TemplateLimits};

/// One template of one tenant, ready to run: names of the shop and of the built-in bot are resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// Its name in the tenant.
    pub name: TemplateName,
    /// Its files. Templates with the same files share them.
    pub files: Arc<TemplateFiles>,
    /// What it subscribes to: names, base names, and `name[scope]` (template API, section 1.5).
    pub events: Arc<[Box<str>]>,
    /// What it may do.
    pub allowed_caps: Capabilities,
    /// The channel for its errors.
    pub error_channel: Option<Snowflake>,
    /// The rules of which month it relies on.
    pub compat: CompatDate,
    /// Where the code comes from.
    pub origin: TemplateOrigin,
    /// When the tenant installed it.
    pub created_at: Timestamp,
    /// When the tenant last changed it.
    pub updated_at: Timestamp,
}

/// Where the code of a template comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateOrigin {
    /// The tenant wrote it.
    Tenant,
    /// A version in the shop.
    Shop {
        /// The shop's name for it.
        name: Arc<str>,
        /// The version that was resolved.
        version: ShopVersion,
        /// The tenant that published it, as text of a guild id.
        owner: Option<Snowflake>,
        /// What the shop says of it.
        description: Option<Arc<str>>,
    },
    /// Part of this program.
    Builtin,
}

/// The name of a template: `name`, `$shop/<name>#<version>` or `$builtins`. 1 to 128 characters. Clones share the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TemplateName(Arc<str>);

/// Why a text is not a template's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateNameError {
    /// Empty, or longer than 128 characters.
    #[error("a template's name has 1 to 128 characters, `{0}` has {len}", len = .0.chars().count())]
    Length(Box<str>),
    /// Begins with `$` and is neither the built-in template nor one of the shop.
    #[error("`{0}`: a name that begins with `$` is `$builtins` or `$shop/<name>#<version>`")]
    Reserved(Box<str>),
    /// Has control characters.
    #[error("{0:?} has control characters")]
    Control(Box<str>),
}

impl TemplateName {
    /// The name of the built-in template.
    pub const BUILTINS: &'static str = "$builtins";

    /// Checks the text.
    pub fn new(text: &str) -> Result<Self, TemplateNameError> {
        if text.is_empty() || text.chars().count() > 128 {
            return Err(TemplateNameError::Length(text.into()));
        }
        if text.chars().any(char::is_control) {
            return Err(TemplateNameError::Control(text.into()));
        }
        if text.starts_with('$') && text != Self::BUILTINS && ShopRef::parse(text).is_none() {
            return Err(TemplateNameError::Reserved(text.into()));
        }
        Ok(Self(text.into()))
    }

    /// The name of the built-in template.
    pub fn builtins() -> Self {
        Self(Self::BUILTINS.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the built-in template.
    pub fn is_builtins(&self) -> bool {
        &*self.0 == Self::BUILTINS
    }

    /// What it names in the shop, if it does.
    pub fn shop(&self) -> Option<ShopRef<'_>> {
        ShopRef::parse(&self.0)
    }
}

impl fmt::Display for TemplateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TemplateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TemplateName {
    type Err = TemplateNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl Serialize for TemplateName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TemplateName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

/// A name in the shop: `$shop/<name>#<version>`, or `#latest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShopRef<'a> {
    /// The shop's name.
    pub name: &'a str,
    /// The version; `None` is the latest.
    pub version: Option<&'a str>,
}

impl<'a> ShopRef<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (name, version) = text.strip_prefix("$shop/")?.rsplit_once('#')?;
        if name.is_empty() || version.is_empty() {
            return None;
        }
        Some(Self { name, version: (version != "latest").then_some(version) })
    }
}

/// A version in the shop. Ordered part by part, parts being separated by `.`, `-` or `+`; as numbers where both are
/// numbers, else as text, so that `10` is above `9` and `1.10` above `1.9`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShopVersion(Arc<str>);

impl ShopVersion {
    /// The version written so.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Ord for ShopVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        let split = |c: char| matches!(c, '.' | '-' | '+');
        let (mut mine, mut theirs) = (self.0.split(split), other.0.split(split));
        loop {
            let order = match (mine.next(), theirs.next()) {
                // Equal as versions (1.0 and 1.00): the text decides, so that the order agrees with `Eq`.
                (None, None) => return self.0.cmp(&other.0),
                (None, Some(_)) => Ordering::Less,
                (Some(_), None) => Ordering::Greater,
                (Some(a), Some(b)) => match (a.parse::<u64>(), b.parse::<u64>()) {
                    (Ok(a), Ok(b)) => a.cmp(&b),
                    // A number is above a word: 1.0 is newer than 1.beta.
                    (Ok(_), Err(_)) => Ordering::Greater,
                    (Err(_), Ok(_)) => Ordering::Less,
                    (Err(_), Err(_)) => a.cmp(b),
                },
            };
            if order != Ordering::Equal {
                return order;
            }
        }
    }
}

impl PartialOrd for ShopVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ShopVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The month whose rules a template relies on, for example `2025-10`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CompatDate {
    year: u16,
    month: u8,
}

impl CompatDate {
    /// The rules before compatibility dates: what a template without a date gets.
    pub const OLDEST: Self = Self { year: 2025, month: 10 };
    /// The newest rules.
    pub const NEWEST: Self = Self { year: 2026, month: 11 };

    /// Whether a child context limits every plugin (template API, A30), not the storing ones only.
    pub fn limits_every_plugin(self) -> bool {
        self > Self::OLDEST
    }
}

impl Default for CompatDate {
    fn default() -> Self {
        Self::OLDEST
    }
}

impl fmt::Display for CompatDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl fmt::Debug for CompatDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for CompatDate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let date = text
            .split_once('-')
            .filter(|(year, month)| year.len() == 4 && month.len() == 2)
            .and_then(|(year, month)| Some(Self { year: year.parse().ok()?, month: month.parse().ok()? }))
            .filter(|date| (1..=12).contains(&date.month))
            .ok_or_else(|| format!("`{text}` is not a month such as `{}`", Self::NEWEST))?;
        if date < Self::OLDEST || date > Self::NEWEST {
            return Err(format!("`{text}` is outside of what is known here, {} to {}", Self::OLDEST, Self::NEWEST));
        }
        Ok(date)
    }
}

/// SHA-256 of a template's files: equal hashes are equal code.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// The hash of bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The hash as it is stored.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for ContentHash {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The files of a template, by path from its root: `init.luau`, `lib/words.luau`. Immutable, with its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateFiles {
    files: BTreeMap<Arc<str>, Arc<str>>,
    hash: ContentHash,
}

/// Why a map of paths and texts is not a template's files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateFilesError {
    /// A path with an empty part, `.`, `..`, or NUL.
    #[error("`{0}`: a path has no empty, `.` or `..` part and no NUL")]
    BadPath(Box<str>),
    /// A path that is also the folder of another.
    #[error("`{0}` is both a file and a folder")]
    FileAndFolder(Box<str>),
    /// Too many files.
    #[error("{count} files, at most {max}")]
    TooMany {
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// A path that is too long.
    #[error("`{path}`: a path has at most {max} bytes")]
    PathTooLong {
        /// The path.
        path: Box<str>,
        /// The limit.
        max: usize,
    },
    /// A file that is too large.
    #[error("`{path}` has {bytes} bytes, at most {max}")]
    FileTooLarge {
        /// The file.
        path: Box<str>,
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Too much in all.
    #[error("{bytes} bytes in all, at most {max}")]
    TooLarge {
        /// The size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
}

impl TemplateFilesError {
    /// Whether a limit was passed, rather than a path badly formed.
    pub fn is_limit(&self) -> bool {
        !matches!(self, Self::BadPath(_) | Self::FileAndFolder(_))
    }
}

impl TemplateFiles {
    /// Checks paths and sizes. A leading `/` of a path is taken off.
    pub fn new<P: AsRef<str>, T: Into<Arc<str>>>(
        files: impl IntoIterator<Item = (P, T)>,
        limits: &TemplateLimits,
    ) -> Result<Self, TemplateFilesError> {
        let mut checked = BTreeMap::new();
        let mut bytes = 0usize;
        for (path, text) in files {
            let (path, text) = (path.as_ref(), text.into());
            let path = path.strip_prefix('/').unwrap_or(path);
            if path.split('/').any(|part| matches!(part, "" | "." | "..")) || path.contains('\0') {
                return Err(TemplateFilesError::BadPath(path.into()));
            }
            if path.len() > limits.path_bytes_max {
                return Err(TemplateFilesError::PathTooLong { path: path.into(), max: limits.path_bytes_max });
            }
            if text.len() > limits.file_bytes_max {
                return Err(TemplateFilesError::FileTooLarge {
                    path: path.into(),
                    bytes: text.len(),
                    max: limits.file_bytes_max,
                });
            }
            bytes += text.len();
            checked.insert(Arc::<str>::from(path), text);
        }
        if checked.len() > limits.files_max {
            return Err(TemplateFilesError::TooMany { count: checked.len(), max: limits.files_max });
        }
        if bytes > limits.template_bytes_max {
            return Err(TemplateFilesError::TooLarge { bytes, max: limits.template_bytes_max });
        }
        for path in checked.keys() {
            for (slash, _) in path.match_indices('/') {
                if checked.contains_key(&path[..slash]) {
                    return Err(TemplateFilesError::FileAndFolder(path[..slash].into()));
                }
            }
        }
        let hash = Self::hash_of(&checked);
        Ok(Self { files: checked, hash })
    }

    /// The text of a file. The path has no leading `/`.
    pub fn get(&self, path: &str) -> Option<&Arc<str>> {
        self.files.get(path)
    }

    /// All files in the order of their paths.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Arc<str>)> {
        self.files.iter()
    }

    /// The hash of all paths and texts.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Bytes of all texts.
    pub fn bytes(&self) -> usize {
        self.files.values().map(|text| text.len()).sum()
    }

    fn hash_of(files: &BTreeMap<Arc<str>, Arc<str>>) -> ContentHash {
        let mut hasher = Sha256::new();
        for (path, text) in files {
            // Lengths first, so that no two different maps give the same bytes.
            for part in [path, text] {
                hasher.update((part.len() as u64).to_le_bytes());
                hasher.update(part.as_bytes());
            }
        }
        ContentHash(hasher.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&str]) -> Result<TemplateFiles, TemplateFilesError> {
        TemplateFiles::new(paths.iter().map(|path| (*path, "return 1")), &TemplateLimits::default())
    }

    #[test]
    fn names() {
        for good in ["raid", "$builtins", "$shop/mod tools#1.2", "$shop/a#latest", "ünïcode", &"x".repeat(128)] {
            assert_eq!(TemplateName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "$other", "$shop/x", "$shop/#1", "$shop/x#", "a\nb", &"x".repeat(129)] {
            assert!(TemplateName::new(bad).is_err(), "{bad}");
        }
        let name = TemplateName::new("$shop/a#b#2").unwrap();
        assert_eq!(name.shop(), Some(ShopRef { name: "a#b", version: Some("2") }));
    }

    #[test]
    fn versions_are_ordered_by_number() {
        let sorted = ["1.beta", "1.0", "1.9", "1.10", "1.10.1", "9", "10"].map(ShopVersion::new);
        for pair in sorted.windows(2) {
            assert!(pair[0] < pair[1], "{} < {}", pair[0], pair[1]);
        }
        assert_ne!(ShopVersion::new("1.0"), ShopVersion::new("1.00"));
    }

    #[test]
    fn compatibility_dates() {
        assert_eq!("2025-10".parse::<CompatDate>().unwrap(), CompatDate::OLDEST);
        assert!(!CompatDate::default().limits_every_plugin());
        assert!(CompatDate::NEWEST.limits_every_plugin());
        for bad in ["", "2025", "2025-13", "2024-01", "2031-01", "2025-1", "october"] {
            assert!(bad.parse::<CompatDate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_are_checked() {
        assert!(files(&["init.luau", "lib/a.luau", "/lib/b.luau"]).unwrap().get("lib/b.luau").is_some());
        for bad in ["", "a//b", "../x", "a/./b", "a/..", "a\0b"] {
            assert!(matches!(files(&[bad]), Err(TemplateFilesError::BadPath(_))), "{bad:?}");
        }
        assert_eq!(files(&["a/b/c", "a/b"]), Err(TemplateFilesError::FileAndFolder("a/b".into())));
        // A name that merely begins like the folder is another file.
        assert!(files(&["a", "a.b/c", "a-b"]).is_ok());
        assert!(files(&["a", "a-b", "a/c"]).is_err());
    }

    #[test]
    fn limits_accept_n_and_refuse_n_plus_1() {
        let limits = TemplateLimits {
            files_max: 2,
            file_bytes_max: 4,
            template_bytes_max: 6,
            path_bytes_max: 5,
            ..Default::default()
        };
        let try_files = |files: &[(&str, &str)]| TemplateFiles::new(files.iter().copied(), &limits);
        assert!(try_files(&[("a", "1234"), ("b", "12")]).is_ok());
        assert!(matches!(try_files(&[("a", "12345")]), Err(TemplateFilesError::FileTooLarge { .. })));
        assert!(matches!(try_files(&[("a", "1234"), ("b", "123")]), Err(TemplateFilesError::TooLarge { .. })));
        assert!(matches!(try_files(&[("a", ""), ("b", ""), ("c", "")]), Err(TemplateFilesError::TooMany { .. })));
        assert!(try_files(&[("12345", "")]).is_ok());
        assert!(matches!(try_files(&[("123456", "")]), Err(TemplateFilesError::PathTooLong { .. })));
    }

    #[test]
    fn equal_hash_means_equal_files() {
        assert_eq!(files(&["a", "b"]).unwrap().hash(), files(&["b", "a"]).unwrap().hash());
        assert_ne!(files(&["a"]).unwrap().hash(), files(&["b"]).unwrap().hash());
        let one = TemplateFiles::new([("ab", "c")], &TemplateLimits::default()).unwrap();
        let other = TemplateFiles::new([("a", "bc")], &TemplateLimits::default()).unwrap();
        assert_ne!(one.hash(), other.hash());
    }
}
