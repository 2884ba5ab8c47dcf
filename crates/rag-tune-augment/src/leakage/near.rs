//! Pairs of texts that share most of their words, without comparing every pair.
//!
//! Prefix filtering (Chaudhuri et al. 2006; Bayardo et al. 2007, doi:10.1145/1242572.1242591): with
//! words ordered from rare to frequent, two sets of Jaccard index t or more share a word among the
//! first `size - ceil(t * size) + 1` of each.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::select::{WordSets, jaccard};

/// An index over the word sets of the train rows.
pub(super) struct NearIndex<'a> {
    threshold: f32,
    sets: &'a WordSets,
    frequency: HashMap<u32, u32>,
    /// The rows whose prefix holds a word.
    rows: HashMap<u32, Vec<u32>>,
}

impl<'a> NearIndex<'a> {
    /// `sets` holds one set a row.
    pub(super) fn new(sets: &'a WordSets, threshold: f32) -> Self {
        let mut frequency = HashMap::new();
        for word in sets.iter().flatten() {
            *frequency.entry(*word).or_insert(0) += 1;
        }
        let mut index = Self {
            threshold,
            sets,
            frequency,
            rows: HashMap::new(),
        };
        for (row, set) in sets.iter().enumerate() {
            let row = u32::try_from(row).expect("fewer than 2^32 rows");
            for word in index.prefix(set) {
                index.rows.entry(word).or_default().push(row);
            }
        }
        index
    }

    /// The likest train row of each set and the Jaccard index, where that reaches the threshold; of
    /// equally like ones the lowest.
    pub(super) fn likest(&self, sets: &WordSets) -> Vec<Option<(usize, f32)>> {
        let each = (0..sets.len()).into_par_iter();
        each.map(|row| self.likest_to(sets.get(row))).collect()
    }

    fn likest_to(&self, set: &[u32]) -> Option<(usize, f32)> {
        let mut candidates: Vec<u32> = self
            .prefix(set)
            .iter()
            .filter_map(|word| self.rows.get(word))
            .flatten()
            .copied()
            .collect();
        candidates.sort_unstable();
        candidates.dedup();
        let mut best: Option<(usize, f32)> = None;
        for row in candidates {
            let likeness = jaccard(set, self.sets.get(row as usize));
            if likeness >= self.threshold && best.is_none_or(|(_, held)| likeness > held) {
                best = Some((row as usize, likeness));
            }
        }
        best
    }

    /// The rarest words of a set, as many as the filter needs.
    fn prefix(&self, set: &[u32]) -> Vec<u32> {
        let mut words = set.to_vec();
        words.sort_by_key(|word| (self.frequency.get(word).copied().unwrap_or(0), *word));
        // A little less than the threshold, for the rounding of f32.
        let kept = (f64::from(self.threshold) * set.len() as f64 - 1e-4).ceil() as usize;
        words.truncate(set.len() + 1 - kept.clamp(1, set.len().max(1)));
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Texts of few different words.
    fn sets(most: usize) -> impl Strategy<Value = WordSets> {
        prop::collection::vec("([a-l] ){0,9}", 1..most).prop_map(|texts| {
            let mut sets = WordSets::default();
            texts.iter().for_each(|text| sets.push(text));
            sets
        })
    }

    proptest! {
        #[test]
        fn the_index_finds_what_comparing_all_pairs_finds(
            train in sets(40), queries in sets(10), threshold in 0.3f32..=1.0,
        ) {
            let found = NearIndex::new(&train, threshold).likest(&queries);
            for (query, found) in queries.iter().zip(found) {
                let mut best: Option<(usize, f32)> = None;
                for (row, set) in train.iter().enumerate() {
                    let likeness = jaccard(query, set);
                    if likeness >= threshold && best.is_none_or(|(_, held)| likeness > held) {
                        best = Some((row, likeness));
                    }
                }
                prop_assert_eq!(found, best);
            }
        }
    }
}
