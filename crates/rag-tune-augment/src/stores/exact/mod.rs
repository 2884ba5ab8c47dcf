//! The train rows' vectors in this process, and exact search among them.
//!
//! - [`folder`]: a store on disk, mapped into memory; made once, in a folder that appears when it is whole
//! - [`site`]: where that is made, by one process at a time
//! - [`search`]: two passes, a cheap one with a proven margin and one that decides
//! - [`codes`], [`kernel`]: int8 codes of vectors, and their products
//! - [`dot`]: the score, with one order of additions
//! - [`nearest`]: the best rows of a query so far

mod bytes;
mod codes;
mod dot;
mod folder;
mod kernel;
mod nearest;
mod search;
mod site;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use self::bytes::Bytes;
use self::codes::Codes;
use self::kernel::Kernel;
use self::search::{Rows, Search};
use super::{Push, Store, StoreError, StoreIdentity};
use crate::AugmentError;
use crate::embed::Embeddings;
use crate::select::{Allowed, Example};

pub(super) use folder::open_or_build;
pub(super) use site::OnDamage;

/// Vectors of the train rows, in row order.
#[derive(Debug)]
pub struct ExactStore {
    vectors: Vectors,
    /// At least the length of the longest vector.
    largest_norm: f32,
    codes: Option<(Codes, Kernel)>,
    rescored: AtomicU64,
}

/// How a search looks through the rows before it computes the scores of those that are left. The
/// result is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstPass {
    /// By f32 matrix products.
    F32,
    /// By products of int8 codes, which take another quarter of the vectors' memory.
    Int8,
}

/// From so many rows on, int8 codes are made. Coding a row takes about 1 microsecond, which some 200 queries gain
/// on it; with fewer rows a search is over so soon that a further file is not worth it.
const CODED_ROWS: usize = 20_000;

impl FirstPass {
    /// What suits so many rows.
    pub fn for_rows(rows: usize) -> Self {
        if rows < CODED_ROWS {
            Self::F32
        } else {
            Self::Int8
        }
    }
}

/// `[rows, dimension]`
#[derive(Debug)]
enum Vectors {
    Owned(Embeddings),
    Mapped { dimension: usize, values: Bytes },
}

impl Vectors {
    fn dimension(&self) -> usize {
        match self {
            Self::Owned(vectors) => vectors.dimension(),
            Self::Mapped { dimension, .. } => *dimension,
        }
    }

    fn values(&self) -> &[f32] {
        match self {
            Self::Owned(vectors) => vectors.values(),
            Self::Mapped { values, .. } => bytemuck::cast_slice(values.as_slice()),
        }
    }
}

impl ExactStore {
    /// Takes the vectors of all train rows.
    pub fn new(vectors: Embeddings) -> Self {
        let first_pass = FirstPass::for_rows(vectors.len());
        Self::with_first_pass(vectors, first_pass)
    }

    /// As [`Self::new`], with the caller's choice of a first pass.
    pub fn with_first_pass(vectors: Embeddings, first_pass: FirstPass) -> Self {
        let dimension = vectors.dimension();
        let codes = (first_pass == FirstPass::Int8 && Codes::can_hold(dimension))
            .then(|| Codes::of(vectors.values(), dimension));
        let largest_norm = largest_norm(vectors.values(), dimension);
        Self::of_parts(Vectors::Owned(vectors), largest_norm, codes)
    }

    /// Opens the store in `folder`, mapped into memory; makes it if there is none, of what `fill` pushes.
    ///
    /// # Errors
    /// [`StoreError`] if the folder holds something else, a damaged store, or one of another identity,
    /// or if `fill` pushes what does not fit `identity`; [`AugmentError::Read`], [`AugmentError::Write`];
    /// what `fill` returns.
    pub fn open(
        folder: &Path,
        identity: &StoreIdentity,
        fill: impl FnOnce(&mut Push<'_>) -> Result<(), AugmentError>,
    ) -> Result<Self, AugmentError> {
        open_or_build(folder, OnDamage::Report, identity, fill)
    }

    /// The same store, which searches by [`FirstPass::F32`].
    pub fn without_codes(self) -> Self {
        Self {
            codes: None,
            ..self
        }
    }

    /// Takes the vectors that `fill` pushes.
    ///
    /// # Errors
    /// [`StoreError::WrongCount`], [`StoreError::WrongDimension`], [`StoreError::NotFinite`]; what `fill` returns.
    pub(super) fn in_memory(
        identity: &StoreIdentity,
        fill: impl FnOnce(&mut Push<'_>) -> Result<(), AugmentError>,
    ) -> Result<Self, AugmentError> {
        let mut all: Option<Embeddings> = None;
        filled(identity, fill, |vectors| {
            match &mut all {
                Some(all) => all.extend(vectors),
                None => all = Some(vectors.clone()),
            }
            Ok(())
        })?;
        // Without rows the dimension is unknown, and matters to nobody.
        Ok(Self::new(
            all.unwrap_or_else(|| Embeddings::new(1, Vec::new())),
        ))
    }

    fn of_parts(vectors: Vectors, largest_norm: f32, codes: Option<Codes>) -> Self {
        Self {
            vectors,
            largest_norm,
            codes: codes.map(|codes| (codes, Kernel::best())),
            rescored: AtomicU64::new(0),
        }
    }

    /// How many scores were computed after the first pass, in all searches so far.
    pub fn rescored(&self) -> u64 {
        self.rescored.load(Ordering::Relaxed)
    }

    fn check(&self, queries: &Embeddings) -> Result<(), StoreError> {
        let (expected, found) = (self.vectors.dimension(), queries.dimension());
        if expected != found {
            return Err(StoreError::WrongDimension { expected, found });
        }
        match unusable(queries) {
            Some(row) => Err(StoreError::NotFinite { row }),
            None => Ok(()),
        }
    }
}

impl Store for ExactStore {
    fn len(&self) -> usize {
        self.vectors.values().len() / self.vectors.dimension()
    }

    fn nearest(
        &self,
        queries: &Embeddings,
        n: usize,
        allowed: &Allowed<'_>,
    ) -> Result<Vec<Vec<Example>>, AugmentError> {
        if n == 0 || self.is_empty() {
            return Ok(vec![Vec::new(); queries.len()]);
        }
        self.check(queries)?;
        let rows = Rows {
            vectors: self.vectors.values(),
            dimension: self.vectors.dimension(),
            largest_norm: self.largest_norm,
            codes: self.codes.as_ref().map(|(codes, kernel)| (codes, *kernel)),
        };
        let rescored = &self.rescored;
        let search = Search {
            rows,
            queries,
            n,
            allowed,
            rescored,
        };
        Ok(search.run())
    }

    fn vectors(&self, rows: &[usize]) -> Result<Embeddings, AugmentError> {
        let dimension = self.vectors.dimension();
        let values = self.vectors.values();
        let row = |&row: &usize| &values[row * dimension..][..dimension];
        Ok(Embeddings::new(
            dimension,
            rows.iter().flat_map(row).copied().collect(),
        ))
    }
}

/// At least the length of the longest vector of `[rows, dimension]`.
fn largest_norm(vectors: &[f32], dimension: usize) -> f32 {
    let norms = vectors.par_chunks(dimension).map(codes::norm);
    norms.reduce(|| 0.0, f32::max)
}

/// Calls `fill`, checks what it pushes, and hands it on; the dimension, or 0 where there are no rows.
fn filled(
    identity: &StoreIdentity,
    fill: impl FnOnce(&mut Push<'_>) -> Result<(), AugmentError>,
    mut take: impl FnMut(&Embeddings) -> Result<(), AugmentError>,
) -> Result<usize, AugmentError> {
    let (mut dimension, mut rows) = (0, 0);
    fill(&mut |vectors| {
        let found = vectors.dimension();
        if rows > 0 && found != dimension {
            let expected = dimension;
            return Err(StoreError::WrongDimension { expected, found }.into());
        }
        if let Some(row) = unusable(vectors) {
            return Err(StoreError::NotFinite { row: rows + row }.into());
        }
        dimension = found;
        rows += vectors.len();
        take(vectors)
    })?;
    if rows != identity.rows {
        let (expected, found) = (identity.rows, rows);
        return Err(StoreError::WrongCount { expected, found }.into());
    }
    Ok(dimension)
}

/// The first vector whose products may not be finite: one with NaN or infinity in it, or a length near 1e19.
fn unusable(vectors: &Embeddings) -> Option<usize> {
    let mut rows = vectors.values().chunks(vectors.dimension());
    rows.position(|row| {
        !row.iter()
            .map(|value| value * value)
            .sum::<f32>()
            .is_finite()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIRST_PASSES: [FirstPass; 2] = [FirstPass::F32, FirstPass::Int8];

    fn rows_of(found: &[Example]) -> Vec<usize> {
        found.iter().map(|example| example.row).collect()
    }

    #[test]
    fn of_equal_rows_the_lower_comes_first() {
        let row = [0.6, 0.8];
        for first_pass in FIRST_PASSES {
            let rows = Embeddings::new(2, row.repeat(600));
            let store = ExactStore::with_first_pass(rows, first_pass);
            for queries in [1, 7] {
                let queries = Embeddings::new(2, row.repeat(queries));
                for found in store.nearest(&queries, 3, &|_, row| row != 1).unwrap() {
                    assert_eq!(rows_of(&found), [0, 2, 3]);
                    assert!((found[0].score - 1.0).abs() < 1e-6);
                }
            }
        }
    }

    #[test]
    fn fewer_are_found_where_fewer_are_allowed() {
        for first_pass in FIRST_PASSES {
            let rows = Embeddings::new(1, vec![1.0, 2.0, 3.0]);
            let store = ExactStore::with_first_pass(rows, first_pass);
            let query = Embeddings::new(1, vec![1.0]);
            let found = store.nearest(&query, 9, &|_, row| row > 0).unwrap();
            assert_eq!(rows_of(&found[0]), [2, 1]);
            assert!(store.nearest(&query, 0, &|_, _| true).unwrap()[0].is_empty());
        }
    }

    #[test]
    fn queries_that_do_not_fit_are_refused() {
        let store = ExactStore::new(Embeddings::new(2, vec![1.0, 2.0]));
        let nearest = |dimension, values: Vec<f32>| {
            let found = store.nearest(&Embeddings::new(dimension, values), 1, &|_, _| true);
            found.unwrap_err().to_string()
        };
        assert!(nearest(3, vec![0.0; 3]).contains("of 2 values, but was given some of 3"));
        assert!(nearest(2, vec![0.0, 0.0, f32::INFINITY, 0.0]).contains("vector 1"));
    }

    #[test]
    fn a_store_without_rows_finds_nothing() {
        let store = ExactStore::new(Embeddings::new(1, Vec::new()));
        let queries = Embeddings::new(2, vec![0.0; 4]);
        assert_eq!(
            store.nearest(&queries, 1, &|_, _| true).unwrap(),
            [vec![], vec![]]
        );
    }

    /// Small whole numbers: sums are exact in any order, and ties abound.
    fn numbers(most: usize) -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec((-2i8..=2).prop_map(f32::from), 1..most)
    }

    proptest! {
        #[test]
        fn search_equals_sorting_all_rows(
            dimension in 1usize..40,
            numbers in numbers(4000),
            queries in 1usize..80,
            n in 0usize..7,
        ) {
            let whole = numbers.len() / dimension * dimension;
            let queries: Vec<f32> =
                numbers.iter().rev().cycle().take(queries * dimension).copied().collect();
            let queries = Embeddings::new(dimension, queries);
            let rows = Embeddings::new(dimension, numbers[..whole].to_vec());
            let allowed = |query: usize, row: usize| !(query + row).is_multiple_of(3);
            let plain = |query: usize| {
                let score = |row: usize| -> f32 {
                    rows.row(row).iter().zip(queries.row(query)).map(|(a, b)| a * b).sum()
                };
                let mut all: Vec<usize> =
                    (0..rows.len()).filter(|&row| allowed(query, row)).collect();
                // A stable sort: of equal scores the lower row stays first.
                all.sort_by(|&a, &b| score(b).partial_cmp(&score(a)).expect("finite"));
                all.truncate(n);
                all
            };
            let expected: Vec<_> = (0..queries.len()).map(plain).collect();
            for first_pass in FIRST_PASSES {
                let store = ExactStore::with_first_pass(rows.clone(), first_pass);
                let found = store.nearest(&queries, n, &allowed).unwrap();
                let found: Vec<_> = found.iter().map(|found| rows_of(found)).collect();
                prop_assert_eq!(&found, &expected, "{:?}", first_pass);
            }
        }
    }

    /// Vectors whose length varies, some of them twice.
    fn random_vectors(seed: u64, count: usize, dimension: usize) -> Embeddings {
        let value = |at: usize| {
            let row = at / dimension;
            // Every seventh row equals the one before it.
            let source = if row.is_multiple_of(7) {
                at.saturating_sub(dimension)
            } else {
                at
            };
            let hash = (seed ^ source as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let hash = (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            ((hash >> 40) as f32 / 16_777_216.0 - 0.5) * (1.0 + (row % 5) as f32)
        };
        Embeddings::new(dimension, (0..count * dimension).map(value).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// To the last bit of every score: the first pass, the number of threads, the ranges of rows, and
        /// the other queries make no difference.
        #[test]
        fn a_result_depends_on_nothing_but_the_query(
            seed: u64, rows in 1usize..9000, dimension in 1usize..50, n in 1usize..9, threads in 1usize..5,
        ) {
            let (vectors, queries) = (random_vectors(seed, rows, dimension), random_vectors(!seed, 9, dimension));
            let allowed = |_: usize, row: usize| !row.is_multiple_of(5);
            let plain = |query: usize| {
                let score = |row| Example { row, score: dot::dot(queries.row(query), vectors.row(row)) };
                let mut all: Vec<_> = (0..rows).filter(|&row| allowed(query, row)).map(score).collect();
                all.sort_by(|a, b| b.score.total_cmp(&a.score));
                all.truncate(n);
                all
            };
            let expected: Vec<_> = (0..queries.len()).map(plain).collect();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for first_pass in FIRST_PASSES {
                let store = ExactStore::with_first_pass(vectors.clone(), first_pass);
                let together = pool.install(|| store.nearest(&queries, n, &allowed)).unwrap();
                prop_assert_eq!(&together, &expected, "{:?}", first_pass);
                for (query, expected) in expected.iter().enumerate() {
                    let alone = Embeddings::new(dimension, queries.row(query).to_vec());
                    let alone = store.nearest(&alone, n, &allowed).unwrap();
                    prop_assert_eq!(&alone[0], expected, "{:?}", first_pass);
                }
            }
        }
    }
}
