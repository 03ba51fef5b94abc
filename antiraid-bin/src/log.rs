//! This program's own log: to stderr, with the fields `tenant`, `worker`, `event` and `template`. The logs of tenants are
//! elsewhere, in the worker.

use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;

use indicatif::MultiProgress;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};
use worker_process::LogLines;

/// Starts logging, and logs panics. Lines go above the progress bars, which they would tear apart otherwise. To be called
/// once, before any worker starts: those put a hook of their own before this one, to see the panics of their threads.
/// Later calls change nothing.
pub fn start(filter: EnvFilter, bars: &MultiProgress) {
    let bars = bars.clone();
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_writer(move || AboveBars(bars.clone()))
        .try_init();
    if started.is_ok() {
        std::panic::set_hook(Box::new(log_panic));
    }
}

/// The same in a worker process: the lines are also kept for the parent, who may ask for them.
pub fn start_in_worker(filter: EnvFilter, lines: LogLines) {
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(move || Kept(lines.clone()))
        .try_init();
    if started.is_ok() {
        std::panic::set_hook(Box::new(log_panic));
    }
}

struct Kept(LogLines);

impl Write for Kept {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(String::from_utf8_lossy(line).trim_end());
        io::stderr().write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Logs, and has the thread that says that it is at this step say so on stderr and then stand still for ever: for tests that
/// kill the program at a certain step of its work. Steps are what is told to the target `step`.
pub fn start_halting(filter: EnvFilter, step: String) {
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_filter(filter);
    let _ = tracing_subscriber::registry().with(lines).with(HaltAt(step)).try_init();
}

struct HaltAt(String);

impl<S: Subscriber> Layer<S> for HaltAt {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "step" {
            event.record(&mut HaltVisit(&self.0));
        }
    }
}

struct HaltVisit<'a>(&'a str);

impl Visit for HaltVisit<'_> {
    fn record_str(&mut self, _: &Field, value: &str) {
        if value == self.0 {
            crate::output::complain(format_args!("halted at {value}"));
            loop {
                std::thread::park();
            }
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let message = panic.payload_as_str().unwrap_or("a payload that is no text");
    let at = panic.location().map(ToString::to_string);
    tracing::error!(thread = thread.name(), at, "panic: {message}");
}

struct AboveBars(MultiProgress);

impl Write for AboveBars {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
