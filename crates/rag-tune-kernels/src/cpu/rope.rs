use rayon::prelude::*;

use super::rows_per_task;

/// `sign` is -1 to turn back.
pub(crate) fn apply(
    x: &mut [f32],
    cols: usize,
    positions: &[u32],
    cos: &[f32],
    sin: &[f32],
    head_dim: usize,
    sign: f32,
) {
    let half = head_dim / 2;
    let rows = rows_per_task(cols);
    x.par_chunks_mut(rows * cols)
        .zip(positions.par_chunks(rows))
        .for_each(|(x, positions)| {
            for (row, position) in x.chunks_exact_mut(cols).zip(positions) {
                let cos = &cos[*position as usize * half..][..half];
                let sin = &sin[*position as usize * half..][..half];
                for head in row.chunks_exact_mut(head_dim) {
                    let (first, second) = head.split_at_mut(half);
                    for (((first, second), cos), sin) in
                        first.iter_mut().zip(second).zip(cos).zip(sin)
                    {
                        let sin = sign * sin;
                        (*first, *second) =
                            (*first * cos - *second * sin, *second * cos + *first * sin);
                    }
                }
            }
        });
}
