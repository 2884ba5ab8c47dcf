//! How sure an accuracy is, and whether two runs on the same rows differ.

use serde::{Deserialize, Serialize};

/// Resamples of the bootstrap.
const RESAMPLES: usize = 10_000;

/// Seed of the bootstrap: the same scores have the same interval everywhere.
const SEED: u64 = 42;

/// Two-sided 95 % quantile of the normal distribution.
const Z_95: f64 = 1.959_963_984_540_054;

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
    let mut random = SplitMix64(SEED);
    let mut counts: Vec<usize> = (0..RESAMPLES)
        // Rows are interchangeable: let the first `correct` ones be the right ones.
        .map(|_| (0..total).filter(|_| random.below(total) < correct).count())
        .collect();
    counts.sort_unstable();
    let quantile = |q: f64| counts[(q * (RESAMPLES - 1) as f64).round() as usize];
    Interval {
        lo: quantile(0.025) as f64 / total as f64,
        hi: quantile(0.975) as f64 / total as f64,
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

/// Two runs on the same rows, compared by McNemar's exact test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct McNemar {
    /// Rows that only the first run has right.
    pub only_first: usize,
    /// Rows that only the second run has right.
    pub only_second: usize,
    /// Two-sided probability of a split at least this uneven if the runs were equally good.
    pub p_value: f64,
}

/// McNemar's exact test on paired outcomes: whether row `i` is right in each run.
///
/// `p = min(1, 2 P(X <= min(b, c)))` for `X ~ Binomial(b + c, 1/2)`, where `b` and `c` are the
/// rows that only one run has right.
///
/// # Panics
/// If the runs have different numbers of rows.
pub fn mcnemar(first: &[bool], second: &[bool]) -> McNemar {
    assert_eq!(
        first.len(),
        second.len(),
        "paired outcomes are of the same rows"
    );
    let pairs = || first.iter().zip(second);
    let only_first = pairs().filter(|&(&a, &b)| a && !b).count();
    let only_second = pairs().filter(|&(&a, &b)| b && !a).count();
    let (fewer, discordant) = (only_first.min(only_second), only_first + only_second);
    let p_value = (2.0 * fair_coin_tail(fewer, discordant)).min(1.0);
    McNemar {
        only_first,
        only_second,
        p_value,
    }
}

/// `P(X <= k)` for `X ~ Binomial(n, 1/2)`, in logarithms: `2^-n` underflows above 1,074.
fn fair_coin_tail(k: usize, n: usize) -> f64 {
    let mut log_choose = 0.0; // ln C(n, 0)
    let mut tail = 0.0;
    for i in 0..=k {
        if i > 0 {
            log_choose += ((n - i + 1) as f64).ln() - (i as f64).ln();
        }
        tail += (log_choose - n as f64 * std::f64::consts::LN_2).exp();
    }
    tail
}

/// SplitMix64 (Steele et al. 2014): small, seeded, and good enough to draw rows.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; its bias is below `bound / 2^64`.
    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
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

    fn paired(only_first: usize, only_second: usize) -> McNemar {
        let first: Vec<bool> = (0..only_first + only_second + 5)
            .map(|i| i < only_first)
            .collect();
        let second: Vec<bool> = (0..first.len())
            .map(|i| (only_first..only_first + only_second).contains(&i))
            .collect();
        mcnemar(&first, &second)
    }

    /// Expected: `scipy.stats.binomtest(min(b, c), b + c).pvalue`.
    #[test]
    fn mcnemar_agrees_with_the_binomial_test() {
        for (b, c, expected) in [
            (0, 0, 1.0),
            (5, 5, 1.0),
            (0, 5, 0.0625),
            (3, 12, 0.035_156_25),
            (1, 9, 0.021_484_375),
        ] {
            let test = paired(b, c);
            assert_eq!((test.only_first, test.only_second), (b, c));
            assert!((test.p_value - expected).abs() < 1e-12, "{test:?}");
        }
        let large = paired(900, 1100).p_value;
        assert!((large - 8.457_089_535_504e-6).abs() < 1e-15, "{large}");
    }
}
