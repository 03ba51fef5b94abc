//! Every Luau file of the repository is type-checked, strictly.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use antiraid_bin::type_check::{Strictness, TypeChecker, TypeProblem};
use worker_builtins::Builtins;
use worker_core::{TemplateFiles, TemplateLimits};

use crate::antiraid::workspace;

fn list(files: &TemplateFiles) -> Vec<(String, String)> {
    files.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect()
}

fn folder(dir: &Path, prefix: &str, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.unwrap().path();
        let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            folder(&path, &format!("{name}/"), files);
        } else if name.ends_with(".luau") || name.ends_with(".luaurc") {
            files.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

fn check(files: Vec<(String, String)>, strictness: Strictness) -> Vec<TypeProblem> {
    let files = TemplateFiles::new(files, &TemplateLimits::default()).unwrap();
    TypeChecker::new(Arc::new(files), Builtins::embedded().library(), strictness).unwrap().check().unwrap()
}

fn show(problems: &[TypeProblem]) -> String {
    let lines = problems.iter().map(|at| format!("{}:{}:{}: {}\n", at.path, at.line, at.column, at.message));
    lines.collect()
}

#[test]
fn the_built_in_template_and_the_library() {
    // Everything that stands in the root `/` of the built-in template, as files of its own: those are checked.
    let mut files = list(&Builtins::embedded().template().files);
    files.extend(list(&Builtins::embedded().library()));
    let problems = check(files, Strictness::Strict);
    assert!(problems.is_empty(), "{} problems\n{}", problems.len(), show(&problems));
}

/// Each of them is an `/init.luau` when it runs, beside which the built-in template's files are.
#[test]
fn the_tests_of_the_library() {
    let mut tests = Vec::new();
    folder(&workspace().join("worker-builtins/tests/luau"), "", &mut tests);
    assert!(tests.len() > 10, "{tests:?}");
    let mut found = String::new();
    for (name, text) in tests {
        let mut files = list(&Builtins::embedded().template().files);
        files.retain(|(path, _)| path != "init.luau");
        files.push(("init.luau".into(), text));
        let mut problems = check(files, Strictness::Strict);
        problems.retain(|problem| problem.path == "/init.luau");
        found += &show(&problems).replace("/init.luau", &name);
    }
    assert!(found.is_empty(), "\n{found}");
}

#[test]
fn the_examples() {
    let mut seen = 0;
    for entry in fs::read_dir(workspace().join("examples/templates")).unwrap() {
        let mut files = Vec::new();
        folder(&entry.unwrap().path(), "", &mut files);
        seen += files.len();
        let problems = check(files, Strictness::Strict);
        assert!(problems.is_empty(), "{}", show(&problems));
    }
    assert!(seen > 10, "{seen}");
}
