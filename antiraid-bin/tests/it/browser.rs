//! The page of `antiraid dev` in a real browser: Chromium, driven by playwright-core.
//!
//! `.ci/test` installs both. Without it: Debian's package `chromium`, and `npm install playwright-core` in a folder that
//! `ANTIRAID_TEST_PLAYWRIGHT` names.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::antiraid::{Antiraid, workspace};
use crate::dev::Dev;

const MANIFEST: &str = r#"
name = "desk"
description = "Answers all that a page can do."
events = ["MESSAGE", "INTERACTION_CREATE", "GUILD_MEMBER_ADD"]
capabilities = ["discord:*"]
tenants = "all"
"#;

fn chromium() -> PathBuf {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found =
        std::env::split_paths(&paths).flat_map(|folder| names.map(|name| folder.join(name))).find(|path| path.exists());
    found.expect("this test needs Chromium (Debian: apt-get install chromium); `.ci/test` installs it")
}

fn playwright() -> PathBuf {
    let named = std::env::var_os("ANTIRAID_TEST_PLAYWRIGHT").map(PathBuf::from);
    let folder =
        named.unwrap_or_else(|| workspace().join("target/ci-tools/browser")).join("node_modules/playwright-core");
    assert!(
        folder.join("package.json").exists(),
        "this test needs playwright-core in {}: `.ci/test` installs it, or npm install --prefix there",
        folder.display()
    );
    folder
}

#[test]
fn the_page_does_all_that_the_readme_says() {
    let antiraid = Antiraid::new()
        .file("desk/template.toml", MANIFEST)
        .file("desk/init.luau", include_str!("../browser/desk.luau"));
    let dev = Dev::start(&antiraid, &["desk", "--workers", "1"]);
    #[expect(clippy::disallowed_methods, reason = "a browser, which no worker process supervises")]
    let output = Command::new("node")
        .arg(workspace().join("antiraid-bin/tests/browser/desk.mjs"))
        .args([playwright(), chromium()])
        .arg(dev.url())
        .arg(antiraid.path("desk/init.luau"))
        .stdin(Stdio::null())
        .output()
        .expect("this test needs Node.js (Debian: apt-get install nodejs)");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.lines().count() >= 15, "{said}");
}
