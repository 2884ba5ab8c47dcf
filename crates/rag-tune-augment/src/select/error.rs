//! What can go wrong when examples are chosen.

use std::path::PathBuf;

/// An error of the selection; part of [`crate::AugmentError`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum SelectError {
    /// Fewer train rows are allowed for a row than it should get.
    #[error(
        "split `{split}` row {row}: only {available} of {rows} train rows may be its examples, \
         `retrieval.examples` asks for {wanted}"
    )]
    TooFewExamples {
        /// The split.
        split: String,
        /// From 0.
        row: usize,
        /// Train rows that pass the constraints.
        available: usize,
        /// Train rows in the knowledge base.
        rows: usize,
        /// Examples asked for.
        wanted: usize,
        /// The constraints that the config sets, as it spells them.
        constraints: Vec<String>,
    },
    /// A search that is not exact missed rows that are allowed.
    #[error(
        "split `{split}` row {row}: the search found {found} of {wanted} examples, though {available} \
         train rows may be its examples"
    )]
    Incomplete {
        /// The split.
        split: String,
        /// From 0.
        row: usize,
        /// Examples found.
        found: usize,
        /// Train rows that pass the constraints.
        available: usize,
        /// Examples asked for.
        wanted: usize,
    },
    /// `retrieval.where` cannot be used.
    #[error("`retrieval.where = {expression:?}` cannot be used: {problem}")]
    BadCondition {
        /// The condition.
        expression: String,
        /// What is wrong with it.
        problem: String,
    },
    /// `retrieval.where` could not be evaluated for a row and a train row.
    #[error(
        "`retrieval.where = {expression:?}` cannot be evaluated for {}: {problem}",
        place(*row, *example)
    )]
    Condition {
        /// The condition.
        expression: String,
        /// The row in its split, from 0; `None` where the condition does not look at it.
        row: Option<usize>,
        /// The train row, from 0.
        example: usize,
        /// What the template engine said.
        problem: String,
    },
    /// The selector needs draft answers, and none are named.
    #[error("selector `skeleton` has no draft answers for split `{split}`")]
    NoDrafts {
        /// The split.
        split: String,
    },
    /// The file of draft answers cannot be used.
    #[error("draft answers `{path}`: {problem}")]
    BadDrafts {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

fn place(row: Option<usize>, example: usize) -> String {
    match row {
        Some(row) => format!("row {row} with train row {example} as `example`"),
        None => format!("train row {example} as `example`"),
    }
}

impl SelectError {
    /// How to mend it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::TooFewExamples {
                available,
                constraints,
                ..
            } => {
                let fewer = format!("set `retrieval.examples` to at most {available}");
                Some(match constraints.as_slice() {
                    [] => fewer,
                    constraints => {
                        format!("{fewer}, or loosen `{}`", constraints.join("` or `"))
                    }
                })
            }
            Self::Incomplete { .. } => {
                Some("set `retrieval.store = \"exact\"`, which misses none".into())
            }
            Self::BadCondition { .. } => Some(
                "it sees `row.<column>` and `example.<column>`, such as `example.level <= row.level`".into(),
            ),
            Self::Condition { .. } => Some(
                "a text of digits becomes a number with `|int` or `|float`, such as `row.level|int < 3`; \
                 the result must be true or false".into(),
            ),
            Self::NoDrafts { .. } | Self::BadDrafts { .. } => Some(
                "evaluate the split with another selector first (`rag-tune eval`), and set `retrieval.drafts` \
                 to the predictions.jsonl that it writes".into(),
            ),
        }
    }
}
