//! `antiraid worker`: what a worker process runs. Another antiraid starts it; by hand it only says so.

use std::process::ExitCode;
use std::sync::Arc;

use tracing_subscriber::EnvFilter;
use worker_core::{Call, WorkerError, WorkerErrorKind, WorkerFilter, WorkerLike};
use worker_db::WorkerDb;
use worker_pool::{Poolable, WorkerPool, WorkerPoolConfig, WorkerThread};
use worker_process::{LogLines, Parent, ParentError, Words};
use worker_vm::{BotRest, Services};

use crate::cli::chain;
use crate::config::Config;
use crate::engine::{self, MadeOf};
use crate::gateway::{AtGateway, Gateway, GatewayEnd, GatewayParts, GatewayPlan, Word, observer};
use crate::mistake::Mistakes;
use crate::output::complain;
use crate::store;

/// Why a worker process ended otherwise than it was told to.
#[derive(Debug, thiserror::Error)]
enum WorkerProcessError {
    #[error(transparent)]
    Parent(#[from] ParentError),
    #[error("the parent's settings are none of this version")]
    MadeOf(#[source] serde_json::Error),
    #[error("the parent's settings: {0}")]
    Settings(Mistakes),
    #[error("the flight log cannot be written")]
    FlightLog(#[source] std::io::Error),
    #[error(transparent)]
    Store(#[from] worker_db::DbError),
    #[error("the workers cannot be started")]
    Workers(#[from] WorkerError),
    #[error("signals cannot be listened to")]
    Signals(#[source] std::io::Error),
    #[error("the parent's settings have no token for its gateway")]
    NoToken,
    #[error("the runtime cannot be started")]
    Runtime(#[source] std::io::Error),
}

/// Runs the command. It looks at no file and no variable: the parent says all.
pub fn run() -> ExitCode {
    match run_worker() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("antiraid worker: {}", chain(&error)));
            ExitCode::from(3)
        }
    }
}

fn run_worker() -> Result<(), WorkerProcessError> {
    // This thread drives the connection; the engines have threads of their own.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(WorkerProcessError::Runtime)?;
    let ended = runtime.block_on(async {
        let parent = Parent::listen().await?;
        store::survive_file_limits().map_err(WorkerProcessError::Signals)?;
        // Before any thread that it may be about.
        worker_vm::record_flights(parent.flight_log()).map_err(WorkerProcessError::FlightLog)?;
        let made_of: MadeOf = serde_json::from_str(parent.made_of()).map_err(WorkerProcessError::MadeOf)?;
        let mut config = Config::from_settings(&made_of.settings).map_err(WorkerProcessError::Settings)?;
        // Each process has leases of its own, and has the same name after it was started again.
        config.expiry_process = format!("{}/{}", config.expiry_process, parent.id());
        let logs = LogLines::default();
        crate::log::start_in_worker(EnvFilter::new(&config.log_filter), logs.clone());
        let builtins = engine::builtins(&config).map_err(WorkerProcessError::Settings)?;
        let services = match &made_of.gateway {
            Some(plan) => engine::services_at(&config, plan),
            None => engine::services(&config),
        };
        let services = services.map_err(WorkerProcessError::Settings)?;
        // What is left of the start is little, and all threads that come are to be like those of other workers. It fails where
        // the parent could not make this process give way.
        let _ = worker_vm::give_way_no_more();
        let db = store::open(&config.database_url, &config.limits).await?;
        let intents = made_of.gateway.as_ref().map(|plan| plan.intents);
        let paused = parent.paused().to_vec();
        let worker = engine::threads(&config, &db, builtins, services.clone(), made_of.waiting_max, paused, intents);
        let (id, filter, routing) = (parent.id(), parent.filter().clone(), parent.routing());
        let process = Process { parent, logs, config: &config, db, services, gateway: made_of.gateway };
        if made_of.threads.get() == 1 {
            process.serve(WorkerThread::start(id, filter, &worker).await?).await
        } else {
            let pool = WorkerPoolConfig { workers: made_of.threads, worker };
            process.serve(<WorkerPool<WorkerThread> as Poolable>::start(id, filter, routing, &pool).await?).await
        }
    });
    // Threads may be stuck, and the parent waits for the end of this process: it ends here, with its threads.
    match ended {
        Ok(()) => std::process::exit(0),
        Err(error) => Err(error),
    }
}

/// What a worker is served with.
struct Process<'a> {
    parent: Parent,
    logs: LogLines,
    config: &'a Config,
    db: WorkerDb,
    services: Services,
    gateway: Option<GatewayPlan>,
}

impl Process<'_> {
    /// Serves the worker, with the shards of its tenants if there is a gateway, until it is told to end.
    async fn serve<W: WorkerLike + Send + Sync + 'static>(self, worker: W) -> Result<(), WorkerProcessError> {
        let Self { parent, logs, config, db, services, gateway } = self;
        let worker = Arc::new(worker);
        let gateway = match gateway {
            None => None,
            Some(plan) => {
                let (filter, words) = (parent.filter().clone(), parent.words());
                let token = config.discord.token.clone().ok_or(WorkerProcessError::NoToken)?;
                let rest = BotRest::new(&config.discord.api_url, token.expose()).ok_or(WorkerProcessError::NoToken)?;
                let shards = plan.shards_of(&filter);
                let sink = Arc::new(OwnTenants { worker: Arc::clone(&worker), filter, words: words.clone() });
                let observer = observer(&services);
                let gateway = Gateway::start(GatewayParts { plan, token, rest, db, sink, observer }, shards).await?;
                let watched = gateway.clone();
                tokio::spawn(async move {
                    let end = GatewayEnd::first(&watched, &services).await;
                    // The parent ends this process when it hears it; until then it runs what it has.
                    if !Word::Ended(end.clone()).encode().is_some_and(|word| words.say(word)) {
                        tracing::error!("{end}");
                    }
                });
                Some(gateway)
            }
        };
        Ok(parent.serve(AtGateway::new(worker, gateway), logs).await?)
    }
}

/// Where the gateway's events go in a worker process: those of other workers' tenants to the parent.
struct OwnTenants<W> {
    worker: Arc<W>,
    filter: WorkerFilter,
    words: Words,
}

impl<W: WorkerLike + Send + Sync> WorkerLike for OwnTenants<W> {
    fn id(&self) -> worker_core::WorkerId {
        self.worker.id()
    }

    fn submit(&self, call: Call) {
        match call {
            Call::Dispatch { tenant, event, reply_to } if !self.filter.owns(tenant) => {
                let word = Word::Stray { tenant, event }.encode();
                let answer = if word.is_some_and(|word| self.words.say(word)) {
                    Ok(worker_core::DispatchResult::default())
                } else {
                    Err(WorkerError::new(
                        WorkerErrorKind::Overloaded,
                        "the parent does not take what is not this worker's",
                    ))
                };
                reply_to.send(answer);
            }
            call => self.worker.submit(call),
        }
    }
}
