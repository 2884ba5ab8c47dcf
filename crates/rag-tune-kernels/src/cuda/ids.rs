//! Numbers of rows on a device: labels, tokens, positions.

use super::buffer::DeviceBuffer;
use super::device::Device;
use crate::error::KernelError;

/// Numbers that are known to be below a limit: kernels read where they say without looking again.
#[derive(Debug)]
pub(crate) struct Ids {
    buffer: DeviceBuffer<u32>,
    below: usize,
    increasing: bool,
}

impl Ids {
    /// A copy of `ids`.
    ///
    /// # Errors
    /// [`KernelError`] if one is not `below`, or memory is not enough.
    pub(crate) fn new(
        device: &Device,
        operation: &'static str,
        ids: &[u32],
        below: usize,
    ) -> Result<Self, KernelError> {
        if let Some(id) = ids.iter().find(|id| **id as usize >= below) {
            let problem = format!("row {id} of {below}");
            return Err(KernelError::Value { operation, problem });
        }
        Ok(Self {
            buffer: DeviceBuffer::from_slice(device, ids)?,
            below,
            increasing: ids.is_sorted_by(|left, right| left < right),
        })
    }

    pub(crate) fn device(&self) -> &Device {
        self.buffer.device()
    }

    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// What all are below.
    pub(crate) fn below(&self) -> usize {
        self.below
    }

    /// Whether each is above the one before it, so that none occurs twice.
    pub(crate) fn are_increasing(&self) -> bool {
        self.increasing
    }

    pub(super) fn buffer(&self) -> &DeviceBuffer<u32> {
        &self.buffer
    }
}
