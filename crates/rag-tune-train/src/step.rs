//! One optimizer step: passes over its micro-batches, on whichever ranks, clipping, the update.
//!
//! The gradient of every micro-batch is computed by itself and added to the sum in the order of the
//! micro-batches: by rank 0, which then gives the sum to all. So the same additions are made whether
//! one process has computed all of them or each another one, and the bytes are the same.
//!
//! Ranks on devices each add up what they have computed, and one sum over the ranks follows: a gradient a micro-batch through one process would take longer
//! than computing it. The last bits then depend on the number of ranks.

use std::time::Instant;

use rag_tune_kernels::KernelError;
use rag_tune_kernels::Tensor;
use rag_tune_model::flop::training_flop;
use rag_tune_model::llama::{Keep, PassOptions};
use rag_tune_model::lora::{Adapter, AdapterGradient, LoraDropout};
use serde::{Deserialize, Serialize};

use crate::batch::MicroBatch;
use crate::batch::ranks::{owner, share};
use crate::error::TrainError;
use crate::memory::{MemoryPlan, available_bytes, peak_rss_bytes, room};
use crate::metrics::StepRecord;
use crate::optimizer::{Optimizer, clip_factor};
use crate::ranks::devices::{DeviceSums, Place, pack, unpack};
use crate::ranks::{Collective, RankError, World, broadcast_json};
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

/// What rank 0 tells of the sum over a step's micro-batches.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Sum {
    /// It is finite. Bits of the summed loss in nats: JSON's decimal digits could round it.
    Finite { loss_bits: u64 },
    /// It is not, since this micro-batch.
    NotFinite { micro_batch: usize, what: Quantity },
}

/// What a rank on a device tells of its micro-batches.
#[derive(Debug, Default, Serialize, Deserialize)]
struct OwnSum {
    /// Of each loss, in their order.
    loss_bits: Vec<u64>,
    /// The one after which it did no further.
    not_finite: Option<(usize, Quantity)>,
}

/// On rank 0, what all ranks have told of a step's micro-batches: losses are added in the order of the micro-batches, which no number of
/// ranks changes.
fn total(of_all: &[Vec<u8>], micro_batches: usize) -> Result<Sum, RankError> {
    let mut own = Vec::new();
    for (rank, text) in of_all.iter().enumerate() {
        let sum: OwnSum = serde_json::from_slice(text).map_err(|error| RankError::Failed {
            rank,
            message: format!("rank 0 cannot read its losses: {error}"),
        })?;
        own.push(sum);
    }
    let not_finite = own.iter().filter_map(|sum| sum.not_finite);
    if let Some((micro_batch, what)) = not_finite.min_by_key(|(micro_batch, _)| *micro_batch) {
        return Ok(Sum::NotFinite { micro_batch, what });
    }
    let mut loss = 0.0;
    // Elsewhere there is nothing to add, nor is it looked at.
    for index in (0..micro_batches).filter(|_| !own.is_empty()) {
        let bits = own[owner(index, own.len())]
            .loss_bits
            .get(index / own.len());
        loss += bits.map_or(f64::NAN, |bits| f64::from_bits(*bits));
    }
    Ok(Sum::Finite {
        loss_bits: f64::to_bits(loss),
    })
}

/// A run's state from step to step.
pub(crate) struct Run<'a> {
    request: &'a TrainRequest<'a>,
    pub(crate) adapter: Adapter,
    /// The sum over a step's micro-batches.
    gradient: AdapterGradient,
    /// That of one of them.
    part: AdapterGradient,
    /// A gradient on its way between ranks.
    packed: Vec<f32>,
    /// How ranks on devices sum, where there are several.
    pub(crate) device_sums: Option<DeviceSums>,
    pub(crate) optimizer: Optimizer,
    learning_rate: LearningRate,
    keep: Keep,
    /// Of one pass: fewer than a micro-batch holds once a device's memory was not enough.
    most_tokens: usize,
    /// What a step's speed is a share of.
    peak_op_per_s: f64,
}

impl<'a> Run<'a> {
    /// The start of a run of `total` steps.
    pub(crate) fn new(request: &'a TrainRequest<'a>, total: usize) -> Result<Self, TrainError> {
        let TrainRequest {
            model, lora, train, ..
        } = request;
        let mut adapter = model.fresh_adapter(lora.settings(), request.seed)?;
        // Where the host must make the update, each pass brings adapter and gradient over and back.
        if let Some(device) = model.device().filter(|_| train.optimizer.is_on_devices()) {
            adapter = adapter.to_device(device)?;
        }
        let largest = Work::count(request.set)?.largest;
        // The weights are there already.
        let available = match model.device() {
            None => available_bytes(),
            Some(device) => Some(device.memory().map_err(KernelError::from)?.free_bytes),
        };
        let free = available.map_or(usize::MAX, |free| room(free) + model.weight_bytes());
        let footprint = model.footprint(lora.settings(), lora.dropout);
        Ok(Self {
            request,
            gradient: adapter.zero_gradient_on(adapter.device())?,
            part: adapter.zero_gradient_on(adapter.device())?,
            packed: Vec::new(),
            device_sums: None,
            most_tokens: usize::MAX,
            optimizer: Optimizer::new(train, lora, &adapter)?,
            learning_rate: LearningRate::new(train, total),
            keep: MemoryPlan::new(&footprint, train, largest, free).keep,
            peak_op_per_s: model.peak_op_per_s()?,
            adapter,
        })
    }

    /// One optimizer step; `step` counts from 1, and `updates` were made before. Where it fails, it has
    /// changed nothing.
    pub(crate) fn step(
        &mut self,
        step: usize,
        updates: usize,
        ranks: &mut dyn Collective,
    ) -> Result<Outcome, TrainError> {
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
        let lr = self.learning_rate.at(step);
        let options = |micro_batch: usize| PassOptions {
            keep: self.keep,
            dropout: self.dropout(step, micro_batch),
            // By supervised tokens of the step: a short micro-batch must not weigh as much as a long one.
            gradient_scale: 1.0 / supervised_tokens as f32,
        };
        let options: Vec<PassOptions> = (0..micro_batches.len()).map(options).collect();
        let sum = match self.device_sums.take() {
            None => self.sum(&micro_batches, &options, ranks)?,
            Some(mut sums) => {
                let sum = self.sum_on_devices(&micro_batches, &options, &mut sums, ranks)?;
                self.device_sums = Some(sums);
                sum
            }
        };
        let loss = match sum {
            Sum::Finite { loss_bits } => f64::from_bits(loss_bits),
            Sum::NotFinite { micro_batch, what } => {
                let (micro, options) = (&micro_batches[micro_batch], &options[micro_batch]);
                let mut skipped = SkippedStep {
                    step,
                    what,
                    micro_batch,
                    pass: None,
                    layer: None,
                    operation: None,
                    rows: Vec::new(),
                    max_activations: Vec::new(),
                    max_gradients: Vec::new(),
                    lr,
                };
                self.locate(&mut skipped, micro, options)?;
                return Ok(Outcome::Skipped(skipped));
            }
        };
        let grad_norm = self.optimizer.norm(&self.gradient, &mut self.adapter)?;
        let factor = clip_factor(grad_norm, request.train.max_grad_norm);
        // AdamW corrects its moments' bias by the number of updates that they have had.
        self.optimizer
            .update(updates + 1, lr, factor, &self.gradient, &mut self.adapter)?;
        let seconds = start.elapsed().as_secs_f64();
        // A machine's share: the others are taken to be like this one.
        let flop = self.flop(&micro_batches) / ranks.world().size as f64;
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

    /// Goes through a micro-batch that is not finite again, in the parts in which it was computed, to the first that shows where.
    fn locate(
        &self,
        skipped: &mut SkippedStep,
        micro: &MicroBatch,
        options: &PassOptions,
    ) -> Result<(), TrainError> {
        let model = self.request.model;
        let adapter = self.adapter.to_host()?;
        let parts = micro.parts(self.most_tokens)?;
        for (at, part) in parts.iter().enumerate() {
            let found = model.find_non_finite(&adapter, &part.batch, &of_part(options, at))?;
            if found.is_some() || at + 1 == parts.len() {
                skipped.locate(found, &part.rows);
                break;
            }
        }
        Ok(())
    }

    /// Where this rank computes.
    pub(crate) fn place(&self) -> Place {
        Place::of(self.request.model.device(), &self.gradient)
    }

    /// Sums loss and gradient over the micro-batches, each computed by its owner.
    fn sum(
        &mut self,
        micro_batches: &[MicroBatch],
        options: &[PassOptions],
        ranks: &mut dyn Collective,
    ) -> Result<Sum, TrainError> {
        let world = ranks.world();
        let (mut loss, mut not_finite) = (0.0, None);
        for (index, micro) in micro_batches.iter().enumerate() {
            let owner = owner(index, world.size);
            let mut part_loss = 0.0;
            // After one that is not finite only what the others have sent already is taken.
            if owner == world.rank && not_finite.is_none() {
                part_loss = self.pass(index, micro, &options[index])?;
            }
            if owner > 0 {
                self.collect(owner, &mut part_loss, ranks)?;
            }
            if !world.is_first() || not_finite.is_some() {
                continue;
            }
            if index > 0 {
                self.gradient.add(&self.part)?;
            }
            loss += part_loss;
            if let Some(what) = self.not_finite(part_loss)? {
                not_finite = Some((index, what));
            }
        }
        let sum = match not_finite {
            None => Sum::Finite {
                loss_bits: f64::to_bits(loss),
            },
            Some((micro_batch, what)) => Sum::NotFinite { micro_batch, what },
        };
        let sum = broadcast_json(ranks, sum)?;
        if let (Sum::Finite { .. }, true) = (sum, world.size > 1) {
            // Elsewhere what is packed is overwritten.
            pack(&self.gradient, &mut self.packed)?;
            ranks.broadcast_values(&mut self.packed)?;
            if !world.is_first() {
                unpack(&self.packed, &mut self.gradient)?;
            }
        }
        Ok(sum)
    }

    /// As [`Run::sum`], on ranks with devices: each sums over its own micro-batches first.
    fn sum_on_devices(
        &mut self,
        micro_batches: &[MicroBatch],
        options: &[PassOptions],
        sums: &mut DeviceSums,
        ranks: &mut dyn Collective,
    ) -> Result<Sum, TrainError> {
        let World { rank, size } = ranks.world();
        // A rank may have none.
        self.gradient.clear()?;
        let mut own = OwnSum::default();
        for (at, index) in share(micro_batches.len(), rank, size).enumerate() {
            let loss = self.pass(at, &micro_batches[index], &options[index])?;
            if at > 0 {
                self.gradient.add(&self.part)?;
            }
            own.loss_bits.push(loss.to_bits());
            if let Some(what) = self.not_finite(loss)? {
                own.not_finite = Some((index, what));
                break;
            }
        }
        let own = serde_json::to_vec(&own).expect("numbers are JSON");
        let of_all = ranks.gather(&own)?;
        let sum = broadcast_json(ranks, total(&of_all, micro_batches.len())?)?;
        if let Sum::Finite { .. } = sum {
            sums.sum(&mut self.gradient, ranks)?;
            // All have the same bits, and so come to the same result.
            if let Some(what) = self.not_finite(0.0)? {
                let micro_batch = micro_batches.len() - 1;
                return Ok(Sum::NotFinite { micro_batch, what });
            }
        }
        Ok(sum)
    }

    /// A micro-batch's passes: one, or several where a device's memory is not enough for it. Returns the summed loss. The first
    /// micro-batch that this rank adds up, `at` 0, is the beginning of the sum, without a detour.
    fn pass(
        &mut self,
        at: usize,
        micro: &MicroBatch,
        options: &PassOptions,
    ) -> Result<f64, TrainError> {
        let gradient = match at {
            0 => &mut self.gradient,
            _ => &mut self.part,
        };
        'divided: loop {
            gradient.clear()?;
            let mut loss = 0.0;
            for (at, part) in micro.parts(self.most_tokens)?.iter().enumerate() {
                let (model, options) = (self.request.model, of_part(options, at));
                match model.forward_backward(&self.adapter, &part.batch, &options, gradient) {
                    Ok(of_part) => loss += of_part,
                    Err(error) if error.is_out_of_memory() && part.rows.len() > 1 => {
                        self.most_tokens = part.batch.ids.len() / 2;
                        continue 'divided;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            return Ok(loss);
        }
    }

    /// Tokens of a pass at most, where memory has set a bound.
    pub(crate) fn bound(&self) -> Option<usize> {
        (self.most_tokens < usize::MAX).then_some(self.most_tokens)
    }

    /// Brings loss and gradient of a micro-batch from its owner, which is not rank 0, to rank 0.
    fn collect(
        &mut self,
        owner: usize,
        loss: &mut f64,
        ranks: &mut dyn Collective,
    ) -> Result<(), TrainError> {
        let world = ranks.world();
        if world.rank == owner {
            pack(&self.part, &mut self.packed)?;
        } else if world.is_first() {
            self.packed.resize(self.adapter.parameters(), 0.0);
        }
        let mut bytes = loss.to_le_bytes().to_vec();
        ranks.collect(owner, &mut bytes)?;
        ranks.collect_values(owner, &mut self.packed)?;
        if world.is_first() {
            *loss = bytes.try_into().map_or(f64::NAN, f64::from_le_bytes);
            unpack(&self.packed, &mut self.part)?;
        }
        Ok(())
    }

    /// Floating-point operations of a step.
    fn flop(&self, micro_batches: &[MicroBatch]) -> f64 {
        let (config, parameters) = (self.request.model.config(), self.adapter.parameters());
        let of = |micro: &MicroBatch| training_flop(config, parameters, &micro.batch, self.keep);
        micro_batches.iter().map(of).sum()
    }

    /// A number that two adapters share only if they are the same to the bit.
    pub(crate) fn adapter_checksum(&self) -> Result<u64, TrainError> {
        let adapter = self.adapter.to_host()?;
        let values = adapter
            .layers
            .values()
            .flat_map(|factors| factors.tensors())
            .flat_map(|(_, tensor)| tensor.data());
        // FNV-1a, on values instead of bytes.
        Ok(values.fold(0xcbf2_9ce4_8422_2325, |hash, value| {
            (hash ^ u64::from(value.to_bits())).wrapping_mul(0x0100_0000_01b3)
        }))
    }

    /// What is not finite after a micro-batch of this loss. The gradient's sum so far would stay so.
    fn not_finite(&mut self, loss: f64) -> Result<Option<Quantity>, TrainError> {
        if !loss.is_finite() {
            return Ok(Some(Quantity::Loss));
        }
        let is_finite = match self.gradient.device() {
            None => self.gradient.tensors().all(Tensor::is_finite),
            // Squares of f32 do not overflow its sum in f64.
            Some(_) => self
                .optimizer
                .norm(&self.gradient, &mut self.adapter)?
                .is_finite(),
        };
        Ok((!is_finite).then_some(Quantity::Gradient))
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

/// Options of the `at`-th part of a micro-batch. Each has masks of its own, the first those of the whole.
fn of_part(options: &PassOptions, at: usize) -> PassOptions {
    let dropout = options.dropout.map(|dropout| LoraDropout {
        micro_batch: dropout.micro_batch | (at as u64) << 32,
        ..dropout
    });
    PassOptions {
        dropout,
        ..*options
    }
}
