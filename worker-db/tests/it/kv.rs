//! Records, by the rules of the template API, section 4.

use jiff::{Timestamp, ToSpan};
use proptest::strategy::{Strategy, ValueTree};
use proptest::string::string_regex;
use proptest::test_runner::TestRunner;
use worker_db::{Change, DbError, KvFindPage, KvPage, KvSet, Scopes};

use crate::store::{GUILD, Store, config, later, scopes, set};

conformance!(
    a_record_is_read_as_it_was_written,
    scopes_are_a_set,
    the_exact_set_comes_first_then_the_latest,
    set_writes_the_exact_set_only,
    delete_and_set_expiry_refuse_what_is_ambiguous,
    cas_writes_only_the_expected_version,
    incr_adds_and_keeps_the_rest,
    by_id,
    expiries_are_rounded_up_and_must_be_in_the_future,
    expiry_changes_are_announced,
    keys_and_scopes_are_listed_in_pages,
    a_list_without_options_ends_at_its_cap,
    find_pages_by_key_and_id,
    find_ends_a_page_by_bytes,
    patterns,
    find_gives_what_the_language_says,
    limits_accept_n_and_refuse_n_plus_1,
    the_quota_of_rows,
    resume_records_come_in_order_of_creation,
);

async fn a_record_is_read_as_it_was_written(store: &Store) {
    let json = r#"{"text":"\u0000 ß 🦀","n":[1,2.5,null]}"#;
    let done = store.db.kv_set(GUILD, set("key", json, &["b", "a"])).await.unwrap();
    assert!(!done.existed);
    assert_eq!((done.id.len(), done.version), (64, 1));
    let record = store.db.kv_get(GUILD, "key", &scopes(&["a", "b"])).await.unwrap().unwrap();
    assert_eq!((record.id.as_str(), record.key.as_str(), record.value_json.as_str()), (done.id.as_str(), "key", json));
    assert_eq!(record.scopes, ["a", "b"]);
    assert_eq!((record.expires_at, record.resume, record.version), (None, false, 1));
    assert_eq!(record.created_at, record.last_updated_at);

    let again = KvSet { expires_at: Some(later(1_000)), resume: true, ..set("key", "2", &["a", "b"]) };
    let done_again = store.db.kv_set(GUILD, again).await.unwrap();
    assert!(done_again.existed);
    assert_eq!((done_again.id, done_again.version), (done.id, 2));
    let rewritten = store.db.kv_get(GUILD, "key", &scopes(&["a", "b"])).await.unwrap().unwrap();
    assert_eq!(
        (rewritten.value_json.as_str(), rewritten.expires_at, rewritten.resume),
        ("2", Some(later(1_000)), true)
    );
    assert_eq!(rewritten.created_at, record.created_at);
    assert!(rewritten.last_updated_at > record.last_updated_at);

    // What a set does not say, it clears.
    store.db.kv_set(GUILD, set("key", "3", &["a", "b"])).await.unwrap();
    let cleared = store.db.kv_get(GUILD, "key", &scopes(&["a", "b"])).await.unwrap().unwrap();
    assert_eq!((cleared.expires_at, cleared.resume), (None, false));
}

async fn scopes_are_a_set(store: &Store) {
    let first = store.db.kv_set(GUILD, set("key", "1", &["a", "b", "a"])).await.unwrap();
    let second = store.db.kv_set(GUILD, set("key", "2", &["b", "a"])).await.unwrap();
    assert_eq!(first.id, second.id);
    let none: [&str; 0] = [];
    let error = Scopes::new(none, &config().kv).unwrap_err();
    assert_eq!(error.to_string(), "Unscoped operations are not allowed");
}

async fn the_exact_set_comes_first_then_the_latest(store: &Store) {
    let get = async |list: &[&str]| {
        store.db.kv_get(GUILD, "key", &scopes(list)).await.unwrap().map(|record| record.value_json)
    };
    let exists = async |list: &[&str]| store.db.kv_exists(GUILD, "key", &scopes(list)).await.unwrap();
    store.db.kv_set(GUILD, set("key", "1", &["a", "b"])).await.unwrap();
    store.db.kv_set(GUILD, set("key", "2", &["a", "c"])).await.unwrap();
    store.db.kv_set(GUILD, set("other", "9", &["a", "d"])).await.unwrap();
    assert_eq!(get(&["a"]).await.as_deref(), Some("2"));
    store.db.kv_set(GUILD, set("key", "3", &["a", "b"])).await.unwrap();
    assert_eq!(get(&["a"]).await.as_deref(), Some("3"));
    store.db.kv_set(GUILD, set("key", "4", &["a"])).await.unwrap();
    store.db.kv_set(GUILD, set("key", "5", &["a", "b"])).await.unwrap();
    assert_eq!(get(&["a"]).await.as_deref(), Some("4"));
    assert_eq!(get(&["c"]).await.as_deref(), Some("2"));
    for (list, there) in
        [(&["a"][..], true), (&["c", "a"], true), (&["b", "c"], false), (&["d"], false), (&["a", "z"], false)]
    {
        assert_eq!(exists(list).await, there, "{list:?}");
        assert_eq!(get(list).await.is_some(), there, "{list:?}");
    }
}

async fn set_writes_the_exact_set_only(store: &Store) {
    let large = store.db.kv_set(GUILD, set("key", "1", &["a", "b"])).await.unwrap();
    let small = store.db.kv_set(GUILD, set("key", "2", &["a"])).await.unwrap();
    assert_ne!(large.id, small.id);
    assert!(!small.existed);
    assert_eq!(store.db.kv_get_by_id(GUILD, &large.id).await.unwrap().unwrap().value_json, "1");
}

async fn delete_and_set_expiry_refuse_what_is_ambiguous(store: &Store) {
    let a = &scopes(&["a"]);
    assert!(!store.db.kv_delete(GUILD, "key", a).await.unwrap());
    assert!(!store.db.kv_set_expiry(GUILD, "key", a, None).await.unwrap());

    store.db.kv_set(GUILD, set("key", "1", &["a", "b"])).await.unwrap();
    assert!(store.db.kv_set_expiry(GUILD, "key", a, Some(later(900))).await.unwrap());
    let record = store.db.kv_get(GUILD, "key", a).await.unwrap().unwrap();
    assert_eq!((record.expires_at, record.version), (Some(later(900)), 1));

    store.db.kv_set(GUILD, set("key", "2", &["a", "c"])).await.unwrap();
    for error in [
        store.db.kv_delete(GUILD, "key", a).await.unwrap_err(),
        store.db.kv_set_expiry(GUILD, "key", a, None).await.unwrap_err(),
    ] {
        assert!(matches!(error, DbError::Ambiguous { .. }), "{error}");
        assert!(error.to_string().starts_with("ambiguous: "));
    }
    assert_eq!(store.db.kv_find(GUILD, "%", a, KvFindPage::default()).await.unwrap().len(), 2);

    store.db.kv_set(GUILD, set("key", "3", &["a"])).await.unwrap();
    assert!(store.db.kv_delete(GUILD, "key", a).await.unwrap());
    let left: Vec<_> = store.db.kv_find(GUILD, "%", a, KvFindPage::default()).await.unwrap();
    assert!(left.iter().all(|record| record.scopes.len() == 2) && left.len() == 2);
    assert!(store.db.kv_delete(GUILD, "key", &scopes(&["b"])).await.unwrap());
    assert!(store.db.kv_delete(GUILD, "key", a).await.unwrap());
    assert!(store.db.kv_list_scopes(GUILD, KvPage::default()).await.unwrap().is_empty());
}

async fn cas_writes_only_the_expected_version(store: &Store) {
    let cas = async |json: &str, version| store.db.kv_cas(GUILD, set("key", json, &["a"]), version).await.unwrap();
    let refused = cas("1", 1).await;
    assert_eq!((refused.ok, refused.exists, refused.id, refused.version), (false, false, None, 0));
    let made = cas("1", 0).await;
    assert_eq!((made.ok, made.exists, made.version), (true, false, 1));
    let refused = cas("2", 0).await;
    assert_eq!((refused.ok, refused.exists, &refused.id, refused.version), (false, true, &made.id, 1));
    let done = cas("2", 1).await;
    assert_eq!((done.ok, done.exists, &done.id, done.version), (true, true, &made.id, 2));
    assert!(!cas("3", 1).await.ok);
    assert_eq!(store.db.kv_get(GUILD, "key", &scopes(&["a"])).await.unwrap().unwrap().value_json, "2");
}

async fn incr_adds_and_keeps_the_rest(store: &Store) {
    let a = &scopes(&["a"]);
    let json = async || store.db.kv_get(GUILD, "n", a).await.unwrap().unwrap().value_json;
    assert_eq!(store.db.kv_incr(GUILD, "n", a, 1.0).await.unwrap(), 1.0);
    assert_eq!(json().await, "1");
    assert_eq!(store.db.kv_incr(GUILD, "n", a, 0.5).await.unwrap(), 1.5);
    assert_eq!(json().await, "1.5");
    assert_eq!(store.db.kv_incr(GUILD, "n", a, -2.5).await.unwrap(), -1.0);
    assert_eq!(json().await, "-1");
    store
        .db
        .kv_set(GUILD, KvSet { expires_at: Some(later(900)), resume: true, ..set("n", "9007199254740990", &["a"]) })
        .await
        .unwrap();
    store.db.kv_incr(GUILD, "n", a, 1.0).await.unwrap();
    assert_eq!(json().await, "9007199254740991");
    let record = store.db.kv_get(GUILD, "n", a).await.unwrap().unwrap();
    assert_eq!((record.expires_at, record.resume, record.version), (Some(later(900)), true, 5));
    store.db.kv_incr(GUILD, "n", a, 1e300).await.unwrap();
    assert_eq!(json().await.parse::<f64>().unwrap(), 1e300);

    for bad in [f64::NAN, f64::INFINITY] {
        assert!(matches!(
            store.db.kv_incr(GUILD, "n", a, bad).await,
            Err(DbError::InvalidArgument { field: "by", .. })
        ));
    }
    for bad in [r#""1""#, "null", "[1]", "true"] {
        store.db.kv_set(GUILD, set("text", bad, &["a"])).await.unwrap();
        let error = store.db.kv_incr(GUILD, "text", a, 1.0).await.unwrap_err();
        assert!(error.to_string().starts_with("invalid_argument: "), "{bad}: {error}");
    }
    // Like `set`, it never touches a record with more scopes.
    store.db.kv_set(GUILD, set("m", "10", &["a", "b"])).await.unwrap();
    assert_eq!(store.db.kv_incr(GUILD, "m", a, 1.0).await.unwrap(), 1.0);
}

async fn by_id(store: &Store) {
    let id = store.db.kv_set(GUILD, set("key", "1", &["a"])).await.unwrap().id;
    let done = store.db.kv_set_by_id(GUILD, &id, "22", Some(later(900)), true).await.unwrap();
    assert_eq!((done.existed, done.id.as_str(), done.version), (true, id.as_str(), 2));
    let record = store.db.kv_get_by_id(GUILD, &id).await.unwrap().unwrap();
    assert_eq!((record.value_json.as_str(), record.expires_at, record.resume), ("22", Some(later(900)), true));
    assert!(store.db.kv_set_expiry_by_id(GUILD, &id, None).await.unwrap());
    let record = store.db.kv_get_by_id(GUILD, &id).await.unwrap().unwrap();
    assert_eq!((record.expires_at, record.resume, record.version), (None, true, 2));
    assert!(store.db.kv_delete_by_id(GUILD, &id).await.unwrap());

    assert_eq!(store.db.kv_get_by_id(GUILD, &id).await.unwrap(), None);
    assert!(matches!(store.db.kv_set_by_id(GUILD, &id, "1", None, false).await, Err(DbError::NotFound(_))));
    assert!(!store.db.kv_set_expiry_by_id(GUILD, &id, None).await.unwrap());
    assert!(!store.db.kv_delete_by_id(GUILD, &id).await.unwrap());
    assert!(!store.db.kv_exists(GUILD, "key", &scopes(&["a"])).await.unwrap());
}

async fn expiries_are_rounded_up_and_must_be_in_the_future(store: &Store) {
    let at = later(900) + 1_001.nanoseconds();
    let id = store.db.kv_set(GUILD, KvSet { expires_at: Some(at), ..set("key", "1", &["a"]) }).await.unwrap().id;
    let stored = store.db.kv_get_by_id(GUILD, &id).await.unwrap().unwrap().expires_at.unwrap();
    assert_eq!(stored, later(900) + 2.microseconds());

    let past = Some(later(-1));
    for result in [
        store.db.kv_set(GUILD, KvSet { expires_at: past, ..set("key", "2", &["a"]) }).await.map(drop),
        store.db.kv_cas(GUILD, KvSet { expires_at: past, ..set("key", "2", &["a"]) }, 1).await.map(drop),
        store.db.kv_set_by_id(GUILD, &id, "2", past, false).await.map(drop),
        store.db.kv_set_expiry(GUILD, "key", &scopes(&["a"]), past).await.map(drop),
        store.db.kv_set_expiry_by_id(GUILD, &id, past).await.map(drop),
    ] {
        assert!(result.unwrap_err().to_string().starts_with("invalid_argument: expires_at"));
    }
    assert_eq!(store.db.kv_get_by_id(GUILD, &id).await.unwrap().unwrap().version, 1);

    // As late as there are times.
    store.db.kv_set_expiry_by_id(GUILD, &id, Some(Timestamp::MAX)).await.unwrap();
    assert!(store.db.kv_get_by_id(GUILD, &id).await.unwrap().unwrap().expires_at.unwrap() > later(1_000_000));
}

async fn expiry_changes_are_announced(store: &Store) {
    let mut changes = store.db.changes();
    let mut next = move || match changes.try_recv() {
        Ok(Change::Expiry { tenant, id, expires_at }) if tenant == GUILD => Some((id, expires_at)),
        Ok(other) => panic!("{other:?}"),
        Err(_) => None,
    };
    let with = |hours| KvSet { expires_at: Some(later(hours)), ..set("key", "1", &["a"]) };
    let id = store.db.kv_set(GUILD, set("key", "1", &["a"])).await.unwrap().id;
    assert_eq!(next(), None);
    store.db.kv_set(GUILD, with(900)).await.unwrap();
    assert_eq!(next(), Some((id.as_str().into(), Some(later(900)))));
    store.db.kv_set(GUILD, with(900)).await.unwrap();
    store.db.kv_incr(GUILD, "key", &scopes(&["a"]), 1.0).await.unwrap();
    assert_eq!(next(), None, "the expiry is what it was");
    store.db.kv_cas(GUILD, with(901), 4).await.unwrap();
    assert_eq!(next(), Some((id.as_str().into(), Some(later(901)))));
    store.db.kv_set_expiry(GUILD, "key", &scopes(&["a"]), None).await.unwrap();
    assert_eq!(next(), Some((id.as_str().into(), None)));
    store.db.kv_set_by_id(GUILD, &id, "1", Some(later(902)), false).await.unwrap();
    assert_eq!(next(), Some((id.as_str().into(), Some(later(902)))));
    store.db.kv_set_expiry_by_id(GUILD, &id, Some(later(903))).await.unwrap();
    assert_eq!(next(), Some((id.as_str().into(), Some(later(903)))));
    store.db.kv_delete_by_id(GUILD, &id).await.unwrap();
    assert_eq!(next(), Some((id.as_str().into(), None)));
    store.db.kv_set(GUILD, set("key", "1", &["a"])).await.unwrap();
    store.db.kv_delete(GUILD, "key", &scopes(&["a"])).await.unwrap();
    assert_eq!(next(), None);
}

async fn keys_and_scopes_are_listed_in_pages(store: &Store) {
    // Sorted by bytes: capitals first, what is not ASCII last, whatever the locale of the database.
    let sorted = ["B", "Z", "a", "a b", "b", "z", "ä", "🦀"];
    for key in sorted.iter().rev() {
        store.db.kv_set(GUILD, set(key, "1", &["s", "t"])).await.unwrap();
        store.db.kv_set(GUILD, set(key, "1", &["s", "u"])).await.unwrap();
    }
    store.db.kv_set(GUILD, set("hidden", "1", &["x"])).await.unwrap();
    let keys = async |list: &[&str], page| store.db.kv_keys(GUILD, &scopes(list), page).await;
    assert_eq!(keys(&["s"], KvPage::default()).await.unwrap(), sorted);
    assert_eq!(keys(&["s", "u"], KvPage::default()).await.unwrap(), sorted);
    assert_eq!(keys(&["x"], KvPage::default()).await.unwrap(), ["hidden"]);
    assert!(keys(&["x", "s"], KvPage::default()).await.unwrap().is_empty());
    let page = |limit, after: Option<&str>| KvPage { limit, after: after.map(Into::into) };
    assert_eq!(keys(&["s"], page(Some(3), None)).await.unwrap(), sorted[..3]);
    assert_eq!(keys(&["s"], page(Some(5), Some("a"))).await.unwrap(), sorted[3..]);
    assert_eq!(keys(&["s"], page(None, Some("z"))).await.unwrap(), sorted[6..]);
    assert!(keys(&["s"], page(Some(1), Some("🦀"))).await.unwrap().is_empty());

    let list = async |page| store.db.kv_list_scopes(GUILD, page).await;
    assert_eq!(list(KvPage::default()).await.unwrap(), ["s", "t", "u", "x"]);
    assert_eq!(list(page(Some(2), Some("s"))).await.unwrap(), ["t", "u"]);
    for limit in [0, 6] {
        for error in [keys(&["s"], page(Some(limit), None)).await, list(page(Some(limit), None)).await] {
            assert!(matches!(error, Err(DbError::InvalidArgument { field: "limit", .. })), "{limit}");
        }
    }
}

async fn a_list_without_options_ends_at_its_cap(store: &Store) {
    let whole = KvPage::default;
    for n in 0..12 {
        store.db.kv_set(GUILD, set(&format!("k{n}"), "1", &["s", &format!("t{n}")])).await.unwrap();
    }
    assert_eq!(store.db.kv_keys(GUILD, &scopes(&["s"]), whole()).await.unwrap().len(), 12);
    assert!(matches!(store.db.kv_list_scopes(GUILD, whole()).await, Err(DbError::TooLarge { max: 12, .. })));
    store.db.kv_delete(GUILD, "k0", &scopes(&["t0"])).await.unwrap();
    assert_eq!(store.db.kv_list_scopes(GUILD, whole()).await.unwrap().len(), 12);
    for key in ["a", "b"] {
        store.db.kv_set(GUILD, set(key, "1", &["s"])).await.unwrap();
    }
    assert!(matches!(store.db.kv_keys(GUILD, &scopes(&["s"]), whole()).await, Err(DbError::TooLarge { max: 12, .. })));
    let page = KvPage { limit: Some(5), after: None };
    assert_eq!(store.db.kv_keys(GUILD, &scopes(&["s"]), page).await.unwrap().len(), 5);
}

async fn find_pages_by_key_and_id(store: &Store) {
    for key in ["b", "a", "c"] {
        for scope in ["x", "y", "z"] {
            store.db.kv_set(GUILD, set(key, "1", &["s", scope])).await.unwrap();
        }
    }
    let find = async |page| store.db.kv_find(GUILD, "%", &scopes(&["s"]), page).await;
    let all = find(KvFindPage::default()).await.unwrap();
    assert_eq!(all.len(), 9);
    assert!(all.is_sorted_by_key(|record| (record.key.clone(), record.id.clone())));
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = find(KvFindPage { limit: Some(2), after: after.take() }).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some((last.key.clone(), last.id.clone()));
        paged.extend(page);
    }
    assert_eq!(paged, all);
    assert!(matches!(find(KvFindPage { limit: Some(6), after: None }).await, Err(DbError::InvalidArgument { .. })));
    let of_two = store.db.kv_find(GUILD, "%", &scopes(&["y", "s"]), KvFindPage::default()).await.unwrap();
    assert_eq!(of_two.iter().map(|record| record.key.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    for (key, scope) in [("d", "x"), ("d", "y"), ("d", "z")] {
        store.db.kv_set(GUILD, set(key, "1", &["s", scope])).await.unwrap();
    }
    assert_eq!(find(KvFindPage::default()).await.unwrap().len(), 12);
    store.db.kv_set(GUILD, set("e", "1", &["s"])).await.unwrap();
    assert!(matches!(find(KvFindPage::default()).await, Err(DbError::TooLarge { max: 12, .. })));
}

async fn find_ends_a_page_by_bytes(store: &Store) {
    let json = format!("\"{}\"", "x".repeat(48)); // 50 bytes
    for key in ["a", "b", "c", "d"] {
        store.db.kv_set(GUILD, set(key, &json, &["s"])).await.unwrap();
    }
    let find = async |limit| store.db.kv_find(GUILD, "%", &scopes(&["s"]), KvFindPage { limit, after: None }).await;
    assert_eq!(find(Some(5)).await.unwrap().len(), 2, "a page ends at 100 bytes");
    assert_eq!(find(None).await.unwrap().len(), 4, "200 bytes in all are allowed");
    store.db.kv_set(GUILD, set("e", "1", &["s"])).await.unwrap();
    assert!(matches!(find(None).await, Err(DbError::TooLarge { max: 200, .. })));
}

async fn patterns(store: &Store) {
    let keys = ["abc", "ABD", "a_c", "a%c", "a\\c", "ÄÖ", "äx", "İ", "ΣΑΣ", "日本"];
    for key in keys {
        store.db.kv_set(GUILD, set(key, "1", &["s"])).await.unwrap();
    }
    for (query, expected) in [
        ("%%", &keys[..]),
        ("abc", &["abc"]),
        ("AB_", &["abc", "ABD"]),
        ("a_c", &["abc", "a_c", "a%c", "a\\c"]),
        (r"a\_c", &["a_c"]),
        (r"a\%c", &["a%c"]),
        (r"a\\c", &["a\\c"]),
        (r"\a\b\c", &["abc"]),
        ("äö", &["ÄÖ"]),
        ("Ä%", &["ÄÖ", "äx"]),
        ("__", &["ÄÖ", "äx", "İ", "日本"]),
        ("σασ", &["ΣΑΣ"]),
        ("日_", &["日本"]),
        ("%B%", &["abc", "ABD"]),
        ("", &[]),
        ("a", &[]),
        ("\\", &[]),
        ("a\0%", &[]),
        ("ab%zz%", &[]),
    ] {
        let found = store.db.kv_find(GUILD, query, &scopes(&["s"]), KvFindPage::default()).await.unwrap();
        let mut found: Vec<_> = found.into_iter().map(|record| record.key).collect();
        let mut expected = expected.to_vec();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{query}");
    }
    let long = store.db.kv_find(GUILD, &"_".repeat(33), &scopes(&["s"]), KvFindPage::default()).await;
    assert!(matches!(long, Err(DbError::TooLarge { max: 32, .. })));
}

/// Both databases against the rule in a few lines of Rust.
async fn find_gives_what_the_language_says(store: &Store) {
    let mut runner = TestRunner::deterministic();
    let mut any = |text: &str| string_regex(text).unwrap().new_tree(&mut runner).unwrap().current();
    let mut keys: Vec<String> = (0..20).map(|_| any(r"[aAb%_\\äÄ]{1,5}")).collect();
    keys.sort();
    keys.dedup();
    for key in &keys {
        store.db.kv_set(GUILD, set(key, "1", &["s"])).await.unwrap();
    }
    for _ in 0..200 {
        let query = any(r"([aAb_äÄ]|%|\\.){0,5}\\?");
        let page = KvFindPage { limit: Some(5), after: None };
        let found = store.db.kv_find(GUILD, &query, &scopes(&["s"]), page).await.unwrap();
        let expected = keys.iter().filter(|key| matches_query(&lower(key), &lower(&query))).take(5);
        assert!(found.iter().map(|record| &record.key).eq(expected), "{query}");
    }
}

fn lower(text: &str) -> Vec<char> {
    text.chars().flat_map(char::to_lowercase).collect()
}

fn matches_query(key: &[char], query: &[char]) -> bool {
    match query {
        [] => key.is_empty(),
        ['%', rest @ ..] => (0..=key.len()).any(|skip| matches_query(&key[skip..], rest)),
        ['_', rest @ ..] => !key.is_empty() && matches_query(&key[1..], rest),
        ['\\', literal, rest @ ..] | [literal, rest @ ..] => {
            key.first() == Some(literal) && matches_query(&key[1..], rest)
        }
    }
}

async fn limits_accept_n_and_refuse_n_plus_1(store: &Store) {
    let key = |bytes| set(&"k".repeat(bytes), "1", &["a"]);
    let value = |bytes| set("key", &"1".repeat(bytes), &["a"]);
    for (good, bad) in [(key(16), key(17)), (value(64), value(65))] {
        store.db.kv_set(GUILD, good).await.unwrap();
        assert!(matches!(store.db.kv_set(GUILD, bad).await, Err(DbError::TooLarge { .. })));
    }
    assert!(matches!(store.db.kv_set(GUILD, key(0)).await, Err(DbError::TooLarge { .. })));
    assert!(matches!(store.db.kv_set(GUILD, set("a\0", "1", &["a"])).await, Err(DbError::InvalidArgument { .. })));
    let id = store.db.kv_set(GUILD, value(1)).await.unwrap().id;
    store.db.kv_set_by_id(GUILD, &id, &"1".repeat(64), None, false).await.unwrap();
    let beyond = store.db.kv_set_by_id(GUILD, &id, &"1".repeat(65), None, false).await;
    assert!(matches!(beyond, Err(DbError::TooLarge { .. })));

    let make = |list: &[&str]| Scopes::new(list.iter().copied(), &config().kv);
    make(&["a", "b", "c"]).unwrap();
    make(&["a", "b", "c", "a"]).unwrap();
    make(&["12345678"]).unwrap();
    assert!(matches!(make(&["a", "b", "c", "d"]), Err(DbError::TooLarge { max: 3, .. })));
    assert!(matches!(make(&["123456789"]), Err(DbError::TooLarge { max: 8, .. })));
    assert!(matches!(make(&["a", ""]), Err(DbError::TooLarge { .. })));
    assert!(matches!(make(&["a\0"]), Err(DbError::InvalidArgument { field: "scopes", .. })));
}

async fn the_quota_of_rows(store: &Store) {
    for n in 0..20 {
        store.db.kv_set(GUILD, set(&format!("k{n}"), "1", &["a"])).await.unwrap();
    }
    let beyond = [
        store.db.kv_set(GUILD, set("more", "1", &["a"])).await.map(drop),
        store.db.kv_set(GUILD, set("k1", "1", &["b"])).await.map(drop),
        store.db.kv_cas(GUILD, set("more", "1", &["a"]), 0).await.map(drop),
        store.db.kv_incr(GUILD, "more", &scopes(&["a"]), 1.0).await.map(drop),
    ];
    for result in beyond {
        assert_eq!(result.unwrap_err().to_string(), "quota_exceeded: kv rows");
    }
    store.db.kv_set(GUILD, set("k1", "22", &["a"])).await.unwrap();
    store.db.kv_incr(GUILD, "k1", &scopes(&["a"]), 1.0).await.unwrap();
    assert!(store.db.kv_delete(GUILD, "k1", &scopes(&["a"])).await.unwrap());
    store.db.kv_set(GUILD, set("more", "1", &["a"])).await.unwrap();
    assert!(store.db.kv_set(GUILD, set("k1", "1", &["a"])).await.is_err());
}

async fn resume_records_come_in_order_of_creation(store: &Store) {
    for key in ["c", "a", "b"] {
        store.db.kv_set(GUILD, KvSet { resume: true, ..set(key, "1", &["y", "x"]) }).await.unwrap();
        store.db.kv_set(GUILD, set(key, "1", &["z"])).await.unwrap();
    }
    // Written again, it stays where it was.
    store.db.kv_set(GUILD, KvSet { resume: true, ..set("c", "2", &["x", "y"]) }).await.unwrap();
    store.db.kv_set(GUILD, set("a", "2", &["x", "y"])).await.unwrap();
    let records = store.db.resume_records(GUILD).await.unwrap();
    assert_eq!(records.iter().map(|record| record.key.as_str()).collect::<Vec<_>>(), ["c", "b"]);
    assert_eq!(records[0].scopes, ["x", "y"]);
    assert_eq!(store.db.tenants_with_resume().await.unwrap(), [GUILD]);
}
