//! A dense matrix of activations or gradients.

use std::borrow::Cow;

use half::bf16;

use crate::buffer::Buffer;
use crate::cuda::ids::Ids;
use crate::cuda::rows;
use crate::cuda::tensor::DeviceTensor;
use crate::cuda::{Device, DeviceBuffer};
use crate::error::{KernelError, check_shape};

/// `[rows, cols]`, row-major: f32 in host memory, or on a device f32 or bf16.
///
/// Activations are `[tokens, features]`. Operations run where their arguments lie, and leave their results there. On a device
/// what a product reads next may be bf16 at once; sums of gradients and the residual stream are f32.
#[derive(Debug, Clone)]
pub struct Tensor {
    rows: usize,
    cols: usize,
    data: Storage,
}

#[derive(Debug, Clone)]
enum Storage {
    Host(Buffer<f32>),
    Device(DeviceTensor),
}

/// Equal values; those on a device are not looked at, and differ from everything.
impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        match (&self.data, &other.data) {
            (Storage::Host(mine), Storage::Host(others)) => {
                self.shape() == other.shape() && mine == others
            }
            _ => false,
        }
    }
}

impl Default for Tensor {
    fn default() -> Self {
        Self::zeros(0, 0)
    }
}

/// For values that are asked for where they do not lie: a mistake of the caller's, whatever the input.
const ON_A_DEVICE: &str = "a tensor on a device is read through `Tensor::to_host`";

impl Tensor {
    /// `[rows, cols]` of zeros.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self {
            rows,
            cols,
            data: Storage::Host(Buffer::zeros(rows * cols)),
        }
    }

    /// `[rows, cols]` of unspecified values, for a result that is about to be written whole.
    pub fn stale(rows: usize, cols: usize) -> Self {
        Self {
            rows,
            cols,
            data: Storage::Host(Buffer::stale(rows * cols)),
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
            data: Storage::Host(data.into()),
        })
    }

    /// `[rows, cols]` from row-major values.
    pub(crate) fn from_buffer(rows: usize, cols: usize, data: Buffer<f32>) -> Self {
        debug_assert_eq!(data.len(), rows * cols);
        let data = Storage::Host(data);
        Self { rows, cols, data }
    }

    /// `[rows, cols]` from values on a device.
    pub(crate) fn from_device(rows: usize, cols: usize, data: impl Into<DeviceTensor>) -> Self {
        let data = data.into();
        debug_assert_eq!(data.len(), rows * cols);
        let data = Storage::Device(data);
        Self { rows, cols, data }
    }

    /// `[rows, cols]` of unspecified values, where `self` lies.
    ///
    /// # Errors
    /// [`KernelError::Device`] if the device's memory is not enough.
    pub fn stale_beside(&self, rows: usize, cols: usize) -> Result<Self, KernelError> {
        match self.device() {
            None => Ok(Self::stale(rows, cols)),
            Some(device) => {
                let values = DeviceBuffer::<f32>::stale(device, rows * cols)?;
                Ok(Self::from_device(rows, cols, values))
            }
        }
    }

    /// As [`Self::stale_beside`], for what only products will read: in bf16 on a device, where they round it otherwise each time.
    ///
    /// # Errors
    /// As [`Self::stale_beside`].
    pub fn stale_operand_beside(&self, rows: usize, cols: usize) -> Result<Self, KernelError> {
        match self.device() {
            None => Ok(Self::stale(rows, cols)),
            Some(device) => {
                let values = DeviceBuffer::<bf16>::stale(device, rows * cols)?;
                Ok(Self::from_device(rows, cols, values))
            }
        }
    }

    /// As products read it: rounded to bf16 on a device, the same in host memory.
    ///
    /// # Errors
    /// As [`Self::stale_beside`].
    pub fn to_operand(&self) -> Result<Cow<'_, Self>, KernelError> {
        match self.on_device() {
            Some(DeviceTensor::F32(_)) => Ok(Cow::Owned(crate::cuda::matrix::rounded(self)?)),
            Some(DeviceTensor::Bf16(_)) | None => Ok(Cow::Borrowed(self)),
        }
    }

    /// `[rows, cols]` of zeros, where `self` lies.
    ///
    /// # Errors
    /// As [`Self::stale_beside`].
    pub fn zeros_beside(&self, rows: usize, cols: usize) -> Result<Self, KernelError> {
        match self.device() {
            None => Ok(Self::zeros(rows, cols)),
            Some(device) => Self::zeros_on(device, rows, cols),
        }
    }

    /// `[rows, cols]` of zeros on `device`.
    ///
    /// # Errors
    /// As [`Self::stale_beside`].
    pub fn zeros_on(device: &Device, rows: usize, cols: usize) -> Result<Self, KernelError> {
        let values = DeviceBuffer::<f32>::zeros(device, rows * cols)?;
        Ok(Self::from_device(rows, cols, values))
    }

    /// A copy in f32 on `device`.
    ///
    /// # Errors
    /// As [`Self::stale_beside`].
    pub fn to_device(&self, device: &Device) -> Result<Self, KernelError> {
        let values = DeviceBuffer::from_slice(device, self.to_host()?.data())?;
        Ok(Self::from_device(self.rows, self.cols, values))
    }

    /// The values in host memory, once all that was launched is done; without a copy where they are.
    ///
    /// # Errors
    /// [`KernelError::Device`] if the driver fails, now or in something launched before.
    pub fn to_host(&self) -> Result<Cow<'_, Self>, KernelError> {
        match &self.data {
            Storage::Host(_) => Ok(Cow::Borrowed(self)),
            Storage::Device(values) => {
                let values = values.to_vec()?;
                Ok(Cow::Owned(Self::from_buffer(
                    self.rows,
                    self.cols,
                    values.into(),
                )))
            }
        }
    }

    /// Where it lies; `None` is host memory.
    pub fn device(&self) -> Option<&Device> {
        self.on_device().map(DeviceTensor::device)
    }

    pub(crate) fn on_device(&self) -> Option<&DeviceTensor> {
        match &self.data {
            Storage::Host(_) => None,
            Storage::Device(values) => Some(values),
        }
    }

    /// To be written by a kernel of `operation`.
    ///
    /// # Errors
    /// [`KernelError::Value`] if it lies in host memory.
    pub(crate) fn f32_on_device(
        &mut self,
        operation: &'static str,
    ) -> Result<&mut DeviceBuffer<f32>, KernelError> {
        match &mut self.data {
            Storage::Device(values) => values.own_f32(),
            Storage::Host(_) => Err(two_places(operation)),
        }
    }

    pub(crate) fn on_device_mut(&mut self) -> Option<&mut DeviceTensor> {
        match &mut self.data {
            Storage::Host(_) => None,
            Storage::Device(values) => Some(values),
        }
    }

    /// `[rows, cols]` with `value(row, col)` at each place.
    pub fn from_fn(rows: usize, cols: usize, mut value: impl FnMut(usize, usize) -> f32) -> Self {
        let data = (0..rows * cols).map(|at| value(at / cols, at % cols));
        let data = Storage::Host(data.collect::<Vec<_>>().into());
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
    ///
    /// # Panics
    /// If they lie on a device.
    pub fn data(&self) -> &[f32] {
        match &self.data {
            Storage::Host(data) => data,
            Storage::Device(_) => panic!("{ON_A_DEVICE}"),
        }
    }

    /// The values, row-major.
    ///
    /// # Panics
    /// If they lie on a device.
    pub fn data_mut(&mut self) -> &mut [f32] {
        match &mut self.data {
            Storage::Host(data) => data,
            Storage::Device(_) => panic!("{ON_A_DEVICE}"),
        }
    }

    /// One row.
    ///
    /// # Panics
    /// If the values lie on a device.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data()[row * self.cols..][..self.cols]
    }

    /// One row.
    ///
    /// # Panics
    /// If the values lie on a device.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        let cols = self.cols;
        &mut self.data_mut()[row * cols..][..cols]
    }

    /// The values, given up.
    ///
    /// # Panics
    /// If they lie on a device.
    pub fn into_vec(self) -> Vec<f32> {
        match self.data {
            Storage::Host(data) => data.into_vec(),
            Storage::Device(_) => panic!("{ON_A_DEVICE}"),
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
        let mut rows = self.stale_beside(indices.len(), self.cols)?;
        match (self.on_device(), rows.on_device_mut()) {
            (Some(from), Some(to)) => {
                rows::gather(
                    from.f32()?.view(self.shape()),
                    &ids(from.device(), indices, self.rows)?,
                    to.f32_mut([indices.len(), self.cols])?,
                )?;
            }
            _ => {
                for (row, index) in indices.iter().enumerate() {
                    rows.row_mut(row).copy_from_slice(self.row(*index));
                }
            }
        }
        Ok(rows)
    }

    /// `[rows, cols]` with the rows of `self` at the given places, in increasing order, and zeros elsewhere.
    ///
    /// # Errors
    /// [`KernelError`] if there are not as many places as rows, or one is not below `rows`.
    pub fn scatter_rows(&self, indices: &[usize], rows: usize) -> Result<Self, KernelError> {
        const OPERATION: &str = "scatter_rows";
        check_shape(OPERATION, "indices", &[indices.len()], &[self.rows])?;
        if indices.last().is_some_and(|last| *last >= rows) || !indices.is_sorted_by(|a, b| a < b) {
            return Err(KernelError::Value {
                operation: OPERATION,
                problem: format!("places are not in increasing order below {rows}"),
            });
        }
        let mut scattered = self.zeros_beside(rows, self.cols)?;
        match (self.on_device(), scattered.on_device_mut()) {
            (Some(from), Some(to)) => {
                let ids = ids(from.device(), indices, rows)?;
                rows::scatter(from.f32()?.view(self.shape()), &ids, to.own_f32()?)?;
            }
            _ => {
                for (row, index) in indices.iter().enumerate() {
                    scattered.row_mut(*index).copy_from_slice(self.row(row));
                }
            }
        }
        Ok(scattered)
    }

    /// Sets every value to 0, where it lies.
    ///
    /// # Errors
    /// [`KernelError::Device`] if the driver fails.
    pub fn clear(&mut self) -> Result<(), KernelError> {
        match &mut self.data {
            Storage::Host(data) => data.fill(0.0),
            Storage::Device(values) => values.own_f32()?.clear()?,
        }
        Ok(())
    }

    /// Overwrites the values, row-major, where they lie.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if there are not as many; [`KernelError::Device`] if the driver fails.
    pub fn write(&mut self, values: &[f32]) -> Result<(), KernelError> {
        check_shape("Tensor::write", "values", &[values.len()], &[self.len()])?;
        match &mut self.data {
            Storage::Host(data) => data.copy_from_slice(values),
            Storage::Device(there) => there.own_f32()?.write(0, values)?,
        }
        Ok(())
    }

    /// Copies the values, row-major, into `to`, once all that was launched is done.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn read(&self, to: &mut [f32]) -> Result<(), KernelError> {
        check_shape("Tensor::read", "to", &[to.len()], &[self.len()])?;
        match &self.data {
            Storage::Host(data) => to.copy_from_slice(data),
            Storage::Device(values) => values.f32()?.buffer().read(0, to)?,
        }
        Ok(())
    }

    /// `self += other`.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if the shapes differ.
    pub fn add_assign(&mut self, other: &Self) -> Result<(), KernelError> {
        check_shape("add_assign", "other", &other.shape(), &self.shape())?;
        let shape = self.shape();
        if let (Some(mine), Some(others)) = (self.on_device_mut(), other.on_device()) {
            let others = others.f32()?;
            return crate::cuda::convert::add_assign(mine.f32_mut(shape)?, others.view(shape));
        }
        crate::cpu::add_assign(self.data_mut(), other.data());
        Ok(())
    }

    /// Whether every value is finite.
    ///
    /// # Panics
    /// If they lie on a device.
    pub fn is_finite(&self) -> bool {
        // Multiplying by zero turns infinities and NaNs into NaN, and vectorises.
        self.data().iter().map(|value| value * 0.0).sum::<f32>() == 0.0
    }
}

/// Arguments lie partly in host memory, partly on a device.
pub(crate) fn two_places(operation: &'static str) -> KernelError {
    KernelError::Value {
        operation,
        problem: "some arguments are on a device, others are not".to_owned(),
    }
}

fn ids(device: &Device, indices: &[usize], below: usize) -> Result<Ids, KernelError> {
    let ids: Vec<u32> = indices.iter().map(|index| *index as u32).collect();
    Ids::new(device, "rows", &ids, below)
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
