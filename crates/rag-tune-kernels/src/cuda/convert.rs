//! Launches of kernels/convert.cu.

use half::bf16;

use super::buffer::DeviceBuffer;
use super::driver::Argument;
use super::elementwise;
use super::view::{Element, View, ViewMut};
use crate::error::{KernelError, check_shape};

/// Values that one access moves, where f32 are among them.
const WIDE: usize = 4;

/// `y = x * scales[col] * factor`, rounded; no `scales` are ones.
pub(crate) fn narrow(
    x: View<'_, f32>,
    scales: Option<&DeviceBuffer<f32>>,
    factor: f32,
    y: ViewMut<'_, bf16>,
) -> Result<(), KernelError> {
    const OPERATION: &str = "convert_narrow";
    let shape = x.shape();
    check_shape(OPERATION, "y", &y.shape(), &shape)?;
    if let Some(scales) = scales {
        check_row(OPERATION, "scales", scales, shape[1], x.device())?;
    }
    let scales = scales.map_or(Argument::address(0), DeviceBuffer::argument);
    let (operands, others) = ([x.operand(), y.operand()], [scales, factor.into()]);
    // SAFETY: both have this shape, `y` is borrowed for writing, and `scales` are none or a row.
    unsafe { elementwise::launch(OPERATION, shape, WIDE, operands, &others) }
}

/// `y = x`.
pub(crate) fn widen(x: View<'_, bf16>, y: ViewMut<'_, f32>) -> Result<(), KernelError> {
    const OPERATION: &str = "convert_widen";
    let shape = x.shape();
    check_shape(OPERATION, "y", &y.shape(), &shape)?;
    let operands = [x.operand(), y.operand()];
    // SAFETY: both have this shape, and `y` is borrowed for writing.
    unsafe { elementwise::launch(OPERATION, shape, WIDE, operands, &[]) }
}

/// `y += x`.
pub(crate) fn add_assign(y: ViewMut<'_, f32>, x: View<'_, f32>) -> Result<(), KernelError> {
    const OPERATION: &str = "add_f32";
    let shape = x.shape();
    check_shape(OPERATION, "y", &y.shape(), &shape)?;
    let operands = [x.operand(), y.operand()];
    // SAFETY: both have this shape, and `y` is borrowed for writing.
    unsafe { elementwise::launch(OPERATION, shape, WIDE, operands, &[]) }
}

/// `y += bias[col]`.
pub(crate) fn add_bias<T: Element>(
    y: ViewMut<'_, T>,
    bias: &DeviceBuffer<f32>,
) -> Result<(), KernelError> {
    let operation = T::choose("add_bias_bf16", "add_bias_f32");
    let shape = y.shape();
    check_row(operation, "bias", bias, shape[1], y.device())?;
    let wide = T::choose(8, 4);
    // SAFETY: `y` has this shape and is borrowed for writing, `bias` is a row.
    unsafe { elementwise::launch(operation, shape, wide, [y.operand()], &[bias.argument()]) }
}

fn check_row(
    operation: &'static str,
    argument: &'static str,
    row: &DeviceBuffer<f32>,
    cols: usize,
    device: &super::Device,
) -> Result<(), KernelError> {
    assert!(row.device() == device, "{operation}: one device");
    check_shape(operation, argument, &[row.len()], &[cols])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::testing::{columns, devices, narrowed, to_bf16, widened, with_stride};
    use crate::reference;
    use crate::reference::testing::noise;
    use crate::{Tensor, cuda::Device};

    const SHAPES: [(usize, usize, usize); 4] = [(1, 1, 1), (3, 5, 7), (5, 24, 32), (19, 300, 304)];

    fn there<T: bytemuck::Pod>(device: &Device, values: &[T]) -> DeviceBuffer<T> {
        DeviceBuffer::from_slice(device, values).unwrap()
    }

    #[test]
    fn convert_matches_reference_on_devices() {
        for device in devices() {
            for (rows, cols, stride) in SHAPES {
                let shape = [rows, cols];
                let (x, scales) = (noise(rows, cols, 1), noise(1, cols, 2));
                let x_there = there(&device, &with_stride(&x, stride));
                let from = View::strided(&x_there, 0, shape, stride);
                let mut y = DeviceBuffer::stale(&device, rows * cols).unwrap();
                narrow(from, None, 1.0, ViewMut::new(&mut y, shape)).unwrap();
                assert!(y.to_vec().unwrap() == to_bf16(x.data()), "{shape:?}");

                let scaled = Tensor::from_fn(rows, cols, |row, col| {
                    x.row(row)[col] * scales.data()[col] * 3.0
                });
                let scales_there = there(&device, scales.data());
                let to = ViewMut::new(&mut y, shape);
                narrow(from, Some(&scales_there), 3.0, to).unwrap();
                let got = y.to_vec().unwrap();
                assert!(got == to_bf16(scaled.data()), "scaled, {shape:?}");

                let mut wide = DeviceBuffer::stale(&device, rows * stride).unwrap();
                let to = ViewMut::strided(&mut wide, 0, shape, stride);
                widen(View::new(&y, shape), to).unwrap();
                let wide = columns(&wide.to_vec().unwrap(), stride, cols);
                assert!(wide == widened(&got), "widened, {shape:?}");
            }
        }
    }

    #[test]
    fn add_matches_reference_on_devices() {
        for device in devices() {
            for (rows, cols, stride) in SHAPES {
                let shape = [rows, cols];
                let (x, bias) = (noise(rows, cols, 1), noise(1, cols, 2));
                let y = noise(rows, cols, 3);
                let y = Tensor::from_vec(rows, cols, narrowed(y.data())).unwrap();
                let mut y_there = there(&device, &with_stride(&y, stride));
                let x_there = there(&device, x.data());
                let to = ViewMut::strided(&mut y_there, 0, shape, stride);
                add_assign(to, View::new(&x_there, shape)).unwrap();
                let mut sum = y.clone();
                sum.add_assign(&x).unwrap();
                let got = columns(&y_there.to_vec().unwrap(), stride, cols);
                assert!(got == sum.data(), "sum, {shape:?}");

                let bias_there = there(&device, bias.data());
                let to = ViewMut::strided(&mut y_there, 0, shape, stride);
                add_bias(to, &bias_there).unwrap();
                let expected = reference::add_bias(&sum, bias.data());
                let got = columns(&y_there.to_vec().unwrap(), stride, cols);
                assert!(got == expected.data(), "bias to f32, {shape:?}");

                let mut narrow = there(&device, &to_bf16(&with_stride(&y, stride)));
                let to = ViewMut::strided(&mut narrow, 0, shape, stride);
                add_bias(to, &bias_there).unwrap();
                let expected = to_bf16(reference::add_bias(&y, bias.data()).data());
                let got = columns(&narrow.to_vec().unwrap(), stride, cols);
                assert!(got == expected, "bias to bf16, {shape:?}");
            }
        }
    }

    #[test]
    fn a_row_of_another_length_is_refused() {
        let device = &devices()[0];
        let mut y = DeviceBuffer::<f32>::zeros(device, 6).unwrap();
        let bias = DeviceBuffer::zeros(device, 2).unwrap();
        let error = add_bias(ViewMut::new(&mut y, [2, 3]), &bias).unwrap_err();
        assert!(error.to_string().contains("`bias` is [2]"), "{error}");
    }
}
