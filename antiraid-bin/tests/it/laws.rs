//! The laws of the workspace, which no compiler checks: who may depend on whom, and where versions stand.

use std::collections::BTreeMap;
use std::fs;

use toml::{Table, Value};

use crate::antiraid::workspace;

/// The layers: each crate, and the crates of ours that it may depend on. The root README draws them.
const EDGES: [(&str, &[&str]); 9] = [
    ("worker-core", &[]),
    ("worker-builtins", &["worker-core"]),
    ("worker-db", &["worker-core"]),
    ("worker-vm", &["worker-core", "worker-db"]),
    ("worker-dispatch", &["worker-core", "worker-db", "worker-vm"]),
    ("worker-expiry", &["worker-core", "worker-db", "worker-dispatch"]),
    ("worker-pool", &["worker-core"]),
    ("worker-process", &["worker-core", "worker-pool"]),
    (
        "antiraid-bin",
        &[
            "worker-core",
            "worker-builtins",
            "worker-db",
            "worker-vm",
            "worker-dispatch",
            "worker-expiry",
            "worker-pool",
            "worker-process",
        ],
    ),
];

/// Heavy crates, and the one crate of ours that may use each; what may be in two is listed twice.
const ONLY_IN: &[(&str, &str)] = &[
    ("governor", "worker-core"),
    ("argon2", "worker-vm"),
    ("include_dir", "worker-builtins"),
    ("moka", "worker-db"),
    ("moka", "worker-vm"),
    ("sqlx", "worker-db"),
    ("mlua", "worker-vm"),
    ("object_store", "worker-vm"),
    ("png", "worker-vm"),
    ("reqwest", "worker-vm"),
    ("reqwest-of-serenity", "worker-vm"),
    ("ring", "worker-vm"),
    ("rustls", "worker-vm"),
    ("serenity", "worker-vm"),
    ("sonic-rs", "worker-vm"),
    ("tokio-util", "worker-expiry"),
    ("hyper", "worker-process"),
    ("hyper-util", "worker-process"),
    ("subtle", "worker-process"),
    ("axum", "antiraid-bin"),
    ("notify", "antiraid-bin"),
    ("ratatui", "antiraid-bin"),
    ("clap", "antiraid-bin"),
    ("comfy-table", "antiraid-bin"),
    ("figment", "antiraid-bin"),
    ("hdrhistogram", "antiraid-bin"),
    ("indicatif", "antiraid-bin"),
    ("luau-analysis", "antiraid-bin"),
    ("luau-common", "antiraid-bin"),
    ("luau-config", "antiraid-bin"),
    ("luau-syntax", "antiraid-bin"),
    ("tracing-subscriber", "antiraid-bin"),
    ("twilight-gateway", "antiraid-bin"),
];

struct Member {
    name: &'static str,
    manifest: Table,
}

struct Dependency<'a> {
    name: &'a str,
    spec: &'a Value,
    is_dev: bool,
}

fn manifest(folder: &str) -> Table {
    let path = workspace().join(folder).join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn members() -> Vec<Member> {
    EDGES.iter().map(|&(name, _)| Member { name, manifest: manifest(name) }).collect()
}

impl Member {
    /// All dependencies, those of `[target.…]` too.
    fn dependencies(&self) -> Vec<Dependency<'_>> {
        let targets =
            self.manifest.get("target").and_then(Value::as_table).into_iter().flat_map(|targets| targets.values());
        let places = std::iter::once(&self.manifest).chain(targets.filter_map(Value::as_table));
        let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
        places
            .flat_map(|place| kinds.map(|kind| (kind, place.get(kind).and_then(Value::as_table))))
            .flat_map(|(kind, table)| table.into_iter().flatten().map(move |(name, spec)| (kind, name, spec)))
            .map(|(kind, name, spec)| Dependency { name, spec, is_dev: kind == "dev-dependencies" })
            .collect()
    }

    fn inherits(&self, section: &str, key: &str) -> bool {
        let value = if key.is_empty() {
            self.manifest.get(section)
        } else {
            self.manifest.get(section).and_then(|section| section.get(key))
        };
        value.and_then(|value| value.get("workspace")).and_then(Value::as_bool) == Some(true)
    }
}

#[test]
fn the_workspace_has_these_crates() {
    let root = manifest("");
    let mut listed: Vec<_> =
        root["workspace"]["members"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let mut expected: Vec<_> = EDGES.iter().map(|(name, _)| *name).collect();
    listed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(listed, expected);
}

#[test]
fn crates_depend_only_on_the_layers_below_them() {
    let edges = BTreeMap::from(EDGES);
    for member in members() {
        for dependency in member.dependencies().iter().filter(|dependency| edges.contains_key(dependency.name)) {
            let allowed = edges[member.name].contains(&dependency.name);
            // A crate's own tests may use what core offers to tests.
            let is_test_util = dependency.is_dev && dependency.name == "worker-core";
            assert!(allowed || is_test_util, "{} must not depend on {}", member.name, dependency.name);
        }
    }
}

#[test]
fn heavy_crates_stay_in_their_layer() {
    for member in members() {
        for dependency in member.dependencies() {
            let homes: Vec<_> =
                ONLY_IN.iter().filter(|(name, _)| *name == dependency.name).map(|(_, home)| *home).collect();
            // Worker-vm's tests serve what Discord would.
            let plays_discord = dependency.is_dev && dependency.name == "axum" && member.name == "worker-vm";
            assert!(
                homes.is_empty() || homes.contains(&member.name) || plays_discord,
                "{} belongs in {homes:?}, not {}",
                dependency.name,
                member.name
            );
        }
    }
}

#[test]
fn versions_and_features_stand_in_the_workspace_alone() {
    let root = manifest("");
    let shared = root["workspace"]["dependencies"].as_table().unwrap();
    for member in members() {
        for dependency in member.dependencies() {
            let place = format!("{} in {}", dependency.name, member.name);
            assert!(shared.contains_key(dependency.name), "{place} is not in [workspace.dependencies]");
            let spec = dependency
                .spec
                .as_table()
                .unwrap_or_else(|| panic!("{place}: write `{}.workspace = true`", dependency.name));
            assert_eq!(spec.get("workspace").and_then(Value::as_bool), Some(true), "{place} has a version of its own");
            let test_util = dependency.is_dev
                && dependency.name == "worker-core"
                && spec.get("features") == Some(&Value::Array(vec!["test-util".into()]));
            let extra: Vec<_> =
                spec.keys().filter(|key| *key != "workspace" && !(test_util && *key == "features")).collect();
            assert!(extra.is_empty(), "{place} sets {extra:?} outside [workspace.dependencies]");
        }
    }
}

#[test]
fn every_crate_inherits_what_all_have_in_common() {
    for member in members() {
        assert!(member.inherits("lints", ""), "{}: write [lints] workspace = true", member.name);
        for key in ["version", "edition", "rust-version", "license", "publish"] {
            assert!(member.inherits("package", key), "{}: write {key}.workspace = true", member.name);
        }
    }
    assert_eq!(manifest("")["workspace"]["package"]["publish"].as_bool(), Some(false));
}

#[test]
fn every_crate_has_a_front_page() {
    for (name, _) in EDGES {
        let readme = fs::read_to_string(workspace().join(name).join("README.md")).unwrap_or_default();
        for heading in ["## Invariants", "## Example", "## Not here"] {
            assert!(readme.contains(heading), "{name}/README.md has no `{heading}`");
        }
        let lib = fs::read_to_string(workspace().join(name).join("src/lib.rs")).unwrap();
        assert!(
            lib.starts_with(r#"#![doc = include_str!("../README.md")]"#),
            "{name}: the README is not its front page"
        );
    }
}
