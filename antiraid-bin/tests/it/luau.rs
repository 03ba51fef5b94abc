//! The Luau tests of the built-in template and the shared library, each in the real runtime.

use std::fs;

use worker_builtins::Builtins;

use crate::antiraid::{Antiraid, workspace};

const MANIFEST: &str = r#"description = "A test of the built-in template or the shared library."
events = ["MESSAGE"]
capabilities = ["*"]
"#;

/// Each `worker-builtins/tests/luau/*.luau` is `/init.luau` of a template that has the other files of the built-in one; the
/// shared library is below every template. It fails by an error. Each is of a tenant of its own: they would use up each
/// other's rate limits.
#[test]
fn builtins() {
    let folder = workspace().join("worker-builtins/tests/luau");
    let builtins = Builtins::embedded().template();
    let mut antiraid = Antiraid::new();
    let (mut names, mut recording) = (Vec::new(), String::new());
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let tenant = names.len() + 1;
        let manifest = format!("name = {name:?}\ntenants = [\"{tenant}\"]\n{MANIFEST}");
        antiraid = antiraid.file(&format!("{name}/template.toml"), manifest);
        let frame = format!(r#"{{"op":0,"t":"MESSAGE_CREATE","s":{tenant},"d":{{"guild_id":"{tenant}"}}}}"#);
        recording = recording + &frame + "\n";
        for (path, text) in builtins.files.iter().filter(|(path, _)| ***path != *"init.luau") {
            antiraid = antiraid.file(&format!("{name}/{path}"), &**text);
        }
        antiraid = antiraid.file(&format!("{name}/init.luau"), fs::read(&path).unwrap());
        names.push(name.to_owned());
    }
    names.sort();
    assert!(names.len() > 10, "{names:?}");
    let antiraid = antiraid.file("x.jsonl", recording);

    let ran = antiraid.run(["replay", "--json", "--templates", ".", "x.jsonl"]);
    if ran.status != 0 {
        panic!("{}", antiraid.run(["replay", "--templates", ".", "x.jsonl"]).stdout);
    }
    let summary = ran.json();
    let templates = summary["templates"].as_array().unwrap();
    assert_eq!(templates.iter().map(|row| row["template"].as_str().unwrap()).collect::<Vec<_>>(), names);
    assert!(templates.iter().all(|row| row["failed"] == 0), "{summary:#}");
}
