//! The trend of a curve, and robust measures.

/// What the median absolute deviation of normal values is multiplied by to be their standard deviation: `1 / Φ⁻¹(3/4)`.
const MAD_TO_DEVIATION: f64 = 1.482_602_218_505_602;

/// A curve's trend: at each step the value of a Theil-Sen line (Sen 1968: median of all pairwise slopes, through the
/// medians of both axes) through the `window` steps around it, or those of them that there are.
///
/// A line, since a loss falls steeply at first: a running median would call the slope noise, and lag at both ends.
/// Theil and Sen's, since a spike must not bend the trend that it is measured against: it stands up to 29 % outliers.
pub(super) fn trend(steps: &[u64], values: &[f64], window: usize) -> Vec<f64> {
    let reach = window / 2;
    let x: Vec<f64> = steps.iter().map(|step| *step as f64).collect();
    (0..values.len())
        .map(|at| {
            let around = at.saturating_sub(reach)..(at + reach + 1).min(values.len());
            theil_sen(&x[around.clone()], &values[around], x[at])
        })
        .collect()
}

/// The line through `(x, y)` at `at`.
fn theil_sen(x: &[f64], y: &[f64], at: f64) -> f64 {
    let mut slopes = Vec::with_capacity(x.len() * x.len() / 2);
    for later in 1..x.len() {
        for earlier in 0..later {
            slopes.push((y[later] - y[earlier]) / (x[later] - x[earlier]));
        }
    }
    if slopes.is_empty() {
        return y[0];
    }
    median(y) + median(&slopes) * (at - median(x))
}

/// The middle value, or the mean of both.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    }
}

/// The standard deviation of normal values with this median absolute deviation.
pub(super) fn robust_deviation(values: &[f64]) -> f64 {
    let centre = median(values);
    let distances: Vec<f64> = values.iter().map(|value| (value - centre).abs()).collect();
    MAD_TO_DEVIATION * median(&distances)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_its_own_trend_also_at_its_ends() {
        let steps: Vec<u64> = (1..=40).collect();
        let line: Vec<f64> = steps.iter().map(|step| 3.0 - 0.05 * *step as f64).collect();
        for (trend, value) in trend(&steps, &line, 25).iter().zip(&line) {
            assert!((trend - value).abs() < 1e-12);
        }
    }

    #[test]
    fn a_spike_does_not_bend_the_trend() {
        let steps: Vec<u64> = (1..=40).collect();
        let mut line: Vec<f64> = steps.iter().map(|step| 3.0 - 0.05 * *step as f64).collect();
        let without = trend(&steps, &line, 25);
        line[20] += 1000.0;
        for (with, without) in trend(&steps, &line, 25).iter().zip(without) {
            // The median may move by one step of the line.
            assert!((with - without).abs() < 0.051, "{with} {without}");
        }
    }

    /// Steps that were skipped leave a gap in the axis, not a kink in the line.
    #[test]
    fn a_gap_in_the_steps_is_a_gap() {
        let steps = [1, 2, 3, 10, 11, 12];
        let line = steps.map(|step| 2.0 * step as f64);
        let all = trend(&steps, &line, 25);
        assert!(all.iter().zip(line).all(|(t, y)| (t - y).abs() < 1e-12));
    }
}
