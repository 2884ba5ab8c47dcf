//! Databases for rows that have none: made from the row's `CREATE TABLE` context and filled with rows that tell its
//! gold query from others.
//!
//! A real database is better evidence: these are as good as the guesses below about keys and values, and an accuracy
//! measured on them is an estimate. docs/evaluation.md says how often the two disagree.
//!
//! - `schema`: the tables that the context describes
//! - `query`: what the gold query asks of their rows
//! - `design`, `values`: which values each column has
//! - `rows`: the rows of a database
//! - `neighbours`: queries that must return something else
//! - `suite`: several databases that tell these from gold

mod design;
mod lexemes;
mod neighbours;
mod pool;
mod query;
mod rows;
mod schema;
mod suite;
mod values;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;

use tempfile::TempDir;

use self::suite::Suite;
use crate::error::EvalError;

pub use self::schema::ContextError;

/// A row that databases are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SyntheticCase<'a> {
    /// `CREATE TABLE` statements.
    pub context: &'a str,
    /// The gold query.
    pub gold: &'a str,
}

/// Databases made up for rows, in a temporary folder that goes with this value.
#[derive(Debug)]
pub struct SyntheticDatabases {
    /// Keeps the folder.
    _folder: TempDir,
    /// By row.
    files: Vec<Vec<PathBuf>>,
    databases_per_row: usize,
    /// Rows whose gold query returns nothing on all of their databases, or does not run.
    rows_without_answer: usize,
    /// Rows whose context lacks something that their gold query names.
    completed_rows: usize,
}

impl SyntheticDatabases {
    /// Databases made for a row, unless another number is asked for.
    pub const PER_ROW: usize = 5;

    /// Makes `databases_per_row` databases for each row; rows with the same context and gold share theirs. The same
    /// rows and seed give the same databases.
    ///
    /// # Errors
    /// [`EvalError::Context`] for a row from whose context no tables can be made, [`EvalError::Write`] if the system's
    /// folder for temporary files cannot be written to.
    pub fn build(
        rows: &[SyntheticCase],
        databases_per_row: usize,
        seed: u64,
    ) -> Result<Self, EvalError> {
        let folder =
            TempDir::with_prefix("rag-tune-databases-").map_err(|source| EvalError::Write {
                path: std::env::temp_dir(),
                source,
            })?;
        let mut first_rows: HashMap<SyntheticCase, usize> = HashMap::new();
        let mut different: Vec<(usize, SyntheticCase)> = Vec::new();
        for (row, case) in rows.iter().enumerate() {
            first_rows.entry(*case).or_insert_with(|| {
                different.push((row, *case));
                row
            });
        }
        let make_one = |&(row, case): &(usize, SyntheticCase)| -> Result<(usize, Made), EvalError> {
            let made = make(row, case, databases_per_row, seed, folder.path())?;
            Ok((row, made))
        };
        let made: HashMap<usize, Made> = in_parallel(&different, make_one)?.into_iter().collect();
        let of_row = |case: &SyntheticCase| &made[&first_rows[case]];
        Ok(Self {
            files: rows.iter().map(|case| of_row(case).files.clone()).collect(),
            rows_without_answer: rows.iter().filter(|case| !of_row(case).answers).count(),
            completed_rows: rows.iter().filter(|case| of_row(case).is_completed).count(),
            databases_per_row,
            _folder: folder,
        })
    }

    /// The databases of a row, from 0.
    pub fn files(&self, row: usize) -> &[PathBuf] {
        &self.files[row]
    }

    /// What a reader of figures measured on these databases must know, a sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = vec![format!(
            "executed on {} synthetic databases a row, made from the schema: an estimate of execution accuracy",
            self.databases_per_row
        )];
        for (count, what) in [
            (
                self.completed_rows,
                "the schema lacked tables or columns that the gold query names, which were added",
            ),
            (
                self.rows_without_answer,
                "the gold query returns nothing on the synthetic databases, so that every query that returns nothing \
                 is taken for right",
            ),
        ] {
            if count > 0 {
                notes.push(format!("{count} of {} rows: {what}", self.files.len()));
            }
        }
        notes
    }
}

/// The databases of a row.
struct Made {
    files: Vec<PathBuf>,
    answers: bool,
    is_completed: bool,
}

fn make(
    row: usize,
    case: SyntheticCase,
    count: usize,
    seed: u64,
    folder: &Path,
) -> Result<Made, EvalError> {
    let of_row = |source| EvalError::Context { row, source };
    let suite = Suite::build(case.context, case.gold, count, seed).map_err(of_row)?;
    let folder = folder.join(format!("row_{row}"));
    std::fs::create_dir(&folder).map_err(|source| EvalError::Write {
        path: folder.clone(),
        source,
    })?;
    // Messages about a query name the file that it ran on.
    let files: Vec<PathBuf> = (0..count)
        .map(|number| folder.join(format!("synthetic_{number}.sqlite")))
        .collect();
    for (number, file) in files.iter().enumerate() {
        suite.write(number, file).map_err(of_row)?;
    }
    Ok(Made {
        files,
        answers: suite.answers,
        is_completed: suite.additions > 0,
    })
}

/// `work` on all items by as many threads as there are processors. The error of the first item that has one.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, EvalError> + Sync,
) -> Result<Vec<R>, EvalError> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    // Whole runs of rows: neighbours cost about the same.
    let chunks = items.chunks(items.len().div_ceil(threads).max(1));
    let done: Vec<Result<Vec<R>, EvalError>> = thread::scope(|scope| {
        let work = &work;
        let started: Vec<_> = chunks
            .map(|chunk| scope.spawn(move || chunk.iter().map(work).collect()))
            .collect();
        let joined = started.into_iter().map(|thread| {
            let result = thread.join();
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        joined.collect()
    });
    let done: Result<Vec<Vec<R>>, EvalError> = done.into_iter().collect();
    Ok(done?.into_iter().flatten().collect())
}
