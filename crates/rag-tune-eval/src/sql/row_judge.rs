//! The verdict on one row: gold and prediction are run on each of its databases and compared.
//!
//! What a query means is that of Spider's test-suite evaluation (Zhong et al. 2020, arXiv:2010.02840, and its program
//! test-suite-sql-eval): a prediction is right when it returns what gold returns on *all* databases of its name, as a
//! multiset of rows with the columns in any order. For the metric `execution` every `DISTINCT` is first taken out of
//! both queries, for `execution_strict` it stays; `> =`, `< =`, `! =` are joined and `YEAR(CURDATE())` is 2020.
//!
//! Where we differ, on purpose:
//!
//! - *Order of rows* counts where the outermost query of gold has an `ORDER BY`. There it counts where the words
//!   `order by` stand anywhere in gold, also in a subquery, an aggregate's window or a string.
//! - *Time-outs fire.* There the clock is only looked at when the query is over.
//! - *A gold query that fails* on any database makes the row a [`RowStatus::GoldError`], whatever the prediction does.
//!   There it ends the program.
//! - *A prediction that is no query* (empty, a comment, `INSERT`, `PRAGMA`) is an error. There it is run, and one that
//!   returns no rows is right where gold returns none.
//! - *Only the first statement* of a text counts, for both metrics. There the strict metric fails on a second one.
//! - *Text that is no UTF-8* is compared by its bytes. There bytes that do not decode are dropped, so that texts
//!   which differ can become equal.
//! - *Repairs* (operators, the year) leave strings, names and comments alone, and keep the space behind
//!   `YEAR(CURDATE())`; `IS [NOT] DISTINCT FROM` keeps its word. There they are replacements in the bare text, and
//!   `YEAR(CURDATE()) AS y` becomes `2020AS y`.
//! - *Numbers are equal by value* also where a row has several: `(1, 15)` is `(1.0, 15)`. There rows are first compared
//!   after sorting their cells as text, which puts `1.0` and `1` in different places.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rusqlite::Connection;

use super::compare::{RowOrder, same_result};
use super::database::open_read_only;
use super::execute::{QueryError, QueryLimits, execute};
use super::protocol::{Request, Side, Verdict};
use super::table::Table;
use super::tokens::{first_statement, sorts_its_rows, with_current_year, without_distinct};
use crate::error::EvalError;
use crate::rows::RowStatus;

/// Databases that are open at a time.
const OPEN_DATABASES: usize = 64;

/// Memory of the gold results that are kept, in bytes.
const KEPT_GOLD_BYTES: usize = 64 << 20;

type QueryResult = Result<Table, QueryError>;

/// Judges rows one after another. It keeps databases open and remembers what gold queries returned, because rows that
/// share them come together.
#[derive(Default)]
pub struct RowJudge {
    connections: HashMap<PathBuf, Rc<Connection>>,
    /// By file and query.
    gold_results: HashMap<(PathBuf, String), Rc<QueryResult>>,
    gold_bytes: usize,
}

/// The two queries as they are run, and what is needed to compare them.
struct Pair<'a> {
    gold: &'a str,
    prediction: &'a str,
    order: RowOrder,
    limits: &'a QueryLimits,
}

impl RowJudge {
    /// The verdict on a row. `on_query` hears of each query before it runs.
    ///
    /// # Errors
    /// [`EvalError::OpenDatabase`]. A query that fails is a verdict and no error.
    pub fn judge(
        &mut self,
        request: &Request,
        on_query: &mut dyn FnMut(Side),
    ) -> Result<Verdict, EvalError> {
        let gold = repaired(&request.gold);
        let prediction = repaired(&request.prediction);
        let order = if sorts_its_rows(&gold) {
            RowOrder::Matters
        } else {
            RowOrder::Free
        };
        let (bare_gold, bare_prediction) = (without_distinct(&gold), without_distinct(&prediction));
        let pair = |gold, prediction| Pair {
            gold,
            prediction,
            order,
            limits: &request.limits,
        };
        let files = &request.databases;
        let mut verdict = self.judge_pair(files, &pair(&bare_gold, &bare_prediction), on_query)?;
        let has_distinct = bare_gold != gold || bare_prediction != prediction;
        let status = if has_distinct {
            let strict = self.judge_pair(files, &pair(&gold, &prediction), on_query)?;
            strict.status
        } else {
            verdict.status
        };
        verdict.is_strictly_correct = status == RowStatus::Correct;
        Ok(verdict)
    }

    fn judge_pair(
        &mut self,
        files: &[PathBuf],
        pair: &Pair,
        on_query: &mut dyn FnMut(Side),
    ) -> Result<Verdict, EvalError> {
        // First, so that the rows whose gold fails are the same for every prediction.
        for file in files {
            if let Err(error) = &*self.gold_result(file, pair, on_query)? {
                return Ok(Verdict::failed(
                    RowStatus::GoldError,
                    on_file(error.to_string(), file, files),
                ));
            }
        }
        let mut first = None;
        for file in files {
            let gold = self.gold_result(file, pair, on_query)?;
            let connection = self.connection(file)?;
            on_query(Side::Prediction);
            let prediction = execute(&connection, pair.prediction, pair.limits);
            let verdict = compare(&gold, &prediction, pair.order);
            if verdict.status != RowStatus::Correct {
                let detail = verdict
                    .detail
                    .or_else(|| (files.len() > 1).then(|| "the results differ".to_owned()));
                return Ok(Verdict {
                    detail: detail.map(|detail| on_file(detail, file, files)),
                    ..verdict
                });
            }
            first.get_or_insert(verdict);
        }
        Ok(first.expect("a row has at least one database"))
    }

    fn gold_result(
        &mut self,
        file: &Path,
        pair: &Pair,
        on_query: &mut dyn FnMut(Side),
    ) -> Result<Rc<QueryResult>, EvalError> {
        let key = (file.to_owned(), pair.gold.to_owned());
        if let Some(result) = self.gold_results.get(&key) {
            return Ok(Rc::clone(result));
        }
        let connection = self.connection(file)?;
        on_query(Side::Gold);
        let result = Rc::new(execute(&connection, pair.gold, pair.limits));
        let bytes = pair.gold.len() + result.as_ref().as_ref().map_or(0, Table::size_bytes);
        if self.gold_bytes + bytes > KEPT_GOLD_BYTES {
            self.gold_results.clear();
            self.gold_bytes = 0;
        }
        if bytes <= KEPT_GOLD_BYTES {
            self.gold_bytes += bytes;
            self.gold_results.insert(key, Rc::clone(&result));
        }
        Ok(result)
    }

    fn connection(&mut self, file: &Path) -> Result<Rc<Connection>, EvalError> {
        if let Some(connection) = self.connections.get(file) {
            return Ok(Rc::clone(connection));
        }
        if self.connections.len() >= OPEN_DATABASES {
            self.connections.clear();
        }
        let connection = Rc::new(open_read_only(file)?);
        self.connections
            .insert(file.to_owned(), Rc::clone(&connection));
        Ok(connection)
    }
}

/// The first statement of `sql`, mended as the field does.
pub(super) fn repaired(sql: &str) -> String {
    with_current_year(&first_statement(sql))
}

/// `text`, and the name of `file` where there are several.
fn on_file(text: String, file: &Path, files: &[PathBuf]) -> String {
    match file.file_name() {
        Some(name) if files.len() > 1 => format!("{text} (on `{}`)", name.to_string_lossy()),
        _ => text,
    }
}

/// The verdict on one database.
fn compare(gold: &QueryResult, prediction: &QueryResult, order: RowOrder) -> Verdict {
    let gold = match gold {
        Ok(gold) => gold,
        Err(error) => return Verdict::failed(RowStatus::GoldError, error.to_string()),
    };
    let (status, detail) = match prediction {
        Err(error @ QueryError::OutOfBudget) => (RowStatus::Timeout, Some(error.to_string())),
        Err(error) => (RowStatus::PredictionError, Some(error.to_string())),
        Ok(prediction) if same_result(gold, prediction, order) => (RowStatus::Correct, None),
        Ok(_) => (RowStatus::Wrong, None),
    };
    Verdict {
        status,
        detail,
        is_strictly_correct: false,
        gold_result: Some(gold.preview()),
        result: prediction.as_ref().ok().map(Table::preview),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANIMALS: &str = "CREATE TABLE animal (id INTEGER, name TEXT, legs INTEGER, weight REAL);
         INSERT INTO animal VALUES (1, 'cat', 4, 4.0), (2, 'emu', 2, 40.5), (3, 'dog', 4, 15.0);";

    /// A folder with the databases `zoo.sqlite` and `zoo_2.sqlite`, which has an ant and a text that is no UTF-8.
    fn zoo() -> (tempfile::TempDir, Vec<PathBuf>) {
        let folder = tempfile::tempdir().unwrap();
        let ant = "INSERT INTO animal VALUES (4, CAST(x'616eff74' AS TEXT), 6, NULL)";
        let files = [("zoo.sqlite", ""), ("zoo_2.sqlite", ant)].map(|(name, more)| {
            let file = folder.path().join(name);
            let connection = Connection::open(&file).unwrap();
            connection.execute_batch(ANIMALS).unwrap();
            connection.execute_batch(more).unwrap();
            file
        });
        (folder, files.to_vec())
    }

    fn judge(gold: &str, prediction: &str) -> Verdict {
        let (_folder, databases) = zoo();
        let request = Request {
            databases,
            gold: gold.to_owned(),
            prediction: prediction.to_owned(),
            limits: QueryLimits::default(),
        };
        RowJudge::default().judge(&request, &mut |_| ()).unwrap()
    }

    fn is_correct(gold: &str, prediction: &str) -> bool {
        judge(gold, prediction).status == RowStatus::Correct
    }

    #[test]
    fn what_counts_is_the_result() {
        let gold = "SELECT name, legs FROM animal WHERE id > 1";
        let same = " select legs, name from animal where not id < = 1 ; DROP TABLE animal";
        assert!(is_correct(gold, same));
        let other = judge(gold, "SELECT name, legs FROM animal");
        assert_eq!(other.status, RowStatus::Wrong);
        assert_eq!(
            other.detail.as_deref(),
            Some("the results differ (on `zoo.sqlite`)")
        );
    }

    #[test]
    fn a_prediction_must_agree_on_all_databases() {
        let gold = "SELECT count(*) FROM animal";
        assert!(is_correct(gold, "SELECT max(id) FROM animal"));
        let verdict = judge(gold, "SELECT 3");
        assert_eq!(verdict.status, RowStatus::Wrong);
        assert_eq!(
            verdict.detail.as_deref(),
            Some("the results differ (on `zoo_2.sqlite`)")
        );
        // The results are those of the database on which they differ.
        assert_eq!(verdict.gold_result.unwrap().rows, [[4]]);
        assert_eq!(verdict.result.unwrap().rows, [[3]]);
    }

    #[test]
    fn row_order_counts_where_the_outermost_query_of_gold_sorts() {
        let (up, down) = (
            "SELECT name FROM animal ORDER BY id",
            "SELECT name FROM animal ORDER BY id DESC",
        );
        assert!(!is_correct(up, down));
        assert!(is_correct("SELECT name FROM animal", down));
        assert!(is_correct(&format!("SELECT name FROM ({up})"), down));
        assert!(is_correct(
            "SELECT name FROM animal WHERE name != 'order by'",
            down
        ));
    }

    #[test]
    fn distinct_counts_in_strict_mode_only() {
        for (gold, prediction, is_strict) in [
            (
                "SELECT DISTINCT legs FROM animal",
                "SELECT legs FROM animal",
                false,
            ),
            ("SELECT legs FROM animal", "SELECT legs FROM animal", true),
            (
                "SELECT count(legs) FROM animal",
                "SELECT count(distinct legs) FROM animal",
                false,
            ),
            (
                "SELECT name FROM animal WHERE weight IS NOT DISTINCT FROM NULL",
                "SELECT name FROM animal WHERE weight IS NULL",
                true,
            ),
        ] {
            let verdict = judge(gold, prediction);
            assert_eq!(verdict.status, RowStatus::Correct, "{gold}");
            assert_eq!(verdict.is_strictly_correct, is_strict, "{gold}");
        }
    }

    #[test]
    fn the_current_year_is_2020() {
        assert!(is_correct(
            "SELECT YEAR(CURDATE()) - id AS born FROM animal",
            "SELECT 2020 - id FROM animal"
        ));
    }

    /// The field's scorer drops the byte ff and calls these two equal.
    #[test]
    fn text_that_is_no_utf8_is_compared_by_its_bytes() {
        let ant = "SELECT name FROM animal WHERE legs = 6";
        assert!(is_correct(ant, ant));
        let dropped = "SELECT 'ant' FROM animal WHERE legs = 6";
        assert_eq!(judge(ant, dropped).status, RowStatus::Wrong);
    }

    /// The field's scorer sorts the cells of a row as text first, and so misses this.
    #[test]
    fn whole_floats_equal_integers_in_rows_of_several() {
        assert!(is_correct("SELECT 1, 15", "SELECT 1.0, 15"));
    }

    #[test]
    fn failures_are_told_apart() {
        let good = "SELECT count(*) FROM animal";
        let bad = "SELECT wings FROM animal";
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) \
                       SELECT count(*) FROM n";
        for (gold, prediction, status) in [
            (good, bad, RowStatus::PredictionError),
            (good, "", RowStatus::PredictionError),
            (good, endless, RowStatus::Timeout),
            (bad, good, RowStatus::GoldError),
            (bad, bad, RowStatus::GoldError),
            (endless, good, RowStatus::GoldError),
        ] {
            let verdict = judge(gold, prediction);
            assert_eq!(verdict.status, status, "{gold} / {prediction}");
            assert!(!verdict.is_strictly_correct && verdict.detail.is_some());
        }
    }

    /// Which rows have no usable gold must not depend on who predicts.
    #[test]
    fn gold_that_fails_on_a_later_database_fails_whatever_the_prediction() {
        let (_folder, databases) = zoo();
        let connection = Connection::open(&databases[1]).unwrap();
        connection.execute_batch("DROP TABLE animal").unwrap();
        drop(connection);
        let request = Request {
            databases,
            gold: "SELECT id FROM animal".to_owned(),
            prediction: "SELECT nothing".to_owned(),
            limits: QueryLimits::default(),
        };
        let verdict = RowJudge::default().judge(&request, &mut |_| ()).unwrap();
        assert_eq!(verdict.status, RowStatus::GoldError);
        assert!(verdict.detail.unwrap().contains("zoo_2.sqlite"));
    }

    #[test]
    fn gold_runs_once_for_all_predictions_of_a_row() {
        let (_folder, databases) = zoo();
        let mut judge = RowJudge::default();
        let mut gold_runs = 0;
        for prediction in ["SELECT 1", "SELECT 2"] {
            let request = Request {
                databases: databases.clone(),
                gold: "SELECT 1".to_owned(),
                prediction: prediction.to_owned(),
                limits: QueryLimits::default(),
            };
            let count = &mut |side| gold_runs += usize::from(side == Side::Gold);
            judge.judge(&request, count).unwrap();
        }
        assert_eq!(gold_runs, databases.len());
    }
}
