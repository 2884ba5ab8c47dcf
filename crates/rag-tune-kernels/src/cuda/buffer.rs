//! Values in a device's memory.

use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::Pod;

use super::device::Device;
use super::driver::{Argument, Driver};
use super::recording::{Blocks, Operation};
use crate::error::KernelError;

/// `len` values on a device, given up when dropped.
#[derive(Debug)]
pub struct DeviceBuffer<T> {
    device: Device,
    address: u64,
    len: usize,
    /// Whose memory it is, if it came to be in a recording.
    scratch: Option<Arc<Blocks>>,
    of: PhantomData<T>,
}

impl<T: Pod> DeviceBuffer<T> {
    /// Unspecified values, for a result that is about to be written whole.
    ///
    /// # Errors
    /// [`KernelError::Device`] if memory is not enough.
    pub fn stale(device: &Device, len: usize) -> Result<Self, KernelError> {
        // A device gives no memory for nothing.
        let bytes = (len * size_of::<T>()).max(1);
        let (address, scratch) = device.allocate(bytes)?;
        let device = device.clone();
        Ok(Self {
            device,
            address,
            len,
            scratch,
            of: PhantomData,
        })
    }

    /// Zeros.
    ///
    /// # Errors
    /// As [`Self::stale`].
    pub fn zeros(device: &Device, len: usize) -> Result<Self, KernelError> {
        let mut buffer = Self::stale(device, len)?;
        buffer.clear()?;
        Ok(buffer)
    }

    /// A copy of `values`.
    ///
    /// # Errors
    /// As [`Self::stale`].
    pub fn from_slice(device: &Device, values: &[T]) -> Result<Self, KernelError> {
        let mut buffer = Self::stale(device, values.len())?;
        buffer.write(0, values)?;
        Ok(buffer)
    }

    /// Overwrites the values from `first` on.
    ///
    /// # Errors
    /// [`KernelError`] if there are not so many, or the driver fails.
    pub fn write(&mut self, first: usize, values: &[T]) -> Result<(), KernelError> {
        self.check("DeviceBuffer::write", first, values.len())?;
        let (to, from) = (self.at(first), bytemuck::cast_slice(values));
        // SAFETY: `check` has found the values inside.
        let upload = |driver: &dyn Driver| unsafe { driver.upload(to, from) };
        Ok(self.device.with_host("upload", upload)?)
    }

    /// The values, once all that was launched is done.
    ///
    /// # Errors
    /// [`KernelError::Device`] if the driver fails, now or in something launched before.
    pub fn to_vec(&self) -> Result<Vec<T>, KernelError> {
        let mut values = vec![T::zeroed(); self.len];
        self.read(0, &mut values)?;
        Ok(values)
    }

    /// Some of the values, as [`Self::to_vec`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn read(&self, first: usize, to: &mut [T]) -> Result<(), KernelError> {
        self.check("DeviceBuffer::read", first, to.len())?;
        let to = bytemuck::cast_slice_mut(to);
        let from = self.at(first);
        // SAFETY: `check` has found the values inside.
        let download = |driver: &dyn Driver| unsafe { driver.download(to, from) };
        Ok(self.device.with_host("download", download)?)
    }

    /// Overwrites the values from `first` on by some of `other`.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn copy_from(
        &mut self,
        first: usize,
        other: &Self,
        from: std::ops::Range<usize>,
    ) -> Result<(), KernelError> {
        self.check("DeviceBuffer::copy_from", first, from.len())?;
        other.check("DeviceBuffer::copy_from", from.start, from.len())?;
        let bytes = from.len() * size_of::<T>();
        let (to, from) = (self.at(first), other.at(from.start));
        // SAFETY: both are inside, and two buffers do not overlap.
        Ok(unsafe { self.device.run_first(Operation::Copy { to, from, bytes }) }?)
    }

    /// Sets every value to zero.
    ///
    /// # Errors
    /// [`KernelError::Device`] if the driver fails.
    pub fn clear(&mut self) -> Result<(), KernelError> {
        let bytes = self.len * size_of::<T>();
        let at = self.address;
        // SAFETY: all of the buffer.
        Ok(unsafe { self.device.run_first(Operation::Clear { at, bytes }) }?)
    }

    /// A second buffer with the same values.
    ///
    /// # Errors
    /// As [`Self::stale`].
    pub fn try_clone(&self) -> Result<Self, KernelError> {
        let mut copy = Self::stale(&self.device, self.len)?;
        copy.copy_from(0, self, 0..self.len)?;
        Ok(copy)
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where they lie.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// As a kernel takes it.
    pub(crate) fn argument(&self) -> Argument {
        Argument::address(self.address)
    }

    /// The address of a value, or of the place behind the last.
    pub(crate) fn at(&self, index: usize) -> u64 {
        debug_assert!(index <= self.len);
        self.address + (index * size_of::<T>()) as u64
    }

    fn check(&self, operation: &'static str, first: usize, len: usize) -> Result<(), KernelError> {
        if first.checked_add(len).is_some_and(|end| end <= self.len) {
            return Ok(());
        }
        Err(KernelError::Value {
            operation,
            problem: format!("{len} values from {first} on, of {}", self.len),
        })
    }
}

impl<T> Drop for DeviceBuffer<T> {
    fn drop(&mut self) {
        match &self.scratch {
            Some(scratch) => scratch.give_back(self.address),
            // SAFETY: the address is from `allocate`, and this was its only owner.
            None => unsafe { self.device.driver().free(self.address) },
        }
    }
}
