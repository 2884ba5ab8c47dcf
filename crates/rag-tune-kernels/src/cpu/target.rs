//! A result that tasks share, each writing a rectangle of its own.

use std::marker::PhantomData;

/// A matrix that tasks write disjoint rectangles of.
pub(crate) struct Target<'a, T> {
    data: *mut T,
    len: usize,
    stride: usize,
    /// Row and column of the first value.
    origin: [usize; 2],
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: the tasks of a pass write disjoint rectangles, each through `Target::part`.
unsafe impl<T: Send> Sync for Target<'_, T> {}

impl<'a, T> Target<'a, T> {
    pub(crate) fn new(data: &'a mut [T], stride: usize) -> Self {
        Self::block(data, stride, [0, 0])
    }

    /// A rectangle of a matrix that begins at `origin`, its rows `stride` apart.
    pub(super) fn block(data: &'a mut [T], stride: usize, origin: [usize; 2]) -> Self {
        Self {
            data: data.as_mut_ptr(),
            len: data.len(),
            stride,
            origin,
            borrow: PhantomData,
        }
    }

    /// Values before the one at a row and column.
    fn offset(&self, row: usize, column: usize) -> usize {
        let [first_row, first_column] = self.origin;
        (row - first_row) * self.stride + column - first_column
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
        let start = self.offset(row, first);
        assert!(first - self.origin[1] + count <= self.stride && start + count <= self.len);
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
        let offset = self.offset(row, column);
        debug_assert!(offset < self.len);
        // SAFETY: the caller's promise.
        unsafe { self.data.add(offset) }
    }
}
