//! The training loop.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rag_tune_augment::atomic_file::write_file;
use rag_tune_model::llama::Llama;
use rag_tune_model::lora::Adapter;
use rag_tune_model::peft;

use crate::batch::TrainSet;
use crate::checkpoint::{Checkpoints, Identity};
use crate::config::{KeptAdapter, LoraConfig, TrainConfig};
use crate::early_stopping::Best;
use crate::error::TrainError;
use crate::event::Event;
use crate::metrics::{METRICS_FILE, StepLines, StepRecord};
use crate::run_state::RunState;
use crate::skipped::{NON_FINITE_FILE, SkippedStep};
use crate::step::{Outcome, Run};
use crate::validation::{VALIDATION_FILE, Validation, ValidationRecord};

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
    /// Judges the adapter from time to time.
    pub validation: Option<Validation<'a>>,
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
    /// Steps that were skipped because loss or gradient were not finite.
    pub skipped_steps: usize,
    /// The last step's record; `None` where a resumed run was already complete.
    pub last: Option<StepRecord>,
    /// The best validation, if there was one.
    pub best: Option<Best>,
    /// How it ended.
    pub ending: Ending,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// All steps are done, or validation has ended the run.
    Finished {
        /// The step that the adapter is of.
        kept_step: usize,
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
    let total = request.set.total_steps();
    let mut run = Run::new(request, total)?;
    let mut identity = Identity::of(request);
    if let Some(validation) = &hooks.validation {
        identity = identity.with_validation(validation);
    }
    let checkpoints = Checkpoints::new(
        request.out,
        identity,
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
    let metrics = StepLines::open(request.out, METRICS_FILE, state.step + 1)?;
    if request.out.join(NON_FINITE_FILE).exists() {
        StepLines::open(request.out, NON_FINITE_FILE, state.step + 1)?;
    }
    let validations = match &hooks.validation {
        Some(_) => Some(StepLines::open(
            request.out,
            VALIDATION_FILE,
            state.step + 1,
        )?),
        None => None,
    };
    let mut last = None;
    while state.step < total && !is_exhausted(hooks, &state) {
        let step = state.step + 1;
        match run.step(step, state.updates())? {
            Outcome::Done(record) => {
                state.skipped_in_a_row.clear();
                metrics.append(&record)?;
                (hooks.observe)(Event::Step(&record));
                last = Some(record);
            }
            Outcome::Skipped(skipped) => {
                let lines = StepLines::open(request.out, NON_FINITE_FILE, step)?;
                skip(request, hooks, &mut state, &lines, skipped)?;
            }
        }
        state.step = step;
        let mut save = step % request.train.checkpoint_every == 0 || step == total;
        // Before the checkpoint: it knows this validation, so a resumed run does not repeat it.
        if let Some(record) = validate(hooks, &mut state, &run.adapter, total)? {
            if let Some(lines) = &validations {
                lines.append(&record)?;
                lines.sync()?;
            }
            (hooks.observe)(Event::Validated(&record));
            save |= record.best || is_exhausted(hooks, &state);
        }
        let stopped =
            step < total && !is_exhausted(hooks, &state) && hooks.stop.load(Ordering::Relaxed);
        if save || stopped {
            metrics.sync()?;
            checkpoints.save(&state, &run.adapter, &run.optimizer)?;
        }
        if stopped {
            let (steps, ending) = (step, Ending::Stopped);
            return Ok(TrainSummary {
                steps,
                skipped_steps: state.skipped_steps,
                last,
                best: state.validation.best,
                ending,
            });
        }
    }
    let best = state.validation.best;
    if let Some(best) = best.filter(|_| is_exhausted(hooks, &state)) {
        let step = state.step;
        (hooks.observe)(Event::StoppedEarly { step, best });
    }
    let kept_step = kept_step(hooks, &state);
    if kept_step != state.step {
        checkpoints.read_adapter(kept_step, &mut run.adapter)?;
    }
    let adapter = save_adapter(request, &run.adapter)?;
    Ok(TrainSummary {
        steps: state.step,
        skipped_steps: state.skipped_steps,
        last,
        best,
        ending: Ending::Finished { kept_step, adapter },
    })
}

/// Writes a skipped step down, and gives up where it is one too many.
fn skip(
    request: &TrainRequest<'_>,
    hooks: &mut Hooks<'_>,
    state: &mut RunState,
    lines: &StepLines,
    skipped: SkippedStep,
) -> Result<(), TrainError> {
    lines.append(&skipped)?;
    lines.sync()?;
    (hooks.observe)(Event::Skipped(&skipped));
    state.skipped_steps += 1;
    state.skipped_in_a_row.push(skipped);
    if state.skipped_in_a_row.len() > request.train.max_non_finite_steps {
        let steps = std::mem::take(&mut state.skipped_in_a_row);
        return Err(TrainError::NonFinite { steps });
    }
    Ok(())
}

/// Whether the run has gone without improvement for too long.
fn is_exhausted(hooks: &Hooks<'_>, state: &RunState) -> bool {
    let validation = hooks.validation.as_ref();
    validation.is_some_and(|validation| state.validation.is_exhausted(validation.config))
}

/// The step whose adapter the run ends with.
fn kept_step(hooks: &Hooks<'_>, state: &RunState) -> usize {
    let keep = hooks.validation.as_ref().map(|it| it.config.keep);
    match (keep, state.validation.best) {
        (Some(KeptAdapter::Best), Some(best)) => best.step,
        _ => state.step,
    }
}

/// Judges the adapter if that is due after the step, and remembers the value.
fn validate(
    hooks: &mut Hooks<'_>,
    state: &mut RunState,
    adapter: &Adapter,
    total: usize,
) -> Result<Option<ValidationRecord>, TrainError> {
    let step = state.step;
    let Some(Validation { config, judge }) = &mut hooks.validation else {
        return Ok(None);
    };
    if !config.is_due(step, total) {
        return Ok(None);
    }
    (hooks.observe)(Event::Validating { step });
    let start = Instant::now();
    let measured = judge
        .validate(adapter)
        .map_err(|source| TrainError::Validation { step, source })?;
    if !measured.value.is_finite() {
        return Err(TrainError::ValidationNotFinite {
            step,
            metric: judge.metric().to_owned(),
            value: measured.value,
        });
    }
    let value = measured.value as f32;
    Ok(Some(ValidationRecord {
        step,
        metric: judge.metric().to_owned(),
        value,
        ci95: measured.ci95,
        rows: judge.rows(),
        best: state.validation.add(config, step, value),
        seconds: start.elapsed().as_secs_f64(),
    }))
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
