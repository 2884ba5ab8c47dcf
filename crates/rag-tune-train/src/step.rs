//! One optimizer step: passes over its micro-batches, clipping, the update.

use std::time::Instant;

use rag_tune_model::llama::{Keep, PassOptions};
use rag_tune_model::lora::{Adapter, AdapterGradient, LoraDropout};

use crate::batch::MicroBatch;
use crate::error::TrainError;
use crate::memory::MemoryPlan;
use crate::metrics::StepRecord;
use crate::optimizer::{Optimizer, clip_factor};
use crate::schedule::LearningRate;
use crate::trainer::TrainRequest;

/// A run's state from step to step.
pub(crate) struct Run<'a> {
    request: &'a TrainRequest<'a>,
    pub(crate) adapter: Adapter,
    gradient: AdapterGradient,
    pub(crate) optimizer: Optimizer,
    learning_rate: LearningRate,
    keep: Keep,
}

impl<'a> Run<'a> {
    /// The start of a run of `total` steps.
    pub(crate) fn new(request: &'a TrainRequest<'a>, total: usize) -> Result<Self, TrainError> {
        let TrainRequest {
            model, lora, train, ..
        } = request;
        let adapter = model.fresh_adapter(lora.settings(), request.seed)?;
        Ok(Self {
            request,
            gradient: adapter.zero_gradient(),
            optimizer: Optimizer::new(train, lora, &adapter),
            learning_rate: LearningRate::new(train, total),
            keep: MemoryPlan::new(model, train, train.tokens_per_micro_batch).keep,
            adapter,
        })
    }

    /// One optimizer step; `step` counts from 1.
    pub(crate) fn step(&mut self, step: usize) -> Result<StepRecord, TrainError> {
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
            factors.tensors().any(|(_, tensor)| !tensor.is_finite())
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
