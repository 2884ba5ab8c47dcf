use half::bf16;

use super::adapted::finish_layer;
use super::convert::{narrow_piece, to_bf16, to_f32};
use super::gemm::{Blocks, Product, multiply_blocks};
use super::swiglu::product_of;
use super::target::Target;
use crate::adapted::Layer;

/// Where results go, each `[tokens, out]`.
pub(crate) struct Outputs<'a> {
    /// The product.
    pub(crate) product: Option<Target<'a, f32>>,
    /// The same, rounded.
    pub(crate) rounded: Option<Target<'a, bf16>>,
    /// The rounded outputs of both layers.
    pub(crate) layers: Option<[Target<'a, bf16>; 2]>,
}

pub(crate) fn forward(
    products: [&dyn Product; 2],
    scales: [Option<&[f32]>; 2],
    layers: [Layer<'_>; 2],
    to: Outputs<'_>,
) {
    multiply_blocks(products, scales, |blocks| {
        let Blocks {
            rows,
            columns,
            mut values,
        } = blocks;
        let width = columns.len();
        for (values, layer) in values.iter_mut().zip(&layers) {
            finish_layer(layer, rows.clone(), columns.clone(), values);
        }
        let [gate, up] = values;
        let pairs = gate.chunks_exact_mut(width).zip(up.chunks_exact_mut(width));
        for (row, (gate, up)) in rows.zip(pairs) {
            // SAFETY: this block is this task's alone.
            unsafe {
                for (target, values) in to.layers.iter().flatten().zip([&*gate, &*up]) {
                    narrow_piece(values, target.part(row, columns.start, width));
                }
                gate_row(gate, up);
                if let Some(target) = &to.product {
                    target.part(row, columns.start, width).copy_from_slice(gate);
                }
                if let Some(target) = &to.rounded {
                    narrow_piece(gate, target.part(row, columns.start, width));
                }
            }
        }
    });
}

/// `gate` becomes the product.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
fn gate_row(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = product_of(to_f32(to_bf16(*gate)), to_f32(to_bf16(*up)));
    }
}
