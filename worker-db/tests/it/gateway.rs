//! What processes at Discord's gateway tell each other and their successors.

use std::time::Duration;

use worker_core::Snowflake;
use worker_db::{GatewaySessionRow, IdentifyTurn, NewTemplate};

use crate::store::{GUILD, LARGE, Store, USER, template};

conformance!(
    sessions_are_found_as_they_were_saved,
    one_of_a_bucket_identifies_at_a_time,
    a_turn_ends_by_itself,
    subscriptions_are_those_of_all_templates_that_run,
);

const BOT: Snowflake = Snowflake::new(99);
/// Its id is negative in the database.
const OTHER_BOT: Snowflake = Snowflake::new(u64::MAX);
const HOUR: Duration = Duration::from_secs(3_600);

fn session(shard: u32, sequence: u64) -> GatewaySessionRow {
    GatewaySessionRow { shard, session_id: format!("s{shard}"), resume_url: "wss://gateway".into(), sequence }
}

async fn sessions_are_found_as_they_were_saved(store: &Store) {
    let db = &store.db;
    assert_eq!(db.gateway_sessions(BOT, 4).await.unwrap(), []);
    db.gateway_sessions_put(BOT, 4, &[session(3, 7), session(0, u64::MAX)]).await.unwrap();
    db.gateway_sessions_put(BOT, 4, &[session(3, 8)]).await.unwrap();
    db.gateway_sessions_put(OTHER_BOT, 4, &[session(1, 1)]).await.unwrap();
    assert_eq!(db.gateway_sessions(BOT, 4).await.unwrap(), [session(0, u64::MAX), session(3, 8)]);
    assert_eq!(db.gateway_sessions(BOT, 8).await.unwrap(), [], "sessions of another number of shards are none");
    assert_eq!(db.gateway_sessions(OTHER_BOT, 4).await.unwrap(), [session(1, 1)]);
    db.gateway_session_delete(BOT, 4, 0).await.unwrap();
    db.gateway_session_delete(BOT, 4, 1).await.unwrap();
    assert_eq!(db.gateway_sessions(BOT, 4).await.unwrap(), [session(3, 8)]);
    assert_eq!(db.gateway_sessions(OTHER_BOT, 4).await.unwrap(), [session(1, 1)]);
}

async fn one_of_a_bucket_identifies_at_a_time(store: &Store) {
    let db = &store.db;
    assert_eq!(db.gateway_identify(BOT, 0, HOUR).await.unwrap(), IdentifyTurn::Now);
    let IdentifyTurn::After(wait) = db.gateway_identify(BOT, 0, HOUR).await.unwrap() else { panic!() };
    assert!(wait < HOUR && wait > HOUR / 2, "{wait:?}");
    assert_eq!(db.gateway_identify(BOT, 1, HOUR).await.unwrap(), IdentifyTurn::Now);
    assert_eq!(db.gateway_identify(OTHER_BOT, 0, HOUR).await.unwrap(), IdentifyTurn::Now);
    assert_ne!(db.gateway_identify(BOT, 0, HOUR).await.unwrap(), IdentifyTurn::Now, "it is taken still");
}

async fn a_turn_ends_by_itself(store: &Store) {
    // The clock of these tests is a second later at each look.
    let soon = Duration::from_millis(500);
    assert_eq!(store.db.gateway_identify(BOT, 0, soon).await.unwrap(), IdentifyTurn::Now);
    assert_eq!(store.db.gateway_identify(BOT, 0, 2 * HOUR).await.unwrap(), IdentifyTurn::Now);
    // As if the clock had been set back: no turn lasts that long.
    assert_eq!(store.db.gateway_identify(BOT, 0, HOUR / 2).await.unwrap(), IdentifyTurn::Now);
}

async fn subscriptions_are_those_of_all_templates_that_run(store: &Store) {
    let db = &store.db;
    db.template_create(GUILD, template("a", "", &["MESSAGE", "KeyExpiry[x]"])).await.unwrap();
    db.template_create(USER, template("a", "", &["MESSAGE", "Discord"])).await.unwrap();
    let paused = NewTemplate { paused: true, ..template("b", "", &["TYPING_START"]) };
    db.template_create(LARGE, paused).await.unwrap();
    assert!(db.subscriptions().await.unwrap().iter().eq(["Discord", "KeyExpiry[x]", "MESSAGE"]));
}
