//! What does it cost to ask whether the bot may do something to a member, of a guild that is known?
#![allow(missing_docs, reason = "criterion's macros")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use worker_core::Snowflake;
use worker_vm::{GuildStates, GuildStatesConfig};

/// A large guild: its roles, its channels, and the overwrites of each.
const ROLES: u64 = 100;
const CHANNELS: u64 = 300;
const OVERWRITES: u64 = 20;

const GUILD: u64 = 1 << 22;
const BOT: u64 = 5;
const TARGET: u64 = 6;

fn guild() -> String {
    let role = |n: u64| {
        let id = if n == 0 { GUILD } else { 1_000 + n };
        format!(r#"{{"id":"{id}","position":{n},"permissions":"17592186044407","name":"role"}}"#)
    };
    let overwrite = |n: u64| format!(r#"{{"id":"{}","type":0,"allow":"1024","deny":"8192"}}"#, 1_001 + n);
    let overwrites = (0..OVERWRITES).map(overwrite).collect::<Vec<_>>().join(",");
    let channel = |n: u64| {
        format!(r#"{{"id":"{}","type":0,"name":"channel","permission_overwrites":[{overwrites}]}}"#, 10_000 + n)
    };
    let member = |id: u64, roles: std::ops::Range<u64>| {
        let roles = roles.map(|n| format!(r#""{}""#, 1_000 + n)).collect::<Vec<_>>().join(",");
        format!(r#"{{"user":{{"id":"{id}"}},"roles":[{roles}]}}"#)
    };
    format!(
        r#"{{"id":"{GUILD}","owner_id":"1","name":"guild","member_count":2,"roles":[{}],"channels":[{}],"members":[{},{}]}}"#,
        (0..ROLES).map(role).collect::<Vec<_>>().join(","),
        (0..CHANNELS).map(channel).collect::<Vec<_>>().join(","),
        member(BOT, 80..90),
        member(TARGET, 10..20),
    )
}

fn permissions(criterion: &mut Criterion) {
    let states = GuildStates::new(GuildStatesConfig::default());
    states.set_bot(Snowflake::new(BOT));
    states.apply("GUILD_CREATE", guild().as_bytes());
    let ask = |channel: u64| {
        let (guild, channel) = (Snowflake::new(GUILD), Snowflake::new(channel));
        states.bot_may(guild, channel, black_box(1 << 11), Snowflake::new(TARGET))
    };
    assert_eq!(ask(10_000), Some(true));
    let mut channel = 0;
    criterion.bench_function("permission and hierarchy, warm", |bencher| {
        bencher.iter(|| {
            channel = (channel + 1) % CHANNELS;
            ask(10_000 + channel)
        });
    });
    let message = format!(
        r#"{{"id":"1","channel_id":"10000","guild_id":"{GUILD}","author":{{"id":"{TARGET}","username":"u"}},"content":"{}","member":{{"roles":[{}],"joined_at":"2020-01-01T00:00:00Z"}}}}"#,
        "x".repeat(1_100),
        (10..20).map(|n| format!(r#""{}""#, 1_000 + n)).collect::<Vec<_>>().join(","),
    );
    criterion.bench_function("a message of a known member, 1.5 KB", |bencher| {
        bencher.iter(|| states.apply("MESSAGE_CREATE", black_box(message.as_bytes())));
    });
}

criterion_group!(benches, permissions);
criterion_main!(benches);
