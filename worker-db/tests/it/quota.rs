//! What a tenant may keep, also when many write at once.

use worker_db::{DbConfig, DbError};

use crate::store::{GUILD, Store, config, scopes, set};

on_disk!(the_quota_of_bytes, quotas_hold_when_many_write_at_once);

fn with_quota(rows: u64, bytes: u64) -> DbConfig {
    let mut config = config();
    (config.kv.rows_max, config.kv.bytes_max) = (rows, bytes);
    config
}

async fn the_quota_of_bytes(store: &Store) {
    // 16 of key, 3 of scopes, 64 of value: 83.
    let (key, value, scope) = (|n: usize| format!("{n:016}"), "1".repeat(64), ["a", "bb"]);
    let db = store.again(with_quota(100, 3 * 83)).await;
    for n in 0..3 {
        db.kv_set(GUILD, set(&key(n), &value, &scope)).await.unwrap();
    }
    for result in [
        db.kv_set(GUILD, set("k", "1", &["a"])).await.map(drop),
        db.kv_incr(GUILD, "k", &scopes(&["a"]), 1.0).await.map(drop),
    ] {
        assert_eq!(result.unwrap_err().to_string(), "quota_exceeded: kv bytes");
    }
    // The same size, smaller, and back to the same size.
    db.kv_set(GUILD, set(&key(0), &"2".repeat(64), &scope)).await.unwrap();
    db.kv_set(GUILD, set(&key(0), &"2".repeat(60), &scope)).await.unwrap();
    db.kv_set(GUILD, set(&key(1), &"2".repeat(64), &scope)).await.unwrap();
    let id = db.kv_set(GUILD, set("k", "11", &["a"])).await.unwrap().id; // 4 bytes: full again
    assert!(matches!(db.kv_set_by_id(GUILD, &id, "111", None, false).await, Err(DbError::QuotaExceeded("kv bytes"))));
    db.kv_set_by_id(GUILD, &id, "1", None, false).await.unwrap();
    assert!(db.kv_delete(GUILD, &key(2), &scopes(&["bb"])).await.unwrap());
    db.kv_set(GUILD, set(&key(2), &value, &scope)).await.unwrap();

    // A quota that was lowered below what is there refuses growth alone.
    let lowered = store.again(with_quota(1, 10)).await;
    lowered.kv_set(GUILD, set(&key(1), &"3".repeat(64), &scope)).await.unwrap();
    lowered.kv_set(GUILD, set(&key(1), "3", &scope)).await.unwrap();
    assert!(lowered.kv_set(GUILD, set(&key(1), "33", &scope)).await.is_err());
    assert!(lowered.kv_delete_by_id(GUILD, &id).await.unwrap());
}

async fn quotas_hold_when_many_write_at_once(store: &Store) {
    // Two handles, as two processes have them. A record is 2 of key, 1 of scope and 1 of value.
    for (rows, bytes, fit) in [(10, 1_000, 10), (100, 30, 7)] {
        let dbs = [store.again(with_quota(rows, bytes)).await, store.again(with_quota(rows, bytes)).await];
        let writes = (10..60).map(|n| {
            let db = dbs[n % 2].clone();
            tokio::spawn(async move { db.kv_set(GUILD, set(&n.to_string(), "1", &["a"])).await })
        });
        let (mut written, mut refused) = (Vec::new(), 0);
        for (n, write) in (10..60).zip(writes.collect::<Vec<_>>()) {
            match write.await.unwrap() {
                Ok(_) => written.push(n),
                Err(DbError::QuotaExceeded(_)) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!((written.len(), refused), (fit, 50 - fit));
        assert_eq!(store.count("SELECT CAST(sum(kv_rows) AS BIGINT) FROM tenant_usage").await, fit as i64);
        let deletes = written.into_iter().map(|n| {
            let db = dbs[n % 2].clone();
            tokio::spawn(async move { db.kv_delete(GUILD, &n.to_string(), &scopes(&["a"])).await })
        });
        for delete in deletes.collect::<Vec<_>>() {
            assert!(delete.await.unwrap().unwrap());
        }
        let left = "SELECT CAST(sum(kv_rows + kv_bytes) AS BIGINT) FROM tenant_usage";
        assert_eq!(store.count(left).await, 0);
    }
}
