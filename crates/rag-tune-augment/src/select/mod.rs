//! Which train rows become a row's examples: a selector orders them, constraints rule some out.

mod eligibility;
mod random;

use serde::{Deserialize, Serialize};

pub use eligibility::{Eligibility, Origin};
pub use random::random;

use crate::embed::Embeddings;
use crate::knowledge_base::KnowledgeBase;

/// `[retrieval]`: how many examples a prompt gets, and which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetrievalConfig {
    /// Examples in each prompt; 0 is the zero-shot arm.
    pub examples: usize,
    /// How examples are chosen: `semantic` (nearest question) or `random`.
    pub selector: Selector,
    /// The embedding model of the semantic selector: hub id or folder.
    pub embedder: String,
    /// Columns in which an example must differ from the row, such as `["db_id"]`.
    pub different: Vec<String>,
}

impl Default for RetrievalConfig {
    fn default() -> Self {
        Self {
            examples: 1,
            selector: Selector::Semantic,
            embedder: "sentence-transformers/all-MiniLM-L6-v2".into(),
            different: Vec::new(),
        }
    }
}

impl RetrievalConfig {
    /// Whether examples are found by meaning, so that an embedder is needed.
    pub fn needs_embedder(&self) -> bool {
        self.examples > 0 && self.selector == Selector::Semantic
    }

    /// All problems of this section; none if the list is empty.
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.needs_embedder() && self.embedder.trim().is_empty() {
            problems.push("`retrieval.embedder` must name a hub id or a folder".into());
        }
        for (position, column) in self.different.iter().enumerate() {
            if column.is_empty() {
                problems.push("`retrieval.different` must not have an empty column name".into());
            } else if self.different[..position].contains(column) {
                problems.push(format!("`retrieval.different` has `{column}` twice"));
            }
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
    /// Drawn by the seed: the control that says what nearness is worth.
    Random,
}

/// A train row chosen for another row's prompt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Index in the train split, from 0.
    pub row: usize,
    /// Cosine similarity of the two questions; 0 where the selector does not measure it.
    pub score: f32,
}

/// The `n` eligible train rows nearest to each query, closest first; fewer where fewer are
/// eligible.
pub fn semantic(
    knowledge_base: &KnowledgeBase,
    queries: &Embeddings,
    eligibility: &Eligibility,
    n: usize,
) -> Vec<Vec<Example>> {
    knowledge_base.nearest(queries, n, |query, row| eligibility.allows(query, row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Row;
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
            let different = vec!["db_id".to_owned()];
            let knowledge_base = KnowledgeBase::new(vectors(&train_texts));
            let cases = [
                (&train, &train_texts, Origin::KnowledgeBase),
                (&other, &other_texts, Origin::OtherSplit),
            ];
            for (queries, query_texts, origin) in cases {
                let eligible = Eligibility::new("question", &different, &train, queries, origin);
                let own = origin == Origin::KnowledgeBase;
                let nearest = semantic(&knowledge_base, &vectors(query_texts), &eligible, n);
                check_laws(&nearest, &train, queries, n, own);
                for examples in &nearest {
                    let ordered = |pair: &[Example]| {
                        pair[0].score > pair[1].score
                            || (pair[0].score == pair[1].score && pair[0].row < pair[1].row)
                    };
                    prop_assert!(examples.windows(2).all(ordered), "{examples:?}");
                }
                let drawn = random(seed, "split", &eligible, n);
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
