//! Matrices in a device's memory: all of a buffer, or some columns of one.

use std::marker::PhantomData;

use bytemuck::Pod;
use half::bf16;

use super::buffer::DeviceBuffer;
use super::device::{Device, count};
use super::driver::Argument;
use crate::error::KernelError;

/// A type that kernels of one operation come in.
pub(crate) trait Element: Pod {
    /// What belongs to this type.
    fn choose<U>(of_bf16: U, of_f32: U) -> U;
}

impl Element for bf16 {
    fn choose<U>(of_bf16: U, _: U) -> U {
        of_bf16
    }
}

impl Element for f32 {
    fn choose<U>(_: U, of_f32: U) -> U {
        of_f32
    }
}

/// `[rows, cols]`, from one row to the next `stride` values.
#[derive(Debug)]
pub(crate) struct View<'a, T> {
    device: &'a Device,
    address: u64,
    shape: [usize; 2],
    stride: usize,
    of: PhantomData<&'a T>,
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

/// A [`View`] that may be written through.
#[derive(Debug)]
pub(crate) struct ViewMut<'a, T> {
    view: View<'a, T>,
    of: PhantomData<&'a mut T>,
}

impl<'a, T: Pod> View<'a, T> {
    /// All of a buffer.
    ///
    /// # Panics
    /// If it does not have `rows * cols` values.
    pub(crate) fn new(buffer: &'a DeviceBuffer<T>, [rows, cols]: [usize; 2]) -> Self {
        assert_eq!(buffer.len(), rows * cols, "[{rows}, {cols}]");
        Self::strided(buffer, 0, [rows, cols], cols)
    }

    /// Rows of a buffer of which one begins every `stride` values, from the value `first` on.
    ///
    /// # Panics
    /// If they do not lie in it, or overlap.
    pub(crate) fn strided(
        buffer: &'a DeviceBuffer<T>,
        first: usize,
        [rows, cols]: [usize; 2],
        stride: usize,
    ) -> Self {
        let end = first + rows.saturating_sub(1) * stride + cols;
        assert!(
            cols <= stride && (rows == 0 || end <= buffer.len()),
            "[{rows}, {cols}] from {first} on by {stride}, of {}",
            buffer.len()
        );
        Self {
            device: buffer.device(),
            address: buffer.at(first.min(buffer.len())),
            shape: [rows, cols],
            stride,
            of: PhantomData,
        }
    }

    pub(crate) fn device(&self) -> &'a Device {
        self.device
    }

    /// `[rows, cols]`
    pub(crate) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// As a launch takes it, of whatever type.
    pub(super) fn operand(&self) -> Operand<'a> {
        Operand {
            device: self.device,
            address: self.address,
            shape: self.shape,
            stride: self.stride,
            value_bytes: size_of::<T>(),
        }
    }
}

/// A matrix that a kernel reads or writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand<'a> {
    pub(super) device: &'a Device,
    pub(super) address: u64,
    pub(super) shape: [usize; 2],
    pub(super) stride: usize,
    value_bytes: usize,
}

impl Operand<'_> {
    /// The address and the stride.
    pub(super) fn arguments(&self, kernel: &'static str) -> Result<[Argument; 2], KernelError> {
        Ok([Argument::address(self.address), count(kernel, self.stride)?])
    }

    /// Whether each row begins where `width` values may be moved at a time.
    pub(super) fn allows(&self, width: usize) -> bool {
        let bytes = (width * self.value_bytes) as u64;
        self.address.is_multiple_of(bytes) && self.stride.is_multiple_of(width)
    }
}

impl<'a, T: Pod> ViewMut<'a, T> {
    /// As [`View::new`].
    pub(crate) fn new(buffer: &'a mut DeviceBuffer<T>, shape: [usize; 2]) -> Self {
        Self {
            view: View::new(buffer, shape),
            of: PhantomData,
        }
    }

    /// As [`View::strided`].
    #[cfg_attr(
        not(test),
        expect(
            dead_code,
            reason = "gate and up are matrices of their own so far; tests use strides"
        )
    )]
    pub(crate) fn strided(
        buffer: &'a mut DeviceBuffer<T>,
        first: usize,
        shape: [usize; 2],
        stride: usize,
    ) -> Self {
        Self {
            view: View::strided(buffer, first, shape, stride),
            of: PhantomData,
        }
    }

    /// The first `at` columns, and the others.
    ///
    /// # Panics
    /// If there are not so many.
    #[cfg_attr(
        not(test),
        expect(
            dead_code,
            reason = "gate and up are matrices of their own so far; tests use strides"
        )
    )]
    pub(crate) fn split_columns(self, at: usize) -> (Self, Self) {
        let [rows, cols] = self.view.shape;
        assert!(at <= cols, "column {at} of {cols}");
        let part = |first: usize, cols: usize| Self {
            view: View {
                address: self.view.address + (first * size_of::<T>()) as u64,
                shape: [rows, cols],
                ..self.view
            },
            of: PhantomData,
        };
        (part(0, at), part(at, cols - at))
    }

    pub(crate) fn device(&self) -> &'a Device {
        self.view.device
    }

    /// `[rows, cols]`
    pub(crate) fn shape(&self) -> [usize; 2] {
        self.view.shape
    }

    /// As [`View::operand`]: the kernel writes there, nobody else can meanwhile.
    pub(super) fn operand(&self) -> Operand<'a> {
        self.view.operand()
    }
}
