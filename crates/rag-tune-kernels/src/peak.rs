//! How fast this machine multiplies matrices, measured: what a training step's speed is a share of.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::error::KernelError;
use crate::linear::{self, Input};
use crate::matrix::{Compute, Matrix};
use crate::tensor::Tensor;

/// Of the measured product `[TOKENS, FEATURES] x [FEATURES, FEATURES]`: large enough for all threads, and its operands
/// stay in the caches.
const TOKENS: usize = 512;
const FEATURES: usize = 1024;

/// How long is measured.
const DURATION: Duration = Duration::from_millis(200);

/// Floating-point operations a second of the fastest of many products `x W^T` in `compute`, on all threads.
///
/// A processor has no nominal peak that it would hold for long: clock and vector units depend on the load. So this is
/// what our own product reaches here at its best, measured once a process and `compute` (0.2 s).
///
/// # Errors
/// [`KernelError::Value`] if this machine cannot do `compute`.
pub fn peak_flop_per_s(compute: Compute) -> Result<f64, KernelError> {
    static F32: OnceLock<f64> = OnceLock::new();
    static BF16: OnceLock<f64> = OnceLock::new();
    let known = match compute {
        Compute::F32 => &F32,
        Compute::Bf16 => &BF16,
    };
    if let Some(peak) = known.get() {
        return Ok(*peak);
    }
    let peak = measure(compute)?;
    Ok(*known.get_or_init(|| peak))
}

fn measure(compute: Compute) -> Result<f64, KernelError> {
    let value = |row: usize, col: usize| ((row * 31 + col * 17) % 64) as f32 / 32.0 - 1.0;
    let x = Tensor::from_fn(TOKENS, FEATURES, value);
    let weight = Tensor::from_fn(FEATURES, FEATURES, value).into_vec();
    let weight = match compute {
        Compute::F32 => Matrix::f32(FEATURES, FEATURES, weight)?,
        Compute::Bf16 => Matrix::bf16(FEATURES, FEATURES, &weight)?,
    };
    let input = Input::new(&x, compute)?;
    let mut best = Duration::MAX;
    let start = Instant::now();
    while best == Duration::MAX || start.elapsed() < DURATION {
        let product = Instant::now();
        std::hint::black_box(linear::forward(&input, &weight)?);
        best = best.min(product.elapsed());
    }
    Ok((2 * TOKENS * FEATURES * FEATURES) as f64 / best.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_measured_once_and_no_product_is_much_faster() {
        let peak = peak_flop_per_s(Compute::F32).unwrap();
        // From an old core to a large server.
        assert!((1e9..1e15).contains(&peak), "{peak}");
        assert_eq!(peak_flop_per_s(Compute::F32).unwrap(), peak);
    }
}
