//! One call of `ctx.Discord`: its checks, its request, its answer.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::{Value as Json, json};
use serenity::http::{LightMethod, Route};
use serenity::model::permissions::Permissions;
use worker_core::{Snowflake, TenantId};

use super::arguments::Prepared;
use super::checks::{Checker, channel_of, missing};
use super::endpoints::{Action, Endpoint, Helper, Learns};
use super::methods::Returns;
use crate::error::ApiError;
use crate::guild_states::{ChannelPayload, MemberPayload, RolePayload};
use crate::services::{Authority, Discord, Ids, Place, RestError, RestRequest};

/// Discord's code for a bulk ban that banned nobody.
const NOBODY_BANNED: u64 = 500_000;
/// The bits that permissions have today, all of which a Luau number holds; who may do everything has them all.
const KNOWN: u64 = (1 << 53) - 1;

/// What a call is answered with.
#[derive(Debug)]
pub(super) enum Answered {
    Nothing,
    /// JSON; empty is an absent thing.
    Json(Bytes),
}

/// Runs a call that was let in. To be run to its end.
pub(super) async fn run(
    discord: Discord,
    tenant: TenantId,
    endpoint: &'static Endpoint,
    mut call: Prepared,
) -> Result<Answered, ApiError> {
    let token_is_enough = matches!(endpoint.action, Action::ByToken(..)) && endpoint.checks.is_empty();
    call.ids.application = discord.application_id();
    if token_is_enough {
        // Also where a user is the tenant.
        if let TenantId::Guild(guild) = tenant {
            call.ids.guild = guild.get();
        }
        // Roles and channels within a message are of a guild.
        if call.named.channels.is_empty() && call.named.roles.is_empty() {
            return request(&discord, tenant, endpoint, &call).await;
        }
    }
    let place = Place::of(tenant)?;
    call.ids.guild = place.guild;
    let checker = Checker::new(&discord, place).await?;
    checker.check(endpoint, &call).await?;
    match endpoint.action {
        Action::Rest(..) | Action::ByToken(..) => request(&discord, tenant, endpoint, &call).await,
        Action::Helper(helper) => {
            let json = match helper {
                Helper::CheckPermissions | Helper::CheckPermissionsAndHierarchy => {
                    check_permissions(&checker, &call, helper).await?
                }
                Helper::CheckChannelPermissions => check_channel_permissions(&checker, place, &call).await?,
                Helper::FusedMember => fused_member(&checker, &call).await?,
                Helper::BulkBan => bulk_ban(&discord, &checker, place, &call).await?,
                // Waits by itself, without Discord.
                Helper::BulkOpWait => return Ok(Answered::Nothing),
            };
            Ok(Answered::Json(json.into()))
        }
    }
}

async fn request(
    discord: &Discord,
    tenant: TenantId,
    endpoint: &Endpoint,
    call: &Prepared,
) -> Result<Answered, ApiError> {
    let (method, route, authority) = match endpoint.action {
        Action::Rest(method, route) => (method, route, Authority::Bot),
        Action::ByToken(method, route) => (method, route, Authority::Path),
        Action::Helper(_) => return Err(ApiError::internal(&"a helper is no request")),
    };
    let request = RestRequest {
        method,
        route,
        ids: call.ids.clone(),
        query: call.query.clone(),
        body: call.body_text()?,
        reason: call.reason.clone(),
        authority,
    };
    let answer = match discord.rest().send(tenant, &request).await {
        Ok(answer) => answer,
        // What is asked for and is not there is no error.
        Err(error) if error.is_absent() && method == LightMethod::Get && endpoint.returns == Returns::Lazy => {
            Bytes::new()
        }
        Err(error) => return Err(error.into()),
    };
    learn(discord, endpoint.learns, call.ids.guild, &answer);
    Ok(match endpoint.returns {
        Returns::Nil => Answered::Nothing,
        Returns::LazyList if answer.is_empty() => Answered::Json(Bytes::from_static(b"[]")),
        Returns::Lazy | Returns::LazyList => Answered::Json(answer),
    })
}

/// Keeps what the answer tells of the guild.
fn learn(discord: &Discord, learns: Learns, guild: u64, answer: &[u8]) {
    let states = discord.guild_states();
    match learns {
        Learns::Nothing => {}
        Learns::Channel => {
            if let Ok(channel) = serde_json::from_slice::<ChannelPayload>(answer) {
                states.change(guild, |guild| guild.set_channel(channel.into_channel()));
            }
        }
        Learns::Role => {
            if let Ok(role) = serde_json::from_slice::<RolePayload>(answer) {
                states.change(guild, |guild| guild.set_role(role.into_role()));
            }
        }
        Learns::Member => {
            if let Some((user, member)) = std::str::from_utf8(answer).ok().and_then(MemberPayload::read) {
                states.insert_member(guild, user, member);
            }
        }
    }
}

fn needed(call: &Prepared) -> Permissions {
    let needed = call.field("needed_permissions").and_then(Json::as_str).and_then(|set| set.parse().ok());
    Permissions::from_bits_retain(needed.unwrap_or_default())
}

fn permissions_text(held: Permissions) -> String {
    (held.bits() & KNOWN).to_string()
}

async fn check_permissions(checker: &Checker<'_>, call: &Prepared, helper: Helper) -> Result<String, ApiError> {
    let (user, target) = (call.ids.user, call.ids.target);
    let member = checker.member(user).await?;
    let held = checker.with(user, &member, |_, who| who.in_guild());
    missing(needed(call), held, format_args!("the user {user}"))?;
    if helper == Helper::CheckPermissionsAndHierarchy {
        let other = checker.member(target).await?;
        let other = checker.with(target, &other, |_, who| who.rank());
        if checker.with(user, &member, |_, who| who.rank()) <= other || user == target {
            return Err(ApiError::hierarchy(format_args!("the user {user} is not above {target}")));
        }
    }
    let guild = checker.guild().read().to_json();
    let (member, held) = (member.json_text(user), permissions_text(held));
    Ok(format!(r#"{{"partial_guild":{guild},"member":{member},"permissions":"{held}"}}"#))
}

async fn check_channel_permissions(checker: &Checker<'_>, place: Place, call: &Prepared) -> Result<String, ApiError> {
    let (user, channel) = (call.ids.user, call.ids.channel);
    let member = checker.member(user).await?;
    let (held, json) = checker.with(user, &member, |guild, who| {
        let channel = channel_of(guild, channel)?;
        Ok::<_, ApiError>((who.in_channel(channel), channel.to_json(place.guild)))
    })?;
    missing(needed(call), held, format_args!("the user {user} in the channel"))?;
    let guild = checker.guild().read().to_json();
    let (member, held) = (member.json_text(user), permissions_text(held));
    Ok(format!(r#"{{"partial_guild":{guild},"channel":{json},"member":{member},"permissions":"{held}"}}"#))
}

async fn fused_member(checker: &Checker<'_>, call: &Prepared) -> Result<String, ApiError> {
    let mut members = String::new();
    for user in call.ids_of("ids") {
        let member = checker.member(user).await?;
        let held = permissions_text(checker.with(user, &member, |_, who| who.in_guild()));
        let comma = if members.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(members, r#"{comma}{{"member":{},"resolved_perms":"{held}"}}"#, member.json_text(user));
    }
    let guild = checker.guild().read().to_json();
    Ok(format!(r#"{{"guild":{guild},"members":[{members}]}}"#))
}

/// Whom the bot cannot ban is left out. Of whom nothing is known here Discord says so itself: two hundred look-ups would
/// cost more than the ban.
async fn bulk_ban(discord: &Discord, checker: &Checker<'_>, place: Place, call: &Prepared) -> Result<String, ApiError> {
    let users: BTreeSet<u64> = call.ids_of("user_ids").into_iter().collect();
    if users.is_empty() {
        return Err(ApiError::invalid_argument("user_ids (expected 1 to 200)"));
    }
    let owner = checker.guild().read().owner;
    let (mut banned, mut failed) = (Vec::new(), Vec::new());
    for user in users {
        let known = discord.guild_states().member(Snowflake::new(place.guild), Snowflake::new(user));
        let is_below = match known {
            Some(member) => checker.ranks_below_bot(user, &member)?,
            None => true,
        };
        let can = user != checker.bot() && user != owner && is_below;
        let list = if can { &mut banned } else { &mut failed };
        list.push(user.to_string());
    }
    if banned.is_empty() {
        return Ok(json!({ "banned_users": banned, "failed_users": failed }).to_string());
    }
    let mut body = json!({ "user_ids": banned });
    if let Some(seconds) = call.field("delete_message_seconds") {
        body["delete_message_seconds"] = seconds.clone();
    }
    let request = RestRequest {
        method: LightMethod::Post,
        route: |ids| Route::GuildBulkBan { guild_id: ids.guild.into() },
        ids: Ids { guild: place.guild, ..Ids::default() },
        query: Vec::new(),
        body: Some(body.to_string().into_bytes()),
        reason: call.reason.clone(),
        authority: Authority::Bot,
    };
    let mut answer: Json = match discord.rest().send(place.tenant, &request).await {
        Ok(answer) => serde_json::from_slice(&answer).unwrap_or_default(),
        Err(RestError::Refused { code: NOBODY_BANNED, .. }) => json!({ "banned_users": [], "failed_users": banned }),
        Err(error) => return Err(error.into()),
    };
    if !answer.is_object() {
        answer = json!({ "banned_users": banned });
    }
    let theirs = answer["failed_users"].as_array().cloned().unwrap_or_default();
    let all: Vec<Json> = failed.into_iter().map(Json::from).chain(theirs).collect();
    answer["failed_users"] = all.into();
    Ok(answer.to_string())
}
