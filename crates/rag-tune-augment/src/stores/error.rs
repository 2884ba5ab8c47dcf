//! What can be wrong with a store of vectors.

use std::path::PathBuf;

use super::chroma::ChromaError;

/// An error of a store; part of [`crate::AugmentError`].
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A store holds another number of vectors than there are rows.
    #[error("the store of vectors holds {found} vectors, expected {expected}")]
    WrongCount {
        /// Rows of the train split.
        expected: usize,
        /// Vectors there.
        found: usize,
    },
    /// Vectors of another length than the store's.
    #[error("the store holds vectors of {expected} values, but was given some of {found}")]
    WrongDimension {
        /// The store's dimension.
        expected: usize,
        /// The dimension of what it was given.
        found: usize,
    },
    /// A vector has NaN or infinity in it, or is so long that products with it would be infinite.
    #[error("vector {row} of those given to the store is not finite, or its products are not")]
    NotFinite {
        /// Its position among the vectors given, from 0.
        row: usize,
    },
    /// A store that was named in the config was made by another embedder, or from other texts.
    #[error("the store `{folder}` was made from other {what}: found {found}, expected {expected}")]
    OtherIdentity {
        /// The store's folder.
        folder: PathBuf,
        /// `vectors` (another embedder) or `texts`.
        what: &'static str,
        /// What the config and the data set ask for.
        expected: String,
        /// What the store says.
        found: String,
    },
    /// A file of a store is not as it was written.
    #[error("the store's file `{path}` is damaged: {problem}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A store was written by a version of this program that laid it out in another way.
    #[error("the store `{folder}` has layout {found}, expected {expected}")]
    OtherLayout {
        /// The store's folder.
        folder: PathBuf,
        /// This program's layout.
        expected: u32,
        /// The store's.
        found: u32,
    },
    /// The folder named for a store holds something else.
    #[error("`{folder}` is no store, and not empty")]
    NotAStore {
        /// The folder.
        folder: PathBuf,
    },
    /// A Chroma server.
    #[error(transparent)]
    Chroma(#[from] ChromaError),
}

impl StoreError {
    /// How to mend it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Chroma(error) => error.hint(),
            Self::OtherIdentity { folder, what, .. } => {
                let made_by = match *what {
                    EMBEDDER => "of another `retrieval.embedder` (or of other settings of it)",
                    _ => "for another data set (or another selector)",
                };
                Some(format!(
                    "it is {made_by}; give another `retrieval.store_folder`, or delete `{}`",
                    folder.display()
                ))
            }
            Self::OtherLayout { folder, .. } => {
                Some(format!("delete `{}`; it is made again", folder.display()))
            }
            Self::Damaged { path, .. } => {
                let folder = path.parent().unwrap_or(path);
                Some(format!("delete `{}`; it is made again", folder.display()))
            }
            Self::NotAStore { .. } => {
                Some("give `retrieval.store_folder` a path that does not exist yet".into())
            }
            Self::WrongCount { .. } | Self::WrongDimension { .. } | Self::NotFinite { .. } => None,
        }
    }
}

/// What differs, in [`StoreError::OtherIdentity`].
pub(super) const EMBEDDER: &str = "vectors";
pub(super) const TEXTS: &str = "texts";
