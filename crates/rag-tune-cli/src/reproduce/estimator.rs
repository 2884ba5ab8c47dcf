//! What a step will take: time from tokens and measured speeds, memory by counting.

use std::cell::RefCell;
use std::collections::BTreeMap;

use rag_tune_augment::Hub;
use rag_tune_train::config::{RunLength, StepSize};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cell::{Cell, Method, Prompts, Step};
use super::lengths::{Lengths, Sample};
use super::recipe::Recipe;
use super::records;
use super::speeds::{Speeds, embedded_per_s};
use crate::base_model::FoundModel;
use crate::config::RunConfig;
use crate::files::write_atomically;
use crate::output::Output;

/// Prediction of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// With all cores.
    pub seconds: f64,
    /// At its peak.
    pub bytes: usize,
}

/// `state/measurements.json`: measured once, so that a second call is quick. Keys are the settings that a value
/// depends on.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Measurements {
    lengths: BTreeMap<String, Lengths>,
    speeds: BTreeMap<String, Speeds>,
    /// Texts a second, by embedder.
    embedders: BTreeMap<String, f64>,
}

/// Predicts steps, and measures what it needs to know for that.
pub struct Estimator<'a> {
    recipe: &'a Recipe,
    hub: &'a Hub,
    out: &'a Output,
    measured: RefCell<Measurements>,
}

impl<'a> Estimator<'a> {
    /// With what earlier calls measured.
    pub fn new(recipe: &'a Recipe, hub: &'a Hub, out: &'a Output) -> Self {
        Self {
            recipe,
            hub,
            out,
            // Lost measurements are made again.
            measured: RefCell::new(read_or_default(&recipe.folder.measurements())),
        }
    }

    /// What a step will take.
    ///
    /// # Errors
    /// When data, model or embedder are not there: then the step cannot be done either.
    pub fn estimate(&self, step: &Step) -> anyhow::Result<Estimate> {
        let config = self.recipe.resolve(step)?.run;
        let lengths = self.lengths(step, &config)?;
        match step {
            Step::Augment { .. } => self.augment(&config, step, &lengths),
            Step::Train { .. } => {
                let speeds = self.speeds(step, &config)?;
                let left = self.share_left(step, &config, &lengths)?;
                Ok(Estimate {
                    seconds: speeds.load_s + left * train_seconds(&config, &lengths, &speeds),
                    bytes: speeds.train_bytes,
                })
            }
            Step::Evaluate(cell) => {
                let speeds = self.speeds(step, &config)?;
                let answer = answer_tokens(cell, &config, &lengths);
                Ok(Estimate {
                    seconds: speeds.load_s + answer_seconds(&config, &lengths, &speeds, answer),
                    bytes: speeds.answer_bytes + cache_bytes(&config, &lengths, &speeds),
                })
            }
        }
    }

    /// Rows of a task's eval split.
    ///
    /// # Errors
    /// As [`Estimator::estimate`].
    pub fn eval_rows(&self, step: &Step) -> anyhow::Result<usize> {
        let config = self.recipe.resolve(step)?.run;
        Ok(self.lengths(step, &config)?.eval_rows)
    }

    /// The share of its steps that an interrupted training still has to do.
    fn share_left(
        &self,
        step: &Step,
        config: &RunConfig,
        lengths: &Lengths,
    ) -> anyhow::Result<f64> {
        if !records::is_resumable(self.recipe, step)? {
            return Ok(1.0);
        }
        let total = (passes(config, lengths) * steps_per_epoch(config, lengths)).max(1.0);
        let reached = self.recipe.folder.training(step).last_checkpoint();
        Ok(1.0 - (reached.unwrap_or(0) as f64).min(total) / total)
    }

    fn augment(
        &self,
        config: &RunConfig,
        step: &Step,
        lengths: &Lengths,
    ) -> anyhow::Result<Estimate> {
        let mut seconds = lengths.render_s;
        let is_remote = matches!(
            step.prompts(),
            Prompts::Retrieved {
                method: Method::Ada002,
                ..
            }
        );
        // A service's time is not this machine's, and asking it costs money.
        if config.retrieval.needs_embedder() && !is_remote {
            let texts = (lengths.train_rows + lengths.eval_rows) as f64;
            seconds += texts / self.embedded_per_s(config)?;
        }
        Ok(Estimate { seconds, bytes: 0 })
    }

    fn lengths(&self, step: &Step, config: &RunConfig) -> anyhow::Result<Lengths> {
        let key = key(&json!([
            step.task().name(),
            config.data,
            config.eval.split,
            config.retrieval.examples,
            config.train.max_length,
            config.train.truncation,
            config.model.base,
        ]));
        if let Some(lengths) = self.measured.borrow().lengths.get(&key) {
            return Ok(*lengths);
        }
        let found = FoundModel::open(&config.model, self.hub)?;
        let lengths = Sample::take(config, &found.tokenizer, self.hub)?.lengths;
        self.remember(|measured| {
            measured.lengths.insert(key, lengths);
        })?;
        Ok(lengths)
    }

    fn speeds(&self, step: &Step, config: &RunConfig) -> anyhow::Result<Speeds> {
        let found = FoundModel::open(&config.model, self.hub)?;
        let key = key(&json!([
            found.checkpoint.fingerprint(),
            config.model,
            config.lora,
            config.train.tokens_per_micro_batch,
            config.train.activations,
            config.eval.batch_size,
            rayon::current_num_threads(),
        ]));
        if let Some(speeds) = self.measured.borrow().speeds.get(&key) {
            return Ok(*speeds);
        }
        // One example: the usual prompt. Longer ones are not slower by the token.
        let usual = Step::augment(step.task(), Prompts::semantic(1), 0);
        let usual = self.recipe.resolve(&usual)?.run;
        let rows = Sample::take(&usual, &found.tokenizer, self.hub)?.train;
        let speeds = Speeds::measure(&usual, &found, &rows, self.out)?;
        self.remember(|measured| {
            measured.speeds.insert(key, speeds);
        })?;
        Ok(speeds)
    }

    fn embedded_per_s(&self, config: &RunConfig) -> anyhow::Result<f64> {
        let key = key(&json!([
            config.retrieval.embedder,
            config.retrieval.embedder_prompt,
            config.retrieval.embedder_compute,
            config.data,
            rayon::current_num_threads(),
        ]));
        if let Some(speed) = self.measured.borrow().embedders.get(&key) {
            return Ok(*speed);
        }
        let found = FoundModel::open(&config.model, self.hub)?;
        let rows = Sample::take(config, &found.tokenizer, self.hub)?.train;
        let task = config.task.load()?;
        let texts: Vec<&str> = rows
            .iter()
            .filter_map(|row| row.fields.get(&task.query_column)?.as_str())
            .collect();
        let speed = embedded_per_s(&config.retrieval, &texts, self.hub)?;
        self.remember(|measured| {
            measured.embedders.insert(key, speed);
        })?;
        Ok(speed)
    }

    fn remember(&self, change: impl FnOnce(&mut Measurements)) -> anyhow::Result<()> {
        let mut measured = self.measured.borrow_mut();
        change(&mut measured);
        let text = serde_json::to_string_pretty(&*measured)?;
        write_atomically(&self.recipe.folder.measurements(), &(text + "\n"))
    }
}

fn key(value: &Value) -> String {
    value.to_string()
}

fn read_or_default<T: DeserializeOwned + Default>(path: &std::path::Path) -> T {
    let text = std::fs::read(path).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Tokens of all steps by the speed of learning.
fn train_seconds(config: &RunConfig, lengths: &Lengths, speeds: &Speeds) -> f64 {
    trained_tokens(lengths) * passes(config, lengths) / speeds.train_tokens_per_s
}

/// Passes over the rows that training makes.
fn passes(config: &RunConfig, lengths: &Lengths) -> f64 {
    match config.train.run_length() {
        RunLength::Epochs(epochs) => f64::from(epochs),
        RunLength::Steps(steps) => steps as f64 / steps_per_epoch(config, lengths),
    }
}

/// Steps of one pass; micro-batches are counted as if all were full, of which they lack a few percent.
fn steps_per_epoch(config: &RunConfig, lengths: &Lengths) -> f64 {
    let steps = match config.train.step_size() {
        StepSize::Rows(rows) => trained_rows(lengths) as f64 / rows as f64,
        StepSize::MicroBatches(count) => {
            let tokens = count * config.train.tokens_per_micro_batch;
            trained_tokens(lengths) / tokens as f64
        }
    };
    steps.ceil().max(1.0)
}

fn trained_tokens(lengths: &Lengths) -> f64 {
    trained_rows(lengths) as f64 * lengths.train_tokens
}

fn trained_rows(lengths: &Lengths) -> usize {
    (lengths.train_rows as f64 * lengths.kept).round() as usize
}

/// A tuned model answers as long as the gold answers are; an untrained one rambles where only the end of sequence or
/// the limit ends it.
fn answer_tokens(cell: &Cell, config: &RunConfig, lengths: &Lengths) -> f64 {
    let limit = config.eval.max_new_tokens as f64;
    let has_stop = config.task.load().is_ok_and(|task| !task.stop.is_empty());
    if cell.adapter.is_none() && !has_stop {
        limit
    } else {
        lengths.answer_tokens.min(limit)
    }
}

fn answer_seconds(config: &RunConfig, lengths: &Lengths, speeds: &Speeds, answer: f64) -> f64 {
    let rows = evaluated_rows(config, lengths) as f64;
    rows * lengths.prompt_tokens / speeds.read_tokens_per_s
        + rows * answer / speeds.written_tokens_per_s
}

fn cache_bytes(config: &RunConfig, lengths: &Lengths, speeds: &Speeds) -> usize {
    let rows = evaluated_rows(config, lengths).min(config.eval.batch_size);
    rows * (lengths.longest_prompt + config.eval.max_new_tokens) * speeds.cache_bytes_per_token
}

fn evaluated_rows(config: &RunConfig, lengths: &Lengths) -> usize {
    lengths
        .eval_rows
        .min(config.eval.limit.unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reproduce::cell::Task;

    const LENGTHS: Lengths = Lengths {
        train_rows: 100,
        kept: 0.9,
        train_tokens: 200.0,
        eval_rows: 50,
        prompt_tokens: 150.0,
        longest_prompt: 300,
        answer_tokens: 20.0,
        render_s: 1.0,
    };

    const SPEEDS: Speeds = Speeds {
        load_s: 2.0,
        train_tokens_per_s: 1000.0,
        train_bytes: 7,
        read_tokens_per_s: 1500.0,
        written_tokens_per_s: 100.0,
        answer_bytes: 5,
        cache_bytes_per_token: 3,
    };

    fn config() -> RunConfig {
        let mut config = RunConfig::default();
        config.train.batch_size = Some(30);
        config.train.max_steps = Some(6);
        config.eval.max_new_tokens = 100;
        config
    }

    /// 90 rows in 3 steps an epoch, so two epochs of 18,000 tokens.
    #[test]
    fn training_takes_its_tokens() {
        assert_eq!(train_seconds(&config(), &LENGTHS, &SPEEDS), 36.0);
    }

    /// 18,000 tokens are 9 micro-batches of 2,000, so 5 steps of 2 an epoch.
    #[test]
    fn steps_of_micro_batches_take_theirs() {
        let mut config = config();
        config.train.batch_size = None;
        config.train.grad_accum_steps = Some(2);
        config.train.tokens_per_micro_batch = 2000;
        config.train.max_steps = Some(10);
        assert_eq!(train_seconds(&config, &LENGTHS, &SPEEDS), 36.0);
    }

    /// 50 questions of 150 tokens, 50 answers of 20.
    #[test]
    fn answering_takes_reading_and_writing() {
        let mut config = config();
        assert_eq!(answer_seconds(&config, &LENGTHS, &SPEEDS, 20.0), 5.0 + 10.0);
        config.eval.limit = Some(10);
        assert_eq!(answer_seconds(&config, &LENGTHS, &SPEEDS, 20.0), 1.0 + 2.0);
        assert_eq!(cache_bytes(&config, &LENGTHS, &SPEEDS), 10 * 400 * 3);
    }

    #[test]
    fn only_an_untrained_model_without_a_stop_rambles() {
        let mut config = config();
        let tuned = Cell::tuned(Task::Sql, Prompts::ZeroShot, 1);
        let untrained = Cell::untrained(Task::Sql, Prompts::ZeroShot, 1);
        assert_eq!(answer_tokens(&untrained, &config, &LENGTHS), 20.0);
        config.task = rag_tune_augment::TaskName::new("gsm8k");
        assert_eq!(answer_tokens(&tuned, &config, &LENGTHS), 20.0);
        assert_eq!(answer_tokens(&untrained, &config, &LENGTHS), 100.0);
    }
}
