//! What is merged, how far the result is from it, and what is told of it.

use std::path::Path;

use anyhow::Context;
use rag_tune_model::checkpoint::Checkpoint;
use rag_tune_model::config::{ModelConfig, Quantization};
use rag_tune_model::lora::Adapter;
use serde::Serialize;

use super::BaseWeights;
use crate::merge_drift::{DriftReport, Reference, Texts};
use crate::output::Output;
use crate::run_folder::RunFolder;

/// A base model on disk and what it is called.
pub struct Base {
    /// For people.
    pub name: String,
    /// Its weights.
    pub checkpoint: Checkpoint,
}

/// Everything that merging needs, checked before anything is written.
pub struct Merging {
    /// What is merged into.
    pub base: Base,
    /// What the adapter was trained on, where that is another.
    pub trained_on: Option<Base>,
    /// What is merged.
    pub adapter: Adapter,
    /// How training held the base.
    pub held: ModelConfig,
    /// What the models are compared on, if they are.
    pub texts: Option<Texts>,
}

/// The text of rag_tune_merge.json: names, and no folders of this machine.
#[derive(Debug, Serialize)]
pub struct Record<'a> {
    rag_tune_version: &'a str,
    adapter: String,
    base: NamedWeights<'a>,
    base_weights: BaseWeights,
    /// The type of the weights, `base` where they keep theirs.
    written_as: &'a str,
    trained_on: NamedWeights<'a>,
    quantization_in_training: Quantization,
    drift: Option<&'a DriftReport>,
}

#[derive(Debug, Serialize)]
struct NamedWeights<'a> {
    name: String,
    fingerprint: &'a str,
}

impl Merging {
    fn trained_on(&self) -> &Base {
        self.trained_on.as_ref().unwrap_or(&self.base)
    }

    /// Compares the merged model in `folder` with what it was made of.
    pub fn drift(&self, folder: &Path, out: &Output) -> anyhow::Result<Option<DriftReport>> {
        let Some(texts) = &self.texts else {
            return Ok(None);
        };
        let merged = Checkpoint::open(folder).context("cannot read what was merged")?;
        let as_stored = ModelConfig {
            quantization: Quantization::None,
            ..self.held.clone()
        };
        let trained_on = &self.trained_on().checkpoint;
        let held = match self.held.quantization {
            Quantization::Int8 => "int8",
            Quantization::Nf4 => "NF4",
            Quantization::None => "unquantised",
        };
        let mut references = vec![Reference {
            name: format!("the adapter on the {held} base of its training"),
            checkpoint: trained_on,
            held: self.held.clone(),
            adapter: Some(&self.adapter),
        }];
        // What is stored quantised has nothing to be compared with but itself.
        let is_plain = self.base.checkpoint.stored_quantization().is_none();
        let is_other = self.held.quantization != Quantization::None || self.trained_on.is_some();
        if is_plain && is_other {
            references.push(Reference {
                name: "the adapter on the base as it is stored".to_owned(),
                checkpoint: &self.base.checkpoint,
                held: as_stored,
                adapter: Some(&self.adapter),
            });
        }
        references.push(Reference {
            name: format!("the {held} base without the adapter, for scale"),
            checkpoint: trained_on,
            held: self.held.clone(),
            adapter: None,
        });
        DriftReport::measure(texts, &merged, &references, out).map(Some)
    }

    /// What is kept of how the model was made.
    pub fn record<'a>(
        &'a self,
        run: &RunFolder,
        base_weights: BaseWeights,
        written_as: &'a str,
        drift: Option<&'a DriftReport>,
    ) -> Record<'a> {
        let named = |base: &'a Base| NamedWeights {
            name: base.name.clone(),
            fingerprint: base.checkpoint.fingerprint(),
        };
        Record {
            rag_tune_version: env!("CARGO_PKG_VERSION"),
            adapter: run.name(),
            base: named(&self.base),
            base_weights,
            written_as,
            trained_on: named(self.trained_on()),
            quantization_in_training: self.held.quantization,
            drift,
        }
    }
}
