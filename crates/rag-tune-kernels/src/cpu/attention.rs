//! One task a (sequence, key/value head): the query heads that share it, in blocks of queries.

use std::ops::Range;

use rayon::prelude::*;

use super::exp::exp;
use super::gemm_f32::{Threads, View, multiply};
use super::rms_norm::dot;
use crate::attention::{AttentionOutput, Heads, KeyValues, Qkv, QkvGradient};
use crate::sequences::Sequences;
use crate::tensor::Tensor;

/// Queries of a block: its scores, `QUERIES * keys` values, should stay in the L2 cache.
const QUERIES: usize = 64;

/// What one task works on.
struct Group {
    /// Tokens of the sequence in the packed batch.
    tokens: Range<usize>,
    key_value_head: usize,
}

fn groups(sequences: &Sequences, heads: Heads) -> Vec<Group> {
    let ranges = sequences.ranges();
    let groups = ranges.flat_map(|tokens| {
        (0..heads.key_value).map(move |key_value_head| Group {
            tokens: tokens.clone(),
            key_value_head,
        })
    });
    groups.collect()
}

impl Group {
    /// Columns of its query heads.
    fn query_columns(&self, heads: Heads) -> Range<usize> {
        let width = heads.query / heads.key_value * heads.dim;
        self.key_value_head * width..(self.key_value_head + 1) * width
    }

    /// Columns of its key/value head.
    fn key_value_columns(&self, heads: Heads) -> Range<usize> {
        self.key_value_head * heads.dim..(self.key_value_head + 1) * heads.dim
    }

    /// Its query heads with their first column.
    fn query_heads(&self, heads: Heads) -> impl Iterator<Item = (usize, usize)> {
        let shared = heads.query / heads.key_value;
        let first = self.key_value_head * shared;
        (first..first + shared).map(move |head| (head, head * heads.dim))
    }

    /// The first `count` keys or values of the sequence.
    fn leading<'a>(&self, tensor: &'a Tensor, heads: Heads, count: usize) -> View<'a> {
        let start = self.tokens.start * tensor.cols() + self.key_value_head * heads.dim;
        View::new(&tensor.data()[start..], count, heads.dim, tensor.cols())
    }

    /// Blocks of queries, relative to the sequence's first token.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let count = self.tokens.len();
        (0..count)
            .step_by(QUERIES)
            .map(move |start| start..(start + QUERIES).min(count))
    }
}

/// One head of some tokens.
fn head_view(tensor: &Tensor, tokens: Range<usize>, first_column: usize, dim: usize) -> View<'_> {
    let start = tokens.start * tensor.cols() + first_column;
    View::new(&tensor.data()[start..], tokens.len(), dim, tensor.cols())
}

/// Copies `part` `[tokens, columns]` into its place.
fn scatter(target: &mut Tensor, tokens: &Range<usize>, columns: Range<usize>, part: &[f32]) {
    for (token, part) in tokens.clone().zip(part.chunks_exact(columns.len())) {
        target.row_mut(token)[columns.clone()].copy_from_slice(part);
    }
}

pub(crate) fn forward(qkv: Qkv<'_>, sequences: &Sequences, heads: Heads) -> AttentionOutput {
    let groups = groups(sequences, heads);
    let parts: Vec<_> = groups
        .par_iter()
        .map(|group| group_forward(group, qkv, heads))
        .collect();
    let mut out = Tensor::stale(qkv.q.rows(), qkv.q.cols());
    let mut lse = Tensor::stale(qkv.q.rows(), heads.query);
    let shared = heads.query / heads.key_value;
    for (group, (part_out, part_lse)) in groups.iter().zip(&parts) {
        scatter(
            &mut out,
            &group.tokens,
            group.query_columns(heads),
            part_out,
        );
        let columns = group.key_value_head * shared..(group.key_value_head + 1) * shared;
        scatter(&mut lse, &group.tokens, columns, part_lse);
    }
    AttentionOutput { out, lse }
}

/// `([tokens, shared heads * dim], [tokens, shared heads])`
fn group_forward(group: &Group, qkv: Qkv<'_>, heads: Heads) -> (Vec<f32>, Vec<f32>) {
    let shared = heads.query / heads.key_value;
    let width = shared * heads.dim;
    let mut out = vec![0.0; group.tokens.len() * width];
    let mut lse = vec![0.0; group.tokens.len() * shared];
    let mut scores = vec![0.0; QUERIES * group.tokens.len()];
    let scale = 1.0 / (heads.dim as f32).sqrt();
    for (index, (_, column)) in group.query_heads(heads).enumerate() {
        for block in group.blocks() {
            let keys = block.end;
            let tokens = group.tokens.start + block.start..group.tokens.start + block.end;
            let q = head_view(qkv.q, tokens, column, heads.dim);
            let k = group.leading(qkv.k, heads, keys);
            multiply(
                &mut scores,
                keys,
                0.0,
                scale,
                q,
                k.transposed(),
                Threads::One,
            );
            for (row, query) in block.clone().enumerate() {
                let row = &mut scores[row * keys..][..keys];
                lse[query * shared + index] = softmax(&mut row[..=query]);
                row[query + 1..].fill(0.0);
            }
            let probabilities = View::new(&scores, block.len(), keys, keys);
            let v = group.leading(qkv.v, heads, keys);
            let out = &mut out[block.start * width + index * heads.dim..];
            multiply(out, width, 0.0, 1.0, probabilities, v, Threads::One);
        }
    }
    (out, lse)
}

/// Scores to probabilities; returns their log-sum-exp.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
fn softmax(scores: &mut [f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    for scores in scores.chunks(16) {
        for (lane, score) in lanes.iter_mut().zip(scores) {
            *lane = lane.max(*score);
        }
    }
    let max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0; 16];
    for scores in scores.chunks_mut(16) {
        for (sum, score) in sums.iter_mut().zip(scores) {
            *score = exp(*score - max);
            *sum += *score;
        }
    }
    let sum: f32 = sums.iter().sum();
    let inverse = 1.0 / sum;
    scores.iter_mut().for_each(|score| *score *= inverse);
    max + sum.ln()
}

/// `dq`, `dk`, `dv` of one group, dense.
struct GroupGradient {
    /// `[tokens, shared heads * dim]`
    q: Vec<f32>,
    /// `[tokens, dim]`
    k: Vec<f32>,
    /// `[tokens, dim]`
    v: Vec<f32>,
}

pub(crate) fn backward(
    d_out: &Tensor,
    qkv: Qkv<'_>,
    saved: &AttentionOutput,
    sequences: &Sequences,
    heads: Heads,
) -> QkvGradient {
    let groups = groups(sequences, heads);
    let parts: Vec<_> = groups
        .par_iter()
        .map(|group| group_backward(group, d_out, qkv, saved, heads))
        .collect();
    let mut gradient = QkvGradient {
        q: Tensor::stale(qkv.q.rows(), qkv.q.cols()),
        k: Tensor::stale(qkv.k.rows(), qkv.k.cols()),
        v: Tensor::stale(qkv.v.rows(), qkv.v.cols()),
    };
    for (group, part) in groups.iter().zip(&parts) {
        scatter(
            &mut gradient.q,
            &group.tokens,
            group.query_columns(heads),
            &part.q,
        );
        scatter(
            &mut gradient.k,
            &group.tokens,
            group.key_value_columns(heads),
            &part.k,
        );
        scatter(
            &mut gradient.v,
            &group.tokens,
            group.key_value_columns(heads),
            &part.v,
        );
    }
    gradient
}

fn group_backward(
    group: &Group,
    d_out: &Tensor,
    qkv: Qkv<'_>,
    saved: &AttentionOutput,
    heads: Heads,
) -> GroupGradient {
    let (count, dim) = (group.tokens.len(), heads.dim);
    let width = heads.query / heads.key_value * dim;
    let mut gradient = GroupGradient {
        q: vec![0.0; count * width],
        k: vec![0.0; count * dim],
        v: vec![0.0; count * dim],
    };
    let mut probabilities = vec![0.0; QUERIES * count];
    let mut d_scores = vec![0.0; QUERIES * count];
    let scale = 1.0 / (dim as f32).sqrt();
    for (index, (head, column)) in group.query_heads(heads).enumerate() {
        for block in group.blocks() {
            let keys = block.end;
            let tokens = group.tokens.start + block.start..group.tokens.start + block.end;
            let q = head_view(qkv.q, tokens.clone(), column, dim);
            let d_o = head_view(d_out, tokens.clone(), column, dim);
            let k = group.leading(qkv.k, heads, keys);
            let v = group.leading(qkv.v, heads, keys);
            multiply(
                &mut probabilities,
                keys,
                0.0,
                scale,
                q,
                k.transposed(),
                Threads::One,
            );
            multiply(
                &mut d_scores,
                keys,
                0.0,
                1.0,
                d_o,
                v.transposed(),
                Threads::One,
            );
            for (row, token) in tokens.enumerate() {
                let valid = block.start + row + 1;
                let head_columns = column..column + dim;
                let along = dot(
                    &d_out.row(token)[head_columns.clone()],
                    &saved.out.row(token)[head_columns],
                );
                let p = &mut probabilities[row * keys..][..keys];
                let ds = &mut d_scores[row * keys..][..keys];
                score_gradient(
                    &mut p[..valid],
                    &mut ds[..valid],
                    saved.lse.row(token)[head],
                    along,
                    scale,
                );
                p[valid..].fill(0.0);
                ds[valid..].fill(0.0);
            }
            let p = View::new(&probabilities, block.len(), keys, keys);
            let ds = View::new(&d_scores, block.len(), keys, keys);
            multiply(
                &mut gradient.v,
                dim,
                1.0,
                1.0,
                p.transposed(),
                d_o,
                Threads::One,
            );
            multiply(
                &mut gradient.k,
                dim,
                1.0,
                1.0,
                ds.transposed(),
                q,
                Threads::One,
            );
            let d_q = &mut gradient.q[block.start * width + index * dim..];
            multiply(d_q, width, 0.0, 1.0, ds, k, Threads::One);
        }
    }
    gradient
}

/// Scores to probabilities `p`, and `dp` to `p (dp - along) scale`.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
fn score_gradient(p: &mut [f32], d_scores: &mut [f32], lse: f32, along: f32, scale: f32) {
    for (p, d_score) in p.iter_mut().zip(d_scores) {
        *p = exp(*p - lse);
        *d_score = *p * (*d_score - along) * scale;
    }
}

pub(crate) fn decode(q: &Tensor, caches: &[KeyValues<'_>], heads: Heads) -> Tensor {
    let mut out = Tensor::stale(q.rows(), q.cols());
    let rows = out.data_mut().par_chunks_mut(heads.query * heads.dim);
    rows.zip(caches)
        .enumerate()
        .for_each(|(row, (out, cache))| {
            decode_row(q.row(row), *cache, heads, out);
        });
    out
}

fn decode_row(q: &[f32], cache: KeyValues<'_>, heads: Heads, out: &mut [f32]) {
    let (dim, width) = (heads.dim, heads.key_value * heads.dim);
    let positions = cache.keys.len() / width;
    let shared = heads.query / heads.key_value;
    let mut scores = vec![0.0; positions];
    let scale = 1.0 / (dim as f32).sqrt();
    for head in 0..heads.query {
        let columns = head * dim..(head + 1) * dim;
        let first = head / shared * dim;
        decode_scores(
            &q[columns.clone()],
            &cache.keys[first..],
            width,
            scale,
            &mut scores,
        );
        softmax(&mut scores);
        decode_values(&scores, &cache.values[first..], width, &mut out[columns]);
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
fn decode_scores(q: &[f32], keys: &[f32], stride: usize, scale: f32, scores: &mut [f32]) {
    for (position, score) in scores.iter_mut().enumerate() {
        *score = scale * dot(q, &keys[position * stride..][..q.len()]);
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
fn decode_values(probabilities: &[f32], values: &[f32], stride: usize, out: &mut [f32]) {
    out.fill(0.0);
    for (position, probability) in probabilities.iter().enumerate() {
        let values = &values[position * stride..][..out.len()];
        for (out, value) in out.iter_mut().zip(values) {
            *out += probability * value;
        }
    }
}
