//! One frame of Discord's gateway: whose it is and what it is called, found without building a model of it.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use worker_core::{Event, Snowflake, TenantId};

/// A frame as the gateway sends it (<https://discord.com/developers/docs/events/gateway-events#payload-structure>),
/// with its payload still text.
#[derive(Debug, Deserialize)]
#[serde(expecting = "a gateway frame, an object with `op`, `t`, `s` and `d`")]
pub struct GatewayFrame<'a> {
    op: u64,
    #[serde(borrow, default)]
    t: Option<Text<'a>>,
    #[serde(default)]
    s: Option<u64>,
    #[serde(borrow, default, deserialize_with = "raw")]
    d: Option<&'a str>,
    /// Nobody has looked yet whether the payload is JSON.
    #[serde(skip)]
    is_unchecked: bool,
}

fn raw<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a str>, D::Error> {
    Ok(Option::<&'a RawValue>::deserialize(deserializer)?.map(RawValue::get))
}

impl<'a> GatewayFrame<'a> {
    /// Looks at the outermost level of the text. The text must be one JSON object and nothing else.
    pub fn peek(line: &'a [u8]) -> Result<Self, FrameError> {
        // serde_json skips the insides of strings that it ignores, so bytes are checked here; for ASCII this is a glance.
        let text = std::str::from_utf8(line).map_err(|error| FrameError::NotUtf8 { at: error.valid_up_to() })?;
        serde_json::from_str(text).map_err(|error| FrameError::not_json(text, 0, &error))
    }

    /// The same for an event that is written as Discord does, with the payload last, without a look at the payload: if that
    /// is one JSON value, the whole is a frame. `None` for everything else.
    fn peek_quickly(line: &'a [u8]) -> Option<Self> {
        const NAME: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ_";
        let text = std::str::from_utf8(line).ok()?;
        let (mut rest, mut t, mut s, mut op) = (text.strip_prefix('{')?, None, None, None);
        loop {
            if let Some(name) = rest.strip_prefix(r#""t":""#) {
                let end = name.find('"')?;
                let is_new = t.replace(&name[..end]).is_none();
                rest = name[end + 1..].strip_prefix(',').filter(|_| is_new)?;
                if !t?.bytes().all(|byte| NAME.as_bytes().contains(&byte)) {
                    return None;
                }
            } else if let Some(number) = rest.strip_prefix(r#""s":"#) {
                let (digits, after) = number.split_once(',')?;
                if s.replace(digits.parse::<u64>().ok()?).is_some() || digits.starts_with(['0', '+']) {
                    return None;
                }
                rest = after;
            } else if let Some(after) = rest.strip_prefix(r#""op":0,"#) {
                if op.replace(0).is_some() {
                    return None;
                }
                rest = after;
            } else {
                let d = rest.strip_prefix(r#""d":"#)?.strip_suffix('}')?;
                let t = Some(Text(Cow::Borrowed(t?)));
                return Some(Self { op: op?, t, s, d: Some(d), is_unchecked: true });
            }
        }
    }

    /// Looks at the payload, if nobody has.
    fn check(&self, line: &[u8]) -> Result<(), FrameError> {
        if self.is_unchecked { GatewayFrame::peek(line).map(drop) } else { Ok(()) }
    }

    /// What kind of frame it is; 0 is an event.
    pub fn op(&self) -> u64 {
        self.op
    }

    /// The gateway's name of the event.
    pub fn name(&self) -> Option<&str> {
        self.t.as_ref().map(|name| &*name.0)
    }

    /// The text of its payload.
    pub fn payload(&self) -> Option<&'a str> {
        self.d
    }

    /// The number of the event in its session, for resuming.
    pub fn sequence(&self) -> Option<u64> {
        self.s
    }
}

/// What to do with a frame.
#[derive(Debug)]
pub enum Sifted {
    /// Templates may want it.
    Deliver {
        /// Whose templates.
        tenant: TenantId,
        /// What happened; its data is a part of the line, not a copy.
        event: Event,
    },
    /// Templates never see it.
    Skip(SkipReason),
}

/// Why templates never see a frame (template API, section 1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// A heartbeat, a greeting, anything with `op` other than 0.
    NotAnEvent,
    /// An event about the connection: `READY`, `RESUMED`.
    Connection,
    /// `GUILD_CREATE`, which the gateway repeats for every guild on every connection.
    GuildCreate,
    /// Of no guild: direct messages, the bot's account.
    NoGuild,
    /// Caused by the bot itself, which would otherwise talk to itself for ever.
    OwnUser,
}

impl SkipReason {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [Self; 5] = [Self::NotAnEvent, Self::Connection, Self::GuildCreate, Self::NoGuild, Self::OwnUser];

    /// The reason in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotAnEvent => "not an event (op is not 0)",
            Self::Connection => "about the connection",
            Self::GuildCreate => "GUILD_CREATE",
            Self::NoGuild => "of no guild",
            Self::OwnUser => "by the bot itself",
        }
    }
}

/// Events about the connection (<https://discord.com/developers/docs/events/gateway-events#receive-events>).
const CONNECTION_EVENTS: [&str; 3] = ["READY", "RESUMED", "RATE_LIMITED"];

/// Decides frame by frame what is delivered, and remembers from `READY` who the bot is.
#[derive(Debug, Default)]
pub struct GatewaySession {
    bot: Option<Snowflake>,
}

impl GatewaySession {
    /// A session of this bot. One that is resumed begins without a `READY`.
    pub fn of(bot: Snowflake) -> Self {
        Self { bot: Some(bot) }
    }

    /// The next frame of the session.
    pub fn sift(&mut self, line: &Bytes) -> Result<Sifted, FrameError> {
        self.sift_with(line, |_| {})
    }

    /// The same; `see` looks at the frame first, whatever becomes of it.
    pub fn sift_with(&mut self, line: &Bytes, see: impl FnOnce(&GatewayFrame<'_>)) -> Result<Sifted, FrameError> {
        let Some(frame) = GatewayFrame::peek_quickly(line) else {
            let frame = GatewayFrame::peek(line)?;
            see(&frame);
            return self.sift_frame(line, &frame);
        };
        see(&frame);
        match self.sift_frame(line, &frame) {
            // What is wrong, and where, is said of the whole.
            Err(error) => Err(GatewayFrame::peek(line).err().unwrap_or(error)),
            sifted => sifted,
        }
    }

    fn sift_frame(&mut self, line: &Bytes, frame: &GatewayFrame<'_>) -> Result<Sifted, FrameError> {
        if frame.op != 0 {
            return Ok(Sifted::Skip(SkipReason::NotAnEvent));
        }
        let name = frame.name().ok_or(FrameError::Unnamed)?;
        let Some(d) = frame.d else { return Ok(Sifted::Skip(without_guild(name))) };
        if CONNECTION_EVENTS.contains(&name) {
            if name == "READY" {
                self.bot = Payload::peek(line, d)?.user.0.and_then(|user| user.id.get());
            } else {
                frame.check(line)?;
            }
            return Ok(Sifted::Skip(SkipReason::Connection));
        }
        if name == "GUILD_CREATE" {
            frame.check(line)?;
            return Ok(Sifted::Skip(SkipReason::GuildCreate));
        }

        let payload = Payload::peek(line, d)?;
        // A guild's own object is the only payload that does not name the guild as `guild_id`.
        let (field, guild) = match name {
            "GUILD_UPDATE" | "GUILD_DELETE" => ("id", &payload.id),
            _ => ("guild_id", &payload.guild_id),
        };
        let user = if name == "INTERACTION_CREATE" { payload.installed_by_user() } else { None };
        let tenant = match (guild, user) {
            (Id::Bad, _) => return Err(FrameError::BadGuild { field }),
            // Where a user brought the bot along, the guild may know nothing of it: its templates are not asked.
            (_, Some(user)) => TenantId::User(user),
            (Id::Is(guild), None) => TenantId::Guild(*guild),
            (Id::Absent, None) => return Ok(Sifted::Skip(SkipReason::NoGuild)),
        };
        if self.bot.is_some() && payload.author(name) == self.bot {
            return Ok(Sifted::Skip(SkipReason::OwnUser));
        }
        let event = Event::discord(name, line.slice_ref(d.as_bytes()));
        Ok(Sifted::Deliver { tenant, event })
    }
}

/// The reason for an event that has no payload.
fn without_guild(name: &str) -> SkipReason {
    match name {
        _ if CONNECTION_EVENTS.contains(&name) => SkipReason::Connection,
        "GUILD_CREATE" => SkipReason::GuildCreate,
        _ => SkipReason::NoGuild,
    }
}

/// Why a line is not a frame. Offsets count bytes of the line from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Bytes that are no text.
    #[error("byte {at}: not UTF-8; a recording is JSON, one frame a line")]
    NotUtf8 {
        /// The first bad byte.
        at: usize,
    },
    /// Not JSON, or JSON of another shape.
    #[error(
        "byte {at}: {what}; expected a gateway frame such as {{\"op\":0,\"t\":\"MESSAGE_CREATE\",\"s\":1,\"d\":{{…}}}}"
    )]
    NotAFrame {
        /// Where reading stopped.
        at: usize,
        /// What was wrong there.
        what: String,
    },
    /// An event without a name.
    #[error("an event (op 0) without its name in `t`")]
    Unnamed,
    /// A guild that cannot be one.
    #[error("`d.{field}` is not the id of a guild: expected a string of digits")]
    BadGuild {
        /// The field of the payload that should name the guild.
        field: &'static str,
    },
}

impl FrameError {
    /// The error of serde_json in `text`, which begins at byte `offset` of the line.
    fn not_json(text: &str, offset: usize, error: &serde_json::Error) -> Self {
        let what = error.to_string();
        // Its own position is by line and column; ours is by byte.
        let what = what.rsplit_once(" at line ").map_or(&*what, |(what, _)| what).to_owned();
        let before: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
        Self::NotAFrame { at: offset + before + error.column().saturating_sub(1), what }
    }
}

/// The few fields of a payload that say whose it is and who caused it. The names are those of `evt.author`'s rule
/// (template API, section 1.2).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Payload {
    guild_id: Id,
    id: Id,
    author: Object<HasId>,
    member: Object<HasUser>,
    user: Object<HasId>,
    user_id: Id,
    inviter: Object<HasId>,
    creator_id: Id,
    owner_id: Id,
    authorizing_integration_owners: Object<Owners>,
}

/// By whose installation an interaction came to be: the keys are kinds of installation
/// (<https://discord.com/developers/docs/resources/application#application-object-application-integration-types>).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Owners {
    /// The guild that has the bot; 0 in a direct message with it.
    #[serde(rename = "0")]
    guild: Id,
    /// The user who has it.
    #[serde(rename = "1")]
    user: Id,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HasId {
    id: Id,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HasUser {
    user: Object<HasId>,
}

impl Payload {
    /// Looks at the payload `d` of the line. A payload that is no object has none of the fields.
    fn peek(line: &Bytes, d: &str) -> Result<Self, FrameError> {
        match serde_json::from_str::<Object<Self>>(d) {
            Ok(payload) => Ok(payload.0.unwrap_or_default()),
            Err(error) => {
                let offset = d.as_ptr().addr() - line.as_ptr().addr();
                Err(FrameError::not_json(d, offset, &error))
            }
        }
    }

    /// The user whose installation alone the interaction came by.
    fn installed_by_user(&self) -> Option<Snowflake> {
        let owners = self.authorizing_integration_owners.0.as_ref()?;
        if owners.guild.get().is_some() { None } else { owners.user.get() }
    }

    fn author(&self, event: &str) -> Option<Snowflake> {
        let id = |object: &Object<HasId>| object.0.as_ref().and_then(|object| object.id.get());
        id(&self.author)
            .or_else(|| id(&self.member.0.as_ref()?.user))
            .or_else(|| id(&self.user))
            .or_else(|| self.user_id.get())
            .or_else(|| id(&self.inviter))
            .or_else(|| self.creator_id.get())
            .or_else(|| self.owner_id.get().filter(|_| event.starts_with("THREAD_")))
    }
}

/// Text that borrows from the line unless it has escapes.
#[derive(Debug, Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A field that should hold an id. Whatever else it holds is no error here: most payloads are not ours to judge.
#[derive(Debug, Default)]
enum Id {
    #[default]
    Absent,
    Is(Snowflake),
    Bad,
}

impl Id {
    fn get(&self) -> Option<Snowflake> {
        match self {
            Self::Is(id) => Some(*id),
            Self::Absent | Self::Bad => None,
        }
    }
}

/// A field that should hold an object; `None` if it holds anything else.
#[derive(Debug)]
struct Object<T>(Option<T>);

impl<T> Default for Object<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyId;
        impl<'de> Visitor<'de> for AnyId {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_str<E>(self, text: &str) -> Result<Id, E> {
                Ok(text.parse().map_or(Id::Bad, Id::Is))
            }

            fn visit_u64<E>(self, id: u64) -> Result<Id, E> {
                Ok(if id == 0 { Id::Bad } else { Id::Is(Snowflake::new(id)) })
            }

            fn visit_unit<E>(self) -> Result<Id, E> {
                Ok(Id::Absent)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Id, E> {
                Ok(Id::Bad)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Id, E> {
                Ok(Id::Bad)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Id, E> {
                Ok(Id::Bad)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Id, A::Error> {
                skip_seq(seq).map(|()| Id::Bad)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Id, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Id::Bad)
            }
        }
        deserializer.deserialize_any(AnyId)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyObject<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for AnyObject<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|object| Object(Some(object)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Object<T>, A::Error> {
                skip_seq(seq).map(|()| Object(None))
            }

            fn visit_unit<E>(self) -> Result<Object<T>, E> {
                Ok(Object(None))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Object<T>, E> {
                Ok(Object(None))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Object<T>, E> {
                Ok(Object(None))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Object<T>, E> {
                Ok(Object(None))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Object<T>, E> {
                Ok(Object(None))
            }

            fn visit_str<E>(self, _: &str) -> Result<Object<T>, E> {
                Ok(Object(None))
            }
        }
        deserializer.deserialize_any(AnyObject(PhantomData))
    }
}

fn skip_seq<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<(), A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const READY: &str = r#"{"op":0,"t":"READY","s":1,"d":{"v":10,"user":{"id":"99","username":"bot"}}}"#;

    fn sift(line: &str) -> Result<Sifted, FrameError> {
        GatewaySession::default().sift(&Bytes::copy_from_slice(line.as_bytes()))
    }

    fn delivered(line: &str) -> (TenantId, Event) {
        match sift(line) {
            Ok(Sifted::Deliver { tenant, event }) => (tenant, event),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn skipped(line: &str) -> SkipReason {
        match sift(line) {
            Ok(Sifted::Skip(reason)) => reason,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn event(t: &str, d: impl fmt::Display) -> String {
        format!(r#"{{"op":0,"t":"{t}","s":5,"d":{d}}}"#)
    }

    #[test]
    fn an_event_goes_to_its_guild_with_the_text_of_its_payload() {
        let (tenant, event) = delivered(r#"{"t":"MESSAGE_CREATE", "s":7,"op":0,"d": {"guild_id":"42" ,"x":1.50} }"#);
        assert_eq!(tenant, TenantId::guild(42));
        assert_eq!(event.name().as_str(), "MESSAGE");
        assert_eq!(&event.data()[..], br#"{"guild_id":"42" ,"x":1.50}"#);
    }

    #[test]
    fn the_payload_is_a_part_of_the_line() {
        let line = Bytes::from(event("TYPING_START", r#"{"guild_id":"42"}"#));
        let Ok(Sifted::Deliver { event, .. }) = GatewaySession::default().sift(&line) else { panic!() };
        assert!(line.as_ptr_range().contains(&event.data().as_ptr()));
    }

    #[test]
    fn a_guilds_own_events_name_it_by_id() {
        for t in ["GUILD_UPDATE", "GUILD_DELETE"] {
            assert_eq!(delivered(&event(t, r#"{"id":"42","guild_id":"1"}"#)).0, TenantId::guild(42));
        }
        assert_eq!(delivered(&event("GUILD_ROLE_CREATE", r#"{"id":"1","guild_id":"42"}"#)).0, TenantId::guild(42));
    }

    #[test]
    fn what_templates_never_see_is_skipped_by_reason() {
        for op in [1, 7, 9, 10, 11] {
            assert_eq!(skipped(&format!(r#"{{"op":{op},"t":null,"s":null,"d":null}}"#)), SkipReason::NotAnEvent);
        }
        assert_eq!(skipped(r#"{"op":11}"#), SkipReason::NotAnEvent);
        assert_eq!(skipped(READY), SkipReason::Connection);
        assert_eq!(skipped(&event("RESUMED", "null")), SkipReason::Connection);
        assert_eq!(skipped(&event("GUILD_CREATE", r#"{"id":"42"}"#)), SkipReason::GuildCreate);
        assert_eq!(skipped(&event("MESSAGE_CREATE", r#"{"author":{"id":"1"}}"#)), SkipReason::NoGuild);
        assert_eq!(skipped(&event("MESSAGE_CREATE", r#"{"guild_id":null}"#)), SkipReason::NoGuild);
        for odd in ["null", "[]", "[[1],{}]", "7", "-7", "1.5", "true", r#""text""#] {
            assert_eq!(skipped(&event("SESSIONS_REPLACE", odd)), SkipReason::NoGuild, "{odd}");
        }
    }

    #[test]
    fn interactions_of_a_users_installation_go_to_the_user() {
        let interaction = |d: serde_json::Value| event("INTERACTION_CREATE", d);
        let owners = |guild_id: serde_json::Value, owners: serde_json::Value| {
            interaction(json!({"guild_id": guild_id, "authorizing_integration_owners": owners, "user": {"id": "8"}}))
        };
        let (guild, user) = (TenantId::guild(42), TenantId::user(7));
        assert_eq!(delivered(&owners(json!("42"), json!({"1": "7"}))).0, user, "in a guild without the bot");
        assert_eq!(
            delivered(&owners(json!("42"), json!({"0": "42", "1": "7"}))).0,
            guild,
            "in a guild that has it too"
        );
        assert_eq!(delivered(&owners(json!("42"), json!({"0": "42"}))).0, guild);
        assert_eq!(delivered(&owners(json!(null), json!({"1": "7"}))).0, user, "between users");
        assert_eq!(delivered(&owners(json!(null), json!({"0": "0", "1": "7"}))).0, user, "with the bot");
        assert_eq!(skipped(&owners(json!(null), json!({"0": "0"}))), SkipReason::NoGuild);
        assert_eq!(skipped(&owners(json!(null), json!({"1": "nobody"}))), SkipReason::NoGuild);
        assert_eq!(delivered(&owners(json!("42"), json!("odd"))).0, guild);
    }

    #[test]
    fn a_resumed_session_knows_the_bot() {
        let line = event("MESSAGE_CREATE", json!({"guild_id": "42", "author": {"id": "99"}}));
        let sifted = GatewaySession::of(Snowflake::new(99)).sift(&Bytes::from(line));
        assert!(matches!(sifted, Ok(Sifted::Skip(SkipReason::OwnUser))));
    }

    #[test]
    fn the_bots_own_events_are_skipped_once_it_is_known() {
        let by = |id: u64| event("MESSAGE_CREATE", json!({"guild_id": "42", "author": {"id": id.to_string()}}));
        let mut session = GatewaySession::default();
        let mut own =
            |line: &str| matches!(session.sift(&Bytes::from(line.to_owned())), Ok(Sifted::Skip(SkipReason::OwnUser)));
        assert!(!own(&by(99)), "nobody is known to be the bot before READY");
        own(READY);
        assert!(own(&by(99)));
        assert!(!own(&by(98)));
        // The first of the author's places decides, wherever else the bot appears.
        let place = |d: serde_json::Value| event("INVITE_CREATE", d);
        assert!(own(&place(json!({"guild_id": "1", "inviter": {"id": "99"}}))));
        assert!(own(&place(json!({"guild_id": "1", "member": {"user": {"id": "99"}}}))));
        assert!(own(&place(json!({"guild_id": "1", "user_id": 99}))));
        assert!(!own(&place(json!({"guild_id": "1", "user": {"id": "5"}, "user_id": "99"}))));
        assert!(!own(&place(json!({"guild_id": "1", "owner_id": "99"}))));
        assert!(own(&event("THREAD_CREATE", json!({"guild_id": "1", "owner_id": "99"}))));
    }

    #[test]
    fn fields_of_odd_shapes_do_not_matter_where_they_name_nobody() {
        for odd in ["null", "true", "-1", "1e9", "[]", "[[[]]]", "{}", r#"{"id":{"id":1}}"#, r#""x""#] {
            let fields = ["author", "member", "user", "user_id", "inviter", "creator_id", "owner_id", "id"];
            for field in fields {
                delivered(&event("THREAD_UPDATE", format!(r#"{{"{field}":{odd},"guild_id":42}}"#)));
            }
        }
    }

    #[test]
    fn a_guild_id_may_be_a_number_but_not_nonsense() {
        assert_eq!(delivered(&event("X", r#"{"guild_id":18446744073709551615}"#)).0, TenantId::guild(u64::MAX));
        for bad in ["0", r#""0""#, "-1", "1.5", "true", "[]", "{}", r#""""#, r#""4x""#, r#""18446744073709551616""#] {
            let error = sift(&event("X", format!(r#"{{"guild_id":{bad}}}"#))).unwrap_err();
            assert_eq!(error, FrameError::BadGuild { field: "guild_id" }, "{bad}");
        }
    }

    #[test]
    fn bad_lines_say_where() {
        let at = |line: &[u8]| match GatewaySession::default().sift(&Bytes::copy_from_slice(line)).unwrap_err() {
            FrameError::NotUtf8 { at } | FrameError::NotAFrame { at, .. } => at,
            other => panic!("{other}"),
        };
        assert_eq!(at(b"{\"op\":0,\"t\":\"\xff\"}"), 13);
        assert_eq!(at(b"nonsense"), 1);
        assert_eq!(at(br#"{"op":0,"t":"X","d":{"guild_id":"1",}}"#), 36);
        assert_eq!(at(br#"{"op":0,"t":"X","d":{}} more"#), 24);
        assert_eq!(at(b"{\"op\":\r\n x"), 9);
        for odd in ["", "[]", "7", "{}", r#"{"op":"0"}"#, r#"{"op":0,"t":5}"#, r#"{"op":-1}"#, r#"{"op":1,"op":0}"#] {
            assert!(matches!(sift(odd), Err(FrameError::NotAFrame { .. })), "{odd}");
        }
        for unnamed in [r#"{"op":0,"t":null,"d":{}}"#, r#"{"op":0,"d":{}}"#] {
            assert_eq!(sift(unnamed).unwrap_err(), FrameError::Unnamed);
        }
    }

    #[test]
    fn the_quick_way_takes_what_discord_writes_and_says_the_same() {
        let d = r#"{"guild_id":"42","x":[1,{"y":"}"}]}"#;
        for head in [
            r#""t":"MESSAGE_CREATE","s":7,"op":0"#,
            r#""op":0,"t":"X_Y","s":18446744073709551615"#,
            r#""op":0,"t":"X""#,
        ] {
            let line = format!(r#"{{{head},"d":{d}}}"#);
            let (quick, whole) =
                (GatewayFrame::peek_quickly(line.as_bytes()).unwrap(), GatewayFrame::peek(line.as_bytes()));
            let whole = whole.unwrap();
            assert_eq!(
                (quick.op, quick.name(), quick.s, quick.d),
                (whole.op, whole.name(), whole.s, whole.d),
                "{line}"
            );
            assert_eq!(delivered(&line).0, TenantId::guild(42));
        }
        // The other way says what is wrong with these, or that nothing is.
        for head in [
            r#""op":0,"op":0,"t":"X""#,
            r#""op":0,"t":"X","t":"Y""#,
            r#""op":0,"t":"X","s":1,"s":2"#,
            r#""op":0,"t":"X","s":01"#,
            r#""op":0,"t":"X","s":-1"#,
            r#""op":0,"t":"X","s":1.5"#,
            r#""op":0,"t":"\u0058""#,
            r#""op":0,"t":null"#,
            r#""op":1,"t":"X""#,
            r#""op": 0,"t":"X""#,
            r#""t":"X""#,
        ] {
            let line = format!(r#"{{{head},"d":{d}}}"#);
            assert!(GatewayFrame::peek_quickly(line.as_bytes()).is_none(), "{line}");
        }
        // What follows the payload, or is none, is found when it is looked at, also where templates never see it.
        for t in ["X", "GUILD_CREATE", "RESUMED", "READY"] {
            for d in [r#"{"guild_id":"1"},"op":0"#, r#"{"guild_id":"1"}}"#, r#"{"guild_id":"1""#, "", "{,}"] {
                let line = format!(r#"{{"op":0,"t":"{t}","d":{d}}}"#);
                assert!(GatewayFrame::peek_quickly(line.as_bytes()).is_some(), "{line}");
                let error = sift(&line).unwrap_err();
                assert_eq!(error, GatewayFrame::peek(line.as_bytes()).unwrap_err(), "{line}");
            }
        }
    }

    #[test]
    fn two_answers_to_whose_it_is_are_refused() {
        let error = sift(&event("X", r#"{"guild_id":"1","guild_id":"2"}"#)).unwrap_err();
        assert!(error.to_string().contains("duplicate field `guild_id`"), "{error}");
    }

    #[test]
    fn nesting_costs_no_stack() {
        let deep = 1_000_000;
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let inner = format!("{}1{}", open.repeat(deep), close.repeat(deep));
            delivered(&event("X", format!(r#"{{"guild_id":"1","x":{inner}}}"#)));
            let _ = sift(&event("X", format!(r#"{{"guild_id":"1","author":{{"id":{inner}}}}}"#)));
        }
    }

    #[test]
    fn a_name_with_escapes_is_read() {
        assert_eq!(
            delivered(r#"{"op":0,"t":"MESSAGE\u005fDELETE","d":{"guild_id":"1"}}"#).1.name().as_str(),
            "MESSAGE_DELETE"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_frame_or_an_error_inside_the_line(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Err(FrameError::NotUtf8 { at } | FrameError::NotAFrame { at, .. }) =
                GatewaySession::default().sift(&Bytes::from(line.clone()))
            {
                prop_assert!(at <= line.len());
            }
        }

        #[test]
        fn every_cut_of_a_frame_is_an_error_inside_it(guild in 1u64.., cut in 0usize..60) {
            let whole = event("MESSAGE_CREATE", json!({"guild_id": guild.to_string(), "content": "ünïcode"}));
            prop_assert_eq!(delivered(&whole).0, TenantId::guild(guild));
            let cut = &whole.as_bytes()[..cut];
            prop_assert!(GatewaySession::default().sift(&Bytes::copy_from_slice(cut)).is_err());
        }
    }
}
