//! A run as TensorBoard event files: `tensorboard/events.out.tfevents.*` in the run's folder.
//!
//! - `record`: the framing of the file (TFRecord)
//! - `message`: what stands in a record (protocol buffers)
//!
//! Steps that a resumed run does again are cut off the older files, so every reader sees each step once; a TensorBoard
//! that is open meanwhile is told to forget them too (`SessionLog.START`).

mod message;
mod record;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use self::message::Message;
use crate::error::TrainError;
use crate::event::Event;

/// Folder of the event files.
pub const TENSORBOARD_FOLDER: &str = "tensorboard";

const PREFIX: &str = "events.out.tfevents.";
/// In the place of the host's name, which is nobody's business: only our own files are cut.
const WRITER: &str = ".rag-tune.";

/// Writes what happens in a run.
#[derive(Debug)]
pub struct TensorBoard {
    folder: PathBuf,
    resumed_after: Option<usize>,
    /// Made at the first thing to write, when it is known whether the run is a resumed one.
    file: Option<(PathBuf, File)>,
}

impl TensorBoard {
    /// For the run in `run`; writes nothing yet.
    pub fn new(run: &Path) -> Self {
        Self {
            folder: run.join(TENSORBOARD_FOLDER),
            resumed_after: None,
            file: None,
        }
    }

    /// Writes an event, if there is anything to draw in it.
    ///
    /// # Errors
    /// [`TrainError::Io`] if the folder or a file cannot be written.
    pub fn observe(&mut self, event: Event<'_>) -> Result<(), TrainError> {
        match event {
            Event::Resumed { step } => {
                self.resumed_after = Some(step);
                Ok(())
            }
            Event::Step(record) => {
                let scalars = [
                    ("train/loss", record.loss),
                    ("train/grad_norm", record.grad_norm),
                    ("train/lr", f64::from(record.lr)),
                    ("train/epoch", record.epoch),
                    ("train/tokens_per_s", record.tokens_per_s),
                    (
                        "train/supervised_tokens_per_s",
                        record.supervised_tokens_per_s,
                    ),
                    ("train/peak_share", record.peak_share),
                ];
                self.write(&Message::scalars(now(), record.step, &scalars))
            }
            Event::Validated(record) => {
                let tag = format!("validation/{}", record.metric);
                let scalars = [(tag.as_str(), f64::from(record.value))];
                self.write(&Message::scalars(now(), record.step, &scalars))
            }
            _ => Ok(()),
        }
    }

    fn write(&mut self, message: &Message) -> Result<(), TrainError> {
        if self.file.is_none() {
            self.file = Some(self.begin()?);
        }
        let (path, file) = self.file.as_mut().expect("begun above");
        let record = record::framed(message.bytes());
        file.write_all(&record).map_err(TrainError::write(path))
    }

    /// Clears away what this run will do again, and begins a file.
    fn begin(&self) -> Result<(PathBuf, File), TrainError> {
        fs::create_dir_all(&self.folder).map_err(TrainError::write(&self.folder))?;
        let old = self.files()?;
        for path in &old {
            match self.resumed_after {
                Some(step) => cut(path, step)?,
                None => fs::remove_file(path).map_err(TrainError::write(path))?,
            }
        }
        let old = if self.resumed_after.is_some() {
            old
        } else {
            Vec::new()
        };
        let path = self.folder.join(next_name(&old));
        let open = OpenOptions::new().append(true).create_new(true).open(&path);
        let mut file = open.map_err(TrainError::write(&path))?;
        let mut records = record::framed(Message::file_version(now()).bytes());
        if let Some(step) = self.resumed_after {
            records.extend(record::framed(Message::restart(now(), step + 1).bytes()));
        }
        file.write_all(&records).map_err(TrainError::write(&path))?;
        Ok((path, file))
    }

    /// Our files, in the order in which TensorBoard reads them.
    fn files(&self) -> Result<Vec<PathBuf>, TrainError> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(TrainError::read(&self.folder))? {
            let entry = entry.map_err(TrainError::read(&self.folder))?;
            let name = entry.file_name();
            let is_ours = |name: &str| name.starts_with(PREFIX) && name.contains(WRITER);
            if name.to_str().is_some_and(is_ours) {
                files.push(entry.path());
            }
        }
        files.sort();
        Ok(files)
    }
}

/// A name that sorts behind those of `old`: TensorBoard reads files in the order of their names.
fn next_name(old: &[PathBuf]) -> String {
    let seconds_of = |path: &PathBuf| -> Option<u64> {
        let name = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
        name.split_once('.')?.0.parse().ok()
    };
    // A clock may have been put back.
    let last = old.iter().filter_map(seconds_of).max().unwrap_or(0);
    let seconds = (now() as u64).max(last);
    format!("{PREFIX}{seconds:010}{WRITER}{:04}", old.len())
}

/// Cuts a file off before its first record of a step after `step`, or that is torn.
fn cut(path: &Path, step: usize) -> Result<(), TrainError> {
    let bytes = fs::read(path).map_err(TrainError::read(path))?;
    let mut end = 0;
    while let Some((data, length)) = record::first(&bytes[end..]) {
        if message::step_of(data) > step as u64 {
            break;
        }
        end += length;
    }
    if end < bytes.len() {
        let cut = || {
            let file = OpenOptions::new().write(true).open(path)?;
            file.set_len(end as u64)
        };
        cut().map_err(TrainError::write(path))?;
    }
    Ok(())
}

/// Seconds since 1970.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests;
