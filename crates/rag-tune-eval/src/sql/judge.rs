//! The verdict on each row.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use rusqlite::Connection;

use super::compare::{RowOrder, same_result};
use super::database::open_read_only;
use super::execute::{QueryError, QueryLimits, execute};
use super::table::Table;
use super::tokens::{first_statement, sorts_its_rows, without_distinct};
use crate::error::EvalError;
use crate::rows::{RowScore, RowStatus, Share};
use crate::scorer::check_counts;

/// What a prediction is judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlCase {
    /// Name of the database.
    pub db_id: String,
    /// The query whose result is right.
    pub gold: String,
    /// The SQLite files of that name, at least one: a prediction is right when it agrees with gold on all of them.
    pub databases: Vec<PathBuf>,
}

/// Rows that one thread takes at a time, all of the same database.
const ROWS_PER_TURN: usize = 16;

type QueryResult = Result<Table, QueryError>;

/// Judges predictions, and remembers what the gold queries returned: several arms are scored on
/// the same rows.
#[derive(Debug)]
pub struct SqlJudge {
    limits: QueryLimits,
    /// By file and query.
    gold_results: Mutex<HashMap<(PathBuf, String), Arc<QueryResult>>>,
}

impl SqlJudge {
    /// A judge that gives each query `limits`.
    pub fn new(limits: QueryLimits) -> Self {
        Self {
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
        let mut rows_of: BTreeMap<&[PathBuf], Vec<usize>> = BTreeMap::new();
        for (row, case) in cases.iter().enumerate() {
            rows_of.entry(&case.databases).or_default().push(row);
        }
        let turns: Vec<(&[PathBuf], &[usize])> = rows_of
            .iter()
            .flat_map(|(files, rows)| rows.chunks(ROWS_PER_TURN).map(|rows| (*files, rows)))
            .collect();
        let judge_turn = |&(files, rows): &(&[PathBuf], &[usize])| -> Result<_, EvalError> {
            let databases: Vec<(&Path, Connection)> = files
                .iter()
                .map(|file| Ok((file.as_path(), open_read_only(file)?)))
                .collect::<Result<_, EvalError>>()?;
            let judge_row = |&row: &usize| {
                let score = self.judge_row(&databases, row, &cases[row], &predictions[row]);
                on_row();
                score
            };
            Ok(rows.iter().map(judge_row).collect::<Vec<_>>())
        };
        let turns: Result<Vec<_>, EvalError> = turns.par_iter().map(judge_turn).collect();
        let mut scores = turns?.concat();
        scores.sort_by_key(|score| score.index);
        Ok(scores)
    }

    fn judge_row(
        &self,
        databases: &[(&Path, Connection)],
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
            let mut verdict = None;
            for (file, connection) in databases {
                let gold = self.gold_result(connection, file, gold);
                let prediction = execute(connection, prediction, &self.limits);
                let on_file = Verdict::of(&gold, &prediction, order);
                if on_file.status != RowStatus::Correct {
                    return on_file;
                }
                verdict = Some(on_file);
            }
            verdict.expect("a case has at least one database")
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

    fn gold_result(&self, connection: &Connection, file: &Path, gold: &str) -> Arc<QueryResult> {
        // Nothing panics while the lock is held, and a result is put in whole.
        let results = || {
            self.gold_results
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let key = (file.to_owned(), gold.to_owned());
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

    /// A folder with two databases, `zoo.sqlite` and `zoo_2.sqlite`, and a maker of cases on them.
    fn zoo() -> (tempfile::TempDir, impl Fn(&str) -> SqlCase) {
        let folder = tempfile::tempdir().unwrap();
        let second = "INSERT INTO animal VALUES (4, 'ant', 6);";
        let mut databases = Vec::new();
        for (name, more) in [("zoo.sqlite", ""), ("zoo_2.sqlite", second)] {
            let file = folder.path().join(name);
            let connection = Connection::open(&file).unwrap();
            connection.execute_batch(ANIMALS).unwrap();
            connection.execute_batch(more).unwrap();
            databases.push(file);
        }
        let case = move |gold: &str| SqlCase {
            db_id: "zoo".to_owned(),
            gold: gold.to_owned(),
            databases: databases.clone(),
        };
        (folder, case)
    }

    const ANIMALS: &str = "CREATE TABLE animal (id INTEGER, name TEXT, legs INTEGER);
         INSERT INTO animal VALUES (1, 'cat', 4), (2, 'emu', 2), (3, 'dog', 4);";

    fn judge(gold: &str, prediction: &str) -> RowScore {
        let (_folder, case) = zoo();
        let judge = SqlJudge::new(QueryLimits::default());
        let scores = judge.judge(&[case(gold)], &[prediction.to_owned()], &|| ());
        scores.unwrap().remove(0)
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
    fn a_prediction_must_agree_on_all_databases() {
        let gold = "SELECT count(*) FROM animal";
        assert_eq!(judge(gold, "SELECT 3").status, RowStatus::Wrong);
        assert!(judge(gold, "SELECT max(id) FROM animal").correct);
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
        let (_folder, case) = zoo();
        let judge = SqlJudge::new(QueryLimits::default());
        let cases: Vec<_> = (0..100).map(|i| case(&format!("SELECT {i}"))).collect();
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
        let (_folder, case) = zoo();
        let judge = SqlJudge::new(QueryLimits::default());
        let error = judge.judge(&[case("SELECT 1")], &[], &|| ()).unwrap_err();
        assert_eq!(error.to_string(), "there are 0 predictions for 1 rows");
    }
}
