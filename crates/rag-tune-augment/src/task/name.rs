//! What a config calls its task by.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Task, TaskError, file};

/// The top-level `task` key of a config: the name of a built-in task, or the path of a task file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskName(String);

impl TaskName {
    /// From what the config says.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The task's description, checked: a built-in one, or that of the `.toml` file, whose path is relative to the
    /// working directory.
    ///
    /// # Errors
    /// [`TaskError::Unknown`], [`TaskError::Unreadable`], [`TaskError::BadFile`], [`TaskError::Invalid`].
    pub fn load(&self) -> Result<Task, TaskError> {
        if let Some(task) = Task::built_in(&self.0) {
            return Ok(task);
        }
        match Path::new(&self.0) {
            path if path
                .extension()
                .is_some_and(|extension| extension == "toml") =>
            {
                file::load(path)
            }
            _ => Err(TaskError::Unknown {
                name: self.0.clone(),
            }),
        }
    }
}

impl Default for TaskName {
    fn default() -> Self {
        Self::new("sql")
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
