//! How Discord refuses: a status, a code, a message, and for forms what is wrong with which field.

use serde_json::{Map, Value, json};

/// A refusal of Discord's (<https://docs.discord.com/developers/topics/opcodes-and-status-codes#json>).
#[derive(Clone, Debug, PartialEq)]
pub struct DiscordError {
    /// The HTTP status.
    pub status: u16,
    /// Discord's own code.
    pub code: u32,
    /// What is wrong, in Discord's words.
    pub message: String,
    /// What is wrong with the form, as a tree of its fields.
    pub errors: Option<Value>,
}

macro_rules! errors {
    ($($name:ident = ($status:literal, $code:literal, $message:literal)),* $(,)?) => {
        impl DiscordError {
            $(
                #[doc = concat!($code, ": ", $message)]
                pub fn $name() -> Self {
                    Self { status: $status, code: $code, message: $message.into(), errors: None }
                }
            )*
        }
    };
}

errors! {
    unauthorized = (401, 0, "401: Unauthorized"),
    unknown_channel = (404, 10003, "Unknown Channel"),
    unknown_guild = (404, 10004, "Unknown Guild"),
    unknown_invite = (404, 10006, "Unknown Invite"),
    unknown_member = (404, 10007, "Unknown Member"),
    unknown_message = (404, 10008, "Unknown Message"),
    unknown_overwrite = (404, 10009, "Unknown Permission Overwrite"),
    unknown_role = (404, 10011, "Unknown Role"),
    unknown_user = (404, 10013, "Unknown User"),
    unknown_emoji = (400, 10014, "Unknown Emoji"),
    unknown_webhook = (404, 10015, "Unknown Webhook"),
    unknown_ban = (404, 10026, "Unknown Ban"),
    unknown_interaction = (404, 10062, "Unknown interaction"),
    unknown_command = (404, 10063, "Unknown application command"),
    unknown_auto_moderation_rule = (404, 10066, "Unknown auto moderation rule"),
    too_many_roles = (400, 30005, "Maximum number of server roles reached (250)"),
    too_many_webhooks = (400, 30007, "Maximum number of webhooks reached (15)"),
    too_many_reactions = (400, 30010, "Maximum number of reactions reached (20)"),
    too_many_channels = (400, 30013, "Maximum number of server channels reached (500)"),
    too_many_invites = (400, 30016, "Maximum number of invites reached (1000)"),
    too_many_rules = (400, 30033, "Maximum number of auto moderation rules reached"),
    not_in_voice = (400, 40032, "Target user is not connected to voice"),
    already_crossposted = (400, 40033, "This message has already been crossposted"),
    already_acknowledged = (400, 40060, "Interaction has already been acknowledged."),
    missing_access = (403, 50001, "Missing Access"),
    not_its_author = (403, 50005, "Cannot edit a message authored by another user"),
    empty_message = (400, 50006, "Cannot send an empty message"),
    not_a_text_channel = (400, 50008, "Cannot send messages in a non-text channel"),
    missing_permissions = (403, 50013, "Missing Permissions"),
    delete_count = (400, 50016, "Provided too few or too many messages to delete. Must provide at least 2 and fewer than 100 messages to delete"),
    wrong_channel_type = (400, 50024, "Cannot execute action on this channel type"),
    invalid_webhook_token = (401, 50027, "Invalid Webhook Token"),
    invalid_role = (400, 50028, "Invalid Role"),
    too_old_to_bulk_delete = (400, 50034, "You can only bulk delete messages that are under 14 days old."),
    archived_thread = (400, 50083, "Thread is archived"),
    blocked_by_auto_moderation = (400, 200000, "Message was blocked by automatic moderation"),
    bad_json = (400, 50109, "The request body contains invalid JSON."),
    no_users_banned = (400, 500000, "Failed to ban users"),
}

impl DiscordError {
    /// 50035: a form with these mistakes.
    pub fn invalid_form(errors: FormErrors) -> Self {
        Self { status: 400, code: 50035, message: "Invalid Form Body".into(), errors: Some(Value::Object(errors.0)) }
    }

    /// A route that Discord has and that is not simulated, or none of Discord's. No code of Discord's says so.
    pub fn not_simulated(method: &str, path: &str) -> Self {
        let message = format!("The simulator does not answer {method} {path}");
        Self { status: 501, code: 0, message, errors: None }
    }

    /// The body of the answer.
    pub fn body(&self) -> Value {
        let mut body = json!({"message": self.message, "code": self.code});
        if let Some(errors) = &self.errors {
            body["errors"] = errors.clone();
        }
        body
    }
}

/// What is wrong with a form, by the path of the field.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FormErrors(Map<String, Value>);

impl FormErrors {
    /// Notes a mistake at this path.
    pub fn add(&mut self, path: &[String], code: &str, message: impl Into<String>) {
        let mut at = &mut self.0;
        for step in path {
            let below = at.entry(step.clone()).or_insert_with(|| json!({}));
            let Value::Object(map) = below else { return };
            at = map;
        }
        let list = at.entry("_errors").or_insert_with(|| json!([]));
        if let Value::Array(list) = list {
            list.push(json!({"code": code, "message": message.into()}));
        }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
