//! How far two models' predictions are apart, with little memory: weights are read block by block.
//!
//! [`Outcome::of`] runs one model over some rows; [`Outcome::drift_from`] compares two. All arithmetic is f32, so that what
//! differs is the weights. Memory is one block in f32, embedding and head, and a hidden state for each
//! token; a 7B model takes 2 to 3 GiB.

use std::ops::Range;

use rag_tune_kernels::{Sequences, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::config::{Compute, ModelConfig};
use crate::error::ModelError;
use crate::linear::AppliedAdapter;
use crate::llama::Llama;
use crate::loader::Loader;
use crate::lora::Adapter;
use crate::source::Source;

/// Positions whose logits are in memory at a time.
const POSITIONS_AT_A_TIME: usize = 128;

/// A text, and which of its tokens are predicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// `[tokens]`
    pub ids: Vec<u32>,
    /// The first token that is predicted, from 1: of a row of training the answer's first, of a text its second.
    pub first: usize,
}

impl Row {
    /// The positions that predict: each the token after it.
    fn positions(&self) -> Range<usize> {
        self.first - 1..self.ids.len() - 1
    }
}

/// What a model made of some rows.
pub struct Outcome<'a> {
    rows: &'a [Row],
    /// The model without its blocks, which have done their work.
    model: Llama,
    /// Of each row, the last block's output at its predicting positions, `[positions, hidden]`.
    states: Vec<Tensor>,
}

/// How far a model's predictions are from another's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// Largest difference of two logits.
    pub max_abs_logit_difference: f64,
    /// Mean difference of two logits, without signs.
    pub mean_abs_logit_difference: f64,
    /// Share of the positions at which both have the same most probable token.
    pub equal_argmax: f64,
    /// Mean Kullback-Leibler divergence of this model's next token from the other's, nats: `sum p (ln p - ln q)`, `p` the other's.
    pub kl_nats: f64,
    /// The largest of any position.
    pub max_kl_nats: f64,
}

impl<'a> Outcome<'a> {
    /// Runs a model, held as `config` says and computed in f32, over `rows`; `progress` as of [`Llama::load`].
    ///
    /// # Errors
    /// [`ModelError`] if the checkpoint cannot be read, or a row predicts nothing or does not fit the model.
    pub fn of(
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        adapter: Option<&Adapter>,
        rows: &'a [Row],
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, ModelError> {
        for row in rows {
            if row.first == 0 || row.first >= row.ids.len() {
                return Err(ModelError::Argument {
                    what: "a row's first predicted token",
                    got: row.first,
                    expected: format!("from 1 to {}", row.ids.len().saturating_sub(1)),
                });
            }
        }
        let config = ModelConfig {
            compute: Compute::F32,
            ..config.clone()
        };
        let source = Source::Checkpoint(checkpoint);
        let loader = Loader::new(source, &config)?;
        let model = Llama::without_blocks(source, &config, &loader)?;
        let sequences: Vec<Sequences> = rows
            .iter()
            .map(|row| Sequences::from_lengths(&[row.ids.len()]))
            .collect::<Result<_, _>>()?;
        let mut states: Vec<Tensor> = rows
            .iter()
            .map(|row| model.embedding.gather_rows(&row.ids))
            .collect::<Result<_, _>>()?;
        let layers = checkpoint.config().num_hidden_layers;
        for layer in 0..layers {
            progress(layer, layers);
            let block = loader.block(layer, checkpoint.config())?;
            let adapter = adapter.map(|adapter| adapter.of_block(layer));
            let applied = adapter.as_ref().map(|adapter| {
                AppliedAdapter::new(adapter, None, |(_, projection)| {
                    &block.weights[projection as usize]
                })
            });
            let applied = applied.transpose()?;
            for (state, sequences) in states.iter_mut().zip(&sequences) {
                let positions = sequences.positions();
                let context = model.context(&positions, applied.as_ref(), None);
                *state = block.output(std::mem::take(state), sequences, context)?;
            }
        }
        progress(layers, layers);
        for (state, row) in states.iter_mut().zip(rows) {
            let positions: Vec<usize> = row.positions().collect();
            *state = state.gather_rows(&positions)?;
        }
        Ok(Self {
            rows,
            model,
            states,
        })
    }

    /// Mean loss of the predicted tokens, nats.
    ///
    /// # Errors
    /// [`ModelError`] if a logit is not a number.
    pub fn loss(&self) -> Result<f64, ModelError> {
        let mut sum = 0.0;
        for (row, positions) in self.pieces() {
            let logits = self.logits(row, positions.clone())?;
            for (index, position) in positions.enumerate() {
                let label = self.rows[row].ids[self.rows[row].first + position];
                let log_probabilities = log_softmax(logits.row(index));
                let of_label = log_probabilities.get(label as usize).copied();
                sum -= of_label.unwrap_or(f64::NEG_INFINITY);
            }
        }
        finite("the loss", sum / self.positions() as f64)
    }

    /// Compares this model with `reference`, which has run over the same rows.
    ///
    /// # Errors
    /// [`ModelError`] if the rows or the vocabularies differ, or a logit is not a number.
    pub fn drift_from(&self, reference: &Self) -> Result<Drift, ModelError> {
        if self.rows != reference.rows {
            return Err(ModelError::Argument {
                what: "the reference's number of rows",
                got: reference.rows.len(),
                expected: "with the same tokens".to_owned(),
            });
        }
        let mut total = Sums::default();
        for (row, positions) in self.pieces() {
            let ours = self.logits(row, positions.clone())?;
            let theirs = reference.logits(row, positions)?;
            if ours.shape() != theirs.shape() {
                return Err(ModelError::Argument {
                    what: "the reference's vocabulary",
                    got: theirs.cols(),
                    expected: format!("{}", ours.cols()),
                });
            }
            let of_rows: Vec<Sums> = (0..ours.rows())
                .into_par_iter()
                .map(|index| Sums::of_position(ours.row(index), theirs.row(index)))
                .collect();
            // In order: the same figures whatever the number of threads.
            of_rows.iter().for_each(|sums| total.add(sums));
        }
        let positions = total.positions as f64;
        let mean = total.difference / (positions * self.model.config.vocab_size as f64);
        Ok(Drift {
            max_abs_logit_difference: finite("the logits' difference", total.max_difference)?,
            mean_abs_logit_difference: finite("the logits' difference", mean)?,
            equal_argmax: total.equal_argmax as f64 / positions,
            kl_nats: finite("the divergence", total.kl / positions)?,
            max_kl_nats: total.max_kl,
        })
    }

    /// Predicting positions of all rows.
    pub fn positions(&self) -> usize {
        self.states.iter().map(Tensor::rows).sum()
    }

    /// Rows with some of their predicting positions, counted from the row's first.
    fn pieces(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let rows = self.states.iter().map(Tensor::rows).enumerate();
        rows.flat_map(|(row, count)| {
            let starts = (0..count).step_by(POSITIONS_AT_A_TIME);
            starts.map(move |start| (row, start..count.min(start + POSITIONS_AT_A_TIME)))
        })
    }

    fn logits(&self, row: usize, positions: Range<usize>) -> Result<Tensor, ModelError> {
        let positions: Vec<usize> = positions.collect();
        self.model.logits(&self.states[row], &positions)
    }
}

/// What is summed over positions.
#[derive(Default)]
struct Sums {
    positions: usize,
    difference: f64,
    max_difference: f64,
    equal_argmax: usize,
    kl: f64,
    max_kl: f64,
}

impl Sums {
    fn of_position(ours: &[f32], theirs: &[f32]) -> Self {
        let differences = ours.iter().zip(theirs);
        let differences = differences.map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
        let (difference, max_difference) = differences.fold((0.0, 0.0), |(sum, max), value| {
            (sum + value, if value > max { value } else { max })
        });
        let (p, q) = (log_softmax(theirs), log_softmax(ours));
        let kl = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
        Self {
            positions: 1,
            difference,
            max_difference,
            equal_argmax: usize::from(argmax(ours) == argmax(theirs)),
            kl,
            max_kl: kl,
        }
    }

    fn add(&mut self, other: &Self) {
        self.positions += other.positions;
        self.difference += other.difference;
        self.max_difference = self.max_difference.max(other.max_difference);
        self.equal_argmax += other.equal_argmax;
        self.kl += other.kl;
        self.max_kl = self.max_kl.max(other.max_kl);
    }
}

/// Logarithms of the probabilities.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let max = f64::from(max);
    let sum: f64 = logits
        .iter()
        .map(|logit| (f64::from(*logit) - max).exp())
        .sum();
    let of_all = max + sum.ln();
    logits
        .iter()
        .map(|logit| f64::from(*logit) - of_all)
        .collect()
}

/// The first of the largest.
fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (index, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = index;
        }
    }
    best
}

fn finite(what: &str, value: f64) -> Result<f64, ModelError> {
    match value.is_finite() {
        true => Ok(value),
        false => Err(ModelError::NonFinite {
            what: what.to_owned(),
            count: 1,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4): KL = ln 2 / 4, and the first tokens are not the same.
    #[test]
    fn drift_of_one_position_by_hand() {
        let p = [2_f32.ln(), 0.0, 0.0];
        let q = [0.0, 2_f32.ln(), 0.0];
        let sums = Sums::of_position(&q, &p);
        assert!((sums.kl - 2_f64.ln() / 4.0).abs() < 1e-7, "{}", sums.kl);
        assert_eq!(sums.equal_argmax, 0);
        assert!((sums.max_difference - 2_f64.ln()).abs() < 1e-7);
        assert!((sums.difference - 2.0 * 2_f64.ln()).abs() < 1e-7);
        let same = Sums::of_position(&p, &p);
        assert_eq!((same.kl, same.difference, same.equal_argmax), (0.0, 0.0, 1));
    }

    #[test]
    fn a_shift_of_all_logits_is_no_divergence() {
        let logits = [1.0, -2.0, 0.5];
        let shifted = logits.map(|logit| logit + 3.0);
        assert!(Sums::of_position(&shifted, &logits).kl.abs() < 1e-12);
    }

    #[test]
    fn nan_is_an_error_and_no_drift() {
        let sums = Sums::of_position(&[f32::NAN, 0.0], &[0.0, 0.0]);
        assert!(finite("the divergence", sums.kl).is_err());
    }
}
