//! Products with frozen weights and with LoRA's factors.

use rag_tune_kernels::linear::{
    Input, Write, backward, forward, product_nn, product_nt, product_tn,
};
use rag_tune_kernels::{Compute, Matrix, Tensor};

use crate::report::{Report, Work};
use crate::{computes, noise};

fn int8(out: usize, inner: usize) -> Matrix {
    Matrix::int8(out, inner, noise(out, inner).data()).expect("as many values as the shape says")
}

/// `[rows, in, out]`: a training step's products in SmolLM2-135M, and one of CodeLlama-7B.
const TRAINING: [[usize; 3]; 5] = [
    [2048, 576, 576],
    [2048, 576, 1536],
    [2048, 1536, 576],
    [512, 4096, 4096],
    [512, 4096, 11_008],
];

/// Forward and backward, and the conversion of the activation with them.
pub fn products(report: &mut Report<'_>) {
    for [rows, inner, out] in TRAINING {
        let weight = int8(out, inner);
        let (x, dy) = (noise(rows, inner), noise(rows, out));
        let mut dx = Tensor::zeros(rows, inner);
        for compute in computes() {
            let shape = format!("{rows}x{inner}x{out} {compute:?}");
            let bytes = weight.bytes() + 4 * rows * (inner + out);
            let work = Work::products(2 * rows * inner * out, compute, bytes);
            report.time("linear forward", &shape, work, || {
                forward(&Input::new(&x, compute), &weight)
            });
            // The gradient is added to what is there: read and written.
            let bytes = bytes + 4 * rows * inner;
            let work = Work::products(2 * rows * inner * out, compute, bytes);
            report.time("linear backward", &shape, work, || {
                backward(&dy, &weight, compute, Write::Add, &mut dx)
            });
        }
    }
}

/// One token a row: the weights' way from memory is what counts.
pub fn decode_products(report: &mut Report<'_>) {
    let head = noise(49_152, 576);
    let head = Matrix::bf16(49_152, 576, head.data()).expect("as many values as the shape says");
    let weights = [
        ("int8", int8(576, 1536)),
        ("int8", int8(11_008, 4096)),
        ("bf16", head),
    ];
    for (kind, weight) in &weights {
        let [out, inner] = weight.shape();
        for rows in [1, 8, 32] {
            let x = noise(rows, inner);
            for compute in computes() {
                let shape = format!("{rows}x{inner}x{out} {kind} weights, {compute:?}");
                let bytes = weight.bytes() + 4 * rows * (inner + out);
                let work = Work::products(2 * rows * inner * out, compute, bytes);
                report.time("linear decode", &shape, work, || {
                    forward(&Input::new(&x, compute), weight)
                });
            }
        }
    }
}

/// Thin products, f32: `x A^T`, `h B^T`, and the gradients of the factors.
pub fn lora_products(report: &mut Report<'_>) {
    let (tokens, inner, out) = (2048, 576, 576);
    for rank in [8, 16] {
        let (x, dy) = (noise(tokens, inner), noise(tokens, out));
        let (a, b) = (noise(rank, inner), noise(out, rank));
        let mut h = Tensor::zeros(tokens, rank);
        let mut y = Tensor::zeros(tokens, out);
        let mut d_a = Tensor::zeros(rank, inner);
        let shape = format!("{tokens}x{inner}, rank {rank}");
        let work = |wide: usize| {
            let bytes = 4 * (tokens * wide + tokens * rank + rank * wide);
            Work::products(2 * tokens * wide * rank, Compute::F32, bytes)
        };
        report.time("LoRA x A^T", &shape, work(inner), || {
            product_nt(&mut h, 0.0, 1.0, &x, &a)
        });
        let added = Work::products(
            2 * tokens * out * rank,
            Compute::F32,
            4 * (2 * tokens * out + tokens * rank + rank * out),
        );
        report.time("LoRA y += h B^T", &shape, added, || {
            product_nt(&mut y, 1.0, 2.0, &h, &b)
        });
        report.time("LoRA dh = dy B", &shape, work(out), || {
            product_nn(&mut h, 0.0, 2.0, &dy, &b)
        });
        report.time("LoRA dA += dh^T x", &shape, work(inner), || {
            product_tn(&mut d_a, 1.0, 1.0, &h, &x)
        });
    }
}
