//! bf16 products with f32 sums on `vdpbf16ps` (AVX-512 BF16).
//!
//! A tile is 6 rows by 64 columns: 24 registers of sums, 4 of weights, one broadcast pair of the left side.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m512, __m512bh, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps,
};
#[cfg(target_arch = "x86_64")]
use std::mem::transmute;

use half::bf16;
use rayon::prelude::*;

use super::{Part, Product, Store, TILE_ROWS};
use crate::buffer::Buffer;
use crate::cpu::convert::{to_bf16, widen_piece};
#[cfg(target_arch = "x86_64")]
use crate::cpu::panels::widen_quadruples;
use crate::cpu::panels::{Codes, Direction, PackedWeights, PanelScratch};
use crate::cpu::target::Target;
use crate::tensor::Tensor;

/// Values of the inner dimension a block has: a panel of 64 columns is then 256 KiB.
const BLOCK: usize = 2048;

/// The left side of a product: rows of bf16 with a zero behind an odd length.
pub(crate) struct Bf16Rows {
    rows: usize,
    inner: usize,
    data: Buffer<bf16>,
}

impl Bf16Rows {
    /// f32 rows `[rows, inner]`, each column times its scale where scales are given.
    pub(crate) fn new(data: &[f32], rows: usize, inner: usize, scales: Option<&[f32]>) -> Self {
        Self::from_rows(rows, inner, |row, to| {
            convert_row(&data[row * inner..][..inner], scales, to);
        })
    }

    /// Values that are bf16 already, `[rows, inner]`.
    pub(crate) fn from_bf16(data: &[bf16], rows: usize, inner: usize) -> Self {
        Self::from_rows(rows, inner, |row, to| {
            to.copy_from_slice(&data[row * inner..][..inner]);
        })
    }

    /// Rows that `write` writes, on many threads.
    pub(crate) fn from_rows(
        rows: usize,
        inner: usize,
        write: impl Fn(usize, &mut [bf16]) + Sync,
    ) -> Self {
        let mut result = Self::stale(rows, inner);
        if rows * inner == 0 {
            return result;
        }
        let stride = result.stride();
        let per_task = crate::cpu::rows_per_task(inner);
        let pieces = result.data.par_chunks_mut(stride * per_task).enumerate();
        pieces.for_each(|(piece, to)| {
            for (row, to) in to.chunks_exact_mut(stride).enumerate() {
                write(piece * per_task + row, &mut to[..inner]);
            }
        });
        result
    }

    /// Rows that are about to be written through [`Self::target`].
    pub(crate) fn stale(rows: usize, inner: usize) -> Self {
        let len = rows * row_stride(inner);
        // An odd row ends in a value that no weight meets, but that must be a number.
        let data = match inner.is_multiple_of(2) {
            true => Buffer::stale(len),
            false => Buffer::zeros(len),
        };
        Self { rows, inner, data }
    }

    /// All rows, for tasks to write.
    pub(crate) fn target(&mut self) -> Target<'_, bf16> {
        let stride = self.stride();
        Target::new(&mut self.data, stride)
    }

    /// The values as f32, `[rows, inner]`.
    pub(crate) fn widened(&self) -> Tensor {
        let mut tensor = Tensor::stale(self.rows, self.inner);
        let rows = self.data.chunks_exact(self.stride().max(1));
        let to = tensor.data_mut().chunks_exact_mut(self.inner.max(1));
        for (to, row) in to.zip(rows) {
            widen_piece(&row[..self.inner], to);
        }
        tensor
    }

    /// `[rows, inner]`
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.rows, self.inner]
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Values from a row to the next.
    pub(super) fn stride(&self) -> usize {
        row_stride(self.inner)
    }

    /// `[rows, stride]`
    pub(super) fn data(&self) -> &[bf16] {
        &self.data
    }

    /// # Panics
    /// If the rows are not `inner` long.
    pub(super) fn check_inner(&self, inner: usize) {
        assert_eq!(self.inner, inner, "inner dimensions");
        assert_eq!(self.data.len(), self.rows * self.stride(), "left side");
    }
}

/// Values from a row of `inner` to the next. Rows a power of two apart would share a few sets of every cache: some values lie between them.
fn row_stride(inner: usize) -> usize {
    match inner.next_multiple_of(2) {
        stride if stride.is_multiple_of(512) => stride + 32,
        stride => stride,
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
fn convert_row(from: &[f32], scales: Option<&[f32]>, to: &mut [bf16]) {
    match scales {
        Some(scales) => {
            for ((to, from), scale) in to.iter_mut().zip(from).zip(scales) {
                *to = to_bf16(from * scale);
            }
        }
        None => {
            for (to, from) in to.iter_mut().zip(from) {
                *to = to_bf16(*from);
            }
        }
    }
}

/// Rows times weights, both bf16.
pub(crate) struct Bf16Product<'a> {
    rows: &'a Bf16Rows,
    weights: PackedWeights<'a>,
}

impl<'a> Bf16Product<'a> {
    /// # Panics
    /// If the inner dimensions differ.
    pub(crate) fn new(rows: &'a Bf16Rows, weights: PackedWeights<'a>) -> Self {
        rows.check_inner(weights.inner());
        Self { rows, weights }
    }
}

impl Product for Bf16Product<'_> {
    fn rows(&self) -> usize {
        self.rows.rows
    }

    fn weights(&self) -> &PackedWeights<'_> {
        &self.weights
    }

    fn block(&self) -> usize {
        BLOCK
    }

    unsafe fn multiply(&self, part: &Part<'_>, scratch: &mut PanelScratch) {
        let (stride, inner) = (self.rows.stride(), part.inner.clone());
        let pairs = inner.len().div_ceil(2);
        // For so few rows, widening a panel into memory first would take longer than the product.
        let right = match (self.weights.codes, self.weights.direction) {
            (Codes::Int8(_), Direction::Forward) if part.rows.len() <= TILE_ROWS => {
                let codes = self.weights.quadruples(part.panel, inner.clone(), scratch);
                assert!(codes.len() >= pairs.div_ceil(2) * 256, "panel");
                Right::Codes(codes.as_ptr())
            }
            _ => {
                let weights = self.weights.pairs(part.panel, inner.clone(), scratch);
                assert!(weights.len() >= pairs * 128, "panel");
                Right::Pairs(weights.as_ptr())
            }
        };
        let tile = |row: usize, count: usize, out: *mut f32| {
            let left = &self.rows.data[row * stride + inner.start..];
            assert!(left.len() >= (count - 1) * stride + 2 * pairs, "left side");
            let left = left.as_ptr();
            // SAFETY: the lengths were just checked, the rows of `out` are this tile's, and `linear` takes this
            // product only where the level says that the processor has AVX-512 BF16.
            unsafe {
                let (out_stride, store) = (part.out.stride(), part.store);
                super::with_rows!(
                    count,
                    tile::<_>(left, stride, right, pairs, out, out_stride, store)
                );
            }
        };
        // SAFETY: the caller's promise.
        unsafe { part.tiles(tile) };
    }
}

/// A panel of weights.
#[derive(Clone, Copy)]
enum Right {
    /// Lines of 64 pairs.
    Pairs(*const bf16),
    /// Lines of 64 quadruples, to be widened in registers.
    Codes(*const i8),
}

/// # Safety
/// `left` must hold `pairs` pairs in each of `ROWS` rows `left_stride` values apart, `right` that many pairs of each column,
/// `out` be valid for the rows that `store` names, and the processor have AVX-512 BF16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
unsafe fn tile<const ROWS: usize>(
    left: *const bf16,
    left_stride: usize,
    right: Right,
    pairs: usize,
    out: *mut f32,
    out_stride: usize,
    store: Store<'_>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let sums = match right {
            Right::Pairs(right) => sums::<ROWS>(left, [left_stride, 2], right, pairs),
            Right::Codes(codes) => sums_of_codes::<ROWS>(left, left_stride, codes, pairs),
        };
        super::store_avx512(&sums, out, out_stride, store);
    }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn tile<const ROWS: usize>(
    _: *const bf16,
    _: usize,
    _: Right,
    _: usize,
    _: *mut f32,
    _: usize,
    _: Store<'_>,
) {
    unreachable!("this product is taken on x86-64 only");
}

/// Sums of `pairs` pairs for `ROWS` rows by 64 columns; a row's pairs are `step` values apart, rows `row_stride`.
///
/// # Safety
/// `left` must hold the pairs of each row, `right` as many lines of 64, and the processor have AVX-512 BF16.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) unsafe fn sums<const ROWS: usize>(
    left: *const bf16,
    [row_stride, step]: [usize; 2],
    mut right: *const bf16,
    pairs: usize,
) -> [[__m512; 4]; ROWS] {
    let mut sums = [[_mm512_setzero_ps(); 4]; ROWS];
    for pair in 0..pairs {
        // SAFETY: the caller's promise: both sides hold pair `pair` in each row.
        unsafe {
            let weights: [__m512bh; 4] = std::array::from_fn(|lane| {
                transmute(_mm512_loadu_si512(right.add(lane * 32).cast()))
            });
            for (row, sums) in sums.iter_mut().enumerate() {
                let values = broadcast(left.add(row * row_stride + pair * step));
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = _mm512_dpbf16_ps(*sum, values, weights);
                }
            }
            right = right.add(128);
        }
    }
    sums
}

/// As [`sums`], the same in every bit, with 8-bit codes that are widened in registers.
///
/// # Safety
/// As [`sums`]; `codes` must hold `pairs.div_ceil(2)` lines of 64 quadruples.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
unsafe fn sums_of_codes<const ROWS: usize>(
    left: *const bf16,
    left_stride: usize,
    codes: *const i8,
    pairs: usize,
) -> [[__m512; 4]; ROWS] {
    let mut sums = [[_mm512_setzero_ps(); 4]; ROWS];
    // SAFETY: the caller's promise: both sides hold these pairs.
    let mut add = |quadruple: usize, count: usize| unsafe {
        for lane in 0..4 {
            let weights = widen_quadruples(codes.add(quadruple * 256 + lane * 64));
            for (pair, weights) in weights.into_iter().enumerate().take(count) {
                let weights: __m512bh = transmute(weights);
                for (row, sums) in sums.iter_mut().enumerate() {
                    let at = row * left_stride + quadruple * 4 + pair * 2;
                    sums[lane] = _mm512_dpbf16_ps(sums[lane], broadcast(left.add(at)), weights);
                }
            }
        }
    };
    (0..pairs / 2).for_each(|quadruple| add(quadruple, 2));
    if pairs % 2 == 1 {
        add(pairs / 2, 1);
    }
    sums
}

/// A pair in every lane.
///
/// # Safety
/// Two values must be readable there; the processor must have AVX-512F.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn broadcast(pair: *const bf16) -> __m512bh {
    // SAFETY: the caller's promise; both types are 64 bytes without meaning of their own.
    unsafe { transmute(_mm512_set1_epi32(pair.cast::<i32>().read_unaligned())) }
}
