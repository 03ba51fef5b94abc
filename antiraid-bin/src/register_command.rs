//! `antiraid register`: makes Discord's slash commands those of the built-in template.

use std::collections::BTreeMap;
use std::io::{self, BufRead, IsTerminal, Write};
use std::num::NonZeroUsize;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use worker_core::{Event, EventName, Snowflake, TenantId, Untyped, WorkerLike};
use worker_db::{FileMap, NewTemplate};
use worker_vm::{BotRest, BotRestError, Services};

use crate::cli::{CommandError, Outcome, RegisterArgs};
use crate::config::{Config, DatabaseUrl};
use crate::output::{Output, complain};
use crate::{engine, store};

/// A command as Discord has it or should have it.
type Command = Map<String, Json>;

/// Runs the command.
pub async fn run(args: &RegisterArgs, config: &Config, output: &mut Output) -> Result<Outcome, CommandError> {
    let token = config.discord.token.as_ref().ok_or(CommandError::Usage("no bot's token: set DISCORD_TOKEN"))?;
    let rest = BotRest::new(&config.discord.api_url, token.expose()).ok_or(BotRestError::Unauthorized)?;
    let wanted = declared(config).await?;

    #[derive(Deserialize)]
    struct Application {
        id: Snowflake,
    }
    let Application { id } = read("GET /applications/@me", rest.get("/applications/@me").await?)?;
    let path = match args.guild {
        Some(guild) => format!("/applications/{id}/guilds/{guild}/commands"),
        None => format!("/applications/{id}/commands"),
    };
    // Discord leaves translations out unless it is asked for them; ours would look new each time.
    let there = rest.get(&format!("{path}?with_localizations=true")).await?;
    let there: Vec<Command> = read("GET commands", there)?;
    let changes = changes(&there, &wanted);
    for change in &changes {
        output.line(change)?;
    }
    let place = args.guild.map_or_else(|| "everywhere".into(), |guild| format!("in guild {guild}"));
    if changes.is_empty() {
        output.line(format_args!(
            "nothing to change: Discord has the {} commands of the built-in template {place}",
            wanted.len()
        ))?;
        return Ok(Outcome::Good);
    }
    output.flush()?;
    if args.dry_run {
        return Ok(Outcome::Bad);
    }
    if !args.yes && !is_confirmed(&place)? {
        complain(format_args!("nothing was changed"));
        return Ok(Outcome::Bad);
    }
    // In one call, so that nobody sees some of the changes.
    rest.put(&path, &json!(wanted)).await?;
    output.line(format_args!("registered {} commands {place}", wanted.len()))?;
    Ok(Outcome::Good)
}

/// Asks whoever sits there.
fn is_confirmed(place: &str) -> Result<bool, CommandError> {
    let mut input = io::stdin().lock();
    if !io::stdin().is_terminal() {
        return Err(CommandError::Usage(
            "nobody to ask whether to make these changes; give --yes, or --dry-run to only see them",
        ));
    }
    let mut error = io::stderr().lock();
    write!(error, "make these changes {place}? [y/N] ")?;
    error.flush()?;
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// What is asked of the built-in template instead of what it does for an event.
const ASK: &str = r#"
local definitions = {}
for _, command in require("@self/commands").all do
	table.insert(definitions, command.definition)
end
return definitions
"#;
/// The event that it is asked by, which nobody else knows.
const ASKED_BY: &str = "Commands";

/// The commands that the built-in template declares. Its code says so: they are declared there and nowhere else.
pub async fn declared(config: &Config) -> Result<Vec<Command>, CommandError> {
    let builtins = engine::builtins(config)?;
    let template = builtins.template();
    let mut files: FileMap = template.files.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect();
    files.insert("init.luau".into(), ASK.into());
    let asked = NewTemplate {
        name: "commands".parse().expect("because this is a template's name"),
        files,
        events: vec![ASKED_BY.into()],
        allowed_caps: template.allowed_caps.clone(),
        error_channel: None,
        compat: template.compat,
        paused: false,
    };
    // A tenant of a database that nobody else has.
    let tenant = TenantId::guild(1);
    let config = Config { workers: NonZeroUsize::MIN, ..config.clone() };
    let db = store::open(&DatabaseUrl::memory(), &config.limits).await?;
    db.template_create(tenant, asked).await?;
    let workers = engine::start(&config, &db, builtins, Services::default(), NonZeroUsize::MIN, None).await;
    let workers = workers.map_err(CommandError::Workers)?;
    let event = Event::antiraid(EventName::new(ASKED_BY), Bytes::from_static(b"{}"));
    let result = workers.dispatch(tenant, event).await.map_err(CommandError::Workers)?;
    let _ = workers.kill().await;
    db.close().await;
    let answer = result.templates.into_iter().find(|result| result.template.as_str() == "commands");
    let answer = answer.map(|result| result.outcome);
    let failed = |why: String| {
        CommandError::Output(io::Error::other(format!("the built-in template does not say its commands: {why}")))
    };
    match answer {
        Some(Ok(value)) => {
            let json = serde_json::to_value(Untyped(&value)).map_err(|error| failed(error.to_string()))?;
            serde_json::from_value(json).map_err(|error| failed(error.to_string()))
        }
        Some(Err(error)) => Err(failed(error.to_string())),
        None => Err(failed("it did not answer".into())),
    }
}

fn read<T: for<'de> Deserialize<'de>>(what: &'static str, answer: Json) -> Result<T, CommandError> {
    serde_json::from_value(answer)
        .map_err(|source| CommandError::Plan(crate::gateway::PlanError::Answer { what, source }))
}

/// What would change.
#[derive(Debug, PartialEq)]
enum Change {
    Added(String),
    /// With each part that differs: where, what Discord has, what it should have.
    Changed(String, Vec<(String, String, String)>),
    Removed(String),
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Added(name) => write!(f, "+ {name}"),
            Self::Removed(name) => write!(f, "- {name}"),
            Self::Changed(name, parts) => {
                write!(f, "~ {name}")?;
                for (place, before, after) in parts {
                    write!(f, "\n    {place}: {before} -> {after}")?;
                }
                Ok(())
            }
        }
    }
}

/// The differences between what Discord has and what it should have, by name.
fn changes(there: &[Command], wanted: &[Command]) -> Vec<Change> {
    let by_name = |commands: &[Command]| -> BTreeMap<String, Json> {
        commands.iter().map(|command| (name_of(command), normal_command(command))).collect()
    };
    let (there, wanted) = (by_name(there), by_name(wanted));
    let mut changes = Vec::new();
    for name in there.keys().chain(wanted.keys().filter(|name| !there.contains_key(*name))) {
        match (there.get(name), wanted.get(name)) {
            (Some(before), Some(after)) => {
                let mut parts = Vec::new();
                differences("", before, after, &mut parts);
                if !parts.is_empty() {
                    changes.push(Change::Changed(name.clone(), parts));
                }
            }
            (None, _) => changes.push(Change::Added(name.clone())),
            (_, None) => changes.push(Change::Removed(name.clone())),
        }
    }
    changes
}

/// A name is taken once for each type of command
/// (<https://discord.com/developers/docs/interactions/application-commands#application-command-object-application-command-types>).
fn name_of(command: &Command) -> String {
    let name = command.get("name").and_then(Json::as_str).unwrap_or("(without a name)");
    match command.get("type").and_then(Json::as_u64) {
        None | Some(1) => format!("/{name}"),
        Some(2) => format!("{name} (of users)"),
        Some(3) => format!("{name} (of messages)"),
        Some(kind) => format!("{name} (of type {kind})"),
    }
}

/// What Discord adds to a command that it is given.
const ADDED_BY_DISCORD: [&str; 6] =
    ["id", "application_id", "guild_id", "version", "name_localized", "description_localized"];

/// A command without what Discord adds, and without what means the same if it is left out.
fn normal_command(command: &Command) -> Json {
    let mut command = command.clone();
    command.retain(|key, _| !ADDED_BY_DISCORD.contains(&&**key));
    command.entry("type").or_insert(json!(1));
    // In a guild, these say nothing.
    let defaults = [
        ("default_permission", json!(true)),
        ("dm_permission", json!(true)),
        ("integration_types", json!([0])),
        ("description", json!("")),
    ];
    command.retain(|key, value| !defaults.contains(&(&**key, value.clone())));
    let mut command = Json::Object(command);
    drop_defaults(&mut command);
    command
}

/// Leaves out, at every depth, what is as if it were not there: null, false, an empty list, an empty table.
fn drop_defaults(value: &mut Json) {
    match value {
        Json::Object(fields) => {
            fields.values_mut().for_each(drop_defaults);
            fields.retain(|_, value| match value {
                Json::Null | Json::Bool(false) => false,
                Json::Array(list) => !list.is_empty(),
                Json::Object(fields) => !fields.is_empty(),
                _ => true,
            });
        }
        Json::Array(list) => list.iter_mut().for_each(drop_defaults),
        _ => {}
    }
}

/// Adds each part that differs.
fn differences(place: &str, before: &Json, after: &Json, parts: &mut Vec<(String, String, String)>) {
    const NOTHING: &Json = &Json::Null;
    let inner = |key: &str| if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
    match (before, after) {
        (Json::Object(a), Json::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                differences(&inner(key), a.get(key).unwrap_or(NOTHING), b.get(key).unwrap_or(NOTHING), parts);
            }
        }
        (Json::Array(a), Json::Array(b)) => {
            for index in 0..a.len().max(b.len()) {
                let at = |list: &[Json]| list.get(index).cloned().unwrap_or(Json::Null);
                differences(&inner(&index.to_string()), &at(a), &at(b), parts);
            }
        }
        // Discord may write the same number in another way, and permissions as text.
        (Json::Number(a), Json::Number(b)) if a.as_f64() == b.as_f64() => {}
        (a, b) if a == b => {}
        (a, b) => parts.push((place.to_owned(), a.to_string(), b.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(list: Json) -> Vec<Command> {
        serde_json::from_value(list).unwrap()
    }

    fn shown(there: Json, wanted: Json) -> Vec<String> {
        changes(&commands(there), &commands(wanted)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_discord_adds_is_no_difference() {
        let wanted = json!([{"type": 1, "name": "ping", "description": "x", "options": [{"type": 3, "name": "o", "description": "y"}]}]);
        let there = json!([{
            "id": "1", "application_id": "2", "version": "3", "default_member_permissions": null, "type": 1, "name": "ping",
            "name_localizations": null, "description": "x", "description_localizations": null, "dm_permission": true,
            "contexts": null, "integration_types": [0], "nsfw": false, "default_permission": true,
            "options": [{"type": 3, "name": "o", "name_localizations": null, "description": "y", "required": false}]
        }]);
        assert_eq!(shown(there.clone(), wanted), Vec::<String>::new());
        assert_eq!(shown(there, json!([{"name": "ping", "description": "x"}])).len(), 1, "options are gone");
    }

    #[test]
    fn each_difference_is_named() {
        let there = json!([
            {"name": "old", "description": "x"},
            {"name": "ping", "description": "x", "options": [{"type": 3, "name": "o", "required": true}]},
            {"name": "ping", "type": 2, "description": ""},
        ]);
        let wanted = json!([
            {"name": "ping", "description": "y", "nsfw": true, "options": [{"type": 4, "name": "o"}, {"type": 3, "name": "p"}]},
            {"name": "new", "description": "x"},
            {"name": "ping", "type": 2},
        ]);
        let changes = shown(there, wanted);
        assert_eq!(changes[0], "- /old");
        assert_eq!(changes[2], "+ /new");
        for part in [
            "~ /ping\n",
            r#"description: "x" -> "y""#,
            "nsfw: null -> true",
            "options.0.type: 3 -> 4",
            "options.0.required: true -> null",
            r#"options.1: null -> {"name":"p","type":3}"#,
        ] {
            assert!(changes[1].contains(part), "{part} is not in {}", changes[1]);
        }
        assert_eq!(changes.len(), 3, "{changes:?}");
    }
}
