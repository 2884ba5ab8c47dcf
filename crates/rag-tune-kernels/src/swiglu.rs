//! swiglu: `y = silu(gate) * up`, `silu(g) = g * sigmoid(g)` (arXiv:2002.05202).

use crate::cpu;
use crate::error::{KernelError, check_shape};
use crate::tensor::Tensor;

/// # Shapes
/// `gate`, `up`: `[tokens, intermediate]`; returns the same
///
/// # Errors
/// [`KernelError::Shape`] if the shapes differ.
pub fn forward(gate: &Tensor, up: &Tensor) -> Result<Tensor, KernelError> {
    check_shape("swiglu::forward", "up", &up.shape(), &gate.shape())?;
    let mut y = Tensor::stale(gate.rows(), gate.cols());
    cpu::swiglu::forward(gate.data(), up.data(), y.data_mut());
    Ok(y)
}

/// Returns `(d gate, d up)`.
///
/// # Shapes
/// `dy`, `gate`, `up`: `[tokens, intermediate]`
///
/// # Errors
/// [`KernelError::Shape`] if the shapes differ.
pub fn backward(dy: Tensor, gate: &Tensor, up: &Tensor) -> Result<(Tensor, Tensor), KernelError> {
    check_shape("swiglu::backward", "up", &up.shape(), &gate.shape())?;
    check_shape("swiglu::backward", "dy", &dy.shape(), &gate.shape())?;
    let mut d_gate = dy;
    let mut d_up = Tensor::stale(gate.rows(), gate.cols());
    cpu::swiglu::backward(gate.data(), up.data(), d_gate.data_mut(), d_up.data_mut());
    Ok((d_gate, d_up))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use crate::reference::testing::{max_error, noise};

    #[test]
    fn swiglu_matches_reference() {
        for (tokens, features) in [(1, 1), (3, 5), (70, 1536)] {
            let mut gate = noise(tokens, features, 1);
            gate.data_mut().iter_mut().for_each(|value| *value *= 20.0);
            let (up, dy) = (noise(tokens, features, 2), noise(tokens, features, 3));
            assert!(
                max_error(
                    &forward(&gate, &up).unwrap(),
                    &reference::swiglu(&gate, &up)
                ) < 1e-5
            );
            let (d_gate, d_up) = backward(dy.clone(), &gate, &up).unwrap();
            let (expected_gate, expected_up) = reference::swiglu_backward(&dy, &gate, &up);
            assert!(max_error(&d_gate, &expected_gate) < 1e-5);
            assert!(max_error(&d_up, &expected_up) < 1e-5);
        }
    }
}
