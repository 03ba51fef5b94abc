//! Each script of `tests/luau/hostile` against the default limits, with a neighbour on the same thread that must be served.
//!
//! Only the CPU time of a dispatch is shorter than by default, so that the scripts which use all of it do not take
//! minutes; `antiraid bench` runs them with 10 s.

use std::time::Duration;

use worker_core::{Limits, TenantId, Value};
use worker_vm::hostile::{HostileScript, SCRIPTS};

use crate::harness::{Harness, OTHER, finish, message};

/// Another template of the attacker's tenant. Its answer shows whether it was tampered with.
const VICTIM: &str = r#"
local evt, ctx = ...
secret = "secret"
ctx.store.victim = ctx.store.victim or function() return secret end
return secret .. " " .. evt.name .. " " .. tostring(evt.data.content)
"#;

/// CPU time of a script that would use all it gets.
const CPU_MAX: Duration = Duration::from_millis(200);

fn attack(prefix: &'static str, dispatch_cpu_max: Duration) {
    crate::harness::on_worker(move || async move {
        let limits = Limits { dispatch_cpu_max, ..Limits::default() };
        let h = Harness::with_limits(limits).await;
        h.install(OTHER, "neighbour", "return 'served'").await;
        let scripts: Vec<_> = SCRIPTS.iter().filter(|script| script.name.starts_with(prefix)).collect();
        assert!(!scripts.is_empty());
        let mut wrong = Vec::new();
        for (number, script) in scripts.into_iter().enumerate() {
            wrong.extend(run(&h, TenantId::guild((number as u64 + 10) << 22), script).await);
        }
        assert_eq!(wrong, Vec::<String>::new());
        h.vms.cancel_all();
        // A VM whose code is compiled elsewhere at this moment goes when that is done.
        let gone = async {
            while (h.vms.stats().live, h.vms.stats().memory_bytes) != (0, 0) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let gone = tokio::time::timeout(Duration::from_secs(10), gone).await;
        assert!(gone.is_ok(), "all memory is accounted for when the VMs are gone: {:?}", h.vms.stats());
    });
}

/// Runs one script in a tenant of its own: what went otherwise than it should.
async fn run(h: &Harness, tenant: TenantId, script: &HostileScript) -> Option<String> {
    let name = script.name;
    h.install(tenant, "victim", VICTIM).await;
    h.install(tenant, "hostile", &script.entry()).await;
    let runs = h.start(tenant, &message(r#"{"content":"hello"}"#)).await;
    let run = tokio::task::spawn_local(finish(runs));
    let mut served = 0;
    while !run.is_finished() || served == 0 {
        assert_eq!(h.message(OTHER).await, Ok(Value::from("served")), "beside {name}");
        served += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let outcome = outcome_of(run.await.unwrap(), "hostile");
    let text = match outcome {
        Ok(Value::Text(text)) => text,
        Ok(value) => format!("{value:?}"),
        Err(error) => error.text.to_string(),
    };
    if !script.ends_with(&text) {
        return Some(format!("{name}: {text}"));
    }
    let mut next = h.run(tenant, &message(r#"{"content":"hello","next":true}"#)).await;
    assert_eq!(next.len(), 2, "{name}");
    assert_eq!(outcome_of(std::mem::take(&mut next), "hostile"), Ok(Value::from("next")), "after {name}");
    let after = h.run(tenant, &message(r#"{"content":"hello","next":true}"#)).await;
    assert_eq!(outcome_of(after, "victim"), Ok(Value::from("secret MESSAGE hello")), "after {name}");
    None
}

fn outcome_of(
    results: Vec<(String, Result<Value, worker_core::TemplateError>)>,
    name: &str,
) -> Result<Value, worker_core::TemplateError> {
    results.into_iter().find(|(template, _)| template == name).expect("both templates have a result").1
}

#[test]
fn no_use_of_the_processor_holds_the_thread() {
    attack("cpu_", CPU_MAX);
}

#[test]
fn no_use_of_memory_is_more_than_the_tenants_own() {
    // Most come to the end of their memory, which takes a slow machine longer.
    attack("memory_", 10 * CPU_MAX);
}

#[test]
fn no_trick_leads_out_of_the_sandbox() {
    attack("escape_", CPU_MAX);
}

#[test]
fn no_flood_of_records_passes_the_limits() {
    attack("storage_", CPU_MAX);
}

#[test]
fn no_work_of_native_code_is_more_than_the_tenants_own() {
    attack("work_", CPU_MAX);
}

#[test]
fn no_argument_is_a_fault_of_native_code() {
    // It ends by itself.
    attack("native_", Limits::default().dispatch_cpu_max);
}
