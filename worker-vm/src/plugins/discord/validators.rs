//! What a body must be beyond the kinds of its fields (template API, section 5.4).

use serde_json::Value as Json;

use crate::error::ApiError;

/// Characters of all embeds of a message.
const EMBED_CHARS_MAX: usize = 6_000;
/// Levels of options of a command: groups, commands, arguments.
const OPTION_LEVELS_MAX: usize = 3;
/// Characters of all names, descriptions and values of a command.
const COMMAND_CHARS_MAX: usize = 8_000;
/// The kinds of answers to an interaction that are messages: a new one, and a change of the one with the component.
const MESSAGE_ANSWERS: [i64; 2] = [4, 7];

/// Checks a body before anything is sent.
pub(super) type Validator = fn(&Json) -> Result<(), ApiError>;

fn wrong(detail: &str) -> ApiError {
    ApiError::invalid_argument(detail)
}

pub(super) fn anything(_: &Json) -> Result<(), ApiError> {
    Ok(())
}

/// A message that is made.
pub(super) fn message(body: &Json) -> Result<(), ApiError> {
    if has(body, "attachments") {
        return Err(wrong("attachments (nothing can be uploaded)"));
    }
    let full = ["content", "embeds", "components", "poll", "sticker_ids"].into_iter().any(|field| has(body, field));
    if !full {
        return Err(wrong("content (the message is empty: it has no content, embeds, components, poll or stickers)"));
    }
    embeds(body)
}

/// A message that is changed: it may keep attachments, and what is left out stays.
pub(super) fn message_edit(body: &Json) -> Result<(), ApiError> {
    embeds(body)
}

/// An answer to an interaction.
pub(super) fn interaction_response(body: &Json) -> Result<(), ApiError> {
    let kind = body.get("type").and_then(Json::as_i64).ok_or_else(|| wrong("type (expected the kind of answer)"))?;
    let Some(data) = body.get("data") else {
        return if kind == MESSAGE_ANSWERS[0] { message(&Json::Null) } else { Ok(()) };
    };
    if kind == MESSAGE_ANSWERS[0] {
        return message(data);
    }
    embeds(data)
}

/// A command.
pub(super) fn command(body: &Json) -> Result<(), ApiError> {
    if !has(body, "name") {
        return Err(wrong("name (expected 1 to 32 characters)"));
    }
    levels(body, 0)?;
    if chars(body) > COMMAND_CHARS_MAX {
        return Err(wrong(&format!("options (at most {COMMAND_CHARS_MAX} characters in all)")));
    }
    Ok(())
}

/// All commands of a guild.
pub(super) fn commands(body: &Json) -> Result<(), ApiError> {
    body.as_array().into_iter().flatten().try_for_each(command)
}

/// Messages that are deleted together.
pub(super) fn bulk_delete(body: &Json) -> Result<(), ApiError> {
    let count = body.get("messages").and_then(Json::as_array).map_or(0, Vec::len);
    if (2..=100).contains(&count) { Ok(()) } else { Err(wrong("message_ids (expected 2 to 100)")) }
}

/// A webhook that is made.
pub(super) fn webhook(body: &Json) -> Result<(), ApiError> {
    if has(body, "name") { Ok(()) } else { Err(wrong("name (expected 1 to 80 characters)")) }
}

/// A channel that is made.
pub(super) fn channel(body: &Json) -> Result<(), ApiError> {
    if has(body, "name") { Ok(()) } else { Err(wrong("name (expected 1 to 100 characters)")) }
}

/// Whether the field says something.
fn has(body: &Json, field: &str) -> bool {
    match body.get(field) {
        None | Some(Json::Null) => false,
        Some(Json::String(text)) => !text.is_empty(),
        Some(Json::Array(items)) => !items.is_empty(),
        Some(_) => true,
    }
}

fn embeds(body: &Json) -> Result<(), ApiError> {
    let count = |json: Option<&Json>| json.and_then(Json::as_str).map_or(0, |text| text.chars().count());
    let embed = |embed: &Json| {
        let field = |field: &Json| count(field.get("name")) + count(field.get("value"));
        let fields: usize = embed.get("fields").and_then(Json::as_array).into_iter().flatten().map(field).sum();
        let nested = |outer: &str, inner: &str| count(embed.get(outer).and_then(|outer| outer.get(inner)));
        let own = count(embed.get("title")) + count(embed.get("description"));
        own + nested("footer", "text") + nested("author", "name") + fields
    };
    let embeds = body.get("embeds").and_then(Json::as_array);
    if embeds.into_iter().flatten().map(embed).sum::<usize>() > EMBED_CHARS_MAX {
        return Err(wrong(&format!("embeds (at most {EMBED_CHARS_MAX} characters in all)")));
    }
    Ok(())
}

fn levels(command: &Json, level: usize) -> Result<(), ApiError> {
    let options = command.get("options").and_then(Json::as_array);
    for option in options.into_iter().flatten() {
        if level >= OPTION_LEVELS_MAX {
            return Err(wrong(&format!("options (nested more than {OPTION_LEVELS_MAX} deep)")));
        }
        levels(option, level + 1)?;
    }
    Ok(())
}

fn chars(command: &Json) -> usize {
    let of = |field: &str| command.get(field).and_then(Json::as_str).map_or(0, |text| text.chars().count());
    let each = |field: &str, count: fn(&Json) -> usize| {
        command.get(field).and_then(Json::as_array).into_iter().flatten().map(count).sum::<usize>()
    };
    of("name") + of("description") + of("value") + each("options", chars) + each("choices", chars)
}
