//! What all VMs of a process share.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use jiff::Timestamp;
use rand::distr::{Alphanumeric, SampleString};
use worker_core::{Clock, RatelimitRules, SourceLine, StaticRef, TemplateFiles, Value};
use worker_db::{BytecodeKey, SharedCache, WorkerDb};

use crate::harness::Harness;
use crate::luau::compile::{CompileError, OPTIMIZATION_LEVEL, compile_with};
use crate::plugins::discord::Recorder;
use crate::plugins::http::HttpRecorder;
use crate::services::{Discord, Services};

/// A file of at most this many bytes is compiled where it is needed, in about 10 ms at most; a larger one on a thread
/// for blocking work.
const COMPILE_INLINE_BYTES_MAX: usize = 16 << 10;

/// The handles that plugins use, and what is known about the process. Clones are cheap.
#[derive(Clone)]
pub struct WorkerState {
    db: WorkerDb,
    shared: SharedCache,
    library: Arc<TemplateFiles>,
    ratelimits: StaticRef<RatelimitRules>,
    current_user: Option<Arc<Value>>,
    links: Arc<Links>,
    services: Services,
    started_at: Timestamp,
    clock: Clock,
    harness: Option<Arc<Harness>>,
}

/// Where people find help and the dashboard; what `LinksStore` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Links {
    /// An invitation to the support server.
    pub support_server: String,
    /// The HTTP API.
    pub api_url: String,
    /// The dashboard.
    pub frontend_url: String,
    /// The documentation.
    pub docs_url: String,
}

impl WorkerState {
    /// `library` is the shared library tree that every template can require from.
    pub fn new(
        db: WorkerDb,
        shared: SharedCache,
        library: Arc<TemplateFiles>,
        ratelimits: StaticRef<RatelimitRules>,
        links: Links,
    ) -> Self {
        let started_at = Timestamp::now();
        Self {
            db,
            shared,
            library,
            ratelimits,
            current_user: None,
            links: Arc::new(links),
            services: Services::default(),
            started_at,
            clock: Clock::Real,
            harness: None,
        }
    }

    /// The same with the bot's own user, as Discord describes it.
    pub fn with_current_user(mut self, user: Value) -> Self {
        self.current_user = Some(Arc::new(user));
        self
    }

    /// The same for tests of templates: time, chance, Discord and the module for specs are what the harness says.
    pub fn with_harness(mut self, harness: Harness) -> Self {
        self.started_at = harness.clock().now();
        self.clock = Clock::Virtual(harness.clock().clone());
        self.harness = Some(Arc::new(harness));
        self
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// What stands in for the world outside, while templates are tested.
    pub(crate) fn harness(&self) -> Option<&Harness> {
        self.harness.as_deref()
    }

    /// Who records calls of `ctx.Discord` in place of Discord, while templates are tested.
    pub(crate) fn recorder(&self) -> Option<&Recorder> {
        self.harness()?.recorder()
    }

    /// Who answers requests in place of all servers, while templates are tested.
    pub(crate) fn http_recorder(&self) -> Option<&HttpRecorder> {
        self.harness()?.http_recorder()
    }

    /// Random letters and digits.
    pub(crate) fn random_string(&self, chars: usize) -> String {
        match &self.harness {
            Some(harness) => harness.random_string(chars),
            None => Alphanumeric.sample_string(&mut rand::rng(), chars),
        }
    }

    /// The same with these in place of the default services, which reach Discord's CDN and keep objects in memory.
    pub fn with_services(mut self, services: Services) -> Self {
        self.services = services;
        self
    }

    pub(crate) fn db(&self) -> &WorkerDb {
        &self.db
    }

    pub(crate) fn library(&self) -> &TemplateFiles {
        &self.library
    }

    pub(crate) fn ratelimits(&self) -> StaticRef<RatelimitRules> {
        self.ratelimits.clone()
    }

    /// The bot's own user: what Discord said, else what the state was made with.
    pub(crate) fn current_user(&self) -> Option<Arc<Value>> {
        self.discord().and_then(Discord::current_user).or_else(|| self.current_user.clone())
    }

    /// The bot's way to Discord, if there is a bot. While templates are tested there is none.
    pub fn discord(&self) -> Option<&Discord> {
        self.services.discord().filter(|_| self.harness.is_none())
    }

    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    pub(crate) fn services(&self) -> &Services {
        &self.services
    }

    pub(crate) fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// The compiled form of a file, if the process has it already.
    pub(crate) fn bytecode_at_hand(&self, files: &TemplateFiles, path: &str) -> Option<Arc<[u8]>> {
        self.shared.bytecode(&self.key(files, path))
    }

    /// The compiled form of a file of a template, or of the library; made once in the process.
    pub(crate) fn bytecode(
        &self,
        files: &TemplateFiles,
        path: &str,
    ) -> impl Future<Output = Result<Arc<[u8]>, CompileError>> + 'static {
        self.bytecode_timed(files, path, Arc::default())
    }

    /// The same; nanoseconds that the compiler takes on another thread are added to `nanos`.
    pub(crate) fn bytecode_timed(
        &self,
        files: &TemplateFiles,
        path: &str,
        nanos: Arc<AtomicU64>,
    ) -> impl Future<Output = Result<Arc<[u8]>, CompileError>> + 'static {
        let key = self.key(files, path);
        let relative = path.trim_start_matches('/');
        let text = files.get(relative).or_else(|| self.library.get(relative)).cloned();
        let (shared, path, level) = (self.shared.clone(), Arc::<str>::from(path), self.optimization_level());
        async move {
            let missing = || CompileError {
                at: SourceLine { path: path.clone(), line: 1 },
                message: "the file is gone".to_owned(),
            };
            let text = text.ok_or_else(missing)?;
            let compile_path = path.clone();
            shared
                .bytecode_or_compile(&key, || async move {
                    if text.len() <= COMPILE_INLINE_BYTES_MAX {
                        return compile_with(&compile_path, &text, level);
                    }
                    let at = SourceLine { path: compile_path.clone(), line: 1 };
                    let compiled = tokio::task::spawn_blocking(move || {
                        let start = Instant::now();
                        let compiled = compile_with(&compile_path, &text, level);
                        nanos.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
                        compiled
                    });
                    compiled.await.unwrap_or_else(|error| {
                        Err(CompileError { at, message: format!("the compiler failed: {error}") })
                    })
                })
                .await
        }
    }

    /// The compiled form of a file, if that can be had at once: it is at hand, or small enough to be compiled here.
    pub(crate) fn bytecode_now(&self, files: &TemplateFiles, path: &str) -> Option<Result<Arc<[u8]>, CompileError>> {
        let bytecode = std::pin::pin!(self.bytecode(files, path));
        match bytecode.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(bytecode) => Some(bytecode),
            // Large, or somebody else compiles it.
            std::task::Poll::Pending => None,
        }
    }

    /// The code of specs keeps every call in its tracebacks: none is inlined, so that a failure says who called.
    fn optimization_level(&self) -> u8 {
        let is_for_specs = self.harness().is_some_and(|harness| harness.host().is_some());
        if is_for_specs { 1 } else { OPTIMIZATION_LEVEL }
    }

    fn key(&self, files: &TemplateFiles, path: &str) -> BytecodeKey {
        let owner = if files.get(path.trim_start_matches('/')).is_some() { files } else { &self.library };
        BytecodeKey { files: owner.hash(), path: path.into() }
    }
}
