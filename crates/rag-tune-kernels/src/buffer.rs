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
///
/// What the program holds, in use and free, never exceeds what was once in use at a time: a buffer
/// is made anew only after free ones of its size have been given up for it.
pub(crate) struct Pool<T>(Mutex<BTreeMap<usize, Vec<Vec<T>>>>);

impl<T: Pooled> Pool<T> {
    const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// A buffer of `len` values: the smallest free one that holds them, if it is not twice as large as
    /// needed, or a new one.
    fn take(&self, len: usize) -> Vec<T> {
        // A panic elsewhere cannot leave the map half changed.
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = free
            .range(len..=2 * len)
            .next()
            .map(|(capacity, _)| *capacity);
        if let Some(mut buffer) = fitting.and_then(|capacity| remove(&mut free, capacity)) {
            buffer.resize(len, T::ZERO);
            return buffer;
        }
        // The largest first: fewest are lost.
        let capacity = rounded_capacity(len);
        let mut given_up = 0;
        while given_up < capacity
            && let Some(largest) = free.last_key_value().map(|(capacity, _)| *capacity)
        {
            given_up += largest;
            drop(remove(&mut free, largest));
        }
        drop(free);
        let mut buffer = Vec::with_capacity(capacity);
        buffer.resize(len, T::ZERO);
        buffer
    }

    fn give_back(&self, buffer: Vec<T>) {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        free.entry(buffer.capacity()).or_default().push(buffer);
    }
}

fn remove<T>(free: &mut BTreeMap<usize, Vec<Vec<T>>>, capacity: usize) -> Option<Vec<T>> {
    let buffers = free.get_mut(&capacity)?;
    let buffer = buffers.pop();
    if buffers.is_empty() {
        free.remove(&capacity);
    }
    buffer
}

/// Up to the next eighth of a power of two: micro-batches differ by a few tokens, and should still
/// find each other's buffers.
fn rounded_capacity(len: usize) -> usize {
    let eighth = (len.next_power_of_two() / 16).max(1);
    len.next_multiple_of(eighth)
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
        Self(T::pool().take(len))
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

    /// A number type of its own, so that no other test touches its pool.
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Lonely(u32);

    impl Pooled for Lonely {
        const ZERO: Self = Lonely(0);
        fn pool() -> &'static Pool<Self> {
            static POOL: Pool<Lonely> = Pool::new();
            &POOL
        }
    }

    fn free() -> usize {
        let free = Lonely::pool().0.lock().unwrap();
        free.iter()
            .map(|(capacity, buffers)| capacity * buffers.len())
            .sum()
    }

    #[test]
    fn the_pool_never_holds_more_than_was_once_in_use() {
        let (mut most_in_use, mut most_asked_for) = (0, 0);
        for round in 0..50 {
            let sizes = [
                100_000 + 997 * round,
                30_000 + 501 * (round * 7 % 13),
                300_000 - 700 * round,
            ];
            let buffers = sizes.map(Buffer::<Lonely>::stale);
            let in_use = buffers.iter().map(|buffer| buffer.0.capacity()).sum();
            most_in_use = most_in_use.max(in_use);
            most_asked_for = most_asked_for.max(sizes.iter().sum());
            drop(buffers);
            assert!(
                free() <= most_in_use,
                "round {round}: {} free, {most_in_use} once in use",
                free()
            );
        }
        assert!(
            most_in_use <= 2 * most_asked_for,
            "{most_in_use} for {most_asked_for}"
        );
    }

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
