//! Values in memory that is used again from step to step: small ones from the allocator, large ones from the arena.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;

use crate::arena::Block;

/// Buffers with fewer bytes are left to the allocator, which is good at them.
const SMALLEST_IN_ARENA_BYTES: usize = 1 << 16;

/// Values whose memory is used again after they are dropped.
#[derive(Debug)]
pub(crate) struct Buffer<T: Pod>(Memory<T>);

#[derive(Debug)]
enum Memory<T> {
    /// The allocator's.
    Own(Vec<T>),
    /// The arena's; the first `len` values of it.
    InArena {
        block: Block,
        len: usize,
        values: PhantomData<T>,
    },
}

impl<T: Pod> Buffer<T> {
    /// `len` values of unspecified content: whatever the buffer held before.
    pub(crate) fn stale(len: usize) -> Self {
        let bytes = len * size_of::<T>();
        let block = match bytes < SMALLEST_IN_ARENA_BYTES {
            true => None,
            false => Block::take(bytes),
        };
        Self(match block {
            Some(block) => Memory::InArena {
                block,
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
            Memory::InArena { .. } => self.to_vec(),
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

impl<T: Pod> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match &self.0 {
            Memory::Own(values) => values,
            // A block begins at a page, so it is aligned for any number.
            Memory::InArena { block, len, .. } => {
                bytemuck::cast_slice(&block.bytes()[..len * size_of::<T>()])
            }
        }
    }
}

impl<T: Pod> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.0 {
            Memory::Own(values) => values,
            Memory::InArena { block, len, .. } => {
                bytemuck::cast_slice_mut(&mut block.bytes_mut()[..*len * size_of::<T>()])
            }
        }
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
