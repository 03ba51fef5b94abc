//! Shards against a Discord that fails in every way that the real one does: nothing lost that it replays, nothing twice,
//! nothing stuck.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use antiraid_bin::config::{DiscordSettings, IntentsSetting};
use antiraid_bin::gateway::{Gateway, GatewayParts, GatewayPlan, GatewayTimings, Intents};
use serde_json::{Value, json};
use worker_core::{
    Call, DispatchResult, Priority, ShardState, ShardStats, TenantId, WorkerError, WorkerErrorKind, WorkerId,
    WorkerLike,
};
use worker_db::{DbConfig, WorkerDb};
use worker_vm::{BotRest, DiscordToken};

use crate::discord::{Behaviour, Discord, PATIENCE, TOKEN};

const GUILD: u64 = 7 << 22;

/// A worker that only remembers what it was given.
#[derive(Default)]
struct Recorder {
    events: Mutex<Vec<(TenantId, String, Value)>>,
    /// Refuses so many events that are no flood, and all floods while it is above 0.
    refusals: AtomicU32,
}

impl WorkerLike for Recorder {
    fn id(&self) -> WorkerId {
        WorkerId::new(1)
    }

    fn submit(&self, call: Call) {
        let Call::Dispatch { tenant, event, reply_to } = call else { panic!("{call:?}") };
        assert!(!reply_to.is_wanted(), "results of the gateway's events are not made");
        let is_flood = event.priority() == Priority::Flood;
        let refused = self.refusals.load(SeqCst) > 0;
        if refused && !is_flood {
            self.refusals.fetch_sub(1, SeqCst);
        }
        if refused {
            return reply_to.send(Err(WorkerError::new(WorkerErrorKind::Overloaded, "full")));
        }
        let data = serde_json::from_slice(event.data()).unwrap();
        self.events.lock().unwrap().push((tenant, event.name().to_string(), data));
        reply_to.send(Ok(DispatchResult::default()));
    }
}

impl Recorder {
    /// The numbers of the messages that came, in order.
    fn numbers(&self) -> Vec<u64> {
        let events = self.events.lock().unwrap();
        events.iter().filter(|(_, name, _)| name == "MESSAGE").map(|(.., data)| data["n"].as_u64().unwrap()).collect()
    }

    /// Waits until the message of this number came, and returns all of them.
    #[track_caller]
    fn until_number(&self, number: u64) -> Vec<u64> {
        until("a message", || Some(self.numbers()).filter(|numbers| numbers.contains(&number)))
    }
}

#[track_caller]
fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Fixture {
    discord: Discord,
    db: WorkerDb,
    sink: Arc<Recorder>,
    timings: GatewayTimings,
}

impl Fixture {
    async fn new(behaviour: Behaviour) -> Self {
        // What is not tested waits for long, so that a slow machine does not bring it about.
        let timings = GatewayTimings {
            hello: Duration::from_secs(30),
            identify_spacing: Duration::from_millis(100),
            save_interval: Duration::from_millis(20),
            jitter: Duration::from_millis(10),
            ..GatewayTimings::default()
        };
        let behaviour = Behaviour { identify_window: Duration::from_millis(80), ..behaviour };
        let db = WorkerDb::connect("sqlite::memory:", DbConfig::default()).await.unwrap();
        Self { discord: Discord::start(behaviour), db, sink: Arc::default(), timings }
    }

    fn rest(&self) -> BotRest {
        BotRest::new(&self.discord.api_url(), TOKEN).unwrap()
    }

    async fn plan(&self) -> GatewayPlan {
        let all = "GUILDS,GUILD_MEMBERS,GUILD_MESSAGES,MESSAGE_CONTENT".parse::<Intents>().unwrap();
        let settings = DiscordSettings { intents: IntentsSetting(Some(all)), ..DiscordSettings::default() };
        let plan = GatewayPlan::make(&self.rest(), &settings, &self.db, NonZeroU32::MIN).await.unwrap();
        GatewayPlan { timings: self.timings.clone(), ..plan }
    }

    async fn start_shards(&self, shards: Vec<u32>) -> Gateway {
        let parts = GatewayParts {
            plan: self.plan().await,
            token: DiscordToken::new(TOKEN),
            rest: self.rest(),
            db: self.db.clone(),
            sink: self.sink.clone(),
            observer: None,
        };
        Gateway::start(parts, shards).await.unwrap()
    }

    async fn start(&self) -> Gateway {
        let gateway = self.start_shards(vec![0]).await;
        self.discord.until_connected(1);
        gateway
    }

    fn message(&self, number: u64) {
        self.discord.emit(GUILD, "MESSAGE_CREATE", json!({"n": number, "author": {"id": "5"}}));
    }
}

fn only(gateway: &Gateway) -> ShardStats {
    gateway.stats().remove(0)
}

#[track_caller]
fn until_stats(gateway: &Gateway, seen: impl Fn(&ShardStats) -> bool) -> ShardStats {
    until("figures", || Some(only(gateway)).filter(&seen))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_breaks_each_event_comes_once_and_in_order() {
    let fixture = Fixture::new(Behaviour::default()).await;
    let gateway = fixture.start().await;
    let discord = &fixture.discord;
    let breaks: [&dyn Fn(); 5] = [
        &|| discord.drop_connections(),
        &|| discord.tell_all(json!({"op": 7, "d": null})),
        &|| discord.tell_all(json!({"op": 9, "d": true})),
        &|| discord.close_connections(4000),
        &|| discord.close_connections(1001),
    ];
    let mut number = 0;
    for (round, brk) in breaks.iter().cycle().take(15).enumerate() {
        for step in 0..40 {
            if step == 20 {
                brk();
            }
            number += 1;
            fixture.message(number);
        }
        discord.until_resumes(round + 1);
        discord.until_connected(1);
    }
    assert_eq!(fixture.sink.until_number(number), Vec::from_iter(1..=number));
    let stats = until_stats(&gateway, |stats| stats.state == ShardState::Active);
    assert_eq!((stats.identifies, stats.resumes, stats.reconnects), (1, 15, 15), "{stats:?}");
    assert_eq!((stats.events, stats.repeated, stats.bad_frames), (number, 0, 0));
    assert!(stats.trouble.is_some() && stats.refused.is_empty());
    gateway.stop().await;
    assert_eq!(only(&gateway).state, ShardState::Ended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_twice_is_handed_on_once() {
    let fixture = Fixture::new(Behaviour::default()).await;
    let gateway = fixture.start().await;
    for number in 1..=3 {
        fixture.message(number);
    }
    fixture.sink.until_number(3);
    let d = json!({"n": 2, "guild_id": GUILD.to_string(), "author": {"id": "5"}});
    fixture.discord.tell_all(json!({"op": 0, "t": "MESSAGE_CREATE", "s": 3, "d": d}));
    fixture.discord.tell_all(json!({"op": 0, "t": "MESSAGE_CREATE", "s": "x", "d": d}));
    fixture.message(4);
    assert_eq!(fixture.sink.until_number(4), [1, 2, 3, 4]);
    let stats = only(&gateway);
    assert_eq!((stats.repeated, stats.bad_frames), (1, 1), "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_discord_ends_is_begun_anew() {
    let fixture = Fixture::new(Behaviour::default()).await;
    let gateway = fixture.start().await;
    fixture.message(1);
    fixture.sink.until_number(1);
    fixture.discord.forget_sessions();
    fixture.discord.tell_all(json!({"op": 9, "d": false}));
    fixture.discord.until_identifies(2);
    fixture.discord.until_connected(1);
    // Its events count from 1 again, and are no repetitions.
    fixture.message(2);
    assert_eq!(fixture.sink.until_number(2), [1, 2]);

    // Found out only when it is resumed.
    fixture.discord.forget_sessions();
    fixture.discord.drop_connections();
    fixture.discord.until_identifies(3);
    fixture.discord.until_connected(1);
    fixture.message(3);
    assert_eq!(fixture.sink.until_number(3), [1, 2, 3]);
    let stats = only(&gateway);
    assert_eq!((stats.identifies, stats.resumes, stats.invalid_sessions, stats.repeated), (3, 0, 2, 0), "{stats:?}");
    assert_eq!(fixture.discord.identify_gaps().1, 0, "none came too soon");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_are_replaced() {
    let mut fixture = Fixture::new(Behaviour { mute_connections: 2, ..Behaviour::default() }).await;
    fixture.timings.hello = Duration::from_millis(300);
    let gateway = fixture.start().await;
    assert_eq!(fixture.discord.connections(), 3);

    // Heartbeats that nobody answers: found out at the second.
    fixture.discord.behave(|behaviour| {
        behaviour.deaf_connections = 1;
        behaviour.heartbeat_interval = Duration::from_millis(200);
    });
    fixture.discord.drop_connections();
    fixture.discord.until_resumes(2);
    fixture.message(1);
    assert_eq!(fixture.sink.until_number(1), [1]);
    let stats = until_stats(&gateway, |stats| stats.latency_ms.is_some());
    assert_eq!((stats.identifies, stats.invalid_sessions), (1, 0), "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_where_the_last_one_ended() {
    let fixture = Fixture::new(Behaviour::default()).await;
    let gateway = fixture.start().await;
    fixture.message(1);
    fixture.message(2);
    fixture.sink.until_number(2);
    gateway.stop().await;
    drop(gateway);
    // A code below 4000 but for 1000 and 1001, or from 4000 on: the session stays.
    assert!(
        fixture.discord.close_codes().iter().all(|code| code.is_some_and(|code| code >= 1002)),
        "{:?}",
        fixture.discord.close_codes()
    );
    fixture.message(3);

    let gateway = fixture.start().await;
    fixture.message(4);
    assert_eq!(fixture.sink.until_number(4), [1, 2, 3, 4]);
    let last = only(&gateway).sequence;
    assert_eq!(fixture.discord.identified().len(), 1);

    // Without an end in good order: what was saved last may be a little behind, never ahead.
    until("the session in the database", || {
        let saved = blocking(fixture.db.gateway_sessions(worker_core::Snowflake::new(99), 1));
        saved.into_iter().find(|saved| saved.sequence >= last)
    });
    drop(gateway);
    fixture.discord.until_connected(0);
    fixture.message(5);
    let _gateway = fixture.start().await;
    assert_eq!(fixture.sink.until_number(5), [1, 2, 3, 4, 5]);
    assert_eq!(fixture.discord.identified().len(), 1, "all others resumed");

    // The bot's own events are known without a READY.
    fixture.discord.emit(GUILD, "MESSAGE_CREATE", json!({"n": 6, "author": {"id": "99"}}));
    fixture.message(7);
    assert_eq!(fixture.sink.until_number(7), [1, 2, 3, 4, 5, 7]);
}

/// The future's outcome, on a thread that may block.
fn blocking<T>(future: impl Future<Output = Result<T, worker_db::DbError>>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(future)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_whose_session_is_gone_begins_one() {
    let fixture = Fixture::new(Behaviour::default()).await;
    let gateway = fixture.start().await;
    gateway.stop().await;
    fixture.discord.behave(|behaviour| behaviour.invalid_resumes = 1);
    let gateway = fixture.start().await;
    fixture.message(1);
    assert_eq!(fixture.sink.until_number(1), [1]);
    gateway.stop().await;
    assert_eq!(fixture.discord.identified().len(), 2);
    assert!(fixture.discord.resumed().is_empty());
    let saved = fixture.db.gateway_sessions(worker_core::Snowflake::new(99), 1).await.unwrap();
    assert_eq!(saved[0].session_id, "session-2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_of_several_processes_take_turns_to_identify() {
    let behaviour = Behaviour { shards: 8, max_concurrency: 2, ..Behaviour::default() };
    let fixture = Fixture::new(behaviour).await;
    // What processes share is the database.
    let (even, odd) = tokio::join!(fixture.start_shards(vec![0, 2, 4, 6, 5]), fixture.start_shards(vec![1, 3, 7]));
    fixture.discord.until_connected(8);
    let mut identified = fixture.discord.identified();
    let (gap, too_soon) = fixture.discord.identify_gaps();
    assert!(gap.unwrap() >= Duration::from_millis(80) && too_soon == 0, "{gap:?}, {too_soon} too soon");
    identified.sort_unstable();
    assert_eq!(identified, Vec::from_iter(0..8));
    for gateway in [even, odd] {
        assert!(gateway.stats().iter().all(|shard| shard.identifies == 1 && shard.shards == 8));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_sessions_of_a_day_are_not_begun() {
    // Discord would reset the token for one too many.
    let behaviour = Behaviour { remaining: 10, reset_after: 500, ..Behaviour::default() };
    let fixture = Fixture::new(behaviour).await;
    let gateway = fixture.start_shards(vec![0]).await;
    fixture.discord.until_connections(1);
    until_stats(&gateway, |stats| stats.state == ShardState::Identifying);
    assert!(fixture.discord.identified().is_empty());
    fixture.discord.behave(|behaviour| behaviour.remaining = 1_000);
    fixture.discord.until_connected(1);
    fixture.message(1);
    fixture.sink.until_number(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_final_is_said_in_a_sentence() {
    for (code, texts) in [
        (4004, &["DISCORD_TOKEN", "4004"][..]),
        (4011, &["more shards", "`discord.shards`"]),
        (4014, &["`Server Members Intent`, `Message Content Intent`", "4014"]),
    ] {
        let fixture = Fixture::new(Behaviour { close_code: Some(code), ..Behaviour::default() }).await;
        let gateway = fixture.start_shards(vec![0]).await;
        let end = tokio::time::timeout(PATIENCE, gateway.ended()).await.unwrap().to_string();
        for text in texts {
            assert!(end.contains(text), "{code}: {text} is not in {end}");
        }
        gateway.stop().await;
        assert_eq!(only(&gateway).state, ShardState::Ended);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_sat_out() {
    let fixture = Fixture::new(Behaviour { close_code: Some(4000), ..Behaviour::default() }).await;
    let gateway = fixture.start_shards(vec![0]).await;
    fixture.discord.until_connections(3);
    assert!(only(&gateway).trouble.is_some());
    fixture.discord.behave(|behaviour| behaviour.close_code = None);
    fixture.discord.until_connected(1);
    fixture.message(1);
    fixture.sink.until_number(1);
    // To stop while there is nothing to close takes no longer.
    fixture.discord.behave(|behaviour| behaviour.mute_connections = u32::MAX);
    fixture.discord.drop_connections();
    tokio::time::timeout(PATIENCE, gateway.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_matters_waits_for_room_and_floods_do_not() {
    let fixture = Fixture::new(Behaviour::default()).await;
    let gateway = fixture.start().await;
    fixture.message(1);
    fixture.sink.until_number(1);
    // Full for three tries: the message waits; a flood before it is gone at once.
    fixture.sink.refusals.store(3, SeqCst);
    fixture.discord.emit(GUILD, "TYPING_START", json!({"user_id": "5"}));
    fixture.message(2);
    fixture.message(3);
    assert_eq!(fixture.sink.until_number(3), [1, 2, 3]);
    let stats = only(&gateway);
    assert_eq!((stats.waits, &stats.refused), (1, &[("TYPING_START".to_owned(), 1)].into()), "{stats:?}");
    // Full for good: refusals are counted by name, the first after a wait, the others at once.
    fixture.sink.refusals.store(1_000, SeqCst);
    for number in 4..=30 {
        fixture.message(number);
    }
    let stats = until_stats(&gateway, |stats| stats.refused.get("MESSAGE") == Some(&27));
    assert_eq!((stats.waits, stats.events), (2, 3), "{stats:?}");
    fixture.sink.refusals.store(0, SeqCst);
    fixture.message(31);
    assert_eq!(fixture.sink.until_number(31), [1, 2, 3, 31]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_go_to_whose_they_are() {
    let fixture = Fixture::new(Behaviour { shards: 2, ..Behaviour::default() }).await;
    let gateway = fixture.start_shards(vec![0, 1]).await;
    fixture.discord.until_connected(2);
    let by_user = json!({"authorizing_integration_owners": {"1": "8"}, "id": "1", "n": 1});
    fixture.discord.emit_at(0, "INTERACTION_CREATE", by_user);
    fixture.discord.emit_at(0, "MESSAGE_CREATE", json!({"n": 2, "author": {"id": "5"}}));
    fixture.discord.emit_at(0, "GUILD_CREATE", json!({"id": GUILD.to_string()}));
    fixture.discord.emit(GUILD, "GUILD_MEMBER_ADD", json!({"user": {"id": "5"}}));
    fixture.discord.emit(GUILD + (1 << 22), "NEWER_THAN_THIS_PROGRAM", json!({}));
    until("events", || (fixture.sink.events.lock().unwrap().len() >= 3).then_some(()));
    let events = fixture.sink.events.lock().unwrap();
    let mut events: Vec<_> = events.iter().map(|(tenant, name, _)| (*tenant, name.as_str())).collect();
    events.sort();
    assert_eq!(
        events,
        [
            (TenantId::guild(GUILD), "GUILD_MEMBER_ADD"),
            (TenantId::guild(GUILD + (1 << 22)), "NEWER_THAN_THIS_PROGRAM"),
            (TenantId::user(8), "INTERACTION_CREATE"),
        ]
    );
    let frames: u64 = gateway.stats().iter().map(|shard| shard.frames).sum();
    assert!(frames >= 5, "{frames}");
}

#[tokio::test]
async fn intents_are_what_templates_and_the_application_allow() {
    let fixture = Fixture::new(Behaviour { flags: 1 << 15, ..Behaviour::default() }).await;
    let template = |name: &str, event: &str| worker_db::NewTemplate {
        name: name.parse().unwrap(),
        files: [("init.luau".to_owned(), String::new())].into(),
        events: vec![event.into()],
        allowed_caps: worker_core::Capabilities::from_iter([""; 0]),
        error_channel: None,
        compat: worker_core::CompatDate::NEWEST,
        paused: false,
    };
    for (name, event) in [("a", "MESSAGE"), ("b", "GUILD_MEMBER_ADD"), ("c", "PRESENCE_UPDATE")] {
        fixture.db.template_create(TenantId::guild(GUILD), template(name, event)).await.unwrap();
    }
    let plan = async |settings: &DiscordSettings, processes: u32| {
        GatewayPlan::make(&fixture.rest(), settings, &fixture.db, NonZeroU32::new(processes).unwrap()).await
    };
    let auto = plan(&DiscordSettings::default(), 1).await.unwrap();
    // Neither what messages say nor presences: the application has not got them.
    assert_eq!(auto.intents.to_string(), "GUILDS,GUILD_MEMBERS,GUILD_MESSAGES");
    let set = IntentsSetting(Some("MESSAGE_CONTENT".parse().unwrap()));
    let refused = plan(&DiscordSettings { intents: set, ..DiscordSettings::default() }, 1).await.unwrap_err();
    assert!(refused.to_string().contains("`Message Content Intent`"), "{refused}");
    let three = plan(&DiscordSettings { shards: 3, ..DiscordSettings::default() }, 2).await.unwrap_err();
    assert!(three.to_string().contains("`discord.shards`"), "{three}");
    assert_eq!(plan(&DiscordSettings::default(), 3).await.unwrap().shards.get(), 3);
}
