//! What can be wrong with a store of vectors.

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
}

impl StoreError {
    /// How to mend it, where that is known.
    pub fn hint(&self) -> Option<String> {
        None
    }
}
