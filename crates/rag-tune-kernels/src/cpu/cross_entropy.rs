use rayon::prelude::*;

use super::exp::{Exponentials, exponentials};

/// Turns logits `[tokens, vocab]` into `gradient_scale * (softmax - one hot)`; returns the loss.
pub(crate) fn loss_and_gradient(logits: &mut [f32], labels: &[u32], gradient_scale: f32) -> f64 {
    let vocab = logits.len() / labels.len().max(1);
    let rows = logits.par_chunks_mut(vocab.max(1)).zip(labels);
    let losses: Vec<f64> = rows
        .map(|(row, label)| {
            let target = row[*label as usize];
            let lse = row_gradient(row, gradient_scale);
            row[*label as usize] -= gradient_scale;
            f64::from(lse) - f64::from(target)
        })
        .collect();
    // Summed in the order of the rows: the result does not depend on the number of threads.
    losses.iter().sum()
}

/// `gradient_scale * softmax` in place; returns the log-sum-exp.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
fn row_gradient(row: &mut [f32], gradient_scale: f32) -> f32 {
    let Exponentials { max, sum } = exponentials(row);
    let factor = gradient_scale / sum;
    row.iter_mut().for_each(|value| *value *= factor);
    max + sum.ln()
}
