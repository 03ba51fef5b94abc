//! Two tenants apart on every method. The three have the same key, scopes and template names; two have the same number.

use worker_db::{Change, DbError, KvFindPage, KvPage, KvSet};

use crate::store::{GUILD, LARGE, Store, USER, config, later, name, scopes, set, template};

conformance!(records_are_apart, templates_are_apart, quotas_are_apart);

async fn records_are_apart(store: &Store) {
    let (db, a) = (&store.db, &scopes(&["a"]));
    let mine = KvSet { expires_at: Some(later(900)), resume: true, ..set("key", "1", &["a", "mine"]) };
    let id = db.kv_set(GUILD, mine).await.unwrap().id;
    let before = db.kv_get_by_id(GUILD, &id).await.unwrap().unwrap();
    for other in [USER, LARGE] {
        assert_eq!(db.kv_get(other, "key", a).await.unwrap(), None);
        assert!(!db.kv_exists(other, "key", a).await.unwrap());
        assert_eq!(db.kv_get_by_id(other, &id).await.unwrap(), None);
        assert!(db.kv_keys(other, a, KvPage::default()).await.unwrap().is_empty());
        assert!(db.kv_list_scopes(other, KvPage::default()).await.unwrap().is_empty());
        assert!(db.kv_find(other, "%", a, KvFindPage::default()).await.unwrap().is_empty());
        assert!(db.resume_records(other).await.unwrap().is_empty());
        assert!(!db.kv_delete(other, "key", a).await.unwrap());
        assert!(!db.kv_delete_by_id(other, &id).await.unwrap());
        assert!(!db.kv_set_expiry(other, "key", a, None).await.unwrap());
        assert!(!db.kv_set_expiry_by_id(other, &id, None).await.unwrap());
        assert!(matches!(db.kv_set_by_id(other, &id, "2", None, false).await, Err(DbError::NotFound(_))));
        assert!(!db.kv_cas(other, set("key", "2", &["a", "mine"]), 1).await.unwrap().exists);
        // The other's own record under the same key and scopes is another record.
        assert_eq!(db.kv_incr(other, "key", &scopes(&["a", "mine"]), 5.0).await.unwrap(), 5.0);
        assert!(!db.kv_set(other, set("key", "2", &["a"])).await.unwrap().existed);
        assert_eq!(db.kv_find(other, "%", a, KvFindPage::default()).await.unwrap().len(), 2);
        // With several of their own, neither is ambiguous with another tenant's.
        assert!(db.kv_delete(other, "key", &scopes(&["mine"])).await.unwrap());
        assert!(db.kv_delete(other, "key", a).await.unwrap());
    }
    assert_eq!(db.kv_get_by_id(GUILD, &id).await.unwrap().unwrap(), before);
    assert_eq!(db.tenants_with_resume().await.unwrap(), [GUILD]);
}

async fn templates_are_apart(store: &Store) {
    let db = &store.db;
    db.template_create(GUILD, template("t", "return 1", &["MESSAGE"])).await.unwrap();
    let before = db.tenant_templates(GUILD).await.unwrap();
    let mut changes = db.changes();
    for other in [USER, LARGE] {
        assert_eq!(db.template_get(other, &name("t")).await.unwrap(), None);
        assert!(db.tenant_templates(other).await.unwrap().rows.is_empty());
        assert!(db.template_list(other).await.unwrap().rows.is_empty());
        assert!(matches!(db.template_update(other, template("t", "2", &[])).await, Err(DbError::NotFound(_))));
        assert!(matches!(db.template_set_paused(other, &name("t"), true).await, Err(DbError::NotFound(_))));
        assert!(matches!(db.template_delete(other, &name("t")).await, Err(DbError::NotFound(_))));
        db.template_create(other, template("t", "return 1", &[])).await.unwrap();
        db.template_update(other, template("t", "return 2", &[])).await.unwrap();
        db.template_set_paused(other, &name("t"), true).await.unwrap();
        db.template_delete(other, &name("t")).await.unwrap();
        for _ in 0..4 {
            assert_eq!(changes.try_recv().unwrap(), Change::Templates { tenant: other });
        }
    }
    assert!(changes.try_recv().is_err());
    assert_eq!(db.tenant_templates(GUILD).await.unwrap(), before);
    let hash = before.rows[0].content.unwrap();
    assert!(db.contents(&[hash]).await.unwrap()[&hash].is_ok(), "another tenant's delete takes no files away");
}

async fn quotas_are_apart(store: &Store) {
    let max = config().kv.rows_max;
    for n in 0..max {
        store.db.kv_set(GUILD, set(&n.to_string(), "1", &["a"])).await.unwrap();
    }
    assert!(store.db.kv_set(GUILD, set("more", "1", &["a"])).await.is_err());
    for other in [USER, LARGE] {
        store.db.kv_set(other, set("more", "1", &["a"])).await.unwrap();
    }
}
