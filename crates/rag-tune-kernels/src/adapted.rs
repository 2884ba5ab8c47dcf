//! adapted: `y = x W^T + scaling * down b^T + bias + residual`, a linear layer with LoRA's update and what follows it.
//!
//! All is added to a block of the product while that is in the cache: one pass over memory, where each operation of its own
//! would be another.

use crate::bias;
use crate::buffer::Buffer;
use crate::cpu;
use crate::cpu::panels::Direction;
use crate::cuda::{self, Row};
use crate::error::{KernelError, check_shape};
use crate::linear::{self, Input, packed};
use crate::matrix::{Compute, Matrix};
use crate::stored::Stored;
use crate::tensor::Tensor;

/// A linear layer with what is added to its product.
#[derive(Clone, Copy)]
pub struct Layer<'a> {
    /// `[out, in]`
    pub weight: &'a Matrix,
    /// LoRA's.
    pub update: Option<Update<'a>>,
    /// `[out]`, added behind the update.
    pub bias: Option<Row<'a>>,
}

/// `scaling * down b^T`.
#[derive(Clone, Copy)]
pub struct Update<'a> {
    /// `x A^T`, `[tokens, rank]`
    pub down: &'a Tensor,
    /// `[out, rank]`
    pub b: &'a Tensor,
    /// Factor of the product.
    pub scaling: f32,
}

impl Layer<'_> {
    /// That it takes `[tokens, features]` to `[tokens, out]`.
    pub(crate) fn check(
        &self,
        operation: &'static str,
        [tokens, features]: [usize; 2],
        out: usize,
    ) -> Result<(), KernelError> {
        check_shape(operation, "weight", &self.weight.shape(), &[out, features])?;
        if let Some(bias) = self.bias {
            check_shape(operation, "bias", &[bias.len()], &[out])?;
        }
        if let Some(Update { down, b, .. }) = self.update {
            check_shape(operation, "down", &down.shape(), &[tokens, b.cols()])?;
            check_shape(operation, "b", &b.shape(), &[out, b.cols()])?;
        }
        Ok(())
    }
}

/// `residual` is added last.
///
/// # Shapes
/// `x`: `[tokens, in]`, `residual`: `[tokens, out]`; returns `[tokens, out]`
///
/// # Errors
/// [`KernelError::Shape`] if the shapes do not fit.
pub fn forward(
    x: &Input<'_>,
    layer: Layer<'_>,
    residual: Option<&Tensor>,
) -> Result<Tensor, KernelError> {
    let operation = "adapted::forward";
    let ([tokens, _], [out, _]) = (x.shape(), layer.weight.shape());
    layer.check(operation, x.shape(), out)?;
    if let Some(residual) = residual {
        check_shape(operation, "residual", &residual.shape(), &[tokens, out])?;
    }
    if let Some(x) = x.on_device() {
        return cuda::adapted::adapted(x?.buffer(), layer, residual);
    }
    let packed = packed(layer.weight, Direction::Forward, x.compute());
    // Columns of outliers are added to whole products.
    let Some((weights, scales)) = packed.filter(|_| x.compute() != Compute::LlmInt8) else {
        let mut y = one_by_one(x, layer)?;
        if let Some(residual) = residual {
            y.add_assign(residual)?;
        }
        return Ok(y);
    };
    let mut y = Tensor::stale(tokens, out);
    let residual = residual.map(Tensor::data);
    cpu::adapted::forward(&*x.product(weights), scales, layer, residual, y.data_mut());
    Ok(y)
}

/// Whether [`forward_three`] has one launch for so few rows of these weights; in host memory it has not.
pub fn takes_three(x: &Input<'_>, weights: [&Matrix; 3]) -> bool {
    cuda::adapted::takes_three(x.shape()[0], weights)
}

/// [`forward`] of three layers without a residual.
///
/// # Errors
/// As [`forward`].
pub fn forward_three(x: &Input<'_>, layers: [Layer<'_>; 3]) -> Result<[Tensor; 3], KernelError> {
    for layer in &layers {
        layer.check("adapted::forward_three", x.shape(), layer.weight.shape()[0])?;
    }
    match x.on_device() {
        Some(x) => cuda::adapted::adapted_three(x?.buffer(), layers),
        None => {
            let [a, b, c] = layers.map(|layer| forward(x, layer, None));
            Ok([a?, b?, c?])
        }
    }
}

/// The layer's output as it waits for the backward pass: [`forward`] and [`Stored::new`] in one.
///
/// # Shapes
/// As [`forward`].
///
/// # Errors
/// As [`forward`].
pub fn stored(x: &Input<'_>, layer: Layer<'_>) -> Result<Stored, KernelError> {
    let ([tokens, _], [out, _]) = (x.shape(), layer.weight.shape());
    layer.check("adapted::stored", x.shape(), out)?;
    if let Some(x) = x.on_device() {
        return cuda::adapted::adapted_rounded(x?.buffer(), layer);
    }
    let packed = packed(layer.weight, Direction::Forward, x.compute());
    let is_rounded = matches!(x.compute(), Compute::Bf16 | Compute::Int8);
    let Some((weights, scales)) = packed.filter(|_| is_rounded) else {
        return Ok(Stored::new(one_by_one(x, layer)?, x.compute()));
    };
    let mut values = Buffer::stale(tokens * out);
    cpu::adapted::stored(&*x.product(weights), scales, layer, &mut values);
    Ok(Stored::from_bf16(tokens, out, values))
}

fn one_by_one(x: &Input<'_>, layer: Layer<'_>) -> Result<Tensor, KernelError> {
    let mut y = linear::forward(x, layer.weight)?;
    if let Some(Update { down, b, scaling }) = layer.update {
        linear::product_nt(&mut y, 1.0, scaling, down, b)?;
    }
    if let Some(bias) = layer.bias {
        bias::add(&mut y, bias)?;
    }
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processor::Level;
    use crate::reference::testing::noise;

    /// Tasks of one panel and of several, one row and many, edges of panels and tiles.
    #[test]
    fn the_same_bits_as_one_operation_after_the_other() {
        for [tokens, inner, out] in [[0, 5, 3], [1, 5, 3], [7, 70, 130], [900, 33, 600]] {
            let (x, residual) = (noise(tokens, inner, 1), noise(tokens, out, 2));
            let weight = Matrix::int8(out, inner, noise(out, inner, 3).data()).unwrap();
            let (down, b) = (noise(tokens, 4, 4), noise(out, 4, 5));
            let bias = noise(1, out, 6).into_vec();
            let bias = Row::from(&bias);
            let update = Update {
                down: &down,
                b: &b,
                scaling: 0.5,
            };
            for level in Level::available() {
                for compute in Compute::ALL {
                    let input = Input::at_level(&x, compute, None, level);
                    for [has_update, has_bias, has_residual] in [
                        [false; 3],
                        [true, false, false],
                        [false, true, false],
                        [true; 3],
                    ] {
                        let layer = Layer {
                            weight: &weight,
                            update: has_update.then_some(update),
                            bias: has_bias.then_some(bias),
                        };
                        let what = format!("{tokens} x {inner} x {out}, {compute:?}, {level:?}");
                        let mut expected = one_by_one(&input, layer).unwrap();
                        let kept = stored(&input, layer).unwrap();
                        let expected_kept = Stored::new(expected.clone(), compute);
                        assert!(kept.widened() == expected_kept.widened(), "{what}");
                        if has_residual {
                            expected.add_assign(&residual).unwrap();
                        }
                        let y = forward(&input, layer, has_residual.then_some(&residual));
                        assert!(y.unwrap() == expected, "{what}");
                    }
                }
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let x = noise(2, 5, 1);
        let weight = Matrix::int8(4, 5, noise(4, 5, 2).data()).unwrap();
        let (down, b) = (noise(2, 2, 3), noise(4, 3, 4));
        let plain = Layer {
            weight: &weight,
            update: None,
            bias: None,
        };
        let update = Some(Update {
            down: &down,
            b: &b,
            scaling: 1.0,
        });
        let input = Input::new(&x, Compute::Bf16);
        let bias = Some(Row::from(&[0.0; 3]));
        for layer in [Layer { update, ..plain }, Layer { bias, ..plain }] {
            assert!(forward(&input, layer, None).is_err());
            assert!(stored(&input, layer).is_err());
        }
        assert!(forward(&input, plain, Some(&noise(2, 5, 5))).is_err());
        assert!(forward(&Input::new(&noise(2, 4, 6), Compute::Bf16), plain, None).is_err());
    }
}
