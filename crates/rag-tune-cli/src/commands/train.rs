//! `rag-tune train`: augment if needed, then train a LoRA adapter.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use rag_tune_augment::atomic_file::remove_leftovers;
use rag_tune_augment::{Hub, Manifest, RetrievalRecord};
use rag_tune_model::config::ModelConfig;
use rag_tune_model::llama::Llama;
use rag_tune_train::batch::{DataSummary, TrainSet};
use rag_tune_train::config::TrainConfig;
use rag_tune_train::event::Event;
use rag_tune_train::ranks::{Collective, Launch};
use rag_tune_train::schedule::LearningRate;
use rag_tune_train::tensorboard::TensorBoard;
use rag_tune_train::trainer::{Ending, Hooks, Start, TrainRequest, TrainSummary};
use rag_tune_train::validation::Validation;

use super::{ConfigArgs, HubArgs};
use crate::augmentation::Augmentation;
use crate::base_model::{BaseRecord, FoundModel, check_device};
use crate::config::{Docs, Override, ResolvedConfig, RunConfig};
use crate::encoding;
use crate::error::{InputError, Interrupted};
use crate::files::write_atomically;
use crate::model_card;
use crate::output::Output;
use crate::public_name::public_name;
use crate::ranks::{self, first_then_others};
use crate::run_folder::RunFolder;
use crate::run_lock::RunLock;
use crate::sample::{in_short, truncations};
use crate::stop_signals::StopSignals;
use crate::synthetic;
use crate::training_progress::TrainingProgress;
use crate::training_record::TrainingRecord;
use crate::validation::Prepared;

/// Train a LoRA adapter on a frozen 8-bit base model
///
/// Augments the data first if the augmented files are missing or were made with other settings. The
/// run folder gets the adapter in PEFT's format, rag_tune.toml (the resolved config),
/// retrieval.json, base_model.json, training.json, metrics.jsonl with a line a step, its loss chart, TensorBoard's event
/// files, and a model card.
///
/// Started by torchrun, srun or mpirun, several processes train one adapter: on CPUs to the same bytes as one, on GPUs with a
/// GPU for each.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  rag-tune train configs/sql_rag1_smollm2.toml --out out/long --set train.epochs=3\n\n\
    Exit codes:\n  0    the run is finished\n  1    the input is wrong, a file cannot be read or written, or another process of the run is lost\n  \
    130  SIGINT (Ctrl-C) has stopped it: the step in hand was finished and a checkpoint written\n  \
    143  SIGTERM has, likewise\n\
    After 130 and 143 --resume goes on. A second Ctrl-C ends at once; then the last checkpoint counts."
)]
pub struct TrainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Run folder; stands for --set output
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on from the last whole checkpoint in the run folder, to the same bytes as without the break
    #[arg(long)]
    resume: bool,
    /// Replace the run that is in the folder, its scores included
    #[arg(long, conflicts_with = "resume")]
    force: bool,
    /// Folder of the augmented files, which several runs may share [default: augmented in the run folder]
    #[arg(long, value_name = "DIR")]
    augmented: Option<PathBuf>,
    /// Of several processes: silence after which one counts as lost; five times that to find each other
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    rank_timeout: NonZeroU32,
    #[command(flatten)]
    hub: HubArgs,
}

/// Runs the command.
pub fn train(args: &TrainArgs, out: &mut Output) -> anyhow::Result<()> {
    let silence = Duration::from_secs(args.rank_timeout.get().into());
    let (mut ranks, launch) = ranks::connect(silence, out)?;
    let trained = train_with(args, &launch, &mut *ranks, out);
    if let Err(error) = &trained {
        ranks::give_up(&mut *ranks, error);
    }
    trained
}

/// Trains, together with the other ranks.
fn train_with(
    args: &TrainArgs,
    launch: &Launch,
    ranks: &mut dyn Collective,
    out: &mut Output,
) -> anyhow::Result<()> {
    let flags = args
        .out
        .iter()
        .map(|folder| Override::path("--out", "output", folder));
    let resolved = args.config.load(&flags.collect::<Vec<_>>())?;
    let config = &resolved.run;
    let run = RunFolder::new(&config.output);
    let world = ranks.world();
    // Only rank 0 looks at the run folder, which others may not even see.
    let start = match world.is_first() {
        true => args.start(&run)?,
        false => Start::Afresh,
    };
    let own = ranks::with_own_gpu(&config.model, launch)?;
    let folder = world.is_first().then_some((&run, start));
    let loaded = || Loaded::new(args, config, &own, folder, out);
    let Loaded {
        found,
        set,
        model,
        prepared,
        _lock,
    } = first_then_others(ranks, loaded)?;
    let synthetic = synthetic::is_synthetic(Path::new(&config.data.source));
    if world.is_first() && start == Start::Afresh {
        begin(&run, &resolved, &args.augmented(&run), &found)?;
        TrainingRecord::new(set.summary(), synthetic).save(&run)?;
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
        start,
    };
    let mut judge = match prepared {
        Some(prepared) => Some(prepared.judge(config, &model, &found.tokenizer, out)?),
        None => None,
    };
    let steps = set.total_steps();
    let notes = [
        endless_warmup(&config.train, steps),
        idle(&set.summary(), world.size),
    ];
    notes.iter().flatten().for_each(|note| out.note(note));
    // Not before: until here there is nothing to save, and a signal ends the program at once.
    let signals = StopSignals::listen()?;
    let board = config.log.tensorboard && world.is_first();
    let board = board.then(|| TensorBoard::new(run.path()));
    let mut progress = TrainingProgress::new(out, steps, board);
    let mut observe = |event: Event<'_>| progress.show(event);
    let mut hooks = Hooks {
        observe: &mut observe,
        stop: signals.flag(),
        validation: judge.as_mut().map(|judge| Validation {
            config: &config.validation,
            judge: &mut **judge,
        }),
    };
    let summary = rag_tune_train::trainer::train(&request, &mut hooks, ranks);
    progress.finish();
    drop(judge);
    let summary = summary.context("cannot train")?;
    if summary.ending == Ending::Stopped {
        let (signal, exit_code) = signals.received();
        let again = if args.resume { "" } else { " with --resume" };
        let message = match world.rank {
            0 => format!(
                "stopped by {signal} after step {} of {steps}, with a checkpoint; the same command{again} goes on",
                summary.steps
            ),
            rank => format!("rank {rank} has stopped with the others"),
        };
        return Err(Interrupted::new(message, exit_code).into());
    }
    if world.is_first() {
        draw_losses(&run, synthetic, out);
        model_card::refresh(&run)?;
        out.note(&in_words(&summary));
        out.data(&format!("{}\n", run.path().display()))?;
    }
    Ok(())
}

/// What a run is made of, found or made and brought into memory.
struct Loaded {
    found: FoundModel,
    set: TrainSet,
    model: Llama,
    /// What rank 0 judges by.
    prepared: Option<Prepared>,
    /// Rank 0's.
    _lock: Option<RunLock>,
}

impl Loaded {
    /// `model` is the config's section as this process is to follow it; `folder` is the run's, on the rank that writes into it, and how it
    /// begins there.
    fn new(
        args: &TrainArgs,
        config: &RunConfig,
        model: &ModelConfig,
        folder: Option<(&RunFolder, Start)>,
        out: &Output,
    ) -> anyhow::Result<Self> {
        check_device(model)?;
        let hub = args.hub.hub();
        let found = FoundModel::open(&config.model, &hub)?;
        found.check(&config.lora)?;
        let lock = match folder {
            Some((run, start)) => Some(args.take(run, start, out)?),
            None => None,
        };
        let augmented = args.augmented(&RunFolder::new(&config.output));
        let task = config.task.load()?;
        let splits = config.splits();
        let augmentation = Augmentation {
            config,
            task: &task,
            splits: &splits,
            folder: &augmented,
        };
        let set = training_rows(&augmentation, &found, &hub, out)?;
        let prepared = match folder {
            Some(_) => Prepared::find(config, &task, &augmentation, out)?,
            None => None,
        };
        let model = found.load(model, out)?;
        Ok(Self {
            found,
            set,
            model,
            prepared,
            _lock: lock,
        })
    }
}

/// The training split, augmented first if needed, as token ids.
fn training_rows(
    augmentation: &Augmentation<'_>,
    found: &FoundModel,
    hub: &Hub,
    out: &Output,
) -> anyhow::Result<TrainSet> {
    let (_, set) = encoding::training_rows(augmentation, &found.tokenizer, hub, out)?;
    let summary = set.summary();
    for note in truncations(&summary) {
        out.note(&note);
    }
    out.note(&in_short(&summary));
    Ok(set)
}

impl TrainArgs {
    /// The folder of the augmented files.
    fn augmented(&self, run: &RunFolder) -> PathBuf {
        self.augmented.clone().unwrap_or_else(|| run.augmented())
    }

    /// Takes the run's folder for this process, and tidies it up.
    fn take(&self, run: &RunFolder, start: Start, out: &Output) -> anyhow::Result<RunLock> {
        let lock = RunLock::take(run)?;
        remove_leftovers(run.path()).context("cannot tidy up after a killed run")?;
        if self.resume && start == Start::Afresh {
            let path = run.path().display();
            out.note(&format!(
                "`{path}` has no checkpoint yet: the run begins at step 1"
            ));
        }
        Ok(lock)
    }

    /// Where the run in the folder begins. One that took hours is not replaced by a slip.
    fn start(&self, run: &RunFolder) -> anyhow::Result<Start> {
        let path = run.path().display();
        let refuse = |message: String, hint: &str| Err(InputError::new(message, hint).into());
        if self.force {
            return Ok(Start::Afresh);
        }
        if run.is_finished() && self.resume {
            return refuse(
                format!("`{path}` holds a finished run: there is nothing to resume"),
                "`rag-tune eval` scores it; a run with more steps is another run: --out DIR trains it \
                 into another folder, --force in place of this one",
            );
        }
        if run.is_finished() {
            return refuse(
                format!("`{path}` holds a finished run"),
                "--force replaces it; --out DIR trains into another folder",
            );
        }
        match (run.has_checkpoints(), self.resume) {
            (true, true) => Ok(Start::Resume),
            (true, false) => refuse(
                format!("`{path}` holds an unfinished run"),
                "--resume goes on from its last checkpoint; --force begins again",
            ),
            (false, true) if !run.has_begun() => refuse(
                format!("`{path}` holds no run to resume"),
                "leave --resume out to begin the run",
            ),
            // Killed before its first checkpoint, it loses nothing by beginning again.
            (false, _) => Ok(Start::Afresh),
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

/// What to tell of a run that ends in its warmup: a short one that forgot the default is easily made.
fn endless_warmup(train: &TrainConfig, steps: usize) -> Option<String> {
    let warmup = train.warmup(steps);
    (warmup >= steps).then(|| {
        format!(
            "the warmup of {warmup} steps is as long as the run of {steps} or longer: the learning rate only rises, to {:.1e} of {:.1e}; \
             set `train.warmup_steps` or `train.warmup_ratio`",
            LearningRate::new(train, steps).at(steps),
            train.learning_rate,
        )
    })
}

/// What to tell where a step has too few micro-batches for so many ranks.
fn idle(summary: &DataSummary, ranks: usize) -> Option<String> {
    let (steps, micro_batches) = (summary.epoch.steps, summary.epoch.micro_batches);
    (micro_batches < ranks * steps).then(|| {
        format!(
            "a step has {:.1} micro-batches on average, fewer than the {ranks} ranks, some of which only wait: a smaller \
             `train.tokens_per_micro_batch` makes more of them",
            micro_batches as f64 / steps as f64
        )
    })
}

/// Draws the losses beside the adapter. A chart that fails is no reason to call a trained run a failure.
fn draw_losses(run: &RunFolder, synthetic: bool, out: &Output) {
    let runs = [run.path().to_owned()];
    if let Err(error) = rag_tune_report::loss_chart(&runs, synthetic, run.path(), "loss") {
        out.note(&format!("no loss chart: {error}"));
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
    if summary.skipped_steps > 0 {
        text += &format!(
            "; {} skipped as not finite (non_finite.jsonl)",
            summary.skipped_steps
        );
    }
    if let (Some(best), Ending::Finished { kept_step, .. }) = (summary.best, &summary.ending) {
        text += &format!(
            "; the adapter is that of step {kept_step} (best validation: {:.4}, step {})",
            best.value, best.step
        );
    }
    text
}
