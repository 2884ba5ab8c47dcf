//! A line of an augmented file.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::AugmentError;
use crate::dataset::{DataError, Place, read_jsonl};
use crate::select::Example;

/// The fields that augmentation adds.
pub(crate) const ADDED_FIELDS: [&str; 3] = ["inference_prompt", "full_prompt", "examples"];

/// A source row, its prompts, and the examples in them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AugmentedRow {
    /// The source row's fields, in its order.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
    /// What the model is asked; the answer follows after a newline.
    pub inference_prompt: String,
    /// `inference_prompt`, a newline, the answer.
    pub full_prompt: String,
    /// The train rows in the prompt, closest first.
    pub examples: Vec<Example>,
}

impl AugmentedRow {
    /// The text of a source field; `None` if the row has no such field or it is no string.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field)?.as_str()
    }
}

/// Reads an augmented file.
///
/// # Errors
/// As [`read_jsonl`]; [`DataError::BadRow`] also for `examples` of another form.
pub fn read_augmented(path: &Path) -> Result<Vec<AugmentedRow>, AugmentError> {
    let rows = read_jsonl(path, &ADDED_FIELDS[..2])?;
    let augmented = rows.into_iter().map(|row| {
        serde_json::from_value(Value::Object(row.fields)).map_err(|error| {
            DataError::BadRow {
                path: path.to_owned(),
                place: Place::Line(row.index + 1),
                problem: format!("not a JSON object: {error}"),
            }
            .into()
        })
    });
    augmented.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_fields_come_first_and_survive() {
        let line = r#"{"db_id":"é","n":[1,null],"a":2.5,"inference_prompt":"i","full_prompt":"i\na","examples":[{"row":3,"score":0.87654}]}"#;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.jsonl");
        std::fs::write(&path, line).unwrap();
        let rows = read_augmented(&path).unwrap();
        assert_eq!(rows[0].text("db_id"), Some("é"));
        assert_eq!(rows[0].text("n"), None);
        assert_eq!(
            rows[0].examples,
            [Example {
                row: 3,
                score: 0.87654
            }]
        );
        assert_eq!(serde_json::to_string(&rows[0]).unwrap(), line);
    }

    #[test]
    fn a_line_without_examples_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.jsonl");
        std::fs::write(&path, r#"{"inference_prompt":"i","full_prompt":"f"}"#).unwrap();
        let error = read_augmented(&path).unwrap_err().to_string();
        assert!(
            error.ends_with("line 1: not a JSON object: missing field `examples`"),
            "{error}"
        );
    }
}
