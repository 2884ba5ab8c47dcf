//! What a training run will take: memory by counting, time from measured speeds, neither with the weights in memory.

use std::fmt;

use rag_tune_kernels::cuda::{Device, DeviceError};
use rag_tune_model::config::{Compute, ModelConfig};
use rag_tune_model::llama::Keep;
use rag_tune_model::memory::{BatchSize, Footprint};
use rag_tune_train::batch::TrainSet;
use rag_tune_train::config::{StepSize, TrainConfig};
use rag_tune_train::memory::{self, MemoryPlan};
use rag_tune_train::work::Work;
use serde::Serialize;

use crate::base_model::FoundModel;
use crate::config::RunConfig;
use crate::output::Output;
use crate::probe::{Measure, Timed};

/// Predicted memory and time of a run. Time is that of the steps: loading, validation and checkpoints come on top.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forecast {
    /// The GPU that memory and time are of, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// All of the process, or of what it has on the GPU, at its widest point.
    pub peak_bytes: usize,
    /// Memory that is free now, where the system tells.
    pub available_bytes: Option<usize>,
    /// The program, the tokenizer, the rows; nothing on a GPU.
    pub process_bytes: usize,
    /// The rest.
    pub memory: MemoryPlan,
    /// Rows trained on.
    pub rows: usize,
    /// Rows left out as too long.
    pub rows_left_out: usize,
    /// What the run goes through.
    pub work: Work,
    /// Of all steps.
    pub seconds: f64,
    /// Real tokens, forward and backward.
    pub tokens_per_s: f64,
    /// What the peak would be with other settings.
    pub alternatives: Vec<Alternative>,
}

/// Another setting, with which the same is learnt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alternative {
    /// As `--set` takes it.
    pub set: String,
    /// The run's peak with it.
    pub peak_bytes: usize,
}

impl Forecast {
    /// Counts the memory; times passes over noise in the model's shape.
    ///
    /// The process's own memory counts as it is now: what training does not hold must be dropped before.
    ///
    /// # Errors
    /// When the rows do not fit the model, or this machine cannot do the wanted compute.
    pub fn measure(
        found: &FoundModel,
        set: &TrainSet,
        config: &RunConfig,
        measure: Measure,
        out: &Output,
    ) -> anyhow::Result<Self> {
        let device = wanted_device(&config.model, out)?;
        let (process_bytes, available_bytes) = match &device {
            None => (
                memory::resident_bytes().unwrap_or(0),
                memory::available_bytes(),
            ),
            Some(device) => (0, Some(device.memory()?.free_bytes)),
        };
        let planned;
        let config = match device {
            None => config,
            // As `Llama::into_device` computes.
            Some(_) => {
                let mut there = config.clone();
                there.model.compute = Compute::Bf16;
                planned = there;
                &planned
            }
        };
        let summary = set.summary();
        let shape = found.checkpoint.config();
        let work = Work::count(set)?;
        let counter = Counter {
            found,
            config,
            room: available_bytes.map_or(usize::MAX, memory::room),
        };
        let memory = counter.plan(&config.model, &config.train, work.largest);
        let speeds = Timed {
            shape,
            config,
            device: device.as_ref(),
            keep: memory.keep,
        }
        .speeds(set, measure, out)?;
        let seconds = speeds.seconds(shape.num_hidden_layers, &work);
        let mut alternatives = counter.alternatives(memory.keep, work.largest)?;
        alternatives
            .iter_mut()
            .for_each(|alternative| alternative.peak_bytes += process_bytes);
        Ok(Self {
            device: device.map(|device| device.name()),
            peak_bytes: process_bytes + memory.peak_bytes(),
            available_bytes,
            process_bytes,
            memory,
            rows: summary.rows,
            rows_left_out: summary.rows_given - summary.rows,
            work,
            seconds,
            tokens_per_s: work.tokens as f64 / seconds,
            alternatives,
        })
    }

    /// Whether the run needs more than is free.
    fn is_too_large(&self) -> bool {
        self.available_bytes
            .is_some_and(|available| self.peak_bytes - self.process_bytes > available)
    }

    /// What to change where the run does not fit into the memory that is free.
    pub fn warning(&self) -> Option<String> {
        if !self.is_too_large() {
            return None;
        }
        let available = self.available_bytes? + self.process_bytes;
        let mut text = format!(
            "warning: the run needs {}, and {} are free",
            gib(self.peak_bytes),
            gib(available)
        );
        let smaller = self.alternatives.iter();
        for Alternative { set, peak_bytes } in
            smaller.filter(|other| other.peak_bytes < self.peak_bytes)
        {
            text += &format!("\nhint: `--set {set}` would need {}", gib(*peak_bytes));
        }
        Some(text)
    }
}

/// The GPU that the run will be on, if one is here; for another one neither memory nor time can be told.
fn wanted_device(config: &ModelConfig, out: &Output) -> anyhow::Result<Option<Device>> {
    match config.gpu() {
        Ok(device) => Ok(device),
        Err(error @ DeviceError::Missing(_)) => {
            out.note(&format!("{error}: planned for the CPU"));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Counts the memory of variants of a run.
struct Counter<'a> {
    found: &'a FoundModel,
    config: &'a RunConfig,
    room: usize,
}

impl Counter<'_> {
    fn plan(&self, model: &ModelConfig, train: &TrainConfig, largest: BatchSize) -> MemoryPlan {
        let lora = &self.config.lora;
        let shape = self.found.checkpoint.config();
        let footprint = Footprint::new(shape, model, lora.settings(), lora.dropout);
        MemoryPlan::new(&footprint, train, largest, self.room)
    }

    /// The other policies, and a smaller micro-batch.
    fn alternatives(&self, keep: Keep, largest: BatchSize) -> anyhow::Result<Vec<Alternative>> {
        let RunConfig { model, train, .. } = self.config;
        let mut alternatives = Vec::new();
        for other in [Keep::All, Keep::Selective, Keep::BlockInput] {
            if other == keep {
                continue;
            }
            let with_other = TrainConfig {
                activations: memory::setting(other),
                ..train.clone()
            };
            alternatives.push(Alternative {
                set: format!("train.activations={}", memory::name(other)),
                peak_bytes: self.plan(model, &with_other, largest).peak_bytes(),
            });
        }
        // A row is never split.
        let tokens = (train.tokens_per_micro_batch / 2).max(train.max_length);
        let same_steps = matches!(train.step_size(), StepSize::Rows(_));
        if same_steps && tokens < largest.tokens {
            let smaller = BatchSize {
                tokens,
                supervised_tokens: largest.supervised_tokens.min(tokens),
                ..largest
            };
            alternatives.push(Alternative {
                set: format!("train.tokens_per_micro_batch={tokens}"),
                peak_bytes: self.plan(model, train, smaller).peak_bytes(),
            });
        }
        Ok(alternatives)
    }
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = &self.memory;
        let free = self
            .available_bytes
            .map(|available| format!(", {} are free", gib(available + self.process_bytes)));
        let mut line = |what: &str, value: String| writeln!(f, "{what:<42}{value}");
        if let Some(device) = &self.device {
            line("device", device.clone())?;
        }
        line(
            "peak memory",
            gib(self.peak_bytes) + &free.unwrap_or_default(),
        )?;
        if self.device.is_none() {
            line("  program and rows", gib(self.process_bytes))?;
        }
        line("  weights", gib(memory.weight_bytes))?;
        line(
            &format!("  activations ({})", memory::name(memory.keep)),
            gib(memory.activation_bytes),
        )?;
        let temporary = match memory.block_bytes > memory.loss_bytes {
            true => ("  temporary (a block)", memory.block_bytes),
            false => ("  temporary (the logits)", memory.loss_bytes),
        };
        line(temporary.0, gib(temporary.1))?;
        line(
            "  adapter and gradient",
            gib(memory.adapter_bytes + memory.gradient_bytes),
        )?;
        line("  optimizer", gib(memory.optimizer_bytes))?;
        line("  checkpoint", gib(memory.checkpoint_bytes))?;
        for Alternative { set, peak_bytes } in &self.alternatives {
            line(&format!("with {set}"), gib(*peak_bytes))?;
        }
        let work = &self.work;
        line(
            "rows",
            format!(
                "{} ({} left out as too long)",
                self.rows, self.rows_left_out
            ),
        )?;
        line(
            "tokens",
            format!("{} ({} carry loss)", work.tokens, work.supervised_tokens),
        )?;
        line(
            "steps",
            format!("{} ({} micro-batches)", work.steps, work.micro_batches),
        )?;
        line(
            "time of the steps",
            format!(
                "{} ({:.0} tokens/s)",
                duration(self.seconds),
                self.tokens_per_s
            ),
        )
    }
}

/// Bytes as people read them.
pub fn gib(bytes: usize) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}

/// Seconds in a fitting unit.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 90.0 * 60.0 => format!("{:.0} min", s / 60.0),
        s if s < 48.0 * 3600.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_fitting_unit() {
        assert_eq!(
            [20.0, 600.0, 7200.0, 864_000.0].map(duration),
            ["20 s", "10 min", "2.0 h", "10.0 days"]
        );
    }
}
