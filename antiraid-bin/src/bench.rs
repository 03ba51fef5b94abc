//! The headline measurements: each against a floor that is measured by turns with it, in the same process.
//!
//! The machine's speed changes from second to second, and both sides with it: so a ratio is the median of the ratios of
//! many short rounds, and its spread the middle half of them. Nothing here judges; a bar only stands beside its figure.

mod cold;
mod dispatch;
mod expiry;
mod gateway;
mod hostile;
mod latency;
mod memory;
mod process;
mod recorded;
mod slices;

mod harness;
mod paired;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::HumanCount;
use serde::Serialize;
use worker_core::{TemplateError, WorkerError};

use crate::cli::CommandError;
use crate::output::Output;

pub use memory::MemoryArgs;

/// How long measuring may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Minutes, for figures to be quoted.
    Full,
    /// Seconds, for a look.
    Quick,
}

impl Effort {
    fn choose<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

/// One thing that can be measured.
#[derive(Clone, Copy, Debug)]
pub struct Measurement {
    /// What `--only` is compared with.
    pub name: &'static str,
    run: fn(Effort) -> Result<Vec<BenchRow>, CommandError>,
}

/// All of them, in the order in which they run.
pub const MEASUREMENTS: &[Measurement] = &[
    Measurement { name: "dispatch-1", run: |effort| dispatch::in_this_thread("dispatch-1", 1, effort) },
    Measurement { name: "dispatch-100", run: |effort| dispatch::in_this_thread("dispatch-100", 100, effort) },
    Measurement { name: "dispatch-1000", run: |effort| dispatch::in_this_thread("dispatch-1000", 1_000, effort) },
    Measurement { name: "thread-1", run: |effort| dispatch::through_a_thread("thread-1", 1, effort) },
    Measurement { name: "thread-100", run: |effort| dispatch::through_a_thread("thread-100", 100, effort) },
    Measurement { name: "thread-1000", run: |effort| dispatch::through_a_thread("thread-1000", 1_000, effort) },
    Measurement { name: "unsubscribed", run: dispatch::unsubscribed },
    Measurement { name: "gateway-frame", run: gateway::frame },
    Measurement { name: "cold", run: cold::first_event },
    Measurement { name: "memory", run: memory::idle_tenant },
    Measurement { name: "budget", run: memory::under_a_budget },
    Measurement { name: "hog", run: latency::beside_a_hog },
    Measurement { name: "sleepers", run: latency::beside_sleepers },
    Measurement { name: "hostile-cpu", run: |effort| hostile::scripts("hostile-cpu", "cpu_", effort) },
    Measurement { name: "hostile-memory", run: |effort| hostile::scripts("hostile-memory", "memory_", effort) },
    Measurement { name: "hostile-work", run: |effort| hostile::scripts("hostile-work", "work_", effort) },
    Measurement { name: "hostile-native", run: |effort| hostile::scripts("hostile-native", "native_", effort) },
    Measurement { name: "hostile-escape", run: |effort| hostile::scripts("hostile-escape", "escape_", effort) },
    Measurement { name: "hostile-storage", run: |effort| hostile::scripts("hostile-storage", "storage_", effort) },
    Measurement { name: "slices-fib", run: slices::fib },
    Measurement { name: "slices-loop", run: slices::counting_loop },
    Measurement { name: "process-transport", run: process::transport },
    Measurement { name: "process-dispatch", run: process::dispatch },
    Measurement { name: "process-kills", run: process::kills },
    Measurement { name: "process-replace", run: process::replacements },
    Measurement { name: "expiry-sqlite", run: expiry::sqlite },
    Measurement { name: "expiry-postgres", run: expiry::postgres },
    Measurement { name: "replay", run: recorded::replay },
    // After all others: from then on, threads of this process record.
    Measurement { name: "process-recorder", run: process::recorder },
];

impl Measurement {
    /// The one of this name, or else those that have this in their name; if there are none, a message that lists all.
    pub fn named(part: &str) -> Result<Vec<Self>, String> {
        if let Some(exactly) = MEASUREMENTS.iter().find(|measurement| measurement.name == part) {
            return Ok(vec![*exactly]);
        }
        let found: Vec<_> =
            MEASUREMENTS.iter().copied().filter(|measurement| measurement.name.contains(part)).collect();
        if found.is_empty() {
            let all: Vec<_> = MEASUREMENTS.iter().map(|measurement| measurement.name).collect();
            return Err(format!("no row has this in its name; there are {}", all.join(", ")));
        }
        Ok(found)
    }

    /// Measures. Must not be called on a runtime: it makes its own.
    pub fn run(&self, effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
        (self.run)(effort)
    }
}

/// Measures memory, in the process that the measurement started for it.
pub fn run_memory(args: &MemoryArgs, output: &mut Output) -> Result<(), CommandError> {
    memory::measure_this_process(args, output)
}

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A worker did not handle an event.
    #[error("an event of the measurement was not handled")]
    Worker(#[from] WorkerError),
    /// A template failed.
    #[error("a template of the measurement failed")]
    Template(#[from] TemplateError),
    /// A template ended otherwise than it should.
    #[error("the measurement expected {expected}, and got {got}")]
    Unexpected {
        /// What should have come.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// The process that measures memory.
    #[error("the process that measures memory ({0}) did not tell its figures")]
    Process(String),
    /// The database server of the measurement.
    #[error("the server of the measurement does not run")]
    Server(#[source] std::io::Error),
    /// The system does not tell how much memory is resident.
    #[error("this system does not tell how much memory is resident")]
    NoMemoryFigures,
}

/// One line of the answer.
#[derive(Clone, Debug, Serialize)]
pub struct BenchRow {
    /// The measurement that it is of.
    pub name: &'static str,
    /// What is asked. Indented: a part of the row above, or one more figure of it.
    pub question: String,
    /// Of `measured` and of the floor's figure.
    pub unit: Unit,
    /// The answer: the median of the rounds, where there were rounds.
    pub measured: f64,
    /// What it is compared with.
    pub floor: Option<Beside>,
    /// How often the floor fits in what was measured: the median of the rounds' ratios, where there were rounds.
    pub ratio: Option<f64>,
    /// The middle half of the rounds: of their ratios, or without a floor of what was measured.
    pub spread: Option<[f64; 2]>,
    /// What should not be passed.
    pub bar: Option<Bar>,
}

/// What a figure is compared with.
#[derive(Clone, Debug, Serialize)]
pub struct Beside {
    /// What it is.
    pub what: &'static str,
    /// Its figure, in the unit of the row.
    pub value: f64,
}

/// What should not be passed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "of", content = "at_most", rename_all = "snake_case")]
pub enum Bar {
    /// By the ratio.
    Ratio(f64),
    /// By what was measured, in its unit.
    Measured(f64),
}

/// What figures are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// Nanoseconds.
    #[serde(rename = "ns")]
    Nanoseconds,
    /// Microseconds.
    #[serde(rename = "µs")]
    Microseconds,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Thousands of bytes.
    #[serde(rename = "KB")]
    Kilobytes,
    /// 2³⁰ bytes.
    #[serde(rename = "GiB")]
    Gibibytes,
    /// VMs.
    #[serde(rename = "VMs")]
    Vms,
    /// Events.
    #[serde(rename = "events")]
    Events,
    /// Tenants.
    #[serde(rename = "tenants")]
    Tenants,
}

impl Unit {
    fn as_str(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Microseconds => "µs",
            Self::Milliseconds => "ms",
            Self::Kilobytes => "KB",
            Self::Gibibytes => "GiB",
            Self::Vms => "VMs",
            Self::Events => "events",
            Self::Tenants => "tenants",
        }
    }

    fn figure(self, value: f64) -> String {
        let number = match value.abs() {
            _ if matches!(self, Self::Vms | Self::Events | Self::Tenants) => HumanCount(value as u64).to_string(),
            ..10.0 => format!("{value:.2}"),
            ..1_000.0 => format!("{value:.1}"),
            _ => HumanCount(value.max(0.0) as u64).to_string(),
        };
        format!("{number} {}", self.as_str())
    }
}

impl BenchRow {
    /// A figure alone.
    fn alone(name: &'static str, question: impl Into<String>, unit: Unit, measured: f64) -> Self {
        Self { name, question: question.into(), unit, measured, floor: None, ratio: None, spread: None, bar: None }
    }

    /// The same beside a floor.
    fn beside(self, what: &'static str, value: f64) -> Self {
        Self { floor: Some(Beside { what, value }), ratio: Some(self.measured / value), ..self }
    }

    fn with_bar(self, bar: Bar) -> Self {
        Self { bar: Some(bar), ..self }
    }

    /// As a line of the table.
    fn cells(&self) -> [String; 6] {
        let ratio = |ratio: f64| format!("{ratio:.2} ×");
        [
            self.question.clone(),
            self.unit.figure(self.measured),
            self.floor
                .as_ref()
                .map(|floor| format!("{} {}", self.unit.figure(floor.value), floor.what))
                .unwrap_or_default(),
            self.ratio.map(ratio).unwrap_or_default(),
            match (self.spread, self.ratio) {
                (Some([low, high]), Some(_)) => format!("{low:.2} – {high:.2} ×"),
                (Some([low, high]), None) => format!("{} – {}", self.unit.figure(low), self.unit.figure(high)),
                (None, _) => String::new(),
            },
            match self.bar {
                Some(Bar::Ratio(bar)) => format!("≤ {}", ratio(bar)),
                Some(Bar::Measured(bar)) => format!("≤ {}", self.unit.figure(bar)),
                None => String::new(),
            },
        ]
    }
}

/// The rows for people.
pub fn table(rows: &[BenchRow]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_BORDERS_ONLY)
        .set_header(["question", "measured", "floor", "ratio", "spread", "bar"]);
    table.add_rows(rows.iter().map(BenchRow::cells));
    for column in [1, 3, 4, 5] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_its_floor_and_its_bar_beside_it() {
        let row = BenchRow::alone("quick", "How quick?", Unit::Microseconds, 13.0)
            .beside("bare Luau", 10.0)
            .with_bar(Bar::Ratio(1.35));
        assert_eq!(row.cells(), ["How quick?", "13.0 µs", "10.0 µs bare Luau", "1.30 ×", "", "≤ 1.35 ×"]);
        let json = serde_json::to_value(&row).unwrap();
        assert_eq!(json["ratio"], 1.3);
        assert_eq!(json["unit"], "µs");
        assert_eq!(json["bar"], serde_json::json!({"of": "ratio", "at_most": 1.35}));
    }

    #[test]
    fn figures_have_the_digits_that_matter() {
        assert_eq!(Unit::Nanoseconds.figure(123.456), "123.5 ns");
        assert_eq!(Unit::Gibibytes.figure(1.2), "1.20 GiB");
        assert_eq!(Unit::Vms.figure(5.0), "5 VMs");
        assert_eq!(Unit::Microseconds.figure(12_345.6), "12,345 µs");
        assert_eq!(Unit::Kilobytes.figure(-12.34), "-12.3 KB");
    }

    #[test]
    fn names_are_distinct_and_found_by_a_part() {
        let names: std::collections::HashSet<_> = MEASUREMENTS.iter().map(|measurement| measurement.name).collect();
        assert_eq!(names.len(), MEASUREMENTS.len());
        let found = |part| Measurement::named(part).map(|found| found.len());
        assert_eq!((found("thread-"), found("dispatch-1"), found("")), (Ok(3), Ok(1), Ok(MEASUREMENTS.len())));
        assert!(found("nonsense").unwrap_err().contains("expiry-postgres, replay"));
    }
}
