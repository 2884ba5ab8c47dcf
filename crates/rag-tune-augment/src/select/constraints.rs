//! Which train rows may be examples of which query row.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::{RetrievalConfig, Row, Task};

/// Answers, for a query row and a train row, whether one may be the other's example.
///
/// A row is never its own example, never one of equal question text (space around it aside), and
/// never one of equal value in a column that must differ.
#[derive(Debug)]
pub struct Constraints {
    query_column: String,
    different: Vec<String>,
    /// `[train row, compared column]`: hashes of the question and of the columns that must differ.
    /// Two values of one 64-bit hash would rule out a pair that is allowed, no more.
    rows: Vec<u64>,
}

impl Constraints {
    /// For the train rows that [`Constraints::push`] will bring.
    pub fn new(task: &Task, retrieval: &RetrievalConfig) -> Self {
        Self {
            query_column: task.query_column.clone(),
            different: retrieval.different.clone(),
            rows: Vec::new(),
        }
    }

    /// Takes the next train rows.
    pub fn push(&mut self, rows: &[Row]) {
        let hashes = self.hashes(rows);
        self.rows.extend(hashes);
    }

    /// Number of train rows.
    pub fn len(&self) -> usize {
        self.rows.len() / self.columns()
    }

    /// Whether there are no train rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The constraints of some query rows. `own_start` is the index of the first where they are
    /// rows of the train split, in order: such a row does not find itself.
    pub fn of_queries(&self, rows: &[Row], own_start: Option<usize>) -> QueryConstraints<'_> {
        QueryConstraints {
            constraints: self,
            own_start,
            queries: self.hashes(rows),
        }
    }

    fn columns(&self) -> usize {
        1 + self.different.len()
    }

    fn hashes(&self, rows: &[Row]) -> Vec<u64> {
        let mut hashes = Vec::with_capacity(rows.len() * self.columns());
        for row in rows {
            hashes.push(hash(row.text(&self.query_column).trim()));
            hashes.extend(self.different.iter().map(|column| hash(&row.text(column))));
        }
        hashes
    }
}

/// [`Constraints`] with the query rows that they are asked for.
#[derive(Debug)]
pub struct QueryConstraints<'a> {
    constraints: &'a Constraints,
    own_start: Option<usize>,
    /// `[query, compared column]`.
    queries: Vec<u64>,
}

impl QueryConstraints<'_> {
    /// Whether train row `row` may be an example of the query at position `query`.
    pub fn allows(&self, query: usize, row: usize) -> bool {
        if self.own_start.is_some_and(|start| start + query == row) {
            return false;
        }
        let columns = self.constraints.columns();
        let of_query = &self.queries[query * columns..][..columns];
        let of_row = &self.constraints.rows[row * columns..][..columns];
        of_query.iter().zip(of_row).all(|(a, b)| a != b)
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
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

    fn constraints(train: &[(&str, &str)], different: &[&str]) -> Constraints {
        let retrieval = RetrievalConfig {
            different: different.iter().map(|column| (*column).into()).collect(),
            ..RetrievalConfig::default()
        };
        let mut constraints = Constraints::new(&Task::sql(), &retrieval);
        constraints.push(&rows(train));
        constraints
    }

    #[test]
    fn equal_text_is_ruled_out_whatever_space_is_around_it() {
        let train = constraints(&[("How many?", "a"), ("Who?", "a")], &[]);
        let allowed = train.of_queries(&rows(&[(" How many? \n", "a"), ("how many?", "a")]), None);
        assert_eq!(train.len(), 2);
        assert!(!allowed.allows(0, 0));
        assert!(allowed.allows(0, 1));
        assert!(allowed.allows(1, 0), "letter case makes another text");
    }

    #[test]
    fn a_column_is_compared_with_the_same_column_only() {
        let train = constraints(&[("x", "y")], &["db_id"]);
        let allowed = train.of_queries(&rows(&[("y", "x"), ("z", "y")]), None);
        assert!(allowed.allows(0, 0));
        assert!(!allowed.allows(1, 0));
    }
}
