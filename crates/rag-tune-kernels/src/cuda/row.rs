//! Rows of numbers that operations take beside tensors: norms, biases.

use std::ops::Deref;
use std::sync::Arc;

use super::buffer::DeviceBuffer;
use super::device::Device;
use crate::error::KernelError;

/// Numbers in host memory, with a copy on a device where they are used there.
#[derive(Debug, Clone, Default)]
pub struct Vector {
    host: Vec<f32>,
    device: Option<Arc<DeviceBuffer<f32>>>,
}

impl From<Vec<f32>> for Vector {
    fn from(host: Vec<f32>) -> Self {
        Self { host, device: None }
    }
}

impl Deref for Vector {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.host
    }
}

impl Vector {
    /// The same with a copy on `device`.
    ///
    /// # Errors
    /// [`KernelError::Device`] if the device's memory is not enough.
    pub fn to_device(&self, device: &Device) -> Result<Self, KernelError> {
        Ok(Self {
            host: self.host.clone(),
            device: Some(Arc::new(DeviceBuffer::from_slice(device, &self.host)?)),
        })
    }
}

/// A row of numbers that an operation takes.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    host: &'a [f32],
    device: Option<&'a Arc<DeviceBuffer<f32>>>,
}

impl<'a> From<&'a [f32]> for Row<'a> {
    fn from(host: &'a [f32]) -> Self {
        Self { host, device: None }
    }
}

impl<'a> From<&'a Vec<f32>> for Row<'a> {
    fn from(host: &'a Vec<f32>) -> Self {
        Self { host, device: None }
    }
}

impl<'a, const N: usize> From<&'a [f32; N]> for Row<'a> {
    fn from(host: &'a [f32; N]) -> Self {
        Self { host, device: None }
    }
}

impl<'a> From<&'a Vector> for Row<'a> {
    fn from(vector: &'a Vector) -> Self {
        Self {
            host: &vector.host,
            device: vector.device.as_ref(),
        }
    }
}

impl Deref for Row<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.host
    }
}

impl Row<'_> {
    /// The copy on `device`; one is made where there is none.
    pub(crate) fn on(&self, device: &Device) -> Result<Arc<DeviceBuffer<f32>>, KernelError> {
        match self.device {
            Some(values) if values.device() == device => Ok(Arc::clone(values)),
            _ => Ok(Arc::new(DeviceBuffer::from_slice(device, self.host)?)),
        }
    }
}
