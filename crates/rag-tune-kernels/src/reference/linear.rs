//! Products with a frozen weight, and its quantisation.

use crate::{Matrix, Tensor};

/// Row-wise absmax codes of a weight.
pub struct QuantizedRows {
    /// `[out, in]`, row-major.
    pub codes: Vec<i8>,
    /// `[out]`: `absmax / 127`.
    pub row_scale: Vec<f32>,
    in_features: usize,
}

impl QuantizedRows {
    /// The value that `weight[out, at]` became.
    pub fn value(&self, out: usize, at: usize) -> f32 {
        f32::from(self.codes[out * self.in_features + at]) * self.row_scale[out]
    }
}

/// `codes = round(W * 127 / absmax)`, row by row (arXiv:2208.07339).
pub fn quantize_rows(out_features: usize, in_features: usize, weights: &[f32]) -> QuantizedRows {
    let mut result = QuantizedRows {
        codes: Vec::new(),
        row_scale: Vec::new(),
        in_features,
    };
    for out in 0..out_features {
        let row = &weights[out * in_features..(out + 1) * in_features];
        let absmax = row.iter().map(|value| value.abs()).fold(0.0, f32::max);
        result.row_scale.push(absmax / 127.0);
        let code = |value: &f32| match absmax {
            0.0 => 0,
            _ => (value * 127.0 / absmax).round_ties_even() as i8,
        };
        result.codes.extend(row.iter().map(code));
    }
    result
}

fn values(weight: &Matrix) -> Tensor {
    let ids: Vec<u32> = (0..weight.shape()[0] as u32).collect();
    weight.gather_rows(&ids).expect("every id is a row")
}

/// `y = x W^T`.
pub fn linear(x: &Tensor, weight: &Matrix) -> Tensor {
    let weight = values(weight);
    Tensor::from_fn(x.rows(), weight.rows(), |token, out| {
        let products = x.row(token).iter().zip(weight.row(out));
        products
            .map(|(x, w)| f64::from(*x) * f64::from(*w))
            .sum::<f64>() as f32
    })
}

/// `dx += dy W`.
pub fn linear_backward(dy: &Tensor, weight: &Matrix, dx: &mut Tensor) {
    let weight = values(weight);
    for token in 0..dy.rows() {
        for at in 0..weight.cols() {
            let outs = 0..weight.rows();
            let sum: f64 = outs
                .map(|out| f64::from(dy.row(token)[out]) * f64::from(weight.row(out)[at]))
                .sum();
            dx.row_mut(token)[at] += sum as f32;
        }
    }
}
