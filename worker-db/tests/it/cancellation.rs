//! A call that is dropped half way, as a time-out does, did all of it or nothing, and what it did is announced.

use std::future::poll_fn;
use std::task::Poll;

use worker_db::{Change, DbError};

use crate::store::{GUILD, LARGE, Store, later, scopes, set, template};

/// As if the answer were lost: nobody can know what became of it.
#[tokio::test]
async fn a_commit_that_fails_has_templates_looked_at_again() {
    let store = Store::postgres().await;
    store.db.kv_set(GUILD, set("key", "1", &["a"])).await.unwrap();
    store
        .raw(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'at the commit'; END $$;
            CREATE CONSTRAINT TRIGGER t AFTER INSERT ON templates DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION fail();
            CREATE CONSTRAINT TRIGGER t AFTER UPDATE ON kv_records DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION fail();",
        )
        .await;
    let mut changes = store.db.changes();
    let failed = store.db.template_create(GUILD, template("t", "1", &[])).await.unwrap_err();
    assert!(matches!(failed, DbError::Statement { statement: "COMMIT", .. }));
    assert_eq!(changes.try_recv().unwrap(), Change::Templates { tenant: GUILD });
    assert!(store.db.kv_set_expiry(GUILD, "key", &scopes(&["a"]), Some(later(900))).await.is_err());
    assert!(changes.try_recv().is_err());
}

on_disk!(what_was_committed_is_announced);

/// Polls the call so many times, each when it asked for it, then drops it.
async fn cut_off<T>(call: impl Future<Output = T>, polls: usize) {
    let (mut call, mut left) = (Box::pin(call), polls);
    poll_fn(|context| {
        if left > 0 && call.as_mut().poll(context).is_pending() {
            left -= 1;
        } else {
            left = 0;
        }
        if left == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

async fn what_was_committed_is_announced(store: &Store) {
    let (mut committed, mut cut) = (0, 0);
    for polls in 0..60 {
        let mut changes = store.db.changes();
        store.db.kv_set(GUILD, set("key", "1", &["a"])).await.unwrap();
        let expires_at = Some(later(900 + polls as i64));
        cut_off(store.db.kv_set_expiry(GUILD, "key", &scopes(&["a"]), expires_at), polls).await;
        cut_off(store.db.template_create(LARGE, template(&polls.to_string(), "1", &[])), polls).await;
        // Both tenants' locks, after the calls let go of them.
        store.db.kv_set(GUILD, set("other", "1", &["a"])).await.unwrap();
        store.db.kv_set(LARGE, set("other", "1", &["a"])).await.unwrap();
        let expiry = store.db.kv_get(GUILD, "key", &scopes(&["a"])).await.unwrap().unwrap().expires_at;
        let rows = store.db.tenant_templates(LARGE).await.unwrap().rows;
        let created = rows.iter().any(|row| row.name.as_str() == polls.to_string());
        let announced: Vec<Change> = std::iter::from_fn(|| changes.try_recv().ok()).collect();
        let expiry_announced = announced
            .iter()
            .any(|change| matches!(change, Change::Expiry { expires_at: at @ Some(_), .. } if *at == expires_at));
        assert_eq!(expiry_announced, expiry == expires_at, "{polls} polls");
        assert_eq!(announced.contains(&Change::Templates { tenant: LARGE }), created, "{polls} polls");
        committed += u32::from(created) + u32::from(expiry_announced);
        cut += u32::from(!created) + u32::from(!expiry_announced);
    }
    assert!(cut > 0 && committed > 0, "{cut} cut off, {committed} committed");
}
