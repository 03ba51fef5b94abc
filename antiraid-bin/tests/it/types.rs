//! `antiraid types`, `antiraid check` and the reference for authors: what is written, and what it is good for.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use antiraid_bin::reference_command::pages;
use antiraid_bin::type_check::{Strictness, TypeChecker};
use worker_builtins::{Builtins, GLOBALS};
use worker_core::{TemplateFiles, TemplateLimits};

use crate::antiraid::{Antiraid, workspace};

const MANIFEST: &str =
    "name = \"t\"\ndescription = \"x\"\nevents = [\"MESSAGE\"]\ncapabilities = [\"*\"]\ntenants = \"all\"\n";

const TYPED: &str = r#"--!strict
local kv = require("@antiraid-core/plugins/kv")
local primitives = require("@antiraid-core/primitives")

local event: primitives.Event, ctx: primitives.TemplateContext = ...

local function count(store: kv.Plugin): number
    return store:incr(event.name, 1, { "counts" })
end

local stores = ctx.DataStores.LinksStore.links()
task.delay(1, print, stores.docs_url)
return count(ctx.KV)
"#;

fn types_dir() -> Antiraid {
    let antiraid = Antiraid::new();
    antiraid.run(["types", "."]).with_status(0).says(&["files written"]);
    antiraid
}

#[test]
fn what_an_editor_needs_is_written() {
    let antiraid = types_dir();
    assert_eq!(fs::read_to_string(antiraid.path("templating-types/globals.d.luau")).unwrap(), GLOBALS);
    let rc: serde_json::Value = serde_json::from_slice(&fs::read(antiraid.path(".luaurc")).unwrap()).unwrap();
    for (alias, target) in rc["aliases"].as_object().unwrap() {
        assert!(antiraid.path(target.as_str().unwrap()).is_dir(), "{alias} leads to {target}");
    }
    let settings = fs::read(antiraid.path(".vscode/settings.json")).unwrap();
    let settings: serde_json::Value = serde_json::from_slice(&settings).unwrap();
    let globals = settings["luau-lsp.types.definitionFiles"]["@antiraid"].as_str().unwrap();
    assert!(antiraid.path(globals).is_file());
    for (path, text) in Builtins::embedded().library().iter() {
        assert_eq!(fs::read_to_string(antiraid.path(path)).unwrap(), **text, "{path}");
    }
}

/// As an editor would see it: a template in the folder, with nothing but the files that were written.
#[test]
fn what_is_written_is_enough_to_check_a_template() {
    let antiraid = types_dir();
    let mut files = vec![("mine/init.luau".to_owned(), TYPED.to_owned())];
    for path in Builtins::embedded().library().iter().map(|(path, _)| path.to_string()).chain([".luaurc".to_owned()]) {
        let text = fs::read_to_string(antiraid.path(&path)).unwrap();
        files.push((path, text));
    }
    let limits = TemplateLimits::default();
    let files = Arc::new(TemplateFiles::new(files, &limits).unwrap());
    let none = Arc::new(TemplateFiles::new(Vec::<(String, String)>::new(), &limits).unwrap());
    let problems = TypeChecker::new(files, none, Strictness::Strict).unwrap().check().unwrap();
    assert_eq!(problems, []);
}

#[test]
fn templates_are_checked_in_that_folder() {
    let antiraid = types_dir().file("mine/template.toml", MANIFEST).file("mine/init.luau", TYPED);
    antiraid.run(["check", "--strict", "."]).with_status(0).says(&["t: good, 1 files"]);

    let wrong = TYPED
        .replace("return store:incr(event.name, 1, { \"counts\" })", "return store:incr(event.nam, 1, \"counts\")")
        .replace("return count(ctx.KV)", "loadstring(\"x\")\nreturn count(ctx.Kv)");
    let antiraid = antiraid.file("mine/init.luau", wrong);
    let ran = antiraid.run(["check", "."]).with_status(1);
    ran.says(&[
        "mine/init.luau:8:23: ",
        "'nam'",
        "mine/init.luau:8:37: ",
        "mine/init.luau:13:1: ",
        "mine/init.luau:14:14: ",
        "'Kv'",
    ]);
    assert!(ran.stdout.lines().all(|line| line.starts_with("./mine/init.luau:")), "{}", ran.stdout);
}

#[test]
fn the_name_of_an_event_tells_the_type_of_its_data() {
    let code = r#"--!strict
local primitives = require("@antiraid-core/primitives")
local event: primitives.Event, ctx: primitives.TemplateContext = ...
local function text(_: string) end
local function handle(event: primitives.Event)
	if event.name == "MESSAGE" then
		text(event.data.content)
		text(event.data.author.username)
		text(event.data.attachments)
		text(event.data.contents)
	elseif event.name == "GUILD_MEMBER_ADD" then
		text(event.data.user.id)
		text(event.data.user.age)
	elseif event.name == "GUILD_BAN_ADD" then
		text(event.data.user.id)
		text(event.data.reason)
	elseif event.name == "GUILD_ROLE_UPDATE" then
		text(event.data.role.permissions)
		text(event.data.role.position)
	elseif event.name == "CHANNEL_DELETE" then
		text(event.data.id)
		text(event.data.type)
	elseif event.name == "INTERACTION_CREATE" then
		text(event.data.token)
		text(event.data.type)
	elseif event.name == "KeyExpiry" then
		text(event.data.key)
		text(event.data.scopes)
	elseif event.name == "ExecuteSetting" then
		text(event.data.op)
		text(event.data.fields)
	elseif event.name == "TYPING_START" then
		text(event.data.anything)
	end
end
if event.name ~= "MESSAGE_DELETE" then
	return handle(event)
end
text(event.data.channel_id)
text(event.data.content)
return
"#;
    let wrong = [9, 10, 13, 16, 19, 22, 25, 28, 31, 40];
    let antiraid = Antiraid::new().file("t/template.toml", MANIFEST).file("t/init.luau", code);
    let ran = antiraid.run(["check", "t"]).with_status(1);
    let mut lines: Vec<usize> = ran
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("t/init.luau:")?.split(':').next()?.parse().ok())
        .collect();
    lines.dedup();
    assert_eq!(lines, wrong, "{}", ran.stdout);
}

#[test]
fn strictness_is_what_the_file_the_folder_or_the_flag_says() {
    let lax = "local x: number = tostring(5)\nreturn x";
    let check = |antiraid: &Antiraid, args: &[&str]| antiraid.run([&["check"], args, &["t"]].concat()).status;
    let antiraid = Antiraid::new().file("t/template.toml", MANIFEST).file("t/init.luau", lax);
    assert_eq!(check(&antiraid, &["--strict"]), 1);
    let antiraid = antiraid.file("t/.luaurc", r#"{"languageMode":"strict"}"#);
    assert_eq!(check(&antiraid, &[]), 1);
    let antiraid = antiraid.file("t/.luaurc", r#"{"languageMode":"nocheck"}"#);
    assert_eq!(check(&antiraid, &[]), 0);
    let antiraid = antiraid.file("t/init.luau", format!("--!strict\n{lax}"));
    assert_eq!(check(&antiraid, &[]), 1);
    let antiraid = antiraid.file("t/init.luau", format!("--!nocheck\n{lax}"));
    assert_eq!(check(&antiraid, &["--strict"]), 0);
}

#[test]
fn a_check_finds_what_a_template_check_finds() {
    Antiraid::new()
        .file("t/template.toml", MANIFEST)
        .file("t/init.luau", "return require('./gone')")
        .run(["check", "t"])
        .with_status(1)
        .says(&["t/init.luau:1: require: `./gone` not found"]);
}

#[test]
fn types_do_not_overwrite_what_is_not_theirs() {
    let antiraid = Antiraid::new().file("w/.luaurc", "{}").file("w/.vscode/settings.json", "{\"a\": 1}");
    let ran = antiraid.run(["types", "w"]).with_status(2);
    ran.says(&["w/.luaurc: is not as this command wrote it", "w/.vscode/settings.json: is not", "--force"]);
    assert!(!antiraid.path("w/templating-types").exists(), "all or nothing");
    antiraid.run(["types", "--force", "w"]).with_status(0);

    // What was not changed since is replaced and removed without asking; what was is not.
    const SET: &str = "templating-types/@antiraid-ext/set.luau";
    const LEDGER: &str = "w/templating-types/.written-by-antiraid";
    let set = format!("w/{SET}");
    let hash = |text: &str| worker_core::ContentHash::of(text.as_bytes()).to_string();
    let current = fs::read_to_string(antiraid.path(&set)).unwrap();
    let ledger = fs::read_to_string(antiraid.path(LEDGER)).unwrap().replace(&hash(&current), &hash("older"))
        + &format!("{}  templating-types/gone.luau\n{}  ../outside.luau\n", hash("gone"), hash("outside"));
    let antiraid = antiraid
        .file(&set, "older")
        .file("w/templating-types/gone.luau", "gone")
        .file("outside.luau", "outside")
        .file(LEDGER, ledger);
    antiraid.run(["types", "w"]).with_status(0).says(&["1 files written", "1 removed"]);
    assert_eq!(fs::read_to_string(antiraid.path(&set)).unwrap(), current);
    assert!(!antiraid.path("w/templating-types/gone.luau").exists());
    assert!(antiraid.path("outside.luau").exists(), "a ledger must not lead out of the folder");
    antiraid.run(["types", "w"]).with_status(0).says(&["0 files written", "0 removed"]);

    let antiraid = antiraid.file(&set, "mine now");
    antiraid.run(["types", "w"]).with_status(2).says(&["set.luau: is not as this command wrote it"]);
    assert_eq!(fs::read_to_string(antiraid.path(&set)).unwrap(), "mine now");
}

#[test]
fn types_are_not_written_into_a_template() {
    let antiraid = Antiraid::new().file("t/template.toml", MANIFEST);
    antiraid.run(["types", "t"]).with_status(2).says(&["t: is a template"]);
    assert!(!antiraid.path("t/templating-types").exists());
}

#[test]
fn the_reference_is_that_of_these_sources() {
    let dir = workspace().join("worker-builtins/reference");
    let committed: BTreeMap<String, String> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap()))
        .collect();
    let pages = pages(&Builtins::embedded());
    let again = "cargo run -p antiraid-bin -- reference worker-builtins/reference";
    assert_eq!(
        committed.keys().collect::<Vec<_>>(),
        pages.keys().collect::<Vec<_>>(),
        "pages there, pages there should be: {again}"
    );
    for (name, page) in pages {
        assert!(committed[&name] == page, "{name} is of older sources: {again}");
    }
}

#[test]
fn a_page_says_what_a_module_offers() {
    let pages = pages(&Builtins::embedded());
    let kittycat = &pages["antiraid-core.kittycat.md"];
    assert!(kittycat.starts_with("# @antiraid-core/kittycat\n\nPermissions in the form"), "{kittycat}");
    for part in [
        "local kittycat = require(\"@antiraid-core/kittycat\")",
        "### has_perm\n\nWhether somebody who holds the permissions may do what needs `wanted`.\n",
        "function has_perm(held: { string }, wanted: string): boolean\n```",
        "### StaffPermissions",
    ] {
        assert!(kittycat.contains(part), "no {part} in {kittycat}");
    }
    assert!(!kittycat.contains("covers"), "a function without a comment is not for authors");
    assert!(pages["antiraid.datetime.md"].contains("### TimeZone"));
    assert!(pages["globals.md"].contains("### task") && pages["globals.md"].contains("### getfenv"));
    assert!(pages["README.md"].contains("* [@discord-types/flags](discord-types.flags.md): "));
}
