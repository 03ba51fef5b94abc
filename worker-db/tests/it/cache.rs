//! `WorkerCacheData`: who gets an event, and when templates are read again.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::poll;
use proptest::prelude::*;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};
use worker_core::{
    Capabilities, CompatDate, Event, EventName, Snowflake, Template, TemplateFiles, TemplateLimits, TemplateName,
    TemplateOrigin, TenantId,
};
use worker_db::{CacheBounds, Lookup, NewTemplate, SharedCache, WorkerCacheData};

use crate::store::{GUILD, LARGE, Store, files, later, name, template};

pub fn bounds() -> CacheBounds {
    CacheBounds { tenants_max: 1_000, files_bytes_max: 1 << 20 }
}

pub fn builtins(events: &[&str]) -> Arc<Template> {
    Arc::new(Template {
        name: TemplateName::builtins(),
        files: Arc::new(TemplateFiles::new(files("return 0"), &TemplateLimits::default()).unwrap()),
        events: events.iter().map(|event| Box::from(*event)).collect(),
        allowed_caps: Capabilities::from_iter(["*"]),
        error_channel: None,
        compat: CompatDate::NEWEST,
        origin: TemplateOrigin::Builtin,
        created_at: later(0),
        updated_at: later(0),
    })
}

fn cache_with(store: &Store, builtins: Option<Arc<Template>>, bounds: CacheBounds) -> WorkerCacheData {
    WorkerCacheData::with_bounds(store.db.clone(), SharedCache::new(Default::default()), builtins, bounds)
}

pub fn discord(t: &str) -> Event {
    Event::discord(t, Bytes::new())
}

pub fn antiraid(event: EventName, scopes: &[&str]) -> Event {
    Event::antiraid(event, Bytes::new()).with_scopes(scopes.iter().copied())
}

/// The names of those who get the event; the tenant must be loaded.
fn who(cache: &WorkerCacheData, tenant: TenantId, event: &Event) -> Vec<String> {
    match cache.lookup(tenant, event) {
        Lookup::NotLoaded => panic!("not loaded"),
        Lookup::Nobody => vec![],
        Lookup::Subscribers(subscribers) => {
            assert_eq!(subscribers.indices().len(), subscribers.templates().len());
            subscribers.templates().map(|template| template.name.to_string()).collect()
        }
    }
}

#[tokio::test]
async fn events_go_to_those_who_named_them() {
    let store = Store::sqlite_memory().await;
    for (row, events) in [
        ("message", &["MESSAGE"][..]),
        ("discord", &["Discord"]),
        ("both", &["Discord", "MESSAGE", "MESSAGE"]),
        ("keys", &["KeyExpiry"]),
        ("antiraid", &["AntiRaid"]),
        ("a", &["KeyExpiry[a]"]),
        ("b", &["AntiRaid[b]"]),
        ("odd", &["KeyExpiry[x]y]", "keyexpiry[a]", "KeyExpiry[]"]),
        ("none", &[]),
    ] {
        store.db.template_create(GUILD, template(row, "1", events)).await.unwrap();
    }
    let cache = cache_with(&store, None, bounds());
    assert!(matches!(cache.lookup(GUILD, &discord("MESSAGE_CREATE")), Lookup::NotLoaded));
    let loaded = cache.load(GUILD).await.unwrap();
    assert_eq!(loaded.templates().len(), 9);
    assert!(loaded.get(&name("none")).is_some() && loaded.get(&name("x")).is_none());
    let gets = |event: &Event| who(&cache, GUILD, event);
    assert_eq!(gets(&discord("MESSAGE_CREATE")), ["both", "discord", "message"]);
    assert_eq!(gets(&discord("TYPING_START")), ["both", "discord"]);
    assert_eq!(gets(&antiraid(EventName::KEY_EXPIRY, &[])), ["antiraid", "keys"]);
    assert_eq!(gets(&antiraid(EventName::KEY_EXPIRY, &["a"])), ["a", "antiraid", "keys"]);
    assert_eq!(gets(&antiraid(EventName::KEY_RESUME, &["a"])), ["antiraid"]);
    assert_eq!(gets(&antiraid(EventName::KEY_RESUME, &["a", "b"])), ["antiraid", "b"]);
    assert_eq!(gets(&antiraid(EventName::KEY_EXPIRY, &["b", "a", "b"])), ["a", "antiraid", "b", "keys"]);
    assert_eq!(gets(&antiraid(EventName::KEY_EXPIRY, &["x]y"])), ["antiraid", "keys", "odd"]);
    assert_eq!(gets(&antiraid(EventName::KEY_EXPIRY, &["A"])), ["antiraid", "keys"]);
    assert_eq!(gets(&antiraid(EventName::GET_SETTINGS, &[])), ["antiraid"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The index against the rule as the reference words it.
    #[test]
    fn the_index_gives_what_the_rule_gives(
        lists in prop::collection::vec(prop::collection::vec("(E|Discord|AntiRaid|EE)(\\[[ab]{0,2}\\])?", 0..4), 0..20),
        event in "(E|EE|F)",
        scopes in prop::collection::vec("[ab]{0,2}", 0..3),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Store::sqlite_memory().await;
            for (index, events) in lists.iter().enumerate() {
                let events: Vec<&str> = events.iter().map(String::as_str).collect();
                store.db.template_create(GUILD, template(&format!("{index:02}"), "1", &events)).await.unwrap();
            }
            let cache = cache_with(&store, None, bounds());
            cache.load(GUILD).await.unwrap();
            let names: Vec<String> = [event.as_str(), "AntiRaid"]
                .iter()
                .flat_map(|name| {
                    std::iter::once(name.to_string()).chain(scopes.iter().map(move |scope| format!("{name}[{scope}]")))
                })
                .collect();
            let expected: Vec<String> = (0..lists.len())
                .filter(|&index| lists[index].iter().any(|event| names.contains(event)))
                .map(|index| format!("{index:02}"))
                .collect();
            let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
            assert_eq!(who(&cache, GUILD, &antiraid(EventName::new(&event), &scopes)), expected);
        });
    }
}

#[tokio::test]
async fn paused_templates_get_nothing() {
    let store = Store::sqlite_memory().await;
    store.db.template_create(GUILD, NewTemplate { paused: true, ..template("t", "1", &["MESSAGE"]) }).await.unwrap();
    let cache = cache_with(&store, None, bounds());
    cache.load(GUILD).await.unwrap();
    assert!(matches!(cache.lookup(GUILD, &discord("MESSAGE_CREATE")), Lookup::Nobody));
    store.db.template_set_paused(GUILD, &name("t"), false).await.unwrap();
    cache.invalidate(GUILD);
    cache.load(GUILD).await.unwrap();
    assert_eq!(who(&cache, GUILD, &discord("MESSAGE_CREATE")), ["t"]);
}

#[tokio::test]
async fn a_builtins_row_adds_events_and_pauses() {
    let store = Store::sqlite_memory().await;
    let cache = cache_with(&store, Some(builtins(&["INTERACTION_CREATE"])), bounds());
    let reload = async || {
        cache.invalidate(GUILD);
        cache.load(GUILD).await.unwrap()
    };
    let interaction = discord("INTERACTION_CREATE");
    reload().await;
    assert_eq!(who(&cache, GUILD, &interaction), ["$builtins"]);
    assert!(who(&cache, GUILD, &discord("MESSAGE_CREATE")).is_empty());

    let row = NewTemplate {
        error_channel: Some(Snowflake::new(5)),
        allowed_caps: Capabilities::default(),
        ..template("$builtins", "", &["MESSAGE"])
    };
    store.db.template_create(GUILD, row).await.unwrap();
    let loaded = reload().await;
    assert_eq!(who(&cache, GUILD, &interaction), ["$builtins"]);
    assert_eq!(who(&cache, GUILD, &discord("MESSAGE_CREATE")), ["$builtins"]);
    let template = &loaded.templates()[0];
    assert_eq!((template.error_channel, template.allowed_caps.holds("anything")), (Some(Snowflake::new(5)), true));
    assert!(template.files.get("init.luau").is_some());

    store.db.template_set_paused(GUILD, &name("$builtins"), true).await.unwrap();
    assert!(reload().await.templates().is_empty());
    assert!(who(&cache, GUILD, &interaction).is_empty());
    store.db.template_delete(GUILD, &name("$builtins")).await.unwrap();
    reload().await;
    assert_eq!(who(&cache, GUILD, &interaction), ["$builtins"]);
}

#[tokio::test]
async fn tenants_without_templates_share_one() {
    let store = Store::sqlite_memory().await;
    store.db.template_create(LARGE, template("t", "1", &[])).await.unwrap();
    let cache = cache_with(&store, Some(builtins(&["MESSAGE"])), bounds());
    let (one, other) = (cache.load(GUILD).await.unwrap(), cache.load(TenantId::guild(1)).await.unwrap());
    assert!(Rc::ptr_eq(&one, &other));
    let with_rows = cache.load(LARGE).await.unwrap();
    assert_ne!(with_rows.generation(), one.generation());
    assert_eq!(with_rows.templates().len(), 2);
    cache.invalidate(GUILD);
    assert!(Rc::ptr_eq(&cache.load(GUILD).await.unwrap(), &one));
}

#[tokio::test]
async fn what_did_not_change_keeps_its_generation() {
    let store = Store::sqlite_memory().await;
    let db = &store.db;
    for row in ["t", "$builtins"] {
        db.template_create(GUILD, template(row, "1", &["MESSAGE"])).await.unwrap();
    }
    db.template_create(GUILD, NewTemplate { paused: true, ..template("paused", "1", &[]) }).await.unwrap();
    let cache = cache_with(&store, Some(builtins(&["MESSAGE"])), bounds());
    let loaded = cache.load(GUILD).await.unwrap();
    for invalidate in [|cache: &WorkerCacheData| cache.invalidate(GUILD), WorkerCacheData::invalidate_all] {
        // Twice before a load is once.
        for _ in 0..2 {
            invalidate(&cache);
            assert!(cache.is_empty() && cache.loaded(GUILD).is_none());
            assert!(matches!(cache.lookup(GUILD, &discord("MESSAGE_CREATE")), Lookup::NotLoaded));
        }
        assert!(Rc::ptr_eq(&cache.load(GUILD).await.unwrap(), &loaded));
    }
    // The code that the process shares may be gone, and that of paused templates changes nothing.
    db.template_update(GUILD, NewTemplate { paused: true, ..template("paused", "2", &["MESSAGE"]) }).await.unwrap();
    cache.invalidate(GUILD);
    assert!(Rc::ptr_eq(&cache.load(GUILD).await.unwrap(), &loaded));
    assert_eq!(who(&cache, GUILD, &discord("MESSAGE_CREATE")), ["$builtins", "t"]);

    // Each of these is seen, the last one only as `updated_at`.
    let mut generations = vec![loaded.generation()];
    for changed in [
        template("t", "2", &["MESSAGE"]),
        template("t", "2", &["MESSAGE", "MESSAGE_UPDATE"]),
        NewTemplate { allowed_caps: Capabilities::default(), ..template("t", "2", &["MESSAGE"]) },
        NewTemplate { error_channel: Some(Snowflake::new(5)), ..template("t", "2", &["MESSAGE"]) },
        NewTemplate { compat: CompatDate::OLDEST, ..template("t", "2", &["MESSAGE"]) },
        NewTemplate { paused: true, ..template("t", "2", &["MESSAGE"]) },
        template("t", "2", &["MESSAGE"]),
        template("$builtins", "", &["X"]),
        template("t", "2", &["MESSAGE"]),
    ] {
        db.template_update(GUILD, changed).await.unwrap();
        cache.invalidate(GUILD);
        let loaded = cache.load(GUILD).await.unwrap();
        assert!(!generations.contains(&loaded.generation()));
        generations.push(loaded.generation());
    }
    db.template_delete(GUILD, &name("t")).await.unwrap();
    cache.invalidate(GUILD);
    assert!(!generations.contains(&cache.load(GUILD).await.unwrap().generation()));
}

#[tokio::test]
async fn bad_rows_are_compared_too() {
    let store = Store::sqlite_file().await;
    store.db.template_create(GUILD, template("good", "1", &[])).await.unwrap();
    store.db.template_create(GUILD, template("bad", "1", &[])).await.unwrap();
    store.raw("UPDATE templates SET compat = 'x' WHERE name = 'bad'").await;
    let cache = cache_with(&store, None, bounds());
    let loaded = cache.load(GUILD).await.unwrap();
    assert_eq!(loaded.bad().len(), 1);
    cache.invalidate(GUILD);
    assert!(Rc::ptr_eq(&cache.load(GUILD).await.unwrap(), &loaded));
    store.raw("UPDATE templates SET compat = 'y' WHERE name = 'bad'").await;
    cache.invalidate(GUILD);
    assert_ne!(cache.load(GUILD).await.unwrap().generation(), loaded.generation());
}

#[tokio::test]
async fn templates_of_the_same_name_share_it() {
    let store = Store::sqlite_memory().await;
    for tenant in [GUILD, LARGE] {
        store.db.template_create(tenant, template("t", "1", &[])).await.unwrap();
    }
    let cache = cache_with(&store, None, bounds());
    let (one, other) = (cache.load(GUILD).await.unwrap(), cache.load(LARGE).await.unwrap());
    assert!(std::ptr::eq(one.templates()[0].name.as_str(), other.templates()[0].name.as_str()));
}

#[tokio::test]
async fn templates_with_the_same_files_share_them() {
    let store = Store::sqlite_memory().await;
    for tenant in [GUILD, LARGE] {
        store.db.template_create(tenant, template("t", "return 'same'", &[])).await.unwrap();
    }
    let cache = cache_with(&store, None, bounds());
    let (one, other) = (cache.load(GUILD).await.unwrap(), cache.load(LARGE).await.unwrap());
    assert!(Arc::ptr_eq(&one.templates()[0].files, &other.templates()[0].files));
}

/// Takes the tables from all others: until it is dropped, loads stand still.
async fn hold(store: &Store) -> PgConnection {
    let mut holder = PgConnection::connect(&store.url).await.unwrap();
    holder.execute("BEGIN; LOCK TABLE templates IN ACCESS EXCLUSIVE MODE").await.unwrap();
    holder
}

#[tokio::test]
async fn who_asks_at_once_gets_the_same_load() {
    let store = Store::postgres().await;
    store.db.template_create(GUILD, template("t", "1", &[])).await.unwrap();
    let cache = cache_with(&store, None, bounds());
    let held = hold(&store).await;
    let (mut a, mut b) = (Box::pin(cache.load(GUILD)), Box::pin(cache.load(GUILD)));
    assert!(poll!(&mut a).is_pending() && poll!(&mut b).is_pending());
    held.close().await.unwrap();
    let (a, b) = (a.await.unwrap(), b.await.unwrap());
    assert!(Rc::ptr_eq(&a, &b) && Rc::ptr_eq(&a, &cache.load(GUILD).await.unwrap()));
}

#[tokio::test]
async fn a_load_that_is_given_up_leaves_the_next_one_alone() {
    let store = Store::postgres().await;
    let cache = cache_with(&store, None, bounds());
    let held = hold(&store).await;
    let mut given_up = Box::pin(cache.load(GUILD));
    assert!(poll!(&mut given_up).is_pending());
    drop(given_up);
    // And where one of two gives up, the other gets its answer.
    let (mut first, mut second) = (Box::pin(cache.load(GUILD)), Box::pin(cache.load(GUILD)));
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    drop(first);
    held.close().await.unwrap();
    second.await.unwrap();
    assert_eq!(cache.len(), 1);
}

#[tokio::test]
async fn an_invalidation_during_a_load_is_not_lost() {
    let store = Store::postgres().await;
    store.db.template_create(GUILD, template("t", "1", &["MESSAGE"])).await.unwrap();
    let cache = cache_with(&store, None, bounds());
    for invalidate in [|cache: &WorkerCacheData| cache.invalidate(GUILD), WorkerCacheData::invalidate_all] {
        let held = hold(&store).await;
        let mut stale = Box::pin(cache.load(GUILD));
        assert!(poll!(&mut stale).is_pending());
        invalidate(&cache);
        held.close().await.unwrap();
        stale.await.unwrap();
        assert!(matches!(cache.lookup(GUILD, &discord("MESSAGE_CREATE")), Lookup::NotLoaded));
    }

    // A load that began after the change is not taken for the one before it, whichever ends last.
    let held = hold(&store).await;
    let mut stale = Box::pin(cache.load(GUILD));
    assert!(poll!(&mut stale).is_pending());
    cache.invalidate(GUILD);
    let mut fresh = Box::pin(cache.load(GUILD));
    assert!(poll!(&mut fresh).is_pending());
    held.close().await.unwrap();
    let fresh = fresh.await.unwrap();
    assert!(!Rc::ptr_eq(&fresh, &stale.await.unwrap()));
    assert!(Rc::ptr_eq(&fresh, &cache.loaded(GUILD).unwrap()));
}

#[tokio::test]
async fn a_load_that_fails_is_tried_again() {
    let store = Store::sqlite_file().await;
    let cache = cache_with(&store, None, bounds());
    store.raw("ALTER TABLE templates RENAME TO away").await;
    let (one, other) = tokio::join!(cache.load(GUILD), cache.load(GUILD));
    assert!(one.is_err() && other.is_err());
    store.raw("ALTER TABLE away RENAME TO templates").await;
    cache.load(GUILD).await.unwrap();
}

#[tokio::test]
async fn the_least_recently_used_go_first() {
    let store = Store::sqlite_memory().await;
    let cache = cache_with(&store, None, CacheBounds { tenants_max: 16, ..bounds() });
    let tenant = TenantId::guild;
    for id in 1..=16 {
        cache.load(tenant(id)).await.unwrap();
    }
    cache.lookup(tenant(1), &discord("MESSAGE_CREATE"));
    cache.load(tenant(17)).await.unwrap();
    assert!(cache.len() <= 16);
    for (id, kept) in [(1, true), (2, false), (3, false), (4, true), (17, true)] {
        assert_eq!(cache.loaded(tenant(id)).is_some(), kept, "{id}");
    }

    let cache = cache_with(&store, None, CacheBounds { files_bytes_max: 10, ..bounds() });
    for id in 1..=3 {
        store.db.template_create(tenant(id), template("t", &format!("-- {id}"), &[])).await.unwrap();
        cache.load(tenant(id)).await.unwrap();
    }
    assert_eq!(cache.len(), 2);
    assert!(cache.loaded(tenant(1)).is_none());
}

#[tokio::test]
async fn what_is_stale_counts_and_goes_before_all() {
    let store = Store::sqlite_memory().await;
    let tenant = TenantId::guild;
    for id in 1..=5 {
        store.db.template_create(tenant(id), template("t", &format!("-- {id}"), &[])).await.unwrap();
    }
    for bounds in [CacheBounds { tenants_max: 4, ..bounds() }, CacheBounds { files_bytes_max: 19, ..bounds() }] {
        let cache = cache_with(&store, None, bounds);
        let mut generations = Vec::new();
        for id in 1..=4 {
            generations.push(cache.load(tenant(id)).await.unwrap().generation());
        }
        cache.invalidate(tenant(4));
        assert_eq!(cache.len(), 3);
        cache.load(tenant(5)).await.unwrap();
        for id in 1..=3 {
            assert_eq!(cache.loaded(tenant(id)).unwrap().generation(), generations[id as usize - 1]);
        }
        cache.invalidate(tenant(5));
        // It was forgotten, so this is another generation; and what is loaded stays.
        assert_ne!(cache.load(tenant(4)).await.unwrap().generation(), generations[3]);
        assert_eq!(cache.len(), 4);
        for id in 1..=5 {
            cache.invalidate(tenant(id));
        }
        assert!(cache.is_empty());
    }
}
