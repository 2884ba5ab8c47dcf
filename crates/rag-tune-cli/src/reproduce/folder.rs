//! Where the files of a grid lie below `--out`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::cell::{Cell, Step, Task};
use crate::run_folder::RunFolder;

/// The folder of a grid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The grid in `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The config that a step is run with.
    pub fn config(&self, step: &Step) -> PathBuf {
        self.path.join(format!("configs/{step}.toml"))
    }

    /// What a step said.
    pub fn log(&self, step: &Step) -> PathBuf {
        self.path.join(format!("logs/{step}.log"))
    }

    /// What is known of a step.
    pub fn record(&self, step: &Step) -> PathBuf {
        self.path.join(format!("state/{step}.json"))
    }

    /// Measured speeds and lengths.
    pub fn measurements(&self) -> PathBuf {
        self.path.join("state/measurements.json")
    }

    /// Held by whoever works in the folder.
    pub fn lock(&self) -> PathBuf {
        self.path.join("state/lock")
    }

    /// The folder that a step writes to: prompts, or a run.
    pub fn output(&self, step: &Step) -> PathBuf {
        match *step {
            Step::Augment { .. } => {
                let name = step.to_string();
                let name = name.strip_prefix("augment-").unwrap_or(&name);
                self.path.join("augmented").join(name)
            }
            Step::Train {
                task,
                prompts,
                seed,
            } => self
                .run(&Cell::tuned(task, prompts, seed))
                .path()
                .to_owned(),
            Step::Evaluate(cell) => self.run(&cell).path().to_owned(),
        }
    }

    /// The run that a cell's evaluation belongs to.
    pub fn run(&self, cell: &Cell) -> RunFolder {
        RunFolder::new(self.path.join("runs").join(cell.run_name()))
    }

    /// The run that a training step writes.
    pub fn training(&self, step: &Step) -> RunFolder {
        RunFolder::new(self.output(step))
    }

    /// The predictions and scores of a cell.
    pub fn evaluation(&self, cell: &Cell) -> PathBuf {
        self.run(cell).evaluation(&cell.prompts.to_string())
    }

    /// The drafts of the skeleton selector.
    pub fn drafts(&self, task: Task, seed: u64) -> PathBuf {
        let name = format!("{}-seed{seed}.jsonl", task.name());
        self.path.join("drafts").join(name)
    }

    /// The synthetic data of a task.
    pub fn demo_data(&self, task: Task) -> PathBuf {
        self.path.join("data").join(task.name())
    }

    /// The charts.
    pub fn charts(&self) -> PathBuf {
        self.path.join("charts")
    }

    /// Names paths below this folder, wherever they stand in `value`, by their place in it.
    pub fn make_portable(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Ok(rest) = Path::new(text.as_str()).strip_prefix(&self.path) {
                    *text = Path::new("<out>").join(rest).display().to_string();
                }
            }
            Value::Array(values) => values
                .iter_mut()
                .for_each(|value| self.make_portable(value)),
            Value::Object(fields) => {
                fields
                    .values_mut()
                    .for_each(|value| self.make_portable(value));
            }
            _ => {}
        }
    }
}
