//! What attention's products read: f32, or bf16 in pairs, each with its tile kernels.

use std::cell::RefCell;
use std::thread::LocalKey;

use bytemuck::Pod;
use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::scratch::Scratch;
use super::softmax::{ScoreGradient, Softmax, score_gradient_any, softmax_any};
use crate::buffer::Buffer;
use crate::cpu::convert::{narrow_piece, to_bf16, to_f32};
use crate::cpu::gemm::TILE_ROWS;
use crate::cpu::gemm::tile_f32::{self, Operands, Sums};
use crate::processor::level_in_use;
use crate::stored::Stored;
use crate::tensor::Tensor;

/// Queries and keys of a block, and columns of a panel: four AVX-512 registers of f32.
pub(super) const BLOCK: usize = 64;

/// The left side of a product, `[rows, groups][GROUP]` anywhere in a slice.
#[derive(Clone, Copy)]
pub(super) struct Left<'a, E> {
    pub(super) values: &'a [E],
    /// From a row to the next.
    pub(super) row_stride: usize,
    /// From a group of neighbours along the inner dimension to the next.
    pub(super) group_stride: usize,
}

/// What a product does with the values that are there.
#[derive(Clone, Copy)]
pub(super) enum Keep<'a> {
    Nothing,
    All,
    /// Row by row, times these factors.
    Scaled(&'a [f32; BLOCK]),
}

/// `out[row, column] (+)= sum left[row, at] panel[at, column]`, up to 64 columns.
pub(crate) struct Product<'a, E> {
    pub(super) left: Left<'a, E>,
    pub(super) rows: usize,
    /// `[groups][64][GROUP]`
    pub(super) panel: &'a [E],
    pub(super) groups: usize,
    /// Whether row `r` of the left side is zeros behind its first `r + 1` values, which are then not multiplied.
    pub(super) is_triangle: bool,
    pub(super) out_stride: usize,
    pub(super) columns: usize,
    pub(super) keep: Keep<'a>,
}

/// A number in which queries, keys and values are held.
pub(crate) trait Element: Pod + Send + Sync {
    /// Neighbours along a product's inner dimension that lie side by side in a panel.
    const GROUP: usize;
    fn from_f32(value: f32) -> Self;
    fn to_f32(self) -> f32;
    /// Rounds as many values as there are.
    fn narrow(from: &[f32], to: &mut [Self]);
    /// `values` `[rows, cols]` as a tensor that waits for the backward pass.
    fn stored(rows: usize, cols: usize, values: Buffer<Self>) -> Stored;
    /// # Panics
    /// If the product does not fit its slices.
    fn multiply(product: &Product<'_, Self>, out: &mut [f32]);
    fn softmax(tile: Softmax<'_, Self>);
    fn score_gradient(tile: ScoreGradient<'_, Self>);
    /// What a thread works in, used again from task to task.
    fn scratch() -> &'static LocalKey<RefCell<Scratch<Self>>>;
}

impl<E: Element> Product<'_, E> {
    /// That every access of the tiles stays inside its slice.
    pub(super) fn check(&self, out: &[f32]) {
        if self.rows == 0 || self.columns == 0 {
            return;
        }
        assert!(self.columns <= BLOCK && self.groups > 0, "a panel's shape");
        let last = (self.rows - 1) * self.left.row_stride
            + (self.groups - 1) * self.left.group_stride
            + E::GROUP;
        assert!(last <= self.left.values.len(), "left side");
        assert!(
            self.groups * BLOCK * E::GROUP <= self.panel.len(),
            "a panel's length"
        );
        let last = (self.rows - 1) * self.out_stride + self.columns;
        assert!(last <= out.len(), "size of the result");
        let scaled = matches!(self.keep, Keep::Scaled(_));
        assert!(!scaled || self.rows <= BLOCK, "number of factors");
    }

    /// Groups that some rows up to `end` have, the others being zeros.
    pub(super) fn groups_up_to(&self, end: usize) -> usize {
        match self.is_triangle {
            true => self.groups.min(end.div_ceil(E::GROUP)),
            false => self.groups,
        }
    }

    pub(super) fn factor(&self, row: usize) -> f32 {
        match self.keep {
            Keep::Nothing => 0.0,
            Keep::All => 1.0,
            Keep::Scaled(factors) => factors[row],
        }
    }
}

impl Element for f32 {
    const GROUP: usize = 1;

    fn from_f32(value: f32) -> Self {
        value
    }

    fn to_f32(self) -> f32 {
        self
    }

    fn narrow(from: &[f32], to: &mut [Self]) {
        to[..from.len()].copy_from_slice(from);
    }

    fn stored(rows: usize, cols: usize, values: Buffer<Self>) -> Stored {
        Stored::from_f32(Tensor::from_buffer(rows, cols, values))
    }

    fn multiply(product: &Product<'_, Self>, out: &mut [f32]) {
        product.check(out);
        multiply_f32(product, out);
    }

    fn softmax(tile: Softmax<'_, Self>) {
        softmax_f32(tile);
    }

    fn score_gradient(tile: ScoreGradient<'_, Self>) {
        score_gradient_f32(tile);
    }

    fn scratch() -> &'static LocalKey<RefCell<Scratch<Self>>> {
        thread_local!(static SCRATCH: RefCell<Scratch<f32>> = RefCell::default());
        &SCRATCH
    }
}

/// Values of an AVX-512 register, or of two of AVX2.
pub(super) const LANES: usize = 16;

fn multiply_f32(product: &Product<'_, f32>, out: &mut [f32]) {
    let left = product.left;
    let mut sums: Sums = [[0.0; BLOCK]; TILE_ROWS];
    for first in (0..product.rows).step_by(TILE_ROWS) {
        let rows = TILE_ROWS.min(product.rows - first);
        let operands = Operands {
            left: left.values[first * left.row_stride..].as_ptr(),
            row_stride: left.row_stride,
            step: left.group_stride,
            right: product.panel.as_ptr(),
            depth: product.groups_up_to(first + rows),
            columns: product.columns,
        };
        // SAFETY: `Product::check` has compared rows, groups and columns with the lengths of the slices.
        unsafe { tile_f32::multiply(level_in_use(), rows, operands, &mut sums) };
        for (row, sums) in (first..).zip(&sums[..rows]) {
            let out = &mut out[row * product.out_stride..][..product.columns];
            match product.keep {
                Keep::Nothing => out.copy_from_slice(&sums[..product.columns]),
                Keep::All | Keep::Scaled(_) => {
                    let factor = product.factor(row);
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out = *out * factor + sum;
                    }
                }
            }
        }
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
fn softmax_f32(tile: Softmax<'_, f32>) {
    softmax_any(tile, two_lines);
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2"))]
fn score_gradient_f32(tile: ScoreGradient<'_, f32>) {
    score_gradient_any(tile, |row, to| to.copy_from_slice(row), two_lines);
}

/// Two keys to their lines of a panel.
#[inline(always)]
fn two_lines(rows: [&[f32; LANES]; 2], to: &mut [f32], lane: usize) {
    to[lane * LANES..][..LANES].copy_from_slice(rows[0]);
    to[BLOCK + lane * LANES..][..LANES].copy_from_slice(rows[1]);
}

/// Only where the processor has AVX-512 BF16 (`processor::has_bf16`); elsewhere f32 takes its place.
impl Element for bf16 {
    const GROUP: usize = 2;

    fn from_f32(value: f32) -> Self {
        to_bf16(value)
    }

    fn to_f32(self) -> f32 {
        to_f32(self)
    }

    fn narrow(from: &[f32], to: &mut [Self]) {
        narrow_piece(from, &mut to[..from.len()]);
    }

    fn stored(rows: usize, cols: usize, values: Buffer<Self>) -> Stored {
        Stored::from_bf16(rows, cols, values)
    }

    fn multiply(product: &Product<'_, Self>, out: &mut [f32]) {
        product.check(out);
        avx512::multiply(product, out);
    }

    fn softmax(tile: Softmax<'_, Self>) {
        avx512::softmax(tile);
    }

    fn score_gradient(tile: ScoreGradient<'_, Self>) {
        avx512::score_gradient(tile);
    }

    fn scratch() -> &'static LocalKey<RefCell<Scratch<Self>>> {
        thread_local!(static SCRATCH: RefCell<Scratch<bf16>> = RefCell::default());
        &SCRATCH
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) mod avx512 {
    use super::*;

    pub(super) fn multiply(_product: &Product<'_, bf16>, _out: &mut [f32]) {
        unreachable!("f32 takes the place of bf16 on processors without AVX-512 BF16");
    }

    pub(super) fn softmax(_tile: Softmax<'_, bf16>) {
        unreachable!("f32 takes the place of bf16 on processors without AVX-512 BF16");
    }

    pub(super) fn score_gradient(_tile: ScoreGradient<'_, bf16>) {
        unreachable!("f32 takes the place of bf16 on processors without AVX-512 BF16");
    }
}
