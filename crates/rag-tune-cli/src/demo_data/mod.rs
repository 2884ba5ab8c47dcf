//! The embedded data set: made-up text-to-SQL questions over made-up databases.
//!
//! [`domains`] describes 30 everyday subjects in words and value ranges ([`schema`]). [`rows`]
//! fills their tables from a seed, [`database`] puts them into SQLite, [`questions`] asks about
//! them and checks every answer by running it, and [`write`] puts all of it on disk. The same seed
//! gives the same questions and rows, on every machine.

mod database;
mod domains;
mod pools;
mod questions;
mod rng;
mod rows;
mod schema;
mod sql;
mod wording;
mod write;

use std::collections::HashSet;
use std::path::Path;

use anyhow::Result;

use database::Database;

/// Questions asked about each database.
const QUESTIONS_PER_DATABASE: usize = 40;

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

/// Writes the data set that belongs to `seed` to the folder `out`.
///
/// # Errors
/// If `out` exists and `overwrite` refuses it, or a file cannot be written. An answer that does
/// not run on its database is an error too: then the program is wrong, not its input.
pub fn generate(out: &Path, seed: u64, overwrite: Overwrite) -> Result<DemoSummary> {
    write::write(&entries(seed)?, out, seed, overwrite)
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
