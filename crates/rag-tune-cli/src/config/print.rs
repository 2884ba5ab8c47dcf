//! The resolved config as TOML, each value with its origin as a comment.

use super::ResolvedConfig;
use super::docs;
use super::schema::{self, Section};
use super::settings::Key;

/// Whether each key is explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Docs {
    /// A comment above each key says what it does.
    Shown,
    /// Only values and origins.
    Hidden,
}

impl ResolvedConfig {
    /// Every value with its origin; the text is a valid config again.
    pub fn to_toml(&self, docs: Docs) -> String {
        // Through text and not `toml::Value`, which would show an f32 of 3e-4 with f64's digits.
        let text = toml::to_string(&self.run).expect("every section is plain data");
        let values: toml::Table = toml::from_str(&text).expect("what was just written can be read");
        let mut printed = String::new();
        for section in schema::sections() {
            let values = match section.name {
                "" => Some(&values),
                name => values.get(name).and_then(toml::Value::as_table),
            };
            if !section.name.is_empty() {
                printed += &format!("\n[{}]\n", section.name);
            }
            printed += &self.section(&section, values.unwrap_or(&toml::Table::new()), docs);
        }
        printed
    }

    fn section(&self, section: &Section, values: &toml::Table, docs: Docs) -> String {
        let is_section = |key: &str| section.name.is_empty() && schema::find(key).is_some();
        let lines: Vec<(&str, String)> = section
            .keys
            .iter()
            .filter(|key| !is_section(key))
            .map(|key| (*key, assignment(key, values.get(*key))))
            .collect();
        // Long lists would push every comment off the screen.
        let width = lines
            .iter()
            .map(|(_, line)| line.len())
            .filter(|&len| len <= 60)
            .max()
            .unwrap_or(0);
        let mut printed = String::new();
        for (key, line) in lines {
            if docs == Docs::Shown {
                for comment in docs::of_field(section.type_name, key) {
                    printed += format!("# {comment}").trim_end();
                    printed.push('\n');
                }
            }
            printed += &format!("{line:<width$}  # {}\n", self.origin(section.name, key));
        }
        printed
    }

    fn origin(&self, section: &str, key: &str) -> String {
        match self.settings.get(&Key::new(section, key)) {
            Some(setting) => setting.origin.to_string(),
            None => "default".to_owned(),
        }
    }
}

fn assignment(key: &str, value: Option<&toml::Value>) -> String {
    match value {
        Some(value) => format!("{key} = {value}"),
        None => format!("# {key} = (not set)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Override};

    const TEXT: &str = "output = \"out\"\n[model]\nbase = \"m\"\n[data]\nsource = \"d\"\n\
                        [lora]\nrank = 4\n[train]\nlearning_rate = 3e-4\n";

    fn load(text: &str) -> ResolvedConfig {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        let overrides = [Override::set("lora.alpha=32")];
        ResolvedConfig::load(&path, &overrides, &Environment::default()).unwrap()
    }

    #[test]
    fn printed_config_reads_back_as_the_same_config() {
        let config = load(TEXT);
        for docs in [Docs::Shown, Docs::Hidden] {
            assert_eq!(load(&config.to_toml(docs)).run, config.run);
        }
    }

    #[test]
    fn each_value_has_its_origin() {
        let printed = load(TEXT).to_toml(Docs::Hidden);
        let line = |start: &str| {
            let line = printed
                .lines()
                .find(|line| line.starts_with(start))
                .unwrap();
            line.split_once("# ")
                .map(|(value, origin)| (value.trim_end(), origin.to_owned()))
                .unwrap()
        };
        assert!(line("rank = ").1.ends_with("run.toml:7"), "{printed}");
        assert_eq!(line("alpha = "), ("alpha = 32.0", "--set".to_owned()));
        assert_eq!(line("dropout = "), ("dropout = 0.05", "default".to_owned()));
        assert_eq!(line("learning_rate = ").0, "learning_rate = 0.0003");
    }
}
