use rayon::prelude::*;

use super::ELEMENTS_PER_TASK;
use super::exp::exp;

pub(crate) fn forward(gate: &[f32], up: &[f32], y: &mut [f32]) {
    let pieces = y.par_chunks_mut(ELEMENTS_PER_TASK);
    let pieces = pieces
        .zip(gate.par_chunks(ELEMENTS_PER_TASK))
        .zip(up.par_chunks(ELEMENTS_PER_TASK));
    pieces.for_each(|((y, gate), up)| forward_piece(gate, up, y));
}

/// `d_gate` holds `dy` before.
pub(crate) fn backward(gate: &[f32], up: &[f32], d_gate: &mut [f32], d_up: &mut [f32]) {
    let pieces = d_gate
        .par_chunks_mut(ELEMENTS_PER_TASK)
        .zip(d_up.par_chunks_mut(ELEMENTS_PER_TASK));
    let inputs = gate
        .par_chunks(ELEMENTS_PER_TASK)
        .zip(up.par_chunks(ELEMENTS_PER_TASK));
    pieces
        .zip(inputs)
        .for_each(|((d_gate, d_up), (gate, up))| backward_piece(gate, up, d_gate, d_up));
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
fn forward_piece(gate: &[f32], up: &[f32], y: &mut [f32]) {
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        *y = gate / (1.0 + exp(-gate)) * up;
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
fn backward_piece(gate: &[f32], up: &[f32], d_gate: &mut [f32], d_up: &mut [f32]) {
    for (((d_gate, d_up), gate), up) in d_gate.iter_mut().zip(d_up).zip(gate).zip(up) {
        let dy = *d_gate;
        let sigmoid = 1.0 / (1.0 + exp(-gate));
        let silu = gate * sigmoid;
        *d_up = dy * silu;
        *d_gate = dy * up * (sigmoid + silu * (1.0 - sigmoid));
    }
}
