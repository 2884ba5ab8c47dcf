//! stored: an activation as it waits for the backward pass, in half the memory where products round it anyway.
//!
//! In bf16 compute every product rounds its activation to bf16, so little is lost by keeping no more than that. For
//! a gradient that does not depend on what was kept and what was computed again, the forward pass itself must go on
//! with the rounded values: [`round`], or the [`Stored`] itself.

use std::borrow::Cow;
use std::ops::Range;

use half::bf16;

use crate::buffer::Buffer;
use crate::cpu;
use crate::cuda::tensor::{DeviceTensor, Lent};
use crate::error::KernelError;
use crate::matrix::Compute;
use crate::tensor::Tensor;

/// `[rows, cols]`, f32 in f32 compute, bf16 in the others; on a device bf16.
#[derive(Debug, Clone)]
pub struct Stored(Storage);

#[derive(Debug, Clone)]
enum Storage {
    F32(Tensor),
    Bf16 {
        rows: usize,
        cols: usize,
        values: Buffer<bf16>,
    },
}

/// The values, in the precision in which they are stored.
#[derive(Clone, Copy)]
pub(crate) enum Values<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl Values<'_> {
    /// Some of the values as f32, without a copy where they are.
    pub(crate) fn widened(&self, part: Range<usize>) -> Cow<'_, [f32]> {
        match self {
            Self::F32(values) => Cow::Borrowed(&values[part]),
            Self::Bf16(values) => {
                let mut wide = vec![0.0; part.len()];
                cpu::convert::widen(&values[part], &mut wide);
                Cow::Owned(wide)
            }
        }
    }
}

impl Stored {
    /// Stores `tensor`, rounded to nearest even unless `compute` is f32. One on a device is stored as it is.
    pub fn new(tensor: Tensor, compute: Compute) -> Self {
        if compute == Compute::F32 || tensor.device().is_some() {
            return Self(Storage::F32(tensor));
        }
        let [rows, cols] = tensor.shape();
        let mut values = Buffer::stale(rows * cols);
        cpu::convert::narrow(tensor.data(), &mut values);
        Self(Storage::Bf16 { rows, cols, values })
    }

    /// `tensor` as it is.
    pub(crate) fn from_f32(tensor: Tensor) -> Self {
        Self(Storage::F32(tensor))
    }

    /// Row-major values of `[rows, cols]`.
    pub(crate) fn from_bf16(rows: usize, cols: usize, values: Buffer<bf16>) -> Self {
        debug_assert_eq!(values.len(), rows * cols);
        Self(Storage::Bf16 { rows, cols, values })
    }

    /// In the precision in which `other` is stored.
    pub(crate) fn alike(self, other: &Self) -> Self {
        match (&self.0, &other.0) {
            (Storage::F32(_), Storage::Bf16 { .. }) => Self::new(self.into_tensor(), Compute::Bf16),
            (Storage::Bf16 { .. }, Storage::F32(_)) => Self::from_f32(self.into_tensor()),
            _ => self,
        }
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> [usize; 2] {
        match &self.0 {
            Storage::F32(tensor) => tensor.shape(),
            Storage::Bf16 { rows, cols, .. } => [*rows, *cols],
        }
    }

    /// Bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Storage::F32(tensor) => match tensor.on_device() {
                Some(DeviceTensor::Bf16(_)) => 2 * tensor.len(),
                Some(DeviceTensor::F32(_)) | None => 4 * tensor.len(),
            },
            Storage::Bf16 { values, .. } => size_of_val::<[bf16]>(values),
        }
    }

    /// The values as f32, without a copy where they are.
    pub fn widened(&self) -> Cow<'_, Tensor> {
        match &self.0 {
            Storage::F32(tensor) => Cow::Borrowed(tensor),
            Storage::Bf16 { .. } => Cow::Owned(self.clone().into_tensor()),
        }
    }

    /// The values as f32.
    pub fn into_tensor(self) -> Tensor {
        match self.0 {
            Storage::F32(tensor) => tensor,
            Storage::Bf16 { rows, cols, values } => {
                let mut tensor = Tensor::stale(rows, cols);
                cpu::convert::widen(&values, tensor.data_mut());
                tensor
            }
        }
    }

    /// What lies on a device, as products and attention read it there.
    pub(crate) fn on_device(&self) -> Option<Result<Lent<'_, bf16>, KernelError>> {
        match &self.0 {
            Storage::F32(tensor) => tensor.on_device().map(DeviceTensor::bf16),
            Storage::Bf16 { .. } => None,
        }
    }

    /// The same as it is.
    pub(crate) fn device_tensor(&self) -> Option<&DeviceTensor> {
        match &self.0 {
            Storage::F32(tensor) => tensor.on_device(),
            Storage::Bf16 { .. } => None,
        }
    }

    pub(crate) fn values(&self) -> Values<'_> {
        match &self.0 {
            Storage::F32(tensor) => Values::F32(tensor.data()),
            Storage::Bf16 { values, .. } => Values::Bf16(values),
        }
    }
}

/// Rounds `tensor` to what [`Stored::new`] would keep of it.
pub fn round(tensor: &mut Tensor, compute: Compute) {
    if compute != Compute::F32 {
        cpu::convert::round(tensor.data_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::testing::noise;

    #[test]
    fn a_stored_tensor_is_the_rounded_one() {
        // Odd sizes: ends of vectors; more than one task.
        for (rows, cols) in [(1, 1), (3, 5), (70, 1537)] {
            let mut tensor = noise(rows, cols, 1);
            tensor.data_mut()[0] = f32::NAN;
            let stored = Stored::new(tensor.clone(), Compute::Bf16);
            assert_eq!(stored.bytes(), 2 * rows * cols);
            let mut rounded = tensor.clone();
            round(&mut rounded, Compute::Bf16);
            let widened = stored.into_tensor();
            assert_eq!(widened.shape(), [rows, cols]);
            let pairs = widened.data().iter().zip(rounded.data());
            for (index, (value, rounded)) in pairs.enumerate() {
                assert_eq!(value.to_bits(), rounded.to_bits());
                let expected = bf16::from_f32(tensor.data()[index]).to_f32();
                assert_eq!(value.to_bits(), expected.to_bits(), "{index}");
            }
        }
    }

    #[test]
    fn f32_compute_rounds_nothing() {
        let tensor = noise(3, 5, 1);
        let mut rounded = tensor.clone();
        round(&mut rounded, Compute::F32);
        let stored = Stored::new(tensor.clone(), Compute::F32);
        assert_eq!(stored.bytes(), 4 * 3 * 5);
        assert_eq!((&stored.into_tensor(), &rounded), (&tensor, &tensor));
    }
}
