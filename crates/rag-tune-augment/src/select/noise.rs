//! Noise in the training prompts, and the order of the examples in a prompt.

use super::random::mix;
use super::{Example, NoiseDraw, Order};
use crate::RetrievalConfig;

/// What becomes of a training row's examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noise {
    /// They are the selector's.
    Keep,
    /// Others are drawn at random: by [`super::RandomSelector`] with [`Noise::seed`].
    Random,
    /// There are none.
    None,
}

/// Keeps this draw apart from those of [`super::RandomSelector`], which begin with the same seed.
const WHICH: u64 = 0x6e6f_6973_655f_6f66;
const WHAT: u64 = 0x6e6f_6973_655f_6578;

impl Noise {
    /// The noise of a train row: a function of its arguments alone, so that it does not change with
    /// the rows beside it. With [`NoiseDraw::Once`] all epochs are alike.
    ///
    /// Over rows, `Random` has probability `noise_random` and `None` has `noise_none`.
    pub fn of(seed: u64, epoch: usize, row: usize, retrieval: &RetrievalConfig) -> Self {
        let epoch = match retrieval.noise_draw {
            NoiseDraw::Once => 0,
            NoiseDraw::EachEpoch => epoch,
        };
        let of_epoch = mix(mix(seed ^ WHICH).wrapping_add(epoch as u64));
        // The upper 53 bits: a multiple of 2^-53 in [0, 1).
        let drawn = (mix(of_epoch.wrapping_add(row as u64)) >> 11) as f64 / (1u64 << 53) as f64;
        let RetrievalConfig {
            noise_random,
            noise_none,
            ..
        } = *retrieval;
        if drawn < f64::from(noise_random) {
            Self::Random
        // Added as f32, as `validate` does: shares that add up to 1 leave nothing over.
        } else if drawn < f64::from(noise_random + noise_none) {
            Self::None
        } else {
            Self::Keep
        }
    }

    /// The seed of the random examples in an epoch's prompts.
    pub fn seed(seed: u64, epoch: usize) -> u64 {
        mix(mix(seed ^ WHAT).wrapping_add(epoch as u64))
    }
}

/// Puts examples that come best first into the order of the prompt.
pub fn arrange(examples: &mut [Example], order: Order) {
    match order {
        Order::ClosestFirst => {}
        Order::ClosestLast => examples.reverse(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(noise_random: f32, noise_none: f32, noise_draw: NoiseDraw) -> RetrievalConfig {
        RetrievalConfig {
            noise_random,
            noise_none,
            noise_draw,
            ..RetrievalConfig::default()
        }
    }

    /// Counts of (random, none) lie within six standard deviations of their expectation, over rows of
    /// one epoch and over epochs of one row.
    #[test]
    fn shares_are_those_of_the_config() {
        const DRAWS: usize = 100_000;
        let config = config(0.1, 0.03, NoiseDraw::EachEpoch);
        let over_rows: Vec<Noise> = (0..DRAWS)
            .map(|row| Noise::of(7, 3, row, &config))
            .collect();
        let over_epochs: Vec<Noise> = (0..DRAWS)
            .map(|epoch| Noise::of(7, epoch, 3, &config))
            .collect();
        for drawn in [over_rows, over_epochs] {
            for (noise, share) in [(Noise::Random, 0.1), (Noise::None, 0.03)] {
                let count = drawn.iter().filter(|drawn| **drawn == noise).count() as f64;
                let (mean, sigma) = (
                    share * DRAWS as f64,
                    (share * (1.0 - share) * DRAWS as f64).sqrt(),
                );
                assert!((count - mean).abs() < 6.0 * sigma, "{noise:?}: {count}");
            }
        }
    }

    #[test]
    fn shares_of_none_and_all_are_exact() {
        for row in 0..10_000 {
            assert_eq!(
                Noise::of(1, 0, row, &RetrievalConfig::default()),
                Noise::Keep
            );
            let all = config(0.6, 0.4, NoiseDraw::Once);
            assert_ne!(Noise::of(1, 0, row, &all), Noise::Keep);
        }
    }

    #[test]
    fn epochs_differ_where_they_shall() {
        let rows = |seed, epoch, draw| -> Vec<Noise> {
            let config = config(0.5, 0.1, draw);
            (0..64)
                .map(|row| Noise::of(seed, epoch, row, &config))
                .collect()
        };
        let each = NoiseDraw::EachEpoch;
        assert_eq!(rows(1, 0, NoiseDraw::Once), rows(1, 9, NoiseDraw::Once));
        assert_eq!(rows(1, 0, NoiseDraw::Once), rows(1, 0, each));
        assert_ne!(rows(1, 0, each), rows(1, 1, each));
        assert_ne!(rows(1, 0, each), rows(2, 0, each));
        assert_ne!(Noise::seed(1, 0), Noise::seed(1, 1));
        assert_ne!(Noise::seed(1, 0), Noise::seed(2, 0));
    }

    #[test]
    fn the_closest_example_stands_where_the_config_says() {
        let example = |row| Example { row, score: 1.0 };
        let mut examples = [example(5), example(2)];
        arrange(&mut examples, Order::ClosestFirst);
        assert_eq!(examples[0].row, 5);
        arrange(&mut examples, Order::ClosestLast);
        assert_eq!(examples[0].row, 2);
    }
}
