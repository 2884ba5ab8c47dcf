//! The config of each step: the shipped one of its task, what the user puts over it, and what makes the cell.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::cell::{Constraint, Method, Prompts, Step, Task};
use super::folder::Folder;
use crate::config::{ConfigError, Environment, Override, ResolvedConfig};
use crate::demo_data::{DemoTask, Overwrite, generate};
use crate::error::InputError;
use crate::synthetic;

/// What the cells' configs start from.
const SHIPPED: [(Task, &str); 3] = [
    (Task::Sql, include_str!("../../../../configs/sql_rag1.toml")),
    (
        Task::Gsm8k,
        include_str!("../../../../configs/gsm8k_rag1.toml"),
    ),
    (
        Task::Functional,
        include_str!("../../../../configs/functional_rag1.toml"),
    ),
];

/// The recipe of `--demo`: a small model, a few minutes.
const QUICKSTART: &str = include_str!("../../../../configs/quickstart_rag1.toml");

/// The embedding model of the original experiment.
const ADA_002: &str = "text-embedding-ada-002";

/// Keys that make the difference between cells, so that one value for all would be wrong.
const VARIED: [&str; 8] = [
    "task",
    "output",
    "seed",
    "retrieval.examples",
    "retrieval.selector",
    "retrieval.different",
    "retrieval.drafts",
    "retrieval.endpoint",
];

/// Which data the grid runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// Those of the shipped configs.
    Real,
    /// The synthetic ones that the program writes itself.
    Demo,
}

/// Everything that the configs of all cells have in common.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Where everything goes.
    pub folder: Folder,
    /// Real or made up.
    pub data: Data,
    /// What the user puts over every config, the last one winning.
    pub overrides: Vec<Override>,
}

impl Recipe {
    /// The recipe with the flags of the command line.
    ///
    /// # Errors
    /// When `overrides` set what the grid itself varies.
    pub fn new(folder: Folder, data: Data, overrides: Vec<Override>) -> anyhow::Result<Self> {
        let varied = overrides.iter().find(|text| VARIED.contains(&text.key()));
        if let Some(varied) = varied {
            let message = format!("`{}` is what the cells differ in", varied.key());
            let hint = "leave it out; --figures, --tasks and --seeds choose among the cells";
            return Err(InputError::new(message, hint).into());
        }
        Ok(Self {
            folder,
            data,
            overrides,
        })
    }

    /// The checked config of a step.
    ///
    /// # Errors
    /// When the user's values are wrong.
    pub fn resolve(&self, step: &Step) -> Result<ResolvedConfig, ConfigError> {
        let task = step.task();
        let mut overrides = self.demo_overrides(task);
        overrides.extend(self.overrides.iter().cloned());
        overrides.extend(self.own(step));
        let path = PathBuf::from(format!("configs/{}_rag1.toml", task.name()));
        let text = match self.data {
            Data::Real => shipped(task).to_owned(),
            Data::Demo => demo_text(task),
        };
        ResolvedConfig::from_text(&path, &text, &overrides, &Environment::from_process())
    }

    /// What the result of a step depends on: equal values mean that the step would do the same again. Neither where
    /// `--out` lies is part of it nor what steps before it depend on.
    ///
    /// # Errors
    /// As [`Recipe::resolve`].
    pub fn identity(&self, step: &Step) -> Result<Value, ConfigError> {
        let run = self.resolve(step)?.run;
        // Through text, which has an f32 of 3e-4 as 0.0003 and not with f64's digits.
        let text = toml::to_string(&run).expect("every section is plain data");
        let value: Value = toml::from_str(&text).expect("what was just written can be read");
        let sections: &[&str] = match step {
            Step::Augment { .. } => &["task", "data", "retrieval"],
            Step::Train { .. } => &[
                "task",
                "seed",
                "model",
                "data",
                "retrieval",
                "lora",
                "train",
            ],
            Step::Evaluate(_) => &["task", "model", "data", "retrieval", "eval"],
        };
        let mut identity: Map<String, Value> = sections
            .iter()
            .map(|section| (section.to_string(), value[section].clone()))
            .collect();
        if let Step::Augment { seed, .. } = step {
            identity.insert("seed".to_owned(), json!(seed));
            identity.insert("split".to_owned(), json!(run.eval.split));
        }
        let mut identity = Value::Object(identity);
        self.folder.make_portable(&mut identity);
        Ok(identity)
    }

    /// What the local embedding model is called.
    ///
    /// # Errors
    /// As [`Recipe::resolve`].
    pub fn embedder_label(&self) -> Result<String, ConfigError> {
        let run = self.resolve(&Step::augment(Task::Sql, Prompts::semantic(1), 0))?;
        let embedder = run.run.retrieval.embedder;
        let name = Path::new(&embedder).file_name();
        Ok(name.map_or(embedder.clone(), |name| name.to_string_lossy().into_owned()))
    }

    /// Why a step cannot be done here, as far as that shows without looking at data and models.
    pub fn obstacle(&self, step: &Step) -> Option<String> {
        let Prompts::Retrieved {
            method: Method::Ada002,
            ..
        } = step.prompts()
        else {
            return None;
        };
        let key = self.resolve(step).ok()?.run.retrieval.endpoint_key;
        let is_set = |name: &str| std::env::var(name).is_ok_and(|value| !value.trim().is_empty());
        // A service at another address may do without.
        let has_service = is_set(&key) || is_set("OPENAI_BASE_URL");
        (!has_service).then(|| format!("{ADA_002} needs an API key, and {key} is not set"))
    }

    fn demo_overrides(&self, task: Task) -> Vec<Override> {
        if self.data == Data::Real {
            return Vec::new();
        }
        let source = self.folder.demo_data(task);
        let path = |key, path: &Path| Override::path("--demo", key, path);
        let mut overrides = vec![path("data.source", &source)];
        if task == Task::Sql {
            overrides.push(path("eval.databases", &source.join("database")));
        }
        overrides
    }

    /// What makes the step this one and no other.
    fn own(&self, step: &Step) -> Vec<Override> {
        const ORIGIN: &str = "reproduce";
        let prompts = step.prompts();
        let mut own = vec![
            Override::path(ORIGIN, "output", &self.folder.output(step)),
            Override::value(ORIGIN, "retrieval.examples", prompts.examples() as i64),
        ];
        if let Some(seed) = step.seed() {
            own.push(Override::value(ORIGIN, "seed", seed as i64));
        }
        let Prompts::Retrieved {
            method, constraint, ..
        } = prompts
        else {
            return own;
        };
        let selector = method.selector().name();
        own.push(Override::value(ORIGIN, "retrieval.selector", selector));
        if method == Method::Ada002 {
            own.push(Override::value(ORIGIN, "retrieval.embedder", ADA_002));
        }
        if let (Method::Skeleton, Some(seed)) = (method, step.seed()) {
            let drafts = self.folder.drafts(step.task(), seed);
            own.push(Override::path(ORIGIN, "retrieval.drafts", &drafts));
        }
        if constraint == Constraint::Lifted {
            let none = toml::Value::Array(Vec::new());
            own.push(Override::value(ORIGIN, "retrieval.different", none));
        }
        own
    }
}

fn shipped(task: Task) -> &'static str {
    let of_task = SHIPPED.iter().find(|(of, _)| *of == task);
    of_task.expect("every task has a shipped config").1
}

/// The quickstart's model, training and limits with the task's own data and prompts.
fn demo_text(task: Task) -> String {
    if task == Task::Sql {
        return QUICKSTART.to_owned();
    }
    let parse = |text: &str| -> toml::Table {
        toml::from_str(text).expect("the shipped configs are read by tests")
    };
    let (mut config, quickstart) = (parse(shipped(task)), parse(QUICKSTART));
    let value = |table: &toml::Table, section: &str, key: &str| table[section].get(key).cloned();
    let max_length = value(&config, "train", "max_length");
    for section in ["model", "lora", "train"] {
        config.insert(section.to_owned(), quickstart[section].clone());
    }
    let mut put = |section: &str, key: &str, value: Option<toml::Value>| {
        if let (Some(toml::Value::Table(table)), Some(value)) = (config.get_mut(section), value) {
            table.insert(key.to_owned(), value);
        }
    };
    put("train", "max_length", max_length);
    put("eval", "limit", value(&quickstart, "eval", "limit"));
    // As the generator writes it, for every task.
    put("eval", "split", value(&quickstart, "eval", "split"));
    toml::to_string(&config).expect("a table that was just read")
}

/// Writes a task's synthetic data unless they are there.
///
/// # Errors
/// When the folder cannot be written, or holds something else.
pub fn write_demo_data(recipe: &Recipe, task: Task) -> anyhow::Result<()> {
    const SEED: u64 = 42;
    let folder = recipe.folder.demo_data(task);
    if synthetic::is_synthetic(&folder) {
        return Ok(());
    }
    let task = match task {
        Task::Sql => DemoTask::Sql,
        Task::Gsm8k => DemoTask::Gsm8k,
        Task::Functional => DemoTask::Functional,
    };
    generate(task, &folder, SEED, Overwrite::Refuse)?;
    synthetic::mark(&folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reproduce::cell::Cell;

    fn recipe(data: Data, overrides: &[&str]) -> anyhow::Result<Recipe> {
        let overrides = overrides.iter().map(|text| Override::set(text)).collect();
        Recipe::new(Folder::new("grid"), data, overrides)
    }

    fn evaluate(prompts: Prompts) -> Step {
        Step::Evaluate(Cell::tuned(Task::Sql, prompts, 7))
    }

    #[test]
    fn a_cell_is_the_shipped_config_and_its_own_values() {
        let recipe = recipe(Data::Real, &["train.max_steps=6"]).unwrap();
        let prompts = Prompts::Retrieved {
            examples: 3,
            method: Method::Bm25,
            constraint: Constraint::Lifted,
        };
        let run = recipe.resolve(&evaluate(prompts)).unwrap().run;
        assert_eq!(run.model.base, "codellama/CodeLlama-7b-hf");
        assert_eq!((run.seed, run.retrieval.examples), (7, 3));
        assert_eq!(run.retrieval.selector.name(), "bm25");
        assert!(run.retrieval.different.is_empty());
        assert_eq!(run.train.max_steps, Some(6));
        let constrained = recipe.resolve(&evaluate(Prompts::semantic(1))).unwrap().run;
        assert_eq!(constrained.retrieval.different, ["db_id"]);
    }

    #[test]
    fn every_task_has_a_config_for_real_and_for_synthetic_data() {
        for data in [Data::Real, Data::Demo] {
            let recipe = recipe(data, &[]).unwrap();
            for task in Task::ALL {
                let step = Step::Evaluate(Cell::tuned(task, Prompts::semantic(1), 1));
                let run = recipe.resolve(&step).unwrap().run;
                assert_eq!(run.task.load().unwrap().name, task.name());
                let is_small = run.model.base.contains("135M");
                assert_eq!(is_small, data == Data::Demo, "{task:?}");
            }
        }
    }

    #[test]
    fn what_the_cells_differ_in_cannot_be_one_value() {
        let error = recipe(Data::Real, &["retrieval.examples=2"]).unwrap_err();
        assert!(
            error.to_string().contains("`retrieval.examples`"),
            "{error}"
        );
    }

    #[test]
    fn a_step_is_done_again_only_for_what_it_depends_on() {
        let identity =
            |sets: &[&str], step: &Step| recipe(Data::Real, sets).unwrap().identity(step).unwrap();
        let cell = Cell::tuned(Task::Sql, Prompts::semantic(1), 7);
        let steps = Step::Evaluate(cell).with_needs();
        let changed = |set: &str| -> Vec<bool> {
            let differs = |step: &Step| identity(&[], step) != identity(&[set], step);
            steps.iter().map(differs).collect()
        };
        // augment, train, evaluate
        assert_eq!(changed("eval.limit=3"), [false, false, true]);
        assert_eq!(changed("train.max_steps=3"), [false, true, false]);
        assert_eq!(changed("retrieval.embedder=other"), [true, true, true]);
    }

    /// A record is JSON: floats must come back as they were.
    #[test]
    fn a_written_identity_is_the_same_when_read() {
        let recipe = recipe(Data::Real, &[]).unwrap();
        let identity = recipe.identity(&evaluate(Prompts::semantic(1))).unwrap();
        let train = Step::Train {
            task: Task::Sql,
            prompts: Prompts::ZeroShot,
            seed: 1,
        };
        for identity in [identity, recipe.identity(&train).unwrap()] {
            let text = serde_json::to_string(&identity).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), identity);
        }
    }

    #[test]
    fn where_the_folder_lies_does_not_matter() {
        let at = |folder: &str| {
            let recipe = Recipe::new(Folder::new(folder), Data::Demo, Vec::new()).unwrap();
            recipe
                .identity(&evaluate(Prompts::by(Method::Skeleton, 1)))
                .unwrap()
        };
        assert_eq!(at("grid"), at("/elsewhere/grid"));
    }
}
