//! Layer norm, activations and attention of encoders.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use crate::activation::Activation;
use crate::encoder_attention::DistanceBias;
use crate::layer_norm::LayerNorm;
use crate::{Sequences, Tensor};

/// `(x - mean) / sqrt(variance + eps) * weight + bias`.
pub fn layer_norm(x: &Tensor, norm: &LayerNorm) -> Tensor {
    Tensor::from_fn(x.rows(), x.cols(), |row, col| {
        let row: Vec<f64> = x.row(row).iter().copied().map(f64::from).collect();
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        let squares = row.iter().map(|x| (x - mean).powi(2));
        let variance = squares.sum::<f64>() / row.len() as f64;
        let normed = (row[col] - mean) / (variance + f64::from(norm.eps)).sqrt();
        (normed * f64::from(norm.weight[col]) + f64::from(norm.bias[col])) as f32
    })
}

/// `activation(x + bias)`.
pub fn activation(x: &Tensor, bias: &[f32], activation: Activation) -> Tensor {
    Tensor::from_fn(x.rows(), x.cols(), |row, col| {
        let x = f64::from(x.row(row)[col] + bias[col]);
        let y = match activation {
            Activation::Gelu => 0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2)),
            Activation::GeluTanh => {
                let inner = (2.0 / PI).sqrt() * (x + 0.044_715 * x.powi(3));
                0.5 * x * (1.0 + inner.tanh())
            }
            Activation::Relu => x.max(0.0),
        };
        y as f32
    })
}

/// `2 / sqrt(pi)` times the integral of `e^(-t^2)` from 0, as its power series
/// `sum of 2^n x^(2n+1) e^(-x^2) / (1 * 3 * ... * (2n+1))`, whose terms are all of one sign.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, 0.0);
    for n in 1..400 {
        sum += term;
        term *= 2.0 * x * x / f64::from(2 * n + 1);
    }
    sum * (-x * x).exp() * 2.0 / PI.sqrt()
}

/// `softmax(q k^T / sqrt(size) + distance bias) v`, score by score.
pub fn encoder_attention(
    query_key_value: &Tensor,
    bias: &[f32],
    sequences: &Sequences,
    heads: usize,
    distance_bias: Option<&DistanceBias>,
) -> Tensor {
    let hidden = query_key_value.cols() / 3;
    let size = hidden / heads;
    let at = |token: usize, col: usize| f64::from(query_key_value.row(token)[col] + bias[col]);
    let mut context = Tensor::zeros(query_key_value.rows(), hidden);
    for range in sequences.ranges() {
        for (query, head) in range.clone().flat_map(|q| (0..heads).map(move |h| (q, h))) {
            let dims = head * size..(head + 1) * size;
            let score = |key: usize| {
                let products = dims
                    .clone()
                    .map(|dim| at(query, dim) * at(key, hidden + dim));
                let added = distance_bias.map_or(0.0, |bias| {
                    let biases = bias.of_keys(head, query - range.start, range.len());
                    f64::from(biases[key - range.start])
                });
                products.sum::<f64>() / (size as f64).sqrt() + added
            };
            let weights: Vec<f64> = range.clone().map(|key| score(key).exp()).collect();
            let total: f64 = weights.iter().sum();
            for dim in dims.clone() {
                let weighted = weights.iter().zip(range.clone());
                let sum = weighted.map(|(weight, key)| weight * at(key, 2 * hidden + dim));
                context.row_mut(query)[dim] = (sum.sum::<f64>() / total) as f32;
            }
        }
    }
    context
}
