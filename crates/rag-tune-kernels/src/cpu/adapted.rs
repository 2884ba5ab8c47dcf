use std::ops::Range;

use half::bf16;

use super::bias::add_row;
use super::convert::narrow_piece;
use super::gemm::{Blocks, Product, multiply_blocks};
use super::gemm_f32::{self, Threads, View};
use super::target::Target;
use crate::adapted::{Layer, Update};

/// `y` and `residual`: `[tokens, out]`.
pub(crate) fn forward(
    product: &dyn Product,
    scales: Option<&[f32]>,
    layer: Layer<'_>,
    residual: Option<&[f32]>,
    y: &mut [f32],
) {
    let [out, _] = layer.weight.shape();
    let y = Target::new(y, out);
    multiply_blocks([product], [scales], |blocks| {
        let Blocks {
            rows,
            columns,
            values: [values],
        } = blocks;
        finish_layer(&layer, rows.clone(), columns.clone(), values);
        for (row, values) in rows.zip(values.chunks_exact_mut(columns.len())) {
            if let Some(residual) = residual {
                add_row(
                    values,
                    &residual[row * out + columns.start..][..columns.len()],
                );
            }
            // SAFETY: this block is this task's alone.
            unsafe { y.part(row, columns.start, columns.len()) }.copy_from_slice(values);
        }
    });
}

/// `y`: `[tokens, out]`.
pub(crate) fn stored(
    product: &dyn Product,
    scales: Option<&[f32]>,
    layer: Layer<'_>,
    y: &mut [bf16],
) {
    let [out, _] = layer.weight.shape();
    let y = Target::new(y, out);
    multiply_blocks([product], [scales], |blocks| {
        let Blocks {
            rows,
            columns,
            values: [values],
        } = blocks;
        finish_layer(&layer, rows.clone(), columns.clone(), values);
        for (row, values) in rows.zip(values.chunks_exact(columns.len())) {
            // SAFETY: this block is this task's alone.
            narrow_piece(values, unsafe { y.part(row, columns.start, columns.len()) });
        }
    });
}

/// Adds the update and the bias to a block of the product, `[rows, columns]`.
pub(super) fn finish_layer(
    layer: &Layer<'_>,
    rows: Range<usize>,
    columns: Range<usize>,
    values: &mut [f32],
) {
    let width = columns.len();
    if let Some(Update { down, b, scaling }) = layer.update {
        let rank = b.cols();
        let down = &down.data()[rows.start * rank..];
        let b = &b.data()[columns.start * rank..];
        let down = View::new(down, rows.len(), rank, rank);
        let b = View::new(b, width, rank, rank).transposed();
        gemm_f32::multiply(values, width, 1.0, scaling, down, b, Threads::This);
    }
    if let Some(bias) = layer.bias {
        let rows = values.chunks_exact_mut(width);
        rows.for_each(|row| add_row(row, &bias[columns.clone()]));
    }
}
