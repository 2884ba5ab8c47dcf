//! Examples drawn by the seed.

use std::collections::HashSet;

use rayon::prelude::*;

use super::{Allowed, Example, Queries, Select};
use crate::AugmentError;
use crate::fingerprint::sha256_of_text;

/// Draws train rows uniformly among those that are allowed.
///
/// A draw rests on the seed, the split's name and the query's index alone, so it does not change
/// with the number of threads or with the rows that are asked for beside it. The first examples of
/// more are the examples of fewer.
#[derive(Debug, Clone, Copy)]
pub struct RandomSelector {
    seed: u64,
    rows: usize,
}

/// Drawn blindly before all rows are looked at.
const TRIES: usize = 64;

impl RandomSelector {
    /// Among `rows` train rows.
    pub fn new(seed: u64, rows: usize) -> Self {
        Self { seed, rows }
    }

    fn draw(&self, of_query: u64, n: usize, allowed: impl Fn(usize) -> bool) -> Vec<Example> {
        let mut drawn = Vec::new();
        let mut tried = HashSet::new();
        let mut state = of_query;
        // Where nearly everything is ruled out, drawing blindly would take long.
        for _ in 0..TRIES {
            if drawn.len() == n {
                break;
            }
            state = mix(state);
            let row = (state % self.rows as u64) as usize;
            if tried.insert(row) && allowed(row) {
                drawn.push(row);
            }
        }
        if drawn.len() < n {
            let mut rest: Vec<(u64, usize)> = (0..self.rows)
                .filter(|row| !tried.contains(row) && allowed(*row))
                .map(|row| (mix(of_query ^ mix(row as u64)), row))
                .collect();
            rest.sort_unstable();
            drawn.extend(rest.iter().map(|(_, row)| *row).take(n - drawn.len()));
        }
        drawn
            .into_iter()
            .map(|row| Example { row, score: 0.0 })
            .collect()
    }
}

impl Select for RandomSelector {
    fn select(
        &self,
        queries: &Queries<'_>,
        n: usize,
        allowed: &Allowed<'_>,
    ) -> Result<Vec<Vec<Example>>, AugmentError> {
        let digest = sha256_of_text(queries.split);
        let of_split = u64::from_le_bytes(digest[..8].try_into().expect("8 bytes of 32"));
        let of_split = mix(self.seed ^ of_split);
        let draw = |query: usize| {
            let of_query = mix(of_split.wrapping_add((queries.start + query) as u64));
            self.draw(of_query, n, |row| allowed(query, row))
        };
        Ok((0..queries.rows.len()).into_par_iter().map(draw).collect())
    }
}

/// One step of SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195).
pub(super) fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Row;

    fn random(
        seed: u64,
        split: &str,
        (rows, queries): (usize, usize),
        n: usize,
    ) -> Vec<Vec<Example>> {
        let asked: Vec<Row> = (0..queries)
            .map(|index| Row {
                index,
                fields: Default::default(),
            })
            .collect();
        let queries = Queries {
            split,
            own: false,
            start: 0,
            split_rows: asked.len(),
            rows: &asked,
        };
        // Rows 3, 13, 23, ... are ruled out.
        let allowed = |_: usize, row: usize| row % 10 != 3;
        RandomSelector::new(seed, rows)
            .select(&queries, n, &allowed)
            .unwrap()
    }

    #[test]
    fn a_draw_follows_seed_and_split_and_not_the_number_of_queries() {
        let few = random(1, "validation", (50, 3), 4);
        let many = random(1, "validation", (50, 30), 4);
        assert_eq!(few[..], many[..3]);
        assert_ne!(few, random(2, "validation", (50, 3), 4));
        assert_ne!(few, random(1, "test", (50, 3), 4));
    }

    #[test]
    fn fewer_examples_are_the_first_of_more() {
        let (one, five) = (
            random(7, "train", (50, 3), 1),
            random(7, "train", (50, 3), 5),
        );
        for (one, five) in one.iter().zip(&five) {
            assert_eq!(one[..], five[..1]);
        }
    }

    #[test]
    fn all_that_are_allowed_are_found() {
        for examples in random(7, "train", (50, 20), 60) {
            let mut rows: Vec<usize> = examples.iter().map(|example| example.row).collect();
            rows.sort_unstable();
            assert_eq!(
                rows,
                (0..50).filter(|row| row % 10 != 3).collect::<Vec<_>>()
            );
        }
    }

    /// Each of 9 allowed rows is drawn first in about a ninth of 10,000 cases (six standard deviations
    /// are 190).
    #[test]
    fn a_draw_is_uniform() {
        let mut drawn = [0usize; 10];
        for examples in random(3, "train", (10, 10_000), 1) {
            drawn[examples[0].row] += 1;
        }
        assert_eq!(drawn[3], 0);
        let even = drawn
            .iter()
            .enumerate()
            .all(|(row, &count)| row == 3 || count.abs_diff(1111) < 190);
        assert!(even, "{drawn:?}");
    }
}
