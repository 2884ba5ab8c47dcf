//! Numbers of rows on a device: labels, tokens, positions.

use super::buffer::DeviceBuffer;
use super::device::Device;
use crate::error::{KernelError, check_shape};

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
        check_below(operation, ids, below)?;
        Ok(Self {
            buffer: DeviceBuffer::from_slice(device, ids)?,
            below,
            increasing: are_increasing(ids),
        })
    }

    /// Other numbers in their place, as many.
    ///
    /// # Errors
    /// As [`Ids::new`].
    pub(crate) fn rewrite(
        &mut self,
        operation: &'static str,
        ids: &[u32],
    ) -> Result<(), KernelError> {
        check_below(operation, ids, self.below)?;
        check_shape(operation, "ids", &[ids.len()], &[self.len()])?;
        self.increasing = are_increasing(ids);
        self.buffer.write(0, ids)
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

fn check_below(operation: &'static str, ids: &[u32], below: usize) -> Result<(), KernelError> {
    match ids.iter().find(|id| **id as usize >= below) {
        None => Ok(()),
        Some(id) => Err(KernelError::Value {
            operation,
            problem: format!("row {id} of {below}"),
        }),
    }
}

fn are_increasing(ids: &[u32]) -> bool {
    ids.is_sorted_by(|left, right| left < right)
}
