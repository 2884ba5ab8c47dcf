//! Launches of kernels/dropout.cu.

use super::elementwise;
use super::view::{Element, View, ViewMut};
use crate::cpu;
use crate::dropout::Dropout;
use crate::error::{KernelError, check_shape};

/// `y = x` with the values dropped that [`Dropout::apply`] drops of such a matrix.
pub(crate) fn apply<T: Element>(
    dropout: &Dropout,
    x: View<'_, T>,
    y: ViewMut<'_, T>,
) -> Result<(), KernelError> {
    let operation = T::choose("dropout_bf16", "dropout_f32");
    let shape = x.shape();
    check_shape(operation, "y", &y.shape(), &shape)?;
    let (threshold, scale) = cpu::dropout::threshold_and_scale(dropout.probability);
    let others = [
        dropout.key.into(),
        threshold.cast_signed().into(),
        scale.into(),
    ];
    let (wide, operands) = (T::choose(8, 4), [x.operand(), y.operand()]);
    // SAFETY: both have this shape, and `y` is borrowed for writing.
    unsafe { elementwise::launch(operation, shape, wide, operands, &others) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::cuda::DeviceBuffer;
    use crate::cuda::testing::{columns, devices, narrowed, to_bf16, with_stride};
    use crate::reference::testing::noise;

    /// To the bit; the last sizes have more elements than one piece of the hash.
    #[test]
    fn dropout_matches_reference_on_devices() {
        for device in devices() {
            for (rows, cols, stride) in [(1, 1, 1), (3, 5, 7), (41, 808, 816), (30, 1101, 1101)] {
                let x = noise(rows, cols, 1);
                let x = Tensor::from_vec(rows, cols, narrowed(x.data())).unwrap();
                let dropout = Dropout::keyed(0.3, 7, &[rows as u64]);
                let expected = dropout.apply(&x).unwrap();
                let shape = [rows, cols];
                let values = with_stride(&x, stride);

                let from = DeviceBuffer::from_slice(&device, &values).unwrap();
                let mut to = DeviceBuffer::stale(&device, rows * cols).unwrap();
                let view = View::strided(&from, 0, shape, stride);
                apply(&dropout, view, ViewMut::new(&mut to, shape)).unwrap();
                assert!(to.to_vec().unwrap() == expected.data(), "f32, {shape:?}");

                let from = DeviceBuffer::from_slice(&device, &to_bf16(x.data())).unwrap();
                let mut to = DeviceBuffer::stale(&device, rows * stride).unwrap();
                let view = ViewMut::strided(&mut to, 0, shape, stride);
                apply(&dropout, View::new(&from, shape), view).unwrap();
                let got = columns(&to.to_vec().unwrap(), stride, cols);
                assert!(got == to_bf16(expected.data()), "bf16, {shape:?}");
            }
        }
    }

    #[test]
    fn a_dropped_infinity_is_zero() {
        for device in devices() {
            let x = vec![f32::INFINITY; 64];
            let x = DeviceBuffer::from_slice(&device, &x).unwrap();
            let mut y = DeviceBuffer::stale(&device, 64).unwrap();
            let dropout = Dropout::keyed(0.5, 1, &[]);
            let to = ViewMut::new(&mut y, [8, 8]);
            apply(&dropout, View::new(&x, [8, 8]), to).unwrap();
            let y = y.to_vec().unwrap();
            assert!(y.contains(&0.0) && !y.iter().any(|it| it.is_nan()), "{y:?}");
        }
    }
}
