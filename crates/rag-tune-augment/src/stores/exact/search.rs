//! Exact search in two passes over the same rows.
//!
//! The first pass computes all scores cheaply: as products of int8 codes, or as an f32 matrix product
//! whose additions come in no particular order. What it says may be off, but by no more than a
//! proven margin. Rows that could still be among the best get their score by [`dot`], and only
//! that counts. So a result depends neither on the first pass nor on the number of threads, on
//! where blocks begin, or on which queries are asked together.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use gemm::Parallelism;
use rayon::prelude::*;

use super::codes::{self, Codes, Panel, Terms};
use super::dot::{dot, dots, rounding_error, roundings};
use super::kernel::{GROUP_QUERIES, Kernel, PANEL_ROWS, QueryGroup};
use super::nearest::Nearest;
use crate::embed::Embeddings;
use crate::select::{Allowed, Example};

/// Queries that go through the rows together. Codes of 192 x 384 are 72 KiB and stay in the L2 cache; a panel
/// of rows is then used for 30 times as long as it takes to read it.
const CODED_QUERIES: usize = 32 * GROUP_QUERIES;
/// The same for f32 products, whose blocks of 128 x 512 scores are 256 KiB.
const PRODUCT_QUERIES: usize = 256;
const PRODUCT_ROWS: usize = 8 * PANEL_ROWS;
/// So few queries are not worth a matrix product: reading the rows takes longer than the sums.
const DOT_QUERIES: usize = 4;
/// A thread is not woken for fewer rows.
const LEAST_ROWS: usize = 64 * PANEL_ROWS;
/// Tasks a thread gets, so that one that is held up does not hold up all.
const TASKS_A_THREAD: usize = 4;

/// What a search goes through.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// `[rows, dimension]`
    pub vectors: &'a [f32],
    pub dimension: usize,
    /// At least the length of the longest vector.
    pub largest_norm: f32,
    pub codes: Option<(&'a Codes, Kernel)>,
}

/// One call of [`super::ExactStore::nearest`].
pub(super) struct Search<'a> {
    pub rows: Rows<'a>,
    /// `[queries, dimension]`
    pub queries: &'a Embeddings,
    pub n: usize,
    pub allowed: &'a Allowed<'a>,
    /// Counts the rows whose score was computed after the first pass.
    pub rescored: &'a AtomicU64,
}

impl Rows<'_> {
    fn len(&self) -> usize {
        self.vectors.len() / self.dimension
    }

    fn row(&self, index: usize) -> &[f32] {
        &self.vectors[index * self.dimension..][..self.dimension]
    }
}

impl Search<'_> {
    /// The `n` best rows of each query; `n` is at least 1.
    pub fn run(&self) -> Vec<Vec<Example>> {
        let block = match self.rows.codes {
            Some(_) => CODED_QUERIES,
            None => PRODUCT_QUERIES,
        };
        let queries = pieces(self.queries.len(), block);
        let tasks = TASKS_A_THREAD * rayon::current_num_threads();
        let per_block = tasks.div_ceil(queries.len().max(1));
        let rows = self.rows.len().div_ceil(per_block).max(LEAST_ROWS);
        let rows = pieces(self.rows.len(), rows.next_multiple_of(PANEL_ROWS));
        let of_block = |queries: Range<usize>| {
            let parts = rows
                .par_iter()
                .map(|rows| self.search(queries.clone(), rows.clone()));
            let parts: Vec<_> = parts.collect();
            let joined = (0..queries.len()).map(|query| {
                Nearest::joined(self.n, parts.iter().map(|part| part[query].as_slice()))
            });
            joined.collect::<Vec<_>>()
        };
        queries.into_par_iter().flat_map_iter(of_block).collect()
    }

    /// The best among some rows, for some queries.
    fn search(&self, queries: Range<usize>, rows: Range<usize>) -> Vec<Vec<Example>> {
        let mut found: Vec<_> = queries.map(|query| Found::new(self, query)).collect();
        match self.rows.codes {
            Some((codes, kernel)) => self.by_codes(codes, kernel, &mut found, rows),
            None if found.len() <= DOT_QUERIES => self.by_dots(&mut found, rows),
            None => self.by_products(&mut found, rows),
        }
        let rescored = found.iter().map(|found| found.rescored).sum();
        self.rescored.fetch_add(rescored, Ordering::Relaxed);
        found
            .into_iter()
            .map(|found| found.nearest.into_examples())
            .collect()
    }

    fn by_codes(&self, codes: &Codes, kernel: Kernel, found: &mut [Found<'_>], rows: Range<usize>) {
        let mut query_codes = vec![vec![0; self.rows.dimension]; found.len()];
        for (found, codes) in found.iter_mut().zip(&mut query_codes) {
            found.reach = Reach::new(codes::quantize(found.vector, codes), self.rows.dimension);
        }
        let groups: Vec<_> = query_codes
            .chunks(GROUP_QUERIES)
            .map(|codes| {
                QueryGroup::new(kernel, &codes.iter().map(Vec::as_slice).collect::<Vec<_>>())
            })
            .collect();
        let mut products = [[0; PANEL_ROWS]; GROUP_QUERIES];
        let mut least = [f32::INFINITY; GROUP_QUERIES];
        for start in rows.clone().step_by(PANEL_ROWS) {
            let panel = codes.panel(start / PANEL_ROWS);
            let (error, norm) = (largest(panel.errors), largest(panel.norms));
            let rows = start..rows.end.min(start + PANEL_ROWS);
            for (group, found) in groups.iter().zip(found.chunks_mut(GROUP_QUERIES)) {
                for (least, found) in least.iter_mut().zip(&*found) {
                    *least = found.reach.least(error, norm);
                }
                let reached = kernel.multiply(panel.codes, group, &least, &mut products);
                if reached == 0 {
                    continue;
                }
                for (query, found) in found.iter_mut().enumerate() {
                    if reached & (1 << query) != 0 {
                        found.look_through(self, &panel, &products[query], rows.clone());
                    }
                }
            }
        }
    }

    fn by_products(&self, found: &mut [Found<'_>], rows: Range<usize>) {
        let mut scores = vec![0.0; found.len() * PRODUCT_ROWS];
        let first = found[0].query;
        let dimension = self.rows.dimension;
        let queries = &self.queries.values()[first * dimension..][..found.len() * dimension];
        for start in rows.clone().step_by(PRODUCT_ROWS) {
            let end = rows.end.min(start + PRODUCT_ROWS);
            let block = &self.rows.vectors[start * dimension..end * dimension];
            multiply(queries, block, dimension, &mut scores);
            for (found, scores) in found.iter_mut().zip(scores.chunks(end - start)) {
                for (piece, scores) in scores.chunks(PANEL_ROWS).enumerate() {
                    let least = found.least_product_score(self.rows.largest_norm);
                    if largest(scores) < least {
                        continue;
                    }
                    for (at, &score) in scores.iter().enumerate() {
                        if score < found.least_product_score(self.rows.largest_norm) {
                            continue;
                        }
                        found.rescore(self, start + piece * PANEL_ROWS + at);
                    }
                }
            }
        }
    }

    fn by_dots(&self, found: &mut [Found<'_>], rows: Range<usize>) {
        let dimension = self.rows.dimension;
        let mut scores = [0.0; PANEL_ROWS];
        for start in rows.clone().step_by(PANEL_ROWS) {
            let end = rows.end.min(start + PANEL_ROWS);
            let block = &self.rows.vectors[start * dimension..end * dimension];
            let scores = &mut scores[..end - start];
            for found in &mut *found {
                dots(found.vector, block, scores);
                if largest(scores) < found.nearest.floor() {
                    continue;
                }
                for (row, &score) in (start..end).zip(&*scores) {
                    found.take(self, row, score);
                }
            }
        }
    }
}

/// What was found for a query so far.
struct Found<'a> {
    query: usize,
    vector: &'a [f32],
    /// At least the length of `vector`.
    norm: f32,
    nearest: Nearest,
    reach: Reach,
    rescored: u64,
}

/// Which products of codes cannot reach the floor.
#[derive(Debug, Default)]
struct Reach {
    scale: f64,
    floor: f64,
    /// How far the floor is lowered for each unit of a row's error and norm.
    for_error: f64,
    for_norm: f64,
}

impl Reach {
    fn new(query: Terms, dimension: usize) -> Self {
        let [scale, error, norm] = [query.scale, query.error, query.norm].map(f64::from);
        // 16 more for turning a product into a score, and for the arithmetic here.
        let rounding = rounding_error(roundings(dimension) + 16);
        Self {
            scale,
            floor: f64::NEG_INFINITY,
            for_error: norm / scale,
            for_norm: (error + rounding * norm) / scale,
        }
    }

    fn set_floor(&mut self, score: f32) {
        self.floor = (f64::from(score) - UNDERFLOW) / self.scale;
    }

    /// No row with at most this error and norm reaches the floor if its `product of codes * row scale` is
    /// below this.
    fn least(&self, error: f32, norm: f32) -> f32 {
        (self.floor - self.for_error * f64::from(error) - self.for_norm * f64::from(norm)) as f32
    }
}

impl<'a> Found<'a> {
    fn new(search: &'a Search<'_>, query: usize) -> Self {
        let vector = search.queries.row(query);
        Self {
            query,
            vector,
            norm: codes::norm(vector),
            nearest: Nearest::of(search.n),
            reach: Reach::default(),
            rescored: 0,
        }
    }

    /// Computes the scores of the rows of a panel that may be among the best.
    fn look_through(
        &mut self,
        search: &Search<'_>,
        panel: &Panel<'_>,
        products: &[i32; PANEL_ROWS],
        rows: Range<usize>,
    ) {
        for (at, row) in rows.enumerate() {
            let score = products[at] as f32 * panel.codes.scales[at];
            if score < self.reach.least(panel.errors[at], panel.norms[at]) {
                continue;
            }
            self.rescore(search, row);
            self.reach.set_floor(self.nearest.floor());
        }
    }

    /// No row of at most this norm reaches the floor if its score in a matrix product is below this.
    fn least_product_score(&self, norm: f32) -> f32 {
        let dimension = self.vector.len();
        // However the product is summed, no value passes through more additions than there are values.
        let rounding = rounding_error(dimension + 8) + rounding_error(roundings(dimension) + 4);
        let margin = rounding * f64::from(self.norm) * f64::from(norm) + UNDERFLOW;
        (f64::from(self.nearest.floor()) - margin) as f32
    }

    fn rescore(&mut self, search: &Search<'_>, row: usize) {
        self.rescored += 1;
        self.take(search, row, dot(self.vector, search.rows.row(row)));
    }

    fn take(&mut self, search: &Search<'_>, row: usize, score: f32) {
        // Asked last: few rows come so far.
        if self.nearest.admits(score) && (search.allowed)(self.query, row) {
            self.nearest.insert(Example { row, score });
        }
    }
}

/// More than gradual underflow takes away from a sum of products.
const UNDERFLOW: f64 = f32::MIN_POSITIVE as f64;

fn largest(scores: &[f32]) -> f32 {
    // Not `max`, which would have to treat NaN, one value after the other.
    let mut best = [f32::NEG_INFINITY; 8];
    let (chunks, rest) = scores.as_chunks::<8>();
    for chunk in chunks {
        for lane in 0..8 {
            best[lane] = if chunk[lane] > best[lane] {
                chunk[lane]
            } else {
                best[lane]
            };
        }
    }
    best.iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, f32::max)
}

/// Cuts `0..len` into ranges of `size`, the last of which may be shorter.
fn pieces(len: usize, size: usize) -> Vec<Range<usize>> {
    (0..len)
        .step_by(size)
        .map(|start| start..len.min(start + size))
        .collect()
}

/// `scores[query, row]` of `queries` and `rows`, `[.., dimension]` each.
fn multiply(queries: &[f32], rows: &[f32], dimension: usize, scores: &mut [f32]) {
    let (query_count, row_count) = (queries.len() / dimension, rows.len() / dimension);
    assert!(scores.len() >= query_count * row_count, "[queries, rows]");
    let stride = dimension as isize;
    // SAFETY: `queries` and `rows` hold that many rows of `dimension` values, `scores` has room for
    // their products and is borrowed exclusively; gemm does not read it when told not to.
    unsafe {
        gemm::gemm(
            query_count,
            row_count,
            dimension,
            scores.as_mut_ptr(),
            1,
            row_count as isize,
            false,
            queries.as_ptr(),
            1,
            stride,
            rows.as_ptr(),
            stride,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
