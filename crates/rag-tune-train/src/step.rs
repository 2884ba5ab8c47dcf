//! One optimizer step: passes over its micro-batches, clipping, the update.

use std::time::Instant;

use rag_tune_kernels::Tensor;
use rag_tune_kernels::peak::peak_op_per_s;
use rag_tune_model::flop::training_flop;
use rag_tune_model::llama::{Keep, PassOptions};
use rag_tune_model::lora::{Adapter, AdapterGradient, LoraDropout};

use crate::error::TrainError;
use crate::memory::{MemoryPlan, available_bytes, peak_rss_bytes, room};
use crate::metrics::StepRecord;
use crate::optimizer::{Optimizer, clip_factor};
use crate::schedule::LearningRate;
use crate::skipped::{Quantity, SkippedStep};
use crate::trainer::TrainRequest;
use crate::work::Work;

/// How a step ended.
pub(crate) enum Outcome {
    /// The adapter has learnt.
    Done(StepRecord),
    /// Nothing has changed.
    Skipped(SkippedStep),
}

/// A run's state from step to step.
pub(crate) struct Run<'a> {
    request: &'a TrainRequest<'a>,
    pub(crate) adapter: Adapter,
    gradient: AdapterGradient,
    pub(crate) optimizer: Optimizer,
    learning_rate: LearningRate,
    keep: Keep,
    /// What a step's speed is a share of.
    peak_op_per_s: f64,
}

impl<'a> Run<'a> {
    /// The start of a run of `total` steps.
    pub(crate) fn new(request: &'a TrainRequest<'a>, total: usize) -> Result<Self, TrainError> {
        let TrainRequest {
            model, lora, train, ..
        } = request;
        let adapter = model.fresh_adapter(lora.settings(), request.seed)?;
        let largest = Work::count(request.set)?.largest;
        // The weights are there already.
        let free = available_bytes().map_or(usize::MAX, |free| room(free) + model.weight_bytes());
        let footprint = model.footprint(lora.settings(), lora.dropout);
        Ok(Self {
            request,
            gradient: adapter.zero_gradient(),
            optimizer: Optimizer::new(train, lora, &adapter),
            learning_rate: LearningRate::new(train, total),
            keep: MemoryPlan::new(&footprint, train, largest, free).keep,
            peak_op_per_s: peak_op_per_s(model.compute()),
            adapter,
        })
    }

    /// One optimizer step; `step` counts from 1, and `updates` were made before.
    pub(crate) fn step(&mut self, step: usize, updates: usize) -> Result<Outcome, TrainError> {
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
        let lr = self.learning_rate.at(step);
        let (mut loss, mut flop) = (0.0, 0.0);
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
            if let Some(what) = self.not_finite(sum) {
                let mut skipped = SkippedStep {
                    step,
                    what,
                    micro_batch: index,
                    pass: None,
                    layer: None,
                    operation: None,
                    rows: Vec::new(),
                    max_activations: Vec::new(),
                    max_gradients: Vec::new(),
                    lr,
                };
                let found = request
                    .model
                    .find_non_finite(&self.adapter, &micro.batch, &options)?;
                skipped.locate(found, &micro.rows);
                return Ok(Outcome::Skipped(skipped));
            }
            loss += sum;
            flop += training_flop(
                request.model.config(),
                self.adapter.parameters(),
                &micro.batch,
                self.keep,
            );
        }
        let grad_norm = self.gradient.norm();
        let factor = clip_factor(grad_norm, request.train.max_grad_norm);
        // AdamW corrects its moments' bias by the number of updates that they have had.
        self.optimizer
            .update(updates + 1, lr, factor, &self.gradient, &mut self.adapter)?;
        let seconds = start.elapsed().as_secs_f64();
        // Measured beside other programs, it may be too low.
        self.peak_op_per_s = self.peak_op_per_s.max(flop / seconds);
        Ok(Outcome::Done(StepRecord {
            step,
            epoch: request.set.epoch(step),
            loss: loss / supervised_tokens as f64,
            grad_norm,
            lr,
            tokens,
            supervised_tokens,
            seconds,
            tokens_per_s: tokens as f64 / seconds,
            supervised_tokens_per_s: supervised_tokens as f64 / seconds,
            micro_batches: micro_batches.len(),
            peak_share: flop / seconds / self.peak_op_per_s,
            peak_rss_bytes: peak_rss_bytes(),
        }))
    }

    /// What is not finite after a micro-batch of this loss. The gradient's sum so far would stay so.
    fn not_finite(&self, loss: f64) -> Option<Quantity> {
        if !loss.is_finite() {
            return Some(Quantity::Loss);
        }
        let is_finite = self.gradient.tensors().all(Tensor::is_finite);
        (!is_finite).then_some(Quantity::Gradient)
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
}
