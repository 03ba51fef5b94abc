//! The embedded files: what they are, and that every name in them leads somewhere.

use std::collections::BTreeMap;

use worker_builtins::Builtins;
use worker_core::{CompatDate, TemplateOrigin};

/// The root as the built-in template sees it.
fn root() -> BTreeMap<String, String> {
    let builtins = Builtins::embedded();
    let template = builtins.template();
    let library = builtins.library();
    template.files.iter().chain(library.iter()).map(|(path, text)| (path.to_string(), text.to_string())).collect()
}

#[test]
fn the_template_is_what_the_reference_says() {
    let template = Builtins::embedded().template();
    assert_eq!(template.name.as_str(), "$builtins");
    assert_eq!(template.origin, TemplateOrigin::Builtin);
    assert_eq!(template.compat, CompatDate::NEWEST);
    assert_eq!(
        template.events.iter().map(|event| &**event).collect::<Vec<_>>(),
        ["INTERACTION_CREATE", "GetSettings", "ExecuteSetting[builtins.settings]", "KeyExpiry[builtins.punishments]"]
    );
    assert_eq!(template.allowed_caps.iter().collect::<Vec<_>>(), ["*"]);
    assert!(template.files.get("init.luau").is_some());
    assert!(template.files.get(".luaurc").is_some());
    assert!(template.files.iter().all(|(path, _)| !path.starts_with("templating-types")));
}

#[test]
fn the_library_is_under_its_root_and_every_module_is_strict() {
    let library = Builtins::embedded().library();
    assert!(library.iter().all(|(path, _)| path.starts_with(Builtins::LIBRARY_ROOT)));
    assert!(library.iter().len() > 20);
    for (path, text) in root() {
        assert!(!path.ends_with(".spec.luau"), "{path} is for `antiraid test`");
        assert!(path.ends_with(".luaurc") || text.starts_with("--!strict\n"), "{path} is not strict");
    }
}

#[test]
fn the_aliases_lead_to_modules_and_both_files_have_the_same() {
    let root = root();
    let (own, tree) = (aliases(&root, ""), aliases(&root, "templating-types/"));
    assert_eq!(own, tree);
    assert_eq!(own["discord-types"], "templating-types/discord-luau-corrections");
    for (alias, target) in own {
        let prefix = format!("{target}/");
        assert!(
            root.keys().any(|path| path.starts_with(&prefix) && path.ends_with(".luau")),
            "`{alias}` leads to `{target}`, where no module is"
        );
    }
}

#[test]
fn every_require_leads_to_exactly_one_module() {
    let root = root();
    let mut seen = 0;
    for (path, text) in root.iter().filter(|(path, _)| path.ends_with(".luau")) {
        for name in requires(text) {
            let target = resolve(&root, path, name).unwrap_or_else(|why| panic!("{path}: require(\"{name}\"): {why}"));
            assert_ne!(&target, path, "{path} requires itself");
            seen += 1;
        }
    }
    assert!(seen > 8, "only {seen} were found: does the search still know how they are written?");
}

/// The search of the test above must be able to fail.
#[test]
fn the_rules_of_require() {
    let text = String::new;
    let mut root = BTreeMap::from([
        ("init.luau".to_owned(), text()),
        ("a.luau".to_owned(), text()),
        ("m/init.luau".to_owned(), text()),
        ("m/a.luau".to_owned(), text()),
        ("m/n/x.luau".to_owned(), text()),
        (".luaurc".to_owned(), r#"{"aliases": {"n": "./m/n/"}}"#.to_owned()),
    ]);
    let ok = |root: &_, from, name| resolve(root, from, name).unwrap();
    assert_eq!(ok(&root, "init.luau", "@self/a"), "a.luau");
    assert_eq!(ok(&root, "init.luau", "./a"), "a.luau");
    assert_eq!(ok(&root, "m/init.luau", "./a"), "a.luau");
    assert_eq!(ok(&root, "m/init.luau", "@self/a"), "m/a.luau");
    assert_eq!(ok(&root, "m/a.luau", "./n/x"), "m/n/x.luau");
    assert_eq!(ok(&root, "m/n/x.luau", "../a"), "m/a.luau");
    assert_eq!(ok(&root, "m/n/x.luau", "@N/x"), "m/n/x.luau");
    assert_eq!(ok(&root, "a.luau", "./m"), "m/init.luau");
    for (from, name) in
        [("a.luau", "./b"), ("a.luau", "../a"), ("a.luau", "@q/x"), ("a.luau", "m"), ("a.luau", "@self/a")]
    {
        assert!(resolve(&root, from, name).is_err(), "{from} {name}");
    }
    root.insert("m.luau".to_owned(), text());
    assert!(resolve(&root, "a.luau", "./m").unwrap_err().contains("ambiguous"));
    assert_eq!(requires("local a = require(\"./a\")\nreturn require(\"@self/b\")(1)"), ["./a", "@self/b"]);
}

/// The names that a file requires.
fn requires(text: &str) -> Vec<&str> {
    text.split("require(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

/// The aliases of the `.luaurc` in a folder (empty, or ending in `/`), by lower-case name, as folders from the root.
fn aliases(root: &BTreeMap<String, String>, folder: &str) -> BTreeMap<String, String> {
    let Some(text) = root.get(&format!("{folder}.luaurc")) else { return BTreeMap::new() };
    let config: serde_json::Value = serde_json::from_str(text).unwrap_or_else(|why| panic!("{folder}.luaurc: {why}"));
    let aliases = config["aliases"].as_object().expect("a map of aliases");
    aliases
        .iter()
        .map(|(name, target)| {
            let target = target.as_str().expect("a path").strip_prefix("./").expect("a path below the file's folder");
            (name.to_lowercase(), format!("{folder}{}", target.trim_end_matches('/')))
        })
        .collect()
}

/// The file that a name means in a file: the rules of the template API, section 14.1.
fn resolve(root: &BTreeMap<String, String>, from: &str, name: &str) -> Result<String, String> {
    let mut folder: Vec<&str> = from.split('/').collect();
    let is_init = folder.pop() == Some("init.luau");
    let own = folder.clone();
    let (head, rest) = name.split_once('/').ok_or("bad form")?;
    let mut target: Vec<String> = match head {
        "@self" if is_init => own.iter().map(|part| part.to_string()).collect(),
        "." | ".." => {
            // The root has no folder that contains it, so there it stands for itself.
            if is_init && !folder.is_empty() {
                folder.pop();
            }
            if head == ".." {
                folder.pop().ok_or("above the root")?;
            }
            folder.iter().map(|part| part.to_string()).collect()
        }
        _ => {
            let alias = head.strip_prefix('@').ok_or("bad form")?.to_lowercase();
            let found = (0..=own.len()).rev().find_map(|depth| {
                let folder: String = own[..depth].iter().map(|part| format!("{part}/")).collect();
                aliases(root, &folder).remove(&alias)
            });
            found.ok_or("unknown alias")?.split('/').map(str::to_owned).collect()
        }
    };
    for part in rest.split('/') {
        match part {
            ".." => drop(target.pop().ok_or("above the root")?),
            part => target.push(part.to_owned()),
        }
    }
    let target = target.join("/");
    let candidates = ["luau", "lua"].map(|end| [format!("{target}.{end}"), format!("{target}/init.{end}")]);
    let mut found = candidates.into_iter().flatten().filter(|path| root.contains_key(path));
    let first = found.next().ok_or_else(|| format!("`{target}` is not there"))?;
    if found.next().is_some() { Err(format!("`{target}` is ambiguous")) } else { Ok(first) }
}
