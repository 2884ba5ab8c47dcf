//! One row at a time: rounded to f16, measured, and turned into codes.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::floats::Floats;

/// Row `row` of `weights`: its codes into `codes`, and its absmax, which is not finite where a value is not.
///
/// `values` is room for a row.
pub(crate) fn quantize_row(
    weights: &Floats<'_>,
    row: usize,
    values: &mut [f32],
    codes: &mut [i8],
) -> f32 {
    weights.read(row * values.len()..(row + 1) * values.len(), values);
    round_to_f16(values);
    let absmax = absmax(values);
    write_codes(values, factor(absmax), codes);
    absmax
}

/// `1 / absmax * 127`, rounded twice as PyTorch does it; 0 for a row of zeros, which has no scale.
pub(crate) fn factor(absmax: f32) -> f32 {
    if absmax == 0.0 {
        0.0
    } else {
        absmax.recip() * 127.0
    }
}

/// Rounds to what f16 can hold: infinite beyond 65,504.
pub(crate) fn round_to_f16(values: &mut [f32]) {
    let mut halves = [f16::ZERO; 64];
    for values in values.chunks_mut(64) {
        let halves = &mut halves[..values.len()];
        halves.convert_from_f32_slice(values);
        halves.convert_to_f32_slice(values);
    }
}

/// NaN where a value is NaN or infinite.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
fn absmax(values: &[f32]) -> f32 {
    let (mut largest, mut finite) = ([0.0_f32; 16], [0.0_f32; 16]);
    for values in values.chunks(16) {
        for ((largest, finite), value) in largest.iter_mut().zip(&mut finite).zip(values) {
            *largest = largest.max(value.abs());
            *finite += value * 0.0;
        }
    }
    largest.into_iter().fold(0.0, f32::max) + finite.into_iter().sum::<f32>()
}

/// 1.5 * 2^23: added to a number below 2^22 it leaves no place for a fraction, so that the sum is rounded, ties to even, and its lowest byte is the
/// whole number's.
const ROUNDING: f32 = 12_582_912.0;

/// `round(values * factor)`, ties to even.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
pub(crate) fn write_codes(values: &[f32], factor: f32, codes: &mut [i8]) {
    for (code, value) in codes.iter_mut().zip(values) {
        *code = (value * factor + ROUNDING).to_bits() as i8;
    }
}
