//! A result that tasks share, each writing a rectangle of its own.

use std::marker::PhantomData;

/// A matrix that tasks write disjoint rectangles of.
pub(super) struct Target<'a, T> {
    data: *mut T,
    len: usize,
    stride: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: the tasks of a pass write disjoint rectangles, each through `Target::part`.
unsafe impl<T: Send> Sync for Target<'_, T> {}

impl<'a, T> Target<'a, T> {
    pub(super) fn new(data: &'a mut [T], stride: usize) -> Self {
        Self {
            data: data.as_mut_ptr(),
            len: data.len(),
            stride,
            borrow: PhantomData,
        }
    }

    /// Columns `first..first + count` of one row.
    ///
    /// # Safety
    /// No other reference to any of them may be alive.
    #[expect(
        clippy::mut_from_ref,
        reason = "the caller promises that it is the only one"
    )]
    pub(super) unsafe fn part(&self, row: usize, first: usize, count: usize) -> &mut [T] {
        let start = row * self.stride + first;
        assert!(first + count <= self.stride && start + count <= self.len);
        // SAFETY: inside the borrowed slice, as just checked, and the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), count) }
    }

    /// From a row to the next.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// The place of a value, for a kernel that writes some columns of some rows from there.
    ///
    /// # Safety
    /// The place must be inside the matrix; the kernel must stay inside it too, and be the only one that has what it writes.
    pub(super) unsafe fn at(&self, row: usize, column: usize) -> *mut T {
        debug_assert!(row * self.stride + column < self.len);
        // SAFETY: the caller's promise.
        unsafe { self.data.add(row * self.stride + column) }
    }
}
