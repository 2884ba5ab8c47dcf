//! Memory for activations that is used again from step to step.
//!
//! A training pass frees and allocates the same large buffers over and over; given back to the
//! system, each of them costs page faults and clearing, a fifth of a step's time on SmolLM2. So a
//! dropped buffer goes into a pool, and the next one of its size or less comes from there.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use half::bf16;

/// Buffers with fewer bytes are left to the allocator, which is good at them.
const SMALLEST_POOLED_BYTES: usize = 1 << 16;

/// Free buffers by capacity.
pub(crate) struct Pool<T>(Mutex<BTreeMap<usize, Vec<Vec<T>>>>);

impl<T> Pool<T> {
    const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// The smallest free buffer that holds `len` values.
    fn take(&self, len: usize) -> Option<Vec<T>> {
        // A panic elsewhere cannot leave the map half changed.
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (&capacity, buffers) = free.range_mut(len..).next()?;
        let buffer = buffers.pop();
        if buffers.is_empty() {
            free.remove(&capacity);
        }
        buffer
    }

    fn give_back(&self, buffer: Vec<T>) {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        free.entry(buffer.capacity()).or_default().push(buffer);
    }
}

/// A number that buffers hold.
pub(crate) trait Pooled: Copy + 'static {
    const ZERO: Self;
    fn pool() -> &'static Pool<Self>;
}

impl Pooled for f32 {
    const ZERO: Self = 0.0;
    fn pool() -> &'static Pool<Self> {
        static POOL: Pool<f32> = Pool::new();
        &POOL
    }
}

impl Pooled for bf16 {
    const ZERO: Self = bf16::ZERO;
    fn pool() -> &'static Pool<Self> {
        static POOL: Pool<bf16> = Pool::new();
        &POOL
    }
}

/// A vector whose memory is used again after it is dropped.
#[derive(Debug, PartialEq)]
pub(crate) struct Buffer<T: Pooled>(Vec<T>);

impl<T: Pooled> Buffer<T> {
    /// `len` values of unspecified content: whatever the buffer held before.
    pub(crate) fn stale(len: usize) -> Self {
        if len * size_of::<T>() < SMALLEST_POOLED_BYTES {
            return Self(vec![T::ZERO; len]);
        }
        let Some(mut buffer) = T::pool().take(len) else {
            return Self(vec![T::ZERO; len]);
        };
        buffer.resize(len, T::ZERO);
        Self(buffer)
    }

    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let mut buffer = Self::stale(len);
        buffer.0.fill(T::ZERO);
        buffer
    }

    /// The vector, which then no longer returns to the pool.
    pub(crate) fn into_vec(mut self) -> Vec<T> {
        std::mem::take(&mut self.0)
    }
}

impl<T: Pooled> From<Vec<T>> for Buffer<T> {
    fn from(values: Vec<T>) -> Self {
        Self(values)
    }
}

impl<T: Pooled> Default for Buffer<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Pooled> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        let mut copy = Self::stale(self.len());
        copy.copy_from_slice(self);
        copy
    }
}

impl<T: Pooled> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.0.capacity() * size_of::<T>() >= SMALLEST_POOLED_BYTES {
            T::pool().give_back(std::mem::take(&mut self.0));
        }
    }
}

impl<T: Pooled> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Pooled> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_zeros_after_use() {
        for _ in 0..3 {
            let mut buffer = Buffer::<f32>::zeros(100_000);
            assert!(buffer.iter().all(|value| *value == 0.0));
            buffer.fill(7.0);
        }
        let mut shorter = Buffer::<f32>::stale(90_001);
        assert_eq!(shorter.len(), 90_001);
        shorter.fill(1.0);
        assert_eq!(shorter.clone().into_vec(), vec![1.0; 90_001]);
    }
}
