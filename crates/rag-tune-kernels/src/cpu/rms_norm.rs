use half::bf16;
use rayon::prelude::*;

use super::convert::{narrow_piece, to_bf16};
use super::gemm::Bf16Rows;
use super::rows_per_task;
use super::target::Target;

pub(crate) fn forward(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let piece = rows_per_task(weight.len()) * weight.len();
    y.par_chunks_mut(piece)
        .zip(x.par_chunks(piece))
        .for_each(|(y, x)| {
            for (y, x) in y
                .chunks_exact_mut(weight.len())
                .zip(x.chunks_exact(weight.len()))
            {
                forward_row(x, weight, eps, y);
            }
        });
}

/// Rows rounded for bf16 products; `exact` gets them before that.
pub(crate) fn forward_rounded(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    exact: Option<&mut [f32]>,
) -> Bf16Rows {
    let hidden = weight.len();
    let exact = exact.map(|values| Target::new(values, hidden));
    let rows = x.len().checked_div(hidden).unwrap_or(0);
    Bf16Rows::from_rows(rows, hidden, |row, to| {
        let x = &x[row * hidden..][..hidden];
        match &exact {
            None => forward_row_rounded(x, weight, eps, to),
            Some(exact) => {
                // SAFETY: each row is written once.
                let y = unsafe { exact.part(row, 0, hidden) };
                forward_row(x, weight, eps, y);
                narrow_piece(y, to);
            }
        }
    })
}

pub(crate) fn backward(dy: &[f32], x: &[f32], weight: &[f32], eps: f32, dx: &mut [f32]) {
    let hidden = weight.len();
    let piece = rows_per_task(hidden) * hidden;
    let pieces = dx
        .par_chunks_mut(piece)
        .zip(x.par_chunks(piece))
        .zip(dy.par_chunks(piece));
    pieces.for_each(|((dx, x), dy)| {
        let rows = dx
            .chunks_exact_mut(hidden)
            .zip(x.chunks_exact(hidden))
            .zip(dy.chunks_exact(hidden));
        for ((dx, x), dy) in rows {
            backward_row(dy, x, weight, eps, dx);
        }
    });
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
fn forward_row(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let mean_square = dot(x, x) / x.len() as f32;
    let inverse = 1.0 / (mean_square + eps).sqrt();
    for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
        *y = x * inverse * weight;
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
fn forward_row_rounded(x: &[f32], weight: &[f32], eps: f32, y: &mut [bf16]) {
    let mean_square = dot(x, x) / x.len() as f32;
    let inverse = 1.0 / (mean_square + eps).sqrt();
    for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
        *y = to_bf16(x * inverse * weight);
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
fn backward_row(dy: &[f32], x: &[f32], weight: &[f32], eps: f32, dx: &mut [f32]) {
    let count = x.len() as f32;
    let inverse = 1.0 / (dot(x, x) / count + eps).sqrt();
    let mut lanes = [0.0_f32; 16];
    let chunks = x.chunks(16).zip(dy.chunks(16)).zip(weight.chunks(16));
    for ((x, dy), weight) in chunks {
        for (((lane, x), dy), weight) in lanes.iter_mut().zip(x).zip(dy).zip(weight) {
            *lane += x * dy * weight;
        }
    }
    let along = lanes.iter().sum::<f32>() * inverse * inverse / count;
    for (((dx, x), dy), weight) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
        *dx += inverse * (dy * weight - x * along);
    }
}

/// In 16 lanes, so that the compiler may use SIMD: f32 addition does not reassociate.
#[inline(always)]
pub(super) fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    for (left, right) in left.chunks(16).zip(right.chunks(16)) {
        for ((lane, left), right) in lanes.iter_mut().zip(left).zip(right) {
            *lane += left * right;
        }
    }
    lanes.iter().sum()
}
