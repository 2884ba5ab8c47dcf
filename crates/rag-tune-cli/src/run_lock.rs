//! One training at a time in a run folder, and the mark that a killed one leaves.

use std::fs::File;
use std::path::PathBuf;

use crate::error::InputError;
use crate::files;
use crate::run_folder::RunFolder;

/// Held while a run trains. The file goes when the command ends by itself, also with an error; it
/// stays when the process is killed, and then says that there is a run to resume even if nothing
/// else of it has been written yet. The lock itself always ends with the process.
#[derive(Debug)]
pub struct RunLock {
    path: PathBuf,
    _file: File,
}

impl RunLock {
    /// Makes the folder and takes its lock.
    ///
    /// # Errors
    /// When another process has it, or the folder cannot be written.
    pub fn take(run: &RunFolder) -> anyhow::Result<Self> {
        let path = run.lock();
        match files::lock(&path)? {
            Some(file) => Ok(Self { path, _file: file }),
            None => {
                let message = format!("another process is training in `{}`", run.path().display());
                let hint = "let it end, or train into another folder with --out DIR";
                Err(InputError::new(message, hint).into())
            }
        }
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // Where they cannot be removed the next run finds a lock that nobody holds.
        std::fs::remove_file(&self.path).ok();
        if let Some(folder) = self.path.parent() {
            std::fs::remove_dir(folder).ok(); // only if nothing was written into it
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_training_at_a_time_and_afterwards_no_trace_of_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::new(folder.path().join("out"));
        let lock = RunLock::take(&run).unwrap();
        assert!(run.has_begun());
        let error = RunLock::take(&run).unwrap_err();
        assert!(
            error.to_string().starts_with("another process is training"),
            "{error}"
        );
        drop(lock);
        assert!(!run.path().exists());
        RunLock::take(&run).unwrap();
    }
}
