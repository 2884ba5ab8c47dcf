//! The best rows of a query.

use crate::select::Example;

/// The best rows so far, when rows come in ascending order.
#[derive(Debug, Clone)]
pub(super) struct Nearest {
    wanted: usize,
    /// By falling score; of equal scores the earlier row first.
    examples: Vec<Example>,
}

impl Nearest {
    /// Room for `wanted` rows, at least one.
    pub fn of(wanted: usize) -> Self {
        Self {
            wanted,
            examples: Vec::new(),
        }
    }

    /// The score that a row must beat; anything does as long as there is room.
    pub fn floor(&self) -> f32 {
        if self.examples.len() < self.wanted {
            return f32::NEG_INFINITY;
        }
        self.examples
            .last()
            .map_or(f32::NEG_INFINITY, |last| last.score)
    }

    /// Whether a row that comes next, with this score, would be among the best.
    pub fn admits(&self, score: f32) -> bool {
        // Not `>=`: of equal scores the earlier row stays.
        self.examples.len() < self.wanted || score > self.floor()
    }

    /// Takes a row that it admits.
    pub fn insert(&mut self, example: Example) {
        let position = self
            .examples
            .partition_point(|held| held.score >= example.score);
        self.examples.insert(position, example);
        self.examples.truncate(self.wanted);
    }

    /// Best first.
    pub fn into_examples(self) -> Vec<Example> {
        self.examples
    }

    /// The best of what was found in ranges of rows that follow each other.
    pub fn joined<'a>(wanted: usize, parts: impl Iterator<Item = &'a [Example]>) -> Vec<Example> {
        let mut all = Self::of(wanted);
        for example in parts.flatten() {
            if all.admits(example.score) {
                all.insert(*example);
            }
        }
        all.examples
    }
}
