//! How far a merged model is from the adapter that it was made of: on which texts, and what is told of it.

use std::path::Path;

use anyhow::Context;
use rag_tune_augment::{output_path, read_augmented};
use rag_tune_model::checkpoint::Checkpoint;
use rag_tune_model::config::{ModelConfig, Quantization};
use rag_tune_model::drift::{Drift, Outcome, Row};
use rag_tune_model::lora::Adapter;
use rag_tune_model::tokenizer::Tokenizer;
use rag_tune_train::validation::spread_rows;
use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::encoding::{encode, ends};
use crate::output::{Output, table};
use crate::run_folder::RunFolder;

/// Longest piece that a plain text is cut into, in tokens.
const PIECE_TOKENS: usize = 512;

/// Texts that models are compared on.
pub struct Texts {
    rows: Vec<Row>,
    /// What they are, for people.
    name: String,
}

impl Texts {
    /// `wanted` rows of the run's evaluation split, or of its training split where there is no other; their answers are
    /// predicted. `None` where the run has no prompts.
    ///
    /// # Errors
    /// When the prompts cannot be read or tokenised.
    pub fn of_run(
        run: &RunFolder,
        config: &RunConfig,
        tokenizer: &Tokenizer,
        wanted: usize,
    ) -> anyhow::Result<Option<Self>> {
        let splits = [&config.eval.split, &config.data.train_split];
        let file = |split: &&String| output_path(&run.augmented(), split, 0);
        let Some(split) = splits.into_iter().find(|split| file(split).is_file()) else {
            return Ok(None);
        };
        let augmented = read_augmented(&file(&split))?;
        let chosen = spread_rows(augmented.len(), wanted, config.seed);
        let mut rows = Vec::with_capacity(chosen.len());
        for index in chosen {
            let mut encoded = encode(&augmented[index], tokenizer)?;
            encoded.ids.push(ends(tokenizer).eos);
            if encoded.ids.len() <= config.train.max_length {
                rows.push(Row {
                    ids: encoded.ids,
                    first: encoded.prompt_len,
                });
            }
        }
        let name = format!("the answers of {} rows of `{split}`", rows.len());
        Ok(Some(Self { rows, name }).filter(|texts| !texts.rows.is_empty()))
    }

    /// The first `wanted` pieces of a text file, every token of them but the first predicted.
    ///
    /// # Errors
    /// When the file cannot be read or tokenised, or has no two tokens.
    pub fn of_file(path: &Path, tokenizer: &Tokenizer, wanted: usize) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read `{}`", path.display()))?;
        let lead = tokenizer.encode("")?;
        let ids = tokenizer.encode(&text)?;
        let pieces = ids[lead.len()..].chunks(PIECE_TOKENS - lead.len());
        let rows = pieces.take(wanted).map(|piece| Row {
            ids: [&lead, piece].concat(),
            first: 1,
        });
        let rows: Vec<Row> = rows.filter(|row| row.ids.len() > 1).collect();
        anyhow::ensure!(!rows.is_empty(), "`{}` holds no text", path.display());
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{} pieces of `{file}`", rows.len());
        Ok(Self { rows, name })
    }
}

/// A model that the merged one is compared with.
pub struct Reference<'a> {
    /// For people.
    pub name: String,
    /// Its weights.
    pub checkpoint: &'a Checkpoint,
    /// How they are held.
    pub held: ModelConfig,
    /// What is applied to them.
    pub adapter: Option<&'a Adapter>,
}

/// What `rag_tune_merge.json` says of the drift.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DriftReport {
    /// The texts.
    pub measured_on: String,
    /// Tokens that are predicted in them.
    pub predicted_tokens: usize,
    /// Mean loss of the merged model, nats per predicted token.
    pub merged_loss_nats: f64,
    /// The merged model's distance from others.
    pub from: Vec<DriftFrom>,
}

/// The merged model's distance from one other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DriftFrom {
    /// The other.
    pub model: String,
    /// Its mean loss, nats per predicted token.
    pub loss_nats: f64,
    /// How far apart.
    pub drift: Drift,
}

impl DriftReport {
    /// Runs `merged` and the references over `texts`, two at a time in memory.
    ///
    /// # Errors
    /// When a checkpoint cannot be read.
    pub fn measure(
        texts: &Texts,
        merged: &Checkpoint,
        references: &[Reference<'_>],
        out: &Output,
    ) -> anyhow::Result<Self> {
        let as_stored = ModelConfig {
            quantization: Quantization::None,
            ..ModelConfig::default()
        };
        let merged = Reference {
            name: "the merged model".to_owned(),
            checkpoint: merged,
            held: as_stored,
            adapter: None,
        };
        let merged = outcome(&merged, texts, out)?;
        let mut from = Vec::with_capacity(references.len());
        for reference in references {
            let other = outcome(reference, texts, out)?;
            from.push(DriftFrom {
                model: reference.name.clone(),
                loss_nats: other.loss()?,
                drift: merged.drift_from(&other)?,
            });
        }
        Ok(Self {
            measured_on: texts.name.clone(),
            predicted_tokens: merged.positions(),
            merged_loss_nats: merged.loss()?,
            from,
        })
    }

    /// The figures, for people.
    pub fn as_table(&self) -> String {
        let mut rows = Vec::new();
        for DriftFrom {
            model,
            loss_nats,
            drift,
        } in &self.from
        {
            rows.push(vec![
                model.clone(),
                format!("{:.3e}", drift.max_abs_logit_difference),
                format!("{:.3e}", drift.mean_abs_logit_difference),
                format!("{:.2} %", 100.0 * drift.equal_argmax),
                format!("{:.3e}", drift.kl_nats),
                format!("{loss_nats:.4}"),
            ]);
        }
        let header = [
            "from",
            "largest",
            "mean",
            "same best token",
            "KL (nats)",
            "its loss",
        ];
        format!(
            "distance of the merged model's logits, {}, {} tokens:\n{}the merged model's loss: {:.4} nats a token\n",
            self.measured_on,
            self.predicted_tokens,
            table(&header, &rows),
            self.merged_loss_nats
        )
    }
}

fn outcome<'a>(
    model: &Reference<'_>,
    texts: &'a Texts,
    out: &Output,
) -> anyhow::Result<Outcome<'a>> {
    let progress = out.progress();
    progress.start(&format!("running {}", model.name), 1);
    let Reference {
        checkpoint,
        held,
        adapter,
        ..
    } = model;
    let outcome = Outcome::of(
        checkpoint,
        held,
        *adapter,
        &texts.rows,
        &mut |done, total| {
            progress.resize(total as u64);
            progress.move_to(done as u64);
        },
    );
    progress.finish();
    outcome.with_context(|| format!("cannot run {}", model.name))
}
