//! `bench train` and `bench forward`: rows of random ids, each token the label of the one before it.

use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;

use clap::Args;
use rag_tune_kernels::Sequences;
use rag_tune_kernels::cuda::{Device, WorkTime};
use rag_tune_model::flop::forward_flop;
use rag_tune_model::llama::{Llama, TrainBatch};
use rag_tune_model::tokenizer::EncodedRow;
use rag_tune_train::batch::TrainSet;
use rag_tune_train::config::{Activations, LoraConfig, LossOn, TrainConfig};
use rag_tune_train::event::Event;
use rag_tune_train::ranks::Alone;
use rag_tune_train::trainer::{Hooks, Start, TrainRequest};
use serde::Serialize;

use super::figures::{Column, Figures, rounded};
use super::subject::{Subject, SubjectArgs, random_ids, setting};
use super::timing::{Laps, TimingArgs, median};
use crate::error::InputError;
use crate::output::Output;

/// Rows of random tokens with loss on all of them, and a LoRA on q, k, v, o.
#[derive(Debug, Args)]
pub struct TrainingArgs {
    #[command(flatten)]
    subject: SubjectArgs,
    /// Rows at a time
    #[arg(long, value_name = "N", default_value = "8")]
    batch: NonZeroUsize,
    /// Tokens a row has
    #[arg(long, value_name = "N", default_value = "256")]
    seq: NonZeroUsize,
    /// Rank of the LoRA
    #[arg(long, value_name = "N", default_value = "8")]
    rank: NonZeroUsize,
    /// As `train.activations` in a config
    #[arg(long, default_value = "auto", value_parser = setting::<Activations>)]
    activations: Activations,
    /// Where a device's time goes, kernel by kernel: one step more, which is not counted
    #[arg(long)]
    profile: bool,
    #[command(flatten)]
    timing: TimingArgs,
}

const COLUMNS: [Column; 6] = [
    Column::new("work", "work", 0),
    Column::new("compute", "compute", 0),
    Column::new("tokens/s", "tokens_per_s", 1),
    Column::new("s/step", "step_s", 3),
    Column::share("% of peak", "share_of_peak"),
    Column::new("peak RSS MiB", "peak_rss_mib", 0),
];

/// Times full optimizer steps of the trainer: forward, backward, clipping, AdamW.
///
/// # Errors
/// When the model cannot be had, or the rows do not fit it.
pub fn train(args: &TrainingArgs, out: &mut Output) -> anyhow::Result<()> {
    let bench = Bench::new(args, out)?;
    let Bench { model, lora, .. } = &bench;
    let (batch, seq) = (args.batch.get(), args.seq.get());
    // The trainer appends the end of the sequence; which token that is makes no difference.
    let rows = random_ids(batch, seq - 1, model.config().vocab_size)
        .into_iter()
        .map(|ids| EncodedRow { ids, prompt_len: 1 });
    let counted = args.timing.warmup + args.timing.steps.get();
    let profiled = bench.profiled()?;
    let steps = counted + usize::from(profiled.is_some());
    let config = TrainConfig {
        tokens_per_micro_batch: batch * seq,
        batch_size: Some(batch),
        max_length: seq,
        max_steps: Some(steps),
        warmup_steps: Some(0),
        loss_on: LossOn::All,
        checkpoint_every: steps,
        activations: args.activations,
        ..Default::default()
    };
    let set = TrainSet::new(&[rows.collect()], 0, &config, 0)?;
    let folder = tempfile::tempdir()?;
    let request = TrainRequest {
        model,
        base: "timed",
        set: &set,
        lora,
        train: &config,
        seed: 0,
        out: folder.path(),
        start: Start::Afresh,
    };
    let (mut laps, mut shares) = (Laps::start(), Vec::new());
    let mut kernels = None;
    let mut observe = |event: Event<'_>| {
        let Event::Step(record) = event else { return };
        if record.step <= counted {
            laps.lap();
            shares.push(record.peak_share);
        }
        if let Some(device) = profiled {
            match record.step == counted {
                true => device.start_profile(),
                false => kernels = Some(device.take_profile()),
            }
        }
    };
    let mut hooks = Hooks {
        observe: &mut observe,
        stop: &AtomicBool::new(false),
        validation: None,
    };
    rag_tune_train::trainer::train(&request, &mut hooks, &mut Alone)?;
    laps.forget(args.timing.warmup);
    let share = median(shares.split_off(args.timing.warmup));
    let kernels = kernels.transpose()?.map(|kernels| shares_of(&kernels));
    bench.print("train", &laps, (share, kernels), out)
}

/// A kind of work of a device, as JSON shows it.
#[derive(Debug, Serialize)]
struct Share {
    name: &'static str,
    calls: usize,
    seconds: f64,
    /// Of all that the device did.
    share: f64,
}

fn shares_of(times: &[WorkTime]) -> Vec<Share> {
    let all: f64 = times.iter().map(|it| it.seconds).sum();
    let share = |it: &WorkTime| Share {
        name: it.name,
        calls: it.calls,
        seconds: rounded(it.seconds),
        share: rounded(it.seconds / all),
    };
    times.iter().map(share).collect()
}

/// Times the forward pass up to the loss, as validation computes it.
///
/// # Errors
/// When the model cannot be had, or the rows do not fit it.
pub fn forward(args: &TrainingArgs, out: &mut Output) -> anyhow::Result<()> {
    let bench = Bench::new(args, out)?;
    let Bench { model, lora, .. } = &bench;
    let (batch, seq) = (args.batch.get(), args.seq.get());
    let ids = random_ids(batch, seq, model.config().vocab_size).concat();
    let sequences = Sequences::from_lengths(&vec![seq; batch])?;
    let targets = sequences
        .ranges()
        .flat_map(|range| range.start..range.end - 1)
        .map(|at| (at, ids[at + 1]))
        .collect();
    let batch = TrainBatch {
        ids,
        sequences,
        targets,
    };
    let adapter = model.fresh_adapter(lora.settings(), 0)?;
    let (laps, _) = args
        .timing
        .time(|| Ok(model.loss_sum(Some(&adapter), &batch)?))?;
    let flop = forward_flop(
        model.config(),
        adapter.parameters(),
        &batch.sequences,
        batch.targets.len(),
    );
    let share = flop / laps.step_s() / model.peak_op_per_s()?;
    let mut kernels = None;
    if let Some(device) = bench.profiled()? {
        device.start_profile();
        model.loss_sum(Some(&adapter), &batch)?;
        kernels = Some(shares_of(&device.take_profile()?));
    }
    bench.print("forward", &laps, (share, kernels), out)
}

/// What both works start with.
struct Bench<'a> {
    args: &'a TrainingArgs,
    subject: Subject,
    model: Llama,
    lora: LoraConfig,
}

impl<'a> Bench<'a> {
    fn new(args: &'a TrainingArgs, out: &Output) -> anyhow::Result<Self> {
        let seq = args.seq.get();
        if seq < 3 {
            let message = format!("--seq {seq} leaves no token to learn");
            return Err(InputError::new(message, "give 3 or more").into());
        }
        args.timing.set_threads()?;
        let subject = args.subject.find()?;
        subject.check_length("--seq", seq)?;
        let rank = args.rank;
        Ok(Self {
            args,
            model: subject.load(out)?,
            subject,
            lora: LoraConfig {
                rank: rank.get(),
                alpha: 2.0 * rank.get() as f32,
                dropout: 0.0,
                ..Default::default()
            },
        })
    }

    /// The device whose work is to be told kernel by kernel, if that was asked for.
    fn profiled(&self) -> anyhow::Result<Option<&Device>> {
        match (self.args.profile, self.model.device()) {
            (false, _) => Ok(None),
            (true, Some(device)) => Ok(Some(device)),
            (true, None) => {
                let message = "--profile needs a model on a device";
                Err(InputError::new(message, "give --device cuda:0, or leave --profile out").into())
            }
        }
    }

    fn print(
        &self,
        work: &str,
        laps: &Laps,
        (share, kernels): (f64, Option<Vec<Share>>),
        out: &mut Output,
    ) -> anyhow::Result<()> {
        let args = self.args;
        let (batch, seq) = (args.batch.get(), args.seq.get());
        let mut figures: Figures = self
            .subject
            .figures(work, &self.model, batch, seq)
            .say("rank", args.rank)
            .measured("tokens_per_s", (batch * seq) as f64 / laps.step_s())
            .with_laps(laps)
            .measured("share_of_peak", share)
            .with_memory(self.model.device());
        if let Some(kernels) = kernels {
            figures = figures.say("kernels", kernels);
        }
        figures.print(args.timing.json, &COLUMNS, out)
    }
}
