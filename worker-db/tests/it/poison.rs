//! Rows that this program would not write are skipped and reported; they cost nobody else anything.

use worker_core::ShopVersion;
use worker_db::{DbError, KvFindPage, KvPage, KvSet, SharedCache, WorkerCacheData};

use crate::cache::bounds;
use crate::store::{GUILD, LARGE, Store, files, name, scopes, set, template};

on_disk!(bad_templates_are_reported_and_the_others_load, bad_records_are_skipped);

async fn bad_templates_are_reported_and_the_others_load(store: &Store) {
    let db = &store.db;
    db.shop_publish("tool", &ShopVersion::new("1"), None, None, files("1")).await.unwrap();
    for row in ["events", "events2", "caps", "channel", "compat", "times", "bare", "$name", "$shop/gone#1"] {
        // Their real names come below: `template_create` would refuse some.
        let row = template(&row.replace(['$', '/', '#'], "_"), "return 1", &["MESSAGE"]);
        db.template_create(GUILD, row).await.unwrap();
    }
    for row in ["json", "hash", "shape", "$shop/tool#1", "good"] {
        db.template_create(GUILD, template(row, &format!("return '{row}'"), &["MESSAGE"])).await.unwrap();
    }
    let hash_of = async |row: &str| db.template_get(GUILD, &name(row)).await.unwrap().unwrap().content.unwrap();
    for change in [
        "UPDATE templates SET events = 'x' WHERE name = 'events'".to_owned(),
        "UPDATE templates SET events = '{\"a\":1}' WHERE name = 'events2'".into(),
        "UPDATE templates SET allowed_caps = '[1]' WHERE name = 'caps'".into(),
        "UPDATE templates SET error_channel = 0 WHERE name = 'channel'".into(),
        "UPDATE templates SET compat = '1999-01' WHERE name = 'compat'".into(),
        format!("UPDATE templates SET updated_at = {} WHERE name = 'times'", i64::MAX),
        "UPDATE templates SET content = NULL WHERE name = 'bare'".into(),
        "UPDATE templates SET name = '$name' WHERE name = '_name'".into(),
        "UPDATE templates SET name = '$shop/gone#1', shop_name = 'gone', shop_version = '1' WHERE name = '_shop_gone_1'"
            .into(),
        format!("UPDATE template_contents SET files = 'x' WHERE hash = '{}'", hash_of("json").await),
        format!("UPDATE template_contents SET files = '{{\"a\":\"b\"}}' WHERE hash = '{}'", hash_of("hash").await),
        format!("UPDATE template_contents SET files = '{{\"../a\":\"b\"}}' WHERE hash = '{}'", hash_of("shape").await),
    ] {
        store.raw(&change).await;
    }
    let rows = db.tenant_templates(GUILD).await.unwrap();
    assert_eq!(names(rows.rows.iter().map(|row| row.name.as_str())), ["$shop/tool#1", "good", "hash", "json", "shape"]);
    let bad = ["$name", "$shop/gone#1", "bare", "caps", "channel", "compat", "events", "events2", "times"];
    assert_eq!(names(rows.bad.iter().map(|row| &*row.name)), bad);
    assert!(matches!(db.template_get(GUILD, &name("caps")).await, Err(DbError::DamagedRow { .. })));

    let cache = WorkerCacheData::with_bounds(db.clone(), SharedCache::new(Default::default()), None, bounds());
    let loaded = cache.load(GUILD).await.unwrap();
    assert_eq!(names(loaded.templates().iter().map(|template| template.name.as_str())), ["$shop/tool#1", "good"]);
    let mut all_bad = names(loaded.bad().iter().map(|row| &*row.name));
    all_bad.retain(|name| !bad.contains(&&**name));
    assert_eq!(all_bad, ["hash", "json", "shape"]);
    for row in loaded.bad() {
        assert!(row.to_string().contains(&row.name) && !row.reason.is_empty());
    }

    // An operator can remove them as any other, and other tenants never knew.
    db.template_delete(GUILD, &name("caps")).await.unwrap();
    db.template_update(GUILD, template("events", "return 1", &["MESSAGE"])).await.unwrap();
    assert_eq!(db.tenant_templates(GUILD).await.unwrap().bad.len(), bad.len() - 2);
    assert!(cache.load(LARGE).await.unwrap().bad().is_empty());
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<String> = names.map(Into::into).collect();
    names.sort();
    names
}

async fn bad_records_are_skipped(store: &Store) {
    for key in ["good", "bad", "late"] {
        store.db.kv_set(GUILD, KvSet { resume: true, ..set(key, "1", &["a"]) }).await.unwrap();
    }
    store.raw("UPDATE kv_records SET scopes = 'x' WHERE key = 'bad'").await;
    store.raw(&format!("UPDATE kv_records SET expires_at = {} WHERE key = 'late'", i64::MAX)).await;
    let found = store.db.kv_find(GUILD, "%", &scopes(&["a"]), KvFindPage::default()).await.unwrap();
    assert_eq!(found.iter().map(|record| record.key.as_str()).collect::<Vec<_>>(), ["good"]);
    let resumed = store.db.resume_records(GUILD).await.unwrap();
    assert_eq!(resumed.iter().map(|record| record.key.as_str()).collect::<Vec<_>>(), ["good", "late"]);
    for key in ["bad", "late"] {
        assert!(matches!(store.db.kv_get(GUILD, key, &scopes(&["a"])).await, Err(DbError::DamagedRow { .. })));
    }
    // It can be deleted, with all that lists show of it.
    assert!(store.db.kv_delete(GUILD, "bad", &scopes(&["a"])).await.unwrap());
    let keys = store.db.kv_keys(GUILD, &scopes(&["a"]), KvPage::default()).await.unwrap();
    assert_eq!(keys, ["good", "late"]);
    // Written over, a record is whole again where it can be.
    store.db.kv_set(GUILD, set("late", "2", &["a"])).await.unwrap();
    assert_eq!(store.db.kv_get(GUILD, "late", &scopes(&["a"])).await.unwrap().unwrap().expires_at, None);
}
