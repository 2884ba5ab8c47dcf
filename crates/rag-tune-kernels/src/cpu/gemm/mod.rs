//! Products with frozen weights: `out (+)= (rows weights) * scales`.
//!
//! A task is a panel of 64 columns, or a few, for some rows. It takes the inner dimension in blocks whose panel stays in the L2
//! cache, and within a block goes down the rows in register tiles. Sums run along the inner dimension in one order,
//! whatever the number of rows, tasks and threads: a row alone gives the same bits as the row in a batch.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::panels::{PANEL, PackedWeights, PanelScratch};
use super::target::Target;
use crate::aligned::Aligned;
use crate::cpu::bias::add_row;

#[cfg(target_arch = "x86_64")]
pub(super) mod amx;
pub(crate) mod bf16;
mod f32;
mod int8;
pub(crate) mod tile_f32;
mod vector_wise;

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::AmxProduct;
pub(crate) use bf16::{Bf16Product, Bf16Rows};
pub(crate) use f32::{F32Product, round_rows};
pub(crate) use int8::{Int8Product, Int8Rows};
pub(crate) use vector_wise::VectorWiseRows;

/// Rows a tile has at most: 6 rows by 64 columns are 24 registers of sums, which leaves no load unhidden.
pub(crate) const TILE_ROWS: usize = 6;
/// Rows a task has at most, a multiple of every [`Product::tile_rows`]. Widening a panel is then a few per cent of the product.
const TASK_ROWS: usize = 768;
/// Rows a task should have at least, where there are so many.
const LEAST_TASK_ROWS: usize = 96;

/// Rows of a block at most, and panels of all its products together: their sums take 768 KiB.
const BLOCK_ROWS: usize = 768;
const BLOCK_PANELS: usize = 4;

/// A thread's memory, kept from product to product: a task lasts no longer than clearing it anew would.
#[derive(Default)]
struct Scratch {
    panel: PanelScratch,
    blocks: Aligned<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What happens to a product before it is stored.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    /// Whether the product is added to what is there.
    pub(crate) accumulate: bool,
    /// One factor per column.
    pub(crate) scales: Option<&'a [f32]>,
}

/// One precision's way to multiply rows by a panel.
pub(crate) trait Product: Sync {
    /// The left side's rows.
    fn rows(&self) -> usize;

    /// The right side.
    fn weights(&self) -> &PackedWeights<'_>;

    /// Values of the inner dimension a block has, a multiple of 64.
    fn block(&self) -> usize;

    /// Rows that are multiplied at a time.
    fn tile_rows(&self) -> usize {
        TILE_ROWS
    }

    /// Whether it is so quick that storing sums row by row takes longer: they go to the cache first ([`multiply_blocks`]).
    fn prefers_blocks(&self) -> bool {
        false
    }

    /// Multiplies the rows by one block of a panel, tile by tile ([`Part::tiles`]).
    ///
    /// # Safety
    /// The part's rows and columns must be inside the result, and belong to this part alone.
    unsafe fn multiply(&self, part: &Part<'_>, scratch: &mut PanelScratch);
}

/// One block of a panel for some rows.
pub(crate) struct Part<'a> {
    panel: usize,
    /// Values of the inner dimension.
    inner: Range<usize>,
    rows: Range<usize>,
    out: &'a Target<'a, f32>,
    store: Store<'a>,
}

impl Part<'_> {
    /// Calls `tile` for each tile with its first row, the number of its rows, and where its result goes.
    ///
    /// # Safety
    /// The part's rows and columns must be inside the result, and belong to this part alone.
    unsafe fn tiles(&self, mut tile: impl FnMut(usize, usize, *mut f32)) {
        for row in self.rows.clone().step_by(TILE_ROWS) {
            let count = TILE_ROWS.min(self.rows.end - row);
            // SAFETY: the caller's promise.
            let out = unsafe { self.out.at(row, self.store.first_column) };
            tile(row, count, out);
        }
    }
}

/// How a tile is stored.
#[derive(Clone, Copy)]
pub(crate) struct Store<'a> {
    first_column: usize,
    /// Up to [`PANEL`].
    columns: usize,
    /// `[columns]`
    scales: Option<&'a [f32]>,
    accumulate: bool,
}

/// `out (+)= product`, `out` being `[rows, columns]`.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn multiply(out: &mut [f32], product: &dyn Product, epilogue: Epilogue<'_>) {
    let (rows, columns) = (product.rows(), product.weights().columns());
    assert_eq!(out.len(), rows * columns, "size of the result");
    let target = Target::new(out, columns);
    if product.prefers_blocks() {
        return multiply_blocks([product], [epilogue.scales], |blocks| {
            let Blocks {
                rows,
                columns,
                values: [values],
            } = blocks;
            for (row, values) in rows.zip(values.chunks_exact(columns.len())) {
                // SAFETY: this block is this task's alone.
                let out = unsafe { target.part(row, columns.start, columns.len()) };
                match epilogue.accumulate {
                    true => add_row(out, values),
                    false => out.copy_from_slice(values),
                }
            }
        });
    }
    if rows * columns == 0 {
        return;
    }
    Split::new(product, TASK_ROWS, 1).for_each(|task| {
        SCRATCH.with_borrow_mut(|scratch| {
            run_task(product, &task, &target, epilogue, &mut scratch.panel);
        });
    });
}

/// The same rows and columns of `N` products.
pub(crate) struct Blocks<'a, const N: usize> {
    pub(crate) rows: Range<usize>,
    pub(crate) columns: Range<usize>,
    /// Each `[rows, columns]`.
    pub(crate) values: [&'a mut [f32]; N],
}

/// Products of the same shape, block by block: `finish` gets the same block of each while it is in the L2 cache.
///
/// `finish` must not wait for other tasks.
///
/// # Panics
/// If the shapes differ.
pub(crate) fn multiply_blocks<const N: usize>(
    products: [&dyn Product; N],
    scales: [Option<&[f32]>; N],
    finish: impl Fn(Blocks<'_, N>) + Sync,
) {
    let shape = |product: &dyn Product| {
        let weights = product.weights();
        (product.rows(), weights.inner(), weights.columns())
    };
    let (rows, _, columns) = shape(products[0]);
    let is_same = |product: &&dyn Product| shape(*product) == shape(products[0]);
    assert!(products.iter().all(is_same), "shapes");
    if rows * columns == 0 {
        return;
    }
    Split::new(products[0], BLOCK_ROWS, BLOCK_PANELS / N).for_each(|task| {
        let columns = task.panels.start * PANEL..(task.panels.end * PANEL).min(columns);
        let len = task.rows.len() * columns.len();
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.blocks.resize(N * len);
            let mut rest = &mut *scratch.blocks;
            let values = std::array::from_fn(|index| {
                let (values, behind) = std::mem::take(&mut rest).split_at_mut(len);
                rest = behind;
                let target = Target::block(values, columns.len(), [task.rows.start, columns.start]);
                let epilogue = Epilogue {
                    accumulate: false,
                    scales: scales[index],
                };
                run_task(
                    products[index],
                    &task,
                    &target,
                    epilogue,
                    &mut scratch.panel,
                );
                values
            });
            finish(Blocks {
                rows: task.rows,
                columns,
                values,
            });
        });
    });
}

/// Some panels of a result, for some rows.
struct Task {
    panels: Range<usize>,
    rows: Range<usize>,
}

/// How a product is split into tasks.
struct Split {
    rows: usize,
    panels: usize,
    task_rows: usize,
    task_panels: usize,
}

impl Split {
    /// Tasks of up to so many rows and panels.
    fn new(product: &dyn Product, most_rows: usize, most_panels: usize) -> Self {
        let rows = product.rows();
        let panels = product.weights().columns().div_ceil(PANEL);
        let task_panels = match rows > TILE_ROWS {
            true => (panels / (2 * rayon::current_num_threads())).clamp(1, most_panels),
            false => 1,
        };
        Self {
            rows,
            panels,
            task_rows: rows_per_task(rows, panels, product.tile_rows(), most_rows),
            task_panels,
        }
    }

    fn for_each(&self, run: impl Fn(Task) + Sync) {
        let across = self.panels.div_ceil(self.task_panels);
        let tasks = across * self.rows.div_ceil(self.task_rows);
        let run = |task: usize| {
            let first_panel = task % across * self.task_panels;
            let rows_before = task / across * self.task_rows;
            run(Task {
                panels: first_panel..(first_panel + self.task_panels).min(self.panels),
                rows: rows_before..(rows_before + self.task_rows).min(self.rows),
            });
        };
        let tasks = (0..tasks).into_par_iter();
        match self.rows > TILE_ROWS {
            // Tasks of unequal length: each on its own, so that all threads have work to the end.
            true => tasks.with_max_len(1).for_each(run),
            // Reading the weights is all there is, and a task of its own costs as much as a panel of them.
            false => tasks
                .with_min_len((self.panels / (2 * rayon::current_num_threads())).clamp(1, 16))
                .for_each(run),
        }
    }
}

/// Rows a task gets, so that all threads have work to the end.
fn rows_per_task(rows: usize, panels: usize, tile_rows: usize, most: usize) -> usize {
    let wanted_tasks = 6 * rayon::current_num_threads();
    let row_tasks = wanted_tasks.div_ceil(panels).max(rows.div_ceil(most));
    // Fewer rows would not pay for widening the panel once more.
    rows.div_ceil(row_tasks)
        .max(LEAST_TASK_ROWS)
        .next_multiple_of(tile_rows)
}

/// One task's part of the result.
fn run_task(
    product: &dyn Product,
    task: &Task,
    target: &Target<'_, f32>,
    epilogue: Epilogue<'_>,
    scratch: &mut PanelScratch,
) {
    let (inner, all_columns) = (product.weights().inner(), product.weights().columns());
    assert!(
        epilogue
            .scales
            .is_none_or(|scales| scales.len() == all_columns),
        "number of scales"
    );
    if inner == 0 && !epilogue.accumulate {
        for row in task.rows.clone() {
            let columns = task.panels.start * PANEL..(task.panels.end * PANEL).min(all_columns);
            // SAFETY: these rows and columns belong to this task alone.
            unsafe { target.part(row, columns.start, columns.len()) }.fill(0.0);
        }
    }
    for first in (0..inner).step_by(product.block()) {
        for panel in task.panels.clone() {
            let first_column = panel * PANEL;
            let columns = (all_columns - first_column).min(PANEL);
            let part = Part {
                panel,
                inner: first..(first + product.block()).min(inner),
                rows: task.rows.clone(),
                out: target,
                store: Store {
                    first_column,
                    columns,
                    scales: epilogue
                        .scales
                        .map(|scales| &scales[first_column..][..columns]),
                    accumulate: epilogue.accumulate || first > 0,
                },
            };
            // SAFETY: these rows and columns are inside the result and belong to this task alone.
            unsafe { product.multiply(&part, scratch) };
        }
    }
}

/// Stores `ROWS` rows of 64 sums.
///
/// # Safety
/// `out` must be valid for `ROWS` rows of `store.columns` values, `stride` apart; the processor must have AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn store_avx512<const ROWS: usize>(
    sums: &[[std::arch::x86_64::__m512; 4]; ROWS],
    out: *mut f32,
    stride: usize,
    store: Store<'_>,
) {
    use std::arch::x86_64::{
        _mm512_add_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps,
    };
    for lane in 0..4 {
        let valid = store.columns.saturating_sub(lane * 16).min(16);
        if valid == 0 {
            return;
        }
        let mask = (0xffff_u32 >> (16 - valid)) as u16;
        // SAFETY: the mask keeps every access below `store.columns`, the length of a row of
        // `out` and of `scales`.
        unsafe {
            let scale = store
                .scales
                .map(|scales| _mm512_maskz_loadu_ps(mask, scales.as_ptr().add(lane * 16)));
            for (row, sums) in sums.iter().enumerate() {
                let out = out.add(row * stride + lane * 16);
                let mut value = sums[lane];
                if let Some(scale) = scale {
                    value = _mm512_mul_ps(value, scale);
                }
                if store.accumulate {
                    value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, out));
                }
                _mm512_mask_storeu_ps(out, mask, value);
            }
        }
    }
}

/// Calls a const generic function with the number of rows of a tile.
macro_rules! with_rows {
    ($rows:expr, $call:ident :: <_ $(, $more:ty)?> ($($argument:expr),*)) => {
        match $rows {
            1 => $call::<1 $(, $more)?>($($argument),*),
            2 => $call::<2 $(, $more)?>($($argument),*),
            3 => $call::<3 $(, $more)?>($($argument),*),
            4 => $call::<4 $(, $more)?>($($argument),*),
            5 => $call::<5 $(, $more)?>($($argument),*),
            _ => $call::<6 $(, $more)?>($($argument),*),
        }
    };
}
pub(crate) use with_rows;
