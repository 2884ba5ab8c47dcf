//! Reading what training and evaluation left in run folders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::ReportError;

/// What an adapter was trained on; the order is that of charts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AdapterKind {
    None,
    ZeroShot,
    Rag,
}

impl AdapterKind {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::None => "no adapter",
            Self::ZeroShot => "zero-shot adapter",
            Self::Rag => "RAG adapter",
        }
    }
}

/// `arm` in `scores.json`. The kind of prompt follows from `examples`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Arm {
    pub(crate) adapter: AdapterKind,
}

/// `run` in `scores.json`: what charts are labelled with.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct RunInfo {
    pub(crate) name: String,
    pub(crate) arm: Arm,
    pub(crate) adapter: Option<PathBuf>,
    pub(crate) base: String,
    pub(crate) examples: usize,
    pub(crate) data: String,
    pub(crate) split: String,
    pub(crate) synthetic: bool,
}

/// What charts use of a `scores.json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Scores {
    pub(crate) metric: String,
    pub(crate) correct: usize,
    pub(crate) total: usize,
    pub(crate) accuracy: f64,
    /// 95 % interval of the accuracy, lower and upper end.
    pub(crate) ci95: [f64; 2],
    /// By name; null where no row says anything about it.
    #[serde(default)]
    pub(crate) metrics: BTreeMap<String, Option<f64>>,
    pub(crate) run: RunInfo,
}

/// A scored evaluation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Evaluation {
    /// The file of the scores.
    pub(crate) path: PathBuf,
    pub(crate) scores: Scores,
}

/// What a run folder holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Run {
    pub(crate) name: String,
    /// Empty only where losses are all that is asked for.
    pub(crate) evaluations: Vec<Evaluation>,
    /// Mean training loss by step, in nats per supervised token; empty if nothing was trained.
    pub(crate) losses: BTreeMap<u64, f64>,
    /// Validation loss by step, in the same unit; empty if there is none.
    pub(crate) validation_losses: BTreeMap<u64, f64>,
    /// Steps without a loss, since it or its gradient was not finite.
    pub(crate) skipped_steps: Vec<u64>,
}

impl Run {
    /// What the run's own adapter was trained on, by its evaluations.
    pub(crate) fn adapter_kind(&self) -> AdapterKind {
        let kinds = self
            .evaluations
            .iter()
            .map(|evaluation| evaluation.scores.run.arm.adapter);
        kinds.max().unwrap_or(AdapterKind::None)
    }

    /// Whether any of its figures is of made-up data.
    pub(crate) fn is_synthetic(&self) -> bool {
        self.evaluations
            .iter()
            .any(|evaluation| evaluation.scores.run.synthetic)
    }
}

/// Reads the runs, each once.
///
/// A run is a folder with `eval/*/scores.json` and perhaps `metrics.jsonl`, or a folder that holds
/// a `scores.json` itself.
pub(crate) fn read_runs(paths: &[PathBuf]) -> Result<Vec<Run>, ReportError> {
    let runs = read_each(paths, |path, run| {
        if run.evaluations.is_empty() {
            return Err(ReportError::NoScores { path });
        }
        Ok(())
    })?;
    check_metrics(&runs)?;
    Ok(runs)
}

/// Reads the runs, each once, for their losses: they need no evaluations, but a `metrics.jsonl`.
pub(crate) fn read_trained_runs(paths: &[PathBuf]) -> Result<Vec<Run>, ReportError> {
    read_each(paths, |path, run| {
        if run.losses.is_empty() {
            return Err(ReportError::NoLosses { path });
        }
        Ok(())
    })
}

fn read_each(
    paths: &[PathBuf],
    check: impl Fn(PathBuf, &Run) -> Result<(), ReportError>,
) -> Result<Vec<Run>, ReportError> {
    let mut seen = Vec::new();
    let mut runs = Vec::new();
    for path in paths {
        let canonical = path
            .canonicalize()
            .map_err(|_| ReportError::MissingRun { path: path.clone() })?;
        if !seen.contains(&canonical) {
            let run = read_run(path, &canonical)?;
            check(path.clone(), &run)?;
            runs.push(run);
            seen.push(canonical);
        }
    }
    if runs.is_empty() {
        return Err(ReportError::NoRuns);
    }
    Ok(runs)
}

fn read_run(path: &Path, canonical: &Path) -> Result<Run, ReportError> {
    let evaluations = score_files(path)?
        .into_iter()
        .map(|path| {
            Ok(Evaluation {
                scores: read_scores(&path)?,
                path,
            })
        })
        .collect::<Result<Vec<_>, ReportError>>()?;
    let metrics = path.join("metrics.jsonl");
    let records = if metrics.exists() {
        read_metrics(&metrics)?
    } else {
        BTreeMap::new()
    };
    let losses = records.into_iter();
    let losses = losses.filter_map(|(step, record)| Some((step, record.loss?)));
    let name = canonical.file_name().unwrap_or(canonical.as_os_str());
    Ok(Run {
        name: name.to_string_lossy().into_owned(),
        evaluations,
        losses: losses.collect(),
        validation_losses: read_validation_losses(path)?,
        skipped_steps: read_skipped_steps(path)?,
    })
}

/// `scores.json` in the folder, else below its `eval`, in the order of their names.
fn score_files(run: &Path) -> Result<Vec<PathBuf>, ReportError> {
    let own = run.join("scores.json");
    if own.exists() {
        return Ok(vec![own]);
    }
    let folder = run.join("eval");
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let read_error = |source| ReportError::Read {
        path: folder.clone(),
        source,
    };
    let entries = std::fs::read_dir(&folder)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .map_err(read_error)?;
    let mut files: Vec<PathBuf> = entries
        .iter()
        .map(|entry| entry.path().join("scores.json"))
        .filter(|path| path.exists())
        .collect();
    files.sort();
    Ok(files)
}

fn read_scores(path: &Path) -> Result<Scores, ReportError> {
    serde_json::from_str(&read_text(path)?).map_err(|source| ReportError::InvalidScores {
        path: path.to_owned(),
        source,
    })
}

/// A line of `metrics.jsonl`. A number that is not finite is written as null.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct StepRecord {
    step: u64,
    pub(crate) loss: Option<f64>,
    #[serde(default)]
    pub(crate) grad_norm: Option<f64>,
    #[serde(default)]
    pub(crate) supervised_tokens: Option<u64>,
}

/// The steps of a `metrics.jsonl`. A run that was resumed by an older version may repeat steps: what came last holds.
pub(crate) fn read_metrics(path: &Path) -> Result<BTreeMap<u64, StepRecord>, ReportError> {
    let records: Vec<StepRecord> = read_lines(path)?;
    Ok(records
        .into_iter()
        .map(|record| (record.step, record))
        .collect())
}

/// A line of `validation.jsonl`.
#[derive(Deserialize)]
struct ValidationRecord {
    step: u64,
    metric: String,
    value: f64,
}

/// Validation losses by step; none where another metric was measured.
fn read_validation_losses(run: &Path) -> Result<BTreeMap<u64, f64>, ReportError> {
    let path = run.join("validation.jsonl");
    // A data folder has a file of this name too, but no metrics.
    if !path.exists() || !run.join("metrics.jsonl").exists() {
        return Ok(BTreeMap::new());
    }
    let records: Vec<ValidationRecord> = read_lines(&path)?;
    let losses = records.into_iter().filter(|record| record.metric == "loss");
    Ok(losses.map(|record| (record.step, record.value)).collect())
}

/// A line of `non_finite.jsonl`.
#[derive(Deserialize)]
struct SkippedRecord {
    step: u64,
}

/// The steps of the run's `non_finite.jsonl`, if there is one.
pub(crate) fn read_skipped_steps(run: &Path) -> Result<Vec<u64>, ReportError> {
    let path = run.join("non_finite.jsonl");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let records: Vec<SkippedRecord> = read_lines(&path)?;
    Ok(records.into_iter().map(|record| record.step).collect())
}

fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, ReportError> {
    let text = read_text(path)?;
    let mut records = Vec::new();
    for (i, line) in text.split_inclusive('\n').enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str(line) {
            Ok(record) => records.push(record),
            // A run that is going on, or was killed, ends within a line.
            Err(error) if error.is_eof() && !line.ends_with('\n') => {}
            Err(source) => {
                let path = path.to_owned();
                return Err(ReportError::InvalidMetrics {
                    path,
                    line: i + 1,
                    source,
                });
            }
        }
    }
    Ok(records)
}

fn read_text(path: &Path) -> Result<String, ReportError> {
    std::fs::read_to_string(path).map_err(|source| ReportError::Read {
        path: path.to_owned(),
        source,
    })
}

fn check_metrics(runs: &[Run]) -> Result<(), ReportError> {
    let mut evaluations = runs.iter().flat_map(|run| &run.evaluations);
    let Some(first) = evaluations.next() else {
        return Ok(());
    };
    let expected = &first.scores.metric;
    match evaluations.find(|evaluation| evaluation.scores.metric != *expected) {
        None => Ok(()),
        Some(other) => Err(ReportError::MixedMetrics {
            path: other.path.clone(),
            expected: expected.clone(),
            found: other.scores.metric.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::Sample;

    #[test]
    fn a_run_is_read_with_its_evaluations_and_losses() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("sql_rag1");
        Sample::new("rag", 1, 209).write(&run.join("eval/b"));
        Sample::new("rag", 0, 100).write(&run.join("eval/a"));
        let metrics = "{\"step\":1,\"loss\":2.5,\"lr\":1}\n{\"step\":2,\"loss\":null}\n\
                       {\"step\":1,\"loss\":2.0}\n{\"step\":3,\"lo";
        std::fs::write(run.join("metrics.jsonl"), metrics).unwrap();

        let runs = read_runs(&[run.clone(), run.join("../sql_rag1"), run.join("eval/a")]).unwrap();
        assert_eq!(runs.len(), 2, "the same folder counts once");
        assert_eq!(runs[0].name, "sql_rag1");
        let correct: Vec<_> = runs[0]
            .evaluations
            .iter()
            .map(|e| e.scores.correct)
            .collect();
        assert_eq!(correct, [100, 209]);
        assert_eq!(runs[0].losses, BTreeMap::from([(1, 2.0)]));
        assert_eq!(runs[1].evaluations.len(), 1);
    }

    #[test]
    fn a_run_without_scores_is_an_error_that_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("new");
        let error = read_runs(std::slice::from_ref(&run)).unwrap_err();
        assert!(error.to_string().contains("does not exist"), "{error}");
        std::fs::create_dir_all(run.join("eval/unfinished")).unwrap();
        let error = read_runs(std::slice::from_ref(&run)).unwrap_err();
        assert!(error.to_string().contains("has no scores"), "{error}");
        assert!(
            error.hint().unwrap().contains("rag-tune eval --adapter"),
            "{:?}",
            error.hint()
        );
        assert!(matches!(read_runs(&[]), Err(ReportError::NoRuns)));
    }

    #[test]
    fn files_that_are_something_else_are_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("scores.json"), "{\"metric\": 1}").unwrap();
        let error = read_runs(&[folder.path().to_owned()]).unwrap_err();
        assert!(error.to_string().contains("scores.json"), "{error}");

        Sample::new("rag", 1, 9).write(folder.path());
        std::fs::write(
            folder.path().join("metrics.jsonl"),
            "{\"step\":1}\nloss 3\n",
        )
        .unwrap();
        let error = read_runs(&[folder.path().to_owned()]).unwrap_err();
        assert!(
            error.to_string().contains("metrics.jsonl` line 2"),
            "{error}"
        );
    }

    #[test]
    fn different_metrics_are_not_compared() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        Sample::new("rag", 1, 9).write(&a);
        Sample {
            metric: "exact_match",
            ..Sample::new("rag", 1, 9)
        }
        .write(&b);
        let error = read_runs(&[a, b]).unwrap_err();
        assert!(error.to_string().contains("`exact_match`"), "{error}");
    }
}
