//! What does a registered module's work cost from Luau, against its crate called from Rust with the same conversion?
//!
//! Prints the ratios at the end: the quickest of some runs each, since what is compared is work and not the machine.

#[path = "support/mod.rs"]
#[expect(dead_code, reason = "other benches need other parts")]
mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use criterion::{Criterion, criterion_group, criterion_main};
use support::{Bench, runtime, tenant};
use worker_core::Event;
use worker_vm::Run;
use worker_vm::floor::{Floor, ModulesFloor};

const MB: usize = 1_000_000;

/// 100 KB of JSON as bots have it: objects in a list.
const JSON: &str = r#"
local parts = {}
for n = 1, 620 do
    parts[n] = { id = tostring(81384788765712384 + n), name = `member {n}`, roles = { "1", "2", "3" }, joined = n * 1.5,
        pending = false, nick = "nick \"quoted\"", avatar = "a_d5efa99b3eeaa7dd43acca82f5692432" }
end
"#;

/// What is measured: a name, what a script sets up once, what it does each time, and the same in Rust.
type Case = (&'static str, String, &'static str, Box<dyn Fn(&ModulesFloor)>);

fn cases() -> Vec<Case> {
    let data = vec![b'x'; MB];
    let encoded = STANDARD.encode(&data);
    let hay = "the quick brown fox 12345 jumps over 7 lazy dogs; ".repeat(MB / 50);
    let json = json_text();
    let word = regex::bytes::Regex::new(r"[a-z]+ (\d+)").expect("a pattern");
    let (hay_found, word_found) = (hay.clone(), regex::bytes::Regex::new(r"([a-z]+) (\d{6})").expect("a pattern"));
    let prelude = "local serde, regex, datamgmt = require('@lune/serde'), require('@lune/regex'), require('@antiraid/datamgmt')\n";
    let hay_luau = "local hay = string.rep('the quick brown fox 12345 jumps over 7 lazy dogs; ', 20000)\n";
    vec![
        (
            "JSON of 100 KB, decode and encode",
            format!("{prelude}{JSON}local text = serde.encode('json', parts)"),
            "return #serde.encode('json', serde.decode('json', text))",
            Box::new(move |floor| _ = black_box(floor.json_round_trip(json.as_bytes()))),
        ),
        (
            "base64 of 1 MB, encode",
            format!("{prelude}local data = string.rep('x', {MB})"),
            "return #datamgmt.base64encode(data)",
            Box::new(move |floor| floor.string(STANDARD.encode(&data).as_bytes())),
        ),
        (
            "base64 of 1 MB, decode",
            format!("{prelude}local text = datamgmt.base64encode(string.rep('x', {MB}))"),
            "return #datamgmt.base64decode(text)",
            Box::new(move |_| _ = black_box(STANDARD.decode(&encoded))),
        ),
        (
            "regex over 1 MB, replace all",
            format!("{prelude}{hay_luau}local word = regex.new([[[a-z]+ (\\d+)]])"),
            "return #word:replaceAll(hay, '<$1>')",
            Box::new(move |floor| floor.string(&word.replace_all(hay.as_bytes(), &b"<$1>"[..]))),
        ),
        (
            "regex over 1 MB, find",
            format!("{prelude}{hay_luau}local word = regex.new([[([a-z]+) (\\d{{6}})]])"),
            "return word:find(hay) == nil",
            Box::new(move |_| assert!(black_box(word_found.find(hay_found.as_bytes())).is_none())),
        ),
    ]
}

/// The JSON that the script makes.
fn json_text() -> String {
    let member = |n: u64| {
        serde_json::json!({
            "id": (81_384_788_765_712_384 + n).to_string(), "name": format!("member {n}"), "roles": ["1", "2", "3"],
            "joined": n as f64 * 1.5, "pending": false, "nick": "nick \"quoted\"",
            "avatar": "a_d5efa99b3eeaa7dd43acca82f5692432",
        })
    };
    serde_json::Value::Array((1..=620).map(member).collect()).to_string()
}

/// A tenant whose template does some work for each event.
struct ScriptBench(Bench);

impl ScriptBench {
    /// `setup` runs once; its locals are there when `work` runs for an event.
    async fn new(setup: &str, work: &str) -> Self {
        let module = format!("{setup}\nreturn function()\n{work}\nend");
        let files = [("init.luau", "return (require('@self/work'))()"), ("work.luau", &module)];
        Self(Bench::with_files(1, &files).await)
    }

    /// Runs an event to its end.
    async fn run(&self) {
        let event = Bench::event();
        let runs = self.0.vms.try_start(tenant(0), &self.0.subscribers(0), &event, true).expect("a VM");
        for (_, run) in runs.expect("prepared") {
            let outcome = match run {
                Run::Running(outcome) => outcome.await,
                Run::Done(outcome) => outcome,
                Run::NotLoaded(error) => Err(error),
            };
            outcome.unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

/// The quickest of many runs.
fn quickest(mut run: impl FnMut()) -> Duration {
    (0..100)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .min()
        .unwrap_or_default()
}

fn modules(criterion: &mut Criterion) {
    let mut ratios = Vec::new();
    for (name, setup, work, rust) in cases() {
        let mut group = criterion.benchmark_group(name);
        let floor = ModulesFloor::new();
        group.bench_function("crate", |b| b.iter(|| rust(&floor)));
        let runtime = runtime();
        let bench = runtime.block_on(ScriptBench::new(&setup, work));
        group.bench_function("Luau", |b| b.iter(|| runtime.block_on(bench.run())));
        group.finish();
        let (rust, luau) = (quickest(|| rust(&floor)), quickest(|| runtime.block_on(bench.run())));
        ratios.push((name, luau, rust));
    }
    for (name, luau, rust) in ratios {
        println!("{name}: {luau:.2?} / {rust:.2?} = {:.2}", luau.as_secs_f64() / rust.as_secs_f64());
    }
}

/// What an event costs beside its data and its template: its value, its context with all objects that nobody asks for, its
/// thread and its turn. Against a function of a bare VM in a thread of its own.
fn unused_context(_: &mut Criterion) {
    const TIMES: u32 = 1_000;
    let floor = Floor::of_source("return").expect("it compiles");
    let bare = quickest(|| (0..TIMES).for_each(|_| _ = black_box(floor.run_plain(0)))) / TIMES;
    let runtime = runtime();
    let bench = runtime.block_on(Bench::with_files(1, &[("init.luau", "return")]));
    let event = Event::discord("MESSAGE_CREATE", b"{}".as_slice().into());
    let whole = quickest(|| {
        runtime.block_on(async {
            for _ in 0..TIMES {
                assert!(bench.run(0, &event));
            }
            // What was cut off goes on.
            tokio::task::yield_now().await;
        });
    });
    let whole = whole / TIMES;
    println!("an event of which nothing is used: {whole:.0?}, a bare VM's function in a thread: {bare:.0?}");
}

criterion_group!(benches, modules, unused_context);
criterion_main!(benches);
