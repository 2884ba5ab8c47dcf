//! f32 to bf16 and back.

use half::bf16;
use rayon::prelude::*;

use super::ELEMENTS_PER_TASK;

/// Round to nearest even; NaN stays NaN because its payload keeps a high bit set.
#[inline(always)]
pub(crate) fn to_bf16(value: f32) -> bf16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let nan = (bits >> 16) | 0x40;
    bf16::from_bits(if value.is_nan() { nan } else { rounded } as u16)
}

/// Exact. Without the branch for signalling NaNs of `half`'s own.
#[inline(always)]
pub(crate) fn to_f32(value: bf16) -> f32 {
    f32::from_bits(u32::from(value.to_bits()) << 16)
}

pub(crate) fn narrow(from: &[f32], to: &mut [bf16]) {
    to.par_chunks_mut(ELEMENTS_PER_TASK)
        .zip(from.par_chunks(ELEMENTS_PER_TASK))
        .for_each(|(to, from)| narrow_piece(from, to));
}

pub(crate) fn widen(from: &[bf16], to: &mut [f32]) {
    to.par_chunks_mut(ELEMENTS_PER_TASK)
        .zip(from.par_chunks(ELEMENTS_PER_TASK))
        .for_each(|(to, from)| widen_piece(from, to));
}

pub(crate) fn round(values: &mut [f32]) {
    values
        .par_chunks_mut(ELEMENTS_PER_TASK)
        .for_each(round_piece);
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
pub(crate) fn narrow_piece(from: &[f32], to: &mut [bf16]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = to_bf16(*from);
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
pub(crate) fn widen_piece(from: &[bf16], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = to_f32(*from);
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
fn round_piece(values: &mut [f32]) {
    for value in values {
        *value = to_f32(to_bf16(*value));
    }
}
