//! `antiraid run`: serves workers. Events come from Discord's gateway, or on standard input; and over HTTP on this host.

use std::cell::Cell;
use std::io;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use worker_core::{Call, Event, TenantId, WorkerFilter, WorkerId, WorkerLike, WorkerStats};
use worker_db::WorkerDb;
use worker_process::{Evidence, Quarantine, QuarantinePolicy};
use worker_vm::{BotRest, BotRestError, DiscordToken};

use crate::cli::{CommandError, Outcome, RunArgs, chain};
use crate::config::{Config, DatabaseUrl};
use crate::engine::{self, AnyWorkers, AnyWorkersConfig, AnyWorkersGateway};
use crate::gateway::{Gateway, GatewayEnd, GatewayParts, GatewayPlan, PlanError, Word, observer};
use crate::gateway_frame::{GatewaySession, Sifted};
use crate::output::{Output, complain};
use crate::recording::{Recorded, Source, read_ahead};
use crate::replay::{Ending, Replay, result_line};
use crate::store;

/// The largest body of a request: as large as the largest event.
const BODY_BYTES_MAX: usize = 32 << 20;
/// How long what is running is waited for at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How often it is looked whether an operator has released a tenant.
const QUARANTINE_INTERVAL: Duration = Duration::from_secs(2);
/// Events on their way from one worker process to another.
const STRAYS_MAX: usize = 4_096;
/// Between two attempts to reach Discord at the start; doubled each time, with a random part.
const DISCORD_RETRY: Duration = Duration::from_secs(1);
const DISCORD_RETRY_MAX: Duration = Duration::from_secs(60);
/// Events in flight from standard input, for each worker.
const IN_FLIGHT_EACH: usize = 64;

/// What `GET /stats` answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// How the workers are put together.
    pub topology: String,
    /// Since the start.
    pub uptime_seconds: f64,
    /// Of each worker of the outer pool.
    pub workers: Vec<WorkerSnapshot>,
    /// All added up.
    pub total: WorkerStats,
    /// Tenants that are quarantined.
    pub quarantined: Vec<Evidence>,
}

/// One worker of the outer pool.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkerSnapshot {
    /// Its name.
    pub id: WorkerId,
    /// Its process, if it has one of its own and that is there.
    pub pid: Option<u32>,
    /// Its figures; absent if it does not tell any.
    pub stats: Option<WorkerStats>,
}

struct Served {
    workers: AnyWorkers,
    /// The shards of this process; worker processes have their own.
    gateway: OnceLock<Gateway>,
    quarantine: Quarantine,
    topology: String,
    started: Instant,
}

/// The workers, as the gateway's shards of this process see them.
struct ServedWorkers(Weak<Served>);

impl WorkerLike for ServedWorkers {
    fn id(&self) -> WorkerId {
        self.0.upgrade().map_or(WorkerId::new(0), |served| served.workers.id())
    }

    fn submit(&self, call: Call) {
        // Without them the call is dropped, which tells its caller.
        if let Some(served) = self.0.upgrade() {
            served.workers.submit(call);
        }
    }
}

/// What is needed to be at Discord's gateway.
struct Online {
    plan: GatewayPlan,
    token: DiscordToken,
    rest: BotRest,
}

/// What worker processes say.
struct Heard {
    strays: mpsc::Receiver<(TenantId, Event)>,
    end: watch::Receiver<Option<GatewayEnd>>,
}

/// Asks Discord what a gateway needs, for as long as it takes; `None` if the program was told to end meanwhile.
async fn go_online(
    config: &Config,
    db: &WorkerDb,
    processes: NonZeroU32,
    terminate: &mut Signal,
) -> Result<Option<Online>, CommandError> {
    let token = config.discord.token.clone().ok_or(CommandError::Usage(
        "no bot's token: set DISCORD_TOKEN or `discord.token`, or give --offline to serve events without Discord",
    ))?;
    let rest = BotRest::new(&config.discord.api_url, token.expose()).ok_or(BotRestError::Unauthorized)?;
    let mut wait = DISCORD_RETRY;
    loop {
        let planned = tokio::select! {
            planned = GatewayPlan::make(&rest, &config.discord, db, processes) => planned,
            _ = terminate.recv() => return Ok(None),
            pressed = tokio::signal::ctrl_c() => return pressed.map(|()| None).map_err(CommandError::Output),
        };
        let error = match planned {
            Ok(plan) => return Ok(Some(Online { plan, token, rest })),
            Err(PlanError::Rest(error)) if error.is_passing() => error,
            Err(error) => return Err(error.into()),
        };
        complain(format_args!("{}; trying again in {} s", chain(&error), wait.as_secs()));
        tokio::select! {
            () = tokio::time::sleep(wait.mul_f64(0.75 + rand::random::<f64>() / 2.0)) => {}
            _ = terminate.recv() => return Ok(None),
            pressed = tokio::signal::ctrl_c() => return pressed.map(|()| None).map_err(CommandError::Output),
        }
        wait = (wait * 2).min(DISCORD_RETRY_MAX);
    }
}

/// Hears what worker processes say, and who wants to know it.
fn ears() -> (Box<dyn Fn(WorkerId, Bytes) + Send + Sync>, Heard) {
    let (stray, strays) = mpsc::channel(STRAYS_MAX);
    let (tell_end, end) = watch::channel(None);
    let hear = move |worker, bytes: Bytes| match Word::decode(&bytes) {
        Ok(Word::Stray { tenant, event }) => {
            let name = event.name().clone();
            if stray.try_send((tenant, event)).is_err() {
                tracing::error!(%tenant, event = %name, %worker, "an event of another worker's tenant is lost: too many wait");
            }
        }
        Ok(Word::Ended(end)) => drop(tell_end.send(Some(end))),
        Err(error) => tracing::error!(%worker, "the worker process said something strange: {}", chain(&error)),
    };
    (Box::new(hear), Heard { strays, end })
}

/// Gives events to their tenants' workers that came by the shards of others.
async fn route(mut strays: mpsc::Receiver<(TenantId, Event)>, served: Weak<Served>) {
    while let Some((tenant, event)) = strays.recv().await {
        let Some(served) = served.upgrade() else { return };
        served.workers.dispatch_nowait(tenant, event);
    }
}

/// Runs the command.
pub async fn run(args: RunArgs, config: &Config, output: &mut Output) -> Result<Outcome, CommandError> {
    // Before anything is started, or a signal would end it without a word.
    let mut terminate = signal(SignalKind::terminate())?;
    store::survive_file_limits()?;
    if !args.listen.ip().is_loopback() {
        return Err(CommandError::Usage(
            "--listen takes an address of this host only: whoever reaches it may send events",
        ));
    }
    if args.topology.has_processes() && config.database_url == DatabaseUrl::memory() {
        return Err(CommandError::Usage("processes cannot share a database in memory; give --db sqlite:<file>"));
    }
    let builtins = engine::builtins(config)?;
    let db = store::open(&config.database_url, &config.limits).await?;
    let online = if args.offline {
        None
    } else {
        let processes =
            args.topology.process_count(config).map_or(1, |processes| processes.get().try_into().unwrap_or(u32::MAX));
        let processes = NonZeroU32::new(processes).unwrap_or(NonZeroU32::MIN);
        match go_online(config, &db, processes, &mut terminate).await? {
            Some(online) => Some(online),
            None => return Ok(Outcome::Good),
        }
    };
    let services = match &online {
        Some(online) => engine::services_at(config, &online.plan)?,
        None => engine::services(config)?,
    };
    let quarantine = persistent_quarantine(&db).await?;
    let waiting_max = NonZeroUsize::new(config.limits.tenant_queue_max).unwrap_or(NonZeroUsize::MIN);
    let (hear, heard) = ears();
    let workers = AnyWorkers::start(AnyWorkersConfig {
        topology: args.topology,
        config,
        db: &db,
        builtins,
        services: services.clone(),
        waiting_max,
        quarantine: quarantine.clone(),
        gateway: online.as_ref().map(|online| AnyWorkersGateway { plan: online.plan.clone(), hear }),
    })
    .await
    .map_err(CommandError::Workers)?;
    let in_flight = args.topology.workers(config).get().saturating_mul(IN_FLIGHT_EACH).min(waiting_max.get());
    let served = Arc::new(Served {
        workers,
        gateway: OnceLock::new(),
        quarantine,
        topology: args.topology.to_string(),
        started: Instant::now(),
    });

    let listener = TcpListener::bind(args.listen).await?;
    complain(format_args!("serving http://{} with {}", listener.local_addr()?, served.topology));
    let routes = tokio::spawn(route(heard.strays, Arc::downgrade(&served)));
    if let Some(Online { plan, token, rest }) = online {
        let (bot, shards, intents) = (plan.bot, plan.shards, plan.intents);
        if !args.topology.has_processes() {
            let sink = Arc::new(ServedWorkers(Arc::downgrade(&served)));
            let own = plan.shards_of(&WorkerFilter::all());
            let parts = GatewayParts { plan, token, rest, db: db.clone(), sink, observer: observer(&services) };
            let _ = served.gateway.set(Gateway::start(parts, own).await?);
        }
        complain(format_args!("at Discord's gateway as {bot} with {shards} shards, for {intents}"));
    }
    let gateway_end = gateway_end(served.gateway.get().cloned(), services, heard.end);
    let mut gateway_end = std::pin::pin!(gateway_end);
    let (stop, stopped) = watch::channel(false);
    let mut http = tokio::spawn(serve(listener, Arc::clone(&served), stopped.clone()));
    let releases = tokio::spawn(see_releases(db.clone(), Arc::clone(&served)));

    let replay = Replay::new(&served.workers, in_flight, Some(output));
    let told = stopped.clone();
    let asked_before = Cell::new(false);
    let interrupt = move || {
        let (mut told, asked_before) = (told.clone(), asked_before.replace(true));
        async move {
            // A second one would give up what is in flight, and nobody sends that: it ends with the drain.
            if asked_before {
                std::future::pending::<()>().await;
            }
            // Its sender lives until the end.
            let _ = told.wait_for(|stop| *stop).await;
        }
    };
    let events = replay
        .run(read_ahead(vec![Source::Stdin], NonZeroU32::MIN), interrupt, async |_: &_| Ok::<_, CommandError>(()));
    let mut events = std::pin::pin!(events);
    let mut reading = args.offline;
    let ended = loop {
        tokio::select! {
            ended = &mut events, if reading => {
                reading = false;
                match ended {
                    Err(error) => break Err(error),
                    Ok((_, Ending::BadInput(error))) => complain(format_args!("antiraid: {error}; HTTP is still served")),
                    Ok(_) => {}
                }
            }
            end = &mut gateway_end => break Err(CommandError::Gateway(end)),
            _ = terminate.recv() => break Ok(()),
            pressed = tokio::signal::ctrl_c() => break pressed.map_err(CommandError::Output),
            crashed = &mut http => {
                let what = crashed.err().map_or_else(|| "it ended".into(), |error| error.to_string());
                break Err(CommandError::Output(io::Error::other(format!("HTTP is not served any more: {what}"))));
            }
        }
    };
    // No new events; those that were taken are finished, and their answers written. Worker processes close their shards
    // when they drain.
    let _ = stop.send(true);
    if let Some(gateway) = served.gateway.get() {
        gateway.stop().await;
    }
    if reading {
        events.await?;
    }
    let drained = tokio::time::timeout(DRAIN_TIMEOUT, served.workers.drain()).await;
    if !matches!(drained, Ok(Ok(()))) {
        complain("what was still running has been ended");
        // Whether it was still there to be killed matters to nobody.
        let _ = served.workers.kill().await;
    }
    // Requests that wait for the last answers.
    let _ = tokio::time::timeout(Duration::from_secs(1), &mut http).await;
    http.abort();
    releases.abort();
    routes.abort();
    db.close().await;
    ended.map(|()| Outcome::Good)
}

/// Returns when Discord will not have the bot any more, as shards here or in worker processes learn.
async fn gateway_end(
    gateway: Option<Gateway>,
    services: worker_vm::Services,
    mut told: watch::Receiver<Option<GatewayEnd>>,
) -> GatewayEnd {
    if let Some(gateway) = gateway {
        return GatewayEnd::first(&gateway, &services).await;
    }
    let end = match told.wait_for(Option::is_some).await {
        Ok(end) => end.clone(),
        // There are no worker processes.
        Err(_) => None,
    };
    match end {
        Some(end) => end,
        None => std::future::pending().await,
    }
}

/// A quarantine that the database remembers.
async fn persistent_quarantine(db: &WorkerDb) -> Result<Quarantine, CommandError> {
    let to = db.clone();
    let quarantine = Quarantine::new(QuarantinePolicy::default(), move |evidence| {
        let (db, evidence) = (to.clone(), evidence.clone());
        tokio::spawn(async move {
            let json = serde_json::to_string(&evidence).expect("because text and numbers have a JSON form");
            if let Err(error) = db.quarantine_put(evidence.tenant, &json).await {
                tracing::error!(tenant = %evidence.tenant, "the quarantine is not in the database: {}", chain(&error));
            }
        });
    });
    for row in db.quarantine_list().await? {
        // What another version wrote keeps the tenant paused all the same.
        let evidence = serde_json::from_str(&row.evidence_json).unwrap_or(Evidence {
            tenant: row.tenant,
            template: String::new(),
            event: String::new(),
            exit: String::new(),
            log_lines: Vec::new(),
            deaths: 0,
        });
        quarantine.restore(Evidence { tenant: row.tenant, ..evidence });
    }
    Ok(quarantine)
}

/// Lets tenants run again whom an operator has released. A worker process that was told that they are nobody's is
/// replaced, in good order.
async fn see_releases(db: WorkerDb, served: Arc<Served>) {
    /// Told by a supervisor, and not yet in the database: not a release.
    const YOUNG: u32 = 1;
    let mut seen: std::collections::HashMap<TenantId, u32> = Default::default();
    loop {
        tokio::time::sleep(QUARANTINE_INTERVAL).await;
        let paused = served.quarantine.all();
        if paused.is_empty() {
            continue;
        }
        let Ok(rows) = db.quarantine_list().await else { continue };
        seen.retain(|tenant, _| paused.iter().any(|evidence| evidence.tenant == *tenant));
        for Evidence { tenant, .. } in paused {
            let rounds = seen.entry(tenant).or_default();
            *rounds += 1;
            if *rounds <= YOUNG || rows.iter().any(|row| row.tenant == tenant) {
                continue;
            }
            tracing::warn!(%tenant, "the tenant was released from quarantine");
            served.quarantine.release(tenant);
            if let AnyWorkers::Processes(pool) = &served.workers
                && let Err(error) = pool.replace_owner(tenant).await
            {
                tracing::error!(%tenant, "its worker could not be replaced: {}", chain(&error));
            }
        }
    }
}

async fn serve(listener: TcpListener, served: Arc<Served>, mut stopped: watch::Receiver<bool>) -> io::Result<()> {
    let router = Router::new()
        .route("/events", post(events))
        .route("/stats", get(stats))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(served);
    let stop = async move {
        // Its sender lives until the end.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

/// Dispatches the frames of the body, and answers with a line of JSON for each result.
async fn events(State(served): State<Arc<Served>>, body: Bytes) -> Response {
    let mut session = GatewaySession::default();
    let mut replies = Vec::new();
    for (line, text) in (1..).zip(body.split(|byte| *byte == b'\n')) {
        if text.trim_ascii().is_empty() {
            continue;
        }
        match session.sift(&body.slice_ref(text)) {
            Ok(Sifted::Deliver { tenant, event }) => {
                let reply = served.workers.dispatch_with_retry(tenant, event.clone());
                replies.push((Recorded { line, tenant, event }, reply));
            }
            Ok(Sifted::Skip(_)) => {}
            // What stood before it has been dispatched, as `antiraid replay` does.
            Err(error) => {
                let what = format!("line {line}: {error}; what stood before it was dispatched\n");
                return (StatusCode::BAD_REQUEST, what).into_response();
            }
        }
    }
    let mut lines = Vec::new();
    let mut overloaded = false;
    for (recorded, reply) in replies {
        match reply.await {
            Ok(result) => {
                for result in result.templates {
                    if result_line(&mut lines, &recorded, &result.template, &result.outcome).is_err() {
                        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
                    }
                }
            }
            Err(error) => {
                overloaded |= error.kind() == worker_core::WorkerErrorKind::Overloaded;
                let refused = serde_json::json!({
                    "line": recorded.line, "tenant": recorded.tenant, "event": recorded.event.name().as_str(),
                    "refused": error.kind().to_string(), "retryable": error.kind().is_retryable(), "why": chain(&error),
                });
                lines.extend_from_slice(refused.to_string().as_bytes());
                lines.push(b'\n');
            }
        }
    }
    let status = if overloaded { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, [(header::CONTENT_TYPE, "application/x-ndjson")], Body::from(lines)).into_response()
}

async fn stats(State(served): State<Arc<Served>>) -> axum::Json<Snapshot> {
    let workers: Vec<_> = match &served.workers {
        AnyWorkers::Threads(pool) => pool.members().iter().map(|worker| (worker.id(), None, worker.stats())).collect(),
        AnyWorkers::Processes(pool) => {
            pool.members().iter().map(|worker| (worker.id(), worker.pid(), worker.stats())).collect()
        }
    };
    let mut snapshot = Snapshot {
        topology: served.topology.clone(),
        uptime_seconds: served.started.elapsed().as_secs_f64(),
        quarantined: served.quarantine.all(),
        ..Snapshot::default()
    };
    for (id, pid, stats) in workers {
        let stats = stats.await.ok();
        if let Some(stats) = &stats {
            snapshot.total += stats;
        }
        snapshot.workers.push(WorkerSnapshot { id, pid, stats });
    }
    if let Some(gateway) = served.gateway.get() {
        snapshot.total.shards = gateway.stats();
    }
    axum::Json(snapshot)
}
