//! Which train rows become a row's examples: a selector orders them, constraints rule some out.

mod constraints;
mod error;
mod random;
mod semantic;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use constraints::{Constraints, QueryConstraints};
pub use error::SelectError;
pub use random::RandomSelector;
pub use semantic::SemanticSelector;

use crate::dataset::Split;
use crate::embed::Embedder;
use crate::{AugmentError, Progress, Row, Task};

/// `[retrieval]`: how many examples a prompt gets, and which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetrievalConfig {
    /// Examples in each prompt; 0 is the zero-shot arm.
    pub examples: usize,
    /// How examples are chosen: `semantic` (nearest question), `masked` (nearest question after schema words, names
    /// and numbers were masked), `bm25` (shared words), `hybrid` (semantic and bm25 fused), `skeleton` (likest
    /// answer), `mmr` (near and unlike each other), or `random`.
    pub selector: Selector,
    /// Whether the closest example stands first or last in the prompt: `closest_first` or `closest_last`.
    pub order: Order,
    /// The embedding model: a hub id or folder of a BERT-family encoder or of static embeddings, a file of
    /// vectors, or the model's name at `endpoint`.
    pub embedder: String,
    /// Which of the model's own prompts goes before each text (`query`, say); empty: the model's default.
    pub embedder_prompt: String,
    /// Address of an OpenAI-compatible embedding service, such as `https://api.openai.com/v1`. Empty: embed locally.
    pub endpoint: String,
    /// Environment variable that holds the endpoint's key.
    pub endpoint_key: String,
    /// Where vectors are searched: `exact` (in this process) or `chroma` (a Chroma server).
    pub store: StoreKind,
    /// Folder of the exact store; empty: in the cache.
    pub store_folder: String,
    /// Address of the Chroma server.
    pub chroma_url: String,
    /// Columns in which an example must differ from the row, such as `["db_id"]`.
    pub different: Vec<String>,
    /// Columns in which an example must equal the row.
    pub same: Vec<String>,
    /// A condition on row and example, such as `example.level <= row.level`; empty: none.
    pub r#where: String,
    /// Examples whose question shares this much of its words with the row's (Jaccard index) are ruled out as
    /// near duplicates; 1 rules out equal texts only.
    pub near_duplicate: f32,
    /// `mmr`: 1 looks at nearness alone, 0 at unlikeness alone.
    pub mmr_lambda: f32,
    /// `skeleton`: the file of draft answers for the eval split, a prediction a row, such as an earlier evaluation's
    /// `predictions.jsonl`.
    pub drafts: String,
    /// Share of training rows whose examples are drawn at random instead, so that the adapter learns not to trust them.
    pub noise_random: f32,
    /// Share of training rows that get no examples.
    pub noise_none: f32,
    /// Whether that noise is drawn `once`, or anew for `each_epoch`.
    pub noise_draw: NoiseDraw,
}

impl Default for RetrievalConfig {
    fn default() -> Self {
        Self {
            examples: 1,
            selector: Selector::Semantic,
            order: Order::ClosestFirst,
            embedder: "sentence-transformers/all-MiniLM-L6-v2".into(),
            embedder_prompt: String::new(),
            endpoint: String::new(),
            endpoint_key: "OPENAI_API_KEY".into(),
            store: StoreKind::Exact,
            store_folder: String::new(),
            chroma_url: "http://127.0.0.1:8000".into(),
            different: Vec::new(),
            same: Vec::new(),
            r#where: String::new(),
            near_duplicate: 1.0,
            mmr_lambda: 0.5,
            drafts: String::new(),
            noise_random: 0.0,
            noise_none: 0.0,
            noise_draw: NoiseDraw::Once,
        }
    }
}

impl RetrievalConfig {
    /// Whether examples are found by meaning, so that an embedder is needed.
    pub fn needs_embedder(&self) -> bool {
        self.examples > 0
            && matches!(
                self.selector,
                Selector::Semantic | Selector::Masked | Selector::Hybrid | Selector::Mmr
            )
    }

    /// All problems of this section; none if the list is empty.
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.needs_embedder() && self.embedder.trim().is_empty() {
            problems.push("`retrieval.embedder` must name a hub id or a folder".into());
        }
        for (name, columns) in [("different", &self.different), ("same", &self.same)] {
            for (position, column) in columns.iter().enumerate() {
                if column.is_empty() {
                    problems.push(format!(
                        "`retrieval.{name}` must not have an empty column name"
                    ));
                } else if columns[..position].contains(column) {
                    problems.push(format!("`retrieval.{name}` has `{column}` twice"));
                }
            }
        }
        for (name, share) in [
            ("near_duplicate", self.near_duplicate),
            ("mmr_lambda", self.mmr_lambda),
            ("noise_random", self.noise_random),
            ("noise_none", self.noise_none),
        ] {
            if !(0.0..=1.0).contains(&share) {
                problems.push(format!("`retrieval.{name}` must be from 0 to 1"));
            }
        }
        if self.noise_random + self.noise_none > 1.0 {
            problems.push(
                "`retrieval.noise_random` and `retrieval.noise_none` add up to more than 1".into(),
            );
        }
        problems
    }
}

/// How examples are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// Nearest by the cosine of the embedded questions.
    Semantic,
    /// As semantic, after schema words, names, values and numbers were masked.
    Masked,
    /// BM25 over the words of the questions.
    Bm25,
    /// Semantic and BM25, joined by reciprocal rank fusion.
    Hybrid,
    /// Likest skeleton of the answer: the gold answer's for train rows, a draft's for others.
    Skeleton,
    /// Maximal marginal relevance: near to the question and unlike each other.
    Mmr,
    /// Drawn by the seed: the control that says what nearness is worth.
    Random,
}

impl Selector {
    /// As the config spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Semantic => "semantic",
            Self::Masked => "masked",
            Self::Bm25 => "bm25",
            Self::Hybrid => "hybrid",
            Self::Skeleton => "skeleton",
            Self::Mmr => "mmr",
            Self::Random => "random",
        }
    }
}

/// Where the closest example stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// At the top.
    ClosestFirst,
    /// Next to the question.
    ClosestLast,
}

/// Where vectors are searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// In this process, exactly.
    Exact,
    /// In a Chroma server, through its index.
    Chroma,
}

/// How often the noise of training prompts is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseDraw {
    /// Once for all epochs.
    Once,
    /// Anew for each epoch.
    EachEpoch,
}

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
            Selector::Random => Ok(Box::new(self.random())),
            _ => Ok(Box::new(SemanticSelector::new(self)?)),
        }
    }

    /// The random selector, which noise draws from too.
    pub fn random(&self) -> RandomSelector {
        RandomSelector::new(self.seed, self.train.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embed::Embeddings;
    use crate::stores::{ExactStore, Store};
    use proptest::prelude::*;
    use serde_json::json;

    /// Rows of few texts and few databases, so that every constraint meets cases.
    fn rows(texts: &[(u8, u8)]) -> Vec<Row> {
        let row = |(index, &(question, db_id)): (usize, &(u8, u8))| {
            // The same question with more or less space around it.
            let question = format!("{}q{}", " ".repeat(index % 2), question);
            let fields = json!({"question": question, "db_id": format!("db{db_id}")});
            Row {
                index,
                fields: fields.as_object().unwrap().clone(),
            }
        };
        texts.iter().enumerate().map(row).collect()
    }

    fn vectors(texts: &[(u8, u8)]) -> Embeddings {
        let values = texts.iter().flat_map(|&(a, b)| {
            let angle = f32::from(a) + 0.1 * f32::from(b);
            [angle.cos(), angle.sin()]
        });
        Embeddings::new(2, values.collect())
    }

    /// What every selection must be, whoever made it.
    fn check_laws(chosen: &[Vec<Example>], train: &[Row], queries: &[Row], n: usize, own: bool) {
        for (query, examples) in queries.iter().zip(chosen) {
            let allowed = train.iter().filter(|row| {
                !(own && row.index == query.index)
                    && row.text("question").trim() != query.text("question").trim()
                    && row.text("db_id") != query.text("db_id")
            });
            let allowed: Vec<usize> = allowed.map(|row| row.index).collect();
            assert_eq!(examples.len(), n.min(allowed.len()));
            assert!(
                examples
                    .iter()
                    .all(|example| allowed.contains(&example.row))
            );
            let mut distinct: Vec<_> = examples.iter().map(|example| example.row).collect();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), examples.len());
        }
    }

    fn texts(most: usize) -> impl Strategy<Value = Vec<(u8, u8)>> {
        prop::collection::vec((0u8..6, 0u8..4), 1..most)
    }

    proptest! {
        #[test]
        fn every_selector_keeps_the_constraints(
            train_texts in texts(40), other_texts in texts(20), n in 0usize..6, seed: u64,
        ) {
            let (train, other) = (rows(&train_texts), rows(&other_texts));
            let retrieval = RetrievalConfig {
                different: vec!["db_id".to_owned()],
                ..RetrievalConfig::default()
            };
            let mut constraints = Constraints::new(&Task::sql(), &retrieval);
            constraints.push(&train);
            let store = ExactStore::new(vectors(&train_texts));
            let cases = [(&train, &train_texts, true), (&other, &other_texts, false)];
            for (queries, query_texts, own) in cases {
                let of_queries = constraints.of_queries(queries, own.then_some(0));
                let allowed = |query, row| of_queries.allows(query, row);
                let nearest = store.nearest(&vectors(query_texts), n, &allowed).unwrap();
                check_laws(&nearest, &train, queries, n, own);
                for examples in &nearest {
                    let ordered = |pair: &[Example]| {
                        pair[0].score > pair[1].score
                            || (pair[0].score == pair[1].score && pair[0].row < pair[1].row)
                    };
                    prop_assert!(examples.windows(2).all(ordered), "{examples:?}");
                }
                let asked = Queries { split: "split", own, start: 0, rows: queries };
                let random = RandomSelector::new(seed, train.len());
                let drawn = random.select(&asked, n, &allowed).unwrap();
                check_laws(&drawn, &train, queries, n, own);
            }
        }
    }

    #[test]
    fn config_problems_are_all_named() {
        let config = RetrievalConfig {
            embedder: " ".into(),
            different: vec!["a".into(), String::new(), "a".into()],
            ..RetrievalConfig::default()
        };
        assert_eq!(
            config.validate(),
            [
                "`retrieval.embedder` must name a hub id or a folder",
                "`retrieval.different` must not have an empty column name",
                "`retrieval.different` has `a` twice",
            ]
        );
        assert!(
            RetrievalConfig {
                examples: 0,
                different: vec![],
                ..config
            }
            .validate()
            .is_empty()
        );
    }
}
