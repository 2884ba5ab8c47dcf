//! How fast this machine, or a GPU of it, trains a model, measured without the model: blocks and head of its shape, filled with noise.
//!
//! A micro-batch takes `fixed + slope * size` in each block (size: tokens) and around them (size: tokens that carry
//! loss). Both lines go through two measured points: one of the run's own micro-batches, and every fourth of its rows.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use rag_tune_kernels::cuda::Device;
use rag_tune_kernels::{Sequences, processor};
use rag_tune_model::config::LlamaConfig;
use rag_tune_model::llama::{Keep, Llama, PassOptions, TrainBatch};
use rag_tune_model::lora::{Adapter, LoraDropout};
use rag_tune_model::memory::BatchSize;
use rag_tune_train::batch::TrainSet;
use rag_tune_train::optimizer::Optimizer;
use rag_tune_train::work::Work;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::augmentation::cache_folder;
use crate::config::RunConfig;
use crate::files::write_atomically;
use crate::output::Output;

/// Blocks of the timed model: more than one, so that activations have to wait for the backward pass.
const BLOCKS: usize = 2;
/// Tokens of the timed micro-batch at most, for models that take minutes for a full one.
const MOST_TOKENS: usize = 2048;
/// The smaller micro-batch has one in so many rows of the larger one.
const PART: usize = 4;
/// A pass shorter than this is timed again, since the first one also pays for fresh memory.
const SHORT: Duration = Duration::from_secs(5);
/// Passes that are timed where they are short; the median counts.
const PASSES: usize = 5;
/// The file of measured speeds in the cache folder.
const FILE: &str = "training_speeds.json";

/// Whether speeds may come from an earlier measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Only what was not measured before.
    Once,
    /// Again.
    Afresh,
}

/// Time as a function of a size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Line {
    fixed_s: f64,
    slope_s: f64,
}

impl Line {
    /// Through two points `(size, seconds)`; through zero and the larger one where they are too close for a line.
    fn through(small: (usize, f64), large: (usize, f64)) -> Self {
        let proportional = Self {
            fixed_s: 0.0,
            slope_s: large.1 / large.0.max(1) as f64,
        };
        if small.0 * 2 > large.0 {
            return proportional;
        }
        let slope_s = (large.1 - small.1) / (large.0 - small.0) as f64;
        let fixed_s = large.1 - slope_s * large.0 as f64;
        // Less than nothing is noise.
        match fixed_s >= 0.0 && slope_s >= 0.0 {
            true => Self { fixed_s, slope_s },
            false => proportional,
        }
    }

    fn seconds(&self, times: usize, size: usize) -> f64 {
        self.fixed_s * times as f64 + self.slope_s * size as f64
    }
}

/// Speeds of training on this machine, with all of its threads.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TrainingSpeeds {
    /// Of one block, by tokens.
    block: Line,
    /// Of everything else in a pass, by tokens that carry loss.
    head: Line,
    /// Of the optimizer, for one block.
    update_s: f64,
}

impl TrainingSpeeds {
    /// The time of all steps.
    pub fn seconds(&self, layers: usize, work: &Work) -> f64 {
        let blocks = self.block.seconds(work.micro_batches, work.tokens);
        let head = self
            .head
            .seconds(work.micro_batches, work.supervised_tokens);
        blocks * layers as f64 + head + self.update_s * (layers * work.steps) as f64
    }
}

/// What tells a build of the program from another, whose kernels may be faster: the size of its file, and seconds from 1970 to
/// when it was written.
fn build() -> Option<(u64, u64)> {
    let file = std::fs::metadata(std::env::current_exe().ok()?).ok()?;
    let written = file.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((file.len(), written.as_secs()))
}

/// Lost measurements are made again.
fn read(file: &Path) -> BTreeMap<String, TrainingSpeeds> {
    let text = std::fs::read(file).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn sizes(batch: &TrainBatch) -> [usize; 3] {
    let size = BatchSize::of(batch);
    [size.tokens, size.supervised_tokens, size.longest_row]
}

/// What is timed.
pub struct Timed<'a> {
    /// Of the model.
    pub shape: &'a LlamaConfig,
    /// Of the run.
    pub config: &'a RunConfig,
    /// Where it will be; `None` is the CPU.
    pub device: Option<&'a Device>,
    /// What it keeps of each block.
    pub keep: Keep,
}

impl Timed<'_> {
    /// Measures the speeds, or remembers them.
    ///
    /// # Errors
    /// When a row does not fit the model, the device's memory is not enough, or the cache cannot be written.
    pub fn speeds(
        &self,
        set: &TrainSet,
        measure: Measure,
        out: &Output,
    ) -> anyhow::Result<TrainingSpeeds> {
        let Self {
            shape,
            config,
            keep,
            ..
        } = self;
        // A GPU takes no minutes for a full one, and is faster with it.
        let most_tokens = self.device.map_or(MOST_TOKENS, |_| usize::MAX);
        let large = representative(set, most_tokens)?;
        let small = every_fourth_row(&large)?;
        let key = json!([
            env!("CARGO_PKG_VERSION"),
            build(),
            processor::level()?.name(),
            self.device.map(Device::name),
            format!("{shape:?} {keep:?}"),
            config.model,
            config.lora,
            sizes(&large),
            sizes(&small),
            rayon::current_num_threads(),
        ])
        .to_string();
        let file = cache_folder().map(|folder| folder.join(FILE));
        let mut known = file.as_deref().map(read).unwrap_or_default();
        if let Some(speeds) = known.get(&key).filter(|_| measure == Measure::Once) {
            return Ok(*speeds);
        }
        let progress = out.progress();
        progress.start("timing passes", 2);
        let speeds = self.measure(&small, &large, || progress.advance(1));
        progress.finish();
        let speeds = speeds?;
        if let Some(file) = file {
            known.insert(key, speeds);
            write_atomically(&file, &(serde_json::to_string_pretty(&known)? + "\n"))?;
        }
        Ok(speeds)
    }

    fn measure(
        &self,
        small: &TrainBatch,
        large: &TrainBatch,
        mut advance: impl FnMut(),
    ) -> anyhow::Result<TrainingSpeeds> {
        let (head, _) = self.model(0)?;
        let head = [self.pass_s(&head, small)?, self.pass_s(&head, large)?];
        advance();
        let (model, adapter) = self.model(BLOCKS)?;
        let of_block = |seconds: f64, head: f64| (seconds - head).max(0.0) / BLOCKS as f64;
        let block = [
            of_block(self.pass_s(&model, small)?, head[0]),
            of_block(self.pass_s(&model, large)?, head[1]),
        ];
        advance();
        Ok(TrainingSpeeds {
            block: Line::through((small.ids.len(), block[0]), (large.ids.len(), block[1])),
            head: Line::through(
                (small.targets.len(), head[0]),
                (large.targets.len(), head[1]),
            ),
            update_s: self.update_s(adapter)? / BLOCKS as f64,
        })
    }

    fn model(&self, layers: usize) -> anyhow::Result<(Llama, Adapter)> {
        let shape = LlamaConfig {
            num_hidden_layers: layers,
            ..self.shape.clone()
        };
        let model = Llama::synthetic(&shape, &self.config.model)?;
        let model = match self.device {
            None => model,
            Some(device) => model.into_device(device)?,
        };
        let adapter = self.adapter(&model)?;
        Ok((model, adapter))
    }

    /// Where a run has it.
    fn adapter(&self, model: &Llama) -> anyhow::Result<Adapter> {
        let adapter = model.fresh_adapter(self.config.lora.settings(), self.config.seed)?;
        let is_there = self.config.train.optimizer.is_on_devices();
        match self.device.filter(|_| is_there) {
            None => Ok(adapter),
            Some(device) => Ok(adapter.to_device(device)?),
        }
    }

    /// Since `start`, with all that a device was asked for.
    fn elapsed(&self, start: Instant) -> anyhow::Result<Duration> {
        if let Some(device) = self.device {
            device.synchronize()?;
        }
        Ok(start.elapsed())
    }

    /// One pass, forward and backward.
    fn pass_s(&self, model: &Llama, batch: &TrainBatch) -> anyhow::Result<f64> {
        let adapter = self.adapter(model)?;
        let probability = self.config.lora.dropout;
        let options = PassOptions {
            keep: self.keep,
            dropout: (probability > 0.0).then_some(LoraDropout {
                probability,
                seed: 0,
                step: 1,
                micro_batch: 0,
            }),
            gradient_scale: 1.0 / batch.targets.len() as f32,
        };
        let mut gradient = adapter.zero_gradient_on(adapter.device())?;
        let mut pass = || -> anyhow::Result<Duration> {
            let start = Instant::now();
            model.forward_backward(&adapter, batch, &options, &mut gradient)?;
            self.elapsed(start)
        };
        let first = pass()?;
        if first >= SHORT {
            return Ok(first.as_secs_f64());
        }
        let times: Result<Vec<Duration>, _> = (0..PASSES).map(|_| pass()).collect();
        Ok(median(times?))
    }

    fn update_s(&self, mut adapter: Adapter) -> anyhow::Result<f64> {
        let mut gradient = adapter.zero_gradient_on(adapter.device())?;
        let mut optimizer = Optimizer::new(&self.config.train, &self.config.lora, &adapter)?;
        let mut times = Vec::new();
        for step in 1..=PASSES {
            let start = Instant::now();
            gradient.clear()?;
            optimizer.norm(&gradient, &mut adapter)?;
            optimizer.update(step, 1e-4, 1.0, &gradient, &mut adapter)?;
            times.push(self.elapsed(start)?);
        }
        Ok(median(times))
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

/// The fullest micro-batch of the first step, with as many rows as may be timed.
fn representative(set: &TrainSet, most_tokens: usize) -> anyhow::Result<TrainBatch> {
    let micro_batches = set.micro_batches(1)?;
    let fullest = micro_batches
        .into_iter()
        .max_by_key(|micro| micro.batch.ids.len());
    let batch = fullest.map(|micro| micro.batch);
    let batch = batch.expect("a step has a micro-batch, and a micro-batch a row");
    let mut tokens = 0;
    let rows = batch.sequences.ranges().take_while(|range| {
        let fits = tokens == 0 || tokens + range.len() <= most_tokens;
        tokens += range.len();
        fits
    });
    let rows: Vec<_> = rows.collect();
    Ok(some_rows(&batch, &rows)?)
}

fn every_fourth_row(batch: &TrainBatch) -> anyhow::Result<TrainBatch> {
    let rows: Vec<_> = batch.sequences.ranges().step_by(PART).collect();
    Ok(some_rows(batch, &rows)?)
}

/// A micro-batch of some rows of another one.
fn some_rows(
    batch: &TrainBatch,
    rows: &[std::ops::Range<usize>],
) -> Result<TrainBatch, rag_tune_kernels::KernelError> {
    let mut ids = Vec::new();
    let mut targets = Vec::new();
    for row in rows {
        let inside = batch.targets.iter().filter(|(at, _)| row.contains(at));
        targets.extend(inside.map(|(at, label)| (at - row.start + ids.len(), *label)));
        ids.extend_from_slice(&batch.ids[row.clone()]);
    }
    let lengths: Vec<usize> = rows.iter().map(ExactSizeIterator::len).collect();
    Ok(TrainBatch {
        ids,
        sequences: Sequences::from_lengths(&lengths)?,
        targets,
    })
}

#[cfg(test)]
mod tests {
    use rag_tune_train::config::OptimizerKind;

    use super::*;

    #[test]
    fn a_line_goes_through_both_points_unless_they_are_noise() {
        let line = Line::through((100, 2.0), (400, 5.0));
        assert_eq!((line.fixed_s, line.slope_s), (1.0, 0.01));
        assert_eq!(line.seconds(3, 700), 10.0);
        // Too close, and falling.
        assert_eq!(Line::through((300, 1.0), (400, 2.0)).fixed_s, 0.0);
        assert_eq!(Line::through((100, 3.0), (400, 2.0)).slope_s, 0.005);
    }

    /// With dropout, and with an optimizer that is the host's on a device.
    #[test]
    fn a_device_is_timed_as_it_trains() {
        let shape = LlamaConfig {
            hidden_size: 32,
            intermediate_size: 48,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 16,
            vocab_size: 40,
            ..LlamaConfig::known("smollm2-135m").unwrap()
        };
        let device = Device::emulated(0).unwrap();
        let large = TrainBatch {
            ids: (0..24).collect(),
            sequences: Sequences::from_lengths(&[6; 4]).unwrap(),
            targets: (0..24).step_by(3).map(|at| (at, 7)).collect(),
        };
        let small = every_fourth_row(&large).unwrap();
        let mut config = RunConfig::default();
        config.lora.dropout = 0.1;
        for optimizer in [OptimizerKind::AdamW, OptimizerKind::AdamW8bit] {
            config.train.optimizer = optimizer;
            let timed = Timed {
                shape: &shape,
                config: &config,
                device: Some(&device),
                keep: Keep::Selective,
            };
            let before = device.memory().unwrap().free_bytes;
            // Clones: a batch keeps what a device needs of it.
            let (small, large) = (small.clone(), large.clone());
            let speeds = timed.measure(&small, &large, || ()).unwrap();
            drop((small, large));
            assert!(speeds.block.seconds(1, 24) > 0.0 && speeds.head.seconds(1, 8) > 0.0);
            assert!(speeds.update_s > 0.0);
            assert_eq!(device.memory().unwrap().free_bytes, before);
        }
    }

    #[test]
    fn rows_keep_their_ids_and_labels() {
        let batch = TrainBatch {
            ids: (0..9).collect(),
            sequences: Sequences::from_lengths(&[2, 3, 4]).unwrap(),
            targets: vec![(0, 1), (3, 4), (7, 8)],
        };
        let rows: Vec<_> = batch.sequences.ranges().step_by(2).collect();
        let some = some_rows(&batch, &rows).unwrap();
        assert_eq!(some.ids, [0, 1, 5, 6, 7, 8]);
        assert_eq!(some.targets, [(0, 1), (4, 8)]);
    }
}
