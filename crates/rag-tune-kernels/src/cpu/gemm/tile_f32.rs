//! The register tile of f32 products: up to 6 rows by 64 columns, in AVX-512, in AVX2, and in plain Rust.
//!
//! Each sum runs along the inner dimension in one order on every level; only the portable one rounds twice where the
//! others fuse.

use super::TILE_ROWS;
use crate::cpu::panels::PANEL;
use crate::processor::Level;

/// Sums of a tile.
pub(crate) type Sums = [[f32; PANEL]; TILE_ROWS];

/// What a tile multiplies.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    /// Rows by the inner dimension.
    pub(crate) left: *const f32,
    /// From a row of the left side to the next.
    pub(crate) row_stride: usize,
    /// From a value of the inner dimension to the next.
    pub(crate) step: usize,
    /// `[depth][64]`
    pub(crate) right: *const f32,
    /// Length of the inner dimension.
    pub(crate) depth: usize,
    /// Columns that are wanted; the others' sums are unspecified.
    pub(crate) columns: usize,
}

/// `sums[row][column] = sum of left[row, at] * right[at, column]` for `rows` rows.
///
/// # Safety
/// `operands.left` must be readable at every row and place of the inner dimension, `right` hold `depth` lines, and the
/// processor have `level`.
pub(crate) unsafe fn multiply(level: Level, rows: usize, operands: Operands, sums: &mut Sums) {
    assert!(
        rows <= TILE_ROWS && operands.columns <= PANEL,
        "a tile's size"
    );
    // SAFETY: the caller's promise.
    unsafe {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 | Level::Amx => {
                super::with_rows!(rows, avx512::<_>(operands, sums))
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => super::with_rows!(rows, avx2::<_>(operands, sums)),
            _ => super::with_rows!(rows, portable::<_>(operands, sums)),
        }
    }
}

/// # Safety
/// As [`multiply`], for `ROWS` rows; the processor must have AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const ROWS: usize>(operands: Operands, sums: &mut Sums) {
    use std::arch::x86_64::{
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    let Operands {
        left,
        row_stride,
        step,
        right,
        depth,
        ..
    } = operands;
    let mut registers = [[_mm512_setzero_ps(); 4]; ROWS];
    for at in 0..depth {
        // SAFETY: the caller's promise: both sides hold `at`.
        unsafe {
            let line = right.add(at * PANEL);
            let weights = [
                _mm512_loadu_ps(line),
                _mm512_loadu_ps(line.add(16)),
                _mm512_loadu_ps(line.add(32)),
                _mm512_loadu_ps(line.add(48)),
            ];
            for (row, registers) in registers.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*left.add(row * row_stride + at * step));
                for (register, weights) in registers.iter_mut().zip(weights) {
                    *register = _mm512_fmadd_ps(value, weights, *register);
                }
            }
        }
    }
    for (sums, registers) in sums.iter_mut().zip(registers) {
        for (lane, register) in registers.into_iter().enumerate() {
            // SAFETY: 16 of a row's 64 sums.
            unsafe { _mm512_storeu_ps(sums.as_mut_ptr().add(lane * 16), register) };
        }
    }
}

/// 16 columns at a time: 12 registers of sums, 2 of weights, one of the left side.
///
/// # Safety
/// As [`multiply`], for `ROWS` rows; the processor must have AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const ROWS: usize>(operands: Operands, sums: &mut Sums) {
    use std::arch::x86_64::{
        _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };
    let Operands {
        left,
        row_stride,
        step,
        right,
        depth,
        columns,
    } = operands;
    for column in (0..columns).step_by(16) {
        let mut registers = [[_mm256_setzero_ps(); 2]; ROWS];
        for at in 0..depth {
            // SAFETY: the caller's promise: both sides hold `at`, lines have 64 columns.
            unsafe {
                let line = right.add(at * PANEL + column);
                let weights = [_mm256_loadu_ps(line), _mm256_loadu_ps(line.add(8))];
                for (row, registers) in registers.iter_mut().enumerate() {
                    let value = _mm256_set1_ps(*left.add(row * row_stride + at * step));
                    for (register, weights) in registers.iter_mut().zip(weights) {
                        *register = _mm256_fmadd_ps(value, weights, *register);
                    }
                }
            }
        }
        for (sums, registers) in sums.iter_mut().zip(registers) {
            for (lane, register) in registers.into_iter().enumerate() {
                // SAFETY: 8 of a row's 64 sums.
                unsafe { _mm256_storeu_ps(sums.as_mut_ptr().add(column + lane * 8), register) };
            }
        }
    }
}

/// In arrays that the compiler keeps in whatever registers there are.
///
/// # Safety
/// As [`multiply`], for `ROWS` rows, on any processor.
unsafe fn portable<const ROWS: usize>(operands: Operands, sums: &mut Sums) {
    /// Columns whose sums fit the registers of SSE2 and NEON beside the weights.
    const COLUMNS: usize = 8;
    let Operands {
        left,
        row_stride,
        step,
        right,
        depth,
        columns,
    } = operands;
    for column in (0..columns).step_by(COLUMNS) {
        let mut registers = [[0.0; COLUMNS]; ROWS];
        for at in 0..depth {
            // SAFETY: the caller's promise: both sides hold `at`, lines have 64 columns.
            unsafe {
                let weights = right.add(at * PANEL + column).cast::<[f32; COLUMNS]>();
                let weights = weights.read_unaligned();
                for (row, registers) in registers.iter_mut().enumerate() {
                    let value = *left.add(row * row_stride + at * step);
                    for (register, weight) in registers.iter_mut().zip(weights) {
                        *register += value * weight;
                    }
                }
            }
        }
        for (sums, registers) in sums.iter_mut().zip(registers) {
            sums[column..column + COLUMNS].copy_from_slice(&registers);
        }
    }
}
