//! Launches of kernels/rms_norm.cu.

use half::bf16;

use super::buffer::DeviceBuffer;
use super::device::count;
use super::tensor::DeviceTensor;
use crate::error::KernelError;

const THREADS: usize = 256;

/// Values that one access moves where rows begin at multiples of that.
fn width(strides: [usize; 2]) -> i32 {
    match strides.iter().all(|stride| stride.is_multiple_of(4)) {
        true => 4,
        false => 1,
    }
}

/// `y[row * stride..][..cols] = rms_norm(x[row])`, `x` being `[rows, cols]`.
pub(crate) fn forward(
    x: &DeviceBuffer<f32>,
    weight: &DeviceBuffer<f32>,
    eps: f32,
    y: &mut DeviceBuffer<bf16>,
    stride: usize,
) -> Result<(), KernelError> {
    const OPERATION: &str = "rms_norm_forward";
    let cols = weight.len();
    let rows = x.len() / cols.max(1);
    assert!(
        stride >= cols && y.len() >= rows * stride,
        "`y` has a place for every value"
    );
    let arguments = [
        x.argument(),
        weight.argument(),
        y.argument(),
        count(OPERATION, cols)?,
        count(OPERATION, stride)?,
        eps.into(),
        width([cols, stride]).into(),
    ];
    // SAFETY: `x` has `rows * cols` values, `y` as many rows of `stride`, `weight` one row.
    unsafe {
        x.device()
            .launch(OPERATION, [rows, 1, 1], (THREADS, 0), &arguments)
    }
}

/// `dx += d loss / d x`, all `[rows, cols]`.
pub(crate) fn backward(
    dy: &DeviceTensor,
    x: &DeviceBuffer<f32>,
    weight: &DeviceBuffer<f32>,
    eps: f32,
    dx: &mut DeviceBuffer<f32>,
) -> Result<(), KernelError> {
    let (operation, gradient) = match dy {
        DeviceTensor::Bf16(dy) => ("rms_norm_backward_bf16", dy.argument()),
        DeviceTensor::F32(dy) => ("rms_norm_backward_f32", dy.argument()),
    };
    let cols = weight.len();
    assert!(dy.len() == x.len() && dx.len() == x.len(), "one shape");
    let arguments = [
        gradient,
        x.argument(),
        weight.argument(),
        dx.argument(),
        count(operation, cols)?,
        eps.into(),
        width([cols, cols]).into(),
    ];
    // SAFETY: all three have `rows * cols` values, `weight` one row.
    unsafe {
        x.device().launch(
            operation,
            [x.len() / cols.max(1), 1, 1],
            (THREADS, 0),
            &arguments,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::testing::{assert_close, devices, narrowed, widened};
    use crate::reference;
    use crate::reference::testing::noise;

    #[test]
    fn rms_norm_matches_reference_on_devices() {
        for device in devices() {
            // Beyond what threads keep in registers, by fours and by ones.
            for (rows, cols, stride) in [
                (1, 1, 1),
                (3, 5, 8),
                (17, 64, 64),
                (9, 576, 592),
                (2, 9000, 9000),
                (2, 2101, 2104),
                (3, 64, 66),
            ] {
                let (x, dx) = (noise(rows, cols, 1), noise(rows, cols, 2));
                let weight = noise(1, cols, 3);
                let on_device = |tensor: &crate::Tensor| {
                    DeviceBuffer::from_slice(&device, tensor.data()).unwrap()
                };
                let [x_there, weight_there, mut dx_there] = [&x, &weight, &dx].map(on_device);
                let mut y = DeviceBuffer::stale(&device, rows * stride).unwrap();
                forward(&x_there, &weight_there, 1e-5, &mut y, stride).unwrap();
                let y = y.to_vec().unwrap();
                let y: Vec<_> = y
                    .chunks(stride)
                    .flat_map(|row| &row[..cols])
                    .copied()
                    .collect();
                let expected = reference::rms_norm(&x, weight.data(), 1e-5);
                assert_close(
                    "y",
                    &widened(&y),
                    expected.data(),
                    &narrowed(expected.data()),
                );

                let dy = noise(rows, cols, 4);
                let rounded = narrowed(dy.data());
                let dy_there: Vec<bf16> =
                    rounded.iter().map(|value| bf16::from_f32(*value)).collect();
                let dy_there = DeviceBuffer::from_slice(&device, &dy_there).unwrap();
                backward(
                    &dy_there.into(),
                    &x_there,
                    &weight_there,
                    1e-5,
                    &mut dx_there,
                )
                .unwrap();
                let gradient = |dy: &crate::Tensor| {
                    let mut sum = dx.clone();
                    sum.add_assign(&reference::rms_norm_backward(dy, &x, weight.data(), 1e-5))
                        .unwrap();
                    sum
                };
                let of_rounded = gradient(&crate::Tensor::from_vec(rows, cols, rounded).unwrap());
                assert_close(
                    "dx",
                    &dx_there.to_vec().unwrap(),
                    gradient(&dy).data(),
                    of_rounded.data(),
                );
            }
        }
    }
}
