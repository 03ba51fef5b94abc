//! A folder of templates that is loaded again whenever a file in it changes.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use worker_core::{TemplateFiles, TemplateLimits, TemplateName, TenantId, WorkerLike};
use worker_db::{DbError, WorkerDb};

use crate::cli::chain;
use crate::mistake::Mistakes;
use crate::output::complain;
use crate::simulator::Simulator;
use crate::store;
use crate::template_dir::{FolderTemplate, read_templates};
use crate::type_check::{Strictness, TypeChecker};

/// An editor writes a file in several steps; after the last of them this long is waited.
const QUIET: Duration = Duration::from_millis(40);
/// But no longer than so after the first.
const QUIET_MAX: Duration = Duration::from_millis(200);

/// Templates of a folder, loaded into tenants.
pub struct LiveFolder<'a, W> {
    dir: PathBuf,
    limits: &'a TemplateLimits,
    library: Arc<TemplateFiles>,
    db: WorkerDb,
    workers: &'a W,
    simulator: Simulator,
    tenants: Vec<TenantId>,
    loaded: BTreeSet<TemplateName>,
    /// What the page shows of them, also to who comes later.
    state: watch::Sender<Value>,
}

impl<'a, W: WorkerLike> LiveFolder<'a, W> {
    /// The templates of `dir`, for these tenants whatever each `template.toml` says.
    #[expect(clippy::too_many_arguments, reason = "it stores each of them")]
    pub fn new(
        dir: PathBuf,
        limits: &'a TemplateLimits,
        library: Arc<TemplateFiles>,
        db: WorkerDb,
        workers: &'a W,
        simulator: Simulator,
        tenants: Vec<TenantId>,
        state: watch::Sender<Value>,
    ) -> Self {
        Self { dir, limits, library, db, workers, simulator, tenants, loaded: BTreeSet::new(), state }
    }

    /// Loads the templates, and again after each change, for ever.
    pub async fn keep_loaded(&mut self) -> Result<(), LiveFolderError> {
        let (changed, mut changes) = mpsc::channel(1);
        // Before the first load, so that no change is missed.
        let watcher = watch(&self.dir, changed).map_err(|error| LiveFolderError::Watch(self.dir.clone(), error))?;
        self.load().await?;
        while changes.recv().await.is_some() {
            let begun = tokio::time::Instant::now();
            while begun.elapsed() < QUIET_MAX
                && matches!(tokio::time::timeout(QUIET, changes.recv()).await, Ok(Some(())))
            {}
            self.load().await?;
        }
        drop(watcher);
        Ok(())
    }

    /// Loads the templates as they are now. Ones with mistakes leave what runs as it is.
    pub async fn load(&mut self) -> Result<(), LiveFolderError> {
        let begun = std::time::Instant::now();
        let (dir, limits, library) = (self.dir.clone(), self.limits.clone(), Arc::clone(&self.library));
        // It compiles every file.
        let read = tokio::task::spawn_blocking(move || read_templates(&dir, &limits, &library)).await;
        let read = read.map_err(|error| LiveFolderError::Reader(io::Error::other(error)))?;
        match read {
            Ok(templates) => {
                self.push(&templates).await?;
                let named: Vec<_> = templates.iter().map(described).collect();
                let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                complain(format_args!(
                    "loaded {} in {millis} ms",
                    match &templates[..] {
                        [] => "no template".to_owned(),
                        [one] => one.name.to_string(),
                        many => format!("{} templates", many.len()),
                    }
                ));
                self.tell(json!({"templates": named, "mistakes": [], "types": [], "millis": millis}));
                self.check_types(templates);
            }
            Err(mistakes) => self.tell_mistakes(&mistakes),
        }
        Ok(())
    }

    async fn push(&mut self, templates: &[FolderTemplate]) -> Result<(), LiveFolderError> {
        for template in templates {
            store::push_for_all(&self.db, &self.tenants, template).await?;
        }
        let names: BTreeSet<_> = templates.iter().map(|template| template.name.clone()).collect();
        for gone in self.loaded.difference(&names) {
            for tenant in &self.tenants {
                match self.db.template_delete(*tenant, gone).await {
                    Ok(()) | Err(DbError::NotFound(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        self.loaded = names;
        let reloads: Vec<_> = self.tenants.iter().map(|tenant| self.workers.reload(*tenant)).collect();
        for reload in reloads {
            if let Err(error) = reload.await {
                tracing::error!("the templates are not loaded again: {}", chain(&error));
            }
        }
        Ok(())
    }

    fn tell(&self, state: Value) {
        self.simulator.notice("templates", || state.clone());
        self.state.send_replace(state);
    }

    fn tell_mistakes(&self, mistakes: &Mistakes) {
        complain(format_args!("not loaded; what ran before still runs\n{mistakes}"));
        let mistakes: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
        let mut state = self.state.borrow().clone();
        state["mistakes"] = json!(mistakes);
        self.tell(state);
    }

    /// Tells what the type checker finds, which keeps nothing from running.
    fn check_types(&self, templates: Vec<FolderTemplate>) {
        let (library, simulator, sender) = (Arc::clone(&self.library), self.simulator.clone(), self.state.clone());
        tokio::task::spawn_blocking(move || {
            let mut found = Vec::new();
            for template in templates {
                let files = Arc::new(template.files);
                let problems = TypeChecker::new(files, Arc::clone(&library), Strictness::AsWritten)
                    .and_then(|mut checker| checker.check());
                let Ok(problems) = problems else { continue };
                for problem in problems {
                    let path = template.folder.join(problem.path.trim_start_matches('/'));
                    found.push(format!("{}:{}:{}: {}", path.display(), problem.line, problem.column, problem.message));
                }
            }
            simulator.notice("types", || json!(found));
            sender.send_modify(|state| state["types"] = json!(found));
        });
    }
}

/// Why templates are not kept loaded any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LiveFolderError {
    /// The folder cannot be watched.
    #[error("`{}` cannot be watched for changes", .0.display())]
    Watch(PathBuf, #[source] notify::Error),
    /// The files could not be read at all.
    #[error("the templates cannot be read")]
    Reader(#[source] io::Error),
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] DbError),
}

fn described(template: &FolderTemplate) -> Value {
    json!({
        "name": template.name.as_str(), "description": template.description, "events": template.events,
        "capabilities": template.capabilities.iter().collect::<Vec<_>>(), "paused": template.paused,
        "folder": template.folder.display().to_string(),
    })
}

/// Tells of changes in a folder: one word for as many as there are until it is heard.
fn watch(dir: &Path, changed: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading is no change; when it is not known what happened, it may have been one.
        if event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
            return;
        }
        // Full: it will be looked at anyway.
        let _ = changed.try_send(());
    })?;
    watcher.watch(dir, RecursiveMode::Recursive)?;
    Ok(watcher)
}
