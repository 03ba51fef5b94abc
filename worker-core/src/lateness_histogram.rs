//! How late things were, as counts that add up.

use std::ops::AddAssign;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How often something was late by at most so much.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatenessHistogram {
    counts: [u64; LatenessHistogram::BOUNDS_MS.len() + 1],
}

impl LatenessHistogram {
    /// Upper bounds of the buckets, in milliseconds; the last bucket has none.
    pub const BOUNDS_MS: [u64; 13] = [1, 2, 5, 10, 25, 50, 100, 250, 1_000, 5_000, 15_000, 60_000, 600_000];

    /// Counts one.
    pub fn record(&mut self, late: Duration) {
        let bucket = Self::BOUNDS_MS.partition_point(|bound| Duration::from_millis(*bound) < late);
        self.counts[bucket] += 1;
    }

    /// The buckets in order: the upper bound in milliseconds, none for the last, and the count.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bounds = Self::BOUNDS_MS.iter().copied().map(Some).chain([None]);
        bounds.zip(self.counts.iter().copied())
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

impl AddAssign<&Self> for LatenessHistogram {
    fn add_assign(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            // Figures of another process may be anything.
            *count = count.saturating_add(more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_falls_into_the_first_bucket_that_holds_it() {
        let mut histogram = LatenessHistogram::default();
        for millis in [0, 1, 2, 6_000, 1_000_000] {
            histogram.record(Duration::from_millis(millis));
        }
        histogram.record(Duration::from_micros(1_001));
        let filled: Vec<_> = histogram.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(Some(1), 2), (Some(2), 2), (Some(15_000), 1), (None, 1)]);
        let mut sum = histogram.clone();
        sum += &histogram;
        assert_eq!(sum.count(), 12);
    }
}
