//! The score of one row, whatever the task.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowStatus {
    /// The prediction is right.
    Correct,
    /// The prediction is an answer and is not right.
    Wrong,
    /// The prediction is no answer: a query that does not run, a text without a number, a function that does not parse.
    PredictionError,
    /// The prediction ran out of its budget of steps or time.
    Timeout,
    /// The gold answer is unusable, so that no prediction can be right.
    GoldError,
}

/// What a row adds to a metric. The metric over rows is the sum of `part` over the sum of `whole`, so that a yes or
/// no per row (`whole` is 1) and a rate over things that rows have different numbers of are the same kind of figure.
///
/// In files it is the number `part` where `whole` is 1, else `[part, whole]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "ShareForm", into = "ShareForm")]
pub struct Share {
    /// At least 0, at most `whole`.
    pub part: f64,
    /// 0 where the row says nothing about the metric.
    pub whole: f64,
}

impl Share {
    /// One of one, or none of one.
    pub fn of(is_right: bool) -> Self {
        Self::mean_of(if is_right { 1.0 } else { 0.0 })
    }

    /// A value between 0 and 1 whose mean over rows is the metric.
    pub fn mean_of(value: f64) -> Self {
        Self {
            part: value,
            whole: 1.0,
        }
    }

    /// `part` of `whole` things.
    pub fn count(part: usize, whole: usize) -> Self {
        Self {
            part: part as f64,
            whole: whole as f64,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum ShareForm {
    One(f64),
    Ratio([f64; 2]),
}

impl From<ShareForm> for Share {
    fn from(form: ShareForm) -> Self {
        match form {
            ShareForm::One(part) => Self { part, whole: 1.0 },
            ShareForm::Ratio([part, whole]) => Self { part, whole },
        }
    }
}

impl From<Share> for ShareForm {
    fn from(share: Share) -> Self {
        if share.whole == 1.0 {
            Self::One(share.part)
        } else {
            Self::Ratio([share.part, share.whole])
        }
    }
}

/// The first rows of a query's result, as people look at them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultTable {
    /// Column names.
    pub columns: Vec<String>,
    /// Some rows from the top, a JSON value a cell; long texts are cut.
    pub rows: Vec<Vec<Value>>,
    /// Rows that the query returned.
    pub total_rows: usize,
}

/// The score of one row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RowScore {
    /// The row, from 0.
    pub index: usize,
    /// By the main metric.
    pub correct: bool,
    /// By the main metric, with failures told apart.
    pub status: RowStatus,
    /// Why the prediction is no answer, or where it goes wrong.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
    /// By name, what the row adds to each metric.
    pub metrics: BTreeMap<String, Share>,
    /// The class that the row is counted in beside the whole, such as the hardness of its gold query.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub class: Option<String>,
    /// What the gold query returned.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gold_result: Option<ResultTable>,
    /// What the predicted query returned.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub result: Option<ResultTable>,
}

impl RowScore {
    /// A row that is right or wrong by `status`; metrics are added by the scorer.
    pub fn new(index: usize, status: RowStatus, detail: Option<String>) -> Self {
        Self {
            index,
            correct: status == RowStatus::Correct,
            status,
            detail,
            metrics: BTreeMap::new(),
            class: None,
            gold_result: None,
            result: None,
        }
    }

    /// Adds what the row has of the metric `name`.
    pub fn with(mut self, name: &str, share: Share) -> Self {
        self.metrics.insert(name.to_owned(), share);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_number_or_a_pair() {
        let text = serde_json::to_string(&[Share::of(true), Share::count(2, 3)]).unwrap();
        assert_eq!(text, "[1.0,[2.0,3.0]]");
        let read: [Share; 2] = serde_json::from_str(&text).unwrap();
        assert_eq!(read, [Share::of(true), Share::count(2, 3)]);
    }
}
