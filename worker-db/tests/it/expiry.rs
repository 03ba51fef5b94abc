//! Claims, fences, dead letters: what every database must do alike.

use std::sync::Arc;

use jiff::Timestamp;
use worker_core::TenantId;
use worker_db::{
    Attempt, Change, ClaimedRecord, DbError, DueCursor, DueRecord, ExpirySession, KvFindPage, KvPage, KvSet, WorkerDb,
};

use crate::store::{GUILD, LARGE, Store, USER, config, later, scopes, set, ticking};

conformance!(
    due_records_come_in_order_and_in_pages,
    a_claim_is_exclusive_until_its_lease_ends,
    what_is_not_due_cannot_be_claimed,
    a_completed_record_is_gone_with_its_scopes_and_its_quota,
    a_record_armed_anew_is_not_removed,
    the_same_expiry_written_again_is_armed_anew,
    an_increment_leaves_the_expiry_and_its_claim,
    a_deleted_and_remade_record_is_not_removed,
    a_failed_one_waits_for_its_next_try,
    a_dead_letter_is_out_of_sight_and_can_be_retried,
    a_dead_letter_counts_in_the_quota_and_can_be_dropped,
    a_dead_letter_does_not_displace_a_newer_record,
    a_restart_frees_what_the_same_name_held,
    a_renewed_lease_lasts,
    damaged_scopes_do_not_stop_an_expiry,
    tenants_of_the_same_number_do_not_share_claims,
    many_are_buried_at_once,
    letting_go_twice_counts_once,
);
mod damaged {
    use super::a_damaged_row_does_not_hide_those_behind_it;

    on_disk!(a_damaged_row_does_not_hide_those_behind_it);
}
mod by_several {
    use super::{a_late_claimant_never_removes_what_another_has, many_claimants_share_without_overlap};

    on_disk!(many_claimants_share_without_overlap, a_late_claimant_never_removes_what_another_has);
}

/// Writes a record that is due at once: the clock of the tests ticks past it.
async fn due(store: &Store, tenant: TenantId, key: &str, list: &[&str]) -> DueRecord {
    let expires_at = ticking() + jiff::SignedDuration::from_secs(4);
    let written = KvSet { expires_at: Some(expires_at), ..set(key, "1", list) };
    let id: Arc<str> = store.db.kv_set(tenant, written).await.unwrap().id.into();
    while ticking() <= expires_at {}
    DueRecord { due_at: expires_at, tenant, id }
}

async fn session(store: &Store, name: &str) -> ExpirySession {
    store.db.expiry_session(name, 0).await.unwrap()
}

async fn claim(store: &Store, who: ExpirySession, records: &[DueRecord]) -> Vec<ClaimedRecord> {
    store.db.expiry_claim(who, records, later(10)).await.unwrap()
}

async fn exists(store: &Store, key: &str) -> bool {
    store.db.kv_exists(GUILD, key, &scopes(&["a"])).await.unwrap()
}

async fn due_ids(db: &WorkerDb, until: Timestamp) -> Vec<Arc<str>> {
    let page = db.expiry_due(until, &DueCursor::before(Timestamp::MIN), 100).await.unwrap();
    page.records.into_iter().map(|record| record.id).collect()
}

async fn due_records_come_in_order_and_in_pages(store: &Store) {
    let mut expected = Vec::new();
    for (n, tenant) in [GUILD, USER, LARGE, GUILD, USER].into_iter().enumerate() {
        let at = later(10 - n as i64);
        let written = KvSet { expires_at: Some(at), ..set(&n.to_string(), "1", &["a"]) };
        expected.insert(0, store.db.kv_set(tenant, written).await.unwrap().id);
    }
    store.db.kv_set(GUILD, set("never", "1", &["a"])).await.unwrap();
    let mut seen: Vec<DueRecord> = Vec::new();
    let mut from = Some(DueCursor::before(Timestamp::MIN));
    while let Some(cursor) = from {
        let page = store.db.expiry_due(later(9), &cursor, 2).await.unwrap();
        assert!(page.records.len() <= 2);
        seen.extend(page.records);
        from = page.next;
    }
    let ids: Vec<_> = seen.iter().map(|record| record.id.to_string()).collect();
    assert_eq!(ids, expected[..4], "the fifth is due later than asked");
}

async fn a_claim_is_exclusive_until_its_lease_ends(store: &Store) {
    let record = due(store, GUILD, "key", &["a"]).await;
    let (one, other) = (session(store, "one").await, session(store, "other").await);
    let end = ticking() + jiff::SignedDuration::from_secs(5);
    let first = store.db.expiry_claim(one, std::slice::from_ref(&record), end).await.unwrap();
    assert_eq!(
        (first.len(), first[0].attempts, &*first[0].key, &*first[0].scopes),
        (1, 1, "key", &["a".to_owned()][..])
    );
    assert_eq!(claim(store, other, std::slice::from_ref(&record)).await, []);
    while ticking() <= end {}
    let second = claim(store, other, &[record]).await;
    assert_eq!(second[0].attempts, 2);
    assert_ne!(second[0].fence, first[0].fence);
    assert_eq!(store.db.expiry_complete(&first).await.unwrap(), 0, "the first has lost it");
    assert!(exists(store, "key").await);
    assert_eq!(store.db.expiry_complete(&second).await.unwrap(), 1);
    assert!(!exists(store, "key").await);
}

async fn what_is_not_due_cannot_be_claimed(store: &Store) {
    let written = KvSet { expires_at: Some(later(5)), ..set("key", "1", &["a"]) };
    let id = store.db.kv_set(GUILD, written).await.unwrap().id;
    let record = DueRecord { due_at: later(0), tenant: GUILD, id: id.into() };
    assert_eq!(claim(store, session(store, "one").await, &[record]).await, []);
}

async fn a_completed_record_is_gone_with_its_scopes_and_its_quota(store: &Store) {
    // More often than the quota has room for.
    for n in 0..25 {
        let record = due(store, GUILD, &format!("key{n}"), &["a", "b"]).await;
        let claimed = claim(store, session(store, "one").await, &[record]).await;
        assert_eq!(store.db.expiry_complete(&claimed).await.unwrap(), 1);
    }
    assert_eq!(store.db.kv_list_scopes(GUILD, KvPage::default()).await.unwrap(), [""; 0]);
    let mut all = Vec::new();
    for n in 0..10 {
        all.push(due(store, if n % 2 == 0 { GUILD } else { USER }, &n.to_string(), &["a", "b"]).await);
    }
    let claimed = claim(store, session(store, "one").await, &all).await;
    assert_eq!(claimed.len(), 10);
    assert_eq!(store.db.expiry_complete(&claimed).await.unwrap(), 10);
    assert_eq!(store.db.kv_list_scopes(USER, KvPage::default()).await.unwrap(), [""; 0]);
}

async fn a_record_armed_anew_is_not_removed(store: &Store) {
    let who = session(store, "one").await;
    for by in 0..4 {
        let record = due(store, GUILD, "key", &["a"]).await;
        let claimed = claim(store, who, std::slice::from_ref(&record)).await;
        let anew = KvSet { expires_at: Some(later(50)), ..set("key", "2", &["a"]) };
        match by {
            0 => drop(store.db.kv_set(GUILD, anew).await.unwrap()),
            1 => drop(store.db.kv_set_expiry(GUILD, "key", &scopes(&["a"]), Some(later(50))).await.unwrap()),
            2 => drop(store.db.kv_set_expiry_by_id(GUILD, &record.id, None).await.unwrap()),
            _ => drop(store.db.kv_set_by_id(GUILD, &record.id, "2", None, false).await.unwrap()),
        }
        assert_eq!(store.db.expiry_complete(&claimed).await.unwrap(), 0);
        assert!(!buried(&store.db, &claimed[0], "failed").await);
        store.db.expiry_put_off(&[(claimed[0].clone(), later(1), Attempt::Counts)]).await.unwrap();
        store.db.expiry_renew(who, &claimed, later(1)).await.unwrap();
        assert!(exists(store, "key").await);
        let due = store.db.expiry_due(later(100), &DueCursor::before(Timestamp::MIN), 10).await.unwrap().records;
        assert!(due.iter().all(|record| record.due_at == later(50)), "nothing of the claim is left: {due:?}");
    }
}

async fn the_same_expiry_written_again_is_armed_anew(store: &Store) {
    // The clock may have been set back between the two writes: then the time is in the future once more.
    let record = due(store, GUILD, "key", &["a"]).await;
    let claimed = claim(store, session(store, "one").await, std::slice::from_ref(&record)).await;
    let earlier = store_with_an_earlier_clock(store).await;
    if let Some(db) = earlier {
        let again = KvSet { expires_at: Some(record.due_at), ..set("key", "2", &["a"]) };
        db.kv_set(GUILD, again).await.unwrap();
        assert_eq!(store.db.expiry_complete(&claimed).await.unwrap(), 0);
        assert!(exists(store, "key").await);
    }
}

async fn store_with_an_earlier_clock(store: &Store) -> Option<WorkerDb> {
    if store.url == "sqlite::memory:" {
        return None;
    }
    Some(store.again(worker_db::DbConfig { clock: (|| later(-1)).into(), ..config() }).await)
}

async fn an_increment_leaves_the_expiry_and_its_claim(store: &Store) {
    let record = due(store, GUILD, "key", &["a"]).await;
    let claimed = claim(store, session(store, "one").await, &[record]).await;
    assert_eq!(store.db.kv_incr(GUILD, "key", &scopes(&["a"]), 1.0).await.unwrap(), 2.0);
    assert_eq!(store.db.expiry_complete(&claimed).await.unwrap(), 1);
    assert!(!exists(store, "key").await);
}

async fn a_deleted_and_remade_record_is_not_removed(store: &Store) {
    let record = due(store, GUILD, "key", &["a"]).await;
    let who = session(store, "one").await;
    let claimed = claim(store, who, std::slice::from_ref(&record)).await;
    assert!(store.db.kv_delete(GUILD, "key", &scopes(&["a"])).await.unwrap());
    store.db.kv_set(GUILD, set("key", "2", &["a"])).await.unwrap();
    assert_eq!(store.db.expiry_complete(&claimed).await.unwrap(), 0);
    assert!(exists(store, "key").await);
    assert_eq!(claim(store, who, &[record]).await, []);
}

async fn a_failed_one_waits_for_its_next_try(store: &Store) {
    let record = due(store, GUILD, "key", &["a"]).await;
    let who = session(store, "one").await;
    let claimed = claim(store, who, std::slice::from_ref(&record)).await;
    let next = ticking() + jiff::SignedDuration::from_secs(6);
    store.db.expiry_put_off(&[(claimed[0].clone(), next, Attempt::Counts)]).await.unwrap();
    assert_eq!(claim(store, who, std::slice::from_ref(&record)).await, []);
    let listed = store.db.expiry_list(Some(GUILD), None, 10).await.unwrap();
    assert_eq!((listed[0].attempts, listed[0].due_at, listed[0].leased), (1, next, false));
    while ticking() <= next {}
    let claimed = claim(store, who, std::slice::from_ref(&record)).await;
    assert_eq!(claimed[0].attempts, 2);
    store.db.expiry_put_off(&[(claimed[0].clone(), ticking(), Attempt::GivenBack)]).await.unwrap();
    assert_eq!(claim(store, who, &[record]).await[0].attempts, 2, "the attempt was given back");
}

async fn buried(db: &WorkerDb, record: &ClaimedRecord, error: &str) -> bool {
    db.expiry_bury(&[(record.clone(), error.to_owned())]).await.unwrap().contains(&record.id)
}

async fn bury(store: &Store, key: &str) -> DueRecord {
    let record = due(store, GUILD, key, &["a", "b"]).await;
    let claimed = claim(store, session(store, "one").await, std::slice::from_ref(&record)).await;
    assert!(buried(&store.db, &claimed[0], "it failed\0 badly").await);
    assert!(!buried(&store.db, &claimed[0], "again").await);
    record
}

async fn a_dead_letter_is_out_of_sight_and_can_be_retried(store: &Store) {
    let record = bury(store, "key").await;
    let a = &scopes(&["a"]);
    assert!(!exists(store, "key").await);
    assert_eq!(store.db.kv_get(GUILD, "key", a).await.unwrap(), None);
    assert_eq!(store.db.kv_get_by_id(GUILD, &record.id).await.unwrap(), None);
    assert_eq!(store.db.kv_find(GUILD, "%", a, KvFindPage::default()).await.unwrap(), []);
    assert_eq!(store.db.kv_keys(GUILD, a, KvPage::default()).await.unwrap(), [""; 0]);
    assert_eq!(store.db.kv_list_scopes(GUILD, KvPage::default()).await.unwrap(), [""; 0]);
    assert_eq!(due_ids(&store.db, later(1_000)).await, []);

    let dead = store.db.dead_list(Some(GUILD), None, 10).await.unwrap();
    assert_eq!((dead.len(), &*dead[0].key, &*dead[0].error, dead[0].attempts), (1, "key", "it failed badly", 1));
    assert_eq!(store.db.dead_list(None, None, 10).await.unwrap(), dead);
    assert_eq!(store.db.dead_list(None, dead.last(), 10).await.unwrap(), []);
    assert_eq!(store.db.dead_list(Some(USER), None, 10).await.unwrap(), []);

    let mut changes = store.db.changes();
    assert!(!store.db.expiry_retry(USER, &record.id).await.unwrap());
    assert!(store.db.expiry_retry(GUILD, &record.id).await.unwrap());
    assert!(matches!(changes.try_recv().unwrap(), Change::Expiry { expires_at: Some(_), .. }));
    assert!(exists(store, "key").await);
    assert_eq!(store.db.kv_find(GUILD, "k%", &scopes(&["a", "b"]), KvFindPage::default()).await.unwrap().len(), 1);
    let claimed = claim(store, session(store, "one").await, &[record]).await;
    assert_eq!(claimed[0].attempts, 1);
    assert_eq!(store.db.expiry_complete(&claimed).await.unwrap(), 1);
    assert_eq!(store.db.dead_list(None, None, 10).await.unwrap(), []);
}

async fn a_dead_letter_counts_in_the_quota_and_can_be_dropped(store: &Store) {
    let record = bury(store, "key").await;
    for n in 0..19 {
        store.db.kv_set(GUILD, set(&n.to_string(), "1", &["a"])).await.unwrap();
    }
    let full = store.db.kv_set(GUILD, set("more", "1", &["a"])).await.unwrap_err();
    assert!(matches!(full, DbError::QuotaExceeded("kv rows")));
    assert!(!store.db.dead_drop(USER, &record.id).await.unwrap());
    assert!(store.db.dead_drop(GUILD, &record.id).await.unwrap());
    assert!(!store.db.dead_drop(GUILD, &record.id).await.unwrap());
    store.db.kv_set(GUILD, set("more", "1", &["a"])).await.unwrap();
}

async fn a_dead_letter_does_not_displace_a_newer_record(store: &Store) {
    let record = bury(store, "key").await;
    let made = store.db.kv_cas(GUILD, set("key", "2", &["a", "b"]), 0).await.unwrap();
    assert!(made.ok && !made.exists, "for the template there was none");
    let refused = store.db.expiry_retry(GUILD, &record.id).await.unwrap_err();
    assert!(matches!(refused, DbError::Conflict(_)), "{refused}");
    assert_eq!(store.db.kv_get(GUILD, "key", &scopes(&["a"])).await.unwrap().unwrap().value_json, "2");
    assert!(store.db.kv_delete(GUILD, "key", &scopes(&["a"])).await.unwrap());
    assert!(store.db.expiry_retry(GUILD, &record.id).await.unwrap());
}

async fn a_restart_frees_what_the_same_name_held(store: &Store) {
    let record = due(store, GUILD, "key", &["a"]).await;
    let (one, other) = (session(store, "one").await, session(store, "other").await);
    assert_eq!(claim(store, one, std::slice::from_ref(&record)).await.len(), 1);
    store.db.expiry_process_start("other").await.unwrap();
    assert_eq!(claim(store, other, std::slice::from_ref(&record)).await, [], "another's lease is none of its business");
    let other = session(store, "other").await;
    // The worker, and then the whole process.
    let one = session(store, "one").await;
    assert_eq!(claim(store, other, std::slice::from_ref(&record)).await[0].attempts, 2);
    store.db.expiry_process_start("other").await.unwrap();
    assert_eq!(claim(store, one, &[record]).await[0].attempts, 3);
}

async fn a_renewed_lease_lasts(store: &Store) {
    let record = due(store, GUILD, "key", &["a"]).await;
    let (one, other) = (session(store, "one").await, session(store, "other").await);
    let end = ticking() + jiff::SignedDuration::from_secs(8);
    let claimed = store.db.expiry_claim(one, std::slice::from_ref(&record), end).await.unwrap();
    store.db.expiry_renew(other, &claimed, later(9)).await.unwrap();
    assert_eq!(store.db.expiry_list(None, None, 1).await.unwrap()[0].due_at, end, "only its owner renews it");
    store.db.expiry_renew(one, &claimed, later(9)).await.unwrap();
    while ticking() <= end {}
    assert_eq!(claim(store, other, &[record]).await, []);
    assert_eq!(store.db.expiry_complete(&claimed).await.unwrap(), 1);
}

async fn damaged_scopes_do_not_stop_an_expiry(store: &Store) {
    if store.url == "sqlite::memory:" {
        return;
    }
    let record = due(store, GUILD, "key", &["a"]).await;
    store.raw("UPDATE kv_records SET scopes = 'x'").await;
    let claimed = claim(store, session(store, "one").await, &[record]).await;
    assert_eq!(claimed[0].scopes, [""; 0]);
    assert_eq!(store.db.expiry_complete(&claimed).await.unwrap(), 1);
    assert!(!exists(store, "key").await);
}

async fn tenants_of_the_same_number_do_not_share_claims(store: &Store) {
    let record = due(store, GUILD, "key", &["a"]).await;
    let wrong = DueRecord { tenant: USER, ..record.clone() };
    let who = session(store, "one").await;
    assert_eq!(claim(store, who, &[wrong]).await, []);
    let claimed = claim(store, who, &[record]).await;
    let wrong = ClaimedRecord { tenant: USER, ..claimed[0].clone() };
    assert_eq!(store.db.expiry_complete(std::slice::from_ref(&wrong)).await.unwrap(), 0);
    assert!(!buried(&store.db, &wrong, "").await);
    assert_eq!(store.db.expiry_complete(&claimed).await.unwrap(), 1);
}

async fn many_claimants_share_without_overlap(store: &Store) {
    let mut all = Vec::new();
    for n in 0..18 {
        all.push(due(store, GUILD, &n.to_string(), &["a"]).await);
    }
    let tasks: Vec<_> = claimants(store, &all).await;
    let mut ids = Vec::new();
    for task in tasks {
        ids.extend(task.await.unwrap().into_iter().map(|record: ClaimedRecord| record.id));
    }
    ids.sort_unstable();
    let mut expected: Vec<_> = all.into_iter().map(|record| record.id).collect();
    expected.sort_unstable();
    // A row that was locked at the moment of a claim is left to who locked it, so none is missing either.
    assert_eq!(ids, expected);
}

async fn claimants(store: &Store, all: &[DueRecord]) -> Vec<tokio::task::JoinHandle<Vec<ClaimedRecord>>> {
    let mut tasks = Vec::new();
    for n in 0..6 {
        let (db, all) = (store.again(config()).await, all.to_vec());
        tasks.push(tokio::spawn(async move {
            let who = db.expiry_session("p", n).await.unwrap();
            db.expiry_claim(who, &all, later(10)).await.unwrap()
        }));
    }
    tasks
}

async fn a_late_claimant_never_removes_what_another_has(store: &Store) {
    let record = due(store, GUILD, "key", &["a"]).await;
    let (one, other) = (store.again(config()).await, store.again(config()).await);
    let first = one.expiry_session("one", 0).await.unwrap();
    let second = other.expiry_session("other", 0).await.unwrap();
    let end = ticking() + jiff::SignedDuration::from_secs(5);
    let stale = one.expiry_claim(first, std::slice::from_ref(&record), end).await.unwrap();
    while ticking() <= end {}
    let current = other.expiry_claim(second, &[record], later(10)).await.unwrap();
    // The stalled one wakes up.
    one.expiry_renew(first, &stale, later(20)).await.unwrap();
    assert!(!buried(&one, &stale[0], "late").await);
    one.expiry_put_off(&[(stale[0].clone(), later(0), Attempt::Counts)]).await.unwrap();
    assert_eq!(one.expiry_complete(&stale).await.unwrap(), 0);
    assert_eq!(store.db.expiry_list(None, None, 1).await.unwrap()[0].due_at, later(10));
    assert_eq!(other.expiry_complete(&current).await.unwrap(), 1);
}

async fn many_are_buried_at_once(store: &Store) {
    let mut all = Vec::new();
    for n in 0..6 {
        all.push(due(store, if n % 2 == 0 { GUILD } else { USER }, &n.to_string(), &["a", "b"]).await);
    }
    let claimed = claim(store, session(store, "one").await, &all).await;
    assert!(store.db.kv_delete(GUILD, "0", &scopes(&["a"])).await.unwrap());
    let letters: Vec<_> = claimed.iter().map(|record| (record.clone(), format!("failed {}", record.key))).collect();
    let buried = store.db.expiry_bury(&letters).await.unwrap();
    let mut keys: Vec<_> = claimed.iter().filter(|one| buried.contains(&one.id)).map(|one| &*one.key).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["1", "2", "3", "4", "5"]);
    let dead = store.db.dead_list(None, None, 10).await.unwrap();
    assert!(dead.len() == 5 && dead.iter().all(|letter| letter.error == format!("failed {}", letter.key)), "{dead:?}");
    assert_eq!(store.db.kv_list_scopes(USER, KvPage::default()).await.unwrap(), [""; 0]);
}

/// As when the answer to the first time was lost.
async fn letting_go_twice_counts_once(store: &Store) {
    let record = due(store, GUILD, "key", &["a"]).await;
    let who = session(store, "one").await;
    let claimed = claim(store, who, std::slice::from_ref(&record)).await;
    for _ in 0..2 {
        store.db.expiry_put_off(&[(claimed[0].clone(), ticking(), Attempt::GivenBack)]).await.unwrap();
    }
    assert_eq!(store.db.expiry_list(None, None, 1).await.unwrap()[0].attempts, 0);
    assert_eq!(claim(store, who, &[record]).await[0].attempts, 1);
}

async fn a_damaged_row_does_not_hide_those_behind_it(store: &Store) {
    for n in 0..5 {
        due(store, GUILD, &n.to_string(), &["a"]).await;
    }
    // A kind of tenant that this program does not know.
    store.raw("UPDATE kv_records SET tenant_kind = 7 WHERE key = '1'").await;
    let first = store.db.expiry_due(later(100), &DueCursor::before(Timestamp::MIN), 2).await.unwrap();
    assert_eq!(first.records.len(), 1);
    let second = store.db.expiry_due(later(100), &first.next.unwrap(), 10).await.unwrap();
    assert_eq!((second.records.len(), second.next), (3, None));
}
