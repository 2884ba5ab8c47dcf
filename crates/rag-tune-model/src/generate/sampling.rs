//! Which token comes next: the likeliest, or one drawn from the likeliest few.

use std::cmp::Ordering;

use rag_tune_kernels::dropout::keyed;
use rag_tune_kernels::{Tensor, argmax};

use crate::error::ModelError;

/// How the next token is chosen from its logits.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Sampling {
    /// The highest logit, the lower id among equals.
    #[default]
    Greedy,
    /// Drawn by probability from the nucleus: the fewest tokens, likeliest first, that hold `top_p` of it
    /// (Holtzman et al. 2020, arXiv:1904.09751).
    Nucleus {
        /// What logits are divided by, above 0: below 1 likely tokens become likelier, above 1 less likely.
        temperature: f32,
        /// Share of the probability that is drawn from, in `(0, 1]`.
        top_p: f32,
        /// With the row's index and the token's place in the answer, what fixes each draw: neither the number of rows in
        /// flight nor their order plays a part.
        seed: u64,
    },
}

impl Sampling {
    /// Whether its numbers are in range.
    ///
    /// # Errors
    /// [`ModelError::Generation`] naming the one that is not.
    pub fn check(&self) -> Result<(), ModelError> {
        let Self::Nucleus {
            temperature, top_p, ..
        } = *self
        else {
            return Ok(());
        };
        let wrong = |what, got: f32, expected| ModelError::Generation {
            what,
            got: got.to_string(),
            expected,
        };
        if !(temperature.is_finite() && temperature > 0.0) {
            let expected = "a number above 0; greedy answers need none";
            return Err(wrong("the temperature", temperature, expected));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(wrong("top_p", top_p, "above 0 and at most 1"));
        }
        Ok(())
    }

    /// The next token of each row `(index, place in the answer)`, from the first rows of logits `[.., vocab]`.
    pub(super) fn choose(
        &self,
        logits: &Tensor,
        rows: &[(usize, usize)],
    ) -> Result<Vec<u32>, ModelError> {
        if *self == Self::Greedy {
            // Where the logits are: a device's would take as long to bring over as to compute.
            return Ok(argmax::of_rows(logits, rows.len())?);
        }
        let logits = logits.to_host()?;
        let choose = |(at, (row, place)): (usize, &(usize, usize))| {
            self.choose_one(logits.row(at), *row, *place)
        };
        Ok(rows.iter().enumerate().map(choose).collect())
    }

    /// The next token of `row`, its `place`-th, from its logits `[vocab]`.
    fn choose_one(&self, logits: &[f32], row: usize, place: usize) -> u32 {
        match *self {
            Self::Greedy => argmax::of_row(logits),
            Self::Nucleus {
                temperature,
                top_p,
                seed,
            } => {
                let bits = keyed(seed, &[row as u64, place as u64]);
                // 53 bits: every f64 of this form in [0, 1) is as likely as any other.
                let uniform = (bits >> 11) as f64 / (1_u64 << 53) as f64;
                drawn(&nucleus(logits, temperature, top_p), uniform)
                    .unwrap_or_else(|| argmax::of_row(logits))
            }
        }
    }
}

/// Tokens with their probabilities times a common factor, likeliest first, the lower id among equals. Empty where no logit is a
/// finite maximum.
fn nucleus(logits: &[f32], temperature: f32, top_p: f32) -> Vec<(u32, f64)> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !max.is_finite() {
        return Vec::new();
    }
    let weight = |logit: f32| (f64::from(logit - max) / f64::from(temperature)).exp();
    let weights = (0..).zip(logits.iter().map(|&logit| weight(logit)));
    // A logit that is no number is never drawn.
    let mut weights: Vec<(u32, f64)> = weights.filter(|(_, weight)| *weight > 0.0).collect();
    let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
    let wanted = f64::from(top_p) * total;
    let likelier = |a: &(u32, f64), b: &(u32, f64)| {
        b.1.partial_cmp(&a.1)
            .unwrap_or(Ordering::Equal)
            .then(a.0.cmp(&b.0))
    };
    // The nucleus is mostly small: the likeliest are sorted, and more of them only where they do not suffice.
    let mut sorted = 64;
    loop {
        sorted = sorted.min(weights.len());
        if sorted < weights.len() {
            weights.select_nth_unstable_by(sorted, likelier);
        }
        weights[..sorted].sort_unstable_by(likelier);
        let mut sum = 0.0;
        let end = weights[..sorted].iter().position(|(_, weight)| {
            sum += weight;
            sum >= wanted
        });
        match end {
            Some(last) => weights.truncate(last + 1),
            None if sorted < weights.len() => {
                sorted *= 8;
                continue;
            }
            // The sum in this order may end a rounding error below the total.
            None => {}
        }
        return weights;
    }
}

/// The token at which the sum of the weights passes `uniform`, in `[0, 1)`, of their total.
fn drawn(nucleus: &[(u32, f64)], uniform: f64) -> Option<u32> {
    let total: f64 = nucleus.iter().map(|(_, weight)| weight).sum();
    let mut left = uniform * total;
    for (id, weight) in nucleus {
        left -= weight;
        if left < 0.0 {
            return Some(*id);
        }
    }
    nucleus.last().map(|(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Probabilities 0.1, 0.5, 0.1, 0.3 at temperature 1.
    fn logits() -> Vec<f32> {
        [0.1_f32, 0.5, 0.1, 0.3].map(f32::ln).to_vec()
    }

    /// How often each token is drawn in `draws` places of one row.
    fn shares(sampling: Sampling, draws: usize) -> [f64; 4] {
        let mut counts = [0.0; 4];
        for place in 0..draws {
            counts[sampling.choose_one(&logits(), 3, place) as usize] += 1.0 / draws as f64;
        }
        counts
    }

    fn with(temperature: f32, top_p: f32) -> Sampling {
        Sampling::Nucleus {
            temperature,
            top_p,
            seed: 7,
        }
    }

    #[test]
    fn tokens_are_drawn_by_their_probabilities() {
        // Squared and normalised where the temperature is 1/2: 0.01, 0.25, 0.01, 0.09 of 0.36.
        let cases = [
            (with(1.0, 1.0), [0.1, 0.5, 0.1, 0.3]),
            (
                with(0.5, 1.0),
                [1.0 / 36.0, 25.0 / 36.0, 1.0 / 36.0, 9.0 / 36.0],
            ),
            (with(1.0, 0.75), [0.0, 0.625, 0.0, 0.375]),
            (with(1.0, 0.85), [1.0 / 9.0, 5.0 / 9.0, 0.0, 3.0 / 9.0]),
            (with(1.0, 0.5), [0.0, 1.0, 0.0, 0.0]),
        ];
        for (sampling, expected) in cases {
            let got = shares(sampling, 40_000);
            for (got, expected) in got.iter().zip(expected) {
                // Six standard errors of a share over 40 000 draws, at most 0.0025 each.
                assert!(
                    (got - expected).abs() < 0.015,
                    "{sampling:?}: {got} for {expected}"
                );
                assert!(
                    expected > 0.0 || *got == 0.0,
                    "{sampling:?}: outside the nucleus"
                );
            }
        }
    }

    #[test]
    fn a_draw_depends_on_seed_row_and_place_alone() {
        let flat = vec![0.0; 1000];
        let of = |seed, row, place| {
            let sampling = Sampling::Nucleus {
                temperature: 1.0,
                top_p: 1.0,
                seed,
            };
            sampling.choose_one(&flat, row, place)
        };
        assert_eq!(of(1, 2, 3), of(1, 2, 3));
        let others = [of(2, 2, 3), of(1, 3, 3), of(1, 2, 4), of(1, 3, 2)];
        assert!(
            others.iter().all(|other| *other != of(1, 2, 3)),
            "{others:?}"
        );
    }

    /// More tokens than are sorted at first, and in no order.
    #[test]
    fn a_large_nucleus_is_the_likeliest_tokens() {
        let logits: Vec<f32> = (0..1000)
            .map(|id| (id * 7919 % 1000) as f32 / 500.0)
            .collect();
        let found = nucleus(&logits, 1.0, 0.9);
        let mut all = nucleus(&logits, 1.0, 1.0);
        assert_eq!(all.len(), 1000);
        assert!(all.is_sorted_by(|a, b| a.1 > b.1));
        let total: f64 = all.iter().map(|(_, weight)| weight).sum();
        let sum = |tokens: &[(u32, f64)]| tokens.iter().map(|(_, weight)| weight).sum::<f64>();
        assert!(found.len() > 64 && found.len() < 1000);
        assert!(sum(&found) >= 0.9 * total && sum(&found[..found.len() - 1]) < 0.9 * total);
        all.truncate(found.len());
        assert!(found == all);
    }

    #[test]
    fn what_cannot_be_drawn_from_is_refused_or_greedy() {
        for (temperature, top_p, what) in [
            (0.0, 1.0, "the temperature is 0"),
            (-1.0, 1.0, "the temperature is -1"),
            (f32::NAN, 1.0, "the temperature is NaN"),
            (f32::INFINITY, 1.0, "the temperature is inf"),
            (1.0, 0.0, "top_p is 0"),
            (1.0, 1.5, "top_p is 1.5"),
            (1.0, f32::NAN, "top_p is NaN"),
        ] {
            let error = with(temperature, top_p).check().unwrap_err().to_string();
            assert!(error.starts_with(what), "{error}");
        }
        assert!(with(1e-30, 1e-30).check().is_ok() && Sampling::Greedy.check().is_ok());
        let logits = [f32::NAN, 1.0, f32::NEG_INFINITY];
        assert_eq!(with(1e-30, 1.0).choose_one(&logits, 0, 0), 1);
        assert_eq!(with(1.0, 1.0).choose_one(&[1.0, f32::INFINITY], 0, 0), 1);
        let logits = Tensor::from_vec(2, 3, vec![1.0, 3.0, 3.0, 2.0, 1.0, 0.0]).unwrap();
        let chosen = Sampling::Greedy.choose(&logits, &[(0, 0), (1, 0)]);
        assert_eq!(chosen.unwrap(), [1, 0], "the lower id among equals");
        let chosen = with(1e-30, 1.0).choose(&logits, &[(0, 0)]).unwrap();
        assert_eq!(chosen.len(), 1, "of the rows that are asked for");
    }
}
