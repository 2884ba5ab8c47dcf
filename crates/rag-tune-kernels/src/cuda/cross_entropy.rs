//! Launches of kernels/cross_entropy.cu.

use half::bf16;

use super::buffer::DeviceBuffer;
use super::device::count;
use super::driver::Argument;
use super::ids::Ids;
use super::view::{Element, Operand, View, ViewMut};
use crate::error::{KernelError, check_shape};

const THREADS: usize = 512;

/// Rows of logits among all that carry loss, from the row `first` on.
#[derive(Debug)]
pub(crate) struct Chunk<'a> {
    /// Of all rows, each below the number of columns of the logits.
    pub(crate) labels: &'a Ids,
    /// Of all rows, in nats.
    pub(crate) losses: &'a mut DeviceBuffer<f32>,
    pub(crate) first: usize,
}

/// The chunk's losses, and `scale` times the gradient of their sum in the place of the logits, `[rows, vocab]`.
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "the gradient goes to a product, which reads bf16: `narrowed`"
    )
)]
pub(crate) fn in_place<T: Element>(
    logits: ViewMut<'_, T>,
    chunk: Chunk<'_>,
    scale: f32,
) -> Result<(), KernelError> {
    let kernel = T::choose("cross_entropy_bf16", "cross_entropy_f32");
    let logits = logits.operand();
    // SAFETY: the kernel is that of this type, and the logits are borrowed for writing.
    unsafe { launch(kernel, T::choose(8, 4), logits, Some(logits), chunk, scale) }
}

/// As [`in_place`], the gradient rounded to bf16 in a place of its own.
pub(crate) fn narrowed(
    logits: View<'_, f32>,
    gradient: ViewMut<'_, bf16>,
    chunk: Chunk<'_>,
    scale: f32,
) -> Result<(), KernelError> {
    const KERNEL: &str = "cross_entropy_f32_to_bf16";
    check_shape(KERNEL, "gradient", &gradient.shape(), &logits.shape())?;
    let (logits, gradient) = (logits.operand(), gradient.operand());
    // SAFETY: the kernel is that of these types, and the gradient is of one shape with the logits and borrowed for writing.
    unsafe { launch(KERNEL, 4, logits, Some(gradient), chunk, scale) }
}

/// The chunk's losses alone.
pub(crate) fn losses<T: Element>(logits: View<'_, T>, chunk: Chunk<'_>) -> Result<(), KernelError> {
    let kernel = T::choose("cross_entropy_bf16", "cross_entropy_f32");
    // SAFETY: the kernel is that of this type.
    unsafe { launch(kernel, T::choose(8, 4), logits.operand(), None, chunk, 0.0) }
}

/// The sum of all losses, in the order of the rows.
///
/// The host adds them, in f64 as on the CPU: a step downloads four bytes a row once, and waits for its loss in any case.
pub(crate) fn sum(losses: &DeviceBuffer<f32>) -> Result<f64, KernelError> {
    Ok(losses.to_vec()?.into_iter().map(f64::from).sum())
}

/// # Safety
/// `kernel` takes operands of these types, and moves `wide` values at a time; the gradient is of the shape of the logits, and
/// borrowed for writing.
unsafe fn launch(
    kernel: &'static str,
    wide: usize,
    logits: Operand<'_>,
    gradient: Option<Operand<'_>>,
    chunk: Chunk<'_>,
    scale: f32,
) -> Result<(), KernelError> {
    let Chunk {
        labels,
        losses,
        first,
    } = chunk;
    let [rows, vocab] = logits.shape;
    check_shape(kernel, "losses", &[losses.len()], &[labels.len()])?;
    assert!(
        first + rows <= labels.len() && labels.below() <= vocab,
        "{rows} rows from {first} on of {}, labels below {} of {vocab}",
        labels.len(),
        labels.below()
    );
    let device = logits.device;
    let is_there = |it: Operand<'_>| it.device == device;
    assert!(
        labels.buffer().device() == device
            && losses.device() == device
            && gradient.is_none_or(is_there),
        "{kernel}: one device"
    );
    let fits = logits.allows(wide) && gradient.is_none_or(|it| it.allows(wide));
    let [address, stride] = logits.arguments(kernel)?;
    let [to, to_stride] = match gradient {
        Some(gradient) => gradient.arguments(kernel)?,
        None => [Argument::address(0), stride],
    };
    let arguments = [
        address,
        stride,
        Argument::address(labels.buffer().at(first)),
        Argument::address(losses.at(first)),
        to,
        to_stride,
        count(kernel, vocab)?,
        scale.into(),
        count(kernel, if fits { wide } else { 1 })?,
    ];
    // SAFETY: the caller's promise; a block for each row, whose label is below `vocab` and whose loss has a place.
    unsafe { device.launch(kernel, [rows, 1, 1], (THREADS, 0), &arguments) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::testing::{
        assert_close, columns, devices, narrowed as rounded, to_bf16, widened, with_stride,
    };
    use crate::reference::testing::noise;
    use crate::{Matrix, Tensor, reference};

    const SCALE: f32 = 0.25;

    /// Logits as bf16 holds them, labels, the loss of each row, and the gradient: the reference's, with the identity as its head.
    struct Case {
        logits: Tensor,
        labels: Vec<u32>,
        losses: Vec<f32>,
        gradient: Tensor,
    }

    impl Case {
        fn new(rows: usize, vocab: usize) -> Self {
            let mut logits = noise(rows, vocab, 1);
            logits.data_mut().iter_mut().for_each(|it| *it *= 12.0);
            let logits = Tensor::from_vec(rows, vocab, rounded(logits.data())).unwrap();
            let labels: Vec<u32> = (0..rows).map(|row| (row * 7 % vocab) as u32).collect();
            let identity = Tensor::from_fn(vocab, vocab, |row, col| f32::from(row == col));
            let head = Matrix::f32(vocab, vocab, identity.into_vec()).unwrap();
            let mut losses = Vec::new();
            for (row, label) in labels.iter().enumerate() {
                let row = Tensor::from_vec(1, vocab, logits.row(row).to_vec()).unwrap();
                losses.push(reference::cross_entropy(&row, &head, &[*label], 1.0).0 as f32);
            }
            let gradient = reference::cross_entropy(&logits, &head, &labels, SCALE).1;
            Self {
                logits,
                labels,
                losses,
                gradient,
            }
        }
    }

    /// One value, rows shorter than a block and longer than two packs of each thread, with and without 16 bytes at a time.
    #[test]
    fn cross_entropy_matches_reference_on_devices() {
        for device in devices() {
            for (rows, vocab, stride) in [(1, 1, 1), (3, 7, 9), (5, 301, 304), (2, 4500, 4504)] {
                let case = match vocab {
                    // The reference multiplies by the head.
                    4500 => long_case(),
                    _ => Case::new(rows, vocab),
                };
                let exact = case.gradient.data();
                let labels = Ids::new(&device, "test", &case.labels, vocab).unwrap();
                let mut losses = DeviceBuffer::stale(&device, rows).unwrap();
                let shape = [rows, vocab];
                let values = with_stride(&case.logits, stride);
                let mut wide = DeviceBuffer::from_slice(&device, &values).unwrap();
                let mut narrow = DeviceBuffer::from_slice(&device, &to_bf16(&values)).unwrap();
                // The last row is a chunk of its own.
                let chunks = [(0, rows - 1), (rows - 1, 1)];
                let mut check = |what: &str, run: &mut dyn FnMut(usize, usize, Chunk<'_>)| {
                    losses.clear().unwrap();
                    for (first, len) in chunks {
                        let chunk = Chunk {
                            labels: &labels,
                            losses: &mut losses,
                            first,
                        };
                        run(first, len, chunk);
                    }
                    let got = losses.to_vec().unwrap();
                    assert_close(what, &got, &case.losses, &case.losses);
                    let total = case.losses.iter().map(|it| f64::from(*it)).sum::<f64>();
                    assert!((sum(&losses).unwrap() - total).abs() < 1e-4 * rows as f64);
                };
                check("losses of f32", &mut |first, len, chunk| {
                    let logits = View::strided(&wide, first * stride, [len, vocab], stride);
                    super::losses(logits, chunk).unwrap();
                });
                check("losses of bf16", &mut |first, len, chunk| {
                    let logits = View::strided(&narrow, first * stride, [len, vocab], stride);
                    super::losses(logits, chunk).unwrap();
                });

                let mut gradient = DeviceBuffer::stale(&device, rows * vocab).unwrap();
                check("f32 to bf16", &mut |first, len, chunk| {
                    let logits = View::strided(&wide, first * stride, [len, vocab], stride);
                    let to = ViewMut::strided(&mut gradient, first * vocab, [len, vocab], vocab);
                    narrowed(logits, to, chunk, SCALE).unwrap();
                });
                let got = widened(&gradient.to_vec().unwrap());
                assert_close("gradient, f32 to bf16", &got, exact, &rounded(exact));
                check("f32", &mut |first, len, chunk| {
                    let to = ViewMut::strided(&mut wide, first * stride, [len, vocab], stride);
                    in_place(to, chunk, SCALE).unwrap();
                });
                let got = columns(&wide.to_vec().unwrap(), stride, vocab);
                assert_close("gradient, f32", &got, exact, exact);
                check("bf16", &mut |first, len, chunk| {
                    let to = ViewMut::strided(&mut narrow, first * stride, [len, vocab], stride);
                    in_place(to, chunk, SCALE).unwrap();
                });
                let got = columns(&widened(&narrow.to_vec().unwrap()), stride, vocab);
                assert_close("gradient, bf16", &got, exact, &rounded(exact));
                assert_eq!(case.logits.shape(), shape);
            }
        }
    }

    /// Rows of 4,500 values: all but 30 of them far below.
    fn long_case() -> Case {
        let small = Case::new(2, 30);
        let place = |col: usize| col * 149 % 4500;
        let mut case = Case {
            logits: Tensor::from_fn(2, 4500, |_, _| -300.0),
            labels: Vec::new(),
            losses: small.losses,
            gradient: Tensor::zeros(2, 4500),
        };
        for row in 0..2 {
            for col in 0..30 {
                case.logits.row_mut(row)[place(col)] = small.logits.row(row)[col];
                case.gradient.row_mut(row)[place(col)] = small.gradient.row(row)[col];
            }
            case.labels.push(place(small.labels[row] as usize) as u32);
        }
        case
    }

    #[test]
    fn logits_of_minus_infinity_take_no_share() {
        for device in devices() {
            let logits = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, 0.0];
            let mut logits = DeviceBuffer::from_slice(&device, &logits).unwrap();
            let labels = Ids::new(&device, "test", &[1], 4).unwrap();
            let mut losses = DeviceBuffer::stale(&device, 1).unwrap();
            let chunk = Chunk {
                labels: &labels,
                losses: &mut losses,
                first: 0,
            };
            in_place(ViewMut::new(&mut logits, [1, 4]), chunk, 1.0).unwrap();
            assert!((losses.to_vec().unwrap()[0] - 2.0_f32.ln()).abs() < 1e-6);
            assert_close(
                "gradient",
                &logits.to_vec().unwrap(),
                &[0.0, -0.5, 0.0, 0.5],
                &[0.0, -0.5, 0.0, 0.5],
            );
        }
    }
}
