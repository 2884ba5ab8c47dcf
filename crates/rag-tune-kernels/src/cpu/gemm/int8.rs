//! 8-bit products with exact integer sums on `vpdpbusd` (AVX-512 VNNI).
//!
//! The left side is quantised row by row, in groups of [`GROUP`] values of the inner dimension with a scale of their
//! own, so that an outlier costs its neighbours precision and no one else. `vpdpbusd` multiplies unsigned by signed
//! bytes: the weights' codes are taken plus 128, and a group's sum starts from -128 times the sum of its left side.

use rayon::prelude::*;

use super::{Part, Product, Store};
use crate::buffer::Buffer;
use crate::cpu::panels::{PackedWeights, PanelScratch};
use crate::processor::{Level, level_in_use};

/// Values of the inner dimension that share a scale.
pub(crate) const GROUP: usize = 128;

/// Values of the inner dimension a block has: a panel of 64 columns is then 256 KiB.
const BLOCK: usize = 4096;

/// The left side of a product: rows of signed codes, zeros behind a length that is no multiple of 4.
pub(crate) struct Int8Rows {
    rows: usize,
    inner: usize,
    /// `[rows, stride]`
    codes: Buffer<i8>,
    /// `[rows, groups]`: what a code is worth.
    scales: Vec<f32>,
    /// `[rows, groups]`: -128 times the sum of the codes.
    offsets: Vec<i32>,
}

impl Int8Rows {
    /// f32 rows `[rows, inner]`, each column times its scale where scales are given.
    ///
    /// `code = round(x * 127 / absmax)`, `scale = absmax / 127` in each group; ties to even.
    pub(crate) fn new(data: &[f32], rows: usize, inner: usize, scales: Option<&[f32]>) -> Self {
        let mut result = Self::stale(rows, inner);
        let per_task = crate::cpu::rows_per_task(inner);
        let each = result
            .par_rows_mut()
            .zip(data.par_chunks_exact(inner.max(1)));
        each.with_min_len(per_task)
            .for_each(|((codes, group_scales, offsets), data)| {
                quantize_row(data, scales, codes, group_scales, offsets);
            });
        result
    }

    /// Scales of zero, and codes of unspecified content but for zeros behind a row's end.
    pub(super) fn stale(rows: usize, inner: usize) -> Self {
        let stride = inner.next_multiple_of(4);
        let groups = inner.div_ceil(GROUP);
        Self {
            rows,
            inner,
            codes: if stride == inner {
                Buffer::stale(rows * stride)
            } else {
                Buffer::zeros(rows * stride)
            },
            scales: vec![0.0; rows * groups],
            offsets: vec![0; rows * groups],
        }
    }

    /// Codes, scales and offsets of each row.
    pub(super) fn par_rows_mut(
        &mut self,
    ) -> impl IndexedParallelIterator<Item = (&mut [i8], &mut [f32], &mut [i32])> {
        let (stride, groups) = (self.stride().max(1), self.groups().max(1));
        let codes = self.codes.par_chunks_exact_mut(stride);
        let scales = self.scales.par_chunks_exact_mut(groups);
        let offsets = self.offsets.par_chunks_exact_mut(groups);
        let rows = codes.zip(scales).zip(offsets);
        rows.map(|((codes, scales), offsets)| (codes, scales, offsets))
    }

    fn stride(&self) -> usize {
        self.inner.next_multiple_of(4)
    }

    fn groups(&self) -> usize {
        self.inner.div_ceil(GROUP)
    }

    /// The values that the codes stand for, `[rows, inner]`.
    pub(crate) fn dequantized(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.rows * self.inner];
        let rows = values.par_chunks_mut(self.inner.max(1)).enumerate();
        rows.for_each(|(row, values)| {
            let codes = &self.codes[row * self.stride()..][..self.inner];
            let scales = &self.scales[row * self.groups()..][..self.groups()];
            for (at, (value, code)) in values.iter_mut().zip(codes).enumerate() {
                *value = f32::from(*code) * scales[at / GROUP];
            }
        });
        values
    }
}

fn quantize_row(
    data: &[f32],
    column_scales: Option<&[f32]>,
    codes: &mut [i8],
    scales: &mut [f32],
    offsets: &mut [i32],
) {
    let mut scaled = [0.0; GROUP];
    let groups = data
        .chunks(GROUP)
        .zip(codes.chunks_mut(GROUP))
        .zip(scales.iter_mut().zip(offsets));
    for (group, ((data, codes), (scale, offset))) in groups.enumerate() {
        let data = match column_scales {
            None => data,
            Some(column_scales) => {
                let column_scales = &column_scales[group * GROUP..][..data.len()];
                for ((scaled, value), scale) in scaled.iter_mut().zip(data).zip(column_scales) {
                    *scaled = value * scale;
                }
                &scaled[..data.len()]
            }
        };
        (*scale, *offset) = quantize_group(data, codes);
    }
}

/// Codes of up to [`GROUP`] values; returns their scale and offset.
fn quantize_group(data: &[f32], codes: &mut [i8]) -> (f32, i32) {
    #[cfg(target_arch = "x86_64")]
    if level_in_use() >= Level::Avx512 {
        // SAFETY: the level says that the processor has AVX-512.
        return unsafe { quantize_group_avx512(data, codes) };
    }
    let absmax = data.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
    let factor = factor(absmax);
    let mut sum = 0;
    for (code, value) in codes.iter_mut().zip(data) {
        *code = (value * factor).round_ties_even() as i8;
        sum += i32::from(*code);
    }
    // A value that is no number makes the whole group so, as it would in any other precision.
    let finite = data.iter().map(|value| value * 0.0).sum::<f32>();
    (absmax / 127.0 + finite, -128 * sum)
}

/// A group of zeros, or one that is too small to divide by, has no scale: its codes are zeros.
fn factor(absmax: f32) -> f32 {
    if absmax > f32::MIN_POSITIVE * 127.0 {
        127.0 / absmax
    } else {
        0.0
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn quantize_group_avx512(data: &[f32], codes: &mut [i8]) -> (f32, i32) {
    use std::arch::x86_64::{
        _mm_mask_storeu_epi8, _mm512_abs_ps, _mm512_add_epi32, _mm512_add_ps, _mm512_cvtepi32_epi8,
        _mm512_cvtps_epi32, _mm512_maskz_loadu_ps, _mm512_max_ps, _mm512_mul_ps,
        _mm512_reduce_add_epi32, _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_set1_ps,
        _mm512_setzero_ps, _mm512_setzero_si512,
    };
    assert!(
        data.len() <= GROUP && codes.len() >= data.len(),
        "a group's size"
    );
    let mask = |at: usize| {
        let valid = data.len().saturating_sub(16 * at).min(16);
        ((1_u32 << valid) - 1) as u16
    };
    let values: [_; GROUP / 16] = std::array::from_fn(|at| {
        // SAFETY: the mask keeps the access inside `data`; the pointer is not read where it is zero.
        unsafe { _mm512_maskz_loadu_ps(mask(at), data.as_ptr().wrapping_add(16 * at)) }
    });
    let (mut largest, mut finite) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    for value in values {
        largest = _mm512_max_ps(_mm512_abs_ps(value), largest);
        finite = _mm512_add_ps(finite, _mm512_mul_ps(value, _mm512_setzero_ps()));
    }
    let absmax = _mm512_reduce_max_ps(largest);
    let factor = _mm512_set1_ps(factor(absmax));
    let mut sum = _mm512_setzero_si512();
    for (at, value) in values.into_iter().enumerate() {
        // To the nearest, ties to even: the mode that Rust programs run in.
        let code = _mm512_cvtps_epi32(_mm512_mul_ps(value, factor));
        sum = _mm512_add_epi32(sum, code);
        // SAFETY: the mask keeps the access inside `codes`, which is as long as `data`.
        unsafe {
            let codes = codes.as_mut_ptr().wrapping_add(16 * at);
            _mm_mask_storeu_epi8(codes, mask(at), _mm512_cvtepi32_epi8(code));
        }
    }
    let finite = _mm512_reduce_add_ps(finite);
    (absmax / 127.0 + finite, -128 * _mm512_reduce_add_epi32(sum))
}

/// Rows times weights, both 8-bit codes.
pub(crate) struct Int8Product<'a> {
    rows: &'a Int8Rows,
    weights: PackedWeights<'a>,
}

impl<'a> Int8Product<'a> {
    /// # Panics
    /// If the inner dimensions differ.
    pub(crate) fn new(rows: &'a Int8Rows, weights: PackedWeights<'a>) -> Self {
        assert_eq!(rows.inner, weights.inner(), "inner dimensions");
        assert_eq!(rows.codes.len(), rows.rows * rows.stride(), "left side");
        Self { rows, weights }
    }
}

impl Product for Int8Product<'_> {
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
        let (stride, groups) = (self.rows.stride(), self.rows.groups());
        let inner = part.inner.clone();
        let codes = self.weights.quadruples(part.panel, inner.clone(), scratch);
        let quadruples = inner.len().div_ceil(4);
        assert!(codes.len() >= quadruples * 256, "panel");
        let right = codes.as_ptr();
        let tile = |row: usize, count: usize, out: *mut f32| {
            let codes = &self.rows.codes[row * stride + inner.start..];
            let needed = (count - 1) * stride + 4 * quadruples;
            assert!(codes.len() >= needed, "left side");
            let first_group = row * groups + inner.start / GROUP;
            let scales = &self.rows.scales[first_group..];
            let offsets = &self.rows.offsets[first_group..];
            let needed = (count - 1) * groups + inner.len().div_ceil(GROUP);
            assert!(scales.len() >= needed && offsets.len() >= needed, "groups");
            let left = Left {
                codes: codes.as_ptr(),
                stride,
                scales: scales.as_ptr(),
                offsets: offsets.as_ptr(),
                groups,
            };
            // SAFETY: the lengths were just checked, the rows of `out` are this tile's, and `linear` takes this
            // product only where the level says that the processor has AVX-512 VNNI.
            unsafe {
                let (out_stride, store) = (part.out.stride(), part.store);
                super::with_rows!(
                    count,
                    tile::<_>(left, right, quadruples, out, out_stride, store)
                );
            }
        };
        // SAFETY: the caller's promise.
        unsafe { part.tiles(tile) };
    }
}

/// Some rows of the left side from the first value of a block on.
#[derive(Clone, Copy)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "no tile reads it")
)]
struct Left {
    codes: *const i8,
    stride: usize,
    scales: *const f32,
    offsets: *const i32,
    /// From one row's scales and offsets to the next.
    groups: usize,
}

/// # Safety
/// `left` must hold `quadruples` quadruples and their groups in each of `ROWS` rows, `right` that many lines of 64
/// quadruples, `out` be valid for the rows that `store` names, and the processor have AVX-512 VNNI.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn tile<const ROWS: usize>(
    left: Left,
    right: *const i8,
    quadruples: usize,
    out: *mut f32,
    out_stride: usize,
    store: Store<'_>,
) {
    use std::arch::x86_64::{
        _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_si512,
        _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_xor_si512,
    };
    // Codes plus 128, as unsigned bytes.
    let offset = _mm512_set1_epi8(-128);
    let mut values = [[_mm512_setzero_ps(); 4]; ROWS];
    for (group, first) in (0..quadruples).step_by(GROUP / 4).enumerate() {
        // SAFETY: the caller's promise: both sides hold quadruples below `quadruples`, `left` their groups.
        unsafe {
            let mut sums: [_; ROWS] = std::array::from_fn(|row| {
                [_mm512_set1_epi32(*left.offsets.add(row * left.groups + group)); 4]
            });
            for quadruple in first..(first + GROUP / 4).min(quadruples) {
                let weights: [_; 4] = std::array::from_fn(|lane| {
                    let codes = _mm512_loadu_si512(right.add(quadruple * 256 + lane * 64).cast());
                    _mm512_xor_si512(codes, offset)
                });
                for (row, sums) in sums.iter_mut().enumerate() {
                    let codes = left
                        .codes
                        .add(row * left.stride + quadruple * 4)
                        .cast::<i32>()
                        .read_unaligned();
                    let codes = _mm512_set1_epi32(codes);
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = _mm512_dpbusd_epi32(*sum, weights, codes);
                    }
                }
            }
            for (row, (values, sums)) in values.iter_mut().zip(sums).enumerate() {
                let scale = _mm512_set1_ps(*left.scales.add(row * left.groups + group));
                for (value, sum) in values.iter_mut().zip(sums) {
                    *value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, *value);
                }
            }
        }
    }
    // SAFETY: the caller's promise about `out`.
    unsafe { super::store_avx512(&values, out, out_stride, store) };
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn tile<const ROWS: usize>(
    _: Left,
    _: *const i8,
    _: usize,
    _: *mut f32,
    _: usize,
    _: Store<'_>,
) {
    unreachable!("this product is taken on x86-64 only");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::testing::noise;

    /// Whole groups, a part of one, column scales, zeros: codes as the formula says, whichever path made them.
    #[test]
    fn rows_are_quantised_in_groups() {
        for (rows, inner) in [(3, 128), (5, 576), (2, 131), (1, 3), (4, 257)] {
            let mut x = noise(rows, inner, 1);
            x.row_mut(0).fill(0.0);
            let scales = noise(1, inner, 2).into_vec();
            for scales in [None, Some(scales.as_slice())] {
                let quantized = Int8Rows::new(x.data(), rows, inner, scales);
                let dequantized = quantized.dequantized();
                for row in 0..rows {
                    for (group, values) in x.row(row).chunks(GROUP).enumerate() {
                        let value = |at: usize| {
                            values[at] * scales.map_or(1.0, |scales| scales[group * GROUP + at])
                        };
                        let absmax =
                            (0..values.len()).fold(0.0_f32, |max, at| max.max(value(at).abs()));
                        let mut sum = 0;
                        for at in 0..values.len() {
                            let got = dequantized[row * inner + group * GROUP + at];
                            let error = (got - value(at)).abs();
                            assert!(
                                error <= absmax / 127.0 * 0.501,
                                "{rows}x{inner} {row} {group} {at}"
                            );
                            let code =
                                quantized.codes[row * quantized.stride() + group * GROUP + at];
                            sum += i32::from(code);
                        }
                        let offset = quantized.offsets[row * quantized.groups() + group];
                        assert_eq!(offset, -128 * sum);
                    }
                }
            }
        }
    }
}
