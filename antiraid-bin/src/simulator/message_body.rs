//! What a message may be made of: the body of the requests that send or change one.

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use worker_core::Snowflake;

use super::discord_error::DiscordError;
use super::form::{Field, Form, as_id};
use super::message::{Emoji, flags};

/// The body, read and found good.
#[derive(Clone, Debug)]
pub struct MessageBody {
    /// The text.
    pub content: Field<String>,
    /// Embeds.
    pub embeds: Field<Vec<Value>>,
    /// Buttons and menus.
    pub components: Field<Vec<Value>>,
    /// A poll.
    pub poll: Field<Value>,
    /// See [`flags`].
    pub flags: i64,
    /// Whether it is read aloud.
    pub tts: bool,
    /// The message that is answered.
    pub answers: Option<Snowflake>,
    /// Whether it is all the same if the message that is answered is not there.
    pub answers_anyhow: bool,
    /// What the sender calls it.
    pub nonce: Option<Value>,
    /// Who may be notified.
    pub allowed_mentions: AllowedMentions,
    /// The name that a webhook shows.
    pub username: Option<String>,
    /// Names of users that are to have a thread of its own.
    pub thread_name: Option<String>,
}

/// Who may be notified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedMentions {
    /// All that are named; otherwise only the following.
    pub all: bool,
    /// Any user.
    pub any_user: bool,
    /// Any role.
    pub any_role: bool,
    /// Everybody.
    pub everyone: bool,
    /// These users.
    pub users: Vec<Snowflake>,
    /// These roles.
    pub roles: Vec<Snowflake>,
    /// The author of the message that is answered.
    pub replied_user: bool,
}

/// Characters of all embeds of a message together.
const EMBEDS_CHARS_MAX: usize = 6_000;
/// Components of all kinds in a message of components alone.
const COMPONENTS_MAX: usize = 40;

impl MessageBody {
    /// Reads it.
    pub fn read(body: &Map<String, Value>) -> Result<Self, DiscordError> {
        let mut form = Form::new(body);
        let read = Self::read_form(&mut form);
        form.finish().map(|()| read)
    }

    /// Reads it where it stands within another form.
    pub fn read_form(form: &mut Form<'_>) -> Self {
        let content = form.text("content", 0..=2000);
        let embeds = match form.list("embeds", 0..=10) {
            Field::Set(list) => Field::Set(read_embeds(form, list)),
            Field::Null => Field::Null,
            Field::Absent => Field::Absent,
        };
        let flags = form.integer("flags", 0..=i64::from(i32::MAX)).set().unwrap_or(0);
        let is_v2 = flags & flags::IS_COMPONENTS_V2 != 0;
        let components = match form.list("components", 0..=if is_v2 { COMPONENTS_MAX } else { 5 }) {
            Field::Set(list) => {
                let mut reader = Components { custom_ids: HashSet::new(), count: 0, is_v2 };
                reader.read(form, "components", list);
                if reader.count > COMPONENTS_MAX {
                    form.mistake(
                        "components",
                        "BASE_TYPE_MAX_LENGTH",
                        format!("Must be {COMPONENTS_MAX} or fewer in length."),
                    );
                }
                Field::Set(list.clone())
            }
            Field::Null => Field::Null,
            Field::Absent => Field::Absent,
        };
        if is_v2 {
            let message = "The 'content' field cannot be used when using MessageFlags.IS_COMPONENTS_V2";
            if matches!(&content, Field::Set(text) if !text.is_empty()) {
                form.mistake("content", "MESSAGE_CANNOT_USE_LEGACY_FIELDS_WITH_COMPONENTS_V2", message);
            }
            if matches!(&embeds, Field::Set(list) if !list.is_empty()) {
                let message = message.replace("content", "embeds");
                form.mistake("embeds", "MESSAGE_CANNOT_USE_LEGACY_FIELDS_WITH_COMPONENTS_V2", message);
            }
        }
        let poll = form.within("poll", read_poll);
        let reference = form.within("message_reference", |form| {
            let fails = form.flag("fail_if_not_exists").set().unwrap_or(true);
            (form.id("message_id").set(), !fails)
        });
        let (answers, answers_anyhow) = reference.set().unwrap_or((None, false));
        if matches!(form.raw("sticker_ids"), Some(Value::Array(list)) if !list.is_empty()) {
            form.mistake("sticker_ids", "STICKER_INVALID", "Invalid sticker sent");
        }
        if let Some(nonce) = form.raw("nonce")
            && !(nonce.is_null() || nonce.is_number() || nonce.as_str().is_some_and(|text| text.len() <= 25))
        {
            form.mistake("nonce", "BASE_TYPE_MAX_LENGTH", "Must be 25 or fewer in length.");
        }
        Self {
            content,
            embeds,
            components,
            poll,
            flags,
            tts: form.flag("tts").set().unwrap_or(false),
            answers,
            answers_anyhow,
            nonce: form.raw("nonce").filter(|nonce| !nonce.is_null()).cloned(),
            allowed_mentions: read_allowed_mentions(form),
            username: form.text("username", 1..=80).set(),
            thread_name: form.text("thread_name", 1..=100).set(),
        }
    }

    /// Whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        let is_none = |list: &Field<Vec<Value>>| !matches!(list, Field::Set(list) if !list.is_empty());
        !matches!(&self.content, Field::Set(text) if !text.trim().is_empty())
            && is_none(&self.embeds)
            && is_none(&self.components)
            && !matches!(self.poll, Field::Set(_))
    }
}

fn read_embeds<'a>(form: &mut Form<'a>, list: &'a [Value]) -> Vec<Value> {
    let mut chars = 0;
    let mut embeds = Vec::with_capacity(list.len());
    let mut read = |form: &mut Form<'_>| {
        let mut embed = Map::new();
        let mut put = |key: &str, value: Field<String>| {
            if let Field::Set(text) = value {
                chars += text.chars().count();
                embed.insert(key.into(), json!(text));
            }
        };
        put("title", form.text("title", 0..=256));
        put("description", form.text("description", 0..=4096));
        let of_url = |form: &mut Form<'_>, key: &str| {
            let url = form.text(key, 0..=2048).set().filter(|url| !url.is_empty());
            if let Some(url) = &url
                && !["http://", "https://", "attachment://"].iter().any(|scheme| url.starts_with(scheme))
            {
                let scheme = url.split(':').next().unwrap_or_default();
                let (code, message) = if url.contains("://") {
                    ("URL_TYPE_INVALID_SCHEME", format!("Scheme \"{scheme}\" is not one of ('http', 'https')."))
                } else {
                    ("URL_TYPE_INVALID_URL", "Not a well formed URL.".into())
                };
                form.mistake(key, code, message);
            }
            url
        };
        if let Some(url) = of_url(form, "url") {
            embed.insert("url".into(), json!(url));
        }
        if let Field::Set(color) = form.integer("color", 0..=0xFF_FFFF) {
            embed.insert("color".into(), json!(color));
        }
        if let Field::Set(at) = form.text("timestamp", 1..=64) {
            match at.parse::<jiff::Timestamp>() {
                Ok(at) => {
                    embed.insert("timestamp".into(), json!(super::guild::iso_of(at)));
                }
                Err(_) => {
                    let message = format!("Could not parse {at}. Should be ISO8601.");
                    form.mistake("timestamp", "DATE_TIME_TYPE_PARSE", message);
                }
            }
        }
        let footer = form.within("footer", |form| {
            let text = form.required_text("text", 1..=2048);
            chars += text.chars().count();
            json!({"text": text, "icon_url": of_url(form, "icon_url")})
        });
        let author = form.within("author", |form| {
            let name = form.required_text("name", 1..=256);
            chars += name.chars().count();
            json!({"name": name, "url": of_url(form, "url"), "icon_url": of_url(form, "icon_url")})
        });
        for (key, value) in [("footer", footer), ("author", author)] {
            if let Field::Set(Value::Object(mut value)) = value {
                value.retain(|_, value| !value.is_null());
                embed.insert(key.into(), Value::Object(value));
            }
        }
        for key in ["image", "thumbnail"] {
            if let Field::Set(Some(url)) = form.within(key, |form| of_url(form, "url")) {
                embed.insert(key.into(), json!({"url": url, "width": 0, "height": 0}));
            }
        }
        if let Field::Set(list) = form.list("fields", 0..=25) {
            let mut fields = Vec::with_capacity(list.len());
            form.each("fields", list, |form| {
                let name = form.required_text("name", 1..=256);
                let value = form.required_text("value", 1..=1024);
                chars += name.chars().count() + value.chars().count();
                let inline = form.flag("inline").set().unwrap_or(false);
                fields.push(json!({"name": name, "value": value, "inline": inline}));
            });
            embed.insert("fields".into(), json!(fields));
        }
        embed.insert("type".into(), json!("rich"));
        embeds.push(Value::Object(embed));
    };
    form.each("embeds", list, &mut read);
    if chars > EMBEDS_CHARS_MAX {
        let message = format!("Embed size exceeds maximum size of {EMBEDS_CHARS_MAX}");
        form.mistake("embeds", "MAX_EMBED_SIZE_EXCEEDED", message);
    }
    embeds
}

/// Discord's kinds of components.
mod component {
    pub(super) const ACTION_ROW: i64 = 1;
    pub(super) const BUTTON: i64 = 2;
    pub(super) const STRING_SELECT: i64 = 3;
    pub(super) const TEXT_INPUT: i64 = 4;
    pub(super) const CHANNEL_SELECT: i64 = 8;
    pub(super) const SECTION: i64 = 9;
    pub(super) const TEXT_DISPLAY: i64 = 10;
    pub(super) const CONTAINER: i64 = 17;
}

struct Components {
    custom_ids: HashSet<String>,
    count: usize,
    is_v2: bool,
}

impl Components {
    fn read<'a>(&mut self, form: &mut Form<'a>, key: &str, list: &'a [Value]) {
        form.each(key, list, |form| {
            self.count += 1;
            let kind = form.integer("type", i64::MIN..=i64::MAX).set();
            match kind {
                Some(component::ACTION_ROW) => self.row(form),
                Some(kind @ component::SECTION..=component::CONTAINER) if self.is_v2 => {
                    if kind == component::TEXT_DISPLAY {
                        form.required_text("content", 1..=4000);
                    }
                    if let Field::Set(list) = form.list("components", 1..=10) {
                        self.read(form, "components", list);
                    }
                    form.within("accessory", |form| {
                        self.count += 1;
                        if form.integer("type", 0..=99).set() == Some(component::BUTTON) {
                            self.button(form);
                        }
                    });
                }
                Some(_) if self.is_v2 => {
                    form.mistake(
                        "type",
                        "UNION_TYPE_CHOICES",
                        "Value of field \"type\" must be one of (1, 9, 10, 12, 13, 14, 17).",
                    );
                }
                Some(_) => form.mistake("type", "UNION_TYPE_CHOICES", "Value of field \"type\" must be one of (1,)."),
                None => form.required("type"),
            }
        });
    }

    fn row(&mut self, form: &mut Form<'_>) {
        let Some(Value::Array(list)) = form.raw("components") else { return form.required("components") };
        let kind_of = |value: &Value| value.get("type").and_then(Value::as_i64);
        let has_menu = list.iter().any(|value| kind_of(value) != Some(component::BUTTON));
        let most = if has_menu { 1 } else { 5 };
        if list.is_empty() || list.len() > most {
            let message = format!("Must be between 1 and {most} in length.");
            return form.mistake("components", "BASE_TYPE_BAD_LENGTH", message);
        }
        form.each("components", list, |form| {
            self.count += 1;
            match form.integer("type", i64::MIN..=i64::MAX).set() {
                Some(component::BUTTON) => self.button(form),
                Some(kind @ component::STRING_SELECT..=component::CHANNEL_SELECT) if kind != component::TEXT_INPUT => {
                    self.menu(form, kind);
                }
                Some(_) => {
                    form.mistake(
                        "type",
                        "UNION_TYPE_CHOICES",
                        "Value of field \"type\" must be one of (2, 3, 5, 6, 7, 8).",
                    );
                }
                None => form.required("type"),
            }
        });
    }

    fn custom_id(&mut self, form: &mut Form<'_>) {
        let custom_id = form.required_text("custom_id", 1..=100);
        if !custom_id.is_empty() && !self.custom_ids.insert(custom_id) {
            form.mistake("custom_id", "COMPONENT_CUSTOM_ID_DUPLICATED", "Component custom id cannot be duplicated");
        }
    }

    fn button(&mut self, form: &mut Form<'_>) {
        const LINK: i64 = 5;
        const PREMIUM: i64 = 6;
        let style = form.choice("style", &[1, 2, 3, 4, LINK, PREMIUM]).set();
        let label = form.text("label", 0..=80).set();
        match style {
            None if form.raw("style").is_none() => form.required("style"),
            Some(LINK) => {
                form.required_text("url", 1..=512);
                if form.raw("custom_id").is_some() {
                    let message = "A custom id and url cannot both be specified";
                    form.mistake("custom_id", "BUTTON_COMPONENT_CUSTOM_ID_AND_URL", message);
                }
            }
            Some(PREMIUM) => {
                form.required_text("sku_id", 1..=20);
                return;
            }
            _ => self.custom_id(form),
        }
        if label.is_none_or(|label| label.is_empty()) && form.raw("emoji").is_none_or(Value::is_null) {
            form.mistake("label", "BUTTON_COMPONENT_LABEL_REQUIRED", "A label or emoji is required");
        }
    }

    fn menu(&mut self, form: &mut Form<'_>, kind: i64) {
        self.custom_id(form);
        form.text("placeholder", 0..=150);
        let least = form.integer("min_values", 0..=25).set().unwrap_or(1);
        let most = form.integer("max_values", 1..=25).set().unwrap_or(1);
        if least > most {
            form.mistake("min_values", "NUMBER_TYPE_MAX", "min_values cannot be greater than max_values");
        }
        if kind != component::STRING_SELECT {
            return;
        }
        match form.list("options", 1..=25) {
            Field::Set(list) => {
                let mut values = HashSet::new();
                form.each("options", list, |form| {
                    form.required_text("label", 1..=100);
                    let value = form.required_text("value", 1..=100);
                    form.text("description", 0..=100);
                    if !value.is_empty() && !values.insert(value) {
                        let message = "The specified option value is already used";
                        form.mistake("value", "SELECT_COMPONENT_OPTION_VALUE_DUPLICATED", message);
                    }
                });
            }
            _ if form.raw("options").is_none() => form.required("options"),
            _ => {}
        }
    }
}

/// The components of a modal: text inputs in rows or labels.
pub fn check_modal(form: &mut Form<'_>) {
    form.required_text("title", 1..=45);
    form.required_text("custom_id", 1..=100);
    match form.list("components", 1..=5) {
        Field::Set(list) => form.each("components", list, |form| {
            if form.integer("type", 0..=99).set().is_none() {
                form.required("type");
            }
            if let Field::Set(list) = form.list("components", 1..=1) {
                form.each("components", list, |form| {
                    form.required_text("custom_id", 1..=100);
                    form.text("label", 1..=45);
                    form.text("placeholder", 0..=100);
                    form.text("value", 0..=4000);
                    form.integer("min_length", 0..=4000);
                    form.integer("max_length", 1..=4000);
                });
            }
        }),
        _ if form.raw("components").is_none() => form.required("components"),
        _ => {}
    }
}

fn read_poll(form: &mut Form<'_>) -> Value {
    let question = form.within("question", |form| form.required_text("text", 1..=300));
    if form.raw("question").is_none() {
        form.required("question");
    }
    let mut answers = Vec::new();
    match form.list("answers", 1..=10) {
        Field::Set(list) => form.each("answers", list, |form| {
            let text = form.within("poll_media", |form| form.required_text("text", 1..=55)).set();
            answers.push(json!({"answer_id": answers.len() + 1, "poll_media": {"text": text}}));
        }),
        _ if form.raw("answers").is_none() => form.required("answers"),
        _ => {}
    }
    let hours = form.integer("duration", 1..=768).set().unwrap_or(24);
    let multiselect = form.flag("allow_multiselect").set().unwrap_or(false);
    json!({
        "question": {"text": question.set()}, "answers": answers, "duration_hours": hours,
        "allow_multiselect": multiselect, "layout_type": 1, "results": {"is_finalized": false, "answer_counts": []},
    })
}

fn read_allowed_mentions(form: &mut Form<'_>) -> AllowedMentions {
    let read = form.within("allowed_mentions", |form| {
        let mut parse = Vec::new();
        if let Field::Set(list) = form.list("parse", 0..=3) {
            for (index, value) in list.iter().enumerate() {
                match value.as_str() {
                    Some(kind @ ("roles" | "users" | "everyone")) => parse.push(kind.to_owned()),
                    _ => {
                        let message = "Value must be one of ('users', 'everyone', 'roles').";
                        form.mistake(&format!("parse.{index}"), "BASE_TYPE_CHOICES", message);
                    }
                }
            }
        }
        let mut ids = |key: &str, kind: &str| {
            let ids = form.ids(key, 0..=100).set().unwrap_or_default();
            if !ids.is_empty() && parse.iter().any(|parsed| parsed == kind) {
                let message = format!("parse:[\"{kind}\"] and {kind}: [ids...] are mutually exclusive.");
                form.mistake_here("MESSAGE_ALLOWED_MENTIONS_PARSE_EXCLUSIVE", message);
            }
            ids
        };
        let (users, roles) = (ids("users", "users"), ids("roles", "roles"));
        let has = |kind: &str| parse.iter().any(|parsed| parsed == kind);
        AllowedMentions {
            all: false,
            any_user: has("users"),
            any_role: has("roles"),
            everyone: has("everyone"),
            users,
            roles,
            replied_user: form.flag("replied_user").set().unwrap_or(false),
        }
    });
    read.set().unwrap_or(AllowedMentions { all: true, replied_user: true, ..AllowedMentions::default() })
}

/// Users, roles, and whether everybody, that a text names.
pub fn mentions(content: &str) -> (Vec<Snowflake>, Vec<Snowflake>, bool) {
    let (mut users, mut roles) = (Vec::new(), Vec::new());
    let mut rest = content;
    while let Some(at) = rest.find("<@") {
        rest = &rest[at + 2..];
        let (to, text) = match rest.strip_prefix('&') {
            Some(text) => (&mut roles, text),
            None => (&mut users, rest.strip_prefix('!').unwrap_or(rest)),
        };
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        if text[digits..].starts_with('>')
            && let Some(id) = as_id(&json!(&text[..digits]))
            && !to.contains(&id)
        {
            to.push(id);
        }
    }
    (users, roles, content.contains("@everyone") || content.contains("@here"))
}

/// An emoji of an address: a Unicode one, or `name:id`.
pub fn emoji(text: &str) -> Result<Emoji, DiscordError> {
    match text.rsplit_once(':') {
        Some((name, id)) => {
            let id = as_id(&json!(id)).ok_or_else(DiscordError::unknown_emoji)?;
            let name = name.strip_prefix("a:").unwrap_or(name);
            Ok(Emoji { id: Some(id), name: name.into() })
        }
        // Letters and digits are no emoji; what else Unicode has, is taken.
        None if text.is_empty()
            || text.chars().count() > 16
            || text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') =>
        {
            Err(DiscordError::unknown_emoji())
        }
        None => Ok(Emoji { id: None, name: text.into() }),
    }
}
