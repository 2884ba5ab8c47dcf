//! Launches of kernels/swiglu.cu.

use half::bf16;

use super::elementwise;
use super::view::{View, ViewMut};
use crate::error::{KernelError, check_shape};

/// Values that one access moves.
const WIDE: usize = 8;

/// `y = silu(gate) * up`, all of one shape.
pub(crate) fn forward(
    gate: View<'_, bf16>,
    up: View<'_, bf16>,
    y: ViewMut<'_, bf16>,
) -> Result<(), KernelError> {
    const OPERATION: &str = "swiglu_forward";
    let shape = gate.shape();
    check_shape(OPERATION, "up", &up.shape(), &shape)?;
    check_shape(OPERATION, "y", &y.shape(), &shape)?;
    let operands = [gate.operand(), up.operand(), y.operand()];
    // SAFETY: all have this shape, and `y` is borrowed for writing.
    unsafe { elementwise::launch(OPERATION, shape, WIDE, operands, &[]) }
}

/// The gradients of [`forward`], all of one shape.
pub(crate) fn backward(
    dy: View<'_, bf16>,
    gate: View<'_, bf16>,
    up: View<'_, bf16>,
    d_gate: ViewMut<'_, bf16>,
    d_up: ViewMut<'_, bf16>,
) -> Result<(), KernelError> {
    const OPERATION: &str = "swiglu_backward";
    let shape = dy.shape();
    check_shape(OPERATION, "gate", &gate.shape(), &shape)?;
    check_shape(OPERATION, "up", &up.shape(), &shape)?;
    check_shape(OPERATION, "d_gate", &d_gate.shape(), &shape)?;
    check_shape(OPERATION, "d_up", &d_up.shape(), &shape)?;
    let operands = [
        dy.operand(),
        gate.operand(),
        up.operand(),
        d_gate.operand(),
        d_up.operand(),
    ];
    // SAFETY: all have this shape, and the last two are borrowed for writing.
    unsafe { elementwise::launch(OPERATION, shape, WIDE, operands, &[]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::cuda::DeviceBuffer;
    use crate::cuda::testing::{
        assert_close, columns, devices, narrowed, to_bf16, widened, with_stride,
    };
    use crate::reference;
    use crate::reference::testing::noise;

    /// `gate` and `up` lie beside each other, as one product leaves them.
    #[test]
    fn swiglu_matches_reference_on_devices() {
        for device in devices() {
            for (rows, cols, stride) in [(1, 1, 1), (3, 5, 8), (7, 24, 24), (13, 200, 208)] {
                let rounded = |seed, factor: f32| {
                    let mut tensor = noise(rows, cols, seed);
                    tensor.data_mut().iter_mut().for_each(|it| *it *= factor);
                    Tensor::from_vec(rows, cols, narrowed(tensor.data())).unwrap()
                };
                let (gate, up, dy) = (rounded(1, 20.0), rounded(2, 1.0), rounded(3, 1.0));
                let shape = [rows, cols];
                let both = Tensor::from_fn(rows, 2 * cols, |row, col| match col < cols {
                    true => gate.row(row)[col],
                    false => up.row(row)[col - cols],
                });
                let both = DeviceBuffer::from_slice(&device, &to_bf16(both.data())).unwrap();
                let gate_there = View::strided(&both, 0, shape, 2 * cols);
                let up_there = View::strided(&both, cols, shape, 2 * cols);
                let mut y = DeviceBuffer::stale(&device, rows * stride).unwrap();
                let to = ViewMut::strided(&mut y, 0, shape, stride);
                forward(gate_there, up_there, to).unwrap();
                let expected = reference::swiglu(&gate, &up);
                let y = columns(&y.to_vec().unwrap(), stride, cols);
                let plain = narrowed(expected.data());
                assert_close("y", &widened(&y), expected.data(), &plain);

                let dy_there = to_bf16(&with_stride(&dy, stride));
                let dy_there = DeviceBuffer::from_slice(&device, &dy_there).unwrap();
                let mut gradients = DeviceBuffer::stale(&device, rows * 2 * cols).unwrap();
                let to = ViewMut::new(&mut gradients, [rows, 2 * cols]);
                let (d_gate, d_up) = to.split_columns(cols);
                let dy_there = View::strided(&dy_there, 0, shape, stride);
                backward(dy_there, gate_there, up_there, d_gate, d_up).unwrap();
                let gradients = widened(&gradients.to_vec().unwrap());
                let (d_gate, d_up) = reference::swiglu_backward(&dy, &gate, &up);
                for (what, first, expected) in [("d_gate", 0, d_gate), ("d_up", cols, d_up)] {
                    let got = columns(&gradients[first..], 2 * cols, cols);
                    let plain = narrowed(expected.data());
                    assert_close(what, &got, expected.data(), &plain);
                }
            }
        }
    }

    #[test]
    fn gradients_are_finite_where_exp_is_not() {
        for device in devices() {
            let values = to_bf16(&[-300.0, -100.0, -88.0, -87.0, 88.0, 100.0, 300.0, 0.0]);
            let ones = to_bf16(&[1.0; 8]);
            let [gate, up] = [&values, &ones].map(|it| DeviceBuffer::from_slice(&device, it));
            let (gate, up) = (gate.unwrap(), up.unwrap());
            let mut y = DeviceBuffer::stale(&device, 8).unwrap();
            let view = |buffer| View::new(buffer, [1, 8]);
            forward(view(&gate), view(&up), ViewMut::new(&mut y, [1, 8])).unwrap();
            let y = widened(&y.to_vec().unwrap());
            assert!(y[..4].iter().all(|it| it.abs() < 1e-30), "{y:?}");
            assert_eq!(y[4..], [88.0, 100.0, 300.0, 0.0]);
        }
    }
}
