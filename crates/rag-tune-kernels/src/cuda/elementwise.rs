//! Launches of kernels that kernels/elementwise.cuh deals out to threads.

use super::device::count;
use super::driver::Argument;
use super::view::Operand;
use crate::error::KernelError;

const THREADS: usize = 256;
const PACKS: usize = 2;

/// Launches a kernel over `shape`, `[rows, cols]`.
///
/// Its arguments are an address and a stride for each operand, the `others`, the shape, and the width of a pack: `wide`, or 1 where
/// rows are no multiple of that or an operand does not lie so.
///
/// # Panics
/// If the operands lie on several devices.
///
/// # Safety
/// These are the kernel's arguments; the operands and the `others` have what it reads and writes for such a shape, and what it
/// writes is borrowed for that.
pub(super) unsafe fn launch<const OPERANDS: usize>(
    kernel: &'static str,
    [rows, cols]: [usize; 2],
    wide: usize,
    operands: [Operand<'_>; OPERANDS],
    others: &[Argument],
) -> Result<(), KernelError> {
    let device = operands[0].device;
    assert!(
        operands.iter().all(|it| it.device == device),
        "{kernel}: one device"
    );
    let fits = cols.is_multiple_of(wide) && operands.iter().all(|it| it.allows(wide));
    let width = if fits { wide } else { 1 };
    let packs = rows * (cols / width);
    // The kernel numbers packs in 32 bits.
    count(kernel, packs)?;
    let mut arguments = Vec::new();
    for operand in operands {
        arguments.extend(operand.arguments(kernel)?);
    }
    arguments.extend(others);
    for size in [rows, cols, width] {
        arguments.push(count(kernel, size)?);
    }
    let grid = [packs.div_ceil(THREADS * PACKS), 1, 1];
    // SAFETY: the caller's promise, and every operand allows `width`.
    unsafe { device.launch(kernel, grid, (THREADS, 0), &arguments) }
}
