//! What a replay found out, as tables for people or as one JSON document.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;
use worker_core::{SourceLine, TemplateError, TemplateName, Value, WorkerError, WorkerStats};

use crate::recording::Skipped;

/// Different errors that are told apart; texts with changing parts (ids, times) would otherwise grow without bound.
const ERRORS_MAX: usize = 1_000;
/// Errors that the table shows.
const ERRORS_SHOWN: usize = 20;
/// Templates that the table shows.
const TEMPLATES_SHOWN: usize = 30;
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
    /// Times that a full queue put an event off.
    pub retries: u64,
    /// Events that were given up when the replay was interrupted.
    pub unfinished: u64,
    templates: HashMap<TemplateName, Runs>,
    errors: HashMap<ErrorKey, u64>,
    errors_not_told_apart: u64,
    worker_errors: BTreeMap<String, u64>,
    latency: Histogram<u64>,
}

/// What came of the runs of one template.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Runs {
    /// Returned something.
    pub values: u64,
    /// Returned nothing.
    pub nothing: u64,
    /// Failed.
    pub failed: u64,
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
            retries: 0,
            unfinished: 0,
            templates: HashMap::new(),
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

    /// A template returned.
    pub fn returned(&mut self, template: &TemplateName, value: &Value) {
        let runs = self.runs(template);
        match value {
            Value::Null => runs.nothing += 1,
            _ => runs.values += 1,
        }
    }

    /// A template failed.
    pub fn failed(&mut self, template: &TemplateName, error: &TemplateError) {
        self.runs(template).failed += 1;
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

    fn runs(&mut self, template: &TemplateName) -> &mut Runs {
        // Not by `entry`, which wants a clone of the name for each look.
        if !self.templates.contains_key(template) {
            self.templates.insert(template.clone(), Runs::default());
        }
        self.templates.get_mut(template).expect("because it was put in if it was not there")
    }

    /// Runs of templates that returned.
    pub fn results(&self) -> u64 {
        self.templates.values().map(|runs| runs.values + runs.nothing).sum()
    }

    /// Runs of templates that failed.
    pub fn failures(&self) -> u64 {
        self.templates.values().map(|runs| runs.failed).sum()
    }

    /// The report at the end.
    pub fn report(self, run: Run<'_>) -> Report {
        let (results, failed) = (self.results(), self.failures());
        let mut errors: Vec<_> = self
            .errors
            .into_iter()
            .map(|(key, count)| ErrorRow {
                source: key
                    .at
                    .as_ref()
                    .and_then(|at| Some(format!("{}:{}", (run.locate)(&key.template, at)?, at.line))),
                template: key.template,
                at: key.at.map(|at| at.to_string()),
                count,
                message: key.message,
            })
            .collect();
        errors.sort_by(|a, b| {
            b.count.cmp(&a.count).then_with(|| (&a.template, &a.message).cmp(&(&b.template, &b.message)))
        });
        let mut templates: Vec<_> =
            self.templates.into_iter().map(|(template, runs)| TemplateRow { template, runs }).collect();
        templates.sort_by(|a, b| a.template.cmp(&b.template));
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
            results,
            failed,
            threads_failed: run.stats.threads_failed,
            templates,
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
            in_flight_max: run.in_flight_max,
            tenants: run.tenants,
            templates_loaded: run.templates_loaded,
            vms: Vms {
                made: run.stats.vms_made,
                evicted: run.stats.vms_evicted,
                broken: run.stats.vms_broken,
                live: run.stats.vms_live,
                memory_bytes: run.stats.vm_memory_bytes,
            },
            background: run.background,
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
pub struct Run<'a> {
    /// Whether it was ended early.
    pub interrupted: bool,
    /// From the first event to the last answer.
    pub elapsed: Duration,
    /// Worker threads.
    pub workers: usize,
    /// Events that were in flight at most.
    pub in_flight_max: usize,
    /// Tenants that appeared.
    pub tenants: usize,
    /// Templates that were put into the store, once for each tenant.
    pub templates_loaded: u64,
    /// The workers' own figures.
    pub stats: WorkerStats,
    /// What was waited for after the last answer.
    pub background: Background,
    /// The file on disk that a line of a template is in, where that is known.
    pub locate: &'a dyn Fn(&TemplateName, &SourceLine) -> Option<String>,
}

/// What was waited for after the last answer: threads that templates left running.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Background {
    /// For how long.
    pub seconds: f64,
    /// Whether all had ended then; else they were cut off.
    pub finished: bool,
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
    /// Threads that templates had spawned, or left running, and that failed before the last answer came.
    pub threads_failed: u64,
    /// The same by template, in the order of their names.
    pub templates: Vec<TemplateRow>,
    /// How they failed, the most frequent first.
    pub errors: Vec<ErrorRow>,
    /// Failures beyond the number of different errors that is kept.
    pub errors_not_told_apart: u64,
    /// From the first event's submission to the last answer.
    pub seconds: f64,
    /// Delivered events in a second of that time.
    pub events_per_second: f64,
    /// How long answers took, each from the event's submission, in microseconds; with up to `in_flight_max` in flight.
    pub latency_us: Latency,
    /// Worker threads.
    pub workers: usize,
    /// Events that were in flight at most.
    pub in_flight_max: usize,
    /// Tenants that appeared.
    pub tenants: usize,
    /// Templates that were put into the store, once for each tenant.
    pub templates_loaded: u64,
    /// The workers' VMs.
    pub vms: Vms,
    /// What was waited for after the last answer.
    pub background: Background,
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

/// What came of the runs of one template.
#[derive(Debug, Serialize)]
pub struct TemplateRow {
    /// The template.
    pub template: TemplateName,
    /// What came of its runs.
    #[serde(flatten)]
    pub runs: Runs,
}

/// One way in which a template failed.
#[derive(Debug, Serialize)]
pub struct ErrorRow {
    /// The template.
    pub template: TemplateName,
    /// File and line as the template sees them, where that is known.
    pub at: Option<String>,
    /// File and line on disk, where the template came from there.
    pub source: Option<String>,
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
    /// Alive after the last event.
    pub live: u64,
    /// Luau memory of those, in bytes.
    pub memory_bytes: u64,
}

impl Report {
    /// The report for people.
    pub fn tables(&self) -> String {
        let mut text = trimmed(&self.summary());
        if !self.templates.is_empty() {
            text += &format!("\n\n{}", self.template_table());
            if self.templates.len() > TEMPLATES_SHOWN {
                let hidden = self.templates.len() - TEMPLATES_SHOWN;
                text += &format!("\n… and {} more; --json lists all", HumanCount(hidden as u64));
            }
        }
        if !self.errors.is_empty() {
            text += &format!("\n\n{}", self.error_table());
            let hidden = self.failed - self.errors.iter().take(ERRORS_SHOWN).map(|row| row.count).sum::<u64>();
            if hidden > 0 {
                text += &format!("\n… and {} more; --json lists more of them", HumanCount(hidden));
            }
        }
        text
    }

    /// What it is about, the figure, what the figure means.
    fn summary(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        let mut row = |label: &str, figure: String, meaning: String| {
            table.add_row([label.to_owned(), figure, meaning]);
        };
        let count = |n: u64| HumanCount(n).to_string();
        let events = &self.events;
        row("frames read", count(events.read), String::new());
        for (reason, &skipped) in events.skipped.iter().filter(|(_, skipped)| **skipped > 0) {
            row("  skipped", count(skipped), (*reason).to_owned());
        }
        if self.interrupted {
            row(
                "  given up",
                count(events.unfinished),
                "the replay was interrupted; what was not read is not counted".into(),
            );
        }
        row("events delivered", count(events.delivered), format!("to {}", counted(self.tenants, "tenant")));
        row("  run", count(events.dispatched), "had a template that wants them".into());
        for (kind, &lost) in &events.lost {
            row("  lost", count(lost), format!("by a fault of the workers: {kind}"));
        }
        if events.put_off > 0 {
            row("  put off", count(events.put_off), "times, by a full queue; sent again".into());
        }
        row("results", count(self.results), "runs of templates that returned".into());
        row("errors", count(self.failed), "runs of templates that failed".into());
        if self.threads_failed > 0 {
            let meaning = "threads that templates spawned or left running, and that failed";
            row("  in the background", count(self.threads_failed), meaning.into());
        }

        let workers = counted(self.workers, "worker thread");
        let in_flight = format!("up to {} events in flight", count(self.in_flight_max as u64));
        row(
            "time",
            duration(self.seconds * 1e6),
            format!("from the first submit to the last reply; {workers}, {in_flight}"),
        );
        row("  events/s", count(self.events_per_second as u64), "delivered in that time".into());
        let Latency { p50, p90, p99, max } = self.latency_us;
        row(
            "  latency p50",
            duration(p50),
            "of an event, from submit to reply, its wait among those in flight included".into(),
        );
        for (label, latency) in [("p90", p90), ("p99", p99), ("max", max)] {
            row(&format!("          {label}"), duration(latency), String::new());
        }
        let Background { seconds, finished } = self.background;
        let meaning = if finished {
            "until what templates had left running was done"
        } else {
            "then what templates had left running was cut off"
        };
        row("  background", duration(seconds * 1e6), meaning.into());

        let Vms { made, evicted, broken, live, memory_bytes } = self.vms;
        row(
            "VMs made",
            count(made),
            format!("one a tenant that ran something; {} evicted, {} broken", count(evicted), count(broken)),
        );
        row(
            "  alive at the end",
            count(live),
            format!("with {} set aside by Luau, whether used yet or not", HumanBytes(memory_bytes)),
        );
        if self.worker_restarts > 0 {
            row("restarts", count(self.worker_restarts), "of workers that panicked".into());
        }
        if let Some(bytes) = self.memory_peak_bytes {
            row("peak memory", HumanBytes(bytes).to_string(), "resident, of the whole process".into());
        }
        align_right(&mut table, 1..2);
        table
    }

    fn template_table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY);
        table.set_header(["template", "runs", "returned a value", "returned nothing", "failed"]);
        for TemplateRow { template, runs: Runs { values, nothing, failed } } in
            self.templates.iter().take(TEMPLATES_SHOWN)
        {
            let figures = [values + nothing + failed, *values, *nothing, *failed].map(|n| HumanCount(n).to_string());
            table.add_row(std::iter::once(template.to_string()).chain(figures));
        }
        align_right(&mut table, 1..5);
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
            let at = row.source.as_deref().or(row.at.as_deref()).unwrap_or("");
            table.add_row([row.template.as_str(), at, &HumanCount(row.count).to_string(), &message]);
        }
        align_right(&mut table, 2..3);
        table
    }
}

/// "1 tenant", "2 tenants".
fn counted(n: usize, what: &str) -> String {
    format!("{} {what}{}", HumanCount(n as u64), if n == 1 { "" } else { "s" })
}

fn align_right(table: &mut Table, columns: std::ops::Range<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// The table without the blanks at the ends of its lines.
fn trimmed(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
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
    memory_bytes("VmHWM:")
}

/// The memory that this process has resident now, from the same file.
pub fn resident_memory_bytes() -> Option<u64> {
    memory_bytes("VmRSS:")
}

fn memory_bytes(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use worker_core::WorkerErrorKind;

    use super::*;

    fn run() -> Run<'static> {
        Run {
            interrupted: false,
            elapsed: Duration::from_secs(2),
            workers: 1,
            in_flight_max: 64,
            tenants: 3,
            templates_loaded: 3,
            stats: WorkerStats::default(),
            background: Background { seconds: 0.1, finished: true },
            locate: &|template, at| Some(format!("dir/{template}{}", at.path)),
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
        assert!(tables.contains(" dir/raid/init.luau:7 "), "{tables}");
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
    fn runs_are_counted_by_template() {
        let mut tally = Tally::new();
        let [a, b] = ["a", "b"].map(|name| TemplateName::new(name).unwrap());
        tally.returned(&b, &Value::Null);
        tally.returned(&a, &Value::Boolean(false));
        tally.returned(&a, &Value::Null);
        tally.failed(&a, &TemplateError::new("x"));
        let report = tally.report(run());
        assert_eq!((report.results, report.failed), (3, 1));
        let rows: Vec<_> = report
            .templates
            .iter()
            .map(|row| (row.template.as_str(), row.runs.values, row.runs.nothing, row.runs.failed))
            .collect();
        assert_eq!(rows, [("a", 1, 1, 1), ("b", 0, 1, 0)]);
        assert!(report.tables().contains("returned nothing"));
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
        let resident = resident_memory_bytes().unwrap();
        assert!(resident > 1 << 20 && peak_memory_bytes().unwrap() >= resident);
    }
}
