//! The training loop.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rag_tune_augment::atomic_file::write_file;
use rag_tune_model::llama::Llama;
use rag_tune_model::lora::Adapter;
use rag_tune_model::peft;

use crate::batch::TrainSet;
use crate::checkpoint::{Checkpoints, Identity};
use crate::config::{LoraConfig, TrainConfig};
use crate::error::TrainError;
use crate::event::Event;
use crate::metrics::{MetricsFile, StepRecord};
use crate::run_state::RunState;
use crate::step::Run;

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

/// What a run calls back.
pub struct Hooks<'a> {
    /// Sees everything that happens, as it happens.
    pub observe: &'a mut dyn FnMut(Event<'_>),
    /// Once set, the run ends after the step that it is in, with a checkpoint.
    pub stop: &'a AtomicBool,
}

/// Where a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At step 1.
    Afresh,
    /// After the last checkpoint.
    Resume,
}

/// What a run leaves.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainSummary {
    /// Steps of the run, those before a resume included.
    pub steps: usize,
    /// The last step's record; `None` where a resumed run was already complete.
    pub last: Option<StepRecord>,
    /// How it ended.
    pub ending: Ending,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// All steps are done.
    Finished {
        /// The adapter's weights.
        adapter: PathBuf,
    },
    /// [`Hooks::stop`] was set. The last step has a checkpoint; the folder has no adapter of its own.
    Stopped,
}

/// Trains an adapter into `request.out`.
///
/// # Errors
/// [`TrainError`] if a file cannot be written, a checkpoint does not belong to the run, or loss or
/// gradient are not finite; the last checkpoint stays.
pub fn train(
    request: &TrainRequest<'_>,
    hooks: &mut Hooks<'_>,
) -> Result<TrainSummary, TrainError> {
    let total = request.train.total_steps(request.set.rows());
    let mut run = Run::new(request, total);
    let checkpoints = Checkpoints::new(
        request.out,
        Identity::of(request),
        request.base.to_owned(),
        request.lora.dropout,
        request.train.keep_checkpoints,
    );
    checkpoints.clean()?;
    let mut state = match request.start {
        Start::Afresh => RunState::default(),
        Start::Resume => {
            let (adapter, optimizer) = (&mut run.adapter, &mut run.optimizer);
            let state = checkpoints.restore(adapter, optimizer, hooks.observe)?;
            (hooks.observe)(Event::Resumed { step: state.step });
            state
        }
    };
    let metrics = MetricsFile::open(request.out, state.step + 1)?;
    let mut last = None;
    while state.step < total {
        let step = state.step + 1;
        let record = run.step(step)?;
        state.step = step;
        metrics.append(&record)?;
        (hooks.observe)(Event::Step(&record));
        last = Some(record);
        let stopped = step < total && hooks.stop.load(Ordering::Relaxed);
        if step % request.train.checkpoint_every == 0 || step == total || stopped {
            metrics.sync()?;
            checkpoints.save(&state, &run.adapter, &run.optimizer)?;
        }
        if stopped {
            let (steps, ending) = (step, Ending::Stopped);
            return Ok(TrainSummary {
                steps,
                last,
                ending,
            });
        }
    }
    let adapter = save_adapter(request, &run.adapter)?;
    Ok(TrainSummary {
        steps: state.step,
        last,
        ending: Ending::Finished { adapter },
    })
}

/// Writes what the run was for. A folder with the weights' file holds a finished run, so it comes last.
fn save_adapter(request: &TrainRequest<'_>, adapter: &Adapter) -> Result<PathBuf, TrainError> {
    let config = peft::config_text(adapter, request.base, request.lora.dropout)?;
    let config_path = request.out.join(peft::CONFIG_FILE);
    write_file(&config_path, config.as_bytes()).map_err(TrainError::write(&config_path))?;
    let weights = peft::weights_bytes(adapter)?;
    let path = request.out.join(peft::WEIGHTS_FILE);
    write_file(&path, &weights).map_err(TrainError::write(&path))?;
    Ok(path)
}
