//! `antiraid reference`: a page for authors of each module, made of its source.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use worker_builtins::{Builtins, GLOBALS};

use crate::cli::{CommandError, Outcome, ReferenceArgs};
use crate::config::Config;
use crate::engine;
use crate::mistake::{Mistake, Mistakes};
use crate::output::Output;

/// Folders of the shared library by the alias under which templates know them, in the order of the index.
const ALIASES: [(&str, &str); 5] = [
    ("@antiraid/", "@antiraid"),
    ("@antiraid-core/", "@antiraid-core"),
    ("@antiraid-ext/", "@antiraid-ext"),
    ("discord-luau-corrections/", "@discord-types"),
    ("@lune/", "@lune"),
];

/// Runs the command.
pub fn run(args: &ReferenceArgs, config: &Config, output: &mut Output) -> Result<Outcome, CommandError> {
    let pages = pages(&engine::builtins(config)?);
    for (name, text) in &pages {
        let path = args.dir.join(name);
        fs::create_dir_all(&args.dir)
            .and_then(|()| fs::write(&path, text))
            .map_err(|error| Mistakes::from(Mistake::in_file(&path, format!("cannot be written: {error}"))))?;
    }
    output.line(format_args!("{}: {} pages", args.dir.display(), pages.len()))?;
    Ok(Outcome::Good)
}

/// The pages by file name. Equal sources give equal bytes.
pub fn pages(builtins: &Builtins) -> BTreeMap<String, String> {
    let library = builtins.library();
    let mut pages = BTreeMap::new();
    let mut index = String::from(
        "# Reference for authors of templates\n\nMade by `antiraid reference` from the sources of the modules; change those, not these pages.\n",
    );
    let globals = Page::new(GLOBALS);
    writeln!(index, "\n* [Globals](globals.md): {}", globals.summary()).expect("because a String takes all");
    pages.insert("globals.md".to_owned(), globals.render("Globals"));
    for (folder, alias) in ALIASES {
        writeln!(index, "\n## {alias}\n").expect("because a String takes all");
        for (path, text) in library.iter() {
            let Some(module) = path
                .strip_prefix(Builtins::LIBRARY_ROOT)
                .and_then(|path| path.strip_prefix(folder))
                .and_then(|path| path.strip_suffix(".luau"))
            else {
                continue;
            };
            // An init file is the module of its folder.
            let module = module.strip_suffix("/init").unwrap_or(module);
            let name = format!("{alias}/{module}");
            let file = format!("{}.md", name.trim_start_matches('@').replace('/', "."));
            let page = Page::new(text);
            writeln!(index, "* [{name}]({file}): {}", page.summary()).expect("because a String takes all");
            pages.insert(file, page.render(&name));
        }
    }
    pages.insert("README.md".into(), index);
    pages
}

/// What a source says about itself: the comment at its head, and what has a comment of its own.
struct Page {
    head: Vec<String>,
    types: Vec<Item>,
    functions: Vec<Item>,
    globals: Vec<Item>,
}

/// A declaration.
struct Item {
    name: String,
    about: Vec<String>,
    code: String,
}

impl Page {
    fn new(source: &str) -> Self {
        let mut page = Self { head: Vec::new(), types: Vec::new(), functions: Vec::new(), globals: Vec::new() };
        let lines: Vec<&str> = source.lines().collect();
        let mut at = usize::from(lines.first().is_some_and(|line| line.starts_with("--!")));
        while let Some(line) =
            lines.get(at).and_then(|line| line.strip_prefix("--")).filter(|line| !line.starts_with('-'))
        {
            page.head.push(line.trim().to_owned());
            at += 1;
        }
        let mut about: Vec<String> = Vec::new();
        while let Some(line) = lines.get(at) {
            if let Some(comment) = line.strip_prefix("---") {
                about.push(comment.trim().to_owned());
                at += 1;
                continue;
            }
            let about = std::mem::take(&mut about);
            let (items, rest, end): (_, _, fn(&[&str], usize) -> usize) =
                if let Some(rest) = line.strip_prefix("export type ") {
                    (&mut page.types, rest, end_of_type)
                } else if let Some(rest) = line.strip_prefix("declare function ") {
                    (&mut page.globals, rest, end_of_signature)
                } else if let Some(rest) = line.strip_prefix("declare ") {
                    (&mut page.globals, rest, end_of_type)
                } else if let Some(rest) =
                    line.strip_prefix("local function ").or_else(|| line.strip_prefix("function "))
                    // A function without a comment is the module's own affair.
                    && !about.is_empty()
                {
                    (&mut page.functions, rest, end_of_signature)
                } else {
                    at += 1;
                    continue;
                };
            let name =
                rest.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | ':')).collect::<String>();
            let end = end(&lines, at);
            let code = lines[at..end].join("\n");
            let code = code.strip_prefix("local ").unwrap_or(&code).to_owned();
            items.push(Item { name: name.trim_end_matches(':').to_owned(), about, code });
            at = end;
        }
        page
    }

    /// The first sentence.
    fn summary(&self) -> String {
        let text = self.head.iter().take_while(|line| !line.is_empty()).cloned().collect::<Vec<_>>().join(" ");
        text.split_once(". ").map_or(text.clone(), |(first, _)| format!("{first}."))
    }

    fn render(&self, title: &str) -> String {
        let mut text = format!("# {title}\n");
        if !self.head.is_empty() {
            text += &format!("\n{}\n", self.head.join("\n"));
        }
        if title.starts_with('@') {
            text += &format!("\n```luau\nlocal {} = require(\"{title}\")\n```\n", local_name(title));
        }
        for (heading, items) in [("Globals", &self.globals), ("Functions", &self.functions), ("Types", &self.types)] {
            if items.is_empty() {
                continue;
            }
            text += &format!("\n## {heading}\n");
            for item in items {
                text += &format!("\n### {}\n", item.name);
                if !item.about.is_empty() {
                    text += &format!("\n{}\n", item.about.join("\n"));
                }
                text += &format!("\n```luau\n{}\n```\n", item.code);
            }
        }
        text
    }
}

/// What a template would call a module.
fn local_name(module: &str) -> &str {
    module.rsplit('/').next().unwrap_or(module)
}

/// The line after a declaration of a type. Its lines are indented, and it ends at column 0.
fn end_of_type(lines: &[&str], start: usize) -> usize {
    let goes_on = |line: &&str| line.starts_with(['\t', ' ', '}', ')', ']']);
    start + 1 + lines[start + 1..].iter().take_while(|line| goes_on(line)).count()
}

/// The line after the head of a function: up to where its brackets are closed.
fn end_of_signature(lines: &[&str], start: usize) -> usize {
    let mut depth = 0;
    for (at, line) in lines.iter().enumerate().skip(start) {
        for c in line.chars() {
            match c {
                '(' | '{' => depth += 1,
                ')' | '}' => depth -= 1,
                _ => {}
            }
        }
        if depth <= 0 {
            return at + 1;
        }
    }
    lines.len()
}
