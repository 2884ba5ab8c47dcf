//! Launches of kernels/int8_gemm.cu.

use half::bf16;

use super::buffer::DeviceBuffer;
use super::device::count;
use super::driver::Argument;
use super::int8_matmul::check_multiple;
use crate::error::KernelError;

const THREADS: usize = 256;
/// What rows of activations are a multiple of: they are copied 8 values at a time.
pub(crate) const STRIDE_MULTIPLE: usize = 8;
/// Tokens and features of a block's tile.
const TILE: usize = 128;
/// Three stages of a tile of tokens and one of codes, 64 of the inner axis each.
const SHARED_BYTES: usize = 3 * (TILE * 64 * size_of::<bf16>() + TILE * 64);

/// Where a product goes.
pub(crate) enum Output<'a> {
    /// Rounded.
    Bf16(&'a mut DeviceBuffer<bf16>),
    /// As it is.
    F32(&'a mut DeviceBuffer<f32>),
    /// Added to what is there.
    Added(&'a mut DeviceBuffer<f32>),
}

impl Output<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Bf16(to) => to.len(),
            Self::F32(to) | Self::Added(to) => to.len(),
        }
    }

    fn argument(&self) -> Argument {
        match self {
            Self::Bf16(to) => to.argument(),
            Self::F32(to) | Self::Added(to) => to.argument(),
        }
    }

    /// The kernel of two that writes it, and whether it adds where it can.
    fn choose(&self, [bf16, f32]: [&'static str; 2]) -> (&'static str, Option<Argument>) {
        match self {
            Self::Bf16(_) => (bf16, None),
            Self::F32(_) => (f32, Some(0.into())),
            Self::Added(_) => (f32, Some(1.into())),
        }
    }
}

/// `y = x W^T`, `W = codes * row_scale`: `x` is `[tokens, in]` with `x_stride` from row to row, `codes` `[out, in]`, `row_scale` `[out]`, `y`
/// `[tokens, out]`.
///
/// # Errors
/// [`KernelError::Value`] unless `in` is a multiple of 16 and `x_stride` one of 8.
pub(crate) fn forward(
    x: &DeviceBuffer<bf16>,
    [tokens, x_stride]: [usize; 2],
    codes: &DeviceBuffer<i8>,
    row_scale: &DeviceBuffer<f32>,
    y: Output<'_>,
) -> Result<(), KernelError> {
    let (kernel, adds) = y.choose(["int8_gemm_forward_bf16", "int8_gemm_forward_f32"]);
    let out = row_scale.len();
    let inner = codes.len() / out.max(1);
    assert!(codes.len() == out * inner, "a scale for every row");
    assert!(
        x_stride >= inner && x.len() >= tokens * x_stride && y.len() == tokens * out,
        "`x` and `y` have a row for every token"
    );
    check_multiple(kernel, "the inner axis of the codes", inner, 16)?;
    check_multiple(kernel, "the stride of `x`", x_stride, STRIDE_MULTIPLE)?;
    let mut arguments = vec![
        x.argument(),
        codes.argument(),
        row_scale.argument(),
        y.argument(),
        count(kernel, tokens)?,
        count(kernel, out)?,
        count(kernel, inner)?,
        count(kernel, x_stride)?,
    ];
    arguments.extend(adds);
    // SAFETY: `x` has `tokens` rows of `x_stride >= inner` values, `codes` `out` rows of `inner`, `row_scale` one a row, `y` `tokens` rows of
    // `out`; rows begin at multiples of 16 bytes, as they are copied.
    unsafe {
        x.device().launch(
            kernel,
            [tokens.div_ceil(TILE), out.div_ceil(TILE), 1],
            (THREADS, SHARED_BYTES),
            &arguments,
        )
    }
}

/// `dx = dy codes`: `dy` is `[tokens, out]` with `dy_stride` from row to row and has the scales of `codes`' rows in it, `codes`
/// `[out, in]`, `dx` `[tokens, in]`.
///
/// # Errors
/// [`KernelError::Value`] unless `in` is a multiple of 16 and `dy_stride` one of 8.
pub(crate) fn backward(
    dy: &DeviceBuffer<bf16>,
    [tokens, out, dy_stride]: [usize; 3],
    codes: &DeviceBuffer<i8>,
    dx: Output<'_>,
) -> Result<(), KernelError> {
    let (kernel, adds) = dx.choose(["int8_gemm_backward_bf16", "int8_gemm_backward_f32"]);
    let inner = codes.len() / out.max(1);
    assert!(codes.len() == out * inner, "rows of one length");
    assert!(
        dy_stride >= out && dy.len() >= tokens * dy_stride && dx.len() == tokens * inner,
        "`dy` and `dx` have a row for every token"
    );
    check_multiple(kernel, "the inner axis of the codes", inner, 16)?;
    check_multiple(kernel, "the stride of `dy`", dy_stride, STRIDE_MULTIPLE)?;
    let mut arguments = vec![
        dy.argument(),
        codes.argument(),
        dx.argument(),
        count(kernel, tokens)?,
        count(kernel, out)?,
        count(kernel, inner)?,
        count(kernel, dy_stride)?,
    ];
    arguments.extend(adds);
    // SAFETY: `dy` has `tokens` rows of `dy_stride >= out` values, `codes` `out` rows of `inner`, `dx` `tokens` rows of `inner`; rows begin
    // at multiples of 16 bytes, as they are copied.
    unsafe {
        dy.device().launch(
            kernel,
            [tokens.div_ceil(TILE), inner.div_ceil(TILE), 1],
            (THREADS, SHARED_BYTES),
            &arguments,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::testing::{assert_close, devices, int8_weight, narrowed, strided, widened};
    use crate::reference;
    use crate::reference::testing::noise;
    use crate::{Matrix, Tensor};

    fn rounded(tensor: &Tensor) -> Tensor {
        Tensor::from_vec(tensor.rows(), tensor.cols(), narrowed(tensor.data())).unwrap()
    }

    fn sum(left: &Tensor, right: &Tensor) -> Tensor {
        let mut sum = left.clone();
        sum.add_assign(right).unwrap();
        sum
    }

    /// `[tokens, out, in]`: less than a tile, more than one, and more chunks than stages.
    const SHAPES: [[usize; 3]; 4] = [[1, 1, 16], [3, 5, 48], [19, 130, 272], [130, 9, 144]];

    #[test]
    fn int8_gemm_matches_reference_on_devices() {
        for device in devices() {
            for [tokens, out, inner] in SHAPES {
                let (codes, row_scale, weight) = int8_weight(&device, [out, inner], 1);
                let (x, before) = (noise(tokens, inner, 2), noise(tokens, out, 3));
                let x_stride = inner + 8;
                let there = strided(&device, &x, x_stride);
                let exact = reference::linear(&x, &weight);
                let of_rounded = reference::linear(&rounded(&x), &weight);
                let run = |y: Output<'_>| {
                    forward(&there, [tokens, x_stride], &codes, &row_scale, y).unwrap()
                };

                let mut y = DeviceBuffer::stale(&device, tokens * out).unwrap();
                run(Output::Bf16(&mut y));
                let y = widened(&y.to_vec().unwrap());
                assert_close("y", &y, exact.data(), &narrowed(of_rounded.data()));

                // bf16 only rounds operands here: compared with the product of rounded ones, next to nothing is left.
                let mut y = DeviceBuffer::stale(&device, tokens * out).unwrap();
                run(Output::F32(&mut y));
                let y = y.to_vec().unwrap();
                assert_close("y in f32", &y, of_rounded.data(), of_rounded.data());

                let mut y = DeviceBuffer::from_slice(&device, before.data()).unwrap();
                run(Output::Added(&mut y));
                let expected = sum(&before, &of_rounded);
                let y = y.to_vec().unwrap();
                assert_close("y, added to", &y, expected.data(), expected.data());
            }
        }
    }

    #[test]
    fn int8_gemm_backward_matches_reference_on_devices() {
        for device in devices() {
            for [tokens, out, inner] in SHAPES {
                let (codes, row_scale, weight) = int8_weight(&device, [out, inner], 1);
                let (dy, before) = (noise(tokens, out, 2), noise(tokens, inner, 3));
                let product = |dy: &Tensor, weight: &Matrix| {
                    let mut dx = Tensor::zeros(tokens, inner);
                    reference::linear_backward(dy, weight, &mut dx);
                    dx
                };
                let dy_stride = out.next_multiple_of(8) + 8;
                let scales = row_scale.to_vec().unwrap();
                let folded =
                    Tensor::from_fn(tokens, out, |token, at| dy.row(token)[at] * scales[at]);
                let there = strided(&device, &folded, dy_stride);
                let run = |dx: Output<'_>| {
                    backward(&there, [tokens, out, dy_stride], &codes, dx).unwrap()
                };

                let mut dx = DeviceBuffer::stale(&device, tokens * inner).unwrap();
                run(Output::Bf16(&mut dx));
                let dx = widened(&dx.to_vec().unwrap());
                let plain = product(&rounded(&dy), &weight);
                let exact = product(&dy, &weight);
                assert_close("dx", &dx, exact.data(), &narrowed(plain.data()));

                // The codes alone, times what was folded and rounded: the same up to the order of the sum.
                let unit = vec![127.0; out];
                let codes_alone =
                    Matrix::from_int8(out, inner, &codes.to_vec().unwrap(), &unit).unwrap();
                let of_rounded = product(&rounded(&folded), &codes_alone);
                let mut dx = DeviceBuffer::stale(&device, tokens * inner).unwrap();
                run(Output::F32(&mut dx));
                let dx = dx.to_vec().unwrap();
                assert_close("dx in f32", &dx, of_rounded.data(), of_rounded.data());

                let mut dx = DeviceBuffer::from_slice(&device, before.data()).unwrap();
                run(Output::Added(&mut dx));
                let expected = sum(&before, &of_rounded);
                let dx = dx.to_vec().unwrap();
                assert_close("dx, added to", &dx, expected.data(), expected.data());
            }
        }
    }

    #[test]
    fn rows_that_cannot_be_copied_in_pieces_are_refused() {
        let device = &devices()[0];
        let problem = |[out, inner, stride]: [usize; 3]| {
            let (codes, row_scale, _) = int8_weight(device, [out, inner], 1);
            let x = strided(device, &noise(1, inner, 2), stride);
            let mut y = DeviceBuffer::stale(device, out).unwrap();
            forward(&x, [1, stride], &codes, &row_scale, Output::F32(&mut y))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            problem([3, 24, 24]),
            "int8_gemm_forward_f32: the inner axis of the codes is 24, which is no multiple of 16"
        );
        assert_eq!(
            problem([3, 32, 36]),
            "int8_gemm_forward_f32: the stride of `x` is 36, which is no multiple of 8"
        );
    }
}
