//! Causal attention over packed sequences, score by score.

use crate::attention::{Heads, Qkv, QkvGradient};
use crate::{Sequences, Tensor};

fn at(tensor: &Tensor, token: usize, col: usize) -> f64 {
    f64::from(tensor.row(token)[col])
}

/// Queries, keys and values as f32.
fn widened(qkv: Qkv<'_>) -> [Tensor; 3] {
    [qkv.q, qkv.k, qkv.v].map(|stored| stored.clone().into_tensor())
}

/// For each (query head, token): the tokens it attends to with their probabilities, and the log-sum-exp.
fn rows(
    [q, k, _]: &[Tensor; 3],
    sequences: &Sequences,
    heads: Heads,
    mut visit: impl FnMut(usize, usize, usize, Vec<f64>, f64),
) {
    let scale = 1.0 / (heads.dim as f64).sqrt();
    for range in sequences.ranges() {
        for head in 0..heads.query {
            let kv = head / (heads.query / heads.key_value);
            for query in range.clone() {
                let score = |key| {
                    let dims = 0..heads.dim;
                    dims.map(|d| {
                        at(q, query, head * heads.dim + d) * at(k, key, kv * heads.dim + d)
                    })
                    .sum::<f64>()
                        * scale
                };
                let scores: Vec<f64> = (range.start..=query).map(score).collect();
                let lse = scores.iter().map(|score| score.exp()).sum::<f64>().ln();
                let probabilities = scores.iter().map(|score| (score - lse).exp()).collect();
                visit(head, query, range.start, probabilities, lse);
            }
        }
    }
}

/// `(out, lse)`.
pub fn attention(qkv: Qkv<'_>, sequences: &Sequences, heads: Heads) -> (Tensor, Tensor) {
    let qkv = widened(qkv);
    let [q, _, v] = &qkv;
    let mut out = Tensor::zeros(q.rows(), q.cols());
    let mut lse_out = Tensor::zeros(q.rows(), heads.query);
    rows(
        &qkv,
        sequences,
        heads,
        |head, query, first, probabilities, lse| {
            let kv = head / (heads.query / heads.key_value);
            lse_out.row_mut(query)[head] = lse as f32;
            for d in 0..heads.dim {
                let terms = probabilities.iter().enumerate();
                let sum: f64 = terms
                    .map(|(key, p)| p * at(v, first + key, kv * heads.dim + d))
                    .sum();
                out.row_mut(query)[head * heads.dim + d] = sum as f32;
            }
        },
    );
    (out, lse_out)
}

/// `ds_ij = p_ij (dp_ij - sum_j p_ij dp_ij)`, and from it the three gradients.
pub fn attention_backward(
    d_out: &Tensor,
    qkv: Qkv<'_>,
    sequences: &Sequences,
    heads: Heads,
) -> QkvGradient {
    let qkv = widened(qkv);
    let [q, k, v] = &qkv;
    let mut gradient = QkvGradient {
        q: Tensor::zeros(q.rows(), q.cols()),
        k: Tensor::zeros(k.rows(), k.cols()),
        v: Tensor::zeros(v.rows(), v.cols()),
    };
    let scale = 1.0 / (heads.dim as f64).sqrt();
    rows(
        &qkv,
        sequences,
        heads,
        |head, query, first, probabilities, _| {
            let kv = head / (heads.query / heads.key_value);
            let (q0, k0) = (head * heads.dim, kv * heads.dim);
            let d_p: Vec<f64> = (0..probabilities.len())
                .map(|key| {
                    (0..heads.dim)
                        .map(|d| at(d_out, query, q0 + d) * at(v, first + key, k0 + d))
                        .sum()
                })
                .collect();
            let along: f64 = probabilities.iter().zip(&d_p).map(|(p, d_p)| p * d_p).sum();
            for (key, (p, d_p)) in probabilities.iter().zip(&d_p).enumerate() {
                let d_score = p * (d_p - along) * scale;
                for d in 0..heads.dim {
                    gradient.q.row_mut(query)[q0 + d] +=
                        (d_score * at(k, first + key, k0 + d)) as f32;
                    gradient.k.row_mut(first + key)[k0 + d] +=
                        (d_score * at(q, query, q0 + d)) as f32;
                    gradient.v.row_mut(first + key)[k0 + d] +=
                        (p * at(d_out, query, q0 + d)) as f32;
                }
            }
        },
    );
    gradient
}
