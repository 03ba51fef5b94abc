//! `antiraid types`: what an editor needs to know of templates, written to a folder.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::json;
use worker_builtins::{Builtins, GLOBALS};
use worker_core::ContentHash;

use crate::cli::{CommandError, Outcome, TypesArgs};
use crate::config::Config;
use crate::engine;
use crate::mistake::{Mistake, Mistakes};
use crate::output::Output;

/// Which files this command wrote, and what they were, so that it can tell them from those that somebody changed.
const LEDGER: &str = "templating-types/.written-by-antiraid";

/// Runs the command.
pub fn run(args: &TypesArgs, config: &Config, output: &mut Output) -> Result<Outcome, CommandError> {
    let files = type_files(&engine::builtins(config)?);
    let written = write(&args.dir, &files, if args.force { Foreign::Replace } else { Foreign::Refuse })?;
    output.line(format_args!(
        "{}: {} files written, {} already there, {} removed that are no longer of use",
        args.dir.display(),
        written.written,
        written.same,
        written.removed
    ))?;
    Ok(Outcome::Good)
}

/// What is written, by path from the folder.
pub fn type_files(builtins: &Builtins) -> BTreeMap<String, String> {
    let mut files: BTreeMap<String, String> =
        builtins.library().iter().map(|(path, text)| (path.to_string(), text.to_string())).collect();
    let globals = format!("{}globals.d.luau", Builtins::LIBRARY_ROOT);
    let settings = json!({
        "luau-lsp.platform.type": "standard",
        "luau-lsp.types.definitionFiles": { "@antiraid": &globals },
        // The types are those of Luau's new type solver, with which `antiraid check` checks.
        "luau-lsp.fflags.enableNewSolver": true,
        "luau-lsp.sourcemap.enabled": false,
        "files.associations": { "*.luau": "luau", ".luaurc": "jsonc" },
    });
    let extensions = json!({ "recommendations": ["johnnymorganz.luau-lsp"] });
    let pretty = |value| serde_json::to_string_pretty(value).expect("because it is made of texts") + "\n";
    files.insert(globals, GLOBALS.to_owned());
    files.insert(".vscode/settings.json".into(), pretty(&settings));
    files.insert(".vscode/extensions.json".into(), pretty(&extensions));
    // The same aliases that the built-in template has, whose root is a folder like this one.
    if let Some(aliases) = builtins.template().files.get(".luaurc") {
        files.insert(".luaurc".into(), aliases.to_string());
    }
    files
}

/// What becomes of a file that this command did not write, or that was changed since.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Foreign {
    Refuse,
    Replace,
}

#[derive(Default)]
struct Written {
    written: usize,
    same: usize,
    removed: usize,
}

fn write(dir: &Path, files: &BTreeMap<String, String>, foreign: Foreign) -> Result<Written, Mistakes> {
    let mut mistakes = Mistakes::none();
    if dir.join("template.toml").exists() {
        let what = "is a template, of which the types would become a part; write them to the folder that it is in";
        return Err(Mistake::in_file(dir, what).into());
    }
    let ledger = read(dir, LEDGER)?.unwrap_or_default();
    let before: BTreeMap<&str, &str> =
        ledger.lines().filter_map(|line| line.split_once("  ")).map(|(hash, path)| (path, hash)).collect();

    // First look at everything, so that nothing is written if anything is in the way.
    let mut to_write = Vec::new();
    let mut done = Written::default();
    for (path, text) in files {
        match read(dir, path)? {
            Some(there) if there == *text => done.same += 1,
            Some(there) if foreign == Foreign::Refuse && before.get(&**path) != Some(&&*hash(&there)) => {
                let what = "is not as this command wrote it; move it away, or replace it with --force";
                mistakes.add(Mistake::in_file(&dir.join(path), what));
            }
            _ => to_write.push((path, text)),
        }
    }
    mistakes.or(())?;

    for (path, text) in to_write {
        put(dir, path, text)?;
        done.written += 1;
    }
    // A path of the ledger is joined to the folder, so it must not lead out of it, whoever wrote the ledger.
    for (path, hash_then) in before.into_iter().filter(|(path, _)| !files.contains_key(*path) && is_below(path)) {
        if read(dir, path)?.is_some_and(|there| hash(&there) == *hash_then) {
            fs::remove_file(dir.join(path)).map_err(failed(&dir.join(path), "removed"))?;
            done.removed += 1;
        }
    }
    let ledger: String = files.iter().map(|(path, text)| format!("{}  {path}\n", hash(text))).collect();
    put(dir, LEDGER, &ledger)?;
    Ok(done)
}

fn hash(text: &str) -> String {
    ContentHash::of(text.as_bytes()).to_string()
}

fn is_below(path: &str) -> bool {
    !path.is_empty() && path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains('\\')
}

/// The text of a file; `None` if there is none.
fn read(dir: &Path, path: &str) -> Result<Option<String>, Mistakes> {
    let path = dir.join(path);
    match fs::read(&path) {
        // What is no text is nothing that this command wrote; it compares as different from everything.
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&path, "read")(error)),
    }
}

fn put(dir: &Path, path: &str, text: &str) -> Result<(), Mistakes> {
    let path = dir.join(path);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed(folder, "made"))?;
    }
    fs::write(&path, text).map_err(failed(&path, "written"))
}

fn failed(path: &Path, done: &str) -> impl FnOnce(io::Error) -> Mistakes {
    let path = path.to_owned();
    let done = done.to_owned();
    move |error| Mistake::in_file(&path, format!("cannot be {done}: {error}")).into()
}
