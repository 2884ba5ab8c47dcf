//! What tests of kernels share.

use half::bf16;

use super::buffer::DeviceBuffer;
use super::device::Device;
use crate::reference::{self, testing::noise};
use crate::{Matrix, Tensor};

/// See [`Device::tested`].
pub(crate) fn devices() -> Vec<Device> {
    Device::tested()
}

/// Values as bf16 holds them.
pub(crate) fn narrowed(values: &[f32]) -> Vec<f32> {
    values
        .iter()
        .map(|value| bf16::from_f32(*value).to_f32())
        .collect()
}

pub(crate) fn to_bf16(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|value| bf16::from_f32(*value)).collect()
}

pub(crate) fn widened(values: &[bf16]) -> Vec<f32> {
    values.iter().map(|value| value.to_f32()).collect()
}

/// Rows of `stride` values that begin with those of `tensor`; the others are 0.5.
pub(crate) fn with_stride(tensor: &Tensor, stride: usize) -> Vec<f32> {
    let mut values = vec![0.5; tensor.rows() * stride];
    for (row, to) in values.chunks_mut(stride).enumerate() {
        to[..tensor.cols()].copy_from_slice(tensor.row(row));
    }
    values
}

/// The first `cols` values of each row of `stride`.
pub(crate) fn columns<T: Copy>(values: &[T], stride: usize, cols: usize) -> Vec<T> {
    let rows = values.chunks(stride);
    rows.flat_map(|row| &row[..cols]).copied().collect()
}

/// Rows as bf16, with `stride` from one to the next and NaN between them, which nothing may read.
pub(crate) fn strided(device: &Device, rows: &Tensor, stride: usize) -> DeviceBuffer<bf16> {
    let mut values = vec![bf16::NAN; rows.rows() * stride];
    for row in 0..rows.rows() {
        values[row * stride..][..rows.cols()].copy_from_slice(&to_bf16(rows.row(row)));
    }
    DeviceBuffer::from_slice(device, &values).unwrap()
}

/// A weight `[out, in]` in 8 bits: codes and scales of rows on the device, and the same as a matrix.
pub(crate) fn int8_weight(
    device: &Device,
    [out, inner]: [usize; 2],
    seed: u64,
) -> (DeviceBuffer<i8>, DeviceBuffer<f32>, Matrix) {
    let quantized = reference::quantize_rows(out, inner, noise(out, inner, seed).data());
    let scales: Vec<f32> = quantized.absmax.iter().map(|it| it / 127.0).collect();
    (
        DeviceBuffer::from_slice(device, &quantized.codes).unwrap(),
        DeviceBuffer::from_slice(device, &scales).unwrap(),
        Matrix::from_int8(out, inner, &quantized.codes, &quantized.absmax).unwrap(),
    )
}

/// At most twice the error that `plain` makes, which is what rounding operands and results to bf16 costs; 1e-5 of the largest
/// value is the floor where that error is next to nothing.
pub(crate) fn assert_close(what: &str, got: &[f32], exact: &[f32], plain: &[f32]) {
    assert_eq!(got.len(), exact.len(), "{what}: number of values");
    let error = |values: &[f32]| {
        let differences = values
            .iter()
            .zip(exact)
            .map(|(value, exact)| (value - exact).abs());
        differences.fold(0.0, |largest: f32, it| {
            if it.is_nan() {
                f32::INFINITY
            } else {
                largest.max(it)
            }
        })
    };
    let largest = exact
        .iter()
        .fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let bound = 2.0 * error(plain) + 1e-5 * largest.max(1.0);
    assert!(
        error(got) <= bound,
        "{what}: error {}, at most {bound}",
        error(got)
    );
}
