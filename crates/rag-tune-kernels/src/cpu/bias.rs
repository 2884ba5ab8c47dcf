use rayon::prelude::*;

use super::rows_per_task;

pub(crate) fn add(y: &mut [f32], bias: &[f32]) {
    let width = bias.len().max(1);
    y.par_chunks_mut(rows_per_task(width) * width)
        .for_each(|rows| {
            for row in rows.chunks_exact_mut(width) {
                add_row(row, bias);
            }
        });
}

/// `row += bias`
#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
pub(crate) fn add_row(row: &mut [f32], bias: &[f32]) {
    for (y, bias) in row.iter_mut().zip(bias) {
        *y += bias;
    }
}
