//! cross_entropy: the output head and its loss in one operation, in chunks of tokens.
//!
//! `loss = -sum_t log softmax(h_t W^T)[label_t]`. The gradient of the hidden states is made in the
//! same pass, so the `[tokens, vocab]` logits never exist whole. Only tokens that carry loss
//! are passed in.

use crate::cpu;
use crate::cuda;
use crate::error::{KernelError, check_shape};
use crate::linear::{self, Write};
use crate::matrix::{Compute, Matrix};
use crate::tensor::Tensor;

/// Tokens of a chunk: 256 rows of logits of a 49 k vocabulary take 50 MB.
pub const CHUNK: usize = 256;

/// Loss of some tokens, and its gradient.
#[derive(Debug, Clone)]
pub struct Loss {
    /// Sum over the tokens, in nats.
    pub sum: f64,
    /// `gradient_scale * d sum / d hidden`: `[tokens, hidden]`
    pub d_hidden: Tensor,
}

/// Sum of the cross entropy, and `gradient_scale` times its gradient.
///
/// # Shapes
/// `hidden`: `[tokens, hidden]`, `head`: `[vocab, hidden]`, `labels`: `[tokens]`, each below `vocab`
///
/// # Errors
/// [`KernelError`] if the shapes do not fit or a label is not in the vocabulary.
pub fn cross_entropy(
    hidden: &Tensor,
    head: &Matrix,
    labels: &[u32],
    gradient_scale: f32,
    compute: Compute,
) -> Result<Loss, KernelError> {
    check(hidden, head, labels)?;
    if let Some(values) = hidden.on_device() {
        let (sum, d_hidden) =
            cuda::matrix::cross_entropy(values.bf16()?.buffer(), head, labels, gradient_scale)?;
        return Ok(Loss { sum, d_hidden });
    }
    let hidden_size = hidden.cols();
    let mut loss = Loss {
        sum: 0.0,
        d_hidden: Tensor::zeros(0, hidden_size),
    };
    let mut d_hidden = Vec::with_capacity(labels.len() * hidden_size);
    for (index, labels) in labels.chunks(CHUNK).enumerate() {
        let mut logits = chunk_logits(hidden, head, index, labels.len(), compute)?;
        loss.sum +=
            cpu::cross_entropy::loss_and_gradient(logits.data_mut(), labels, gradient_scale);
        let mut d_chunk = Tensor::stale(labels.len(), hidden_size);
        linear::backward(&logits, head, compute, Write::Set, &mut d_chunk)?;
        d_hidden.extend_from_slice(d_chunk.data());
    }
    loss.d_hidden = Tensor::from_vec(labels.len(), hidden_size, d_hidden)?;
    Ok(loss)
}

/// The sum of [`cross_entropy`] in nats, to the bit, without its gradient.
///
/// # Errors
/// As [`cross_entropy`].
pub fn cross_entropy_sum(
    hidden: &Tensor,
    head: &Matrix,
    labels: &[u32],
    compute: Compute,
) -> Result<f64, KernelError> {
    check(hidden, head, labels)?;
    if let Some(values) = hidden.on_device() {
        return cuda::matrix::cross_entropy_sum(values.bf16()?.buffer(), head, labels);
    }
    let mut sum = 0.0;
    for (index, labels) in labels.chunks(CHUNK).enumerate() {
        let mut logits = chunk_logits(hidden, head, index, labels.len(), compute)?;
        sum += cpu::cross_entropy::loss_and_gradient(logits.data_mut(), labels, 0.0);
    }
    Ok(sum)
}

fn check(hidden: &Tensor, head: &Matrix, labels: &[u32]) -> Result<(), KernelError> {
    let [vocab, hidden_size] = head.shape();
    check_shape("cross_entropy", "labels", &[labels.len()], &[hidden.rows()])?;
    check_shape(
        "cross_entropy",
        "hidden",
        &hidden.shape(),
        &[labels.len(), hidden_size],
    )?;
    if let Some(label) = labels.iter().find(|label| **label as usize >= vocab) {
        let problem = format!("label {label}, the vocabulary has {vocab}");
        return Err(KernelError::Value {
            operation: "cross_entropy",
            problem,
        });
    }
    Ok(())
}

/// Logits `[tokens, vocab]` of the `index`-th chunk.
fn chunk_logits(
    hidden: &Tensor,
    head: &Matrix,
    index: usize,
    tokens: usize,
    compute: Compute,
) -> Result<Tensor, KernelError> {
    let rows: Vec<usize> = (index * CHUNK..index * CHUNK + tokens).collect();
    let chunk = hidden.gather_rows(&rows)?;
    linear::forward(&linear::Input::new(&chunk, compute), head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use crate::reference::testing::{max_error, noise};

    #[test]
    fn cross_entropy_matches_reference() {
        for (tokens, hidden_size, vocab) in [(1, 3, 2), (7, 16, 50), (300, 33, 101)] {
            let mut hidden = noise(tokens, hidden_size, 1);
            hidden.data_mut().iter_mut().for_each(|value| *value *= 5.0);
            let head =
                Matrix::f32(vocab, hidden_size, noise(vocab, hidden_size, 2).into_vec()).unwrap();
            let labels: Vec<u32> = (0..tokens)
                .map(|token| ((token * 7) % vocab) as u32)
                .collect();
            let loss = cross_entropy(&hidden, &head, &labels, 0.5, Compute::F32).unwrap();
            let (sum, d_hidden) = reference::cross_entropy(&hidden, &head, &labels, 0.5);
            assert!(
                (loss.sum - sum).abs() < 1e-4 * tokens as f64,
                "{} {sum}",
                loss.sum
            );
            assert!(max_error(&loss.d_hidden, &d_hidden) < 1e-5);
            let alone = cross_entropy_sum(&hidden, &head, &labels, Compute::F32).unwrap();
            assert_eq!(alone, loss.sum, "the gradient changes nothing");
        }
    }

    #[test]
    fn a_label_outside_the_vocabulary_is_refused() {
        let head = Matrix::f32(2, 1, vec![0.0; 2]).unwrap();
        let error =
            cross_entropy(&Tensor::zeros(1, 1), &head, &[2], 1.0, Compute::F32).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cross_entropy: label 2, the vocabulary has 2"
        );
    }
}
