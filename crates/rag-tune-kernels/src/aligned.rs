//! A vector whose first value begins a cache line: loads of 64 bytes that cross two lines take twice as long.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable};

/// Bytes of a cache line and of an AVX-512 register.
const LINE: usize = 64;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

// SAFETY: 64 bytes of numbers, without padding: size and alignment are both 64.
unsafe impl Zeroable for Line {}
// SAFETY: as above; any bit pattern is a value.
unsafe impl Pod for Line {}

/// Values of a vector that begins a cache line.
#[derive(Clone)]
pub(crate) struct Aligned<T> {
    lines: Vec<Line>,
    len: usize,
    values: PhantomData<T>,
}

impl<T: Pod> Aligned<T> {
    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let lines = (len * size_of::<T>()).div_ceil(LINE);
        Self {
            lines: vec![Line([0; LINE]); lines],
            len,
            values: PhantomData,
        }
    }

    /// Makes room for `len` values; their content is unspecified.
    pub(crate) fn resize(&mut self, len: usize) {
        let lines = (len * size_of::<T>()).div_ceil(LINE);
        if lines > self.lines.len() {
            self.lines.resize(lines, Line([0; LINE]));
        }
        self.len = len;
    }
}

impl<T> Default for Aligned<T> {
    fn default() -> Self {
        Self {
            lines: Vec::new(),
            len: 0,
            values: PhantomData,
        }
    }
}

impl<T: Pod> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl<T: Pod> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

impl<T: Pod + std::fmt::Debug> std::fmt::Debug for Aligned<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_begin_a_line_and_start_as_zeros() {
        for len in [0, 1, 63, 64, 65, 1000] {
            let mut values = Aligned::<i8>::zeros(len);
            assert_eq!(values.len(), len);
            assert!(values.iter().all(|value| *value == 0));
            assert_eq!(values.as_ptr() as usize % LINE, 0);
            values.resize(2 * len + 1);
            assert_eq!(values.len(), 2 * len + 1);
        }
    }
}
