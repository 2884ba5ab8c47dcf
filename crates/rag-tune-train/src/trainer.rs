//! The training loop.
//!
//! Every rank goes through it. Rank 0 alone has the run's [`Files`] and judges the adapter; what it
//! decides after a step it tells the others.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rag_tune_augment::atomic_file::write_file;
use rag_tune_kernels::cuda::Device;
use rag_tune_model::llama::Llama;
use rag_tune_model::lora::Adapter;
use rag_tune_model::peft;
use serde::{Deserialize, Serialize};

use crate::batch::TrainSet;
use crate::checkpoint::{self, Checkpoints, Identity};
use crate::config::{KeptAdapter, LoraConfig, TrainConfig};
use crate::early_stopping::{Best, EarlyStopping};
use crate::error::TrainError;
use crate::event::Event;
use crate::metrics::{METRICS_FILE, StepLines, StepRecord};
use crate::optimizer::Optimizer;
use crate::ranks::devices::{DeviceSums, Place, shared};
use crate::ranks::{Collective, RankError, broadcast_json};
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
    /// The run's folder, into which only rank 0 writes.
    pub out: &'a Path,
    /// Whether to continue from the folder's last checkpoint. Of several ranks, rank 0's word counts.
    pub start: Start,
}

/// What a run calls back.
pub struct Hooks<'a> {
    /// Sees everything that happens, as it happens.
    pub observe: &'a mut dyn FnMut(Event<'_>),
    /// Once set on any rank, the run ends after the step that it is in, with a checkpoint.
    pub stop: &'a AtomicBool,
    /// Judges the adapter from time to time; only on rank 0.
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

/// Trains an adapter into `request.out`, together with the other ranks.
///
/// # Errors
/// [`TrainError`] if a file cannot be written, a checkpoint does not belong to the run, loss or
/// gradient are not finite, or a rank is lost; the last checkpoint stays.
pub fn train(
    request: &TrainRequest<'_>,
    hooks: &mut Hooks<'_>,
    ranks: &mut dyn Collective,
) -> Result<TrainSummary, TrainError> {
    let training = Training::begin(request, hooks, ranks);
    let trained = training.and_then(|mut training| training.run(hooks, ranks));
    if let Err(error) = &trained {
        let why = why(error, ranks.world().rank);
        ranks.give_up(&why);
    }
    trained
}

/// A run on one rank.
struct Training<'a> {
    request: &'a TrainRequest<'a>,
    total: usize,
    run: Run<'a>,
    state: RunState,
    /// Whether the run has gone without improvement for too long.
    is_exhausted: bool,
    last: Option<StepRecord>,
    /// Only on rank 0.
    files: Option<Files>,
}

/// What a run writes while it goes on.
struct Files {
    checkpoints: Checkpoints,
    /// The step of the newest checkpoint.
    saved: usize,
    metrics: StepLines,
    validations: Option<StepLines>,
}

/// What rank 0 decides after a step.
#[derive(Debug, Serialize, Deserialize)]
struct AfterStep {
    validation: EarlyStopping,
    is_exhausted: bool,
    is_stopped: bool,
}

impl<'a> Training<'a> {
    fn begin(
        request: &'a TrainRequest<'a>,
        hooks: &mut Hooks<'_>,
        ranks: &mut dyn Collective,
    ) -> Result<Self, TrainError> {
        let total = request.set.total_steps();
        let mut run = Run::new(request, total)?;
        let identity = Identity::of(request);
        let places = agree(&identity, run.place(), ranks)?;
        if let Some(device) = request.model.device().filter(|_| ranks.world().size > 1) {
            run.device_sums = Some(join(device, &places, hooks, ranks)?);
        }
        let mut state = RunState::default();
        let files = match ranks.world().is_first() {
            true => Some(Files::open(
                request, identity, hooks, ranks, &mut run, &mut state,
            )?),
            false => {
                if broadcast_json(ranks, false)? {
                    let (adapter, optimizer) = (&mut run.adapter, &mut run.optimizer);
                    state = checkpoint::receive(adapter, optimizer, ranks)?;
                }
                None
            }
        };
        let is_exhausted = broadcast_json(ranks, is_exhausted(hooks, &state))?;
        Ok(Self {
            request,
            total,
            run,
            state,
            is_exhausted,
            last: None,
            files,
        })
    }

    fn run(
        &mut self,
        hooks: &mut Hooks<'_>,
        ranks: &mut dyn Collective,
    ) -> Result<TrainSummary, TrainError> {
        let ending = match self.steps(hooks, ranks) {
            Ok(Some(ending)) => ending,
            Ok(None) => self.finish(hooks, ranks)?,
            Err(TrainError::Ranks(source)) => return Err(self.save_the_last_step(source)),
            Err(error) => return Err(error),
        };
        Ok(TrainSummary {
            steps: self.state.step,
            skipped_steps: self.state.skipped_steps,
            last: self.last.take(),
            best: self.state.validation.best,
            ending,
        })
    }

    /// Does the steps that are left; an ending if they end before their time.
    fn steps(
        &mut self,
        hooks: &mut Hooks<'_>,
        ranks: &mut dyn Collective,
    ) -> Result<Option<Ending>, TrainError> {
        while self.state.step < self.total && !self.is_exhausted {
            let step = self.state.step + 1;
            let bound = self.run.bound();
            let outcome = self.run.step(step, self.state.updates(), ranks)?;
            if let Some(tokens) = self.run.bound().filter(|_| self.run.bound() != bound) {
                (hooks.observe)(Event::Divided { step, tokens });
            }
            match outcome {
                Outcome::Done(record) => self.record(record, hooks)?,
                Outcome::Skipped(skipped) => self.skip(skipped, hooks)?,
            }
            self.state.step = step;
            let heard = self.hear(hooks, ranks);
            // Before a checkpoint: it knows this validation, so a resumed run does not repeat it.
            let mut save = self.judge(hooks)?;
            // Where a rank is lost now, the step is done all the same, and judged.
            let is_stopped = heard?;
            let after = AfterStep {
                validation: self.state.validation.clone(),
                is_exhausted: self.is_exhausted,
                is_stopped: is_stopped && step < self.total && !self.is_exhausted,
            };
            let after = broadcast_json(ranks, after)?;
            self.state.validation = after.validation;
            self.is_exhausted = after.is_exhausted;
            save |= step.is_multiple_of(self.request.train.checkpoint_every) || step == self.total;
            if save || after.is_stopped {
                self.save()?;
            }
            if after.is_stopped {
                return Ok(Some(Ending::Stopped));
            }
        }
        Ok(None)
    }

    fn record(&mut self, record: StepRecord, hooks: &mut Hooks<'_>) -> Result<(), TrainError> {
        self.state.skipped_in_a_row.clear();
        if let Some(files) = &self.files {
            files.metrics.append(&record)?;
        }
        (hooks.observe)(Event::Step(&record));
        self.last = Some(record);
        Ok(())
    }

    /// Writes a skipped step down, and gives up where it is one too many.
    fn skip(&mut self, skipped: SkippedStep, hooks: &mut Hooks<'_>) -> Result<(), TrainError> {
        if self.files.is_some() {
            let lines = StepLines::open(self.request.out, NON_FINITE_FILE, skipped.step)?;
            lines.append(&skipped)?;
            lines.sync()?;
        }
        (hooks.observe)(Event::Skipped(&skipped));
        let state = &mut self.state;
        state.skipped_steps += 1;
        state.skipped_in_a_row.push(skipped);
        if state.skipped_in_a_row.len() > self.request.train.max_non_finite_steps {
            let steps = std::mem::take(&mut state.skipped_in_a_row);
            return Err(TrainError::NonFinite { steps });
        }
        Ok(())
    }

    /// What every rank tells at the end of a step: whether it was asked to stop, and which adapter it
    /// has. On rank 0, whether any was.
    fn hear(&self, hooks: &Hooks<'_>, ranks: &mut dyn Collective) -> Result<bool, TrainError> {
        let mut stop = hooks.stop.load(Ordering::Relaxed);
        if ranks.world().size == 1 {
            return Ok(stop);
        }
        let adapter = self.run.adapter_checksum()?.to_le_bytes();
        let own = [&[u8::from(stop)][..], &adapter].concat();
        for (rank, told) in ranks.gather(&own)?.iter().enumerate() {
            if told.get(1..) != Some(&adapter[..]) {
                let step = self.state.step;
                return Err(RankError::Drifted { rank, step }.into());
            }
            stop |= told[0] != 0;
        }
        Ok(stop)
    }

    /// Rank 0: judges the adapter if that is due after the step. Returns whether it is to be kept.
    fn judge(&mut self, hooks: &mut Hooks<'_>) -> Result<bool, TrainError> {
        let Some(files) = &self.files else {
            return Ok(false);
        };
        let Some(record) = validate(hooks, &mut self.state, &self.run.adapter, self.total)? else {
            return Ok(false);
        };
        if let Some(lines) = &files.validations {
            lines.append(&record)?;
            lines.sync()?;
        }
        (hooks.observe)(Event::Validated(&record));
        self.is_exhausted = is_exhausted(hooks, &self.state);
        Ok(record.best || self.is_exhausted)
    }

    /// Rank 0: writes a checkpoint.
    fn save(&mut self) -> Result<(), TrainError> {
        if let Some(files) = &mut self.files {
            files.metrics.sync()?;
            let (adapter, optimizer) = (&self.run.adapter, &self.run.optimizer);
            files.checkpoints.save(&self.state, adapter, optimizer)?;
            files.saved = self.state.step;
        }
        Ok(())
    }

    /// Rank 0, when another is lost: what all have done together stays.
    fn save_the_last_step(&mut self, source: RankError) -> TrainError {
        let step = self.state.step;
        let Some(files) = self.files.as_ref().filter(|_| step > 0) else {
            return source.into();
        };
        let path = files.checkpoints.path(step);
        if files.saved < step
            && let Err(error) = self.save()
        {
            return error;
        }
        TrainError::RankLost { step, path, source }
    }

    fn finish(
        &mut self,
        hooks: &mut Hooks<'_>,
        ranks: &mut dyn Collective,
    ) -> Result<Ending, TrainError> {
        let mut kept_step = self.state.step;
        if let Some(files) = &self.files {
            if let Some(best) = self.state.validation.best.filter(|_| self.is_exhausted) {
                let step = self.state.step;
                (hooks.observe)(Event::StoppedEarly { step, best });
            }
            kept_step = self::kept_step(hooks, &self.state);
            if kept_step != self.state.step {
                let adapter = &mut self.run.adapter;
                files.checkpoints.read_adapter(kept_step, adapter)?;
            }
            save_adapter(self.request, &self.run.adapter)?;
        }
        let adapter = self.request.out.join(peft::WEIGHTS_FILE);
        match broadcast_json(ranks, kept_step) {
            Ok(kept_step) => Ok(Ending::Finished { kept_step, adapter }),
            // The run is done and written, whoever is lost now.
            Err(_) if self.files.is_some() => Ok(Ending::Finished { kept_step, adapter }),
            Err(error) => Err(error.into()),
        }
    }
}

impl Files {
    /// Opens the files of a run, and restores where it stood if it goes on; the other ranks get that too.
    fn open(
        request: &TrainRequest<'_>,
        mut identity: Identity,
        hooks: &mut Hooks<'_>,
        ranks: &mut dyn Collective,
        run: &mut Run<'_>,
        state: &mut RunState,
    ) -> Result<Self, TrainError> {
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
        let resumes = request.start == Start::Resume;
        broadcast_json(ranks, resumes)?;
        if resumes {
            let (adapter, optimizer): (&mut Adapter, &mut Optimizer) =
                (&mut run.adapter, &mut run.optimizer);
            let (restored, path) = checkpoints.restore(adapter, optimizer, hooks.observe)?;
            let step = restored.step;
            checkpoint::give(step, &path, ranks)?;
            *state = restored;
            (hooks.observe)(Event::Resumed { step });
        }
        let next = state.step + 1;
        let metrics = StepLines::open(request.out, METRICS_FILE, next)?;
        if request.out.join(NON_FINITE_FILE).exists() {
            StepLines::open(request.out, NON_FINITE_FILE, next)?;
        }
        let validations = match &hooks.validation {
            Some(_) => Some(StepLines::open(request.out, VALIDATION_FILE, next)?),
            None => None,
        };
        Ok(Self {
            checkpoints,
            saved: state.step,
            metrics,
            validations,
        })
    }
}

/// Makes sure that all ranks train the same run, on the same kind of place; rank 0 names one that does not. Returns, on rank 0, where each
/// rank computes.
fn agree(
    identity: &Identity,
    place: Place,
    ranks: &mut dyn Collective,
) -> Result<Vec<Place>, TrainError> {
    if ranks.world().size == 1 {
        return Ok(vec![place]);
    }
    let own = serde_json::to_vec(&(identity, &place)).expect("strings are JSON");
    let mut places = Vec::new();
    for (rank, theirs) in ranks.gather(&own)?.iter().enumerate() {
        let difference = match serde_json::from_slice::<(Identity, Place)>(theirs) {
            Ok((theirs, its_place)) => {
                // First: on another kind of place `model.compute` is another too, which only follows.
                its_place.check_kind(rank, &place)?;
                places.push(its_place);
                theirs.difference_from_first(identity)
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(difference) = difference {
            return Err(RankError::OtherRun { rank, difference }.into());
        }
    }
    Ok(places)
}

/// Joins the ranks' devices for sums, and tells what a user may want to mend.
fn join(
    device: &Device,
    places: &[Place],
    hooks: &mut Hooks<'_>,
    ranks: &mut dyn Collective,
) -> Result<DeviceSums, TrainError> {
    for shared in shared(places) {
        let (ranks, device) = (&shared.ranks[..], &shared.device[..]);
        (hooks.observe)(Event::SharedDevice { ranks, device });
    }
    let (sums, why) = DeviceSums::meet(device, places, ranks)?;
    if let Some(why) = &why {
        (hooks.observe)(Event::SumsThroughHost { why });
    }
    Ok(sums)
}

/// What the other ranks are told of an error.
fn why(error: &TrainError, rank: usize) -> RankError {
    match error {
        TrainError::Ranks(error) | TrainError::RankLost { source: error, .. } => error.clone(),
        error => {
            let mut message = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                message += &format!(": {error}");
                cause = error.source();
            }
            RankError::Failed { rank, message }
        }
    }
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
        .validate(&*adapter.to_host()?)
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
fn save_adapter(request: &TrainRequest<'_>, adapter: &Adapter) -> Result<(), TrainError> {
    let config = peft::config_text(adapter, request.base, request.lora.dropout)?;
    let config_path = request.out.join(peft::CONFIG_FILE);
    write_file(&config_path, config.as_bytes()).map_err(TrainError::write(&config_path))?;
    let weights = peft::weights_bytes(adapter)?;
    let path = request.out.join(peft::WEIGHTS_FILE);
    write_file(&path, &weights).map_err(TrainError::write(&path))
}
