//! What can be wrong with a task's description or its templates.

use std::path::PathBuf;

/// An error about a task; part of [`crate::AugmentError`].
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// No built-in task has this name, and it is no `.toml` file.
    #[error("there is no task `{name}`")]
    Unknown {
        /// The name given.
        name: String,
    },
    /// A task file cannot be used.
    #[error("the task file `{path}`: {problem}")]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A prompt template could not be parsed or rendered.
    #[error("cannot render the prompt: {problem}")]
    Template {
        /// What the template engine said.
        problem: String,
    },
}

impl TaskError {
    /// How to mend it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { .. } => Some(
                "built in are `sql`, `gsm8k` and `functional`; a task of your own is the path of a .toml file".into(),
            ),
            _ => None,
        }
    }
}
