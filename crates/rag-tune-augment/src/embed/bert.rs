//! BERT-family sentence embedders, such as all-MiniLM-L6-v2, through candle.
//!
//! `vector = normalise(mean over tokens of the last hidden state)`, as sentence-transformers
//! computes it for these models.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use rayon::prelude::*;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tokenizers::{Tokenizer, TruncationParams};

use super::{Done, Embedder, Embeddings, candle_message};
use crate::AugmentError;
use crate::fingerprint::{hash_file, hex};

/// A loaded model and its tokenizer.
pub struct BertEmbedder {
    folder: PathBuf,
    fingerprint: String,
    /// Loaded when the first text is embedded: a run whose vectors are all known needs none.
    loaded: OnceLock<Loaded>,
}

struct Loaded {
    model: BertModel,
    tokenizer: Tokenizer,
    dimension: usize,
}

/// Texts that go through the model together; more gains nothing on a CPU.
const BATCH_SIZE: usize = 32;

/// Part of every fingerprint: raise it when the code below comes to give other vectors.
const METHOD: &str = "mean pooling, L2-normalised, 1";

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const WEIGHTS: &str = "model.safetensors";
const LENGTH: &str = "sentence_bert_config.json";
const POOLING: &str = "1_Pooling/config.json";

/// `sentence_bert_config.json`.
#[derive(Deserialize)]
struct LengthConfig {
    #[serde(default = "default_max_seq_length")]
    max_seq_length: usize,
}

impl Default for LengthConfig {
    fn default() -> Self {
        Self {
            max_seq_length: default_max_seq_length(),
        }
    }
}

fn default_max_seq_length() -> usize {
    256
}

/// `1_Pooling/config.json`.
#[derive(Deserialize)]
struct PoolingConfig {
    pooling_mode_mean_tokens: bool,
}

impl BertEmbedder {
    /// Finds the model in `folder`: `config.json`, `tokenizer.json`, `model.safetensors`, and
    /// where they exist `sentence_bert_config.json` and `1_Pooling/config.json`.
    ///
    /// # Errors
    /// [`AugmentError::Read`] for a missing file, [`AugmentError::BadJson`],
    /// [`AugmentError::UnsupportedEmbedder`].
    pub fn open(folder: &Path) -> Result<Self, AugmentError> {
        read_config(folder)?;
        require_mean_pooling(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            fingerprint: Self::fingerprint_of(folder)?,
            loaded: OnceLock::new(),
        })
    }

    fn loaded(&self) -> Result<&Loaded, AugmentError> {
        if self.loaded.get().is_none() {
            // Two threads may load it at a time; one of the two is kept.
            let loaded = Loaded::load(&self.folder)?;
            self.loaded.get_or_init(|| loaded);
        }
        Ok(self.loaded.get().expect("just set"))
    }

    /// The fingerprint of the model in `folder`, without loading it.
    ///
    /// # Errors
    /// [`AugmentError::Read`] for a missing file.
    pub fn fingerprint_of(folder: &Path) -> Result<String, AugmentError> {
        let mut hasher = Sha256::new();
        hasher.update(METHOD);
        for (name, required) in [
            (CONFIG, true),
            (TOKENIZER, true),
            (WEIGHTS, true),
            (LENGTH, false),
            (POOLING, false),
        ] {
            let path = folder.join(name);
            if required || path.exists() {
                hasher.update(name);
                hash_file(&path, &mut hasher)?;
            }
        }
        Ok(hex(&hasher.finalize()))
    }
}

impl Loaded {
    fn load(folder: &Path) -> Result<Self, AugmentError> {
        let config = read_config(folder)?;
        let max_tokens = max_tokens(folder, &config)?;
        let failed = |error| failure(folder, candle_message(&error));
        let weights = folder.join(WEIGHTS);
        let bytes = std::fs::read(&weights).map_err(AugmentError::read(weights))?;
        let variables = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu);
        let model = BertModel::load(variables.map_err(failed)?, &config).map_err(failed)?;
        Ok(Self {
            model,
            tokenizer: load_tokenizer(folder, max_tokens)?,
            dimension: config.hidden_size,
        })
    }

    /// Texts by their position, as token ids, in batches of one length each.
    ///
    /// Texts of a batch have equally many tokens: nothing is padded, so no mask is needed, and a
    /// text's vector does not depend on the length of its neighbours.
    fn batches(&self, texts: &[&str]) -> Result<Vec<Batch>, tokenizers::Error> {
        let encodings = self.tokenizer.encode_batch_fast(texts.to_vec(), true)?;
        let mut order: Vec<usize> = (0..texts.len()).collect();
        // The longest first: threads then end together.
        order.sort_by_key(|&text| std::cmp::Reverse(encodings[text].len()));
        let batches = order
            .chunk_by(|&a, &b| encodings[a].len() == encodings[b].len())
            .flat_map(|of_one_length| of_one_length.chunks(BATCH_SIZE))
            .map(|positions| Batch {
                positions: positions.to_vec(),
                tokens: encodings[positions[0]].len(),
                ids: positions
                    .iter()
                    .flat_map(|&text| encodings[text].get_ids())
                    .copied()
                    .collect(),
            });
        Ok(batches.collect())
    }

    /// Vectors of a batch, `[texts, dimension]`, flat.
    fn run(&self, batch: &Batch) -> Result<Vec<f32>, candle_core::Error> {
        if batch.tokens == 0 {
            // An empty text, of a tokenizer that adds nothing: near to no text at all.
            return Ok(vec![0.0; batch.positions.len() * self.dimension]);
        }
        let shape = (batch.positions.len(), batch.tokens);
        let ids = Tensor::from_slice(&batch.ids, shape, &Device::Cpu)?;
        let hidden = self.model.forward(&ids, &ids.zeros_like()?, None)?;
        let means = hidden.mean(1)?; // [texts, tokens, dimension] over the tokens
        let mut vectors = means.flatten_all()?.to_vec1::<f32>()?;
        vectors.chunks_exact_mut(self.dimension).for_each(normalise);
        Ok(vectors)
    }
}

/// Texts of equally many tokens.
struct Batch {
    /// Of each text among all texts.
    positions: Vec<usize>,
    tokens: usize,
    /// `[texts, tokens]`.
    ids: Vec<u32>,
}

impl Embedder for BertEmbedder {
    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn embed(&self, texts: &[&str], done: &Done<'_>) -> Result<(), AugmentError> {
        let loaded = self.loaded()?;
        let batches = loaded
            .batches(texts)
            .map_err(|error| failure(&self.folder, error))?;
        batches.into_par_iter().try_for_each(|batch| {
            let vectors = loaded
                .run(&batch)
                .map_err(|error| failure(&self.folder, error))?;
            done(
                &batch.positions,
                &Embeddings::new(loaded.dimension, vectors),
            )
        })
    }
}

fn read_config(folder: &Path) -> Result<Config, AugmentError> {
    /// Read first, because another family's config may lack what BERT's has.
    #[derive(Deserialize)]
    struct Family {
        model_type: Option<String>,
    }
    let path = folder.join(CONFIG);
    if let Family {
        model_type: Some(family),
    } = read_json(&path)?
        && family != "bert"
    {
        let problem = format!("it is of the family `{family}`, only `bert` is supported");
        return Err(AugmentError::UnsupportedEmbedder {
            path: folder.into(),
            problem,
        });
    }
    read_json(&path)
}

fn max_tokens(folder: &Path, config: &Config) -> Result<usize, AugmentError> {
    let length: LengthConfig = read_json_if_there(&folder.join(LENGTH))?.unwrap_or_default();
    Ok(length.max_seq_length.min(config.max_position_embeddings))
}

fn require_mean_pooling(folder: &Path) -> Result<(), AugmentError> {
    match read_json_if_there(&folder.join(POOLING))? {
        Some(PoolingConfig {
            pooling_mode_mean_tokens: false,
        }) => Err(AugmentError::UnsupportedEmbedder {
            path: folder.into(),
            problem: "its pooling is not the mean over tokens".into(),
        }),
        _ => Ok(()),
    }
}

fn load_tokenizer(folder: &Path, max_tokens: usize) -> Result<Tokenizer, AugmentError> {
    let path = folder.join(TOKENIZER);
    let bytes = std::fs::read(&path).map_err(AugmentError::read(path))?;
    let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| failure(folder, error))?;
    // The file of MiniLM asks for 128 tokens and for padding to 128; neither is meant for us.
    let truncation = TruncationParams {
        max_length: max_tokens,
        ..TruncationParams::default()
    };
    tokenizer
        .with_truncation(Some(truncation))
        .map_err(|error| failure(folder, error))?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

fn failure(folder: &Path, error: impl std::fmt::Display) -> AugmentError {
    AugmentError::Embedder {
        path: folder.into(),
        problem: error.to_string(),
    }
}

fn read_json_if_there<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, AugmentError> {
    if path.exists() {
        read_json(path).map(Some)
    } else {
        Ok(None)
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, AugmentError> {
    let bytes = std::fs::read(path).map_err(AugmentError::read(path))?;
    serde_json::from_slice(&bytes).map_err(|error| AugmentError::BadJson {
        path: path.to_owned(),
        problem: error.to_string(),
    })
}

/// To length 1; a zero vector stays zero.
fn normalise(vector: &mut [f32]) {
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|value| *value /= norm);
    }
}
