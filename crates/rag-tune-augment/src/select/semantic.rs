//! Examples by the meaning of the question.

use std::sync::Mutex;

use sha2::{Digest, Sha256};

use super::{Allowed, Example, Queries, Select, Sources};
use crate::embed::{Embedder, Embeddings, VectorCache};
use crate::fingerprint::{hex, sha256_of_text};
use crate::stores::{self, Store, StoreIdentity};
use crate::{AugmentError, Progress, Row};

/// Nearest by the cosine of the embedded questions.
pub struct SemanticSelector<'a> {
    query_column: &'a str,
    embedder: &'a dyn Embedder,
    cache: Mutex<VectorCache>,
    store: Box<dyn Store>,
    progress: &'a dyn Progress,
}

/// Rows that are read and embedded together.
const CHUNK: usize = 8192;

impl<'a> SemanticSelector<'a> {
    /// Embeds the train rows, unless the store holds them from an earlier run.
    ///
    /// # Errors
    /// What reading, embedding or the store reports.
    pub fn new(sources: &Sources<'a>) -> Result<Self, AugmentError> {
        let embedder = sources
            .embedder
            .expect("`needs_embedder` covers this selector");
        let query_column = &sources.task.query_column;
        let mut cache = VectorCache::open(sources.cache, embedder.fingerprint())?;
        let mut texts = Sha256::new();
        for_each_chunk(sources, |rows| {
            rows.iter()
                .for_each(|row| texts.update(sha256_of_text(&row.text(query_column))));
            Ok(())
        })?;
        let identity = StoreIdentity {
            embedder: embedder.fingerprint().to_owned(),
            texts: hex(&texts.finalize()),
            rows: sources.train.len(),
        };
        let store = stores::open(sources.retrieval, &identity, sources.cache, |push| {
            for_each_chunk(sources, |rows| {
                push(&embed(
                    &mut cache,
                    embedder,
                    query_column,
                    rows,
                    sources.progress,
                )?)
            })
        })?;
        Ok(Self {
            query_column,
            embedder,
            cache: Mutex::new(cache),
            store,
            progress: sources.progress,
        })
    }
}

impl Select for SemanticSelector<'_> {
    fn select(
        &self,
        queries: &Queries<'_>,
        n: usize,
        allowed: &Allowed<'_>,
    ) -> Result<Vec<Vec<Example>>, AugmentError> {
        let mut cache = self.cache.lock().expect("embedding does not panic");
        let (embedder, column) = (self.embedder, self.query_column);
        let vectors = embed(&mut cache, embedder, column, queries.rows, self.progress)?;
        drop(cache);
        self.store.nearest(&vectors, n, allowed)
    }
}

fn embed(
    cache: &mut VectorCache,
    embedder: &dyn Embedder,
    column: &str,
    rows: &[Row],
    progress: &dyn Progress,
) -> Result<Embeddings, AugmentError> {
    let texts: Vec<_> = rows.iter().map(|row| row.text(column)).collect();
    let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
    cache.embed(embedder, &texts, progress)
}

fn for_each_chunk(
    sources: &Sources<'_>,
    mut act: impl FnMut(&[Row]) -> Result<(), AugmentError>,
) -> Result<(), AugmentError> {
    let rows = sources.train.len();
    for start in (0..rows).step_by(CHUNK) {
        act(&sources.train.rows(start..rows.min(start + CHUNK))?)?;
    }
    Ok(())
}
