//! Examples by the likeness of the answer's skeleton.
//!
//! An answer without its names and values says what kind of question it answers (for text to SQL:
//! Gao et al. 2023, "DAIL-SQL", arXiv:2308.15363). For rows of the train split the skeleton is the gold
//! answer's; for others the gold answer is not to be seen, and a draft's skeleton stands for it.
//!
//! Rows are ordered by likeness ([`Skeletons`]), and where that is equal, as it often is, by the cosine
//! of the questions.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rayon::prelude::*;

use super::drafts::read_drafts;
use super::likeness::Skeletons;
use super::{
    Allowed, Example, Queries, Select, SelectError, SemanticSelector, Sources, for_each_chunk,
};
use crate::embed::Embeddings;
use crate::{AugmentError, Task};

/// Likest skeleton of the answer; of equally like ones the nearest question.
pub struct SkeletonSelector<'a> {
    task: &'a Task,
    drafts_path: &'a str,
    /// Skeletons of the drafts, once they were read: training alone needs none.
    drafts: Mutex<Option<Arc<Vec<String>>>>,
    skeletons: Skeletons,
    semantic: SemanticSelector<'a>,
}

/// Queries whose likeness to all skeletons is in memory at a time.
const BLOCK: usize = 256;

impl<'a> SkeletonSelector<'a> {
    /// Embeds the train rows' questions, and takes their answers apart.
    ///
    /// # Errors
    /// As [`SemanticSelector::new`].
    pub fn new(sources: &Sources<'a>) -> Result<Self, AugmentError> {
        let task = sources.task;
        let mut skeletons = Skeletons::default();
        for_each_chunk(sources.train, |rows| {
            let of_rows = rows
                .par_iter()
                .map(|row| task.skeleton(&row.text(&task.answer_column)));
            for skeleton in of_rows.collect::<Vec<_>>() {
                skeletons.push(skeleton);
            }
            Ok(())
        })?;
        Ok(Self {
            task,
            drafts_path: &sources.retrieval.drafts,
            drafts: Mutex::new(None),
            skeletons,
            semantic: SemanticSelector::new(sources)?,
        })
    }

    fn of_queries(&self, queries: &Queries<'_>) -> Result<Vec<String>, AugmentError> {
        if queries.own {
            let gold = queries.rows.iter().map(|row| {
                let answer = row.text(&self.task.answer_column);
                self.task.skeleton(&answer)
            });
            return Ok(gold.collect());
        }
        let drafts = self.drafts(queries.split)?;
        if drafts.len() != queries.split_rows {
            let problem = format!(
                "it has {} drafts, and split `{}` has {} rows",
                drafts.len(),
                queries.split,
                queries.split_rows
            );
            let path = self.drafts_path.into();
            return Err(SelectError::BadDrafts { path, problem }.into());
        }
        Ok(drafts[queries.start..][..queries.rows.len()].to_vec())
    }

    fn drafts(&self, split: &str) -> Result<Arc<Vec<String>>, AugmentError> {
        let mut read = self.drafts.lock().expect("reading does not panic");
        if let Some(drafts) = &*read {
            return Ok(drafts.clone());
        }
        if self.drafts_path.is_empty() {
            let split = split.into();
            return Err(SelectError::NoDrafts { split }.into());
        }
        let drafts = read_drafts(Path::new(self.drafts_path))?;
        let skeletons = drafts.iter().map(|draft| self.task.skeleton(draft));
        let skeletons = Arc::new(skeletons.collect());
        *read = Some(Arc::clone(&skeletons));
        Ok(skeletons)
    }

    /// The examples of a block: `wanted` has the skeletons, `vectors` the questions' embeddings.
    fn select_block(
        &self,
        wanted: &[String],
        vectors: &Embeddings,
        n: usize,
        allowed: &Allowed<'_>,
    ) -> Result<Vec<Vec<Example>>, AugmentError> {
        let mut known: HashMap<&str, Ranking> = HashMap::new();
        for skeleton in wanted {
            known
                .entry(skeleton)
                .or_insert_with(|| Ranking::new(self.skeletons.likeness(skeleton)));
        }
        let rankings: Vec<&Ranking> = wanted.iter().map(|text| &known[text.as_str()]).collect();
        let last = rankings.par_iter().enumerate().map(|(query, ranking)| {
            ranking.nth_likeness(&self.skeletons, n, |row| allowed(query, row))
        });
        let last: Vec<f32> = last.collect();
        let likeness =
            |query: usize, row: usize| rankings[query].likeness[self.skeletons.of_row(row)];

        let store = self.semantic.store();
        // Fewer than `n` rows are liker than the last: all are found, and a stable sort keeps the
        // nearer question first.
        let liker = |query, row| likeness(query, row) > last[query] && allowed(query, row);
        let as_like = |query, row| likeness(query, row) == last[query] && allowed(query, row);
        let mut chosen = match n {
            0 | 1 => vec![Vec::new(); wanted.len()],
            _ => store.nearest(vectors, n, &liker)?,
        };
        let rest = store.nearest(vectors, n, &as_like)?;
        for (query, (chosen, rest)) in chosen.iter_mut().zip(rest).enumerate() {
            chosen.extend(rest);
            for example in &mut *chosen {
                example.score = likeness(query, example.row);
            }
            chosen.sort_by(|a, b| b.score.total_cmp(&a.score));
            chosen.truncate(n);
        }
        Ok(chosen)
    }
}

impl Select for SkeletonSelector<'_> {
    fn select(
        &self,
        queries: &Queries<'_>,
        n: usize,
        allowed: &Allowed<'_>,
    ) -> Result<Vec<Vec<Example>>, AugmentError> {
        let wanted = self.of_queries(queries)?;
        let vectors = self.semantic.embed(queries.rows)?;
        let dimension = vectors.dimension();
        let mut chosen = Vec::with_capacity(queries.rows.len());
        for (block, wanted) in wanted.chunks(BLOCK).enumerate() {
            let start = block * BLOCK;
            let values = &vectors.values()[start * dimension..][..wanted.len() * dimension];
            let vectors = Embeddings::new(dimension, values.to_vec());
            let allowed = |query: usize, row: usize| allowed(start + query, row);
            chosen.extend(self.select_block(wanted, &vectors, n, &allowed)?);
        }
        Ok(chosen)
    }
}

/// How like one skeleton all distinct ones are.
struct Ranking {
    /// By number.
    likeness: Vec<f32>,
    /// Numbers by falling likeness.
    order: Vec<u32>,
}

impl Ranking {
    fn new(likeness: Vec<f32>) -> Self {
        let mut order: Vec<u32> = (0..likeness.len() as u32).collect();
        order.sort_by(|a, b| likeness[*b as usize].total_cmp(&likeness[*a as usize]));
        Self { likeness, order }
    }

    /// The likeness of the `n`-th likest allowed row; below all where fewer are allowed.
    fn nth_likeness(
        &self,
        skeletons: &Skeletons,
        n: usize,
        allowed: impl Fn(usize) -> bool,
    ) -> f32 {
        let mut found = 0;
        for &number in &self.order {
            let rows = skeletons.rows(number as usize).iter();
            found += rows
                .filter(|row| allowed(**row as usize))
                .take(n - found)
                .count();
            if found == n {
                return self.likeness[number as usize];
            }
        }
        f32::NEG_INFINITY
    }
}
