//! A folder in place of what is embedded.

use std::error::Error as _;
use std::fs;
use std::path::Path;

use tempfile::TempDir;
use worker_builtins::{Builtins, BuiltinsError};
use worker_core::{TemplateFilesError, TemplateLimits};

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, bytes) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    dir
}

const ENTRY: (&str, &[u8]) = ("init.luau", b"return 1");
const LIBRARY: (&str, &[u8]) = ("templating-types/@antiraid-ext/array.luau", b"return 2");

fn refused(files: &[(&str, &[u8])]) -> BuiltinsError {
    Builtins::from_dir(folder(files).path()).unwrap_err()
}

#[test]
fn the_embedded_folder_read_from_disk_is_the_same() {
    let (embedded, read) =
        (Builtins::embedded(), Builtins::from_dir(&Path::new(env!("CARGO_MANIFEST_DIR")).join("builtins")).unwrap());
    assert_eq!(embedded.template(), read.template());
    assert_eq!(embedded.library(), read.library());
}

#[test]
fn a_folder_is_split_and_junk_is_left_out() {
    let dir = folder(&[
        ENTRY,
        LIBRARY,
        ("lib/words.lua", b"return 3"),
        (".luaurc", b"{}"),
        (".init.luau.swp", b"\xff\x00"),
        (".#init.luau", b"\xff"),
        (".git/x.luau", b"\xff"),
        ("notes.md", b"\xff"),
    ]);
    let builtins = Builtins::from_dir(dir.path()).unwrap();
    let own: Vec<_> = builtins.template().files.iter().map(|(path, _)| path.to_string()).collect();
    assert_eq!(own, [".luaurc", "init.luau", "lib/words.lua"]);
    let library: Vec<_> = builtins.library().iter().map(|(path, text)| format!("{path}: {text}")).collect();
    assert_eq!(library, ["templating-types/@antiraid-ext/array.luau: return 2"]);
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let path = Path::new("/nowhere/builtins");
    let error = Builtins::from_dir(path).unwrap_err();
    assert_eq!(error.to_string(), "cannot read `/nowhere/builtins`");
    assert!(error.source().is_some());
}

#[test]
fn what_is_missing_is_named() {
    let no_entry = refused(&[LIBRARY, ("lib/init.luau", b"")]);
    assert!(matches!(no_entry, BuiltinsError::NoEntry(_)), "{no_entry:?}");
    assert!(no_entry.to_string().ends_with("has no `init.luau`"), "{no_entry}");
    let no_library = refused(&[ENTRY, ("templating-types/README.md", b"")]);
    assert!(matches!(no_library, BuiltinsError::NoLibrary(_)), "{no_library:?}");
    assert!(no_library.to_string().contains("templating-types/"), "{no_library}");
}

#[test]
fn a_file_that_is_not_text_is_named() {
    let error = refused(&[ENTRY, LIBRARY, ("lib/bad.luau", b"return '\xff'")]);
    assert!(matches!(error, BuiltinsError::NotText { .. }), "{error:?}");
    assert!(error.to_string().contains("lib/bad.luau"), "{error}");
}

#[test]
fn a_file_that_is_too_large_is_named() {
    let bytes = vec![b' '; TemplateLimits::default().file_bytes_max + 1];
    let error = refused(&[ENTRY, LIBRARY, ("templating-types/big.luau", &bytes)]);
    let BuiltinsError::Refused { part: "shared library tree", source, .. } = error else { panic!("{error:?}") };
    assert!(matches!(&source, TemplateFilesError::FileTooLarge { path, .. } if &**path == "templating-types/big.luau"));
}

#[cfg(unix)]
#[test]
fn a_link_is_refused_rather_than_followed() {
    for (target, name) in [("/etc/passwd", "passwd.luau"), (".", "loop")] {
        let dir = folder(&[ENTRY, LIBRARY]);
        std::os::unix::fs::symlink(target, dir.path().join(name)).unwrap();
        let error = Builtins::from_dir(dir.path()).unwrap_err();
        assert!(matches!(&error, BuiltinsError::Special(path) if path.ends_with(name)), "{error:?}");
    }
}
