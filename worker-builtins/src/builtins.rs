//! The built-in template and the shared library tree.

use std::io;
use std::path::{Path, PathBuf};
use std::string::FromUtf8Error;
use std::sync::Arc;

use include_dir::{Dir, include_dir};
use worker_core::{
    Capabilities, CompatDate, Template, TemplateFiles, TemplateFilesError, TemplateLimits, TemplateName, TemplateOrigin,
};

/// The root as the built-in template sees it.
static EMBEDDED: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/builtins");

/// What stands in a template's global table beside Luau's own, for type checkers and editors: a file of declarations.
pub const GLOBALS: &str = include_str!("../types/globals.d.luau");

/// The built-in template and the shared library tree, checked against the limits of any other template.
///
/// Both come from one folder, which is the root `/` that the built-in template sees: what is under `templating-types/`
/// is the tree, everything else is the template.
#[derive(Clone, Debug)]
pub struct Builtins {
    template: Arc<Template>,
    library: Arc<TemplateFiles>,
}

/// Why a folder does not hold the built-in template and the shared library tree.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuiltinsError {
    /// A file or folder could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// What could not be read.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something other than a file or a folder, for example a symbolic link.
    #[error("`{}` is neither a file nor a folder", .0.display())]
    Special(PathBuf),
    /// A source file that is not text.
    #[error("`{}` is not UTF-8", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// Where the text ends.
        #[source]
        source: FromUtf8Error,
    },
    /// A name that is not UTF-8.
    #[error("the name `{}` is not UTF-8", .0.display())]
    BadName(PathBuf),
    /// There is no `init.luau`.
    #[error("`{}` has no `init.luau`", .0.display())]
    NoEntry(PathBuf),
    /// There is no `templating-types/`.
    #[error("`{}` has no source file under `{tree}`", .0.display(), tree = Builtins::LIBRARY_ROOT)]
    NoLibrary(PathBuf),
    /// The files of one of the two break the rules for a template's files.
    #[error("the {part} of `{}` is refused", path.display())]
    Refused {
        /// The folder.
        path: PathBuf,
        /// Which of the two.
        part: &'static str,
        /// Which rule, and which file.
        #[source]
        source: TemplateFilesError,
    },
}

impl Builtins {
    /// Where the shared library tree begins in every template's root.
    pub const LIBRARY_ROOT: &'static str = "templating-types/";

    /// What the built-in template subscribes to.
    pub const EVENTS: [&'static str; 4] =
        ["INTERACTION_CREATE", "GetSettings", "ExecuteSetting[builtins.settings]", "KeyExpiry[builtins.punishments]"];

    /// What this program was built with.
    pub fn embedded() -> Self {
        let mut files = Vec::new();
        collect_embedded(&EMBEDDED, &mut files);
        Self::new(Path::new("builtins"), files).expect("because a test builds the embedded files")
    }

    /// A folder in place of what is embedded, for development. Read once, now. Left out are files that are not `*.luau`,
    /// `*.lua` or `.luaurc`, and what has a name that begins with a dot; a symbolic link is an error.
    pub fn from_dir(path: &Path) -> Result<Self, BuiltinsError> {
        let mut files = Vec::new();
        collect_dir(path, "", &mut files)?;
        Self::new(path, files)
    }

    /// The built-in template, `$builtins`.
    pub fn template(&self) -> Arc<Template> {
        Arc::clone(&self.template)
    }

    /// The shared library tree; every path begins with [`LIBRARY_ROOT`](Self::LIBRARY_ROOT).
    pub fn library(&self) -> Arc<TemplateFiles> {
        Arc::clone(&self.library)
    }

    fn new(root: &Path, files: Vec<(String, String)>) -> Result<Self, BuiltinsError> {
        let (library, own): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|(path, _)| path.starts_with(Self::LIBRARY_ROOT));
        if !own.iter().any(|(path, _)| path == "init.luau") {
            return Err(BuiltinsError::NoEntry(root.into()));
        }
        if library.is_empty() {
            return Err(BuiltinsError::NoLibrary(root.into()));
        }

        let check = |part, files| {
            TemplateFiles::new(files, &TemplateLimits::default())
                .map(Arc::new)
                .map_err(|source| BuiltinsError::Refused { path: root.into(), part, source })
        };
        let template = Template {
            name: TemplateName::builtins(),
            files: check("built-in template", own)?,
            events: Self::EVENTS.into_iter().map(Box::from).collect(),
            allowed_caps: Capabilities::from_iter(["*"]),
            error_channel: None,
            compat: CompatDate::NEWEST,
            origin: TemplateOrigin::Builtin,
            // No tenant installed it: the epoch, so that equal files make equal templates.
            created_at: Default::default(),
            updated_at: Default::default(),
        };
        Ok(Self { template: Arc::new(template), library: check("shared library tree", library)? })
    }
}

/// Whether a file is of use to a script. Specs are not: `antiraid test` reads them itself.
fn is_source(name: &str) -> bool {
    name == ".luaurc" || (name.ends_with(".luau") && !name.ends_with(".spec.luau")) || name.ends_with(".lua")
}

/// Whether an editor or a version control system keeps its own things under that name.
fn is_hidden(name: &str) -> bool {
    name.starts_with('.') && name != ".luaurc"
}

fn collect_embedded(dir: &Dir<'_>, files: &mut Vec<(String, String)>) {
    for file in dir.files() {
        let path = file.path().to_str().expect("because a test builds the embedded files");
        if is_source(path.rsplit('/').next().unwrap_or(path)) {
            let text = file.contents_utf8().expect("because a test builds the embedded files");
            files.push((path.to_owned(), text.to_owned()));
        }
    }
    for dir in dir.dirs() {
        collect_embedded(dir, files);
    }
}

/// Reads a folder. `prefix` is its path from the root, empty or ending in `/`.
fn collect_dir(dir: &Path, prefix: &str, files: &mut Vec<(String, String)>) -> Result<(), BuiltinsError> {
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| BuiltinsError::Read { path, source }
    };
    for entry in std::fs::read_dir(dir).map_err(read(dir))? {
        let entry = entry.map_err(read(dir))?;
        let path = entry.path();
        let name = entry.file_name().into_string().map_err(|_| BuiltinsError::BadName(path.clone()))?;
        let kind = entry.file_type().map_err(read(&path))?;
        if is_hidden(&name) {
            continue;
        }
        if kind.is_dir() {
            collect_dir(&path, &format!("{prefix}{name}/"), files)?;
        } else if !kind.is_file() {
            return Err(BuiltinsError::Special(path));
        } else if is_source(&name) {
            let bytes = std::fs::read(&path).map_err(read(&path))?;
            let text = String::from_utf8(bytes).map_err(|source| BuiltinsError::NotText { path, source })?;
            files.push((format!("{prefix}{name}"), text));
        }
    }
    Ok(())
}
