//! What a task is to this crate: the columns it reads and the prompts it fills.
//!
//! A task is data: built in are `sql`, `gsm8k` and `functional`, and a `.toml` file describes any other.

mod check;
mod error;
mod file;
mod mask;
mod name;
mod skeleton;

use serde::{Deserialize, Serialize};

pub use error::TaskError;
pub use mask::{MASK, Masking};
pub use name::TaskName;
pub use skeleton::SkeletonKind;

use crate::Row;
use crate::fingerprint::{hex, sha256_of_text};

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
    /// Further columns that a row must have; those that the templates name need not be listed.
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
    /// How a predicted answer is scored: `exact`, `sql`, `gsm8k` or `functional`.
    #[serde(default)]
    pub scoring: Scoring,
    /// The parts of the prompt.
    pub templates: Templates,
}

/// How a predicted answer is compared with the gold one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scoring {
    /// The same text, less the white space around it.
    #[default]
    Exact,
    /// A query: what it returns from the database that the row's `db_id` names.
    Sql,
    /// Worked steps: the number behind `####`.
    Gsm8k,
    /// A function with attributes: the same function with the same attributes, in any order.
    Functional,
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

impl Templates {
    /// The keys of `[templates]`.
    const KEYS: [&str; 4] = ["instruction", "header", "example", "query"];

    /// The parts with their templates, in this order.
    pub(crate) fn parts(&self) -> [(Part, &str); 4] {
        [
            (Part::Instruction, &self.instruction),
            (Part::Header, &self.header),
            (Part::Example, &self.example),
            (Part::Query, &self.query),
        ]
    }
}

/// A part of the prompt that has a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Instruction,
    Header,
    Example,
    Query,
}

impl Part {
    /// The template's key. It has no extension, so that minijinja escapes nothing.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Instruction => "instruction",
            Self::Header => "header",
            Self::Example => "example",
            Self::Query => "query",
        }
    }

    /// The names that the template is given.
    fn sees(self) -> &'static [&'static str] {
        match self {
            Self::Instruction => &[],
            Self::Header => &["count"],
            Self::Example => &["example", "index", "count"],
            Self::Query => &["row"],
        }
    }

    /// The name among them that is a row.
    fn row(self) -> Option<&'static str> {
        match self {
            Self::Instruction | Self::Header => None,
            Self::Example => Some("example"),
            Self::Query => Some("row"),
        }
    }
}

impl Task {
    /// The tasks that need no file.
    pub const BUILT_IN: [&str; 3] = ["sql", "gsm8k", "functional"];

    /// The keys of a task file.
    const KEYS: [&str; 11] = [
        "name",
        "query_column",
        "answer_column",
        "other_columns",
        "layout",
        "stop",
        "masking",
        "schema_column",
        "skeleton",
        "scoring",
        "templates",
    ];

    /// The built-in task of that name.
    pub fn built_in(name: &str) -> Option<Self> {
        match name {
            "sql" => Some(Self::sql()),
            "gsm8k" => Some(Self::gsm8k()),
            "functional" => Some(Self::functional()),
            _ => None,
        }
    }

    /// Whether columns and templates fit each other; [`TaskName::load`] asks this.
    ///
    /// # Errors
    /// [`TaskError::Invalid`] with every problem: a template that does not parse, or names what it does not see, a
    /// query that would show the answer, columns that are missing or contradict each other.
    pub fn check(&self) -> Result<(), TaskError> {
        check::check(self)
    }

    /// SHA-256 in hex of everything that the prompts depend on.
    pub fn template_sha256(&self) -> String {
        let parts = serde_json::to_string(&(self.layout, &self.templates));
        hex(&sha256_of_text(&parts.expect("texts become JSON")))
    }

    /// The columns that every row must have as text: query, answer and, for masking, the schema.
    pub fn columns(&self) -> Vec<&str> {
        let mut columns = vec![self.query_column.as_str(), &self.answer_column];
        if !self.schema_column.is_empty() {
            columns.push(&self.schema_column);
        }
        columns
    }

    /// The further columns that every row must have, whatever they hold (lists, numbers, null): those of
    /// `other_columns`, and those that the templates name as `row.column` or `example.column`.
    pub fn further_columns(&self) -> Vec<String> {
        let mut further: Vec<String> = Vec::new();
        for column in self
            .other_columns
            .iter()
            .cloned()
            .chain(check::template_columns(self))
        {
            if !self.columns().contains(&column.as_str()) && !further.contains(&column) {
                further.push(column);
            }
        }
        further
    }

    /// The columns that a question must have to be asked, without an answer: query, schema, and what the query's template names.
    pub fn asked_columns(&self) -> Vec<String> {
        let mut asked: Vec<String> = self.columns().into_iter().map(str::to_owned).collect();
        for column in check::part_columns(self, Part::Query) {
            if !asked.contains(&column) {
                asked.push(column);
            }
        }
        asked.retain(|column| *column != self.answer_column);
        asked
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
        of_this_crate(include_str!("../../tasks/sql.toml"))
    }

    /// GSM8K: a grade-school mathematics problem in, worked steps and a number out.
    pub fn gsm8k() -> Self {
        of_this_crate(include_str!("../../tasks/gsm8k.toml"))
    }

    /// ViGGO: a sentence about a video game in, a function with attributes out.
    pub fn functional() -> Self {
        of_this_crate(include_str!("../../tasks/functional.toml"))
    }
}

fn of_this_crate(text: &str) -> Task {
    toml::from_str(text).expect("a test reads it")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adapters carry these hashes: a changed template is another prompt than the one trained on.
    #[test]
    fn the_templates_are_pinned() {
        let hashes = Task::BUILT_IN.map(|name| Task::built_in(name).unwrap().template_sha256());
        assert_eq!(
            hashes,
            [
                "d5d8b1fab1d743f9ce073253de9daa2dbcde75062c576da0ec6bb1d16274cda1",
                "46987e6af4c80f754dacae09714e100563c7a3d3a8f91324ff2f311172fdda8b",
                "79b05d7e1a54596f6dcb703b11b385708c21f270ef0d2ed4b124e045e8422f39",
            ]
        );
    }

    #[test]
    fn the_built_in_tasks_are_sound_and_load_by_name() {
        for name in Task::BUILT_IN {
            let task = TaskName::new(name).load().unwrap();
            task.check().unwrap();
            assert_eq!(task.name, name);
        }
    }

    #[test]
    fn columns_are_those_of_task_and_templates() {
        assert_eq!(Task::sql().columns(), ["question", "answer", "context"]);
        assert_eq!(Task::sql().further_columns(), ["db_id"]);
        assert_eq!(Task::sql().asked_columns(), ["question", "context"]);
        assert_eq!(Task::functional().asked_columns(), ["target"]);
        assert_eq!(Task::gsm8k().columns(), ["question", "answer"]);
        assert!(Task::gsm8k().further_columns().is_empty());
        assert_eq!(
            Task::functional().columns(),
            ["target", "meaning_representation"]
        );
        assert!(Task::functional().further_columns().is_empty());
    }

    #[test]
    fn a_task_travels_as_json_and_toml() {
        for name in Task::BUILT_IN {
            let task = Task::built_in(name).unwrap();
            let json = serde_json::to_string(&task).unwrap();
            assert_eq!(serde_json::from_str::<Task>(&json).unwrap(), task);
            let toml = toml::to_string(&task).unwrap();
            assert_eq!(toml::from_str::<Task>(&toml).unwrap(), task);
        }
    }

    #[test]
    fn the_keys_are_those_of_the_structs() {
        let task = serde_json::to_value(Task::sql()).unwrap();
        let keys = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(keys(&task), Task::KEYS);
        assert_eq!(keys(&task["templates"]), Templates::KEYS);
    }

    #[test]
    fn an_unknown_task_names_the_near_ones() {
        let error = TaskName::new("gsm8").load().unwrap_err();
        assert_eq!(error.to_string(), "there is no task `gsm8`");
        assert!(error.hint().unwrap().starts_with("did you mean `gsm8k`?"));
    }
}
