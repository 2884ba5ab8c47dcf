//! The values of a tensor on a device.

use std::sync::Arc;

use bytemuck::Pod;
use half::bf16;

use super::buffer::DeviceBuffer;
use super::convert;
use super::device::Device;
use super::view::{View, ViewMut};
use crate::error::KernelError;

/// Row-major values. A clone shares them; who writes first takes a copy of its own.
#[derive(Debug, Clone)]
pub(crate) enum DeviceTensor {
    F32(Arc<DeviceBuffer<f32>>),
    Bf16(Arc<DeviceBuffer<bf16>>),
}

impl From<DeviceBuffer<f32>> for DeviceTensor {
    fn from(values: DeviceBuffer<f32>) -> Self {
        Self::F32(Arc::new(values))
    }
}

impl From<DeviceBuffer<bf16>> for DeviceTensor {
    fn from(values: DeviceBuffer<bf16>) -> Self {
        Self::Bf16(Arc::new(values))
    }
}

impl From<Arc<DeviceBuffer<bf16>>> for DeviceTensor {
    fn from(values: Arc<DeviceBuffer<bf16>>) -> Self {
        Self::Bf16(values)
    }
}

/// Values that lie in a tensor, or were converted for once.
#[derive(Debug)]
pub(crate) enum Lent<'a, T> {
    Held(&'a Arc<DeviceBuffer<T>>),
    Made(Arc<DeviceBuffer<T>>),
}

impl<T> Lent<'_, T> {
    pub(crate) fn buffer(&self) -> &DeviceBuffer<T> {
        match self {
            Self::Held(values) => values,
            Self::Made(values) => values,
        }
    }

    /// To be kept, without a copy.
    pub(crate) fn into_shared(self) -> Arc<DeviceBuffer<T>> {
        match self {
            Self::Held(values) => Arc::clone(values),
            Self::Made(values) => values,
        }
    }
}

impl<T: Pod> Lent<'_, T> {
    pub(crate) fn view(&self, shape: [usize; 2]) -> View<'_, T> {
        View::new(self.buffer(), shape)
    }
}

/// The only owner of the values, which are copied where there are others.
pub(crate) fn own<T: Pod>(
    values: &mut Arc<DeviceBuffer<T>>,
) -> Result<&mut DeviceBuffer<T>, KernelError> {
    if Arc::get_mut(values).is_none() {
        *values = Arc::new(values.try_clone()?);
    }
    Ok(Arc::get_mut(values).expect("a copy has one owner"))
}

impl DeviceTensor {
    pub(crate) fn device(&self) -> &Device {
        match self {
            Self::F32(values) => values.device(),
            Self::Bf16(values) => values.device(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// Waits for them.
    pub(crate) fn to_vec(&self) -> Result<Vec<f32>, KernelError> {
        match self {
            Self::F32(values) => values.to_vec(),
            Self::Bf16(values) => Ok(values.to_vec()?.into_iter().map(bf16::to_f32).collect()),
        }
    }

    pub(crate) fn f32(&self) -> Result<Lent<'_, f32>, KernelError> {
        match self {
            Self::F32(values) => Ok(Lent::Held(values)),
            Self::Bf16(values) => {
                let shape = [1, values.len()];
                let mut wide = DeviceBuffer::stale(values.device(), values.len())?;
                convert::widen(View::new(values, shape), ViewMut::new(&mut wide, shape))?;
                Ok(Lent::Made(Arc::new(wide)))
            }
        }
    }

    /// Rounded where they are f32.
    pub(crate) fn bf16(&self) -> Result<Lent<'_, bf16>, KernelError> {
        match self {
            Self::Bf16(values) => Ok(Lent::Held(values)),
            Self::F32(values) => {
                let shape = [1, values.len()];
                let mut rounded = DeviceBuffer::stale(values.device(), values.len())?;
                let to = ViewMut::new(&mut rounded, shape);
                convert::narrow(View::new(values, shape), None, 1.0, to)?;
                Ok(Lent::Made(Arc::new(rounded)))
            }
        }
    }

    /// To be written; widened first where they are bf16.
    pub(crate) fn own_f32(&mut self) -> Result<&mut DeviceBuffer<f32>, KernelError> {
        if let Self::Bf16(_) = self {
            *self = Self::F32(self.f32()?.into_shared());
        }
        match self {
            Self::F32(values) => own(values),
            Self::Bf16(_) => unreachable!("just widened"),
        }
    }

    /// As [`Self::own_f32`].
    pub(crate) fn f32_mut(&mut self, shape: [usize; 2]) -> Result<ViewMut<'_, f32>, KernelError> {
        Ok(ViewMut::new(self.own_f32()?, shape))
    }
}
