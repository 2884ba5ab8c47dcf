//! The tile kernels of bf16 on AVX-512 BF16.

use std::arch::x86_64::{
    __m256i, __m512i, _mm256_storeu_si256, _mm512_cvtne2ps_pbh, _mm512_cvtneps_pbh,
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_permutexvar_epi16, _mm512_set1_ps, _mm512_storeu_si512,
};
use std::mem::transmute;

use half::bf16;

use super::element::{Keep, LANES, Left, Product};
use super::softmax::{ScoreGradient, Softmax, score_gradient_any, softmax_any};
use crate::cpu::gemm::{TILE_ROWS, bf16::sums, with_rows};
use crate::processor::has_bf16;

pub(super) fn multiply(product: &Product<'_, bf16>, out: &mut [f32]) {
    assert!(has_bf16(), "the processor lacks AVX-512 BF16");
    for row in (0..product.rows).step_by(TILE_ROWS) {
        // SAFETY: the processor has AVX-512 BF16; `Product::check` has compared all of the product's rows and
        // columns with the lengths of its slices.
        unsafe {
            with_rows!(
                TILE_ROWS.min(product.rows - row),
                tile::<_>(product, row, out)
            )
        };
    }
}

/// `ROWS` rows of the result from `first_row`.
///
/// # Safety
/// The product must have been checked, and have `ROWS` rows from `first_row`; the processor must have AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile<const ROWS: usize>(product: &Product<'_, bf16>, first_row: usize, out: &mut [f32]) {
    let Left {
        values,
        row_stride,
        group_stride,
    } = product.left;
    // SAFETY: rows below `product.rows` and groups below `product.groups` are inside `left` and `panel`, as checked.
    let sums = unsafe {
        let left = values.as_ptr().add(first_row * row_stride);
        sums::<ROWS>(
            left,
            [row_stride, group_stride],
            product.panel.as_ptr(),
            product.groups_up_to(first_row + ROWS),
        )
    };
    for lane in 0..product.columns.div_ceil(16) {
        let valid = (product.columns - lane * 16).min(16);
        let mask = (0xffff_u32 >> (16 - valid)) as u16;
        for (row, sums) in sums.iter().enumerate() {
            let row = first_row + row;
            // SAFETY: the mask keeps every access below `columns` of a row inside `out`, as checked.
            unsafe {
                let out = out.as_mut_ptr().add(row * product.out_stride + lane * 16);
                let mut value = sums[lane];
                if !matches!(product.keep, Keep::Nothing) {
                    let factor = _mm512_set1_ps(product.factor(row));
                    value = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, out), factor, value);
                }
                _mm512_mask_storeu_ps(out, mask, value);
            }
        }
    }
}

pub(super) fn softmax(tile: Softmax<'_, bf16>) {
    assert!(has_bf16(), "the processor lacks AVX-512 BF16");
    // SAFETY: the processor has what the function is compiled for.
    unsafe { softmax_here(tile) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn softmax_here(tile: Softmax<'_, bf16>) {
    // SAFETY: the features of `interleave` are those of this function.
    softmax_any(tile, |rows, to, lane| unsafe { interleave(rows, to, lane) });
}

pub(super) fn score_gradient(tile: ScoreGradient<'_, bf16>) {
    assert!(has_bf16(), "the processor lacks AVX-512 BF16");
    // SAFETY: the processor has what the function is compiled for.
    unsafe { score_gradient_here(tile) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn score_gradient_here(tile: ScoreGradient<'_, bf16>) {
    score_gradient_any(
        tile,
        // SAFETY: the features of `narrow` are those of this function.
        |row, to| unsafe { narrow(row, to) },
        // SAFETY: the features of `interleave` are those of this function.
        |rows, to, lane| unsafe { interleave(rows, to, lane) },
    );
}

/// Two keys to a line of pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn interleave(rows: [&[f32; LANES]; 2], to: &mut [bf16], lane: usize) {
    const ORDER: [u16; 32] = {
        let mut order = [0; 32];
        let mut at = 0;
        while at < 32 {
            order[at] = (at / 2 + at % 2 * 16) as u16;
            at += 1;
        }
        order
    };
    let to = &mut to[lane * 2 * LANES..][..2 * LANES];
    // SAFETY: the rows have 16 values each, `ORDER` and `to` 32.
    unsafe {
        let (first, second) = (
            _mm512_loadu_ps(rows[0].as_ptr()),
            _mm512_loadu_ps(rows[1].as_ptr()),
        );
        let narrow: __m512i = transmute(_mm512_cvtne2ps_pbh(second, first));
        let order = _mm512_loadu_si512(ORDER.as_ptr().cast());
        let pairs = _mm512_permutexvar_epi16(order, narrow);
        _mm512_storeu_si512(to.as_mut_ptr().cast(), pairs);
    }
}

/// 16 values to bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn narrow(row: &[f32; LANES], to: &mut [bf16]) {
    assert_eq!(to.len(), LANES, "a line of values");
    // SAFETY: `row` and `to` have 16 values each.
    unsafe {
        let narrow: __m256i = transmute(_mm512_cvtneps_pbh(_mm512_loadu_ps(row.as_ptr())));
        _mm256_storeu_si256(to.as_mut_ptr().cast(), narrow);
    }
}
