//! Texts are short: a call of a matrix product per head would cost more than the product. So keys and values of a head
//! are laid out for it, and blocks of queries run through both products and the softmax in registers and cache.

use multiversion::multiversion;
use multiversion::target::target_cfg_f;
use rayon::prelude::*;

use super::exp::exponentials;
use super::fused::{LANES, multiply_add};
use crate::encoder_attention::DistanceBias;
use crate::{Sequences, Tensor};

/// Queries that go through a product together: as many chains of additions hide the latency of one.
const QUERIES: usize = 8;

pub(crate) fn forward(
    query_key_value: &Tensor,
    bias: &[f32],
    sequences: &Sequences,
    heads: usize,
    distance_bias: Option<&DistanceBias>,
    context: &mut Tensor,
) {
    let hidden = context.cols();
    let mut rest = context.data_mut();
    let tasks: Vec<(&[f32], &mut [f32])> = sequences
        .ranges()
        .map(|range| {
            let (own, others) = std::mem::take(&mut rest).split_at_mut(range.len() * hidden);
            rest = others;
            let rows = range.start * 3 * hidden..range.end * 3 * hidden;
            (&query_key_value.data()[rows], own)
        })
        .collect();
    let heads = Heads {
        hidden,
        size: hidden / heads,
        bias,
        distance_bias,
    };
    tasks
        .into_par_iter()
        .for_each_init(Scratch::default, |scratch, (query_key_value, context)| {
            attend(heads, query_key_value, context, scratch);
        });
}

/// How hidden states are divided, and what is added where.
#[derive(Clone, Copy)]
struct Heads<'a> {
    hidden: usize,
    size: usize,
    /// `[3 * hidden]`.
    bias: &'a [f32],
    distance_bias: Option<&'a DistanceBias>,
}

/// One head of a sequence. Lengths are rounded up to whole registers; what fills them is never read as a result.
#[derive(Default)]
struct Scratch {
    /// `[queries, size]`, scaled.
    queries: Vec<f32>,
    /// `[size, keys]`.
    keys: Vec<f32>,
    /// `[keys, size]`.
    values: Vec<f32>,
    /// `[QUERIES, keys]`.
    scores: Vec<f32>,
}

/// One sequence: `query_key_value` is `[tokens, 3 * hidden]`, `context` `[tokens, hidden]`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+fma", "x86_64+avx2+fma"))]
fn attend(heads: Heads<'_>, query_key_value: &[f32], context: &mut [f32], scratch: &mut Scratch) {
    if target_cfg_f!(target_feature = "fma") {
        attend_heads::<true>(heads, query_key_value, context, scratch);
    } else {
        attend_heads::<false>(heads, query_key_value, context, scratch);
    }
}

#[inline(always)]
fn attend_heads<const FMA: bool>(
    heads: Heads<'_>,
    query_key_value: &[f32],
    context: &mut [f32],
    scratch: &mut Scratch,
) {
    let tokens = context.len() / heads.hidden;
    let keys = tokens.next_multiple_of(LANES);
    for head in 0..heads.hidden / heads.size {
        scratch.lay_out(heads, head, query_key_value);
        for first in (0..tokens).step_by(QUERIES) {
            scratch.score::<FMA>(heads.size, keys, first);
            let rows = QUERIES.min(tokens - first);
            let mut inverse = [0.0; QUERIES];
            let scores = scratch.scores.chunks_exact_mut(keys).take(rows);
            for (row, scores) in scores.enumerate() {
                if let Some(bias) = heads.distance_bias {
                    let bias = bias.of_keys(head, first + row, tokens);
                    scores.iter_mut().zip(bias).for_each(|(s, b)| *s += b);
                }
                inverse[row] = weights(scores, tokens);
            }
            let to = &mut context[first * heads.hidden..][..rows * heads.hidden];
            scratch.weigh::<FMA>(heads, head, [tokens, keys], inverse, to);
        }
    }
}

impl Scratch {
    /// Queries, keys and values of a head, with their biases.
    #[inline(always)]
    fn lay_out(&mut self, heads: Heads<'_>, head: usize, query_key_value: &[f32]) {
        let Heads { hidden, size, .. } = heads;
        let tokens = query_key_value.len() / (3 * hidden);
        let keys = tokens.next_multiple_of(LANES);
        let wide = size.next_multiple_of(LANES);
        self.queries
            .resize(tokens.next_multiple_of(QUERIES) * size, 0.0);
        self.keys.resize(size * keys, 0.0);
        self.values.resize(tokens * wide, 0.0);
        self.scores.resize(QUERIES * keys, 0.0);
        let scale = 1.0 / (size as f32).sqrt();
        let part = |of: usize| of * hidden + head * size;
        let bias = |of: usize| &heads.bias[part(of)..][..size];
        for (token, row) in query_key_value.chunks_exact(3 * hidden).enumerate() {
            let from = |of: usize| row[part(of)..][..size].iter().zip(bias(of));
            let queries = &mut self.queries[token * size..][..size];
            for (to, (query, bias)) in queries.iter_mut().zip(from(0)) {
                *to = (query + bias) * scale;
            }
            let lines = self.keys.chunks_exact_mut(keys);
            for (line, (key, bias)) in lines.zip(from(1)) {
                line[token] = key + bias;
            }
            let values = &mut self.values[token * wide..][..size];
            for (to, (value, bias)) in values.iter_mut().zip(from(2)) {
                *to = value + bias;
            }
        }
    }

    /// `scores = queries keys` for a block of queries.
    #[inline(always)]
    fn score<const FMA: bool>(&mut self, size: usize, keys: usize, first: usize) {
        let queries = rows(&self.queries[first * size..], size);
        for block in (0..keys).step_by(LANES) {
            let mut sums = [[0.0; LANES]; QUERIES];
            for at in 0..size {
                let key = lanes(&self.keys[at * keys + block..]);
                for (query, sums) in queries.iter().zip(&mut sums) {
                    for (sum, key) in sums.iter_mut().zip(key) {
                        *sum = multiply_add::<FMA>(query[at], *key, *sum);
                    }
                }
            }
            for (scores, sums) in self.scores.chunks_exact_mut(keys).zip(sums) {
                scores[block..][..LANES].copy_from_slice(&sums);
            }
        }
    }

    /// `context = weights values * inverse` for a block of queries; `context` begins with the first one's row.
    #[inline(always)]
    fn weigh<const FMA: bool>(
        &self,
        heads: Heads<'_>,
        head: usize,
        [tokens, keys]: [usize; 2],
        inverse: [f32; QUERIES],
        context: &mut [f32],
    ) {
        let Heads { hidden, size, .. } = heads;
        let wide = size.next_multiple_of(LANES);
        let weights = rows(&self.scores, keys).map(|weights| &weights[..tokens]);
        for block in (0..size).step_by(LANES) {
            let mut sums = [[0.0; LANES]; QUERIES];
            for key in 0..tokens {
                let value = lanes(&self.values[key * wide + block..]);
                for (weights, sums) in weights.iter().zip(&mut sums) {
                    for (sum, value) in sums.iter_mut().zip(value) {
                        *sum = multiply_add::<FMA>(weights[key], *value, *sum);
                    }
                }
            }
            let valid = LANES.min(size - block);
            let rows = context.chunks_exact_mut(hidden);
            for ((row, sums), inverse) in rows.zip(sums).zip(inverse) {
                let to = &mut row[head * size + block..][..valid];
                for (to, sum) in to.iter_mut().zip(sums) {
                    *to = sum * inverse;
                }
            }
        }
    }
}

/// The first rows, each of its own length, so that the compiler sees which indices are inside.
#[inline(always)]
fn rows(values: &[f32], length: usize) -> [&[f32]; QUERIES] {
    std::array::from_fn(|row| &values[row * length..][..length])
}

#[inline(always)]
fn lanes(values: &[f32]) -> &[f32; LANES] {
    values.first_chunk().expect("whole registers")
}

/// Scores become `e^(score - max)`; returns 1 / their sum. Scores from `tokens` on become 0, as good as.
#[inline(always)]
fn weights(scores: &mut [f32], tokens: usize) -> f32 {
    scores[tokens..].fill(f32::NEG_INFINITY);
    1.0 / exponentials(scores).sum
}
