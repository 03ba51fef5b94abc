//! What must be true before a request is sent.

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::Value as Json;
use serenity::model::permissions::Permissions;

use super::arguments::{Prepared, json_id};
use super::endpoints::{Check, Endpoint, message};
use crate::error::ApiError;
use crate::guild_states::{Channel, Guild, Id, Member, PermissionCalculator, Rank, timestamp_of};
use crate::services::{Discord, Ids, Place, RestRequest};

/// How far ahead a time-out may end.
const TIMEOUT_SECONDS_MAX: i64 = 28 * 24 * 60 * 60;

/// The guild as it is while a call is checked.
pub(super) struct Checker<'a> {
    discord: &'a Discord,
    place: Place,
    guild: Arc<RwLock<Guild>>,
    bot: u64,
    now: i64,
}

impl<'a> Checker<'a> {
    pub(super) async fn new(discord: &'a Discord, place: Place) -> Result<Self, ApiError> {
        let guild = discord.lookups().guild(place).await?;
        let bot = discord.lookups().bot(place.tenant).await?;
        Ok(Self { discord, place, guild, bot, now: Timestamp::now().as_second() })
    }

    pub(super) fn guild(&self) -> &RwLock<Guild> {
        &self.guild
    }

    pub(super) fn bot(&self) -> u64 {
        self.bot
    }

    /// All checks of a call, in their order: what is named first, then the endpoint's own.
    pub(super) async fn check(&self, endpoint: &Endpoint, call: &Prepared) -> Result<(), ApiError> {
        self.named(call).await?;
        for check in endpoint.checks {
            self.one(check, call).await?;
        }
        Ok(())
    }

    /// Everything named is of the guild.
    async fn named(&self, call: &Prepared) -> Result<(), ApiError> {
        let lookups = self.discord.lookups();
        for &channel in &call.named.channels {
            lookups.find_channel(self.place, channel).await?;
        }
        if !call.named.roles.is_empty() {
            lookups.find_roles(self.place, &call.named.roles).await?;
        }
        Ok(())
    }

    /// What a member may do, asked of the guild as it is now.
    pub(super) fn with<T>(
        &self,
        user: u64,
        member: &Member,
        ask: impl FnOnce(&Guild, &PermissionCalculator<'_>) -> T,
    ) -> T {
        let guild = self.guild.read();
        ask(&guild, &PermissionCalculator::new(&guild, user, member, self.now))
    }

    fn with_bot<T>(&self, ask: impl FnOnce(&Guild, &PermissionCalculator<'_>) -> T) -> Result<T, ApiError> {
        let guild = self.guild.read();
        let member = guild.bot.as_deref().ok_or_else(|| ApiError::not_found("the bot is no member of the guild"))?;
        Ok(ask(&guild, &PermissionCalculator::new(&guild, self.bot, member, self.now)))
    }

    fn holds(&self, wanted: Permissions) -> Result<(), ApiError> {
        missing(wanted, self.with_bot(|_, bot| bot.in_guild())?, "the bot")
    }

    fn holds_in(&self, channel: u64, wanted: impl FnOnce(&Channel) -> Permissions) -> Result<(), ApiError> {
        self.with_bot(|guild, bot| {
            let channel = channel_of(guild, channel)?;
            missing(wanted(channel), bot.in_channel(channel), "the bot in the channel")
        })?
    }

    /// The member, or `not_found: `.
    pub(super) async fn member(&self, user: u64) -> Result<Arc<Member>, ApiError> {
        let member = self.discord.lookups().member(self.place, user).await?;
        member.ok_or_else(|| ApiError::not_found(format_args!("member {user}")))
    }

    fn is_below_bot(&self, user: u64, member: &Member) -> Result<(), ApiError> {
        if self.ranks_below_bot(user, member)? {
            Ok(())
        } else {
            Err(ApiError::hierarchy(format_args!("the member {user} is not below the bot")))
        }
    }

    /// Whether the member stands below the bot.
    pub(super) fn ranks_below_bot(&self, user: u64, member: &Member) -> Result<bool, ApiError> {
        self.with_bot(|guild, bot| PermissionCalculator::new(guild, user, member, self.now).rank() < bot.rank())
    }

    /// A role, by where it stands or is put.
    fn role_is_below_bot(&self, role: u64, rank: impl FnOnce(&Guild) -> Option<Rank>) -> Result<(), ApiError> {
        let is_below = self.with_bot(|guild, bot| rank(guild).is_some_and(|rank| rank < bot.rank()))?;
        if is_below { Ok(()) } else { Err(ApiError::hierarchy(format_args!("the role {role} is not below the bot"))) }
    }

    async fn one(&self, check: &Check, call: &Prepared) -> Result<(), ApiError> {
        let (ids, lookups) = (&call.ids, self.discord.lookups());
        match *check {
            Check::Server(wanted) => self.holds(wanted),
            Check::There(wanted) => self.holds_in(ids.channel, |_| wanted),
            Check::ThereOrThread(there, thread) => {
                self.holds_in(ids.channel, |channel| if channel.kind.is_thread() { thread } else { there })
            }
            Check::ReadsMessages => self.holds_in(ids.channel, |channel| {
                let connect = if channel.kind.is_voice() { Permissions::CONNECT } else { Permissions::empty() };
                Permissions::VIEW_CHANNEL | connect
            }),
            Check::InTarget(field, wanted) => {
                let target = call.field(field).and_then(json_id);
                let target = target.ok_or_else(|| ApiError::invalid_argument(format_args!("{field} (missing)")))?;
                self.holds_in(target, |_| wanted)
            }
            Check::OwnMessageOr(wanted) => {
                let Err(refusal) = self.holds_in(ids.channel, |_| wanted) else { return Ok(()) };
                if self.is_own_message(ids).await? { Ok(()) } else { Err(refusal) }
            }
            Check::Subset => {
                let given = Permissions::from_bits_retain(call.named.granted);
                let held = self.with_bot(|guild, bot| match guild.channel(ids.channel) {
                    Some(channel) => bot.in_channel(channel),
                    None => bot.in_guild(),
                })?;
                missing(given, held, "the bot, which gives it away,")
            }
            Check::MemberBelow => {
                let member = self.member(ids.user).await?;
                self.is_below_bot(ids.user, &member)
            }
            Check::MemberBelowIfAny => match lookups.member(self.place, ids.user).await? {
                Some(member) => self.is_below_bot(ids.user, &member),
                None => Ok(()),
            },
            Check::RoleBelow => self.role_is_below_bot(ids.role, |guild| Rank::of_role(guild, ids.role)),
            Check::PositionsBelow => self.positions(call),
            Check::MemberFields => self.member_fields(call).await,
            Check::NotBot if ids.user == self.bot => {
                Err(ApiError::invalid_argument("user_id (the bot does not change itself)"))
            }
            Check::NotBot => Ok(()),
            Check::Webhook => lookups.find_webhook(self.place, ids.webhook, None).await,
            Check::WebhookByToken => lookups.find_webhook(self.place, ids.webhook, Some(&ids.text)).await,
            Check::OverwriteTarget => match call.field("type").and_then(Json::as_i64) {
                Some(0) => lookups.find_roles(self.place, &[ids.target]).await,
                _ => Ok(()),
            },
            Check::Feature(field, feature) => {
                let is_set = call.field(field).is_some_and(|value| !value.is_null());
                if is_set && !self.guild.read().has_feature(feature) {
                    return Err(ApiError::invalid_argument(format_args!("{field} (the guild lacks {feature})")));
                }
                Ok(())
            }
            Check::MovingIcon => {
                let icon = call.field("icon").and_then(Json::as_str).unwrap_or_default();
                if icon.starts_with("data:image/gif") && !self.guild.read().has_feature("ANIMATED_ICON") {
                    return Err(ApiError::invalid_argument("icon (the guild lacks ANIMATED_ICON)"));
                }
                Ok(())
            }
            Check::InviteOfGuild => self.invite(ids).await,
            Check::Reference => {
                let reference = call.field("message_reference");
                let forwards = reference.and_then(|reference| reference.get("type")).is_some_and(|kind| *kind == 1);
                let channel = reference.and_then(|reference| reference.get("channel_id")).and_then(json_id);
                match channel {
                    // What is forwarded becomes readable here: the bot must be able to read it there.
                    Some(channel) if forwards => {
                        let wanted = Permissions::VIEW_CHANNEL | Permissions::READ_MESSAGE_HISTORY;
                        self.holds_in(channel, |_| wanted)
                    }
                    None if forwards => Err(ApiError::invalid_argument("message_reference.channel_id (missing)")),
                    _ => Ok(()),
                }
            }
        }
    }

    async fn is_own_message(&self, ids: &Ids) -> Result<bool, ApiError> {
        #[derive(Deserialize)]
        struct Author {
            id: Id,
        }
        #[derive(Deserialize)]
        struct Message {
            author: Author,
            webhook_id: Option<Id>,
        }
        let request = RestRequest::get(message, ids.clone());
        let json = self.discord.rest().send(self.place.tenant, &request).await?;
        let message = serde_json::from_slice::<Message>(&json);
        Ok(message.is_ok_and(|message| message.author.id == Id(self.bot) && message.webhook_id.is_none()))
    }

    fn positions(&self, call: &Prepared) -> Result<(), ApiError> {
        for item in call.body.as_ref().and_then(Json::as_array).into_iter().flatten() {
            let role = item.get("id").and_then(json_id);
            let role = role.ok_or_else(|| ApiError::invalid_argument("data.id (missing)"))?;
            self.role_is_below_bot(role, |guild| Rank::of_role(guild, role))?;
            let position = item.get("position").and_then(Json::as_i64);
            let position = position.and_then(|position| i32::try_from(position).ok());
            let position = position.ok_or_else(|| ApiError::invalid_argument("data.position (missing)"))?;
            // Also a place beside the bot's own is not below it.
            self.role_is_below_bot(role, |_| Some(Rank::beside_all_at(position)))?;
        }
        Ok(())
    }

    async fn member_fields(&self, call: &Prepared) -> Result<(), ApiError> {
        let held = self.with_bot(|_, bot| bot.in_guild())?;
        let needs = [
            ("nick", Permissions::MANAGE_NICKNAMES),
            ("roles", Permissions::MANAGE_ROLES),
            ("mute", Permissions::MUTE_MEMBERS),
            ("deaf", Permissions::DEAFEN_MEMBERS),
            ("channel_id", Permissions::MOVE_MEMBERS),
            ("communication_disabled_until", Permissions::MODERATE_MEMBERS),
        ];
        for (field, wanted) in needs {
            if call.field(field).is_some() {
                missing(wanted, held, format_args!("the bot, for {field},"))?;
            }
        }
        if call.field("flags").is_some() {
            let moderates = Permissions::MODERATE_MEMBERS | Permissions::KICK_MEMBERS | Permissions::BAN_MEMBERS;
            let any = [Permissions::MANAGE_GUILD, Permissions::MANAGE_ROLES, moderates];
            if !any.into_iter().any(|wanted| held.contains(wanted)) {
                missing(Permissions::MANAGE_GUILD, held, "the bot, for flags,")?;
            }
        }
        if let Some(until) = call.field("communication_disabled_until").and_then(Json::as_str) {
            let until = timestamp_of(until).unwrap_or(i64::MAX);
            if until.saturating_sub(self.now) > TIMEOUT_SECONDS_MAX {
                return Err(ApiError::invalid_argument("communication_disabled_until (at most 28 days ahead)"));
            }
        }
        if call.field("roles").is_some() {
            let (wanted, member) = (call.ids_of("roles"), self.member(call.ids.user).await?);
            let added = wanted.iter().filter(|role| !member.roles.contains(role));
            let removed = member.roles.iter().filter(|role| !wanted.contains(role));
            for &role in added.chain(removed) {
                // A role that is gone is above nobody.
                let exists = self.guild.read().role(role).is_some();
                if exists {
                    self.role_is_below_bot(role, |guild| Rank::of_role(guild, role))?;
                }
            }
        }
        Ok(())
    }

    async fn invite(&self, ids: &Ids) -> Result<(), ApiError> {
        #[derive(Deserialize)]
        struct Part {
            id: Id,
        }
        #[derive(Deserialize)]
        struct Invite {
            guild: Option<Part>,
            channel: Option<Part>,
        }
        use serenity::http::Route;
        let request = RestRequest::get(|ids| Route::Invite { code: &ids.text }, ids.clone());
        let json = self.discord.rest().send(self.place.tenant, &request).await?;
        let foreign = || ApiError::wrong_guild("the invite is not of this guild");
        let invite: Invite = serde_json::from_slice(&json).map_err(|_| foreign())?;
        let (Some(guild), Some(channel)) = (invite.guild, invite.channel) else { return Err(foreign()) };
        if guild.id != Id(self.place.guild) {
            return Err(foreign());
        }
        self.discord.lookups().find_channel(self.place, channel.id.0).await?;
        match self.holds(Permissions::MANAGE_GUILD) {
            Ok(()) => Ok(()),
            Err(refusal) => self.holds_in(channel.id.0, |_| Permissions::MANAGE_CHANNELS).map_err(|_| refusal),
        }
    }
}

/// The channel of a guild, which was looked up before.
pub(super) fn channel_of(guild: &Guild, channel: u64) -> Result<&Channel, ApiError> {
    guild
        .channel(channel)
        .ok_or_else(|| ApiError::wrong_guild(format_args!("the channel {channel} is not of this guild")))
}

/// An error that names what is missing.
pub(super) fn missing(wanted: Permissions, held: Permissions, who: impl std::fmt::Display) -> Result<(), ApiError> {
    let missing = wanted - held;
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter_names().map(|(name, _)| name).collect();
    let names = if names.is_empty() { missing.bits().to_string() } else { names.join(", ") };
    Err(ApiError::missing_permission(format_args!("{who} lacks {names}")))
}
