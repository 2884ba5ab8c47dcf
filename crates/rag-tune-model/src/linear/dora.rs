//! DoRA (arXiv:2402.09353): a learned length for every row of the adapted weight.
//!
//! `y = factor * (W + scaling B A) x`, `factor[o] = magnitude[o] / norm[o]`, `norm[o]` the length
//! of row `o` of `W + scaling B A`, which the backward pass takes as a constant (section 4.3).
//! As in PEFT, dropout falls on everything but the base's own output:
//! `y = W x + (factor - 1) * W d(x) + factor * scaling B A d(x)`.
//!
//! The norms change once a step and are computed once a pass, row by row in f32, for about
//! `2 * rank * out * in` operations: as much as `rank` more tokens in the forward pass. Training
//! also needs `W d(x)` in the backward pass, which is computed again rather than kept: three
//! products with the base in place of two, five with dropout.

use rag_tune_kernels::{KernelError, Matrix, Tensor};
use rayon::prelude::*;

use crate::lora::LoraFactors;

/// Columns that one task sums over: a cache line's worth, several times.
const COLUMNS_PER_TASK: usize = 64;

/// Norms of the rows of `weight + scaling B A`, `[out]`; of `weight` alone without an update.
pub(crate) fn row_norms(
    weight: &Matrix,
    update: Option<(&LoraFactors, f32)>,
) -> Result<Vec<f32>, KernelError> {
    let [out_features, in_features] = weight.shape();
    let rows = (0..out_features).into_par_iter().map_init(
        || vec![0.0; in_features],
        |row, out| {
            weight.read_row(out, row)?;
            if let Some((lora, scaling)) = update {
                add_update(row, out, lora, scaling);
            }
            Ok(length(row))
        },
    );
    rows.collect()
}

/// Euclidean length.
pub(crate) fn length(row: &[f32]) -> f32 {
    let square: f64 = row.iter().map(|value| f64::from(*value).powi(2)).sum();
    square.sqrt() as f32
}

/// What a row of length `norm` is multiplied by to have the length `magnitude`.
pub(crate) fn factor(magnitude: f32, norm: f32) -> f32 {
    match norm {
        // A row of zeros has no direction: 0 / 0 in PEFT. It stays a row of zeros.
        0.0 => 1.0,
        norm => magnitude / norm,
    }
}

/// `row += scaling * B[out, :] A`
pub(crate) fn add_update(row: &mut [f32], out: usize, lora: &LoraFactors, scaling: f32) {
    for (index, b) in lora.b.row(out).iter().enumerate() {
        let factor = scaling * b;
        let a = lora.a.row(index);
        row.iter_mut()
            .zip(a)
            .for_each(|(row, a)| *row += factor * a);
    }
}

/// What one layer needs of DoRA in a pass.
#[derive(Clone, Copy)]
pub(crate) struct Dora<'a> {
    /// `[1, out]`
    pub(crate) magnitude: &'a Tensor,
    /// `[out]`
    pub(crate) norms: &'a [f32],
}

impl Dora<'_> {
    /// What each output is multiplied by, `[out]`.
    pub(crate) fn factors(&self) -> Vec<f32> {
        let pairs = self.magnitude.data().iter().zip(self.norms);
        pairs
            .map(|(magnitude, norm)| factor(*magnitude, *norm))
            .collect()
    }

    /// Adds to the gradient of the magnitude, `[1, out]`: `sum_t d_output * output / factor`, over
    /// the norm. `base` is `W d(x)`, `update` `scaling B (A d(x))` summed against `d_output` already.
    pub(crate) fn add_gradient(
        &self,
        gradient: &mut Tensor,
        d_output: &Tensor,
        base: &Tensor,
        update: &[f32],
    ) {
        let columns = gradient.data_mut().par_chunks_mut(COLUMNS_PER_TASK);
        columns.enumerate().for_each(|(task, gradient)| {
            let first = task * COLUMNS_PER_TASK;
            let range = first..first + gradient.len();
            let mut sums = update[range.clone()].to_vec();
            for token in 0..d_output.rows() {
                let d_output = &d_output.row(token)[range.clone()];
                let base = &base.row(token)[range.clone()];
                for ((sum, d_output), base) in sums.iter_mut().zip(d_output).zip(base) {
                    *sum += d_output * base;
                }
            }
            for ((gradient, sum), norm) in gradient.iter_mut().zip(sums).zip(&self.norms[range]) {
                if *norm > 0.0 {
                    *gradient += sum / norm;
                }
            }
        });
    }
}

/// Row `o` of `b` `[out, rank]` times `factors[o]`.
pub(crate) fn scaled_rows(b: &Tensor, factors: &[f32]) -> Tensor {
    let mut scaled = b.clone();
    for (row, factor) in factors.iter().enumerate() {
        scaled.row_mut(row).iter_mut().for_each(|b| *b *= factor);
    }
    scaled
}

/// Column `o` of `x` `[tokens, out]` times `factors[o]`.
pub(crate) fn scale_columns(x: &mut Tensor, factors: &[f32]) {
    x.data_mut()
        .par_chunks_mut(factors.len().max(1))
        .for_each(|row| {
            row.iter_mut()
                .zip(factors)
                .for_each(|(x, factor)| *x *= factor)
        });
}

/// `y += (factors - 1) * x`, by columns.
pub(crate) fn add_rescaled(y: &mut Tensor, x: &Tensor, factors: &[f32]) {
    let width = factors.len().max(1);
    let rows = y.data_mut().par_chunks_mut(width);
    rows.zip(x.data().par_chunks(width)).for_each(|(y, x)| {
        for ((y, x), factor) in y.iter_mut().zip(x).zip(factors) {
            *y += (factor - 1.0) * x;
        }
    });
}

/// `(factors - 1) * x`, by columns.
pub(crate) fn rescaled(x: &Tensor, factors: &[f32]) -> Tensor {
    let mut y = Tensor::zeros(x.rows(), x.cols());
    add_rescaled(&mut y, x, factors);
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn row_norms_are_those_of_the_sum(
            (out, inner, rank, values) in (1_usize..70, 1_usize..40, 1_usize..5).prop_flat_map(
                |(out, inner, rank)| {
                    let count = out * inner + rank * inner + out * rank;
                    let values = prop::collection::vec(-2.0_f32..2.0, count);
                    (Just(out), Just(inner), Just(rank), values)
                },
            )
        ) {
            let (weight, rest) = values.split_at(out * inner);
            let (a, b) = rest.split_at(rank * inner);
            let lora = LoraFactors {
                a: Tensor::from_vec(rank, inner, a.to_vec()).unwrap(),
                b: Tensor::from_vec(out, rank, b.to_vec()).unwrap(),
                magnitude: None,
            };
            let matrix = Matrix::int8(out, inner, weight).unwrap();
            let norms = row_norms(&matrix, Some((&lora, 0.5))).unwrap();
            let mut row = vec![0.0; inner];
            for (o, norm) in norms.iter().enumerate() {
                matrix.read_row(o, &mut row).unwrap();
                let expected = (0..inner)
                    .map(|i| {
                        let update: f64 = (0..rank)
                            .map(|r| f64::from(b[o * rank + r]) * f64::from(a[r * inner + i]))
                            .sum();
                        (f64::from(row[i]) + 0.5 * update).powi(2)
                    })
                    .sum::<f64>()
                    .sqrt();
                prop_assert!((f64::from(*norm) - expected).abs() < 1e-5 * (1.0 + expected));
            }
        }
    }

    #[test]
    fn a_row_of_zeros_stays_zero_and_finite() {
        let dora = Dora {
            magnitude: &Tensor::zeros(1, 1),
            norms: &[0.0],
        };
        assert_eq!(dora.factors(), [1.0]);
        let one = Tensor::from_vec(1, 1, vec![1.0]).unwrap();
        let mut gradient = Tensor::zeros(1, 1);
        dora.add_gradient(&mut gradient, &one, &Tensor::zeros(1, 1), &[0.0]);
        assert!(gradient.is_finite());
    }
}
