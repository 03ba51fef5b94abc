//! What a replay found out, as tables for people or as one JSON document.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;
use worker_core::{SourceLine, TemplateError, TemplateName, WorkerError, WorkerStats};

use crate::recording::Skipped;

/// Different errors that are told apart; texts with changing parts (ids, times) would otherwise grow without bound.
const ERRORS_MAX: usize = 1_000;
/// Errors that the table shows.
const ERRORS_SHOWN: usize = 20;
/// Characters of an error's text that the table shows.
const ERROR_SHOWN_CHARS: usize = 200;

/// Counts as the replay goes on.
#[derive(Debug)]
pub struct Tally {
    /// What was not delivered, by reason.
    pub skipped: Skipped,
    /// Events that were handed to the workers and answered or refused for good.
    pub delivered: u64,
    /// Of those, events that at least one template ran for.
    pub dispatched: u64,
    /// Runs of templates that returned.
    pub results: u64,
    /// Times that a full queue put an event off.
    pub retries: u64,
    /// Events that were given up when the replay was interrupted.
    pub unfinished: u64,
    failed: u64,
    errors: HashMap<ErrorKey, u64>,
    errors_not_told_apart: u64,
    worker_errors: BTreeMap<String, u64>,
    latency: Histogram<u64>,
}

#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct ErrorKey {
    template: TemplateName,
    at: Option<SourceLine>,
    message: String,
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            skipped: Skipped::default(),
            delivered: 0,
            dispatched: 0,
            results: 0,
            retries: 0,
            unfinished: 0,
            failed: 0,
            errors: HashMap::new(),
            errors_not_told_apart: 0,
            worker_errors: BTreeMap::new(),
            // 3 digits of 1 ns to an hour: 150 KB.
            latency: Histogram::new_with_max(3_600_000_000_000, 3)
                .expect("because the bounds and the precision are within the crate's"),
        }
    }

    /// An event was answered after so long.
    pub fn took(&mut self, latency: Duration) {
        self.latency.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// A template failed.
    pub fn failed(&mut self, template: &TemplateName, error: &TemplateError) {
        self.failed += 1;
        let key = ErrorKey { template: template.clone(), at: error.at.clone(), message: error.text.to_string() };
        if self.errors.len() < ERRORS_MAX || self.errors.contains_key(&key) {
            *self.errors.entry(key).or_default() += 1;
        } else {
            self.errors_not_told_apart += 1;
        }
    }

    /// The workers could not run an event.
    pub fn lost(&mut self, error: &WorkerError) {
        // By kind: the words around it may name the tenant.
        *self.worker_errors.entry(error.kind().to_string()).or_default() += 1;
    }

    /// The report at the end.
    pub fn report(self, run: Run) -> Report {
        let mut errors: Vec<_> = self
            .errors
            .into_iter()
            .map(|(key, count)| ErrorRow {
                template: key.template,
                at: key.at.map(|at| at.to_string()),
                count,
                message: key.message,
            })
            .collect();
        errors.sort_by(|a, b| {
            b.count.cmp(&a.count).then_with(|| (&a.template, &a.message).cmp(&(&b.template, &b.message)))
        });
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let seconds = run.elapsed.as_secs_f64();
        Report {
            interrupted: run.interrupted,
            events: Events {
                read: self.skipped.total() + self.delivered + self.unfinished,
                skipped: self.skipped.iter().map(|(reason, count)| (reason.as_str(), count)).collect(),
                delivered: self.delivered,
                dispatched: self.dispatched,
                put_off: self.retries,
                unfinished: self.unfinished,
                lost: self.worker_errors,
            },
            results: self.results,
            failed: self.failed,
            errors,
            errors_not_told_apart: self.errors_not_told_apart,
            seconds,
            events_per_second: if seconds > 0.0 { self.delivered as f64 / seconds } else { 0.0 },
            latency_us: Latency {
                p50: micros(self.latency.value_at_quantile(0.50)),
                p90: micros(self.latency.value_at_quantile(0.90)),
                p99: micros(self.latency.value_at_quantile(0.99)),
                max: micros(self.latency.max()),
            },
            workers: run.workers,
            tenants: run.tenants,
            templates_loaded: run.templates_loaded,
            vms: Vms { made: run.stats.vms_made, evicted: run.stats.vms_evicted, broken: run.stats.vms_broken },
            worker_restarts: run.stats.restarts,
            memory_peak_bytes: peak_memory_bytes(),
        }
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

/// What the replay knows beside its [`Tally`].
#[derive(Debug)]
pub struct Run {
    /// Whether it was ended early.
    pub interrupted: bool,
    /// From the first event to the last answer.
    pub elapsed: Duration,
    /// Worker threads.
    pub workers: usize,
    /// Tenants that appeared.
    pub tenants: usize,
    /// Templates that were put into the store, once for each tenant.
    pub templates_loaded: u64,
    /// The workers' own figures.
    pub stats: WorkerStats,
}

/// A finished replay.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether it was ended early.
    pub interrupted: bool,
    /// What became of the events.
    pub events: Events,
    /// Runs of templates that returned.
    pub results: u64,
    /// Runs of templates that failed.
    pub failed: u64,
    /// How they failed, the most frequent first.
    pub errors: Vec<ErrorRow>,
    /// Failures beyond the number of different errors that is kept.
    pub errors_not_told_apart: u64,
    /// From the first event to the last answer.
    pub seconds: f64,
    /// Delivered events in a second.
    pub events_per_second: f64,
    /// How long answers took, in microseconds.
    pub latency_us: Latency,
    /// Worker threads.
    pub workers: usize,
    /// Tenants that appeared.
    pub tenants: usize,
    /// Templates that were put into the store, once for each tenant.
    pub templates_loaded: u64,
    /// The workers' VMs.
    pub vms: Vms,
    /// Workers that panicked and were started again.
    pub worker_restarts: u64,
    /// The most memory that the process had resident, where the system tells.
    pub memory_peak_bytes: Option<u64>,
}

/// What became of the events.
#[derive(Debug, Serialize)]
pub struct Events {
    /// Frames read.
    pub read: u64,
    /// Not delivered, by reason.
    pub skipped: BTreeMap<&'static str, u64>,
    /// Handed to the workers.
    pub delivered: u64,
    /// Of those, events that at least one template ran for.
    pub dispatched: u64,
    /// Times that a full queue put an event off.
    pub put_off: u64,
    /// Given up when the replay was interrupted.
    pub unfinished: u64,
    /// Not run because of a fault of the workers, by kind.
    pub lost: BTreeMap<String, u64>,
}

/// One way in which a template failed.
#[derive(Debug, Serialize)]
pub struct ErrorRow {
    /// The template.
    pub template: TemplateName,
    /// File and line, where that is known.
    pub at: Option<String>,
    /// How often.
    pub count: u64,
    /// The error's text.
    pub message: String,
}

/// Percentiles, in microseconds.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// Half were quicker.
    pub p50: f64,
    /// Nine of ten were quicker.
    pub p90: f64,
    /// Ninety-nine of a hundred were quicker.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

/// Figures of VMs.
#[derive(Debug, Serialize)]
pub struct Vms {
    /// Made.
    pub made: u64,
    /// Dropped because they were idle or memory was needed.
    pub evicted: u64,
    /// Replaced because they broke.
    pub broken: u64,
}

impl Report {
    /// The report for people.
    pub fn tables(&self) -> String {
        let mut text = self.summary().to_string();
        if !self.errors.is_empty() {
            text += &format!("\n\n{}", self.error_table());
            let hidden = self.failed - self.errors.iter().take(ERRORS_SHOWN).map(|row| row.count).sum::<u64>();
            if hidden > 0 {
                text += &format!("\n… and {} more; --json lists more of them", HumanCount(hidden));
            }
        }
        text
    }

    fn summary(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        let mut row = |label: &str, value: String| {
            table.add_row([label.to_owned(), value]);
        };
        let count = |n: u64| HumanCount(n).to_string();
        if self.interrupted {
            row("interrupted", format!("{} events were not waited for", count(self.events.unfinished)));
        }
        row("frames read", count(self.events.read));
        for (reason, skipped) in self.events.skipped.iter().filter(|(_, skipped)| **skipped > 0) {
            row("  skipped", format!("{} {reason}", count(*skipped)));
        }
        row("events delivered", count(self.events.delivered));
        row("  to a template", count(self.events.dispatched));
        for (kind, lost) in &self.events.lost {
            row("  lost", format!("{} {kind}", count(*lost)));
        }
        if self.events.put_off > 0 {
            row("  put off", format!("{} times by a full queue", count(self.events.put_off)));
        }
        row("results", count(self.results));
        row("errors", count(self.failed));
        row("time", format!("{:.2} s, {} events/s", self.seconds, count(self.events_per_second as u64)));
        let Latency { p50, p90, p99, max } = self.latency_us;
        let [p50, p90, p99, max] = [p50, p90, p99, max].map(duration);
        row("latency", format!("p50 {p50}, p90 {p90}, p99 {p99}, max {max}"));
        row("tenants", format!("{} on {} worker threads", count(self.tenants as u64), self.workers));
        let Vms { made, evicted, broken } = self.vms;
        row("VMs", format!("{} made, {} evicted, {} broken", count(made), count(evicted), count(broken)));
        if self.worker_restarts > 0 {
            row("restarts", format!("{} of a worker that panicked", count(self.worker_restarts)));
        }
        if let Some(bytes) = self.memory_peak_bytes {
            row("peak memory", HumanBytes(bytes).to_string());
        }
        table
    }

    fn error_table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY).set_header(["template", "where", "count", "error"]);
        for row in self.errors.iter().take(ERRORS_SHOWN) {
            let mut message: String = row.message.chars().take(ERROR_SHOWN_CHARS).collect();
            if message.len() < row.message.len() {
                message.push('…');
            }
            let at = row.at.as_deref().unwrap_or("");
            table.add_row([row.template.as_str(), at, &HumanCount(row.count).to_string(), &message]);
        }
        if let Some(counts) = table.column_mut(2) {
            counts.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

/// Microseconds in the unit that suits them.
fn duration(micros: f64) -> String {
    match micros {
        ..1e3 => format!("{micros:.1} µs"),
        ..1e6 => format!("{:.2} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

/// The most memory that this process had resident, from Linux's `/proc/self/status`.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use worker_core::WorkerErrorKind;

    use super::*;

    fn run() -> Run {
        Run {
            interrupted: false,
            elapsed: Duration::from_secs(2),
            workers: 1,
            tenants: 3,
            templates_loaded: 3,
            stats: WorkerStats::default(),
        }
    }

    #[test]
    fn errors_are_counted_by_template_place_and_text() {
        let mut tally = Tally::new();
        let template = TemplateName::new("raid").unwrap();
        let at = SourceLine { path: "/init.luau".into(), line: 7 };
        for text in ["a", "b", "b"] {
            tally.failed(&template, &TemplateError { at: Some(at.clone()), ..TemplateError::new(text) });
        }
        let report = tally.report(run());
        assert_eq!(
            report.errors.iter().map(|row| (&*row.message, row.count)).collect::<Vec<_>>(),
            [("b", 2), ("a", 1)]
        );
        let tables = report.tables();
        assert!(tables.contains("/init.luau:7"), "{tables}");
    }

    #[test]
    fn errors_do_not_grow_without_bound() {
        let mut tally = Tally::new();
        let template = TemplateName::new("raid").unwrap();
        for i in 0..ERRORS_MAX + 5 {
            tally.failed(&template, &TemplateError::new(format!("error {i}")));
        }
        tally.failed(&template, &TemplateError::new("error 0"));
        let report = tally.report(run());
        assert_eq!((report.errors.len(), report.errors_not_told_apart), (ERRORS_MAX, 5));
        assert_eq!(report.failed, ERRORS_MAX as u64 + 6);
        assert!(report.tables().contains("… and "));
    }

    #[test]
    fn percentiles_and_rates() {
        let mut tally = Tally::new();
        for micros in 1..=1_000 {
            tally.took(Duration::from_micros(micros));
            tally.delivered += 1;
        }
        tally.lost(&WorkerError::new(WorkerErrorKind::WorkerGone, "x"));
        let report = tally.report(run());
        assert_eq!(report.events_per_second, 500.0);
        assert!((report.latency_us.p50 - 500.0).abs() < 1.0, "{}", report.latency_us.p50);
        assert!((report.latency_us.max - 1_000.0).abs() < 1.0);
        assert_eq!(report.events.lost["worker gone"], 1);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_of_memory_is_known() {
        assert!(peak_memory_bytes().unwrap() > 1 << 20);
    }
}
