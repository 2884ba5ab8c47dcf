//! The layers of a config: its file, then the environment, then the command line.

use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;

use rag_tune_eval::sql::DATABASES_VARIABLE;
use toml::de::DeTable;

use super::problem::{ConfigError, Problem};
use super::schema::{self, Section};
use super::settings::{Key, Origin, Setting, Settings};

/// A value from the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    flag: &'static str,
    /// `section.key=value`
    text: String,
}

impl Override {
    /// What `--set` was given: `section.key=value`.
    pub fn set(text: &str) -> Self {
        Self {
            flag: "--set",
            text: text.to_owned(),
        }
    }

    /// A flag of its own that names a path, such as `--out` for `output`.
    pub fn path(flag: &'static str, key: &str, path: &Path) -> Self {
        Self::value(flag, key, path.display().to_string())
    }

    /// A value that `origin`, a flag or a command, gives to `key`.
    pub fn value(origin: &'static str, key: &str, value: impl Into<toml::Value>) -> Self {
        let value = value.into();
        Self {
            flag: origin,
            text: format!("{key}={value}"),
        }
    }

    /// The key that it sets.
    pub fn key(&self) -> &str {
        self.text.split_once('=').map_or("", |(key, _)| key.trim())
    }
}

/// The variables that stand for config keys.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `RAG_TUNE_DATABASES`, for `eval.databases`.
    pub databases: Option<OsString>,
}

impl Environment {
    /// From the process's environment.
    pub fn from_process() -> Self {
        Self {
            databases: std::env::var_os(DATABASES_VARIABLE).filter(|value| !value.is_empty()),
        }
    }
}

/// The values of a config file; keys that do not exist become problems.
///
/// # Errors
/// [`ConfigError::Malformed`].
pub fn read_file(
    path: &Path,
    text: &str,
    problems: &mut Vec<Problem>,
) -> Result<Settings, ConfigError> {
    // Once for the places of the keys, once for the values.
    let parsed = DeTable::parse(text).and_then(|spans| Ok((spans, toml::from_str(text)?)));
    let (spans, values): (_, toml::Table) =
        parsed.map_err(|error| malformed(path, text, &error))?;
    let mut settings = Settings::new();
    for (name, span) in spans.get_ref() {
        let place = |span: Range<usize>| Origin::File {
            path: path.to_owned(),
            line: line_and_column(text, span.start).0,
        };
        let (name, origin) = (name.get_ref().as_ref(), place(name.span()));
        match (&values[name], span.get_ref().as_table(), schema::find(name)) {
            (toml::Value::Table(values), Some(spans), Some(section)) => {
                for (key, _) in spans {
                    let origin = place(key.span());
                    let key = Key::new(section.name, key.get_ref());
                    let value = values[&key.name].clone();
                    insert(&mut settings, key, Setting { value, origin }, problems);
                }
            }
            (toml::Value::Table(_), _, None) => problems.push(unknown_section(name, &origin)),
            (value, _, _) => {
                let setting = Setting {
                    value: value.clone(),
                    origin,
                };
                insert(&mut settings, Key::new("", name), setting, problems);
            }
        }
    }
    Ok(settings)
}

/// Puts the variables that are set over `settings`.
pub fn apply_environment(settings: &mut Settings, environment: &Environment) {
    if let Some(databases) = &environment.databases {
        let value = toml::Value::String(databases.to_string_lossy().into_owned());
        let setting = Setting {
            value,
            origin: Origin::Environment(DATABASES_VARIABLE),
        };
        settings.insert(Key::new("eval", "databases"), setting);
    }
}

/// Puts the command line's values over `settings`.
///
/// A value that is no TOML is taken as a string, and an empty one puts the default back.
pub fn apply_overrides(
    settings: &mut Settings,
    overrides: &[Override],
    problems: &mut Vec<Problem>,
) {
    for Override { flag, text } in overrides {
        let origin = Origin::Flag(flag);
        let Some((key, value)) = text.split_once('=') else {
            let message = format!("`{text}` has no `=`: write `section.key=value`");
            problems.push(Problem::at(&origin, message));
            continue;
        };
        let key = Key::parse(key);
        if value.is_empty() {
            settings.remove(&key);
            continue;
        }
        let value = toml::from_str::<toml::Table>(&format!("value = {value}"))
            .ok()
            .and_then(|mut table| table.remove("value"))
            .unwrap_or_else(|| toml::Value::String(value.to_owned()));
        insert(settings, key, Setting { value, origin }, problems);
    }
}

/// Adds a setting if its key exists, else a problem.
fn insert(settings: &mut Settings, key: Key, setting: Setting, problems: &mut Vec<Problem>) {
    match schema::find(&key.section) {
        None => problems.push(unknown_section(&key.section, &setting.origin)),
        Some(section) if !section.keys.contains(&key.name.as_str()) => {
            problems.push(unknown_key(&section, &key, &setting.origin));
        }
        Some(_) if key.section.is_empty() && schema::find(&key.name).is_some() => {
            let message = format!("`{key}` is a section: write `[{key}]` and its keys below");
            problems.push(Problem::at(&setting.origin, message));
        }
        Some(_) => {
            settings.insert(key, setting);
        }
    }
}

fn unknown_key(section: &Section, key: &Key, origin: &Origin) -> Problem {
    let suggestion = schema::suggest_key(section, &key.name).unwrap_or_else(|| {
        let own_keys = section
            .keys
            .iter()
            .filter(|key| !section.name.is_empty() || schema::find(key).is_none());
        format!(
            "there are {}",
            own_keys.copied().collect::<Vec<_>>().join(", ")
        )
    });
    Problem::at(origin, format!("unknown key `{key}`; {suggestion}"))
}

fn unknown_section(name: &str, origin: &Origin) -> Problem {
    let suggestion = match schema::suggest_section(name) {
        Some(near) => format!("did you mean `[{near}]`?"),
        None => "there are [model], [data], [retrieval], [lora], [train], [eval]".to_owned(),
    };
    Problem::at(origin, format!("unknown section `[{name}]`; {suggestion}"))
}

fn malformed(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let (line, column) = line_and_column(text, error.span().map_or(text.len(), |span| span.start));
    ConfigError::Malformed {
        path: path.to_owned(),
        line,
        column,
        message: error.message().to_owned(),
        shown: text.lines().nth(line - 1).unwrap_or_default().to_owned(),
    }
}

/// Line and column of a byte, both counted from 1.
fn line_and_column(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one() {
        assert_eq!(line_and_column("a\nüb\n", 0), (1, 1));
        assert_eq!(line_and_column("a\nüb\n", 4), (2, 2));
        assert_eq!(line_and_column("a\n", 99), (2, 1));
    }

    #[test]
    fn override_values_are_toml_or_else_text() {
        let mut settings = Settings::new();
        let mut problems = Vec::new();
        let overrides = [
            "retrieval.different=[\"db_id\"]",
            "model.base=a/b",
            "output=3",
        ];
        apply_overrides(&mut settings, &overrides.map(Override::set), &mut problems);
        let value = |section: &str, name: &str| settings[&Key::new(section, name)].value.clone();
        assert!(value("retrieval", "different").is_array());
        assert_eq!(value("model", "base").as_str(), Some("a/b"));
        assert_eq!(problems, []);
    }

    #[test]
    fn the_environment_stands_over_the_file() {
        let mut settings = read_file(
            Path::new("c"),
            "[eval]\ndatabases = \"a\"\n",
            &mut Vec::new(),
        )
        .unwrap();
        apply_environment(
            &mut settings,
            &Environment {
                databases: Some("b".into()),
            },
        );
        let setting = &settings[&Key::new("eval", "databases")];
        assert_eq!(
            (setting.value.as_str(), setting.origin.to_string()),
            (Some("b"), DATABASES_VARIABLE.to_owned())
        );
    }
}
