use half::bf16;
use rayon::prelude::*;

use super::ELEMENTS_PER_TASK;
use super::convert::to_f32;
use super::exp::exp;
use crate::stored::Values;

/// `gate` and `up` are stored alike.
pub(crate) fn forward(gate: Values<'_>, up: Values<'_>, y: &mut [f32]) {
    match (gate, up) {
        (Values::F32(gate), Values::F32(up)) => forward_pieces(gate, up, y, forward_f32),
        (Values::Bf16(gate), Values::Bf16(up)) => forward_pieces(gate, up, y, forward_bf16),
        _ => unreachable!("the operation checks that `gate` and `up` are stored alike"),
    }
}

fn forward_pieces<T: Sync>(gate: &[T], up: &[T], y: &mut [f32], piece: fn(&[T], &[T], &mut [f32])) {
    let pieces = y.par_chunks_mut(ELEMENTS_PER_TASK);
    let pieces = pieces
        .zip(gate.par_chunks(ELEMENTS_PER_TASK))
        .zip(up.par_chunks(ELEMENTS_PER_TASK));
    pieces.for_each(|((y, gate), up)| piece(gate, up, y));
}

/// `d_gate` holds `dy` before; `gate` and `up` are stored alike.
pub(crate) fn backward(gate: Values<'_>, up: Values<'_>, d_gate: &mut [f32], d_up: &mut [f32]) {
    match (gate, up) {
        (Values::F32(gate), Values::F32(up)) => {
            backward_pieces(gate, up, d_gate, d_up, backward_f32);
        }
        (Values::Bf16(gate), Values::Bf16(up)) => {
            backward_pieces(gate, up, d_gate, d_up, backward_bf16);
        }
        _ => unreachable!("the operation checks that `gate` and `up` are stored alike"),
    }
}

/// From `gate`, `up` and `dy`, which is where `d gate` will be, to `d gate` and `d up`.
type Backward<T> = fn(&[T], &[T], &mut [f32], &mut [f32]);

fn backward_pieces<T: Sync>(
    gate: &[T],
    up: &[T],
    d_gate: &mut [f32],
    d_up: &mut [f32],
    piece: Backward<T>,
) {
    let pieces = d_gate
        .par_chunks_mut(ELEMENTS_PER_TASK)
        .zip(d_up.par_chunks_mut(ELEMENTS_PER_TASK));
    let inputs = gate
        .par_chunks(ELEMENTS_PER_TASK)
        .zip(up.par_chunks(ELEMENTS_PER_TASK));
    pieces
        .zip(inputs)
        .for_each(|((d_gate, d_up), (gate, up))| piece(gate, up, d_gate, d_up));
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
fn forward_f32(gate: &[f32], up: &[f32], y: &mut [f32]) {
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        *y = product_of(*gate, *up);
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
fn forward_bf16(gate: &[bf16], up: &[bf16], y: &mut [f32]) {
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        *y = product_of(to_f32(*gate), to_f32(*up));
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
fn backward_f32(gate: &[f32], up: &[f32], d_gate: &mut [f32], d_up: &mut [f32]) {
    for (((d_gate, d_up), gate), up) in d_gate.iter_mut().zip(d_up).zip(gate).zip(up) {
        (*d_gate, *d_up) = gradients(*d_gate, *gate, *up);
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
fn backward_bf16(gate: &[bf16], up: &[bf16], d_gate: &mut [f32], d_up: &mut [f32]) {
    for (((d_gate, d_up), gate), up) in d_gate.iter_mut().zip(d_up).zip(gate).zip(up) {
        (*d_gate, *d_up) = gradients(*d_gate, to_f32(*gate), to_f32(*up));
    }
}

#[inline(always)]
pub(super) fn product_of(gate: f32, up: f32) -> f32 {
    gate / (1.0 + exp(-gate)) * up
}

/// `(d gate, d up)`
#[inline(always)]
fn gradients(dy: f32, gate: f32, up: f32) -> (f32, f32) {
    let sigmoid = 1.0 / (1.0 + exp(-gate));
    let silu = gate * sigmoid;
    (dy * up * (sigmoid + silu * (1.0 - sigmoid)), dy * silu)
}
