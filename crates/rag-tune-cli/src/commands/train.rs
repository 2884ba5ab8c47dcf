//! `rag-tune train`: augment if needed, then train a LoRA adapter.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use clap::Args;
use rag_tune_augment::{Hub, Manifest, RetrievalRecord};
use rag_tune_train::batch::TrainSet;
use rag_tune_train::event::Event;
use rag_tune_train::trainer::{Ending, Hooks, Start, TrainRequest, TrainSummary};
use rag_tune_train::validation::Validation;

use super::{ConfigArgs, HubArgs};
use crate::augmentation::Augmentation;
use crate::base_model::{BaseRecord, FoundModel};
use crate::config::{Docs, Override, ResolvedConfig, RunConfig};
use crate::encoding::training_set;
use crate::error::InputError;
use crate::files::write_atomically;
use crate::model_card;
use crate::output::{Output, Progress};
use crate::public_name::public_name;
use crate::run_folder::RunFolder;
use crate::synthetic;
use crate::training_record::TrainingRecord;
use crate::validation::Prepared;

/// Train a LoRA adapter on a frozen 8-bit base model
///
/// Augments the data first if the augmented files are missing or were made with other settings. The
/// run folder gets the adapter in PEFT's format, rag_tune.toml (the resolved config),
/// retrieval.json, base_model.json, training.json, metrics.jsonl with a line a step, and a model card.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  rag-tune train configs/sql_rag1_smollm2.toml --out out/long --set train.epochs=3"
)]
pub struct TrainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Run folder; stands for --set output
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on from the last checkpoint in the run folder
    #[arg(long)]
    resume: bool,
    /// Replace the run that is in the folder, its scores included
    #[arg(long, conflicts_with = "resume")]
    force: bool,
    /// Folder of the augmented files, which several runs may share [default: augmented in the run folder]
    #[arg(long, value_name = "DIR")]
    augmented: Option<PathBuf>,
    #[command(flatten)]
    hub: HubArgs,
}

/// Runs the command.
pub fn train(args: &TrainArgs, out: &mut Output) -> anyhow::Result<()> {
    let flags = args
        .out
        .iter()
        .map(|folder| Override::path("--out", "output", folder));
    let resolved = args.config.load(&flags.collect::<Vec<_>>())?;
    let config = &resolved.run;
    let run = RunFolder::new(&config.output);
    args.check_folder(&run)?;

    let hub = args.hub.hub();
    let found = FoundModel::open(&config.model, &hub)?;
    let augmented = args.augmented.clone().unwrap_or_else(|| run.augmented());
    let (set, prepared) = training_rows(config, &augmented, &found, &hub, out)?;
    let model = found.load(&config.model, out)?;
    if !args.resume {
        begin(&run, &resolved, &augmented, &found)?;
        let synthetic = synthetic::is_synthetic(Path::new(&config.data.source));
        TrainingRecord::new(set.rows(), synthetic).save(&run)?;
    }
    let base = public_name(&config.model.base);
    let request = TrainRequest {
        model: &model,
        base: &base,
        set: &set,
        lora: &config.lora,
        train: &config.train,
        seed: config.seed,
        out: run.path(),
        start: if args.resume {
            Start::Resume
        } else {
            Start::Afresh
        },
    };
    let mut judge = match prepared {
        Some(prepared) => Some(prepared.judge(config, &model, &found.tokenizer, out)?),
        None => None,
    };
    let progress = out.progress();
    progress.start("training", config.train.total_steps(set.rows()) as u64);
    let mut observe = |event: Event<'_>| show(&progress, out, event);
    let mut hooks = Hooks {
        observe: &mut observe,
        stop: &AtomicBool::new(false),
        validation: judge.as_mut().map(|judge| Validation {
            config: &config.validation,
            judge: &mut **judge,
        }),
    };
    let summary = rag_tune_train::trainer::train(&request, &mut hooks);
    progress.finish();
    drop(judge);
    let summary = summary.context("cannot train")?;
    model_card::refresh(&run)?;
    out.note(&in_words(&summary));
    out.data(&format!("{}\n", run.path().display()))?;
    Ok(())
}

/// The training split, augmented first if needed, as token ids.
fn training_rows(
    config: &RunConfig,
    folder: &Path,
    found: &FoundModel,
    hub: &Hub,
    out: &Output,
) -> anyhow::Result<(TrainSet, Option<Prepared>)> {
    let splits = config.splits();
    let task = config.task.load()?;
    let augmentation = Augmentation {
        config,
        task: &task,
        splits: &splits,
        folder,
    };
    let epochs = augmentation.training_rows(hub, out)?;
    let set = training_set(&epochs, &found.tokenizer, &config.train, config.seed)?;
    if set.too_long() > 0 {
        let (count, limit) = (set.too_long(), config.train.max_length);
        out.note(&format!(
            "rows left out as longer than {limit} tokens: {count}"
        ));
    }
    let prepared = Prepared::find(config, &task, &augmentation, out)?;
    Ok((set, prepared))
}

impl TrainArgs {
    /// A run that took hours is not replaced by a slip.
    fn check_folder(&self, run: &RunFolder) -> anyhow::Result<()> {
        let path = run.path().display();
        let refuse = |message: String, hint: &str| Err(InputError::new(message, hint).into());
        if self.force {
            return Ok(());
        }
        if run.is_finished() {
            let message = format!("`{path}` holds a finished run");
            return refuse(
                message,
                "--force replaces it; --out DIR trains into another folder",
            );
        }
        match (run.has_checkpoints(), self.resume) {
            (true, false) => refuse(
                format!("`{path}` holds an unfinished run"),
                "--resume goes on from its last checkpoint; --force begins again",
            ),
            (false, true) => refuse(
                format!("`{path}` holds no checkpoint to resume from"),
                "leave --resume out to begin the run",
            ),
            _ => Ok(()),
        }
    }
}

/// Clears what an earlier run left, and writes down what this one is made from.
fn begin(
    run: &RunFolder,
    resolved: &ResolvedConfig,
    augmented: &Path,
    found: &FoundModel,
) -> anyhow::Result<()> {
    let manifest = Manifest::load(augmented)?;
    let manifest = manifest.context("the augmented files have lost their manifest")?;
    run.clear()?;
    write_atomically(&run.config(), &resolved.to_toml(Docs::Hidden))?;
    RetrievalRecord::new(&manifest).save(run.path())?;
    let base = resolved.run.model.base.clone();
    BaseRecord {
        base,
        fingerprint: found.checkpoint.fingerprint().to_owned(),
    }
    .save(run)
}

fn show(progress: &Progress, out: &Output, event: Event<'_>) {
    match event {
        Event::Step(record) => {
            progress.move_to(record.step as u64);
            progress.say(&format!(
                "training, loss {:.3}, {:.0} tokens/s",
                record.loss, record.tokens_per_s
            ));
        }
        Event::Validated(record) => {
            let interval = record
                .ci95
                .map(|[low, high]| format!(" ({low:.3} to {high:.3})"));
            out.note(&format!(
                "step {}: {} on {} rows {:.4}{}{}",
                record.step,
                record.metric,
                record.rows,
                record.value,
                interval.unwrap_or_default(),
                if record.best { ", the best so far" } else { "" }
            ));
        }
        Event::StoppedEarly { step, best } => out.note(&format!(
            "stopped early after step {step}: no improvement since the {:.4} of step {}",
            best.value, best.step
        )),
        _ => {}
    }
}

fn in_words(summary: &TrainSummary) -> String {
    let mut text = match &summary.last {
        Some(last) => format!(
            "trained {} steps; loss of the last one {:.3}",
            summary.steps, last.loss
        ),
        None => format!("all {} steps were done already", summary.steps),
    };
    if let (Some(best), Ending::Finished { kept_step, .. }) = (summary.best, &summary.ending) {
        text += &format!(
            "; the adapter is that of step {kept_step} (best validation: {:.4}, step {})",
            best.value, best.step
        );
    }
    text
}
