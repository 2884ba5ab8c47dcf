//! Leakage: what an evaluation could know of its own answers through the training split.
//!
//! [`EvalRows`] keeps eval rows out of the knowledge base; [`LeakageReport`] measures the rest.

mod near;
mod report;

use std::collections::HashMap;
use std::path::PathBuf;

pub use report::{ColumnOverlap, Distribution, LeakageReport, NearPair, SplitLeakage};

use crate::dataset::Split;
use crate::fingerprint::sha256_of_text;
use crate::{AugmentError, Row, Task};

/// The rows of the splits that are evaluated, to recognise them among the train rows.
pub(crate) struct EvalRows<'a> {
    task: &'a Task,
    by_text: HashMap<Key, EvalRow>,
}

/// Question and answer, hashed.
type Key = [u8; 16];

/// Where an eval row stands.
#[derive(Debug, Clone)]
pub(crate) struct EvalRow {
    split: String,
    path: PathBuf,
    row: usize,
}

impl<'a> EvalRows<'a> {
    /// Reads the question and the answer of every row.
    pub(crate) fn read<'s>(
        task: &'a Task,
        splits: impl Iterator<Item = (&'s str, &'s Split)>,
    ) -> Result<Self, AugmentError> {
        let mut by_text = HashMap::new();
        for (name, split) in splits {
            for range in split.chunks(CHUNK) {
                for row in split.rows(range)? {
                    by_text.entry(key(task, &row)).or_insert_with(|| EvalRow {
                        split: name.to_owned(),
                        path: split.path().to_owned(),
                        row: row.index,
                    });
                }
            }
        }
        Ok(Self { task, by_text })
    }

    /// The eval row that has the question and the answer of a train row.
    pub(crate) fn equal_to(&self, row: &Row) -> Option<&EvalRow> {
        self.by_text.get(&key(self.task, row))
    }
}

impl EvalRow {
    /// The error for `train_row` of `train_split`, which equals this row.
    pub(crate) fn as_error(&self, train_split: &str, train_row: &Row) -> AugmentError {
        AugmentError::LeakedRow {
            split: self.split.clone(),
            path: self.path.clone(),
            row: self.row,
            train_split: train_split.to_owned(),
            train_row: train_row.index,
        }
    }
}

/// Rows that are read together.
const CHUNK: usize = 4096;

fn key(task: &Task, row: &Row) -> Key {
    let (question, answer) = (row.text(&task.query_column), row.text(&task.answer_column));
    // A length goes before the texts, so that no two pairs run together.
    let (question, answer) = (question.trim(), answer.trim());
    let digest = sha256_of_text(&format!("{} {question}{answer}", question.len()));
    digest[..16].try_into().expect("16 bytes of 32")
}
