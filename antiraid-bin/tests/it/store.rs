//! `antiraid template …` and `antiraid kv …` on a database file.

use serde_json::{Value, json};

use crate::antiraid::{Antiraid, Ran};

const TEMPLATE: &str = r#"name = "greeter"
description = "Greets."
events = ["MESSAGE"]
capabilities = ["kv[greeter]:*"]
tenants = ["1", "user:2"]
"#;

fn with_template() -> Antiraid {
    Antiraid::new().file("t/template.toml", TEMPLATE).file("t/init.luau", "return 1")
}

fn json_lines(ran: &Ran) -> Vec<Value> {
    ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_template_from_push_to_removal() {
    let antiraid = with_template();
    antiraid
        .run(["template", "push", "t"])
        .with_status(0)
        .says(&["greeter: installed for guild:1", "installed for user:2"]);
    assert!(antiraid.path("antiraid.db").exists(), "the default database is a file here");
    antiraid.run(["template", "push", "t", "--tenant", "1"]).with_status(0).says(&["greeter: replaced for guild:1"]);

    antiraid.run(["template", "list"]).with_status(0).says(&["guild:1", "user:2", "greeter", "MESSAGE", "runs"]);
    antiraid.run(["template", "pause", "greeter", "--tenant", "1"]).with_status(0).says(&["paused for guild:1"]);
    let paused = |tenant: &str| {
        let listed = json_lines(&antiraid.run(["template", "list", "--json", "--tenant", tenant]).with_status(0));
        assert_eq!(listed.len(), 1);
        listed[0]["paused"].as_bool().unwrap()
    };
    assert!(paused("guild:1"));
    assert!(!paused("user:2"));
    antiraid.run(["template", "resume", "greeter", "--tenant", "1"]).with_status(0);
    assert!(!paused("1"));

    antiraid.run(["template", "remove", "greeter", "--tenant", "1", "--tenant", "user:2"]).with_status(0);
    assert!(json_lines(&antiraid.run(["template", "list", "--json"]).with_status(0)).is_empty());
    antiraid.run(["template", "remove", "greeter", "--tenant", "1"]).with_status(1).says(&["not_found"]);
}

#[test]
fn a_template_for_all_needs_to_be_told_for_whom() {
    let antiraid = with_template().file("t/template.toml", TEMPLATE.replace(r#"["1", "user:2"]"#, r#""all""#));
    antiraid.run(["template", "push", "t"]).with_status(2).says(&["`greeter` is for all tenants", "--tenant <ID>"]);
    antiraid.run(["template", "push", "t", "--tenant", "9"]).with_status(0).says(&["installed for guild:9"]);
}

#[test]
fn a_bad_template_is_not_pushed() {
    let antiraid = with_template().file("t/template.toml", "name = 'x'");
    antiraid.run(["template", "push", "t"]).with_status(2).says(&["t/template.toml: `events` is missing"]);
    assert!(!antiraid.path("antiraid.db").exists());
}

#[test]
fn a_record_from_set_to_delete() {
    let antiraid = Antiraid::new();
    let kv = |args: &[&str]| {
        let scoped = ["--tenant", "1", "--scope", "b", "--scope", "a", "--db", "sqlite:kv.db"];
        antiraid.run(["kv"].iter().chain(args).chain(&scoped).copied())
    };
    kv(&["get", "k"]).with_status(1).says(&["guild:1 has no record `k`"]);
    kv(&["set", "k", r#"{"n": [1, 2.5, "x"], "big": 9007199254740993}"#]).with_status(0).says(&["created, version 1"]);
    assert_eq!(kv(&["get", "k"]).with_status(0).json(), json!({"n": [1, 2.5, "x"], "big": 9007199254740993_i64}));
    kv(&["set", "k", "-5", "--expires-at", "2999-01-01T00:00:00Z", "--resume"])
        .with_status(0)
        .says(&["replaced, version 2"]);

    let record = kv(&["get", "k", "--json"]).with_status(0).json();
    assert_eq!(record["value"], -5);
    assert_eq!(record["scopes"], json!(["a", "b"]));
    assert_eq!(record["expires_at"], "2999-01-01T00:00:00Z");
    assert_eq!(
        (&record["resume"], &record["version"], &record["tenant"]),
        (&json!(true), &json!(2), &json!("guild:1"))
    );

    kv(&["set", "other", "null"]).with_status(0);
    kv(&["list"]).with_status(0).says(&["other", "a b", "2999-01-01"]);
    assert_eq!(json_lines(&kv(&["list", "--json"])).len(), 2);
    assert_eq!(json_lines(&kv(&["list", "--json", "OTH%"])).len(), 1);
    let scopes = antiraid.run(["kv", "list", "--tenant", "1", "--db", "sqlite:kv.db"]).with_status(0);
    assert_eq!(scopes.stdout, "a\nb\n");

    kv(&["delete", "k"]).with_status(0);
    kv(&["delete", "k"]).with_status(1);
    // Another tenant has nothing of all this.
    antiraid.run(["kv", "get", "other", "--tenant", "2", "--scope", "a", "--db", "sqlite:kv.db"]).with_status(1);
}

#[test]
fn a_long_list_comes_page_by_page_and_whole() {
    let antiraid = Antiraid::new().file("antiraid.toml", "[database]\nurl = \"sqlite:pages.db\"\n");
    for i in 0..3 {
        let key = format!("k{i}");
        antiraid.run(["kv", "set", &key, "1", "--tenant", "1", "--scope", "s"]).with_status(0);
    }
    let keys: Vec<_> = json_lines(&antiraid.run(["kv", "list", "--json", "--tenant", "1", "--scope", "s"]))
        .iter()
        .map(|record| record["key"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(keys, ["k0", "k1", "k2"]);
}

#[test]
fn mistakes_in_records_are_status_2() {
    let antiraid = Antiraid::new();
    let set = |value: &str, more: &[&str]| {
        let args = ["kv", "set", "k", value, "--tenant", "1", "--scope", "s"];
        antiraid.run(args.iter().chain(more).copied())
    };
    set("text", &[]).with_status(2).says(&["not JSON", "text needs quotes of its own: '\"text\"'"]);
    set("1", &["--expires-at", "2001-01-01T00:00:00Z"]).with_status(2).says(&["expires_at"]);
    set("1", &["--expires-at", "tomorrow"]).with_status(2);
    set("1", &["--tenant", "role:5"]).with_status(2);
    set("1", &["--scope", ""]).with_status(2);
    antiraid.run(["kv", "get", "k", "--tenant", "guild:x", "--scope", "s"]).with_status(2).says(&["is not an id"]);
    antiraid.run(["kv", "get", "k", "--tenant", "1"]).with_status(2).says(&["--scope"]);
}

#[test]
fn a_database_that_cannot_be_opened_is_status_3() {
    let antiraid = Antiraid::new();
    let ran = antiraid.run(["template", "list", "--db", "sqlite:no/such/folder/x.db"]).with_status(3);
    ran.says(&["antiraid: cannot open"]);
    antiraid
        .run(["template", "list", "--db", "mysql://x"])
        .with_status(2)
        .says(&["--db: `database.url`: expected `sqlite:<file>`"]);
}
