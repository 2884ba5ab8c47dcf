//! McNemar's exact test.

use serde::{Deserialize, Serialize};

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

#[cfg(test)]
mod tests {
    use super::*;

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
