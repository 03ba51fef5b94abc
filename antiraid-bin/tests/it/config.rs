//! Settings: their precedence, and what is said about wrong ones.

use serde_json::Value;

use crate::antiraid::{Antiraid, Ran};

fn setting(ran: &Ran, key: &str) -> (String, String) {
    let settings = ran.json();
    let setting = settings.as_array().unwrap().iter().find(|setting| setting["key"] == key).unwrap();
    let text = |field: &str| setting[field].as_str().map(str::to_owned).unwrap();
    (text("value"), text("from"))
}

fn pair(value: &str, from: &str) -> (String, String) {
    (value.into(), from.into())
}

#[test]
fn flags_beat_the_environment_beats_the_file_beats_defaults() {
    let key = "limits.threads_max";
    let defaults = Antiraid::new();
    let args = ["config", "--json"];
    assert_eq!(setting(&defaults.run(args).with_status(0), key), pair("10000", "default"));

    let file = defaults.file("antiraid.toml", "# mine\n[limits]\nthreads_max = 5\n");
    assert_eq!(setting(&file.run(args).with_status(0), key), pair("5", "antiraid.toml:3"));

    let env = file.env("ANTIRAID_LIMITS_THREADS_MAX", "6");
    assert_eq!(setting(&env.run(args).with_status(0), key), pair("6", "ANTIRAID_LIMITS_THREADS_MAX"));

    let flag = env.run(["config", "--json", "--set", "limits.threads_max=7"]).with_status(0);
    assert_eq!(setting(&flag, key), pair("7", "--set limits.threads_max"));
    let last = env.run(["config", "--json", "--set", "limits.threads_max=7", "--set", "limits.threads_max=8"]);
    assert_eq!(setting(&last, key), pair("8", "--set limits.threads_max"));
}

#[test]
fn the_table_shows_every_setting_with_its_meaning() {
    let ran = Antiraid::new().run(["config"]).with_status(0);
    let json: Value = Antiraid::new().run(["config", "--json"]).with_status(0).json();
    for setting in json.as_array().unwrap() {
        ran.says(&[setting["key"].as_str().unwrap()]);
        assert!(!setting["help"].as_str().unwrap().is_empty());
    }
    ran.says(&["default"]);
}

#[test]
fn every_mistake_is_named_at_once_with_its_place() {
    let file = "\
workers = \"two\"
wrokers = 3
[limits]
vm_memory_mib_max = 1
threads_max = -4
no_such_thing = true
[log]
filter = \"loud\"
[database]
url = \"mysql://u:secret@h/d\"
[links]
docs_url = \"ftp://x\"
";
    let ran = Antiraid::new()
        .file("antiraid.toml", file)
        .env("ANTIRAID_LIMITS_KV_ROWS_MAX", "lots")
        .env("ANTIRAID_WORKRS", "1")
        .run(["config", "--set", "limits.cpu_slice_ms=0", "--set", "limits.nothing.here=1"])
        .with_status(2);
    ran.says(&[
        "antiraid.toml:1: `workers`: expected a whole number from 1 to 1024, not \"two\"",
        "antiraid.toml:2: `wrokers` is not a setting; did you mean `workers`?",
        "antiraid.toml:4: `limits.vm_memory_mib_max`: expected a whole number from 2 to 4096, not 1",
        "antiraid.toml:5: `limits.threads_max`: expected a whole number from 1 to 1000000, not -4",
        "antiraid.toml:6: `limits.no_such_thing` is not a setting",
        "antiraid.toml:8: `log.filter`: expected levels such as",
        "antiraid.toml:10: `database.url`: expected `sqlite:<file>`",
        "antiraid.toml:12: `links.docs_url`: expected a link that begins with https:// or http://, not \"ftp://x\"",
        "ANTIRAID_LIMITS_KV_ROWS_MAX: `limits.kv_rows_max`: expected a whole number",
        "ANTIRAID_WORKRS: `workrs` is not a setting; did you mean `workers`?",
        "--set limits.cpu_slice_ms: `limits.cpu_slice_ms`: expected a whole number from 1 to 1000, not 0",
        "--set limits.nothing.here: `limits.nothing.here` is not a setting",
    ]);
    assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
    assert_eq!(ran.stdout, "");
}

#[test]
fn settings_that_do_not_fit_together_are_named() {
    Antiraid::new()
        .run(["config", "--set", "limits.vm_memory_mib_max=64", "--set", "limits.worker_memory_mib_max=32"])
        .with_status(2)
        .says(&["`limits.vm_memory_mib_max` must not be above `limits.worker_memory_mib_max`"]);
}

#[test]
fn a_section_in_place_of_a_value_and_the_other_way_round() {
    Antiraid::new().file("antiraid.toml", "limits = 3\n[workers]\nx = 1\n").run(["config"]).with_status(2).says(&[
        "antiraid.toml:1: `limits` is a section, not a setting",
        "antiraid.toml:2: `workers`: expected a whole number",
    ]);
}

#[test]
fn a_file_that_is_not_toml_says_where() {
    Antiraid::new()
        .file("antiraid.toml", "workers = 1\nlog = [\nx =\n")
        .run(["config"])
        .with_status(2)
        .says(&["antiraid.toml:", "not TOML"]);
}

#[test]
fn a_file_that_is_named_must_be_there() {
    Antiraid::new().run(["config", "--config", "gone.toml"]).with_status(2).says(&["gone.toml: cannot be read"]);
    let elsewhere = Antiraid::new().file("etc/mine.toml", "workers = 3\n");
    let ran = elsewhere.run(["--config", "etc/mine.toml", "config", "--json"]).with_status(0);
    assert_eq!(setting(&ran, "workers"), pair("3", "etc/mine.toml:1"));
    let ran = elsewhere.env("ANTIRAID_CONFIG", "etc/mine.toml").run(["config", "--json"]).with_status(0);
    assert_eq!(setting(&ran, "workers"), pair("3", "etc/mine.toml:1"));
}

#[test]
fn passwords_are_not_shown() {
    for url in ["postgres://me:sesame@host/db", "postgres://me@host/db?sslmode=require&password=sesame"] {
        let ran = Antiraid::new().run(["config", "--set", &format!("database.url={url}")]).with_status(0);
        ran.says(&["<redacted>"]);
        assert!(!ran.stdout.contains("sesame"), "{}", ran.stdout);
    }
}

#[test]
fn where_templates_may_send_and_keep_things() {
    let antiraid = Antiraid::new().file(
        "antiraid.toml",
        "[http]\nallowed_hosts = \"api.example.org, Cdn.example.org\"\naddresses_allowed = \"10.1.0.0/16,fd00::/8\"\n[objects]\nurl = \"s3://b?endpoint=http://localhost:9000\"\n",
    );
    let ran = antiraid.run(["config", "--json"]).with_status(0);
    assert_eq!(setting(&ran, "http.allowed_hosts"), pair("api.example.org,Cdn.example.org", "antiraid.toml:2"));
    assert_eq!(setting(&ran, "http.addresses_allowed"), pair("10.1.0.0/16,fd00::/8", "antiraid.toml:3"));
    let url = "s3://b?endpoint=http://localhost:9000&region=us-east-1";
    assert_eq!(setting(&ran, "objects.url"), pair(url, "antiraid.toml:5"));
    assert_eq!(setting(&ran, "http.denied_hosts"), pair("", "default"));
    for (wrong, said) in [
        ("http.allowed_hosts=https://a.example", "expected names of hosts"),
        ("http.allowed_hosts=*.example.org", "expected names of hosts"),
        ("http.denied_hosts=a.example:80", "expected names of hosts"),
        ("http.allowed_hosts=127.0.0.1", "expected names of hosts"),
        ("http.addresses_allowed=10.0.0.1", "no range of addresses"),
        ("objects.url=s3://me:sesame@bucket", "expected `file:<folder>`"),
    ] {
        let ran = antiraid.run(["config", "--set", wrong]).with_status(2);
        ran.says(&[said]);
        assert!(!ran.stderr.contains("sesame"), "{}", ran.stderr);
    }
}
