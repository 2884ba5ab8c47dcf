//! What can be wrong with a task's description or its templates.

use std::path::PathBuf;

use super::file::nearest;
use super::{Part, Task};

/// An error about a task; part of [`crate::AugmentError`].
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// No built-in task has this name, and it is no `.toml` file.
    #[error("there is no task `{name}`")]
    Unknown {
        /// The name given.
        name: String,
    },
    /// A task file could not be read.
    #[error("cannot read the task file `{path}`")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A task file is no TOML, or has other keys than a task.
    #[error("the task file {path}{}: {problem}", at(*line))]
    BadFile {
        /// The file.
        path: PathBuf,
        /// Counted from 1, where it is known.
        line: Option<usize>,
        /// What is wrong.
        problem: String,
    },
    /// A task's columns and templates do not fit each other.
    #[error("the task `{task}` cannot work: {}", problems.join("; "))]
    Invalid {
        /// Its file, or its name.
        task: String,
        /// Everything that is wrong, each with its key.
        problems: Vec<String>,
    },
    /// A prompt template could not be parsed or rendered.
    #[error("`templates.{template}`{}{}: {problem}", in_line(*line), of_row(*row))]
    Template {
        /// Its key.
        template: &'static str,
        /// Its line, counted from 1, where that is known.
        line: Option<usize>,
        /// The row's position in its split, from 0, if it was being rendered.
        row: Option<usize>,
        /// What the template engine said.
        problem: String,
    },
}

fn at(line: Option<usize>) -> String {
    line.map(|line| format!(":{line}")).unwrap_or_default()
}

fn in_line(line: Option<usize>) -> String {
    line.map(|line| format!(", line {line}"))
        .unwrap_or_default()
}

fn of_row(row: Option<usize>) -> String {
    row.map(|row| format!(", for row {row}"))
        .unwrap_or_default()
}

impl TaskError {
    pub(crate) fn template(part: Part, row: Option<usize>, error: &minijinja::Error) -> Self {
        let kind = error.kind().to_string();
        Self::Template {
            template: part.name(),
            line: error.line(),
            row,
            problem: match error.detail() {
                Some(detail) => format!("{kind}: {detail}"),
                None => kind,
            },
        }
    }

    /// How to mend it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { name } => {
                let near = nearest(name, &Task::BUILT_IN).map(|near| format!("did you mean `{near}`? "));
                Some(format!(
                    "{}built in are `sql`, `gsm8k` and `functional`; a task of your own is the path of a .toml file",
                    near.unwrap_or_default()
                ))
            }
            Self::Unreadable { path, .. } if path.is_relative() => {
                let folder = std::env::current_dir().ok()?;
                Some(format!("the path starts in the working directory, `{}`", folder.display()))
            }
            Self::Template { row: Some(_), .. } => Some(
                "where rows differ in what they have, ask first: `{% if row.x is defined %}`; the query's template \
                 never sees the answer"
                    .into(),
            ),
            _ => None,
        }
    }
}
