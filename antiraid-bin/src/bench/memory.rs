//! What tenants hold. Each kind of VM in a process of its own: pages that one frees would be the other's.

use std::collections::BTreeMap;
use std::time::Instant;

use clap::{Args, ValueEnum};
use worker_core::{Event, Limits, WorkerLike};
use worker_vm::floor::{EVENT_JSON, Floor, HANDLER, MluaFloor};

use super::harness::{Harness, event, tenant, value};
use super::{Bar, BenchError, BenchRow, Effort, Unit};
use crate::cli::CommandError;
use crate::output::Output;
use crate::replay_report::{peak_memory_bytes, resident_memory_bytes};

/// What the process is to measure.
#[derive(Args, Clone, Copy, Debug)]
pub struct MemoryArgs {
    /// Whose memory
    kind: Kind,
    /// Tenants, or VMs
    tenants: usize,
    /// What all VMs of the worker may hold
    #[arg(long, default_value = "1048576")]
    budget_mib: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Tenants of a worker, step by step.
    Tenants,
    /// VMs of the bare Luau C API.
    Bare,
    /// VMs of mlua.
    Mlua,
    /// Tenants of a worker with a budget, one after the other.
    Budget,
}

/// What the process tells, by name.
type Figures = BTreeMap<String, f64>;

/// What an idle tenant holds, and where it is.
pub(super) fn idle_tenant(effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
    let tenants = effort.choose(10_000, 1_000);
    let measure = |kind| in_a_process(MemoryArgs { kind, tenants, budget_mib: 1 << 20 });
    let (ours, bare, mlua) = (measure(Kind::Tenants)?, measure(Kind::Bare)?, measure(Kind::Mlua)?);
    let part = |what: &str, bytes: f64| BenchRow::alone("memory", format!("  {what}"), Unit::Kilobytes, bytes / 1e3);
    let kilobytes = |figures: &Figures, name: &str| get(figures, name).map(|bytes| bytes / 1e3);
    let question = format!("Resident memory of an idle tenant, {} of them", indicatif::HumanCount(tenants as u64));
    let (rows, small, all) = (get(&ours, "rows")?, get(&ours, "small")?, get(&ours, "all")?);
    let (bare_new, bare_used) = (get(&bare, "new")?, get(&bare, "used")?);
    Ok(vec![
        BenchRow::alone("memory", question, Unit::Kilobytes, all / 1e3)
            .beside("plain mlua", kilobytes(&mlua, "used")?)
            .with_bar(Bar::Measured(225.0)),
        part("its rows and their index", rows),
        part("the bare VM: Luau's libraries, sandboxed", bare_new),
        part("the runtime in it, the template and its environment", small - rows - bare_new),
        part("what an event leaves until it is collected", all - small)
            .beside("bare Luau", (bare_used - bare_new) / 1e3),
    ])
}

/// Many tenants, and room for some.
pub(super) fn under_a_budget(effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
    let (tenants, budget_mib) = effort.choose((50_000, 1_024), (5_000, 100));
    let figures = in_a_process(MemoryArgs { kind: Kind::Budget, tenants, budget_mib })?;
    let row = |question: String, unit, figure| BenchRow::alone("budget", question, unit, figure);
    let tenants = indicatif::HumanCount(tenants as u64);
    let question = format!("Peak memory, {tenants} tenants in turn, {budget_mib} MiB for VMs");
    let peak = row(question, Unit::Gibibytes, get(&figures, "peak")? / f64::from(1 << 30));
    Ok(vec![
        match effort {
            Effort::Full => peak.with_bar(Bar::Measured(1.2)),
            // The bar is for a gibibyte: of less, what the process has beside its VMs is a larger part.
            Effort::Quick => peak,
        },
        row("  VMs evicted".into(), Unit::Vms, get(&figures, "evicted")?),
        row("  an event: rows loaded, VM made, old VMs dropped".into(), Unit::Microseconds, get(&figures, "event_us")?),
    ])
}

fn get(figures: &Figures, name: &str) -> Result<f64, BenchError> {
    figures.get(name).copied().ok_or_else(|| BenchError::Process(name.to_owned()))
}

/// Runs this program once more.
fn in_a_process(args: MemoryArgs) -> Result<Figures, BenchError> {
    let kind = args.kind.to_possible_value().map(|kind| kind.get_name().to_owned()).unwrap_or_default();
    let failed = |why: &dyn std::fmt::Display| BenchError::Process(format!("{kind}: {why}"));
    let program = std::env::current_exe().map_err(|error| failed(&error))?;
    #[expect(clippy::disallowed_methods, reason = "one run of this program itself, which is waited for")]
    let ran = std::process::Command::new(program)
        .args(["bench-memory", &kind, &args.tenants.to_string(), "--budget-mib", &args.budget_mib.to_string()])
        .output()
        .map_err(|error| failed(&error))?;
    if !ran.status.success() {
        return Err(failed(&String::from_utf8_lossy(&ran.stderr)));
    }
    serde_json::from_slice(&ran.stdout).map_err(|error| failed(&error))
}

/// What that process does.
pub(super) fn measure_this_process(args: &MemoryArgs, output: &mut Output) -> Result<(), CommandError> {
    let MemoryArgs { kind, tenants, budget_mib } = *args;
    let figures = match kind {
        Kind::Tenants => steps_of_tenants(tenants)?,
        Kind::Budget => tenants_in_turn(tenants, budget_mib)?,
        Kind::Bare => vms(tenants, Floor::new, |floor, vm| drop(floor.run(vm, EVENT_JSON.as_bytes())))?,
        Kind::Mlua => vms(tenants, MluaFloor::new, |floor, vm| drop(floor.run(vm, EVENT_JSON.as_bytes())))?,
    };
    output.json(&figures)?;
    output.flush()?;
    Ok(())
}

fn vms<F>(count: usize, make: impl Fn(usize) -> F, run: impl Fn(&F, usize)) -> Result<Figures, BenchError> {
    // What the first one needs is no VM's own.
    run(&make(1), 0);
    let mut steps = Steps::new(count)?;
    let vms = make(count);
    steps.note("new")?;
    (0..count).for_each(|vm| run(&vms, vm));
    steps.note("used")?;
    Ok(steps.figures)
}

/// The rows loaded; then an event that leaves nothing; then one of 1.5 KB.
fn steps_of_tenants(tenants: usize) -> Result<Figures, CommandError> {
    let database = Database::new()?;
    let limits = Limits { worker_memory_bytes_max: usize::MAX / 2, ..Limits::default() };
    let harness = Harness::over(&database.url(), limits)?;
    let source = format!("local evt = ...\nlocal data = evt.data\nif not data.id then return end\n{HANDLER}");
    harness.install(0..tenants + 1, &source)?;
    let worker = harness.worker();
    // The first tenant's code is compiled, and it needs what all share.
    harness.warm(&worker, 0..1, 1)?;
    let mut steps = Steps::new(tenants)?;
    for (name, event) in [
        ("rows", Event::discord("PRESENCE_UPDATE", "{}".into())),
        ("small", Event::discord("MESSAGE_CREATE", "{}".into())),
        ("all", event()),
    ] {
        harness.block_on(async {
            for number in 1..=tenants {
                let answer = worker.dispatch(tenant(number), event.clone()).await;
                if name == "rows" {
                    answer.map_err(BenchError::Worker)?;
                } else {
                    value(answer)?;
                }
            }
            Ok::<_, BenchError>(())
        })?;
        steps.note(name)?;
    }
    Ok(steps.figures)
}

fn tenants_in_turn(tenants: usize, budget_mib: usize) -> Result<Figures, CommandError> {
    let database = Database::new()?;
    let limits = Limits { worker_memory_bytes_max: budget_mib << 20, ..Limits::default() };
    let harness = Harness::over(&database.url(), limits)?;
    harness.install(0..tenants, &super::harness::handler())?;
    let worker = harness.worker();
    let begun = Instant::now();
    harness.warm(&worker, 0..tenants, 1)?;
    let event_us = begun.elapsed().as_secs_f64() * 1e6 / tenants as f64;
    let stats = harness.block_on(async { worker.stats().await }).map_err(BenchError::Worker)?;
    let peak = peak_memory_bytes().ok_or(BenchError::NoMemoryFigures)?;
    let figures = [("peak", peak as f64), ("evicted", stats.vms_evicted as f64), ("event_us", event_us)];
    Ok(figures.map(|(name, figure)| (name.to_owned(), figure)).into())
}

/// A database that is not in this process's memory.
struct Database(tempfile::TempDir);

impl Database {
    fn new() -> Result<Self, CommandError> {
        tempfile::tempdir().map(Self).map_err(CommandError::Output)
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.0.path().join("bench.db").display())
    }
}

/// Notes what has become resident since the beginning, divided by the number of tenants.
struct Steps {
    before: u64,
    tenants: usize,
    figures: Figures,
}

impl Steps {
    fn new(tenants: usize) -> Result<Self, BenchError> {
        let before = resident_memory_bytes().ok_or(BenchError::NoMemoryFigures)?;
        Ok(Self { before, tenants, figures: Figures::new() })
    }

    fn note(&mut self, name: &str) -> Result<(), BenchError> {
        let now = resident_memory_bytes().ok_or(BenchError::NoMemoryFigures)?;
        self.figures.insert(name.to_owned(), (now as f64 - self.before as f64) / self.tenants.max(1) as f64);
        Ok(())
    }
}
