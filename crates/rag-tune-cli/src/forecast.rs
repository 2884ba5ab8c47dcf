//! What a training run will take: memory by counting, time by timing one small pass.

use std::fmt;
use std::time::{Duration, Instant};

use rag_tune_kernels::Sequences;
use rag_tune_model::llama::{Llama, PassOptions, TrainBatch};
use rag_tune_model::lora::{Adapter, LoraFactors};
use rag_tune_train::batch::TrainSet;
use rag_tune_train::config::OptimizerKind;
use rag_tune_train::memory::MemoryPlan;

use crate::config::RunConfig;
use crate::output::Output;

/// Adapter, gradient, and the optimizer's two moments.
fn adapter_bytes(optimizer: OptimizerKind, adapter: &Adapter) -> usize {
    let tensors = adapter.layers.values().flat_map(LoraFactors::tensors);
    let lengths = tensors.map(|(_, tensor)| tensor.data().len());
    lengths
        .map(|values| 2 * 4 * values + optimizer.state_bytes(values))
        .sum()
}

/// Tokens of the timed pass: enough that the matrix products work as in a full one.
const TIMED_TOKENS: usize = 512;
/// A pass shorter than this is timed again, since the first one also pays for fresh memory.
const SHORT: Duration = Duration::from_secs(5);

/// Predicted memory and time of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    memory: MemoryPlan,
    /// Adapter, gradient, and the optimizer's two moments.
    adapter_bytes: usize,
    steps: usize,
    /// Tokens of all steps.
    tokens: f64,
    tokens_per_s: f64,
}

impl Forecast {
    /// Counts the memory and times a pass over some of the rows.
    ///
    /// # Errors
    /// When the rows do not fit the model.
    pub fn measure(
        model: &Llama,
        set: &TrainSet,
        config: &RunConfig,
        out: &Output,
    ) -> anyhow::Result<Self> {
        let (lora, train) = (&config.lora, &config.train);
        let adapter = model.fresh_adapter(lora.settings(), config.seed)?;
        let memory = MemoryPlan::new(model, train, train.tokens_per_micro_batch);
        let steps = set.total_steps();
        let progress = out.progress();
        progress.start("timing a pass", 1);
        let tokens_per_s = tokens_per_s(model, &adapter, set, &memory);
        progress.finish();
        Ok(Self {
            memory,
            adapter_bytes: adapter_bytes(train.optimizer, &adapter),
            steps,
            tokens: set.tokens() as f64 * set.epoch(steps),
            tokens_per_s: tokens_per_s?,
        })
    }
}

fn tokens_per_s(
    model: &Llama,
    adapter: &Adapter,
    set: &TrainSet,
    memory: &MemoryPlan,
) -> anyhow::Result<f64> {
    let batch = small_batch(set)?;
    let options = PassOptions {
        keep: memory.keep,
        dropout: None,
        gradient_scale: 1.0 / batch.targets.len() as f32,
    };
    let mut gradient = adapter.zero_gradient();
    let mut pass = || -> anyhow::Result<Duration> {
        let start = Instant::now();
        model.forward_backward(adapter, &batch, &options, &mut gradient)?;
        Ok(start.elapsed())
    };
    let first = pass()?;
    let time = if first < SHORT { pass()? } else { first };
    Ok(batch.ids.len() as f64 / time.as_secs_f64())
}

/// Rows of the first step, as many as the timed pass needs.
fn small_batch(set: &TrainSet) -> anyhow::Result<TrainBatch> {
    let micro_batches = set.micro_batches(1)?;
    let batch = &micro_batches[0].batch;
    let mut lengths = Vec::new();
    let mut end = 0;
    for range in batch
        .sequences
        .ranges()
        .take_while(|range| range.start < TIMED_TOKENS)
    {
        end = range.end;
        lengths.push(range.len());
    }
    let targets = batch
        .targets
        .iter()
        .copied()
        .filter(|(position, _)| *position < end);
    Ok(TrainBatch {
        ids: batch.ids[..end].to_vec(),
        sequences: Sequences::from_lengths(&lengths)?,
        targets: targets.collect(),
    })
}

impl Forecast {
    /// Memory of the whole run.
    pub fn total_bytes(&self) -> usize {
        self.memory.total_bytes() + self.adapter_bytes
    }

    /// Tokens that are learnt from in a second, forward and backward.
    pub fn tokens_per_s(&self) -> f64 {
        self.tokens_per_s
    }
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = &self.memory;
        writeln!(f, "\npredicted memory  {}", gib(self.total_bytes()))?;
        writeln!(f, "  weights         {}", gib(memory.weight_bytes))?;
        writeln!(f, "  activations     {}", gib(memory.activation_bytes))?;
        writeln!(f, "  temporary       {}", gib(memory.transient_bytes))?;
        writeln!(f, "  adapter         {}", gib(self.adapter_bytes))?;
        let time = duration(self.tokens / self.tokens_per_s);
        writeln!(
            f,
            "predicted time    {time}: {} steps, {:.0} tokens at {:.0} tokens/s",
            self.steps, self.tokens, self.tokens_per_s
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
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_fitting_unit() {
        assert_eq!(
            [20.0, 600.0, 7200.0].map(duration),
            ["20 s", "10 min", "2.0 h"]
        );
    }
}
