//! Launches of kernels/grad_norm.cu.

use super::buffer::DeviceBuffer;
use super::device::count;
use super::pieces::Table;
use crate::error::KernelError;

const THREADS: usize = 256;

/// The Euclidean norm of the gradients of `table`, which are `gradients`: the same bits for the same values. Waits for it.
pub(crate) fn grad_norm(
    table: &Table,
    gradients: &[&DeviceBuffer<f32>],
) -> Result<f64, KernelError> {
    const OF_PIECES: &str = "grad_norm_pieces";
    const TOTAL: &str = "grad_norm_total";
    table.check_gradients(gradients);
    let (device, pieces) = (table.device(), table.pieces());
    let sums = DeviceBuffer::<f64>::stale(device, pieces.len())?;
    let total = DeviceBuffer::<f64>::stale(device, 1)?;
    let of_pieces = [pieces.argument(), sums.argument()];
    let of_all = [
        sums.argument(),
        total.argument(),
        count(TOTAL, pieces.len())?,
    ];
    // SAFETY: the pieces' gradients are those that were just checked, and there is a sum for each piece.
    unsafe {
        device.launch(OF_PIECES, [pieces.len(), 1, 1], (THREADS, 0), &of_pieces)?;
        device.launch(TOTAL, [1, 1, 1], (THREADS, 0), &of_all)?;
    }
    let mut squares = [0.0];
    total.read(0, &mut squares)?;
    Ok(squares[0].sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::pieces::{Group, testing::Owned};
    use crate::cuda::testing::devices;
    use crate::reference::testing::noise;

    #[test]
    fn grad_norm_matches_reference_on_devices() {
        let group = Group {
            lr_ratio: 1.0,
            weight_decay: 0.0,
        };
        let mut norms = Vec::new();
        for device in devices() {
            for lens in [&[][..], &[0], &[1], &[7, 4096, 0, 9001, 1026]] {
                let mut tensors: Vec<_> = (0..lens.len())
                    .map(|at| Owned::new(&device, lens[at], 1))
                    .collect();
                let mut squares = 0.0;
                for (at, tensor) in tensors.iter_mut().enumerate() {
                    let values = noise(1, lens[at], at as u64);
                    tensor.gradient.write(0, values.data()).unwrap();
                    let values = values.data().iter().map(|it| f64::from(*it).powi(2));
                    squares += values.sum::<f64>();
                }
                let views: Vec<_> = tensors.iter_mut().map(Owned::tensor).collect();
                let table = Table::new(&device, &views, &vec![group; lens.len()]).unwrap();
                let gradients: Vec<_> = tensors.iter().map(|it| &it.gradient).collect();
                let norm = grad_norm(&table, &gradients).unwrap();
                assert!(
                    (norm - squares.sqrt()).abs() <= 1e-13 * squares.sqrt(),
                    "{lens:?}: {norm}, expected {}",
                    squares.sqrt()
                );
                norms.push(norm);
            }
        }
        let first = norms[..4].to_vec();
        assert!(
            norms.chunks(4).all(|it| it == first),
            "one order on every device: {norms:?}"
        );
    }
}
