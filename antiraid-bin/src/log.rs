//! This program's own log: to stderr, with the fields `tenant`, `worker`, `event` and `template`. The logs of tenants are
//! elsewhere, in the worker.

use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;

use indicatif::MultiProgress;
use tracing_subscriber::EnvFilter;
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
