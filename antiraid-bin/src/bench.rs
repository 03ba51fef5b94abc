//! The headline measurements, each as a ratio to the floor: the bare Luau C API doing the same work in the same run.

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct BenchRow {
    /// What is asked, for example "one event, 100 tenants, through a thread".
    pub question: &'static str,
    /// Microseconds an event.
    pub measured_us: f64,
    /// Microseconds of the floor.
    pub floor_us: f64,
    /// How often the floor fits in what was measured.
    pub ratio: f64,
    /// The ratio that must not be passed.
    pub bar: f64,
}

impl BenchRow {
    /// A measurement beside its floor.
    pub fn new(question: &'static str, measured_us: f64, floor_us: f64, bar: f64) -> Self {
        Self { question, measured_us, floor_us, ratio: measured_us / floor_us, bar }
    }

    /// Whether the bar was kept.
    pub fn holds(&self) -> bool {
        self.ratio <= self.bar
    }
}

/// The rows for people.
pub fn table(rows: &[BenchRow]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY).set_header(["question", "measured", "floor", "ratio", "bar", ""]);
    for row in rows {
        table.add_row([
            row.question.to_owned(),
            format!("{:.2} µs", row.measured_us),
            format!("{:.2} µs", row.floor_us),
            format!("{:.2} ×", row.ratio),
            format!("{:.2} ×", row.bar),
            (if row.holds() { "ok" } else { "above" }).to_owned(),
        ]);
    }
    for column in 1..5 {
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
    fn a_row_above_its_bar_says_so() {
        let rows = [BenchRow::new("quick", 13.0, 10.0, 1.35), BenchRow::new("slow", 20.0, 10.0, 1.35)];
        let lines: Vec<_> = table(&rows).lines().map(|line| line.to_owned()).collect();
        assert!(lines.iter().any(|line| line.contains("quick") && line.contains("ok")));
        assert!(lines.iter().any(|line| line.contains("slow") && line.contains("2.00 ×") && line.contains("above")));
        let json = serde_json::to_value(&rows[1]).unwrap();
        assert_eq!(json["ratio"], 2.0);
    }
}
