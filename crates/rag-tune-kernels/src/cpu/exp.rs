//! `exp` that vectorises: libm's is a scalar call.

use super::fused::{LANES, max_of_lanes, sum_of_lanes};

/// `e^x` within 2 units in the last place for `x` in `[-87, 88]`, clamped outside.
///
/// Cody-Waite reduction `x = n ln 2 + r`, then the degree-6 Taylor-minimax polynomial of Cephes'
/// `expf` (Moshier). No branches and no calls, so a loop around it becomes SIMD code.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_6e-1;
    p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    // 2^n: the low bits of `shifted` are n, moved into the exponent.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    p * power
}

/// Of values that became exponentials.
pub(super) struct Exponentials {
    /// The largest of the values.
    pub(super) max: f32,
    /// Of the exponentials.
    pub(super) sum: f32,
}

/// Values become `e^(value - max)`.
#[inline(always)]
pub(super) fn exponentials(values: &mut [f32]) -> Exponentials {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks.iter().map(|chunk| &chunk[..]).chain([&*rest]) {
        for (largest, value) in largest.iter_mut().zip(chunk) {
            *largest = if value > largest { *value } else { *largest };
        }
    }
    let max = max_of_lanes(largest);
    let mut sums = [0.0; LANES];
    for chunk in chunks.iter_mut().map(|chunk| &mut chunk[..]).chain([rest]) {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *value = exp(*value - max);
            *sum += *value;
        }
    }
    Exponentials {
        max,
        sum: sum_of_lanes(sums),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_matches_the_standard_library() {
        for step in -8700..8800 {
            let x = step as f32 * 0.01;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.5e-7, "exp({x}) is off by {error}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }
}
