//! Puts the data set on disk: all of it or nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::database::Database;
use super::questions::Question;
use super::schema::Split;
use super::{DemoSummary, DemoTask, Overwrite};

/// A database and the questions about it.
pub type Entry = (Database, Vec<Question>);

/// The splits of a data set that is nothing but rows.
pub struct Rows<T> {
    /// Rows of `train.jsonl`.
    pub train: Vec<T>,
    /// Rows of `validation.jsonl`.
    pub validation: Vec<T>,
}

/// Lets `fill` write everything to a folder beside `out`, which then takes the place of `out`.
///
/// # Errors
/// If `out` exists and may not be replaced, or something cannot be written.
pub fn write(
    out: &Path,
    overwrite: Overwrite,
    fill: impl FnOnce(&Path) -> Result<DemoSummary>,
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
    fs::create_dir(&folder)
        .with_context(|| format!("cannot create folder `{}`", folder.display()))?;
    let summary = fill(&folder)?;
    replace(out, &folder, &temporary.path().join("old"))?;
    Ok(summary)
}

/// Whether `folder` is empty or an earlier data set: `--force` must not delete anything else.
fn is_replaceable(folder: &Path) -> bool {
    let empty = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    let readme = fs::read_to_string(folder.join("README.md"));
    let is_ours = |text: String| {
        DemoTask::ALL
            .iter()
            .any(|task| text.starts_with(task.title()))
    };
    empty || readme.is_ok_and(is_ours)
}

/// Writes databases and questions to `folder`.
///
/// # Errors
/// If a file cannot be written.
pub fn fill_databases(entries: &[Entry], folder: &Path, seed: u64) -> Result<DemoSummary> {
    for (database, _) in entries {
        let id = &database.domain.id;
        let place = folder.join("database").join(id);
        fs::create_dir_all(&place)
            .with_context(|| format!("cannot create folder `{}`", place.display()))?;
        database.save(&place.join(format!("{id}.sqlite")))?;
    }
    let of = |split| -> Vec<&Question> {
        let entries = entries
            .iter()
            .filter(|(database, _)| database.domain.split == split);
        entries.flat_map(|(_, questions)| questions).collect()
    };
    let rows = Rows {
        train: of(Split::Train),
        validation: of(Split::Validation),
    };
    let about = format!(
        "A row has `db_id`, `context`
  (CREATE TABLE of what the answer needs), `question` and `answer` (SQL for SQLite).
- `database/<db_id>/<db_id>.sqlite`: {} databases; those of the validation rows are in no
  training row.",
        entries.len()
    );
    let source = Source {
        task: DemoTask::Sql,
        seed,
        about: &about,
        kind: "kind of query",
    };
    let summary = fill_rows(&source, &rows, |row| row.kind, folder)?;
    Ok(DemoSummary {
        databases: entries.len(),
        ..summary
    })
}

/// What the README says of a data set.
pub struct Source<'a> {
    /// What it is for.
    pub task: DemoTask,
    /// What it was made from.
    pub seed: u64,
    /// The columns.
    pub about: &'a str,
    /// What the rows are counted by.
    pub kind: &'a str,
}

/// Writes rows to `folder`, and a README that counts them by kind.
///
/// # Errors
/// If a file cannot be written.
pub fn fill_rows<T: Serialize>(
    source: &Source<'_>,
    rows: &Rows<T>,
    kind: fn(&T) -> &'static str,
    folder: &Path,
) -> Result<DemoSummary> {
    let mut kinds: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for (split, (name, rows)) in [("train", &rows.train), ("validation", &rows.validation)]
        .into_iter()
        .enumerate()
    {
        let mut text = String::new();
        for row in rows {
            kinds.entry(kind(row)).or_default()[split] += 1;
            text += &serde_json::to_string(row).context("cannot write a row as JSON")?;
            text.push('\n');
        }
        write_text(&folder.join(format!("{name}.jsonl")), &text)?;
    }
    let summary = DemoSummary {
        databases: 0,
        train_rows: rows.train.len(),
        validation_rows: rows.validation.len(),
    };
    write_text(&folder.join("README.md"), &readme(source, &summary, &kinds))?;
    Ok(summary)
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

fn readme(
    source: &Source<'_>,
    summary: &DemoSummary,
    kinds: &BTreeMap<&str, [usize; 2]>,
) -> String {
    let command = match source.task {
        DemoTask::Sql => "rag-tune demo-data".to_owned(),
        task => format!("rag-tune demo-data --task {}", task.name()),
    };
    let mut text = format!(
        "{}

This data is **synthetic**: `{command} --seed {}` made it out of descriptions of
everyday subjects. No person, company or place in it is meant to be real, and no figure measured
on it says how a model does on real questions. It is small enough to try every command on.

- `train.jsonl`: {} rows; `validation.jsonl`: {} rows. {}

| {} | train | validation |
| --- | ---: | ---: |
",
        source.task.title(),
        source.seed,
        summary.train_rows,
        summary.validation_rows,
        source.about,
        source.kind
    );
    for (kind, [train, validation]) in kinds {
        text += &format!("| {kind} | {train} | {validation} |\n");
    }
    text
}
