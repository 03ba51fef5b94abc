//! What does an idle tenant hold? Resident memory a tenant, for bare VMs and for the runtime's.

#[path = "support/mod.rs"]
mod support;

use support::{Bench, runtime};
use worker_vm::floor::{EVENT_JSON, Floor};

/// Resident bytes of this process (`/proc/self/statm`, in pages of 4 KiB).
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("pages") * 4096
}

/// Each kind in a process of its own: pages that one frees would be the other's.
fn main() {
    let tenants = if std::env::args().any(|arg| arg == "--test") { 100 } else { 10_000 };
    let kind = std::env::args().nth(1).unwrap_or_default();
    match kind.as_str() {
        "bare" => bare(tenants),
        "runtime" => runtime_vms(tenants),
        _ => {
            println!("resident bytes a tenant, {tenants} tenants, each with one small template and after one event:");
            for kind in ["bare", "runtime"] {
                let mut arguments = vec![kind];
                if tenants == 100 {
                    arguments.push("--test");
                }
                #[expect(clippy::disallowed_methods, reason = "a bench that measures fresh processes")]
                let status = std::process::Command::new(std::env::current_exe().expect("this program"))
                    .args(arguments)
                    .status()
                    .expect("runs itself");
                assert!(status.success());
            }
        }
    }
}

fn line(what: &str, bytes: usize) {
    println!("  {what:<34}{bytes:>8}");
}

fn bare(tenants: usize) {
    let before = resident();
    let floor = Floor::new(tenants);
    line("bare Luau VM, new", (resident() - before) / tenants);
    for n in 0..tenants {
        floor.run(n, EVENT_JSON.as_bytes());
    }
    line("bare Luau VM, after one event", (resident() - before) / tenants);
    line("  of that allocated by Luau", floor.luau_bytes() / tenants);
}

fn runtime_vms(tenants: usize) {
    runtime().block_on(async {
        let before = resident();
        let bench = Bench::new(tenants).await;
        line("tenant's rows and index, no VM", (resident() - before) / tenants);
        let event = Bench::event();
        for n in 0..tenants {
            assert!(bench.run(n, &event));
        }
        line("tenant in all", (resident() - before) / tenants);
        line("  of that allocated by Luau", bench.vms.stats().memory_bytes as usize / tenants);
    });
}
