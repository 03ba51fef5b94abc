//! Prints the recording `examples/raid/raid.jsonl`: ten minutes of an imagined bot's gateway session, in which one
//! guild and two smaller ones are raided.
//!
//! ```text
//! cargo run -q -p antiraid-bin --example record_raid > examples/raid/raid.jsonl
//! ```
//!
//! The same bytes on every run and every machine: one seed, integer arithmetic, own key order. Nothing in it is real;
//! the shapes are those of Discord's API v10 (full user and member objects, nulls, empty lists, ids as strings).

use std::io::{self, BufWriter, Write};

use serde_json::{Value, json};

const SEED: u64 = 0x5eed_0a17_1da1_d001;
/// 2026-11-20T19:00:00Z, when the recording starts, in Unix milliseconds.
const START: u64 = 1_795_201_200_000;
const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const DAY: u64 = 24 * 60 * MINUTE;
const LENGTH: u64 = 10 * MINUTE;
/// Snowflakes count milliseconds from 2015-01-01T00:00:00Z.
const DISCORD_EPOCH: u64 = 1_420_070_400_000;
const GUILDS: usize = 240;
/// How often something happens in the calm; each act is one event or a few.
const CALM_ACTS: usize = 2_960;

fn main() -> io::Result<()> {
    let mut r = Recorder::new(SEED);
    let mut guilds: Vec<Guild> = (0..GUILDS).map(|_| guild(&mut r)).collect();

    connect(&mut r, &guilds);
    calm(&mut r, &mut guilds);
    raid(&mut r, &mut guilds[57], START + 4 * MINUTE, &RAID_LARGE);
    raid(&mut r, &mut guilds[121], START + 5 * MINUTE + 10 * SECOND, &RAID_SMALL);
    raid(&mut r, &mut guilds[208], START + 6 * MINUTE + 30 * SECOND, &RAID_SMALL);
    r.print(&mut BufWriter::new(io::stdout().lock()))
}

// ---------------------------------------------------------------------------------------------------------------------
// The recorder: chance, ids, frames

/// splitmix64: tiny, and good enough to look like a crowd.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// From `lo` up to, not including, `hi`.
    fn range(&mut self, lo: u64, hi: u64) -> u64 {
        lo + self.next() % hi.saturating_sub(lo).max(1)
    }

    fn percent(&mut self, p: usize) -> bool {
        self.below(100) < p
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    fn hex(&mut self, digits: usize) -> String {
        (0..digits).map(|_| char::from(b"0123456789abcdef"[self.below(16)])).collect()
    }

    fn letters(&mut self, count: usize) -> String {
        const SET: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
        (0..count).map(|_| char::from(SET[self.below(SET.len())])).collect()
    }
}

/// One frame that is not numbered yet: time, opcode, event name, payload.
struct Frame {
    at: u64,
    op: u8,
    name: Option<&'static str>,
    d: Value,
}

struct Recorder {
    rng: Rng,
    ids: u64,
    frames: Vec<Frame>,
    bot: User,
    application: u64,
}

impl Recorder {
    fn new(seed: u64) -> Self {
        let bot = User {
            id: (1_600_000_000_000 - DISCORD_EPOCH) << 22 | 1 << 17 | 77,
            username: "antiraid".into(),
            global_name: None,
            avatar: Some("5f1d7a84db64c1a7a83200ff9ab1e43a".into()),
            bot: true,
            public_flags: 65536,
            decoration: None,
            tag: None,
            nameplate: None,
        };
        Recorder { rng: Rng(seed), ids: 0, frames: Vec::new(), application: bot.id, bot }
    }

    /// A snowflake of the moment `at`: its time part agrees, the rest is worker, process and a counter.
    fn id(&mut self, at: u64) -> u64 {
        self.ids += 1;
        (at - DISCORD_EPOCH) << 22 | (self.rng.next() & 0x3ff) << 12 | (self.ids & 0xfff)
    }

    fn emit(&mut self, at: u64, name: &'static str, d: Value) {
        self.frames.push(Frame { at, op: 0, name: Some(name), d });
    }

    /// In order of time, numbered as the gateway does: only dispatches (op 0) carry a sequence number.
    fn print(mut self, out: &mut impl Write) -> io::Result<()> {
        self.frames.retain(|f| f.at < START + LENGTH);
        self.frames.sort_by_key(|f| f.at);
        let mut sequence = 0_u64;
        for frame in &self.frames {
            let s = (frame.op == 0).then(|| {
                sequence += 1;
                sequence
            });
            write!(out, "{{\"op\":{},\"t\":{},\"s\":{},\"d\":", frame.op, json!(frame.name), json!(s))?;
            write_json(out, &frame.d)?;
            out.write_all(b"}\n")?;
        }
        out.flush()
    }
}

/// Keys from z to a, which is how Discord's own frames look; and the order must not hang on whether some crate of the
/// workspace turns on serde_json's `preserve_order`.
fn write_json(out: &mut impl Write, value: &Value) -> io::Result<()> {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<_> = map.iter().collect();
            fields.sort_by(|a, b| b.0.cmp(a.0));
            out.write_all(b"{")?;
            for (i, (key, value)) in fields.into_iter().enumerate() {
                write!(out, "{}{}:", if i == 0 { "" } else { "," }, json!(key))?;
                write_json(out, value)?;
            }
            out.write_all(b"}")
        }
        Value::Array(list) => {
            out.write_all(b"[")?;
            for (i, value) in list.iter().enumerate() {
                if i > 0 {
                    out.write_all(b",")?;
                }
                write_json(out, value)?;
            }
            out.write_all(b"]")
        }
        scalar => write!(out, "{scalar}"),
    }
}

/// RFC 3339 as Discord writes it: microseconds, `+00:00`.
fn stamp(ms: u64) -> String {
    let (days, rest) = (ms / DAY, ms % DAY);
    // Days to civil date, Howard Hinnant's algorithm for dates after 1970.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (hour, minute, second, milli) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1_000 % 60, rest % 1_000);
    // The digits below a millisecond mean nothing here; they only should not all be zero.
    let micro = milli * 1_000 + ms / 7 % 1_000;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micro:06}+00:00")
}

fn s(id: u64) -> String {
    id.to_string()
}

fn strings(ids: &[u64]) -> Value {
    ids.iter().map(|id| json!(s(*id))).collect()
}

// ---------------------------------------------------------------------------------------------------------------------
// Who is there

#[derive(Clone)]
struct User {
    id: u64,
    username: String,
    global_name: Option<String>,
    avatar: Option<String>,
    bot: bool,
    public_flags: u64,
    decoration: Option<(String, u64)>,
    tag: Option<(u64, &'static str, String)>,
    /// The label of a nameplate, and its article number.
    nameplate: Option<(&'static str, u64)>,
}

#[derive(Clone)]
struct Member {
    user: User,
    nick: Option<String>,
    avatar: Option<String>,
    roles: Vec<u64>,
    joined: u64,
    premium_since: Option<u64>,
    flags: u64,
    gone: bool,
}

struct Channel {
    id: u64,
    name: &'static str,
    kind: u8,
}

struct Role {
    id: u64,
    name: &'static str,
    color: u32,
    permissions: u64,
}

/// A message that later events may edit, delete or react to.
struct Posted {
    at: u64,
    author: usize,
    raw: Value,
}

struct Guild {
    id: u64,
    name: String,
    icon: Option<String>,
    language: &'static Language,
    roles: Vec<Role>,
    text: Vec<Channel>,
    voice: Vec<Channel>,
    emoji: (u64, &'static str),
    /// The first is the owner, the first three are moderators.
    members: Vec<Member>,
    posted: Vec<Posted>,
    greets: bool,
}

fn user(r: &mut Recorder, created: u64) -> User {
    let (first, second) = (*r.rng.pick(NAMES_A), *r.rng.pick(NAMES_B));
    let username = match r.rng.below(4) {
        0 => format!("{first}{second}"),
        1 => format!("{first}_{second}{}", r.rng.below(100)),
        2 => format!(".{second}{first}"),
        _ => format!("{second}.{}", 1900 + r.rng.below(120)),
    };
    let global_name = r.rng.percent(70).then(|| match r.rng.below(4) {
        0 => format!("{}{}", first[..1].to_uppercase(), &first[1..]),
        1 => format!("✧ {second} ✧"),
        2 => format!("{first} 🦊"),
        _ => (*r.rng.pick(DISPLAY)).into(),
    });
    User {
        id: r.id(created),
        username,
        global_name,
        avatar: r.rng.percent(80).then(|| {
            let animated = r.rng.percent(12);
            format!("{}{}", if animated { "a_" } else { "" }, r.rng.hex(32))
        }),
        bot: false,
        public_flags: [0, 0, 0, 64, 128, 256, 4_194_304, 4_194_432][r.rng.below(8)],
        decoration: r.rng.percent(55).then(|| {
            let sku = r.id(START - 400 * DAY);
            (format!("a_{}", r.rng.hex(32)), sku)
        }),
        tag: r.rng.percent(75).then(|| {
            let guild = r.id(START - 900 * DAY);
            (guild, *r.rng.pick(TAGS), r.rng.hex(32))
        }),
        nameplate: r.rng.percent(40).then(|| {
            let sku = r.id(START - 300 * DAY);
            (*r.rng.pick(NAMEPLATES), sku)
        }),
    }
}

fn user_json(u: &User) -> Value {
    let tag = u.tag.as_ref().map(|(guild, tag, badge)| {
        json!({"identity_guild_id": s(*guild), "identity_enabled": true, "tag": tag, "badge": badge})
    });
    let nameplate = u.nameplate.map(|(label, sku)| {
        json!({"nameplate": {
            "sku_id": s(sku), "palette": "cobalt", "label": format!("COLLECTIBLES_{}_A11Y", label.to_uppercase()),
            "expires_at": null, "asset": format!("nameplates/{label}/"),
        }})
    });
    let mut user = json!({
        "id": s(u.id), "username": u.username, "global_name": u.global_name,
        "discriminator": if u.bot { "4021" } else { "0" }, "avatar": u.avatar, "public_flags": u.public_flags,
        "display_name_styles": null, "collectibles": nameplate,
        "avatar_decoration_data": u.decoration.as_ref().map(|(asset, sku)| {
            json!({"asset": asset, "sku_id": s(*sku), "expires_at": null})
        }),
        "primary_guild": tag, "clan": tag,
    });
    if u.bot {
        user["bot"] = json!(true);
    }
    user
}

/// A member as it stands inside a message: without its user.
fn member_json(m: &Member) -> Value {
    json!({
        "roles": strings(&m.roles), "nick": m.nick, "avatar": m.avatar, "banner": null,
        "joined_at": stamp(m.joined), "premium_since": m.premium_since.map(stamp),
        "communication_disabled_until": null, "deaf": false, "mute": false, "pending": false, "flags": m.flags,
    })
}

fn full_member_json(m: &Member) -> Value {
    let mut member = member_json(m);
    member["user"] = user_json(&m.user);
    member
}

fn member(r: &mut Recorder, guild_created: u64, roles: &[Role]) -> Member {
    let oldest = DISCORD_EPOCH + 120 * DAY;
    let created = r.rng.range(oldest, START - 20 * DAY);
    let joined = r.rng.range(created.max(guild_created) + 1, START - DAY);
    let user = user(r, created);
    let mut held: Vec<u64> = roles[1..].iter().filter(|_| r.rng.percent(45)).map(|role| role.id).collect();
    held.truncate(6);
    Member {
        nick: r.rng.percent(20).then(|| (*r.rng.pick(DISPLAY)).into()),
        avatar: r.rng.percent(4).then(|| r.rng.hex(32)),
        roles: held,
        joined,
        premium_since: r.rng.percent(9).then(|| r.rng.range(joined, START)),
        flags: [0, 0, 2, 11][r.rng.below(4)],
        gone: false,
        user,
    }
}

fn guild(r: &mut Recorder) -> Guild {
    // Guilds of every age, the oldest from Discord's first summer.
    let created = r.rng.range(DISCORD_EPOCH + 140 * DAY, START - 12 * DAY);
    let id = r.id(created);
    let after = |r: &mut Recorder| {
        let at = r.rng.range(created, created + (START - created) / 2);
        r.id(at)
    };
    let mut roles = vec![Role { id, name: "@everyone", color: 0, permissions: 2_222_084_186_349_121 }];
    for _ in 0..4 + r.rng.below(5) {
        let (name, color, permissions) = *r.rng.pick(ROLES);
        roles.push(Role { id: after(r), name, color, permissions });
    }
    let first = r.rng.below(CHANNELS.len());
    let text = (0..3 + r.rng.below(4))
        .map(|i| Channel {
            id: if i == 0 { id + 1 } else { after(r) },
            name: CHANNELS[(first + i * 5) % CHANNELS.len()],
            kind: if i == 3 { 5 } else { 0 },
        })
        .collect();
    let voice = (0..1 + r.rng.below(2)).map(|i| Channel { id: after(r), name: VOICE[i], kind: 2 }).collect();
    let members = (0..9 + r.rng.below(14)).map(|_| member(r, created, &roles)).collect();
    Guild {
        id,
        name: format!("{} {}", r.rng.pick(GUILD_A), r.rng.pick(GUILD_B)),
        icon: r.rng.percent(85).then(|| r.rng.hex(32)),
        language: r.rng.pick(LANGUAGES),
        roles,
        text,
        voice,
        emoji: (after(r), *r.rng.pick(EMOJI_NAMES)),
        members,
        posted: Vec::new(),
        greets: r.rng.percent(50),
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// What the connection itself says

fn connect(r: &mut Recorder, guilds: &[Guild]) {
    let op = |at, op, d| Frame { at, op, name: None, d };
    r.frames.push(op(
        START,
        10,
        json!({"heartbeat_interval": 41_250, "_trace": ["[\"gateway-prd-arm-us-east1-c-6mvw\",{\"micros\":0.0}]"]}),
    ));
    for beat in 0.. {
        let at = START + 17 * SECOND + beat * 41_250;
        if at >= START + LENGTH {
            break;
        }
        r.frames.push(op(at, 11, Value::Null));
    }
    let mut bot = user_json(&r.bot);
    bot["verified"] = json!(true);
    bot["mfa_enabled"] = json!(true);
    bot["email"] = Value::Null;
    bot["flags"] = json!(65_536);
    let ready = json!({
        "v": 10, "user_settings": {}, "user": bot, "session_type": "normal", "session_id": r.rng.hex(32),
        "shard": [0, 1], "resume_gateway_url": "wss://gateway-us-east1-c.discord.gg", "relationships": [],
        "private_channels": [], "presences": [], "guild_join_requests": [],
        "geo_ordered_rtc_regions": ["newark", "us-east", "atlanta"],
        "guilds": guilds.iter().map(|g| json!({"id": s(g.id), "unavailable": true})).collect::<Value>(),
        "auth": {}, "application": {"id": s(r.application), "flags": 27_828_224},
        "_trace": ["[\"gateway-prd-arm-us-east1-c-6mvw\",{\"micros\":112035}]"],
    });
    r.emit(START + 300, "READY", ready);
    // A real session sends one for each guild; a handful is enough to show that the engine passes them by.
    for (i, index) in [57, 121, 208, 3, 90, 171].into_iter().enumerate() {
        guild_create(r, &guilds[index], START + 500 + 70 * i as u64);
    }
}

fn role_json(role: &Role, position: usize) -> Value {
    json!({
        "id": s(role.id), "name": role.name, "description": null, "color": role.color,
        "colors": {"primary_color": role.color, "secondary_color": null, "tertiary_color": null},
        "hoist": role.color != 0, "icon": null, "unicode_emoji": null, "position": position,
        "permissions": s(role.permissions), "managed": false, "mentionable": role.name == "Events", "flags": 0,
    })
}

fn channel_json(g: &Guild, c: &Channel, position: usize) -> Value {
    let mut channel = json!({
        "id": s(c.id), "type": c.kind, "guild_id": s(g.id), "name": c.name, "position": position, "parent_id": null,
        "permission_overwrites": [{"id": s(g.id), "type": 0, "allow": "0", "deny": "2048"}], "nsfw": false, "flags": 0,
        "rate_limit_per_user": 0, "last_message_id": g.posted.last().map(|p| p.raw["id"].clone()), "icon_emoji": null,
        "theme_color": null,
    });
    if c.kind == 2 {
        channel["bitrate"] = json!(64_000);
        channel["user_limit"] = json!(0);
        channel["rtc_region"] = Value::Null;
    } else {
        channel["topic"] = Value::Null;
    }
    channel
}

fn guild_json(g: &Guild) -> Value {
    json!({
        "id": s(g.id), "name": g.name, "icon": g.icon, "description": null, "splash": null, "discovery_splash": null,
        "banner": null, "home_header": null, "owner_id": s(g.members[0].user.id), "application_id": null,
        "region": "deprecated", "afk_channel_id": null, "afk_timeout": 300, "system_channel_id": s(g.text[0].id),
        "system_channel_flags": 0, "widget_enabled": false, "widget_channel_id": null, "verification_level": 1,
        "default_message_notifications": 1, "explicit_content_filter": 2, "mfa_level": 0,
        "nsfw": false, "nsfw_level": 0,
        "roles": g.roles.iter().enumerate().map(|(i, role)| role_json(role, i)).collect::<Value>(),
        "emojis": [{
            "id": s(g.emoji.0), "name": g.emoji.1, "roles": [], "require_colons": true, "managed": false,
            "animated": false, "available": true,
        }],
        "stickers": [], "features": ["COMMUNITY", "NEWS", "SOUNDBOARD"], "rules_channel_id": s(g.text[0].id),
        "public_updates_channel_id": s(g.text[1].id), "safety_alerts_channel_id": null, "vanity_url_code": null,
        "premium_tier": 1, "premium_subscription_count": 4, "premium_progress_bar_enabled": false,
        "preferred_locale": g.language.locale, "max_members": 25_000_000, "max_presences": null,
        "max_video_channel_users": 25, "max_stage_video_channel_users": 50, "hub_type": null, "incidents_data": null,
    })
}

fn guild_create(r: &mut Recorder, g: &Guild, at: u64) {
    let mut d = guild_json(g);
    let channels = g.text.iter().chain(&g.voice).enumerate().map(|(i, c)| channel_json(g, c, i));
    d["channels"] = channels.collect();
    d["members"] = g.members.iter().map(full_member_json).collect();
    d["member_count"] = json!(g.members.len());
    for empty in
        ["threads", "voice_states", "presences", "stage_instances", "guild_scheduled_events", "soundboard_sounds"]
    {
        d[empty] = json!([]);
    }
    d["joined_at"] = json!(stamp(g.members[0].joined.max(START - 90 * DAY)));
    d["large"] = json!(false);
    d["lazy"] = json!(true);
    d["unavailable"] = json!(false);
    r.emit(at, "GUILD_CREATE", d);
}

// ---------------------------------------------------------------------------------------------------------------------
// Ordinary evenings

type Act = fn(&mut Recorder, &mut Guild, u64);

/// Weight and act. One act may give several events, now and a little later.
const CALM: &[(usize, Act)] = &[
    (500, chat),
    (70, type_and_think),
    (70, presence),
    (85, react),
    (22, edit),
    (16, delete),
    (26, voice),
    (22, join),
    (12, leave),
    (20, member_update),
    (14, command),
    (4, button),
    (6, thread),
    (10, channel_change),
    (8, role_change),
    (9, invite),
    (3, webhooks),
    (5, expressions),
    (3, guild_update),
    (5, kick_or_timeout),
    (3, ban),
    (4, automod_calm),
    (5, scheduled_event),
    (4, poll),
    (6, feed),
    (3, stage),
    (3, shout),
    (2, integration),
];

fn calm(r: &mut Recorder, guilds: &mut [Guild]) {
    let total: usize = CALM.iter().map(|(weight, _)| weight).sum();
    // In order of time, so that nobody speaks before joining or after leaving.
    let mut times: Vec<u64> = (0..CALM_ACTS).map(|_| START + r.rng.range(2 * SECOND, LENGTH - 2 * SECOND)).collect();
    times.sort_unstable();
    // Each guild once, so that nobody is silent; beyond that there are busy guilds and quiet ones.
    let mut turns: Vec<Option<usize>> = (0..CALM_ACTS).map(|n| (n < guilds.len()).then_some(n)).collect();
    for n in (1..turns.len()).rev() {
        turns.swap(n, r.rng.below(n + 1));
    }
    for (at, turn) in times.into_iter().zip(turns) {
        let index = turn.unwrap_or_else(|| r.rng.below(guilds.len()).min(r.rng.below(guilds.len())));
        let mut at_weight = r.rng.below(total);
        let act = CALM.iter().find(|(weight, _)| match at_weight.checked_sub(*weight) {
            Some(rest) => {
                at_weight = rest;
                false
            }
            None => true,
        });
        let act = if turn.is_some() { chat } else { act.map_or(chat as Act, |(_, act)| *act) };
        act(r, &mut guilds[index], at);
    }
    for _ in 0..6 {
        let at = START + r.rng.range(5 * SECOND, LENGTH);
        let index = r.rng.below(guilds.len());
        direct_message(r, &guilds[index], at);
    }
}

/// A message in Discord's full shape, with nothing special in it.
fn message(r: &mut Recorder, g: &Guild, author: usize, channel: usize, at: u64, content: String) -> Value {
    let (m, c) = (&g.members[author], &g.text[channel]);
    let nonce = r.id(at - 120);
    json!({
        "id": s(r.id(at)), "type": 0, "channel_id": s(c.id), "channel_type": c.kind, "guild_id": s(g.id),
        "content": content, "timestamp": stamp(at), "edited_timestamp": null, "tts": false, "pinned": false,
        "author": user_json(&m.user), "member": member_json(m), "nonce": s(nonce), "flags": 0, "mentions": [],
        "mention_roles": [], "mention_everyone": false, "attachments": [], "embeds": [], "components": [],
    })
}

fn post(r: &mut Recorder, g: &mut Guild, author: usize, at: u64, raw: Value) {
    g.posted.push(Posted { at, author, raw: raw.clone() });
    r.emit(at, "MESSAGE_CREATE", raw);
}

fn mention(m: &Member) -> Value {
    let mut user = user_json(&m.user);
    user["member"] = member_json(m);
    user
}

fn regular(r: &mut Recorder, g: &Guild) -> usize {
    let here: Vec<usize> = (0..g.members.len()).filter(|i| !g.members[*i].gone).collect();
    *r.rng.pick(&here)
}

/// Takes a member out of the guild: never a moderator, and `None` when only a few are left.
fn depart(r: &mut Recorder, g: &mut Guild) -> Option<Member> {
    let here: Vec<usize> = (3..g.members.len()).filter(|i| !g.members[*i].gone).collect();
    if here.len() < 3 {
        return None;
    }
    let who = *r.rng.pick(&here);
    g.members[who].gone = true;
    Some(g.members[who].clone())
}

fn sentence(r: &mut Recorder, g: &Guild) -> String {
    let mut text = String::new();
    for i in 0..1 + r.rng.below(4) {
        if i > 0 {
            text.push_str(["\n", " ", " ", " — ", "… ", "\n\n"][r.rng.below(6)]);
        }
        let phrase = *r.rng.pick(g.language.phrases);
        match r.rng.below(20) {
            0 => text.push_str(&format!("\"{phrase}\"")),
            1 => text.push_str(&format!("> {phrase}")),
            2 => text.push_str(&format!("**{phrase}**")),
            3 => text.push_str(&format!("||{phrase}||")),
            _ => text.push_str(phrase),
        }
    }
    match r.rng.below(14) {
        0 => text.push_str(&format!(" <:{}:{}>", g.emoji.1, g.emoji.0)),
        1 => text.push_str(&format!(" https://example.com/{}/{}?q=a&b=%20c", r.rng.letters(5), r.rng.below(9_999))),
        2 => text.push_str(&format!("\n```luau\nlocal n = {}\nprint(\"n\\t\", n)\n```", r.rng.below(1_000))),
        3 => text.push_str(&format!(" <#{}>", g.text[0].id)),
        4 => text.push_str(" C:\\Users\\ben\\saves\\world.dat"),
        5 => text.push_str(&format!(" <t:{}:R>", START / SECOND + r.rng.range(0, 90_000))),
        6..=10 => text.push_str(&format!(" {}", r.rng.pick(EMOJI))),
        _ => {}
    }
    text
}

fn chat(r: &mut Recorder, g: &mut Guild, at: u64) {
    let (author, channel) = (regular(r, g), r.rng.below(g.text.len()));
    let content = sentence(r, g);
    let mut m = message(r, g, author, channel, at, content);
    match r.rng.below(100) {
        0..=13 => {
            let other = regular(r, g);
            m["content"] = json!(format!("<@{}> {}", g.members[other].user.id, m["content"].as_str().unwrap_or("")));
            m["mentions"] = json!([mention(&g.members[other])]);
        }
        14..=22 => {
            if let Some(p) = g.posted.iter().rev().find(|p| p.at < at && p.raw["type"] == 0) {
                let mut quoted = p.raw.clone();
                for field in ["nonce", "member", "guild_id", "referenced_message", "channel_type"] {
                    quoted.as_object_mut().map(|o| o.remove(field));
                }
                m["type"] = json!(19);
                m["channel_id"] = quoted["channel_id"].clone();
                m["message_reference"] = json!({
                    "type": 0, "guild_id": s(g.id), "channel_id": quoted["channel_id"], "message_id": quoted["id"],
                });
                m["referenced_message"] = quoted;
                m["mentions"] = json!([mention(&g.members[p.author])]);
            }
        }
        23..=30 => {
            let (id, name) = (r.id(at - 300), format!("IMG_{:04}.png", r.rng.below(9_999)));
            let path =
                format!("attachments/{}/{id}/{name}?ex=69226c80&is=69211b00&hm={}&", g.text[channel].id, r.rng.hex(64));
            m["attachments"] = json!([{
                "id": s(id), "filename": name, "size": r.rng.range(20_000, 4_000_000), "width": 1_170, "height": 2_532,
                "content_type": "image/png", "content_scan_version": 2, "placeholder": r.rng.letters(28),
                "placeholder_version": 1, "url": format!("https://cdn.discordapp.com/{path}"),
                "proxy_url": format!("https://media.discordapp.net/{path}"),
            }]);
        }
        31..=35 => {
            let slug = r.rng.letters(11);
            m["content"] = json!(format!("https://video.example.com/watch?v={slug}"));
            m["embeds"] = json!([{
                "type": "video", "url": format!("https://video.example.com/watch?v={slug}"), "title": sentence(r, g),
                "description": r.rng.pick(g.language.phrases), "color": 16_711_680, "content_scan_version": 2,
                "author": {"name": r.rng.pick(DISPLAY), "url": "https://video.example.com/channel"},
                "provider": {"name": "Example Video", "url": "https://video.example.com"},
                "thumbnail": {"url": "https://img.example.com/t.jpg", "width": 1_280, "height": 720, "flags": 0},
            }]);
        }
        36..=38 => {
            let sticker = r.id(START - 300 * DAY);
            m["content"] = json!("");
            m["sticker_items"] = json!([{"id": s(sticker), "name": r.rng.pick(EMOJI_NAMES), "format_type": 1}]);
        }
        39..=40 => {
            let role = r.rng.pick(&g.roles[1..]).id;
            m["content"] = json!(format!("<@&{role}> {}", m["content"].as_str().unwrap_or("")));
            m["mention_roles"] = strings(&[role]);
        }
        _ => {}
    }
    if r.rng.percent(8) {
        let began = (at - r.rng.range(800, 6_000)).max(START + SECOND);
        typing(r, g, author, channel, began);
    }
    post(r, g, author, at, m);
}

fn typing(r: &mut Recorder, g: &Guild, author: usize, channel: usize, at: u64) {
    let d = json!({
        "user_id": s(g.members[author].user.id), "timestamp": at / SECOND,
        "member": full_member_json(&g.members[author]), "guild_id": s(g.id), "channel_id": s(g.text[channel].id),
    });
    r.emit(at, "TYPING_START", d);
}

fn type_and_think(r: &mut Recorder, g: &mut Guild, at: u64) {
    let (author, channel) = (regular(r, g), r.rng.below(g.text.len()));
    typing(r, g, author, channel, at);
}

fn presence(r: &mut Recorder, g: &mut Guild, at: u64) {
    let status = ["online", "idle", "dnd", "offline"][r.rng.below(4)];
    let activities = match r.rng.below(4) {
        0 => json!([{
            "type": 0, "name": r.rng.pick(GAMES), "id": r.rng.hex(14), "created_at": at,
            "application_id": s(r.id(at - 700 * DAY)), "session_id": r.rng.hex(32),
            "timestamps": {"start": at - r.rng.range(0, 3 * 3_600 * SECOND)},
        }]),
        1 => json!([{
            "type": 4, "name": "Custom Status", "id": "custom", "created_at": at,
            "state": r.rng.pick(g.language.phrases), "emoji": {"name": r.rng.pick(EMOJI)},
        }]),
        _ => json!([]),
    };
    let client = match (status, r.rng.below(3)) {
        ("offline", _) => json!({}),
        (_, 0) => json!({"mobile": status}),
        (_, 1) => json!({"desktop": status}),
        _ => json!({"web": status, "desktop": status}),
    };
    // Presence users are partial: often only the id.
    let d = json!({
        "user": {"id": s(g.members[regular(r, g)].user.id)}, "status": status, "guild_id": s(g.id),
        "client_status": client, "activities": activities, "processed_at_timestamp": at - 40,
    });
    r.emit(at, "PRESENCE_UPDATE", d);
}

fn recent(r: &mut Recorder, g: &Guild, at: u64) -> Option<usize> {
    let known: Vec<usize> = (0..g.posted.len()).filter(|i| g.posted[*i].at < at).collect();
    known.len().checked_sub(1).map(|last| known[last - r.rng.below(known.len().min(6))])
}

fn emoji(r: &mut Recorder, g: &Guild) -> Value {
    if r.rng.percent(25) {
        json!({"id": s(g.emoji.0), "name": g.emoji.1, "animated": false})
    } else {
        json!({"id": null, "name": r.rng.pick(EMOJI)})
    }
}

fn reaction(r: &mut Recorder, g: &Guild, m: &Member, target: &Posted, emoji: &Value, at: u64) {
    let d = json!({
        "user_id": s(m.user.id), "type": 0, "message_id": target.raw["id"],
        "message_author_id": target.raw["author"]["id"], "member": full_member_json(m), "guild_id": s(g.id),
        "emoji": emoji, "channel_id": target.raw["channel_id"], "burst": false,
    });
    r.emit(at, "MESSAGE_REACTION_ADD", d);
}

fn react(r: &mut Recorder, g: &mut Guild, at: u64) {
    let Some(target) = recent(r, g, at) else { return chat(r, g, at) };
    let (who, emoji) = (regular(r, g), emoji(r, g));
    reaction(r, g, &g.members[who], &g.posted[target], &emoji, at);
    let (message, channel) = (g.posted[target].raw["id"].clone(), g.posted[target].raw["channel_id"].clone());
    let later = at + r.rng.range(SECOND, 8 * SECOND);
    match r.rng.below(24) {
        0..=3 => {
            let d = json!({
                "user_id": s(g.members[who].user.id), "type": 0, "message_id": message, "guild_id": s(g.id),
                "emoji": emoji, "channel_id": channel, "burst": false,
            });
            r.emit(later, "MESSAGE_REACTION_REMOVE", d);
        }
        4 => {
            let d = json!({"message_id": message, "guild_id": s(g.id), "channel_id": channel});
            r.emit(later, "MESSAGE_REACTION_REMOVE_ALL", d);
        }
        5 => {
            let d = json!({"message_id": message, "guild_id": s(g.id), "emoji": emoji, "channel_id": channel});
            r.emit(later, "MESSAGE_REACTION_REMOVE_EMOJI", d);
        }
        _ => {}
    }
}

fn edit(r: &mut Recorder, g: &mut Guild, at: u64) {
    let Some(target) = recent(r, g, at) else { return chat(r, g, at) };
    let mut raw = g.posted[target].raw.clone();
    // An update without `edited_timestamp` is Discord itself: it has looked at a link and adds the embed.
    if r.rng.percent(70) {
        raw["edited_timestamp"] = json!(stamp(at));
        raw["content"] =
            json!(format!("{} (edit: {})", raw["content"].as_str().unwrap_or(""), r.rng.pick(g.language.phrases)));
    } else {
        raw["embeds"] = json!([{
            "type": "link", "url": "https://example.com/news", "title": "Example News", "content_scan_version": 2,
            "description": r.rng.pick(g.language.phrases),
        }]);
    }
    if let Some(o) = raw.as_object_mut() {
        o.remove("nonce");
    }
    r.emit(at, "MESSAGE_UPDATE", raw);
}

fn delete(r: &mut Recorder, g: &mut Guild, at: u64) {
    let Some(target) = recent(r, g, at) else { return chat(r, g, at) };
    let gone = g.posted.remove(target);
    let d = json!({"id": gone.raw["id"], "channel_id": gone.raw["channel_id"], "guild_id": s(g.id)});
    r.emit(at, "MESSAGE_DELETE", d);
}

fn voice(r: &mut Recorder, g: &mut Guild, at: u64) {
    let who = regular(r, g);
    let channel = s(r.rng.pick(&g.voice).id);
    let session = r.rng.hex(32);
    let state = |r: &mut Recorder, at, channel: Option<&String>| {
        let d = json!({
            "member": full_member_json(&g.members[who]), "user_id": s(g.members[who].user.id), "guild_id": s(g.id),
            "channel_id": channel, "session_id": session, "deaf": false, "mute": false, "self_deaf": r.rng.percent(10),
            "self_mute": r.rng.percent(40), "self_video": false, "suppress": false, "request_to_speak_timestamp": null,
        });
        r.emit(at, "VOICE_STATE_UPDATE", d);
    };
    state(r, at, Some(&channel));
    if r.rng.percent(40) {
        let later = at + r.rng.range(4 * SECOND, 2 * MINUTE);
        state(r, later, None);
    }
}

fn member_add(r: &mut Recorder, g: &Guild, m: &Member, at: u64) {
    let mut d = full_member_json(m);
    d["guild_id"] = json!(s(g.id));
    d["unusual_dm_activity_until"] = Value::Null;
    r.emit(at, "GUILD_MEMBER_ADD", d);
}

fn join(r: &mut Recorder, g: &mut Guild, at: u64) {
    // Most newcomers are old hands of Discord; one in eight made the account this week.
    let age = if r.rng.percent(12) { r.rng.range(DAY / 4, 7 * DAY) } else { r.rng.range(40 * DAY, 2_000 * DAY) };
    let user = user(r, at - age);
    let m = Member {
        user,
        nick: None,
        avatar: None,
        roles: vec![],
        joined: at,
        premium_since: None,
        flags: 0,
        gone: false,
    };
    member_add(r, g, &m, at);
    g.members.push(m);
    if g.greets {
        let newcomer = g.members.len() - 1;
        let mut hello = message(r, g, newcomer, 0, at + 90, String::new());
        hello["type"] = json!(7);
        if let Some(o) = hello.as_object_mut() {
            o.remove("nonce");
        }
        post(r, g, newcomer, at + 90, hello);
    }
}

fn member_remove(r: &mut Recorder, g: &Guild, user: &User, at: u64) {
    let d = json!({"user": user_json(user), "guild_id": s(g.id)});
    r.emit(at, "GUILD_MEMBER_REMOVE", d);
}

fn leave(r: &mut Recorder, g: &mut Guild, at: u64) {
    match depart(r, g) {
        Some(m) => member_remove(r, g, &m.user, at),
        None => chat(r, g, at),
    }
}

fn audit(r: &mut Recorder, g: &Guild, at: u64, actor: &User, action: u64, target: Option<u64>, more: Value) {
    let mut d = json!({
        "id": s(r.id(at)), "guild_id": s(g.id), "user_id": s(actor.id), "action_type": action,
        "target_id": target.map(s),
    });
    if let (Some(d), Value::Object(more)) = (d.as_object_mut(), more) {
        d.extend(more);
    }
    r.emit(at, "GUILD_AUDIT_LOG_ENTRY_CREATE", d);
}

fn moderator(r: &mut Recorder, g: &Guild) -> User {
    g.members[r.rng.below(3)].user.clone()
}

fn member_update(r: &mut Recorder, g: &mut Guild, at: u64) {
    let who = regular(r, g);
    let role = r.rng.pick(&g.roles[1..]);
    let (role_id, role_name) = (role.id, role.name);
    let m = &mut g.members[who];
    let change = if m.roles.contains(&role_id) {
        m.roles.retain(|id| *id != role_id);
        "$remove"
    } else {
        m.roles.push(role_id);
        "$add"
    };
    let mut d = full_member_json(&g.members[who]);
    d["guild_id"] = json!(s(g.id));
    r.emit(at, "GUILD_MEMBER_UPDATE", d);
    let (actor, target) = (moderator(r, g), g.members[who].user.id);
    let changes = json!({"changes": [{"key": change, "new_value": [{"id": s(role_id), "name": role_name}]}]});
    audit(r, g, at + 15, &actor, 25, Some(target), changes);
}

fn interaction(r: &mut Recorder, g: &Guild, who: usize, channel: usize, at: u64, kind: u8, data: Value) -> u64 {
    let mut member = full_member_json(&g.members[who]);
    member["permissions"] = json!("2222085726191617");
    member["unusual_dm_activity_until"] = Value::Null;
    let id = r.id(at);
    let d = json!({
        "version": 1, "type": kind, "id": s(id), "token": r.rng.letters(96), "application_id": s(r.application),
        "member": member, "locale": g.language.locale, "guild_locale": g.language.locale, "guild_id": s(g.id),
        "guild": {"id": s(g.id), "locale": g.language.locale, "features": ["COMMUNITY", "NEWS"]}, "entitlements": [],
        "entitlement_sku_ids": [], "data": data, "context": 0, "channel_id": s(g.text[channel].id),
        "channel": channel_json(g, &g.text[channel], channel), "attachment_size_limit": 10_485_760,
        "authorizing_integration_owners": {"0": s(g.id)}, "app_permissions": "2251799813685247",
    });
    r.emit(at, "INTERACTION_CREATE", d);
    id
}

/// The bot's own words: templates never see these, the engine has to pass them by.
fn bot_message(r: &mut Recorder, g: &Guild, channel: usize, at: u64, content: &str, more: Value) {
    let mut m = message(r, g, 0, channel, at, content.into());
    m["author"] = user_json(&r.bot);
    m["application_id"] = json!(s(r.application));
    m["member"]["roles"] = json!([]);
    if let (Some(m), Value::Object(more)) = (m.as_object_mut(), more) {
        m.remove("nonce");
        m.extend(more);
    }
    r.emit(at, "MESSAGE_CREATE", m);
}

fn command(r: &mut Recorder, g: &mut Guild, at: u64) {
    let (who, channel) = (regular(r, g), r.rng.below(g.text.len()));
    let (name, command_id) = if r.rng.percent(50) { ("help", 11) } else { ("ping", 12) };
    let command = (1_640_000_000_000 - DISCORD_EPOCH) << 22 | command_id;
    let mut data = json!({"type": 1, "name": name, "id": s(command)});
    if name == "help" && r.rng.percent(30) {
        data["options"] =
            json!([{"type": 3, "name": "command", "value": r.rng.pick(&["ping", "ban", "lockdown", "ö\"x"])}]);
    }
    let id = interaction(r, g, who, channel, at, 2, data);
    if r.rng.percent(40) {
        let user = user_json(&g.members[who].user);
        let asked = json!({
            "id": s(id), "type": 2, "name": name, "user": user,
            "authorizing_integration_owners": {"0": s(g.id)},
        });
        bot_message(r, g, channel, at + 210, "Pong!", json!({"type": 20, "interaction_metadata": asked}));
    }
}

fn button(r: &mut Recorder, g: &mut Guild, at: u64) {
    let (who, channel) = (regular(r, g), r.rng.below(g.text.len()));
    interaction(r, g, who, channel, at, 3, json!({"component_type": 2, "custom_id": "verify:start", "id": 1}));
}

fn thread(r: &mut Recorder, g: &mut Guild, at: u64) {
    let (who, channel) = (regular(r, g), r.rng.below(g.text.len()));
    let (id, owner) = (r.id(at), s(g.members[who].user.id));
    let mut d = json!({
        "id": s(id), "type": 11, "guild_id": s(g.id), "parent_id": s(g.text[channel].id), "owner_id": owner,
        "name": r.rng.pick(g.language.phrases), "last_message_id": null, "rate_limit_per_user": 0, "message_count": 0,
        "member_count": 1, "total_message_sent": 0, "flags": 0, "member_ids_preview": [owner],
        "thread_metadata": {
            "archived": false, "auto_archive_duration": 4_320, "archive_timestamp": stamp(at), "locked": false,
            "create_timestamp": stamp(at),
        },
    });
    d["newly_created"] = json!(true);
    r.emit(at, "THREAD_CREATE", d.clone());
    let other = regular(r, g);
    let added = json!([{
        "user_id": s(g.members[other].user.id), "id": s(id), "join_timestamp": stamp(at + SECOND), "flags": 0,
        "member": full_member_json(&g.members[other]), "presence": null,
    }]);
    r.emit(
        at + SECOND,
        "THREAD_MEMBERS_UPDATE",
        json!({"id": s(id), "guild_id": s(g.id), "member_count": 2, "added_members": added}),
    );
    if let Some(o) = d.as_object_mut() {
        o.remove("newly_created");
    }
    d["thread_metadata"]["archived"] = json!(true);
    r.emit(at + 9 * SECOND, "THREAD_UPDATE", d);
    if r.rng.percent(50) {
        let d = json!({"id": s(id), "type": 11, "parent_id": s(g.text[channel].id), "guild_id": s(g.id)});
        r.emit(at + 20 * SECOND, "THREAD_DELETE", d);
    }
}

fn channel_change(r: &mut Recorder, g: &mut Guild, at: u64) {
    let actor = moderator(r, g);
    match r.rng.below(4) {
        0 => {
            let c = Channel { id: r.id(at), name: r.rng.pick::<&str>(CHANNELS), kind: 0 };
            let d = channel_json(g, &c, g.text.len());
            r.emit(at, "CHANNEL_CREATE", d.clone());
            audit(r, g, at + 12, &actor, 10, Some(c.id), json!({"changes": [{"key": "name", "new_value": c.name}]}));
            if r.rng.percent(60) {
                r.emit(at + 30 * SECOND, "CHANNEL_DELETE", d);
                let was = json!({"changes": [{"key": "name", "old_value": c.name}], "reason": "Aufgeräumt 🧹"});
                audit(r, g, at + 30 * SECOND + 12, &actor, 12, Some(c.id), was);
            }
        }
        1 => {
            let d = json!({"guild_id": s(g.id), "channel_id": s(g.text[0].id), "last_pin_timestamp": stamp(at)});
            r.emit(at, "CHANNEL_PINS_UPDATE", d);
        }
        _ => {
            let position = r.rng.below(g.text.len());
            let (id, mut d) = (g.text[position].id, channel_json(g, &g.text[position], position));
            let topic = sentence(r, g);
            d["topic"] = json!(topic);
            r.emit(at, "CHANNEL_UPDATE", d);
            let changes = json!({"changes": [{"key": "topic", "old_value": null, "new_value": topic}]});
            audit(r, g, at + 12, &actor, 11, Some(id), changes);
        }
    }
}

fn role_change(r: &mut Recorder, g: &mut Guild, at: u64) {
    let actor = moderator(r, g);
    if r.rng.percent(45) {
        let at_index = 1 + r.rng.below(g.roles.len() - 1);
        let d = json!({"guild_id": s(g.id), "role": role_json(&g.roles[at_index], at_index)});
        r.emit(at, "GUILD_ROLE_UPDATE", d);
        let changes = json!({"changes": [{"key": "permissions", "old_value": "0", "new_value": "1024"}]});
        audit(r, g, at + 10, &actor, 31, Some(g.roles[at_index].id), changes);
        return;
    }
    let role = Role { id: r.id(at), name: "new role", color: 0, permissions: 0 };
    r.emit(at, "GUILD_ROLE_CREATE", json!({"guild_id": s(g.id), "role": role_json(&role, 1)}));
    audit(r, g, at + 10, &actor, 30, Some(role.id), json!({"changes": [{"key": "name", "new_value": role.name}]}));
    if r.rng.percent(60) {
        r.emit(at + 15 * SECOND, "GUILD_ROLE_DELETE", json!({"guild_id": s(g.id), "role_id": s(role.id)}));
        audit(r, g, at + 15 * SECOND + 9, &actor, 32, Some(role.id), json!({}));
    }
}

fn invite(r: &mut Recorder, g: &mut Guild, at: u64) {
    let (who, channel) = (regular(r, g), r.rng.below(g.text.len()));
    let code = r.rng.letters(10);
    let d = json!({
        "type": 0, "code": code, "guild_id": s(g.id), "channel_id": s(g.text[channel].id), "created_at": stamp(at),
        "expires_at": stamp(at + 7 * DAY), "max_age": 604_800, "max_uses": 0, "uses": 0, "temporary": false, "flags": 0,
        "inviter": user_json(&g.members[who].user),
    });
    r.emit(at, "INVITE_CREATE", d);
    if r.rng.percent(35) {
        let d = json!({"guild_id": s(g.id), "code": code, "channel_id": s(g.text[channel].id)});
        r.emit(at + 25 * SECOND, "INVITE_DELETE", d);
    }
}

fn webhooks(r: &mut Recorder, g: &mut Guild, at: u64) {
    let (channel, id, actor) = (g.text[r.rng.below(g.text.len())].id, r.id(at), moderator(r, g));
    r.emit(at, "WEBHOOKS_UPDATE", json!({"guild_id": s(g.id), "channel_id": s(channel)}));
    let changes = json!({"changes": [{"key": "type", "new_value": 1}, {"key": "name", "new_value": "Captain Hook"}]});
    audit(r, g, at + 14, &actor, 50, Some(id), changes);
}

fn expressions(r: &mut Recorder, g: &mut Guild, at: u64) {
    if r.rng.percent(70) {
        let emojis = guild_json(g)["emojis"].clone();
        r.emit(at, "GUILD_EMOJIS_UPDATE", json!({"guild_id": s(g.id), "emojis": emojis}));
    } else {
        r.emit(at, "GUILD_STICKERS_UPDATE", json!({"guild_id": s(g.id), "stickers": []}));
    }
}

fn guild_update(r: &mut Recorder, g: &mut Guild, at: u64) {
    let (actor, old) = (moderator(r, g), g.name.clone());
    g.name.push_str(r.rng.pick::<&str>(&[" ✨", " 🎄", " (official)"]));
    r.emit(at, "GUILD_UPDATE", guild_json(g));
    let changes = json!({"changes": [{"key": "name", "old_value": old, "new_value": g.name}]});
    audit(r, g, at + 11, &actor, 1, Some(g.id), changes);
}

fn timeout(r: &mut Recorder, g: &Guild, target: &Member, actor: &User, at: u64, minutes: u64, reason: &str) {
    let until = stamp(at + minutes * MINUTE);
    let mut d = full_member_json(target);
    d["guild_id"] = json!(s(g.id));
    d["communication_disabled_until"] = json!(until);
    r.emit(at, "GUILD_MEMBER_UPDATE", d);
    let changes = json!({"reason": reason, "changes": [{"key": "communication_disabled_until", "new_value": until}]});
    audit(r, g, at + 10, actor, 24, Some(target.user.id), changes);
}

fn kick_or_timeout(r: &mut Recorder, g: &mut Guild, at: u64) {
    let (actor, reason) = (moderator(r, g), *r.rng.pick(REASONS));
    if r.rng.percent(50) {
        let target = g.members[regular(r, g)].clone();
        timeout(r, g, &target, &actor, at, 10, reason);
    } else if let Some(target) = depart(r, g) {
        member_remove(r, g, &target.user, at);
        audit(r, g, at + 10, &actor, 20, Some(target.user.id), json!({"reason": reason}));
    }
}

fn ban_user(r: &mut Recorder, g: &Guild, target: &User, actor: &User, at: u64, reason: Option<&str>) {
    member_remove(r, g, target, at);
    r.emit(at + 4, "GUILD_BAN_ADD", json!({"user": user_json(target), "guild_id": s(g.id)}));
    audit(r, g, at + 9, actor, 22, Some(target.id), reason.map_or(json!({}), |reason| json!({"reason": reason})));
}

fn unban_user(r: &mut Recorder, g: &Guild, target: &User, actor: &User, at: u64) {
    r.emit(at, "GUILD_BAN_REMOVE", json!({"user": user_json(target), "guild_id": s(g.id)}));
    audit(r, g, at + 9, actor, 23, Some(target.id), json!({}));
}

fn ban(r: &mut Recorder, g: &mut Guild, at: u64) {
    let actor = moderator(r, g);
    if r.rng.percent(25) {
        let target = user(r, START - 300 * DAY);
        return unban_user(r, g, &target, &actor, at);
    }
    let reason = r.rng.percent(70).then(|| *r.rng.pick(REASONS));
    if let Some(target) = depart(r, g) {
        ban_user(r, g, &target.user, &actor, at, reason);
    }
}

/// `kind` is the action: 1 block, 2 alert, 3 time-out; `said` the text and the rule's keyword. A blocked message was
/// never created, so it has no id.
fn automod(r: &mut Recorder, g: &Guild, target: &User, channel: usize, at: u64, kind: u64, said: (&str, &str)) {
    let (content, keyword) = said;
    let rule = g.id + 5_000;
    let mut d = json!({
        "guild_id": s(g.id), "user_id": s(target.id), "rule_id": s(rule), "rule_trigger_type": 1, "content": content,
        "matched_keyword": keyword, "matched_content": keyword.trim_matches('*'), "channel_id": s(g.text[channel].id),
        "action": {"type": kind, "metadata": {}},
    });
    match kind {
        2 => {
            d["action"]["metadata"]["channel_id"] = json!(s(g.text[1].id));
            d["alert_system_message_id"] = json!(s(r.id(at)));
        }
        3 => d["action"]["metadata"]["duration_seconds"] = json!(600),
        _ => {}
    }
    r.emit(at, "AUTO_MODERATION_ACTION_EXECUTION", d);
}

fn automod_calm(r: &mut Recorder, g: &mut Guild, at: u64) {
    let (who, said) = (regular(r, g), format!("{} darn", sentence(r, g)));
    let target = g.members[who].user.clone();
    automod(r, g, &target, 0, at, 1, (&said, "*darn*"));
    automod(r, g, &target, 0, at + 2, 2, (&said, "*darn*"));
}

fn scheduled_event(r: &mut Recorder, g: &mut Guild, at: u64) {
    let (who, id) = (regular(r, g), r.id(at));
    let user = &g.members[who].user;
    let starts = START + 3 * DAY;
    let d = json!({
        "id": s(id), "guild_id": s(g.id), "channel_id": s(g.voice[0].id), "creator_id": s(user.id),
        "name": r.rng.pick(GAMES), "creator": user_json(user), "description": r.rng.pick(g.language.phrases),
        "image": null, "entity_type": 2, "entity_id": null, "entity_metadata": null,
        "scheduled_start_time": stamp(starts), "scheduled_end_time": null,
        "privacy_level": 2, "status": 1, "recurrence_rule": null, "sku_ids": [], "guild_scheduled_event_exceptions": [],
    });
    r.emit(at, "GUILD_SCHEDULED_EVENT_CREATE", d);
    for i in 0..r.rng.below(3) {
        let user = s(g.members[regular(r, g)].user.id);
        let d = json!({"guild_scheduled_event_id": s(id), "guild_id": s(g.id), "user_id": user});
        r.emit(at + (i as u64 + 2) * SECOND, "GUILD_SCHEDULED_EVENT_USER_ADD", d);
    }
}

fn poll(r: &mut Recorder, g: &mut Guild, at: u64) {
    let (who, channel) = (regular(r, g), r.rng.below(g.text.len()));
    let mut m = message(r, g, who, channel, at, String::new());
    let answers: Vec<Value> =
        (1..4).map(|i| json!({"answer_id": i, "poll_media": {"text": r.rng.pick(g.language.phrases)}})).collect();
    m["poll"] = json!({
        "question": {"text": r.rng.pick(g.language.phrases)}, "answers": answers, "expiry": stamp(at + DAY),
        "allow_multiselect": false, "layout_type": 1, "results": {"is_finalized": false, "answer_counts": []},
    });
    let (message, channel_id) = (m["id"].clone(), m["channel_id"].clone());
    post(r, g, who, at, m);
    for i in 0..2 + r.rng.below(2) {
        let user = s(g.members[regular(r, g)].user.id);
        let d = json!({
            "user_id": user, "channel_id": channel_id, "message_id": message, "guild_id": s(g.id),
            "answer_id": 1 + r.rng.below(3),
        });
        let name = if i == 2 { "MESSAGE_POLL_VOTE_REMOVE" } else { "MESSAGE_POLL_VOTE_ADD" };
        r.emit(at + (i as u64 + 1) * 3 * SECOND, name, d);
    }
}

/// A webhook's message: an author without a member.
fn feed(r: &mut Recorder, g: &mut Guild, at: u64) {
    let (channel, hook) = (r.rng.below(g.text.len()), s(r.id(START - 500 * DAY)));
    let mut m = message(r, g, 0, channel, at, String::new());
    if let Some(o) = m.as_object_mut() {
        o.remove("member");
        o.remove("nonce");
    }
    m["webhook_id"] = json!(hook);
    m["author"] = json!({
        "id": hook, "username": "Release Feed", "global_name": null, "discriminator": "0000", "avatar": null,
        "bot": true, "public_flags": 0, "flags": 0, "clan": null, "primary_guild": null,
    });
    let fields: Vec<Value> =
        (0..3).map(|_| json!({"name": r.rng.pick(GAMES), "value": sentence(r, g), "inline": true})).collect();
    m["embeds"] = json!([{
        "type": "rich", "title": r.rng.pick(g.language.phrases), "description": sentence(r, g), "color": 5_814_783,
        "timestamp": stamp(at - 30 * SECOND), "footer": {"text": "example.com · feed"}, "fields": fields,
        "content_scan_version": 2,
    }]);
    post(r, g, 0, at, m);
}

fn stage(r: &mut Recorder, g: &mut Guild, at: u64) {
    let d = json!({
        "id": s(r.id(at)), "guild_id": s(g.id), "channel_id": s(g.voice[0].id), "topic": r.rng.pick(g.language.phrases),
        "privacy_level": 2, "discoverable_disabled": true, "guild_scheduled_event_id": null,
    });
    r.emit(at, "STAGE_INSTANCE_CREATE", d.clone());
    if r.rng.percent(60) {
        r.emit(at + 40 * SECOND, "STAGE_INSTANCE_DELETE", d);
    }
}

/// What a spam filter has to tell apart from a raid: one loud member of a quiet guild.
fn shout(r: &mut Recorder, g: &mut Guild, at: u64) {
    let (author, channel) = (regular(r, g), r.rng.below(g.text.len()));
    let text = *r.rng.pick(SHOUTS);
    for i in 0..1 + r.rng.range(0, 6) {
        let at = at + i * 1_700;
        let m = message(r, g, author, channel, at, text.into());
        post(r, g, author, at, m);
    }
}

fn integration(r: &mut Recorder, g: &mut Guild, at: u64) {
    if r.rng.percent(50) {
        r.emit(at, "GUILD_INTEGRATIONS_UPDATE", json!({"guild_id": s(g.id)}));
        return;
    }
    let d = json!({
        "id": s(g.id + 9_000), "guild_id": s(g.id), "name": "music box", "type": "discord", "enabled": true,
        "account": {"id": s(g.id + 9_001), "name": "music box"}, "scopes": ["bot", "applications.commands"],
        "application": {"id": s(g.id + 9_001), "name": "music box", "icon": null, "description": "", "summary": ""},
    });
    r.emit(at, "INTEGRATION_UPDATE", d);
}

/// No `guild_id`, no member: belongs to no tenant.
fn direct_message(r: &mut Recorder, g: &Guild, at: u64) {
    let (author, content) = (regular(r, g), sentence(r, g));
    let mut m = message(r, g, author, 0, at, content);
    if let Some(o) = m.as_object_mut() {
        o.remove("guild_id");
        o.remove("member");
    }
    m["channel_type"] = json!(1);
    m["channel_id"] = json!(s(r.id(START - 100 * DAY)));
    r.emit(at, "MESSAGE_CREATE", m);
}

// ---------------------------------------------------------------------------------------------------------------------
// The raid

struct Raid {
    raiders: usize,
    /// Within which all of them join.
    wave: u64,
    /// Percent of the raiders that post a second time.
    persistence: usize,
    reactions: usize,
    banned: usize,
    kicked: usize,
}

const RAID_LARGE: Raid =
    Raid { raiders: 430, wave: 26 * SECOND, persistence: 55, reactions: 150, banned: 165, kicked: 25 };
const RAID_SMALL: Raid = Raid { raiders: 58, wave: 11 * SECOND, persistence: 40, reactions: 18, banned: 22, kicked: 4 };

fn raid(r: &mut Recorder, g: &mut Guild, start: u64, plan: &Raid) {
    let regulars = g.members.len();
    // The calm has already filled the time after the raid; the raiders meet only what was there before.
    let here: Vec<usize> = (0..regulars).filter(|i| !g.members[*i].gone && g.members[*i].joined < start).collect();
    let known = g.posted.iter().filter(|p| p.at < start).count();
    let mut spam: Vec<Posted> = Vec::new();
    let channels = g.text.len().min(3);

    for n in 0..plan.raiders {
        // Two coins: few at first, then dozens a second, then stragglers.
        let at = start + (r.rng.range(0, plan.wave) + r.rng.range(0, plan.wave)) / 2;
        let created = at - r.rng.range(3 * MINUTE, 45 * MINUTE);
        let mut user = user(r, created);
        user.username = format!("{}{:04}", r.rng.pick(NAMES_B), r.rng.below(10_000));
        user.global_name = r.rng.percent(30).then(|| "free nitro".into());
        user.avatar = None;
        user.decoration = None;
        user.nameplate = None;
        // They come from one place, and show it.
        user.tag = Some((g.id ^ 0x3f_ffff_0000, "RAID", "3d5a8c0f6b1e47929f0a7c6d5e4b3a21".into()));
        user.public_flags = 0;
        let m = Member {
            user,
            nick: None,
            avatar: None,
            roles: vec![],
            joined: at,
            premium_since: None,
            flags: 0,
            gone: false,
        };
        member_add(r, g, &m, at);
        g.members.push(m);

        let author = regulars + n;
        let mut at = at + r.rng.range(2 * SECOND, 8 * SECOND);
        for turn in 0..1 + usize::from(r.rng.percent(plan.persistence)) {
            let (channel, text) = (r.rng.below(channels), SPAM[(turn + n / 40) % SPAM.len()]);
            if r.rng.percent(7) {
                let user = g.members[author].user.clone();
                automod(r, g, &user, channel, at, 1, (text, "*discord.gg/*"));
                continue;
            }
            let mut m = message(r, g, author, channel, at, text.into());
            if r.rng.percent(6) {
                let victims: Vec<usize> = (0..4 + r.rng.below(4)).map(|_| *r.rng.pick(&here)).collect();
                let names: Vec<String> = victims.iter().map(|v| format!("<@{}>", g.members[*v].user.id)).collect();
                m["content"] = json!(format!("{} {text}", names.join(" ")));
                m["mentions"] = victims.iter().map(|v| mention(&g.members[*v])).collect();
            }
            spam.push(Posted { at, author, raw: m.clone() });
            r.emit(at, "MESSAGE_CREATE", m);
            at += r.rng.range(2 * SECOND, 7 * SECOND);
        }
    }

    for _ in 0..plan.reactions {
        let target = if r.rng.percent(30) && known > 0 { &g.posted[r.rng.below(known)] } else { r.rng.pick(&spam) };
        let at = target.at.max(start) + r.rng.range(SECOND, 20 * SECOND);
        let who = &g.members[regulars + r.rng.below(plan.raiders)];
        if who.joined < at {
            let emoji = json!({"id": null, "name": r.rng.pick(&["💀", "🖕", "🤡", "😂"])});
            reaction(r, g, who, target, &emoji, at);
        }
    }

    // The regulars notice.
    for _ in 0..plan.raiders / 16 {
        let at = start + r.rng.range(4 * SECOND, 60 * SECOND);
        let author = *r.rng.pick(&here);
        let text = format!("{} {} {}", r.rng.pick(ALARM), r.rng.pick(EMOJI), r.rng.pick(ALARM));
        let m = message(r, g, author, 0, at, text);
        r.emit(at, "MESSAGE_CREATE", m);
    }

    defend(r, g, start, plan, regulars, spam);
}

/// Slow mode, a higher verification level, then bans, one moderator after the other, and what the bans delete.
fn defend(r: &mut Recorder, g: &Guild, start: u64, plan: &Raid, regulars: usize, mut spam: Vec<Posted>) {
    let mut at = start + 16 * SECOND;
    let actor = moderator(r, g);
    for (position, c) in g.text.iter().enumerate().take(3) {
        let mut d = channel_json(g, c, position);
        d["rate_limit_per_user"] = json!(30);
        r.emit(at, "CHANNEL_UPDATE", d);
        let changes = json!({"changes": [{"key": "rate_limit_per_user", "old_value": 0, "new_value": 30}]});
        audit(r, g, at + 10, &actor, 11, Some(c.id), changes);
        at += 900;
    }
    let mut d = guild_json(g);
    d["verification_level"] = json!(3);
    d["incidents_data"] = json!({
        "invites_disabled_until": stamp(at + DAY), "dms_disabled_until": null, "dm_spam_detected_at": null,
        "raid_detected_at": stamp(at),
    });
    r.emit(at, "GUILD_UPDATE", d);
    let changes =
        json!({"changes": [{"key": "verification_level", "old_value": 1, "new_value": 3}], "reason": "RAID!!"});
    audit(r, g, at + 10, &actor, 1, Some(g.id), changes);
    let d = json!({"guild_id": s(g.id), "code": "winter-meetup", "channel_id": s(g.text[0].id)});
    r.emit(at + 700, "INVITE_DELETE", d);
    let mut deleted = json!({"changes": [{"key": "code", "old_value": "winter-meetup"}]});
    deleted["reason"] = Value::Null;
    audit(r, g, at + 710, &actor, 42, None, deleted);

    let mut banned: Vec<User> = Vec::new();
    for n in 0..plan.banned + plan.kicked {
        at += r.rng.range(120, 800);
        let target = g.members[regulars + n].clone();
        let actor = moderator(r, g);
        if n >= plan.banned {
            if n % 3 == 0 {
                timeout(r, g, &target, &actor, at, 60 * 24, "raid");
            } else {
                member_remove(r, g, &target.user, at);
                audit(r, g, at + 10, &actor, 20, Some(target.user.id), json!({"reason": "raid"}));
            }
            continue;
        }
        ban_user(r, g, &target.user, &actor, at, Some("raid: join flood + \"free nitro\" links"));
        banned.push(target.user);
        if n % 8 == 7 {
            // A ban takes the messages with it; the gateway tells so by channel.
            for c in &g.text {
                let channel = json!(s(c.id));
                let gone = |p: &Posted| {
                    p.at < at
                        && p.raw["channel_id"] == channel
                        && banned.iter().any(|u| u.id == g.members[p.author].user.id)
                };
                let ids: Vec<Value> = spam.iter().filter(|p| gone(p)).map(|p| p.raw["id"].clone()).collect();
                spam.retain(|p| !gone(p));
                if ids.len() > 1 {
                    let d = json!({"ids": ids, "guild_id": s(g.id), "channel_id": channel});
                    r.emit(at + 60, "MESSAGE_DELETE_BULK", d);
                    let options = json!({"options": {"count": s(ids.len() as u64)}});
                    audit(r, g, at + 70, &actor, 73, Some(c.id), options);
                }
            }
        }
    }
    // Two were not raiders at all, only new.
    for user in banned.iter().take(2) {
        at += 9 * SECOND;
        unban_user(r, g, user, &actor, at);
    }
    bot_message(r, g, 0, start + 12 * SECOND, "⚠️ Raid: joins are far above normal.", json!({"type": 0}));
}

// ---------------------------------------------------------------------------------------------------------------------
// Words

struct Language {
    locale: &'static str,
    phrases: &'static [&'static str],
}

const LANGUAGES: &[Language] = &[
    Language {
        locale: "en-US",
        phrases: &[
            "does anybody know when the server restarts tonight?",
            "I finally finished the second dungeon and it only took me three weeks",
            "lol same",
            "ok so hear me out: what if we move the meetup to Saturday instead",
            "that build is way too slow, have you tried turning the shadows off",
            "brb, dinner",
            "my cat just walked over the keyboard again, sorry for the fgggggg",
            "can a mod pin this please? people ask the same thing every day",
            "I'll bring the speakers if someone else brings the cables",
            "the patch notes say \"minor fixes\" and then list ninety things",
            "thanks, that worked on the first try",
            "anyone up for a quick round before the tournament starts?",
        ],
    },
    Language {
        locale: "de",
        phrases: &[
            "weiß jemand, ob der Server heute Abend neu startet?",
            "ich hätte noch zwei Plätze für das Turnier übrig, meldet euch einfach",
            "größer geht's nicht, oder?",
            "ist bei euch auch alles so langsam, oder liegt das an meinem Anschluss?",
            "moin zusammen",
            "das steht schon in den Regeln, aber da schaut ja keiner rein",
            "ich bin kurz weg, Essen machen — bis gleich",
            "danke dir, hat auf Anhieb geklappt",
            "wer übernimmt am Samstag die Aufsicht im Sprachkanal?",
        ],
    },
    Language {
        locale: "es-ES",
        phrases: &[
            "¿alguien sabe a qué hora empieza la partida de esta noche?",
            "jajaja qué bueno, no me lo esperaba para nada",
            "mañana os cuento, que ahora mismo estoy en el trabajo",
            "he subido las fotos del fin de semana al otro canal",
            "buenas noches a todos",
            "no me carga el mapa desde la última actualización",
            "¿quién se encarga de los premios este año?",
        ],
    },
    Language {
        locale: "fr",
        phrases: &[
            "quelqu'un a réussi le dernier niveau sans mourir ?",
            "désolé pour le retard, le métro était encore arrêté",
            "c'est exactement ce que je disais hier soir",
            "on se retrouve à 21 h dans le salon vocal, n'oubliez pas vos micros",
            "mdr",
            "je n'arrive plus à me connecter depuis la mise à jour, ça vous le fait aussi ?",
            "bien joué à toute l'équipe, belle soirée",
        ],
    },
    Language {
        locale: "pt-BR",
        phrases: &[
            "alguém aí pra jogar uma rapidinha antes do jantar?",
            "não acredito que eles mudaram isso de novo",
            "boa noite, pessoal, cheguei agora do trabalho",
            "kkkkkkk muito bom",
            "a atualização deixou tudo mais lento no meu computador",
            "amanhã eu mando o convite para todo mundo que confirmou presença",
        ],
    },
    Language {
        locale: "ja",
        phrases: &[
            "今夜のイベントは何時からですか？教えていただけると助かります",
            "おつかれさまです！やっとクリアできました",
            "それは昨日の更新で直ったはずですよ",
            "ちょっと離席します、すぐ戻ります",
            "草",
            "写真を別のチャンネルに上げておきました。見てください",
        ],
    },
    Language {
        locale: "ru",
        phrases: &[
            "кто-нибудь знает, во сколько сегодня начинается турнир?",
            "у меня после обновления всё тормозит, что делать",
            "спасибо, помогло с первого раза",
            "ахах ну ты даёшь",
            "завтра выложу фотографии в соседний канал",
        ],
    },
    Language {
        locale: "ko",
        phrases: &[
            "오늘 저녁에 같이 하실 분 계신가요?",
            "업데이트 이후로 접속이 안 되는데 저만 그런가요",
            "ㅋㅋㅋㅋ 진짜 웃기네요",
            "사진은 다른 채널에 올려 두었습니다",
        ],
    },
    Language {
        locale: "tr",
        phrases: &[
            "bu akşam turnuva saat kaçta başlıyor, bilen var mı?",
            "güncellemeden sonra oyun çok yavaşladı",
            "teşekkürler, ilk denemede çalıştı",
            "ben yarın fotoğrafları diğer kanala yüklerim",
        ],
    },
    Language {
        locale: "pl",
        phrases: &[
            "czy ktoś wie, o której dzisiaj zaczynamy?",
            "po aktualizacji wszystko strasznie zwolniło, też tak macie?",
            "dzięki, zadziałało za pierwszym razem",
            "zaraz wracam, muszę wyjść z psem",
        ],
    },
    Language {
        locale: "ar",
        phrases: &[
            "هل يعرف أحد متى تبدأ البطولة الليلة؟",
            "شكرًا جزيلًا، نجح الأمر من أول مرة",
            "سأعود بعد قليل إن شاء الله",
        ],
    },
];

const SPAM: &[&str] = &[
    "🎁 FREE NITRO for the first 500!! claim now 👉 https://discord.gg/example-free-nitro",
    "@everyone join https://discord.gg/example-free-nitro we are giving away 3 months of nitro and a steam deck, \
     last chance today",
    "this server is dead lol come over to discord.gg/example-raid-hq
this server is dead lol come over to discord.gg/example-raid-hq
this server is dead lol come over to discord.gg/example-raid-hq",
    "RAIDED BY EXAMPLE CREW 💀💀💀 YOUR MODS ARE ASLEEP 💀💀💀 discord.gg/example-raid-hq",
    "h̷̢̛e̶̡͝ ̸̨̛c̵̢̕o̸̧͠m̵̡͝e̷̢͠s̴̡̕ discord.gg/example-raid-hq",
];

const SHOUTS: &[&str] = &[
    "WHY IS NOBODY ANSWERING ME IN THIS CHANNEL",
    "selling my old account, cheap, message me",
    "z̴̡̛a̷̢͝l̵̨̕g̶̡͠o̷̧̕ ̴̢͝i̵̡̛s̷̨͠ ̶̧̕h̵̢̛e̴̡͝r̷̨̕e̶̢͠",
    "hi hi hi hi hi hi hi hi",
];

const ALARM: &[&str] = &[
    "what is happening???",
    "mods!!! we are being raided",
    "ban them all please, my phone doesn't stop",
    "don't click the links, it's a scam",
    "slow mode is on, hang in there everyone",
    "was ist denn hier los",
];

const REASONS: &[&str] = &[
    "spam",
    "Rule 3: advertising after two warnings",
    "insulting others in #general, see the ticket",
    "Konto offenbar übernommen, kann sich per Mail melden",
    "скам-ссылки",
    "alt account of a banned user\nappeal: not before March",
];

const NAMES_A: &[&str] = &[
    "mira", "jonas", "pixel", "luna", "otto", "kestrel", "noor", "felix", "saga", "tobi", "yuki", "amelie", "rook",
    "bramble", "ivo", "zora", "quill", "nico", "hazel", "marek",
];
const NAMES_B: &[&str] = &[
    "fox", "meadow", "storm", "wolke", "byte", "harbor", "nebula", "moth", "cedar", "signal", "ember", "tango",
    "river", "kite", "onyx", "badger", "lantern", "comet", "pine", "sparrow",
];
const DISPLAY: &[&str] = &[
    "Käptn Blaubär",
    "the \"real\" one",
    "夜桜",
    "Ольга",
    "👩‍🚀 Ada",
    "𝓛𝓾𝓷𝓪",
    "no. 7",
    "ᴛɪɴʏ",
    "Señor Frog",
    "back\\slash",
    "민지",
    "Jean-Luc · he/him",
];
const NAMEPLATES: &[&str] = &["paper_lanterns", "deep_sea", "night_market", "cat_beans"];
const TAGS: &[&str] = &["FOX", "NOVA", "ZZZ", "猫", "LOFI", "1337"];
const GUILD_A: &[&str] = &[
    "Harbour",
    "Nebelwald",
    "Pixel",
    "Midnight",
    "北風",
    "Retro",
    "Café",
    "Quantum",
    "Taverna",
    "Polar",
    "Open",
    "Tiny",
];
const GUILD_B: &[&str] = &[
    "Observatory",
    "Gaming",
    "Study Hall",
    "Kunstverein",
    "Speedrunners",
    "& Friends",
    "Modding",
    "Radio",
    "コミュニティ",
];
const CHANNELS: &[&str] = &[
    "general",
    "rules-and-info",
    "off-topic",
    "screenshots",
    "help",
    "announcements",
    "bots",
    "musik",
    "memes",
    "looking-for-group",
    "café",
    "雑談",
];
const VOICE: &[&str] = &["Lounge", "Team 1"];
const EMOJI_NAMES: &[&str] = &["pog", "catjam", "thonk", "blobwave", "nice", "sadge"];
const EMOJI: &[&str] = &["👍", "❤️", "😂", "🔥", "👀", "🎉", "🏳️‍🌈", "👩‍💻", "🇳🇱", "🫡", "✅"];
const GAMES: &[&str] = &[
    "Factory Planner",
    "Deep Rockets",
    "Chess Night",
    "Stardust Valley",
    "Visual Studio Code",
    "Listening Party",
    "Minigolf 3",
];
const ROLES: &[(&str, u32, u64)] = &[
    ("Moderator", 3_447_003, 1_101_927_612_486),
    ("Booster", 16_023_551, 0),
    ("Member", 0, 104_324_673),
    ("Events", 10_181_046, 0),
    ("he/him", 0, 0),
    ("she/her", 0, 0),
    ("Veteran", 15_844_367, 1_024),
    ("Muted", 8_421_504, 0),
];
