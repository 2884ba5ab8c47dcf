//! Launches of kernels/argmax.cu.

use super::buffer::DeviceBuffer;
use super::device::count;
use crate::error::KernelError;

const THREADS: usize = 1024;

/// The place of the largest value of each of the first `rows` rows of `x`, `[.., cols]`; waits for it.
pub(crate) fn argmax(
    x: &DeviceBuffer<f32>,
    [rows, cols]: [usize; 2],
) -> Result<Vec<u32>, KernelError> {
    const OPERATION: &str = "argmax";
    assert!(rows * cols <= x.len(), "`x` has these rows");
    let y = DeviceBuffer::<u32>::stale(x.device(), rows)?;
    let arguments = [x.argument(), count(OPERATION, cols)?, y.argument()];
    // SAFETY: `x` has `rows` rows of `cols` values, `y` a place for each.
    unsafe {
        x.device()
            .launch(OPERATION, [rows, 1, 1], (THREADS, 0), &arguments)?;
    }
    y.to_vec()
}

#[cfg(test)]
mod tests {
    use crate::Tensor;
    use crate::argmax::of_rows;
    use crate::cuda::testing::devices;
    use crate::reference;
    use crate::reference::testing::noise;

    #[test]
    fn argmax_matches_reference_on_devices() {
        for device in devices() {
            for cols in [1, 31, 1024, 2500] {
                let mut x = noise(6, cols, 1);
                // Equal ones; none; nothing else than one that is no number; such a one first; the largest last.
                x.row_mut(1).fill(3.0);
                x.row_mut(2).fill(f32::NEG_INFINITY);
                x.row_mut(3).fill(f32::NAN);
                x.row_mut(4)[0] = f32::NAN;
                x.row_mut(5)[cols - 1] = f32::INFINITY;
                let expected: Vec<u32> = (0..6).map(|row| reference::argmax(x.row(row))).collect();
                assert_eq!(expected[1..4], [0; 3]);
                assert_eq!(expected[5] as usize, cols - 1);
                let there = x.to_device(&device).unwrap();
                assert_eq!(of_rows(&there, 6).unwrap(), expected, "{cols}");
                assert_eq!(of_rows(&x, 6).unwrap(), expected, "{cols}, in host memory");
                assert_eq!(of_rows(&there, 2).unwrap(), expected[..2]);
            }
            let x = Tensor::zeros_on(&device, 2, 3).unwrap();
            assert!(of_rows(&x, 3).is_err());
        }
    }
}
