use half::bf16;
use rayon::prelude::*;

use super::convert::to_bf16;
use super::rows_per_task;

/// Which angle each pair of a head turns by.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a> {
    /// `[positions, head_dim / 2]`
    pub(crate) cos: &'a [f32],
    /// `[positions, head_dim / 2]`
    pub(crate) sin: &'a [f32],
    pub(crate) head_dim: usize,
    /// -1 to turn back.
    pub(crate) sign: f32,
}

impl<'a> Table<'a> {
    /// Cosines and sines of a position.
    fn at(&self, position: u32) -> (&'a [f32], &'a [f32]) {
        let half = self.head_dim / 2;
        let start = position as usize * half;
        (&self.cos[start..][..half], &self.sin[start..][..half])
    }
}

pub(crate) fn apply(x: &mut [f32], cols: usize, positions: &[u32], table: Table<'_>) {
    let rows = rows_per_task(cols);
    x.par_chunks_mut(rows * cols)
        .zip(positions.par_chunks(rows))
        .for_each(|(x, positions)| {
            for (row, position) in x.chunks_exact_mut(cols).zip(positions) {
                apply_row(row, table.at(*position), table.sign, table.head_dim);
            }
        });
}

/// Turned forward and rounded.
pub(crate) fn narrow(x: &[f32], cols: usize, positions: &[u32], table: Table<'_>, to: &mut [bf16]) {
    let rows = rows_per_task(cols);
    to.par_chunks_mut(rows * cols)
        .zip(x.par_chunks(rows * cols))
        .zip(positions.par_chunks(rows))
        .for_each(|((to, x), positions)| {
            let rows = to.chunks_exact_mut(cols).zip(x.chunks_exact(cols));
            for ((to, row), position) in rows.zip(positions) {
                narrow_row(row, table.at(*position), table.head_dim, to);
            }
        });
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
fn apply_row(row: &mut [f32], (cos, sin): (&[f32], &[f32]), sign: f32, head_dim: usize) {
    for head in row.chunks_exact_mut(head_dim) {
        let (first, second) = head.split_at_mut(head_dim / 2);
        for (((first, second), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*first, *second) = turned(*first, *second, *cos, sign * sin);
        }
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
fn narrow_row(row: &[f32], (cos, sin): (&[f32], &[f32]), head_dim: usize, to: &mut [bf16]) {
    let heads = row
        .chunks_exact(head_dim)
        .zip(to.chunks_exact_mut(head_dim));
    for (head, to) in heads {
        let (first, second) = head.split_at(head_dim / 2);
        let (to_first, to_second) = to.split_at_mut(head_dim / 2);
        let pairs = first.iter().zip(second).zip(cos.iter().zip(sin));
        for (((first, second), (cos, sin)), to) in pairs.zip(to_first.iter_mut().zip(to_second)) {
            let (first, second) = turned(*first, *second, *cos, *sin);
            (*to.0, *to.1) = (to_bf16(first), to_bf16(second));
        }
    }
}

#[inline(always)]
fn turned(first: f32, second: f32, cos: f32, sin: f32) -> (f32, f32) {
    (first * cos - second * sin, second * cos + first * sin)
}
