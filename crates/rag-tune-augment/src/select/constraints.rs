//! Which train rows may be examples of which query row.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::condition::{Condition, Fields};
use super::word_sets::{WordSets, share_at_least};
use super::{Queries, SelectError};
use crate::fingerprint::hash_of_text;
use crate::{RetrievalConfig, Row, Task};

/// Answers, for a query row and a train row, whether one may be the other's example.
///
/// A row is never its own example (by its position in the own split, and by its id where rows have
/// one), never one of equal question text (space around it aside), and never one that
/// [`Constraints::exclude`] named. It differs in each `different` column, equals in each `same`
/// column, is no near duplicate, and the `where` condition holds. Columns are compared as text; a
/// value that is missing, null or no text equals nothing.
///
/// Memory: 9 bytes a train row, 8 more for each compared column, 4 for each word where near
/// duplicates are looked for, and the values of the columns of `example` in a condition on both.
#[derive(Debug)]
pub struct Constraints {
    retrieval: RetrievalConfig,
    /// Values of these columns must not be equal: question, id, `different`.
    unequal: Vec<String>,
    condition: Option<Condition>,
    /// `[train row, unequal and same column]`. Two values of one 64-bit hash would count as equal;
    /// among 10^10 pairs that has a chance of one in a billion.
    hashes: Vec<u64>,
    /// Rows that are nobody's example.
    excluded: Vec<bool>,
    /// Empty where near duplicates are not looked for.
    words: WordSets,
    /// What a condition on both rows reads of each train row, end to end; else empty.
    values: Vec<minijinja::Value>,
    problem: Option<SelectError>,
}

/// The hash of a value that equals nothing.
const NOTHING: u64 = 0;

impl Constraints {
    /// For the train rows that [`Constraints::push`] will bring. `id` is the column that identifies
    /// a row, across splits too.
    ///
    /// # Errors
    /// [`SelectError::BadCondition`].
    pub fn new(
        task: &Task,
        retrieval: &RetrievalConfig,
        id: Option<&str>,
    ) -> Result<Self, SelectError> {
        let mut unequal = vec![task.query_column.clone()];
        unequal.extend(id.map(str::to_owned));
        unequal.extend(retrieval.different.iter().cloned());
        Ok(Self {
            retrieval: retrieval.clone(),
            unequal,
            condition: Condition::new(&retrieval.r#where)?,
            hashes: Vec::new(),
            excluded: Vec::new(),
            words: WordSets::default(),
            values: Vec::new(),
            problem: None,
        })
    }

    /// The columns that these constraints read, besides the task's question and the id.
    pub fn columns(&self) -> Vec<&str> {
        let RetrievalConfig {
            different, same, ..
        } = &self.retrieval;
        let mut columns: Vec<&str> = different.iter().chain(same).map(String::as_str).collect();
        columns.extend(self.condition.iter().flat_map(Condition::columns));
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// Takes the next train rows.
    pub fn push(&mut self, rows: &[Row]) {
        let hashes = self.hashes(rows);
        self.hashes.extend(hashes);
        for row in rows {
            if self.looks_for_near_duplicates() {
                self.words.push(&self.question(row));
            }
            let mut excluded = false;
            match &self.condition {
                // What the condition says of a train row, it says for every query.
                Some(condition) if condition.row_columns.is_empty() => {
                    let nothing = condition.of_row(row);
                    match condition.holds(&nothing, &condition.of_example(row)) {
                        Ok(holds) => excluded = !holds,
                        Err(problem) => {
                            excluded = true;
                            let problem = condition_failed(condition, None, row.index, problem);
                            self.problem.get_or_insert(problem);
                        }
                    }
                }
                Some(condition) => self.values.extend(condition.of_example(row)),
                None => {}
            }
            self.excluded.push(excluded);
        }
    }

    /// Makes a train row nobody's example.
    ///
    /// # Panics
    /// If that row was not pushed.
    pub fn exclude(&mut self, row: usize) {
        self.excluded[row] = true;
    }

    /// Number of train rows.
    pub fn len(&self) -> usize {
        self.excluded.len()
    }

    /// Whether there are no train rows.
    pub fn is_empty(&self) -> bool {
        self.excluded.is_empty()
    }

    /// The constraints of some query rows. `own_start` is the index of the first where they are
    /// rows of the train split, in order: such a row does not find itself.
    pub fn of_queries(&self, rows: &[Row], own_start: Option<usize>) -> QueryConstraints<'_> {
        let mut words = WordSets::default();
        if self.looks_for_near_duplicates() {
            rows.iter().for_each(|row| words.push(&self.question(row)));
        }
        let pairs = self
            .condition
            .as_ref()
            .filter(|condition| !condition.row_columns.is_empty());
        QueryConstraints {
            constraints: self,
            own_start,
            start: rows.first().map_or(0, |row| row.index),
            hashes: self.hashes(rows),
            words,
            condition: pairs.map(|condition| {
                let fields = rows.iter().map(|row| condition.of_row(row));
                (condition, fields.collect())
            }),
            problem: Mutex::new(None),
        }
    }

    fn question<'r>(&self, row: &'r Row) -> Cow<'r, str> {
        value_text(row, &self.unequal[0]).unwrap_or_default()
    }

    fn looks_for_near_duplicates(&self) -> bool {
        self.retrieval.near_duplicate < 1.0
    }

    /// Hashes of a row.
    fn width(&self) -> usize {
        self.unequal.len() + self.retrieval.same.len()
    }

    fn hashes(&self, rows: &[Row]) -> Vec<u64> {
        let mut hashes = Vec::with_capacity(rows.len() * self.width());
        for row in rows {
            // Space around a question does not make another question.
            let question = value_text(row, &self.unequal[0]);
            hashes.push(hash(question.as_deref().map(str::trim)));
            let others = self.unequal[1..].iter().chain(&self.retrieval.same);
            hashes.extend(others.map(|column| hash(value_text(row, column).as_deref())));
        }
        hashes
    }

    /// The constraints that the config sets, as it spells them.
    fn named(&self) -> Vec<String> {
        let RetrievalConfig {
            different,
            same,
            near_duplicate,
            ..
        } = &self.retrieval;
        let mut named = Vec::new();
        for (name, columns) in [("different", different), ("same", same)] {
            if !columns.is_empty() {
                named.push(format!("retrieval.{name} = {columns:?}"));
            }
        }
        if let Some(condition) = &self.condition {
            named.push(format!("retrieval.where = {:?}", condition.source()));
        }
        if self.looks_for_near_duplicates() {
            named.push(format!("retrieval.near_duplicate = {near_duplicate}"));
        }
        named
    }
}

/// [`Constraints`] with the query rows that they are asked for.
#[derive(Debug)]
pub struct QueryConstraints<'a> {
    constraints: &'a Constraints,
    own_start: Option<usize>,
    /// Index of the first query row in its split, for messages.
    start: usize,
    /// `[query, unequal and same column]`.
    hashes: Vec<u64>,
    words: WordSets,
    /// A condition on both rows, and what it reads of each query.
    condition: Option<(&'a Condition, Vec<Arc<Fields>>)>,
    /// The first pair whose condition could not be evaluated.
    problem: Mutex<Option<((usize, usize), String)>>,
}

impl QueryConstraints<'_> {
    /// Whether train row `row` may be an example of the query at position `query`. False where the
    /// condition cannot be evaluated: [`QueryConstraints::problem`] then says why.
    pub fn allows(&self, query: usize, row: usize) -> bool {
        // What is cheap and rules out most comes first.
        !self.constraints.excluded[row]
            && self.own_start.is_none_or(|start| start + query != row)
            && self.columns_allow(query, row)
            && !self.is_near_duplicate(query, row)
            && self.condition_holds(query, row)
    }

    /// What kept a condition from being evaluated, if something did; asked after a selection, which
    /// is of no use then.
    pub fn problem(&self) -> Option<SelectError> {
        if let Some(problem) = &self.constraints.problem {
            return Some(problem.clone());
        }
        let problem = self.problem.lock().expect("nobody panics with it");
        let ((query, row), problem) = problem.clone()?;
        let (condition, _) = self.condition.as_ref()?;
        let query = Some(self.start + query);
        Some(condition_failed(condition, query, row, problem))
    }

    /// The error for a query that got `found` examples, which are fewer than it should get.
    pub fn too_few_examples(
        &self,
        queries: &Queries<'_>,
        query: usize,
        found: usize,
        wanted: usize,
    ) -> SelectError {
        let rows = self.constraints.len();
        let available = (0..rows).filter(|row| self.allows(query, *row)).count();
        let (split, row) = (queries.split.to_owned(), queries.start + query);
        if available >= wanted {
            return SelectError::Incomplete {
                split,
                row,
                found,
                available,
                wanted,
            };
        }
        SelectError::TooFewExamples {
            split,
            row,
            available,
            rows,
            wanted,
            constraints: self.constraints.named(),
        }
    }

    fn columns_allow(&self, query: usize, row: usize) -> bool {
        let width = self.constraints.width();
        let of_query = &self.hashes[query * width..][..width];
        let of_row = &self.constraints.hashes[row * width..][..width];
        let equal = |at: usize| of_query[at] == of_row[at] && of_row[at] != NOTHING;
        let unequal = self.constraints.unequal.len();
        !(0..unequal).any(equal) && (unequal..width).all(equal)
    }

    fn is_near_duplicate(&self, query: usize, row: usize) -> bool {
        self.constraints.looks_for_near_duplicates()
            && share_at_least(
                self.words.get(query),
                self.constraints.words.get(row),
                self.constraints.retrieval.near_duplicate,
            )
    }

    fn condition_holds(&self, query: usize, row: usize) -> bool {
        let Some((condition, fields)) = &self.condition else {
            return true;
        };
        let columns = condition.example_columns.len();
        let of_row = &self.constraints.values[row * columns..][..columns];
        condition
            .holds(&fields[query], of_row)
            .unwrap_or_else(|problem| {
                let mut first = self.problem.lock().expect("nobody panics with it");
                // The lowest, not the earliest: threads come in any order.
                if first.as_ref().is_none_or(|(at, _)| (query, row) < *at) {
                    *first = Some(((query, row), problem));
                }
                false
            })
    }
}

fn condition_failed(
    condition: &Condition,
    row: Option<usize>,
    example: usize,
    problem: String,
) -> SelectError {
    SelectError::Condition {
        expression: condition.source().into(),
        row,
        example,
        problem,
    }
}

/// What a value is compared as.
fn value_text<'a>(row: &'a Row, column: &str) -> Option<Cow<'a, str>> {
    match row.fields.get(column)? {
        Value::String(text) => Some(Cow::Borrowed(text)),
        value @ (Value::Number(_) | Value::Bool(_)) => Some(Cow::Owned(value.to_string())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn hash(text: Option<&str>) -> u64 {
    text.map_or(NOTHING, |text| hash_of_text(text).max(NOTHING + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows(rows: &[Value]) -> Vec<Row> {
        let row = |(index, fields): (usize, &Value)| Row {
            index,
            fields: fields.as_object().unwrap().clone(),
        };
        rows.iter().enumerate().map(row).collect()
    }

    fn questions(questions: &[&str]) -> Vec<Row> {
        let fields = questions
            .iter()
            .map(|question| json!({"question": question}));
        rows(&fields.collect::<Vec<_>>())
    }

    fn of(retrieval: &RetrievalConfig, id: Option<&str>, train: &[Row]) -> Constraints {
        let mut constraints = Constraints::new(&Task::sql(), retrieval, id).unwrap();
        constraints.push(train);
        constraints
    }

    /// Which of the train rows each query may get.
    fn allowed(constraints: &Constraints, queries: &[Row], own: Option<usize>) -> Vec<Vec<usize>> {
        let of_queries = constraints.of_queries(queries, own);
        let rows = |query| {
            let rows = 0..constraints.len();
            rows.filter(|row| of_queries.allows(query, *row)).collect()
        };
        (0..queries.len()).map(rows).collect()
    }

    #[test]
    fn equal_text_is_ruled_out_whatever_space_is_around_it() {
        let train = of(
            &RetrievalConfig::default(),
            None,
            &questions(&["How many?", "Who?"]),
        );
        let asked = questions(&[" How many? \n", "how many?"]);
        // Letter case makes another text.
        assert_eq!(allowed(&train, &asked, None), [vec![1], vec![0, 1]]);
    }

    #[test]
    fn a_row_is_not_its_own_example_by_position_and_by_id() {
        let train = rows(&[
            json!({"question": "a", "id": 7}),
            json!({"question": "b", "id": "8"}),
            json!({"question": "c", "id": null}),
        ]);
        let by_position = of(&RetrievalConfig::default(), None, &train);
        let asked = questions(&["x", "y"]);
        assert_eq!(
            allowed(&by_position, &asked, Some(1)),
            [vec![0, 2], vec![0, 1]]
        );
        let by_id = of(&RetrievalConfig::default(), Some("id"), &train);
        let asked = rows(&[
            json!({"question": "x", "id": "7"}),
            json!({"question": "y", "id": null}),
        ]);
        assert_eq!(allowed(&by_id, &asked, None), [vec![1, 2], vec![0, 1, 2]]);
    }

    #[test]
    fn different_and_same_compare_a_column_with_itself_and_nothing_with_null() {
        let retrieval = RetrievalConfig {
            different: vec!["a".into()],
            same: vec!["b".into()],
            ..RetrievalConfig::default()
        };
        let train = of(
            &retrieval,
            None,
            &rows(&[
                json!({"question": "1", "a": "x", "b": "y"}),
                json!({"question": "2", "a": null, "b": "y"}),
                json!({"question": "3", "a": "z", "b": null}),
                json!({"question": "4", "a": "y", "b": 1}),
            ]),
        );
        let asked = rows(&[
            json!({"question": "q", "a": "x", "b": "y"}),
            json!({"question": "q", "a": "y", "b": "y"}),
            json!({"question": "q", "a": null, "b": null}),
            json!({"question": "q", "a": "z", "b": "1"}),
        ]);
        assert_eq!(
            allowed(&train, &asked, None),
            [vec![1], vec![0, 1], vec![], vec![3]]
        );
    }

    #[test]
    fn excluded_rows_and_near_duplicates_are_nobodys_example() {
        let retrieval = RetrievalConfig {
            near_duplicate: 0.8,
            ..RetrievalConfig::default()
        };
        let train = questions(&["b c d E a!", "a b c d e f g", "x", "?"]);
        let mut train = of(&retrieval, None, &train);
        train.exclude(2);
        let asked = questions(&["a b c d", "y", "!"]);
        let all = vec![0, 1, 3];
        assert_eq!(
            allowed(&train, &asked, None),
            [vec![1, 3], all.clone(), all]
        );
    }

    fn with_condition(condition: &str) -> Constraints {
        let retrieval = RetrievalConfig {
            r#where: condition.into(),
            ..RetrievalConfig::default()
        };
        let train = [1, 2, 3].map(|level| json!({"question": level, "level": level}));
        of(&retrieval, None, &rows(&train))
    }

    #[test]
    fn a_condition_sees_row_and_example() {
        let asked = rows(&[
            json!({"question": "q", "level": 2}),
            json!({"question": "q", "level": 0.5}),
        ]);
        let on_both = with_condition("example.level <= row.level");
        assert_eq!(allowed(&on_both, &asked, None), [vec![0, 1], vec![]]);
        let on_example = with_condition("example.level != 2");
        assert_eq!(allowed(&on_example, &asked, None), [[0, 2], [0, 2]]);
        assert!(on_example.values.is_empty(), "it was evaluated once a row");
        let on_row = with_condition("row.level == 2");
        assert_eq!(allowed(&on_row, &asked, None), [vec![0, 1, 2], vec![]]);
    }

    #[test]
    fn a_condition_that_cannot_be_evaluated_is_reported() {
        let asked = rows(&[
            json!({"question": "q", "level": 2}),
            json!({"question": "q", "level": "2"}),
        ]);
        let on_both = with_condition("example.level <= row.level");
        let of_queries = on_both.of_queries(&asked, None);
        assert!(of_queries.allows(0, 1) && of_queries.problem().is_none());
        assert!(!of_queries.allows(1, 2) && !of_queries.allows(1, 0));
        let problem = of_queries.problem().unwrap();
        assert_eq!(
            problem.to_string(),
            "`retrieval.where = \"example.level <= row.level\"` cannot be evaluated for row 1 with train row 0 \
             as `example`: `example.level` is a number and `row.level` is a text, which do not compare"
        );
        assert!(problem.hint().unwrap().contains("`|int`"));
        let on_example = with_condition("example.level.x < 3");
        let problem = on_example.of_queries(&asked, None).problem().unwrap();
        assert!(
            problem
                .to_string()
                .contains("for train row 0 as `example`: undefined"),
            "{problem}"
        );
    }

    #[test]
    fn too_few_examples_are_counted_and_all_constraints_named() {
        let retrieval = RetrievalConfig {
            different: vec!["db_id".into()],
            r#where: "example.level > 1".into(),
            near_duplicate: 0.9,
            ..RetrievalConfig::default()
        };
        let train = [1, 2, 3].map(|level| json!({"question": level, "level": level, "db_id": "a"}));
        let train = of(&retrieval, None, &rows(&train));
        assert_eq!(train.columns(), ["db_id", "level"]);
        let asked = rows(&[json!({"question": "3", "level": 3, "db_id": "b"})]);
        let of_queries = train.of_queries(&asked, None);
        let queries = Queries {
            split: "test",
            own: false,
            start: 40,
            split_rows: 41,
            rows: &asked,
        };
        let error = of_queries.too_few_examples(&queries, 0, 1, 2);
        assert_eq!(
            error.to_string(),
            "split `test` row 40: only 1 of 3 train rows may be its examples, `retrieval.examples` asks for 2"
        );
        assert_eq!(
            error.hint().unwrap(),
            "set `retrieval.examples` to at most 1, or loosen `retrieval.different = [\"db_id\"]` or \
             `retrieval.where = \"example.level > 1\"` or `retrieval.near_duplicate = 0.9`"
        );
        let missed = of_queries.too_few_examples(&queries, 0, 0, 1);
        assert!(
            missed
                .to_string()
                .contains("found 0 of 1 examples, though 1 train rows")
        );
    }
}
