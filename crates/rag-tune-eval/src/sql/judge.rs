//! The verdicts on all rows: rows are dealt to workers, and a worker that hangs or dies costs one row.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread;

use super::deal::Deal;
use super::execute::QueryLimits;
use super::protocol::{Request, Side, Verdict};
use super::sandbox::{Answer, Lost, Sandbox, Worker};
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

/// Judges predictions by what they return, each in a process that may do little else.
#[derive(Debug)]
pub struct SqlJudge {
    sandbox: Sandbox,
    limits: QueryLimits,
}

impl SqlJudge {
    /// A judge that gives each query `limits`, and runs it in `sandbox`.
    pub fn new(sandbox: Sandbox, limits: QueryLimits) -> Self {
        Self { sandbox, limits }
    }

    /// The verdict on each prediction, in order. `on_row` is called as rows are done.
    ///
    /// # Errors
    /// If there are no rows, if the numbers of rows and predictions differ, if a database cannot be opened, and if no
    /// worker starts. A query that fails, hangs or crashes is a verdict and no error.
    pub fn judge(
        &self,
        cases: &[SqlCase],
        predictions: &[String],
        on_row: &(dyn Fn() + Sync),
    ) -> Result<Vec<RowScore>, EvalError> {
        check_counts(cases.len(), predictions.len())?;
        let deal = Deal::new(cases.iter().map(|case| case.databases.as_slice()));
        let workers = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let drive = || {
            let scores = self.drive(&deal, cases, predictions, on_row);
            if scores.is_err() {
                deal.end(); // the other workers need not go on
            }
            scores
        };
        let scores: Result<Vec<Vec<RowScore>>, EvalError> = thread::scope(|scope| {
            let drivers: Vec<_> = (0..workers.min(cases.len()))
                .map(|_| scope.spawn(drive))
                .collect();
            let joined = drivers.into_iter().map(|driver| {
                let scores = driver.join();
                scores.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            joined.collect()
        });
        let mut scores = scores?.concat();
        scores.sort_by_key(|score| score.index);
        Ok(scores)
    }

    /// Has rows judged by one worker at a time until none are left.
    ///
    /// A worker does not outlive the thread that started it, so each call starts its own.
    fn drive(
        &self,
        deal: &Deal,
        cases: &[SqlCase],
        predictions: &[String],
        on_row: &(dyn Fn() + Sync),
    ) -> Result<Vec<RowScore>, EvalError> {
        let mut scores = Vec::new();
        let mut worker: Option<Worker> = None;
        let mut group = None;
        while let Some(row) = deal.next(&mut group) {
            let request = self.request(&cases[row], &predictions[row])?;
            let started = match &mut worker {
                Some(worker) => worker,
                None => worker.insert(self.sandbox.start()?),
            };
            let verdict = match started.judge(&request)? {
                Answer::Judged(verdict) => verdict,
                Answer::Lost(side, lost) => {
                    worker = None;
                    verdict_on_lost(side, &lost)
                }
            };
            scores.push(row_score(row, verdict));
            on_row();
        }
        Ok(scores)
    }

    fn request(&self, case: &SqlCase, prediction: &str) -> Result<Request, EvalError> {
        // Workers run in another folder.
        let absolute = |path: &PathBuf| {
            std::path::absolute(path).map_err(|source| EvalError::Read {
                path: path.clone(),
                source,
            })
        };
        Ok(Request {
            databases: case
                .databases
                .iter()
                .map(absolute)
                .collect::<Result<_, _>>()?,
            gold: case.gold.clone(),
            prediction: prediction.to_owned(),
            limits: self.limits,
        })
    }
}

fn verdict_on_lost(side: Side, lost: &Lost) -> Verdict {
    let status = match (side, lost) {
        (Side::Gold, _) => RowStatus::GoldError,
        (Side::Prediction, Lost::Silent(_)) => RowStatus::Timeout,
        (Side::Prediction, Lost::Died(_)) => RowStatus::PredictionError,
    };
    Verdict::failed(status, format!("the query was stopped: {lost}"))
}

fn row_score(index: usize, verdict: Verdict) -> RowScore {
    let is_correct = verdict.status == RowStatus::Correct;
    RowScore {
        gold_result: verdict.gold_result,
        result: verdict.result,
        ..RowScore::new(index, verdict.status, verdict.detail)
    }
    .with("execution", Share::of(is_correct))
    .with("execution_strict", Share::of(verdict.is_strictly_correct))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rusqlite::Connection;

    use super::*;

    /// A folder with one small database, and a maker of cases on it.
    fn zoo() -> (tempfile::TempDir, impl Fn(&str) -> SqlCase) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("zoo.sqlite");
        Connection::open(&file)
            .unwrap()
            .execute_batch("CREATE TABLE animal (id INTEGER); INSERT INTO animal VALUES (1), (2)")
            .unwrap();
        let case = move |gold: &str| SqlCase {
            db_id: "zoo".to_owned(),
            gold: gold.to_owned(),
            databases: vec![file.clone()],
        };
        (folder, case)
    }

    fn judge() -> SqlJudge {
        SqlJudge::new(Sandbox::thread(), QueryLimits::default())
    }

    #[test]
    fn rows_keep_their_order_and_are_all_reported() {
        let (_folder, case) = zoo();
        let cases: Vec<_> = (0..100).map(|i| case(&format!("SELECT {i}"))).collect();
        // Every third prediction is right.
        let predictions: Vec<_> = (0..100).map(|i| format!("SELECT {}", i - i % 3)).collect();
        let done = AtomicUsize::new(0);
        let count = || {
            done.fetch_add(1, Ordering::Relaxed);
        };
        let scores = judge().judge(&cases, &predictions, &count).unwrap();
        assert_eq!(done.into_inner(), 100);
        for (i, score) in scores.iter().enumerate() {
            assert_eq!((score.index, score.correct), (i, i % 3 == 0));
        }
    }

    #[test]
    fn a_row_shows_both_results() {
        let (_folder, case) = zoo();
        let predictions = ["SELECT 1 AS one".to_owned()];
        let cases = [case("SELECT DISTINCT id FROM animal")];
        let score = judge()
            .judge(&cases, &predictions, &|| ())
            .unwrap()
            .remove(0);
        assert_eq!(score.gold_result.unwrap().rows, [[1], [2]]);
        assert_eq!(score.result.unwrap().columns, ["one"]);
    }

    #[test]
    fn a_database_that_cannot_be_opened_is_an_error() {
        let (folder, case) = zoo();
        let broken = folder.path().join("broken.sqlite");
        std::fs::write(&broken, "no database".repeat(100)).unwrap();
        let mut cases = vec![case("SELECT 1"); 20];
        cases[13].databases = vec![broken];
        let predictions = vec!["SELECT 1".to_owned(); 20];
        let error = judge().judge(&cases, &predictions, &|| ()).unwrap_err();
        assert!(error.to_string().contains("broken.sqlite"), "{error}");
        assert!(error.hint().is_some());
    }

    #[test]
    fn counts_that_differ_are_an_error() {
        let (_folder, case) = zoo();
        let error = judge().judge(&[case("SELECT 1")], &[], &|| ()).unwrap_err();
        assert_eq!(error.to_string(), "there are 0 predictions for 1 rows");
    }

    /// Each row loses its worker, and each gets a verdict.
    #[test]
    fn a_lost_worker_costs_one_row() {
        let (_folder, case) = zoo();
        let script = "echo '\"ready\"'; read line; echo '{\"running\":\"prediction\"}'; kill -9 $$";
        let judge = SqlJudge::new(
            Sandbox::program("/bin/sh", &["-c", script]),
            QueryLimits::default(),
        );
        let cases = vec![case("SELECT 1"); 5];
        let predictions = vec!["SELECT 1".to_owned(); 5];
        let scores = judge.judge(&cases, &predictions, &|| ()).unwrap();
        assert_eq!(scores.len(), 5);
        for score in scores {
            assert_eq!(score.status, RowStatus::PredictionError);
            let detail = score.detail.unwrap();
            assert!(
                detail.contains("crashed its process (signal: 9"),
                "{detail}"
            );
        }
    }
}
