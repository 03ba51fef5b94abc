//! Discord's gateway: the shards of this process, whose events go to the workers.

mod end;
mod identify_gate;
mod intents;
mod plan;
mod shard;
mod word;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use worker_core::{Call, ShardStats, WorkerId, WorkerLike, WorkerStats};
use worker_db::{DbError, GatewaySessionRow, WorkerDb};
use worker_vm::{BotRest, DiscordToken, Services};

pub use self::end::GatewayEnd;
use self::identify_gate::IdentifyGate;
pub use self::intents::Intents;
pub use self::plan::{GatewayPlan, GatewayTimings, PlanError};
use self::shard::{Board, ShardTask};
pub use self::shard::{FrameIntake, Observer, Sink};
pub use self::word::{Word, WordError};
use crate::cli::chain;

/// The shards of a process. They end with it, or when the last handle is dropped; clones share them.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

struct Inner {
    boards: Vec<Arc<Board>>,
    stop: watch::Sender<bool>,
    /// True when all shards have ended and their sessions are saved.
    stopped: watch::Receiver<bool>,
    end: watch::Receiver<Option<GatewayEnd>>,
    task: AbortHandle,
}

/// What shards are made of.
pub struct GatewayParts {
    /// What all shards have in common.
    pub plan: GatewayPlan,
    /// The bot's.
    pub token: DiscordToken,
    /// For the day's budget of sessions.
    pub rest: BotRest,
    /// Keeps sessions, and gives turns to identify.
    pub db: WorkerDb,
    /// Where events go.
    pub sink: Sink,
    /// Who sees frames first.
    pub observer: Option<Observer>,
}

impl Gateway {
    /// Starts these shards: those with a session in the database resume it. Returns at once; connections are made in the
    /// runtime that this is called in.
    pub async fn start(parts: GatewayParts, shards: Vec<u32>) -> Result<Self, DbError> {
        let GatewayParts { plan, token, rest, db, sink, observer } = parts;
        // The gateway's TLS asks for the default of the process.
        worker_vm::use_ring_for_tls();
        let gate = IdentifyGate::new(&plan, db.clone(), rest);
        let sessions = db.gateway_sessions(plan.bot, plan.shards.get()).await?;
        let mut saved: HashMap<_, _> = sessions.into_iter().map(|session| (session.shard, session)).collect();
        let plan = Arc::new(plan);
        let (stop, told) = watch::channel(false);
        let (tell_end, end) = watch::channel(None);
        let (tell_stopped, stopped) = watch::channel(false);
        let mut running = JoinSet::new();
        let mut boards = Vec::new();
        let mut known = HashMap::new();
        let is_another = Arc::new(Notify::new());
        for shard in shards {
            let session = saved.remove(&shard);
            known.extend(session.clone().map(|session| (shard, session)));
            let board = Arc::new(Board::new(shard, plan.shards.get(), session, Arc::clone(&is_another)));
            let intake = FrameIntake::new(plan.bot, Arc::clone(&board), observer.clone(), Arc::clone(&sink));
            let task = ShardTask {
                plan: Arc::clone(&plan),
                token: token.clone(),
                gate: gate.clone(),
                board: Arc::clone(&board),
                intake,
                was_connected: false,
                stop: told.clone(),
            };
            running.spawn(task.run());
            boards.push(board);
        }
        let book = SessionBook { plan, db, boards: boards.clone(), saved: known, is_another };
        let task = tokio::spawn(attend(running, book, tell_end, tell_stopped)).abort_handle();
        Ok(Self(Arc::new(Inner { boards, stop, stopped, end, task })))
    }

    /// Figures of each shard.
    pub fn stats(&self) -> Vec<ShardStats> {
        self.0.boards.iter().map(|board| board.stats()).collect()
    }

    /// Closes all connections such that their sessions can be resumed, and saves where they are. What came before has been
    /// handed on when this returns. Takes a few seconds at most.
    pub async fn stop(&self) {
        let _ = self.0.stop.send(true);
        let mut stopped = self.0.stopped.clone();
        // If its task was aborted, nothing more will be.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }

    /// Returns when Discord will not have a shard back, or never.
    pub async fn ended(&self) -> GatewayEnd {
        let mut end = self.0.end.clone();
        let ended = match end.wait_for(Option::is_some).await {
            Ok(ended) => ended.clone(),
            Err(_) => None,
        };
        match ended {
            Some(ended) => ended,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards: Vec<_> = self.0.boards.iter().map(|board| board.shard()).collect();
        f.debug_struct("Gateway").field("shards", &shards).finish_non_exhaustive()
    }
}

/// Tells the process's Discord what frames say of guilds and of the bot; nothing without a Discord.
pub fn observer(services: &Services) -> Option<Observer> {
    #[derive(Deserialize)]
    struct Ready<'a> {
        #[serde(borrow)]
        user: &'a RawValue,
    }
    let discord = services.discord()?.clone();
    Some(Arc::new(move |name, payload| {
        let user = match name {
            "READY" => match serde_json::from_slice::<Ready<'_>>(payload) {
                Ok(Ready { user }) => Some(user.get().as_bytes()),
                Err(_) => None,
            },
            "USER_UPDATE" => Some(payload),
            _ => None,
        };
        if let Some(Err(error)) = user.map(|user| discord.set_current_user(user)) {
            tracing::warn!("the gateway does not say who the bot is: {}", chain(&error));
        }
        discord.guild_states().apply(name, payload);
    }))
}

/// Where sessions are, here and in the database.
struct SessionBook {
    plan: Arc<GatewayPlan>,
    db: WorkerDb,
    boards: Vec<Arc<Board>>,
    saved: HashMap<u32, GatewaySessionRow>,
    /// Told when a shard has another session.
    is_another: Arc<Notify>,
}

impl SessionBook {
    /// Writes what has changed. An error is logged: what is saved later says more.
    async fn save(&mut self) {
        let sessions: Vec<_> = self.boards.iter().map(|board| (board.shard(), board.session())).collect();
        let (bot, shards) = (self.plan.bot, self.plan.shards.get());
        let changed: Vec<_> = sessions
            .iter()
            .filter_map(|(shard, session)| session.clone().filter(|now| self.saved.get(shard) != Some(now)))
            .collect();
        let mut failed = None;
        if !changed.is_empty() {
            match self.db.gateway_sessions_put(bot, shards, &changed).await {
                Ok(()) => self.saved.extend(changed.into_iter().map(|session| (session.shard, session))),
                Err(error) => failed = Some(error),
            }
        }
        for (shard, _) in sessions.iter().filter(|(_, session)| session.is_none()) {
            if !self.saved.contains_key(shard) {
                continue;
            }
            match self.db.gateway_session_delete(bot, shards, *shard).await {
                Ok(()) => drop(self.saved.remove(shard)),
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            tracing::error!("where the sessions at the gateway are is not in the database: {}", chain(&error));
        }
    }
}

/// Saves sessions while shards run, and tells of their end.
async fn attend(
    mut running: JoinSet<Option<GatewayEnd>>,
    mut book: SessionBook,
    end: watch::Sender<Option<GatewayEnd>>,
    stopped: watch::Sender<bool>,
) {
    let mut save = tokio::time::interval(book.plan.timings.save_interval);
    save.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let is_another = Arc::clone(&book.is_another);
    loop {
        tokio::select! {
            ended = running.join_next() => match ended {
                None => break,
                Some(Ok(None)) => {}
                Some(Ok(Some(why))) => drop(end.send(Some(why))),
                Some(Err(error)) => drop(end.send(Some(GatewayEnd::broken(error)))),
            },
            _ = save.tick() => book.save().await,
            () = is_another.notified() => book.save().await,
        }
    }
    book.save().await;
    let _ = stopped.send(true);
    // Whoever waits for an end still may.
    end.closed().await;
}

/// A worker with the shards of its own tenants: it drains after they have been closed, and tells their figures.
pub struct AtGateway<W> {
    worker: Arc<W>,
    gateway: Option<Gateway>,
}

impl<W: WorkerLike + Send + Sync + 'static> AtGateway<W> {
    /// The worker with these shards, which hand it their events.
    pub fn new(worker: Arc<W>, gateway: Option<Gateway>) -> Self {
        Self { worker, gateway }
    }
}

impl<W: WorkerLike + Send + Sync + 'static> WorkerLike for AtGateway<W> {
    fn id(&self) -> WorkerId {
        self.worker.id()
    }

    fn submit(&self, call: Call) {
        let Some(gateway) = &self.gateway else { return self.worker.submit(call) };
        match call {
            Call::Stats { reply_to } => {
                let (stats, gateway) = (self.worker.stats(), gateway.clone());
                tokio::spawn(async move {
                    reply_to.send(stats.await.map(|stats| WorkerStats { shards: gateway.stats(), ..stats }));
                });
            }
            Call::Drain { reply_to } => {
                let (worker, gateway) = (Arc::clone(&self.worker), gateway.clone());
                tokio::spawn(async move {
                    gateway.stop().await;
                    worker.submit(Call::Drain { reply_to });
                });
            }
            call => self.worker.submit(call),
        }
    }
}

impl<W: WorkerLike> fmt::Debug for AtGateway<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtGateway").field("worker", &self.worker.id()).field("gateway", &self.gateway).finish()
    }
}
