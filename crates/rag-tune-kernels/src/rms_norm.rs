//! rms_norm: `y = x / rms(x) * weight`, `rms(x) = sqrt(mean(x^2) + eps)` (arXiv:1910.07467).

use crate::cpu;
use crate::cuda::{self, DeviceBuffer, Row};
use crate::error::{KernelError, check_shape};
use crate::linear::{Input, takes_bf16};
use crate::matrix::Compute;
use crate::processor::level_in_use;
use crate::tensor::Tensor;

/// Normalises each row.
///
/// # Shapes
/// `x`: `[tokens, hidden]`, `weight`: `[hidden]`; returns `[tokens, hidden]`
///
/// # Errors
/// [`KernelError::Shape`] if `weight` is not `hidden` long.
pub fn forward<'a>(
    x: &Tensor,
    weight: impl Into<Row<'a>>,
    eps: f32,
) -> Result<Tensor, KernelError> {
    let weight = weight.into();
    check_shape("rms_norm::forward", "weight", &[weight.len()], &[x.cols()])?;
    if let Some(values) = x.on_device() {
        let mut y = DeviceBuffer::stale(values.device(), x.len())?;
        let weight = weight.on(values.device())?;
        cuda::rms_norm::forward(values.f32()?.buffer(), &weight, eps, &mut y, x.cols())?;
        return Ok(Tensor::from_device(x.rows(), x.cols(), y));
    }
    let mut y = Tensor::stale(x.rows(), x.cols());
    cpu::rms_norm::forward(x.data(), &weight, eps, y.data_mut());
    Ok(y)
}

/// [`forward`] as an input of products in `compute`; `exact` says whether anybody will ask for the values before products round them.
///
/// # Shapes
/// As [`forward`].
///
/// # Errors
/// As [`forward`].
pub fn input<'a>(
    x: &Tensor,
    weight: impl Into<Row<'a>>,
    eps: f32,
    compute: Compute,
    exact: bool,
) -> Result<Input<'static>, KernelError> {
    let (weight, level) = (weight.into(), level_in_use());
    if x.device().is_some() || !takes_bf16(compute, level) {
        return Ok(Input::owned(forward(x, weight, eps)?, compute));
    }
    check_shape("rms_norm::input", "weight", &[weight.len()], &[x.cols()])?;
    let mut y = exact.then(|| Tensor::stale(x.rows(), x.cols()));
    let values = y.as_mut().map(Tensor::data_mut);
    let rows = cpu::rms_norm::forward_rounded(x.data(), &weight, eps, values);
    Ok(Input::rounded(rows, y, compute, level))
}

/// `dx += d loss / d x`; `weight` is frozen.
///
/// With `r = 1 / rms(x)` and `g = dy * weight`: `dx = r (g - x r^2 mean(g x))`.
///
/// # Shapes
/// `dy`, `x`, `dx`: `[tokens, hidden]`, `weight`: `[hidden]`
///
/// # Errors
/// [`KernelError::Shape`] if the shapes do not fit.
pub fn backward<'a>(
    dy: &Tensor,
    x: &Tensor,
    weight: impl Into<Row<'a>>,
    eps: f32,
    dx: &mut Tensor,
) -> Result<(), KernelError> {
    let weight = weight.into();
    check_shape("rms_norm::backward", "weight", &[weight.len()], &[x.cols()])?;
    check_shape("rms_norm::backward", "dy", &dy.shape(), &x.shape())?;
    check_shape("rms_norm::backward", "dx", &dx.shape(), &x.shape())?;
    if let (Some(dy), Some(x)) = (dy.on_device(), x.on_device()) {
        let weight = weight.on(x.device())?;
        let dx = dx.f32_on_device("rms_norm::backward")?;
        return cuda::rms_norm::backward(dy, x.f32()?.buffer(), &weight, eps, dx);
    }
    cpu::rms_norm::backward(dy.data(), x.data(), &weight, eps, dx.data_mut());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use crate::reference::testing::{max_error, noise};
    use crate::stored::round;

    #[test]
    fn rms_norm_matches_reference() {
        for (tokens, hidden) in [(1, 1), (3, 5), (17, 64), (200, 576)] {
            let (x, dy) = (noise(tokens, hidden, 1), noise(tokens, hidden, 2));
            let weight = noise(1, hidden, 3).into_vec();
            let y = forward(&x, &weight, 1e-5).unwrap();
            assert!(max_error(&y, &reference::rms_norm(&x, &weight, 1e-5)) < 1e-5);
            for compute in Compute::ALL {
                for exact in [false, true] {
                    let input = input(&x, &weight, 1e-5, compute, exact).unwrap();
                    let mut expected = y.clone();
                    if !exact && takes_bf16(compute, level_in_use()) {
                        round(&mut expected, compute);
                    }
                    assert!(
                        input.into_tensor() == expected,
                        "{tokens} x {hidden}, {compute:?}"
                    );
                }
            }
            let mut dx = noise(tokens, hidden, 4);
            let mut expected = dx.clone();
            backward(&dy, &x, &weight, 1e-5, &mut dx).unwrap();
            expected
                .add_assign(&reference::rms_norm_backward(&dy, &x, &weight, 1e-5))
                .unwrap();
            assert!(max_error(&dx, &expected) < 1e-4, "{tokens} x {hidden}");
        }
    }
}
