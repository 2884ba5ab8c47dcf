//! How the work of a step of decoding is cut: tables of few sizes, and what stands in them.

use crate::cuda::attention::MOST_BLOCKS;
use crate::cuda::int8_matmul::FEW_ROWS;

/// Keys that a block takes, unless there would be more than [`MOST_PARTS`].
const PART_KEYS: usize = 256;
const MOST_PARTS: usize = 128;

/// How large the tables of a step are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecodeShape {
    pub(super) rows: usize,
    pub(super) blocks: usize,
}

impl DecodeShape {
    /// For rows with so many keys, those of the new tokens included.
    pub fn of(keys: &[usize]) -> Self {
        let rows = match keys.len() {
            // These products have kernels of their own: none are spared.
            few if few <= FEW_ROWS => few,
            many => many.next_multiple_of(8),
        };
        // A row that only fills up has a block too.
        let parts = keys.iter().map(|keys| keys.div_ceil(part_keys(*keys)));
        let needed = parts.sum::<usize>() + rows - keys.len();
        let blocks = needed.next_power_of_two().min(MOST_BLOCKS).max(needed);
        Self { rows, blocks }
    }

    /// With those that only fill up.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// Keys of each part of a row: of its length only, so that a row's bits do not depend on what else is in the batch.
fn part_keys(keys: usize) -> usize {
    // Four warps with 16 keys at a time.
    keys.div_ceil(MOST_PARTS)
        .next_multiple_of(64)
        .max(PART_KEYS)
}

/// Of each row the number of parts and the first; of each block its row, part, first key and the end of its keys. Rows that only fill up
/// have a key, blocks none.
pub(super) fn schedule(keys: &[usize], shape: DecodeShape) -> (Vec<[usize; 2]>, Vec<[usize; 4]>) {
    let (mut rows, mut blocks, mut parts) = (vec![], vec![], 0);
    let spare = std::iter::repeat_n(&1, shape.rows - keys.len());
    for (row, &keys) in keys.iter().chain(spare).enumerate() {
        let part_keys = part_keys(keys);
        let count = keys.div_ceil(part_keys);
        rows.push([count, parts]);
        blocks.extend((0..count).map(|part| {
            let first = part * part_keys;
            [row, part, first, keys.min(first + part_keys)]
        }));
        parts += if count > 1 { count } else { 0 };
    }
    // By their work, most first: no block begins late and long.
    blocks.sort_by_key(|[_, _, first, end]| std::cmp::Reverse(end - first));
    blocks.resize(shape.blocks, [0; 4]);
    (rows, blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_serve_for_many_rows_and_lengths() {
        let shape = |rows: usize, keys: usize| DecodeShape::of(&vec![keys; rows]);
        let of = |rows, blocks| DecodeShape { rows, blocks };
        assert_eq!(shape(1, 1), of(1, 1));
        assert_eq!(shape(1, 256), of(1, 1));
        assert_eq!(shape(1, 257), of(1, 2));
        assert_eq!(shape(3, 700), of(3, 16));
        assert_eq!(shape(5, 10), of(8, 8));
        assert_eq!(shape(60, 300), of(64, 128));
        assert_eq!(shape(64, 200_000), of(64, 8192));
        assert_eq!(shape(40_000, 1), of(40_000, MOST_BLOCKS));
        assert_eq!(shape(70_000, 1), of(70_000, 70_000));
        let (rows, blocks) = schedule(&[300, 2], of(2, 4));
        assert_eq!(rows, [[2, 0], [1, 2]]);
        assert_eq!(
            blocks,
            [[0, 0, 0, 256], [0, 1, 256, 300], [1, 0, 0, 2], [0; 4]]
        );
        for keys in [1_usize, 256, 257, 32_768, 32_769, 131_072, 1 << 20] {
            let parts = keys.div_ceil(part_keys(keys));
            assert!(parts <= MOST_PARTS, "{keys}");
            assert!(part_keys(keys).is_multiple_of(64));
        }
    }
}
