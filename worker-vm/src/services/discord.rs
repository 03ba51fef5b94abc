//! Discord's REST API, for all VMs of a process.

mod buckets;
mod error_reports;
mod lookups;
mod rest;
mod tenant_shares;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::watch;
use worker_core::{Snowflake, Value, ValueError};
use zeroize::Zeroizing;

pub(crate) use self::error_reports::{ErrorReport, ErrorReports};
pub(crate) use self::lookups::{Lookups, Place};
pub(crate) use self::rest::{Authority, Ids, Rest, RestError, RestRequest, percent_encoded};
use super::Home;
use crate::guild_states::{GuildStates, GuildStatesConfig};

/// A bot's token. It is not printed.
#[derive(Clone)]
pub struct DiscordToken(Zeroizing<String>);

impl DiscordToken {
    /// Takes the token, with or without `Bot ` before it.
    pub fn new(token: impl Into<String>) -> Self {
        Self(Zeroizing::new(token.into()))
    }

    /// The token itself, for who shows it to Discord.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for DiscordToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// How Discord is reached.
#[derive(Clone, Debug)]
pub struct DiscordConfig {
    /// The bot's token.
    pub token: DiscordToken,
    /// The application that the bot belongs to: interactions are answered, and commands made, in its name.
    pub application_id: Snowflake,
    /// Where requests go in place of `https://discord.com`, for example `http://127.0.0.1:3000`: a proxy or a simulator.
    pub api_url: Option<String>,
    /// Where errors of templates go that have no error channel.
    pub operator_channel: Option<Snowflake>,
    /// What is remembered of guilds.
    pub guild_states: GuildStatesConfig,
    /// How long a request may take, with the waits that Discord's rate limits ask for.
    pub request_timeout: Duration,
    /// Requests of all tenants a second; Discord allows 50.
    pub requests_per_second: u32,
    /// Requests of one tenant in ten minutes that Discord may refuse (401, 403, 429) before the tenant has to wait.
    pub invalid_requests_per_tenant: u32,
    /// The same of all tenants together. Discord shuts an address out that has 10,000.
    pub invalid_requests: u32,
}

impl DiscordConfig {
    /// Discord itself, with the limits that it documents.
    pub fn new(token: DiscordToken, application_id: Snowflake) -> Self {
        Self {
            token,
            application_id,
            api_url: None,
            operator_channel: None,
            guild_states: GuildStatesConfig::default(),
            request_timeout: Duration::from_secs(20),
            requests_per_second: 45,
            invalid_requests_per_tenant: 200,
            invalid_requests: 8_000,
        }
    }
}

/// The bot's way to Discord, and what it knows of its guilds. Clones share them.
#[derive(Clone)]
pub struct Discord(Arc<Inner>);

struct Inner {
    rest: Rest,
    states: GuildStates,
    lookups: Lookups,
    reports: ErrorReports,
    current_user: RwLock<Option<Arc<Value>>>,
    application_id: AtomicU64,
}

/// Figures since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiscordStats {
    /// Requests that were sent.
    pub requests: u64,
    /// Answers with status 401, 403 or 429, which Discord counts.
    pub invalid_requests: u64,
    /// Requests that were not sent because too many had been refused, or waited.
    pub refused: u64,
    /// Answers with status 429.
    pub rate_limited: u64,
    /// Requests without an answer.
    pub unanswered: u64,
    /// Errors of templates that were written to a channel.
    pub errors_reported: u64,
    /// Errors of templates that were not: the queue was full, or the channel had had its share.
    pub errors_dropped: u64,
}

impl Discord {
    pub(crate) fn new(config: DiscordConfig, home: Home) -> Self {
        let states = GuildStates::new(config.guild_states.clone());
        let rest = Rest::new(&config);
        let lookups = Lookups::new(rest.clone(), states.clone());
        let reports = ErrorReports::new(lookups.clone(), config.operator_channel, home);
        Self(Arc::new(Inner {
            rest,
            states,
            lookups,
            reports,
            current_user: RwLock::default(),
            application_id: AtomicU64::new(config.application_id.get()),
        }))
    }

    /// What is known of the guilds; the gateway gives every event to [`GuildStates::apply`].
    pub fn guild_states(&self) -> &GuildStates {
        &self.0.states
    }

    /// Takes the bot's own user, as Discord writes it in `READY` and `USER_UPDATE`: the JSON of a user object.
    pub fn set_current_user(&self, user: &[u8]) -> Result<(), ValueError> {
        let user = Value::from_json(user)?;
        if let Value::Map(fields) = &user
            && let Some(Value::Text(id)) = fields.get("id")
            && let Ok(id) = id.parse()
        {
            self.0.states.set_bot(id);
        }
        *self.0.current_user.write() = Some(Arc::new(user));
        Ok(())
    }

    /// Says which application the bot belongs to, where only `READY` tells.
    pub fn set_application_id(&self, id: Snowflake) {
        self.0.application_id.store(id.get(), Ordering::Release);
    }

    /// True from when Discord no longer takes the token. Nothing works then: the program should end and say so.
    pub fn token_revoked(&self) -> watch::Receiver<bool> {
        self.0.rest.token_revoked()
    }

    /// Figures since the process started.
    pub fn stats(&self) -> DiscordStats {
        let reports = self.0.reports.figures();
        DiscordStats { errors_reported: reports.0, errors_dropped: reports.1, ..self.0.rest.stats() }
    }

    pub(crate) fn current_user(&self) -> Option<Arc<Value>> {
        self.0.current_user.read().clone()
    }

    pub(crate) fn application_id(&self) -> u64 {
        self.0.application_id.load(Ordering::Acquire)
    }

    pub(crate) fn rest(&self) -> &Rest {
        &self.0.rest
    }

    pub(crate) fn lookups(&self) -> &Lookups {
        &self.0.lookups
    }

    pub(crate) fn reports(&self) -> &ErrorReports {
        &self.0.reports
    }
}

impl fmt::Debug for Discord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discord").field("states", &self.0.states).finish_non_exhaustive()
    }
}
