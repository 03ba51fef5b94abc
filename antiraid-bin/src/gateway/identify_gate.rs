//! Whose turn it is to identify. Discord allows few sessions to be begun at once, and so many a day; too many cost the bot
//! its token.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, oneshot};
use tokio::time::{Instant, sleep, timeout};
use twilight_gateway::queue::Queue;
use worker_core::Snowflake;
use worker_db::{IdentifyTurn, WorkerDb};
use worker_vm::BotRest;

use super::plan::{GatewayBot, GatewayPlan, SessionStartLimit, read};
use crate::cli::chain;

/// How long what Discord said of the day's sessions is believed: other processes begin some too.
const BUDGET_AGE_MAX: Duration = Duration::from_secs(60);
/// How long Discord may take to say it.
const BUDGET_TIMEOUT: Duration = Duration::from_secs(30);
/// The part of the day's sessions that is not touched, for those whom two processes believed to be left.
const RESERVE_PART: u32 = 50;
/// Between two looks at a database that failed.
const RETRY: Duration = Duration::from_secs(1);
/// The longest random wait after somebody else's turn: who waits for the same should not ask at the same moment.
const SPREAD: Duration = Duration::from_millis(100);

/// Gives turns to the shards of this process; all processes over one database take them from each other. Clones share it.
#[derive(Clone)]
pub(crate) struct IdentifyGate(Arc<Gate>);

struct Gate {
    bot: Snowflake,
    max_concurrency: u32,
    spacing: Duration,
    db: WorkerDb,
    rest: BotRest,
    /// The shards of a bucket in this process wait for each other, in the order in which they came.
    buckets: Mutex<HashMap<u32, Arc<AsyncMutex<()>>>>,
    budget: AsyncMutex<Option<Budget>>,
}

/// How many sessions may be begun.
struct Budget {
    limit: SessionStartLimit,
    asked_at: Instant,
    taken: u32,
}

impl Budget {
    fn has_room(&self) -> bool {
        let reserve = self.limit.total / RESERVE_PART;
        self.limit.remaining.saturating_sub(self.taken) > reserve
    }

    fn resets_at(&self) -> Instant {
        self.asked_at + Duration::from_millis(self.limit.reset_after)
    }
}

impl IdentifyGate {
    pub(crate) fn new(plan: &GatewayPlan, db: WorkerDb, rest: BotRest) -> Self {
        Self(Arc::new(Gate {
            bot: plan.bot,
            max_concurrency: plan.max_concurrency.get(),
            spacing: plan.timings.identify_spacing,
            db,
            rest,
            buckets: Mutex::default(),
            budget: AsyncMutex::new(None),
        }))
    }
}

impl Gate {
    /// Returns when it is the shard's turn.
    async fn turn(&self, shard: u32, wanted: &oneshot::Sender<()>) {
        // https://discord.com/developers/docs/events/gateway#max-concurrency
        let bucket = shard % self.max_concurrency;
        let place = {
            let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(buckets.entry(bucket).or_default())
        };
        let _place = place.lock().await;
        loop {
            // The shard has lost its connection meanwhile, and will ask again.
            if wanted.is_closed() {
                return;
            }
            match self.db.gateway_identify(self.bot, bucket, self.spacing).await {
                Ok(IdentifyTurn::Now) => break,
                Ok(IdentifyTurn::After(wait)) => sleep(wait + SPREAD.mul_f64(rand::random::<f64>())).await,
                Err(error) => {
                    tracing::error!(shard, "the database does not say whose turn it is to identify: {}", chain(&error));
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Returns when one of the day's sessions may be begun.
    async fn take_session(&self, shard: u32, wanted: &oneshot::Sender<()>) {
        let mut budget = self.budget.lock().await;
        let mut is_told = false;
        while !wanted.is_closed() {
            let is_fresh = |budget: &Budget| budget.asked_at.elapsed() < BUDGET_AGE_MAX && budget.has_room();
            if !budget.as_ref().is_some_and(is_fresh) {
                match timeout(BUDGET_TIMEOUT, self.ask()).await {
                    Ok(Some(asked)) => *budget = Some(asked),
                    // Without an answer, what was true before is most likely to be true now.
                    Ok(None) | Err(_) if budget.as_ref().is_some_and(Budget::has_room) => {}
                    Ok(None) | Err(_) => {
                        sleep(RETRY.mul_f64(1.0 + rand::random::<f64>())).await;
                        continue;
                    }
                }
            }
            let Some(budget) = budget.as_mut() else { continue };
            if budget.has_room() {
                budget.taken += 1;
                return;
            }
            let wait = budget.resets_at().saturating_duration_since(Instant::now());
            if !is_told {
                is_told = true;
                tracing::error!(
                    shard,
                    "Discord lets this bot begin {} of {} more sessions before they are counted anew in {} min; shards that \
                     cannot resume wait until then",
                    budget.limit.remaining,
                    budget.limit.total,
                    wait.as_secs().div_ceil(60)
                );
            }
            sleep(wait.clamp(RETRY, BUDGET_AGE_MAX)).await;
        }
    }

    async fn ask(&self) -> Option<Budget> {
        let asked_at = Instant::now();
        let answer = match self.rest.get("/gateway/bot").await {
            Ok(answer) => read::<GatewayBot>("GET /gateway/bot", answer).map_err(|error| chain(&error)),
            Err(error) => Err(chain(&error)),
        };
        match answer {
            Ok(GatewayBot { session_start_limit: limit, .. }) => Some(Budget { limit, asked_at, taken: 0 }),
            Err(error) => {
                tracing::warn!("how many sessions may be begun is not known: {error}");
                None
            }
        }
    }
}

impl Queue for IdentifyGate {
    fn enqueue(&self, shard: u32) -> oneshot::Receiver<()> {
        let (granted, wait) = oneshot::channel();
        let gate = Arc::clone(&self.0);
        tokio::spawn(async move {
            gate.take_session(shard, &granted).await;
            gate.turn(shard, &granted).await;
            // The shard may have lost its connection in this moment; its turn is then nobody's.
            let _ = granted.send(());
        });
        wait
    }
}
