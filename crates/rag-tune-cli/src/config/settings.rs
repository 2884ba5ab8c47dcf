//! Values that the user set, each with its place in the config and its origin.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

use super::RunConfig;
use super::problem::Problem;

/// A key's place in the config.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Empty for the keys above the first section.
    pub section: String,
    /// The key within its section.
    pub name: String,
}

impl Key {
    /// The key `name` of `section`.
    pub fn new(section: &str, name: &str) -> Self {
        Self {
            section: section.to_owned(),
            name: name.to_owned(),
        }
    }

    /// From `section.key`, or `key` for the top level.
    pub fn parse(text: &str) -> Self {
        let (section, name) = text.split_once('.').unwrap_or(("", text));
        Self::new(section.trim(), name.trim())
    }

    /// The first key that a message names between backticks.
    pub fn quoted_in(message: &str) -> Option<Self> {
        message.split('`').nth(1).map(Self::parse)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.section.as_str() {
            "" => f.write_str(&self.name),
            section => write!(f, "{section}.{}", self.name),
        }
    }
}

/// Where a value came from.
///
/// The order is that of the layers: a later one goes before an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A config file.
    File {
        /// As the user named it.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(&'static str),
    /// A flag on the command line, `--set` or one that stands for a key.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// A value and its origin.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// The value as TOML.
    pub value: toml::Value,
    /// Where it came from.
    pub origin: Origin,
}

/// Everything that was set; what is missing has its default.
pub type Settings = BTreeMap<Key, Setting>;

/// Drops settings whose value has the wrong type, with a problem for each.
pub fn check_types(settings: &mut Settings, problems: &mut Vec<Problem>) {
    settings.retain(|key, setting| {
        // Every other key has a default, so a config of this key alone shows whether its type is right.
        let Err(error) = RunConfig::deserialize(nested(key, setting.value.clone())) else {
            return true;
        };
        let message = format!("`{key}`: {}", in_plain_words(error.message()));
        problems.push(Problem::at(&setting.origin, message));
        false
    });
}

/// The config that `settings`, already checked, describe.
pub fn join(settings: &Settings) -> RunConfig {
    let mut table = toml::Table::new();
    for (key, setting) in settings {
        for (name, value) in nested(key, setting.value.clone()) {
            match (table.get_mut(&name), value) {
                (Some(toml::Value::Table(section)), toml::Value::Table(more)) => {
                    section.extend(more)
                }
                (_, value) => {
                    table.insert(name, value);
                }
            }
        }
    }
    RunConfig::deserialize(table)
        .expect("every setting was accepted alone, and none depends on another")
}

fn nested(key: &Key, value: toml::Value) -> toml::Table {
    let inner = toml::Table::from_iter([(key.name.clone(), value)]);
    match key.section.as_str() {
        "" => inner,
        section => toml::Table::from_iter([(section.to_owned(), toml::Value::Table(inner))]),
    }
}

/// serde names Rust's types; a user knows numbers and texts.
fn in_plain_words(message: &str) -> String {
    const WORDS: [(&str, &str); 8] = [
        ("expected f32", "expected a number"),
        ("expected f64", "expected a number"),
        ("expected usize", "expected a whole number, 0 or more"),
        ("expected u64", "expected a whole number, 0 or more"),
        (
            "expected a nonzero usize",
            "expected a whole number, 1 or more",
        ),
        ("expected path string", "expected a string"),
        ("expected string or table", "expected a string"),
        ("floating point", "number"),
    ];
    WORDS
        .iter()
        .fold(message.to_owned(), |text, (rust, plain)| {
            text.replace(rust, plain)
        })
}
