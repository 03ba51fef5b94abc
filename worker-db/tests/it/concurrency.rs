//! Many at once, on two handles as two processes have them.

use worker_core::TenantId;
use worker_db::{DbError, KvFindPage, WorkerDb};

use crate::store::{GUILD, LARGE, Store, config, files, name, scopes, set, template};

on_disk!(
    concurrent_sets_make_one_record,
    concurrent_increments_all_count,
    concurrent_cas_is_won_by_one,
    templates_are_created_once_and_within_their_quota,
    files_that_come_and_go_at_once_are_never_missing,
    who_puts_for_many_and_who_puts_for_one_never_block_each_other,
    versions_published_at_once_agree_on_the_latest,
    processes_that_start_at_once_all_start,
);

/// Runs `call` for each number at once, on two handles in turn.
async fn at_once<T, F>(store: &Store, count: usize, call: impl Fn(WorkerDb, usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let dbs = [store.again(config()).await, store.again(config()).await];
    let tasks: Vec<_> = (0..count).map(|n| tokio::spawn(call(dbs[n % 2].clone(), n))).collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

async fn concurrent_sets_make_one_record(store: &Store) {
    let results =
        at_once(
            store,
            40,
            |db, n| async move { db.kv_set(GUILD, set("key", &n.to_string(), &["a", "b"])).await.unwrap() },
        );
    let mut results = results.await;
    assert!(results.iter().all(|result| result.id == results[0].id));
    assert_eq!(results.iter().filter(|result| !result.existed).count(), 1);
    results.sort_by_key(|result| result.version);
    assert!(results.iter().map(|result| result.version).eq(1..=40));
    let found = store.db.kv_find(GUILD, "%", &scopes(&["a"]), KvFindPage::default()).await.unwrap();
    assert_eq!(found.len(), 1);
}

async fn concurrent_increments_all_count(store: &Store) {
    let mut sums = at_once(store, 60, |db, n| async move {
        let tenant = if n < 40 { GUILD } else { LARGE };
        db.kv_incr(tenant, "n", &scopes(&["a"]), 1.0).await.unwrap() as usize
    })
    .await;
    sums[..40].sort_unstable();
    assert!(sums[..40].iter().copied().eq(1..=40));
    assert_eq!(store.db.kv_get(LARGE, "n", &scopes(&["a"])).await.unwrap().unwrap().value_json, "20");
}

async fn concurrent_cas_is_won_by_one(store: &Store) {
    for version in 0..3 {
        let results = at_once(store, 20, |db, n| async move {
            db.kv_cas(GUILD, set("key", &n.to_string(), &["a"]), version).await.unwrap()
        });
        let results = results.await;
        let won: Vec<_> = results.iter().filter(|result| result.ok).collect();
        assert_eq!(won.len(), 1);
        assert!(results.iter().all(|result| result.version == version + 1));
    }
}

async fn templates_are_created_once_and_within_their_quota(store: &Store) {
    let results = at_once(store, 20, |db, _| async move { db.template_create(GUILD, template("one", "1", &[])).await });
    let results = results.await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(results.iter().all(|result| matches!(result, Ok(()) | Err(DbError::Conflict(_)))));

    let results =
        at_once(store, 80, |db, n| async move { db.template_create(GUILD, template(&n.to_string(), "1", &[])).await });
    let results = results.await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 63);
    assert!(results.iter().all(|result| matches!(result, Ok(()) | Err(DbError::QuotaExceeded("templates")))));
    assert_eq!(store.db.tenant_templates(GUILD).await.unwrap().rows.len(), 64);
}

async fn files_that_come_and_go_at_once_are_never_missing(store: &Store) {
    // Two tenants put the same two contents in and take them out again, over and over.
    at_once(store, 2, |db, n| async move {
        let tenant = [GUILD, LARGE][n];
        db.template_create(tenant, template("t", "a", &[])).await.unwrap();
        for round in 0..30 {
            db.template_update(tenant, template("t", ["b", "a"][round % 2], &[])).await.unwrap();
            let row = db.template_get(tenant, &name("t")).await.unwrap().unwrap();
            let hash = row.content.unwrap();
            assert!(db.contents(&[hash]).await.unwrap()[&hash].is_ok());
        }
        db.template_delete(tenant, &name("t")).await.unwrap();
    })
    .await;
    store.db.template_create(GUILD, template("t", "a", &[])).await.unwrap();
    store.db.template_create(LARGE, template("t", "b", &[])).await.unwrap();
    store.db.template_delete(GUILD, &name("t")).await.unwrap();
    store.db.template_delete(LARGE, &name("t")).await.unwrap();
    assert_eq!(store.count("SELECT count(*) FROM template_contents").await, 0);
}

async fn who_puts_for_many_and_who_puts_for_one_never_block_each_other(store: &Store) {
    let all: Vec<TenantId> = (1..=8).map(TenantId::guild).collect();
    let tenants = &all;
    at_once(store, 12, |db, n| {
        let (mut tenants, code) = (tenants.clone(), ["a", "b"][n % 2]);
        async move {
            match n % 3 {
                0 => db.template_put_for_tenants(&tenants, template("t", code, &[])).await.unwrap(),
                1 => {
                    tenants.reverse();
                    db.template_put_for_tenants(&tenants, template("t", code, &[])).await.unwrap();
                }
                _ => {
                    for tenant in tenants {
                        db.template_put_for_tenants(&[tenant], template("t", code, &[])).await.unwrap();
                    }
                }
            }
        }
    })
    .await;
    for tenant in all {
        let rows = store.db.tenant_templates(tenant).await.unwrap();
        let hash = rows.rows[0].content.unwrap();
        assert_eq!((rows.rows.len(), store.db.contents(&[hash]).await.unwrap()[&hash].is_ok()), (1, true));
    }
}

async fn versions_published_at_once_agree_on_the_latest(store: &Store) {
    let results = at_once(store, 12, |db, n| async move {
        db.shop_publish("tool", &worker_core::ShopVersion::new(&n.to_string()), None, None, files("1")).await
    });
    assert!(results.await.iter().all(Result::is_ok));
    store.db.template_create(GUILD, template("$shop/tool#latest", "", &[])).await.unwrap();
    let row = store.db.template_get(GUILD, &name("$shop/tool#latest")).await.unwrap().unwrap();
    assert!(matches!(row.origin, worker_core::TemplateOrigin::Shop { version, .. } if version.as_str() == "11"));
}

async fn processes_that_start_at_once_all_start(store: &Store) {
    let empty = match store.db.backend() {
        worker_db::Backend::Sqlite => format!("{}-empty", store.url),
        worker_db::Backend::Postgres => {
            store.raw("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await;
            store.url.clone()
        }
    };
    let starts: Vec<_> = (0..6)
        .map(|_| {
            let url = empty.clone();
            tokio::spawn(async move { WorkerDb::connect(&url, config()).await.map(drop) })
        })
        .collect();
    for start in starts {
        start.await.unwrap().unwrap();
    }
}
