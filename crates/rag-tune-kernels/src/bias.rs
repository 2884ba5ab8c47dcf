//! bias: `y[t, o] += bias[o]`. The bias is frozen, so there is no backward pass: gradients go through as they are.

use crate::cpu;
use crate::cuda::{self, Row};
use crate::error::{KernelError, check_shape};
use crate::tensor::Tensor;

/// Adds `bias` to each row.
///
/// # Shapes
/// `y`: `[tokens, out]`, `bias`: `[out]`
///
/// # Errors
/// [`KernelError::Shape`] if `bias` is not `out` long.
pub fn add<'a>(y: &mut Tensor, bias: impl Into<Row<'a>>) -> Result<(), KernelError> {
    let (bias, shape) = (bias.into(), y.shape());
    check_shape("bias::add", "bias", &[bias.len()], &[y.cols()])?;
    if let Some(values) = y.on_device_mut() {
        let bias = bias.on(values.device())?;
        return cuda::convert::add_bias(values.f32_mut(shape)?, &bias);
    }
    cpu::bias::add(y.data_mut(), &bias);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use crate::reference::testing::noise;

    #[test]
    fn bias_matches_reference() {
        for (tokens, out) in [(0, 3), (2, 0), (1, 1), (3, 5), (17, 64), (200, 576)] {
            let bias = noise(1, out, 2).into_vec();
            let mut y = noise(tokens, out, 1);
            let expected = reference::add_bias(&y, &bias);
            add(&mut y, &bias).unwrap();
            assert_eq!(y, expected, "{tokens} x {out}");
        }
    }

    #[test]
    fn a_bias_of_another_length_is_refused() {
        let error = add(&mut Tensor::zeros(2, 4), &[0.0; 3]).unwrap_err();
        assert!(error.to_string().contains("`bias` is [3]"), "{error}");
    }
}
