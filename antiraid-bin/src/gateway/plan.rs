//! What all shards have in common, found out before the first of them connects.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use worker_builtins::Builtins;
use worker_core::{Snowflake, TenantId, WorkerFilter};
use worker_db::{DbError, WorkerDb};
use worker_vm::{BotRest, BotRestError};

use super::intents::Intents;
use crate::config::DiscordSettings;

/// How many shards there are, for whom, and what they ask for. It goes to worker processes as it is; the token is in their
/// settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayPlan {
    /// The bot's user.
    pub bot: Snowflake,
    /// The same as Discord's JSON.
    pub user: String,
    /// The application that the bot belongs to.
    pub application: Snowflake,
    /// How many shards there are in all.
    pub shards: NonZeroU32,
    /// How many may identify at once: the number of buckets that shards are in.
    pub max_concurrency: NonZeroU32,
    /// What Discord sends.
    pub intents: Intents,
    /// Where shards connect that do not resume.
    pub url: String,
    /// How long things may take.
    pub timings: GatewayTimings,
}

/// How long things may take; the defaults are for Discord.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayTimings {
    /// For Discord's first word on a connection, and for the end of a connection that was closed.
    pub hello: Duration,
    /// Without any word from Discord on a connection in use; its answers to heartbeats are words.
    pub silence: Duration,
    /// Between two shards of a bucket that identify
    /// (<https://discord.com/developers/docs/events/gateway#rate-limiting>), with room for clocks that differ.
    pub identify_spacing: Duration,
    /// Between two notes of where sessions are: after a crash, events of so long come a second time.
    pub save_interval: Duration,
    /// The longest random wait before a connection is made again.
    pub jitter: Duration,
}

impl Default for GatewayTimings {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(20),
            silence: Duration::from_secs(150),
            identify_spacing: Duration::from_millis(5_250),
            save_interval: Duration::from_millis(500),
            jitter: Duration::from_millis(500),
        }
    }
}

/// How many sessions may be begun, as Discord says.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct SessionStartLimit {
    pub(crate) total: u32,
    pub(crate) remaining: u32,
    /// In milliseconds.
    pub(crate) reset_after: u64,
    #[serde(default = "one")]
    pub(crate) max_concurrency: NonZeroU32,
}

const fn one() -> NonZeroU32 {
    NonZeroU32::MIN
}

/// The answer of `GET /gateway/bot`.
#[derive(Debug, Deserialize)]
pub(crate) struct GatewayBot {
    pub(crate) url: String,
    pub(crate) shards: NonZeroU32,
    pub(crate) session_start_limit: SessionStartLimit,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Discord did not answer as it should.
    #[error(transparent)]
    Rest(#[from] BotRestError),
    /// Discord answered something else.
    #[error("Discord's answer to {what} is not as it should be")]
    Answer {
        /// What was asked.
        what: &'static str,
        /// Why it cannot be used.
        #[source]
        source: serde_json::Error,
    },
    /// The store did not say what templates subscribe to.
    #[error(transparent)]
    Store(#[from] DbError),
    /// A number of shards that cannot be spread.
    #[error(
        "`discord.shards` is {shards}, which {processes} worker processes cannot share: write a multiple of it, or 0"
    )]
    Shards {
        /// As set.
        shards: u32,
        /// As asked for.
        processes: u32,
    },
    /// An intent of the settings that the bot has not got.
    #[error(
        "`discord.intents` asks for what the bot may not have: turn on {0} at https://discord.com/developers/applications, \
         under Bot, or leave it out"
    )]
    NotAllowed(String),
}

impl GatewayPlan {
    /// Asks Discord and the store. With `processes`, each of so many worker processes runs the shards of its own tenants.
    pub async fn make(
        rest: &BotRest,
        settings: &DiscordSettings,
        db: &WorkerDb,
        processes: NonZeroU32,
    ) -> Result<Self, PlanError> {
        #[derive(Deserialize)]
        struct Me {
            id: Snowflake,
        }
        #[derive(Deserialize)]
        struct Application {
            id: Snowflake,
            #[serde(default)]
            flags: u64,
        }
        let me = rest.get("/users/@me").await?;
        let user = me.to_string();
        let Me { id: bot } = read("GET /users/@me", me)?;
        let gateway: GatewayBot = read("GET /gateway/bot", rest.get("/gateway/bot").await?)?;
        let application = read("GET /applications/@me", rest.get("/applications/@me").await?)?;
        let Application { id: application, flags } = application;
        let allowed = Intents::allowed_by(flags);
        let shards = shards(settings.shards, gateway.shards, processes)?;
        let intents = match settings.intents.0 {
            Some(intents) => {
                let intents = intents.and(Intents::GUILDS);
                let refused = intents.privileged().without(allowed);
                if !refused.is_none() {
                    return Err(PlanError::NotAllowed(refused.switches()));
                }
                intents
            }
            None => {
                let subscriptions = db.subscriptions().await?;
                let wanted = subscriptions.iter().map(|name| &**name).chain(Builtins::EVENTS);
                let wanted = Intents::of_subscriptions(wanted);
                let refused = wanted.privileged().without(allowed);
                if !refused.is_none() {
                    tracing::warn!(
                        "templates subscribe to events that Discord does not send this bot ({refused}): turn on {} at \
                         https://discord.com/developers/applications, under Bot, and start again",
                        refused.switches()
                    );
                }
                wanted.without(refused)
            }
        };
        let url = settings.gateway_url.clone().unwrap_or(gateway.url);
        Ok(Self {
            bot,
            user,
            application,
            shards,
            max_concurrency: gateway.session_start_limit.max_concurrency,
            intents,
            url: url.trim_end_matches('/').to_owned(),
            timings: GatewayTimings::default(),
        })
    }

    /// The shards whose guilds the filter owns. Pools route guilds as Discord gives them to shards, so a shard is owned as a
    /// whole if there are as many as workers, or a multiple of it.
    pub fn shards_of(&self, filter: &WorkerFilter) -> Vec<u32> {
        let shards = u64::from(self.shards.get());
        // A guild of the shard that cannot be a real one, which may be quarantined: it is of Discord's first seconds.
        let guild = |shard: u32| TenantId::guild((u64::from(shard) + shards) << 22);
        (0..self.shards.get()).filter(|&shard| filter.owns(guild(shard))).collect()
    }
}

/// How many shards: as set or as Discord advises, and for several processes a multiple of their number.
fn shards(set: u32, advised: NonZeroU32, processes: NonZeroU32) -> Result<NonZeroU32, PlanError> {
    let Some(set) = NonZeroU32::new(set) else {
        let each = advised.get().div_ceil(processes.get());
        return Ok(NonZeroU32::new(each.saturating_mul(processes.get())).unwrap_or(processes));
    };
    if set.get() % processes.get() != 0 {
        return Err(PlanError::Shards { shards: set.get(), processes: processes.get() });
    }
    Ok(set)
}

pub(crate) fn read<T: for<'de> Deserialize<'de>>(what: &'static str, answer: Value) -> Result<T, PlanError> {
    serde_json::from_value(answer).map_err(|source| PlanError::Answer { what, source })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use worker_core::Routing;

    use super::*;

    fn number(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    #[test]
    fn shards_are_a_multiple_of_the_processes() {
        for (set, advised, processes, expected) in
            [(0, 1, 1, 1), (0, 5, 1, 5), (0, 5, 2, 6), (0, 1, 4, 4), (0, 8, 4, 8), (4, 100, 2, 4), (3, 1, 1, 3)]
        {
            assert_eq!(shards(set, number(advised), number(processes)).unwrap(), number(expected));
        }
        let error = shards(3, number(1), number(2)).unwrap_err().to_string();
        assert!(error.contains("`discord.shards` is 3") && error.contains("2 worker processes"), "{error}");
    }

    #[test]
    fn each_shard_is_of_the_process_that_owns_its_guilds() {
        let plan = GatewayPlan {
            bot: Snowflake::new(1),
            user: String::new(),
            application: Snowflake::new(1),
            shards: number(12),
            max_concurrency: number(1),
            intents: Intents::GUILDS,
            url: String::new(),
            timings: GatewayTimings::default(),
        };
        assert_eq!(plan.shards_of(&WorkerFilter::all()), Vec::from_iter(0..12));
        let workers = NonZeroUsize::new(3).unwrap();
        for index in 0..3 {
            let filter = WorkerFilter::all().member(Routing::default(), index, workers);
            let shards = plan.shards_of(&filter);
            assert_eq!(shards.len(), 4);
            for guild in 1_000u64..1_100 {
                let guild = guild << 22;
                let shard = ((guild >> 22) % 12) as u32;
                assert_eq!(shards.contains(&shard), filter.owns(TenantId::guild(guild)));
            }
        }
    }
}
