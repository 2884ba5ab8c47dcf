//! Launches of kernels/int8_matmul.cu.

use half::bf16;

use super::buffer::DeviceBuffer;
use super::device::count;
use super::driver::Argument;
use crate::error::KernelError;

const THREADS: usize = 128;
/// What the inner axis is a multiple of: codes are loaded 16 at a time.
pub(crate) const INNER_MULTIPLE: usize = 16;
/// Rows that there may be.
pub(crate) const MAX_ROWS: usize = 64;
/// Rows up to which tensor cores do not pay, and outputs of a block there.
pub(crate) const FEW_ROWS: usize = 4;
const FEW_OUTPUTS: usize = 4;
/// Outputs of a block, and of the inner axis what it takes at once, with tensor cores.
const OUTPUTS: usize = 128;
const CHUNK: usize = 64;
const STAGES: usize = 4;
/// Blocks that keep a large GPU's memory busy, and the least chunks of a block: below, filling its stages is all it does.
const BLOCKS: usize = 256;
const LEAST_CHUNKS: usize = STAGES;

/// Where a product goes.
pub(crate) enum Output<'a> {
    /// Rounded.
    Bf16(&'a mut DeviceBuffer<bf16>),
    /// As it is, plus `residual`, which has the same shape.
    F32 {
        y: &'a mut DeviceBuffer<f32>,
        residual: Option<&'a DeviceBuffer<f32>>,
    },
}

impl Output<'_> {
    fn holds(&self, len: usize) -> bool {
        match self {
            Self::Bf16(y) => y.len() == len,
            Self::F32 { y, residual } => {
                y.len() == len && residual.is_none_or(|it| it.len() == len)
            }
        }
    }

    /// `y`, and the residual where the kernel takes one.
    fn arguments(&self) -> Vec<Argument> {
        match self {
            Self::Bf16(y) => vec![y.argument()],
            Self::F32 { y, residual } => {
                let null = Argument::address(0);
                vec![y.argument(), residual.map_or(null, DeviceBuffer::argument)]
            }
        }
    }
}

/// `Err` unless `value` is a multiple of what a load takes.
pub(super) fn check_multiple(
    operation: &'static str,
    what: &str,
    value: usize,
    of: usize,
) -> Result<(), KernelError> {
    if value.is_multiple_of(of) {
        return Ok(());
    }
    Err(KernelError::Value {
        operation,
        problem: format!("{what} is {value}, which is no multiple of {of}"),
    })
}

/// `y = x W^T`, `W = codes * row_scale`: `x` is `[rows, in]` with `x_stride` from row to row, `codes` `[out, in]`, `row_scale` `[out]`, `y`
/// `[rows, out]`.
///
/// A row's result does not depend on the others, nor on their number, among 1 to 4 and among 5 to 64.
///
/// # Errors
/// [`KernelError::Value`] unless `in` is a multiple of 16, `x_stride` one of 8, and `rows` at most [`MAX_ROWS`].
pub(crate) fn int8_matmul(
    x: &DeviceBuffer<bf16>,
    [rows, x_stride]: [usize; 2],
    codes: &DeviceBuffer<i8>,
    row_scale: &DeviceBuffer<f32>,
    y: Output<'_>,
) -> Result<(), KernelError> {
    const OPERATION: &str = "int8_matmul";
    let out = row_scale.len();
    let inner = codes.len() / out.max(1);
    assert!(codes.len() == out * inner, "a scale for every output");
    assert!(
        x_stride >= inner && x.len() >= rows * x_stride && y.holds(rows * out),
        "`x` and `y` have as many rows"
    );
    check_multiple(
        OPERATION,
        "the inner axis of the codes",
        inner,
        INNER_MULTIPLE,
    )?;
    check_multiple(OPERATION, "the stride of `x`", x_stride, 8)?;
    if rows > MAX_ROWS {
        return Err(KernelError::Value {
            operation: OPERATION,
            problem: format!("{rows} rows, at most {MAX_ROWS}"),
        });
    }
    let sizes = [
        count(OPERATION, rows)?,
        count(OPERATION, out)?,
        count(OPERATION, inner)?,
        count(OPERATION, x_stride)?,
    ];
    if rows <= FEW_ROWS {
        let [of_bf16, of_f32] = match rows {
            0 | 1 => ["int8_matmul_1_bf16", "int8_matmul_1_f32"],
            2 => ["int8_matmul_2_bf16", "int8_matmul_2_f32"],
            _ => ["int8_matmul_4_bf16", "int8_matmul_4_f32"],
        };
        let kernel = match y {
            Output::Bf16(_) => of_bf16,
            Output::F32 { .. } => of_f32,
        };
        let mut arguments = vec![x.argument(), codes.argument(), row_scale.argument()];
        arguments.extend(y.arguments());
        arguments.extend(sizes);
        let blocks = if rows == 0 {
            0
        } else {
            out.div_ceil(FEW_OUTPUTS)
        };
        // SAFETY: `x` has `rows` rows of `x_stride >= inner` values, `codes` `out` rows of `inner`, `row_scale` one a row, `y` and
        // `residual` `rows` rows of `out`; rows begin at multiples of 16 bytes, as they are loaded.
        return unsafe {
            x.device()
                .launch(kernel, [blocks, 1, 1], (THREADS, 0), &arguments)
        };
    }

    let chunks = inner.div_ceil(CHUNK);
    let (splits, split_chunks) = splits(out, chunks);
    let shares = DeviceBuffer::<f32>::stale(x.device(), splits * rows * out)?;
    let (kernel, tile_rows) = match rows {
        ..=16 => ("int8_matmul_16", 16),
        17..=32 => ("int8_matmul_32", 32),
        _ => ("int8_matmul_64", 64),
    };
    let mut arguments = vec![x.argument(), codes.argument(), shares.argument()];
    arguments.extend(sizes);
    arguments.push(count(OPERATION, split_chunks)?);
    let shared_bytes = STAGES * CHUNK * (tile_rows * size_of::<bf16>() + OUTPUTS);
    // SAFETY: as above; `shares` has a value of every split for each of `y`.
    unsafe {
        let grid = [out.div_ceil(OUTPUTS), splits, 1];
        let block = (THREADS, shared_bytes);
        x.device().launch(kernel, grid, block, &arguments)?;
    }
    let kernel = match y {
        Output::Bf16(_) => "int8_matmul_sum_bf16",
        Output::F32 { .. } => "int8_matmul_sum_f32",
    };
    let mut arguments = vec![shares.argument(), row_scale.argument()];
    arguments.extend(y.arguments());
    arguments.extend([
        count(OPERATION, rows * out)?,
        count(OPERATION, out)?,
        count(OPERATION, splits)?,
    ]);
    // SAFETY: as above.
    unsafe {
        let grid = [(rows * out).div_ceil(THREADS), 1, 1];
        x.device().launch(kernel, grid, (THREADS, 0), &arguments)
    }
}

/// 8-bit codes `[out, in]` and their scales `[out]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Codes<'a> {
    pub(crate) codes: &'a DeviceBuffer<i8>,
    pub(crate) row_scale: &'a DeviceBuffer<f32>,
}

/// `y = silu(x gate^T) * (x up^T)` of up to [`FEW_ROWS`] rows, to the bits of [`int8_matmul`] of each matrix into bf16 and swiglu behind them;
/// `x` is `[rows, in]`.
///
/// # Errors
/// As [`int8_matmul`].
pub(crate) fn gated(
    x: &DeviceBuffer<bf16>,
    rows: usize,
    [gate, up]: [Codes<'_>; 2],
    y: &mut DeviceBuffer<bf16>,
) -> Result<(), KernelError> {
    const OPERATION: &str = "int8_matmul_gated";
    let out = gate.row_scale.len();
    let inner = gate.codes.len() / out.max(1);
    for matrix in [gate, up] {
        let is_whole = matrix.codes.len() == out * inner && matrix.row_scale.len() == out;
        assert!(is_whole, "two matrices of one shape");
    }
    assert!(x.len() == rows * inner && y.len() == rows * out);
    check_multiple(OPERATION, "the inner axis", inner, INNER_MULTIPLE)?;
    let kernels = [
        "int8_matmul_gated_1",
        "int8_matmul_gated_2",
        "int8_matmul_gated_4",
    ];
    let Some(kernel) = of_few(OPERATION, rows, kernels)? else {
        return Ok(());
    };
    let arguments = [
        x.argument(),
        gate.codes.argument(),
        gate.row_scale.argument(),
        up.codes.argument(),
        up.row_scale.argument(),
        y.argument(),
        count(OPERATION, rows)?,
        count(OPERATION, out)?,
        count(OPERATION, inner)?,
        count(OPERATION, inner)?,
    ];
    let grid = [out.div_ceil(FEW_OUTPUTS), 1, 1];
    // SAFETY: `x` has `rows` rows of `inner` values, both matrices `out` rows of that and a scale for each, `y` `rows` rows of `out`.
    unsafe { x.device().launch(kernel, grid, (THREADS, 0), &arguments) }
}

/// `y = x W^T` of three matrices and up to [`FEW_ROWS`] rows, to the bits of [`int8_matmul`]; `x` is `[rows, in]`.
///
/// # Errors
/// As [`int8_matmul`].
pub(crate) fn three(
    x: &DeviceBuffer<bf16>,
    [rows, inner]: [usize; 2],
    matrices: [Codes<'_>; 3],
    y: [&mut DeviceBuffer<f32>; 3],
) -> Result<(), KernelError> {
    const OPERATION: &str = "int8_matmul_three";
    assert!(x.len() == rows * inner);
    check_multiple(OPERATION, "the inner axis", inner, INNER_MULTIPLE)?;
    let kernels = [
        "int8_matmul_three_1",
        "int8_matmul_three_2",
        "int8_matmul_three_4",
    ];
    let Some(kernel) = of_few(OPERATION, rows, kernels)? else {
        return Ok(());
    };
    let (mut arguments, mut blocks) = (vec![x.argument()], 0);
    for (Codes { codes, row_scale }, y) in matrices.into_iter().zip(y) {
        let out = row_scale.len();
        assert!(codes.len() == out * inner && y.len() == rows * out);
        arguments.extend([codes.argument(), row_scale.argument(), y.argument()]);
        arguments.push(count(OPERATION, out)?);
        blocks += out.div_ceil(FEW_OUTPUTS);
    }
    let inner = count(OPERATION, inner)?;
    arguments.extend([count(OPERATION, rows)?, inner, inner]);
    // SAFETY: `x` has `rows` rows of `inner` values, each matrix rows of that with a scale each, its `y` as many values a row.
    unsafe {
        x.device()
            .launch(kernel, [blocks, 1, 1], (THREADS, 0), &arguments)
    }
}

/// The kernel for so few rows; none where there is no row.
fn of_few(
    operation: &'static str,
    rows: usize,
    [one, two, four]: [&'static str; 3],
) -> Result<Option<&'static str>, KernelError> {
    Ok(match rows {
        0 => None,
        1 => Some(one),
        2 => Some(two),
        3..=FEW_ROWS => Some(four),
        _ => {
            let problem = format!("{rows} rows, at most {FEW_ROWS}");
            return Err(KernelError::Value { operation, problem });
        }
    })
}

/// Over how many blocks the inner axis is split, and the chunks of each. It does not depend on the rows: else their number would change the
/// order of a sum.
fn splits(out: usize, chunks: usize) -> (usize, usize) {
    let wanted = BLOCKS.div_ceil(out.div_ceil(OUTPUTS).max(1));
    let split_chunks = chunks.div_ceil(wanted).max(LEAST_CHUNKS);
    (chunks.div_ceil(split_chunks), split_chunks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::cuda::swiglu;
    use crate::cuda::testing::{assert_close, devices, int8_weight, narrowed, strided, widened};
    use crate::cuda::view::{View, ViewMut};
    use crate::reference;
    use crate::reference::testing::noise;

    #[test]
    fn int8_matmul_matches_reference_on_devices() {
        for device in devices() {
            for [rows, out, inner] in [
                [1, 1, 16],
                [1, 7, 2064],
                [2, 9, 48],
                [3, 6, 160],
                [4, 5, 2128],
                [5, 3, 16],
                [16, 131, 336],
                [17, 129, 80],
                [64, 40, 560],
            ] {
                let (codes, row_scale, weight) = int8_weight(&device, [out, inner], 1);
                let (x, residual) = (noise(rows, inner, 2), noise(rows, out, 3));
                let x_stride = inner + 8;
                let there = strided(&device, &x, x_stride);
                let exact = reference::linear(&x, &weight);
                let rounded = Tensor::from_vec(rows, inner, narrowed(x.data())).unwrap();
                let of_rounded = reference::linear(&rounded, &weight);
                let run = |y: Output<'_>| {
                    int8_matmul(&there, [rows, x_stride], &codes, &row_scale, y).unwrap()
                };

                let mut y = DeviceBuffer::stale(&device, rows * out).unwrap();
                run(Output::Bf16(&mut y));
                let y = widened(&y.to_vec().unwrap());
                assert_close("y", &y, exact.data(), &narrowed(of_rounded.data()));

                // bf16 only rounds operands here: compared with the product of rounded ones, next to nothing is left.
                let mut y = DeviceBuffer::stale(&device, rows * out).unwrap();
                let mut run_f32 = |residual| {
                    run(Output::F32 {
                        y: &mut y,
                        residual,
                    });
                    y.to_vec().unwrap()
                };
                let alone = run_f32(None);
                assert_close("y in f32", &alone, of_rounded.data(), of_rounded.data());

                // Added last: the sum of two rounded numbers, to the bit.
                let there = DeviceBuffer::from_slice(&device, residual.data()).unwrap();
                let both = alone.iter().zip(residual.data());
                let expected: Vec<_> = both.map(|(y, residual)| y + residual).collect();
                assert_eq!(run_f32(Some(&there)), expected, "y and residual");
            }
        }
    }

    #[test]
    fn int8_matmul_three_is_int8_matmul_three_times_on_devices() {
        for device in devices() {
            for [rows, inner] in [[1, 16], [2, 2064], [3, 48], [4, 160]] {
                let outs = [7, 4, 2];
                let weights = [1, 2, 3]
                    .map(|seed| int8_weight(&device, [outs[seed as usize - 1], inner], seed));
                let matrices = weights
                    .each_ref()
                    .map(|(codes, row_scale, _)| Codes { codes, row_scale });
                let x = strided(&device, &noise(rows, inner, 4), inner);
                let stale = |out| DeviceBuffer::<f32>::stale(&device, rows * out).unwrap();
                let mut y = outs.map(stale);
                three(&x, [rows, inner], matrices, y.each_mut()).unwrap();
                for ((Codes { codes, row_scale }, y), out) in matrices.iter().zip(&y).zip(outs) {
                    let mut expected = stale(out);
                    let (y_to, residual) = (&mut expected, None);
                    let to = Output::F32 { y: y_to, residual };
                    int8_matmul(&x, [rows, inner], codes, row_scale, to).unwrap();
                    assert_eq!(y.to_vec().unwrap(), expected.to_vec().unwrap());
                }
            }
        }
    }

    /// To the bits of the operations that it stands for, and no further from the reference than these may be.
    #[test]
    fn int8_matmul_gated_matches_reference_on_devices() {
        for device in devices() {
            for [rows, out, inner] in [[1, 1, 16], [2, 7, 2064], [3, 10, 48], [4, 5, 160]] {
                let (gate, gate_scale, gate_matrix) = int8_weight(&device, [out, inner], 1);
                let (up, up_scale, up_matrix) = int8_weight(&device, [out, inner], 4);
                let x = noise(rows, inner, 2);
                let there = strided(&device, &x, inner);
                let one = |codes, row_scale| {
                    let mut y = DeviceBuffer::stale(&device, rows * out).unwrap();
                    int8_matmul(
                        &there,
                        [rows, inner],
                        codes,
                        row_scale,
                        Output::Bf16(&mut y),
                    )
                    .unwrap();
                    y
                };
                let [one, other] = [one(&gate, &gate_scale), one(&up, &up_scale)];
                let mut expected = DeviceBuffer::stale(&device, rows * out).unwrap();
                let view = |buffer| View::new(buffer, [rows, out]);
                let to = ViewMut::new(&mut expected, [rows, out]);
                swiglu::forward(view(&one), view(&other), to).unwrap();
                let matrices = [(&gate, &gate_scale), (&up, &up_scale)];
                let matrices = matrices.map(|(codes, row_scale)| Codes { codes, row_scale });
                let mut y = DeviceBuffer::stale(&device, rows * out).unwrap();
                gated(&there, rows, matrices, &mut y).unwrap();
                let y = widened(&y.to_vec().unwrap());
                assert_eq!(y, widened(&expected.to_vec().unwrap()));

                let of = |x: &Tensor, round: fn(&[f32]) -> Vec<f32>| {
                    let [gate, up] = [&gate_matrix, &up_matrix].map(|matrix| {
                        let y = round(reference::linear(x, matrix).data());
                        Tensor::from_vec(rows, out, y).unwrap()
                    });
                    round(reference::swiglu(&gate, &up).data())
                };
                let rounded = Tensor::from_vec(rows, inner, narrowed(x.data())).unwrap();
                assert_close(
                    "gated",
                    &y,
                    &of(&x, <[f32]>::to_vec),
                    &of(&rounded, narrowed),
                );
            }
        }
    }

    /// What a batch generates must not depend on who else is in it.
    #[test]
    fn a_row_is_the_same_in_every_batch() {
        let [out, inner] = [6, 400];
        for device in devices() {
            let (codes, row_scale, _) = int8_weight(&device, [out, inner], 1);
            let x = noise(64, inner, 2);
            let run = |rows: std::ops::Range<usize>| {
                let values = &x.data()[rows.start * inner..rows.end * inner];
                let some = Tensor::from_vec(rows.len(), inner, values.to_vec()).unwrap();
                let there = strided(&device, &some, inner);
                let mut y = DeviceBuffer::stale(&device, rows.len() * out).unwrap();
                let residual = None;
                let output = Output::F32 {
                    y: &mut y,
                    residual,
                };
                let shape = [rows.len(), inner];
                int8_matmul(&there, shape, &codes, &row_scale, output).unwrap();
                y.to_vec().unwrap()
            };
            let few = run(0..4);
            for rows in [0..1, 1..3, 1..4] {
                assert_eq!(run(rows.clone()), few[rows.start * out..rows.end * out]);
            }
            let many = run(0..64);
            for rows in [7..12, 3..20, 40..64] {
                assert_eq!(run(rows.clone()), many[rows.start * out..rows.end * out]);
            }
        }
    }

    #[test]
    fn splits_cover_the_inner_axis_and_fill_a_gpu() {
        for (out, inner, expected) in [
            (4096, 4096, (8, 8)),
            (11_008, 4096, (3, 22)),
            (4096, 11_008, (8, 22)),
            (1024, 4096, (16, 4)),
            (576, 576, (3, 4)),
            (1, 16, (1, 4)),
        ] {
            let chunks = usize::div_ceil(inner, CHUNK);
            assert_eq!(splits(out, chunks), expected, "{out} x {inner}");
            assert!(expected.0 * expected.1 >= chunks);
        }
    }

    #[test]
    fn what_cannot_be_loaded_is_refused() {
        let device = &devices()[0];
        let problem = |[rows, inner, stride]: [usize; 3]| {
            let (codes, row_scale, _) = int8_weight(device, [2, inner], 1);
            let x = strided(device, &noise(rows, inner, 2), stride);
            let mut y = DeviceBuffer::stale(device, 2 * rows).unwrap();
            let y = Output::Bf16(&mut y);
            let refused = int8_matmul(&x, [rows, stride], &codes, &row_scale, y);
            refused.unwrap_err().to_string()
        };
        assert_eq!(
            [[1, 8, 8], [1, 16, 20], [65, 16, 16]].map(problem),
            [
                "int8_matmul: the inner axis of the codes is 8, which is no multiple of 16",
                "int8_matmul: the stride of `x` is 20, which is no multiple of 8",
                "int8_matmul: 65 rows, at most 64",
            ]
        );
    }
}
