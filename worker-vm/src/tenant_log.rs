//! The log of a tenant: what its templates print, and how they fail.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use worker_core::{EventName, Limits, TemplateName};

/// A ring of lines: when it is full, the oldest line goes.
#[derive(Debug)]
pub struct TenantLog {
    lines: RefCell<VecDeque<LogLine>>,
    bytes: Cell<usize>,
    dropped: Cell<u64>,
    lines_max: usize,
    line_bytes_max: usize,
}

/// One line of a tenant's log.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogLine {
    /// When it was written.
    pub at: Timestamp,
    /// What wrote it.
    pub kind: LogKind,
    /// The template, where there is one.
    pub template: Option<TemplateName>,
    /// The event that was being handled, where there was one.
    pub event: Option<EventName>,
    /// The text, cut to the limit.
    pub text: Arc<str>,
}

/// What a line of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogKind {
    /// Written by `print`.
    Print,
    /// A template failed, or could not be loaded.
    Error,
}

impl TenantLog {
    /// An empty log.
    pub fn new(limits: &Limits) -> Self {
        Self {
            lines: RefCell::default(),
            bytes: Cell::new(0),
            dropped: Cell::new(0),
            lines_max: limits.log_lines_max.max(1),
            line_bytes_max: limits.log_line_bytes_max,
        }
    }

    /// Adds a line.
    pub fn push(&self, kind: LogKind, template: Option<TemplateName>, event: Option<EventName>, text: &str) {
        let mut end = text.len().min(self.line_bytes_max);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut lines = self.lines.borrow_mut();
        if lines.len() >= self.lines_max {
            self.forget_oldest(&mut lines);
        }
        self.bytes.set(self.bytes.get() + end);
        lines.push_back(LogLine { at: Timestamp::now(), kind, template, event, text: text[..end].into() });
    }

    /// The lines, oldest first.
    pub fn lines(&self) -> Vec<LogLine> {
        self.lines.borrow().iter().cloned().collect()
    }

    /// Lines that went because the log was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.lines.borrow().is_empty()
    }

    /// Bytes of text held.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Halves the log, oldest lines first: for a worker whose logs are too large together.
    pub(crate) fn halve(&self) {
        let mut lines = self.lines.borrow_mut();
        for _ in 0..lines.len().div_ceil(2) {
            self.forget_oldest(&mut lines);
        }
    }

    fn forget_oldest(&self, lines: &mut VecDeque<LogLine>) {
        if let Some(line) = lines.pop_front() {
            self.bytes.set(self.bytes.get() - line.text.len());
            self.dropped.set(self.dropped.get() + 1);
        }
    }
}
