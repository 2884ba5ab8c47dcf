//! Rows of a data set: where they come from, and how they are read.
//!
//! [`Split`] gives the rows of one split in order or by index without keeping them in memory, whatever the
//! format of its files; [`read_jsonl`] reads a small file whole.

mod array;
mod check;
mod columns;
mod error;
pub(crate) mod format;
mod lines;
mod parquet;
mod part;
mod place;
mod split;
mod spool;
mod table;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use columns::Reading;
pub use error::DataError;
pub use place::Place;
pub use split::Split;

use crate::AugmentError;
use check::parse_fields;
use columns::Needs;
use lines::BYTE_ORDER_MARK;

/// `[data]`: where the rows come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// A hub id (`owner/name`, or `owner/name:config` for one of several configurations), a folder, or a
    /// data file (`.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet`; all but the last also with `.gz`).
    pub source: String,
    /// The split that is trained on, and that examples are taken from.
    pub train_split: String,
    /// The file of a split where its name does not tell, such as `{ train = "part1.csv" }`; relative to the source
    /// (to the folder of a source that is a file). `*` stands for any part of a name, `**` also for folders.
    pub files: BTreeMap<String, String>,
    /// Names of the data's columns where they are not the task's, such as `{ question = "input" }`; a column of
    /// the data that already has the task's name is left out then.
    pub columns: BTreeMap<String, String>,
    /// Column that identifies a row; with it, no two rows of a split may have the same value, and no
    /// row gets an example of its own value. Empty: rows are told apart by their position.
    pub id: String,
    /// What happens to a row that cannot be used: `error` stops with its line, `skip` leaves it out and counts it.
    pub bad_rows: BadRows,
    /// What happens where an eval row is also a training row (question and answer equal): `refuse` stops,
    /// `exclude` keeps it out of every prompt.
    pub leaked_rows: LeakedRows,
}

/// What happens to a row that lacks a column, or is not readable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadRows {
    /// Stop, naming file and line.
    #[default]
    Error,
    /// Leave it out, and count it.
    Skip,
}

/// What happens to a train row that equals an eval row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeakedRows {
    /// Stop.
    #[default]
    Refuse,
    /// It is nobody's example.
    Exclude,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            source: String::new(),
            train_split: "train".into(),
            files: BTreeMap::new(),
            columns: BTreeMap::new(),
            id: String::new(),
            bad_rows: BadRows::Error,
            leaked_rows: LeakedRows::Refuse,
        }
    }
}

impl DataConfig {
    /// The column that identifies a row, if one is named.
    pub fn id(&self) -> Option<&str> {
        (!self.id.is_empty()).then_some(self.id.as_str())
    }

    /// All problems of this section; none if the list is empty.
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.source.trim().is_empty() {
            problems.push("`data.source` must name a hub id or a folder".into());
        }
        if self.train_split.trim().is_empty() {
            problems.push("`data.train_split` must not be empty".into());
        }
        problems
    }
}

/// One row of a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Position in its split, from 0.
    pub index: usize,
    /// The row's fields, in the file's order.
    pub fields: Map<String, Value>,
}

impl Row {
    /// The text of `field`; a number or a boolean as it is written.
    ///
    /// # Panics
    /// If `field` was not among the required fields when the row was read.
    pub fn text(&self, field: &str) -> Cow<'_, str> {
        match self.fields.get(field) {
            Some(Value::String(text)) => Cow::Borrowed(text),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Cow::Owned(value.to_string()),
            _ => panic!("`{field}` is read as text, so reading must have required it"),
        }
    }
}

/// Reads the rows of a JSON-lines file, of which each must have all of `required_fields` as
/// text. Lines of white space are skipped.
///
/// # Errors
/// [`DataError::BadRow`], [`DataError::MissingField`], [`DataError::FieldType`], each
/// with the line; [`DataError::EmptySplit`]; [`AugmentError::Read`].
pub fn read_jsonl(path: &Path, required_fields: &[&str]) -> Result<Vec<Row>, AugmentError> {
    let needs = Needs::new(&Reading {
        columns: &BTreeMap::new(),
        required: required_fields,
        given: &[],
        filled: &[],
        id: None,
        bad_rows: BadRows::Error,
    });
    let file = File::open(path).map_err(AugmentError::read(path))?;
    let mut rows = Vec::new();
    for (index, line) in BufReader::new(file).split(b'\n').enumerate() {
        let line = line.map_err(AugmentError::read(path))?;
        let text = match line.strip_prefix(BYTE_ORDER_MARK) {
            Some(rest) if index == 0 => rest,
            _ => &line,
        };
        if text.trim_ascii().is_empty() {
            continue;
        }
        let fields = parse_fields(text).and_then(|fields| {
            needs.met_by_fields(&fields)?;
            Ok(fields)
        });
        rows.push(Row {
            index: rows.len(),
            fields: fields.map_err(|problem| problem.at(path, Place::Line(index + 1), &needs))?,
        });
    }
    if rows.is_empty() {
        return Err(DataError::EmptySplit {
            path: path.to_owned(),
        }
        .into());
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, required: &[&str]) -> Result<Vec<Row>, AugmentError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.jsonl");
        std::fs::write(&path, text).unwrap();
        read_jsonl(&path, required)
    }

    /// The message after the file name, which differs from run to run.
    fn message(text: &str, required: &[&str]) -> String {
        let message = read(text, required).unwrap_err().to_string();
        assert!(message.contains("train.jsonl"), "{message}");
        message.split("train.jsonl` ").nth(1).unwrap().to_owned()
    }

    #[test]
    fn rows_keep_order_and_fields() {
        let rows = read(
            "{\"b\":\"x\",\"a\":1}\r\n\n{\"b\":\"é\",\"a\":null}",
            &["b"],
        )
        .unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].fields.keys().collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!((rows[1].index, &*rows[1].text("b")), (1, "é"));
    }

    #[test]
    fn a_line_that_is_not_json_is_named() {
        let text = "{\"a\":\"1\"}\n{\"a\": nope}\n";
        assert_eq!(
            message(text, &["a"]),
            "line 2: not a JSON object: expected ident (column 8)"
        );
        assert_eq!(
            message("{\"a\":\"1\"} x", &["a"]),
            "line 1: not a JSON object: trailing characters (column 11)"
        );
        let problem = message("[1]", &[]);
        assert!(
            problem.starts_with("line 1: not a JSON object: invalid type"),
            "{problem}"
        );
    }

    #[test]
    fn a_missing_field_is_named_with_the_ones_present() {
        let text = "{\"question\":\"q\"}\n\n{\"answer\":\"a\"}\n";
        assert_eq!(message(text, &["question"]), "line 3: no field `question`");
        let hint = read(text, &["question"]).unwrap_err().hint().unwrap();
        assert!(hint.contains("the row has `answer`"), "{hint}");
    }

    #[test]
    fn a_field_that_is_no_string_is_named() {
        let text = "{\"question\":[7]}";
        assert_eq!(
            message(text, &["question"]),
            "line 1: field `question` is an array, expected a string"
        );
    }

    #[test]
    fn an_empty_split_is_an_error() {
        assert_eq!(message("\n \n", &[]), "has no rows");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read_jsonl(Path::new("no/such/train.jsonl"), &[]).unwrap_err();
        assert_eq!(error.to_string(), "cannot read `no/such/train.jsonl`");
    }
}
