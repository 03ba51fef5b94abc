//! `antiraid worker`: what a worker process runs. Another antiraid starts it; by hand it only says so.

use std::process::ExitCode;

use tracing_subscriber::EnvFilter;
use worker_core::WorkerError;
use worker_pool::{Poolable, WorkerPool, WorkerPoolConfig, WorkerThread};
use worker_process::{LogLines, Parent, ParentError};

use crate::cli::chain;
use crate::config::Config;
use crate::engine::{self, MadeOf};
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
        let services = engine::services(&config).map_err(WorkerProcessError::Settings)?;
        // What is left of the start is little, and all threads that come are to be like those of other workers. It fails where
        // the parent could not make this process give way.
        let _ = worker_vm::give_way_no_more();
        let db = store::open(&config.database_url, &config.limits).await?;
        let worker = engine::threads(&config, &db, builtins, services, made_of.waiting_max, parent.paused().to_vec());
        let (id, filter, routing) = (parent.id(), parent.filter().clone(), parent.routing());
        if made_of.threads.get() == 1 {
            let worker = WorkerThread::start(id, filter, &worker).await?;
            parent.serve(worker, logs).await?;
        } else {
            let pool = WorkerPoolConfig { workers: made_of.threads, worker };
            let pool = <WorkerPool<WorkerThread> as Poolable>::start(id, filter, routing, &pool).await?;
            parent.serve(pool, logs).await?;
        }
        Ok(())
    });
    // Threads may be stuck, and the parent waits for the end of this process: it ends here, with its threads.
    match ended {
        Ok(()) => std::process::exit(0),
        Err(error) => Err(error),
    }
}
