//! The embedded data sets: made-up questions for each task.
//!
//! Text-to-SQL: [`domains`] describes 30 everyday subjects in words and value ranges ([`schema`]). [`rows`]
//! fills their tables from a seed, [`database`] puts them into SQLite, and [`questions`] asks about
//! them and checks every answer by running it. [`word_problems`] and [`meanings`] make the rows of the
//! other two tasks. [`write`] puts all of it on disk. The same seed gives the same rows, on every machine.

mod database;
mod domains;
mod meaning_words;
mod meanings;
mod pools;
mod problem_templates;
mod questions;
mod rng;
mod rows;
mod schema;
mod sql;
mod word_problems;
mod wording;
mod write;

use std::collections::HashSet;
use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;

use database::Database;
use meanings::SENTENCES_PER_MEANING;
use write::{Rows, Source};

/// Questions asked about each database.
const QUESTIONS_PER_DATABASE: usize = 40;
/// Rows of `train.jsonl` where there are no databases.
const TRAIN_ROWS: usize = 800;
/// Rows of `validation.jsonl` where there are no databases.
const VALIDATION_ROWS: usize = 200;

/// What a data set is for: the task of this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DemoTask {
    /// Questions about 30 SQLite databases, 24 of them for training and 6 unseen ones for validation
    Sql,
    /// Word problems with worked steps, in the columns of GSM8K
    Gsm8k,
    /// Sentences about games as functions with attributes, in the columns of ViGGO
    Functional,
}

impl DemoTask {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sql, Self::Gsm8k, Self::Functional];

    /// The task's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sql => "sql",
            Self::Gsm8k => "gsm8k",
            Self::Functional => "functional",
        }
    }

    /// First line of the README, by which an earlier data set is known.
    fn title(self) -> &'static str {
        match self {
            Self::Sql => "# Synthetic text-to-SQL data",
            Self::Gsm8k => "# Synthetic word problems",
            Self::Functional => "# Synthetic meaning representations",
        }
    }
}

/// What to do when the output folder exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// Leave it and fail.
    Refuse,
    /// Put the new data set in its place.
    Replace,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DemoSummary {
    /// SQLite files, for both splits.
    pub databases: usize,
    /// Rows of `train.jsonl`.
    pub train_rows: usize,
    /// Rows of `validation.jsonl`.
    pub validation_rows: usize,
}

/// Writes the data set for `task` that belongs to `seed` to the folder `out`.
///
/// # Errors
/// If `out` exists and `overwrite` refuses it, or a file cannot be written. An answer that does
/// not run on its database is an error too: then the program is wrong, not its input.
pub fn generate(
    task: DemoTask,
    out: &Path,
    seed: u64,
    overwrite: Overwrite,
) -> Result<DemoSummary> {
    match task {
        DemoTask::Sql => {
            let entries = entries(seed)?;
            write::write(out, overwrite, |folder| {
                write::fill_databases(&entries, folder, seed)
            })
        }
        DemoTask::Gsm8k => {
            let source = Source {
                task,
                seed,
                about: "A row has `question` and `answer`:
  worked steps with `<<calculation=result>>`, and the result behind `####`.",
                kind: "kind of problem",
            };
            let rows = word_problems(seed)?;
            write::write(out, overwrite, |folder| {
                write::fill_rows(&source, &rows, |row| row.kind, folder)
            })
        }
        DemoTask::Functional => {
            let source = Source {
                task,
                seed,
                about: "A row has `target` (a sentence) and
  `meaning_representation` (a function with attributes); no meaning is in both splits.",
                kind: "function",
            };
            let rows = meanings(seed)?;
            write::write(out, overwrite, |folder| {
                write::fill_rows(&source, &rows, |row| row.kind, folder)
            })
        }
    }
}

fn word_problems(seed: u64) -> Result<Rows<word_problems::Problem>> {
    let mut train = word_problems::problems(seed, TRAIN_ROWS + VALIDATION_ROWS)?;
    let validation = train.split_off(TRAIN_ROWS);
    Ok(Rows { train, validation })
}

/// Split by meaning, so that the sentences of a meaning stay together.
fn meanings(seed: u64) -> Result<Rows<meanings::Meaning>> {
    let count = (TRAIN_ROWS + VALIDATION_ROWS) / SENTENCES_PER_MEANING;
    let mut train = meanings::meanings(seed, count)?.concat();
    let validation = train.split_off(TRAIN_ROWS);
    Ok(Rows { train, validation })
}

fn entries(seed: u64) -> Result<Vec<write::Entry>> {
    let mut entries = Vec::new();
    let mut seen = HashSet::new();
    for domain in domains::all()? {
        let database = Database::build(domain, seed)?;
        let questions = questions::ask(&database, seed, QUESTIONS_PER_DATABASE, &mut seen)?;
        entries.push((database, questions));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests;
