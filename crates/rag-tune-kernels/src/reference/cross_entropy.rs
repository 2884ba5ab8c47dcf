//! Head and cross entropy, token by token.

use crate::{Matrix, Tensor};

/// `(sum, gradient_scale * d sum / d hidden)`.
pub fn cross_entropy(
    hidden: &Tensor,
    head: &Matrix,
    labels: &[u32],
    gradient_scale: f32,
) -> (f64, Tensor) {
    let mut sum = 0.0;
    let mut d_logits = super::linear(hidden, head);
    for (token, &label) in labels.iter().enumerate() {
        let row = d_logits.row_mut(token);
        let lse = row
            .iter()
            .map(|logit| f64::from(*logit).exp())
            .sum::<f64>()
            .ln();
        sum += lse - f64::from(row[label as usize]);
        for (id, logit) in row.iter_mut().enumerate() {
            let one_hot = if id == label as usize { 1.0 } else { 0.0 };
            *logit =
                (f64::from(gradient_scale) * ((f64::from(*logit) - lse).exp() - one_hot)) as f32;
        }
    }
    let mut d_hidden = Tensor::zeros(hidden.rows(), hidden.cols());
    super::linear_backward(&d_logits, head, &mut d_hidden);
    (sum, d_hidden)
}
