//! A question from the command line: its columns, and the prompt that a run's own retrieval makes of it.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rag_tune_augment::{
    AskedRow, AugmentRequest, Hub, RetrievalRecord, Scoring, Task, augment_question,
};
use rag_tune_eval::sql::schema_text;
use serde_json::{Map, Value};

use crate::augmentation::cache_folder;
use crate::config::RunConfig;
use crate::error::InputError;
use crate::evaluation::changed_since_training;
use crate::output::Output;

/// What the user gave.
pub struct Question<'a> {
    /// The text of the task's query column; `-`, or none where stdin is no terminal: stdin's.
    pub text: Option<&'a str>,
    /// `NAME=VALUE` or `NAME=@FILE`.
    pub fields: &'a [String],
    /// Where the answer is run, and what a missing schema is taken from.
    pub database: Option<&'a Path>,
}

impl Question<'_> {
    /// The columns that `task` asks a question with, and further ones that were given.
    ///
    /// # Errors
    /// When one is missing, given twice, or cannot be read.
    pub fn columns(&self, task: &Task) -> anyhow::Result<Map<String, Value>> {
        let mut columns = Map::new();
        for field in self.fields {
            let (name, value) = named_value(field)?;
            if name == task.answer_column {
                let message = format!("`{name}` is the answer, which the model is to give");
                return Err(InputError::new(message, "leave this --field out").into());
            }
            if columns.insert(name.to_owned(), value.into()).is_some() {
                let message = format!("the field `{name}` is given twice");
                return Err(InputError::new(message, "give each --field once").into());
            }
        }
        self.add_text(task, &mut columns)?;
        let schema = &task.schema_column;
        if let Some(database) = self.database
            && task.scoring == Scoring::Sql
            && !schema.is_empty()
            && !columns.contains_key(schema)
        {
            columns.insert(schema.clone(), schema_text(database)?.into());
        }
        check_complete(task, &columns)?;
        Ok(columns)
    }

    fn add_text(&self, task: &Task, columns: &mut Map<String, Value>) -> anyhow::Result<()> {
        let column = &task.query_column;
        if columns.contains_key(column) {
            if self.text.is_none() {
                return Ok(());
            }
            let message = format!("the question is given twice, and as the field `{column}`");
            return Err(InputError::new(message, "give it once").into());
        }
        let text = match self.text {
            Some(text) if text != "-" => text.to_owned(),
            None if std::io::stdin().is_terminal() => return Ok(()),
            _ => {
                let mut text = String::new();
                let read = std::io::stdin().read_to_string(&mut text);
                read.context("cannot read the question from stdin")?;
                text
            }
        };
        let text = text.trim();
        if !text.is_empty() {
            columns.insert(column.clone(), text.into());
        }
        Ok(())
    }
}

/// Name and value of a `--field`.
fn named_value(field: &str) -> anyhow::Result<(&str, String)> {
    let named = field.split_once('=').filter(|(name, _)| !name.is_empty());
    let Some((name, value)) = named else {
        let message = format!("`--field {field}` has no name and value");
        let hint = "write it as NAME=VALUE, or NAME=@FILE for what a file holds";
        return Err(InputError::new(message, hint).into());
    };
    let value = match value.strip_prefix('@') {
        None => value.to_owned(),
        Some(file) => {
            let text = std::fs::read_to_string(file);
            let text =
                text.with_context(|| format!("cannot read the field `{name}` from `{file}`"))?;
            text.trim_end().to_owned()
        }
    };
    Ok((name, value))
}

/// That nothing is missing which the prompt is made of.
fn check_complete(task: &Task, columns: &Map<String, Value>) -> anyhow::Result<()> {
    let mut missing = task.asked_columns();
    missing.retain(|column| !columns.contains_key(column));
    if missing.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = missing.iter().map(|column| format!("`{column}`")).collect();
    let message = format!(
        "a question of the task `{}` also needs {}",
        task.name,
        named.join(", ")
    );
    let mut hints = Vec::new();
    for column in &missing {
        hints.push(match column {
            column if *column == task.query_column => "write the question behind the command, or pipe it in".to_owned(),
            column if task.scoring == Scoring::Sql && *column == task.schema_column => format!(
                "give `{column}` as --field {column}=@FILE, or name the database with --execute, whose tables it then is"
            ),
            column => format!("give `{column}` as --field {column}=VALUE"),
        });
    }
    Err(InputError::new(message, hints.join("; ")).into())
}

/// A run's way to make prompts.
pub struct Prompts<'a> {
    /// Its name, for notes.
    pub run: &'a str,
    /// Its config.
    pub config: &'a RunConfig,
    /// How its training prompts were made.
    pub record: &'a RetrievalRecord,
}

impl Prompts<'_> {
    /// The prompt of a question with these columns, and its examples.
    ///
    /// # Errors
    /// When the data or the embedder cannot be found, or there are too few examples.
    pub fn prompt(
        &self,
        columns: Map<String, Value>,
        hub: &Hub,
        out: &Output,
    ) -> anyhow::Result<AskedRow> {
        let task = &self.record.settings.task;
        let mut retrieval = self.config.retrieval.clone();
        let mut left_out = Vec::new();
        for (key, compared) in [
            ("different", &mut retrieval.different),
            ("same", &mut retrieval.same),
        ] {
            compared.retain(|column| {
                let is_given = columns.contains_key(column);
                if !is_given {
                    left_out.push(format!("`retrieval.{key}` compares `{column}`"));
                }
                is_given
            });
        }
        if retrieval.examples > 0 && !left_out.is_empty() {
            let left_out = left_out.join(", ");
            out.note(&format!(
                "note: {left_out}, which is not given: examples are chosen without it (--field gives it)"
            ));
        }
        let request = AugmentRequest {
            task,
            data: &self.config.data,
            retrieval: &retrieval,
            splits: &[],
            out: &PathBuf::new(),
            seed: self.config.seed,
            epochs: 1,
            cache: cache_folder(),
        };
        let asked = augment_question(&request, columns, hub, &out.progress());
        let asked = asked.context("cannot make the prompt")?;
        for what in changed_since_training(&self.record.settings, &asked.settings) {
            out.note(&format!(
                "note: the {what} of the prompt changed since `{}` was trained",
                self.run
            ));
        }
        Ok(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(text: Option<&str>, fields: &[&str]) -> anyhow::Result<Map<String, Value>> {
        let fields: Vec<String> = fields.iter().map(|&field| field.to_owned()).collect();
        let question = Question {
            text,
            fields: &fields,
            database: None,
        };
        question.columns(&Task::sql())
    }

    #[test]
    fn fields_are_columns() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("schema.sql");
        std::fs::write(&file, "CREATE TABLE a (b=c)\n").unwrap();
        let from_file = format!("context=@{}", file.display());
        let columns = columns(Some(" How many? "), &[&from_file, "db_id=a=b"]).unwrap();
        assert_eq!(columns["question"], "How many?");
        assert_eq!(columns["context"], "CREATE TABLE a (b=c)");
        assert_eq!(columns["db_id"], "a=b");
    }

    #[test]
    fn what_is_missing_or_given_twice_is_named() {
        let refused = |text, fields: &[&str]| columns(text, fields).unwrap_err().to_string();
        assert_eq!(
            refused(Some("q"), &[]),
            "a question of the task `sql` also needs `context`"
        );
        assert_eq!(
            refused(Some("q"), &["context"]),
            "`--field context` has no name and value"
        );
        assert_eq!(
            refused(Some("q"), &["a=1", "a=2"]),
            "the field `a` is given twice"
        );
        assert!(refused(Some("q"), &["question=p", "context=c"]).contains("given twice"));
        assert!(refused(Some("q"), &["answer=SELECT 1"]).contains("is the answer"));
        assert!(refused(Some("q"), &["context=@no/such/file"]).contains("no/such/file"));
    }
}
