//! Frozen weights on a device, and the products with them: by cuBLASLt, or for few rows by the kernels that read 8-bit codes.
//!
//! An 8-bit weight is written out in bf16 for every product with many rows, into memory that the next product uses again: that
//! reads and writes 3 bytes a weight, where the product does two operations a weight and row.

use std::sync::Arc;

use half::bf16;
use rayon::prelude::*;

use super::buffer::DeviceBuffer;
use super::device::Device;
use super::driver::{Factor, Product, ProductType};
use super::ids::Ids;
use super::int8_gemm;
use super::int8_matmul::{INNER_MULTIPLE, MAX_ROWS, Output, int8_matmul};
use super::tensor::{DeviceTensor, Lent};
use super::view::{View, ViewMut};
use super::{convert, cross_entropy as loss, dequantize_rows, rows};
use crate::error::KernelError;
use crate::linear::Write;
use crate::matrix::Matrix;
use crate::tensor::{Tensor, two_places};

/// Rows up to which reading 8-bit codes in the product is quicker than writing them out for cuBLASLt.
const FUSED_ROWS: usize = 256;

/// Bytes that the logits of a chunk of tokens may take.
const LOGITS_BYTES: usize = 256 << 20;

/// A weight `[out, in]`, row-major. A clone is the same memory.
#[derive(Debug, Clone)]
pub(crate) enum DeviceMatrix {
    /// `codes[o, i] * row_scale[o]`
    Int8 {
        codes: Arc<DeviceBuffer<i8>>,
        row_scale: Arc<DeviceBuffer<f32>>,
    },
    Bf16(Arc<DeviceBuffer<bf16>>),
}

impl DeviceMatrix {
    /// A row-major `[out, in]` with 8-bit codes that `code(row, col)` gives.
    pub(crate) fn int8(
        device: &Device,
        shape: [usize; 2],
        code: impl Fn(usize, usize) -> i8 + Sync,
        row_scale: &[f32],
    ) -> Result<Self, KernelError> {
        Ok(Self::Int8 {
            codes: Arc::new(DeviceBuffer::from_slice(device, &row_major(shape, code))?),
            row_scale: Arc::new(DeviceBuffer::from_slice(device, row_scale)?),
        })
    }

    /// A row-major `[out, in]` with the values that `value(row, col)` gives.
    pub(crate) fn bf16(
        device: &Device,
        shape: [usize; 2],
        value: impl Fn(usize, usize) -> bf16 + Sync,
    ) -> Result<Self, KernelError> {
        let values = DeviceBuffer::from_slice(device, &row_major(shape, value))?;
        Ok(Self::Bf16(Arc::new(values)))
    }

    pub(crate) fn device(&self) -> &Device {
        match self {
            Self::Int8 { codes, .. } => codes.device(),
            Self::Bf16(values) => values.device(),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Int8 { codes, row_scale } => codes.len() + 4 * row_scale.len(),
            Self::Bf16(values) => 2 * values.len(),
        }
    }

    /// The weights in bf16.
    pub(super) fn widened(&self) -> Result<Lent<'_, bf16>, KernelError> {
        match self {
            Self::Bf16(values) => Ok(Lent::Held(values)),
            Self::Int8 { codes, row_scale } => {
                let mut values = DeviceBuffer::stale(codes.device(), codes.len())?;
                let stride = codes.len() / row_scale.len().max(1);
                dequantize_rows::dequantize_rows(codes, row_scale, &mut values, stride)?;
                Ok(Lent::Made(Arc::new(values)))
            }
        }
    }
}

fn row_major<T: Send + Default + Clone>(
    [rows, cols]: [usize; 2],
    value: impl Fn(usize, usize) -> T + Sync,
) -> Vec<T> {
    let mut values = vec![T::default(); rows * cols];
    let by_row = values.par_chunks_mut(cols.max(1)).enumerate();
    by_row.for_each(|(row, to)| {
        for (col, to) in to.iter_mut().enumerate() {
            *to = value(row, col);
        }
    });
    values
}

pub(super) fn weights<'a>(
    operation: &'static str,
    weight: &'a Matrix,
) -> Result<&'a DeviceMatrix, KernelError> {
    weight.on_device().ok_or_else(|| two_places(operation))
}

/// As it lies in memory, `stride` values from row to row.
pub(super) fn factor(values: &DeviceBuffer<bf16>, stride: usize, transposed: bool) -> Factor {
    Factor {
        address: values.at(0),
        stride,
        transposed,
    }
}

/// `y = x W^T + residual`, f32.
pub(crate) fn forward(
    x: &DeviceBuffer<bf16>,
    weight: &Matrix,
    residual: Option<&Tensor>,
) -> Result<Tensor, KernelError> {
    const OPERATION: &str = "linear::forward";
    let [out, inner] = weight.shape();
    let rows = x.len() / inner.max(1);
    let matrix = weights(OPERATION, weight)?;
    let residual = match residual.map(|it| it.on_device().ok_or_else(|| two_places(OPERATION))) {
        None => None,
        Some(values) => Some(values?.f32()?),
    };
    let mut y = DeviceBuffer::<f32>::stale(x.device(), rows * out)?;
    match read_as_codes(matrix, rows, inner) {
        Some((codes, row_scale)) if rows <= MAX_ROWS => {
            let residual = residual.as_ref().map(Lent::buffer);
            let to = Output::F32 {
                y: &mut y,
                residual,
            };
            int8_matmul(x, [rows, inner], codes, row_scale, to)?;
        }
        Some((codes, row_scale)) => {
            let to = match &residual {
                None => int8_gemm::Output::F32(&mut y),
                Some(residual) => {
                    y.copy_from(0, residual.buffer(), 0..rows * out)?;
                    int8_gemm::Output::Added(&mut y)
                }
            };
            int8_gemm::forward(x, [rows, inner], codes, row_scale, to)?;
        }
        None => {
            let weight = matrix.widened()?;
            let product = Product {
                rows,
                cols: out,
                inner,
                alpha: 1.0,
                a: factor(x, inner, false),
                b: factor(weight.buffer(), inner, true),
                beta: if residual.is_some() { 1.0 } else { 0.0 },
                c: residual.as_ref().map_or(y.at(0), |it| it.buffer().at(0)),
                d: y.at(0),
                stride: out,
                d_type: ProductType::F32,
            };
            // SAFETY: `x` is `[rows, inner]`, the weight `[out, inner]`, `y` and the residual `[rows, out]`.
            unsafe { x.device().multiply(&product)? };
        }
    }
    Ok(Tensor::from_device(rows, out, y))
}

/// The codes, where kernels read them as they are.
pub(super) fn read_as_codes(
    matrix: &DeviceMatrix,
    rows: usize,
    inner: usize,
) -> Option<(&DeviceBuffer<i8>, &DeviceBuffer<f32>)> {
    match matrix {
        DeviceMatrix::Int8 { codes, row_scale }
            if rows <= FUSED_ROWS && inner.is_multiple_of(INNER_MULTIPLE) =>
        {
            Some((codes, row_scale))
        }
        DeviceMatrix::Int8 { .. } | DeviceMatrix::Bf16(_) => None,
    }
}

/// `dx = dy W`, or added to what is there.
pub(crate) fn backward(
    dy: &DeviceTensor,
    weight: &Matrix,
    write: Write,
    dx: &mut DeviceBuffer<f32>,
) -> Result<(), KernelError> {
    let [out, inner] = weight.shape();
    let rows = dy.len() / out.max(1);
    debug_assert_eq!(dx.len(), rows * inner, "`linear::backward` checks it");
    let matrix = weights("linear::backward", weight)?;
    if let (Some((codes, row_scale)), DeviceTensor::F32(dy)) =
        (read_as_codes(matrix, rows, inner), dy)
        && out.is_multiple_of(int8_gemm::STRIDE_MULTIPLE)
    {
        // The scales are the inner axis' here, so they go to `dy`, and codes are exact.
        let mut scaled = DeviceBuffer::<bf16>::stale(dy.device(), dy.len())?;
        let to = ViewMut::new(&mut scaled, [rows, out]);
        convert::narrow(View::new(dy, [rows, out]), Some(row_scale), 1.0, to)?;
        let to = match write {
            Write::Set => int8_gemm::Output::F32(dx),
            Write::Add => int8_gemm::Output::Added(dx),
        };
        return int8_gemm::backward(&scaled, [rows, out, out], codes, to);
    }
    let (dy, weight) = (dy.bf16()?, matrix.widened()?);
    let product = Product {
        rows,
        cols: inner,
        inner: out,
        alpha: 1.0,
        a: factor(dy.buffer(), out, false),
        b: factor(weight.buffer(), inner, false),
        beta: write.keep(),
        c: dx.at(0),
        d: dx.at(0),
        stride: inner,
        d_type: ProductType::F32,
    };
    // SAFETY: `dy` is `[rows, out]`, the weight `[out, inner]`, `dx` `[rows, inner]`.
    unsafe { dx.device().multiply(&product) }
}

/// The same values in bf16, on the device where they are.
pub(crate) fn rounded(tensor: &Tensor) -> Result<Tensor, KernelError> {
    let [rows, cols] = tensor.shape();
    let values = tensor.on_device().ok_or_else(|| two_places("round"))?;
    let values = values.bf16()?.into_shared();
    Ok(Tensor::from_device(rows, cols, values))
}

/// Operations a second of the device's largest products, in bf16: what a step's speed is a share of.
///
/// # Errors
/// [`KernelError::Device`] if its memory is not enough, or a call fails.
pub fn peak_op_per_s(device: &Device) -> Result<f64, KernelError> {
    const ROUNDS: u32 = 5;
    let size = device.driver().telling_size();
    // Zeros take less power, so that a GPU's clock stays higher than with any numbers that count.
    let value = |at: usize| {
        bf16::from_f32((at as u32).wrapping_mul(2_654_435_761) as f32 / (1_u64 << 31) as f32 - 1.0)
    };
    let values: Vec<bf16> = (0..size * size).map(value).collect();
    let [a, b] = [1, 2].map(|_| DeviceBuffer::from_slice(device, &values));
    let (a, b) = (a?, b?);
    let to = DeviceBuffer::<bf16>::stale(device, size * size)?;
    let product = Product {
        rows: size,
        cols: size,
        inner: size,
        alpha: 1.0,
        a: factor(&a, size, false),
        b: factor(&b, size, true),
        beta: 0.0,
        c: to.at(0),
        d: to.at(0),
        stride: size,
        d_type: ProductType::Bf16,
    };
    // SAFETY: all three are `[size, size]`.
    let multiply = || unsafe { device.multiply(&product) };
    multiply()?;
    device.synchronize()?;
    let start = std::time::Instant::now();
    for _ in 0..ROUNDS {
        multiply()?;
    }
    device.synchronize()?;
    let seconds = start.elapsed().as_secs_f64() / f64::from(ROUNDS);
    Ok(2.0 * (size as f64).powi(3) / seconds)
}

/// Rows of a table by their numbers, f32.
pub(crate) fn gather_rows(
    matrix: &DeviceMatrix,
    shape: [usize; 2],
    ids: &[u32],
) -> Result<Tensor, KernelError> {
    let ids = Ids::new(matrix.device(), "gather_rows", ids, shape[0])?;
    gather(matrix, shape, &ids)
}

/// As [`gather_rows`], by numbers that are there already.
pub(crate) fn gather(
    matrix: &DeviceMatrix,
    shape: [usize; 2],
    ids: &Ids,
) -> Result<Tensor, KernelError> {
    let mut y = DeviceBuffer::<f32>::stale(matrix.device(), ids.len() * shape[1])?;
    let to = ViewMut::new(&mut y, [ids.len(), shape[1]]);
    let table = matrix.widened()?;
    rows::gather(table.view(shape), ids, to)?;
    Ok(Tensor::from_device(ids.len(), shape[1], y))
}

/// The sum of the losses, and `scale` times the gradient of `hidden` `[rows, hidden]`, f32.
pub(crate) fn cross_entropy(
    hidden: &DeviceBuffer<bf16>,
    head: &Matrix,
    labels: &[u32],
    scale: f32,
) -> Result<(f64, Tensor), KernelError> {
    let [vocab, width] = head.shape();
    let device = hidden.device();
    let d_hidden = DeviceBuffer::<f32>::stale(device, hidden.len())?;
    let weight = weights("cross_entropy", head)?.widened()?;
    let sum = chunks(
        hidden,
        (head, weight.buffer()),
        labels,
        |logits, chunk, rows| {
            let mut gradient = DeviceBuffer::<bf16>::stale(device, rows.len() * vocab)?;
            let shape = [rows.len(), vocab];
            let to = ViewMut::new(&mut gradient, shape);
            loss::narrowed(View::new(&logits, shape), to, chunk, scale)?;
            let product = Product {
                rows: rows.len(),
                cols: width,
                inner: vocab,
                alpha: 1.0,
                a: factor(&gradient, vocab, false),
                b: factor(weight.buffer(), width, false),
                beta: 0.0,
                c: d_hidden.at(rows.start * width),
                d: d_hidden.at(rows.start * width),
                stride: width,
                d_type: ProductType::F32,
            };
            // SAFETY: the gradient is `[rows, vocab]`, the head `[vocab, width]`; as many rows of `d_hidden` begin there.
            unsafe { device.multiply(&product) }
        },
    )?;
    Ok((sum, Tensor::from_device(labels.len(), width, d_hidden)))
}

/// The sum of the losses alone.
pub(crate) fn cross_entropy_sum(
    hidden: &DeviceBuffer<bf16>,
    head: &Matrix,
    labels: &[u32],
) -> Result<f64, KernelError> {
    let [vocab, _] = head.shape();
    let weight = weights("cross_entropy", head)?.widened()?;
    chunks(
        hidden,
        (head, weight.buffer()),
        labels,
        |logits, chunk, rows| loss::losses(View::new(&logits, [rows.len(), vocab]), chunk),
    )
}

/// Makes the logits of some rows after the other, and sums the losses that `each` leaves.
fn chunks(
    hidden: &DeviceBuffer<bf16>,
    (head, weight): (&Matrix, &DeviceBuffer<bf16>),
    labels: &[u32],
    mut each: impl FnMut(
        DeviceBuffer<f32>,
        loss::Chunk<'_>,
        std::ops::Range<usize>,
    ) -> Result<(), KernelError>,
) -> Result<f64, KernelError> {
    let [vocab, width] = head.shape();
    let device = hidden.device();
    let labels = Ids::new(device, "cross_entropy", labels, vocab)?;
    let mut losses = DeviceBuffer::<f32>::stale(device, labels.len())?;
    let step = (LOGITS_BYTES / (4 * vocab.max(1))).max(1);
    for first in (0..labels.len()).step_by(step) {
        let rows = first..labels.len().min(first + step);
        let logits = DeviceBuffer::<f32>::stale(device, rows.len() * vocab)?;
        let product = Product {
            rows: rows.len(),
            cols: vocab,
            inner: width,
            alpha: 1.0,
            a: Factor {
                address: hidden.at(first * width),
                stride: width,
                transposed: false,
            },
            b: factor(weight, width, true),
            beta: 0.0,
            c: logits.at(0),
            d: logits.at(0),
            stride: vocab,
            d_type: ProductType::F32,
        };
        // SAFETY: as many rows of `hidden` begin there, the head is `[vocab, width]`, the logits `[rows, vocab]`.
        unsafe { device.multiply(&product)? };
        let chunk = loss::Chunk {
            labels: &labels,
            losses: &mut losses,
            first,
        };
        each(logits, chunk, rows)?;
    }
    loss::sum(&losses)
}
