//! Rules of auto-moderation: kept as Discord writes them; those with key words or too many mentions are also applied.

use serde_json::{Map, Value, json};
use worker_core::Snowflake;

use super::discord_error::DiscordError;
use super::form::{Field, Form, as_id};
use super::guild::Guild;
use super::message_body::mentions;
use super::permissions::Permissions;
use super::request::{Reply, Request};
use super::world::{AuditEntry, World, changes};

/// The action that stops a message.
pub(super) const BLOCK_MESSAGE: i64 = 1;
/// The action that times its author out.
pub(super) const TIMEOUT: i64 = 3;

const KEYWORD: i64 = 1;
const SPAM: i64 = 3;
const KEYWORD_PRESET: i64 = 4;
const MENTION_SPAM: i64 = 5;
const MEMBER_PROFILE: i64 = 6;

/// Rules of each kind that a guild may have (Discord's table of trigger types).
const fn rules_max(trigger: i64) -> usize {
    if trigger == KEYWORD { 6 } else { 1 }
}

/// A message that a rule is against.
pub(super) struct Hit {
    pub(super) rule: String,
    pub(super) trigger: i64,
    pub(super) actions: Vec<Value>,
    pub(super) keyword: Option<String>,
    pub(super) matched: Option<String>,
}

/// The first rule that is against a text of the user's.
pub(super) fn hit(guild: &Guild, channel: Snowflake, user: Snowflake, content: &str) -> Option<Hit> {
    let ids = |rule: &Map<String, Value>, key: &str| -> Vec<Snowflake> {
        rule.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(as_id).collect()
    };
    let roles = guild.members.get(&user).map_or(&[][..], |member| &member.roles);
    for rule in guild.rules.values() {
        if rule.get("enabled").and_then(Value::as_bool) != Some(true)
            || ids(rule, "exempt_channels").contains(&channel)
            || ids(rule, "exempt_roles").iter().any(|role| roles.contains(role))
        {
            continue;
        }
        let trigger = rule.get("trigger_type").and_then(Value::as_i64).unwrap_or(0);
        let metadata = rule.get("trigger_metadata").unwrap_or(&Value::Null);
        let found = match trigger {
            KEYWORD => {
                let texts = |key: &str| metadata[key].as_array().into_iter().flatten().filter_map(Value::as_str);
                let is_allowed = |word: &str| texts("allow_list").any(|allowed| word.eq_ignore_ascii_case(allowed));
                texts("keyword_filter")
                    .find_map(|keyword| Some((keyword, matching(content, keyword)?)))
                    .filter(|(_, word)| !is_allowed(word))
                    .map(|(keyword, word)| (Some(keyword.to_owned()), Some(word)))
            }
            MENTION_SPAM => {
                let (users, roles, _) = mentions(content);
                let most = metadata["mention_total_limit"].as_u64().unwrap_or(u64::MAX);
                ((users.len() + roles.len()) as u64 > most).then_some((None, None))
            }
            _ => None,
        };
        if let Some((keyword, matched)) = found {
            let actions = rule.get("actions").and_then(Value::as_array).cloned().unwrap_or_default();
            let rule = rule.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
            return Some(Hit { rule, trigger, actions, keyword, matched });
        }
    }
    None
}

/// The part of a text that a key word is: whole words, or with `*` at an end also parts of them. Case does not count.
fn matching(content: &str, keyword: &str) -> Option<String> {
    let (content, keyword) = (content.to_lowercase(), keyword.to_lowercase());
    let (open_before, open_after) = (keyword.starts_with('*'), keyword.ends_with('*'));
    let needle = keyword.trim_matches('*');
    if needle.is_empty() {
        return None;
    }
    let is_word = |c: char| c.is_alphanumeric();
    content.match_indices(needle).find_map(|(at, found)| {
        let before = content[..at].chars().next_back();
        let after = content[at + found.len()..].chars().next();
        let begins = open_before || before.is_none_or(|c| !is_word(c));
        let ends = open_after || after.is_none_or(|c| !is_word(c));
        (begins && ends).then(|| found.to_owned())
    })
}

impl World {
    pub(super) fn get_rules(&self, request: &Request<'_>, guild: Snowflake) -> Result<Reply, DiscordError> {
        let guild = self.guild_with(request.actor, guild, Permissions::MANAGE_GUILD)?;
        let rules: Vec<_> = guild.rules.values().cloned().map(Value::Object).collect();
        Ok(Reply::ok(json!(rules)))
    }

    pub(super) fn get_rule(
        &self,
        request: &Request<'_>,
        guild: Snowflake,
        rule: Snowflake,
    ) -> Result<Reply, DiscordError> {
        let guild = self.guild_with(request.actor, guild, Permissions::MANAGE_GUILD)?;
        let rule = guild.rules.get(&rule).ok_or_else(DiscordError::unknown_auto_moderation_rule)?;
        Ok(Reply::ok(Value::Object(rule.clone())))
    }

    pub(super) fn create_rule(&mut self, request: &Request<'_>, guild: Snowflake) -> Result<Reply, DiscordError> {
        let of = self.guild_with(request.actor, guild, Permissions::MANAGE_GUILD)?;
        let mut rule = read_rule(of, request.object()?, None)?;
        let trigger = rule.get("trigger_type").and_then(Value::as_i64).unwrap_or(0);
        let same = of.rules.values().filter(|rule| rule.get("trigger_type") == Some(&json!(trigger))).count();
        if same >= rules_max(trigger) {
            return Err(DiscordError::too_many_rules());
        }
        let id = self.new_id();
        for (key, value) in [("id", json!(id)), ("guild_id", json!(guild)), ("creator_id", json!(request.actor))] {
            rule.insert(key.into(), value);
        }
        self.guild_mut(guild)?.rules.insert(id, rule.clone());
        let json = Value::Object(rule);
        self.happen("AUTO_MODERATION_RULE_CREATE", guild, json.clone());
        self.audit(guild, request.actor, AuditEntry::new(140, id), request.reason);
        Ok(Reply::ok(json))
    }

    pub(super) fn edit_rule(
        &mut self,
        request: &Request<'_>,
        guild: Snowflake,
        id: Snowflake,
    ) -> Result<Reply, DiscordError> {
        let of = self.guild_with(request.actor, guild, Permissions::MANAGE_GUILD)?;
        let before = of.rules.get(&id).ok_or_else(DiscordError::unknown_auto_moderation_rule)?.clone();
        let rule = read_rule(of, request.object()?, Some(&before))?;
        self.guild_mut(guild)?.rules.insert(id, rule.clone());
        let (before, json) = (Value::Object(before), Value::Object(rule));
        self.happen("AUTO_MODERATION_RULE_UPDATE", guild, json.clone());
        let entry = AuditEntry::new(141, id).with_changes(changes(&before, &json));
        self.audit(guild, request.actor, entry, request.reason);
        Ok(Reply::ok(json))
    }

    pub(super) fn delete_rule(
        &mut self,
        request: &Request<'_>,
        guild: Snowflake,
        id: Snowflake,
    ) -> Result<Reply, DiscordError> {
        self.guild_with(request.actor, guild, Permissions::MANAGE_GUILD)?;
        let rule = self.guild_mut(guild)?.rules.remove(&id).ok_or_else(DiscordError::unknown_auto_moderation_rule)?;
        self.happen("AUTO_MODERATION_RULE_DELETE", guild, Value::Object(rule));
        self.audit(guild, request.actor, AuditEntry::new(142, id), request.reason);
        Ok(Reply::none())
    }
}

/// A rule as the form has it, over what was before.
fn read_rule(
    guild: &Guild,
    body: &Map<String, Value>,
    before: Option<&Map<String, Value>>,
) -> Result<Map<String, Value>, DiscordError> {
    let mut form = Form::new(body);
    let mut rule = before.cloned().unwrap_or_default();
    let is_new = before.is_none();
    if is_new {
        for key in ["name", "event_type", "trigger_type", "actions"] {
            if form.raw(key).is_none_or(Value::is_null) {
                form.required(key);
            }
        }
    }
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            rule.insert(key.into(), value);
        }
    };
    put("name", form.text("name", 1..=100).set().map(|name| json!(name)));
    put("event_type", form.choice("event_type", &[1, 2]).set().map(|kind| json!(kind)));
    if is_new {
        let kinds = [KEYWORD, SPAM, KEYWORD_PRESET, MENTION_SPAM, MEMBER_PROFILE];
        put("trigger_type", form.choice("trigger_type", &kinds).set().map(|kind| json!(kind)));
    }
    put("enabled", form.flag("enabled").set().or(is_new.then_some(false)).map(|flag| json!(flag)));
    let metadata = form.within("trigger_metadata", |form| {
        for (key, most, chars) in [("keyword_filter", 1000, 60), ("regex_patterns", 10, 260), ("allow_list", 1000, 60)]
        {
            if let Field::Set(list) = form.list(key, 0..=most) {
                for (index, text) in list.iter().enumerate() {
                    if text.as_str().is_none_or(|text| text.is_empty() || text.chars().count() > chars) {
                        let message = format!("Must be between 1 and {chars} in length.");
                        form.mistake(&format!("{key}.{index}"), "BASE_TYPE_BAD_LENGTH", message);
                    }
                }
            }
        }
        form.integer("mention_total_limit", 0..=50);
    });
    if let (Field::Set(()), Some(metadata)) = (metadata, form.raw("trigger_metadata")) {
        put("trigger_metadata", Some(metadata.clone()));
    } else if is_new {
        put("trigger_metadata", Some(json!({})));
    }
    if let Field::Set(list) = form.list("actions", 1..=5) {
        form.each("actions", list, |form| {
            let kind = form.choice("type", &[BLOCK_MESSAGE, 2, TIMEOUT, 4]).set();
            let channel = form.within("metadata", |form| {
                form.integer("duration_seconds", 0..=2_419_200);
                form.text("custom_message", 0..=150);
                form.id("channel_id").set()
            });
            let channel = channel.set().flatten();
            match (kind, channel) {
                (None, _) if form.raw("type").is_none() => form.required("type"),
                (Some(2), None) => form.mistake("metadata", "BASE_TYPE_REQUIRED", "This field is required"),
                (Some(2), Some(channel)) if !guild.channels.contains_key(&channel) => {
                    form.mistake("metadata", "CHANNEL_INVALID", "Invalid channel");
                }
                _ => {}
            }
        });
        put("actions", Some(json!(list)));
    }
    for (key, most) in [("exempt_roles", 20), ("exempt_channels", 50)] {
        let ids = form.ids(key, 0..=most).set().or(is_new.then(Vec::new));
        put(key, ids.map(|ids| json!(ids)));
    }
    form.finish().map(|()| rule)
}
