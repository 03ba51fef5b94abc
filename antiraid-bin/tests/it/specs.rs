//! `antiraid test`: specs that are as they should be, and what is said of those that are not.

use std::collections::BTreeSet;

use crate::antiraid::{Antiraid, Ran, workspace};

const MANIFEST: &str = r#"name = "subject"
description = "What the specs below test."
events = ["MESSAGE", "KeyExpiry[subject]", "KeyResume[subject]"]
capabilities = ["kv[subject]:*", "discord:create_message", "discord:get_guild_member", "http:send"]
tenants = "all"
"#;

/// A template that does what the text of a message says.
const SUBJECT: &str = r#"
local evt, ctx = ...
local datetime = require("@antiraid/datetime")
local typesext = require("@antiraid/typesext")
local names = { KeyExpiry = "expired", KeyResume = "resumed" }
local name = names[evt.name] or evt.data.content
local S = { "subject" }
local actions = {}
function actions.expired()
    local key = evt.data.key
    ctx.KV:incr("tries " .. key, 1, S)
    if key == "flaky" then
        local ups = ctx.KV:get("failures", S)
        if ctx.KV:get("tries flaky", S) <= ups then error("try again") end
    elseif key == "again" then
        ctx.KV:set("again", 2, S, datetime.UTC:now() + datetime.timedelta_seconds(100))
    elseif key == "slow" then
        task.wait(50)
    end
    ctx.KV:set("fired", key, S)
end
function actions.resumed() ctx.KV:set("resumed", evt.data.key, S) end
function actions.lune() return require("@lune/datetime").now().unixTimestampMillis end
function actions.roles() return ctx.Discord:get_guild_member("8").data.roles end
function actions.echo() return { text = "echo", list = { 1, 2, { deep = true } }, empty = {} } end
function actions.fail() print("about to fail") error("on purpose") end
function actions.background() task.delay(2, function() error("too late") end) end
function actions.wait() return task.wait(5) end
function actions.long() task.wait(100) end
function actions.later() task.delay(5, function() ctx.Discord:create_message({ channel_id = "5", data = { content = "hi" } }) end) end
function actions.tick() task.spawn(function() while true do task.wait(60) print("tick", os.time()) end end) end
function actions.expire()
    ctx.KV:set("k", 1, { "subject" }, datetime.UTC:now() + datetime.timedelta_seconds(30))
end
function actions.limited() for i = 1, 1000 do ctx.KV:get("k", { "subject" }) end end
function actions.ban() ctx.Discord:create_guild_ban({ user_id = "1", reason = "x" }) end
function actions.say() return ctx.Discord:create_message({ channel_id = "5", data = { content = "hi" } }).data end
function actions.member() return ctx.Discord:get_guild_member("7").data end
function actions.http()
    local request = ctx.HTTPClient.new_request("POST", "https://api.example.org/check?x=1")
    request.body_bytes = { id = "7" }
    local response = request:send()
    return { status = response.status, kind = response.headers:get("x-kind"), json = response:json() }
end
function actions.private() return ctx.HTTPClient.new_request("GET", "http://127.0.0.1/"):send() end
function actions.chance()
    return { math.random(1, 1e9), typesext.randstring(12), os.time(), os.clock(), os.date("!%c"), tostring(datetime.UTC:now()) }
end
function actions.require() local name = "@antiraid-test" return require(name) end
function actions.loop() while true do end end
function actions.protected_loop() while true do pcall(function() while true do end end) end end
function actions.metamethod() return #setmetatable({}, { __len = function() while true do end end }) end
function actions.memory() local t = {} while true do table.insert(t, string.rep("x", 10000) .. #t) end end
function actions.record() while true do ctx.Discord:get_guild_member(string.rep("7", 1e6)) end end
function actions.defer() local function again() task.defer(again) end again() end
function actions.rearm() while true do task.wait() end end
return actions[name]()
"#;

/// The head of a spec for it.
const HEAD: &str = r#"local t = require("@antiraid-test")
local test, expect, event = t.test, t.expect, t.event
local function say(content) return t.dispatch(event.message({ content = content })) end
local function try(content) return t.attempt(event.message({ content = content })) end
"#;

fn subject() -> Antiraid {
    Antiraid::new().file("subject/template.toml", MANIFEST).file("subject/init.luau", SUBJECT)
}

fn run(tests: &str, args: &[&str]) -> Ran {
    let antiraid = subject().file("subject/a.spec.luau", format!("{HEAD}{tests}"));
    antiraid.run([&["test", "subject", "--set", "limits.dispatch_cpu_ms_max=1500"], args].concat())
}

#[track_caller]
fn passes(tests: &str) -> Ran {
    run(tests, &[]).with_status(0)
}

/// The failure of the only test of the only spec: where, and what is said.
#[track_caller]
fn failure(tests: &str) -> (String, String) {
    let report = run(tests, &["--json"]).with_status(1).json();
    let failure = &report["tests"][0]["failure"];
    (failure["at"].as_str().unwrap().to_owned(), failure["message"].as_str().unwrap().to_owned())
}

#[test]
fn the_examples_and_the_built_in_template_pass_their_specs() {
    for (folder, tests) in [("examples/templates", 27), ("worker-builtins/builtins", 29)] {
        let report = Antiraid::new()
            .run(["test".as_ref(), "--json".as_ref(), workspace().join(folder).as_os_str()])
            .with_status(0)
            .json();
        assert!(report["passed"].as_u64().unwrap() >= tests, "{report:#}");
        assert_eq!((&report["failed"], &report["skipped"]), (&0.into(), &0.into()));
    }
}

#[test]
fn specs_of_the_examples_fail_where_the_template_is_wrong() {
    let folder = workspace().join("examples/templates/raid-detector");
    let mut antiraid = Antiraid::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let text =
            std::fs::read_to_string(&path).unwrap().replace("score >= config.THRESHOLD", "score > config.THRESHOLD");
        antiraid = antiraid.file(&format!("raid/{name}"), text);
    }
    let ran = antiraid.run(["test"]).with_status(1);
    ran.says(&["FAILED  the threshold › 29", "raid/raid-detector.spec.luau:", ".raid: expected true, got false"]);
}

#[test]
fn a_difference_is_told_with_its_place_in_the_value_and_in_the_file() {
    let ran = run(
        r#"
local function check(value)
    expect(value):toEqual({ text = "other", list = { 1, 3, { deep = true } }, empty = {}, more = 1 })
end
test("differs", function()
    print("this was printed")
    check(say("echo"))
end)
test("holds", function() expect(say("echo").list[3]):toEqual({ deep = true }) end)"#,
        &[],
    )
    .with_status(1);
    ran.says(&[
        "FAILED  differs\n          subject/a.spec.luau:7\n",
        ".list[2]: expected 3, got 2\n",
        ".more: expected 1, got nil\n",
        ".text: expected \"other\", got \"echo\"\n",
        "called from\n            subject/a.spec.luau:11\n",
        "printed\n            this was printed\n",
        "ok      holds\n",
        "1 passed, 1 failed in ",
    ]);
    assert!(!ran.stdout.contains("deep: expected"), "what is equal is not listed: {ran:?}");
}

#[test]
fn an_error_of_the_template_is_told_with_its_place_and_what_it_printed() {
    let ran = run("test('fails', function() say('fail') end)", &[]).with_status(1);
    ran.says(&["the template failed: /init.luau:26: on purpose", "subject/a.spec.luau:5", "about to fail"]);
}

#[test]
fn an_error_in_the_background_fails_the_test_that_does_not_expect_it() {
    let (at, message) = failure("\ntest('careless', function() say('background') t.clock.advance(3) end)");
    assert_eq!(at, "subject/a.spec.luau:6");
    assert!(message.contains("in the background") && message.contains("too late"), "{message}");
    passes(
        "test('careful', function() say('background') t.clock.advance(3)
            expect(t.log.errors()[1]):toMatch('too late') end)",
    );
}

#[test]
fn time_is_the_tests() {
    passes(
        r#"
test("a wait takes no time", function()
    expect(say("wait")):toBeNear(5, 1e-9)
    local before = t.clock.now()
    task.wait(86400)
    expect(t.clock.now() - before):toBe(86400)
    expect(os.time()):toBe(1767225600 + 5 + 86400)
end)
test("a template that leaves a timer ticks when the clock is moved, not before", function()
    say("tick")
    expect(t.log.prints()):toEqual({})
    t.clock.advance(119)
    expect(t.log.prints()):toEqual({ "tick\t1767225660" })
    t.clock.set(1767225600 + 180)
    expect(t.log.prints()):toHaveLength(3)
    expect(function() t.clock.set(0) end):toThrow("forward")
end)
test("timers that are left behind keep no test from ending", function()
    say("tick")
    task.delay(100, print, "never")
    task.spawn(function() while true do task.wait(1) end end)
end)
test("who waits for too long is answered as in the real system", function()
    expect(try("long").error):toMatch("^timeout: ")
    t.clock.advance(60)
end)
test("records expire on their way", function()
    say("expire")
    t.clock.advance(29)
    expect(t.kv.get("k", { "subject" })):toBe(1)
    expect(t.kv.get("fired", { "subject" })):toBeNil()
    t.clock.advance(2)
    expect(t.kv.get("k", { "subject" })):toBeNil()
    expect(t.kv.get("fired", { "subject" })):toBe("k")
end)
test("every clock is the test's", function()
    t.clock.advance(2.5)
    expect(say("lune")):toBe(1767225602500)
end)
test("rate limits fill up again with the clock", function()
    expect(try("limited").error):toMatch("ratelimit hit")
    t.clock.advance(600)
    expect(try("wait").ok):toBe(true)
    say("expire")
end)"#,
    );
}

#[test]
fn records_expire_as_in_the_real_system() {
    passes(
        r#"
local S = { "subject" }
test("a handler that fails is tried again, later each time, and the record goes only then", function()
    t.kv.set("failures", 2, S)
    t.kv.set("flaky", true, S, 30)
    t.clock.advance(31)
    expect(t.kv.get("tries flaky", S)):toBe(1)
    t.clock.advance(2)
    expect(t.kv.get("tries flaky", S)):toBe(2)
    t.clock.advance(6)
    expect(t.kv.get("tries flaky", S)):toBe(2)
    expect(t.kv.get("flaky", S)):toBe(true)
    t.clock.advance(1)
    expect(t.kv.get("tries flaky", S)):toBe(3)
    expect(t.kv.get("flaky", S)):toBeNil()
    expect(t.log.errors()):toHaveLength(2)
    expect(t.log.errors()[1]):toMatch("try again")
end)
test("after the last attempt the record is a dead letter", function()
    t.kv.set("failures", 100, S)
    t.kv.set("flaky", true, S, 30)
    t.clock.advance(86400)
    expect(t.kv.get("tries flaky", S)):toBe(5)
    expect(t.kv.get("flaky", S)):toBeNil()
    expect(t.log.errors()[6]):toMatch("given up after 5 attempts and is kept as a dead letter")
    t.clock.advance(86400)
    expect(t.kv.get("tries flaky", S)):toBe(5)
end)
test("a handler may arm its key anew", function()
    t.kv.set("again", 1, S, 30)
    t.clock.advance(129)
    expect(t.kv.get("tries again", S)):toBe(1)
    expect(t.kv.get("again", S)):toBe(2)
    t.clock.advance(1)
    expect(t.kv.get("tries again", S)):toBe(2)
end)
test("a handler that waits is not started a second time", function()
    t.kv.set("slow", 1, S, 30)
    t.clock.advance(79)
    expect(t.kv.get("tries slow", S)):toBe(1)
    expect(t.kv.get("slow", S)):toBe(1)
    t.clock.advance(2)
    expect(t.kv.get("slow", S)):toBeNil()
    t.clock.advance(600)
    expect(t.kv.get("tries slow", S)):toBe(1)
end)
test("records that expire in years do", function()
    t.kv.set("years", 1, S, 5 * 365 * 86400)
    t.clock.advance(5 * 365 * 86400 - 1)
    expect(t.kv.get("years", S)):toBe(1)
    t.clock.advance(1)
    expect(t.kv.get("years", S)):toBeNil()
end)
test("a record whose expiry is moved or taken away does not fire", function()
    t.kv.set("moved", 1, S, 30)
    t.kv.set("stays", 1, S, 30)
    t.kv.set("moved", 1, S, 90)
    t.kv.set("stays", 1, S)
    t.clock.advance(60)
    expect(t.kv.get("fired", S)):toBeNil()
    t.clock.advance(60)
    expect(t.kv.get("fired", S)):toBe("moved")
    expect(t.kv.get("stays", S)):toBe(1)
end)
test("a reload resumes keys", function()
    say("echo")
    t.kv.set("kept", 1, S, nil, true)
    t.clock.advance(60)
    expect(t.kv.get("resumed", S)):toBeNil()
    t.reload()
    t.clock.advance(1)
    expect(t.kv.get("resumed", S)):toBe("kept")
end)"#,
    );
}

#[test]
fn functions_answer_and_errors_are_those_of_the_real_system() {
    passes(
        r#"
local URL = "https://api.example.org/check?x=1"
test("a function gets the arguments and says the answer", function()
    local asked = {}
    t.discord.on("get_guild_member", function(id)
        table.insert(asked, id)
        return { roles = { `role of {id}` } }
    end)
    expect(say("roles")):toEqual({ "role of 8" })
    t.discord.on("create_message", { id = "1" }, t.discord.error(500, 0, "Internal"), function(given)
        return { id = given.data.content }
    end)
    expect(say("say")):toEqual({ id = "1" })
    expect(try("say").error):toBe("discord: 500 0 Internal")
    expect(say("say")):toEqual({ id = "hi" })
    expect(say("say")):toEqual({ id = "hi" })
    expect(asked):toEqual({ "8" })
end)
test("what a function raises is what the call raises", function()
    t.discord.on("create_message", function() error("hierarchy: the role is above the bot's") end)
    expect(try("say").error):toBe("hierarchy: the role is above the bot's")
    t.discord.on("create_message", function() return t.discord.error(403, 50013) end)
    expect(try("say").error):toBe("discord: 403 50013 Missing Permissions")
    t.discord.on("create_message", function() expect(1):toBe(2) end)
    expect(try("say").error):toMatch("expected 2, got 1")
    t.discord.on("create_message", function() return print end)
    expect(try("say").error):toMatch("^invalid_value: ")
    t.discord.on("create_message", { id = "still there" })
    expect(say("say")):toEqual({ id = "still there" })
end)
test("a function may wait, by the clock", function()
    local before = t.clock.now()
    t.discord.on("create_message", function() task.wait(7) return {} end)
    say("say")
    expect(t.clock.now() - before):toBeNear(7, 1e-6)
    t.http.on("POST", URL, function(request)
        task.wait(3)
        return { json = { id = request.body }, status = 201 }
    end)
    expect(say("http")):toEqual({ status = 201, json = { id = '{"id":"7"}' } })
    t.http.on("POST", URL, function() task.wait(6) return {} end)
    expect(try("http").error):toBe("http: timeout")
end)
test("errors of requests", function()
    for _, word in { "resolve", "connect", "timeout", "body" } do
        t.http.fail("POST", URL, word)
        expect(try("http").error):toBe("http: " .. word)
        t.clock.advance(10)
    end
    t.http.on("POST", URL, t.http.error("timeout"), { json = {} })
    expect(try("http").error):toBe("http: timeout")
    expect(try("http").ok):toBe(true)
end)
test("errors that no call raises are refused", function()
    expect(function() t.discord.fail("create_message", "boom") end):toThrow('"boom" is no error that the call can raise')
    expect(function() t.discord.fail("create_message", "discord: forbidden") end):toThrow("discord: 403 50013")
    expect(function() t.http.fail("POST", URL, "slow") end):toThrow('"http: slow" is no error')
    t.discord.fail("create_message", 404, 10008)
    expect(try("say").error):toBe("discord: 404 10008 Unknown Message")
end)
test("a background thread is answered while the spec sleeps", function()
    t.discord.on("create_message", function(given) print("asked", given.channel_id) return {} end)
    say("later")
    task.wait(10)
    expect(t.discord.calls("create_message")):toHaveLength(1)
end)"#,
    );
}

#[test]
fn discord_is_recorded_and_answers_as_told() {
    passes(
        r#"
test("recorded", function()
    expect(say("member")):toEqual({})
    t.discord.on("create_message", { id = "1" }, { id = "2" })
    expect(say("say")):toEqual({ id = "1" })
    expect(say("say")):toEqual({ id = "2" })
    expect(say("say")):toEqual({ id = "2" })
    expect(t.discord.calls()):toHaveLength(4)
    expect(t.discord.calls("create_message")[1].args):toEqual({ { channel_id = "5", data = { content = "hi" } } })
    t.discord.fail("create_message", "discord: 403 50013 Missing Permissions")
    expect(try("say").error):toBe("discord: 403 50013 Missing Permissions")
    expect(function() t.discord.on("create_mesage") end):toThrow("did you mean `create_message`")
end)
test("capabilities are real", function()
    expect(try("ban").error):toBe("Missing capability: discord:create_guild_ban")
    expect(t.discord.calls()):toEqual({})
end)
"#,
    );
}

#[test]
fn servers_are_recorded_and_answer_as_told() {
    passes(
        r#"
local URL = "https://api.example.org/check?x=1"
test("answered", function()
    t.http.on("post", URL, { json = { bad = true }, headers = { ["X-Kind"] = "test" } }, { status = 503, body = "[]" })
    expect(say("http")):toEqual({ status = 200, kind = "test", json = { bad = true } })
    expect(say("http")):toEqual({ status = 503, json = {} })
    local sent = t.http.requests()
    expect(sent):toHaveLength(2)
    expect(sent[1]):toEqual({
        method = "POST", url = URL, body = '{"id":"7"}', headers = { ["content-type"] = "application/json" },
    })
end)
test("refused", function()
    t.http.fail("POST", URL, "http: timeout")
    expect(try("http").error):toBe("http: timeout")
    expect(function() t.http.on("GET", URL, { status = 1 }) end):toThrow("100 to 999")
end)
test("nothing leaves the process", function()
    expect(try("http").error):toBe("http: connect (the test has no answer to POST " .. URL .. ")")
    expect(try("private").error):toMatch("^http: blocked")
end)"#,
    );
}

#[test]
fn tests_share_nothing() {
    passes(
        r#"
local seen = 0
for i = 1, 3 do
    test(`number {i}`, function()
        seen += 1
        expect(seen):toBe(1)
        expect(t.kv.all()):toEqual({})
        expect(t.clock.now()):toBe(1767225600)
        t.kv.set("k", i, { "subject" })
        t.clock.advance(10)
    end)
end"#,
    );
}

#[test]
fn groups_name_their_tests_and_prepare_them() {
    let tests = r#"
local order = {}
t.beforeEach(function() table.insert(order, "outer") end)
t.describe("group", function()
    t.beforeEach(function() table.insert(order, "inner") end)
    test("inside", function() expect(order):toEqual({ "outer", "inner" }) end)
end)
test("outside", function() expect(order):toEqual({ "outer" }) end)
t.skip("later", function() t.fail("is not run") end)"#;
    passes(tests).says(&[
        "ok      group › inside",
        "ok      outside",
        "skip    later",
        "2 passed, 0 failed, 1 skipped",
    ]);
    let filtered = run(tests, &["--filter", "group"]).with_status(0);
    filtered.says(&["1 passed, 0 failed in"]);
    run(tests, &["--filter", "nothing like it"]).with_status(1).says(&["no test has `nothing like it` in its name"]);
}

#[test]
fn expectations_say_what_they_miss() {
    for (expectation, said) in [
        ("expect(1):toBe(2)", "expected 2, got 1"),
        ("expect(1).never:toBe(1)", "expected the contrary of toBe 1, got 1"),
        ("expect(1.5):toBeNear(1, 0.25)", "expected 1 ± 0.25, got 1.5"),
        ("expect(1):toBeAtLeast(2)", "expected at least 2, got 1"),
        ("expect(3):toBeAtMost(2)", "expected at most 2, got 3"),
        ("expect(1):toBeNil()", "expected nil, got 1"),
        ("expect(nil):toBeTruthy()", "expected a true value, got nil"),
        ("expect(0):toBeFalsy()", "expected nil or false, got 0"),
        ("expect('abc'):toMatch('^b')", r#"expected a text that matches "^b", got "abc""#),
        ("expect('abc'):toContain('d')", r#"expected a text with "d" in it, got "abc""#),
        ("expect({ 1, 2 }):toContain(3)", "expected a list with 3 in it, got { 1, 2 }"),
        ("expect({ 1 }):toHaveLength(2)", "expected a length of 2, got 1: { 1 }"),
        ("expect(print):toThrow()", "expected an error, and there was none"),
        ("expect(error):toThrow('x')", r#"expected an error that matches "x", got "nil""#),
        ("expect(1):toBeFoo()", r#"expect(…) has no "toBeFoo"; it has toBe, "#),
        ("expect(1).toBe(1)", "write expect(…):toBe(…), with a colon"),
        ("say('nobody knows')", "attempt to call a nil value"),
        (
            "t.dispatch(event.memberAdd())",
            "subject does not get GUILD_MEMBER_ADD; it subscribes to MESSAGE, KeyExpiry[subject], KeyResume[subject]",
        ),
        ("t.dispatch({})", "event 1 is none; make it with event.message{…} or its like"),
        ("test('x')", "a test must be a function, not a nil"),
    ] {
        let (at, message) = failure(&format!("\n\ntest('a', function()\n{expectation}\nend)"));
        assert!(message.contains(said), "{expectation}: {message}");
        // What the helper of the head does, it does in its line.
        let line = if expectation.starts_with("say") { 3 } else { 8 };
        assert_eq!(at, format!("subject/a.spec.luau:{line}"), "{expectation}");
    }
}

#[test]
fn a_spec_that_loops_for_ever_ends_and_the_next_test_runs() {
    let ran = run(
        "test('endless', function() while true do end end)
        test('also when it catches', function() while true do pcall(function() while true do end end) end end)
        test('next', function() say('echo') end)",
        &[],
    )
    .with_status(1);
    ran.says(&["Script execution time limit exceeded", "subject/a.spec.luau:5", "ok      next", "1 passed, 2 failed"]);
    let ran = run("while true do end", &[]).with_status(1);
    ran.says(&["(the spec itself)", "Script execution time limit exceeded"]);
}

#[test]
fn a_test_that_waits_for_nothing_ends_by_the_clock_on_the_wall() {
    let ran = run("test('stuck', function() while true do task.wait(1) end end)", &["--timeout", "1"]).with_status(1);
    ran.says(&["timeout: the test did not end within 1 s (--timeout)"]);
}

#[test]
fn mistakes_are_named_and_nothing_runs() {
    let broken = subject().file("subject/a.spec.luau", format!("{HEAD}test('x', function()\nlocal = 1\nend)"));
    broken.run(["test"]).with_status(2).says(&["subject/a.spec.luau:6: ", "1 to correct"]);
    let broken = subject().file("subject/a.spec.luau", HEAD).file("subject/init.luau", "local x = (");
    broken.run(["test", "subject"]).with_status(2).says(&["subject/init.luau:1: "]);
    Antiraid::new().run(["test"]).with_status(2).says(&["no spec here: no file at or below it ends in .spec.luau"]);
    Antiraid::new().run(["test", "nowhere"]).with_status(2).says(&["nowhere: cannot be read"]);
    subject().file("subject/a.spec.luau", HEAD).run(["test"]).with_status(1).says(&["the specs have no tests"]);
    let raises = subject().file("subject/a.spec.luau", "\nerror('while loading')");
    raises.run(["test"]).with_status(1).says(&["(the spec itself)", "subject/a.spec.luau", "while loading"]);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let tests = "test('shows', function() print(unpack(say('chance'))) t.fail(table.concat(say('chance'), ' ')) end)
        test('and its own', function() t.fail(tostring(math.random(1, 1e9)) .. t.snowflake()) end)";
    let run = |seed: &str| run(tests, &["--json", "--seed", seed]).with_status(1).json();
    let (first, again, other) = (run("7"), run("7"), run("8"));
    assert_eq!(first, again);
    assert_ne!(first["tests"], other["tests"]);
    let (chance, of_other) = (&first["tests"][0]["failure"]["message"], &other["tests"][0]["failure"]["message"]);
    for report in [chance, of_other] {
        assert!(
            report.as_str().unwrap().ends_with("1767225600 0 Thu Jan  1 00:00:00 2026 2026-01-01T00:00:00+00:00"),
            "{report}"
        );
    }
    let unseeded = || self::run(tests, &["--json"]).with_status(1).json()["tests"].clone();
    assert_ne!(unseeded(), unseeded());
}

#[test]
fn hostile_templates_hurt_no_test_but_their_own() {
    passes(
        r#"
for _, name in { "loop", "protected_loop", "metamethod", "memory", "record", "rearm", "require" } do
    test(name, function()
        local result = try(name)
        expect(result.ok):toBe(false)
        expect(say("echo").text):toBe("echo")
    end)
end
test("nobody else has this module", function()
    expect(try("require").error):toMatch("^unavailable: @antiraid%-test")
end)"#,
    );
}

#[test]
fn a_template_that_never_sleeps_costs_its_test_and_not_the_next() {
    let tests = "test('storm', function() say('defer') end)
        test('next', function() say('echo') end)";
    let ran = run(tests, &["--timeout", "1"]).with_status(1);
    ran.says(&["timeout: the test did not end within 1 s (--timeout)", "ok      next"]);
}

#[test]
fn specs_without_a_template_test_modules() {
    let antiraid = Antiraid::new().file("lib/double.luau", "return function(x) return 2 * x end");
    let antiraid = antiraid.file(
        "lib/a.spec.luau",
        "local t = require('@antiraid-test')
        local set = require('@antiraid-ext/set')
        t.test('a library', function() t.expect(type(set)):toBe('table') end)
        t.test('no template', function()
            t.expect(t.attempt(t.event.message()).error):toBe(
                'nobody gets MESSAGE: this spec is not in the folder of a template')
        end)",
    );
    for args in [&["test"][..], &["test", "lib"], &["test", "lib/a.spec.luau"]] {
        antiraid.run(args).with_status(0).says(&["2 passed", "lib/a.spec.luau\n"]);
    }
}

#[test]
fn specs_are_no_part_of_a_template() {
    let antiraid = subject().file("subject/a.spec.luau", "this does not even compile (");
    antiraid.run(["template", "check", "subject"]).with_status(0).says(&["subject: good, 1 files"]);
    let antiraid = subject().file("subject/a.spec.luau", HEAD).file("subject/init.luau", "require('./a.spec')");
    antiraid.run(["template", "check", "subject"]).with_status(1).says(&["`./a.spec` not found"]);
    let uses = subject().file("subject/init.luau", "require('@antiraid-test')");
    let said = "subject/init.luau:1: unavailable: @antiraid-test (only specs have it, under `antiraid test`)";
    uses.run(["template", "check", "subject"]).with_status(1).says(&[said]);
}

/// The type file names what the module has, and nothing else.
#[test]
fn the_types_are_those_of_the_module() {
    let path = "worker-builtins/builtins/templating-types/@antiraid-test/init.luau";
    let types = std::fs::read_to_string(workspace().join(path)).unwrap();
    let of_type = |name: &str| -> BTreeSet<String> {
        let start = types.find(&format!("export type {name} = {{\n")).unwrap_or_else(|| panic!("no type {name}"));
        let body = types[start..].split("\n}").next().unwrap();
        let field = |line: &str| Some(line.strip_prefix('\t')?.split_once(": ")?.0.to_owned());
        body.lines().filter(|line| !line.trim_start().starts_with("--")).filter_map(field).collect()
    };
    let spec = "local t = require('@antiraid-test')
        local function names(of)
            local found = {}
            for name in of do if string.sub(name, 1, 2) ~= '__' then table.insert(found, name) end end
            return table.concat(found, ' ')
        end
        local ok, said = pcall(function() return t.expect(1).nothing end)
        local checks = string.match(said, 'it has (.*)'):gsub(',', ''):gsub(' and ', ' ')
        t.test('names', function()
            t.fail(table.concat({ names(t), names(t.event), names(t.clock), names(t.kv), names(t.discord),
                names(t.http), names(t.log), checks }, '\\n'))
        end)";
    let ran = Antiraid::new().file("a.spec.luau", spec).run(["test", "--json"]).with_status(1).json();
    let message = ran["tests"][0]["failure"]["message"].as_str().unwrap();
    let names = ["AntiraidTest", "Events", "Clock", "Store", "Discord", "Http", "Log", "Expectation"];
    assert_eq!(message.lines().count(), names.len(), "{message}");
    for (name, line) in names.into_iter().zip(message.lines()) {
        assert_eq!(line.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>(), of_type(name), "{name}");
    }
}
