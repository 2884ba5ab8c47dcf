//! Memory for activations that is used again from step to step.
//!
//! A training pass frees and allocates the same large buffers over and over; given back to the
//! system, each of them costs page faults and clearing, a fifth of a step's time on SmolLM2. So a
//! dropped buffer goes into a pool, and the next one of its size or less comes from there.
//!
//! Buffers of the pool are mapped one by one rather than taken from the allocator: what the pool gives
//! up leaves the process at once, so that what it holds can be foretold (`rag-tune plan`).

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytemuck::Pod;
use memmap2::MmapMut;

/// Buffers with fewer bytes are left to the allocator, which is good at them.
const SMALLEST_POOLED_BYTES: usize = 1 << 16;

/// So much the pool may always hold. Small models take buffers of many sizes by turns, few of which are in use at a
/// time: without it, one would be given up for the other again and again.
const ALWAYS_ALLOWED_BYTES: usize = 1 << 26;

/// What all buffers share.
static POOL: Pool = Pool::new(ALWAYS_ALLOWED_BYTES);

/// Memory that is mapped, in use or free.
struct Pool(Mutex<Held>);

/// What a pool holds. In use and free together never exceed the most that was in use at a time, or what is always
/// allowed.
struct Held {
    /// Free buffers by bytes.
    free: BTreeMap<usize, Vec<MmapMut>>,
    free_bytes: usize,
    in_use_bytes: usize,
    most_in_use_bytes: usize,
    always_allowed_bytes: usize,
}

impl Pool {
    const fn new(always_allowed_bytes: usize) -> Self {
        Self(Mutex::new(Held {
            free: BTreeMap::new(),
            free_bytes: 0,
            in_use_bytes: 0,
            most_in_use_bytes: 0,
            always_allowed_bytes,
        }))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // A panic elsewhere cannot leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of `bytes` or more: the smallest free one that is at most a quarter larger, or a new one.
    /// `None` where the system gives no more.
    fn take(&self, bytes: usize) -> Option<MmapMut> {
        let capacity = match self.held().reuse(bytes) {
            Ok(buffer) => return Some(buffer),
            Err(capacity) => capacity,
        };
        let buffer = MmapMut::map_anon(capacity).ok();
        if buffer.is_none() {
            self.held().in_use_bytes -= capacity;
        }
        buffer
    }

    fn give_back(&self, buffer: MmapMut) {
        let mut held = self.held();
        held.in_use_bytes -= buffer.len();
        held.free_bytes += buffer.len();
        held.free.entry(buffer.len()).or_default().push(buffer);
    }
}

impl Held {
    /// A free buffer that fits, or the size of a new one, for which there then is room.
    fn reuse(&mut self, bytes: usize) -> Result<MmapMut, usize> {
        let fitting = self.free.range(bytes..=bytes + bytes / 4).next();
        if let Some(buffer) = fitting
            .map(|(capacity, _)| *capacity)
            .and_then(|capacity| self.remove(capacity))
        {
            self.in_use_bytes += buffer.len();
            return Ok(buffer);
        }
        let capacity = rounded_capacity(bytes);
        self.in_use_bytes += capacity;
        self.most_in_use_bytes = self.most_in_use_bytes.max(self.in_use_bytes);
        let allowed = self.most_in_use_bytes.max(self.always_allowed_bytes);
        while self.in_use_bytes + self.free_bytes > allowed {
            let excess = self.in_use_bytes + self.free_bytes - allowed;
            let enough = self.free.range(excess..).next();
            let Some((&size, _)) = enough.or_else(|| self.free.last_key_value()) else {
                break;
            };
            drop(self.remove(size));
        }
        Err(capacity)
    }

    fn remove(&mut self, capacity: usize) -> Option<MmapMut> {
        let buffers = self.free.get_mut(&capacity)?;
        let buffer = buffers.pop()?;
        if buffers.is_empty() {
            self.free.remove(&capacity);
        }
        self.free_bytes -= capacity;
        Some(buffer)
    }
}

/// Up to the next eighth of a power of two: micro-batches differ by a few tokens, and should still
/// find each other's buffers.
fn rounded_capacity(bytes: usize) -> usize {
    let eighth = (bytes.next_power_of_two() / 16).max(1);
    bytes.next_multiple_of(eighth)
}

/// Values whose memory is used again after they are dropped.
#[derive(Debug)]
pub(crate) struct Buffer<T: Pod>(Memory<T>);

#[derive(Debug)]
enum Memory<T> {
    /// The allocator's.
    Own(Vec<T>),
    /// The pool's; the first `len` values of it.
    Pooled {
        map: MmapMut,
        len: usize,
        values: PhantomData<T>,
    },
}

impl<T: Pod> Buffer<T> {
    /// `len` values of unspecified content: whatever the buffer held before.
    pub(crate) fn stale(len: usize) -> Self {
        let bytes = len * size_of::<T>();
        let map = match bytes < SMALLEST_POOLED_BYTES {
            true => None,
            false => POOL.take(bytes),
        };
        Self(match map {
            Some(map) => Memory::Pooled {
                map,
                len,
                values: PhantomData,
            },
            // Where even the allocator finds no memory, it ends the program with a message.
            None => Memory::Own(vec![T::zeroed(); len]),
        })
    }

    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let mut buffer = Self::stale(len);
        buffer.fill(T::zeroed());
        buffer
    }

    /// The values as a vector.
    pub(crate) fn into_vec(mut self) -> Vec<T> {
        match &mut self.0 {
            Memory::Own(values) => std::mem::take(values),
            Memory::Pooled { .. } => self.to_vec(),
        }
    }
}

impl<T: Pod> From<Vec<T>> for Buffer<T> {
    fn from(values: Vec<T>) -> Self {
        Self(Memory::Own(values))
    }
}

impl<T: Pod> Default for Buffer<T> {
    fn default() -> Self {
        Self(Memory::Own(Vec::new()))
    }
}

impl<T: Pod> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        let mut copy = Self::stale(self.len());
        copy.copy_from_slice(self);
        copy
    }
}

impl<T: Pod + PartialEq> PartialEq for Buffer<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Pod> Drop for Buffer<T> {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.0, Memory::Own(Vec::new()));
        if let Memory::Pooled { map, .. } = memory {
            POOL.give_back(map);
        }
    }
}

impl<T: Pod> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match &self.0 {
            Memory::Own(values) => values,
            // A map begins at a page, so it is aligned for any number.
            Memory::Pooled { map, len, .. } => bytemuck::cast_slice(&map[..len * size_of::<T>()]),
        }
    }
}

impl<T: Pod> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.0 {
            Memory::Own(values) => values,
            Memory::Pooled { map, len, .. } => {
                bytemuck::cast_slice_mut(&mut map[..*len * size_of::<T>()])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_never_holds_more_than_was_once_in_use() {
        let pool = Pool::new(0);
        let (mut most_in_use, mut most_asked_for) = (0, 0);
        for round in 0..50 {
            let sizes = [
                400_000 + 3_988 * round,
                120_000 + 2_004 * (round * 7 % 13),
                1_200_000 - 2_800 * round,
            ];
            let buffers = sizes.map(|bytes| pool.take(bytes).unwrap());
            let in_use: usize = buffers.iter().map(|buffer| buffer.len()).sum();
            most_in_use = most_in_use.max(in_use);
            most_asked_for = most_asked_for.max(sizes.iter().sum());
            buffers
                .into_iter()
                .for_each(|buffer| pool.give_back(buffer));
            let held = pool.held();
            let sizes = held.free.iter().map(|(size, buffers)| size * buffers.len());
            assert_eq!(sizes.sum::<usize>(), held.free_bytes);
            assert_eq!(held.in_use_bytes, 0);
            assert!(
                held.free_bytes <= most_in_use,
                "round {round}: {} free, {most_in_use} once in use",
                held.free_bytes
            );
        }
        assert!(
            4 * most_in_use <= 5 * most_asked_for,
            "{most_in_use} for {most_asked_for}"
        );
    }

    /// Two kinds of buffers that are in use by turns: what is free is given up only where all would be too much.
    #[test]
    fn buffers_stay_while_there_is_room() {
        let pool = Pool::new(0);
        let (large, small) = (1 << 20, 1 << 17);
        let address = |buffer: &MmapMut| buffer.as_ptr() as usize;
        let both = [pool.take(large).unwrap(), pool.take(small).unwrap()];
        let first = both.each_ref().map(address);
        both.into_iter().for_each(|buffer| pool.give_back(buffer));
        for _ in 0..3 {
            for (size, first) in [large, small].into_iter().zip(first) {
                let buffer = pool.take(size).unwrap();
                assert_eq!(address(&buffer), first);
                pool.give_back(buffer);
            }
        }
    }

    /// Two kinds of buffers of which one is in use at a time.
    #[test]
    fn what_is_always_allowed_stays() {
        let (large, small) = (1 << 20, 1 << 17);
        let free_after_both = |pool: Pool| {
            for size in [large, small] {
                let buffer = pool.take(size).unwrap();
                pool.give_back(buffer);
            }
            pool.held().free_bytes
        };
        assert_eq!(free_after_both(Pool::new(0)), small);
        assert_eq!(free_after_both(Pool::new(1 << 21)), large + small);
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
