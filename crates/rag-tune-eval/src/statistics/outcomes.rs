//! One arm of an experiment on some rows, trained once or with several seeds.

use serde::{Deserialize, Serialize};

use super::interval::{Interval, RESAMPLES, SEED, accuracy_interval, percentiles};
use super::random::SplitMix64;

/// For each seed, whether each row is right. There is at least one seed, and all have the same rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcomes {
    seeds: Vec<Vec<bool>>,
}

/// The accuracy of an arm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PooledAccuracy {
    /// Mean over seeds.
    pub accuracy: f64,
    /// Its 95 % interval, over rows and, where there are several, over seeds.
    pub ci95: Interval,
    /// Seeds.
    pub seeds: usize,
    /// Standard deviation of the accuracy between seeds; none with one seed.
    pub seed_deviation: Option<f64>,
}

impl Outcomes {
    /// Outcomes by seed, then by row.
    ///
    /// # Panics
    /// If there is no seed, no row, or if seeds differ in their number of rows.
    pub fn new(seeds: Vec<Vec<bool>>) -> Self {
        let rows = seeds.first().map_or(0, Vec::len);
        assert!(rows > 0, "an arm has seeds and rows");
        assert!(
            seeds.iter().all(|seed| seed.len() == rows),
            "all seeds are scored on the same rows"
        );
        Self { seeds }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.seeds[0].len()
    }

    /// The same arm on some of its rows only, of which there is at least one.
    ///
    /// # Panics
    /// If there is no row, or it is none of the arm's.
    pub fn of_rows(&self, rows: &[usize]) -> Self {
        let some = |seed: &Vec<bool>| rows.iter().map(|&row| seed[row]).collect();
        Self::new(self.seeds.iter().map(some).collect())
    }

    /// Outcomes by seed.
    pub fn seeds(&self) -> &[Vec<bool>] {
        &self.seeds
    }

    /// Accuracy, and how sure it is.
    ///
    /// The rows of several seeds are no independent rows: counting them together would make the interval too narrow by
    /// up to the root of the number of seeds. Here rows and seeds are drawn separately, as in the pigeonhole bootstrap
    /// (Owen 2007, arXiv:0712.1111), which is right or a little wide. Of `n` seeds `n - 1` are drawn (Rao and Wu 1988):
    /// drawing `n` would make the spread of few seeds too small.
    pub fn pooled(&self) -> PooledAccuracy {
        let accuracies: Vec<f64> = self.seeds.iter().map(|seed| accuracy(seed)).collect();
        let mean = accuracies.iter().sum::<f64>() / accuracies.len() as f64;
        if let [only] = &self.seeds[..] {
            let correct = only.iter().filter(|&&is_right| is_right).count();
            return PooledAccuracy {
                accuracy: mean,
                ci95: accuracy_interval(correct, only.len()),
                seeds: 1,
                seed_deviation: None,
            };
        }
        let squares: f64 = accuracies.iter().map(|a| (a - mean).powi(2)).sum();
        let mut random = SplitMix64::new(SEED);
        let mut draw = Draw::new(self.rows());
        let mut resampled: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                draw.rows(&mut random);
                draw.accuracy(self, &mut random)
            })
            .collect();
        PooledAccuracy {
            accuracy: mean,
            ci95: percentiles(&mut resampled),
            seeds: accuracies.len(),
            seed_deviation: Some((squares / (accuracies.len() - 1) as f64).sqrt()),
        }
    }
}

fn accuracy(outcomes: &[bool]) -> f64 {
    let correct = outcomes.iter().filter(|&&is_right| is_right).count();
    correct as f64 / outcomes.len() as f64
}

/// A resample of rows, which all arms and seeds that are compared share.
pub(super) struct Draw {
    rows: Vec<u32>,
}

impl Draw {
    pub(super) fn new(rows: usize) -> Self {
        Self {
            rows: vec![0; rows],
        }
    }

    /// Draws rows anew.
    pub(super) fn rows(&mut self, random: &mut SplitMix64) {
        let count = self.rows.len();
        for row in &mut self.rows {
            *row = random.below(count) as u32;
        }
    }

    /// The accuracy of an arm on these rows, with seeds drawn from its own.
    pub(super) fn accuracy(&self, arm: &Outcomes, random: &mut SplitMix64) -> f64 {
        let seeds = arm.seeds.len();
        let draws = (seeds - 1).max(1);
        let mut correct = 0;
        for _ in 0..draws {
            let seed = &arm.seeds[if seeds == 1 { 0 } else { random.below(seeds) }];
            correct += self.rows.iter().filter(|&&row| seed[row as usize]).count();
        }
        correct as f64 / (draws * self.rows.len()) as f64
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Rows that are each right with their own probability, and seeds that are each a little better or worse.
    pub(in crate::statistics) fn simulated(
        random: &mut SplitMix64,
        easiness: &[f64],
        seeds: usize,
        seed_spread: f64,
    ) -> Outcomes {
        let mut uniform = || random.below(1 << 30) as f64 / f64::from(1 << 30);
        let arm = (0..seeds).map(|_| {
            // Uniform with this standard deviation.
            let shift = (uniform() - 0.5) * 12.0_f64.sqrt() * seed_spread;
            easiness.iter().map(|p| uniform() < p + shift).collect()
        });
        Outcomes::new(arm.collect())
    }

    #[test]
    fn one_seed_has_the_interval_of_its_rows() {
        let rows: Vec<bool> = (0..50).map(|row| row < 20).collect();
        let pooled = Outcomes::new(vec![rows]).pooled();
        assert_eq!((pooled.accuracy, pooled.seeds), (0.4, 1));
        assert_eq!(pooled.ci95, accuracy_interval(20, 50));
    }

    #[test]
    fn some_rows_keep_their_seeds() {
        let arm = Outcomes::new(vec![vec![true, false, true], vec![false, false, true]]);
        assert_eq!(arm.of_rows(&[0, 2]).seeds(), [[true, true], [false, true]]);
    }

    /// Three copies of the same outcomes say no more than one.
    #[test]
    fn seeds_that_agree_are_no_further_rows() {
        let rows: Vec<bool> = (0..200).map(|row| row < 80).collect();
        let pooled = Outcomes::new(vec![rows.clone(); 3]).pooled();
        let one = accuracy_interval(80, 200);
        assert!(
            (pooled.ci95.lo - one.lo).abs() < 0.01 && (pooled.ci95.hi - one.hi).abs() < 0.01,
            "{pooled:?} {one:?}"
        );
        assert!(pooled.seed_deviation.unwrap() < 1e-12);
        let naive = accuracy_interval(240, 600);
        assert!(naive.hi - naive.lo < 0.7 * (one.hi - one.lo), "{naive:?}");
    }

    /// The true accuracy lies in the interval in 95 of 100 simulated experiments, or a few more; the interval that counts
    /// all seeds' rows as independent misses it far more often.
    #[test]
    fn pooled_intervals_cover_and_naive_ones_do_not() {
        let mut random = SplitMix64::new(7);
        let (mut covered, mut naively_covered) = (0, 0);
        for _ in 0..100 {
            // Each experiment draws its rows from a world where rows are easy or hard.
            let easiness: Vec<f64> = (0..80)
                .map(|_| if random.below(2) == 0 { 0.1 } else { 0.7 })
                .collect();
            let outcomes = simulated(&mut random, &easiness, 4, 0.05);
            let pooled = outcomes.pooled();
            let holds = |interval: Interval| interval.lo <= 0.4 && 0.4 <= interval.hi;
            covered += usize::from(holds(pooled.ci95));
            let correct = outcomes.seeds.concat().iter().filter(|&&r| r).count();
            naively_covered += usize::from(holds(accuracy_interval(correct, 4 * 80)));
        }
        assert!(covered >= 90, "{covered} of 100");
        assert!(naively_covered <= 85, "{naively_covered} of 100");
    }
}
