//! f32 products with weights that are widened panel by panel.
//!
//! The other precisions end here where the processor has no instruction for them: their left side is rounded as they
//! would round it ([`round_rows`], `Int8Rows::dequantized`), and only the sums differ, in f32's last bits.

use std::slice;

use rayon::prelude::*;

use super::tile_f32::{self, Operands, Sums};
use super::{Part, Product, Store, TILE_ROWS};
use crate::cpu::convert;
use crate::cpu::panels::{PANEL, PackedWeights, PanelScratch};
use crate::processor::Level;

/// Values of the inner dimension a block has: a panel of 64 columns is then 256 KiB.
const BLOCK: usize = 1024;

/// f32 rows rounded to bf16, each column times its scale where scales are given.
pub(crate) fn round_rows(data: &[f32], inner: usize, scales: Option<&[f32]>) -> Vec<f32> {
    let mut rounded = data.to_vec();
    if let Some(scales) = scales {
        rounded.par_chunks_mut(inner.max(1)).for_each(|row| {
            for (value, scale) in row.iter_mut().zip(scales) {
                *value *= scale;
            }
        });
    }
    convert::round(&mut rounded);
    rounded
}

/// Rows times weights, f32.
pub(crate) struct F32Product<'a> {
    rows: &'a [f32],
    weights: PackedWeights<'a>,
    /// One factor for each value of the inner dimension.
    scales: Option<&'a [f32]>,
    level: Level,
}

impl<'a> F32Product<'a> {
    /// `rows`: `[any, weights.inner()]`, `scales`: `[weights.inner()]`
    ///
    /// # Panics
    /// If `rows` is no whole number of rows, or `scales` has another length.
    pub(crate) fn new(
        rows: &'a [f32],
        weights: PackedWeights<'a>,
        scales: Option<&'a [f32]>,
        level: Level,
    ) -> Self {
        assert!(
            scales.is_none_or(|scales| scales.len() == weights.inner()),
            "scales"
        );
        assert!(
            rows.len().is_multiple_of(weights.inner().max(1)),
            "left side"
        );
        assert!(level <= Level::of_this_processor(), "level");
        Self {
            rows,
            weights,
            scales,
            level,
        }
    }
}

impl Product for F32Product<'_> {
    fn rows(&self) -> usize {
        self.rows.len() / self.weights.inner().max(1)
    }

    fn weights(&self) -> &PackedWeights<'_> {
        &self.weights
    }

    fn block(&self) -> usize {
        BLOCK
    }

    unsafe fn multiply(&self, part: &Part<'_>, scratch: &mut PanelScratch) {
        let (stride, inner, store) = (self.weights.inner(), part.inner.clone(), part.store);
        let weights = self
            .weights
            .lines(part.panel, inner.clone(), self.scales, scratch);
        assert!(weights.len() >= inner.len() * PANEL, "panel");
        let mut sums: Sums = [[0.0; PANEL]; TILE_ROWS];
        let tile = |row: usize, count: usize, out: *mut f32| {
            let left = &self.rows[row * stride + inner.start..];
            let needed = (count - 1) * stride + inner.len();
            assert!(left.len() >= needed, "left side");
            let operands = Operands {
                left: left.as_ptr(),
                row_stride: stride,
                step: 1,
                right: weights.as_ptr(),
                depth: inner.len(),
                columns: store.columns,
            };
            // SAFETY: the lengths and, in `new`, the level were checked; the rows of `out` are this tile's.
            unsafe {
                tile_f32::multiply(self.level, count, operands, &mut sums);
                for (index, sums) in sums[..count].iter().enumerate() {
                    let out = out.add(index * part.out.stride());
                    store_row(sums, slice::from_raw_parts_mut(out, store.columns), store);
                }
            }
        };
        // SAFETY: the caller's promise.
        unsafe { part.tiles(tile) };
    }
}

fn store_row(sums: &[f32; PANEL], out: &mut [f32], store: Store<'_>) {
    match (store.scales, store.accumulate) {
        (None, false) => out.copy_from_slice(&sums[..out.len()]),
        (None, true) => {
            for (out, sum) in out.iter_mut().zip(sums) {
                *out += sum;
            }
        }
        (Some(scales), accumulate) => {
            for ((out, sum), scale) in out.iter_mut().zip(sums).zip(scales) {
                let before = if accumulate { *out } else { 0.0 };
                *out = before + sum * scale;
            }
        }
    }
}
