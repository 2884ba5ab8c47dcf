//! Attention of each text's tokens to each other: texts lie end to end and do not see each other.
//!
//! `context = softmax(Q K^T / sqrt(head size) + bias) V`, per head.

use super::elementwise::softmax;
use super::linear::{Matrix, Product};

/// How a layer's hidden states are divided.
#[derive(Clone, Copy)]
pub(super) struct Attention<'a> {
    pub hidden_size: usize,
    pub heads: usize,
    /// MPNet: what is added to the scores.
    pub relative: Option<&'a RelativeBias>,
}

impl Attention<'_> {
    /// The context of every token.
    ///
    /// # Shapes
    /// - `query_key_value`: `[tokens, 3 * hidden_size]`, the three side by side
    /// - `lengths`: tokens of each text
    /// - returns `[tokens, hidden_size]`
    pub(super) fn forward(self, query_key_value: &[f32], lengths: &[usize]) -> Vec<f32> {
        let (hidden, wide) = (self.hidden_size, 3 * self.hidden_size);
        let size = hidden / self.heads;
        let mut context = vec![0.0; query_key_value.len() / 3];
        let mut scores = Vec::new();
        let mut first = 0;
        for &tokens in lengths.iter().filter(|tokens| **tokens > 0) {
            let part = |which: usize, head: usize| {
                let start = first * wide + which * hidden + head * size;
                Matrix::new(&query_key_value[start..], wide)
            };
            for head in 0..self.heads {
                scores.resize(tokens * tokens, 0.0);
                let score = Product {
                    rows: tokens,
                    columns: tokens,
                    depth: size,
                    scale: 1.0 / (size as f32).sqrt(),
                };
                score.set(&mut scores, tokens, part(0, head), part(1, head));
                if let Some(relative) = self.relative {
                    relative.add_to(&mut scores, tokens, head);
                }
                softmax(&mut scores, tokens);
                let weigh = Product {
                    rows: tokens,
                    columns: size,
                    depth: tokens,
                    scale: 1.0,
                };
                let context = &mut context[first * hidden + head * size..];
                weigh.set_untransposed(
                    context,
                    hidden,
                    Matrix::new(&scores, tokens),
                    part(2, head),
                );
            }
            first += tokens;
        }
        context
    }
}

/// MPNet's bias of attention by how far apart two tokens stand (T5's buckets; Raffel et al. 2020, arXiv:1910.10683).
pub(super) struct RelativeBias {
    /// `[buckets, heads]`.
    table: Vec<f32>,
    buckets: usize,
}

/// Distances from here on share the last bucket.
const MAX_DISTANCE: f32 = 128.0;

impl RelativeBias {
    /// `table` is `[buckets, heads]`.
    pub(super) fn new(table: Vec<f32>, buckets: usize) -> Self {
        Self { table, buckets }
    }

    fn add_to(&self, scores: &mut [f32], tokens: usize, head: usize) {
        let heads = self.table.len() / self.buckets;
        for (query, row) in scores.chunks_exact_mut(tokens).enumerate() {
            for (key, score) in row.iter_mut().enumerate() {
                *score += self.table[self.bucket(query, key) * heads + head];
            }
        }
    }

    /// The first half of the buckets is for keys before the query, the second for keys behind it; half of each has a
    /// bucket per distance, the rest grows logarithmically.
    fn bucket(&self, query: usize, key: usize) -> usize {
        let half = self.buckets / 2;
        let exact = half / 2;
        let distance = query.abs_diff(key);
        let side = if key > query { half } else { 0 };
        if distance < exact {
            return side + distance;
        }
        let (distance, exact_f32) = (distance as f32, exact as f32);
        let large =
            (distance / exact_f32).ln() / (MAX_DISTANCE / exact_f32).ln() * (half - exact) as f32;
        side + (exact + large as usize).min(half - 1)
    }
}
