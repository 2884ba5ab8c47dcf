//! activation: what lies between the two linear layers of an encoder's feed-forward block.

use crate::cpu;
use crate::error::{KernelError, check_shape};
use crate::tensor::Tensor;

/// A function of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x / 2 * (1 + erf(x / sqrt 2))` (arXiv:1606.08415), within 2e-6.
    Gelu,
    /// Its approximation by `x / 2 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`, within 2e-6.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// `x = activation(x + bias)`.
///
/// # Shapes
/// `x`: `[tokens, intermediate]`, `bias`: `[intermediate]`
///
/// # Errors
/// [`KernelError::Shape`] if `bias` is of another length.
pub fn forward(x: &mut Tensor, bias: &[f32], activation: Activation) -> Result<(), KernelError> {
    check_shape("activation::forward", "bias", &[bias.len()], &[x.cols()])?;
    cpu::activation::forward(x.data_mut(), bias, activation);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use crate::reference::testing::{max_error, noise};

    #[test]
    fn activation_matches_reference() {
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
            for (tokens, features) in [(1, 1), (3, 5), (70, 1536), (9, 33)] {
                let mut x = noise(tokens, features, 1);
                // As far as both ends, where it is 0 or x.
                x.data_mut().iter_mut().for_each(|x| *x *= 8.0);
                let bias = noise(1, features, 2).into_vec();
                let expected = reference::activation(&x, &bias, activation);
                forward(&mut x, &bias, activation).unwrap();
                let error = max_error(&x, &expected);
                assert!(
                    error < 2e-6,
                    "{activation:?} {tokens} x {features}: {error}"
                );
            }
        }
    }

    #[test]
    fn a_bias_of_another_length_is_refused() {
        let error = forward(&mut noise(2, 3, 1), &[0.0; 2], Activation::Gelu).unwrap_err();
        assert_eq!(
            error.to_string(),
            "activation::forward: `bias` is [2], expected [3]"
        );
    }
}
