//! `rag-tune perplexity`: how well a model predicts a text, held and computed in several ways.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context;
use clap::Args;
use rag_tune_kernels::Sequences;
use rag_tune_model::config::{Compute, ModelConfig, Quantization};
use rag_tune_model::llama::{Llama, TrainBatch};
use rag_tune_model::lora::Adapter;
use serde::de::DeserializeOwned;

use super::HubArgs;
use crate::base_model::{FoundModel, load_adapter};
use crate::error::InputError;
use crate::output::{Output, table};
use crate::run_folder::RunFolder;

/// Measure how well a model predicts a text
///
/// The text is cut into windows that know nothing of each other; every token but a window's first is predicted. Perplexity is e to
/// the mean loss. With several --held, one table shows what quantisation and arithmetic cost.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rag-tune perplexity codellama/CodeLlama-7b-hf --text sample.txt
  rag-tune perplexity MODEL --text sample.txt --held none/f32 --held int8/bf16 --held int8/llm_int8")]
pub struct PerplexityArgs {
    /// The model: a hub id, a folder, or a .gguf file
    model: String,
    /// The text
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// How weights are held and products computed, as `model.quantization` and `model.compute`; may be given several times
    #[arg(long, value_name = "QUANTIZATION/COMPUTE", default_value = "int8/auto")]
    held: Vec<Held>,
    /// A run folder whose adapter is applied
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Tokens of a window
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    window: usize,
    #[command(flatten)]
    hub: HubArgs,
}

/// `int8/bf16`
#[derive(Debug, Clone)]
struct Held {
    text: String,
    quantization: Quantization,
    compute: Compute,
}

impl FromStr for Held {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (quantization, compute) = text.split_once('/').unwrap_or((text, "auto"));
        Ok(Self {
            text: format!("{quantization}/{compute}"),
            quantization: named(quantization, "none, int8 or nf4")?,
            compute: named(compute, "auto, f32, bf16, int8 or llm_int8")?,
        })
    }
}

/// A value of `[model]` by its name in TOML.
fn named<T: DeserializeOwned>(name: &str, known: &str) -> Result<T, String> {
    let value = serde_json::Value::String(name.to_owned());
    serde_json::from_value(value).map_err(|_| format!("`{name}` is none of {known}"))
}

/// Runs the command.
pub fn perplexity(args: &PerplexityArgs, out: &mut Output) -> anyhow::Result<()> {
    let hub = args.hub.hub();
    let configs: Vec<ModelConfig> = args
        .held
        .iter()
        .map(|held| held.config(&args.model))
        .collect();
    for config in &configs {
        if let Some(problem) = config.validate().into_iter().next() {
            return Err(InputError::new(problem, "change --held").into());
        }
    }
    let found = FoundModel::open(&configs[0], &hub)?;
    let windows = args.windows(&found)?;
    let adapter = args.adapter.as_ref().map(RunFolder::new);
    let adapter = adapter
        .map(|run| load_adapter(&run, &found.checkpoint))
        .transpose()?;
    let mut losses = Vec::new();
    for config in &configs {
        let model = found.load(config, out)?;
        losses.push(mean_loss(&model, adapter.as_ref(), &windows, out)?);
    }
    let predicted: usize = windows.iter().map(|window| window.len() - 1).sum();
    let lines = args.held.iter().zip(&losses).map(|(held, loss)| {
        let perplexity = loss.exp();
        let above = perplexity / losses[0].exp() - 1.0;
        vec![
            held.text.clone(),
            format!("{loss:.5}"),
            format!("{perplexity:.4}"),
            format!("{:+.3} %", 100.0 * above),
        ]
    });
    let lines: Vec<_> = lines.collect();
    out.data(&table(
        &["held", "nats per token", "perplexity", "to the first"],
        &lines,
    ))?;
    out.note(&format!(
        "{predicted} predicted tokens in {} windows of at most {}",
        windows.len(),
        args.window
    ));
    Ok(())
}

impl Held {
    fn config(&self, model: &str) -> ModelConfig {
        ModelConfig {
            base: model.to_owned(),
            quantization: self.quantization,
            compute: self.compute,
            ..ModelConfig::default()
        }
    }
}

impl PerplexityArgs {
    /// The text's tokens; each window begins with what the tokenizer begins a text with.
    fn windows(&self, found: &FoundModel) -> anyhow::Result<Vec<Vec<u32>>> {
        let limit = found.checkpoint.config().max_position_embeddings;
        let lead = found.tokenizer.encode("")?;
        let least = lead.len() + 2;
        if !(least..=limit).contains(&self.window) {
            let message = format!("--window is {}", self.window);
            let hint = format!("it must be from {least} to {limit}, what the model was made for");
            return Err(InputError::new(message, hint).into());
        }
        let text = std::fs::read_to_string(&self.text)
            .with_context(|| format!("cannot read `{}`", self.text.display()))?;
        let ids = found.tokenizer.encode(&text)?;
        let pieces = ids[lead.len()..].chunks(self.window - lead.len());
        let windows: Vec<_> = pieces
            .map(|piece| [&lead, piece].concat())
            .filter(|window| window.len() > 1)
            .collect();
        if windows.is_empty() {
            let message = format!("`{}` holds no text to predict", self.text.display());
            return Err(
                InputError::new(message, "name a file with a few hundred words or more").into(),
            );
        }
        Ok(windows)
    }
}

/// Nats per predicted token.
fn mean_loss(
    model: &Llama,
    adapter: Option<&Adapter>,
    windows: &[Vec<u32>],
    out: &Output,
) -> anyhow::Result<f64> {
    let progress = out.progress();
    progress.start("predicting", windows.len() as u64);
    let (mut sum, mut predicted) = (0.0, 0);
    for (index, window) in windows.iter().enumerate() {
        let batch = TrainBatch {
            ids: window.clone(),
            sequences: Sequences::from_lengths(&[window.len()])?,
            targets: window.iter().skip(1).copied().enumerate().collect(),
        };
        sum += model.loss_sum(adapter, &batch)?;
        predicted += batch.targets.len();
        progress.move_to(index as u64 + 1);
    }
    progress.finish();
    Ok(sum / predicted as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_of_holding_weights_is_spelled_as_in_toml() {
        let held: Held = "int8/llm_int8".parse().unwrap();
        assert_eq!(
            (held.quantization, held.compute),
            (Quantization::Int8, Compute::LlmInt8)
        );
        assert_eq!("nf4".parse::<Held>().unwrap().text, "nf4/auto");
        assert!(
            "int4/f32"
                .parse::<Held>()
                .unwrap_err()
                .contains("none, int8 or nf4")
        );
        assert!("int8/f64".parse::<Held>().unwrap_err().contains("llm_int8"));
    }
}
