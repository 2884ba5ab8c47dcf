//! CPU kernels. Arguments have been checked by the operation of the same name.

pub(crate) mod activation;
pub(crate) mod adamw;
pub(crate) mod adamw_8bit;
pub(crate) mod adapted;
pub(crate) mod attention;
pub(crate) mod bias;
pub(crate) mod convert;
pub(crate) mod cross_entropy;
pub(crate) mod dropout;
pub(crate) mod encoder_attention;
mod exp;
mod fused;
pub(crate) mod gated;
pub(crate) mod gemm;
pub(crate) mod gemm_f32;
pub(crate) mod layer_norm;
pub(crate) mod panels;
pub(crate) mod peak;
pub(crate) mod quantize_rows;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod swiglu;
pub(crate) mod target;

use rayon::prelude::*;

/// Elements a rayon task should have at least: below this, starting it costs more than it does.
const ELEMENTS_PER_TASK: usize = 1 << 15;

/// Rows of `cols` values a rayon task should take.
fn rows_per_task(cols: usize) -> usize {
    ELEMENTS_PER_TASK.div_ceil(cols.max(1))
}

/// `target += source`.
pub(crate) fn add_assign(target: &mut [f32], source: &[f32]) {
    let pieces = target
        .par_chunks_mut(ELEMENTS_PER_TASK)
        .zip(source.par_chunks(ELEMENTS_PER_TASK));
    pieces.for_each(|(target, source)| {
        for (target, source) in target.iter_mut().zip(source) {
            *target += source;
        }
    });
}
