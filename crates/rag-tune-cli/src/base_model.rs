//! The frozen model that a config names, ready to train on or to answer with.

use anyhow::Context;
use rag_tune_augment::Hub;
use rag_tune_model::checkpoint::Checkpoint;
use rag_tune_model::config::ModelConfig;
use rag_tune_model::llama::{Llama, LoadStage, WeightCache};
use rag_tune_model::lora::Adapter;
use rag_tune_model::peft;
use rag_tune_model::tokenizer::Tokenizer;
use rag_tune_train::config::LoraConfig;
use serde::{Deserialize, Serialize};

use crate::augmentation::cache_folder;
use crate::error::InputError;
use crate::files::{read_json, write_atomically};
use crate::output::Output;
use crate::run_folder::RunFolder;

/// A checkpoint that was found and opened; its weights are not in memory yet.
#[derive(Debug)]
pub struct FoundModel {
    /// Files and identity of the weights.
    pub checkpoint: Checkpoint,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

impl FoundModel {
    /// Finds `config.base` and reads everything but the weights, so that mistakes show at once.
    ///
    /// # Errors
    /// When it cannot be found, or is no Llama that we can run.
    pub fn open(config: &ModelConfig, hub: &Hub) -> anyhow::Result<Self> {
        let open = || -> anyhow::Result<Self> {
            let checkpoint = Checkpoint::open(&hub.model(&config.base)?)?;
            let tokenizer = checkpoint.tokenizer()?;
            Ok(Self {
                checkpoint,
                tokenizer,
            })
        };
        open().with_context(|| format!("cannot open the base model `{}`", config.base))
    }

    /// Checks what only the model can say of an adapter's settings.
    ///
    /// # Errors
    /// When a pattern of ranks or alphas is of none of its layers.
    pub fn check(&self, lora: &LoraConfig) -> anyhow::Result<()> {
        let blocks = self.checkpoint.config().num_hidden_layers;
        let checked = lora.settings().check_patterns(blocks);
        checked.context("cannot make this adapter")
    }

    /// Brings the weights into memory.
    ///
    /// # Errors
    /// When a tensor is missing, mis-shaped or truncated.
    pub fn load(&self, config: &ModelConfig, out: &Output) -> anyhow::Result<Llama> {
        load(&self.checkpoint, config, out)
    }
}

/// Brings a checkpoint's weights into memory.
///
/// # Errors
/// When a tensor is missing, mis-shaped or truncated.
pub fn load(checkpoint: &Checkpoint, config: &ModelConfig, out: &Output) -> anyhow::Result<Llama> {
    load_kept(checkpoint, config, out).map(|(model, _)| model)
}

/// As [`load`], and what became of the 8-bit weights on disk.
///
/// # Errors
/// As [`load`].
pub fn load_kept(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    out: &Output,
) -> anyhow::Result<(Llama, WeightCache)> {
    let progress = out.progress();
    let mut stage = None;
    let mut step = |now: LoadStage, done: usize, total: usize| {
        if stage.replace(now) != Some(now) {
            let what = match now {
                LoadStage::Loading => "loading the base model",
                LoadStage::Writing => "keeping the 8-bit weights",
            };
            progress.start(what, total as u64);
        }
        progress.move_to(done as u64);
    };
    let is_cached = config.cache_weights.covers(checkpoint.file_bytes());
    let loaded = match cache_folder().filter(|_| is_cached) {
        None => Llama::load(checkpoint, config, &mut |done, total| {
            step(LoadStage::Loading, done, total);
        })
        .map(|model| (model, WeightCache::Unused)),
        Some(folder) => Llama::load_cached(checkpoint, config, &folder.join("weights"), &mut step),
    };
    progress.finish();
    let (model, cache) =
        loaded.with_context(|| format!("cannot load the base model `{}`", config.base))?;
    match &cache {
        WeightCache::Unused | WeightCache::Mapped(_) => {}
        WeightCache::Written { path, bytes } => out.note(&format!(
            "kept the 8-bit weights in {} ({:.1} GB): the next start maps them",
            path.display(),
            *bytes as f64 / 1e9
        )),
        WeightCache::NotWritten { path, error } => out.note(&format!(
            "the 8-bit weights could not be kept in {}: {error}; the next start quantizes again",
            path.display()
        )),
    }
    Ok((placed(model, config, out)?, cache))
}

/// That the GPU which `config` names is there: before hours of work for it.
///
/// # Errors
/// When it is not.
pub fn check_device(config: &ModelConfig) -> anyhow::Result<()> {
    config.check_gpu().map_err(|error| {
        let name = String::from(config.device);
        let hint = "set `model.device` to \"auto\", which takes the CPU where there is no GPU, or to \"cpu\"";
        InputError::new(format!("cannot use the device `{name}`: {error}"), hint).into()
    })
}

/// The model where `config` wants it.
///
/// # Errors
/// When the GPU is not there, or its memory is not enough for the weights.
pub fn placed(model: Llama, config: &ModelConfig, out: &Output) -> anyhow::Result<Llama> {
    check_device(config)?;
    let open = || format!("cannot use the device `{}`", String::from(config.device));
    let Some(device) = config.gpu().with_context(open)? else {
        return Ok(model);
    };
    out.note(&format!("the model runs on {}", device.name()));
    let bytes = model.weight_bytes();
    model.into_device(&device).with_context(|| {
        format!(
            "cannot put {:.1} GB of weights on {}",
            bytes as f64 / 1e9,
            device.name()
        )
    })
}

/// `base_model.json` beside an adapter: which weights it was trained on. A name can come to mean
/// other weights; the fingerprint cannot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseRecord {
    /// `model.base` of the training run.
    pub base: String,
    /// [`Checkpoint::fingerprint`].
    pub fingerprint: String,
}

impl BaseRecord {
    /// Writes it into a run's folder.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save(&self, run: &RunFolder) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self).context("cannot write the base's record")?;
        write_atomically(&run.base_record(), &(text + "\n"))
    }

    /// That of a run's folder.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn load(run: &RunFolder) -> anyhow::Result<Self> {
        read_json(&run.base_record())
    }
}

/// Loads a run's adapter for `checkpoint`, if it was trained on exactly these weights.
///
/// # Errors
/// When it was not, or its files are damaged.
pub fn load_adapter(run: &RunFolder, checkpoint: &Checkpoint) -> anyhow::Result<Adapter> {
    let record = BaseRecord::load(run)?;
    if record.fingerprint != checkpoint.fingerprint() {
        let message = format!(
            "the adapter in `{}` was trained on another base model: `{}` had other weights than `{}`",
            run.path().display(),
            record.base,
            checkpoint.path().display()
        );
        let hint = "set `model.base` to the model that it was trained on, in the same precision";
        return Err(InputError::new(message, hint).into());
    }
    peft::load(run.path(), checkpoint.config())
        .with_context(|| format!("cannot load the adapter in `{}`", run.path().display()))
}
