//! Two arms on the same rows: by how much they differ, and whether that is more than noise.

use serde::{Deserialize, Serialize};

use super::interval::{Interval, RESAMPLES, SEED, Z_95, percentiles};
use super::mcnemar::mcnemar;
use super::outcomes::{Draw, Outcomes};
use super::random::SplitMix64;

/// Below this probability a difference counts as more than noise.
pub const SIGNIFICANCE: f64 = 0.05;

/// How a probability was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// McNemar's exact test: one run a side.
    McNemar,
    /// Bootstrap over rows and seeds: several runs on a side.
    Bootstrap,
}

/// The second arm against the first, on the same rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Accuracy of the second arm less that of the first.
    pub difference: f64,
    /// Its 95 % interval.
    pub ci95: Interval,
    /// Two-sided probability of a difference at least this large if the arms were equally good.
    pub p_value: f64,
    /// How `p_value` was found.
    pub test: Test,
    /// Rows that only the first arm has right; with several seeds, the mean over pairs of runs.
    pub only_first: f64,
    /// Rows that only the second arm has right.
    pub only_second: f64,
}

impl Difference {
    /// Compares two arms.
    ///
    /// The interval is the percentile bootstrap over rows, drawn for both arms together because they answered the same
    /// ones, and over the seeds of each (see [`Outcomes::pooled`]).
    ///
    /// # Panics
    /// If the arms have different numbers of rows.
    pub fn between(first: &Outcomes, second: &Outcomes) -> Self {
        assert_eq!(
            first.rows(),
            second.rows(),
            "arms are compared on the same rows"
        );
        let mut random = SplitMix64::new(SEED);
        let mut draw = Draw::new(first.rows());
        let mut differences: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                draw.rows(&mut random);
                let before = draw.accuracy(first, &mut random);
                draw.accuracy(second, &mut random) - before
            })
            .collect();
        let (only_first, only_second) = discordant(first, second);
        let (p_value, test) = match (first.seeds(), second.seeds()) {
            ([a], [b]) => (mcnemar(a, b).p_value, Test::McNemar),
            _ => (bootstrap_p_value(&differences), Test::Bootstrap),
        };
        let mut ci95 = percentiles(&mut differences);
        if only_first == 0.0 && only_second == 0.0 {
            // No resample can differ: as with an accuracy of 0, the bootstrap would claim certainty.
            let reach = Z_95 * Z_95 / (first.rows() as f64 + Z_95 * Z_95);
            ci95 = Interval {
                lo: -reach,
                hi: reach,
            };
        }
        Self {
            difference: (only_second - only_first) / first.rows() as f64,
            ci95,
            p_value,
            test,
            only_first,
            only_second,
        }
    }

    /// Whether the arms cannot be told apart.
    pub fn is_within_noise(&self) -> bool {
        self.p_value >= SIGNIFICANCE
    }

    /// The odds that a row on which the arms differ goes to the second arm; infinite if all do, none if they differ on
    /// no row.
    pub fn odds_ratio(&self) -> Option<f64> {
        (self.only_first + self.only_second > 0.0).then(|| self.only_second / self.only_first)
    }

    /// Cohen's g: how far the share of differing rows that go to the better arm is above one half. Cohen (1988) calls
    /// 0.05 small, 0.15 medium, 0.25 large.
    pub fn cohens_g(&self) -> Option<f64> {
        let discordant = self.only_first + self.only_second;
        (discordant > 0.0).then(|| self.only_first.max(self.only_second) / discordant - 0.5)
    }
}

/// Rows that only the first arm, and only the second, has right: means over all pairs of runs.
fn discordant(first: &Outcomes, second: &Outcomes) -> (f64, f64) {
    let (mut only_first, mut only_second) = (0, 0);
    for a in first.seeds() {
        for b in second.seeds() {
            for (&a, &b) in a.iter().zip(b) {
                only_first += usize::from(a && !b);
                only_second += usize::from(b && !a);
            }
        }
    }
    let pairs = (first.seeds().len() * second.seeds().len()) as f64;
    (only_first as f64 / pairs, only_second as f64 / pairs)
}

/// Twice the smaller share of resamples on one side of zero, each counted once more so that it is never 0.
fn bootstrap_p_value(differences: &[f64]) -> f64 {
    let share = |test: fn(f64) -> bool| {
        let count = differences
            .iter()
            .filter(|&&difference| test(difference))
            .count();
        (count + 1) as f64 / (differences.len() + 1) as f64
    };
    (2.0 * share(|d| d <= 0.0).min(share(|d| d >= 0.0))).min(1.0)
}

/// Probabilities adjusted for their number by Holm's step-down method (Holm 1979): each may be compared with
/// [`SIGNIFICANCE`], and the chance that any of them is wrongly below it is no larger than that.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut largest: f64 = 0.0;
    for (rank, &i) in order.iter().enumerate() {
        largest = largest
            .max(p_values[i] * (p_values.len() - rank) as f64)
            .min(1.0);
        adjusted[i] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::super::outcomes::tests::simulated;
    use super::*;

    fn arm(right: impl Fn(usize) -> bool) -> Outcomes {
        Outcomes::new(vec![(0..568).map(right).collect()])
    }

    #[test]
    fn a_difference_has_the_sign_of_the_better_arm() {
        let (first, second) = (arm(|row| row < 200), arm(|row| (20..260).contains(&row)));
        let difference = Difference::between(&first, &second);
        assert_eq!(
            (difference.only_first, difference.only_second),
            (20.0, 60.0)
        );
        assert!((difference.difference - 40.0 / 568.0).abs() < 1e-12);
        assert!(difference.ci95.lo > 0.0 && !difference.is_within_noise());
        assert_eq!(difference.odds_ratio(), Some(3.0));
        assert_eq!(difference.cohens_g(), Some(0.25));
        let back = Difference::between(&second, &first);
        assert!((back.difference + difference.difference).abs() < 1e-12);
        assert_eq!(back.p_value, difference.p_value);
    }

    #[test]
    fn equal_arms_are_within_noise_and_not_certain() {
        let same = Difference::between(&arm(|row| row < 99), &arm(|row| row < 99));
        assert_eq!((same.difference, same.p_value), (0.0, 1.0));
        assert!(same.ci95.lo < 0.0 && same.ci95.hi > 0.0, "{same:?}");
        assert_eq!((same.odds_ratio(), same.cohens_g()), (None, None));
    }

    /// Arms whose seeds scatter more than they differ: the rows alone would find a difference nearly every time.
    #[test]
    fn seeds_that_scatter_make_a_difference_less_sure() {
        let mut random = SplitMix64::new(3);
        let mut found = 0;
        for _ in 0..60 {
            let easiness = vec![0.5; 150];
            let first = simulated(&mut random, &easiness, 4, 0.12);
            let second = simulated(&mut random, &easiness, 4, 0.12);
            found += usize::from(!Difference::between(&first, &second).is_within_noise());
        }
        assert!(
            found <= 8,
            "{found} of 60 were called different, and none is"
        );
    }

    #[test]
    fn a_large_difference_is_found_with_several_seeds_too() {
        let mut random = SplitMix64::new(5);
        let first = simulated(&mut random, &vec![0.3; 300], 3, 0.02);
        let second = simulated(&mut random, &vec![0.5; 300], 3, 0.02);
        let difference = Difference::between(&first, &second);
        assert_eq!(difference.test, Test::Bootstrap);
        assert!(!difference.is_within_noise(), "{difference:?}");
    }
}
