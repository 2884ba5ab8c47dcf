//! What a resumed run needs, on disk.
//!
//! `checkpoints/step-000050/` holds the adapter in PEFT's format (it can be evaluated like a
//! finished one), the optimizer's state, `state.json` (whose run it is and where it stands) and
//! `manifest.json` (length and SHA-256 of each file).
//!
//! A checkpoint is written into a folder with a temporary name; every file, then the folder is
//! synced to the disk, then it gets its name, then the parent is synced. Only after that do older
//! ones go, each under a temporary name again, so that a folder called `step-...` is whole at any
//! instant, whatever kills the process. What else can befall it (a disk that lies, a hand that
//! edits) the manifest finds.

mod identity;
mod manifest;
mod retention;
mod share;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rag_tune_model::lora::Adapter;
use rag_tune_model::peft;
use serde::{Deserialize, Serialize};

pub(crate) use self::identity::Identity;
use self::manifest::{MANIFEST, Manifest};
pub(crate) use self::share::{give, receive};
use crate::error::TrainError;
use crate::event::Event;
use crate::optimizer::Optimizer;
use crate::run_state::RunState;

const STATE: &str = "state.json";
/// What every checkpoint holds; the optimizer adds its own.
const ALWAYS: [&str; 3] = [peft::WEIGHTS_FILE, peft::CONFIG_FILE, STATE];
const NAME: &str = "step-";
/// Names of folders that are being written or removed; a leading dot keeps them apart from `step-`.
const WRITING: &str = ".writing-";
const REMOVING: &str = ".removing-";

/// `state.json`
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    identity: Identity,
    run: RunState,
}

/// The checkpoints of one run.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    folder: PathBuf,
    identity: Identity,
    base: String,
    dropout: f32,
    keep: usize,
}

impl Checkpoints {
    /// Those of the run in the folder `run`; `keep` is `train.keep_checkpoints`.
    pub(crate) fn new(
        run: &Path,
        identity: Identity,
        base: String,
        dropout: f32,
        keep: usize,
    ) -> Self {
        Self {
            folder: run.join("checkpoints"),
            identity,
            base,
            dropout,
            keep,
        }
    }

    /// Writes a checkpoint, then removes those that it supersedes.
    pub(crate) fn save(
        &self,
        run: &RunState,
        adapter: &Adapter,
        optimizer: &Optimizer,
    ) -> Result<(), TrainError> {
        let files = self.files(run, adapter, optimizer)?;
        fs::create_dir_all(&self.folder).map_err(TrainError::write(&self.folder))?;
        let temporary = self
            .folder
            .join(format!("{WRITING}{}", folder_name(run.step)));
        let written = self.write(&temporary, &files, run.step);
        if written.is_err() {
            // On a full disk its room is needed; if it stays, the next start removes it.
            fs::remove_dir_all(&temporary).ok();
        }
        written?;
        let (steps, protected) = (self.steps()?, run.protected_steps());
        for step in retention::superseded(&steps, run.step, self.keep, &protected) {
            self.remove(step)?;
        }
        Ok(())
    }

    /// Names and bytes, the manifest last.
    fn files(
        &self,
        run: &RunState,
        adapter: &Adapter,
        optimizer: &Optimizer,
    ) -> Result<Vec<(&'static str, Vec<u8>)>, TrainError> {
        let state = State {
            identity: self.identity.clone(),
            run: run.clone(),
        };
        let state = serde_json::to_string_pretty(&state).expect("numbers and strings are JSON");
        let config = peft::config_text(adapter, &self.base, self.dropout)?;
        let mut files = vec![
            (peft::WEIGHTS_FILE, peft::weights_bytes(adapter)?),
            (peft::CONFIG_FILE, config.into_bytes()),
            (STATE, state.into_bytes()),
        ];
        files.extend(optimizer.files()?);
        let mut manifest = Manifest::default();
        for (name, bytes) in &files {
            manifest.enter(name, bytes);
        }
        files.push((MANIFEST, manifest.text().into_bytes()));
        Ok(files)
    }

    fn write(
        &self,
        temporary: &Path,
        files: &[(&str, Vec<u8>)],
        step: usize,
    ) -> Result<(), TrainError> {
        remove_folder(temporary)?;
        fs::create_dir(temporary).map_err(TrainError::write(temporary))?;
        for (name, bytes) in files {
            let path = temporary.join(name);
            write_synced(&path, bytes).map_err(TrainError::write(&path))?;
        }
        sync_folder(temporary).map_err(TrainError::write(temporary))?;
        // What has the name already was refused, or is another run's.
        self.remove(step)?;
        let path = self.path(step);
        fs::rename(temporary, &path).map_err(TrainError::write(&path))?;
        sync_folder(&self.folder).map_err(TrainError::write(&self.folder))
    }

    /// The folder of the checkpoint of `step`.
    pub(crate) fn path(&self, step: usize) -> PathBuf {
        self.folder.join(folder_name(step))
    }

    /// Takes the name away first: a folder that is half removed must not have it.
    fn remove(&self, step: usize) -> Result<(), TrainError> {
        let (path, removing) = (
            self.path(step),
            self.folder.join(format!("{REMOVING}{}", folder_name(step))),
        );
        remove_folder(&removing)?;
        match fs::rename(&path, &removing) {
            Ok(()) => remove_folder(&removing),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(TrainError::write(&path)(error)),
        }
    }

    /// Steps with a checkpoint, ascending.
    fn steps(&self) -> Result<Vec<usize>, TrainError> {
        let names = self.names()?;
        let number = |name: &String| name.strip_prefix(NAME)?.parse().ok();
        let mut steps: Vec<usize> = names.iter().filter_map(number).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    fn names(&self) -> Result<Vec<String>, TrainError> {
        let names = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.folder)? {
                names.extend(entry?.file_name().into_string());
            }
            Ok(names)
        };
        match names() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            names => names.map_err(TrainError::read(&self.folder)),
        }
    }

    /// Removes what a killed run was writing or removing.
    pub(crate) fn clean(&self) -> Result<(), TrainError> {
        for name in self.names()? {
            if name.starts_with(WRITING) || name.starts_with(REMOVING) {
                remove_folder(&self.folder.join(name))?;
            }
        }
        Ok(())
    }

    /// Takes the adapter from the checkpoint of `step`.
    ///
    /// # Errors
    /// [`TrainError::NoWholeCheckpoint`] if it is torn, altered or gone.
    pub(crate) fn read_adapter(
        &self,
        step: usize,
        adapter: &mut Adapter,
    ) -> Result<(), TrainError> {
        let path = self.path(step);
        let weights = path.join(peft::WEIGHTS_FILE);
        read_state(&path, step)
            .and_then(|_| {
                peft::read_factors(&weights, &mut adapter.layers).map_err(|error| error.to_string())
            })
            .map_err(|reason| TrainError::NoWholeCheckpoint {
                refused: vec![(path, reason)],
            })
    }

    /// Restores the newest whole checkpoint; returns where the run stood, and its folder. Each that is passed over
    /// is told with its reason, and stays until a new one has been written.
    pub(crate) fn restore(
        &self,
        adapter: &mut Adapter,
        optimizer: &mut Optimizer,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<(RunState, PathBuf), TrainError> {
        let mut refused = Vec::new();
        for step in self.steps()?.into_iter().rev() {
            let path = self.path(step);
            let usable = read_state(&path, step).and_then(|state| {
                let difference = state.identity.difference(&self.identity);
                if difference.is_none() {
                    load(&path, adapter, optimizer)?;
                }
                Ok((state.run, difference))
            });
            match usable {
                Ok((run, None)) => return Ok((run, path)),
                Ok((_, Some(difference))) => return Err(TrainError::OtherRun { path, difference }),
                Err(reason) => {
                    observe(Event::CheckpointRefused {
                        path: &path,
                        reason: &reason,
                    });
                    refused.push((path, reason));
                }
            }
        }
        let path = self.folder.clone();
        Err(if refused.is_empty() {
            TrainError::NothingToResume { path }
        } else {
            TrainError::NoWholeCheckpoint { refused }
        })
    }
}

/// Takes the tensors of a checkpoint, or says why they cannot be taken.
fn load(path: &Path, adapter: &mut Adapter, optimizer: &mut Optimizer) -> Result<(), String> {
    peft::read_factors(&path.join(peft::WEIGHTS_FILE), &mut adapter.layers)
        .and_then(|()| optimizer.restore(path))
        .map_err(|error| error.to_string())
}

fn folder_name(step: usize) -> String {
    format!("{NAME}{step:06}")
}

/// The state of a checkpoint in which every byte is as it was written, or the reason why it is none.
fn read_state(path: &Path, step: usize) -> Result<State, String> {
    Manifest::check(path, &ALWAYS)?;
    let text = fs::read_to_string(path.join(STATE)).map_err(|error| format!("{STATE}: {error}"))?;
    let state: State = serde_json::from_str(&text).map_err(|error| format!("{STATE}: {error}"))?;
    if state.run.step != step {
        return Err(format!("it is the checkpoint of step {}", state.run.step));
    }
    Ok(state)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Waits until the names in a folder are on the disk.
#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Elsewhere folders cannot be opened, and the file system orders renames itself.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Removes a folder that need not exist.
fn remove_folder(path: &Path) -> Result<(), TrainError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(TrainError::write(path)(error))
        }
        _ => Ok(()),
    }
}
