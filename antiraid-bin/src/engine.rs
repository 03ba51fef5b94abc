//! The workers of this process: a pool of threads, each with an engine of its own.

use std::ffi::OsString;
use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use worker_builtins::Builtins;
use worker_core::{
    Call, RatelimitRules, Routing, TenantId, WorkerError, WorkerErrorKind, WorkerFilter, WorkerId, WorkerLike,
};
use worker_db::WorkerDb;
use worker_expiry::ExpiryProcess;
use worker_pool::{Poolable, QueueSizes, WorkerPool, WorkerPoolConfig, WorkerThread, WorkerThreadConfig};
use worker_process::{Evidence, Program, Quarantine, Timeouts, WorkerProcessConfig, WorkerProcessHandle};
use worker_vm::{DiscordConfig, HttpConfig, ObjectsConfig, Services, ServicesConfig};

use crate::config::{Config, DiscordSettings};
use crate::gateway::{GatewayPlan, Intents};
use crate::mistake::{Mistake, Mistakes, Place};
use crate::worker::{Worker, WorkerParts};

/// Workers in threads that act as one.
pub type Workers = WorkerPool<WorkerThread>;

/// The built-in template and the shared library: of the folder that the settings name, or those in this program.
pub fn builtins(config: &Config) -> Result<Builtins, Mistakes> {
    let Some(dir) = &config.builtins_dir else { return Ok(Builtins::embedded()) };
    Builtins::from_dir(dir).map_err(|error| {
        let what = format!("`builtins_dir` has no built-in template to use: {}", crate::cli::chain(&error));
        Mistake::new(Place::new("settings"), what).into()
    })
}

/// What workers reach outside of the process, as the settings say, without Discord.
pub fn services(config: &Config) -> Result<Services, Mistakes> {
    services_with(config, None)
}

/// The same with the bot of this plan, whose token the settings have.
pub fn services_at(config: &Config, plan: &GatewayPlan) -> Result<Services, Mistakes> {
    let discord = config.discord.token.clone().map(|token| DiscordConfig {
        api_url: Some(config.discord.api_url.clone()).filter(|url| *url != DiscordSettings::default().api_url),
        ..DiscordConfig::new(token, plan.application)
    });
    let services = services_with(config, discord)?;
    if let Some(discord) = services.discord() {
        discord.guild_states().set_bot(plan.bot);
        if let Err(error) = discord.set_current_user(plan.user.as_bytes()) {
            tracing::warn!(
                "templates cannot ask who the bot is before the gateway says: {}",
                crate::cli::chain(&error)
            );
        }
    }
    Ok(services)
}

fn services_with(config: &Config, discord: Option<DiscordConfig>) -> Result<Services, Mistakes> {
    let http = HttpConfig {
        allowed_hosts: config.http_allowed_hosts.clone(),
        denied_hosts: config.http_denied_hosts.clone(),
        addresses_allowed: config.http_addresses_allowed.clone(),
        ..HttpConfig::default()
    };
    let objects = ObjectsConfig { place: config.objects_url.place()? };
    Services::new(ServicesConfig { http, objects, discord }).map_err(|error| {
        let what = format!("`objects.url` cannot be used: {}", crate::cli::chain(&error));
        Mistake::new(Place::new("settings"), what).into()
    })
}

/// Starts as many worker threads as the settings say, over one database. Each queue has room for `waiting_max` events.
pub async fn start(
    config: &Config,
    db: &WorkerDb,
    builtins: Builtins,
    services: Services,
    waiting_max: NonZeroUsize,
    intents: Option<Intents>,
) -> Result<Workers, WorkerError> {
    let worker = threads(config, db, builtins, services, waiting_max, Vec::new(), intents);
    let pool = WorkerPoolConfig { workers: config.workers, worker };
    WorkerPool::start(WorkerId::new(0), WorkerFilter::all(), Routing::default(), &pool).await
}

/// Worker threads over one database. The tenants that are paused find in their logs why. With intents, templates are told of
/// events that do not come.
pub fn threads(
    config: &Config,
    db: &WorkerDb,
    builtins: Builtins,
    services: Services,
    waiting_max: NonZeroUsize,
    paused: Vec<Evidence>,
    intents: Option<Intents>,
) -> WorkerThreadConfig {
    threads_with(config, db, builtins, services, waiting_max, intents, move |worker, filter| {
        paused
            .iter()
            .filter(|evidence| filter.keeps_apart(evidence.tenant))
            .for_each(|evidence| worker.report_quarantine(evidence));
        worker
    })
}

/// The same, and each thread's worker is made into something else that is one.
pub fn threads_with<W: WorkerLike + 'static>(
    config: &Config,
    db: &WorkerDb,
    builtins: Builtins,
    services: Services,
    waiting_max: NonZeroUsize,
    intents: Option<Intents>,
    with: impl Fn(Worker, &WorkerFilter) -> W + Send + Sync + 'static,
) -> WorkerThreadConfig {
    let rules = RatelimitRules::default();
    let parts = WorkerParts::new(db.clone(), builtins, config.limits.clone(), rules, config.links.clone())
        .with_services(services)
        .with_intents(intents)
        .with_expiry(config.expiry.clone(), ExpiryProcess::new(&config.expiry_process));
    WorkerThreadConfig::new(move |id: WorkerId, filter: WorkerFilter| {
        let worker = with(parts.worker(id, filter.clone()), &filter);
        async move { Ok(worker) }
    })
    .with_queues(queues(waiting_max))
    .with_contained_panics(worker_vm::contained_panics)
}

fn queues(waiting_max: NonZeroUsize) -> QueueSizes {
    let room = |least: usize| least.max(waiting_max.get());
    let QueueSizes { control, interactive, normal, flood } = QueueSizes::default();
    QueueSizes { control, interactive: room(interactive), normal: room(normal), flood: room(flood) }
}

/// How workers are put together: `thread`, `process`, or `process*thread`, each with a number of its own if wanted
/// (`process:2*thread:4`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Processes; none if the workers are threads of this one.
    pub processes: Option<Count>,
    /// Threads, in each process; none if a process is one worker.
    pub threads: Option<Count>,
}

/// How many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Count {
    /// As many as the setting `workers` says: in a process the threads are one by default.
    Default,
    /// So many.
    Of(NonZeroUsize),
}

impl Default for Topology {
    fn default() -> Self {
        Self { processes: None, threads: Some(Count::Default) }
    }
}

impl FromStr for Topology {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mistake = || {
            format!(
                "`{text}` is no topology: write thread, process or process*thread, with numbers as in process:2*thread:2"
            )
        };
        let count = |part: &str, kind: &str| match part.split_once(':') {
            None if part == kind => Ok(Count::Default),
            Some((name, count)) if name == kind => count.parse().map(Count::Of).map_err(|_| mistake()),
            _ => Err(mistake()),
        };
        match text.split_once('*') {
            Some((outer, inner)) => {
                Ok(Self { processes: Some(count(outer, "process")?), threads: Some(count(inner, "thread")?) })
            }
            None if text.starts_with("process") => Ok(Self { processes: Some(count(text, "process")?), threads: None }),
            None => Ok(Self { processes: None, threads: Some(count(text, "thread")?) }),
        }
    }
}

impl Topology {
    /// Whether there are other processes.
    pub fn has_processes(self) -> bool {
        self.processes.is_some()
    }

    /// Processes, if there are any.
    pub fn process_count(self, config: &Config) -> Option<NonZeroUsize> {
        self.sizes(config).0
    }

    /// Workers in all.
    pub fn workers(self, config: &Config) -> NonZeroUsize {
        let (processes, threads) = self.sizes(config);
        processes.map_or(threads, |processes| processes.saturating_mul(threads))
    }

    /// Processes, and threads in each.
    fn sizes(self, config: &Config) -> (Option<NonZeroUsize>, NonZeroUsize) {
        let of = |count, default| match count {
            Count::Default => default,
            Count::Of(count) => count,
        };
        match (self.processes, self.threads) {
            (None, threads) => (None, of(threads.unwrap_or(Count::Default), config.workers)),
            (Some(processes), threads) => {
                let threads = threads.map_or(NonZeroUsize::MIN, |threads| of(threads, config.workers));
                (Some(of(processes, config.workers)), threads)
            }
        }
    }
}

/// What a worker process is told of what it should be.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MadeOf {
    /// All settings.
    pub settings: Vec<(String, String)>,
    /// Worker threads.
    pub threads: NonZeroUsize,
    /// Room in their queues.
    pub waiting_max: NonZeroUsize,
    /// The gateway: a process runs the shards of its own tenants.
    pub gateway: Option<GatewayPlan>,
}

/// Worker processes of this program with these settings. The database must not be in memory: they could not share it.
pub fn processes(
    config: &Config,
    threads: NonZeroUsize,
    waiting_max: NonZeroUsize,
    quarantine: Quarantine,
    gateway: Option<GatewayPlan>,
) -> Result<WorkerProcessConfig, WorkerError> {
    let failed = |what: &str, error: Box<dyn std::error::Error + Send + Sync>| {
        WorkerError::new(WorkerErrorKind::Internal, what).with_source(error)
    };
    let mut program =
        Program::this(["worker"]).map_err(|error| failed("this program does not find itself", error.into()))?;
    // What is needed to find files and to make temporary ones, and to trace; nothing else of this process's environment.
    let passed_on = ["PATH", "HOME", "TMPDIR", "TZ", "RUST_BACKTRACE"];
    program.env = passed_on.iter().filter_map(|&name| Some((OsString::from(name), std::env::var_os(name)?))).collect();
    let made_of = MadeOf { settings: config.to_settings(), threads, waiting_max, gateway };
    let processes = WorkerProcessConfig::new(program, &made_of)
        .map_err(|error| failed("the settings cannot be passed on", error.into()))?;
    let answer = config.limits.dispatch_timeout + Duration::from_secs(30);
    Ok(processes
        .with_ids(threads.get().try_into().unwrap_or(u32::MAX).saturating_add(1))
        .with_queues(queues(waiting_max))
        .with_in_flight_max(waiting_max.get().max(4_096))
        .with_timeouts(Timeouts { answer, ..Timeouts::default() })
        .with_quarantine(quarantine)
        .with_before_start(|| {
            // Where the system cannot do it, neighbours of a worker that starts wait a little longer.
            let _ = worker_vm::give_way();
        }))
}

/// Workers of any topology.
#[derive(Debug)]
pub enum AnyWorkers {
    /// Threads of this process.
    Threads(Workers),
    /// Processes.
    Processes(WorkerPool<WorkerProcessHandle>),
}

/// What workers of any topology are made of.
pub struct AnyWorkersConfig<'a> {
    /// How they are put together.
    pub topology: Topology,
    /// The settings.
    pub config: &'a Config,
    /// Threads use these; processes make their own, of the same settings.
    pub db: &'a WorkerDb,
    /// The built-in template and the shared library, for threads.
    pub builtins: Builtins,
    /// What threads reach outside of the process.
    pub services: Services,
    /// Room in each queue.
    pub waiting_max: NonZeroUsize,
    /// Of all processes.
    pub quarantine: Quarantine,
    /// Discord's gateway. Processes run the shards; threads only know what does not come.
    pub gateway: Option<AnyWorkersGateway>,
}

/// How workers are at the gateway.
pub struct AnyWorkersGateway {
    /// What all shards have in common.
    pub plan: GatewayPlan,
    /// Hears what processes say: words of [`Word`](crate::gateway::Word).
    pub hear: Box<dyn Fn(WorkerId, Bytes) + Send + Sync>,
}

impl AnyWorkers {
    /// Starts them.
    pub async fn start(made_of: AnyWorkersConfig<'_>) -> Result<Self, WorkerError> {
        let AnyWorkersConfig { topology, config, db, builtins, services, waiting_max, quarantine, gateway } = made_of;
        let (first, all) = (WorkerId::new(0), WorkerFilter::all());
        match topology.sizes(config) {
            (None, threads) => {
                let config = Config { workers: threads, ..config.clone() };
                let intents = gateway.map(|gateway| gateway.plan.intents);
                start(&config, db, builtins, services, waiting_max, intents).await.map(Self::Threads)
            }
            (Some(workers), threads) => {
                let (plan, hear) = gateway.map(|gateway| (gateway.plan, gateway.hear)).unzip();
                let mut worker = processes(config, threads, waiting_max, quarantine, plan)?;
                if let Some(hear) = hear {
                    worker = worker.with_words(hear);
                }
                let pool = WorkerPoolConfig { workers, worker };
                WorkerPool::start(first, all, Routing::default(), &pool).await.map(Self::Processes)
            }
        }
    }

    /// Makes workers in other processes see templates that were changed a moment ago; in this one they do by themselves.
    pub async fn see_changes_of(&self, tenants: &[TenantId]) -> Result<(), WorkerError> {
        if let Self::Processes(pool) = self {
            for reply in tenants.iter().map(|tenant| pool.reload(*tenant)).collect::<Vec<_>>() {
                reply.await?;
            }
        }
        Ok(())
    }
}

impl WorkerLike for AnyWorkers {
    fn id(&self) -> WorkerId {
        match self {
            Self::Threads(pool) => pool.id(),
            Self::Processes(pool) => pool.id(),
        }
    }

    fn submit(&self, call: Call) {
        match self {
            Self::Threads(pool) => pool.submit(call),
            Self::Processes(pool) => pool.submit(call),
        }
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |f: &mut fmt::Formatter<'_>, kind: &str, count| match count {
            Count::Default => f.write_str(kind),
            Count::Of(count) => write!(f, "{kind}:{count}"),
        };
        if let Some(processes) = self.processes {
            part(f, "process", processes)?;
        }
        if let Some(threads) = self.threads {
            f.write_str(if self.processes.is_some() { "*" } else { "" })?;
            part(f, "thread", threads)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topologies_are_read_as_they_are_written() {
        let config = Config { workers: NonZeroUsize::new(3).unwrap(), ..Config::default() };
        for (text, workers) in [
            ("thread", 3),
            ("thread:5", 5),
            ("process", 3),
            ("process:2", 2),
            ("process*thread", 9),
            ("process:2*thread:4", 8),
        ] {
            let topology: Topology = text.parse().unwrap();
            assert_eq!(topology.to_string(), text);
            assert_eq!(topology.workers(&config).get(), workers, "{text}");
        }
        for text in
            ["", "threads", "process:0", "process:x", "thread*process", "process*", "process:2*thread:2*thread:2"]
        {
            assert!(text.parse::<Topology>().unwrap_err().contains("process:2*thread:2"), "{text}");
        }
    }

    #[test]
    fn settings_get_through_the_pipe() {
        let mut config = Config { workers: NonZeroUsize::new(3).unwrap(), ..Config::default() };
        config.database_url = "postgres://u:secret@h/d".parse().unwrap();
        config.limits.tenant_queue_max = 77;
        config.builtins_dir = Some("/some dir".into());
        let settings = config.to_settings();
        let read = Config::from_settings(&settings).unwrap();
        assert_eq!(read.to_settings(), settings);
        assert_eq!(read.database_url.expose(), "postgres://u:secret@h/d");
    }
}
