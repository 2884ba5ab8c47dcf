//! The training loop.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rag_tune_augment::atomic_file::write_file;
use rag_tune_model::llama::{Keep, Llama, PassOptions};
use rag_tune_model::lora::{Adapter, AdapterGradient, LoraDropout};
use rag_tune_model::peft;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::batch::{MicroBatch, TrainSet};
use crate::checkpoint::Checkpoints;
use crate::config::{LoraConfig, TrainConfig};
use crate::error::TrainError;
use crate::memory::MemoryPlan;
use crate::optimizer::{Optimizer, clip_factor};
use crate::schedule::LearningRate;

/// Everything a run is given.
pub struct TrainRequest<'a> {
    /// The frozen base model.
    pub model: &'a Llama,
    /// Its name, for `adapter_config.json`.
    pub base: &'a str,
    /// The rows.
    pub set: &'a TrainSet,
    /// `[lora]`
    pub lora: &'a LoraConfig,
    /// `[train]`
    pub train: &'a TrainConfig,
    /// Fixes the adapter's start, the order of the rows and the dropout.
    pub seed: u64,
    /// The run's folder.
    pub out: &'a Path,
    /// Whether to continue from the folder's last checkpoint.
    pub start: Start,
}

/// Where a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At step 1.
    Afresh,
    /// After the last checkpoint.
    Resume,
}

/// One line of `metrics.jsonl`: an optimizer step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Counts from 1.
    pub step: usize,
    /// Passes over the rows at the end of the step.
    pub epoch: f64,
    /// Nats per supervised token.
    pub loss: f64,
    /// Euclidean norm of the gradient, before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f32,
    /// Tokens of the step; there is no padding.
    pub tokens: usize,
    /// Tokens of the step that carry loss.
    pub supervised_tokens: usize,
    /// Duration of the step.
    pub seconds: f64,
    /// `tokens / seconds`.
    pub tokens_per_s: f64,
}

/// What a finished run leaves.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainSummary {
    /// Steps of the run, those before a resume included.
    pub steps: usize,
    /// The last step's record; `None` where a resumed run was already complete.
    pub last: Option<StepRecord>,
    /// The adapter's weights.
    pub adapter: PathBuf,
}

/// File with a line a step.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// Trains an adapter into `request.out`. `observe` sees every step as it ends.
///
/// # Errors
/// [`TrainError`] if a file cannot be written, a checkpoint does not belong to the run, or loss or
/// gradient are not finite; the last checkpoint stays.
pub fn train(
    request: &TrainRequest<'_>,
    observe: &mut dyn FnMut(&StepRecord),
) -> Result<TrainSummary, TrainError> {
    let total = request.train.total_steps(request.set.rows());
    let mut run = Run::new(request, total)?;
    let first = match request.start {
        Start::Afresh => 1,
        Start::Resume => {
            1 + run
                .checkpoints
                .restore(&mut run.adapter, &mut run.optimizer)?
        }
    };
    let metrics = request.out.join(METRICS_FILE);
    keep_metrics_before(&metrics, first)?;
    let mut last = None;
    for step in first..=total {
        let record = run.step(step)?;
        append_line(&metrics, &record)?;
        observe(&record);
        last = Some(record);
        if step % request.train.checkpoint_every == 0 || step == total {
            run.checkpoints.save(step, &run.adapter, &run.optimizer)?;
        }
    }
    let adapter = request.out.join(peft::WEIGHTS_FILE);
    let config = peft::config_text(&run.adapter, request.base, request.lora.dropout)?;
    let config_path = request.out.join(peft::CONFIG_FILE);
    write_file(&config_path, config.as_bytes()).map_err(TrainError::write(&config_path))?;
    // Last: a folder with this file holds a finished run.
    let weights = peft::weights_bytes(&run.adapter)?;
    write_file(&adapter, &weights).map_err(TrainError::write(&adapter))?;
    Ok(TrainSummary {
        steps: total,
        last,
        adapter,
    })
}

/// A run's state from step to step.
struct Run<'a> {
    request: &'a TrainRequest<'a>,
    adapter: Adapter,
    gradient: AdapterGradient,
    optimizer: Optimizer,
    learning_rate: LearningRate,
    checkpoints: Checkpoints,
    keep: Keep,
}

impl<'a> Run<'a> {
    fn new(request: &'a TrainRequest<'a>, total: usize) -> Result<Self, TrainError> {
        let TrainRequest {
            model, lora, train, ..
        } = request;
        let targets = lora.target_modules.iter().copied();
        let adapter = Adapter::new(model.config(), lora.rank, lora.alpha, targets, request.seed);
        let fingerprint = fingerprint(request);
        let base = request.base.to_owned();
        Ok(Self {
            request,
            gradient: adapter.zero_gradient(),
            optimizer: Optimizer::new(train, &adapter),
            learning_rate: LearningRate::new(train, total),
            checkpoints: Checkpoints::new(request.out, fingerprint, base, lora.dropout),
            keep: MemoryPlan::new(model, train, train.tokens_per_micro_batch).keep,
            adapter,
        })
    }

    fn step(&mut self, step: usize) -> Result<StepRecord, TrainError> {
        let start = Instant::now();
        let request = self.request;
        let micro_batches = request.set.micro_batches(step)?;
        let tokens: usize = micro_batches
            .iter()
            .map(|micro| micro.batch.ids.len())
            .sum();
        let supervised_tokens: usize = micro_batches
            .iter()
            .map(|micro| micro.batch.targets.len())
            .sum();
        self.gradient.clear();
        let mut loss = 0.0;
        for (index, micro) in micro_batches.iter().enumerate() {
            let options = PassOptions {
                keep: self.keep,
                dropout: self.dropout(step, index),
                // By supervised tokens of the step: a short micro-batch must not weigh as much as a long one.
                gradient_scale: 1.0 / supervised_tokens as f32,
            };
            let sum = request.model.forward_backward(
                &self.adapter,
                &micro.batch,
                &options,
                &mut self.gradient,
            )?;
            if !sum.is_finite() {
                return Err(self.non_finite("the loss", step, micro)?);
            }
            loss += sum;
        }
        let grad_norm = self.gradient.norm();
        if !grad_norm.is_finite() {
            return Err(self.non_finite_gradient(step, &micro_batches));
        }
        let lr = self.learning_rate.at(step);
        let factor = clip_factor(grad_norm, request.train.max_grad_norm);
        self.optimizer
            .update(step, lr, factor, &self.gradient, &mut self.adapter)?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(StepRecord {
            step,
            epoch: request.set.epoch(step),
            loss: loss / supervised_tokens as f64,
            grad_norm,
            lr,
            tokens,
            supervised_tokens,
            seconds,
            tokens_per_s: tokens as f64 / seconds,
        })
    }

    fn dropout(&self, step: usize, micro_batch: usize) -> Option<LoraDropout> {
        let probability = self.request.lora.dropout;
        let (seed, step, micro_batch) = (self.request.seed, step as u64, micro_batch as u64);
        (probability > 0.0).then_some(LoraDropout {
            probability,
            seed,
            step,
            micro_batch,
        })
    }

    /// Says where the numbers ended, by running the micro-batch once more.
    fn non_finite(
        &self,
        what: &'static str,
        step: usize,
        micro: &MicroBatch,
    ) -> Result<TrainError, TrainError> {
        let found = self
            .request
            .model
            .find_non_finite(&self.adapter, &micro.batch)?;
        let place = match found.layer {
            Some(layer) => format!("first in the output of layer {layer}"),
            None => "first in the logits".to_owned(),
        };
        let rows = found
            .sequences
            .iter()
            .map(|sequence| micro.rows[*sequence])
            .collect();
        Ok(TrainError::NonFinite {
            what,
            step,
            place,
            rows,
        })
    }

    fn non_finite_gradient(&self, step: usize, micro_batches: &[MicroBatch]) -> TrainError {
        // The backward pass runs from the last layer to the first: the last one affected began it.
        let affected = |factors: &rag_tune_model::lora::LoraFactors| {
            !(factors.a.is_finite() && factors.b.is_finite())
        };
        let place = self
            .gradient
            .layers
            .iter()
            .rev()
            .find(|(_, factors)| affected(factors));
        let place = place.map_or_else(String::new, |((layer, projection), _)| {
            format!("first in {projection} of layer {layer}")
        });
        let rows = micro_batches
            .iter()
            .flat_map(|micro| micro.rows.iter().copied())
            .collect();
        TrainError::NonFinite {
            what: "the gradient",
            step,
            place,
            rows,
        }
    }
}

/// Identity of a run: base model, rows and every setting that its result depends on.
fn fingerprint(request: &TrainRequest<'_>) -> String {
    let mut hash = Sha256::new();
    let train = TrainConfig {
        checkpoint_every: 1,
        ..request.train.clone()
    };
    let settings = serde_json::json!([request.lora, train, request.seed]);
    hash.update(request.model.fingerprint());
    hash.update(settings.to_string());
    hash.update(format!("{:?}", request.model.compute()));
    request.set.hash_into(&mut |bytes| hash.update(bytes));
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Drops the lines of steps that a resumed run does again.
fn keep_metrics_before(path: &Path, first: usize) -> Result<(), TrainError> {
    let mut kept = String::new();
    if first > 1 && path.exists() {
        let text = fs::read_to_string(path).map_err(TrainError::read(path))?;
        let lines = text.lines().filter(|line| {
            serde_json::from_str::<StepRecord>(line).is_ok_and(|record| record.step < first)
        });
        lines.for_each(|line| kept.extend([line, "\n"]));
    }
    write_file(path, kept.as_bytes()).map_err(TrainError::write(path))
}

fn append_line(path: &Path, record: &StepRecord) -> Result<(), TrainError> {
    let line = serde_json::to_string(record).expect("numbers are JSON") + "\n";
    let mut file = OpenOptions::new()
        .append(true)
        .open(path)
        .map_err(TrainError::write(path))?;
    file.write_all(line.as_bytes())
        .map_err(TrainError::write(path))
}
