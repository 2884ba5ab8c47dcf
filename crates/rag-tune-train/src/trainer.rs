//! The training loop.

use std::path::{Path, PathBuf};

use rag_tune_augment::atomic_file::write_file;
use rag_tune_model::llama::Llama;
use rag_tune_model::lora::Adapter;
use rag_tune_model::peft;
use sha2::{Digest, Sha256};

use crate::batch::TrainSet;
use crate::checkpoint::Checkpoints;
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
}

/// Where a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At step 1.
    Afresh,
    /// After the last checkpoint.
    Resume,
}

/// What a finished run leaves.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainSummary {
    /// Steps of the run, those before a resume included.
    pub steps: usize,
    /// The last step's record; `None` where a resumed run was already complete.
    pub last: Option<StepRecord>,
    /// The adapter's weights.
    pub adapter: PathBuf,
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
        fingerprint(request),
        request.base.to_owned(),
        request.lora.dropout,
    );
    let mut state = match request.start {
        Start::Afresh => RunState::default(),
        Start::Resume => {
            let state = checkpoints.restore(&mut run.adapter, &mut run.optimizer)?;
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
        if step % request.train.checkpoint_every == 0 || step == total {
            checkpoints.save(&state, &run.adapter, &run.optimizer)?;
        }
    }
    Ok(TrainSummary {
        steps: state.step,
        last,
        adapter: save_adapter(request, &run.adapter)?,
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

/// Identity of a run: base model, rows and every setting that its result depends on.
fn fingerprint(request: &TrainRequest<'_>) -> String {
    let mut hash = Sha256::new();
    let train = TrainConfig {
        checkpoint_every: 1,
        ..request.train.clone()
    };
    let settings = serde_json::json!([request.lora, train, request.seed]);
    hash.update(request.model.fingerprint());
    hash.update(settings.to_string());
    hash.update(format!("{:?}", request.model.compute()));
    request.set.hash_into(&mut |bytes| hash.update(bytes));
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
