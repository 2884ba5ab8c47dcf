//! 95 % intervals.

use serde::{Deserialize, Serialize};

use super::random::SplitMix64;
use crate::rows::Share;

/// Resamples of the bootstrap.
pub(super) const RESAMPLES: usize = 10_000;

/// Seed of the bootstrap: the same scores have the same interval everywhere.
pub(super) const SEED: u64 = 42;

/// Two-sided 95 % quantile of the normal distribution.
pub(super) const Z_95: f64 = 1.959_963_984_540_054;

/// An interval, written as `[lo, hi]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f64; 2]", into = "[f64; 2]")]
pub struct Interval {
    /// Lower end.
    pub lo: f64,
    /// Upper end.
    pub hi: f64,
}

impl From<[f64; 2]> for Interval {
    fn from([lo, hi]: [f64; 2]) -> Self {
        Self { lo, hi }
    }
}

impl From<Interval> for [f64; 2] {
    fn from(interval: Interval) -> Self {
        [interval.lo, interval.hi]
    }
}

/// 95 % interval of the accuracy `correct / total`.
///
/// The percentile bootstrap over rows, seeded. Where all rows are right or all wrong, every
/// resample is the same and the bootstrap would claim certainty; there it is the Wilson score
/// interval (Wilson 1927), which does not collapse. Without rows nothing is known: `[0, 1]`.
///
/// # Panics
/// If `correct > total`.
pub fn accuracy_interval(correct: usize, total: usize) -> Interval {
    assert!(
        correct <= total,
        "{correct} of {total} rows cannot be correct"
    );
    if total == 0 {
        return Interval { lo: 0.0, hi: 1.0 };
    }
    if correct == 0 || correct == total {
        return wilson_interval_at_the_edge(correct, total);
    }
    let mut random = SplitMix64::new(SEED);
    let mut accuracies: Vec<f64> = (0..RESAMPLES)
        // Rows are interchangeable: let the first `correct` ones be the right ones.
        .map(|_| (0..total).filter(|_| random.below(total) < correct).count())
        .map(|count| count as f64 / total as f64)
        .collect();
    percentiles(&mut accuracies)
}

/// 95 % interval of a metric whose rows have these shares.
///
/// As [`accuracy_interval`] where every row that says something about the metric is wholly on one side, a yes or a no.
/// Else the percentile bootstrap over rows of the ratio of sums; resamples in which nothing is counted are left out, and
/// `[0, 1]` remains if nothing ever is.
pub fn ratio_interval(shares: &[Share]) -> Interval {
    let counted = shares.iter().filter(|share| share.whole > 0.0);
    let is_full = |share: &&Share| share.part == share.whole;
    let (rows, full) = (
        counted.clone().count(),
        counted.clone().filter(is_full).count(),
    );
    let is_yes_or_no = |share: &Share| share.whole == 1.0 && [0.0, 1.0].contains(&share.part);
    let is_at_an_edge = full == rows || counted.clone().all(|share| share.part == 0.0);
    if is_at_an_edge || counted.clone().all(is_yes_or_no) {
        return accuracy_interval(full, rows);
    }
    let mut random = SplitMix64::new(SEED);
    let mut ratios: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let (mut part, mut whole) = (0.0, 0.0);
            for _ in shares {
                let share = shares[random.below(shares.len())];
                part += share.part;
                whole += share.whole;
            }
            (whole > 0.0).then(|| part / whole)
        })
        .collect();
    if ratios.is_empty() {
        return Interval { lo: 0.0, hi: 1.0 };
    }
    percentiles(&mut ratios)
}

/// The middle 95 % of some values, of which there is at least one.
pub(super) fn percentiles(values: &mut [f64]) -> Interval {
    values.sort_unstable_by(f64::total_cmp);
    let quantile = |q: f64| values[(q * (values.len() - 1) as f64).round() as usize];
    Interval {
        lo: quantile(0.025),
        hi: quantile(0.975),
    }
}

/// Wilson's interval where no row is right, or every row: `[0, z²/(n + z²)]` and its mirror image.
fn wilson_interval_at_the_edge(correct: usize, total: usize) -> Interval {
    let z2 = Z_95 * Z_95;
    let reach = z2 / (total as f64 + z2);
    if correct == 0 {
        Interval { lo: 0.0, hi: reach }
    } else {
        Interval {
            lo: 1.0 - reach,
            hi: 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bootstrap_is_near_the_normal_interval_and_reproducible() {
        let interval = accuracy_interval(209, 568);
        let p: f64 = 209.0 / 568.0;
        let half = Z_95 * (p * (1.0 - p) / 568.0).sqrt();
        assert!((interval.lo - (p - half)).abs() < 0.003, "{interval:?}");
        assert!((interval.hi - (p + half)).abs() < 0.003, "{interval:?}");
        assert_eq!(interval, accuracy_interval(209, 568));
    }

    /// Known values: scipy's `proportion_confint(0, 10, method="wilson")` is (0, 0.27753).
    #[test]
    fn degenerate_counts_have_a_wilson_interval() {
        let none = accuracy_interval(0, 10);
        assert!(
            none.lo == 0.0 && (none.hi - 0.277_533).abs() < 1e-5,
            "{none:?}"
        );
        let all = accuracy_interval(10, 10);
        assert!(
            all.hi == 1.0 && (all.lo - 0.722_467).abs() < 1e-5,
            "{all:?}"
        );
        assert_eq!(accuracy_interval(0, 0), Interval { lo: 0.0, hi: 1.0 });
    }

    #[test]
    fn an_interval_holds_its_accuracy() {
        for (correct, total) in [(1, 2), (1, 40), (39, 40), (3, 568)] {
            let interval = accuracy_interval(correct, total);
            let accuracy = correct as f64 / total as f64;
            assert!(
                interval.lo <= accuracy && accuracy <= interval.hi,
                "{interval:?}"
            );
        }
    }

    /// Clusters of two things each, all alike within a row: the interval is that of the rows, not of the things.
    #[test]
    fn rows_that_say_nothing_leave_a_yes_or_no_what_it_is() {
        let mut shares = vec![Share::of(true); 10];
        shares.push(Share::count(0, 0));
        assert_eq!(ratio_interval(&shares), accuracy_interval(10, 10));
        assert_eq!(ratio_interval(&shares[10..]), accuracy_interval(0, 0));
    }

    #[test]
    fn a_ratio_is_as_sure_as_its_rows_are_many() {
        let shares: Vec<Share> = (0..100)
            .map(|row| Share::count(if row < 40 { 2 } else { 0 }, 2))
            .collect();
        let (ratio, rows) = (ratio_interval(&shares), accuracy_interval(40, 100));
        assert!(
            (ratio.lo - rows.lo).abs() < 0.02 && (ratio.hi - rows.hi).abs() < 0.02,
            "{ratio:?}"
        );
        // All right: as sure as so many rows, which is not certain.
        let all = [Share::count(3, 3), Share::count(2, 2), Share::count(0, 0)];
        assert_eq!(ratio_interval(&all), accuracy_interval(2, 2));
        assert_eq!(
            ratio_interval(&[Share::count(0, 0)]),
            Interval { lo: 0.0, hi: 1.0 }
        );
    }
}
