//! How long the rows of a task are, by tokenising some of them.
//!
//! How long prompts get depends on how many examples they have and hardly on which, so the sampled prompts have random
//! ones: nothing needs to be embedded to predict what a cell takes.

use std::time::Instant;

use anyhow::Context;
use rag_tune_augment::{AugmentedRow, Hub, Manifest, RetrievalConfig, Selector};
use rag_tune_model::tokenizer::Tokenizer;
use rag_tune_train::config::{TrainConfig, Truncation};
use serde::{Deserialize, Serialize};

use crate::augmentation::Augmentation;
use crate::config::RunConfig;
use crate::encoding::{encode, question};

/// Rows of each split that are tokenised, evenly spread over it.
const SAMPLED: usize = 256;

/// Rows and tokens of a task with some number of examples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Lengths {
    /// Rows of the training split.
    pub train_rows: usize,
    /// Share of them that is not left out as longer than `train.max_length`.
    pub kept: f64,
    /// Mean tokens of those, the end of sequence included.
    pub train_tokens: f64,
    /// Rows of the eval split.
    pub eval_rows: usize,
    /// Mean tokens of a question.
    pub prompt_tokens: f64,
    /// Most tokens of a sampled question.
    pub longest_prompt: usize,
    /// Mean tokens of a gold answer.
    pub answer_tokens: f64,
    /// Seconds that reading, rendering and writing all rows took.
    pub render_s: f64,
}

/// Sampled rows, and what they say about all.
#[derive(Debug)]
pub struct Sample {
    /// What they say.
    pub lengths: Lengths,
    /// Some rows of the training split.
    pub train: Vec<AugmentedRow>,
}

impl Sample {
    /// Makes prompts with as many random examples as `config` has chosen ones, and tokenises some of them.
    ///
    /// # Errors
    /// When the data cannot be found, read or tokenised.
    pub fn take(config: &RunConfig, tokenizer: &Tokenizer, hub: &Hub) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let config = RunConfig {
            retrieval: RetrievalConfig {
                selector: Selector::Random,
                ..config.retrieval.clone()
            },
            ..config.clone()
        };
        let (task, splits) = (config.task.load()?, config.splits());
        let augmentation = Augmentation {
            config: &config,
            task: &task,
            splits: &splits,
            folder: folder.path(),
        };
        let start = Instant::now();
        let request = augmentation.request(1);
        let made = rag_tune_augment::augment(&request, hub, &());
        let manifest = made.context("cannot augment the data")?.manifest;
        let render_s = start.elapsed().as_secs_f64();
        let rows = |split: &str| sampled(&augmentation, &manifest, split);
        let train = rows(&config.data.train_split)?;
        let eval = rows(&config.eval.split)?;
        let counted = |split: &str| manifest.splits[split].rows;
        let eval_rows = counted(&config.eval.split);
        let mut lengths = measure(&train, &eval, tokenizer, &config.train)?;
        lengths.train_rows = counted(&config.data.train_split);
        lengths.eval_rows = eval_rows;
        lengths.render_s = render_s;
        Ok(Self { lengths, train })
    }
}

fn sampled(
    augmentation: &Augmentation<'_>,
    manifest: &Manifest,
    split: &str,
) -> anyhow::Result<Vec<AugmentedRow>> {
    let every = manifest.splits[split].rows.div_ceil(SAMPLED).max(1);
    let rows = rag_tune_augment::read_augmented(&augmentation.file(split))?;
    Ok(rows.into_iter().step_by(every).collect())
}

fn measure(
    train: &[AugmentedRow],
    eval: &[AugmentedRow],
    tokenizer: &Tokenizer,
    config: &TrainConfig,
) -> anyhow::Result<Lengths> {
    let mut kept = Vec::new();
    let mut answers = Vec::new();
    for row in train {
        let encoded = encode(row, tokenizer)?;
        let with_end = encoded.ids.len() + 1;
        answers.push(with_end - encoded.prompt_len.min(with_end));
        if with_end <= config.max_length || config.truncation == Truncation::Left {
            kept.push(with_end.min(config.max_length));
        }
    }
    let prompts = eval
        .iter()
        .map(|row| Ok(tokenizer.encode(&question(row))?.len()))
        .collect::<anyhow::Result<Vec<usize>>>()?;
    Ok(Lengths {
        train_rows: 0,
        kept: kept.len() as f64 / train.len().max(1) as f64,
        train_tokens: mean(&kept),
        eval_rows: 0,
        prompt_tokens: mean(&prompts),
        longest_prompt: prompts.iter().copied().max().unwrap_or(0),
        answer_tokens: mean(&answers),
        render_s: 0.0,
    })
}

fn mean(values: &[usize]) -> f64 {
    values.iter().sum::<usize>() as f64 / values.len().max(1) as f64
}
