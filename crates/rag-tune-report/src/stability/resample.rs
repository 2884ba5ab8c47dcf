//! Intervals and tests for means of values by step, which depend on their neighbours: whole blocks of neighbouring
//! steps are drawn, so that what hangs together stays together (Künsch 1989; circular: Politis and Romano 1992).

/// Resamples of an interval or a test.
const RESAMPLES: usize = 10_000;

/// The same runs have the same figures everywhere.
const SEED: u64 = 42;

/// Steps of a block: `n^(1/3)`, the order that is best for a mean's interval (Hall, Horowitz and Jing 1995).
pub(super) fn block_length(steps: usize) -> usize {
    ((steps as f64).cbrt().ceil() as usize).max(1)
}

/// 95 % percentile interval of the mean.
pub(super) fn mean_interval(values: &[f64], block: usize) -> [f64; 2] {
    let mut random = SplitMix64(SEED);
    middle((0..RESAMPLES).map(|_| resampled_mean(values, block, &mut random)))
}

/// 95 % percentile interval of `mean(second) - mean(first)` of independent runs.
pub(super) fn difference_interval(first: &[f64], second: &[f64], block: usize) -> [f64; 2] {
    let mut random = SplitMix64(SEED);
    middle((0..RESAMPLES).map(|_| {
        let first = resampled_mean(first, block, &mut random);
        resampled_mean(second, block, &mut random) - first
    }))
}

/// Two-sided p value for differences by step whose mean is 0 where the runs are alike: blocks swap their sides at random.
pub(super) fn swap_test(differences: &[f64], block: usize) -> f64 {
    let sums: Vec<f64> = differences
        .chunks(block)
        .map(|chunk| chunk.iter().sum())
        .collect();
    let observed = sums.iter().sum::<f64>().abs();
    let mut random = SplitMix64(SEED);
    p_value(observed, || {
        let swapped = |sum: &f64| if random.below(2) == 0 { *sum } else { -sum };
        sums.iter().map(swapped).sum::<f64>().abs()
    })
}

/// Two-sided p value for the difference of means of independent runs: their blocks are dealt out anew.
pub(super) fn deal_test(first: &[f64], second: &[f64], block: usize) -> f64 {
    // Blocks as (sum, steps): the last of a run may be short.
    let blocks_of = |values: &[f64]| -> Vec<(f64, usize)> {
        let chunks = values.chunks(block);
        chunks.map(|c| (c.iter().sum(), c.len())).collect()
    };
    let (mut blocks, others) = (blocks_of(first), blocks_of(second));
    let dealt = blocks.len();
    blocks.extend(others);
    let difference = |blocks: &[(f64, usize)]| {
        let mean = |blocks: &[(f64, usize)]| {
            let steps: usize = blocks.iter().map(|(_, steps)| steps).sum();
            blocks.iter().map(|(sum, _)| sum).sum::<f64>() / steps as f64
        };
        (mean(&blocks[dealt..]) - mean(&blocks[..dealt])).abs()
    };
    let observed = difference(&blocks);
    let mut random = SplitMix64(SEED);
    p_value(observed, || {
        for last in (1..blocks.len()).rev() {
            blocks.swap(last, random.below(last + 1));
        }
        difference(&blocks)
    })
}

/// The share of arrangements at least as far apart as the observed one, which counts as one of them.
fn p_value(observed: f64, mut arranged: impl FnMut() -> f64) -> f64 {
    // Rounding must not make an arrangement that is the observed one a smaller one.
    let bound = observed * (1.0 - 1e-9);
    let as_far = (0..RESAMPLES).filter(|_| arranged() >= bound).count();
    (as_far + 1) as f64 / (RESAMPLES + 1) as f64
}

/// The mean of as many values as there are, drawn in blocks; a block goes on at the start after the end.
fn resampled_mean(values: &[f64], block: usize, random: &mut SplitMix64) -> f64 {
    let (mut sum, mut left) = (0.0, values.len());
    while left > 0 {
        let (start, length) = (random.below(values.len()), block.min(left));
        sum += (start..start + length)
            .map(|at| values[at % values.len()])
            .sum::<f64>();
        left -= length;
    }
    sum / values.len() as f64
}

fn middle(means: impl Iterator<Item = f64>) -> [f64; 2] {
    let mut sorted: Vec<f64> = means.collect();
    sorted.sort_unstable_by(f64::total_cmp);
    [0.025, 0.975].map(|q| sorted[(q * (sorted.len() - 1) as f64).round() as usize])
}

/// SplitMix64 (Steele et al. 2014).
struct SplitMix64(u64);

impl SplitMix64 {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((u128::from(z) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values whose neighbours are alike: each is half the one before and half new.
    fn series(seed: u64, steps: usize, scale: f64) -> Vec<f64> {
        let mut random = SplitMix64(seed);
        let mut value = 0.5;
        (0..steps)
            .map(|_| {
                value = 0.5 * value + 0.5 * (random.below(1000) as f64 / 999.0);
                scale * value
            })
            .collect()
    }

    #[test]
    fn blocks_keep_tests_honest_where_neighbours_are_alike() {
        let (mut paired, mut unpaired, mut covered) = (0, 0, 0);
        for seed in 0..60 {
            let (first, second) = (series(seed, 200, 1.0), series(seed + 1000, 200, 1.0));
            let differences: Vec<f64> = second.iter().zip(&first).map(|(b, a)| b - a).collect();
            let block = block_length(200);
            paired += usize::from(swap_test(&differences, block) < 0.05);
            unpaired += usize::from(deal_test(&first, &second, block) < 0.05);
            let [low, high] = difference_interval(&first, &second, block);
            covered += usize::from(low <= 0.0 && 0.0 <= high);
        }
        // 3 of 60 are expected; without blocks it would be about 15.
        assert!(paired <= 8 && unpaired <= 8, "{paired} {unpaired}");
        assert!(covered >= 50, "{covered}");
    }

    #[test]
    fn a_true_difference_is_found() {
        let (first, second) = (series(1, 200, 1.0), series(2, 200, 1.3));
        let differences: Vec<f64> = second.iter().zip(&first).map(|(b, a)| b - a).collect();
        assert!(swap_test(&differences, 6) < 0.01);
        assert!(deal_test(&first, &second, 6) < 0.01);
        assert!(difference_interval(&first, &second, 6)[0] > 0.0);
    }

    #[test]
    fn alike_is_no_difference() {
        let one = series(3, 50, 1.0);
        assert_eq!(swap_test(&[0.0; 50], 4), 1.0);
        assert_eq!(deal_test(&one, &one, 4), 1.0);
    }
}
