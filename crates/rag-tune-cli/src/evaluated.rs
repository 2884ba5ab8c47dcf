//! Evaluations that are already on disk: finding them, reading them, and putting those of several seeds together.

use std::path::{Path, PathBuf};

use anyhow::Context;
use rag_tune_eval::statistics::Outcomes;
use rag_tune_eval::{AdapterKind, Answer, PromptKind, RowScore, ScoreReport, read_answers};

use crate::error::InputError;

/// The answers of an evaluation, below its folder.
const ANSWERS: &str = "predictions.jsonl";

/// A scored evaluation.
#[derive(Debug, Clone)]
pub struct Evaluated {
    /// What it is called in tables.
    pub label: String,
    /// Row by row.
    pub answers: Vec<Answer>,
    /// Totals, and the run that they belong to if that is known.
    pub report: ScoreReport,
}

impl Evaluated {
    /// The evaluation at `path`: its folder, a run folder in which it is the obvious one, or a file of scored rows.
    ///
    /// # Errors
    /// When there is none, or several and none of them is the run's own.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        if path.is_file() {
            return Self::from_rows(path);
        }
        if path.join(ANSWERS).is_file() {
            return Self::from_folder(path);
        }
        let found = below(path)?;
        let [only] = &found[..] else {
            return one_of(path, found);
        };
        Self::from_folder(only)
    }

    /// The evaluation in `folder`.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn from_folder(folder: &Path) -> anyhow::Result<Self> {
        let report = ScoreReport::load(&folder.join("scores.json"))?;
        let evaluation = name_of(folder);
        let label = match &report.run {
            Some(run) => format!("{}/{evaluation}", run.name),
            None => evaluation,
        };
        Ok(Self {
            label,
            answers: read_answers(&folder.join(ANSWERS))?,
            report,
        })
    }

    fn from_rows(file: &Path) -> anyhow::Result<Self> {
        let answers = read_answers(file)?;
        let rows: Vec<RowScore> = answers.iter().map(|answer| answer.score.clone()).collect();
        let names = metric_names(&rows);
        if names.is_empty()
            || rows
                .iter()
                .any(|row| !names.iter().all(|n| row.metrics.contains_key(*n)))
        {
            let message = format!("`{}` has rows without metrics", file.display());
            let hint = "such a file is written by `rag-tune score --rows FILE`";
            return Err(InputError::new(message, hint).into());
        }
        let report = ScoreReport::of_rows("", &names, &rows, None);
        Ok(Self {
            label: file
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            answers,
            report,
        })
    }

    /// Whether each row is right.
    pub fn correct(&self) -> Vec<bool> {
        self.answers
            .iter()
            .map(|answer| answer.score.correct)
            .collect()
    }

    /// Whether the adapter is asked with the kind of prompt that it was trained on.
    fn is_own_prompt(&self) -> bool {
        let Some(run) = &self.report.run else {
            return false;
        };
        matches!(
            (run.arm.adapter, run.arm.prompt),
            (AdapterKind::ZeroShot, PromptKind::ZeroShot) | (AdapterKind::Rag, PromptKind::Rag)
        )
    }
}

/// The names of the metrics, the one that `correct` is of first.
fn metric_names(rows: &[RowScore]) -> Vec<&str> {
    let is_main = |name: &&String| {
        rows.iter().all(|row| {
            row.metrics
                .get(*name)
                .is_some_and(|share| (share.part == 1.0) == row.correct)
        })
    };
    let names = || rows[0].metrics.keys();
    let main = names().find(is_main);
    main.into_iter()
        .chain(names().filter(|name| Some(*name) != main))
        .map(String::as_str)
        .collect()
}

/// The folders of the evaluations below a run folder, by name.
pub fn below(run: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let no_evaluation = || {
        let message = format!("`{}` is no evaluation, and holds none", run.display());
        let hint = "name a run folder with eval/NAME/predictions.jsonl, such a folder itself, or a file that \
                    `rag-tune score --rows` wrote";
        InputError::new(message, hint)
    };
    let Ok(entries) = std::fs::read_dir(run.join("eval")) else {
        return Err(no_evaluation().into());
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|folder| folder.join(ANSWERS).is_file())
        .collect();
    if found.is_empty() {
        return Err(no_evaluation().into());
    }
    found.sort();
    Ok(found)
}

/// Of several evaluations of a run, the one with the run's own kind of prompts.
fn one_of(run: &Path, found: Vec<PathBuf>) -> anyhow::Result<Evaluated> {
    let mut own = Vec::new();
    for folder in &found {
        let evaluated = Evaluated::from_folder(folder)?;
        if evaluated.is_own_prompt() {
            own.push(evaluated);
        }
    }
    if own.len() == 1 {
        return Ok(own.remove(0));
    }
    let names: Vec<String> = found
        .iter()
        .map(|folder| folder.display().to_string())
        .collect();
    let message = format!("`{}` has several evaluations", run.display());
    let hint = format!("name one of them: {}", names.join(", "));
    Err(InputError::new(message, hint).into())
}

fn name_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// One side of a comparison: an evaluation, or the same one with several seeds.
#[derive(Debug, Clone)]
pub struct Side {
    /// What it is called in tables.
    pub label: String,
    /// At least one, on the same rows.
    pub evaluations: Vec<Evaluated>,
    /// Whether each row is right, by evaluation.
    pub outcomes: Outcomes,
}

impl Side {
    /// A side of these evaluations.
    ///
    /// # Errors
    /// When there is none, or they are of different rows.
    pub fn new(evaluations: Vec<Evaluated>) -> anyhow::Result<Self> {
        let first = evaluations.first().context("a side has an evaluation")?;
        for other in &evaluations[1..] {
            check_same_rows(first, other)?;
        }
        let label = match evaluations.len() {
            1 => first.label.clone(),
            seeds => format!("{} and {} more seeds", first.label, seeds - 1),
        };
        let outcomes = Outcomes::new(evaluations.iter().map(Evaluated::correct).collect());
        Ok(Self {
            label,
            evaluations,
            outcomes,
        })
    }

    /// The first evaluation, which stands for all where only one can be shown.
    pub fn first(&self) -> &Evaluated {
        &self.evaluations[0]
    }
}

/// That two evaluations answered the same rows.
///
/// # Errors
/// When they did not, with the first row that differs.
pub fn check_same_rows(a: &Evaluated, b: &Evaluated) -> anyhow::Result<()> {
    let hint = "evaluate both on the same data, split and limit";
    let (rows_a, rows_b) = (a.answers.len(), b.answers.len());
    if rows_a != rows_b {
        let message = format!(
            "`{}` has {rows_a} rows and `{}` has {rows_b}",
            a.label, b.label
        );
        return Err(InputError::new(message, hint).into());
    }
    for (x, y) in a.answers.iter().zip(&b.answers) {
        if x.score.index != y.score.index || x.gold != y.gold {
            let message = format!(
                "row {} of `{}` and of `{}` have different gold answers: these are not the same rows",
                x.score.index, a.label, b.label
            );
            return Err(InputError::new(message, hint).into());
        }
    }
    if a.report.metric != b.report.metric {
        let message = format!(
            "`{}` is scored by `{}` and `{}` by `{}`",
            a.label, a.report.metric, b.label, b.report.metric
        );
        return Err(InputError::new(message, "score both with the same task").into());
    }
    Ok(())
}
