//! What a check needs to know of a guild: from what is known, else from Discord.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use moka::sync::Cache;
use parking_lot::RwLock;
use serde::Deserialize;
use serenity::http::Route;
use serenity::model::permissions::Permissions;
use tokio::sync::Mutex as AsyncMutex;
use worker_core::{Snowflake, TenantId};

use super::rest::{Ids, Rest, RestError, RestRequest};
use crate::error::ApiError;
use crate::guild_states::{
    ChannelPayload, Guild, GuildPayload, GuildStates, Id, Member, MemberPayload, PermissionCalculator, RolePayload,
};

/// What is not of a guild is remembered for a while: how many, and how long.
const FOREIGN_MAX: u64 = 50_000;
const FOREIGN_AGE: Duration = Duration::from_secs(60);
/// Webhooks that were seen to be of a guild; they never move to another.
const WEBHOOKS_MAX: u64 = 50_000;
const WEBHOOK_AGE: Duration = Duration::from_secs(600);
/// A guild's roles are asked for anew at most this often.
const ROLES_AGE: Duration = Duration::from_secs(10);
/// How often a guild is asked for that changes meanwhile.
const ASKS_MAX: u32 = 3;
/// Locks for guilds that are being asked for: nobody asks twice.
const LOCKS: usize = 64;

/// A guild, in the name of the tenant that asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) tenant: TenantId,
    pub(crate) guild: u64,
}

impl Place {
    /// The guild that the tenant is; `wrong_guild: ` if it is a user.
    pub(crate) fn of(tenant: TenantId) -> Result<Self, ApiError> {
        match tenant {
            TenantId::Guild(guild) => Ok(Self { tenant, guild: guild.get() }),
            TenantId::User(_) => Err(ApiError::wrong_guild("the tenant is a user, and no guild")),
        }
    }

    fn ids(self) -> Ids {
        Ids { guild: self.guild, ..Ids::default() }
    }
}

/// Clones share what was looked up.
#[derive(Clone)]
pub(crate) struct Lookups(Arc<Inner>);

struct Inner {
    rest: Rest,
    states: GuildStates,
    foreign: Cache<(u64, u64), ()>,
    webhooks: Cache<(u64, u64), ()>,
    roles_asked: Cache<u64, Instant>,
    locks: [AsyncMutex<()>; LOCKS],
}

#[derive(Deserialize)]
struct WebhookPayload {
    guild_id: Option<Id>,
}

#[derive(Deserialize)]
struct ThreadsPayload {
    threads: Vec<ChannelPayload>,
}

impl Lookups {
    pub(super) fn new(rest: Rest, states: GuildStates) -> Self {
        Self(Arc::new(Inner {
            rest,
            states,
            foreign: Cache::builder().max_capacity(FOREIGN_MAX).time_to_live(FOREIGN_AGE).build(),
            webhooks: Cache::builder().max_capacity(WEBHOOKS_MAX).time_to_live(WEBHOOK_AGE).build(),
            roles_asked: Cache::builder().max_capacity(FOREIGN_MAX).time_to_live(ROLES_AGE).build(),
            locks: [const { AsyncMutex::const_new(()) }; LOCKS],
        }))
    }

    pub(crate) fn rest(&self) -> &Rest {
        &self.0.rest
    }

    /// Who the bot is.
    pub(crate) async fn bot(&self, tenant: TenantId) -> Result<u64, ApiError> {
        if let Some(bot) = self.0.states.bot() {
            return Ok(bot.get());
        }
        #[derive(Deserialize)]
        struct User {
            id: Id,
        }
        let user: User = self.ask(tenant, |_| Route::UserMe, Ids::default()).await?;
        self.0.states.set_bot(Snowflake::new(user.id.0));
        Ok(user.id.0)
    }

    /// The guild, with the bot as its member.
    pub(crate) async fn guild(&self, place: Place) -> Result<Arc<RwLock<Guild>>, ApiError> {
        let known =
            |states: &GuildStates| states.guild(Snowflake::new(place.guild)).filter(|guild| guild.read().bot.is_some());
        if let Some(guild) = known(&self.0.states) {
            return Ok(guild);
        }
        let _asking = self.0.locks[(place.guild >> 22) as usize % LOCKS].lock().await;
        if let Some(guild) = known(&self.0.states) {
            return Ok(guild);
        }
        let bot = self.bot(place.tenant).await?;
        for ask in 1.. {
            self.0.states.begin_asking(place.guild);
            let asked = self.ask_guild(place, bot).await;
            let changed = self.0.states.end_asking(place.guild);
            let guild = asked?;
            if !changed || ask >= ASKS_MAX {
                return Ok(self.0.states.insert(guild));
            }
        }
        unreachable!("because the last try returns")
    }

    async fn ask_guild(&self, place: Place, bot: u64) -> Result<Guild, ApiError> {
        let guild = self.asked(place.tenant, |ids| Route::Guild { guild_id: ids.guild.into() }, place.ids()).await?;
        let (mut guild, _) = parsed::<GuildPayload<'_>>(&guild)?.into_guild(None);
        let channels: Vec<ChannelPayload> =
            self.ask(place.tenant, |ids| Route::GuildChannels { guild_id: ids.guild.into() }, place.ids()).await?;
        let threads: ThreadsPayload =
            self.ask(place.tenant, |ids| Route::GuildThreadsActive { guild_id: ids.guild.into() }, place.ids()).await?;
        for channel in channels.into_iter().chain(threads.threads) {
            guild.set_channel(channel.into_channel());
        }
        guild.bot = self.ask_member(place, bot).await?;
        if guild.bot.is_none() {
            return Err(ApiError::not_found("the bot is no member of the guild"));
        }
        Ok(guild)
    }

    /// A member of the guild; none if the user is not one.
    pub(crate) async fn member(&self, place: Place, user: u64) -> Result<Option<Arc<Member>>, ApiError> {
        if let Some(member) = self.0.states.member(Snowflake::new(place.guild), Snowflake::new(user)) {
            return Ok(Some(member));
        }
        self.ask_member(place, user).await
    }

    async fn ask_member(&self, place: Place, user: u64) -> Result<Option<Arc<Member>>, ApiError> {
        let route = |ids: &Ids| Route::GuildMember { guild_id: ids.guild.into(), user_id: ids.user.into() };
        match self.request(place.tenant, RestRequest::get(route, Ids { user, ..place.ids() })).await {
            Ok(json) => {
                let text = std::str::from_utf8(&json).map_err(|_| ApiError::from(RestError::Unanswered))?;
                let (user, member) = MemberPayload::read(text).ok_or(RestError::Unanswered)?;
                Ok(Some(self.0.states.insert_member(place.guild, user, member)))
            }
            Err(Failed::Rest(error)) if error.is_absent() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the channel or thread known with its guild, if it is of the guild.
    pub(crate) async fn find_channel(&self, place: Place, channel: u64) -> Result<(), ApiError> {
        let guild = self.guild(place).await?;
        if guild.read().channel(channel).is_some() {
            return Ok(());
        }
        let foreign = || ApiError::wrong_guild(format_args!("the channel {channel} is not of this guild"));
        if self.0.foreign.contains_key(&(place.guild, channel)) {
            return Err(foreign());
        }
        let route = |ids: &Ids| Route::Channel { channel_id: ids.channel.into() };
        let ids = Ids { channel, ..place.ids() };
        let found: Option<ChannelPayload> = match self.request(place.tenant, RestRequest::get(route, ids)).await {
            Ok(json) => Some(parsed(&json)?),
            Err(Failed::Rest(error)) if matches!(error.status(), Some(403 | 404)) => None,
            Err(error) => return Err(error.into()),
        };
        match found {
            Some(found) if found.guild_id == Some(Id(place.guild)) && found.id == Id(channel) => {
                let found = found.into_channel();
                self.0.states.change(place.guild, |guild| guild.set_channel(found.clone()));
                // The guild may have made room for others meanwhile; what was asked about is still known here.
                guild.write().set_channel(found);
                Ok(())
            }
            _ => {
                self.0.foreign.insert((place.guild, channel), ());
                Err(foreign())
            }
        }
    }

    /// Makes the roles known that are not, if they are of the guild.
    pub(crate) async fn find_roles(&self, place: Place, roles: &[u64]) -> Result<(), ApiError> {
        let guild = self.guild(place).await?;
        let missing = || roles.iter().copied().find(|&role| guild.read().role(role).is_none());
        let foreign = |role| ApiError::wrong_guild(format_args!("the role {role} is not of this guild"));
        let Some(role) = missing() else { return Ok(()) };
        if self.0.roles_asked.contains_key(&place.guild) {
            return Err(foreign(role));
        }
        self.0.roles_asked.insert(place.guild, Instant::now());
        let route = |ids: &Ids| Route::GuildRoles { guild_id: ids.guild.into() };
        let found: Vec<RolePayload> = self.ask(place.tenant, route, place.ids()).await?;
        guild.write().set_roles(found.into_iter().map(RolePayload::into_role).collect());
        missing().map_or(Ok(()), |role| Err(foreign(role)))
    }

    /// The webhook is of the guild. With its token no permission is needed to ask.
    pub(crate) async fn find_webhook(&self, place: Place, webhook: u64, token: Option<&str>) -> Result<(), ApiError> {
        if self.0.webhooks.contains_key(&(place.guild, webhook)) {
            return Ok(());
        }
        let foreign = || ApiError::wrong_guild(format_args!("the webhook {webhook} is not of this guild"));
        if token.is_none() && self.0.foreign.contains_key(&(place.guild, webhook)) {
            return Err(foreign());
        }
        let ids = Ids { webhook, text: token.unwrap_or_default().to_owned(), ..place.ids() };
        let request = match token {
            None => RestRequest::get(|ids| Route::Webhook { webhook_id: ids.webhook.into() }, ids),
            Some(_) => RestRequest {
                authority: super::Authority::Path,
                ..RestRequest::get(
                    |ids| Route::WebhookWithToken { webhook_id: ids.webhook.into(), token: &ids.text },
                    ids,
                )
            },
        };
        let json = match self.request(place.tenant, request).await {
            Ok(json) => json,
            // It is nobody's.
            Err(Failed::Rest(error)) if error.is_absent() => return Ok(()),
            // Only who may manage webhooks there is told whose it is.
            Err(Failed::Rest(error)) if error.status() == Some(403) => {
                self.0.foreign.insert((place.guild, webhook), ());
                return Err(foreign());
            }
            Err(error) => return Err(error.into()),
        };
        if parsed::<WebhookPayload>(&json)?.guild_id != Some(Id(place.guild)) {
            self.0.foreign.insert((place.guild, webhook), ());
            return Err(foreign());
        }
        self.0.webhooks.insert((place.guild, webhook), ());
        Ok(())
    }

    /// Errors of templates can be written to the channel: it is of the guild, no thread, and the bot sees it and may speak.
    pub(crate) async fn check_error_channel(&self, tenant: TenantId, channel: Snowflake) -> Result<(), ApiError> {
        let wrong = |reason: &str| ApiError::invalid_argument(format_args!("error_channel ({reason})"));
        let place = Place::of(tenant).map_err(|_| wrong("the tenant is no guild"))?;
        self.find_channel(place, channel.get())
            .await
            .map_err(|error| if error.is_wrong_guild() { wrong("it is not a channel of this guild") } else { error })?;
        let (guild, bot) = (self.guild(place).await?, self.bot(tenant).await?);
        let guild = guild.read();
        let (Some(member), Some(channel)) = (guild.bot.as_deref(), guild.channel(channel.get())) else {
            return Err(wrong("it is not a channel of this guild"));
        };
        if channel.kind.is_thread() {
            return Err(wrong("a thread is no channel"));
        }
        let held = PermissionCalculator::new(&guild, bot, member, Timestamp::now().as_second()).in_channel(channel);
        if held.contains(Permissions::VIEW_CHANNEL | Permissions::SEND_MESSAGES) {
            Ok(())
        } else {
            Err(wrong("the bot needs VIEW_CHANNEL and SEND_MESSAGES there"))
        }
    }

    async fn ask<T: for<'de> Deserialize<'de>>(
        &self,
        tenant: TenantId,
        route: fn(&Ids) -> Route<'_>,
        ids: Ids,
    ) -> Result<T, ApiError> {
        let json = self.asked(tenant, route, ids).await?;
        parsed(&json)
    }

    async fn asked(&self, tenant: TenantId, route: fn(&Ids) -> Route<'_>, ids: Ids) -> Result<bytes::Bytes, ApiError> {
        Ok(self.request(tenant, RestRequest::get(route, ids)).await?)
    }

    async fn request(&self, tenant: TenantId, request: RestRequest) -> Result<bytes::Bytes, Failed> {
        if !self.0.rest.take_lookup(tenant) {
            return Err(Failed::TooMany);
        }
        self.0.rest.send(tenant, &request).await.map_err(Failed::Rest)
    }
}

/// Why something is not known.
enum Failed {
    TooMany,
    Rest(RestError),
}

impl From<Failed> for ApiError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::TooMany => Self::unavailable("discord (too much that is not known was named in a few seconds)"),
            Failed::Rest(error) => error.into(),
        }
    }
}

fn parsed<'de, T: Deserialize<'de>>(json: &'de [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(json).map_err(|error| {
        tracing::warn!(%error, "Discord answered with what it does not document");
        RestError::Unanswered.into()
    })
}
