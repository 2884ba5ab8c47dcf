//! Intervals and tests against scipy and statsmodels (`scripts/golden_statistics.py`).

use rag_tune_eval::Share;
use rag_tune_eval::statistics::{
    Difference, Interval, Outcomes, accuracy_interval, holm, ratio_interval,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    paired: Vec<Paired>,
    ratio: Ratio,
    holm: Vec<Holm>,
    wilson: Vec<Wilson>,
}

#[derive(Deserialize)]
struct Paired {
    /// Rows that both arms have right, only the first, only the second, neither.
    counts: [usize; 4],
    p_value: f64,
    difference_ci95: [f64; 2],
}

#[derive(Deserialize)]
struct Ratio {
    part: Vec<usize>,
    whole: Vec<usize>,
    ci95: [f64; 2],
}

#[derive(Deserialize)]
struct Holm {
    p_values: Vec<f64>,
    adjusted: Vec<f64>,
}

#[derive(Deserialize)]
struct Wilson {
    correct: usize,
    total: usize,
    ci95: [f64; 2],
}

fn golden() -> Golden {
    let text = include_str!("../../../tests/fixtures/golden/statistics.json");
    serde_json::from_str(text).unwrap()
}

/// Both sides are random: 10,000 resamples here, 50,000 there.
#[track_caller]
fn assert_near(interval: Interval, expected: [f64; 2], tolerance: f64) {
    let off = (interval.lo - expected[0])
        .abs()
        .max((interval.hi - expected[1]).abs());
    assert!(off <= tolerance, "{interval:?}, expected {expected:?}");
}

#[test]
fn paired_arms_agree_with_statsmodels_and_scipy() {
    for Paired {
        counts: [both, only_first, only_second, neither],
        p_value,
        difference_ci95,
    } in golden().paired
    {
        let rows = both + only_first + only_second + neither;
        let first = (0..rows).map(|row| row < both + only_first);
        let second = (0..rows).map(|row| {
            row < both || (both + only_first..both + only_first + only_second).contains(&row)
        });
        let [first, second] =
            [first.collect(), second.collect()].map(|arm| Outcomes::new(vec![arm]));
        let difference = Difference::between(&first, &second);
        assert!(
            (difference.p_value - p_value).abs() < 1e-9,
            "{difference:?}, expected {p_value}"
        );
        // A resample's difference is a multiple of one row.
        assert_near(difference.ci95, difference_ci95, 0.002 + 1.0 / rows as f64);
    }
}

#[test]
fn a_ratio_of_sums_agrees_with_scipy() {
    let Ratio { part, whole, ci95 } = golden().ratio;
    let shares: Vec<Share> = part
        .into_iter()
        .zip(whole)
        .map(|(p, w)| Share::count(p, w))
        .collect();
    assert_near(ratio_interval(&shares), ci95, 0.003);
}

#[test]
fn holm_agrees_with_statsmodels() {
    for Holm { p_values, adjusted } in golden().holm {
        for (ours, expected) in holm(&p_values).into_iter().zip(adjusted) {
            assert!(
                (ours - expected).abs() < 1e-12,
                "{p_values:?}: {ours}, expected {expected}"
            );
        }
    }
}

#[test]
fn where_all_rows_are_alike_the_interval_is_wilsons() {
    for Wilson {
        correct,
        total,
        ci95,
    } in golden().wilson
    {
        assert_near(accuracy_interval(correct, total), ci95, 1e-9);
    }
}
