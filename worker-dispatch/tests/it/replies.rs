//! Each dispatch gets exactly one answer, its own, whatever happens beside it.

use std::time::Duration;

use worker_core::{DispatchResult, Limits, Reply, Value, WorkerErrorKind, WorkerLike};

use crate::harness::{Harness, answer, at_hand, message, nth, on_worker};

const TENANTS: u64 = 8;

/// What the event says, and the state of the VM survives none of it for sure.
const TEMPLATE: &str = r#"
local evt, ctx = ...
local d = evt.data
if d.what == "raise" then error("raised " .. d.id, 0) end
if d.what == "wait" then task.wait(0.05) end
if d.what == "sleep" then task.wait(1e9) end
if d.what == "work" then for i = 1, 100000 do end end
if d.what == "loop" then while true do end end
if d.what == "stall" then coroutine.yield() end
if d.what == "spawn" then task.spawn(function() task.wait(0.1) error("in the background", 0) end) end
if d.what == "memory" then local all = {} while true do table.insert(all, buffer.create(65536)) end end
return { guild = ctx.guild_id, id = d.id, version = VERSION }
"#;

struct Random(u64);

impl Random {
    /// A number below `n` (xorshift64*).
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n
    }
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Drain,
    Kill,
}

struct Sent {
    tenant: u64,
    id: u64,
    what: &'static str,
    reply: Reply<DispatchResult>,
}

async fn run(seed: u64, end: End) {
    let limits = Limits {
        vm_memory_bytes_max: 4 << 20,
        dispatch_cpu_max: Duration::from_millis(30),
        dispatch_timeout: Duration::from_millis(1_500),
        vm_drain_timeout: Duration::from_millis(300),
        tenant_dispatches_max: 5,
        tenant_queue_max: 20,
        worker_queue_max: 60,
        tenant_cpu_max: Duration::from_millis(100),
        tenant_cpu_window: Duration::from_secs(1),
        ..Limits::default()
    };
    let h = Harness::with_limits(limits).await;
    let mut random = Random(seed * 2 + 1);
    for tenant in 0..TENANTS {
        let events = ["MESSAGE", "INTERACTION_CREATE", "TYPING_START"];
        h.install_for(nth(tenant), "a", &events, TEMPLATE).await;
        if tenant % 2 == 0 {
            h.install_for(nth(tenant), "b", &events[1..], TEMPLATE).await;
        }
    }
    let mut sent = Vec::new();
    for id in 0..600 {
        let tenant = random.below(TENANTS);
        match random.below(100) {
            0..2 => drop(h.dispatcher.reload(nth(tenant))),
            2..3 => {
                let source = TEMPLATE.replace("VERSION", &id.to_string());
                h.install(nth(tenant), "a", &source).await;
            }
            3..8 => tokio::time::sleep(Duration::from_millis(random.below(8))).await,
            8..20 => tokio::task::yield_now().await,
            _ => {}
        }
        let what = ["return", "return", "raise", "wait", "work", "loop", "stall", "spawn", "memory", "sleep"];
        let what = what[if random.below(3) == 0 { random.below(10) } else { 0 } as usize];
        let t = ["MESSAGE_CREATE", "INTERACTION_CREATE", "TYPING_START", "GUILD_BAN_ADD"][random.below(4) as usize];
        let event = worker_core::Event::discord(t, format!(r#"{{"what":"{what}","id":{id}}}"#).into());
        match random.below(10) {
            0 => h.dispatcher.dispatch_nowait(nth(tenant), event),
            1 => drop(h.send(nth(tenant), event)),
            2 => {
                // Goes away when it may have started.
                let reply = h.send(nth(tenant), event);
                tokio::task::spawn_local(tokio::time::timeout(Duration::from_millis(random.below(5)), reply));
            }
            _ => sent.push(Sent { tenant, id, what, reply: h.send(nth(tenant), event) }),
        }
    }
    match end {
        End::Drain => answer(h.dispatcher.drain()).await.unwrap(),
        End::Kill => answer(h.dispatcher.kill()).await.unwrap(),
    }
    let (mut well, mut refused) = (0, 0);
    for Sent { tenant, id, what, mut reply } in sent {
        let answer = at_hand(&mut reply).await;
        match answer.unwrap_or_else(|| panic!("seed {seed}: `{what}` {id} was not answered before the end")) {
            Ok(result) => {
                well += 1;
                assert!(result.templates.is_sorted_by_key(|result| result.template.clone()));
                for outcome in result.templates.into_iter().map(|result| result.outcome) {
                    check(tenant, id, what, outcome.map_err(|error| error.text.to_string()));
                }
            }
            Err(error) => {
                assert!(!error.to_string().contains("before it answered"), "seed {seed}: the answer was lost");
                match error.kind() {
                    WorkerErrorKind::Overloaded => refused += 1,
                    WorkerErrorKind::TimedOut => {}
                    WorkerErrorKind::WorkerGone if end == End::Kill => {}
                    kind => panic!("seed {seed}: `{what}` {id} was refused as {kind}: {error}"),
                }
            }
        }
    }
    assert!(well > 50, "seed {seed}: only {well} were answered well");
    let stats = h.stats().await;
    assert_eq!(stats.events, 600, "seed {seed}");
    assert_eq!(stats.events_queued, 0, "seed {seed}");
    assert!(stats.events_refused >= refused, "seed {seed}: {refused} were refused, {} counted", stats.events_refused);
}

/// Its own result, or a failure that it or its tenant asked for.
fn check(tenant: u64, id: u64, what: &str, outcome: Result<Value, String>) {
    match outcome {
        Ok(Value::Map(value)) => {
            assert_eq!(value["id"], Value::Integer(id as i64), "the result of another event");
            assert_eq!(value["guild"], nth(tenant).snowflake().to_string().into(), "the result of another tenant");
            assert!(!matches!(what, "raise" | "loop" | "memory" | "sleep"), "`{what}` cannot return");
        }
        Ok(other) => panic!("`{what}` returned {other:?}"),
        // Another event of the tenant broke the VM, or it was replaced and its time was over; or the tenant is over its
        // share of CPU time.
        Err(error) if ["memory: ", "cancelled: ", "timeout: "].iter().any(|of| error.starts_with(of)) => {}
        Err(error) => match what {
            "raise" => assert_eq!(error, format!("raised {id}")),
            "stall" => assert!(error.starts_with("stalled: "), "{error}"),
            "loop" | "memory" => assert!(error.starts_with("Script execution time limit"), "{error}"),
            // On a machine that stands still for a while, even these use up their CPU time.
            _ => assert!(error.starts_with("Script execution time limit"), "`{what}` failed: {error}"),
        },
    }
}

#[test]
fn every_dispatch_has_exactly_one_answer_when_the_worker_drains() {
    for seed in 1..=4 {
        on_worker(|| run(seed, End::Drain));
    }
}

#[test]
fn every_dispatch_has_exactly_one_answer_when_the_worker_is_killed() {
    for seed in 5..=8 {
        on_worker(|| run(seed, End::Kill));
    }
}

#[test]
fn a_worker_at_rest_holds_nothing() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install(nth(0), "waits", "task.wait()").await;
        for _ in 0..100 {
            h.dispatcher.dispatch_nowait(nth(0), message("{}"));
        }
        let last = h.send(nth(0), message("{}"));
        answer(last).await.unwrap();
        answer(h.dispatcher.drain()).await.unwrap();
        let stats = h.stats().await;
        assert_eq!((stats.templates_run, stats.events_queued, stats.events_dropped), (101, 0, 0));
    });
}
