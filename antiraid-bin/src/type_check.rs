//! Type checking: Luau's own analysis, told where this runtime's modules and globals are.

use std::collections::BTreeMap;
use std::sync::Arc;

use luau_analysis::frontend::resolver::ModuleInfo;
use luau_analysis::{
    AnalysisError, ConfigResolver, DefinitionEnvironment, FileResolver, Frontend, FrontendOptions, ModuleName,
    SourceCode, SourceCodeType, TypeCheckLimits,
};
use luau_common::BString;
use luau_config::{Config, Mode};
use luau_syntax::ast::Expression;
use serde::Deserialize;
use worker_builtins::{Builtins, GLOBALS};
use worker_core::TemplateFiles;
use worker_vm::RequireTree;

/// How long one file is checked. A file that takes longer is a problem of its own.
const FILE_SECONDS_MAX: f64 = 10.0;

/// How strictly files are checked that do not say so themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// As the nearest `.luaurc` says in `languageMode`; without one, only what is certainly wrong is reported.
    AsWritten,
    /// Every file as if it began with `--!strict`.
    Strict,
}

/// A mistake in the types of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeProblem {
    /// The file, from the template's root, beginning with `/`.
    pub path: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

/// Why files could not be checked at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TypeCheckError {
    /// The analysis gave up.
    #[error("the type checker failed at {path}: {reason}")]
    Analysis {
        /// The file.
        path: String,
        /// What the analysis says.
        reason: String,
    },
    /// The definitions of the globals that stand in this program do not hold.
    #[error("the definitions of the globals are refused by the type checker: {0}")]
    Globals(String),
}

/// The names of a module's types and of what it returns, with what they are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleShape {
    /// The exported types by name, as the analysis writes them.
    pub types: BTreeMap<String, String>,
    /// What `require` gives.
    pub value: String,
}

/// Checks the types of files against each other, the shared library, and the globals of a template.
pub struct TypeChecker {
    frontend: Frontend<Tree, Modes>,
    own: Arc<TemplateFiles>,
}

impl TypeChecker {
    /// A checker for a template's files.
    pub fn new(
        own: Arc<TemplateFiles>,
        library: Arc<TemplateFiles>,
        strictness: Strictness,
    ) -> Result<Self, TypeCheckError> {
        let tree = Tree { own: Arc::clone(&own), library };
        let modes = Modes::new(&tree, strictness);
        // What a module returns is asked for by `shape`, and the inferred types of a file are small.
        let options = FrontendOptions {
            retain_full_type_graphs: true,
            module_time_limit_sec: Some(FILE_SECONDS_MAX),
            ..FrontendOptions::default()
        };
        let mut frontend = Frontend::new(tree, modes, options);
        let failed = |error: AnalysisError| TypeCheckError::Globals(error.to_string());
        frontend.register_builtin_globals(DefinitionEnvironment::Globals).map_err(failed)?;
        let scope = frontend.global_scope(DefinitionEnvironment::Globals);
        let loaded = frontend.load_definition_file(scope, GLOBALS, "@antiraid", false).map_err(failed)?;
        if !loaded.success {
            let errors: Vec<_> = match loaded.semantic_model(&frontend) {
                Some(model) => {
                    model.module().errors().iter().map(|error| model.error_message(error).to_string()).collect()
                }
                None => vec!["they do not parse".to_owned()],
            };
            return Err(TypeCheckError::Globals(errors.join("; ")));
        }
        Ok(Self { frontend, own })
    }

    /// Everything wrong in the template's own files, by file and place.
    pub fn check(&mut self) -> Result<Vec<TypeProblem>, TypeCheckError> {
        let own = Arc::clone(&self.own);
        let mut problems = Vec::new();
        for (path, _) in own.iter().filter(|(path, _)| is_luau(path)) {
            self.check_file(&format!("/{path}"), &mut problems)?;
        }
        problems.sort();
        problems.dedup();
        Ok(problems)
    }

    /// What a module of the template or the library offers; `None` if there is no such file.
    pub fn shape(&mut self, path: &str) -> Result<Option<ModuleShape>, TypeCheckError> {
        if self.frontend.file_resolver().tree().text(path).is_none() {
            return Ok(None);
        }
        self.check_file(path, &mut Vec::new())?;
        let Some(model) = self.frontend.semantic_model(&BString::from(path)) else { return Ok(None) };
        let types = (model.exported_type_bindings())
            .filter_map(|(name, alias)| Some((name.to_string(), alias.body()?.to_string())))
            .collect();
        let value = model.return_type().map(|value| value.to_string()).unwrap_or_default();
        Ok(Some(ModuleShape { types, value }))
    }

    fn check_file(&mut self, path: &str, problems: &mut Vec<TypeProblem>) -> Result<(), TypeCheckError> {
        let name = BString::from(path);
        let failed = |error: AnalysisError| TypeCheckError::Analysis { path: path.into(), reason: error.to_string() };
        let result = self.frontend.check(&name, None).map_err(failed)?;
        if result.timeout_hits.contains(&name) {
            let message = format!("this file took longer than {FILE_SECONDS_MAX} s to check; write more of its types");
            problems.push(TypeProblem { path: path.into(), line: 1, column: 1, message });
        }
        let Some(model) = self.frontend.semantic_model(&name) else { return Ok(()) };
        // Mistakes of what the file requires are in the result too; each is reported once, for its own file.
        for error in result.errors.iter().filter(|error| error.module_name == name) {
            let at = error.location.begin;
            problems.push(TypeProblem {
                path: path.into(),
                line: at.line as usize + 1,
                column: at.column as usize + 1,
                message: model.error_message(error).to_string(),
            });
        }
        Ok(())
    }
}

/// Whether a path is one of code, rather than of settings.
fn is_luau(path: &str) -> bool {
    path.ends_with(".luau") || path.ends_with(".lua")
}

/// The files, found as `require` finds them.
struct Tree {
    own: Arc<TemplateFiles>,
    library: Arc<TemplateFiles>,
}

impl Tree {
    fn tree(&self) -> RequireTree<'_> {
        RequireTree { own: &self.own, library: &self.library }
    }

    /// The file that `from` means by `spec`. The runtime's own modules come first, by name and whatever the case; their
    /// types stand in the library.
    fn find(&self, from: &str, spec: &str) -> Option<String> {
        let name = spec.to_ascii_lowercase();
        if name.starts_with("@antiraid/") || name.starts_with("@lune/") {
            let file = format!("{}{name}.luau", Builtins::LIBRARY_ROOT);
            if self.library.get(&file).is_some() {
                return Some(format!("/{file}"));
            }
        }
        self.tree().resolve(from, spec).ok()
    }
}

impl FileResolver for Tree {
    fn read_source(&mut self, name: &ModuleName) -> Option<SourceCode> {
        let text = self.tree().text(std::str::from_utf8(name).ok()?)?;
        Some(SourceCode { source: BString::from(&**text), kind: SourceCodeType::Module })
    }

    fn resolve_module(
        &mut self,
        context: Option<&ModuleInfo>,
        expression: Expression<'_>,
        _: &TypeCheckLimits,
    ) -> Option<ModuleInfo> {
        let from = std::str::from_utf8(&context?.name).ok()?;
        let spec = std::str::from_utf8(expression.as_string()?.value.as_bytes()).ok()?;
        // A name that leads nowhere is an unknown module, not an expression that cannot be followed.
        let name = self.find(from, spec).unwrap_or_else(|| spec.to_owned());
        Some(ModuleInfo { name: name.into(), optional: false })
    }
}

/// How strictly each file is checked.
struct Modes {
    by_folder: BTreeMap<String, Config>,
    default: Config,
}

#[derive(Deserialize)]
struct LuauRc {
    #[serde(rename = "languageMode")]
    language_mode: Option<String>,
}

impl Modes {
    fn new(tree: &Tree, strictness: Strictness) -> Self {
        let config = |mode| {
            let mut config = Config::default();
            config.mode = mode;
            config
        };
        if strictness == Strictness::Strict {
            return Self { by_folder: BTreeMap::new(), default: config(Mode::Strict) };
        }
        let mut by_folder = BTreeMap::new();
        for (path, text) in tree.own.iter() {
            let Some(folder) = format!("/{path}").strip_suffix("/.luaurc").map(str::to_owned) else { continue };
            let mode = serde_json::from_str::<LuauRc>(text).ok().and_then(|file| file.language_mode);
            let mode = match mode.as_deref() {
                Some("strict") => Mode::Strict,
                Some("nocheck") => Mode::NoCheck,
                Some("nonstrict") => Mode::Nonstrict,
                _ => continue,
            };
            by_folder.insert(folder, config(mode));
        }
        Self { by_folder, default: config(Mode::Nonstrict) }
    }
}

impl ConfigResolver for Modes {
    fn config(&self, name: &ModuleName, _: &TypeCheckLimits) -> &Config {
        let mut path = std::str::from_utf8(name).unwrap_or_default();
        while let Some((folder, _)) = path.rsplit_once('/') {
            if let Some(config) = self.by_folder.get(folder) {
                return config;
            }
            path = folder;
        }
        &self.default
    }
}
