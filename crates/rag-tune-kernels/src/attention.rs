//! attention: causal self-attention over packed sequences, with grouped key/value heads.
//!
//! Per head: `out = softmax(scale q k^T + causal mask) v`, `scale = 1 / sqrt(head_dim)`. The
//! forward pass keeps only the log-sum-exp of each row; the backward pass recomputes the
//! probabilities from it (arXiv:2205.14135).

use crate::cpu;
use crate::error::{KernelError, check_shape};
use crate::sequences::Sequences;
use crate::tensor::Tensor;

/// How features divide into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub query: usize,
    /// Key/value heads, a divisor of `query`: `query / key_value` heads share one.
    pub key_value: usize,
    /// Features a head has.
    pub dim: usize,
}

/// Queries, keys and values of a packed batch, after RoPE.
#[derive(Clone, Copy)]
pub struct Qkv<'a> {
    /// `[tokens, query heads * dim]`
    pub q: &'a Tensor,
    /// `[tokens, key/value heads * dim]`
    pub k: &'a Tensor,
    /// `[tokens, key/value heads * dim]`
    pub v: &'a Tensor,
}

/// What the forward pass returns.
#[derive(Debug, Clone)]
pub struct AttentionOutput {
    /// `[tokens, query heads * dim]`
    pub out: Tensor,
    /// `[tokens, query heads]`: log-sum-exp of each row of scores, for the backward pass.
    pub lse: Tensor,
}

/// The gradients that the backward pass returns, shaped as their inputs.
#[derive(Debug, Clone)]
pub struct QkvGradient {
    /// d loss / d q
    pub q: Tensor,
    /// d loss / d k
    pub k: Tensor,
    /// d loss / d v
    pub v: Tensor,
}

/// A sequence's keys and values so far.
#[derive(Clone, Copy)]
pub struct KeyValues<'a> {
    /// `[positions, key/value heads * dim]`
    pub keys: &'a [f32],
    /// `[positions, key/value heads * dim]`
    pub values: &'a [f32],
}

fn check(
    operation: &'static str,
    qkv: Qkv<'_>,
    sequences: &Sequences,
    heads: Heads,
) -> Result<(), KernelError> {
    if heads.key_value == 0 || !heads.query.is_multiple_of(heads.key_value) {
        let problem = format!(
            "{} query heads do not share {} evenly",
            heads.query, heads.key_value
        );
        return Err(KernelError::Value { operation, problem });
    }
    let tokens = sequences.tokens();
    check_shape(
        operation,
        "q",
        &qkv.q.shape(),
        &[tokens, heads.query * heads.dim],
    )?;
    check_shape(
        operation,
        "k",
        &qkv.k.shape(),
        &[tokens, heads.key_value * heads.dim],
    )?;
    check_shape(
        operation,
        "v",
        &qkv.v.shape(),
        &[tokens, heads.key_value * heads.dim],
    )
}

/// Attention of every token to itself and the tokens before it in its sequence.
///
/// # Errors
/// [`KernelError`] if the shapes do not fit.
pub fn forward(
    qkv: Qkv<'_>,
    sequences: &Sequences,
    heads: Heads,
) -> Result<AttentionOutput, KernelError> {
    check("attention::forward", qkv, sequences, heads)?;
    Ok(cpu::attention::forward(qkv, sequences, heads))
}

/// Gradients of `q`, `k`, `v`, given that of `out`.
///
/// # Errors
/// [`KernelError`] if the shapes do not fit.
pub fn backward(
    d_out: &Tensor,
    qkv: Qkv<'_>,
    saved: &AttentionOutput,
    sequences: &Sequences,
    heads: Heads,
) -> Result<QkvGradient, KernelError> {
    check("attention::backward", qkv, sequences, heads)?;
    check_shape(
        "attention::backward",
        "d_out",
        &d_out.shape(),
        &qkv.q.shape(),
    )?;
    check_shape(
        "attention::backward",
        "out",
        &saved.out.shape(),
        &qkv.q.shape(),
    )?;
    check_shape(
        "attention::backward",
        "lse",
        &saved.lse.shape(),
        &[qkv.q.rows(), heads.query],
    )?;
    Ok(cpu::attention::backward(
        d_out, qkv, saved, sequences, heads,
    ))
}

/// Attention of one new token a sequence to all positions in its cache.
///
/// # Shapes
/// `q`: `[sequences, query heads * dim]`, one [`KeyValues`] a sequence, the new token's included;
/// returns the shape of `q`
///
/// # Errors
/// [`KernelError`] if the shapes do not fit or a cache is empty.
pub fn decode(q: &Tensor, caches: &[KeyValues<'_>], heads: Heads) -> Result<Tensor, KernelError> {
    let width = heads.key_value * heads.dim;
    check_shape(
        "attention::decode",
        "q",
        &q.shape(),
        &[caches.len(), heads.query * heads.dim],
    )?;
    for cache in caches {
        check_shape(
            "attention::decode",
            "values",
            &[cache.values.len()],
            &[cache.keys.len()],
        )?;
        if cache.keys.is_empty() || !cache.keys.len().is_multiple_of(width) {
            let problem = format!("{} cached values for {width} a position", cache.keys.len());
            return Err(KernelError::Value {
                operation: "attention::decode",
                problem,
            });
        }
    }
    Ok(cpu::attention::decode(q, caches, heads))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use crate::reference::testing::{max_error, noise};

    const CASES: [(&[usize], Heads); 4] = [
        (
            &[1],
            Heads {
                query: 1,
                key_value: 1,
                dim: 2,
            },
        ),
        (
            &[5, 1, 9],
            Heads {
                query: 4,
                key_value: 2,
                dim: 8,
            },
        ),
        (
            &[130, 64, 65],
            Heads {
                query: 3,
                key_value: 1,
                dim: 16,
            },
        ),
        (
            &[70],
            Heads {
                query: 9,
                key_value: 3,
                dim: 64,
            },
        ),
    ];

    fn inputs(tokens: usize, heads: Heads) -> [Tensor; 4] {
        let mut q = noise(tokens, heads.query * heads.dim, 1);
        q.data_mut().iter_mut().for_each(|value| *value *= 3.0);
        let width = heads.key_value * heads.dim;
        let d_out = noise(tokens, heads.query * heads.dim, 4);
        [q, noise(tokens, width, 2), noise(tokens, width, 3), d_out]
    }

    #[test]
    fn attention_matches_reference() {
        for (lengths, heads) in CASES {
            let sequences = Sequences::from_lengths(lengths).unwrap();
            let [q, k, v, d_out] = inputs(sequences.tokens(), heads);
            let qkv = Qkv {
                q: &q,
                k: &k,
                v: &v,
            };
            let output = forward(qkv, &sequences, heads).unwrap();
            let (expected, lse) = reference::attention(qkv, &sequences, heads);
            assert!(max_error(&output.out, &expected) < 1e-5, "{lengths:?}");
            assert!(max_error(&output.lse, &lse) < 1e-5, "{lengths:?}");
            let gradient = backward(&d_out, qkv, &output, &sequences, heads).unwrap();
            let expected = reference::attention_backward(&d_out, qkv, &sequences, heads);
            assert!(max_error(&gradient.q, &expected.q) < 5e-5, "{lengths:?} dq");
            assert!(max_error(&gradient.k, &expected.k) < 5e-5, "{lengths:?} dk");
            assert!(max_error(&gradient.v, &expected.v) < 5e-5, "{lengths:?} dv");
        }
    }

    #[test]
    fn decoding_equals_the_last_row_of_a_full_pass() {
        let (lengths, heads) = (
            &[7, 80],
            Heads {
                query: 4,
                key_value: 2,
                dim: 8,
            },
        );
        let sequences = Sequences::from_lengths(lengths).unwrap();
        let [q, k, v, _] = inputs(sequences.tokens(), heads);
        let full = forward(
            Qkv {
                q: &q,
                k: &k,
                v: &v,
            },
            &sequences,
            heads,
        )
        .unwrap();
        let width = heads.key_value * heads.dim;
        let caches: Vec<_> = sequences
            .ranges()
            .map(|range| KeyValues {
                keys: &k.data()[range.start * width..range.end * width],
                values: &v.data()[range.start * width..range.end * width],
            })
            .collect();
        let last = [lengths[0] - 1, lengths[0] + lengths[1] - 1];
        let decoded = decode(&q.gather_rows(&last).unwrap(), &caches, heads).unwrap();
        assert!(max_error(&decoded, &full.out.gather_rows(&last).unwrap()) < 1e-5);
    }
}
