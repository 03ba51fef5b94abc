//! From the text of a `require` to a file (template API, section 14.1).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use worker_core::TemplateFiles;

/// The files that a template can require: its own first, then the shared library's.
#[derive(Clone, Copy, Debug)]
pub struct RequireTree<'a> {
    /// The template's own files.
    pub own: &'a TemplateFiles,
    /// The shared library, under `templating-types/`.
    pub library: &'a TemplateFiles,
}

/// Why a `require` names no file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequireError {
    /// Not `./x`, `../x`, `@self/x` or `@alias/x`.
    #[error("require: `{0}` is not of the form ./x, ../x, @self/x or @alias/x")]
    Form(String),
    /// Above the root.
    #[error("require: `{0}` leads out of the template")]
    OutOfRoot(String),
    /// No such file.
    #[error("require: `{spec}` not found: no {path}.luau, {path}.lua, {path}/init.luau or {path}/init.lua")]
    NotFound {
        /// What was asked for.
        spec: String,
        /// Where it should be.
        path: String,
    },
    /// Several files.
    #[error("require: ambiguous: `{spec}` is {first} and {second}")]
    Ambiguous {
        /// What was asked for.
        spec: String,
        /// A file that fits.
        first: String,
        /// Another.
        second: String,
    },
    /// An alias that no `.luaurc` defines.
    #[error("require: `{spec}`: no .luaurc from {from} upwards defines the alias `{alias}`")]
    UnknownAlias {
        /// What was asked for.
        spec: String,
        /// The alias.
        alias: String,
        /// Who asked.
        from: String,
    },
    /// Aliases that lead to each other.
    #[error("require: the alias `{0}` leads back to itself")]
    AliasCycle(String),
    /// A `.luaurc` that is not JSON with a map of aliases.
    #[error("require: {path}: {reason}")]
    BadConfig {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    aliases: BTreeMap<String, String>,
}

/// How many aliases may lead to one another.
const ALIAS_STEPS_MAX: usize = 16;

impl<'a> RequireTree<'a> {
    /// The text of a file; the path begins with `/`.
    pub fn text(&self, path: &str) -> Option<&'a Arc<str>> {
        let path = path.strip_prefix('/')?;
        self.own.get(path).or_else(|| self.library.get(path))
    }

    /// Whether the file is one of the template's own, rather than the library's.
    pub fn is_own(&self, path: &str) -> bool {
        path.strip_prefix('/').is_some_and(|path| self.own.get(path).is_some())
    }

    /// The absolute path of the file that `from` means by `spec`.
    pub fn resolve(&self, from: &str, spec: &str) -> Result<String, RequireError> {
        let (folder, is_init) = match from.rsplit_once('/') {
            Some((folder, file)) => (folder, file == "init.luau" || file == "init.lua"),
            None => ("", false),
        };
        // Where `./` is: beside the module. An init file is the module of its folder, so beside it is the folder above;
        // the root has no above, there its own files are beside it.
        let beside = if is_init { folder.rsplit_once('/').map_or("", |(above, _)| above) } else { folder };
        let target = if let Some(rest) = spec.strip_prefix("@self/") {
            let base = if is_init { folder } else { from.rsplit_once('.').map_or(from, |(stem, _)| stem) };
            join(base, rest)
        } else if spec == "./" || spec == "../" || spec == "@self" {
            return Err(RequireError::Form(spec.into()));
        } else if spec.starts_with("./") || spec.starts_with("../") {
            join(beside, spec)
        } else if let Some(aliased) = spec.strip_prefix('@') {
            let (alias, rest) = aliased.split_once('/').unwrap_or((aliased, ""));
            let base = self.alias(from, folder, spec, alias)?;
            if rest.is_empty() { Some(base) } else { join(&base, rest) }
        } else {
            return Err(RequireError::Form(spec.into()));
        };
        let target = target.ok_or_else(|| RequireError::OutOfRoot(spec.into()))?;
        self.candidate(spec, &target)
    }

    /// The one file that a path without ending stands for.
    fn candidate(&self, spec: &str, path: &str) -> Result<String, RequireError> {
        for files in [self.own, self.library] {
            let mut found: Option<String> = None;
            for ending in [".luau", ".lua", "/init.luau", "/init.lua"] {
                let candidate = format!("{path}{ending}");
                if candidate.strip_prefix('/').is_some_and(|candidate| files.get(candidate).is_some()) {
                    if let Some(first) = found {
                        return Err(RequireError::Ambiguous { spec: spec.into(), first, second: candidate });
                    }
                    found = Some(candidate);
                }
            }
            if let Some(found) = found {
                return Ok(found);
            }
        }
        Err(RequireError::NotFound { spec: spec.into(), path: path.into() })
    }

    fn alias(&self, from: &str, folder: &str, spec: &str, alias: &str) -> Result<String, RequireError> {
        let (mut wanted, mut rest, mut start) = (alias.to_owned(), String::new(), folder.to_owned());
        for _ in 0..ALIAS_STEPS_MAX {
            let Some((at, target)) = self.find_alias(&start, &wanted)? else {
                return Err(RequireError::UnknownAlias { spec: spec.into(), alias: wanted, from: from.into() });
            };
            if let Some(next) = target.strip_prefix('@') {
                let (next, deeper) = next.split_once('/').unwrap_or((next, ""));
                rest = if rest.is_empty() { deeper.to_owned() } else { format!("{deeper}/{rest}") };
                wanted = next.to_owned();
                start = at;
                continue;
            }
            let base = if target.starts_with('/') { join("", &target) } else { join(&at, &target) };
            let base = base.ok_or_else(|| RequireError::OutOfRoot(format!("@{wanted}")))?;
            return if rest.is_empty() {
                Ok(base)
            } else {
                join(&base, &rest).ok_or_else(|| RequireError::OutOfRoot(spec.into()))
            };
        }
        Err(RequireError::AliasCycle(alias.into()))
    }

    /// The folder of the nearest `.luaurc` that defines the alias, and what it says. The library's own is asked last, so
    /// that the customary aliases work in a template without any.
    fn find_alias(&self, folder: &str, alias: &str) -> Result<Option<(String, String)>, RequireError> {
        let mut folder = folder;
        loop {
            if let Some(target) = self.config_alias(folder, alias)? {
                return Ok(Some((folder.to_owned(), target)));
            }
            match folder.rsplit_once('/') {
                Some((above, _)) => folder = above,
                None => break,
            }
        }
        const LIBRARY: &str = "/templating-types";
        Ok(self.config_alias(LIBRARY, alias)?.map(|target| (LIBRARY.to_owned(), target)))
    }

    fn config_alias(&self, folder: &str, alias: &str) -> Result<Option<String>, RequireError> {
        let path = format!("{folder}/.luaurc");
        let Some(text) = self.text(&path) else { return Ok(None) };
        let config: Config =
            serde_json::from_str(text).map_err(|error| RequireError::BadConfig { path, reason: error.to_string() })?;
        Ok(config.aliases.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(alias)).map(|(_, target)| target))
    }
}

/// Walks from an absolute folder (`""` is the root) along a relative path; `None` above the root.
fn join(folder: &str, relative: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in relative.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.iter().fold(String::new(), |path, part| path + "/" + part))
}

#[cfg(test)]
mod tests {
    use worker_core::TemplateLimits;

    use super::*;

    fn files(entries: &[(&str, &str)]) -> TemplateFiles {
        TemplateFiles::new(entries.iter().copied(), &TemplateLimits::default()).unwrap()
    }

    fn resolve(own: &[(&str, &str)], from: &str, spec: &str) -> Result<String, RequireError> {
        let library = files(&[
            ("templating-types/.luaurc", r#"{"aliases":{"antiraid-ext":"./@antiraid-ext/"}}"#),
            ("templating-types/@antiraid-ext/array.luau", ""),
            ("templating-types/@antiraid-ext/strings/strip.luau", ""),
            ("templating-types/@antiraid-ext/framework/init.luau", ""),
        ]);
        RequireTree { own: &files(own), library: &library }.resolve(from, spec)
    }

    #[test]
    fn the_forms() {
        let own =
            [("init.luau", ""), ("a.luau", ""), ("lib/init.luau", ""), ("lib/b.lua", ""), ("lib/deep/c.luau", "")];
        for (from, spec, path) in [
            ("/init.luau", "@self/a", "/a.luau"),
            ("/init.luau", "./a", "/a.luau"),
            ("/init.luau", "@self/lib", "/lib/init.luau"),
            ("/lib/init.luau", "@self/b", "/lib/b.lua"),
            ("/lib/init.luau", "./a", "/a.luau"),
            ("/lib/b.lua", "./deep/c", "/lib/deep/c.luau"),
            ("/lib/deep/c.luau", "../b", "/lib/b.lua"),
            ("/a.luau", "./lib/../a", "/a.luau"),
        ] {
            assert_eq!(resolve(&own, from, spec).as_deref(), Ok(path), "{spec} from {from}");
        }
    }

    #[test]
    fn no_path_leaves_the_root() {
        for spec in ["../x", "@self/../../x", "./../../../etc/passwd"] {
            assert!(
                matches!(resolve(&[("init.luau", "")], "/init.luau", spec), Err(RequireError::OutOfRoot(_))),
                "{spec}"
            );
        }
        let evil = [("init.luau", ""), (".luaurc", r#"{"aliases":{"up":"../../../etc"}}"#)];
        assert!(matches!(resolve(&evil, "/init.luau", "@up/passwd"), Err(RequireError::OutOfRoot(_))));
    }

    #[test]
    fn other_forms_are_refused() {
        for spec in ["x", "/x", "", ".", "..", "@", "@self", "http://x", "./"] {
            let error = resolve(&[("init.luau", ""), ("x.luau", "")], "/init.luau", spec).unwrap_err();
            assert!(error.to_string().starts_with("require: "), "{spec}: {error}");
        }
    }

    #[test]
    fn two_files_for_one_name_are_ambiguous() {
        let own = [("x.luau", ""), ("x/init.luau", "")];
        assert!(matches!(resolve(&own, "/init.luau", "./x"), Err(RequireError::Ambiguous { .. })));
        let own = [("x.luau", ""), ("x.lua", "")];
        assert!(matches!(resolve(&own, "/init.luau", "./x"), Err(RequireError::Ambiguous { .. })));
    }

    #[test]
    fn aliases_are_searched_upwards_and_ignore_case() {
        let own = [
            (".luaurc", r#"{"aliases":{"Lib":"./lib","other":"@lib/deep"}}"#),
            ("lib/.luaurc", r#"{"aliases":{"near":"./deep"}}"#),
            ("lib/a.luau", ""),
            ("lib/deep/c.luau", ""),
        ];
        assert_eq!(resolve(&own, "/init.luau", "@lib/a").unwrap(), "/lib/a.luau");
        assert_eq!(resolve(&own, "/lib/deep/c.luau", "@LIB/a").unwrap(), "/lib/a.luau");
        assert_eq!(resolve(&own, "/lib/a.luau", "@near/c").unwrap(), "/lib/deep/c.luau");
        assert_eq!(resolve(&own, "/init.luau", "@other/c").unwrap(), "/lib/deep/c.luau");
        assert!(matches!(resolve(&own, "/init.luau", "@near/c"), Err(RequireError::UnknownAlias { .. })));
    }

    #[test]
    fn alias_loops_and_bad_configs_end() {
        let own = [(".luaurc", r#"{"aliases":{"a":"@b","b":"@a"}}"#)];
        assert!(matches!(resolve(&own, "/init.luau", "@a/x"), Err(RequireError::AliasCycle(_))));
        let own = [(".luaurc", "while true do end")];
        assert!(matches!(resolve(&own, "/init.luau", "@a/x"), Err(RequireError::BadConfig { .. })));
    }

    #[test]
    fn the_library_comes_after_the_templates_own_files() {
        let array = "/templating-types/@antiraid-ext/array.luau";
        assert_eq!(resolve(&[("init.luau", "")], "/init.luau", "@antiraid-ext/array").unwrap(), array);
        let strip = resolve(&[], array, "./strings/strip").unwrap();
        assert_eq!(strip, "/templating-types/@antiraid-ext/strings/strip.luau");
        let own = [("templating-types/@antiraid-ext/array.lua", "")];
        assert_eq!(
            resolve(&own, "/init.luau", "@antiraid-ext/array").unwrap(),
            "/templating-types/@antiraid-ext/array.lua"
        );
        assert!(resolve(&[], "/init.luau", "@antiraid-ext/framework").unwrap().ends_with("framework/init.luau"));
    }
}
