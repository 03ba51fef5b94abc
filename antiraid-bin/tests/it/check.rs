//! `antiraid template check`, and what a folder of templates may look like.

use crate::antiraid::{Antiraid, workspace};

const GOOD: &str = r#"name = "greeter"
description = "Greets."
events = ["MESSAGE", "Discord", "ExecuteSetting[greeter]", "AntiRaid[greeter]"]
capabilities = ["kv[greeter]:*", "discord:create_message"]
tenants = ["81384788765712384", "user:7"]
error_channel = "5"
compat = "2026-11"
language = "luau"
paused = false
"#;

#[test]
fn the_examples_are_good() {
    let ran = Antiraid::new().run(["template", "check", workspace().join("examples/templates").to_str().unwrap()]);
    ran.with_status(0).says(&["raid-detector: good", "spam-filter: good", "moderation-log: good"]);
}

#[test]
fn a_folder_may_be_a_template_itself() {
    Antiraid::new()
        .file("t/template.toml", GOOD)
        .file("t/init.luau", "return 1")
        .file("t/lib/x.lua", "return 1")
        .file("t/.luaurc", r#"{"aliases":{"lib":"./lib"},"languageMode":"strict"}"#)
        .file("t/README.md", "not code")
        .file("t/.git/x.luau", "not code either")
        .run(["template", "check", "t"])
        .with_status(0)
        .says(&["greeter: good, 3 files"]);
}

#[test]
fn every_mistake_of_every_folder_is_named_at_once() {
    let bad = r#"name = "$mine"
description = 5
events = ["MESSAGE_CREATE", "MESAGE", "MESSAGE[x]", "",
  "KeyExpiry[ok]"]
capabilities = ["discord:get_*"]
tenants = ["0"]
error_channel = "general"
compat = "2019-01"
language = "lua"
paused = "no"
event = []
"#;
    let ran = Antiraid::new()
        .file("all/one/template.toml", bad)
        .file("all/one/init.lua", "return 1")
        .file("all/two/template.toml", "name = \"two\"\n")
        .file("all/two/init.luau", b"return '\n\xff'")
        .file("all/two/.luaurc", "{\"aliases\":\n[]}")
        .file("all/three/template.toml", "name = \n= 3")
        .file("all/three/init.luau", "")
        .file("all/four/init.luau", "")
        .file("all/docs/read.md", "no template")
        .run(["template", "check", "all"])
        .with_status(1);
    ran.says(&[
        "all/one/template.toml:1: `name`: `$mine` would be of the shop or built in; begin it without `$`",
        "all/one/template.toml:2: `description` cannot be of type integer; write description = ",
        "all/one/template.toml:3: `MESSAGE_CREATE` is delivered as `MESSAGE`; write that",
        "all/one/template.toml:3: `MESAGE` is not an event; did you mean `MESSAGE`?",
        "all/one/template.toml:3: `MESSAGE` has no scopes, so `MESSAGE[x]` never comes",
        "all/one/template.toml:3: `events` has an empty entry",
        "all/one/template.toml:5: `discord:get_*` gives nothing",
        "all/one/template.toml:6: `tenants`: `0` is not an id",
        "all/one/template.toml:7: `error_channel`: `general` is not an id",
        "all/one/template.toml:8: `compat`: `2019-01` is outside",
        "all/one/template.toml:9: `language`: templates are written in `luau`, not `lua`",
        "all/one/template.toml:10: `paused` cannot be of type string",
        "all/one/template.toml:11: `event` is not a key of template.toml; did you mean `events`?",
        "all/one: has no init.luau; rename init.lua to it",
        "all/two/template.toml: `description` is missing; add description = ",
        "all/two/template.toml: `events` is missing",
        "all/two/template.toml: `capabilities` is missing",
        "all/two/template.toml: `tenants` is missing",
        "all/two/init.luau:2: not UTF-8",
        "all/two/.luaurc:2: invalid type",
        "all/three/template.toml:",
        "not TOML",
        "all/four: has init.luau but no template.toml; add one with",
    ]);
    assert!(!ran.stdout.contains("all/docs"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("all/two: has no init.luau"), "it is there, only not readable: {}", ran.stdout);
}

#[test]
fn code_is_compiled_and_its_requires_are_followed() {
    let good = Antiraid::new()
        .file("t/template.toml", GOOD)
        .file("t/.luaurc", r#"{"aliases":{"ext":"./templating-types/@antiraid-ext"}}"#)
        .file("t/init.luau", "local a = require('@self/lib/a')\nreturn a(require('@antiraid/datetime'))")
        .file("t/lib/a.luau", "local set = require('@ext/set')\nreturn require('./b')")
        .file("t/lib/b.luau", "-- require('./gone')\nreturn function() return \"require('./gone')\" end");
    good.run(["template", "check", "t"]).with_status(0).says(&["greeter: good, 4 files"]);

    let bad = good
        .file("t/lib/b.luau", "return function()\n\treturn 1 +\nend")
        .file("t/lib/a.luau", "\nlocal set = require('@nobody/set')\nreturn require(\"./gone\")")
        .file("t/template.toml", GOOD.replace("MESSAGE", "MESAGE"));
    let ran = bad.run(["template", "check", "t"]).with_status(1);
    ran.says(&[
        "t/template.toml:3: `MESAGE` is not an event",
        "t/lib/b.luau:3: ",
        "t/lib/a.luau:2: require: ",
        "@nobody",
        "t/lib/a.luau:3: require: `./gone` not found",
    ]);
    bad.run(["template", "push", "t"]).with_status(2).says(&["t/lib/b.luau:3: "]);
    assert!(!bad.path("antiraid.db").exists());
}

#[test]
fn two_templates_of_one_name() {
    Antiraid::new()
        .file("all/a/template.toml", GOOD)
        .file("all/a/init.luau", "")
        .file("all/b/template.toml", GOOD)
        .file("all/b/init.luau", "")
        .run(["template", "check", "all"])
        .with_status(1)
        .says(&["all/b/template.toml: `greeter` is also the name of all/a"]);
}

#[test]
fn limits_are_kept() {
    let lists = format!("events = [{}]", "\"MESSAGE\",".repeat(257));
    Antiraid::new()
        .file(
            "t/template.toml",
            GOOD.replace(r#"events = ["MESSAGE", "Discord", "ExecuteSetting[greeter]", "AntiRaid[greeter]"]"#, &lists),
        )
        .file("t/init.luau", "x".repeat((1 << 20) + 1))
        .run(["template", "check", "t"])
        .with_status(1)
        .says(&[
            "t/template.toml:3: `events` has 257 entries, at most 256",
            "t/init.luau: has 1048577 bytes, at most 1048576",
        ]);
}

#[test]
#[cfg(unix)]
fn links_are_not_followed() {
    let antiraid = Antiraid::new().file("t/template.toml", GOOD).file("t/init.luau", "").file("secret.luau", "");
    std::os::unix::fs::symlink(antiraid.path("secret.luau"), antiraid.path("t/stolen.luau")).unwrap();
    std::os::unix::fs::symlink(antiraid.path("t"), antiraid.path("t/round")).unwrap();
    let ran = antiraid.run(["template", "check", "t"]).with_status(1);
    ran.says(&["t/stolen.luau: symbolic links are not followed", "t/round: symbolic links are not followed"]);
}

#[test]
fn nothing_there() {
    let antiraid = Antiraid::new().file("empty/x", "");
    antiraid
        .run(["template", "check", "empty"])
        .with_status(1)
        .says(&["empty: no template here", "name = \"raid-detector\""]);
    antiraid.run(["template", "check", "gone"]).with_status(1).says(&["gone: cannot be read"]);
}
