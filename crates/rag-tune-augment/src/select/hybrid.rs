//! Examples by meaning and by words together.
//!
//! Reciprocal rank fusion (Cormack et al. 2009, doi:10.1145/1571941.1572114): a row's score is the sum of
//! `1 / (60 + rank)` over the rankings that have it, the first rank being 1. Scores of the two kinds,
//! which have no common scale, are not compared.

use std::collections::BTreeMap;

use super::{
    Allowed, Bm25Selector, Example, Queries, Select, SemanticSelector, Sources, pool_size,
};
use crate::AugmentError;

/// The constant of the paper: how slowly a rank loses weight.
const K: f64 = 60.0;

/// [`SemanticSelector`] and [`Bm25Selector`], fused.
pub struct HybridSelector<'a> {
    semantic: SemanticSelector<'a>,
    bm25: Bm25Selector,
}

impl<'a> HybridSelector<'a> {
    /// Embeds and indexes the train rows' questions.
    ///
    /// # Errors
    /// As [`SemanticSelector::new`] and [`Bm25Selector::new`].
    pub fn new(sources: &Sources<'a>) -> Result<Self, AugmentError> {
        Ok(Self {
            semantic: SemanticSelector::new(sources)?,
            bm25: Bm25Selector::new(sources)?,
        })
    }
}

impl Select for HybridSelector<'_> {
    fn select(
        &self,
        queries: &Queries<'_>,
        n: usize,
        allowed: &Allowed<'_>,
    ) -> Result<Vec<Vec<Example>>, AugmentError> {
        let pool = pool_size(n);
        let semantic = self.semantic.select(queries, pool, allowed)?;
        let mut bm25 = self.bm25.select(queries, pool, allowed)?;
        for ranking in &mut bm25 {
            // Rows without a common word are there to fill up: their rank says nothing.
            ranking.retain(|example| example.score > 0.0);
        }
        let both = semantic.iter().zip(&bm25);
        Ok(both
            .map(|(semantic, bm25)| fuse(&[semantic, bm25], n))
            .collect())
    }
}

/// The `n` best of several rankings; of equal scores the lower row first.
fn fuse(rankings: &[&[Example]], n: usize) -> Vec<Example> {
    let mut scores = BTreeMap::new();
    for ranking in rankings {
        for (rank, example) in (1..).zip(*ranking) {
            *scores.entry(example.row).or_insert(0.0) += 1.0 / (K + f64::from(rank));
        }
    }
    let mut fused: Vec<(usize, f64)> = scores.into_iter().collect();
    // Stable, so the lower row stays first.
    fused.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    fused.truncate(n);
    let example = |(row, score)| Example {
        row,
        score: score as f32,
    };
    fused.into_iter().map(example).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranking(rows: &[usize]) -> Vec<Example> {
        let example = |row: &usize| Example {
            row: *row,
            score: 1.0,
        };
        rows.iter().map(example).collect()
    }

    #[test]
    fn a_row_of_both_rankings_beats_the_first_of_one() {
        let fused = fuse(&[&ranking(&[9, 4, 7]), &ranking(&[3, 7])], 4);
        let rows: Vec<usize> = fused.iter().map(|example| example.row).collect();
        // 7: 1/63 + 1/62; 3 and 9: 1/61 each, the lower row first; 4: 1/62.
        assert_eq!(rows, [7, 3, 9, 4]);
        assert_eq!(fused[0].score, (1.0f64 / 63.0 + 1.0 / 62.0) as f32);
        assert_eq!(
            fuse(&[&ranking(&[1, 2]), &[]], 1),
            fuse(&[&ranking(&[1])], 9)
        );
    }
}
