//! What passes over activations, logits or parameters once.

use rag_tune_kernels::adamw::{AdamState, AdamW};
use rag_tune_kernels::cross_entropy::{cross_entropy, cross_entropy_sum};
use rag_tune_kernels::rope::{RopeTable, Turn, frequencies};
use rag_tune_kernels::{Matrix, Stored, Tensor, rms_norm, swiglu};

use crate::report::{Report, Work};
use crate::{computes, noise};

const TOKENS: usize = 8192;
const HIDDEN: usize = 576;
const INTERMEDIATE: usize = 1536;

/// RMSNorm.
pub fn norms(report: &mut Report<'_>) {
    let (x, dy) = (noise(TOKENS, HIDDEN), noise(TOKENS, HIDDEN));
    let weight = vec![1.0; HIDDEN];
    let mut dx = Tensor::zeros(TOKENS, HIDDEN);
    let shape = format!("{TOKENS}x{HIDDEN}");
    let values = TOKENS * HIDDEN;
    report.time("rms_norm forward", &shape, Work::pass(2 * values), || {
        rms_norm::forward(&x, &weight, 1e-5)
    });
    // dy and x are read, dx is read and written.
    report.time("rms_norm backward", &shape, Work::pass(4 * values), || {
        rms_norm::backward(&dy, &x, &weight, 1e-5, &mut dx)
    });
}

/// RoPE and SwiGLU.
pub fn turns_and_gates(report: &mut Report<'_>) {
    let table = RopeTable::new(TOKENS, &frequencies(64, 1e4));
    let positions = (0..TOKENS as u32).collect::<Vec<_>>().into();
    let mut x = noise(TOKENS, HIDDEN);
    let shape = format!("{TOKENS}x{HIDDEN}");
    report.time("rope", &shape, Work::pass(2 * TOKENS * HIDDEN), || {
        table.apply(&mut x, &positions, Turn::Forward)
    });
    for compute in computes() {
        let gate = Stored::new(noise(TOKENS, INTERMEDIATE), compute);
        let up = Stored::new(noise(TOKENS, INTERMEDIATE), compute);
        let shape = format!("{TOKENS}x{INTERMEDIATE} {compute:?}");
        let bytes = gate.bytes() + up.bytes();
        let pass = |values: usize| Work {
            bytes: (bytes + 4 * values) as f64,
            ..Work::pass(0)
        };
        let values = TOKENS * INTERMEDIATE;
        report.time("swiglu forward", &shape, pass(values), || {
            swiglu::forward(&gate, &up)
        });
        // dy's memory becomes d_gate; a copy of dy is made in the timed part too.
        let dy = noise(TOKENS, INTERMEDIATE);
        report.time("swiglu backward", &shape, pass(5 * values), || {
            swiglu::backward(dy.clone(), &gate, &up)
        });
    }
}

/// Head, loss and gradient together, and the loss alone.
pub fn losses(report: &mut Report<'_>) {
    let (tokens, vocabulary) = (512, 49_152);
    let head = noise(vocabulary, HIDDEN);
    let head =
        Matrix::bf16(vocabulary, HIDDEN, head.data()).expect("as many values as the shape says");
    let hidden = noise(tokens, HIDDEN);
    let labels: Vec<u32> = (0..tokens as u32).collect();
    let product = 2 * tokens * HIDDEN * vocabulary;
    for compute in computes() {
        let shape = format!("{tokens}x{HIDDEN}x{vocabulary} {compute:?}");
        let work = Work::products(2 * product, compute, head.bytes());
        report.time("cross_entropy", &shape, work, || {
            cross_entropy(&hidden, &head, &labels, 1.0, compute)
        });
        let work = Work::products(product, compute, head.bytes());
        report.time("cross_entropy_sum", &shape, work, || {
            cross_entropy_sum(&hidden, &head, &labels, compute)
        });
    }
}

/// AdamW.
pub fn updates(report: &mut Report<'_>) {
    let count = 8 << 20;
    let gradient = noise(1, count).into_vec();
    let mut parameter = noise(1, count).into_vec();
    let (mut first_moment, mut second_moment) = (vec![0.0; count], vec![0.0; count]);
    let adamw = AdamW {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
    };
    // The gradient is read; parameter and both moments are read and written.
    report.time("adamw", &format!("{count}"), Work::pass(7 * count), || {
        let mut state = AdamState {
            parameter: &mut parameter,
            first_moment: &mut first_moment,
            second_moment: &mut second_moment,
        };
        adamw.update(1, 1e-4, 1.0, &gradient, &mut state)
    });
}
