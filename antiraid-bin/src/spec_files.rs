//! Specs on disk: which there are, and which template each is for.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use worker_builtins::Builtins;
use worker_core::{SourceLine, Template, TemplateFiles, TemplateLimits};
use worker_vm::{CompileError, compile};

use crate::mistake::{Mistake, Mistakes};
use crate::template_dir::{ENTRY, FolderTemplate, MANIFEST, SPEC_SUFFIX, read_templates};

/// The specs of one folder, with what they test.
#[derive(Clone, Debug)]
pub struct SpecSuite {
    /// The root of the template; of specs without one, the folder that was given.
    pub folder: PathBuf,
    /// What is tested.
    pub subject: Subject,
    /// What specs see as their files: those of the template, the specs, and the runner's entry.
    pub files: Arc<TemplateFiles>,
    /// The specs' paths from the folder, sorted.
    pub specs: Vec<String>,
    /// The shared library that all of it requires from.
    pub library: Arc<TemplateFiles>,
}

/// What a suite tests.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A template.
    Template(Box<FolderTemplate>),
    /// The built-in template.
    Builtin(Arc<Template>),
    /// Modules alone: there is nothing that gets events.
    Nothing,
}

impl SpecSuite {
    /// A path from the root of the suite, as it is found on disk.
    pub fn on_disk(&self, path: &str) -> String {
        let path = Path::new(path.trim_start_matches('/'));
        let folder = self.folder.strip_prefix(".").unwrap_or(&self.folder);
        folder.join(path).display().to_string()
    }
}

/// What loads a spec, as `/init.luau` of its VM.
const DRIVER: &str = "\
local request = (...).data
return require(\"@antiraid-test\").__run(request, function()
	return require(request.module)
end)
";

/// Finds all specs at and below `dir` (or `dir` itself, if it is one), and reads what they are for. Either all can be run, or every mistake is named.
pub fn read_suites(dir: &Path, limits: &TemplateLimits, builtins: &Builtins) -> Result<Vec<SpecSuite>, Mistakes> {
    let mut mistakes = Mistakes::none();
    let mut paths = Vec::new();
    if dir.is_file() && dir.to_string_lossy().ends_with(SPEC_SUFFIX) {
        paths.push(dir.into());
    } else {
        collect(dir, &mut paths, &mut mistakes);
    }
    if paths.is_empty() && mistakes.iter().len() == 0 {
        let what =
            format!("no spec here: no file at or below it ends in {SPEC_SUFFIX}; `antiraid test --help` has one");
        mistakes.add(Mistake::in_file(dir, what));
    }
    let mut folders: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for path in paths {
        folders.entry(root_of(&path).unwrap_or_else(|| folder_of(dir))).or_default().push(path);
    }
    let mut suites = Vec::new();
    for (folder, specs) in folders {
        match read_suite(folder, &specs, limits, builtins) {
            Ok(suite) => suites.push(suite),
            Err(found) => mistakes.extend(found.iter().cloned()),
        }
    }
    mistakes.or(suites)
}

/// Adds the specs at and below the folder.
fn collect(folder: &Path, specs: &mut Vec<PathBuf>, mistakes: &mut Mistakes) {
    let entries = fs::read_dir(folder).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let mut entries = match entries {
        Ok(entries) => entries,
        Err(error) => return mistakes.add(Mistake::in_file(folder, format!("cannot be read: {error}"))),
    };
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        // Links are not followed: they could lead round in a circle.
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules" {
            collect(&path, specs, mistakes);
        } else if kind.is_file() && name.ends_with(SPEC_SUFFIX) {
            specs.push(path.strip_prefix(".").map_or(path.clone(), Path::to_owned));
        }
    }
}

/// The folder of the template, or of the built-in one, that a spec lies in.
fn root_of(spec: &Path) -> Option<PathBuf> {
    // Upwards from a relative path ends at an empty one, which is the working folder; beyond that by absolute paths.
    let absolute = std::path::absolute(spec).ok()?;
    let is_root = |folder: &Path| folder.join(MANIFEST).is_file() || is_builtins(folder);
    let depth = absolute.ancestors().skip(1).position(is_root)?;
    let shown = spec.ancestors().nth(depth + 1).filter(|folder| is_root(folder));
    match shown {
        Some(folder) if folder.as_os_str().is_empty() => Some(".".into()),
        Some(folder) => Some(folder.into()),
        None => absolute.ancestors().nth(depth + 1).map(Path::to_owned),
    }
}

/// The folder that was given, or that of the spec that was.
fn folder_of(dir: &Path) -> PathBuf {
    match dir.parent() {
        Some(folder) if dir.is_file() => folder.into(),
        _ => dir.into(),
    }
}

fn is_builtins(folder: &Path) -> bool {
    folder.join(ENTRY).is_file() && folder.join(Builtins::LIBRARY_ROOT).is_dir()
}

fn read_suite(
    folder: PathBuf,
    specs: &[PathBuf],
    limits: &TemplateLimits,
    builtins: &Builtins,
) -> Result<SpecSuite, Mistakes> {
    let mut library = builtins.library();
    let subject = if folder.join(MANIFEST).is_file() {
        let template = read_templates(&folder, limits, &library)?.into_iter().next();
        template.map_or(Subject::Nothing, |template| Subject::Template(Box::new(template)))
    } else if is_builtins(&folder) {
        let read = Builtins::from_dir(&folder).map_err(|error| Mistake::in_file(&folder, crate::cli::chain(&error)))?;
        library = read.library();
        Subject::Builtin(read.template())
    } else {
        Subject::Nothing
    };
    let own = match &subject {
        Subject::Template(template) => Some(&template.files),
        Subject::Builtin(template) => Some(&*template.files),
        Subject::Nothing => None,
    };
    let mut mistakes = Mistakes::none();
    let mut files: Vec<(String, Arc<str>)> = Vec::new();
    files.extend(own.into_iter().flat_map(TemplateFiles::iter).map(|(path, text)| (path.to_string(), text.clone())));
    files.retain(|(path, _)| path != ENTRY);
    files.push((ENTRY.into(), DRIVER.into()));
    let mut names = Vec::new();
    for path in specs {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                mistakes.add(Mistake::in_file(path, format!("cannot be read: {error}")));
                continue;
            }
        };
        if let Err(CompileError { at: SourceLine { line, .. }, message }) = compile("/spec.luau", &text) {
            mistakes.add(Mistake::in_line(path, line as usize, message));
        }
        let name = path.strip_prefix(&folder).unwrap_or(path).to_string_lossy().into_owned();
        names.push(name.clone());
        files.push((name, text.into()));
    }
    match TemplateFiles::new(files, &TemplateLimits::default()) {
        Ok(files) => mistakes.or(SpecSuite { folder, subject, files: Arc::new(files), specs: names, library }),
        Err(error) => {
            mistakes.add(Mistake::in_file(&folder, error.to_string()));
            mistakes.or(()).and_then(|()| Err(Mistakes::none()))
        }
    }
}
