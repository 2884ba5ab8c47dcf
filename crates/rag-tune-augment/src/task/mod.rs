//! What a task is to this crate: the columns it reads and the prompts it fills.
//!
//! A task is data: built in are `sql`, `gsm8k` and `functional`, and a `.toml` file describes any other.

mod error;
mod mask;
mod skeleton;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use error::TaskError;
pub use mask::{MASK, Masking};
pub use skeleton::SkeletonKind;

use crate::Row;
use crate::fingerprint::{hex, sha256_of_text};

/// The top-level `task` key of a config: the name of a built-in task, or the path of a task file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskName(String);

impl TaskName {
    /// From what the config says.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The task's description.
    ///
    /// # Errors
    /// [`TaskError::Unknown`], [`TaskError::BadFile`].
    pub fn load(&self) -> Result<Task, TaskError> {
        match self.0.as_str() {
            "sql" => Ok(Task::sql()),
            _ => Err(TaskError::Unknown {
                name: self.0.clone(),
            }),
        }
    }
}

impl Default for TaskName {
    fn default() -> Self {
        Self::new("sql")
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Columns and templates of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// What it is called in tables and files.
    pub name: String,
    /// The column that is embedded, and whose equal text no example may have.
    pub query_column: String,
    /// The column that the model learns to write.
    pub answer_column: String,
    /// Further columns that the templates read.
    #[serde(default)]
    pub other_columns: Vec<String>,
    /// Whether the instruction stands before the examples or after them.
    #[serde(default)]
    pub layout: Layout,
    /// The text at which an answer ends, besides the end of sequence; empty: none.
    #[serde(default)]
    pub stop: String,
    /// What the selector `masked` hides of a question: `text` or `sql`.
    #[serde(default)]
    pub masking: Masking,
    /// `masking = "sql"`: the column of `CREATE TABLE` statements whose names are hidden; empty: none.
    #[serde(default)]
    pub schema_column: String,
    /// What the selector `skeleton` keeps of an answer: `text`, `sql`, `arithmetic` or `function`.
    #[serde(default)]
    pub skeleton: SkeletonKind,
    /// The parts of the prompt.
    pub templates: Templates,
}

/// Where the instruction stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Instruction, examples, query.
    #[default]
    InstructionFirst,
    /// Examples, instruction, query.
    ExamplesFirst,
}

/// minijinja sources of a prompt's parts, which a blank line separates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Templates {
    /// What the model is to do; sees nothing. May be empty.
    pub instruction: String,
    /// The line above the examples, if there are any; sees `count`, the number of examples.
    pub header: String,
    /// An example; sees `example` (its row), `index` (from 1) and `count`.
    pub example: String,
    /// The question; sees `row`.
    pub query: String,
}

impl Task {
    /// SHA-256 in hex of everything that the prompts depend on.
    pub fn template_sha256(&self) -> String {
        let parts = serde_json::to_string(&(self.layout, &self.templates));
        hex(&sha256_of_text(&parts.expect("texts become JSON")))
    }

    /// All columns that every row must have, as text.
    pub fn columns(&self) -> Vec<&str> {
        let mut columns = vec![self.query_column.as_str(), &self.answer_column];
        columns.extend(self.other_columns.iter().map(String::as_str));
        columns
    }

    /// The question of `row` with its specifics replaced by [`MASK`]; the answer plays no part.
    ///
    /// # Panics
    /// If `row` lacks the query column, which reading requires.
    pub fn mask(&self, row: &Row) -> String {
        let question = row.text(&self.query_column);
        match self.masking {
            Masking::Text => mask::text(&question),
            Masking::Sql => {
                let schema = row.fields.get(&self.schema_column);
                mask::sql(
                    &question,
                    schema.and_then(|value| value.as_str()).unwrap_or(""),
                )
            }
        }
    }

    /// How `answer` is built, without its specifics; tokens are separated by one space. Any text has a skeleton,
    /// which may be empty.
    pub fn skeleton(&self, answer: &str) -> String {
        skeleton::skeleton(self.skeleton, answer)
    }

    /// Text to SQL: a question and `CREATE TABLE` statements in, one query out.
    pub fn sql() -> Self {
        toml::from_str(include_str!("../../tasks/sql.toml")).expect("a test reads it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adapters carry this hash: a changed template is another prompt than the one trained on.
    #[test]
    fn the_templates_are_pinned() {
        assert_eq!(
            Task::sql().template_sha256(),
            "d5d8b1fab1d743f9ce073253de9daa2dbcde75062c576da0ec6bb1d16274cda1"
        );
    }
}
