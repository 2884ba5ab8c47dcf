//! Launches of kernels/rows.cu.

use super::buffer::DeviceBuffer;
use super::elementwise;
use super::ids::Ids;
use super::view::{Element, View, ViewMut};
use crate::error::{KernelError, check_shape};

/// Values that one access moves.
const WIDE: usize = 4;

/// `y[i] = x[ids[i]]`.
pub(crate) fn gather<T: Element>(
    x: View<'_, T>,
    ids: &Ids,
    y: ViewMut<'_, f32>,
) -> Result<(), KernelError> {
    let operation = T::choose("gather_bf16", "gather_f32");
    let [rows, cols] = x.shape();
    let shape = [ids.len(), cols];
    check_shape(operation, "y", &y.shape(), &shape)?;
    check_ids(ids, rows, x.device());
    let (operands, others) = ([x.operand(), y.operand()], [ids.buffer().argument()]);
    // SAFETY: `y` has this shape and is borrowed for writing; every row that is read is one of `x`.
    unsafe { elementwise::launch(operation, shape, WIDE, operands, &others) }
}

/// `y[ids[i]] = x[i]`, zeros in the other rows of `y`, which is `[.., cols]`; `ids` are increasing.
pub(crate) fn scatter(
    x: View<'_, f32>,
    ids: &Ids,
    y: &mut DeviceBuffer<f32>,
) -> Result<(), KernelError> {
    const OPERATION: &str = "scatter_f32";
    let [rows, cols] = x.shape();
    check_shape(OPERATION, "ids", &[ids.len()], &[rows])?;
    if !ids.are_increasing() {
        // Of two rows for one place either might come last.
        let problem = "rows are not in increasing order".to_owned();
        return Err(KernelError::Value {
            operation: OPERATION,
            problem,
        });
    }
    let to_rows = y.len() / cols.max(1);
    check_shape(OPERATION, "y", &[y.len()], &[to_rows * cols])?;
    check_ids(ids, to_rows, x.device());
    y.clear()?;
    let to = ViewMut::new(y, [to_rows, cols]);
    let (operands, others) = ([x.operand(), to.operand()], [ids.buffer().argument()]);
    // SAFETY: every row that is written is one of `y`, which is borrowed for that, and no two are the same.
    unsafe { elementwise::launch(OPERATION, [rows, cols], WIDE, operands, &others) }
}

fn check_ids(ids: &Ids, rows: usize, device: &super::Device) {
    assert!(
        ids.below() <= rows && ids.buffer().device() == device,
        "ids below {} of {rows} rows, on one device",
        ids.below()
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::cuda::testing::{columns, devices, narrowed, to_bf16, with_stride};
    use crate::reference::testing::noise;

    #[test]
    fn rows_match_reference_on_devices() {
        for device in devices() {
            for (rows, cols, stride) in [(1, 1, 1), (5, 3, 5), (9, 70, 72), (40, 36, 40)] {
                let x = noise(rows, cols, 1);
                let x = Tensor::from_vec(rows, cols, narrowed(x.data())).unwrap();
                // With rows that come twice, and others not at all.
                let picked: Vec<usize> = (0..rows + 3).map(|at| at * at % rows).collect();
                let numbers: Vec<u32> = picked.iter().map(|it| *it as u32).collect();
                let expected = x.gather_rows(&picked).unwrap();
                let ids = Ids::new(&device, "test", &numbers, rows).unwrap();
                let (shape, gathered) = ([rows, cols], [picked.len(), cols]);

                let values = with_stride(&x, stride);
                let wide = DeviceBuffer::from_slice(&device, &values).unwrap();
                let mut to = DeviceBuffer::stale(&device, picked.len() * cols).unwrap();
                let from = View::strided(&wide, 0, shape, stride);
                gather(from, &ids, ViewMut::new(&mut to, gathered)).unwrap();
                assert!(to.to_vec().unwrap() == expected.data(), "f32, {shape:?}");

                let table = DeviceBuffer::from_slice(&device, &to_bf16(x.data())).unwrap();
                let mut to = DeviceBuffer::stale(&device, picked.len() * stride).unwrap();
                let place = ViewMut::strided(&mut to, 0, gathered, stride);
                gather(View::new(&table, shape), &ids, place).unwrap();
                let got = columns(&to.to_vec().unwrap(), stride, cols);
                assert!(got == expected.data(), "bf16, {shape:?}");

                let every_other: Vec<u32> = (0..rows as u32).map(|it| 2 * it + 1).collect();
                let ids = Ids::new(&device, "test", &every_other, 2 * rows + 1).unwrap();
                let mut to = DeviceBuffer::stale(&device, (2 * rows + 1) * cols).unwrap();
                scatter(from, &ids, &mut to).unwrap();
                let expected = Tensor::from_fn(2 * rows + 1, cols, |row, col| match row % 2 {
                    1 => x.row(row / 2)[col],
                    _ => 0.0,
                });
                assert!(
                    to.to_vec().unwrap() == expected.data(),
                    "scatter, {shape:?}"
                );
            }
        }
    }

    #[test]
    fn rows_that_are_not_there_or_come_twice_are_refused() {
        let device = &devices()[0];
        let error = Ids::new(device, "gather", &[0, 3], 3).unwrap_err();
        assert_eq!(error.to_string(), "gather: row 3 of 3");
        let ids = Ids::new(device, "scatter", &[1, 1], 3).unwrap();
        let x = DeviceBuffer::zeros(device, 4).unwrap();
        let mut y = DeviceBuffer::stale(device, 6).unwrap();
        assert!(scatter(View::new(&x, [2, 2]), &ids, &mut y).is_err());
    }
}
