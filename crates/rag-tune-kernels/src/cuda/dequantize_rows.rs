//! Launches of kernels/dequantize_rows.cu.

use half::bf16;

use super::buffer::DeviceBuffer;
use super::device::count;
use crate::error::KernelError;

const THREADS: usize = 256;
/// Codes of a load, and what a block turns into values.
const PACK: usize = 8;
const BLOCK_VALUES: usize = THREADS * 4 * PACK;

/// `to[row * stride..][..cols] = codes[row] * row_scale[row]`, `codes` being `[rows, cols]`. What is between rows stays.
pub(crate) fn dequantize_rows(
    codes: &DeviceBuffer<i8>,
    row_scale: &DeviceBuffer<f32>,
    to: &mut DeviceBuffer<bf16>,
    stride: usize,
) -> Result<(), KernelError> {
    const OPERATION: &str = "dequantize_rows";
    let rows = row_scale.len();
    let cols = codes.len() / rows.max(1);
    assert!(codes.len() == rows * cols, "a scale for every row");
    assert!(
        stride >= cols && to.len() >= rows * stride,
        "`to` has a place for every value"
    );
    let buffers = [codes.argument(), row_scale.argument(), to.argument()];
    if cols.is_multiple_of(PACK) && stride.is_multiple_of(PACK) {
        let [packs, packs_in_row, stride] =
            [rows * cols / PACK, cols / PACK, stride].map(|it| count(OPERATION, it));
        let arguments = [&buffers[..], &[packs?, packs_in_row?, stride?]].concat();
        let blocks = (rows * cols).div_ceil(BLOCK_VALUES);
        // SAFETY: `codes` has `rows * cols` values, `to` as many rows of `stride`, `row_scale` one a row; buffers are aligned to
        // 256 bytes, so packs are aligned where both row lengths are multiples of theirs.
        return unsafe {
            codes
                .device()
                .launch(OPERATION, [blocks, 1, 1], (THREADS, 0), &arguments)
        };
    }
    let [cols, stride] = [cols, stride].map(|it| count(OPERATION, it));
    let arguments = [&buffers[..], &[cols?, stride?]].concat();
    // SAFETY: as above, and nothing is to be aligned.
    unsafe {
        codes.device().launch(
            "dequantize_rows_unaligned",
            [rows, 1, 1],
            (THREADS, 0),
            &arguments,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::testing::devices;
    use crate::reference;
    use crate::reference::testing::noise;

    /// Every bit, and nothing beside the rows.
    #[test]
    fn dequantize_rows_matches_reference_on_devices() {
        for device in devices() {
            for (rows, cols, stride) in [
                (1, 1, 1),
                (3, 8, 8),
                (5, 24, 40),
                (9, 1000, 1000),
                (4, 21, 24),
                (2, 16, 17),
                (1, 700, 704),
            ] {
                let quantized = reference::quantize_rows(rows, cols, noise(rows, cols, 1).data());
                let scales: Vec<_> = quantized.absmax.iter().map(|it| it / 127.0).collect();
                let codes = DeviceBuffer::from_slice(&device, &quantized.codes).unwrap();
                let row_scale = DeviceBuffer::from_slice(&device, &scales).unwrap();
                let untouched = bf16::from_f32(-7.0);
                let mut to =
                    DeviceBuffer::from_slice(&device, &vec![untouched; rows * stride]).unwrap();
                dequantize_rows(&codes, &row_scale, &mut to, stride).unwrap();
                let expected = (0..rows * stride).map(|at| match at % stride {
                    col if col < cols => {
                        let row = at / stride;
                        let code = quantized.codes[row * cols + col];
                        bf16::from_f32(f32::from(code) * scales[row])
                    }
                    _ => untouched,
                });
                let expected: Vec<_> = expected.collect();
                assert_eq!(to.to_vec().unwrap(), expected, "{rows} x {cols}");
            }
        }
    }

    /// The trick of bits behind an exponent holds for all 256.
    #[test]
    fn every_code_is_widened_exactly() {
        for device in devices() {
            let all: Vec<i8> = (i8::MIN..=i8::MAX).collect();
            let codes = DeviceBuffer::from_slice(&device, &all).unwrap();
            let row_scale = DeviceBuffer::from_slice(&device, &[1.0]).unwrap();
            let mut to = DeviceBuffer::stale(&device, 256).unwrap();
            dequantize_rows(&codes, &row_scale, &mut to, 256).unwrap();
            let expected: Vec<_> = all
                .iter()
                .map(|code| bf16::from_f32(f32::from(*code)))
                .collect();
            assert_eq!(to.to_vec().unwrap(), expected);
        }
    }
}
