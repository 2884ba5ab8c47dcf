//! Activation, layer norm and softmax: loops without calls or branches, so that they become SIMD code.

use super::architecture::Activation;

/// Sums run in this many lanes, which is one AVX-512 register.
const LANES: usize = 16;

/// Applies the activation to every element.
pub(super) fn activate(x: &mut [f32], activation: Activation) {
    match activation {
        Activation::Gelu => gelu(x),
        Activation::GeluTanh => gelu_tanh(x),
        Activation::Relu => x.iter_mut().for_each(|x| *x = x.max(0.0)),
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
fn gelu(x: &mut [f32]) {
    for x in x {
        *x = 0.5 * *x * (1.0 + erf(*x * std::f32::consts::FRAC_1_SQRT_2));
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
fn gelu_tanh(x: &mut [f32]) {
    /// `sqrt(2 / pi)`.
    const SCALE: f32 = 0.797_884_6;
    for x in x {
        let inner = SCALE * (*x + 0.044_715 * *x * *x * *x);
        // (1 + tanh(t)) / 2 = 1 / (1 + e^(-2t))
        *x /= 1.0 + exp(-2.0 * inner);
    }
}

/// `erf` within 5e-7.
///
/// A rational minimax approximation on [-4, 4], beyond which the result is 1 in f32; its coefficients are those of
/// Eigen's and XLA's `erf` for f32.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let x2 = x * x;
    let mut p = -2.726_142_3e-10;
    p = p * x2 + 2.770_681_4e-8;
    p = p * x2 + -2.101_024_1e-6;
    p = p * x2 + -5.692_506_5e-5;
    p = p * x2 + -7.349_906_3e-4;
    p = p * x2 + -2.954_6e-3;
    p = p * x2 + -1.609_603_3e-2;
    let mut q = -1.456_607_2e-5;
    q = q * x2 + -2.133_740_5e-4;
    q = q * x2 + -1.682_827e-3;
    q = q * x2 + -7.373_329e-3;
    q = q * x2 + -1.426_473_9e-2;
    x * p / q
}

/// `e^x` within 2.5e-7 of itself for `x` in [-87, 88], clamped outside.
///
/// Cody-Waite reduction `x = n ln 2 + r`, then the degree-6 polynomial of Cephes' `expf` (Moshier).
#[inline(always)]
fn exp(x: f32) -> f32 {
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

/// `x = layer_norm(x + residual)`, row by row of `weight.len()` elements.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
pub(super) fn add_and_norm(
    x: &mut [f32],
    residual: &[f32],
    weight: &[f32],
    bias: &[f32],
    eps: f32,
) {
    let size = weight.len();
    for (x, residual) in x.chunks_exact_mut(size).zip(residual.chunks_exact(size)) {
        for (x, residual) in x.iter_mut().zip(residual) {
            *x += residual;
        }
        norm_row(x, weight, bias, eps);
    }
}

/// `x = layer_norm(x)`, row by row.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
pub(super) fn norm(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    for x in x.chunks_exact_mut(weight.len()) {
        norm_row(x, weight, bias, eps);
    }
}

#[inline(always)]
fn norm_row(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let count = x.len() as f32;
    let mean = sum(x, |x| x) / count;
    let variance = sum(x, |x| (x - mean) * (x - mean)) / count;
    let scale = 1.0 / (variance + eps).sqrt();
    for ((x, weight), bias) in x.iter_mut().zip(weight).zip(bias) {
        *x = (*x - mean) * scale * weight + bias;
    }
}

/// Softmax of each row of `size` elements.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
pub(super) fn softmax(x: &mut [f32], size: usize) {
    for x in x.chunks_exact_mut(size) {
        let max = max(x);
        for x in x.iter_mut() {
            *x = exp(*x - max);
        }
        let scale = 1.0 / sum(x, |x| x);
        for x in x {
            *x *= scale;
        }
    }
}

#[inline(always)]
fn sum(x: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += of(*x);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|x| of(*x)).sum::<f32>()
}

#[inline(always)]
fn max(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    lanes
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::cpu::erf::erf_f64;

    fn points() -> impl Iterator<Item = f32> {
        (-6000..=6000).map(|step| step as f32 * 1e-3)
    }

    #[test]
    fn erf_is_within_5e_7_of_the_exact_one() {
        for x in points() {
            let error = (f64::from(erf(x)) - erf_f64(f64::from(x))).abs();
            assert!(error < 5e-7, "erf({x}) is off by {error}");
        }
    }

    #[test]
    fn both_gelus_are_their_formulas() {
        let xs: Vec<f32> = points().collect();
        let (mut exact, mut through_tanh) = (xs.clone(), xs.clone());
        activate(&mut exact, Activation::Gelu);
        activate(&mut through_tanh, Activation::GeluTanh);
        for (index, x) in xs.into_iter().map(f64::from).enumerate() {
            let gelu = 0.5 * x * (1.0 + erf_f64(x / 2.0_f64.sqrt()));
            assert!((f64::from(exact[index]) - gelu).abs() < 2e-6, "gelu({x})");
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            let gelu = 0.5 * x * (1.0 + inner.tanh());
            assert!(
                (f64::from(through_tanh[index]) - gelu).abs() < 2e-6,
                "gelu_tanh({x})"
            );
        }
    }

    #[test]
    fn exp_matches_the_standard_library() {
        for step in -8700..8800 {
            let x = step as f32 * 0.01;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.5e-7, "exp({x}) is off by {error}");
        }
    }

    #[test]
    fn a_normed_row_has_mean_0_and_variance_1() {
        for size in [1, 7, 16, 33, 384] {
            let mut x: Vec<f32> = (0..2 * size)
                .map(|i| (i as f32 * 0.7).sin() * 3.0 + 1.0)
                .collect();
            norm(&mut x, &vec![1.0; size], &vec![0.0; size], 1e-12);
            for row in x.chunks(size) {
                let mean = row.iter().sum::<f32>() / size as f32;
                let variance = row.iter().map(|x| x * x).sum::<f32>() / size as f32;
                assert!(mean.abs() < 1e-5, "{size}: {mean}");
                assert!(
                    size == 1 || (variance - 1.0).abs() < 1e-4,
                    "{size}: {variance}"
                );
            }
        }
    }

    #[test]
    fn softmax_sums_to_1_and_takes_large_scores() {
        for size in [1, 5, 16, 40] {
            let mut x: Vec<f32> = (0..size).map(|i| 1000.0 + i as f32).collect();
            softmax(&mut x, size);
            assert!((x.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            assert!(x.is_sorted(), "{x:?}");
        }
    }
}
