//! Launches of kernels/quantize_rows.cu.

use bytemuck::Pod;
use half::{bf16, f16};

use super::buffer::DeviceBuffer;
use super::device::count;
use crate::error::KernelError;

const THREADS: usize = 256;

/// A type that weights are quantised from.
pub(crate) trait Weight: Pod {
    const KERNEL: &'static str;
}

impl Weight for f32 {
    const KERNEL: &'static str = "quantize_rows_f32";
}

impl Weight for bf16 {
    const KERNEL: &'static str = "quantize_rows_bf16";
}

impl Weight for f16 {
    const KERNEL: &'static str = "quantize_rows_f16";
}

/// Quantises `weights` `[rows, cols]` into `codes` of the same shape and `absmax` `[rows]`.
///
/// `absmax` is infinite where a row holds what f16 does not: such a row's codes mean nothing, and the caller is to refuse it.
pub(crate) fn quantize_rows<T: Weight>(
    weights: &DeviceBuffer<T>,
    codes: &mut DeviceBuffer<i8>,
    absmax: &mut DeviceBuffer<f32>,
) -> Result<(), KernelError> {
    let rows = absmax.len();
    let cols = weights.len() / rows.max(1);
    assert!(
        weights.len() == rows * cols && codes.len() == weights.len(),
        "a place for every code"
    );
    let arguments = [
        weights.argument(),
        codes.argument(),
        absmax.argument(),
        count(T::KERNEL, cols)?,
    ];
    // SAFETY: `weights` and `codes` have `rows * cols` values, `absmax` one a row.
    unsafe {
        weights
            .device()
            .launch(T::KERNEL, [rows, 1, 1], (THREADS, 0), &arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::Device;
    use crate::cuda::testing::devices;
    use crate::reference;
    use crate::reference::testing::{Golden, noise};

    fn quantized<T: Weight>(device: &Device, rows: usize, weights: &[T]) -> (Vec<i8>, Vec<f32>) {
        let there = DeviceBuffer::from_slice(device, weights).unwrap();
        let mut codes = DeviceBuffer::stale(device, weights.len()).unwrap();
        let mut absmax = DeviceBuffer::stale(device, rows).unwrap();
        quantize_rows(&there, &mut codes, &mut absmax).unwrap();
        (codes.to_vec().unwrap(), absmax.to_vec().unwrap())
    }

    #[test]
    fn quantize_rows_matches_reference_on_devices() {
        for device in devices() {
            for (rows, cols) in [(1, 1), (7, 5), (3, 256), (5, 1001)] {
                let weights = noise(rows, cols, 1);
                let got = quantized(&device, rows, weights.data());
                let expected = reference::quantize_rows(rows, cols, weights.data());
                assert_eq!(got, (expected.codes, expected.absmax), "{rows} x {cols}");
            }
        }
    }

    /// Random weights, zeros, numbers too small for f16, an outlier, ties; each also in the type that it was made in.
    #[test]
    fn quantize_rows_matches_bitsandbytes_on_devices() {
        let golden = Golden::llm_int8();
        for device in devices() {
            for name in golden.weights("rows") {
                let input = format!("rows.{name}.input");
                let [rows, _] = golden.shape(&input);
                let expected = (
                    golden.i8s(&format!("rows.{name}.codes")),
                    golden.f32s(&format!("rows.{name}.absmax")),
                );
                let values = golden.f32s(&input);
                assert_eq!(quantized(&device, rows, &values), expected, "{name}");
                let narrow = match name.as_str() {
                    "f16" => {
                        let values: Vec<_> = values.iter().map(|it| f16::from_f32(*it)).collect();
                        quantized(&device, rows, &values)
                    }
                    "bf16" | "bf16_denormals" => {
                        let values: Vec<_> = values.iter().map(|it| bf16::from_f32(*it)).collect();
                        quantized(&device, rows, &values)
                    }
                    _ => continue,
                };
                assert_eq!(narrow, expected, "{name} as it is");
            }
        }
    }

    #[test]
    fn what_has_no_scale_shows_in_its_own_row() {
        for device in devices() {
            for bad in [f32::NAN, f32::INFINITY, -70_000.0] {
                let (codes, absmax) = quantized(&device, 3, &[1.0, 2.0, bad, 1.0, 0.0, -0.0]);
                assert_eq!(absmax, [2.0, f32::INFINITY, 0.0], "{bad}");
                assert_eq!([&codes[..2], &codes[4..]], [[64, 127], [0, 0]], "{bad}");
            }
            let (_, absmax) = quantized(&device, 1, &[f16::NAN, f16::ONE]);
            assert_eq!(absmax, [f32::INFINITY]);
        }
    }
}
