//! What a resumed run needs, on disk.
//!
//! `checkpoints/step-000050/` holds the adapter in PEFT's format (it can be evaluated like a
//! finished one), both moments and `state.json`. A checkpoint is written under a temporary
//! name and renamed, so a folder with the final name is complete; then the one before it goes.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use rag_tune_model::lora::Adapter;
use rag_tune_model::peft;
use serde::{Deserialize, Serialize};

use crate::error::TrainError;
use crate::optimizer::Optimizer;
use crate::run_state::RunState;

const STATE: &str = "state.json";

/// `state.json`
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// What the run trains, on what, with which settings.
    fingerprint: String,
    run: RunState,
}

/// The checkpoints of one run.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    folder: PathBuf,
    fingerprint: String,
    base: String,
    dropout: f32,
}

impl Checkpoints {
    pub(crate) fn new(run: &Path, fingerprint: String, base: String, dropout: f32) -> Self {
        Self {
            folder: run.join("checkpoints"),
            fingerprint,
            base,
            dropout,
        }
    }

    /// Writes a checkpoint and removes older ones.
    pub(crate) fn save(
        &self,
        run: &RunState,
        adapter: &Adapter,
        optimizer: &Optimizer,
    ) -> Result<(), TrainError> {
        fs::create_dir_all(&self.folder).map_err(TrainError::write(&self.folder))?;
        let temporary = tempfile::Builder::new()
            .prefix(".step-")
            .suffix(".tmp")
            .tempdir_in(&self.folder)
            .map_err(TrainError::write(&self.folder))?;
        let step = run.step;
        let state = State {
            fingerprint: self.fingerprint.clone(),
            run: run.clone(),
        };
        let state = serde_json::to_string_pretty(&state).expect("numbers and strings are JSON");
        let mut files = vec![
            (peft::WEIGHTS_FILE, peft::weights_bytes(adapter)?),
            (
                peft::CONFIG_FILE,
                peft::config_text(adapter, &self.base, self.dropout)?.into_bytes(),
            ),
            (STATE, state.into_bytes()),
        ];
        files.extend(optimizer.files()?);
        for (name, bytes) in files {
            write_synced(&temporary.path().join(name), &bytes)?;
        }
        let path = self.path(step);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(TrainError::write(&path))?;
        }
        fs::rename(temporary.keep(), &path).map_err(TrainError::write(&path))?;
        self.remove_all_but(step)
    }

    fn path(&self, step: usize) -> PathBuf {
        self.folder.join(format!("step-{step:06}"))
    }

    /// Steps with a complete checkpoint, ascending.
    fn steps(&self) -> Result<Vec<usize>, TrainError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(TrainError::read(&self.folder)(error)),
        };
        let mut steps = Vec::new();
        for entry in entries {
            let name = entry.map_err(TrainError::read(&self.folder))?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("step-"));
            steps.extend(number.and_then(|number| number.parse::<usize>().ok()));
        }
        steps.sort_unstable();
        Ok(steps)
    }

    fn remove_all_but(&self, step: usize) -> Result<(), TrainError> {
        for old in self.steps()?.into_iter().filter(|old| *old != step) {
            let path = self.path(old);
            fs::remove_dir_all(&path).map_err(TrainError::write(&path))?;
        }
        Ok(())
    }

    /// Restores the latest checkpoint; returns where the run stood.
    pub(crate) fn restore(
        &self,
        adapter: &mut Adapter,
        optimizer: &mut Optimizer,
    ) -> Result<RunState, TrainError> {
        let Some(step) = self.steps()?.pop() else {
            return Err(TrainError::NothingToResume {
                path: self.folder.clone(),
            });
        };
        let path = self.path(step);
        let refuse = |detail: String| TrainError::Checkpoint {
            path: path.clone(),
            detail,
        };
        let state_path = path.join(STATE);
        let text = fs::read_to_string(&state_path).map_err(TrainError::read(&state_path))?;
        let state: State =
            serde_json::from_str(&text).map_err(|error| refuse(format!("{STATE}: {error}")))?;
        if state.fingerprint != self.fingerprint {
            let detail =
                "it was made by a run with other rows, another base model or other settings";
            return Err(refuse(detail.to_owned()));
        }
        peft::read_factors(&path.join(peft::WEIGHTS_FILE), &mut adapter.layers)?;
        optimizer.restore(&path)?;
        Ok(state.run)
    }
}

/// Writes a new file and waits until it is on the disk, so that the rename cannot come first.
fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(TrainError::write(path))
}
