//! Where the train rows' vectors are kept and searched. A further store is one more file here.

mod chroma;
mod error;
mod exact;

use std::path::Path;

pub use chroma::{ChromaError, ChromaStore};
pub use error::StoreError;
pub use exact::{ExactStore, FirstPass};

use crate::embed::Embeddings;
use crate::fingerprint::{hex, sha256_of_text};
use crate::select::{Allowed, Example, StoreKind};
use crate::{AugmentError, RetrievalConfig};

/// The vectors of all train rows, in row order.
pub trait Store: Sync {
    /// Number of rows.
    fn len(&self) -> usize;

    /// Whether it holds nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `n` rows with the largest dot product with each query, among those for which
    /// `allowed(query, row)`; largest first, and of equal ones the lower row first.
    ///
    /// # Shapes
    /// - `queries`: `[queries, dimension]`, of the store's dimension
    /// - returns one list per query; shorter than `n` where fewer rows are allowed
    ///
    /// # Errors
    /// [`AugmentError::Store`], [`AugmentError::Read`].
    fn nearest(
        &self,
        queries: &Embeddings,
        n: usize,
        allowed: &Allowed<'_>,
    ) -> Result<Vec<Vec<Example>>, AugmentError>;

    /// The vectors of some rows, `[rows, dimension]`, in the order asked for.
    ///
    /// # Errors
    /// As [`Store::nearest`].
    fn vectors(&self, rows: &[usize]) -> Result<Embeddings, AugmentError>;
}

/// What a store was made from; a store with another identity is never used.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StoreIdentity {
    /// [`crate::embed::Embedder::fingerprint`].
    pub embedder: String,
    /// SHA-256 in hex over the SHA-256 of each embedded text, in row order.
    pub texts: String,
    /// Number of rows.
    pub rows: usize,
}

impl StoreIdentity {
    /// A name for what was made from this, and from nothing else.
    pub fn digest(&self) -> String {
        let Self {
            embedder,
            texts,
            rows,
        } = self;
        hex(&sha256_of_text(&format!("{embedder}\n{texts}\n{rows}")))
    }
}

/// Receives the vectors of the train rows, in order, some at a time.
pub type Push<'a> = dyn FnMut(&Embeddings) -> Result<(), AugmentError> + 'a;

/// Opens the configured store as it was left by an earlier run, or makes it: `fill` is called only if
/// it has to be made, and pushes the vectors of all rows.
///
/// `cache` is a folder in which an exact store is kept between runs; without one, and without a
/// `store_folder` in the config, it is kept in memory. In the cache, a damaged store is made again; a
/// damaged one in the `store_folder` is reported.
///
/// # Errors
/// [`AugmentError::Store`] if a store is there that was made from something else, or if `fill`
/// pushes what does not fit `identity`; [`AugmentError::Read`], [`AugmentError::Write`]; what `fill` returns.
pub fn open(
    config: &RetrievalConfig,
    identity: &StoreIdentity,
    cache: Option<&Path>,
    fill: impl FnOnce(&mut Push<'_>) -> Result<(), AugmentError>,
) -> Result<Box<dyn Store>, AugmentError> {
    if config.store == StoreKind::Chroma {
        let store = ChromaStore::open(&config.chroma_url, identity, fill)?;
        return Ok(Box::new(store));
    }
    let store = match cache {
        _ if identity.rows == 0 => ExactStore::in_memory(identity, fill)?,
        _ if !config.store_folder.is_empty() => {
            let folder = Path::new(&config.store_folder);
            ExactStore::open(folder, identity, fill)?
        }
        Some(cache) => {
            let folder = cache.join("stores").join(identity.digest());
            exact::open_or_build(&folder, exact::OnDamage::Replace, identity, fill)?
        }
        None => ExactStore::in_memory(identity, fill)?,
    };
    Ok(Box::new(store))
}
