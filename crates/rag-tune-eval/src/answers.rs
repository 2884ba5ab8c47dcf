//! `predictions.jsonl`: a row's prompt, prediction and score, which comparisons and reports are made of.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::EvalError;
use crate::rows::RowScore;
use crate::save::save_atomically;

/// A line of `predictions.jsonl`, and of the file that `score --rows` writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The verdict.
    #[serde(flatten)]
    pub score: RowScore,
    /// What the model wrote.
    pub prediction: String,
    /// What it should have written, or something that means the same.
    pub gold: String,
    /// What it was asked; unknown where the predictions came from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub inference_prompt: Option<String>,
    /// The train rows in the prompt: `{"row": index, "score": number}`.
    #[serde(default)]
    pub examples: Vec<Value>,
}

/// Writes one JSON line an answer, the whole file or nothing.
///
/// # Errors
/// [`EvalError::Write`].
pub fn save_answers(path: &Path, answers: &[Answer]) -> Result<(), EvalError> {
    save_atomically(path, |file| {
        for answer in answers {
            serde_json::to_writer(&mut *file, answer)?;
            writeln!(file)?;
        }
        Ok(())
    })
}

/// Reads what [`save_answers`] wrote.
///
/// # Errors
/// [`EvalError::Read`]; [`EvalError::InvalidAnswer`] for a line of another form; [`EvalError::NoRows`].
pub fn read_answers(path: &Path) -> Result<Vec<Answer>, EvalError> {
    let text = std::fs::read_to_string(path).map_err(|source| EvalError::Read {
        path: path.to_owned(),
        source,
    })?;
    let answers: Vec<Answer> = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| {
            serde_json::from_str(line).map_err(|source| EvalError::InvalidAnswer {
                path: path.to_owned(),
                line: i + 1,
                source,
            })
        })
        .collect::<Result<_, _>>()?;
    if answers.is_empty() {
        return Err(EvalError::NoRows);
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{RowStatus, Share};

    fn answer(index: usize, status: RowStatus) -> Answer {
        let score = RowScore::new(index, status, None);
        let is_right = score.correct;
        Answer {
            score: score.with("execution", Share::of(is_right)),
            prediction: "SELECT 1".to_owned(),
            gold: "SELECT 2".to_owned(),
            inference_prompt: None,
            examples: Vec::new(),
        }
    }

    #[test]
    fn answers_are_json_lines_that_load_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let mut failed = answer(1, RowStatus::Timeout);
        failed.score.detail = Some("too long".to_owned());
        let answers = [answer(0, RowStatus::Correct), failed];
        save_answers(&path, &answers).unwrap();
        insta::assert_snapshot!(std::fs::read_to_string(&path).unwrap());
        assert_eq!(read_answers(&path).unwrap(), answers);
    }

    #[test]
    fn a_line_of_another_form_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        save_answers(&path, &[answer(0, RowStatus::Correct)]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap() + "{\"prediction\": \"x\"}\n";
        std::fs::write(&path, text).unwrap();
        let error = read_answers(&path).unwrap_err();
        assert!(error.to_string().contains("rows.jsonl` line 2"), "{error}");
    }
}
