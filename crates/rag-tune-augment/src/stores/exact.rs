//! The train rows' vectors, and exact search among them.

use rayon::prelude::*;

use super::Store;
use crate::AugmentError;
use crate::embed::Embeddings;
use crate::select::{Allowed, Example};

/// Vectors of the train rows, in row order.
#[derive(Debug)]
pub struct ExactStore {
    vectors: Embeddings,
}

/// Queries and rows that are compared together. 64 x 256 vectors of 384 f32 are 0.5 MB, which
/// stays in a core's cache while 16,384 products are taken.
const QUERY_BLOCK: usize = 64;
const ROW_BLOCK: usize = 256;

impl ExactStore {
    /// Takes the vectors of all train rows.
    pub fn new(vectors: Embeddings) -> Self {
        Self { vectors }
    }

    fn nearest_to_block(
        &self,
        queries: &Embeddings,
        block: std::ops::Range<usize>,
        n: usize,
        allowed: &Allowed<'_>,
    ) -> Vec<Vec<Example>> {
        let mut best = vec![Nearest::of(n); block.len()];
        for start in (0..self.vectors.len()).step_by(ROW_BLOCK) {
            let end = self.vectors.len().min(start + ROW_BLOCK);
            for (query, best) in block.clone().zip(&mut best) {
                for row in start..end {
                    let score = dot(queries.row(query), self.vectors.row(row));
                    // Asked last: few rows come so far.
                    if best.admits(score) && allowed(query, row) {
                        best.insert(Example { row, score });
                    }
                }
            }
        }
        best.into_iter().map(|best| best.examples).collect()
    }
}

impl Store for ExactStore {
    fn len(&self) -> usize {
        self.vectors.len()
    }

    fn nearest(
        &self,
        queries: &Embeddings,
        n: usize,
        allowed: &Allowed<'_>,
    ) -> Result<Vec<Vec<Example>>, AugmentError> {
        let starts: Vec<usize> = (0..queries.len()).step_by(QUERY_BLOCK).collect();
        let blocks = starts.into_par_iter().map(|start| {
            let end = queries.len().min(start + QUERY_BLOCK);
            self.nearest_to_block(queries, start..end, n, allowed)
        });
        Ok(blocks.collect::<Vec<_>>().concat())
    }

    fn vectors(&self, rows: &[usize]) -> Result<Embeddings, AugmentError> {
        let values = rows.iter().flat_map(|row| self.vectors.row(*row)).copied();
        Ok(Embeddings::new(self.vectors.dimension(), values.collect()))
    }
}

/// The best rows so far, when rows come in ascending order.
#[derive(Clone)]
struct Nearest {
    wanted: usize,
    /// By falling score; of equal scores the earlier row first.
    examples: Vec<Example>,
}

impl Nearest {
    fn of(wanted: usize) -> Self {
        Self {
            wanted,
            examples: Vec::new(),
        }
    }

    fn admits(&self, score: f32) -> bool {
        self.examples.len() < self.wanted
            // Not `>=`: of equal scores the earlier row stays.
            || self.examples.last().is_some_and(|last| score > last.score)
    }

    fn insert(&mut self, example: Example) {
        let position = self
            .examples
            .partition_point(|held| held.score >= example.score);
        self.examples.insert(position, example);
        self.examples.truncate(self.wanted);
    }
}

/// Sixteen sums side by side, so that the compiler can use vector registers. The order of the
/// additions is fixed: equal vectors get equal scores, on every machine.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows_of(found: &[Example]) -> Vec<usize> {
        found.iter().map(|example| example.row).collect()
    }

    #[test]
    fn of_equal_rows_the_lower_comes_first() {
        let row = [0.6, 0.8];
        let rows = ExactStore::new(Embeddings::new(2, row.repeat(600)));
        let query = Embeddings::new(2, row.to_vec());
        let found = rows.nearest(&query, 3, &|_, row| row != 1).unwrap();
        assert_eq!(rows_of(&found[0]), [0, 2, 3]);
        assert!((found[0][0].score - 1.0).abs() < 1e-6);
    }

    #[test]
    fn fewer_are_found_where_fewer_are_allowed() {
        let rows = ExactStore::new(Embeddings::new(1, vec![1.0, 2.0, 3.0]));
        let query = Embeddings::new(1, vec![1.0]);
        assert_eq!(
            rows_of(&rows.nearest(&query, 9, &|_, row| row > 0).unwrap()[0]),
            [2, 1]
        );
        assert!(rows.nearest(&query, 0, &|_, _| true).unwrap()[0].is_empty());
    }

    proptest! {
        /// Small whole numbers: sums are exact in any order, and ties abound.
        #[test]
        fn search_equals_sorting_all_rows(
            dimension in 1usize..40,
            numbers in prop::collection::vec(-2i8..=2, 1..4000),
            queries in 1usize..80,
            n in 0usize..7,
        ) {
            let numbers: Vec<f32> = numbers.into_iter().map(f32::from).collect();
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
            let found = ExactStore::new(rows.clone()).nearest(&queries, n, &allowed).unwrap();
            let found: Vec<_> = found.iter().map(|found| rows_of(found)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
