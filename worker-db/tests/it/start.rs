//! Opening: every kind of URL, again and again, and what is refused.

use std::error::Error;

use worker_db::{Backend, DbConfig, DbError, WorkerDb};

use crate::store::{GUILD, Store, config, name, scopes, set, template};

on_disk!(a_second_start_finds_what_the_first_left, a_newer_database_is_refused);

async fn a_second_start_finds_what_the_first_left(store: &Store) {
    store.db.kv_set(GUILD, set("key", "1", &["a"])).await.unwrap();
    store.db.template_create(GUILD, template("t", "1", &[])).await.unwrap();
    store.db.close().await;
    assert!(matches!(store.db.kv_exists(GUILD, "key", &scopes(&["a"])).await, Err(DbError::Statement { .. })));
    for version in 2..4 {
        let db = store.again(config()).await;
        assert!(db.template_get(GUILD, &name("t")).await.unwrap().is_some());
        assert_eq!(db.kv_set(GUILD, set("key", "1", &["a"])).await.unwrap().version, version);
        db.close().await;
    }
}

async fn a_newer_database_is_refused(store: &Store) {
    store
        .raw(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        VALUES (99999, 'of a newer program', TRUE, '', 0)",
        )
        .await;
    let error = WorkerDb::connect(&store.url, config()).await.unwrap_err();
    assert!(matches!(error, DbError::Migrate { .. }), "{error}");
    assert!(error.source().unwrap().to_string().contains("99999"));
}

#[tokio::test]
async fn a_file_is_made_where_it_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    for (index, scheme) in ["sqlite:", "sqlite://"].iter().enumerate() {
        let path = folder.path().join(format!("of {index}.db"));
        let db = WorkerDb::connect(&format!("{scheme}{}", path.display()), DbConfig::default()).await.unwrap();
        assert_eq!(db.backend(), Backend::Sqlite);
        assert!(path.exists() && folder.path().join(format!("of {index}.db-wal")).exists());
        db.close().await;
    }
    let missing = format!("sqlite:{}/no/folder/x.db", folder.path().display());
    assert!(matches!(WorkerDb::connect(&missing, DbConfig::default()).await, Err(DbError::Connect { .. })));
}

#[tokio::test]
async fn each_memory_is_its_own_and_clones_share_it() {
    let (one, other) = (Store::sqlite_memory().await.db, Store::sqlite_memory().await.db);
    one.kv_set(GUILD, set("key", "1", &["a"])).await.unwrap();
    assert!(one.clone().kv_exists(GUILD, "key", &scopes(&["a"])).await.unwrap());
    assert!(!other.kv_exists(GUILD, "key", &scopes(&["a"])).await.unwrap());
}

#[tokio::test]
async fn what_is_no_url_is_refused_and_no_secret_is_shown() {
    for url in ["", "antiraid.db", "mysql://u:hunter2@h/x", "postgres://u:hunter2@h:port/x", "sqlite:x?mode=hunter2"] {
        let error = WorkerDb::connect(url, DbConfig::default()).await.unwrap_err();
        assert!(matches!(error, DbError::BadUrl { .. }), "{url}: {error}");
        if !url.starts_with("sqlite") {
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }
    let nobody_listens = "postgres://user:hunter2@localhost:1/x";
    let config = DbConfig { acquire_timeout: std::time::Duration::from_millis(200), ..DbConfig::default() };
    let error = WorkerDb::connect(nobody_listens, config).await.unwrap_err();
    assert!(matches!(error, DbError::Connect { backend: Backend::Postgres, .. }));
    assert!(!format!("{error} {error:?} {:?}", error.source()).contains("hunter2"));
}

#[tokio::test]
async fn debug_shows_no_url() {
    assert_eq!(format!("{:?}", Store::sqlite_memory().await.db), "WorkerDb(Sqlite)");
}
