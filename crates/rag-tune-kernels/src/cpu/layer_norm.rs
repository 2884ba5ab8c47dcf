use rayon::prelude::*;

use super::fused::{LANES, sum_of_lanes};
use super::rows_per_task;
use crate::layer_norm::LayerNorm;

/// `terms`: what is added to every row, and the residual.
pub(crate) fn forward(x: &mut [f32], terms: Option<(&[f32], &[f32])>, norm: &LayerNorm) {
    let hidden = norm.weight.len();
    if hidden == 0 {
        return;
    }
    let piece = rows_per_task(hidden) * hidden;
    match terms {
        None => x.par_chunks_mut(piece).for_each(|x| norm_rows(x, norm)),
        Some((added, residual)) => x
            .par_chunks_mut(piece)
            .zip(residual.par_chunks(piece))
            .for_each(|(x, residual)| add_and_norm_rows(x, added, residual, norm)),
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
fn norm_rows(x: &mut [f32], norm: &LayerNorm) {
    for x in x.chunks_exact_mut(norm.weight.len()) {
        norm_row(x, norm);
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
fn add_and_norm_rows(x: &mut [f32], added: &[f32], residual: &[f32], norm: &LayerNorm) {
    let hidden = added.len();
    let rows = x
        .chunks_exact_mut(hidden)
        .zip(residual.chunks_exact(hidden));
    for (x, residual) in rows {
        for ((x, added), residual) in x.iter_mut().zip(added).zip(residual) {
            *x += added + residual;
        }
        norm_row(x, norm);
    }
}

#[inline(always)]
fn norm_row(x: &mut [f32], norm: &LayerNorm) {
    let count = x.len() as f32;
    let mean = sum(x, |x| x) / count;
    // In a second pass: the mean of squares less the square of the mean loses digits.
    let variance = sum(x, |x| (x - mean) * (x - mean)) / count;
    let scale = 1.0 / (variance + norm.eps).sqrt();
    for ((x, weight), bias) in x.iter_mut().zip(&norm.weight).zip(&norm.bias) {
        *x = (*x - mean) * scale * weight + bias;
    }
}

#[inline(always)]
fn sum(x: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += of(*x);
        }
    }
    sum_of_lanes(lanes) + rest.iter().map(|x| of(*x)).sum::<f32>()
}
