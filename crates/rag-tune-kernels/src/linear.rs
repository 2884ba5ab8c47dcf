//! linear: `y = x W^T` with a frozen weight, and low-rank products with trained ones.
//!
//! The weight never gets a gradient, so the backward pass is one product: `dx = dy W`. For 8-bit
//! weights the row scale is folded into `dy`, and `i8 -> bf16` is exact, so neither direction
//! needs a dequantised copy. NF4 weights are dequantised panel by panel, rounded to bf16.

use std::borrow::Cow;

use crate::cpu::gemm_bf16::{self, Epilogue};
use crate::cpu::gemm_f32::{self, View};
use crate::cpu::{Bf16Rows, Direction};
use crate::error::{KernelError, check_shape};
use crate::matrix::{Compute, Matrix};
use crate::tensor::Tensor;

/// An activation, converted once for all the products that read it.
pub struct Input<'a> {
    tensor: Cow<'a, Tensor>,
    bf16: Option<Bf16Rows>,
}

impl<'a> Input<'a> {
    /// Prepares `x` `[tokens, in]` for products in `compute`.
    ///
    /// # Errors
    /// [`KernelError::Value`] if this machine cannot do `compute`.
    pub fn new(x: &'a Tensor, compute: Compute) -> Result<Self, KernelError> {
        Ok(Self {
            bf16: converted(x, compute, None)?,
            tensor: Cow::Borrowed(x),
        })
    }

    /// The activation as it was.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }
}

fn converted(
    x: &Tensor,
    compute: Compute,
    scales: Option<&[f32]>,
) -> Result<Option<Bf16Rows>, KernelError> {
    if compute == Compute::F32 {
        return Ok(None);
    }
    if !compute.is_supported() {
        let problem = "this processor has no AVX-512 BF16".to_owned();
        return Err(KernelError::Value {
            operation: "linear",
            problem,
        });
    }
    Ok(Some(gemm_bf16::to_bf16_rows(
        x.data(),
        x.rows(),
        x.cols(),
        scales,
    )))
}

/// `x W^T`.
///
/// # Shapes
/// - `x`: `[tokens, in]`
/// - `weight`: `[out, in]`
/// - returns `[tokens, out]`, accumulated in f32
///
/// # Errors
/// [`KernelError::Shape`] if the last axis of `x` is not `in`.
pub fn forward(x: &Input<'_>, weight: &Matrix) -> Result<Tensor, KernelError> {
    let [out_features, in_features] = weight.shape();
    let [tokens, x_features] = x.tensor.shape();
    check_shape(
        "linear::forward",
        "x",
        &[tokens, x_features],
        &[tokens, in_features],
    )?;
    let mut y = Tensor::stale(tokens, out_features);
    if let (Some(rows), Some((packed, scales))) = (&x.bf16, weight.packed(Direction::Forward)) {
        gemm_bf16::multiply(
            y.data_mut(),
            rows,
            &packed,
            Epilogue {
                accumulate: false,
                scales,
            },
        );
        return Ok(y);
    }
    let mut scratch = Vec::new();
    let weight = View::new(
        weight.dense(&mut scratch),
        out_features,
        in_features,
        in_features,
    );
    let x = View::new(x.tensor.data(), tokens, in_features, in_features);
    gemm_f32::multiply(y.data_mut(), out_features, 0.0, 1.0, x, weight.transposed());
    Ok(y)
}

/// `dx += dy W`, the gradient with respect to the input.
///
/// # Shapes
/// - `dy`: `[tokens, out]`
/// - `weight`: `[out, in]`
/// - `dx`: `[tokens, in]`
///
/// # Errors
/// [`KernelError::Shape`] if the shapes do not fit; [`KernelError::Value`] if this machine cannot
/// do `compute`.
pub fn backward(
    dy: &Tensor,
    weight: &Matrix,
    compute: Compute,
    dx: &mut Tensor,
) -> Result<(), KernelError> {
    let [out_features, in_features] = weight.shape();
    let tokens = dy.rows();
    check_shape(
        "linear::backward",
        "dy",
        &dy.shape(),
        &[tokens, out_features],
    )?;
    check_shape(
        "linear::backward",
        "dx",
        &dx.shape(),
        &[tokens, in_features],
    )?;
    if let Some((packed, scales)) = weight.packed(Direction::Backward)
        && let Some(rows) = converted(dy, compute, scales)?
    {
        let epilogue = Epilogue {
            accumulate: true,
            scales: None,
        };
        gemm_bf16::multiply(dx.data_mut(), &rows, &packed, epilogue);
        return Ok(());
    }
    let mut scratch = Vec::new();
    let weight = View::new(
        weight.dense(&mut scratch),
        out_features,
        in_features,
        in_features,
    );
    let dy = View::new(dy.data(), tokens, out_features, out_features);
    gemm_f32::multiply(dx.data_mut(), in_features, 1.0, 1.0, dy, weight);
    Ok(())
}

/// `out = keep * out + factor * a b^T`, all f32: the thin products of LoRA.
///
/// # Shapes
/// `a`: `[m, k]`, `b`: `[n, k]`, `out`: `[m, n]`
///
/// # Errors
/// [`KernelError::Shape`] if the shapes do not fit.
pub fn product_nt(
    out: &mut Tensor,
    keep: f32,
    factor: f32,
    a: &Tensor,
    b: &Tensor,
) -> Result<(), KernelError> {
    check_shape("product_nt", "b", &b.shape(), &[b.rows(), a.cols()])?;
    check_shape("product_nt", "out", &out.shape(), &[a.rows(), b.rows()])?;
    multiply(out, keep, factor, view(a), view(b).transposed());
    Ok(())
}

/// `out = keep * out + factor * a b`, all f32.
///
/// # Shapes
/// `a`: `[m, k]`, `b`: `[k, n]`, `out`: `[m, n]`
///
/// # Errors
/// [`KernelError::Shape`] if the shapes do not fit.
pub fn product_nn(
    out: &mut Tensor,
    keep: f32,
    factor: f32,
    a: &Tensor,
    b: &Tensor,
) -> Result<(), KernelError> {
    check_shape("product_nn", "b", &b.shape(), &[a.cols(), b.cols()])?;
    check_shape("product_nn", "out", &out.shape(), &[a.rows(), b.cols()])?;
    multiply(out, keep, factor, view(a), view(b));
    Ok(())
}

/// `out = keep * out + factor * a^T b`, all f32: gradients of LoRA's factors.
///
/// # Shapes
/// `a`: `[k, m]`, `b`: `[k, n]`, `out`: `[m, n]`
///
/// # Errors
/// [`KernelError::Shape`] if the shapes do not fit.
pub fn product_tn(
    out: &mut Tensor,
    keep: f32,
    factor: f32,
    a: &Tensor,
    b: &Tensor,
) -> Result<(), KernelError> {
    check_shape("product_tn", "b", &b.shape(), &[a.rows(), b.cols()])?;
    check_shape("product_tn", "out", &out.shape(), &[a.cols(), b.cols()])?;
    multiply(out, keep, factor, view(a).transposed(), view(b));
    Ok(())
}

fn view(tensor: &Tensor) -> View<'_> {
    View::new(tensor.data(), tensor.rows(), tensor.cols(), tensor.cols())
}

fn multiply(out: &mut Tensor, keep: f32, factor: f32, a: View<'_>, b: View<'_>) {
    let stride = out.cols();
    gemm_f32::multiply(out.data_mut(), stride, keep, factor, a, b);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nf4::Nf4;
    use crate::reference;
    use crate::reference::testing::{max_error, noise};
    use half::bf16;

    /// `[tokens, in, out]`: edges of tiles, panels, pairs and blocks.
    const SHAPES: [[usize; 3]; 8] = [
        [1, 1, 1],
        [5, 3, 2],
        [6, 64, 64],
        [7, 65, 63],
        [13, 130, 70],
        [100, 576, 192],
        [1, 2100, 65],
        [103, 33, 2200],
    ];

    fn weights(kind: &str, out: usize, inner: usize) -> Matrix {
        let values = noise(out, inner, 1).into_vec();
        match kind {
            "int8" => Matrix::int8(out, inner, &values),
            "nf4" => Matrix::from_nf4(out, inner, &Nf4::quantize_double(&values)),
            "bf16" => Matrix::bf16(out, inner, &values),
            _ => Matrix::f32(out, inner, values),
        }
        .unwrap()
    }

    fn rounded(tensor: &Tensor) -> Tensor {
        Tensor::from_fn(tensor.rows(), tensor.cols(), |row, col| {
            bf16::from_f32(tensor.row(row)[col]).to_f32()
        })
    }

    fn as_bf16(weight: &Matrix) -> Matrix {
        let [out, inner] = weight.shape();
        let ids: Vec<u32> = (0..out as u32).collect();
        let values = weight.gather_rows(&ids).unwrap();
        Matrix::bf16(out, inner, values.data()).unwrap()
    }

    #[test]
    #[expect(
        clippy::print_stdout,
        reason = "a test that checked only a part says so"
    )]
    fn linear_matches_reference() {
        for compute in [Compute::F32, Compute::Bf16] {
            if !compute.is_supported() {
                println!("skipped: this processor has no AVX-512 BF16");
                continue;
            }
            for [tokens, inner, out] in SHAPES {
                for kind in ["int8", "nf4", "bf16", "f32"] {
                    let weight = weights(kind, out, inner);
                    let x = noise(tokens, inner, 2);
                    let dy = noise(tokens, out, 3);
                    let y = forward(&Input::new(&x, compute).unwrap(), &weight).unwrap();
                    let mut dx = noise(tokens, inner, 4);
                    let mut expected_dx = dx.clone();
                    backward(&dy, &weight, compute, &mut dx).unwrap();

                    let expected_y = reference::linear(&x, &weight);
                    reference::linear_backward(&dy, &weight, &mut expected_dx);
                    // Thrice the error that rounding to bf16 makes; 1e-4 for f32 sums. Codes of 8 bits
                    // are exact in bf16, NF4 weights are not.
                    let rounded_weight = match kind {
                        "nf4" => as_bf16(&weight),
                        _ => weight.clone(),
                    };
                    let mut rounded_dx = noise(tokens, inner, 4);
                    reference::linear_backward(&rounded(&dy), &rounded_weight, &mut rounded_dx);
                    let rounded_y = reference::linear(&rounded(&x), &rounded_weight);
                    let case = format!("{compute:?} {kind} {tokens}x{inner}x{out}");
                    let bound = |plain: f32| {
                        if compute == Compute::F32 {
                            1e-4
                        } else {
                            3.0 * plain + 1e-4
                        }
                    };
                    let y_bound = bound(max_error(&rounded_y, &expected_y));
                    assert!(max_error(&y, &expected_y) <= y_bound, "forward {case}");
                    let dx_bound = bound(max_error(&rounded_dx, &expected_dx));
                    assert!(max_error(&dx, &expected_dx) <= dx_bound, "backward {case}");
                }
            }
        }
    }

    #[test]
    fn a_wrong_shape_is_named() {
        let weight = weights("int8", 4, 8);
        let x = Tensor::zeros(3, 7);
        let error = forward(&Input::new(&x, Compute::F32).unwrap(), &weight).unwrap_err();
        assert_eq!(
            error.to_string(),
            "linear::forward: `x` is [3, 7], expected [3, 8]"
        );
    }
}
