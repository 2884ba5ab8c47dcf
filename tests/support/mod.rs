//! What the end-to-end tests share: the built program, and a toy world that it runs in.

// Each test file uses its own part of this module.
#![allow(dead_code)]

pub mod toy_model;
pub mod toy_world;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The built program in `folder`, without the variables that change what it does.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rag-tune"));
    command
        .args(arguments)
        .current_dir(folder)
        .env_remove("RAG_TUNE_MIRROR")
        .env_remove("RAG_TUNE_DATABASES")
        .env_remove("RAG_TUNE_CPU")
        // Of a launcher that has started the tests.
        .env_remove("RANK")
        .env_remove("WORLD_SIZE")
        .env_remove("OMPI_COMM_WORLD_RANK")
        .env_remove("OMPI_COMM_WORLD_SIZE")
        .env_remove("SLURM_PROCID")
        .env_remove("SLURM_STEP_NUM_TASKS")
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", folder.join(".hub"))
        .env("XDG_CACHE_HOME", folder.join(".cache"));
    command
}

/// Runs it to its end.
pub fn rag_tune(folder: &Path, arguments: &[&str]) -> Run {
    let output = command(folder, arguments).output();
    Run::from(output.expect("cargo has built the program"))
}

/// How a run of the program ended.
pub struct Run {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Its data.
    pub stdout: String,
    /// Its talk.
    pub stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
        }
    }
}

impl Run {
    /// The data of a run that must have worked.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(
            self.code, 0,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self.stdout
    }

    /// What a run that must have refused its input said.
    #[track_caller]
    pub fn refused(self) -> String {
        assert_eq!(
            self.code, 1,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        assert_eq!(self.stdout, "", "a refusal is no data");
        assert!(self.stderr.contains("error: "), "{}", self.stderr);
        self.stderr
    }
}

/// Every file below `folder`, sorted, to see that nothing was left half-written.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("the folder stays readable").path();
            if path.is_dir() {
                folders.push(path)
            } else {
                files.push(path)
            }
        }
    }
    files.sort();
    files
}
