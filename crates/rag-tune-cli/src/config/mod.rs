//! One TOML file per run: read, checked as a whole, and printed again with the origin of each value.
//!
//! `schema` knows which keys there are, `layers` collects the `settings` that the user made and where,
//! this file joins them into a [`RunConfig`], and `print` shows the result. Each section's struct lives
//! beside the code that it sets.

mod docs;
mod layers;
mod print;
mod problem;
mod schema;
mod settings;

use std::path::{Path, PathBuf};

use rag_tune_augment::{DataConfig, RetrievalConfig, TaskName};
use rag_tune_eval::EvalConfig;
use rag_tune_model::config::ModelConfig;
use rag_tune_train::config::{LogConfig, LoraConfig, TrainConfig, ValidationConfig};
use serde::{Deserialize, Serialize};

pub use self::layers::{Environment, Override};
pub use self::print::Docs;
pub use self::problem::ConfigError;
use self::problem::Problem;
use self::settings::{Key, Settings};

/// Everything that a run depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// What the model learns to do: `sql`, `gsm8k`, `functional`, or the path of a task file (`.toml`).
    pub task: TaskName,
    /// The run's folder: adapter, metrics, scores.
    pub output: PathBuf,
    /// Seed of everything random: row order, dropout, the adapter's start, random examples.
    pub seed: u64,
    /// `[model]`
    pub model: ModelConfig,
    /// `[data]`
    pub data: DataConfig,
    /// `[retrieval]`
    pub retrieval: RetrievalConfig,
    /// `[lora]`
    pub lora: LoraConfig,
    /// `[train]`
    pub train: TrainConfig,
    /// `[validation]`
    pub validation: ValidationConfig,
    /// `[eval]`
    pub eval: EvalConfig,
    /// `[log]`
    pub log: LogConfig,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            task: TaskName::default(),
            output: PathBuf::new(),
            seed: 42,
            model: ModelConfig::default(),
            data: DataConfig::default(),
            retrieval: RetrievalConfig::default(),
            lora: LoraConfig::default(),
            train: TrainConfig::default(),
            validation: ValidationConfig::default(),
            eval: EvalConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl RunConfig {
    /// Every problem of every section, each naming its key.
    fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.output.as_os_str().is_empty() {
            problems.push("`output` must name the run's folder".to_owned());
        }
        if let Err(error) = self.task.load() {
            let hint = error.hint().map(|hint| format!("; {hint}"));
            problems.push(format!("`task`: {error}{}", hint.unwrap_or_default()));
        }
        problems.extend(self.model.validate());
        problems.extend(self.data.validate());
        problems.extend(self.retrieval.validate());
        problems.extend(self.lora.validate());
        problems.extend(self.train.validate());
        problems.extend(self.validation.validate());
        if self.validation.is_on() && self.validation_split() == self.data.train_split {
            problems.push(format!(
                "`validation.split` is `{}`, the split that is learnt from: rows that are held out must be a split of \
                 their own, such as `data.files = {{ held_out = \"held_out.jsonl\" }}`",
                self.validation_split()
            ));
        }
        problems.extend(self.eval.validate());
        if self.eval.split == self.data.train_split && self.retrieval.examples > 0 {
            problems.push(format!(
                "`eval.split` is `{}`, the split that examples come from: its answers would stand in other rows' prompts",
                self.eval.split
            ));
        }
        problems
    }

    /// The splits that a run needs: the one it learns from and the one it is scored on.
    pub fn splits(&self) -> Vec<&str> {
        let mut splits = vec![self.data.train_split.as_str()];
        if self.eval.split != self.data.train_split {
            splits.push(&self.eval.split);
        }
        if self.validation.is_on() && !splits.contains(&self.validation_split()) {
            splits.push(self.validation_split());
        }
        splits
    }

    /// The split that validation looks at.
    pub fn validation_split(&self) -> &str {
        match self.validation.split.as_str() {
            "" => &self.eval.split,
            split => split,
        }
    }
}

/// A checked [`RunConfig`] that remembers where each value came from.
#[derive(Debug, Clone)]
pub struct ResolvedConfig {
    /// The values.
    pub run: RunConfig,
    /// What the user gave; every other value is a default.
    settings: Settings,
}

impl ResolvedConfig {
    /// Reads `path`, then puts the environment's and the command line's values over it.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem that can be found at once.
    pub fn load(
        path: &Path,
        overrides: &[Override],
        environment: &Environment,
    ) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::from_text(path, &text, overrides, environment)
    }

    /// As [`ResolvedConfig::load`], with the text of the file, which need not be there; `path` names it in messages.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem that can be found at once.
    pub fn from_text(
        path: &Path,
        text: &str,
        overrides: &[Override],
        environment: &Environment,
    ) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let mut settings = layers::read_file(path, text, &mut problems)?;
        layers::apply_environment(&mut settings, environment);
        layers::apply_overrides(&mut settings, overrides, &mut problems);
        settings::check_types(&mut settings, &mut problems);
        let run = settings::join(&settings);
        problems.extend(run.validate().into_iter().map(|message| {
            let key = Key::quoted_in(&message);
            let setting = key.and_then(|key| settings.get(&key));
            Problem {
                origin: setting.map(|setting| setting.origin.clone()),
                message,
            }
        }));
        if problems.is_empty() {
            return Ok(Self { run, settings });
        }
        // In the order of the file, then the environment and the command line, then what is missing.
        problems.sort_by_key(|problem| (problem.origin.is_none(), problem.origin.clone()));
        Err(ConfigError::Problems {
            path: path.to_owned(),
            problems,
            overridden: !overrides.is_empty(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, overrides: &[&str]) -> Result<ResolvedConfig, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        let overrides: Vec<Override> = overrides.iter().map(|text| Override::set(text)).collect();
        ResolvedConfig::load(&path, &overrides, &Environment::default())
    }

    /// The error's text without the temporary folder's name.
    fn problems(text: &str, overrides: &[&str]) -> String {
        let error = load(text, overrides).unwrap_err();
        let (ConfigError::Problems { path, .. } | ConfigError::Malformed { path, .. }) = &error
        else {
            panic!("{error}")
        };
        error
            .to_string()
            .replace(&path.display().to_string(), "run.toml")
    }

    const MINIMAL: &str =
        "output = \"out\"\n[model]\nbase = \"m\"\n[data]\nsource = \"d\"\n[train]\nmax_steps = 7\n";

    #[test]
    fn later_layers_win() {
        let config = load(MINIMAL, &["train.max_steps=9", "model.base=other/model"])
            .unwrap()
            .run;
        assert_eq!(config.train.max_steps, Some(9));
        assert_eq!(config.model.base, "other/model");
        assert_eq!(config.seed, 42);
    }

    #[test]
    fn an_empty_override_puts_the_default_back() {
        let config = load(MINIMAL, &["train.max_steps=", "train.epochs=1"])
            .unwrap()
            .run;
        assert_eq!(
            (config.train.max_steps, config.train.epochs),
            (None, Some(1.0))
        );
    }

    #[test]
    fn an_unknown_key_names_the_nearest_one() {
        let text = MINIMAL.replace("max_steps", "learning_rat");
        insta::assert_snapshot!(problems(&text, &[]), @r#"
        the config `run.toml` has a problem:
          run.toml:7: unknown key `train.learning_rat`; did you mean `learning_rate`?
        "#);
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let text = "otput = \"out\"\n[model]\nbase = 3\n[trian]\nx = 1\n[data]\nsource = \"d\"\nrank = 4\n\
                    [train]\nbatch_size = -1\nlearning_rate = \"fast\"\nepochs = 1\nmax_steps = 3\n";
        insta::assert_snapshot!(problems(text, &["lora.rnk=4", "nonsense"]), @r#"
        the config `run.toml` has 10 problems:
          run.toml:1: unknown key `otput`; did you mean `output`?
          run.toml:3: `model.base`: invalid type: integer `3`, expected a string
          run.toml:4: unknown section `[trian]`; did you mean `[train]`?
          run.toml:8: unknown key `data.rank`; `rank` belongs to `[lora]`
          run.toml:10: `train.batch_size`: invalid value: integer `-1`, expected a whole number, 0 or more
          run.toml:11: `train.learning_rate`: invalid type: string "fast", expected a number
          run.toml:13: `train.max_steps` and `train.epochs` exclude each other: remove one
          --set: unknown key `lora.rnk`; did you mean `rank`?
          --set: `nonsense` has no `=`: write `section.key=value`
          `output` must name the run's folder
        "#);
    }

    #[test]
    fn the_training_split_is_not_evaluated_with_its_own_examples() {
        let text = problems(MINIMAL, &["eval.split=train"]);
        assert!(text.contains("the split that examples come from"), "{text}");
        load(MINIMAL, &["eval.split=train", "retrieval.examples=0"]).unwrap();
    }

    #[test]
    fn malformed_toml_is_shown_with_line_and_column() {
        insta::assert_snapshot!(problems("task = \"sql\"\noutput = \n", &[]), @r#"
        run.toml:2:10: not valid TOML: string values must be quoted, expected literal string
          output = 
                   ^
        "#);
    }

    #[test]
    fn every_config_of_the_repository_loads() {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        let mut loaded = 0;
        for entry in std::fs::read_dir(configs).unwrap() {
            let path = entry.unwrap().path();
            if path
                .extension()
                .is_some_and(|extension| extension == "toml")
            {
                ResolvedConfig::load(&path, &[], &Environment::default())
                    .unwrap_or_else(|error| panic!("{error}"));
                loaded += 1;
            }
        }
        assert!(loaded >= 6, "only {loaded} configs");
    }
}
