//! What a device needs of something in host memory, made when it is first asked for.

use std::sync::{Arc, Mutex, PoisonError};

/// Made once, shared by clones. It follows from what it lies in, so it counts for nothing when that is compared.
#[derive(Debug)]
pub(crate) struct Lazy<T>(Mutex<Option<Arc<T>>>);

impl<T> Default for Lazy<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Clone for Lazy<T> {
    fn clone(&self) -> Self {
        let made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Self(Mutex::new(made.clone()))
    }
}

impl<T> PartialEq for Lazy<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Lazy<T> {}

impl<T> Lazy<T> {
    /// What was made before, if `fits` says so; else what `make` gives.
    pub(crate) fn get<E>(
        &self,
        fits: impl FnOnce(&T) -> bool,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = made.as_ref().filter(|made| fits(made)) {
            return Ok(Arc::clone(made));
        }
        let new = Arc::new(make()?);
        *made = Some(Arc::clone(&new));
        Ok(new)
    }

    /// What was made, if nobody else has it.
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        let made = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        made.as_mut().and_then(Arc::get_mut)
    }
}
