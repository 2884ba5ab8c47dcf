//! Launches of kernels/rope.cu.

use half::bf16;

use super::buffer::DeviceBuffer;
use super::device::{Device, count};
use super::driver::Argument;
use super::ids::Ids;
use super::view::{Element, Operand, View, ViewMut};
use crate::error::{KernelError, check_shape};
use crate::rope::{RopeTable, Turn};

const THREADS: usize = 256;

/// Heads of a token that a thread takes, as HEADS in the kernel.
const HEADS: usize = 4;

/// A [`RopeTable`] on a device.
#[derive(Debug)]
pub(crate) struct Table {
    /// `[positions, head_dim / 2]`
    cos: DeviceBuffer<f32>,
    /// `[positions, head_dim / 2]`
    sin: DeviceBuffer<f32>,
    head_dim: usize,
    positions: usize,
}

impl Table {
    /// A copy of `table`.
    ///
    /// # Errors
    /// [`KernelError::Device`] if memory is not enough.
    pub(crate) fn new(device: &Device, table: &RopeTable) -> Result<Self, KernelError> {
        let values = table.table(1.0);
        Ok(Self {
            cos: DeviceBuffer::from_slice(device, values.cos)?,
            sin: DeviceBuffer::from_slice(device, values.sin)?,
            head_dim: values.head_dim,
            positions: table.positions(),
        })
    }

    pub(crate) fn device(&self) -> &Device {
        self.cos.device()
    }

    /// Features of a head, and positions.
    pub(super) fn shape(&self) -> [usize; 2] {
        [self.head_dim, self.positions]
    }

    /// Cosines and sines, as kernels take them.
    pub(super) fn arguments(&self) -> [Argument; 2] {
        [self.cos.argument(), self.sin.argument()]
    }

    /// For [`apply`].
    ///
    /// # Errors
    /// [`KernelError`] if a position is not in the table, or memory is not enough.
    #[cfg(test)]
    pub(crate) fn positions(&self, positions: &[u32]) -> Result<Ids, KernelError> {
        Ids::new(self.cos.device(), "rope", positions, self.positions)
    }
}

/// Turns every head of `x`, `[tokens, heads * head_dim]`, in place; `positions` has one for each token.
pub(crate) fn apply<T: Element>(
    x: ViewMut<'_, T>,
    table: &Table,
    positions: &Ids,
    turn: Turn,
) -> Result<(), KernelError> {
    let (operation, wide) = T::choose(("rope_bf16", 8), ("rope_f32", 4));
    // SAFETY: `x` is borrowed for writing.
    unsafe { launch(operation, [x.operand()], wide, table, positions, turn) }
}

/// `y` = `x` with every head turned forward, as [`apply`].
pub(crate) fn apply_rounded(
    x: View<'_, f32>,
    table: &Table,
    positions: &Ids,
    y: ViewMut<'_, bf16>,
) -> Result<(), KernelError> {
    const OPERATION: &str = "rope_f32_to_bf16";
    check_shape(OPERATION, "y", &y.shape(), &x.shape())?;
    let operands = [x.operand(), y.operand()];
    // SAFETY: `y` is borrowed for writing, and of the same shape.
    unsafe { launch(OPERATION, operands, 4, table, positions, Turn::Forward) }
}

/// # Safety
/// The operands are the kernel's, all of the first one's shape; what it writes is borrowed for that.
unsafe fn launch<const OPERANDS: usize>(
    operation: &'static str,
    operands: [Operand<'_>; OPERANDS],
    wide: usize,
    table: &Table,
    positions: &Ids,
    turn: Turn,
) -> Result<(), KernelError> {
    let ([tokens, cols], half) = (operands[0].shape, table.head_dim / 2);
    check_shape(operation, "positions", &[positions.len()], &[tokens])?;
    let device = operands[0].device;
    assert!(
        positions.below() <= table.positions && positions.buffer().device() == device,
        "`positions` is of this table"
    );
    let is_there = |it: &Operand<'_>| it.device == table.cos.device();
    assert!(operands.iter().all(is_there), "one device");
    if !cols.is_multiple_of(table.head_dim) {
        let problem = format!(
            "{cols} features are no multiple of head_dim {}",
            table.head_dim
        );
        return Err(KernelError::Value { operation, problem });
    }
    let heads = cols / table.head_dim;
    let fits = half.is_multiple_of(wide) && operands.iter().all(|it| it.allows(wide));
    let width = if fits { wide } else { 1 };
    // The kernel numbers these in 32 bits.
    let items = tokens * heads.div_ceil(HEADS) * (half / width);
    count(operation, items)?;
    let sign: f32 = if turn == Turn::Forward { 1.0 } else { -1.0 };
    let mut arguments = Vec::new();
    for operand in operands {
        arguments.extend(operand.arguments(operation)?);
    }
    arguments.extend(table.arguments());
    arguments.extend([
        positions.buffer().argument(),
        count(operation, tokens)?,
        count(operation, heads)?,
        count(operation, half)?,
        sign.into(),
        count(operation, width)?,
    ]);
    let grid = [items.div_ceil(THREADS), 1, 1];
    // SAFETY: operands have whole heads and allow `width`, every position has a row in both tables; the rest is the caller's promise.
    unsafe { device.launch(operation, grid, (THREADS, 0), &arguments) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::cuda::testing::{
        assert_close, columns, devices, narrowed, to_bf16, widened, with_stride,
    };
    use crate::reference;
    use crate::reference::testing::noise;
    use crate::rope::frequencies;

    /// One head and more than a thread takes, halves that 16 bytes divide and others, columns behind the heads.
    #[test]
    fn rope_matches_reference_on_devices() {
        for device in devices() {
            for (tokens, heads, head_dim, behind) in
                [(1, 1, 2, 0), (3, 5, 6, 3), (5, 6, 16, 8), (9, 9, 64, 16)]
            {
                let frequencies = frequencies(head_dim, 100.0);
                let table = Table::new(&device, &RopeTable::new(40, &frequencies)).unwrap();
                let positions: Vec<u32> = (0..tokens as u32).map(|it| it * 13 % 40).collect();
                let there = table.positions(&positions).unwrap();
                let (cols, stride) = (heads * head_dim, heads * head_dim + behind);
                let shape = [tokens, cols];
                let x = noise(tokens, cols, 1);
                let x = Tensor::from_vec(tokens, cols, narrowed(x.data())).unwrap();
                let expected = reference::rope(&x, &positions, &frequencies);

                let mut wide = DeviceBuffer::from_slice(&device, &with_stride(&x, stride)).unwrap();
                let view = ViewMut::strided(&mut wide, 0, shape, stride);
                apply(view, &table, &there, Turn::Forward).unwrap();
                let got = columns(&wide.to_vec().unwrap(), stride, cols);
                assert_close("f32", &got, expected.data(), expected.data());
                let view = ViewMut::strided(&mut wide, 0, shape, stride);
                apply(view, &table, &there, Turn::Backward).unwrap();
                let got = columns(&wide.to_vec().unwrap(), stride, cols);
                assert_close("turned back", &got, x.data(), x.data());

                let wide = DeviceBuffer::from_slice(&device, &with_stride(&x, stride)).unwrap();
                let mut narrow = DeviceBuffer::stale(&device, tokens * (cols + 8)).unwrap();
                let to = ViewMut::strided(&mut narrow, 0, shape, cols + 8);
                apply_rounded(View::strided(&wide, 0, shape, stride), &table, &there, to).unwrap();
                let got = columns(&widened(&narrow.to_vec().unwrap()), cols + 8, cols);
                assert_close("rounded", &got, expected.data(), &narrowed(expected.data()));

                let rounded = to_bf16(&with_stride(&x, stride));
                let mut narrow = DeviceBuffer::from_slice(&device, &rounded).unwrap();
                let view = ViewMut::strided(&mut narrow, 0, shape, stride);
                apply(view, &table, &there, Turn::Forward).unwrap();
                let narrow = narrow.to_vec().unwrap();
                let got = columns(&widened(&narrow), stride, cols);
                assert_close("bf16", &got, expected.data(), &narrowed(expected.data()));
                let kept = narrow.chunks(stride).zip(rounded.chunks(stride));
                for (row, before) in kept {
                    assert_eq!(row[cols..], before[cols..], "columns behind the heads");
                }
            }
        }
    }

    #[test]
    fn a_position_beyond_the_table_is_refused() {
        let device = &devices()[0];
        let table = RopeTable::new(3, &frequencies(4, 10_000.0));
        let error = Table::new(device, &table).unwrap().positions(&[2, 3]);
        assert_eq!(error.unwrap_err().to_string(), "rope: row 3 of 3");
    }
}
