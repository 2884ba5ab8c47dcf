//! What can be wrong with a config.

use std::path::PathBuf;
use std::{fmt, io};

use super::settings::Origin;

/// One mistake in a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where the mistake was made; unknown for a value that is missing.
    pub origin: Option<Origin>,
    /// What is wrong, naming the key.
    pub message: String,
}

impl Problem {
    /// A mistake with a place.
    pub fn at(origin: &Origin, message: String) -> Self {
        Self {
            origin: Some(origin.clone()),
            message,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{origin}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Why there is no config.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there, or not readable.
    #[error("cannot read the config `{}`", path.display())]
    Unreadable {
        /// The config file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is no TOML.
    #[error("{}:{line}:{column}: not valid TOML: {message}\n  {shown}\n  {:width$}^", path.display(), "", width = column - 1)]
    Malformed {
        /// The config file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in characters.
        column: usize,
        /// What the parser expected.
        message: String,
        /// The line as it is.
        shown: String,
    },
    /// The file was read and something in it, or in what was put over it, is wrong.
    #[error("the config `{}` has {}", path.display(), listed(problems))]
    Problems {
        /// The config file.
        path: PathBuf,
        /// Everything found.
        problems: Vec<Problem>,
        /// Whether `--set` was used.
        overridden: bool,
    },
}

impl ConfigError {
    /// How to mend it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("complete examples are in configs/".to_owned())
            }
            Self::Unreadable { .. } | Self::Malformed { .. } => None,
            Self::Problems {
                problems,
                overridden,
                ..
            } => {
                let says = |word: &str| {
                    problems
                        .iter()
                        .any(|problem| problem.message.contains(word))
                };
                if *overridden && says("exclude each other") {
                    Some("`--set section.key=` with nothing behind it takes a key out".to_owned())
                } else if says("unknown key") || says("unknown section") {
                    Some("`rag-tune config CONFIG --docs` explains every key".to_owned())
                } else {
                    None
                }
            }
        }
    }
}

fn listed(problems: &[Problem]) -> String {
    let count = match problems.len() {
        1 => "a problem:".to_owned(),
        count => format!("{count} problems:"),
    };
    problems
        .iter()
        .fold(count, |text, problem| format!("{text}\n  {problem}"))
}
