//! Templates and the shop, by the rules of the template API, sections 2.2 and 6.

use worker_core::{CompatDate, ShopVersion, Snowflake, TemplateOrigin, TenantId};
use worker_db::{Change, DbError, NewTemplate, WorkerDb};

use crate::store::{GUILD, LARGE, Store, USER, files, later, name, template};

conformance!(
    a_template_is_read_as_it_was_written,
    create_update_delete_and_their_errors,
    shop_names_are_resolved,
    the_latest_is_the_highest_by_number,
    a_publication_is_announced_to_those_who_use_it,
    limits_are_checked,
    tenants_are_listed_in_pages,
    a_template_is_put_for_all_tenants_or_none,
    an_error_channel_that_is_gone_is_forgotten,
);

async fn a_template_is_read_as_it_was_written(store: &Store) {
    let new = NewTemplate {
        error_channel: Some(Snowflake::new(u64::MAX)),
        ..template("t", "return 1", &["MESSAGE", "X[\0]"])
    };
    store.db.template_create(GUILD, new.clone()).await.unwrap();
    let row = store.db.template_get(GUILD, &new.name).await.unwrap().unwrap();
    assert_eq!(row.name, new.name);
    assert!(row.events.iter().map(|event| &**event).eq(["MESSAGE", "X[\0]"]));
    assert_eq!((&row.allowed_caps, row.error_channel), (&new.allowed_caps, new.error_channel));
    assert_eq!((row.compat, row.paused, &row.origin), (CompatDate::NEWEST, false, &TemplateOrigin::Tenant));
    assert_eq!(row.created_at, row.updated_at);
    assert!(row.created_at < later(1_000));
    let hash = row.content.unwrap();
    let contents = store.db.contents(&[hash]).await.unwrap();
    assert_eq!(&**contents[&hash].as_ref().unwrap().get("init.luau").unwrap(), "return 1");
    let listed = store.db.template_list(GUILD).await.unwrap();
    assert_eq!((listed.rows, listed.bad), (vec![row], vec![]));
    assert!(store.db.contents(&[]).await.unwrap().is_empty());
}

async fn create_update_delete_and_their_errors(store: &Store) {
    let (db, t) = (&store.db, name("t"));
    assert!(matches!(db.template_update(GUILD, template("t", "1", &[])).await, Err(DbError::NotFound(_))));
    assert!(matches!(db.template_delete(GUILD, &t).await, Err(DbError::NotFound(_))));
    assert!(matches!(db.template_set_paused(GUILD, &t, true).await, Err(DbError::NotFound(_))));
    let mut changes = db.changes();
    db.template_create(GUILD, template("t", "1", &["A"])).await.unwrap();
    let created = db.template_get(GUILD, &t).await.unwrap().unwrap();
    let conflict = db.template_create(GUILD, template("t", "2", &[])).await.unwrap_err();
    assert_eq!(conflict.to_string(), "conflict: template `t` exists already");
    db.template_update(GUILD, template("t", "2", &["B"])).await.unwrap();
    db.template_set_paused(GUILD, &t, true).await.unwrap();
    let updated = db.template_get(GUILD, &t).await.unwrap().unwrap();
    assert_eq!((updated.created_at, updated.paused), (created.created_at, true));
    assert!(updated.updated_at > created.updated_at);
    assert_eq!(&*updated.events[0], "B");
    let old = created.content.unwrap();
    assert!(db.contents(&[old]).await.unwrap().is_empty(), "files that nobody has are removed");
    db.template_delete(GUILD, &t).await.unwrap();
    assert!(db.contents(&[updated.content.unwrap()]).await.unwrap().is_empty());
    for _ in 0..4 {
        assert_eq!(changes.try_recv().unwrap(), Change::Templates { tenant: GUILD });
    }
    assert!(changes.try_recv().is_err(), "what failed is not announced");
}

async fn publish(store: &Store, shop: &str, version: &str) -> Result<(), DbError> {
    let owner = Some(Snowflake::new(7));
    let text = format!("return '{shop} {version}'");
    store.db.shop_publish(shop, &ShopVersion::new(version), owner, Some("what it is"), files(&text)).await
}

async fn version_of(store: &Store, tenant: TenantId, template: &str) -> String {
    let row = store.db.template_get(tenant, &name(template)).await.unwrap().unwrap();
    match row.origin {
        TemplateOrigin::Shop { version, .. } => version.as_str().to_owned(),
        other => panic!("{other:?}"),
    }
}

async fn shop_names_are_resolved(store: &Store) {
    let db = &store.db;
    for missing in ["$shop/tool#1", "$shop/tool#latest"] {
        assert!(matches!(db.template_create(GUILD, template(missing, "", &[])).await, Err(DbError::NotFound(_))));
    }
    publish(store, "tool", "1").await.unwrap();
    publish(store, "tool", "2").await.unwrap();
    assert!(matches!(publish(store, "tool", "1").await, Err(DbError::Conflict(_))));
    assert!(matches!(db.template_create(GUILD, template("$shop/tool#3", "", &[])).await, Err(DbError::NotFound(_))));

    // Content is ignored; events and the rest are the row's.
    db.template_create(GUILD, template("$shop/tool#1", "mine", &["MESSAGE"])).await.unwrap();
    db.template_create(GUILD, NewTemplate { files: Default::default(), ..template("$shop/tool#latest", "", &["X"]) })
        .await
        .unwrap();
    db.template_create(GUILD, template("$builtins", "", &["Y"])).await.unwrap();
    let rows = db.tenant_templates(GUILD).await.unwrap().rows;
    assert_eq!(
        rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(),
        ["$builtins", "$shop/tool#1", "$shop/tool#latest"]
    );
    assert_eq!((rows[0].content, &rows[0].origin), (None, &TemplateOrigin::Builtin));
    let TemplateOrigin::Shop { name: shop, version, owner, description } = &rows[1].origin else { panic!() };
    assert_eq!((&**shop, version.as_str(), *owner), ("tool", "1", Some(Snowflake::new(7))));
    assert_eq!(description.as_deref(), Some("what it is"));
    assert_eq!(&*rows[1].events[0], "MESSAGE");
    let hashes: Vec<_> = rows[1..].iter().map(|row| row.content.unwrap()).collect();
    let contents = db.contents(&hashes).await.unwrap();
    let text = |index: usize| contents[&hashes[index]].as_ref().unwrap().get("init.luau").unwrap().to_string();
    assert_eq!((text(0), text(1)), ("return 'tool 1'".into(), "return 'tool 2'".into()));
    let listings = db.shop_versions("tool").await.unwrap();
    assert_eq!(listings.iter().map(|listing| listing.version.as_str()).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!((listings[1].content, listings[1].description.as_deref()), (hashes[1], Some("what it is")));

    // A tenant that has the same files, and lets go of them, takes nothing from the shop.
    db.template_create(GUILD, template("copy", "return 'tool 1'", &[])).await.unwrap();
    db.template_delete(GUILD, &name("copy")).await.unwrap();
    assert!(db.contents(&hashes).await.unwrap()[&hashes[0]].is_ok());

    for (shop, version) in [("", "1"), ("x", ""), ("x", "latest"), ("x", "1#2"), ("a\0", "1")] {
        assert!(
            matches!(publish(store, shop, version).await, Err(DbError::InvalidArgument { .. })),
            "{shop} {version}"
        );
    }
}

async fn the_latest_is_the_highest_by_number(store: &Store) {
    publish(store, "tool", "9").await.unwrap();
    store.db.template_create(GUILD, template("$shop/tool#latest", "", &[])).await.unwrap();
    for (version, latest) in [("10", "10"), ("2", "10"), ("10.1", "10.1"), ("10.beta", "10.1"), ("1000", "1000")] {
        publish(store, "tool", version).await.unwrap();
        assert_eq!(version_of(store, GUILD, "$shop/tool#latest").await, latest);
    }
}

async fn a_publication_is_announced_to_those_who_use_it(store: &Store) {
    publish(store, "tool", "5").await.unwrap();
    publish(store, "other", "5").await.unwrap();
    store.db.template_create(GUILD, template("$shop/tool#latest", "", &[])).await.unwrap();
    store.db.template_create(LARGE, template("$shop/tool#5", "", &[])).await.unwrap();
    store.db.template_create(USER, template("$shop/other#latest", "", &[])).await.unwrap();
    let mut changes = store.db.changes();
    publish(store, "tool", "4").await.unwrap();
    assert!(changes.try_recv().is_err());
    publish(store, "tool", "6").await.unwrap();
    assert_eq!(changes.try_recv().unwrap(), Change::Templates { tenant: GUILD });
    assert!(changes.try_recv().is_err());
}

async fn limits_are_checked(store: &Store) {
    let create = async |template| store.db.template_create(GUILD, template).await;
    let events =
        |count: usize, bytes: usize| NewTemplate { events: vec!["e".repeat(bytes); count], ..template("t", "1", &[]) };
    for bad in [events(257, 1), events(1, 257)] {
        assert!(matches!(create(bad).await, Err(DbError::TooLarge { max: 256, .. })));
    }
    create(events(256, 256)).await.unwrap();
    let with_files = |list: &[(&str, String)]| NewTemplate {
        files: list.iter().map(|(path, text)| (path.to_string(), text.clone())).collect(),
        ..template("u", "", &[])
    };
    let megabyte = 1 << 20;
    assert!(matches!(create(with_files(&[("a", "x".repeat(megabyte + 1))])).await, Err(DbError::TooLarge { .. })));
    let invalid = create(with_files(&[("a/../b", String::new())])).await.unwrap_err();
    assert!(invalid.to_string().starts_with("invalid_argument: content"));
    create(with_files(&[("init.luau", "x\0y".repeat(megabyte / 3))])).await.unwrap();
    let row = store.db.template_get(GUILD, &name("u")).await.unwrap().unwrap();
    let hash = row.content.unwrap();
    assert_eq!(store.db.contents(&[hash]).await.unwrap()[&hash].as_ref().unwrap().bytes(), megabyte / 3 * 3);
}

async fn tenants_are_listed_in_pages(store: &Store) {
    for tenant in [GUILD, USER, LARGE] {
        store.db.template_create(tenant, template("a", "1", &[])).await.unwrap();
        store.db.template_create(tenant, template("b", "1", &[])).await.unwrap();
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.db.tenants_with_templates(after, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(*last);
        seen.extend(page);
    }
    seen.sort();
    assert_eq!(seen, [GUILD, LARGE, USER]);
}

async fn a_template_is_put_for_all_tenants_or_none(store: &Store) {
    let db = &store.db;
    db.template_create(GUILD, template("t", "old", &[])).await.unwrap();
    let old = db.template_get(GUILD, &name("t")).await.unwrap().unwrap();
    let mut changes = db.changes();
    db.template_put_for_tenants(&[], template("t", "1", &[])).await.unwrap();
    db.template_put_for_tenants(&[LARGE, GUILD, USER, LARGE], template("t", "1", &["MESSAGE"])).await.unwrap();
    let mut announced = Vec::from_iter(std::iter::from_fn(|| changes.try_recv().ok()));
    announced.sort_by_key(|change| match change {
        Change::Templates { tenant } => *tenant,
        other => panic!("{other:?}"),
    });
    assert_eq!(announced, [GUILD, LARGE, USER].map(|tenant| Change::Templates { tenant }));
    for tenant in [GUILD, LARGE, USER] {
        let row = db.template_get(tenant, &name("t")).await.unwrap().unwrap();
        assert_eq!((&*row.events[0], row.created_at == old.created_at), ("MESSAGE", tenant == GUILD));
        let hash = row.content.unwrap();
        assert_eq!(&**db.contents(&[hash]).await.unwrap()[&hash].as_ref().unwrap().get("init.luau").unwrap(), "1");
    }
    assert!(db.contents(&[old.content.unwrap()]).await.unwrap().is_empty(), "files that nobody has are removed");

    // What is refused for one is done for none.
    for n in 1..64 {
        db.template_create(USER, template(&n.to_string(), "1", &[])).await.unwrap();
    }
    let all = [GUILD, LARGE, USER];
    let full = db.template_put_for_tenants(&all, template("more", "more", &[])).await.unwrap_err();
    assert_eq!(full.to_string(), "quota_exceeded: templates");
    let missing = db.template_put_for_tenants(&all, template("$shop/tool#1", "", &[])).await.unwrap_err();
    assert!(matches!(missing, DbError::NotFound(_)));
    let many = vec![GUILD; WorkerDb::PUT_TENANTS_MAX + 1];
    let many = db.template_put_for_tenants(&many, template("t", "1", &[])).await.unwrap_err();
    assert!(matches!(many, DbError::TooLarge { .. }));
    assert_eq!(db.template_list(GUILD).await.unwrap().rows.len(), 1);
    // Who is full may have what it has replaced.
    db.template_put_for_tenants(&all, template("t", "2", &[])).await.unwrap();
    publish(store, "tool", "1").await.unwrap();
    db.template_put_for_tenants(&[GUILD, LARGE], template("$shop/tool#latest", "", &[])).await.unwrap();
    assert_eq!(version_of(store, LARGE, "$shop/tool#latest").await, "1");
}

async fn an_error_channel_that_is_gone_is_forgotten(store: &Store) {
    let (db, gone, kept) = (&store.db, Snowflake::new(u64::MAX), Snowflake::new(6));
    let with = |name: &str, channel| NewTemplate { error_channel: Some(channel), ..template(name, "1", &[]) };
    for (tenant, template) in
        [(GUILD, with("a", gone)), (GUILD, with("b", gone)), (GUILD, with("c", kept)), (USER, with("a", gone))]
    {
        db.template_create(tenant, template).await.unwrap();
    }
    let mut changes = db.changes();
    assert!(db.forget_error_channel(GUILD, gone).await.unwrap());
    assert!(matches!(changes.recv().await, Ok(Change::Templates { tenant: GUILD })));
    assert!(!db.forget_error_channel(GUILD, gone).await.unwrap(), "nobody has it any more");
    let rows = db.template_list(GUILD).await.unwrap().rows;
    assert_eq!(rows.iter().map(|row| row.error_channel).collect::<Vec<_>>(), [None, None, Some(kept)]);
    let other = db.template_get(USER, &name("a")).await.unwrap().unwrap();
    assert_eq!(other.error_channel, Some(gone), "another tenant's is its own");
}
