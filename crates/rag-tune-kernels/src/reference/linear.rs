//! Products with a frozen weight.

use crate::{Matrix, Tensor};

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
