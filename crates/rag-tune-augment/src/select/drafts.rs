//! Draft answers: what a model said for each row of an eval split, before it saw these examples.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::SelectError;
use crate::AugmentError;

/// A line of `predictions.jsonl`, as far as it is read.
#[derive(Deserialize)]
struct Line {
    prediction: String,
    /// The row, where lines do not follow the rows.
    index: Option<usize>,
}

/// The drafts in `path`, in row order.
///
/// # Errors
/// [`SelectError::BadDrafts`], [`AugmentError::Read`].
pub(super) fn read_drafts(path: &Path) -> Result<Vec<String>, AugmentError> {
    let text = fs::read_to_string(path).map_err(AugmentError::read(path))?;
    if path.extension().is_none_or(|ending| ending != "jsonl") {
        return Ok(text.lines().map(str::to_owned).collect());
    }
    let bad = |problem| SelectError::BadDrafts {
        path: path.to_owned(),
        problem,
    };
    let mut drafts: Vec<Option<String>> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let line: Line =
            serde_json::from_str(line).map_err(|error| bad(format!("line {number}: {error}")))?;
        let index = line.index.unwrap_or(drafts.len());
        // A file of some rows only must not ask for memory for all numbers below its largest.
        if index >= drafts.len().max(text.len()) {
            return Err(bad(format!("line {number}: no split has a row {index}")).into());
        }
        drafts.resize(drafts.len().max(index + 1), None);
        if drafts[index].replace(line.prediction).is_some() {
            return Err(bad(format!("line {number}: row {index} comes twice")).into());
        }
    }
    let missing = drafts.iter().position(Option::is_none);
    match missing {
        Some(row) => Err(bad(format!("row {row} has no draft")).into()),
        None => Ok(drafts.into_iter().flatten().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        read_drafts(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn predictions_are_put_in_row_order() {
        let lines = "{\"index\":1,\"prediction\":\"b\",\"gold\":\"x\"}\n\n{\"index\":0,\"prediction\":\"a\"}\n";
        assert_eq!(read("p.jsonl", lines).unwrap(), ["a", "b"]);
        let lines = "{\"prediction\":\"a\"}\n{\"prediction\":\"\"}";
        assert_eq!(read("p.jsonl", lines).unwrap(), ["a", ""]);
    }

    #[test]
    fn a_plain_line_is_a_draft_even_an_empty_one() {
        let drafts = read("drafts.txt", "SELECT 1\n\n{\"prediction\":1}\n").unwrap();
        assert_eq!(drafts, ["SELECT 1", "", "{\"prediction\":1}"]);
    }

    #[test]
    fn a_damaged_file_is_named_with_the_line() {
        let problem = |text| read("p.jsonl", text).unwrap_err();
        let twice = "{\"index\":0,\"prediction\":\"a\"}\n{\"index\":0,\"prediction\":\"b\"}";
        assert!(problem(twice).ends_with("p.jsonl`: line 2: row 0 comes twice"));
        assert!(problem("{\"index\":1,\"prediction\":\"a\"}").ends_with("row 0 has no draft"));
        assert!(problem("{\"gold\":\"a\"}").contains("line 1: missing field `prediction`"));
        let far = "{\"index\":9007199254740991,\"prediction\":\"a\"}";
        assert!(problem(far).contains("no split has a row 9007199254740991"));
    }
}
