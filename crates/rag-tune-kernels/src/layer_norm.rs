//! layer_norm: `y = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias`, row by row (arXiv:1607.06450).

use crate::cpu;
use crate::error::{KernelError, check_shape};
use crate::tensor::Tensor;

/// A norm's parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerNorm {
    /// `[hidden]`.
    pub weight: Vec<f32>,
    /// `[hidden]`.
    pub bias: Vec<f32>,
    /// Added to the variance.
    pub eps: f32,
}

impl LayerNorm {
    fn check(&self, operation: &'static str, hidden: usize) -> Result<(), KernelError> {
        check_shape(operation, "weight", &[self.weight.len()], &[hidden])?;
        check_shape(operation, "bias", &[self.bias.len()], &[hidden])
    }
}

/// `x = layer_norm(x)`.
///
/// # Shapes
/// `x`: `[tokens, hidden]`
///
/// # Errors
/// [`KernelError::Shape`] if the norm is of another width.
pub fn forward(x: &mut Tensor, norm: &LayerNorm) -> Result<(), KernelError> {
    norm.check("layer_norm::forward", x.cols())?;
    cpu::layer_norm::forward(x.data_mut(), None, norm);
    Ok(())
}

/// `x = layer_norm(x + added + residual)`: what follows a linear layer with bias `added` in a post-norm block.
///
/// # Shapes
/// `x`, `residual`: `[tokens, hidden]`; `added`: `[hidden]`
///
/// # Errors
/// [`KernelError::Shape`] if the shapes do not fit.
pub fn add_forward(
    x: &mut Tensor,
    added: &[f32],
    residual: &Tensor,
    norm: &LayerNorm,
) -> Result<(), KernelError> {
    const OPERATION: &str = "layer_norm::add_forward";
    norm.check(OPERATION, x.cols())?;
    check_shape(OPERATION, "added", &[added.len()], &[x.cols()])?;
    check_shape(OPERATION, "residual", &residual.shape(), &x.shape())?;
    cpu::layer_norm::forward(x.data_mut(), Some((added, residual.data())), norm);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use crate::reference::testing::{max_error, noise};

    fn norm(hidden: usize) -> LayerNorm {
        LayerNorm {
            weight: noise(1, hidden, 3).into_vec(),
            bias: noise(1, hidden, 4).into_vec(),
            eps: 1e-5,
        }
    }

    #[test]
    fn layer_norm_matches_reference() {
        for (tokens, hidden) in [(1, 1), (3, 5), (17, 64), (9, 33), (200, 384)] {
            let norm = norm(hidden);
            let (x, residual) = (noise(tokens, hidden, 1), noise(tokens, hidden, 2));
            let added = noise(1, hidden, 5).into_vec();
            let mut y = x.clone();
            forward(&mut y, &norm).unwrap();
            let error = max_error(&y, &reference::layer_norm(&x, &norm));
            assert!(error < 1e-5, "{tokens} x {hidden}: {error}");

            let mut y = x.clone();
            add_forward(&mut y, &added, &residual, &norm).unwrap();
            let sum = Tensor::from_fn(tokens, hidden, |row, col| {
                x.row(row)[col] + added[col] + residual.row(row)[col]
            });
            let error = max_error(&y, &reference::layer_norm(&sum, &norm));
            assert!(error < 2e-5, "{tokens} x {hidden}: {error}");
        }
    }

    #[test]
    fn another_width_is_refused() {
        let error = forward(&mut noise(2, 3, 1), &norm(4)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "layer_norm::forward: `weight` is [4], expected [3]"
        );
        let mut x = noise(2, 4, 1);
        assert!(add_forward(&mut x, &[0.0; 4], &noise(3, 4, 1), &norm(4)).is_err());
        assert!(add_forward(&mut x, &[0.0; 3], &noise(2, 4, 1), &norm(4)).is_err());
    }
}
