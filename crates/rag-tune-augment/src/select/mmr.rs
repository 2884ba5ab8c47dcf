//! Examples near to the question and unlike each other.
//!
//! Maximal marginal relevance (Carbonell and Goldstein 1998, doi:10.1145/290941.291025): after the nearest row,
//! each next one is the candidate `d` of the largest
//! `lambda cos(d, question) - (1 - lambda) max over chosen s of cos(d, s)`.

use std::collections::BTreeSet;

use rayon::prelude::*;

use super::{Allowed, Example, Queries, Select, SemanticSelector, Sources, pool_size};
use crate::AugmentError;

/// Nearest questions, thinned out where they repeat each other. The score is the cosine to the question.
pub struct MmrSelector<'a> {
    semantic: SemanticSelector<'a>,
    lambda: f32,
}

/// Queries whose candidates' vectors are fetched together: a store over HTTP is asked less often.
const BLOCK: usize = 64;

impl<'a> MmrSelector<'a> {
    /// Embeds the train rows' questions.
    ///
    /// # Errors
    /// As [`SemanticSelector::new`].
    pub fn new(sources: &Sources<'a>) -> Result<Self, AugmentError> {
        Ok(Self {
            semantic: SemanticSelector::new(sources)?,
            lambda: sources.retrieval.mmr_lambda,
        })
    }

    fn thin_out(
        &self,
        pools: &[Vec<Example>],
        n: usize,
    ) -> Result<Vec<Vec<Example>>, AugmentError> {
        let rows: BTreeSet<usize> = pools.iter().flatten().map(|example| example.row).collect();
        let rows: Vec<usize> = rows.into_iter().collect();
        if rows.is_empty() {
            return Ok(pools.to_vec());
        }
        let vectors = self.semantic.store().vectors(&rows)?;
        let vector = |example: &Example| {
            let at = rows.binary_search(&example.row);
            vectors.row(at.expect("all candidates' vectors were asked for"))
        };
        Ok(pools
            .iter()
            .map(|pool| {
                let vectors: Vec<&[f32]> = pool.iter().map(vector).collect();
                let chosen = marginal_relevance(pool, &vectors, n, self.lambda);
                chosen.into_iter().map(|at| pool[at]).collect()
            })
            .collect())
    }
}

impl Select for MmrSelector<'_> {
    fn select(
        &self,
        queries: &Queries<'_>,
        n: usize,
        allowed: &Allowed<'_>,
    ) -> Result<Vec<Vec<Example>>, AugmentError> {
        if n <= 1 {
            return self.semantic.select(queries, n, allowed);
        }
        let pools = self.semantic.select(queries, pool_size(n), allowed)?;
        let blocks = pools.par_chunks(BLOCK).map(|pools| self.thin_out(pools, n));
        Ok(blocks.collect::<Result<Vec<_>, _>>()?.concat())
    }
}

/// Positions in `pool`, which is sorted by falling cosine to the question; of equal values the earlier.
fn marginal_relevance(pool: &[Example], vectors: &[&[f32]], n: usize, lambda: f32) -> Vec<usize> {
    let mut chosen = Vec::new();
    // Of each candidate, the largest cosine to a chosen row.
    let mut likeness = vec![f32::NEG_INFINITY; pool.len()];
    let mut next = (!pool.is_empty()).then_some(0);
    while let Some(at) = next.filter(|_| chosen.len() < n) {
        chosen.push(at);
        for (other, likeness) in likeness.iter_mut().enumerate() {
            *likeness = likeness.max(dot(vectors[other], vectors[at]));
        }
        let value = |at: usize| lambda * pool[at].score - (1.0 - lambda) * likeness[at];
        let rest = (0..pool.len()).filter(|at| !chosen.contains(at));
        next = rest.reduce(|best, at| if value(at) > value(best) { at } else { best });
    }
    chosen
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embed::Embeddings;
    use proptest::prelude::*;

    fn pool_of(angles: &[f32]) -> (Vec<Example>, Embeddings) {
        let mut angles = angles.to_vec();
        angles.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
        // The question lies at angle 0.
        let example = |(row, angle): (usize, &f32)| Example {
            row,
            score: angle.cos(),
        };
        let pool = angles.iter().enumerate().map(example).collect();
        let values = angles.iter().flat_map(|angle| [angle.cos(), angle.sin()]);
        (pool, Embeddings::new(2, values.collect()))
    }

    fn choose(angles: &[f32], n: usize, lambda: f32) -> Vec<usize> {
        let (pool, vectors) = pool_of(angles);
        let vectors: Vec<&[f32]> = (0..pool.len()).map(|at| vectors.row(at)).collect();
        marginal_relevance(&pool, &vectors, n, lambda)
    }

    /// 0.11 repeats 0.1; -0.3 is farther from the question but says something else.
    #[test]
    fn lambda_weighs_nearness_against_repetition() {
        let angles = [0.1, 0.11, -0.3];
        assert_eq!(choose(&angles, 2, 1.0), [0, 1]);
        assert_eq!(choose(&angles, 2, 0.5), [0, 2]);
        assert_eq!(choose(&angles, 3, 0.5), [0, 2, 1]);
        assert_eq!(choose(&[], 2, 0.5), [0; 0]);
    }

    /// As the definition has it, every maximum taken anew.
    fn plain(pool: &[Example], vectors: &[&[f32]], n: usize, lambda: f32) -> Vec<usize> {
        let mut chosen: Vec<usize> = Vec::new();
        while chosen.len() < n.min(pool.len()) {
            let mut best = None;
            for at in (0..pool.len()).filter(|at| !chosen.contains(at)) {
                let to_chosen = chosen.iter().map(|&other| dot(vectors[at], vectors[other]));
                let repeats = to_chosen.fold(f32::NEG_INFINITY, f32::max);
                let value = if chosen.is_empty() {
                    pool[at].score
                } else {
                    lambda * pool[at].score - (1.0 - lambda) * repeats
                };
                if best.is_none_or(|(_, held)| value > held) {
                    best = Some((at, value));
                }
            }
            chosen.extend(best.map(|(at, _)| at));
        }
        chosen
    }

    proptest! {
        #[test]
        fn equals_the_plain_definition(
            angles in prop::collection::vec(-3i8..=3, 0..12), n in 0usize..8, lambda in 0.0f32..=1.0,
        ) {
            let angles: Vec<f32> = angles.into_iter().map(|angle| f32::from(angle) / 2.0).collect();
            let (pool, vectors) = pool_of(&angles);
            let vectors: Vec<&[f32]> = (0..pool.len()).map(|at| vectors.row(at)).collect();
            prop_assert_eq!(
                marginal_relevance(&pool, &vectors, n, lambda),
                plain(&pool, &vectors, n, lambda)
            );
        }
    }
}
