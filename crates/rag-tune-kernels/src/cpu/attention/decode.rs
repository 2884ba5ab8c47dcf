//! One new token a sequence: bound by reading the cache. One task a (row, key/value head), for all its query heads.

use half::bf16;
use rayon::prelude::*;

use super::element::Element;
use crate::attention::{Cache, CacheStorage, Heads};
use crate::cpu::ELEMENTS_PER_TASK;
use crate::cpu::exp::exp;
use crate::cpu::fused::{LANES, sum_of_lanes};
use crate::tensor::Tensor;

pub(crate) fn decode(q: &Tensor, caches: &[&Cache], heads: Heads) -> Tensor {
    let mut out = Tensor::stale(q.rows(), q.cols());
    let width = heads.query / heads.key_value * heads.dim;
    let read = caches.iter().map(|cache| cache.bytes()).sum::<usize>() / size_of::<f32>();
    let tasks = caches.len() * heads.key_value;
    // Small caches are not worth a task each.
    let per_task = (ELEMENTS_PER_TASK * tasks).div_ceil(read.max(1));
    let queries = q.data().par_chunks(width);
    let parts = out
        .data_mut()
        .par_chunks_mut(width)
        .zip(queries)
        .enumerate();
    parts
        .with_min_len(per_task)
        .for_each_init(Vec::new, |scores, (task, (out, q))| {
            let (row, head) = (task / heads.key_value, task % heads.key_value);
            match caches[row].storage() {
                CacheStorage::F32(cache) => {
                    decode_f32(q, &cache.keys, &cache.values, head, heads, scores, out)
                }
                CacheStorage::Bf16(cache) => {
                    decode_bf16(q, &cache.keys, &cache.values, head, heads, scores, out)
                }
            }
        });
    out
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
fn decode_f32(
    q: &[f32],
    keys: &[f32],
    values: &[f32],
    head: usize,
    heads: Heads,
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    decode_head(q, keys, values, head, heads, scores, out);
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
fn decode_bf16(
    q: &[f32],
    keys: &[bf16],
    values: &[bf16],
    head: usize,
    heads: Heads,
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    decode_head(q, keys, values, head, heads, scores, out);
}

/// `q`, `out`: `[query heads that share the key/value head, dim]`.
#[inline(always)]
fn decode_head<E: Element>(
    q: &[f32],
    keys: &[E],
    values: &[E],
    head: usize,
    heads: Heads,
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    let (dim, stride) = (heads.dim, heads.key_value * heads.dim);
    let positions = keys.len() / stride;
    let scale = 1.0 / (dim as f32).sqrt();
    let of_head = head * dim..(head + 1) * dim;
    scores.clear();
    scores.resize(q.len() / dim * positions, 0.0);
    for (position, keys) in keys.chunks_exact(stride).enumerate() {
        let key = &keys[of_head.clone()];
        for (query, q) in q.chunks_exact(dim).enumerate() {
            scores[query * positions + position] = scale * dot(q, key);
        }
    }
    scores.chunks_exact_mut(positions).for_each(softmax);
    out.fill(0.0);
    for (position, values) in values.chunks_exact(stride).enumerate() {
        let value = &values[of_head.clone()];
        for (query, out) in out.chunks_exact_mut(dim).enumerate() {
            let probability = scores[query * positions + position];
            let (outs, rest) = out.as_chunks_mut::<LANES>();
            let (values, value_rest) = value.as_chunks::<LANES>();
            for (out, value) in outs.iter_mut().zip(values) {
                for (out, value) in out.iter_mut().zip(value) {
                    *out += probability * value.to_f32();
                }
            }
            for (out, value) in rest.iter_mut().zip(value_rest) {
                *out += probability * value.to_f32();
            }
        }
    }
}

/// In 16 lanes, so that the compiler may use SIMD.
#[inline(always)]
fn dot<E: Element>(left: &[f32], right: &[E]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (lefts, left_rest) = left.as_chunks::<LANES>();
    let (rights, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in lefts.iter().zip(rights) {
        for ((lane, left), right) in lanes.iter_mut().zip(left).zip(right) {
            *lane += left * right.to_f32();
        }
    }
    for ((lane, left), right) in lanes.iter_mut().zip(left_rest).zip(right_rest) {
        *lane += left * right.to_f32();
    }
    sum_of_lanes(lanes)
}

/// Scores to probabilities.
#[inline(always)]
fn softmax(scores: &mut [f32]) {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for scores in scores.chunks(LANES) {
        for (lane, score) in lanes.iter_mut().zip(scores) {
            *lane = lane.max(*score);
        }
    }
    let max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0; LANES];
    for scores in scores.chunks_mut(LANES) {
        for (sum, score) in sums.iter_mut().zip(scores) {
            *score = exp(*score - max);
            *sum += *score;
        }
    }
    let inverse = 1.0 / sum_of_lanes(sums);
    scores.iter_mut().for_each(|score| *score *= inverse);
}
