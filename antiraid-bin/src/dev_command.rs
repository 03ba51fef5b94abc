//! `antiraid dev`: a Discord on this host to try templates against.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use worker_builtins::Builtins;
use worker_core::{EventName, Routing, TenantId, WorkerFilter, WorkerId, WorkerLike};
use worker_db::WorkerDb;
use worker_pool::{Poolable, WorkerPool, WorkerPoolConfig, WorkerThread};
use worker_vm::{BotRest, BotRestError, DiscordToken, Services};

use crate::cli::{CommandError, DevArgs, Outcome, chain};
use crate::config::{Config, DatabaseUrl, DiscordSettings, IntentsSetting};
use crate::dev::desk::Desk;
use crate::dev::live_folder::LiveFolder;
use crate::dev::log_tail::LogTail;
use crate::dev::watched_workers::WatchedWorkers;
use crate::gateway::{Gateway, GatewayEnd, GatewayParts, GatewayPlan, Intents, observer};
use crate::mistake::Mistake;
use crate::output::complain;
use crate::simulator::world::WorldConfig;
use crate::simulator::{Simulator, SimulatorConfig};
use crate::{engine, register_command, store};

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
    let listener = TcpListener::bind(args.listen).await?;
    let address = listener.local_addr()?;

    let bot_token = format!("simulated.{}", random_token());
    let world =
        WorldConfig { seed: args.seed, guilds: args.guilds.get(), token: bot_token.clone(), ..WorldConfig::default() };
    let simulator = Simulator::new(SimulatorConfig { world, ..SimulatorConfig::default() });
    let guilds = simulator.with_world(|world| world.guilds().map(|guild| guild.id).collect::<Vec<_>>());
    let (templates, shown) = watch::channel(json!({"templates": [], "mistakes": [], "types": []}));
    let token = random_token();
    let desk = Desk::new(simulator.clone(), token.clone(), shown);
    // The page is there at once; templates appear in it when they are loaded.
    let mut http = tokio::spawn(async move { axum::serve(listener, desk.router()).await });
    complain(format_args!("open http://{address}/#{token}"));

    // From here on as with the real Discord, whose place the simulator has. Templates come and go, so the bot asks for all
    // that they may want.
    let discord = DiscordSettings {
        token: Some(DiscordToken::new(bot_token.clone())),
        api_url: format!("http://{address}"),
        gateway_url: None,
        shards: 0,
        intents: IntentsSetting(Some(Intents::of_subscriptions(EventName::DISCORD.iter().copied()))),
    };
    let config = &Config { discord, ..config.clone() };
    let db = store::open(database, &config.limits).await?;
    let rest = BotRest::new(&config.discord.api_url, &bot_token).ok_or(BotRestError::Unauthorized)?;
    let plan = GatewayPlan::make(&rest, &config.discord, &db, NonZeroU32::MIN).await?;
    let services = engine::services_at(config, &plan)?;
    let workers = start(config, &db, builtins, services.clone(), plan.intents, &simulator).await?;
    let workers = Arc::new(WatchedWorkers::new(workers, simulator.clone()));
    let commands = format!("/applications/{}/commands", plan.application);
    let shards = plan.shards_of(&WorkerFilter::all());
    let parts = GatewayParts {
        plan,
        token: DiscordToken::new(bot_token),
        rest: rest.clone(),
        db: db.clone(),
        sink: workers.clone(),
        observer: observer(&services),
    };
    let gateway = Gateway::start(parts, shards).await?;

    let mut folder = LiveFolder::new(
        args.dir.clone(),
        &config.limits.templates,
        library,
        db.clone(),
        &*workers,
        simulator.clone(),
        guilds.into_iter().map(TenantId::Guild).collect(),
        templates,
    );
    let ended = tokio::select! {
        ended = folder.keep_loaded() => ended.map_err(CommandError::from),
        end = GatewayEnd::first(&gateway, &services) => Err(CommandError::Gateway(end)),
        () = tell_stats(&simulator, &*workers) => Ok(()),
        () = register(config, &rest, &commands) => Ok(()),
        ended = &mut http => match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(CommandError::Output(error)),
            Err(error) => Err(CommandError::Output(std::io::Error::other(error))),
        },
        _ = terminate.recv() => Ok(()),
        pressed = tokio::signal::ctrl_c() => pressed.map_err(CommandError::Output),
    };
    drop(folder);
    gateway.stop().await;
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
    db: &WorkerDb,
    builtins: Builtins,
    services: Services,
    intents: Intents,
    simulator: &Simulator,
) -> Result<WorkerPool<WorkerThread>, CommandError> {
    let waiting_max = NonZeroUsize::new(config.limits.tenant_queue_max).unwrap_or(NonZeroUsize::MIN);
    let simulator = simulator.clone();
    let with_tail = move |worker, _: &WorkerFilter| LogTail::new(worker, simulator.clone());
    let worker = engine::threads_with(config, db, builtins, services, waiting_max, Some(intents), with_tail);
    let pool = WorkerPoolConfig { workers: config.workers, worker };
    WorkerPool::start(WorkerId::new(0), WorkerFilter::all(), Routing::default(), &pool)
        .await
        .map_err(CommandError::Workers)
}

/// Registers the built-in template's commands, as `antiraid register` does, and never returns.
async fn register(config: &Config, rest: &BotRest, path: &str) {
    match register_command::declared(config).await {
        Ok(commands) => {
            if let Err(error) = rest.put(path, &json!(commands)).await {
                tracing::warn!("the built-in commands are not registered: {}", chain(&error));
            }
        }
        Err(error) => tracing::warn!("the built-in commands are not registered: {}", chain(&error)),
    }
    std::future::pending().await
}

async fn tell_stats(simulator: &Simulator, workers: &impl WorkerLike) {
    loop {
        tokio::time::sleep(STATS_INTERVAL).await;
        if let Ok(stats) = workers.stats().await {
            simulator.notice("stats", || {
                let tenants: Vec<_> = (stats.tenants.iter())
                    .map(|used| {
                        json!({
                            "tenant": used.tenant.snowflake(), "cpu_micros": used.cpu_micros,
                            "memory_bytes": used.memory_bytes,
                        })
                    })
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
    Err(CommandError::Mistakes(Mistake::in_file(dir, what).into()))
}

/// What no other page and no other user of this host can guess.
fn random_token() -> String {
    format!("{:032x}", rand::random::<u128>())
}
