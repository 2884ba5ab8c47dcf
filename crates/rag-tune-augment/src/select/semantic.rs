//! Examples by the meaning of the question.

use std::borrow::Cow;
use std::sync::Mutex;

use sha2::{Digest, Sha256};

use super::{Allowed, Example, Queries, Select, Sources, for_each_chunk};
use crate::embed::{Embedder, Embeddings, VectorCache};
use crate::fingerprint::{hex, sha256_of_text};
use crate::stores::{self, Store, StoreIdentity};
use crate::{AugmentError, Progress, Row, Task};

/// Nearest by the cosine of the embedded questions, as they are or masked.
pub struct SemanticSelector<'a> {
    texts: Texts<'a>,
    embedder: &'a dyn Embedder,
    cache: Mutex<VectorCache>,
    store: Box<dyn Store>,
    progress: &'a dyn Progress,
}

/// What is embedded of a row.
#[derive(Clone, Copy)]
enum Texts<'a> {
    /// The question.
    Plain(&'a Task),
    /// The question without the words that are peculiar to its subject.
    Masked(&'a Task),
}

impl<'a> Texts<'a> {
    fn of<'r>(&self, row: &'r Row) -> Cow<'r, str> {
        match self {
            Self::Plain(task) => row.text(&task.query_column),
            Self::Masked(task) => Cow::Owned(task.mask(row)),
        }
    }

    fn all<'r>(&self, rows: &'r [Row]) -> Vec<Cow<'r, str>> {
        rows.iter().map(|row| self.of(row)).collect()
    }
}

impl<'a> SemanticSelector<'a> {
    /// Embeds the train rows' questions, unless the store holds them from an earlier run.
    ///
    /// # Errors
    /// What reading, embedding or the store reports.
    pub fn new(sources: &Sources<'a>) -> Result<Self, AugmentError> {
        Self::over(sources, Texts::Plain(sources.task))
    }

    /// As [`SemanticSelector::new`], with questions masked by [`Task::mask`].
    ///
    /// # Errors
    /// As [`SemanticSelector::new`].
    pub fn masked(sources: &Sources<'a>) -> Result<Self, AugmentError> {
        Self::over(sources, Texts::Masked(sources.task))
    }

    fn over(sources: &Sources<'a>, texts: Texts<'a>) -> Result<Self, AugmentError> {
        let embedder = sources
            .embedder
            .expect("`needs_embedder` covers this selector");
        let mut cache = VectorCache::open(sources.cache, embedder.fingerprint())?;
        // Over the texts as they are embedded: masked and plain ones never share a store.
        let mut digest = Sha256::new();
        for_each_chunk(sources.train, |rows| {
            for text in texts.all(rows) {
                digest.update(sha256_of_text(&text));
            }
            Ok(())
        })?;
        let identity = StoreIdentity {
            embedder: embedder.fingerprint().to_owned(),
            texts: hex(&digest.finalize()),
            rows: sources.train.len(),
        };
        let store = stores::open(sources.retrieval, &identity, sources.cache, |push| {
            for_each_chunk(sources.train, |rows| {
                let texts = texts.all(rows);
                push(&embed(&mut cache, embedder, &texts, sources.progress)?)
            })
        })?;
        Ok(Self {
            texts,
            embedder,
            cache: Mutex::new(cache),
            store,
            progress: sources.progress,
        })
    }

    /// The vectors of some rows, `[rows, dimension]`.
    pub(super) fn embed(&self, rows: &[Row]) -> Result<Embeddings, AugmentError> {
        let mut cache = self.cache.lock().expect("embedding does not panic");
        let texts = self.texts.all(rows);
        embed(&mut cache, self.embedder, &texts, self.progress)
    }

    /// Where the train rows' vectors are.
    pub(super) fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }
}

impl Select for SemanticSelector<'_> {
    fn select(
        &self,
        queries: &Queries<'_>,
        n: usize,
        allowed: &Allowed<'_>,
    ) -> Result<Vec<Vec<Example>>, AugmentError> {
        let vectors = self.embed(queries.rows)?;
        self.store.nearest(&vectors, n, allowed)
    }
}

fn embed(
    cache: &mut VectorCache,
    embedder: &dyn Embedder,
    texts: &[Cow<'_, str>],
    progress: &dyn Progress,
) -> Result<Embeddings, AugmentError> {
    let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
    cache.embed(embedder, &texts, progress)
}
