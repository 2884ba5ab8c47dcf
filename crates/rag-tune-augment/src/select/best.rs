//! The best of many scored rows.

use super::Example;

/// Keeps the `wanted` rows of the highest score, when rows come in ascending order.
pub(super) struct Best {
    wanted: usize,
    /// By falling score; of equal scores the lower row first.
    examples: Vec<Example>,
}

impl Best {
    pub(super) fn of(wanted: usize) -> Self {
        Self {
            wanted,
            examples: Vec::new(),
        }
    }

    /// Whether a row of this score would be kept; asked before the costlier question whether the row
    /// is allowed.
    pub(super) fn admits(&self, score: f32) -> bool {
        self.examples.len() < self.wanted
            // Not `>=`: of equal scores the earlier row stays.
            || self.examples.last().is_some_and(|last| score > last.score)
    }

    pub(super) fn insert(&mut self, row: usize, score: f32) {
        let position = self.examples.partition_point(|held| held.score >= score);
        self.examples.insert(position, Example { row, score });
        self.examples.truncate(self.wanted);
    }

    pub(super) fn into_examples(self) -> Vec<Example> {
        self.examples
    }
}
