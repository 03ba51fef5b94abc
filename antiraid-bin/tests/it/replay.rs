//! `antiraid replay`, as far as it goes before an engine is needed.

use crate::antiraid::Antiraid;

#[test]
fn what_cannot_be_read_twice_is_refused() {
    let antiraid = Antiraid::new();
    antiraid.run(["replay", "-", "-"]).with_status(2).says(&["can be given once"]);
    antiraid.run(["replay", "-", "--repeat", "2"]).with_status(2).says(&["--repeat needs files"]);
}

#[test]
fn bad_templates_are_named_before_anything_runs() {
    let antiraid = Antiraid::new().file("t/template.toml", "name = 'x'").file("x.jsonl", "");
    antiraid
        .run(["replay", "--templates", "t", "x.jsonl"])
        .with_status(2)
        .says(&["`events` is missing", "t: has no init.luau"]);
}
