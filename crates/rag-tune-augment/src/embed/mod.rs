//! Texts become vectors whose dot product says how near they are in meaning.

mod bert;
mod cache;
mod endpoint;

pub use bert::BertEmbedder;
pub use cache::VectorCache;
pub use endpoint::{EndpointEmbedder, EndpointError, Limits, RetryPolicy};

use crate::{AugmentError, Hub, RetrievalConfig};

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

/// Finds the embedder that the config names, without loading its weights.
///
/// # Errors
/// As [`Hub::model`], [`BertEmbedder::open`] and [`EndpointEmbedder::open`].
pub fn open(config: &RetrievalConfig, hub: &Hub) -> Result<Box<dyn Embedder>, AugmentError> {
    if EndpointEmbedder::is_named_by(config) {
        return Ok(Box::new(EndpointEmbedder::open(config)?));
    }
    let folder = hub.model(&config.embedder)?;
    Ok(Box::new(BertEmbedder::open(&folder)?))
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
