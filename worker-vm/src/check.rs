//! What can be said about a template without running it.

use worker_core::TemplateFiles;

use crate::luau::compile::compile;
use crate::modules;
use crate::require_path::RequireTree;

/// Something wrong in a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, from the template's root, beginning with `/`.
    pub path: String,
    /// The line, from 1.
    pub line: u32,
    /// What is wrong.
    pub message: String,
}

/// Compiles every file of a template and resolves every `require` whose argument is written out.
pub fn check_template(files: &TemplateFiles, library: &TemplateFiles) -> Vec<Problem> {
    let mut problems = Vec::new();
    let tree = RequireTree { own: files, library };
    if files.get("init.luau").is_none() {
        let message = "not_found: a template begins at /init.luau".to_owned();
        problems.push(Problem { path: "/init.luau".into(), line: 1, message });
    }
    for (path, text) in files.iter() {
        if !(path.ends_with(".luau") || path.ends_with(".lua")) {
            continue;
        }
        let path = format!("/{path}");
        if let Err(error) = compile(&path, text) {
            problems.push(Problem { path, line: error.at.line, message: error.message });
            continue;
        }
        for (line, spec) in literal_requires(text) {
            if modules::registered(&spec).is_some() {
                continue;
            }
            if spec.eq_ignore_ascii_case(modules::test::NAME) {
                let message = modules::test::ELSEWHERE.to_owned();
                problems.push(Problem { path: path.clone(), line, message });
                continue;
            }
            if let Err(error) = tree.resolve(&path, &spec) {
                problems.push(Problem { path: path.clone(), line, message: error.to_string() });
            }
        }
    }
    problems
}

/// The calls `require("…")`, `require "…"` of a source that compiles, comments and strings left out.
fn literal_requires(source: &str) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    let bytes = source.as_bytes();
    let (mut at, mut line) = (0, 1);
    let mut word_before = false;
    while at < bytes.len() {
        let rest = &source[at..];
        let skipped = if let Some(comment) = rest.strip_prefix("--") {
            match long_bracket(comment) {
                Some(len) => 2 + len,
                None => rest.find('\n').unwrap_or(rest.len()),
            }
        } else if rest.starts_with(['"', '\'', '`']) {
            quoted(rest)
        } else if let Some(len) = long_bracket(rest) {
            len
        } else if !word_before && rest.starts_with("require") {
            let after = rest["require".len()..].trim_start();
            let after = after.strip_prefix('(').map_or(after, str::trim_start);
            if after.starts_with(['"', '\'']) {
                let len = quoted(after);
                found.push((line, after[1..len.max(2) - 1].to_owned()));
            }
            "require".len()
        } else {
            rest.chars().next().map_or(1, char::len_utf8)
        };
        let text = &source[at..at + skipped];
        line += text.bytes().filter(|&byte| byte == b'\n').count() as u32;
        word_before = text.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | ':'));
        at += skipped;
    }
    found
}

/// The length of a quoted string at the beginning of the text, quotes included.
fn quoted(text: &str) -> usize {
    let quote = text.as_bytes()[0];
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        if escaped {
            escaped = false;
        } else if byte == b'\\' {
            escaped = true;
        } else if byte == quote {
            return at + 1;
        }
    }
    text.len()
}

/// The length of `[[…]]` or `[=[…]=]` at the beginning of the text.
fn long_bracket(text: &str) -> Option<usize> {
    let level = text.strip_prefix('[')?.bytes().take_while(|&byte| byte == b'=').count();
    if text.as_bytes().get(1 + level) != Some(&b'[') {
        return None;
    }
    let end = format!("]{}]", "=".repeat(level));
    Some(text.find(&end).map_or(text.len(), |at| at + end.len()))
}

#[cfg(test)]
mod tests {
    use worker_core::TemplateLimits;

    use super::*;

    fn files(files: &[(&str, &str)]) -> TemplateFiles {
        TemplateFiles::new(files.iter().copied(), &TemplateLimits::default()).unwrap()
    }

    fn check(own: &[(&str, &str)]) -> Vec<String> {
        check_template(&files(own), &files(&[]))
            .into_iter()
            .map(|problem| format!("{}:{}: {}", problem.path, problem.line, problem.message))
            .collect()
    }

    #[test]
    fn a_good_template_has_no_problems() {
        let own = [
            ("init.luau", "local a = require('@self/a')\nlocal d = require \"@antiraid/datetime\"\nreturn a, d"),
            ("a.luau", "-- require('./gone')\nlocal s = \"require('./gone')\"\n--[[ require('./gone') ]]\nreturn s"),
        ];
        assert_eq!(check(&own), Vec::<String>::new());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let problems = check(&[
            ("init.luau", "\nlocal x = require('./gone')\nreturn x"),
            ("bad.luau", "local a = 1\n\nlocal = 2"),
        ]);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("/bad.luau:3: "), "{problems:?}");
        assert!(problems[1].starts_with("/init.luau:2: require: `./gone` not found"), "{problems:?}");
        assert!(check(&[("a.luau", "return 1")])[0].starts_with("/init.luau:1: not_found"));
    }

    #[test]
    fn other_words_and_methods_are_no_requires() {
        assert_eq!(literal_requires("prequire('x') x.require('y') required('z')"), []);
        assert_eq!(literal_requires("f(require('x'), require  \n( \"y\" ))"), [(1, "x".into()), (1, "y".into())]);
    }
}
