//! How the frequencies of RoPE are stretched for longer texts than a model was first trained on.

use std::f64::consts::TAU;

use rag_tune_kernels::rope::frequencies;
use serde::{Deserialize, Serialize};

/// What becomes of the plain frequencies `theta^(-2i/head_dim)`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub enum RopeScaling {
    /// They stay.
    #[default]
    None,
    /// Each is divided by the same factor (position interpolation, arXiv:2306.15595).
    Linear {
        /// From 1 on, a longer context.
        factor: f32,
    },
    /// Llama 3.1's: wavelengths above `original / low_freq_factor` tokens are stretched, those below
    /// `original / high_freq_factor` stay, and between them it goes over smoothly.
    Llama3 {
        /// By which long wavelengths are stretched.
        factor: f32,
        /// Of the longest wavelength that is not stretched in full.
        low_freq_factor: f32,
        /// Of the shortest wavelength that is stretched at all; above `low_freq_factor`.
        high_freq_factor: f32,
        /// The context before stretching, in tokens.
        original_max_position_embeddings: usize,
    },
    /// Each is divided by a number of its own, `[head_dim / 2]`: `rope_freqs.weight` of a GGUF.
    Divisors(Vec<f32>),
}

impl RopeScaling {
    /// The frequencies of heads of `head_dim` features, `[head_dim / 2]`, radians a position.
    pub(super) fn frequencies(&self, head_dim: usize, theta: f32) -> Vec<f64> {
        let plain = frequencies(head_dim, theta).into_iter();
        match self {
            Self::None => plain.collect(),
            Self::Linear { factor } => plain.map(|value| value / f64::from(*factor)).collect(),
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let factor = f64::from(*factor);
                let (low, high) = (f64::from(*low_freq_factor), f64::from(*high_freq_factor));
                let scaled = |frequency: f64| {
                    // Turns within the original context: below `low` stretched, above `high` not.
                    let turns = *original_max_position_embeddings as f64 * frequency / TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - kept) * frequency / factor + kept * frequency
                };
                plain.map(scaled).collect()
            }
            Self::Divisors(divisors) => {
                let pairs = plain.zip(divisors);
                pairs.map(|(value, by)| value / f64::from(*by)).collect()
            }
        }
    }

    /// What is impossible about it.
    pub(super) fn problem(&self, head_dim: usize) -> Option<String> {
        let not_positive = |(name, value): (&str, f32)| {
            let is_positive = value.is_finite() && value > 0.0;
            (!is_positive).then(|| format!("RoPE scaling's `{name}` = {value} must be positive"))
        };
        match self {
            Self::None => None,
            Self::Linear { factor } => not_positive(("factor", *factor)),
            Self::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original,
            } => {
                let values = [
                    ("factor", *factor),
                    ("low_freq_factor", *low),
                    ("high_freq_factor", *high),
                    ("original_max_position_embeddings", *original as f32),
                ];
                let order = || {
                    (low >= high).then(|| {
                        format!("RoPE scaling's `low_freq_factor` = {low} must be below `high_freq_factor` = {high}")
                    })
                };
                values.into_iter().find_map(not_positive).or_else(order)
            }
            Self::Divisors(divisors) if divisors.len() != head_dim / 2 => Some(format!(
                "{} divisors of RoPE's frequencies for heads of {head_dim} features",
                divisors.len()
            )),
            Self::Divisors(divisors) => {
                let values = divisors.iter().map(|value| ("rope_freqs.weight", *value));
                values.into_iter().find_map(not_positive)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA_3_1: RopeScaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };

    #[test]
    fn linear_scaling_divides_every_frequency() {
        let plain = RopeScaling::None.frequencies(8, 10_000.0);
        let scaled = RopeScaling::Linear { factor: 4.0 }.frequencies(8, 10_000.0);
        let quarters: Vec<f64> = plain.iter().map(|value| value / 4.0).collect();
        assert_eq!(scaled, quarters);
        let divisors = RopeScaling::Divisors(vec![4.0; 4]).frequencies(8, 10_000.0);
        assert_eq!(divisors, quarters);
    }

    /// Heads of 128, theta 500,000: wavelengths below 2048 tokens stay, those above 8192 are eight times as long.
    #[test]
    fn llama3_keeps_short_wavelengths_and_stretches_long_ones() {
        let plain = RopeScaling::None.frequencies(128, 500_000.0);
        let scaled = LLAMA_3_1.frequencies(128, 500_000.0);
        let mut between = 0;
        for (plain, scaled) in plain.iter().zip(scaled) {
            let wavelength = TAU / plain;
            let stretch = plain / scaled;
            match wavelength {
                short if short < 2048.0 => assert_eq!(stretch, 1.0),
                long if long > 8192.0 => assert!((stretch - 8.0).abs() < 1e-12),
                _ => {
                    between += 1;
                    assert!(stretch > 1.0 && stretch < 8.0, "{wavelength}: {stretch}");
                }
            }
        }
        assert!(between > 3);
    }

    #[test]
    fn impossible_values_are_named() {
        let linear = |factor| RopeScaling::Linear { factor };
        let llama3 = |low, original| RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: low,
            high_freq_factor: 4.0,
            original_max_position_embeddings: original,
        };
        for (scaling, name) in [
            (linear(0.0), "`factor` = 0"),
            (linear(-2.0), "`factor` = -2"),
            (linear(f32::NAN), "`factor` = NaN"),
            (llama3(4.0, 8192), "must be below"),
            (llama3(0.0, 8192), "`low_freq_factor` = 0"),
            (llama3(1.0, 0), "`original_max_position_embeddings` = 0"),
            (RopeScaling::Divisors(vec![1.0; 3]), "3 divisors"),
            (RopeScaling::Divisors(vec![1.0, 0.0, 1.0, 1.0]), "= 0 must"),
        ] {
            let problem = scaling.problem(8).unwrap();
            assert!(problem.contains(name), "{problem}");
        }
        assert_eq!(LLAMA_3_1.problem(8), None);
        assert_eq!(RopeScaling::None.problem(8), None);
    }
}
