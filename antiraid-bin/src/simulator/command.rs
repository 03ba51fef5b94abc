//! Application commands: what users can ask the bot for.

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use worker_core::Snowflake;

use super::discord_error::DiscordError;
use super::form::{Field, Form};
use super::request::{Reply, Request};
use super::world::World;

/// A command that is registered.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// Its id.
    pub id: Snowflake,
    /// The guild that has it; none if all have.
    pub guild: Option<Snowflake>,
    /// Its name.
    pub name: String,
    /// What it is, as Discord counts: 1 a slash command, 2 of a user, 3 of a message.
    pub kind: i64,
    /// All that is known of it, as Discord writes it.
    pub definition: Map<String, Value>,
}

/// A slash command.
pub(super) const CHAT_INPUT: i64 = 1;
/// Commands of a kind that a guild, or all together, may have.
const fn commands_max(kind: i64) -> usize {
    if kind == CHAT_INPUT { 100 } else { 15 }
}
/// Options of a command, and choices of an option.
const OPTIONS_MAX: usize = 25;

/// Discord's kinds of options.
pub(super) mod option {
    /// Options of its own, under its name.
    pub(crate) const SUB_COMMAND: i64 = 1;
    /// Commands below it.
    pub(crate) const SUB_COMMAND_GROUP: i64 = 2;
    /// Text.
    pub(crate) const STRING: i64 = 3;
    /// A whole number.
    pub(crate) const INTEGER: i64 = 4;
    /// Yes or no.
    pub(crate) const BOOLEAN: i64 = 5;
    /// A user.
    pub(crate) const USER: i64 = 6;
    /// A channel.
    pub(crate) const CHANNEL: i64 = 7;
    /// A role.
    pub(crate) const ROLE: i64 = 8;
    /// A user or a role.
    pub(crate) const MENTIONABLE: i64 = 9;
    /// A number.
    pub(crate) const NUMBER: i64 = 10;
}

impl World {
    /// The commands that the members of a guild see: its own, and those of all.
    pub fn commands_in(&self, guild: Snowflake) -> impl Iterator<Item = &Command> {
        self.commands.iter().filter(move |command| command.guild.is_none_or(|of| of == guild))
    }

    /// Refuses if the bot is not this application, or not in the guild.
    fn check_application(&self, application: Snowflake, guild: Option<Snowflake>) -> Result<(), DiscordError> {
        if application != self.bot {
            let message = "You are not authorized to perform this action on this application";
            return Err(DiscordError { status: 403, code: 20012, message: message.into(), errors: None });
        }
        guild.map_or(Ok(()), |guild| self.guild(self.bot, guild).map(|_| ()))
    }

    pub(super) fn get_commands(&self, application: Snowflake, guild: Option<Snowflake>) -> Result<Reply, DiscordError> {
        self.check_application(application, guild)?;
        let all = self.commands.iter().filter(|command| command.guild == guild);
        let all: Vec<_> = all.map(|command| Value::Object(command.definition.clone())).collect();
        Ok(Reply::ok(json!(all)))
    }

    pub(super) fn get_command(
        &self,
        application: Snowflake,
        guild: Option<Snowflake>,
        id: Snowflake,
    ) -> Result<Reply, DiscordError> {
        self.check_application(application, guild)?;
        let found = self.commands.iter().find(|command| command.guild == guild && command.id == id);
        let found = found.ok_or_else(DiscordError::unknown_command)?;
        Ok(Reply::ok(Value::Object(found.definition.clone())))
    }

    pub(super) fn create_command(
        &mut self,
        request: &Request<'_>,
        application: Snowflake,
        guild: Option<Snowflake>,
    ) -> Result<Reply, DiscordError> {
        self.check_application(application, guild)?;
        let mut form = Form::new(request.object()?);
        let read = read_command(&mut form);
        form.finish()?;
        let is_there =
            |command: &Command| command.guild == guild && command.kind == read.kind && command.name == read.name;
        let before = self.commands.iter().find(|command| is_there(command)).map(|command| command.id);
        let of_kind = self.commands.iter().filter(|command| command.guild == guild && command.kind == read.kind);
        if before.is_none() && of_kind.count() >= commands_max(read.kind) {
            let message = format!("Maximum number of application commands reached ({})", commands_max(read.kind));
            return Err(DiscordError { status: 400, code: 30032, message, errors: None });
        }
        let json = self.put_command(read, guild, before);
        Ok(if before.is_some() { Reply::ok(json) } else { Reply::created(json) })
    }

    pub(super) fn replace_commands(
        &mut self,
        request: &Request<'_>,
        application: Snowflake,
        guild: Option<Snowflake>,
    ) -> Result<Reply, DiscordError> {
        self.check_application(application, guild)?;
        // The mistakes of each stand under its number.
        let all = json!({"commands": request.array()?});
        let Value::Object(all) = &all else { return Err(DiscordError::bad_json()) };
        let mut form = Form::new(all);
        let mut read: Vec<ReadCommand> = Vec::new();
        if let Field::Set(list) = form.list("commands", 0..=130) {
            let mut names = HashSet::new();
            form.each("commands", list, |form| {
                let command = read_command(form);
                if !names.insert((command.kind, command.name.clone())) {
                    let message = "Application command names must be unique";
                    form.mistake("name", "APPLICATION_COMMANDS_DUPLICATE_NAME", message);
                }
                read.push(command);
            });
        }
        form.finish().map_err(|mut error| {
            // Discord has the numbers at the top.
            if let Some(errors) = &mut error.errors
                && let Some(below) = errors.get("commands").cloned()
            {
                *errors = below;
            }
            error
        })?;
        let before: Vec<_> = self.commands.iter().filter(|command| command.guild == guild).cloned().collect();
        self.commands.retain(|command| command.guild != guild);
        let mut jsons = Vec::with_capacity(read.len());
        for command in read {
            let same = before.iter().find(|one| one.kind == command.kind && one.name == command.name);
            jsons.push(self.put_command(command, guild, same.map(|same| same.id)));
        }
        Ok(Reply::ok(json!(jsons)))
    }

    pub(super) fn edit_command(
        &mut self,
        request: &Request<'_>,
        application: Snowflake,
        guild: Option<Snowflake>,
        id: Snowflake,
    ) -> Result<Reply, DiscordError> {
        self.check_application(application, guild)?;
        let found = self.commands.iter().find(|command| command.guild == guild && command.id == id);
        let mut definition = found.ok_or_else(DiscordError::unknown_command)?.definition.clone();
        definition.extend(request.object()?.clone());
        let mut form = Form::new(&definition);
        let read = read_command(&mut form);
        form.finish()?;
        let json = self.put_command(read, guild, Some(id));
        Ok(Reply::ok(json))
    }

    pub(super) fn delete_command(
        &mut self,
        application: Snowflake,
        guild: Option<Snowflake>,
        id: Snowflake,
    ) -> Result<Reply, DiscordError> {
        self.check_application(application, guild)?;
        let at = self.commands.iter().position(|command| command.guild == guild && command.id == id);
        self.commands.remove(at.ok_or_else(DiscordError::unknown_command)?);
        Ok(Reply::none())
    }

    fn put_command(&mut self, read: ReadCommand, guild: Option<Snowflake>, id: Option<Snowflake>) -> Value {
        let (version, new) = (self.new_id(), self.new_id());
        let id = id.unwrap_or(new);
        let mut definition = read.definition;
        for (key, value) in [
            ("id", json!(id)),
            ("application_id", json!(self.bot)),
            ("version", json!(version)),
            ("type", json!(read.kind)),
        ] {
            definition.insert(key.into(), value);
        }
        if let Some(guild) = guild {
            definition.insert("guild_id".into(), json!(guild));
        }
        let command = Command { id, guild, name: read.name, kind: read.kind, definition: definition.clone() };
        match self.commands.iter_mut().find(|command| command.id == id) {
            Some(before) => *before = command,
            None => self.commands.push(command),
        }
        Value::Object(definition)
    }
}

struct ReadCommand {
    name: String,
    kind: i64,
    definition: Map<String, Value>,
}

fn read_command(form: &mut Form<'_>) -> ReadCommand {
    let kind = form.choice("type", &[CHAT_INPUT, 2, 3, 4]).set().unwrap_or(CHAT_INPUT);
    let name = form.required_text("name", 1..=32);
    if kind == CHAT_INPUT {
        check_name(form, &name);
        form.required_text("description", 1..=100);
        read_options(form, 1);
    } else if form.raw("description").and_then(Value::as_str).is_some_and(|text| !text.is_empty()) {
        let message = "Context menu commands cannot have description";
        form.mistake_here("APPLICATION_COMMAND_INVALID_DESCRIPTION", message);
    }
    form.permissions("default_member_permissions");
    form.flag("nsfw");
    form.flag("dm_permission");
    let mut definition = Map::new();
    for key in [
        "name",
        "name_localizations",
        "description",
        "description_localizations",
        "options",
        "default_member_permissions",
        "dm_permission",
        "nsfw",
        "integration_types",
        "contexts",
    ] {
        if let Some(value) = form.raw(key) {
            definition.insert(key.into(), value.clone());
        }
    }
    definition.entry("default_member_permissions").or_insert(Value::Null);
    definition.entry("nsfw").or_insert(json!(false));
    definition.entry("description").or_insert(json!(""));
    ReadCommand { name, kind, definition }
}

fn check_name(form: &mut Form<'_>, name: &str) {
    let is_good = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '\'');
    if !name.is_empty() && (!name.chars().all(is_good) || name.chars().any(char::is_uppercase)) {
        let message = "String value did not match validation regex.";
        form.mistake("name", "APPLICATION_COMMAND_INVALID_NAME", format!("Command name is invalid. {message}"));
    }
}

fn read_options(form: &mut Form<'_>, depth: usize) {
    let Field::Set(list) = form.list("options", 0..=OPTIONS_MAX) else { return };
    let mut names = HashSet::new();
    let mut optional_before = false;
    form.each("options", list, |form| {
        let kind = form.integer("type", i64::MIN..=i64::MAX).set();
        let name = form.required_text("name", 1..=32);
        check_name(form, &name);
        form.required_text("description", 1..=100);
        if !name.is_empty() && !names.insert(name) {
            form.mistake("name", "APPLICATION_COMMAND_OPTIONS_NAME_ALREADY_EXISTS", "Option name already exists");
        }
        match kind {
            None => form.required("type"),
            Some(option::SUB_COMMAND) if depth <= 2 => read_options(form, 3),
            Some(option::SUB_COMMAND_GROUP) if depth == 1 => read_options(form, 2),
            Some(option::STRING..=11) => {}
            Some(_) => {
                let message =
                    "Sub-command and sub-command group option types are mutually exclusive to all other types";
                form.mistake("type", "APPLICATION_COMMAND_OPTIONS_TYPE_INVALID", message);
            }
        }
        let required = form.flag("required").set().unwrap_or(false);
        if required && optional_before {
            let message = "Required options must be placed before non-required options";
            form.mistake_here("APPLICATION_COMMAND_OPTIONS_REQUIRED_INVALID", message);
        }
        optional_before |= !required;
        let has_choices = matches!(kind, Some(option::STRING | option::INTEGER | option::NUMBER));
        if let Field::Set(list) = form.list("choices", 0..=OPTIONS_MAX) {
            if !has_choices && !list.is_empty() {
                let message = "Choices are only valid for string, integer and number options";
                form.mistake("choices", "APPLICATION_COMMAND_OPTIONS_CHOICES_INVALID", message);
            }
            form.each("choices", list, check_choice);
            if !list.is_empty() && form.flag("autocomplete").set() == Some(true) {
                let message = "Autocomplete cannot be set with choices";
                form.mistake_here("APPLICATION_COMMAND_AUTOCOMPLETE_NOT_ALLOWED", message);
            }
        }
    });
}

/// A choice of an option, or one that autocompletion offers.
pub(super) fn check_choice(form: &mut Form<'_>) {
    form.required_text("name", 1..=100);
    match form.raw("value") {
        Some(Value::String(_)) => {
            form.text("value", 0..=100);
        }
        Some(Value::Number(_)) => {}
        _ => form.required("value"),
    }
}
