//! Which train rows become a row's examples: a selector orders them, constraints rule some out.
//!
//! A selector is one file: `semantic` (also masked), `random`, `bm25`, `hybrid`, `mmr`, `skeleton`.
//! [`Constraints`] answer for each pair whether it may be, [`Noise`] replaces some choices in training.

mod best;
mod bm25;
mod comparison;
mod condition;
mod config;
mod constraints;
mod drafts;
mod error;
mod hybrid;
mod likeness;
mod mmr;
mod noise;
mod random;
mod semantic;
mod skeleton;
mod word_sets;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use bm25::Bm25Selector;
pub use condition::check_condition;
pub use config::{EmbedderCompute, NoiseDraw, Order, RetrievalConfig, Selector, StoreKind};
pub use constraints::{Constraints, QueryConstraints};
pub use error::SelectError;
pub use hybrid::HybridSelector;
pub use mmr::MmrSelector;
pub use noise::{Noise, arrange};
pub use random::RandomSelector;
pub use semantic::SemanticSelector;
pub use skeleton::SkeletonSelector;
pub(crate) use word_sets::{WordSets, jaccard};

use crate::dataset::Split;
use crate::embed::Embedder;
use crate::{AugmentError, Progress, Row, Task};

/// A train row chosen for another row's prompt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Index in the train split, from 0.
    pub row: usize,
    /// What the selector went by, larger is closer: the cosine of the two questions (semantic, masked, mmr), the BM25
    /// score, the fused score (hybrid), the likeness of the skeletons; 0 where it measures nothing (random).
    pub score: f32,
}

/// Whether, for a query's position and a train row, the one may get the other as an example.
pub type Allowed<'a> = dyn Fn(usize, usize) -> bool + Sync + 'a;

/// Some query rows that follow each other in their split.
#[derive(Debug, Clone, Copy)]
pub struct Queries<'a> {
    /// The split's name.
    pub split: &'a str,
    /// Whether that is the split that examples come from.
    pub own: bool,
    /// Index of the first row in its split.
    pub start: usize,
    /// Number of rows in the whole split.
    pub split_rows: usize,
    /// The rows.
    pub rows: &'a [Row],
}

/// Orders the train rows by how useful they are as examples. A further selector is one more file here.
pub trait Select: Sync {
    /// The `n` best allowed train rows for each query, best first; fewer where fewer are allowed.
    /// `allowed` takes positions in `queries.rows`. The result for a row does not depend on the rows
    /// that it is asked for with.
    ///
    /// # Errors
    /// What embedding or the store reports.
    fn select(
        &self,
        queries: &Queries<'_>,
        n: usize,
        allowed: &Allowed<'_>,
    ) -> Result<Vec<Vec<Example>>, AugmentError>;
}

/// What selectors are made from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The task: which column is compared.
    pub task: &'a Task,
    /// The `[retrieval]` section.
    pub retrieval: &'a RetrievalConfig,
    /// The rows that examples are taken from.
    pub train: &'a Split,
    /// What random choices are drawn by.
    pub seed: u64,
    /// Where the selector needs one.
    pub embedder: Option<&'a dyn Embedder>,
    /// A folder that keeps vectors between runs.
    pub cache: Option<&'a Path>,
    /// Who is told how far it is.
    pub progress: &'a dyn Progress,
}

impl<'a> Sources<'a> {
    /// The selector that the config names.
    ///
    /// # Errors
    /// What reading the train rows, embedding them, or the store reports.
    pub fn selector(&self) -> Result<Box<dyn Select + 'a>, AugmentError> {
        match self.retrieval.selector {
            Selector::Semantic => Ok(Box::new(SemanticSelector::new(self)?)),
            Selector::Masked => Ok(Box::new(SemanticSelector::masked(self)?)),
            Selector::Bm25 => Ok(Box::new(Bm25Selector::new(self)?)),
            Selector::Hybrid => Ok(Box::new(HybridSelector::new(self)?)),
            Selector::Skeleton => Ok(Box::new(SkeletonSelector::new(self)?)),
            Selector::Mmr => Ok(Box::new(MmrSelector::new(self)?)),
            Selector::Random => Ok(Box::new(self.random())),
        }
    }

    /// The random selector, which noise draws from too.
    pub fn random(&self) -> RandomSelector {
        RandomSelector::new(self.seed, self.train.len())
    }
}

/// Rows that are read and worked on together.
const CHUNK: usize = 8192;

fn for_each_chunk(
    train: &Split,
    mut act: impl FnMut(&[Row]) -> Result<(), AugmentError>,
) -> Result<(), AugmentError> {
    for range in train.chunks(CHUNK) {
        act(&train.rows(range)?)?;
    }
    Ok(())
}

/// How many of the best rows are looked at again where `n` are wanted.
fn pool_size(n: usize) -> usize {
    n.saturating_mul(10).max(50)
}

#[cfg(test)]
mod laws;
