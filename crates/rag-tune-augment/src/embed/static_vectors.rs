//! Static embeddings: a vector per token, and a text is the mean of its tokens'. Hundreds of times as fast as an encoder.
//!
//! Two formats: model2vec's (`config.json` with `model_type` "model2vec", tensor `embeddings`), and the
//! `StaticEmbedding` module of sentence-transformers (tensor `embedding.weight`).
//!
//! `vector = normalise(mean over tokens of weight[token] * embeddings[mapping[token]])`

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use candle_core::safetensors::BufferedSafetensors;
use candle_core::{DType, Device};
use rayon::prelude::*;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokenizers::{Tokenizer, TruncationParams};

use super::{Done, Embedder, Embeddings, candle_message, normalise, read_json_if_there};
use crate::AugmentError;
use crate::fingerprint::{hash_file, hex};

/// A table of token vectors and its tokenizer.
pub struct StaticEmbedder {
    folder: PathBuf,
    format: Format,
    fingerprint: String,
    /// Loaded when the first text is embedded.
    loaded: OnceLock<Table>,
}

/// Who made the folder, and what follows for the tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Format {
    /// Unknown tokens are left out, and a text is cut at `max_length` tokens.
    Model2Vec { max_length: Option<usize> },
    /// Every token counts.
    SentenceTransformers,
}

struct Table {
    tokenizer: Tokenizer,
    /// Left out of the mean.
    unknown: Option<u32>,
    /// Longer texts are cut to so many characters before they are tokenised.
    max_characters: Option<usize>,
    /// `[rows, dimension]`.
    vectors: Vec<f32>,
    dimension: usize,
    /// A factor for each token.
    weights: Option<Vec<f32>>,
    /// The row of each token.
    mapping: Option<Vec<u32>>,
}

const CONFIG: &str = "config.json";
const MODULES: &str = "modules.json";
const TOKENIZER: &str = "tokenizer.json";
const WEIGHTS: &str = "model.safetensors";

/// Texts that one task embeds.
const TEXTS_PER_TASK: usize = 256;

/// `config.json`.
#[derive(Deserialize, Default)]
struct Config {
    model_type: Option<String>,
    /// `null` is no limit, and a missing key 512.
    #[serde(default = "default_max_length")]
    max_length: Option<usize>,
}

fn default_max_length() -> Option<usize> {
    Some(512)
}

/// An entry of `modules.json`.
#[derive(Deserialize)]
struct Module {
    r#type: String,
}

impl Format {
    fn of(folder: &Path) -> Result<Option<Self>, AugmentError> {
        let config: Option<Config> = read_json_if_there(&folder.join(CONFIG))?;
        if let Some(Config {
            model_type: Some(kind),
            max_length,
        }) = config
            && kind == "model2vec"
        {
            return Ok(Some(Self::Model2Vec { max_length }));
        }
        let modules: Vec<Module> = read_json_if_there(&folder.join(MODULES))?.unwrap_or_default();
        let is_static = modules
            .first()
            .is_some_and(|module| module.r#type.ends_with(".StaticEmbedding"));
        Ok(is_static.then_some(Self::SentenceTransformers))
    }
}

impl StaticEmbedder {
    /// Finds static embeddings in `folder`: `tokenizer.json` and `model.safetensors`; `None` if it holds another kind
    /// of model.
    ///
    /// # Errors
    /// [`AugmentError::Read`] for a missing file, [`AugmentError::BadJson`].
    pub fn open(folder: &Path) -> Result<Option<Self>, AugmentError> {
        let Some(format) = Format::of(folder)? else {
            return Ok(None);
        };
        let mut folder = folder.to_owned();
        let nested = folder.join("0_StaticEmbedding");
        if !folder.join(WEIGHTS).exists() && nested.exists() {
            folder = nested;
        }
        let mut hasher = Sha256::new();
        hasher.update(format!("static mean, L2-normalised, 1: {format:?}"));
        hash_file(&folder.join(TOKENIZER), &mut hasher)?;
        hash_file(&folder.join(WEIGHTS), &mut hasher)?;
        Ok(Some(Self {
            folder,
            format,
            fingerprint: hex(&hasher.finalize()),
            loaded: OnceLock::new(),
        }))
    }

    fn table(&self) -> Result<&Table, AugmentError> {
        if self.loaded.get().is_none() {
            let table = Table::load(&self.folder, self.format)?;
            self.loaded.get_or_init(|| table);
        }
        Ok(self.loaded.get().expect("just set"))
    }
}

impl Embedder for StaticEmbedder {
    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn embed(&self, texts: &[&str], done: &Done<'_>) -> Result<(), AugmentError> {
        let table = self.table()?;
        let tasks = texts.par_chunks(TEXTS_PER_TASK).enumerate();
        tasks.try_for_each(|(task, texts)| {
            let mut vectors = Vec::with_capacity(texts.len() * table.dimension);
            for text in texts {
                let vector = table
                    .vector(text)
                    .map_err(|problem| failure(&self.folder, problem))?;
                vectors.extend(vector);
            }
            let first = task * TEXTS_PER_TASK;
            let positions: Vec<usize> = (first..first + texts.len()).collect();
            done(&positions, &Embeddings::new(table.dimension, vectors))
        })
    }
}

impl Table {
    fn load(folder: &Path, format: Format) -> Result<Self, AugmentError> {
        let failed = |problem: String| failure(folder, problem);
        let tokenizer_path = folder.join(TOKENIZER);
        let bytes = std::fs::read(&tokenizer_path).map_err(AugmentError::read(&tokenizer_path))?;
        let description: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let mut tokenizer =
            Tokenizer::from_bytes(bytes).map_err(|error| failed(error.to_string()))?;
        let vocabulary = tokenizer.get_vocab_size(true);
        let (mut unknown, mut max_characters) = (None, None);
        let mut truncation = None;
        if let Format::Model2Vec { max_length } = format {
            unknown = unknown_token(&description["model"], &tokenizer);
            // As model2vec does: it takes so many characters before it counts tokens.
            max_characters =
                max_length.map(|length| length.saturating_mul(median_length(&tokenizer)));
            truncation = max_length.map(|max_length| TruncationParams {
                max_length,
                ..TruncationParams::default()
            });
        }
        let truncated = tokenizer.with_truncation(truncation).map(|_| ());
        truncated.map_err(|error| failed(error.to_string()))?;
        tokenizer.with_padding(None);

        let path = folder.join(WEIGHTS);
        let bytes = std::fs::read(&path).map_err(AugmentError::read(&path))?;
        let tensors = Tensors::open(bytes).map_err(failed)?;
        let name = match format {
            Format::Model2Vec { .. } => "embeddings",
            Format::SentenceTransformers => "embedding.weight",
        };
        // Some releases of either have the other's name.
        let found = [name, "embeddings", "embedding.weight"]
            .into_iter()
            .find_map(|name| tensors.get(name).transpose());
        let (vectors, shape) = found
            .transpose()
            .map_err(failed)?
            .ok_or_else(|| failed(format!("it has no tensor `{name}`")))?;
        let (rows, dimension) = match shape[..] {
            [rows, dimension] if dimension > 0 => (rows, dimension),
            _ => {
                let problem = format!("`{name}` is {shape:?}, expected [tokens, dimension]");
                return Err(failed(problem));
            }
        };
        let weights = tensors
            .get("weights")
            .map_err(failed)?
            .map(|(weights, _)| weights);
        let mapping = tensors.get("mapping").map_err(failed)?;
        let mapping: Option<Vec<u32>> =
            mapping.map(|(rows, _)| rows.into_iter().map(|row| row as u32).collect());
        let table = Self {
            tokenizer,
            unknown,
            max_characters,
            vectors,
            dimension,
            weights,
            mapping,
        };
        match table.problem(rows, vocabulary) {
            Some(problem) => Err(failed(problem)),
            None => Ok(table),
        }
    }

    /// Whether some token has no vector.
    fn problem(&self, rows: usize, vocabulary: usize) -> Option<String> {
        let per_token = [
            ("weights", self.weights.as_ref().map(Vec::len)),
            ("mapping", self.mapping.as_ref().map(Vec::len)),
            ("embeddings", self.mapping.is_none().then_some(rows)),
        ];
        for (name, length) in per_token {
            if let Some(length) = length.filter(|length| *length < vocabulary) {
                return Some(format!(
                    "`{name}` has {length} rows, and the tokenizer {vocabulary} tokens"
                ));
            }
        }
        let outside = self
            .mapping
            .iter()
            .flatten()
            .find(|row| **row as usize >= rows);
        outside.map(|row| format!("`mapping` names row {row} of {rows}"))
    }

    fn vector(&self, text: &str) -> Result<Vec<f32>, String> {
        let encoding = self.tokenizer.encode_fast(self.beginning(text), false);
        let encoding = encoding.map_err(|error| error.to_string())?;
        let mut vector = vec![0.0; self.dimension];
        for &token in encoding.get_ids() {
            if Some(token) == self.unknown {
                continue;
            }
            let token = token as usize;
            let row = self
                .mapping
                .as_ref()
                .map_or(token, |mapping| mapping[token] as usize);
            let weight = self.weights.as_ref().map_or(1.0, |weights| weights[token]);
            let of_token = &self.vectors[row * self.dimension..][..self.dimension];
            vector
                .iter_mut()
                .zip(of_token)
                .for_each(|(sum, x)| *sum += weight * x);
        }
        // The mean is the sum, but for its length.
        normalise(&mut vector);
        Ok(vector)
    }

    fn beginning<'a>(&self, text: &'a str) -> &'a str {
        let end = self
            .max_characters
            .and_then(|most| text.char_indices().nth(most));
        end.map_or(text, |(end, _)| &text[..end])
    }
}

/// The id of the token for what the vocabulary does not have.
fn unknown_token(model: &serde_json::Value, tokenizer: &Tokenizer) -> Option<u32> {
    match model["unk_token"].as_str() {
        Some(token) => tokenizer.token_to_id(token),
        None => model["unk_id"].as_u64().map(|id| id as u32), // Unigram
    }
}

/// The median number of a token's characters, rounded down, as numpy's `int(median(...))`.
fn median_length(tokenizer: &Tokenizer) -> usize {
    let vocabulary = tokenizer.get_vocab(true);
    let mut lengths: Vec<usize> = vocabulary
        .keys()
        .map(|token| token.chars().count())
        .collect();
    lengths.sort_unstable();
    match lengths.len() {
        0 => 0,
        count => (lengths[(count - 1) / 2] + lengths[count / 2]) / 2,
    }
}

/// Values, and their shape.
type Tensor = (Vec<f32>, Vec<usize>);

struct Tensors(BufferedSafetensors);

impl Tensors {
    fn open(bytes: Vec<u8>) -> Result<Self, String> {
        BufferedSafetensors::new(bytes)
            .map(Self)
            .map_err(|error| candle_message(&error))
    }

    /// A tensor's values as f32, and its shape; `None` if there is no such tensor.
    fn get(&self, name: &str) -> Result<Option<Tensor>, String> {
        let Ok(view) = self.0.get(name) else {
            return Ok(None);
        };
        if view.dtype() == safetensors::Dtype::I8 {
            // candle has no such type.
            let values = view
                .data()
                .iter()
                .map(|byte| f32::from(byte.cast_signed()))
                .collect();
            return Ok(Some((values, view.shape().to_vec())));
        }
        let tensor = self
            .0
            .load(name, &Device::Cpu)
            .and_then(|tensor| tensor.to_dtype(DType::F32));
        let tensor = tensor.map_err(|error| candle_message(&error))?;
        let values = tensor.flatten_all().and_then(|tensor| tensor.to_vec1());
        let values = values.map_err(|error| candle_message(&error))?;
        Ok(Some((values, tensor.dims().to_vec())))
    }
}

fn failure(folder: &Path, problem: String) -> AugmentError {
    let path = folder.to_owned();
    AugmentError::Embedder { path, problem }
}
