//! `antiraid dev`: a Discord on this host to try templates against.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use worker_core::{Routing, TenantId, WorkerFilter, WorkerId, WorkerLike};
use worker_pool::{Poolable, WorkerPool, WorkerPoolConfig, WorkerThread};

use crate::cli::{CommandError, DevArgs, Outcome};
use crate::config::{Config, DatabaseUrl};
use crate::dev::desk::Desk;
use crate::dev::event_sink;
use crate::dev::live_folder::LiveFolder;
use crate::dev::watched_workers::WatchedWorkers;
use crate::engine;
use crate::output::complain;
use crate::simulator::world::WorldConfig;
use crate::simulator::{Simulator, SimulatorConfig};
use crate::store;

/// How long what is running is waited for at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// How often figures are told.
const STATS_INTERVAL: Duration = Duration::from_millis(500);

/// Runs the command until it is interrupted.
pub async fn run(args: DevArgs, config: &Config, database: &DatabaseUrl) -> Result<Outcome, CommandError> {
    let mut terminate = signal(SignalKind::terminate())?;
    if !args.listen.ip().is_loopback() {
        return Err(CommandError::Usage(
            "--listen takes an address of this host only: whoever reaches it may do everything in the simulated Discord",
        ));
    }
    check_dir(&args.dir)?;
    let builtins = engine::builtins(config)?;
    let library = builtins.library();
    let services = engine::services(config)?;
    let listener = TcpListener::bind(args.listen).await?;
    let address = listener.local_addr()?;

    let world = WorldConfig { seed: args.seed, guilds: args.guilds.get(), ..WorldConfig::default() };
    let simulator = Simulator::new(SimulatorConfig { world, ..SimulatorConfig::default() });
    let tenants =
        simulator.with_world(|world| world.guilds().map(|guild| TenantId::Guild(guild.id)).collect::<Vec<_>>());
    let (templates, shown) = watch::channel(json!({"templates": [], "mistakes": [], "types": []}));
    let token = random_token();
    let desk = Desk::new(simulator.clone(), token.clone(), shown);
    // The page is there at once; templates appear in it when they are loaded.
    let mut http = tokio::spawn(async move { axum::serve(listener, desk.router()).await });
    complain(format_args!("open http://{address}/#{token}"));

    let db = store::open(database, &config.limits).await?;
    let workers = WatchedWorkers::new(start(config, &db, builtins, services, &simulator).await?, simulator.clone());
    let mut folder = LiveFolder::new(
        args.dir.clone(),
        &config.limits.templates,
        library,
        db.clone(),
        &workers,
        simulator.clone(),
        tenants,
        templates,
    );
    let ended = tokio::select! {
        ended = folder.keep_loaded() => ended.map_err(CommandError::from),
        () = event_sink::pour(&simulator, &workers) => Ok(()),
        () = tell_stats(&simulator, &workers) => Ok(()),
        ended = &mut http => match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(CommandError::Output(error)),
            Err(error) => Err(CommandError::Output(std::io::Error::other(error))),
        },
        _ = terminate.recv() => Ok(()),
        pressed = tokio::signal::ctrl_c() => pressed.map_err(CommandError::Output),
    };
    drop(folder);
    if tokio::time::timeout(DRAIN_TIMEOUT, workers.drain()).await.is_err() {
        // Whether it was still there to be killed matters to nobody.
        let _ = workers.kill().await;
    }
    http.abort();
    db.close().await;
    ended.map(|()| Outcome::Good)
}

/// Worker threads whose tenants' logs are told.
async fn start(
    config: &Config,
    db: &worker_db::WorkerDb,
    builtins: worker_builtins::Builtins,
    services: worker_vm::Services,
    simulator: &Simulator,
) -> Result<WorkerPool<WorkerThread>, CommandError> {
    let waiting_max =
        std::num::NonZeroUsize::new(config.limits.tenant_queue_max).unwrap_or(std::num::NonZeroUsize::MIN);
    let simulator = simulator.clone();
    let worker = engine::threads_with(config, db, builtins, services, waiting_max, move |worker| {
        crate::dev::log_tail::LogTail::new(worker, simulator.clone())
    });
    let pool = WorkerPoolConfig { workers: config.workers, worker };
    WorkerPool::start(WorkerId::new(0), WorkerFilter::all(), Routing::default(), &pool)
        .await
        .map_err(CommandError::Workers)
}

async fn tell_stats(simulator: &Simulator, workers: &impl WorkerLike) {
    loop {
        tokio::time::sleep(STATS_INTERVAL).await;
        if let Ok(stats) = workers.stats().await {
            simulator.notice("stats", || {
                let tenants: Vec<_> = (stats.tenants.iter())
                    .map(|used| json!({
                        "tenant": used.tenant.snowflake(), "cpu_micros": used.cpu_micros, "memory_bytes": used.memory_bytes,
                    }))
                    .collect();
                json!({
                    "tenants": tenants, "events": stats.events, "queued": stats.events_queued, "run": stats.templates_run,
                    "failed": stats.templates_failed, "vms": stats.vms_live, "memory_bytes": stats.vm_memory_bytes,
                })
            });
        }
    }
}

fn check_dir(dir: &Path) -> Result<(), CommandError> {
    if dir.is_dir() {
        return Ok(());
    }
    let what = "is no folder; name one with templates, or one that they will be in";
    Err(CommandError::Mistakes(crate::mistake::Mistake::in_file(dir, what).into()))
}

/// What no other page and no other user of this host can guess.
fn random_token() -> String {
    use std::hash::{BuildHasher, Hasher};
    // Each state has keys of the operating system's randomness.
    (0..2).map(|_| format!("{:016x}", std::hash::RandomState::new().build_hasher().finish())).collect()
}
