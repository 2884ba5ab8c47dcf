//! argmax: where a row's largest value is, the first among equals. What is no number does not count; 0 where nothing is above -infinity.

use crate::cuda;
use crate::error::{KernelError, check_shape};
use crate::tensor::Tensor;

/// Of one row.
pub fn of_row(row: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (at, &value) in row.iter().enumerate() {
        if value > best.0 {
            best = (value, at as u32);
        }
    }
    best.1
}

/// Of each of the first `rows` rows of `x`, where they are; waits for them.
///
/// # Errors
/// [`KernelError`] if there are not so many, or a device fails.
pub fn of_rows(x: &Tensor, rows: usize) -> Result<Vec<u32>, KernelError> {
    check_shape("argmax", "x", &[x.rows().min(rows)], &[rows])?;
    match x.on_device() {
        None => Ok((0..rows).map(|row| of_row(x.row(row))).collect()),
        Some(there) => cuda::argmax::argmax(there.f32()?.buffer(), [rows, x.cols()]),
    }
}
