//! Linear layers with their LoRA updates on a device: products by [`matrix`](super::matrix), and the ways in which several are one launch.

use half::bf16;

use super::buffer::DeviceBuffer;
use super::convert;
use super::driver::{Product, ProductType};
use super::int8_gemm;
use super::int8_matmul::{self, Codes, FEW_ROWS, MAX_ROWS, Output};
use super::matrix::{factor, forward, read_as_codes, rounded, weights};
use super::tensor::{DeviceTensor, own};
use super::view::ViewMut;
use crate::adapted::{Layer, Update};
use crate::error::KernelError;
use crate::matrix::{Compute, Matrix};
use crate::stored::Stored;
use crate::tensor::{Tensor, two_places};

/// `out = keep * out + alpha * op(a) op(b)`: LoRA's thin products, f32 sums of operands that are rounded to bf16. The shapes fit.
pub(crate) fn product(
    out: &mut Tensor,
    [keep, alpha]: [f32; 2],
    (a, a_transposed): (&Tensor, bool),
    (b, b_transposed): (&Tensor, bool),
) -> Result<(), KernelError> {
    const OPERATION: &str = "product";
    let [rows, cols] = out.shape();
    let inner = if a_transposed { a.rows() } else { a.cols() };
    let strides = [a.cols(), b.cols()];
    let (Some(a), Some(b)) = (a.on_device(), b.on_device()) else {
        return Err(two_places(OPERATION));
    };
    let (a, b) = (a.bf16()?, b.bf16()?);
    let (at, d_type) = match out.on_device_mut() {
        Some(DeviceTensor::F32(out)) => (own(out)?.at(0), ProductType::F32),
        Some(DeviceTensor::Bf16(out)) => (own(out)?.at(0), ProductType::Bf16),
        None => return Err(two_places(OPERATION)),
    };
    let product = Product {
        rows,
        cols,
        inner,
        alpha,
        a: factor(a.buffer(), strides[0], a_transposed),
        b: factor(b.buffer(), strides[1], b_transposed),
        beta: keep,
        c: at,
        d: at,
        stride: cols,
        d_type,
    };
    // SAFETY: the callers have compared the three shapes.
    unsafe { a.buffer().device().multiply(&product) }
}

/// `x W^T + scaling * down b^T + bias + residual`, f32. The shapes fit.
pub(crate) fn adapted(
    x: &DeviceBuffer<bf16>,
    layer: Layer<'_>,
    residual: Option<&Tensor>,
) -> Result<Tensor, KernelError> {
    let mut y = forward(x, layer.weight, residual)?;
    finish(&mut y, &layer)?;
    Ok(y)
}

/// Adds the update and the bias.
fn finish(y: &mut Tensor, layer: &Layer<'_>) -> Result<(), KernelError> {
    if let Some(Update { down, b, scaling }) = layer.update {
        product(y, [1.0, scaling], (down, false), (b, true))?;
    }
    match layer.bias {
        None => Ok(()),
        Some(bias) => crate::bias::add(y, bias),
    }
}

/// As [`adapted`] without a residual, rounded to bf16. The update is rounded by itself first, and is small beside the rest.
pub(crate) fn adapted_rounded(
    x: &DeviceBuffer<bf16>,
    layer: Layer<'_>,
) -> Result<Stored, KernelError> {
    const OPERATION: &str = "adapted::stored";
    let [out, inner] = layer.weight.shape();
    let rows = x.len() / inner.max(1);
    let device = x.device();
    let matrix = weights(OPERATION, layer.weight)?;
    let mut y = DeviceBuffer::<bf16>::stale(device, rows * out)?;
    let whole = |y: &DeviceBuffer<bf16>| Product {
        rows,
        cols: out,
        inner,
        alpha: 1.0,
        a: factor(x, inner, false),
        b: factor(x, inner, true),
        beta: 0.0,
        c: y.at(0),
        d: y.at(0),
        stride: out,
        d_type: ProductType::Bf16,
    };
    if let Some((codes, row_scale)) = read_as_codes(matrix, rows, inner) {
        if layer.update.is_none() && layer.bias.is_none() {
            let x_shape = [rows, inner];
            match rows <= MAX_ROWS {
                true => {
                    let to = Output::Bf16(&mut y);
                    int8_matmul::int8_matmul(x, x_shape, codes, row_scale, to)?;
                }
                false => {
                    let to = int8_gemm::Output::Bf16(&mut y);
                    int8_gemm::forward(x, x_shape, codes, row_scale, to)?;
                }
            }
            return Ok(stored(rows, out, y));
        }
        // So few rows that another pass over them costs nothing.
        return Ok(Stored::new(
            rounded(&adapted(x, layer, None)?)?,
            Compute::Bf16,
        ));
    }
    let mut beta = 0.0;
    if let Some(Update { down, b, scaling }) = layer.update {
        let (Some(down_there), Some(b_there)) = (down.on_device(), b.on_device()) else {
            return Err(two_places(OPERATION));
        };
        let (down_there, b_there) = (down_there.bf16()?, b_there.bf16()?);
        let product = Product {
            inner: b.cols(),
            alpha: scaling,
            a: factor(down_there.buffer(), b.cols(), false),
            b: factor(b_there.buffer(), b.cols(), true),
            ..whole(&y)
        };
        // SAFETY: `down` is `[rows, rank]`, `b` `[out, rank]`, `y` `[rows, out]`.
        unsafe { device.multiply(&product)? };
        beta = 1.0;
    }
    let weight = matrix.widened()?;
    let product = Product {
        b: factor(weight.buffer(), inner, true),
        beta,
        ..whole(&y)
    };
    // SAFETY: `x` is `[rows, inner]`, the weight `[out, inner]`, `y` `[rows, out]`.
    unsafe { device.multiply(&product)? };
    if let Some(bias) = layer.bias {
        convert::add_bias(ViewMut::new(&mut y, [rows, out]), &*bias.on(device)?)?;
    }
    Ok(stored(rows, out, y))
}

/// Weights that one launch multiplies with so few rows.
fn codes_of_few<'a, const N: usize>(
    rows: usize,
    matrices: [&'a Matrix; N],
) -> Option<[Codes<'a>; N]> {
    let codes = matrices.map(|matrix| {
        let there = matrix.on_device()?;
        let (codes, row_scale) = read_as_codes(there, rows, matrix.shape()[1])?;
        Some(Codes { codes, row_scale })
    });
    if rows > FEW_ROWS || codes.iter().any(Option::is_none) {
        return None;
    }
    Some(codes.map(|codes| codes.expect("all are there")))
}

/// Whether [`adapted_three`] has one launch for these.
pub(crate) fn takes_three(rows: usize, matrices: [&Matrix; 3]) -> bool {
    codes_of_few(rows, matrices).is_some()
}

/// [`adapted`] of three layers without a residual: their products in one launch, where [`takes_three`] says so.
pub(crate) fn adapted_three(
    x: &DeviceBuffer<bf16>,
    layers: [Layer<'_>; 3],
) -> Result<[Tensor; 3], KernelError> {
    let [_, inner] = layers[0].weight.shape();
    let rows = x.len() / inner.max(1);
    let Some(matrices) = codes_of_few(rows, layers.map(|layer| layer.weight)) else {
        let [a, b, c] = layers.map(|layer| adapted(x, layer, None));
        return Ok([a?, b?, c?]);
    };
    let stale =
        |matrix: Codes<'_>| DeviceBuffer::<f32>::stale(x.device(), rows * matrix.row_scale.len());
    let [mut a, mut b, mut c] = [
        stale(matrices[0])?,
        stale(matrices[1])?,
        stale(matrices[2])?,
    ];
    int8_matmul::three(x, [rows, inner], matrices, [&mut a, &mut b, &mut c])?;
    let mut outputs = [a, b, c].map(|y| Tensor::from_device(rows, y.len() / rows.max(1), y));
    for (y, layer) in outputs.iter_mut().zip(&layers) {
        finish(y, layer)?;
    }
    Ok(outputs)
}

/// `silu(gate(x)) * up(x)`, bf16, where one launch does it: a few rows, 8-bit codes, nothing that is added.
pub(crate) fn gated(
    x: &DeviceBuffer<bf16>,
    layers: [Layer<'_>; 2],
) -> Result<Option<Tensor>, KernelError> {
    let [out, inner] = layers[0].weight.shape();
    let rows = x.len() / inner.max(1);
    let is_plain = |layer: &Layer<'_>| layer.update.is_none() && layer.bias.is_none();
    let matrices = codes_of_few(rows, layers.map(|layer| layer.weight));
    let Some(matrices) = matrices.filter(|_| layers.iter().all(is_plain)) else {
        return Ok(None);
    };
    let mut y = DeviceBuffer::<bf16>::stale(x.device(), rows * out)?;
    int8_matmul::gated(x, rows, matrices, &mut y)?;
    Ok(Some(Tensor::from_device(rows, out, y)))
}

fn stored(rows: usize, cols: usize, values: DeviceBuffer<bf16>) -> Stored {
    Stored::new(Tensor::from_device(rows, cols, values), Compute::Bf16)
}
