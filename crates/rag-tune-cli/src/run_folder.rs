//! Where the files of a run lie. The same layout is described in docs/architecture.md.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::error::InputError;

/// A run's folder: adapter, resolved config, metrics, scores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// The run in `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The finished runs at `path`: itself, or the folders right below it, by name.
    ///
    /// # Errors
    /// When there is none.
    pub fn finished_at(path: &Path) -> anyhow::Result<Vec<Self>> {
        let this = Self::new(path);
        if this.is_finished() {
            return Ok(vec![this]);
        }
        let entries = std::fs::read_dir(path)
            .with_context(|| format!("cannot read the run folder `{}`", path.display()))?;
        let mut runs = Vec::new();
        for entry in entries {
            let run = Self::new(entry?.path());
            if run.is_finished() {
                runs.push(run);
            }
        }
        if runs.is_empty() {
            let message = format!(
                "no trained adapter in `{}` or right below it",
                path.display()
            );
            let hint = "name a folder that `rag-tune train` has finished (it holds \
                        adapter_model.safetensors), or use --config to score the base model alone";
            return Err(InputError::new(message, hint).into());
        }
        runs.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(runs)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its last component, for tables.
    pub fn name(&self) -> String {
        self.path.file_name().map_or_else(
            || self.path.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        )
    }

    /// The adapter in PEFT's format; training writes it last.
    pub fn adapter_weights(&self) -> PathBuf {
        self.path.join("adapter_model.safetensors")
    }

    /// The resolved config that the run was trained with.
    pub fn config(&self) -> PathBuf {
        self.path.join("rag_tune.toml")
    }

    /// Which weights the adapter was trained on.
    pub fn base_record(&self) -> PathBuf {
        self.path.join("base_model.json")
    }

    /// How the prompts of the training were made.
    pub fn retrieval_record(&self) -> PathBuf {
        self.path.join("retrieval.json")
    }

    /// What the config does not say of the training.
    pub fn training_record(&self) -> PathBuf {
        self.path.join("training.json")
    }

    /// The model card.
    pub fn card(&self) -> PathBuf {
        self.path.join("README.md")
    }

    /// The folders of the evaluations that have been scored, by name.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn evaluations(&self) -> std::io::Result<Vec<PathBuf>> {
        let folder = self.path.join("eval");
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.join("scores.json").is_file() {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }

    /// What `--resume` goes on from.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// There while a run trains, and after one was killed.
    pub fn lock(&self) -> PathBuf {
        self.path.join(".training.lock")
    }

    /// The prompts that the run learns from and is scored on.
    pub fn augmented(&self) -> PathBuf {
        self.path.join("augmented")
    }

    /// Predictions and scores of the evaluation `name`.
    pub fn evaluation(&self, name: &str) -> PathBuf {
        self.path.join("eval").join(name)
    }

    /// Whether training has ended.
    pub fn is_finished(&self) -> bool {
        self.adapter_weights().is_file()
    }

    /// Removes an earlier adapter with all that was made from it. Augmented files stay: they have
    /// their own record of what they were made from.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn clear(&self) -> anyhow::Result<()> {
        // The weights first: without them the folder no longer passes for a finished run.
        let stale = [
            self.adapter_weights(),
            self.checkpoints(),
            self.path.join("validation.jsonl"),
            self.path.join("non_finite.jsonl"),
            self.path.join("tensorboard"),
            self.path.join("loss.svg"),
            self.path.join("loss.png"),
            self.path.join("eval"),
            self.card(),
        ];
        for path in stale.iter().filter(|path| path.exists()) {
            let removed = if path.is_dir() {
                std::fs::remove_dir_all(path)
            } else {
                std::fs::remove_file(path)
            };
            removed.with_context(|| format!("cannot remove `{}`", path.display()))?;
        }
        Ok(())
    }

    /// Whether a training has begun here, be it that it was killed before it wrote anything else.
    pub fn has_begun(&self) -> bool {
        self.config().is_file() || self.lock().is_file()
    }

    /// Whether training has begun and can be resumed.
    pub fn has_checkpoints(&self) -> bool {
        self.last_checkpoint().is_some()
    }

    /// The step of the last checkpoint.
    pub fn last_checkpoint(&self) -> Option<usize> {
        let entries = std::fs::read_dir(self.checkpoints()).ok()?;
        let names = entries.flatten().map(|entry| entry.file_name());
        // Unfinished ones have other names.
        let step = |name: OsString| name.to_str()?.strip_prefix("step-")?.parse().ok();
        names.filter_map(step).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(path: &Path) {
        std::fs::create_dir_all(path).unwrap();
        std::fs::write(path.join("adapter_model.safetensors"), "").unwrap();
    }

    #[test]
    fn a_parent_stands_for_its_finished_runs() {
        let folder = tempfile::tempdir().unwrap();
        finish(&folder.path().join("b"));
        finish(&folder.path().join("a"));
        std::fs::create_dir(folder.path().join("unfinished")).unwrap();
        let runs = RunFolder::finished_at(folder.path()).unwrap();
        assert_eq!(
            runs.iter().map(RunFolder::name).collect::<Vec<_>>(),
            ["a", "b"]
        );
        assert_eq!(RunFolder::finished_at(runs[0].path()).unwrap(), runs[..1]);
    }

    #[test]
    fn a_folder_without_a_run_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = RunFolder::finished_at(folder.path()).unwrap_err();
        assert!(
            error.to_string().starts_with("no trained adapter in "),
            "{error}"
        );
    }
}
