//! What is known of each step from this call and earlier ones: `state/<step>.json`.

use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cell::Step;
use super::recipe::Recipe;
use crate::files::write_atomically;

/// How far a step got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// It was started, and perhaps stopped.
    Begun,
    /// It ended well.
    Done,
    /// It ended with an error; the log says which.
    Failed,
}

/// A step's record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// How far it got.
    pub progress: Progress,
    /// [`Recipe::identity`] when it was started.
    pub config: Value,
    /// What it was predicted to take when it was started, as if it had the whole machine.
    pub predicted_s: f64,
    /// What it took, as if it had had the whole machine; all attempts that were not killed together.
    pub taken_s: f64,
}

impl Record {
    /// Reads a step's record; none if it was never begun.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn load(recipe: &Recipe, step: &Step) -> anyhow::Result<Option<Self>> {
        let path = recipe.folder.record(step);
        if !path.exists() {
            return Ok(None);
        }
        read(&path).with_context(|| format!("cannot read `{}`", path.display()))
    }

    /// Writes it.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save(&self, recipe: &Recipe, step: &Step) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self).context("a record is plain data")?;
        write_atomically(&recipe.folder.record(step), &(text + "\n"))
    }
}

fn read(path: &Path) -> anyhow::Result<Option<Record>> {
    Ok(Some(serde_json::from_slice(&std::fs::read(path)?)?))
}

/// Whether a step was done with the config that it has now, its files are there, and so is what it was made from.
///
/// # Errors
/// When a record is damaged, or the config is wrong.
pub fn is_done(recipe: &Recipe, step: &Step) -> anyhow::Result<bool> {
    let record = Record::load(recipe, step)?;
    let Some(record) = record.filter(|record| record.progress == Progress::Done) else {
        return Ok(false);
    };
    if record.config != recipe.identity(step)? || !has_files(recipe, step) {
        return Ok(false);
    }
    // Adapters and drafts must still be those that the step was made from. Prompts may go once they were used, unless
    // they were made from drafts.
    for need in step.needs() {
        let counts = !matches!(need, Step::Augment { .. }) || !need.needs().is_empty();
        if counts && !is_done(recipe, &need)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a training was interrupted and can go on: it has a checkpoint, made with the config that it has now.
///
/// # Errors
/// As [`is_done`].
pub fn is_resumable(recipe: &Recipe, step: &Step) -> anyhow::Result<bool> {
    let run = recipe.folder.training(step);
    if !matches!(step, Step::Train { .. }) || run.is_finished() || !run.has_checkpoints() {
        return Ok(false);
    }
    let record = Record::load(recipe, step)?;
    let identity = recipe.identity(step)?;
    Ok(record.is_some_and(|record| record.config == identity))
}

fn has_files(recipe: &Recipe, step: &Step) -> bool {
    let folder = &recipe.folder;
    match step {
        Step::Augment { .. } => folder.output(step).join("manifest.json").is_file(),
        Step::Train { .. } => folder.training(step).is_finished(),
        Step::Evaluate(cell) => ["scores.json", "predictions.jsonl"]
            .iter()
            .all(|file| folder.evaluation(cell).join(file).is_file()),
    }
}

/// Keys whose values differ, as `train.max_steps 6 -> 8`.
pub fn changes(before: &Value, now: &Value) -> Vec<String> {
    fn walk(path: &str, before: &Value, now: &Value, changes: &mut Vec<String>) {
        if let (Value::Object(before), Value::Object(now)) = (before, now) {
            let keys = before
                .keys()
                .chain(now.keys().filter(|key| !before.contains_key(*key)));
            for key in keys {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                let of = |side: &serde_json::Map<String, Value>| {
                    side.get(key).cloned().unwrap_or(Value::Null)
                };
                walk(&path, &of(before), &of(now), changes);
            }
        } else if before != now {
            changes.push(format!("{path} {before} -> {now}"));
        }
    }
    let mut found = Vec::new();
    walk("", before, now, &mut found);
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_changed_is_named_by_its_key() {
        let before = json!({"seed": 1, "train": {"max_steps": 6, "batch_size": 8}});
        let now = json!({"seed": 1, "train": {"batch_size": 8, "epochs": 1}});
        assert_eq!(
            changes(&before, &now),
            ["train.max_steps 6 -> null", "train.epochs null -> 1"]
        );
        assert!(changes(&now, &now).is_empty());
    }
}
