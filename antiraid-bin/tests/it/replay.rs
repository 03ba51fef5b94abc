//! `antiraid replay`: recordings through the real program, as its users run it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::antiraid::{Antiraid, Ran, workspace};

/// A line of a recording.
fn frame(t: &str, d: Value) -> String {
    format!("{}\n", json!({"op": 0, "t": t, "s": 1, "d": d}))
}

/// A message of the guild, with ids as Discord makes them: routing looks at the bits above the 22nd.
fn message(guild: u64, content: &str) -> String {
    frame("MESSAGE_CREATE", json!({"id": "1", "guild_id": (guild << 22).to_string(), "content": content}))
}

fn guild(id: u64) -> String {
    format!("guild:{}", id << 22)
}

/// What stands in a `template.toml`.
fn manifest(name: &str, events: &[&str], capabilities: &[&str]) -> String {
    let base = format!("name = {name:?}\ndescription = \"For a test.\"\ntenants = \"all\"\n");
    format!("{base}events = {events:?}\ncapabilities = {capabilities:?}\n")
}

/// With the template `t` for messages, which may do everything.
fn with_code(code: &str) -> Antiraid {
    with_template(Antiraid::new(), "t", code)
}

fn with_template(antiraid: Antiraid, name: &str, code: &str) -> Antiraid {
    antiraid
        .file(&format!("templates/{name}/template.toml"), manifest(name, &["MESSAGE"], &["*"]))
        .file(&format!("templates/{name}/init.luau"), code)
}

fn replay<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["replay", "--templates", "templates"], more].concat()
}

fn lines(ran: &Ran) -> Vec<Value> {
    ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// The numbers of a summary add up, whatever they are.
#[track_caller]
fn adds_up(summary: &Value) {
    let number = |value: &Value| value.as_u64().unwrap();
    let sum = |values: &Value| -> u64 { values.as_object().unwrap().values().map(number).sum() };
    let events = &summary["events"];
    let all = sum(&events["skipped"]) + number(&events["delivered"]) + number(&events["unfinished"]);
    assert_eq!(number(&events["read"]), all, "{summary:#}");
    assert!(number(&events["dispatched"]) <= number(&events["delivered"]), "{summary:#}");
    let of_templates =
        |key: &str| -> u64 { summary["templates"].as_array().unwrap().iter().map(|row| number(&row[key])).sum() };
    assert_eq!(number(&summary["results"]), of_templates("values") + of_templates("nothing"), "{summary:#}");
    assert_eq!(number(&summary["failed"]), of_templates("failed"), "{summary:#}");
    let errors: u64 = summary["errors"].as_array().unwrap().iter().map(|row| number(&row["count"])).sum();
    assert_eq!(number(&summary["failed"]), errors + number(&summary["errors_not_told_apart"]), "{summary:#}");
    let latency = ["p50", "p90", "p99", "max"].map(|name| summary["latency_us"][name].as_f64().unwrap());
    assert!(latency.is_sorted(), "{summary:#}");
}

// ---- what comes out

#[test]
fn each_result_is_a_line() {
    let code = r#"
local evt = ...
if evt.data.content == "nothing" then return nil end
return { said = evt.data.content, event = evt.name, list = { 1, 2.5, false } }
"#;
    let recording = [message(7, "hi"), message(7, "nothing"), frame("TYPING_START", json!({"guild_id": "7"}))];
    let ran = with_code(code).file("x.jsonl", recording.concat()).run(replay(&["--results", "x.jsonl"]));
    let ran = ran.with_status(0);
    let line = |line: u64, value: Value| json!({"line": line, "tenant": guild(7), "event": "MESSAGE", "template": "t", "value": value});
    let first = json!({"said": "hi", "event": "MESSAGE", "list": [1, 2.5, false]});
    assert_eq!(lines(&ran), [line(1, first), line(2, Value::Null)]);
    for text in ["frames read", "events/s", "latency p50", "peak memory", "returned nothing"] {
        assert!(ran.stderr.contains(text), "the summary goes to stderr: {ran:#?}");
    }
}

#[test]
fn the_summary_is_a_document_that_adds_up() {
    let code = "local evt = ... if evt.data.content == 'bad' then error('no') end return evt.data.content";
    let mut recording = frame("READY", json!({"user": {"id": "99"}}));
    recording += "{\"op\":11,\"t\":null,\"s\":null,\"d\":null}\n";
    recording += &frame("MESSAGE_CREATE", json!({"guild_id": "7", "author": {"id": "99"}, "content": "mine"}));
    recording += &frame("TYPING_START", json!({"guild_id": "7"}));
    for content in ["a", "b", "bad"] {
        recording += &message(7, content);
    }
    let antiraid = with_template(with_code(code), "quiet", "").file("x.jsonl", recording);
    let summary = antiraid.run(replay(&["--json", "--workers", "1", "x.jsonl"])).with_status(1).json();
    adds_up(&summary);
    assert_eq!(summary["events"]["read"], 7);
    assert_eq!(summary["events"]["delivered"], 4);
    assert_eq!(summary["events"]["dispatched"], 3);
    assert_eq!(summary["events"]["skipped"]["by the bot itself"], 1);
    let rows = json!([
        {"template": "quiet", "values": 0, "nothing": 3, "failed": 0},
        {"template": "t", "values": 2, "nothing": 0, "failed": 1},
    ]);
    assert_eq!(summary["templates"], rows);
    assert_eq!((&summary["workers"], &summary["tenants"]), (&json!(1), &json!(2)));
    assert_eq!((&summary["vms"]["made"], &summary["vms"]["broken"]), (&json!(1), &json!(0)));
    assert!(summary["memory_peak_bytes"].as_u64().unwrap() > 1 << 20);
}

#[test]
fn results_and_summary_can_both_be_json() {
    let antiraid = with_code("return 1").file("x.jsonl", message(7, "hi"));
    let ran = antiraid.run(replay(&["--results", "--json", "x.jsonl"])).with_status(0);
    assert_eq!(lines(&ran).len(), 1);
    adds_up(&serde_json::from_str(&ran.stderr).unwrap());
}

#[test]
fn without_templates_only_the_built_in_one_runs() {
    let ran = Antiraid::new().file("x.jsonl", message(7, "hi")).run(["replay", "--json", "x.jsonl"]).with_status(0);
    let summary = ran.json();
    adds_up(&summary);
    assert_eq!((&summary["events"]["delivered"], &summary["results"]), (&json!(1), &json!(0)));
    assert_eq!(summary["vms"]["made"], 0, "nobody wants the event, so no VM is made");
}

// ---- what goes wrong

#[test]
fn a_template_that_fails_is_named_with_file_and_line() {
    let code = "local evt = ...\n\nif evt.data.content == 'deep' then return require('@self/lib/deep')(evt) end\nerror('boom', 1)";
    let antiraid = with_code(code)
        .file("templates/t/lib/deep.luau", "return function(evt)\n\treturn evt.nothing.there\nend")
        .file("x.jsonl", [message(7, "deep"), message(7, "x"), message(8, "x")].concat());
    let ran = antiraid.run(replay(&["x.jsonl"])).with_status(1);
    let row = |texts: &[&str]| ran.stdout.lines().any(|line| texts.iter().all(|text| line.contains(text)));
    assert!(row(&["t ", "templates/t/init.luau:4 ", " 2 ", "boom"]), "{}", ran.stdout);
    assert!(row(&["t ", "templates/t/lib/deep.luau:2 ", " 1 ", "attempt to index nil"]), "{}", ran.stdout);

    let summary = antiraid.run(replay(&["--json", "x.jsonl"])).with_status(1).json();
    adds_up(&summary);
    assert_eq!(summary["errors"][0]["at"], "/init.luau:4");
    assert_eq!(summary["errors"][0]["source"], "templates/t/init.luau:4");
    assert_eq!(summary["errors"][0]["count"], 2, "the most frequent comes first");

    let mut results = lines(&antiraid.run(replay(&["--results", "x.jsonl"])).with_status(1));
    results.sort_by_key(|line| line["line"].as_u64());
    assert_eq!(results[0]["at"], "/lib/deep.luau:2");
    assert!(results[0].get("value").is_none());
}

#[test]
fn a_failure_in_a_spawned_thread_is_a_failure() {
    let antiraid = with_code("task.spawn(function() error('unseen') end) return 1").file("x.jsonl", message(7, "hi"));
    let ran = antiraid.run(replay(&["x.jsonl"])).with_status(1);
    assert!(ran.stdout.contains("in the background"), "{}", ran.stdout);
    let summary = antiraid.run(replay(&["--json", "x.jsonl"])).with_status(1).json();
    assert_eq!((&summary["failed"], &summary["threads_failed"]), (&json!(0), &json!(1)));
}

#[test]
fn a_failure_stops_neither_the_template_nor_its_neighbours() {
    let failing = "local evt = ... if tonumber(evt.data.content) % 2 == 0 then error('even') end return true";
    let recording: String = (0..20).map(|i| message(7 + i % 3, &i.to_string())).collect();
    let antiraid = with_template(with_code(failing), "other", "return true").file("x.jsonl", recording);
    let summary = antiraid.run(replay(&["--json", "x.jsonl"])).with_status(1).json();
    let rows = json!([
        {"template": "other", "values": 20, "nothing": 0, "failed": 0},
        {"template": "t", "values": 10, "nothing": 0, "failed": 10},
    ]);
    assert_eq!(summary["templates"], rows);
    assert_eq!(summary["vms"]["made"], 3);
}

#[test]
fn bad_templates_are_named_before_anything_runs() {
    let antiraid = Antiraid::new().file("t/template.toml", "name = 'x'").file("x.jsonl", "");
    antiraid
        .run(["replay", "--templates", "t", "x.jsonl"])
        .with_status(2)
        .says(&["`events` is missing", "t: has no init.luau"]);
    let ran = with_code("return 1\nlocal = 2").file("x.jsonl", message(7, "hi")).run(replay(&["--results", "x.jsonl"]));
    let ran = ran.with_status(2);
    ran.says(&["templates/t/init.luau:2: "]);
    assert_eq!(ran.stdout, "");
}

#[test]
fn a_bad_line_is_named_and_what_stood_before_it_was_replayed() {
    let recording = [message(7, "a"), "\n".into(), message(8, "b"), "{\"op\":0,,}\n".into(), message(7, "c")].concat();
    let antiraid = with_code("return (...).data.content").file("x.jsonl", &recording);
    let ran = antiraid.run(replay(&["--results", "x.jsonl"])).with_status(2);
    ran.says(&["x.jsonl:4: byte 8: ", "expected a gateway frame such as", "events delivered"]);
    let mut values: Vec<_> = lines(&ran).iter().map(|line| line["value"].clone()).collect();
    values.sort_by_key(Value::to_string);
    assert_eq!(values, ["a", "b"]);

    let ran = antiraid.run_with_input(replay(&["--json", "-"]), recording.as_bytes()).with_status(2);
    ran.says(&["standard input:4: byte 8: "]);
    assert_eq!(ran.json()["results"], 2);

    let ran = antiraid.run_with_input(replay(&["-"]), b"{\"op\":0,\"t\":\"X\",\"d\":{\"guild_id\":\"general\"}}\n");
    ran.with_status(2).says(&["standard input:1: `d.guild_id` is not the id of a guild"]);
    antiraid
        .run_with_input(replay(&["-"]), b"\xff\xfe\n")
        .with_status(2)
        .says(&["standard input:1: byte 0: not UTF-8"]);
}

#[test]
fn a_recording_that_is_not_there() {
    with_code("").run(replay(&["gone.jsonl"])).with_status(2).says(&["gone.jsonl: cannot be read"]);
}

#[test]
fn what_cannot_be_read_twice_is_refused() {
    let antiraid = Antiraid::new();
    antiraid.run(["replay", "-", "-"]).with_status(2).says(&["can be given once"]);
    antiraid.run(["replay", "-", "--repeat", "2"]).with_status(2).says(&["--repeat needs files"]);
}

#[test]
fn a_template_that_goes_over_its_memory_heals() {
    let code = r#"
local evt = ...
if evt.data.content == "hog" then
	local all = {}
	while true do table.insert(all, buffer.create(100_000)) end
end
return true
"#;
    let recording = [message(7, "a"), message(7, "hog"), message(7, "b")].concat();
    let antiraid = with_code(code).file("x.jsonl", recording);
    let ran = antiraid.run(replay(&["--json", "--in-flight", "1", "--workers", "1", "x.jsonl"])).with_status(1);
    let summary = ran.json();
    adds_up(&summary);
    assert_eq!((&summary["results"], &summary["failed"]), (&json!(2), &json!(1)), "{summary:#}");
    assert!(summary["errors"][0]["message"].as_str().unwrap().contains("memory"), "{summary:#}");
}

#[test]
fn a_template_that_never_ends_is_ended_and_delays_nobody() {
    let code = r#"
local evt = ...
if evt.data.content == "hog" then
	while true do pcall(function() while true do end end) end
end
return true
"#;
    let recording: String = message(7, "hog") + &(0..200).map(|i| message(1 + i % 5, "x")).collect::<String>();
    let antiraid = with_code(code).file("x.jsonl", recording);
    let budget = ["--workers", "1", "--set", "limits.dispatch_cpu_ms_max=2000", "x.jsonl"];
    let ran = antiraid.run(replay(&[&["--json"], &budget[..]].concat())).with_status(1);
    let summary = ran.json();
    adds_up(&summary);
    assert_eq!((&summary["results"], &summary["failed"]), (&json!(200), &json!(1)), "{summary:#}");
    let [p99, max] = ["p99", "max"].map(|name| summary["latency_us"][name].as_f64().unwrap());
    assert!(max > 1_900_000.0 && p99 < 1_000_000.0, "{summary:#}");
}

// ---- interrupted

fn interrupt(child: u32) {
    // SAFETY: a signal to a child of ours.
    #[expect(unsafe_code, reason = "std cannot send signals")]
    unsafe {
        libc::kill(child.try_into().unwrap(), libc::SIGINT)
    };
}

/// A replay of standard input, which stays open and has at least one result behind it. Who waits for it keeps the input.
fn started(antiraid: &Antiraid, recording: &str) -> (Child, ChildStdin) {
    let mut child = antiraid.command(replay(&["--results", "-"])).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(recording.as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("{\"line\":"), "{line}");
    (child, stdin)
}

/// Enough to be handed on though standard input goes on: recordings are read in blocks.
fn more_than_a_block() -> String {
    let padding = "x".repeat(2_000);
    (0..100).map(|i| message(7 + i % 2, &padding)).collect()
}

#[test]
fn an_interrupted_replay_still_says_what_came_of_it() {
    let antiraid = with_code("return 'y'");
    // Output is handed on in blocks too, so one line of it says that hundreds were written.
    let recording = more_than_a_block().repeat(4);
    let (child, _stdin) = started(&antiraid, &recording);
    interrupt(child.id());
    let ran: Ran = child.wait_with_output().unwrap().into();
    let ran = ran.with_status(0);
    ran.says(&["given up", "the replay was interrupted", "events delivered", "latency p50", "peak memory"]);
}

#[test]
fn a_second_interrupt_ends_the_waiting() {
    let code = "local evt = ... if evt.data.content == 'wait' then task.wait(600) end return string.rep('y', 10_000)";
    let antiraid = with_code(code);
    let recording = message(9, "wait") + &more_than_a_block();
    let (child, _stdin) = started(&antiraid, &recording);
    let (begun, id, ended) = (Instant::now(), child.id(), AtomicBool::new(false));
    let ran: Ran = std::thread::scope(|scope| {
        // More than two: one that comes before the one before it was taken is no second one.
        scope.spawn(|| {
            while !ended.load(Relaxed) {
                interrupt(id);
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        let output = child.wait_with_output().unwrap();
        ended.store(true, Relaxed);
        output.into()
    });
    assert!(begun.elapsed() < Duration::from_secs(4), "the grace for what runs is longer than that");
    ran.with_status(0).says(&["given up", "cut off", "the replay was interrupted"]);
}

#[test]
fn a_reader_that_goes_away_ends_the_replay() {
    let code = "task.wait(0.001) return string.rep('y', 1_000)";
    let recording: String = (0..2_000).map(|i| message(1 + i % 5, "x")).collect();
    let antiraid = with_code(code).file("x.jsonl", recording);
    let args = replay(&["--results", "--repeat", "100000", "x.jsonl"]);
    let mut child = antiraid.command(args).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("yyy"));
    // The reader is gone. All of it would take hours.
    let ran: Ran = child.wait_with_output().unwrap().into();
    let ran = ran.with_status(0);
    ran.says(&["events delivered"]);
    assert!(!ran.stderr.contains("panic"), "{ran:#?}");
}

// ---- tenants, workers, rounds

#[test]
fn everything_is_replayed_as_often_as_asked() {
    let antiraid = with_code("n = (n or 0) + 1 return n")
        .file("a.jsonl", message(7, "a") + &message(8, "b"))
        .file("b.jsonl", message(7, "c"));
    let ran = antiraid.run(replay(&["--results", "--repeat", "3", "a.jsonl", "b.jsonl"])).with_status(0);
    let values = |tenant: &str| -> Vec<_> {
        lines(&ran).iter().filter(|line| line["tenant"] == tenant).map(|line| line["value"].as_u64().unwrap()).collect()
    };
    assert_eq!(values(&guild(7)), [1, 2, 3, 4, 5, 6]);
    assert_eq!(values(&guild(8)), [1, 2, 3]);
}

#[test]
fn tenants_are_apart_in_memory_and_in_kv() {
    let code = r#"
local evt, ctx = ...
count = (count or 0) + 1
local mine = count
return { mine, ctx.KV:incr("count", 1, { "t" }) }
"#;
    let recording: String = (0..12).map(|i| message([3, 3, 5, 4][i % 4], "x")).collect();
    let antiraid = with_code(code).file("x.jsonl", recording);
    for workers in ["1", "2"] {
        let ran = antiraid.run(replay(&["--results", "--json", "--workers", workers, "x.jsonl"])).with_status(0);
        let mut seen: HashMap<String, Vec<Value>> = HashMap::new();
        for line in lines(&ran) {
            seen.entry(line["tenant"].as_str().unwrap().into()).or_default().push(line["value"].clone());
        }
        for (id, times) in [(3, 6), (4, 3), (5, 3)] {
            let mut values = seen.remove(&guild(id)).unwrap();
            values.sort_by_key(|value| value[0].as_u64());
            assert_eq!(values, (1..=times).map(|n| json!([n, n])).collect::<Vec<_>>(), "{workers} workers, guild {id}");
        }
        assert!(seen.is_empty(), "{seen:?}");
        let summary: Value = serde_json::from_str(&ran.stderr).unwrap();
        assert_eq!((summary["workers"].to_string().as_str(), &summary["vms"]["made"]), (workers, &json!(3)));
    }
}

#[test]
fn the_events_of_a_tenant_start_in_their_order() {
    // Each waits, so that many are under way at once; what counts is the order of the beginnings.
    let code = "n = (n or 0) + 1 local mine = n task.wait(tonumber((...).data.content)) return mine";
    let recording: String = (0..300).map(|i| message(1 + i % 3, if i % 2 == 0 { "0.01" } else { "0" })).collect();
    let ran = with_code(code).file("x.jsonl", recording).run(replay(&["--results", "--workers", "2", "x.jsonl"]));
    let mut last: HashMap<String, u64> = HashMap::new();
    let mut all = lines(&ran.with_status(0));
    all.sort_by_key(|line| line["line"].as_u64());
    assert_eq!(all.len(), 300);
    for line in &all {
        let last = last.entry(line["tenant"].to_string()).or_default();
        assert_eq!(line["value"].as_u64(), Some(*last + 1), "{line}");
        *last += 1;
    }
}

#[test]
fn a_template_runs_for_its_tenants_only_and_not_while_paused() {
    let only = manifest("only", &["MESSAGE"], &[]).replace(r#""all""#, &format!("[\"{}\"]", guild(7)));
    let paused = manifest("paused", &["MESSAGE"], &[]) + "paused = true\n";
    let antiraid = Antiraid::new()
        .file("templates/only/template.toml", only)
        .file("templates/only/init.luau", "return 1")
        .file("templates/paused/template.toml", paused)
        .file("templates/paused/init.luau", "return 1")
        .file("x.jsonl", message(7, "a") + &message(8, "b"));
    for args in [&["--results", "x.jsonl"][..], &["--results", "-"]] {
        let input = std::fs::read(antiraid.path("x.jsonl")).unwrap();
        let ran = antiraid.run_with_input(replay(args), &input).with_status(0);
        let results: Vec<_> =
            lines(&ran).iter().map(|line| (line["template"].clone(), line["tenant"].clone())).collect();
        assert_eq!(results, [(json!("only"), json!(guild(7)))]);
    }
}

#[test]
fn capabilities_are_those_of_the_manifest() {
    let code = "local evt, ctx = ...\nctx.KV:set('k', 1, { evt.data.content })\nreturn true";
    let antiraid = Antiraid::new()
        .file("templates/t/template.toml", manifest("t", &["MESSAGE"], &["kv[mine]:*"]))
        .file("templates/t/init.luau", code)
        .file("x.jsonl", message(7, "mine") + &message(7, "other"));
    let ran = antiraid.run(replay(&["--results", "x.jsonl"])).with_status(1);
    let mut lines = lines(&ran);
    lines.sort_by_key(|line| line["line"].as_u64());
    assert_eq!(lines[0]["value"], true);
    assert!(lines[1]["error"].as_str().unwrap().contains("Missing capability: "), "{}", lines[1]);
}

// ---- what stays

#[test]
fn a_database_that_is_named_keeps_what_was_written() {
    let code = "local evt, ctx = ... return ctx.KV:incr('count', 1, { 't' })";
    let antiraid = with_code(code).file("x.jsonl", message(7, "a") + &message(7, "b"));
    for _ in 0..2 {
        antiraid.run(replay(&["--db", "sqlite:x.db", "x.jsonl"])).with_status(0);
    }
    let get = ["kv", "get", "count", "--tenant", &guild(7), "--scope", "t", "--db", "sqlite:x.db"];
    assert_eq!(antiraid.run(get).with_status(0).json(), 4);
    let list = antiraid.run(["template", "list", "--db", "sqlite:x.db"]).with_status(0);
    assert!(list.stdout.contains(&guild(7)));
    // Without one, nothing stays: neither that file nor the default one is touched.
    antiraid.run(replay(&["x.jsonl"])).with_status(0);
    assert_eq!(antiraid.run(get).with_status(0).json(), 4);
    assert!(!antiraid.path("antiraid.db").exists());
}

#[test]
fn what_templates_leave_running_may_end() {
    let code = r#"
local evt, ctx = ...
task.delay(1, function() ctx.KV:set("late", "written", { "t" }) end)
return "at once"
"#;
    let antiraid = with_code(code).file("x.jsonl", message(7, "a"));
    let summary = antiraid.run(replay(&["--db", "sqlite:x.db", "--json", "x.jsonl"])).with_status(0).json();
    let get = ["kv", "get", "late", "--tenant", &guild(7), "--scope", "t", "--db", "sqlite:x.db"];
    assert_eq!(antiraid.run(get).with_status(0).json(), "written");
    assert_eq!(summary["background"]["finished"], true, "{summary:#}");
    assert!(summary["seconds"].as_f64().unwrap() < 1.0, "the answer did not wait for it: {summary:#}");
}

// ---- the examples, and the built-in template

#[test]
fn the_built_in_commands_are_answered() {
    let command = |name: &str| {
        let data = json!({"id": "1", "name": name, "type": 1});
        frame("INTERACTION_CREATE", json!({"id": "1573408642094320392", "guild_id": "7", "type": 2, "data": data}))
    };
    let recording = ["ping", "help", "unknown"].map(command).concat();
    let ran = Antiraid::new().file("x.jsonl", recording).run(["replay", "--results", "x.jsonl"]).with_status(0);
    let mut lines = lines(&ran);
    lines.sort_by_key(|line| line["line"].as_u64());
    assert!(lines.iter().all(|line| line["template"] == "$builtins"));
    let [ping, help, unknown] = &lines[..] else { panic!("{ran:#?}") };
    assert_eq!((&ping["value"]["type"], &ping["value"]["data"]["flags"]), (&json!(4), &json!(64)));
    assert!(ping["value"]["data"]["content"].as_str().unwrap().starts_with("Pong!"), "{ping}");
    let embed = &help["value"]["data"]["embeds"][0];
    assert!(embed["fields"][0]["value"].as_str().unwrap().contains("/ping"), "{help}");
    assert_eq!(unknown["value"], Value::Null);
}

#[test]
fn a_folder_can_stand_in_for_the_built_in_template() {
    let antiraid = Antiraid::new()
        .file("mine/init.luau", "return require('@lib/greeting')")
        .file("mine/.luaurc", r#"{"aliases":{"lib":"./templating-types/lib"}}"#)
        .file("mine/templating-types/lib/greeting.luau", "return 'mine'")
        .file("x.jsonl", frame("INTERACTION_CREATE", json!({"id": "1", "guild_id": "7", "type": 2})));
    let run = |dir: &str| antiraid.run(["replay", "--results", "--set", &format!("builtins_dir={dir}"), "x.jsonl"]);
    assert_eq!(lines(&run("mine").with_status(0))[0]["value"], "mine");
    run("gone").with_status(2).says(&["`builtins_dir`", "cannot read `gone`"]);
}

#[test]
fn the_recorded_raid_is_seen_where_it_is_and_nowhere_else() {
    let raid = workspace().join("examples/raid/raid.jsonl");
    let templates = workspace().join("examples/templates");
    let args = ["replay", "--results", "--json", "--workers", "2", "--templates"];
    let ran = Antiraid::new().run(args.map(AsRef::as_ref).into_iter().chain([templates.as_os_str(), raid.as_os_str()]));
    let ran = ran.with_status(0);
    let summary: Value = serde_json::from_str(&ran.stderr).unwrap();
    adds_up(&summary);
    assert_eq!((&summary["failed"], &summary["tenants"]), (&json!(0), &json!(240)), "{summary:#}");
    assert_eq!(summary["templates_loaded"], 720);
    assert_eq!(summary["background"]["finished"], true, "{summary:#}");

    let (mut raided, mut runs) = (BTreeSet::new(), BTreeMap::<String, u64>::new());
    let (mut spam, mut log_lines) = (0, 0);
    for line in lines(&ran) {
        let template = line["template"].as_str().unwrap();
        *runs.entry(template.into()).or_default() += 1;
        let value = &line["value"];
        match template {
            "raid-detector" if value["raid"] == true => {
                raided.insert(line["tenant"].as_str().unwrap().to_owned());
            }
            "spam-filter" if value["action"] == "delete" => spam += 1,
            "moderation-log" if value.is_string() => log_lines += 1,
            _ => {}
        }
    }
    // As `examples/raid/README.md` tells the story.
    let story = ["guild:765294236534688840", "guild:872471706642058316", "guild:971779196855019941"];
    assert_eq!(raided, story.map(str::to_owned).into());
    let expected = [("$builtins", 63), ("moderation-log", 1_097), ("raid-detector", 599), ("spam-filter", 2_675)];
    assert_eq!(runs, expected.map(|(name, runs)| (name.to_owned(), runs)).into());
    assert!(spam > 100, "{spam}");
    assert_eq!(log_lines, 1_097);
}
