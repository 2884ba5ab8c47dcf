//! One new token a sequence: bound by reading the cache. One task a (row, key/value head), for all its query heads.

use rayon::prelude::*;

use super::element::{BLOCK, Element, Keep, Left, Product};
use super::pages::Pages;
use super::{by_rows, head_scale};
use crate::attention::Heads;
use crate::buffer::Buffer;
use crate::cpu::ELEMENTS_PER_TASK;
use crate::cpu::exp::exponentials;
use crate::stored::Stored;

/// What a task works in.
struct Scratch<E> {
    /// `[query heads][positions]`, whole pages.
    scores: Vec<f32>,
    probabilities: Vec<E>,
    /// `[query heads][dim]`
    sums: Vec<f32>,
    /// What they are multiplied by at the end, `[query heads]`.
    inverse: Vec<f32>,
}

/// `q`: `[rows, query heads * dim]`
pub(crate) fn decode<E: Element>(q: &[E], caches: &[&Pages<E>], heads: Heads) -> Stored {
    let mut out = Buffer::<E>::stale(q.len());
    let shared = heads.query / heads.key_value * heads.dim;
    let read = caches.iter().map(|cache| cache.bytes()).sum::<usize>() / size_of::<f32>();
    let tasks = caches.len() * heads.key_value;
    // Small caches are not worth a task each.
    let per_task = (ELEMENTS_PER_TASK * tasks).div_ceil(read.max(1));
    let parts = out
        .par_chunks_mut(shared)
        .zip(q.par_chunks(shared))
        .enumerate();
    parts.with_min_len(per_task).for_each_init(
        || Scratch {
            scores: Vec::new(),
            probabilities: Vec::new(),
            sums: Vec::new(),
            inverse: Vec::new(),
        },
        |scratch, (task, (out, queries))| {
            let (row, head) = (task / heads.key_value, task % heads.key_value);
            attend(queries, caches[row], head, heads.dim, scratch, out);
        },
    );
    E::stored(caches.len(), heads.query * heads.dim, out)
}

/// `queries`, `out`: `[query heads that share the key/value head, dim]`.
fn attend<E: Element>(
    queries: &[E],
    cache: &Pages<E>,
    head: usize,
    dim: usize,
    scratch: &mut Scratch<E>,
    out: &mut [E],
) {
    let rows = queries.len() / dim;
    let positions = cache.positions();
    let stride = positions.next_multiple_of(BLOCK);
    scratch.scores.resize(rows * stride, 0.0);
    scratch.probabilities.resize(rows * stride, E::zeroed());
    scratch.sums.resize(rows * dim, 0.0);
    scratch.inverse.resize(rows, 0.0);
    for (page, (keys, _, count)) in cache.of_head(head).enumerate() {
        let product = Product {
            left: Left {
                values: queries,
                row_stride: dim,
                group_stride: E::GROUP,
            },
            rows,
            panel: keys,
            groups: dim / E::GROUP,
            is_triangle: false,
            out_stride: stride,
            columns: count,
            keep: Keep::Nothing,
        };
        E::multiply(&product, &mut scratch.scores[page * BLOCK..]);
    }
    let scores = scratch.scores.chunks_exact_mut(stride);
    let probabilities = scratch.probabilities.chunks_exact_mut(stride);
    for ((scores, to), inverse) in scores.zip(probabilities).zip(&mut scratch.inverse) {
        *inverse = 1.0 / softmax(&mut scores[..positions], head_scale(dim));
        E::narrow(&scores[..positions], to);
        to[positions..].fill(E::zeroed());
    }
    for (page, (_, values, count)) in cache.of_head(head).enumerate() {
        let left = Left {
            values: &scratch.probabilities[page * BLOCK..],
            row_stride: stride,
            group_stride: E::GROUP,
        };
        let keep = if page == 0 { Keep::Nothing } else { Keep::All };
        by_rows(
            left,
            (rows, false),
            values,
            count,
            dim,
            keep,
            &mut scratch.sums,
        );
    }
    let sums = scratch.sums.chunks_exact_mut(dim);
    for ((sums, inverse), out) in sums.zip(&scratch.inverse).zip(out.chunks_exact_mut(dim)) {
        sums.iter_mut().for_each(|sum| *sum *= *inverse);
        E::narrow(sums, out);
    }
}

/// Scores become `e^(scale (score - max))`; returns their sum.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
fn softmax(scores: &mut [f32], scale: f32) -> f32 {
    scores.iter_mut().for_each(|score| *score *= scale);
    exponentials(scores).sum
}
