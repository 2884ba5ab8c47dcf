//! The verdict on each row.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use rusqlite::Connection;

use super::compare::{RowOrder, same_result};
use super::database::{Databases, open_read_only};
use super::execute::{QueryError, QueryLimits, execute};
use super::table::Table;
use super::tokens::{first_statement, sorts_its_rows, without_distinct};
use crate::error::EvalError;
use crate::rows::{RowScore, RowStatus, Share};
use crate::scorer::check_counts;

/// What a prediction is judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlCase {
    /// The database, `<db_id>/<db_id>.sqlite`.
    pub db_id: String,
    /// The query whose result is right.
    pub gold: String,
}

/// Rows that one thread takes at a time, all of the same database.
const ROWS_PER_TURN: usize = 16;

type QueryResult = Result<Table, QueryError>;

/// Judges predictions, and remembers what the gold queries returned: several arms are scored on
/// the same rows.
#[derive(Debug)]
pub struct SqlJudge {
    databases: Databases,
    limits: QueryLimits,
    /// By database and query.
    gold_results: Mutex<HashMap<(String, String), Arc<QueryResult>>>,
}

impl SqlJudge {
    /// A judge with these databases.
    pub fn new(databases: Databases, limits: QueryLimits) -> Self {
        Self {
            databases,
            limits,
            gold_results: Mutex::default(),
        }
    }

    /// The verdict on each prediction, in order. `on_row` is called as rows are done.
    ///
    /// # Errors
    /// If there are no rows, if the numbers of rows and predictions differ, and if a database is
    /// missing or damaged. A query that fails is a verdict and no error.
    pub fn judge(
        &self,
        cases: &[SqlCase],
        predictions: &[String],
        on_row: &(dyn Fn() + Sync),
    ) -> Result<Vec<RowScore>, EvalError> {
        check_counts(cases.len(), predictions.len())?;
        let files = self
            .databases
            .files(cases.iter().map(|case| case.db_id.as_str()))?;
        let mut rows_of: HashMap<&str, Vec<usize>> = HashMap::new();
        for (row, case) in cases.iter().enumerate() {
            rows_of.entry(&case.db_id).or_default().push(row);
        }
        let turns: Vec<(&Path, &[usize])> = files
            .iter()
            .flat_map(|(db_id, file)| {
                rows_of[db_id]
                    .chunks(ROWS_PER_TURN)
                    .map(|rows| (file.as_path(), rows))
            })
            .collect();
        let judge_turn = |&(file, rows): &(&Path, &[usize])| -> Result<Vec<RowScore>, EvalError> {
            let connection = open_read_only(file)?;
            let judge_row = |&row: &usize| {
                let score = self.judge_row(&connection, row, &cases[row], &predictions[row]);
                on_row();
                score
            };
            Ok(rows.iter().map(judge_row).collect())
        };
        let turns: Result<Vec<_>, EvalError> = turns.par_iter().map(judge_turn).collect();
        let mut scores = turns?.concat();
        scores.sort_by_key(|score| score.index);
        Ok(scores)
    }

    fn judge_row(
        &self,
        connection: &Connection,
        index: usize,
        case: &SqlCase,
        prediction: &str,
    ) -> RowScore {
        let gold = first_statement(&case.gold);
        let prediction = first_statement(prediction);
        let order = if sorts_its_rows(&gold) {
            RowOrder::Matters
        } else {
            RowOrder::Free
        };
        let compare = |gold: &str, prediction: &str| -> Verdict {
            let gold = self.gold_result(connection, &case.db_id, gold);
            let prediction = execute(connection, prediction, &self.limits);
            Verdict::of(&gold, &prediction, order)
        };

        let (bare_gold, bare_prediction) = (without_distinct(&gold), without_distinct(&prediction));
        let has_distinct = bare_gold != gold || bare_prediction != prediction;
        let lenient = compare(&bare_gold, &bare_prediction);
        let strict_status = if has_distinct {
            compare(&gold, &prediction).status
        } else {
            lenient.status
        };
        RowScore::new(index, lenient.status, lenient.detail)
            .with("execution", Share::of(lenient.status == RowStatus::Correct))
            .with(
                "execution_strict",
                Share::of(strict_status == RowStatus::Correct),
            )
    }

    fn gold_result(&self, connection: &Connection, db_id: &str, gold: &str) -> Arc<QueryResult> {
        // Nothing panics while the lock is held, and a result is put in whole.
        let results = || {
            self.gold_results
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let key = (db_id.to_owned(), gold.to_owned());
        if let Some(result) = results().get(&key) {
            return Arc::clone(result);
        }
        let result = Arc::new(execute(connection, gold, &self.limits));
        results().insert(key, Arc::clone(&result));
        result
    }
}

/// A status, and the reason where a query failed.
struct Verdict {
    status: RowStatus,
    detail: Option<String>,
}

impl Verdict {
    fn of(gold: &QueryResult, prediction: &QueryResult, order: RowOrder) -> Self {
        let failure = |status, error: &QueryError| Self {
            status,
            detail: Some(error.to_string()),
        };
        match (gold, prediction) {
            (Err(error), _) => failure(RowStatus::GoldError, error),
            (Ok(_), Err(error @ QueryError::OutOfBudget)) => failure(RowStatus::Timeout, error),
            (Ok(_), Err(error)) => failure(RowStatus::PredictionError, error),
            (Ok(gold), Ok(prediction)) => {
                let is_same = same_result(gold, prediction, order);
                let status = if is_same {
                    RowStatus::Correct
                } else {
                    RowStatus::Wrong
                };
                Self {
                    status,
                    detail: None,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A folder with one database, `zoo`.
    fn zoo() -> (tempfile::TempDir, SqlJudge) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("zoo")).unwrap();
        Connection::open(folder.path().join("zoo/zoo.sqlite"))
            .unwrap()
            .execute_batch(
                "CREATE TABLE animal (id INTEGER, name TEXT, legs INTEGER);
                 INSERT INTO animal VALUES (1, 'cat', 4), (2, 'emu', 2), (3, 'dog', 4);",
            )
            .unwrap();
        let databases = Databases::open(folder.path()).unwrap();
        (folder, SqlJudge::new(databases, QueryLimits::default()))
    }

    fn judge(gold: &str, prediction: &str) -> RowScore {
        let case = SqlCase {
            db_id: "zoo".to_owned(),
            gold: gold.to_owned(),
        };
        let scores = zoo()
            .1
            .judge(&[case], &[prediction.to_owned()], &|| ())
            .unwrap();
        scores.into_iter().next().unwrap()
    }

    fn is_strict(score: &RowScore) -> bool {
        score.metrics["execution_strict"] == Share::of(true)
    }

    #[test]
    fn what_counts_is_the_result() {
        let gold = "SELECT name, legs FROM animal WHERE id > 1";
        let same = " select legs, name from animal where not id < = 1 ; DROP TABLE animal";
        assert_eq!(judge(gold, same).status, RowStatus::Correct);
        assert_eq!(
            judge(gold, "SELECT name, legs FROM animal").status,
            RowStatus::Wrong
        );
    }

    #[test]
    fn row_order_counts_where_gold_sorts() {
        let (up, down) = (
            "SELECT name FROM animal ORDER BY id",
            "SELECT name FROM animal ORDER BY id DESC",
        );
        assert!(!judge(up, down).correct);
        assert!(judge("SELECT name FROM animal", down).correct);
        assert!(judge(&format!("SELECT name FROM ({up})"), down).correct);
    }

    #[test]
    fn distinct_counts_in_strict_mode_only() {
        let score = judge(
            "SELECT DISTINCT legs FROM animal",
            "SELECT legs FROM animal",
        );
        assert!(score.correct && !is_strict(&score));
        let score = judge("SELECT legs FROM animal", "SELECT legs FROM animal");
        assert!(score.correct && is_strict(&score));
    }

    #[test]
    fn failures_are_told_apart() {
        let good = "SELECT count(*) FROM animal";
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) \
                       SELECT count(*) FROM n";
        for (gold, prediction, status) in [
            (good, "SELECT wings FROM animal", RowStatus::PredictionError),
            (good, "", RowStatus::PredictionError),
            (good, endless, RowStatus::Timeout),
            ("SELECT wings FROM animal", good, RowStatus::GoldError),
            (
                "SELECT wings FROM animal",
                "SELECT wings FROM animal",
                RowStatus::GoldError,
            ),
        ] {
            let score = judge(gold, prediction);
            assert_eq!(score.status, status, "{gold} / {prediction}");
            assert!(!score.correct && !is_strict(&score) && score.detail.is_some());
        }
    }

    #[test]
    fn rows_keep_their_order_and_are_all_reported() {
        let (_folder, judge) = zoo();
        let case = |i: usize| SqlCase {
            db_id: "zoo".to_owned(),
            gold: format!("SELECT {i}"),
        };
        let cases: Vec<_> = (0..100).map(case).collect();
        // Every third prediction is right.
        let predictions: Vec<_> = (0..100).map(|i| format!("SELECT {}", i - i % 3)).collect();
        let done = AtomicUsize::new(0);
        let count = || {
            done.fetch_add(1, Ordering::Relaxed);
        };
        let scores = judge.judge(&cases, &predictions, &count).unwrap();
        assert_eq!(done.into_inner(), 100);
        for (i, score) in scores.iter().enumerate() {
            assert_eq!((score.index, score.correct), (i, i % 3 == 0));
        }
    }

    #[test]
    fn counts_that_differ_are_an_error() {
        let case = SqlCase {
            db_id: "zoo".to_owned(),
            gold: "SELECT 1".to_owned(),
        };
        let error = zoo().1.judge(&[case], &[], &|| ()).unwrap_err();
        assert_eq!(error.to_string(), "there are 0 predictions for 1 rows");
    }
}
