use multiversion::multiversion;
use multiversion::target::target_cfg_f;
use rayon::prelude::*;

use super::exp::exp;
use super::fused::multiply_add;
use super::rows_per_task;
use crate::activation::Activation;

pub(crate) fn forward(x: &mut [f32], bias: &[f32], activation: Activation) {
    if bias.is_empty() {
        return;
    }
    let rows: fn(&mut [f32], &[f32]) = match activation {
        Activation::Gelu => gelu_rows,
        Activation::GeluTanh => gelu_tanh_rows,
        Activation::Relu => relu_rows,
    };
    x.par_chunks_mut(rows_per_task(bias.len()) * bias.len())
        .for_each(|x| rows(x, bias));
}

#[inline(always)]
fn for_each(x: &mut [f32], bias: &[f32], of: impl Fn(f32) -> f32) {
    for x in x.chunks_exact_mut(bias.len()) {
        for (x, bias) in x.iter_mut().zip(bias) {
            *x = of(*x + bias);
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+fma", "x86_64+avx2+fma"))]
fn gelu_rows(x: &mut [f32], bias: &[f32]) {
    if target_cfg_f!(target_feature = "fma") {
        for_each(x, bias, gelu::<true>);
    } else {
        for_each(x, bias, gelu::<false>);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
fn gelu_tanh_rows(x: &mut [f32], bias: &[f32]) {
    /// `sqrt(2 / pi)`.
    const SCALE: f32 = 0.797_884_6;
    for_each(x, bias, |x| {
        let inner = SCALE * (x + 0.044_715 * x * x * x);
        // (1 + tanh(t)) / 2 = 1 / (1 + e^(-2t))
        x / (1.0 + exp(-2.0 * inner))
    });
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
fn relu_rows(x: &mut [f32], bias: &[f32]) {
    for_each(x, bias, |x| x.max(0.0));
}

#[inline(always)]
fn gelu<const FMA: bool>(x: f32) -> f32 {
    let half = 0.5 * x;
    let erf = erf::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2);
    multiply_add::<FMA>(half, erf, half)
}

/// `erf` within 5e-7.
///
/// A rational minimax approximation on [-4, 4], beyond which the result is 1 in f32; its coefficients are those of
/// Eigen's and XLA's `erf` for f32.
#[inline(always)]
fn erf<const FMA: bool>(x: f32) -> f32 {
    const NUMERATOR: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024_1e-6,
        -5.692_506_5e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const DENOMINATOR: [f32; 5] = [
        -1.456_607_2e-5,
        -2.133_740_5e-4,
        -1.682_827e-3,
        -7.373_329e-3,
        -1.426_473_9e-2,
    ];
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let polynomial = |coefficients: &[f32]| {
        let (first, rest) = coefficients.split_at(1);
        let step = |sum, next: &f32| multiply_add::<FMA>(sum, square, *next);
        rest.iter().fold(first[0], step)
    };
    x * polynomial(&NUMERATOR) / polynomial(&DENOMINATOR)
}
