//! The model that is timed: a checkpoint, or noise in a model's shape.

use anyhow::Context;
use clap::Args;
use rag_tune_augment::Hub;
use rag_tune_model::checkpoint::Checkpoint;
use rag_tune_model::config::{
    CacheWeights, Compute, Device, LlamaConfig, ModelConfig, Quantization,
};
use rag_tune_model::llama::{Llama, WeightCache};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::figures::Figures;
use super::shapes::shape;
use crate::base_model::{load_kept, placed};
use crate::commands::HubArgs;
use crate::error::InputError;
use crate::output::Output;

/// Which model, and how it is held and computed.
#[derive(Debug, Args)]
pub struct SubjectArgs {
    /// The base model: a hub id, a folder, or a .gguf file
    #[arg(
        long,
        value_name = "MODEL",
        required_unless_present = "synthetic",
        conflicts_with = "synthetic"
    )]
    base: Option<String>,
    /// Instead of a model, noise in its shape, as fast and as large: codellama-7b, llama-2-7b, smollm2-135m, or a config.json
    #[arg(long, value_name = "SHAPE")]
    synthetic: Option<String>,
    /// As `model.device` in a config
    #[arg(long, default_value = "cpu", value_parser = setting::<Device>)]
    device: Device,
    /// As `model.compute` in a config
    #[arg(long, default_value = "auto", value_parser = setting::<Compute>)]
    compute: Compute,
    /// As `model.quantization` in a config
    #[arg(long, default_value = "int8", value_parser = setting::<Quantization>)]
    quantization: Quantization,
    #[command(flatten)]
    hub: HubArgs,
}

/// A value as the config's key of the same name takes it.
pub fn setting<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_value(Value::from(text))
}

/// A model that was found; its weights are not in memory yet.
pub struct Subject {
    name: String,
    weights: Weights,
    config: ModelConfig,
}

enum Weights {
    Checkpoint(Box<Checkpoint>),
    Noise(LlamaConfig),
}

impl SubjectArgs {
    /// Finds the model.
    ///
    /// # Errors
    /// When there is none, or it is no Llama that we can run.
    pub fn find(&self) -> anyhow::Result<Subject> {
        let hub: Hub = self.hub.hub();
        let (name, weights) = match (&self.synthetic, &self.base) {
            (Some(name), _) => (
                format!("{name} (noise)"),
                Weights::Noise(shape(name).context("cannot make a model of noise")?),
            ),
            (None, base) => {
                let base = base
                    .as_deref()
                    .context("--base or --synthetic is required")?;
                let open = || anyhow::Ok(Checkpoint::open(&hub.model(base)?)?);
                let checkpoint =
                    open().with_context(|| format!("cannot open the base model `{base}`"))?;
                (base.to_owned(), Weights::Checkpoint(Box::new(checkpoint)))
            }
        };
        let config = ModelConfig {
            base: name.clone(),
            device: self.device,
            compute: self.compute,
            quantization: self.quantization,
            ..Default::default()
        };
        let problems = config.validate();
        if let Some(problem) = problems.into_iter().next() {
            let hint = "--device, --compute and --quantization are these keys";
            return Err(InputError::new(problem, hint).into());
        }
        Ok(Subject {
            name,
            weights,
            config,
        })
    }
}

impl Subject {
    /// The model's shape.
    pub fn shape(&self) -> &LlamaConfig {
        match &self.weights {
            Weights::Checkpoint(checkpoint) => checkpoint.config(),
            Weights::Noise(shape) => shape,
        }
    }

    /// Refuses rows that the model has no positions for.
    ///
    /// # Errors
    /// When it has none.
    pub fn check_length(&self, flags: &str, tokens: usize) -> anyhow::Result<()> {
        let most = self.shape().max_position_embeddings;
        if tokens <= most {
            return Ok(());
        }
        let message = format!("{flags} asks for {tokens} tokens in a row");
        let hint = format!("`{}` was made for at most {most}", self.name);
        Err(InputError::new(message, hint).into())
    }

    /// The same, with 8-bit weights left on disk as `cache_weights` says.
    pub fn caching(mut self, cache_weights: CacheWeights) -> Self {
        self.config.cache_weights = cache_weights;
        self
    }

    /// Bytes of the model's files.
    pub fn file_bytes(&self) -> u64 {
        match &self.weights {
            Weights::Checkpoint(checkpoint) => checkpoint.file_bytes(),
            Weights::Noise(_) => 0,
        }
    }

    /// Brings the weights into memory.
    ///
    /// # Errors
    /// When they cannot be read, or this machine cannot compute as asked.
    pub fn load(&self, out: &Output) -> anyhow::Result<Llama> {
        self.load_kept(out).map(|(model, _)| model)
    }

    /// As [`Self::load`], and what became of the 8-bit weights on disk.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_kept(&self, out: &Output) -> anyhow::Result<(Llama, WeightCache)> {
        match &self.weights {
            Weights::Checkpoint(checkpoint) => load_kept(checkpoint, &self.config, out),
            Weights::Noise(shape) => {
                let model = Llama::synthetic(shape, &self.config);
                let model =
                    model.with_context(|| format!("cannot make the model `{}`", self.name))?;
                Ok((placed(model, &self.config, out)?, WeightCache::Unused))
            }
        }
    }

    /// What was timed.
    pub fn figures(&self, work: &str, model: &Llama, batch: usize, seq: usize) -> Figures {
        Figures::default()
            .say("work", work)
            .say("model", &self.name)
            .say("compute", lower(model.compute()))
            .say("quantization", lower(model.quantization()))
            .say("weight_bytes", model.weight_bytes())
            .say("threads", rayon::current_num_threads())
            .say("batch", batch)
            .say("seq", seq)
    }
}

/// A setting's name as configs spell it.
fn lower(setting: impl std::fmt::Debug) -> impl Serialize {
    let mut name = String::new();
    for letter in format!("{setting:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(letter.to_lowercase());
    }
    name
}

/// Tokens that look like any others; the same in every run.
pub fn random_ids(rows: usize, tokens: usize, vocab_size: usize) -> Vec<Vec<u32>> {
    let id = |at: usize| (at as u64 * 2_654_435_761 % vocab_size as u64) as u32;
    (0..rows)
        .map(|row| (row * tokens..(row + 1) * tokens).map(id).collect())
        .collect()
}
