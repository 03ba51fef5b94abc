//! Two things measured by turns.

use std::time::{Duration, Instant};

use super::{BenchRow, Unit};
use crate::cli::CommandError;

/// Figures of rounds, in nanoseconds.
pub(super) struct Rounds {
    pub(super) ours: Vec<f64>,
    pub(super) floor: Vec<f64>,
}

/// Measures both sides by turns, so many rounds. Who is first changes with each round. Each side tells the nanoseconds of
/// one piece of its work.
pub(super) fn by_turns(
    rounds: usize,
    mut floor: impl FnMut() -> Result<f64, CommandError>,
    mut ours: impl FnMut() -> Result<f64, CommandError>,
) -> Result<Rounds, CommandError> {
    let mut all = Rounds { ours: Vec::new(), floor: Vec::new() };
    for round in 0..rounds {
        if round % 2 == 0 {
            all.floor.push(floor()?);
        }
        all.ours.push(ours()?);
        if round % 2 == 1 {
            all.floor.push(floor()?);
        }
    }
    Ok(all)
}

impl Rounds {
    /// The row for these rounds.
    pub(super) fn row(&self, name: &'static str, question: impl Into<String>, floor_is: &'static str) -> BenchRow {
        let ratios: Vec<_> = self.ours.iter().zip(&self.floor).map(|(ours, floor)| ours / floor).collect();
        let microseconds = |rounds: &[f64]| quantile(rounds, 0.5) / 1e3;
        BenchRow {
            ratio: Some(quantile(&ratios, 0.5)),
            spread: Some(middle_half(&ratios)),
            ..BenchRow::alone(name, question, Unit::Microseconds, microseconds(&self.ours))
                .beside(floor_is, microseconds(&self.floor))
        }
    }
}

/// Nanoseconds of one piece of the work, if it is done so many times.
pub(super) fn each(times: usize, mut work: impl FnMut()) -> f64 {
    let begun = Instant::now();
    (0..times).for_each(|_| work());
    nanoseconds(begun.elapsed()) / times as f64
}

pub(super) fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

/// The value that so much of all stays below, between the two nearest; NaN of nothing.
pub(super) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = sorted.len().saturating_sub(1) as f64 * part;
    let value = |at: f64| sorted.get(at as usize).copied().unwrap_or(f64::NAN);
    value(at.floor()) + (value(at.ceil()) - value(at.floor())) * at.fract()
}

pub(super) fn middle_half(values: &[f64]) -> [f64; 2] {
    [quantile(values, 0.25), quantile(values, 0.75)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_round_changes_nothing() {
        let rounds = Rounds { ours: vec![2e3, 4e3, 9e9, 6e3, 2e3], floor: vec![1e3, 2e3, 1e3, 3e3, 1e3] };
        let row = rounds.row("x", "?", "floor");
        assert_eq!((row.ratio, row.spread, row.measured), (Some(2.0), Some([2.0, 2.0]), 4.0));
    }

    #[test]
    fn sides_take_turns_to_be_first() {
        let order = std::cell::RefCell::new(String::new());
        let note = |side| {
            order.borrow_mut().push(side);
            Ok(1.0)
        };
        by_turns(3, || note('f'), || note('o')).unwrap();
        assert_eq!(&*order.borrow(), "fooffo", "floor and ours");
    }

    #[test]
    fn quantiles() {
        let values: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!([0.0, 0.25, 0.99, 1.0].map(|part| quantile(&values, part)), [0.0, 25.0, 99.0, 100.0]);
        assert_eq!((quantile(&[1.0, 2.0], 0.5), quantile(&[7.0], 0.25)), (1.5, 7.0));
        assert!(quantile(&[], 0.5).is_nan());
    }
}
