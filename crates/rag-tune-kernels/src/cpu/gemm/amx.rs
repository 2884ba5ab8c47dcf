//! bf16 products with f32 sums on `tdpbf16ps` (AMX-BF16): 16 rows by 16 columns by 16 pairs an instruction.
//!
//! A tile register holds 16 lines of 64 bytes: 16 rows of 16 pairs of the left side, 16 lines of 16 columns of a panel as it is packed, or
//! 16 rows of 16 sums. Rust has no stable intrinsics for them, so they are written in assembly. Many rows are taken 32 by 32
//! columns, four registers of sums; up to 16 rows with all 64 columns of the panel. Each sum adds the same terms in the same order in both.

use std::arch::asm;
use std::arch::x86_64::{
    _mm512_add_ps, _mm512_loadu_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_storeu_ps,
};
use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;

use super::bf16::Bf16Rows;
use super::{Part, Product, Store};
use crate::cpu::panels::{PANEL, PackedWeights, PanelScratch};

/// Values of the inner dimension a block has: half a panel of them, 32 columns, is 64 KiB.
const BLOCK: usize = 576;

/// Values of the inner dimension that are widened at a time for few rows: 32 KiB, which stay in the L1 cache until they are multiplied.
const PIECE: usize = 256;

/// Lines of a tile register, and pairs or sums in one of them.
const TILE: usize = 16;

/// Rows and columns that four registers of sums have.
const SQUARE: usize = 2 * TILE;

/// Bytes from a line of a panel to the next.
const PANEL_LINE_BYTES: usize = PANEL * 4;

/// Rows times weights, both bf16.
pub(crate) struct AmxProduct<'a> {
    rows: &'a Bf16Rows,
    weights: PackedWeights<'a>,
}

impl<'a> AmxProduct<'a> {
    /// # Panics
    /// If the inner dimensions differ.
    pub(crate) fn new(rows: &'a Bf16Rows, weights: PackedWeights<'a>) -> Self {
        rows.check_inner(weights.inner());
        Self { rows, weights }
    }

    /// Up to 16 rows: weights are widened piece by piece, and the sums stay in registers meanwhile.
    ///
    /// # Safety
    /// As [`Product::multiply`]; the tile registers are this call's.
    unsafe fn few_rows(&self, part: &Part<'_>, rows: Range<usize>, scratch: &mut PanelScratch) {
        let mut sums = Sums::new();
        // SAFETY: `rows` has up to 16; `sums` has as many lines of 64; the left side and the weights are checked by `steps`.
        unsafe {
            configure([rows.len(), rows.len()], [rows.len(), TILE]);
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                 out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _);
            for first in part.inner.clone().step_by(PIECE) {
                let piece = first..(first + PIECE).min(part.inner.end);
                let weights = self.weights.pairs(part.panel, piece.clone(), scratch);
                self.steps(rows.clone(), piece, weights, add_row);
            }
            asm!(
                "tilestored [{out} + {stride}*1], tmm0",
                "tilestored [{out} + {stride}*1 + 64], tmm1",
                "tilestored [{out} + {stride}*1 + 128], tmm2",
                "tilestored [{out} + {stride}*1 + 192], tmm3",
                out = in(reg) sums.line(0),
                stride = in(reg) PANEL_LINE_BYTES,
                options(nostack),
            );
            sums.store(part, rows, 0, PANEL);
        }
    }

    /// 17 to 32 rows by 32 columns from `column` of the panel on.
    ///
    /// # Safety
    /// As [`Self::few_rows`], and the registers must be configured for so many rows.
    unsafe fn square(&self, part: &Part<'_>, rows: Range<usize>, column: usize, weights: &[bf16]) {
        let mut sums = Sums::new();
        // SAFETY: `rows` has 17 to 32; `sums` has as many lines of 64; the left side and the weights are checked by `steps`.
        unsafe {
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                 out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _);
            self.steps(
                rows.clone(),
                part.inner.clone(),
                &weights[column * 2..],
                add_square,
            );
            asm!(
                "tilestored [{out} + {stride}*1], tmm0",
                "tilestored [{out} + {stride}*1 + 64], tmm1",
                "tilestored [{below} + {stride}*1], tmm2",
                "tilestored [{below} + {stride}*1 + 64], tmm3",
                out = in(reg) sums.line(0),
                below = in(reg) sums.line(TILE),
                stride = in(reg) PANEL_LINE_BYTES,
                options(nostack),
            );
            sums.store(part, rows, column, SQUARE);
        }
    }

    /// Adds the products of some rows with `weights`, lines of a panel from its first column or a later one on, to the registers of sums.
    ///
    /// # Safety
    /// `add` must read 16 lines for each [`TILE`] rows, and up to the end of a panel's line less the columns that `weights` leaves out.
    unsafe fn steps(
        &self,
        rows: Range<usize>,
        inner: Range<usize>,
        weights: &[bf16],
        add: unsafe fn(&Step),
    ) {
        let (stride, pairs) = (self.rows.stride(), inner.len().div_ceil(2));
        let left = &self.rows.data()[rows.start * stride + inner.start..];
        assert!(
            left.len() >= (rows.len() - 1) * stride + 2 * pairs,
            "left side"
        );
        let columns_before = (pairs * PANEL * 2).saturating_sub(weights.len());
        assert!(columns_before <= PANEL * 2 - SQUARE * 2, "panel");
        let whole = pairs / TILE;
        if whole > 0 {
            // SAFETY: whole steps end inside the rows and the panel, whose lengths were just checked.
            unsafe {
                add(&Step {
                    left: left.as_ptr(),
                    left_bytes: stride * 2,
                    right: weights.as_ptr(),
                    count: whole,
                });
            }
        }
        let rest = pairs - whole * TILE;
        if rest > 0 {
            let padded = Padded::new(
                &left[whole * SQUARE..],
                (rows.len(), stride),
                &weights[whole * TILE * PANEL * 2..],
                rest,
            );
            // SAFETY: one step of 32 rows and 16 lines.
            unsafe {
                add(&Step {
                    left: padded.left.as_ptr(),
                    left_bytes: SQUARE * 2,
                    right: padded.right.as_ptr(),
                    count: 1,
                });
            }
        }
    }
}

impl Product for AmxProduct<'_> {
    fn rows(&self) -> usize {
        self.rows.rows()
    }

    fn weights(&self) -> &PackedWeights<'_> {
        &self.weights
    }

    fn block(&self) -> usize {
        BLOCK
    }

    fn tile_rows(&self) -> usize {
        SQUARE
    }

    fn prefers_blocks(&self) -> bool {
        true
    }

    unsafe fn multiply(&self, part: &Part<'_>, scratch: &mut PanelScratch) {
        let last = part.rows.len() % SQUARE;
        let squares_end = match last > TILE {
            true => part.rows.end,
            false => part.rows.end - last,
        };
        if squares_end > part.rows.start {
            let weights = self.weights.pairs(part.panel, part.inner.clone(), scratch);
            let mut configured = 0;
            // Half a panel for all rows, then the other: it stays in a nearer cache.
            for column in (0..part.store.columns).step_by(SQUARE) {
                for first in (part.rows.start..squares_end).step_by(SQUARE) {
                    let rows = first..(first + SQUARE).min(squares_end);
                    // SAFETY: the caller's promise; a square has more than 16 rows.
                    unsafe {
                        if rows.len() != configured {
                            configured = rows.len();
                            let below = configured - TILE;
                            configure([TILE, below], [TILE, below]);
                        }
                        self.square(part, rows, column, weights);
                    }
                }
            }
        }
        if squares_end < part.rows.end {
            // SAFETY: the caller's promise; up to 16 rows are left.
            unsafe { self.few_rows(part, squares_end..part.rows.end, scratch) };
        }
        // SAFETY: the level says that the processor has AMX. Registers that hold nothing make switching threads cheaper.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }
}

/// Where a number of steps of 16 pairs begins.
struct Step {
    left: *const bf16,
    /// From a row to the next.
    left_bytes: usize,
    right: *const bf16,
    count: usize,
}

/// Up to 16 rows by 64 columns: sums in registers 0 to 3.
///
/// # Safety
/// Rows and lines must be readable, and the registers be configured for so many rows.
unsafe fn add_row(step: &Step) {
    // SAFETY: the caller's promise. The compiler knows no use for tile registers, so they keep what they hold from here to the next `asm!`.
    unsafe {
        asm!(
            "2:",
            "tileloadd tmm4, [{left} + {left_stride}*1]",
            "tileloadd tmm5, [{right} + {right_stride}*1]",
            "tdpbf16ps tmm0, tmm4, tmm5",
            "tileloadd tmm6, [{right} + {right_stride}*1 + 64]",
            "tdpbf16ps tmm1, tmm4, tmm6",
            "tileloadd tmm7, [{right} + {right_stride}*1 + 128]",
            "tdpbf16ps tmm2, tmm4, tmm7",
            "tileloadd tmm5, [{right} + {right_stride}*1 + 192]",
            "tdpbf16ps tmm3, tmm4, tmm5",
            "add {left}, 64",
            "add {right}, 4096",
            "dec {count}",
            "jnz 2b",
            left = inout(reg) step.left => _,
            right = inout(reg) step.right => _,
            count = inout(reg) step.count => _,
            left_stride = in(reg) step.left_bytes,
            right_stride = in(reg) PANEL_LINE_BYTES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly),
        );
    }
}

/// 17 to 32 rows by 32 columns: sums in registers 0 and 1, of the rows behind 16 in 2 and 3.
///
/// # Safety
/// As [`add_row`].
unsafe fn add_square(step: &Step) {
    let below = step.left.wrapping_byte_add(TILE * step.left_bytes);
    // SAFETY: as in `add_row`.
    unsafe {
        asm!(
            "2:",
            "tileloadd tmm4, [{left} + {left_stride}*1]",
            "tileloadd tmm6, [{right} + {right_stride}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{right} + {right_stride}*1 + 64]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{below} + {left_stride}*1]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {left}, 64",
            "add {below}, 64",
            "add {right}, 4096",
            "dec {count}",
            "jnz 2b",
            left = inout(reg) step.left => _,
            below = inout(reg) below => _,
            right = inout(reg) step.right => _,
            count = inout(reg) step.count => _,
            left_stride = in(reg) step.left_bytes,
            right_stride = in(reg) PANEL_LINE_BYTES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly),
        );
    }
}

/// Says how many lines the registers have, all of 64 bytes: 0 and 1, 2 and 3 (sums), 4, 5; 6 and 7 have 16.
///
/// # Safety
/// The processor must have AMX, and this process leave to use it; no number may be 0 or above 16.
unsafe fn configure([first, second]: [usize; 2], [left, next]: [usize; 2]) {
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start: u8,
        reserved: [u8; 14],
        line_bytes: [u16; 16],
        lines: [u8; 16],
    }
    let mut configuration = Configuration {
        palette: 1,
        start: 0,
        reserved: [0; 14],
        line_bytes: [0; 16],
        lines: [0; 16],
    };
    let lines = [first, first, second, second, left, next, TILE, TILE];
    for (at, lines) in lines.into_iter().enumerate() {
        configuration.line_bytes[at] = 64;
        configuration.lines[at] = lines as u8;
    }
    // SAFETY: the caller's promise.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly)) };
}

/// Rounds of nothing but the instruction, on four registers of sums.
///
/// # Safety
/// The processor must have AMX, and this process leave to use it.
pub(crate) unsafe fn tdpbf16(rounds: usize) {
    // SAFETY: the caller's promise. Configuring sets every register to zero.
    unsafe {
        configure([TILE, TILE], [TILE, TILE]);
        asm!(
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {rounds}",
            "jnz 2b",
            "tilerelease",
            rounds = inout(reg) rounds.max(1) => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, nomem),
        );
    }
}

/// Registers of sums in memory: 32 rows of 64 columns.
#[repr(align(64))]
struct Sums(MaybeUninit<[f32; SQUARE * PANEL]>);

impl Sums {
    fn new() -> Self {
        Self(MaybeUninit::uninit())
    }

    /// Row `row`.
    fn line(&mut self, row: usize) -> *mut f32 {
        self.0.as_mut_ptr().cast::<f32>().wrapping_add(row * PANEL)
    }

    /// The first `columns` columns, to the result's columns from `first` of the panel on.
    ///
    /// # Safety
    /// The part's promise; these columns of as many rows must have been written, and the processor have AVX-512F.
    #[target_feature(enable = "avx512f")]
    unsafe fn store(&mut self, part: &Part<'_>, rows: Range<usize>, first: usize, columns: usize) {
        let store = Store {
            first_column: part.store.first_column + first,
            columns: (part.store.columns - first).min(columns),
            scales: part.store.scales.map(|scales| &scales[first..]),
            accumulate: part.store.accumulate,
        };
        // SAFETY: the caller's promise.
        unsafe {
            match (store.columns == SQUARE, store.accumulate) {
                (true, false) => self.store_square::<false>(part, rows, store),
                (true, true) => self.store_square::<true>(part, rows, store),
                (false, _) => self.store_some(part, rows, store),
            }
        }
    }

    /// 32 columns: so few instructions that the processor begins the next square's products meanwhile.
    ///
    /// # Safety
    /// As [`Self::store`].
    #[target_feature(enable = "avx512f")]
    unsafe fn store_square<const ACCUMULATE: bool>(
        &mut self,
        part: &Part<'_>,
        rows: Range<usize>,
        store: Store<'_>,
    ) {
        let mut scales = [_mm512_set1_ps(1.0); 2];
        if let Some(all) = store.scales {
            let (lanes, _) = all.as_chunks::<TILE>();
            for (scale, lane) in scales.iter_mut().zip(lanes) {
                // SAFETY: a lane has 16 scales.
                *scale = unsafe { _mm512_loadu_ps(lane.as_ptr()) };
            }
        }
        for (index, row) in rows.enumerate() {
            let line = self.line(index);
            // SAFETY: the caller's promise; a line has 64 sums, and the result 32 columns from there on.
            unsafe {
                let out = part.out.at(row, store.first_column);
                for (lane, scale) in scales.into_iter().enumerate() {
                    let mut value = _mm512_mul_ps(_mm512_loadu_ps(line.add(lane * TILE)), scale);
                    if ACCUMULATE {
                        value = _mm512_add_ps(value, _mm512_loadu_ps(out.add(lane * TILE)));
                    }
                    _mm512_storeu_ps(out.add(lane * TILE), value);
                }
            }
        }
    }

    /// Any number of columns.
    ///
    /// # Safety
    /// As [`Self::store`].
    #[target_feature(enable = "avx512f")]
    unsafe fn store_some(&mut self, part: &Part<'_>, rows: Range<usize>, store: Store<'_>) {
        for (index, row) in rows.enumerate() {
            let line = self.line(index);
            let mut sums = [_mm512_setzero_ps(); 4];
            // SAFETY: the caller's promise; a line has 64 sums.
            unsafe {
                let lanes = sums.iter_mut().take(store.columns.div_ceil(TILE));
                for (lane, sums) in lanes.enumerate() {
                    *sums = _mm512_loadu_ps(line.add(lane * TILE));
                }
                let out = part.out.at(row, store.first_column);
                super::store_avx512(&[sums], out, part.out.stride(), store);
            }
        }
    }
}

/// The pairs behind the last whole step, with zeros up to 16.
#[repr(align(64))]
struct Padded {
    /// `[32 rows][16 pairs]`
    left: [bf16; SQUARE * SQUARE],
    /// `[16 lines][64 columns][2]`
    right: [bf16; TILE * PANEL * 2],
}

impl Padded {
    fn new(left: &[bf16], (rows, stride): (usize, usize), right: &[bf16], pairs: usize) -> Self {
        let mut padded = Self {
            left: [bf16::ZERO; SQUARE * SQUARE],
            right: [bf16::ZERO; TILE * PANEL * 2],
        };
        let lines = padded.left.chunks_exact_mut(SQUARE).take(rows);
        for (row, line) in lines.enumerate() {
            line[..2 * pairs].copy_from_slice(&left[row * stride..][..2 * pairs]);
        }
        // A last line may be short of the columns that were left out before the first one.
        let len = right.len().min(pairs * PANEL * 2);
        padded.right[..len].copy_from_slice(&right[..len]);
        padded
    }
}
