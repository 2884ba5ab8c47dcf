//! A dense matrix of activations or gradients.

use crate::buffer::Buffer;
use crate::error::{KernelError, check_shape};

/// `[rows, cols]`, row-major f32 in host memory.
///
/// Activations are `[tokens, features]`. The CUDA path adds a storage on the device; operations
/// dispatch on where the storage is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tensor {
    rows: usize,
    cols: usize,
    data: Buffer<f32>,
}

impl Tensor {
    /// `[rows, cols]` of zeros.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self {
            rows,
            cols,
            data: Buffer::zeros(rows * cols),
        }
    }

    /// `[rows, cols]` of unspecified values, for a result that is about to be written whole.
    pub fn stale(rows: usize, cols: usize) -> Self {
        Self {
            rows,
            cols,
            data: Buffer::stale(rows * cols),
        }
    }

    /// `[rows, cols]` from row-major values.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if `data` does not hold `rows * cols` values.
    pub fn from_vec(rows: usize, cols: usize, data: Vec<f32>) -> Result<Self, KernelError> {
        check_shape("Tensor::from_vec", "data", &[data.len()], &[rows * cols])?;
        Ok(Self {
            rows,
            cols,
            data: data.into(),
        })
    }

    /// `[rows, cols]` from row-major values.
    pub(crate) fn from_buffer(rows: usize, cols: usize, data: Buffer<f32>) -> Self {
        debug_assert_eq!(data.len(), rows * cols);
        Self { rows, cols, data }
    }

    /// `[rows, cols]` with `value(row, col)` at each place.
    pub fn from_fn(rows: usize, cols: usize, mut value: impl FnMut(usize, usize) -> f32) -> Self {
        let data = (0..rows * cols).map(|at| value(at / cols, at % cols));
        let data = data.collect::<Vec<_>>().into();
        Self { rows, cols, data }
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Number of rows: tokens, for an activation.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns: features, for an activation.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The values, row-major.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The values, row-major.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// One row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.cols..][..self.cols]
    }

    /// One row.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[row * self.cols..][..self.cols]
    }

    /// The values, given up.
    pub fn into_vec(self) -> Vec<f32> {
        self.data.into_vec()
    }

    /// The given rows, in that order: `[indices.len(), cols]`.
    ///
    /// # Errors
    /// [`KernelError::Value`] if an index is not below `rows`.
    pub fn gather_rows(&self, indices: &[usize]) -> Result<Self, KernelError> {
        if let Some(index) = indices.iter().find(|index| **index >= self.rows) {
            let problem = format!("row {index} of {}", self.rows);
            return Err(KernelError::Value {
                operation: "gather_rows",
                problem,
            });
        }
        let mut rows = Self::stale(indices.len(), self.cols);
        for (row, index) in indices.iter().enumerate() {
            rows.row_mut(row).copy_from_slice(self.row(*index));
        }
        Ok(rows)
    }

    /// `self += other`.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if the shapes differ.
    pub fn add_assign(&mut self, other: &Self) -> Result<(), KernelError> {
        check_shape("add_assign", "other", &other.shape(), &self.shape())?;
        crate::cpu::add_assign(&mut self.data, &other.data);
        Ok(())
    }

    /// Whether every value is finite.
    pub fn is_finite(&self) -> bool {
        // Multiplying by zero turns infinities and NaNs into NaN, and vectorises.
        self.data.iter().map(|value| value * 0.0).sum::<f32>() == 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_vec_refuses_a_wrong_length() {
        let error = Tensor::from_vec(2, 3, vec![0.0; 5]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Tensor::from_vec: `data` is [5], expected [6]"
        );
    }

    #[test]
    fn infinities_and_nans_are_found() {
        let mut tensor = Tensor::zeros(3, 5);
        assert!(tensor.is_finite());
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            tensor.row_mut(2)[1] = bad;
            assert!(!tensor.is_finite());
        }
    }

    #[test]
    fn gather_rows_keeps_the_order() {
        let tensor = Tensor::from_fn(3, 2, |row, col| (10 * row + col) as f32);
        let picked = tensor.gather_rows(&[2, 0]).unwrap();
        assert_eq!(picked.data(), &[20.0, 21.0, 0.0, 1.0]);
        assert!(tensor.gather_rows(&[3]).is_err());
    }
}
