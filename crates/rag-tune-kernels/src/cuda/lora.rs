//! Launches of kernels/lora.cu.

use half::bf16;

use super::elementwise;
use super::view::{View, ViewMut};
use crate::error::{KernelError, check_shape};

/// `y = [scaling * values, 0]`, rounded: `values` is `[rows, rank]`, `y` `[rows, cols]` with at least `rank` columns.
///
/// Of `B` it makes what stands beside a weight, of `down` (`scaling` 1) what stands beside an activation.
pub(crate) fn columns(
    values: View<'_, f32>,
    scaling: f32,
    y: ViewMut<'_, bf16>,
) -> Result<(), KernelError> {
    const OPERATION: &str = "lora_columns";
    let ([rows, rank], [_, cols]) = (values.shape(), y.shape());
    check_shape(OPERATION, "y", &y.shape(), &[rows, cols])?;
    if cols < rank {
        let problem = format!("{cols} columns for rank {rank}");
        return Err(KernelError::Value {
            operation: OPERATION,
            problem,
        });
    }
    // A pack is of values or of zeros.
    let wide = if rank.is_multiple_of(4) { 4 } else { 1 };
    let operands = [values.operand(), y.operand()];
    let others = [super::device::count(OPERATION, rank)?, scaling.into()];
    // SAFETY: `y` has this shape and is borrowed for writing; of `values` the first `rank` columns are read.
    unsafe { elementwise::launch(OPERATION, [rows, cols], wide, operands, &others) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::DeviceBuffer;
    use crate::cuda::testing::{devices, to_bf16, with_stride};
    use crate::reference::testing::noise;

    /// Ranks that 4 divides and others, without padding and with it; what lies beside is kept.
    #[test]
    fn lora_columns_match_reference_on_devices() {
        for device in devices() {
            for (rows, before, rank, padded, behind) in [
                (1, 0, 1, 1, 0),
                (5, 3, 3, 7, 2),
                (9, 16, 8, 16, 8),
                (70, 24, 4, 8, 0),
            ] {
                let stride = before + padded + behind;
                let values = noise(rows, rank, 1);
                let matrix = noise(rows, stride, 2);
                let mut expected = matrix.clone();
                for row in 0..rows {
                    let place = &mut expected.row_mut(row)[before..][..padded];
                    place.fill(0.0);
                    for (to, value) in place.iter_mut().zip(values.row(row)) {
                        *to = 0.7 * value;
                    }
                }
                let wide = with_stride(&values, rank + 4);
                let wide = DeviceBuffer::from_slice(&device, &wide).unwrap();
                let there = to_bf16(matrix.data());
                let mut there = DeviceBuffer::from_slice(&device, &there).unwrap();
                let y = ViewMut::strided(&mut there, before, [rows, padded], stride);
                let from = View::strided(&wide, 0, [rows, rank], rank + 4);
                columns(from, 0.7, y).unwrap();
                let got = there.to_vec().unwrap();
                assert!(got == to_bf16(expected.data()), "rank {rank} of {padded}");
            }
        }
    }

    #[test]
    fn too_few_columns_are_refused() {
        let device = &devices()[0];
        let values = DeviceBuffer::zeros(device, 6).unwrap();
        let mut y = DeviceBuffer::zeros(device, 4).unwrap();
        let y = ViewMut::new(&mut y, [2, 2]);
        assert!(columns(View::new(&values, [2, 3]), 1.0, y).is_err());
    }
}
