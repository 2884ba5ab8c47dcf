//! bf16 products with f32 sums on `vdpbf16ps` (AVX-512 BF16).
//!
//! A tile is 6 rows by 64 columns: 24 registers of sums, 4 of weights, one broadcast pair of the left side.

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::{Product, Store, Target};
use crate::buffer::Buffer;
use crate::cpu::convert::to_bf16;
#[cfg(target_arch = "x86_64")]
use crate::cpu::panels::widen_quadruples;
use crate::cpu::panels::{Codes, Direction, PackedWeights, PanelScratch};

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
        let stride = inner.next_multiple_of(2);
        // An odd row ends in a value that no weight meets, but that must be a number.
        let data_16 = if stride == inner {
            Buffer::stale(rows * stride)
        } else {
            Buffer::zeros(rows * stride)
        };
        let mut result = Self {
            rows,
            inner,
            data: data_16,
        };
        if rows * inner == 0 {
            return result;
        }
        let per_task = crate::cpu::rows_per_task(inner);
        let pieces = result
            .data
            .par_chunks_mut(stride * per_task)
            .zip(data.par_chunks(inner * per_task));
        pieces.for_each(|(to, from)| {
            for (to, from) in to.chunks_exact_mut(stride).zip(from.chunks_exact(inner)) {
                convert_row(from, scales, to);
            }
        });
        result
    }

    fn stride(&self) -> usize {
        self.inner.next_multiple_of(2)
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
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "there are no such instructions")
    )]
    pub(crate) fn new(rows: &'a Bf16Rows, weights: PackedWeights<'a>) -> Self {
        assert_eq!(rows.inner, weights.inner(), "inner dimensions");
        assert_eq!(rows.data.len(), rows.rows * rows.stride(), "left side");
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

    unsafe fn panel(
        &self,
        panel: usize,
        inner: Range<usize>,
        rows: Range<usize>,
        out: Target,
        store: Store<'_>,
        scratch: &mut PanelScratch,
    ) {
        #[cfg(target_arch = "x86_64")]
        {
            let stride = self.rows.stride();
            let pairs = inner.len().div_ceil(2);
            if rows.len() <= super::TILE_ROWS
                && self.weights.direction == Direction::Forward
                && matches!(self.weights.codes, Codes::Int8(_))
            {
                let (first, count) = (inner.start, inner.len());
                let codes = self.weights.quadruples(panel, first, count, scratch);
                assert!(codes.len() >= pairs.div_ceil(2) * 256, "panel");
                let left = &self.rows.data[rows.start * stride + first..];
                assert!(
                    left.len() >= (rows.len() - 1) * stride + 2 * pairs,
                    "left side"
                );
                // SAFETY: as below.
                unsafe {
                    let out_at = out.at(rows.start, store.first_column);
                    let (left, codes) = (left.as_ptr(), codes.as_ptr());
                    super::with_rows!(
                        rows.len(),
                        tile_of_codes::<_>(left, stride, codes, pairs, out_at, out.stride, store)
                    );
                }
                return;
            }
            let weights = self.weights.pairs(panel, inner.start, inner.len(), scratch);
            assert!(weights.len() >= pairs * 128, "panel");
            super::tiles(rows, |row, count| {
                let left = &self.rows.data[row * stride + inner.start..];
                assert!(left.len() >= (count - 1) * stride + 2 * pairs, "left side");
                // SAFETY: the lengths were just checked, the caller vouches for `out`, and `linear` takes this
                // product only where the level says that the processor has AVX-512 BF16.
                unsafe {
                    let out_at = out.at(row, store.first_column);
                    let (left, right) = (left.as_ptr(), weights.as_ptr());
                    super::with_rows!(
                        count,
                        tile::<_>(left, stride, right, pairs, out_at, out.stride, store)
                    );
                }
            });
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (panel, inner, rows, out, store, scratch);
            unreachable!("this product is taken on x86-64 only");
        }
    }
}

/// # Safety
/// `left` must hold `pairs` pairs in each of `ROWS` rows `left_stride` values apart, `right` that many lines of 64
/// pairs, `out` be valid for the rows that `store` names, and the processor have AVX-512 BF16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile<const ROWS: usize>(
    left: *const bf16,
    left_stride: usize,
    mut right: *const bf16,
    pairs: usize,
    out: *mut f32,
    out_stride: usize,
    store: Store<'_>,
) {
    use std::arch::x86_64::{
        __m512bh, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps,
    };
    use std::mem::transmute;
    let mut sums = [[_mm512_setzero_ps(); 4]; ROWS];
    for pair in 0..pairs {
        // SAFETY: the caller's promise: both sides hold pair `pair` in each row.
        unsafe {
            let weights: [__m512bh; 4] = std::array::from_fn(|lane| {
                transmute(_mm512_loadu_si512(right.add(lane * 32).cast()))
            });
            for (row, sums) in sums.iter_mut().enumerate() {
                let values = left
                    .add(row * left_stride + pair * 2)
                    .cast::<i32>()
                    .read_unaligned();
                let values: __m512bh = transmute(_mm512_set1_epi32(values));
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = _mm512_dpbf16_ps(*sum, values, weights);
                }
            }
            right = right.add(128);
        }
    }
    // SAFETY: the caller's promise about `out`.
    unsafe { super::store_avx512(&sums, out, out_stride, store) };
}

/// As [`tile`], with 8-bit codes that are widened in registers: for so few rows that widening a panel into memory first
/// would take longer than the product. The sums are the same in every bit.
///
/// # Safety
/// As [`tile`]; `codes` must hold `pairs.div_ceil(2)` lines of 64 quadruples.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn tile_of_codes<const ROWS: usize>(
    left: *const bf16,
    left_stride: usize,
    codes: *const i8,
    pairs: usize,
    out: *mut f32,
    out_stride: usize,
    store: Store<'_>,
) {
    use std::arch::x86_64::{__m512bh, _mm512_dpbf16_ps, _mm512_set1_epi32, _mm512_setzero_ps};
    use std::mem::transmute;
    let mut sums = [[_mm512_setzero_ps(); 4]; ROWS];
    for quadruple in 0..pairs.div_ceil(2) {
        for lane in 0..4 {
            // SAFETY: the caller's promise: `codes` holds the quadruple.
            let weights = unsafe { widen_quadruples(codes.add(quadruple * 256 + lane * 64)) };
            for (pair, weights) in (2 * quadruple..pairs).zip(weights) {
                for (row, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: the caller's promise: `left` holds pair `pair` in each row.
                    unsafe {
                        let values = left
                            .add(row * left_stride + pair * 2)
                            .cast::<i32>()
                            .read_unaligned();
                        let values: __m512bh = transmute(_mm512_set1_epi32(values));
                        let weights: __m512bh = transmute(weights);
                        sums[lane] = _mm512_dpbf16_ps(sums[lane], values, weights);
                    }
                }
            }
        }
    }
    // SAFETY: the caller's promise about `out`.
    unsafe { super::store_avx512(&sums, out, out_stride, store) };
}
