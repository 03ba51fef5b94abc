//! The type files say what the runtime has: no name more, no name less, and each as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use antiraid_bin::type_check::{Strictness, TypeChecker};
use serde_json::Value;
use worker_builtins::{Builtins, GLOBALS};
use worker_core::{EventName, TemplateFiles, TemplateLimits};
use worker_vm::Recorder;

use crate::antiraid::{Antiraid, workspace};

/// The registered modules, each with the type of what `require` gives, in its type file.
const MODULES: [(&str, &str); 8] = [
    ("@antiraid/datamgmt", "Module"),
    ("@antiraid/datetime", "Module"),
    ("@antiraid/interop", "Interop"),
    ("@antiraid/luau", "Module"),
    ("@antiraid/typesext", "TypesExt"),
    ("@lune/datetime", "Module"),
    ("@lune/regex", "Module"),
    ("@lune/serde", "Module"),
];

/// Modules that are a type file for good.
const TYPES_ONLY: [&str; 1] = ["@lune/roblox"];

/// What the context has, each with the type file of what it is. All have a type `Plugin`.
const PLUGINS: [(&str, &str); 6] = [
    ("KV", "kv"),
    ("DataStores", "datastores"),
    ("Discord", "discord"),
    ("ObjectStorage", "objectstorage"),
    ("HTTPClient", "httpclient"),
    ("ImageCaptcha", "img_captcha"),
];

/// Plugins that a replay has not: nobody is there to call.
const PLUGINS_ABSENT: [&str; 1] = ["Discord"];

/// Each native type of worker-vm, by its Rust name, with the type that describes it. A `DataStores` and a `DataStore` are
/// asked at run time.
const CLASSES: [(&str, &str, &str); 19] = [
    ("Blob", "@antiraid-core/blob", "Blob"),
    ("TarArchive", "@antiraid/datamgmt", "TarArchive"),
    ("Chunk", "@antiraid/luau", "Chunk"),
    ("Moment", "@lune/datetime", "DateTime"),
    ("Regex", "@lune/regex", "Regex"),
    ("RegexMatch", "@lune/regex", "RegexMatch"),
    ("RegexCaptures", "@lune/regex", "RegexCaptures"),
    ("Headers", "@antiraid-core/plugins/httpclient", "Headers"),
    ("Url", "@antiraid-core/plugins/httpclient", "Url"),
    ("Request", "@antiraid-core/plugins/httpclient", "Request"),
    ("Response", "@antiraid-core/plugins/httpclient", "Response"),
    ("ObjectStorage", "@antiraid-core/plugins/objectstorage", "Plugin"),
    ("DateTime", "@antiraid/datetime", "DateTime"),
    ("TimeDelta", "@antiraid/datetime", "TimeDelta"),
    ("TimeZone", "@antiraid/datetime", "TimeZone"),
    ("Lazy", "@antiraid-core/lazy", "Lazy"),
    ("U64", "@antiraid/typesext", "U64"),
    ("I64", "@antiraid/typesext", "I64"),
    ("Kv", "@antiraid-core/plugins/kv", "Plugin"),
];

/// Those that iteration shows.
const CLASSES_ITERATED: [&str; 3] = ["DataStores", "DataStore", "HttpClient"];

/// Those whose methods are in a table, which another test looks at.
const CLASSES_OF_TABLES: [&str; 1] = ["DiscordPlugin"];

/// Those that only specs meet, in place of what a template has.
const CLASSES_OF_SPECS: [&str; 1] = ["DiscordRecorder"];

type Names = BTreeSet<String>;

/// The fields of an exported type, or of a declared global: what stands one tab deep in its declaration.
fn members(text: &str, declaration: &str) -> Names {
    let begin = [
        format!("export type {declaration} "),
        format!("export type {declaration}<"),
        format!("declare {declaration}: "),
    ];
    let mut lines = text.lines().skip_while(|line| !begin.iter().any(|begin| line.starts_with(begin)));
    let first = lines.next().unwrap_or_else(|| panic!("no type {declaration}"));
    // `typeof(setmetatable(` has the fields two tabs deep, in its first argument.
    let (indent, lines): (&str, Vec<_>) = if first.ends_with("typeof(setmetatable(") {
        ("\t\t", lines.skip(1).take_while(|line| !line.starts_with("\t}")).collect())
    } else {
        ("\t", lines.take_while(|line| !line.starts_with('}')).collect())
    };
    let fields = lines.iter().filter_map(|line| {
        let line = line.strip_prefix(indent)?;
        let line = line.strip_prefix("read ").unwrap_or(line);
        let (name, _) = line.split_once(':')?;
        name.chars().all(|c| c.is_alphanumeric() || c == '_').then(|| name.to_owned())
    });
    let names: Names = fields.collect();
    assert!(!names.is_empty(), "{declaration} has no fields");
    names
}

fn type_file(module: &str) -> String {
    let path = format!("{}{module}.luau", Builtins::LIBRARY_ROOT);
    let library = Builtins::embedded().library();
    library.get(&path).unwrap_or_else(|| panic!("no {path}")).to_string()
}

/// What a template sees: the names in each module, in each data store, in `task`, and what is there at all.
fn seen() -> Value {
    let modules: Vec<_> =
        MODULES.iter().map(|(name, _)| format!("{name:?}")).chain(["\"@lune/roblox\"".into()]).collect();
    let plugins: Vec<_> = PLUGINS.iter().map(|(name, _)| format!("{name:?}")).collect();
    let code = format!(
        r#"
local _, ctx = ...
local function names(of: any): {{ string }}
    local list = {{}}
    for name in of do
        table.insert(list, name)
    end
    return list
end
local seen = {{ modules = {{}}, plugins = {{}}, stores = {{}}, globals = {{}}, task = names(task), bitu64 = {{}} }} :: any
for _, name in {{ {} }} do
    local ok, module = pcall(require, name)
    seen.modules[name] = if ok then names(module) else nil
end
for _, name in {{ {} }} do
    seen.plugins[name] = pcall(function() return ctx[name] end)
end
seen.http = names(ctx.HTTPClient)
for name in ctx.DataStores do
    seen.stores[name] = names(ctx.DataStores[name])
end
for _, name in {{ "print", "collectgarbage", "getfenv", "setfenv", "loadstring", "newproxy" }} do
    seen.globals[name] = type((_G :: any)[name])
end
seen.bitu64 = names((require("@antiraid/typesext") :: any).bitu64)
return seen
"#,
        modules.join(", "),
        plugins.join(", ")
    );
    let manifest =
        "name = \"t\"\ndescription = \"x\"\nevents = [\"MESSAGE\"]\ncapabilities = [\"*\"]\ntenants = \"all\"\n";
    let ran = Antiraid::new()
        .file("t/template.toml", manifest)
        .file("t/init.luau", code)
        .file("x.jsonl", r#"{"op":0,"t":"MESSAGE_CREATE","s":1,"d":{"guild_id":"1"}}"#)
        .run(["replay", "--results", "--templates", "t", "x.jsonl"]);
    let line: Value = serde_json::from_str(ran.stdout.lines().next().unwrap_or_default())
        .unwrap_or_else(|_| panic!("{}{}", ran.stdout, ran.stderr));
    assert!(line["value"].is_object(), "{}{}", ran.stdout, ran.stderr);
    line["value"].clone()
}

fn names(value: &Value) -> Names {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[test]
fn modules_and_globals() {
    let seen = seen();
    let tables: BTreeMap<&str, Names> =
        seen["modules"].as_object().unwrap().iter().map(|(name, keys)| (&**name, names(keys))).collect();
    for (module, of) in MODULES {
        let has = tables.get(module).unwrap_or_else(|| panic!("the runtime has no {module}"));
        assert_eq!(*has, members(&type_file(module), of), "{module}: runtime, then type file");
    }
    assert_eq!(names(&seen["task"]), members(GLOBALS, "task"));
    for (name, kind) in [
        ("print", "function"),
        ("collectgarbage", "function"),
        ("getfenv", "nil"),
        ("setfenv", "nil"),
        ("loadstring", "nil"),
        ("newproxy", "nil"),
    ] {
        assert_eq!(seen["globals"][name], kind, "{name}");
        let declared = match kind {
            "nil" => format!("declare {name}: nil"),
            _ => format!("declare function {name}("),
        };
        assert!(GLOBALS.contains(&declared), "{declared}");
    }
    let typesext = type_file("@antiraid/typesext");
    let bitu64 = typesext.split_once("\tbitu64: {\n").unwrap().1.split_once("\n\t},").unwrap().0.replace("\t\t", "\t");
    assert_eq!(names(&seen["bitu64"]), members(&format!("export type bitu64 = {{\n{bitu64}\n}}"), "bitu64"));
}

#[test]
fn every_type_file_of_a_module_is_in_a_table_above() {
    let library = Builtins::embedded().library();
    let files: Names = library
        .iter()
        .filter_map(|(path, _)| path.strip_prefix(Builtins::LIBRARY_ROOT)?.strip_suffix(".luau"))
        .map(str::to_owned)
        .collect();
    let of = |folders: &[&str]| -> Names {
        files.iter().filter(|path| folders.iter().any(|folder| path.starts_with(folder))).cloned().collect()
    };
    let listed = MODULES.iter().map(|(name, _)| *name).chain(TYPES_ONLY);
    assert_eq!(of(&["@antiraid/", "@lune/"]), listed.map(str::to_owned).collect::<Names>());
    let plugins = PLUGINS.iter().map(|(_, file)| format!("@antiraid-core/plugins/{file}"));
    assert_eq!(of(&["@antiraid-core/plugins/"]), plugins.collect());
}

#[test]
fn plugins_and_stores() {
    let seen = seen();
    let context = members(&type_file("@antiraid-core/primitives"), "TemplateContext");
    for (plugin, file) in PLUGINS {
        assert!(context.contains(plugin), "TemplateContext has no {plugin}");
        let is_there = seen["plugins"][plugin] == true;
        let is_absent = PLUGINS_ABSENT.contains(&plugin);
        assert_ne!(is_there, is_absent, "{plugin}: PLUGINS_ABSENT has those that are not there");
        assert!(!members(&type_file(&format!("@antiraid-core/plugins/{file}")), "Plugin").is_empty());
    }
    assert_eq!(names(&seen["http"]), members(&type_file("@antiraid-core/plugins/httpclient"), "Plugin"));
    let text = type_file("@antiraid-core/plugins/datastores");
    let stores = seen["stores"].as_object().unwrap();
    let mut described = members(&text, "Plugin");
    assert!(described.remove("JobServerStore"), "described as nil");
    assert_eq!(stores.keys().cloned().collect::<Names>(), described);
    for (store, functions) in stores {
        let mut described = members(&text, "DataStore");
        described.extend(members(&text, store));
        assert_eq!(names(functions), described, "{store}: runtime, then type file");
    }
}

/// The Luau side of a native type cannot be iterated, so its names are read where Rust registers them.
#[test]
fn native_types() {
    let sources = rust_sources(&workspace().join("worker-vm/src"));
    let mut found = Names::new();
    for text in &sources {
        for (at, _) in text.match_indices("implClassfor") {
            let class = text[at + "implClassfor".len()..].split_once('{').unwrap().0;
            found.insert(class.to_owned());
        }
    }
    let listed: Names = CLASSES
        .iter()
        .map(|(class, ..)| *class)
        .chain(CLASSES_ITERATED)
        .chain(CLASSES_OF_TABLES)
        .chain(CLASSES_OF_SPECS)
        .map(str::to_owned)
        .collect();
    assert_eq!(found, listed, "native types of worker-vm, then those that a table above describes");

    for (class, module, of) in CLASSES {
        let head = format!("implClassfor{class}{{");
        let text = sources.iter().find(|text| text.contains(&head)).unwrap();
        let block = block(text, &head);
        let mut registered = registered(block);
        if block.contains("register::<Self>(class)") {
            registered.extend(self::registered(self::block(text, "fnregister<")));
        }
        assert_eq!(registered, members(&type_file(module), of), "{class}: runtime, then type file");
    }
}

#[test]
fn methods_of_discord() {
    let mut has: Names = Recorder::methods().map(str::to_owned).collect();
    has.extend(["antiraid_bulk_op", "antiraid_check_reason"].map(str::to_owned));
    assert_eq!(has, members(&type_file("@antiraid-core/plugins/discord"), "Plugin"));
}

#[test]
fn the_context() {
    let path = workspace().join("worker-vm/src/runtime/context.rs");
    let text = without_space(&fs::read_to_string(path).unwrap());
    let mut has: Names = quoted_before(block(&text, "fnindex("), "b\"", "=>");
    has.extend(quoted_before(block(&text, "fnindex("), "b\"", "|"));
    has.extend(quoted_before(&text, ",c\"", ");"));
    // Kept under these names, or never there.
    has.retain(|name| name != "HTTPServer" && !name.starts_with("__"));
    assert_eq!(
        has.intersection(&members(&type_file("@antiraid-core/primitives"), "TemplateContext")).count(),
        members(&type_file("@antiraid-core/primitives"), "TemplateContext").len(),
        "TemplateContext describes what the runtime does not have: {has:?}"
    );
    let fields = quoted_before(block(&text, "fnindex("), "b\"", "=>");
    let described = members(&type_file("@antiraid-core/primitives"), "TemplateContext");
    let missing: Vec<_> = fields.difference(&described).collect();
    assert!(missing.is_empty(), "TemplateContext does not describe {missing:?}");
}

/// A script for each type file: what it does must please the checker and the runtime, and what it marks as wrong must be
/// refused by both. So arguments, what may be left out, and results are what the types say.
const TYPED: [(&str, &[(&str, &str)]); 14] = [
    (
        "datamgmt",
        &[("@antiraid/datamgmt", "Module"), ("@antiraid/datamgmt", "TarArchive"), ("@antiraid-core/blob", "Blob")],
    ),
    (
        "datetime",
        &[
            ("@antiraid/datetime", "Module"),
            ("@antiraid/datetime", "TimeZone"),
            ("@antiraid/datetime", "DateTime"),
            ("@antiraid/datetime", "TimeDelta"),
        ],
    ),
    ("interop", &[("@antiraid/interop", "Interop")]),
    ("luau", &[("@antiraid/luau", "Module"), ("@antiraid/luau", "Chunk")]),
    ("typesext", &[("@antiraid/typesext", "TypesExt"), ("@antiraid/typesext", "U64"), ("@antiraid/typesext", "I64")]),
    (
        "lune_datetime",
        &[("@lune/datetime", "Module"), ("@lune/datetime", "DateTime"), ("@lune/datetime", "DateTimeValues")],
    ),
    (
        "lune_regex",
        &[
            ("@lune/regex", "Module"),
            ("@lune/regex", "Regex"),
            ("@lune/regex", "RegexMatch"),
            ("@lune/regex", "RegexCaptures"),
        ],
    ),
    ("lune_serde", &[("@lune/serde", "Module")]),
    (
        "kv",
        &[
            ("@antiraid-core/plugins/kv", "Plugin"),
            ("@antiraid-core/plugins/kv", "KvRecord"),
            ("@antiraid-core/plugins/kv", "SetResult"),
            ("@antiraid-core/plugins/kv", "CasResult"),
        ],
    ),
    (
        "datastores",
        &[
            ("@antiraid-core/plugins/datastores", "Plugin"),
            ("@antiraid-core/plugins/datastores", "DataStore"),
            ("@antiraid-core/plugins/datastores", "Stats"),
            ("@antiraid-core/plugins/datastores", "StatsStore"),
            ("@antiraid-core/plugins/datastores", "Links"),
            ("@antiraid-core/plugins/datastores", "LinksStore"),
            ("@antiraid-core/plugins/datastores", "CopyDataStore"),
            ("@antiraid-core/plugins/datastores", "TemplateStore"),
            ("@antiraid-core/plugins/datastores", "Template"),
        ],
    ),
    (
        "objectstorage",
        &[
            ("@antiraid-core/plugins/objectstorage", "Plugin"),
            ("@antiraid-core/plugins/objectstorage", "ObjectMetadata"),
        ],
    ),
    (
        "httpclient",
        &[
            ("@antiraid-core/plugins/httpclient", "Plugin"),
            ("@antiraid-core/plugins/httpclient", "Url"),
            ("@antiraid-core/plugins/httpclient", "Headers"),
            ("@antiraid-core/plugins/httpclient", "Request"),
            ("@antiraid-core/plugins/httpclient", "Response"),
        ],
    ),
    (
        "img_captcha",
        &[("@antiraid-core/plugins/img_captcha", "Plugin"), ("@antiraid-core/plugins/img_captcha", "Captcha")],
    ),
    ("primitives", &[("@antiraid-core/primitives", "TemplateContext"), ("@antiraid-core/primitives", "ScriptData")]),
];

/// The union of all events names each of them once.
#[test]
fn every_event_has_its_place_in_the_type_of_events() {
    let text = type_file("@antiraid-core/events");
    let names: Vec<_> = text
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|name| !matches!(*name, "Discord" | "AntiRaid"))
        .filter(|name| name.chars().all(|c| c.is_ascii_alphabetic() || c == '_'))
        .collect();
    let mut sorted: Vec<_> = names.clone();
    sorted.sort_unstable();
    sorted.dedup();
    let all: BTreeSet<_> = EventName::DISCORD.iter().chain(EventName::ANTIRAID).copied().collect();
    assert_eq!(sorted.iter().copied().collect::<BTreeSet<_>>(), all);
    // `MESSAGE` is in the example as well.
    assert_eq!(names.len(), all.len() + text.matches("event.name == \"MESSAGE\"").count());
}

/// What a script may leave to another one: the plugins of the context, and what only Discord knows.
const NOT_IN_PRIMITIVES: [&str; 7] =
    ["KV", "Discord", "DataStores", "ObjectStorage", "HTTPClient", "ImageCaptcha", "current_user"];

/// How a line begins that both must refuse.
const WRONG: &str = "is.wrong(";

fn typed(name: &str) -> String {
    let path = workspace().join(format!("worker-builtins/tests/typed/{name}.luau"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_checker_takes_and_refuses_what_the_runtime_does() {
    let library = Builtins::embedded().library();
    let manifest = |name: &str| {
        format!(
            "name = \"{name}\"\ndescription = \"x\"\nevents = [\"MESSAGE\"]\ncapabilities = [\"*\"]\ntenants = \"all\"\n"
        )
    };
    let spec = r#"local t = require("@antiraid-test")
t.test("the runtime is as the types say", function()
    t.http.on("PUT", "https://api.example.org/typed", { json = { a = 1 } })
    t.expect(t.dispatch(t.event.message())):toBe("ok")
end)"#;
    let mut antiraid = Antiraid::new();
    for (name, _) in TYPED {
        let text = typed(name);
        let is = typed("is");
        let files = [("init.luau", text.as_str()), ("is.luau", is.as_str())];
        let files = Arc::new(TemplateFiles::new(files, &TemplateLimits::default()).unwrap());
        let mut checker = TypeChecker::new(files, library.clone(), Strictness::Strict).unwrap();
        let mut refused = BTreeMap::new();
        for problem in checker.check().unwrap() {
            assert_eq!(problem.path, "/init.luau", "{problem:?}");
            refused.insert(problem.line, problem.message);
        }
        for (index, line) in text.lines().enumerate() {
            match refused.get(&(index + 1)) {
                Some(_) if line.starts_with(WRONG) => {}
                Some(problem) => panic!("{name}.luau:{}: the types refuse it: {problem}", index + 1),
                None => assert!(!line.starts_with(WRONG), "{name}.luau:{}: the types do not refuse it", index + 1),
            }
        }
        antiraid = antiraid
            .file(&format!("{name}/template.toml"), manifest(name))
            .file(&format!("{name}/is.luau"), is)
            .file(&format!("{name}/a.spec.luau"), spec)
            .file(&format!("{name}/init.luau"), text);
    }
    antiraid.run(["test"]).with_status(0).says(&[&format!("{} passed, 0 failed", TYPED.len())]);
}

#[test]
fn every_typed_name_is_used_in_a_script_that_is_checked_and_run() {
    for (name, types) in TYPED {
        let text = typed(name);
        for (module, of) in types {
            for member in members(&type_file(module), of) {
                let is_used = [".", ":"].iter().any(|mark| {
                    text.match_indices(&format!("{mark}{member}")).any(|(at, found)| {
                        !text[at + found.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
                    })
                });
                let is_elsewhere = name == "primitives" && NOT_IN_PRIMITIVES.contains(&&*member);
                assert!(is_used || is_elsewhere, "{name}.luau does not use {module}: {of}.{member}");
            }
        }
    }
    // All that is described is in some script.
    let listed: BTreeSet<_> = TYPED.iter().flat_map(|(_, types)| types.iter().copied()).collect();
    for (class, module, of) in CLASSES {
        assert!(listed.contains(&(module, of)) || class == "Lazy", "{module}: {of} has no script");
    }
    for (module, of) in MODULES {
        assert!(listed.contains(&(module, of)), "{module} has no script");
    }
}

/// The Rust files below a folder, without white space, so that it does not matter how they are wrapped.
fn rust_sources(dir: &Path) -> Vec<String> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources.extend(rust_sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            sources.push(without_space(&fs::read_to_string(&path).unwrap()));
        }
    }
    sources
}

fn without_space(text: &str) -> String {
    text.split_whitespace().collect()
}

/// From `head` to the brace that closes its first one.
fn block<'a>(text: &'a str, head: &str) -> &'a str {
    let text = &text[text.find(head).unwrap_or_else(|| panic!("no {head}"))..];
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return &text[..at],
            '}' => depth -= 1,
            _ => {}
        }
    }
    panic!("{head} does not end")
}

/// What is written between `open` and a quote that `after` follows.
fn quoted_before(text: &str, open: &str, after: &str) -> Names {
    let parts = text.match_indices(open).filter_map(|(at, _)| {
        let (name, rest) = text[at + open.len()..].split_once('"')?;
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
        (is_name && rest.starts_with(after)).then(|| name.to_owned())
    });
    parts.collect()
}

/// The methods and fields that the implementation of `Class` registers.
fn registered(text: &str) -> Names {
    let mut names = Names::new();
    for call in [".method(c\"", ".yielding(c\"", ".working(c\""] {
        names.extend(quoted_before(text, call, ","));
    }
    // Methods that are pushed as one piece have their names in a list.
    if let Some((_, list)) = text.split_once(".pushed([") {
        let list = list.split_once(']').map_or("", |(list, _)| list);
        names.extend(list.split(',').filter_map(|name| Some(name.strip_prefix("c\"")?.strip_suffix('"')?.to_owned())));
    }
    if text.contains("fnfield(") {
        let field = block(text, "fnfield(");
        names.extend(quoted_before(field, "\"", "=>"));
        names.extend(quoted_before(field, "\"", "|\""));
        names.extend(quoted_before(field, "name==\"", ")"));
    }
    names
}
