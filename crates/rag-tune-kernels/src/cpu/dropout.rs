use rayon::prelude::*;

use super::ELEMENTS_PER_TASK;

/// A value stays whose hash is not below the first, times the second.
pub(crate) fn threshold_and_scale(probability: f32) -> (u32, f32) {
    let threshold = (f64::from(probability) * f64::from(u32::MAX)) as u32;
    (threshold, 1.0 / (1.0 - probability))
}

pub(crate) fn apply(key: u64, probability: f32, x: &mut [f32]) {
    let (threshold, scale) = threshold_and_scale(probability);
    x.par_chunks_mut(ELEMENTS_PER_TASK)
        .enumerate()
        .for_each(|(piece, x)| {
            // 2^15 elements a piece: its number goes into the key, the element into the low bits.
            let key = key ^ (piece as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            apply_piece(key as u32, (key >> 32) as u32, threshold, scale, x);
        });
}

/// Two rounds of a 32-bit multiply-xorshift mixer (constants by C. Wellons' hash-prospector).
#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
fn apply_piece(low: u32, high: u32, threshold: u32, scale: f32, x: &mut [f32]) {
    for (at, value) in x.iter_mut().enumerate() {
        let mut hash = (at as u32) ^ low;
        hash = (hash ^ (hash >> 16)).wrapping_mul(0x7feb_352d);
        hash = (hash ^ (hash >> 15)).wrapping_mul(0x846c_a68b);
        hash = (hash ^ (hash >> 16)).wrapping_add(high);
        hash = (hash ^ (hash >> 16)).wrapping_mul(0x7feb_352d);
        hash = (hash ^ (hash >> 15)).wrapping_mul(0x846c_a68b);
        hash ^= hash >> 16;
        // Not a factor of 0: 0 * infinity would hide an overflow as NaN, or the reverse.
        *value = if hash >= threshold {
            *value * scale
        } else {
            0.0
        };
    }
}
