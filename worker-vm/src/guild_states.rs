//! What is known of the bot's guilds, so that checks of permissions and of whose a channel is cost no request.

mod guild;
mod payloads;
mod permission_calculator;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use moka::sync::Cache;
use parking_lot::{Mutex, RwLock};
use worker_core::Snowflake;

pub(crate) use self::guild::{Channel, Guild, Member};
pub(crate) use self::payloads::{ChannelPayload, GuildPayload, Id, MemberPayload, RolePayload, timestamp_of};
pub(crate) use self::permission_calculator::{PermissionCalculator, Rank};

/// The guilds' owners, roles, channels and threads, and the members that were seen lately. Clones share them.
///
/// The gateway gives every event to [`apply`](Self::apply). What is not here, because it was never told or had to make
/// room, is asked of Discord where it is needed.
#[derive(Clone)]
pub struct GuildStates(Arc<Inner>);

struct Inner {
    guilds: Cache<u64, Arc<RwLock<Guild>>>,
    members: Cache<(u64, u64), Arc<Member>>,
    /// How many members each guild has, for every guild that the bot is in.
    member_counts: Mutex<HashMap<u64, u64>>,
    /// Guilds that are being asked for, and whether an event has changed them meanwhile.
    asked: Mutex<HashMap<u64, bool>>,
    /// The bot's user; 0 if that is not known yet.
    bot: AtomicU64,
}

/// How much is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuildStatesConfig {
    /// Bytes of guilds, with their roles, channels and threads.
    pub guild_bytes_max: u64,
    /// Bytes of members.
    pub member_bytes_max: u64,
    /// How long a member is believed: without the intent for members, Discord does not say when one changes.
    pub member_age_max: Duration,
}

impl Default for GuildStatesConfig {
    fn default() -> Self {
        Self { guild_bytes_max: 256 << 20, member_bytes_max: 64 << 20, member_age_max: Duration::from_secs(300) }
    }
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuildFigures {
    /// Guilds that the bot is in, as far as the gateway has said.
    pub guilds: u64,
    /// Their members in all; who is in several counts several times.
    pub users: u64,
}

impl GuildStates {
    /// Nothing is known yet.
    pub fn new(config: GuildStatesConfig) -> Self {
        Self(Arc::new(Inner {
            guilds: Cache::builder()
                .max_capacity(config.guild_bytes_max)
                .weigher(|_, guild: &Arc<RwLock<Guild>>| weight(guild.read().bytes()))
                .build(),
            members: Cache::builder()
                .max_capacity(config.member_bytes_max)
                .weigher(|_, member: &Arc<Member>| weight(member.bytes()))
                .time_to_live(config.member_age_max)
                .build(),
            member_counts: Mutex::default(),
            asked: Mutex::default(),
            bot: AtomicU64::new(0),
        }))
    }

    /// Says who the bot is, whose own membership is kept with each guild.
    pub fn set_bot(&self, user: Snowflake) {
        self.0.bot.store(user.get(), Ordering::Release);
    }

    /// Who the bot is.
    pub fn bot(&self) -> Option<Snowflake> {
        Some(self.0.bot.load(Ordering::Acquire)).filter(|&id| id != 0).map(Snowflake::new)
    }

    /// Learns from an event of the gateway: its name there, and its `d`. Events that say nothing of this are passed over.
    ///
    /// To be called before the event is dispatched, so that a template sees the state after it.
    pub fn apply(&self, event_name: &str, data: &[u8]) {
        if let Err(error) = self.try_apply(event_name, data) {
            tracing::warn!(event = event_name, %error, "an event of the gateway is not what Discord documents");
        }
    }

    /// How many guilds and members there are.
    pub fn figures(&self) -> GuildFigures {
        let counts = self.0.member_counts.lock();
        GuildFigures { guilds: counts.len() as u64, users: counts.values().sum() }
    }

    /// About how many bytes of guilds and of members are kept, once what is pending is done.
    pub fn bytes(&self) -> (u64, u64) {
        self.0.guilds.run_pending_tasks();
        self.0.members.run_pending_tasks();
        (self.0.guilds.weighted_size(), self.0.members.weighted_size())
    }

    /// Whether the bot holds these permissions in the channel, and stands above the member; none if that is not known. What
    /// a call of `ctx.Discord` asks of a guild that is known comes to this.
    pub fn bot_may(&self, guild: Snowflake, channel: Snowflake, permissions: u64, target: Snowflake) -> Option<bool> {
        let (bot, state, member) = (self.bot()?, self.guild(guild)?, self.member(guild, target)?);
        let (guild, now) = (state.read(), Timestamp::now().as_second());
        let own = PermissionCalculator::new(&guild, bot.get(), guild.bot.as_deref()?, now);
        let target = PermissionCalculator::new(&guild, target.get(), &member, now);
        let held = own.in_channel(guild.channel(channel.get())?).bits();
        Some(permissions & !held == 0 && target.rank() < own.rank())
    }

    /// A guild that is known.
    pub(crate) fn guild(&self, id: Snowflake) -> Option<Arc<RwLock<Guild>>> {
        self.0.guilds.get(&id.get())
    }

    /// A member that is known. The bot's own is with its guild.
    pub(crate) fn member(&self, guild: Snowflake, user: Snowflake) -> Option<Arc<Member>> {
        self.0.members.get(&(guild.get(), user.get()))
    }

    /// Keeps a guild as Discord has just described it.
    pub(crate) fn insert(&self, guild: Guild) -> Arc<RwLock<Guild>> {
        let id = guild.id;
        let guild = Arc::new(RwLock::new(guild));
        self.0.guilds.insert(id, guild.clone());
        guild
    }

    /// Keeps a member as Discord has just described it.
    pub(crate) fn insert_member(&self, guild: u64, user: u64, member: Member) -> Arc<Member> {
        let member = Arc::new(member);
        if self.0.bot.load(Ordering::Acquire) == user
            && let Some(guild) = self.0.guilds.get(&guild)
        {
            guild.write().bot = Some(member.clone());
        }
        self.0.members.insert((guild, user), member.clone());
        member
    }

    /// Forgets a member.
    pub(crate) fn remove_member(&self, guild: u64, user: u64) {
        self.0.members.invalidate(&(guild, user));
    }

    /// Changes a guild that is known.
    pub(crate) fn change(&self, id: u64, change: impl FnOnce(&mut Guild)) {
        if let Some(asked) = self.0.asked.lock().get_mut(&id) {
            *asked = true;
        }
        let Some(guild) = self.0.guilds.get(&id) else { return };
        change(&mut guild.write());
        // Its size has changed.
        self.0.guilds.insert(id, guild);
    }

    /// Somebody asks Discord for the guild from here on.
    pub(crate) fn begin_asking(&self, id: u64) {
        self.0.asked.lock().insert(id, false);
    }

    /// The answer is there. Whether an event has changed the guild in the meantime, so that the answer may be older.
    pub(crate) fn end_asking(&self, id: u64) -> bool {
        self.0.asked.lock().remove(&id).unwrap_or(true)
    }
}

impl fmt::Debug for GuildStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuildStates").field("figures", &self.figures()).finish_non_exhaustive()
    }
}

fn weight(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
