//! Texts become vectors whose dot product says how near they are in meaning.

mod bert;
mod cache;

use std::path::Path;

pub use bert::BertEmbedder;
use cache::VectorCache;

use crate::fingerprint::sha256_of_text;
use crate::{AugmentError, Progress};

/// What turns texts into vectors.
pub trait Embedder: Sync {
    /// Changes whenever the vectors may change: weights, tokenizer, settings.
    fn fingerprint(&self) -> &str;

    /// Length of a vector.
    fn dimension(&self) -> usize;

    /// One vector of length 1 (in the L2 norm) per text, in the order of the texts.
    ///
    /// # Shapes
    /// Returns `[texts, dimension]`.
    ///
    /// # Errors
    /// [`AugmentError::Embedder`] if the model cannot be run.
    fn embed(&self, texts: &[&str], progress: &dyn Progress) -> Result<Embeddings, AugmentError>;
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
}

/// As [`Embedder::embed`], but each distinct text is embedded once, and with a `cache` folder only
/// if no earlier run did.
///
/// # Errors
/// As [`Embedder::embed`]; [`AugmentError::NotFinite`]; [`AugmentError::VectorCache`] and
/// [`AugmentError::Write`] for the cache.
pub fn embed_cached(
    embedder: &dyn Embedder,
    cache: Option<&Path>,
    texts: &[&str],
    progress: &dyn Progress,
) -> Result<Embeddings, AugmentError> {
    let mut vectors = VectorCache::open(cache, embedder.fingerprint(), embedder.dimension())?;
    let keys: Vec<_> = texts.iter().map(|text| sha256_of_text(text)).collect();

    let mut seen = std::collections::HashSet::new();
    let (missing_keys, missing_texts): (Vec<_>, Vec<_>) = keys
        .iter()
        .zip(texts)
        .filter(|(key, _)| vectors.get(key).is_none() && seen.insert(**key))
        .map(|(key, text)| (*key, *text))
        .unzip();
    if !missing_texts.is_empty() {
        let made = embedder.embed(&missing_texts, progress)?;
        for (index, (key, text)) in missing_keys.into_iter().zip(missing_texts).enumerate() {
            let vector = made.row(index);
            if !vector.iter().all(|value| value.is_finite()) {
                return Err(AugmentError::NotFinite { text: text.into() });
            }
            vectors.insert(key, vector);
        }
        vectors.save()?;
    }
    let found = keys
        .iter()
        .map(|key| vectors.get(key).expect("just made, if it was missing"));
    Ok(Embeddings::new(
        embedder.dimension(),
        found.flatten().copied().collect(),
    ))
}

/// The message alone: with RUST_BACKTRACE set, candle's own text has the stack in it.
fn candle_message(error: &candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. }
        | candle_core::Error::WithPath { inner, .. } => candle_message(inner),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Embeds a text as its length and its number of spaces, and counts the texts.
    struct Counting {
        fingerprint: &'static str,
        embedded: AtomicUsize,
    }

    impl Counting {
        fn new(fingerprint: &'static str) -> Self {
            Self {
                fingerprint,
                embedded: AtomicUsize::new(0),
            }
        }
    }

    impl Embedder for Counting {
        fn fingerprint(&self) -> &str {
            self.fingerprint
        }

        fn dimension(&self) -> usize {
            2
        }

        fn embed(&self, texts: &[&str], _: &dyn Progress) -> Result<Embeddings, AugmentError> {
            self.embedded.fetch_add(texts.len(), Ordering::Relaxed);
            let vector = |text: &&str| {
                let first = if *text == "bad" {
                    f32::NAN
                } else {
                    text.len() as f32
                };
                [first, text.matches(' ').count() as f32]
            };
            Ok(Embeddings::new(2, texts.iter().flat_map(vector).collect()))
        }
    }

    #[test]
    fn a_second_run_embeds_only_what_is_new() {
        let folder = tempfile::tempdir().unwrap();
        let embed = |fingerprint, texts: &[&str]| {
            let embedder = Counting::new(fingerprint);
            let vectors = embed_cached(&embedder, Some(folder.path()), texts, &()).unwrap();
            (vectors.values, embedder.embedded.into_inner())
        };
        assert_eq!(
            embed("m1", &["a b", "c", "a b"]),
            (vec![3., 1., 1., 0., 3., 1.], 2)
        );
        assert_eq!(embed("m1", &["c", "a b"]), (vec![1., 0., 3., 1.], 0));
        assert_eq!(embed("m1", &["new one", "c"]), (vec![7., 1., 1., 0.], 1));
        assert_eq!(
            embed("m2", &["c"]).1,
            1,
            "another model's vectors are not these"
        );
    }

    #[test]
    fn without_a_folder_nothing_is_remembered() {
        let embedder = Counting::new("m");
        for _ in 0..2 {
            embed_cached(&embedder, None, &["x", "x"], &()).unwrap();
        }
        assert_eq!(embedder.embedded.into_inner(), 2);
    }

    #[test]
    fn a_vector_that_is_not_finite_names_its_text() {
        let error = embed_cached(&Counting::new("m"), None, &["good", "bad"], &()).unwrap_err();
        assert!(matches!(error, AugmentError::NotFinite { text } if text == "bad"));
    }
}
