//! Norm, rotary embedding, SwiGLU and the optimizer's update.

use crate::Tensor;
use crate::adamw::AdamW;

/// `y = x / sqrt(mean(x^2) + eps) * weight`.
pub fn rms_norm(x: &Tensor, weight: &[f32], eps: f32) -> Tensor {
    Tensor::from_fn(x.rows(), x.cols(), |row, col| {
        (f64::from(x.row(row)[col]) * inverse_rms(x.row(row), eps) * f64::from(weight[col])) as f32
    })
}

fn inverse_rms(row: &[f32], eps: f32) -> f64 {
    let mean_square = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / row.len() as f64;
    1.0 / (mean_square + f64::from(eps)).sqrt()
}

/// `dx_j = sum_i dy_i d y_i / d x_j`, from the Jacobian.
pub fn rms_norm_backward(dy: &Tensor, x: &Tensor, weight: &[f32], eps: f32) -> Tensor {
    Tensor::from_fn(x.rows(), x.cols(), |row, j| {
        let (x, dy) = (x.row(row), dy.row(row));
        let r = inverse_rms(x, eps);
        let mut sum = 0.0;
        for i in 0..x.len() {
            let same = if i == j { r } else { 0.0 };
            let through_rms = -f64::from(x[i]) * f64::from(x[j]) * r.powi(3) / x.len() as f64;
            sum += f64::from(dy[i]) * f64::from(weight[i]) * (same + through_rms);
        }
        sum as f32
    })
}

/// Where the largest number of `row` is, the first among equals; 0 where none is above -infinity.
pub fn argmax(row: &[f32]) -> u32 {
    let numbers = row.iter().copied().filter(|value| !value.is_nan());
    let largest = numbers.fold(f32::NEG_INFINITY, f32::max);
    let mut places = (0..).zip(row).filter(|(_, value)| **value == largest);
    match largest == f32::NEG_INFINITY {
        true => 0,
        false => places.next().map_or(0, |(at, _)| at),
    }
}

/// `y + bias`, row by row.
pub fn add_bias(y: &Tensor, bias: &[f32]) -> Tensor {
    Tensor::from_fn(y.rows(), y.cols(), |row, out| y.row(row)[out] + bias[out])
}

/// Pair `(x[i], x[i + d/2])` of each head of `d = 2 * frequencies.len()` features turned by `position * frequencies[i]`.
pub fn rope(x: &Tensor, positions: &[u32], frequencies: &[f64]) -> Tensor {
    let half = frequencies.len();
    let head_dim = 2 * half;
    Tensor::from_fn(x.rows(), x.cols(), |row, col| {
        let (head, at) = (col / head_dim, col % head_dim);
        let i = at % half;
        let angle = f64::from(positions[row]) * frequencies[i];
        let first = f64::from(x.row(row)[head * head_dim + i]);
        let second = f64::from(x.row(row)[head * head_dim + i + half]);
        let turned = if at < half {
            first * angle.cos() - second * angle.sin()
        } else {
            first * angle.sin() + second * angle.cos()
        };
        turned as f32
    })
}

/// `silu(gate) * up`.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Tensor {
    Tensor::from_fn(gate.rows(), gate.cols(), |row, col| {
        let (gate, up) = (f64::from(gate.row(row)[col]), f64::from(up.row(row)[col]));
        (gate / (1.0 + (-gate).exp()) * up) as f32
    })
}

/// `(d gate, d up)`.
pub fn swiglu_backward(dy: &Tensor, gate: &Tensor, up: &Tensor) -> (Tensor, Tensor) {
    let place = |row: usize, col: usize| {
        let at = |tensor: &Tensor| f64::from(tensor.row(row)[col]);
        (at(dy), at(gate), at(up))
    };
    let d_gate = Tensor::from_fn(dy.rows(), dy.cols(), |row, col| {
        let (dy, gate, up) = place(row, col);
        let sigmoid = 1.0 / (1.0 + (-gate).exp());
        (dy * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))) as f32
    });
    let d_up = Tensor::from_fn(dy.rows(), dy.cols(), |row, col| {
        let (dy, gate, _) = place(row, col);
        (dy * gate / (1.0 + (-gate).exp())) as f32
    });
    (d_gate, d_up)
}

/// One AdamW update (arXiv:1711.05101) of one parameter at step `step >= 1`: `(parameter, m, v)`.
pub fn adamw(
    config: &AdamW,
    step: u64,
    lr: f32,
    gradient: f32,
    state: (f32, f32, f32),
) -> (f32, f32, f32) {
    let (parameter, m, v) = state;
    let m = config.beta1 * m + (1.0 - config.beta1) * gradient;
    let v = config.beta2 * v + (1.0 - config.beta2) * gradient * gradient;
    let m_hat = f64::from(m) / (1.0 - f64::from(config.beta1).powi(step as i32));
    let v_hat = f64::from(v) / (1.0 - f64::from(config.beta2).powi(step as i32));
    let decayed = f64::from(parameter) * (1.0 - f64::from(lr) * f64::from(config.weight_decay));
    let moved = decayed - f64::from(lr) * m_hat / (v_hat.sqrt() + f64::from(config.epsilon));
    (moved as f32, m, v)
}
