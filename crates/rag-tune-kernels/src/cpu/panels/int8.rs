//! 8-bit codes in quadruples: regrouped for the backward product, and widened to what a product eats.
//!
//! Every function has one body in plain Rust, and one in AVX-512 that does the same with shuffles.

use half::bf16;

use super::{PANEL, QUADRUPLE};
use crate::processor::{Level, level_in_use};

/// One quadruple of the inner dimension for all columns of a panel: `[64][4]`.
const LINE: usize = PANEL * QUADRUPLE;

fn has_avx512() -> bool {
    level_in_use() >= Level::Avx512
}

/// Writes panel `panel` of the backward product from output `first` on, `[outs / 4][64 in][4 out]`, `to` saying how many.
///
/// `first` must be a multiple of 64.
pub(super) fn regroup(codes: &[i8], in_features: usize, panel: usize, first: usize, to: &mut [i8]) {
    assert_eq!(first % PANEL, 0);
    let row_quadruples = in_features.div_ceil(QUADRUPLE);
    let first_quadruple = panel * PANEL / QUADRUPLE;
    // Inputs behind the last one are columns that the product does not store.
    let quadruples = (row_quadruples - first_quadruple).min(PANEL / QUADRUPLE);
    for (block, to) in to.chunks_mut(PANEL * PANEL).enumerate() {
        let out_panel = first / PANEL + block;
        let start = (out_panel * row_quadruples + first_quadruple) * LINE;
        let codes = &codes[start..start + quadruples * LINE];
        for (quadruple, codes) in codes.chunks_exact(LINE).enumerate() {
            transpose(codes, quadruple, to);
        }
    }
}

/// `[64 out][4 in]` to places `[out / 4][4 * quadruple..][4 out]` of a regrouped block.
fn transpose(codes: &[i8], quadruple: usize, to: &mut [i8]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx512() {
        // SAFETY: the level says that the processor has AVX-512.
        unsafe { transpose_avx512(codes, quadruple, to) };
        return;
    }
    let lines = codes.chunks_exact(16).zip(to.chunks_exact_mut(LINE));
    for (from, line) in lines {
        let to = &mut line[quadruple * 16..][..16];
        for (at, to) in to.iter_mut().enumerate() {
            *to = from[at % 4 * 4 + at / 4];
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn transpose_avx512(codes: &[i8], quadruple: usize, to: &mut [i8]) {
    use std::arch::x86_64::{_mm_loadu_si128, _mm_setr_epi8, _mm_shuffle_epi8, _mm_storeu_si128};
    let order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let lines = codes.chunks_exact(16).zip(to.chunks_exact_mut(LINE));
    for (from, line) in lines {
        let to = &mut line[quadruple * 16..][..16];
        // SAFETY: both slices have 16 bytes.
        unsafe {
            let codes = _mm_shuffle_epi8(_mm_loadu_si128(from.as_ptr().cast()), order);
            _mm_storeu_si128(to.as_mut_ptr().cast(), codes);
        }
    }
}

/// `[n][64][4]` codes to `[2 n][64][2]` bf16; exact, because 8 significant bits fit.
pub(super) fn widen_to_pairs(codes: &[i8], to: &mut [bf16]) {
    assert_eq!(codes.len(), to.len());
    assert_eq!(codes.len() % LINE, 0);
    #[cfg(target_arch = "x86_64")]
    if level_in_use() >= Level::Avx512Bf16 {
        // SAFETY: the level says that the processor has what it needs; the lengths were just checked.
        unsafe { widen_to_pairs_avx512(codes, to) };
        return;
    }
    let lines = codes.chunks_exact(LINE).zip(to.chunks_exact_mut(LINE));
    for (codes, to) in lines {
        let (first, second) = to.split_at_mut(LINE / 2);
        for (lane, codes) in codes.chunks_exact(QUADRUPLE).enumerate() {
            for (at, code) in codes.iter().enumerate() {
                // The low half of the f32 is zero: cutting it off is exact.
                let value = bf16::from_bits((f32::from(*code).to_bits() >> 16) as u16);
                match at {
                    0 | 1 => first[lane * 2 + at] = value,
                    _ => second[lane * 2 + at - 2] = value,
                }
            }
        }
    }
}

/// # Safety
/// The processor must have [`Level::Avx512Bf16`], and `to` be as long as `codes`, a multiple of `LINE`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn widen_to_pairs_avx512(codes: &[i8], to: &mut [bf16]) {
    use std::arch::x86_64::_mm512_storeu_si512;
    for line in (0..codes.len()).step_by(LINE) {
        for part in 0..4 {
            // SAFETY: 16 columns of 4 codes at `line + 64 * part`; 32 values each at their places of both lines of `to`.
            unsafe {
                let [first, second] = widen_quadruples(codes.as_ptr().add(line + part * 64));
                let to = to.as_mut_ptr().add(line + part * 32);
                _mm512_storeu_si512(to.cast(), first);
                _mm512_storeu_si512(to.add(LINE / 2).cast(), second);
            }
        }
    }
}

/// 16 columns of quadruples to 16 columns of their first and of their second pair, bf16.
///
/// Both bytes of a code's bf16 are looked up by its magnitude, which is 127 at most: half the instructions of a conversion
/// by way of i32 and f32.
///
/// # Safety
/// 64 codes must be readable at `codes`, and the processor have [`Level::Avx512Bf16`].
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(crate) unsafe fn widen_quadruples(codes: *const i8) -> [std::arch::x86_64::__m512i; 2] {
    use std::arch::x86_64::{
        _mm512_abs_epi8, _mm512_loadu_si512, _mm512_permutex2var_epi8, _mm512_set1_epi8,
        _mm512_ternarylogic_epi32,
    };
    /// `a | (b & c)`
    const OR_AND: i32 = 0b1111_1000;
    // SAFETY: the tables have 128 and 64 bytes, and the caller vouches for the codes.
    unsafe {
        let load = |bytes: *const u8| _mm512_loadu_si512(bytes.cast());
        let both = |table: &'static [u8; 128]| (load(table.as_ptr()), load(table[64..].as_ptr()));
        let (low, high) = (both(&LOW_BYTES), both(&HIGH_BYTES));
        let codes = load(codes.cast());
        let magnitude = _mm512_abs_epi8(codes);
        let low = _mm512_permutex2var_epi8(low.0, magnitude, low.1);
        let high = _mm512_permutex2var_epi8(high.0, magnitude, high.1);
        let high = _mm512_ternarylogic_epi32::<OR_AND>(high, codes, _mm512_set1_epi8(i8::MIN));
        [&FIRST_PAIR, &SECOND_PAIR]
            .map(|order| _mm512_permutex2var_epi8(low, load(order.as_ptr()), high))
    }
}

/// The low and the high bytes of 0 to 127 as bf16.
const LOW_BYTES: [u8; 128] = bf16_bytes(0);
const HIGH_BYTES: [u8; 128] = bf16_bytes(1);

const fn bf16_bytes(byte: usize) -> [u8; 128] {
    let mut bytes = [0; 128];
    let mut value = 0;
    while value < 128 {
        bytes[value] = (value as f32).to_bits().to_le_bytes()[2 + byte];
        value += 1;
    }
    bytes
}

/// Where the bytes of 16 columns' pairs are: 64 low bytes of quadruples, then as many high ones.
const FIRST_PAIR: [u8; 64] = pair_of_quadruple(0);
const SECOND_PAIR: [u8; 64] = pair_of_quadruple(2);

const fn pair_of_quadruple(first: usize) -> [u8; 64] {
    let mut order = [0; 64];
    let mut at = 0;
    while at < 64 {
        order[at] = (at / 4 * 4 + first + at % 4 / 2 + at % 2 * 64) as u8;
        at += 1;
    }
    order
}

/// `[n][64][4]` codes to `[4 n][64]` f32.
pub(super) fn widen_to_lines(codes: &[i8], to: &mut [f32]) {
    assert_eq!(codes.len(), to.len());
    assert_eq!(codes.len() % LINE, 0);
    #[cfg(target_arch = "x86_64")]
    if has_avx512() {
        // SAFETY: the level says that the processor has AVX-512; the lengths were just checked.
        unsafe { widen_to_lines_avx512(codes, to) };
        return;
    }
    let lines = codes.chunks_exact(LINE).zip(to.chunks_exact_mut(LINE));
    for (codes, to) in lines {
        for (at, to) in to.chunks_exact_mut(PANEL).enumerate() {
            for (to, codes) in to.iter_mut().zip(codes.chunks_exact(QUADRUPLE)) {
                *to = f32::from(codes[at]);
            }
        }
    }
}

/// # Safety
/// The processor must have [`Level::Avx512`], and `to` be as long as `codes`, a multiple of `LINE`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn widen_to_lines_avx512(codes: &[i8], to: &mut [f32]) {
    use std::arch::x86_64::{
        _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_extracti32x4_epi32, _mm512_loadu_si512,
        _mm512_permutexvar_epi32, _mm512_set4_epi32, _mm512_setr_epi32, _mm512_shuffle_epi8,
        _mm512_storeu_ps,
    };
    // Within four columns: the first values, the second ones, ...
    let within = _mm512_set4_epi32(0x0f0b_0703, 0x0e0a_0602, 0x0d09_0501, 0x0c08_0400);
    // The first values of all 16 columns, the second ones, ...
    let across = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for line in (0..codes.len()).step_by(LINE) {
        for part in 0..4 {
            // SAFETY: 64 codes at `line + 64 * part`; 16 values at their place of each of the four lines of `to`.
            unsafe {
                let codes = _mm512_loadu_si512(codes.as_ptr().add(line + part * 64).cast());
                let codes = _mm512_permutexvar_epi32(across, _mm512_shuffle_epi8(codes, within));
                let to = to.as_mut_ptr().add(line + part * 16);
                let store = |at: usize, codes| {
                    let values = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
                    _mm512_storeu_ps(to.add(at * PANEL), values);
                };
                store(0, _mm512_extracti32x4_epi32::<0>(codes));
                store(1, _mm512_extracti32x4_epi32::<1>(codes));
                store(2, _mm512_extracti32x4_epi32::<2>(codes));
                store(3, _mm512_extracti32x4_epi32::<3>(codes));
            }
        }
    }
}
