//! The rows of a comparison as the JSON that the page's script reads.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::comparison::{ComparedAnswer, ComparedRow, Comparison};

/// What the script reads. Places are indices into `pool`.
#[derive(Serialize)]
struct PageData<'a> {
    runs: Vec<&'a str>,
    /// In the order of the table of classes.
    classes: Vec<&'a str>,
    rows: Vec<PageRow<'a>>,
    pool: Vec<Value>,
}

#[derive(Serialize)]
struct PageRow<'a> {
    index: usize,
    gold: &'a str,
    class: Option<&'a str>,
    result: Option<usize>,
    answers: Vec<PageAnswer<'a>>,
}

#[derive(Serialize)]
struct PageAnswer<'a> {
    prompt: Option<usize>,
    examples: Option<usize>,
    prediction: &'a str,
    correct: bool,
    status: &'a str,
    detail: Option<&'a str>,
    result: Option<usize>,
    metrics: Option<usize>,
}

/// Values that many answers share, once each: adapters are asked the same prompts, and right queries return the same.
#[derive(Default)]
struct Pool {
    values: Vec<Value>,
    places: HashMap<String, usize>,
}

impl Pool {
    /// Where the value is; nowhere if it says nothing.
    fn place(&mut self, value: Value) -> Option<usize> {
        if value.is_null() || value == json!([]) {
            return None;
        }
        let next = self.values.len();
        let place = *self.places.entry(value.to_string()).or_insert(next);
        if place == next {
            self.values.push(value);
        }
        Some(place)
    }

    fn row<'a>(&mut self, row: &'a ComparedRow) -> PageRow<'a> {
        PageRow {
            index: row.index,
            gold: &row.gold,
            class: row.class.as_deref(),
            result: self.table(&row.gold_result),
            answers: row
                .answers
                .iter()
                .map(|answer| self.answer(answer))
                .collect(),
        }
    }

    fn answer<'a>(&mut self, answer: &'a ComparedAnswer) -> PageAnswer<'a> {
        PageAnswer {
            prompt: self.place(json!(answer.prompt)),
            examples: self.place(json!(answer.examples)),
            prediction: &answer.prediction,
            correct: answer.correct,
            status: &answer.status,
            detail: answer.detail.as_deref(),
            result: self.table(&answer.result),
            metrics: self.place(json!(answer.metrics)),
        }
    }

    /// A result, if it is one: the script relies on its form.
    fn table(&mut self, result: &Value) -> Option<usize> {
        let columns = result["columns"].as_array()?;
        let rows = result["rows"].as_array()?;
        let is_table = columns.iter().all(Value::is_string)
            && rows.iter().all(Value::is_array)
            && result["total_rows"].is_u64();
        if is_table {
            self.place(result.clone())
        } else {
            None
        }
    }
}

/// The data as JSON that can stand inside a `<script>`.
pub(crate) fn json(comparison: &Comparison) -> String {
    let mut pool = Pool::default();
    let rows = comparison.rows.iter().map(|row| pool.row(row)).collect();
    let data = PageData {
        runs: comparison
            .runs
            .iter()
            .map(|run| run.label.as_str())
            .collect(),
        classes: classes(comparison),
        rows,
        pool: pool.values,
    };
    let text = serde_json::to_string(&data).expect("plain data with text as keys");
    safe_in_script(&text)
}

/// Classes of rows, those of the runs' tables first.
fn classes(comparison: &Comparison) -> Vec<&str> {
    let of_runs = comparison.runs.iter().flat_map(|run| &run.classes);
    let of_runs = of_runs.map(|class| class.name.as_str());
    let of_rows = comparison
        .rows
        .iter()
        .filter_map(|row| row.class.as_deref());
    let mut classes = Vec::new();
    for class in of_runs.chain(of_rows) {
        if !classes.contains(&class) {
            classes.push(class);
        }
    }
    classes
}

/// JSON has these signs only inside strings, where an escape means the same. Unescaped, `</script>` would end the
/// script and `<!--` would hide its end; U+2028 and U+2029 are line ends to some readers.
fn safe_in_script(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                text += &format!("\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_stays_inside_its_string() {
        let hostile = "</script><!-- <script>\u{2028}\u{2029} & \u{0} \\u003c \" '";
        let text = safe_in_script(&json!([hostile]).to_string());
        for sign in ['<', '>', '&', '\u{2028}', '\u{2029}', '\u{0}'] {
            assert!(!text.contains(sign), "{text}");
        }
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            json!([hostile])
        );
    }

    #[test]
    fn what_answers_share_is_stored_once() {
        let answer = |prediction: &str| ComparedAnswer {
            prompt: Some("the same long prompt".to_owned()),
            prediction: prediction.to_owned(),
            ..ComparedAnswer::default()
        };
        let row = ComparedRow {
            answers: vec![answer("a"), answer("b")],
            ..ComparedRow::default()
        };
        let comparison = Comparison {
            rows: vec![row],
            ..Comparison::default()
        };
        let text = json(&comparison);
        assert_eq!(text.matches("the same long prompt").count(), 1, "{text}");
    }

    #[test]
    fn a_result_of_another_form_is_left_out() {
        let mut pool = Pool::default();
        let table = json!({"columns": ["a"], "rows": [[1]], "total_rows": 1});
        assert_eq!(pool.table(&table), Some(0));
        for other in [
            json!(null),
            json!("x"),
            json!({"columns": ["a"], "rows": [1], "total_rows": 1}),
        ] {
            assert_eq!(pool.table(&other), None, "{other}");
        }
    }
}
