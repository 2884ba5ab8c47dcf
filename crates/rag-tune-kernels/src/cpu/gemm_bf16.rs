//! bf16 matrix products with f32 accumulation on `vdpbf16ps` (AVX-512 BF16).
//!
//! A tile is 6 rows by 64 columns: 24 accumulators of 16 lanes, 4 registers of weights, one
//! broadcast pair of the left side. The inner dimension is cut into blocks whose panel of weights
//! (widened to bf16 where it is int8) stays in the L2 cache.

use half::bf16;
use rayon::prelude::*;

use crate::buffer::Buffer;

use super::convert::to_bf16;
use super::panels::{Bf16Rows, PANEL, PackedWeights};

/// Pairs of the inner dimension a block has: a panel of 64 columns is then 256 KiB.
const BLOCK_PAIRS: usize = 1024;
/// Rows a tile has.
const TILE_ROWS: usize = 6;
/// Rows a task has at most, a multiple of `TILE_ROWS`. Widening a panel is then a few per cent of the product.
const TASK_ROWS: usize = 768;

/// Whether this processor has what [`multiply`] needs.
pub(crate) fn is_supported() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// f32 rows `[rows, inner]` to bf16, each column times its scale where scales are given.
pub(crate) fn to_bf16_rows(
    data: &[f32],
    rows: usize,
    inner: usize,
    scales: Option<&[f32]>,
) -> Bf16Rows {
    let stride = inner.next_multiple_of(2);
    // An odd row ends in a value that no weight meets, but that must be a number.
    let data_16 = if stride == inner {
        Buffer::stale(rows * stride)
    } else {
        Buffer::zeros(rows * stride)
    };
    let mut result = Bf16Rows {
        rows,
        inner,
        data: data_16,
    };
    if rows * inner == 0 {
        return result;
    }
    let per_task = super::rows_per_task(inner);
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

/// A result shared by tasks that write disjoint parts of it.
struct Target {
    data: *mut f32,
    stride: usize,
}
// SAFETY: the tasks of `multiply` write disjoint (rows x panel) rectangles.
unsafe impl Sync for Target {}

/// What happens to a product before it is stored.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    /// Whether the product is added to what is there.
    pub(crate) accumulate: bool,
    /// One factor per column.
    pub(crate) scales: Option<&'a [f32]>,
}

/// `out (+)= (a weights) * scales`, `out` being `[a.rows, weights.columns()]`.
///
/// # Panics
/// If the shapes do not fit or the processor lacks AVX-512 BF16.
pub(crate) fn multiply(
    out: &mut [f32],
    a: &Bf16Rows,
    weights: &PackedWeights<'_>,
    epilogue: Epilogue<'_>,
) {
    let columns = weights.columns();
    assert!(is_supported(), "the processor lacks AVX-512 BF16");
    assert_eq!(a.inner, weights.inner(), "inner dimensions");
    assert_eq!(out.len(), a.rows * columns, "size of the result");
    assert_eq!(a.data.len(), a.rows * a.stride(), "size of the left side");
    assert!(
        epilogue.scales.is_none_or(|scales| scales.len() == columns),
        "number of scales"
    );
    if out.is_empty() {
        return;
    }
    let panels = columns.div_ceil(PANEL);
    let target = Target {
        data: out.as_mut_ptr(),
        stride: columns,
    };
    let task_rows = rows_per_task(a.rows, panels);
    let row_tasks = a.rows.div_ceil(task_rows);
    (0..panels * row_tasks)
        .into_par_iter()
        .with_max_len(1)
        .for_each_init(Vec::new, |scratch, task| {
            let (panel, rows) = (task % panels, task / panels);
            let rows = rows * task_rows..((rows + 1) * task_rows).min(a.rows);
            multiply_panel(&target, a, weights, epilogue, panel, rows, scratch);
        });
}

/// Rows a task gets, so that all threads have work to the end.
fn rows_per_task(rows: usize, panels: usize) -> usize {
    let wanted_tasks = 6 * rayon::current_num_threads();
    let row_tasks = wanted_tasks.div_ceil(panels).max(rows.div_ceil(TASK_ROWS));
    // Fewer than 96 rows would not pay for widening the panel once more.
    rows.div_ceil(row_tasks).max(96).next_multiple_of(TILE_ROWS)
}

/// One panel of the result, for some rows.
fn multiply_panel(
    target: &Target,
    a: &Bf16Rows,
    weights: &PackedWeights<'_>,
    epilogue: Epilogue<'_>,
    panel: usize,
    rows: std::ops::Range<usize>,
    scratch: &mut Vec<bf16>,
) {
    let pairs = a.stride() / 2;
    let first_column = panel * PANEL;
    let columns = (target.stride - first_column).min(PANEL);
    for first_pair in (0..pairs).step_by(BLOCK_PAIRS) {
        let block_pairs = BLOCK_PAIRS.min(pairs - first_pair);
        let block = weights.panel(panel, first_pair, block_pairs, scratch);
        let mut row = rows.start;
        while row < rows.end {
            let tile_rows = TILE_ROWS.min(rows.end - row);
            let tile = Tile {
                a: &a.data[row * a.stride() + first_pair * 2..],
                a_stride: a.stride(),
                panel: block,
                pairs: block_pairs,
                columns,
                scales: epilogue
                    .scales
                    .map(|scales| &scales[first_column..][..columns]),
                accumulate: epilogue.accumulate || first_pair > 0,
            };
            // SAFETY: rows `row..row + tile_rows` and columns `first_column..+columns` are inside
            // the result and belong to this task alone; the processor has AVX-512 BF16.
            unsafe {
                let out = target.data.add(row * target.stride + first_column);
                tile.multiply(out, target.stride, tile_rows);
            }
            row += tile_rows;
        }
    }
}

/// Up to 6 rows by 64 columns of the result.
struct Tile<'a> {
    a: &'a [bf16],
    a_stride: usize,
    panel: &'a [bf16],
    pairs: usize,
    columns: usize,
    scales: Option<&'a [f32]>,
    accumulate: bool,
}

#[cfg(target_arch = "x86_64")]
impl Tile<'_> {
    /// # Safety
    /// `out` must be valid for `rows` rows of `self.columns` values, `stride` apart, and the
    /// processor must have AVX-512 BF16.
    unsafe fn multiply(&self, out: *mut f32, stride: usize, rows: usize) {
        assert!(self.panel.len() >= self.pairs * PANEL * 2, "panel");
        assert!(
            self.a.len() >= (rows - 1) * self.a_stride + self.pairs * 2,
            "left side"
        );
        // SAFETY: the caller's promise, and the lengths just checked.
        unsafe {
            match rows {
                1 => self.multiply_rows::<1>(out, stride),
                2 => self.multiply_rows::<2>(out, stride),
                3 => self.multiply_rows::<3>(out, stride),
                4 => self.multiply_rows::<4>(out, stride),
                5 => self.multiply_rows::<5>(out, stride),
                _ => self.multiply_rows::<TILE_ROWS>(out, stride),
            }
        }
    }

    /// # Safety
    /// As [`Self::multiply`], with `ROWS` rows and the lengths checked there.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn multiply_rows<const ROWS: usize>(&self, out: *mut f32, stride: usize) {
        use std::arch::x86_64::{
            __m512bh, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps,
        };
        use std::mem::transmute;
        let mut sums = [[_mm512_setzero_ps(); 4]; ROWS];
        let a = self.a.as_ptr();
        let mut panel = self.panel.as_ptr();
        for pair in 0..self.pairs {
            // SAFETY: `pair < pairs`, and both slices hold that many pairs for each row.
            unsafe {
                let weights: [__m512bh; 4] = std::array::from_fn(|lane| {
                    transmute(_mm512_loadu_si512(panel.add(lane * 32).cast()))
                });
                for (row, sums) in sums.iter_mut().enumerate() {
                    let values = a
                        .add(row * self.a_stride + pair * 2)
                        .cast::<i32>()
                        .read_unaligned();
                    let values: __m512bh = transmute(_mm512_set1_epi32(values));
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = _mm512_dpbf16_ps(*sum, values, weights);
                    }
                }
                panel = panel.add(PANEL * 2);
            }
        }
        // SAFETY: the caller's promise about `out`.
        unsafe { self.store(&sums, out, stride) };
    }

    /// # Safety
    /// `out` must be valid for `ROWS` rows of `self.columns` values, `stride` apart.
    #[target_feature(enable = "avx512f")]
    unsafe fn store<const ROWS: usize>(
        &self,
        sums: &[[std::arch::x86_64::__m512; 4]; ROWS],
        out: *mut f32,
        stride: usize,
    ) {
        use std::arch::x86_64::{
            _mm512_add_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps,
        };
        for lane in 0..4 {
            let valid = self.columns.saturating_sub(lane * 16).min(16);
            if valid == 0 {
                return;
            }
            let mask = (0xffff_u32 >> (16 - valid)) as u16;
            // SAFETY: the mask keeps every access below `self.columns`, the length of a row of
            // `out` and of `scales`.
            unsafe {
                let scale = self
                    .scales
                    .map(|scales| _mm512_maskz_loadu_ps(mask, scales.as_ptr().add(lane * 16)));
                for (row, sums) in sums.iter().enumerate() {
                    let out = out.add(row * stride + lane * 16);
                    let mut value = sums[lane];
                    if let Some(scale) = scale {
                        value = _mm512_mul_ps(value, scale);
                    }
                    if self.accumulate {
                        value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, out));
                    }
                    _mm512_mask_storeu_ps(out, mask, value);
                }
            }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Tile<'_> {
    unsafe fn multiply(&self, _out: *mut f32, _stride: usize, _rows: usize) {
        unreachable!("`multiply` refuses processors without AVX-512 BF16");
    }
}
