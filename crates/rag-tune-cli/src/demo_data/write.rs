//! Puts the data set on disk: all of it or nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::database::Database;
use super::questions::Question;
use super::schema::Split;
use super::{DemoSummary, Overwrite};

/// First line of the README, by which an earlier data set is known.
const TITLE: &str = "# Synthetic text-to-SQL data";

/// A database and the questions about it.
pub type Entry = (Database, Vec<Question>);

/// Writes everything to a folder beside `out`, which then takes the place of `out`.
///
/// # Errors
/// If `out` exists and may not be replaced, or something cannot be written.
pub fn write(
    entries: &[Entry],
    out: &Path,
    seed: u64,
    overwrite: Overwrite,
) -> Result<DemoSummary> {
    if out.exists() {
        ensure!(
            overwrite == Overwrite::Replace,
            "`{}` exists already",
            out.display()
        );
        ensure!(
            is_replaceable(out),
            "`{}` holds something else than demo data",
            out.display()
        );
    }
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent)
        .with_context(|| format!("cannot create folder `{}`", parent.display()))?;
    let temporary = tempfile::Builder::new()
        .prefix(".demo-data-")
        .tempdir_in(parent)
        .with_context(|| format!("cannot create a folder in `{}`", parent.display()))?;
    // A folder within: the temporary one is private to its owner, the data set is not.
    let folder = temporary.path().join("data");
    let summary = fill(entries, &folder, seed)?;
    replace(out, &folder, &temporary.path().join("old"))?;
    Ok(summary)
}

/// Whether `folder` is empty or an earlier data set: `--force` must not delete anything else.
fn is_replaceable(folder: &Path) -> bool {
    let empty = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    let readme = fs::read_to_string(folder.join("README.md"));
    empty || readme.is_ok_and(|text| text.starts_with(TITLE))
}

fn fill(entries: &[Entry], folder: &Path, seed: u64) -> Result<DemoSummary> {
    for (database, _) in entries {
        let id = &database.domain.id;
        let place = folder.join("database").join(id);
        fs::create_dir_all(&place)
            .with_context(|| format!("cannot create folder `{}`", place.display()))?;
        database.save(&place.join(format!("{id}.sqlite")))?;
    }
    let summary = DemoSummary {
        databases: entries.len(),
        train_rows: write_split(entries, Split::Train, &folder.join("train.jsonl"))?,
        validation_rows: write_split(entries, Split::Validation, &folder.join("validation.jsonl"))?,
    };
    write_text(&folder.join("README.md"), &readme(entries, &summary, seed))?;
    Ok(summary)
}

fn write_split(entries: &[Entry], split: Split, path: &Path) -> Result<usize> {
    let rows: Vec<&Question> = entries
        .iter()
        .filter(|(database, _)| database.domain.split == split)
        .flat_map(|(_, questions)| questions)
        .collect();
    let mut text = String::new();
    for row in &rows {
        text += &serde_json::to_string(row).context("cannot write a question as JSON")?;
        text.push('\n');
    }
    write_text(path, &text)?;
    Ok(rows.len())
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))
}

/// The old folder moves aside first, since a folder cannot be renamed over one that has files.
fn replace(out: &Path, folder: &Path, aside: &Path) -> Result<()> {
    let wrong = || format!("cannot replace `{}`", out.display());
    let existed = out.exists();
    if existed {
        fs::rename(out, aside).with_context(wrong)?;
    }
    if let Err(error) = fs::rename(folder, out) {
        if existed {
            fs::rename(aside, out).with_context(wrong)?;
        }
        return Err(error).with_context(wrong);
    }
    Ok(())
}

fn readme(entries: &[Entry], summary: &DemoSummary, seed: u64) -> String {
    let mut kinds: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for (database, questions) in entries {
        for question in questions {
            let split = usize::from(database.domain.split == Split::Validation);
            kinds.entry(question.kind).or_default()[split] += 1;
        }
    }
    let mut text = format!(
        "{TITLE}

This data is **synthetic**: `rag-tune demo-data --seed {seed}` made it out of descriptions of
everyday subjects. No person, company or place in it is meant to be real, and no figure measured
on it says how a model does on real questions. It is small enough to try every command on.

- `train.jsonl`: {} rows; `validation.jsonl`: {} rows. A row has `db_id`, `context`
  (CREATE TABLE of what the answer needs), `question` and `answer` (SQL for SQLite).
- `database/<db_id>/<db_id>.sqlite`: {} databases; those of the validation rows are in no
  training row.

| kind of query | train | validation |
| --- | ---: | ---: |
",
        summary.train_rows, summary.validation_rows, summary.databases
    );
    for (kind, [train, validation]) in kinds {
        text += &format!("| {kind} | {train} | {validation} |\n");
    }
    text
}
