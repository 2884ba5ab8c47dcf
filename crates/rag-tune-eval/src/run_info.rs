//! Which run a score belongs to.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What an adapter was trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdapterKind {
    /// No adapter: the untrained model.
    None,
    /// Prompts without examples.
    ZeroShot,
    /// Prompts with retrieved examples.
    Rag,
}

/// What the model is asked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptKind {
    /// No examples.
    ZeroShot,
    /// Retrieved examples.
    Rag,
}

/// A cell of the experiment: which adapter answers which prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arm {
    /// What the adapter was trained on.
    pub adapter: AdapterKind,
    /// What the model is asked with.
    pub prompt: PromptKind,
}

impl Arm {
    /// The arm of an adapter trained with `adapter` examples a prompt (none for the untrained
    /// model) that is asked with `prompt` examples.
    pub fn from_examples(adapter: Option<usize>, prompt: usize) -> Self {
        let adapter = match adapter {
            None => AdapterKind::None,
            Some(0) => AdapterKind::ZeroShot,
            Some(_) => AdapterKind::Rag,
        };
        let prompt = if prompt == 0 {
            PromptKind::ZeroShot
        } else {
            PromptKind::Rag
        };
        Self { adapter, prompt }
    }
}

/// Which run a score belongs to; what charts are labelled with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Name of the run.
    pub name: String,
    /// Its cell of the experiment.
    pub arm: Arm,
    /// The adapter's folder; none for the untrained model.
    pub adapter: Option<PathBuf>,
    /// The base model.
    pub base: String,
    /// Retrieved examples in each prompt.
    pub examples: usize,
    /// How they were selected.
    pub selector: String,
    /// The data set.
    pub data: String,
    /// Its split.
    pub split: String,
    /// Seed of the run.
    #[serde(default)]
    pub seed: u64,
    /// Whether the data was made up for tests and demonstrations.
    pub synthetic: bool,
    /// Version that made the predictions.
    pub rag_tune_version: String,
}
