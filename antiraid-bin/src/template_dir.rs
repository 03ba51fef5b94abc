//! Templates as folders on disk: `template.toml` says what a template is and when it runs, the Luau files beside it are
//! its code.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use worker_core::{
    BaseName, Capabilities, CompatDate, EventName, Snowflake, TemplateFiles, TemplateLimits, TemplateName, TenantId,
};
use worker_vm::{Problem, check_template};

use crate::mistake::{Mistake, Mistakes, did_you_mean, line_of, toml_syntax};

/// The file that makes a folder a template.
pub(crate) const MANIFEST: &str = "template.toml";
/// Where a template starts.
pub(crate) const ENTRY: &str = "init.luau";
/// What the names of specs end with: files for `antiraid test`, no part of the template.
pub const SPEC_SUFFIX: &str = ".spec.luau";
/// Bytes of a manifest. Real ones have a few hundred.
const MANIFEST_BYTES_MAX: u64 = 64 << 10;

/// What may stand in `template.toml`, whether it must, and how it looks.
const KEYS: [(&str, Need, &str); 9] = [
    ("name", Need::Must, r#"name = "raid-detector""#),
    ("description", Need::Must, r#"description = "What it does, in a sentence.""#),
    ("events", Need::Must, r#"events = ["MESSAGE", "GUILD_MEMBER_ADD"]"#),
    ("capabilities", Need::Must, r#"capabilities = ["kv[raid-detector]:*"]"#),
    ("tenants", Need::Must, r#"tenants = "all", or tenants = ["81384788765712384"]"#),
    ("error_channel", Need::May, r#"error_channel = "81384788765712384""#),
    ("compat", Need::May, r#"compat = "2026-11""#),
    ("language", Need::May, r#"language = "luau""#),
    ("paused", Need::May, "paused = true"),
];

#[derive(Clone, Copy, PartialEq)]
enum Need {
    Must,
    May,
}

/// One template of a folder.
#[derive(Clone, Debug)]
pub struct FolderTemplate {
    /// The folder.
    pub folder: PathBuf,
    /// Its name in each tenant.
    pub name: TemplateName,
    /// What it does, for people.
    pub description: String,
    /// What it subscribes to.
    pub events: Vec<Box<str>>,
    /// What it may do.
    pub capabilities: Capabilities,
    /// Who gets it.
    pub tenants: Tenants,
    /// The channel for its errors.
    pub error_channel: Option<Snowflake>,
    /// The rules of which month it relies on.
    pub compat: CompatDate,
    /// Whether it is kept without being run.
    pub paused: bool,
    /// Its code.
    pub files: TemplateFiles,
}

/// Who gets a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tenants {
    /// Every tenant there is.
    All,
    /// These.
    Only(Vec<TenantId>),
}

impl Tenants {
    /// Whether the tenant is among them.
    pub fn contains(&self, tenant: TenantId) -> bool {
        match self {
            Self::All => true,
            Self::Only(tenants) => tenants.contains(&tenant),
        }
    }
}

/// Reads the templates of a folder: the folder itself if it has a `template.toml`, else each folder in it that has one.
/// Their code is compiled, and what they require must be there or in the shared library. Either all are good, or every
/// mistake of every template is named.
pub fn read_templates(
    dir: &Path,
    limits: &TemplateLimits,
    library: &TemplateFiles,
) -> Result<Vec<FolderTemplate>, Mistakes> {
    let mut mistakes = Mistakes::none();
    let mut templates: Vec<FolderTemplate> = Vec::new();
    for folder in template_folders(dir, &mut mistakes) {
        templates.extend(read_template(&folder, limits, library, &mut mistakes));
    }
    let mut folders = HashMap::new();
    for template in &templates {
        if let Some(other) = folders.insert(&template.name, &template.folder) {
            let what =
                format!("`{}` is also the name of {}; each template needs its own", template.name, other.display());
            mistakes.add(Mistake::in_file(&template.folder.join(MANIFEST), what));
        }
    }
    mistakes.or(templates)
}

/// The folders that are templates, in the order of their names.
fn template_folders(dir: &Path, mistakes: &mut Mistakes) -> Vec<PathBuf> {
    if dir.join(MANIFEST).exists() {
        return vec![dir.into()];
    }
    let entries = match entries(dir) {
        Ok(entries) => entries,
        Err(error) => {
            mistakes.add(Mistake::in_file(dir, format!("cannot be read: {error}")));
            return Vec::new();
        }
    };
    let mut folders = Vec::new();
    for folder in entries.into_iter().filter(|entry| entry.is_dir()) {
        if folder.join(MANIFEST).exists() {
            folders.push(folder);
        } else if folder.join(ENTRY).exists() {
            mistakes
                .add(Mistake::in_file(&folder, format!("has {ENTRY} but no {MANIFEST}; add one with\n{}", example())));
        }
    }
    if folders.is_empty() && mistakes.iter().len() == 0 {
        let what =
            format!("no template here: neither it nor a folder in it has a {MANIFEST}; add one with\n{}", example());
        mistakes.add(Mistake::in_file(dir, what));
    }
    folders
}

/// The least that a manifest needs.
fn example() -> String {
    let lines: Vec<_> = KEYS
        .iter()
        .filter(|(_, need, _)| *need == Need::Must)
        .map(|(_, _, example)| format!("    {}", example.split_once(", or ").map_or(*example, |(first, _)| first)))
        .collect();
    lines.join("\n")
}

fn read_template(
    folder: &Path,
    limits: &TemplateLimits,
    library: &TemplateFiles,
    mistakes: &mut Mistakes,
) -> Option<FolderTemplate> {
    let files = read_files(folder, limits, mistakes);
    for Problem { path, line, message } in files.iter().flat_map(|files| check_template(files, library)) {
        let path = folder.join(path.trim_start_matches('/'));
        mistakes.add(Mistake::in_line(&path, line as usize, message));
    }
    let path = folder.join(MANIFEST);
    let text = match read_text(&path, MANIFEST_BYTES_MAX) {
        Ok(text) => text,
        Err(mistake) => {
            mistakes.add(mistake);
            return None;
        }
    };
    let document = match DeTable::parse_recoverable(&text) {
        (document, errors) if errors.is_empty() => document,
        (_, errors) => {
            mistakes.extend(toml_syntax(&path, &text, &errors));
            return None;
        }
    };
    let mut manifest = Manifest { path: &path, text: &text, table: document.get_ref(), mistakes };
    manifest.check_keys();

    // All are read before any is judged missing, so that every mistake is named.
    let name = manifest.name();
    let description = manifest.text("description").map(|(text, _)| text.to_owned());
    let events = manifest.entries("events", limits.events_max, limits.entry_bytes_max, check_event);
    let capabilities = manifest.entries("capabilities", limits.caps_max, limits.entry_bytes_max, check_capability);
    let tenants = manifest.tenants();
    let error_channel = manifest.parsed("error_channel");
    let compat = manifest.parsed("compat");
    let paused = manifest.flag("paused");
    manifest.language();

    Some(FolderTemplate {
        folder: folder.into(),
        name: name?,
        description: description?,
        events: events?,
        capabilities: capabilities?.into_iter().collect(),
        tenants: tenants?,
        error_channel,
        compat: compat.unwrap_or_default(),
        paused: paused.unwrap_or(false),
        files: files?,
    })
}

/// `template.toml` as it is read: each method takes one key and notes what is wrong with it.
struct Manifest<'a> {
    path: &'a Path,
    text: &'a str,
    table: &'a DeTable<'a>,
    mistakes: &'a mut Mistakes,
}

impl<'a> Manifest<'a> {
    fn mistake(&mut self, span: Range<usize>, what: impl Into<String>) {
        self.mistakes.add(Mistake::in_line(self.path, line_of(self.text, span.start), what));
    }

    fn check_keys(&mut self) {
        for (key, need, example) in KEYS {
            if need == Need::Must && self.table.get(key).is_none() {
                self.mistakes.add(Mistake::in_file(self.path, format!("`{key}` is missing; add {example}")));
            }
        }
        for key in self.table.keys() {
            let name = key.get_ref();
            if KEYS.iter().all(|(known, ..)| known != name) {
                let hint = match did_you_mean(name, KEYS.map(|(known, ..)| known)) {
                    hint if hint.is_empty() => format!("; the keys are {}", KEYS.map(|(known, ..)| known).join(", ")),
                    hint => hint,
                };
                self.mistake(key.span(), format!("`{name}` is not a key of {MANIFEST}{hint}"));
            }
        }
    }

    fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table.get(key)
    }

    fn wrong_type(&mut self, key: &str, value: &Spanned<DeValue<'_>>) {
        let example = KEYS.iter().find(|(known, ..)| *known == key).map_or("", |(.., example)| example);
        let what = format!("`{key}` cannot be of type {}; write {example}", value.get_ref().type_str());
        self.mistake(value.span(), what);
    }

    fn text(&mut self, key: &str) -> Option<(&'a str, Range<usize>)> {
        let value = self.value(key)?;
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(key, value);
        }
        Some((text?, value.span()))
    }

    fn parsed<T: FromStr<Err: ToString>>(&mut self, key: &str) -> Option<T> {
        let (text, span) = self.text(key)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.mistake(span, format!("`{key}`: {}", error.to_string()));
                None
            }
        }
    }

    fn flag(&mut self, key: &str) -> Option<bool> {
        let value = self.value(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong_type(key, value);
        }
        flag
    }

    fn list(&mut self, key: &str) -> Option<Vec<(&'a str, Range<usize>)>> {
        let value = self.value(key)?;
        let entries = value.get_ref().as_array().and_then(|entries| {
            entries.iter().map(|entry| Some((entry.get_ref().as_str()?, entry.span()))).collect::<Option<Vec<_>>>()
        });
        if entries.is_none() {
            self.wrong_type(key, value);
        }
        entries
    }

    /// A list of texts, each of which `check` accepts or says what is wrong with it.
    fn entries(
        &mut self,
        key: &str,
        count_max: usize,
        bytes_max: usize,
        check: fn(&str) -> Result<(), String>,
    ) -> Option<Vec<Box<str>>> {
        let entries = self.list(key)?;
        if entries.len() > count_max {
            let span = entries[count_max].1.clone();
            self.mistake(span, format!("`{key}` has {} entries, at most {count_max}", entries.len()));
        }
        for (entry, span) in &entries {
            let checked = match entry.len() {
                0 => Err(format!("`{key}` has an empty entry; take it out")),
                bytes if bytes > bytes_max => {
                    Err(format!("an entry of `{key}` has {bytes} bytes, at most {bytes_max}"))
                }
                _ => check(entry),
            };
            if let Err(what) = checked {
                self.mistake(span.clone(), what);
            }
        }
        Some(entries.into_iter().map(|(entry, _)| entry.into()).collect())
    }

    fn name(&mut self) -> Option<TemplateName> {
        if let Some((name, span)) = self.text("name").filter(|(name, _)| name.starts_with('$')) {
            self.mistake(span, format!("`name`: `{name}` would be of the shop or built in; begin it without `$`"));
            return None;
        }
        self.parsed("name")
    }

    fn tenants(&mut self) -> Option<Tenants> {
        let value = self.value("tenants")?;
        if value.get_ref().as_str() == Some("all") {
            return Some(Tenants::All);
        }
        let mut tenants = Vec::new();
        for (text, span) in self.list("tenants")? {
            match text.parse() {
                Ok(tenant) => tenants.push(tenant),
                Err(error) => self.mistake(span, format!("`tenants`: {error}")),
            }
        }
        Some(Tenants::Only(tenants))
    }

    fn language(&mut self) {
        if let Some((language, span)) = self.text("language")
            && language != "luau"
        {
            self.mistake(span, format!("`language`: templates are written in `luau`, not `{language}`"));
        }
    }
}

/// Whether an event of this name can ever come (template API, sections 1.4 and 1.5).
fn check_event(entry: &str) -> Result<(), String> {
    let bases = [BaseName::Discord, BaseName::AntiRaid].map(BaseName::as_str);
    let names = || EventName::DISCORD.iter().chain(EventName::ANTIRAID).copied().chain(bases);
    if entry == "MESSAGE_CREATE" {
        return Err("`MESSAGE_CREATE` is delivered as `MESSAGE`; write that".into());
    }
    let (name, scope) = match entry.strip_suffix(']').and_then(|entry| entry.split_once('[')) {
        Some((name, scope)) => (name, Some(scope)),
        None => (entry, None),
    };
    if names().all(|known| known != name) {
        return Err(format!("`{name}` is not an event{}", did_you_mean(name, names())));
    }
    let scoped = ["KeyExpiry", "KeyResume", "ExecuteSetting", BaseName::AntiRaid.as_str()];
    if scope.is_some() && !scoped.contains(&name) {
        return Err(format!("`{name}` has no scopes, so `{entry}` never comes; write `{name}`"));
    }
    Ok(())
}

/// Whether the capability says what its author means (template API, section 3.1).
fn check_capability(entry: &str) -> Result<(), String> {
    if entry != "*" && entry.strip_suffix(":*").unwrap_or(entry).contains('*') {
        let what = "`*` stands for more only alone or as the last part after `:`, as in `discord:*`";
        return Err(format!("`{entry}` gives nothing: {what}; name each capability"));
    }
    Ok(())
}

/// The code of the folder.
fn read_files(folder: &Path, limits: &TemplateLimits, mistakes: &mut Mistakes) -> Option<TemplateFiles> {
    let before = mistakes.iter().len();
    let mut files = Vec::new();
    collect_files(folder, "", limits, &mut files, mistakes);
    if !folder.join(ENTRY).exists() {
        let renamed = files.iter().any(|(path, _)| path == "init.lua");
        let hint = if renamed { "rename init.lua to it" } else { "events start there: `local evt, ctx = ...`" };
        mistakes.add(Mistake::in_file(folder, format!("has no {ENTRY}; {hint}")));
    }
    match TemplateFiles::new(files, limits) {
        Ok(files) if mistakes.iter().len() == before => Some(files),
        Ok(_) => None,
        Err(error) => {
            mistakes.add(Mistake::in_file(folder, error.to_string()));
            None
        }
    }
}

/// Adds the files at and below `folder`, whose path from the template's root is `prefix`.
fn collect_files(
    folder: &Path,
    prefix: &str,
    limits: &TemplateLimits,
    files: &mut Vec<(String, String)>,
    mistakes: &mut Mistakes,
) {
    let entries = match entries(folder) {
        Ok(entries) => entries,
        Err(error) => return mistakes.add(Mistake::in_file(folder, format!("cannot be read: {error}"))),
    };
    for entry in entries {
        let Some(name) = entry.file_name().and_then(|name| name.to_str()) else {
            mistakes.add(Mistake::in_file(&entry, "the name is not UTF-8; rename it"));
            continue;
        };
        let path = format!("{prefix}{name}");
        let is_code = name == ".luaurc" || [".luau", ".lua"].iter().any(|suffix| name.ends_with(suffix));
        if entry.is_symlink() && (is_code || entry.is_dir()) {
            // Followed, a link could lead out of the folder or round in a circle.
            mistakes.add(Mistake::in_file(&entry, "symbolic links are not followed; put a copy here"));
        } else if entry.is_dir() && !name.starts_with('.') {
            collect_files(&entry, &format!("{path}/"), limits, files, mistakes);
        } else if is_code && !name.ends_with(SPEC_SUFFIX) {
            let read = read_text(&entry, limits.file_bytes_max as u64);
            match read.and_then(|text| if name == ".luaurc" { check_luaurc(&entry, text) } else { Ok(text) }) {
                Ok(text) => files.push((path, text)),
                Err(mistake) => mistakes.add(mistake),
            }
        }
    }
}

/// Checks the shape of a `.luaurc` (template API, section 14.1).
fn check_luaurc(path: &Path, text: String) -> Result<String, Mistake> {
    #[derive(Deserialize)]
    struct Luaurc {
        #[serde(default, rename = "aliases")]
        _aliases: HashMap<String, String>,
    }
    match serde_json::from_str::<Luaurc>(&text) {
        Ok(_) => Ok(text),
        Err(error) => {
            let what = error.to_string();
            let what = what.rsplit_once(" at line ").map_or(&*what, |(what, _)| what);
            let what = format!(r#"{what}; write JSON such as {{"aliases":{{"lib":"./lib"}}}}"#);
            Err(Mistake::in_line(path, error.line(), what))
        }
    }
}

/// What is in the folder, in the order of names.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    Ok(entries)
}

fn read_text(path: &Path, bytes_max: u64) -> Result<String, Mistake> {
    let unreadable = |error: io::Error| Mistake::in_file(path, format!("cannot be read: {error}"));
    let bytes = fs::metadata(path).map_err(unreadable)?.len();
    if bytes > bytes_max {
        return Err(Mistake::in_file(path, format!("has {bytes} bytes, at most {bytes_max}")));
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = line_of(&String::from_utf8_lossy(error.as_bytes()), at);
        Mistake::in_line(path, line, "not UTF-8; save it as UTF-8")
    })
}
