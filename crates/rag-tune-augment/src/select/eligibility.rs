//! Which train rows may be examples of which query row.

use std::collections::HashMap;

use crate::Row;

/// Whose rows the queries are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The queries are the knowledge base's own rows: row `i` must not find itself.
    KnowledgeBase,
    /// The queries are rows of another split.
    OtherSplit,
}

/// Answers, for a query row and a train row, whether one may be the other's example.
///
/// A row is never its own example, never one of equal question text (space around it aside), and
/// never one of equal value in a column that must differ.
#[derive(Debug)]
pub struct Eligibility {
    origin: Origin,
    /// Columns compared: the question, then the columns that must differ.
    columns: usize,
    /// `[query, column]`: equal values have equal numbers.
    queries: Vec<u32>,
    /// `[train row, column]`, numbered as the queries are.
    rows: Vec<u32>,
}

impl Eligibility {
    /// Compares `queries` with `rows` (the train split) in `query_field` and in `different`.
    ///
    /// Texts become numbers here, because the question is asked for millions of pairs.
    pub fn new(
        query_field: &str,
        different: &[String],
        rows: &[Row],
        queries: &[Row],
        origin: Origin,
    ) -> Self {
        let mut known = HashMap::new();
        let mut number = |split: &[Row]| {
            let mut numbers = Vec::with_capacity(split.len() * (1 + different.len()));
            for row in split {
                let question = row.text(query_field).trim();
                let others = different.iter().map(|column| row.text(column));
                for (column, value) in std::iter::once(question).chain(others).enumerate() {
                    let next = u32::try_from(known.len()).expect("fewer than 2^32 values");
                    numbers.push(*known.entry((column, value.to_owned())).or_insert(next));
                }
            }
            numbers
        };
        let (rows, queries) = (number(rows), number(queries));
        Self {
            origin,
            columns: 1 + different.len(),
            queries,
            rows,
        }
    }

    /// Number of query rows.
    pub fn queries(&self) -> usize {
        self.queries.len() / self.columns
    }

    /// Number of train rows.
    pub fn rows(&self) -> usize {
        self.rows.len() / self.columns
    }

    /// Whether train row `row` may be an example of query row `query`.
    pub fn allows(&self, query: usize, row: usize) -> bool {
        if self.origin == Origin::KnowledgeBase && query == row {
            return false;
        }
        let of_query = &self.queries[query * self.columns..][..self.columns];
        let of_row = &self.rows[row * self.columns..][..self.columns];
        of_query.iter().zip(of_row).all(|(a, b)| a != b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows(rows: &[(&str, &str)]) -> Vec<Row> {
        let row = |(index, (question, db_id)): (usize, &(&str, &str))| {
            let fields = json!({"question": question, "db_id": db_id});
            Row {
                index,
                fields: fields.as_object().unwrap().clone(),
            }
        };
        rows.iter().enumerate().map(row).collect()
    }

    #[test]
    fn equal_text_is_ruled_out_whatever_space_is_around_it() {
        let train = rows(&[("How many?", "a"), ("Who?", "a")]);
        let queries = rows(&[(" How many? \n", "a"), ("how many?", "a")]);
        let eligible = Eligibility::new("question", &[], &train, &queries, Origin::OtherSplit);
        assert_eq!((eligible.queries(), eligible.rows()), (2, 2));
        assert!(!eligible.allows(0, 0));
        assert!(eligible.allows(0, 1));
        assert!(eligible.allows(1, 0), "letter case makes another text");
    }

    #[test]
    fn a_column_is_compared_with_the_same_column_only() {
        let train = rows(&[("x", "y")]);
        let queries = rows(&[("y", "x"), ("z", "y")]);
        let different = ["db_id".to_owned()];
        let eligible =
            Eligibility::new("question", &different, &train, &queries, Origin::OtherSplit);
        assert!(eligible.allows(0, 0));
        assert!(!eligible.allows(1, 0));
    }
}
