//! Reading predictions that another program may have written.

use std::path::Path;

use serde_json::Value;

use crate::error::EvalError;

/// The predictions in `path`, one for each of `rows` rows.
///
/// The file is JSON lines with a string `prediction` in each when its first character that is no
/// blank is `{`; else it is plain text, one prediction a line, where an empty line is an empty
/// prediction.
///
/// # Errors
/// If the file cannot be read, a line is malformed, or there are not exactly `rows` predictions.
pub fn read_predictions(path: &Path, rows: usize) -> Result<Vec<String>, EvalError> {
    let text = std::fs::read_to_string(path).map_err(|source| EvalError::Read {
        path: path.to_owned(),
        source,
    })?;
    let text = text.trim_start_matches('\u{feff}');
    let predictions = if text.trim_start().starts_with('{') {
        json_lines(path, text)?
    } else {
        text.lines().map(str::to_owned).collect()
    };
    if predictions.len() != rows {
        return Err(EvalError::PredictionCount {
            predictions: predictions.len(),
            rows,
        });
    }
    Ok(predictions)
}

fn json_lines(path: &Path, text: &str) -> Result<Vec<String>, EvalError> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| prediction_of(path, i + 1, line))
        .collect()
}

fn prediction_of(path: &Path, line: usize, text: &str) -> Result<String, EvalError> {
    let path = || path.to_owned();
    let row: serde_json::Map<String, Value> =
        serde_json::from_str(text).map_err(|source| EvalError::PredictionJson {
            path: path(),
            line,
            source,
        })?;
    let found = match row.get("prediction") {
        Some(Value::String(prediction)) => return Ok(prediction.clone()),
        None => "missing",
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "a boolean",
        Some(Value::Number(_)) => "a number",
        Some(Value::Array(_)) => "an array",
        Some(Value::Object(_)) => "an object",
    };
    Err(EvalError::PredictionField {
        path: path(),
        line,
        found,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, rows: usize) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("predictions");
        std::fs::write(&path, text).unwrap();
        read_predictions(&path, rows).map_err(|error| error.to_string())
    }

    #[test]
    fn plain_text_has_a_prediction_a_line_and_may_have_empty_ones() {
        let expected = ["SELECT 1", "", "SELECT 2"];
        assert_eq!(read("SELECT 1\n\nSELECT 2\n", 3).unwrap(), expected);
        assert_eq!(read("SELECT 1\r\n\r\nSELECT 2", 3).unwrap(), expected);
        assert_eq!(read("SELECT 1\n\n", 2).unwrap(), ["SELECT 1", ""]);
    }

    #[test]
    fn json_lines_are_known_by_their_first_character() {
        let text =
            "\u{feff}\n{\"prediction\": \"SELECT\\n1\", \"index\": 9}\n\n{\"prediction\":\"\"}";
        assert_eq!(read(text, 2).unwrap(), ["SELECT\n1", ""]);
    }

    #[test]
    fn a_bad_line_is_named() {
        let good = "{\"prediction\": \"a\"}\n";
        let error = read(&format!("{good}\n{{\"prediction\": "), 2).unwrap_err();
        assert!(error.contains("line 3 is no JSON object"), "{error}");
        let error = read(&format!("{good}{{\"predicted\": \"b\"}}"), 2).unwrap_err();
        assert!(
            error.contains("line 2: the field `prediction` is missing"),
            "{error}"
        );
        let error = read(&format!("{good}{{\"prediction\": 3}}"), 2).unwrap_err();
        assert!(
            error.contains("line 2: the field `prediction` is a number"),
            "{error}"
        );
    }

    #[test]
    fn a_count_that_differs_is_an_error_with_both_counts() {
        assert_eq!(
            read("a\nb\n", 3).unwrap_err(),
            "there are 2 predictions for 3 rows"
        );
        assert_eq!(
            read("", 3).unwrap_err(),
            "there are 0 predictions for 3 rows"
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read_predictions(Path::new("no/predictions.txt"), 1).unwrap_err();
        assert_eq!(error.to_string(), "cannot read `no/predictions.txt`");
    }
}
