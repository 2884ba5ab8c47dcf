//! Texts become vectors whose dot product says how near they are in meaning.

mod bert;
mod cache;
mod endpoint;
mod static_vectors;
mod vector_file;

use std::path::Path;

use rag_tune_kernels::Compute;
use serde::de::DeserializeOwned;

pub use bert::BertEmbedder;
pub use cache::VectorCache;
pub use endpoint::{EndpointEmbedder, EndpointError, Limits, RetryPolicy};
pub use static_vectors::StaticEmbedder;
pub use vector_file::{VectorFile, VectorFileError};

use crate::{AugmentError, EmbedderCompute, Hub, RetrievalConfig};

/// What turns texts into vectors.
pub trait Embedder: Send + Sync {
    /// Changes whenever the vectors may change: weights, tokenizer, settings.
    fn fingerprint(&self) -> &str;

    /// Makes one vector of length 1 (in the L2 norm) per text, and hands them over as they get ready:
    /// `done(positions, vectors)`, where `positions` are indices into `texts`. Every position comes
    /// once, in any order and from any thread.
    ///
    /// # Shapes
    /// `vectors` is `[positions, dimension]`.
    ///
    /// # Errors
    /// [`AugmentError::Embedder`] if the model cannot be run, [`AugmentError::Endpoint`]; what `done`
    /// returns. What was handed over before the error stays valid.
    fn embed(&self, texts: &[&str], done: &Done<'_>) -> Result<(), AugmentError>;

    /// What was used so far.
    fn usage(&self) -> Usage {
        Usage::default()
    }
}

/// Receives vectors from an [`Embedder`].
pub type Done<'a> = dyn Fn(&[usize], &Embeddings) -> Result<(), AugmentError> + Sync + 'a;

/// What an embedder used: zero where nothing is counted or paid for.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Tokens that the endpoint counted.
    pub tokens: u64,
    /// Their price in US dollars, where it is known.
    pub dollars: Option<f64>,
}

/// Finds the embedder that the config names, without loading its weights: a file holds vectors, a folder or hub id
/// static embeddings or an encoder.
///
/// # Errors
/// As [`Hub::model`], [`VectorFile::open`], [`StaticEmbedder::open`], [`BertEmbedder::open`] and
/// [`EndpointEmbedder::open`].
pub fn open(config: &RetrievalConfig, hub: &Hub) -> Result<Box<dyn Embedder>, AugmentError> {
    if EndpointEmbedder::is_named_by(config) {
        return Ok(Box::new(EndpointEmbedder::open(config)?));
    }
    let folder = hub.model(&config.embedder)?;
    let promptless: Option<Box<dyn Embedder>> = if folder.is_file() {
        Some(Box::new(VectorFile::open(&folder)?))
    } else {
        StaticEmbedder::open(&folder)?.map(|embedder| Box::new(embedder) as _)
    };
    if let Some(embedder) = promptless {
        if config.embedder_prompt.is_empty() {
            return Ok(embedder);
        }
        return Err(AugmentError::UnknownPrompt {
            path: folder,
            prompt: config.embedder_prompt.clone(),
            known: Vec::new(),
        });
    }
    Ok(Box::new(BertEmbedder::open(
        &folder,
        &config.embedder_prompt,
        encoder_compute(config.embedder_compute),
    )?))
}

fn encoder_compute(wanted: EmbedderCompute) -> Compute {
    match wanted {
        EmbedderCompute::F32 => Compute::F32,
        EmbedderCompute::Bf16 => Compute::Bf16,
        EmbedderCompute::Auto => Compute::auto(),
    }
}

/// Vectors, one per text: `[texts, dimension]`, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    dimension: usize,
    values: Vec<f32>,
}

impl Embeddings {
    /// Takes vectors of length `dimension` that lie end to end.
    ///
    /// # Panics
    /// If `values` is no whole number of vectors.
    pub fn new(dimension: usize, values: Vec<f32>) -> Self {
        assert!(
            dimension > 0 && values.len().is_multiple_of(dimension),
            "[texts, dimension]"
        );
        Self { dimension, values }
    }

    /// Length of a vector.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.values.len() / self.dimension
    }

    /// Whether there are no vectors.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The vector of the text at `index`.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.dimension..][..self.dimension]
    }

    /// All vectors, end to end.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Appends vectors of the same dimension.
    ///
    /// # Panics
    /// If the dimensions differ: the two were not made by one embedder.
    pub fn extend(&mut self, more: &Self) {
        assert_eq!(self.dimension, more.dimension, "one embedder made both");
        self.values.extend_from_slice(&more.values);
    }
}

/// A text's first words, for a message: the text may be a megabyte long.
fn beginning(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The message alone: with RUST_BACKTRACE set, candle's own text has the stack in it.
fn candle_message(error: &candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. }
        | candle_core::Error::WithPath { inner, .. } => candle_message(inner),
        _ => error.to_string(),
    }
}

/// To length 1; a zero vector stays zero.
fn normalise(vector: &mut [f32]) {
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|value| *value /= norm);
    }
}

fn unsupported(path: &Path, problem: String) -> AugmentError {
    let path = path.to_owned();
    AugmentError::UnsupportedEmbedder { path, problem }
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
